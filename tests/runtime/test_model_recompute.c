/*
 * Activations computed again in place of being kept: the same bits in every backend and type, the bytes that gpt2.h
 * promises, and no operation more than backward needs.
 */
#include "model_rig.h"

static const mpt_gpt2_recompute_t modes[] = {MPT_GPT2_KEEP, MPT_GPT2_RECOMPUTE_ATTENTION,
                                             MPT_GPT2_RECOMPUTE_BLOCK};
static const char *const mode_names[] = {"keep", "attention", "block"};

/* Odd sizes throughout; `layers` to choose. */
static mpt_gpt2_shape_t odd_shape(int64_t layers)
{
    return (mpt_gpt2_shape_t){
        .layers = layers, .heads = 3, .dim = 21, .context = 13, .vocab = 17, .batch = 3, .seq = 11};
}

static const char *describe(const variant_t *variant, int64_t layers, int mode)
{
    static char text[128];
    snprintf(text, sizeof text, "%s, %lld layers, %s", name_of(variant), (long long)layers,
             mode_names[mode]);
    return text;
}

/* ---- the same bits ---------------------------------------------------------------------------------- */

/* Two micro-batches, the second added to the first, then the validation of a third. */
static void run_passes(rig_t *rig, double losses[3])
{
    losses[0] = backward(rig, SEED);
    draw_tokens(rig, 2);
    losses[1] = backward(rig, SEED);
    draw_tokens(rig, 3);
    losses[2] = loss_of(rig);
}

static void check_bits(const mpt_gpt2_shape_t *shape, const variant_t *variant)
{
    rig_t keep;
    double expected[3], losses[3];
    open_variant(&keep, shape, variant, 2, MPT_GPT2_KEEP);
    run_passes(&keep, expected);
    for (int m = 1; m < 3; m++) {
        rig_t rig;
        open_variant(&rig, shape, variant, 2, modes[m]);
        run_passes(&rig, losses);
        if (memcmp(losses, expected, sizeof losses) != 0)
            fail_msg("%s: the loss differs", describe(variant, shape->layers, m));
        expect_same_gradients(&rig, &keep, describe(variant, shape->layers, m));
        close_rig(&rig);
    }
    close_rig(&keep);
}

static void recomputation_changes_no_bit(void **state)
{
    (void)state;
    variant_t variants[MAX_VARIANTS];
    int count = list_variants(variants);
    for (int i = 0; i < count; i++) {
        for (int64_t layers = 1; layers <= 3; layers++) {
            mpt_gpt2_shape_t shape = odd_shape(layers);
            check_bits(&shape, &variants[i]);
        }
        check_bits(&small, &variants[i]);
        check_bits(&chunked, &variants[i]);
    }
}

/* After a backward the shared set holds the first block, no longer the last. */
static void backward_can_run_again_from_the_same_forward(void **state)
{
    (void)state;
    mpt_gpt2_shape_t shape = odd_shape(3);
    for (int m = 0; m < 3; m++) {
        rig_t once, twice;
        open_variant(&once, &shape, &(variant_t){"ref", MPT_F32, MPT_ISA_PORTABLE}, 1, modes[m]);
        open_variant(&twice, &shape, &(variant_t){"ref", MPT_F32, MPT_ISA_PORTABLE}, 1, modes[m]);
        backward(&once, SEED);
        backward(&twice, SEED);
        clear_gradients(&twice);
        assert_int_equal(mpt_gpt2_loss(&twice.model, twice.targets, SEED, 1), MPT_OK);
        assert_int_equal(mpt_gpt2_backward(&twice.model, twice.tokens), MPT_OK);
        expect_same_gradients(&twice, &once, mode_names[m]);
        close_rig(&once);
        close_rig(&twice);
    }
}

/* What is saved must be the residual stream itself, not something that the next forward leaves behind. */
static void sampling_reads_the_same_logits(void **state)
{
    (void)state;
    mpt_gpt2_shape_t shape = odd_shape(3);
    variant_t variant = {"cpu", MPT_BF16, mpt_isa_detect()};
    rig_t keep;
    open_variant(&keep, &shape, &variant, 1, MPT_GPT2_KEEP);
    loss_of(&keep);
    size_t bytes = (size_t)shape.vocab * mpt_dtype_bytes(keep.wide);
    for (int m = 1; m < 3; m++) {
        rig_t rig;
        open_variant(&rig, &shape, &variant, 1, modes[m]);
        loss_of(&rig);
        for (int64_t row = 0; row < shape.batch * shape.seq; row++) {
            assert_int_equal(mpt_gpt2_logits(&keep.model, row), MPT_OK);
            assert_int_equal(mpt_gpt2_logits(&rig.model, row), MPT_OK);
            assert_memory_equal(rig.model.logits, keep.model.logits, bytes);
        }
        close_rig(&rig);
    }
    close_rig(&keep);
}

/* ---- bytes ------------------------------------------------------------------------------------------ */

static size_t rounded(size_t bytes)
{
    return (bytes + MPT_ARENA_ALIGN - 1) / MPT_ARENA_ALIGN * MPT_ARENA_ALIGN;
}

/* gpt2.h's formula, each array rounded up to a cache line. */
static size_t expected_activations(const mpt_gpt2_shape_t *shape, mpt_dtype_t compute, int mode)
{
    size_t rows = (size_t)(shape->batch * shape->seq), layers = (size_t)shape->layers;
    size_t row = rows * (size_t)shape->dim * mpt_dtype_bytes(compute);
    size_t wide = mpt_dtype_bytes(mpt_dtype_wide(compute)), one = rounded(row);
    size_t statistics = 4 * rounded(rows * wide);
    size_t attention =
        2 * one + rounded(3 * row) + rounded(rows * (size_t)shape->heads * wide); /* 5 A + E */
    size_t others = 2 * one + 2 * rounded(4 * row) + statistics;                  /* 10 A + S */
    size_t ends = 2 * one + 2 * rounded(rows * wide);
    if (modes[mode] == MPT_GPT2_KEEP)
        return ends + layers * (attention + others + one);
    if (modes[mode] == MPT_GPT2_RECOMPUTE_ATTENTION)
        return ends + layers * (others + one) + attention;
    return ends + layers * one + attention + others;
}

static mpt_arena_t count_bytes(const mpt_gpt2_shape_t *shape, mpt_dtype_t compute, int mode)
{
    mpt_gpt2_t model;
    mpt_arena_t arena;
    assert_int_equal(mpt_gpt2_create(&model, shape, compute, modes[mode]), MPT_OK);
    mpt_arena_init_counting(&arena);
    mpt_gpt2_cut(&model, &arena);
    mpt_gpt2_release(&model);
    return arena;
}

static void activations_take_the_bytes_of_the_formula(void **state)
{
    (void)state;
    static const mpt_dtype_t types[] = {MPT_F32, MPT_BF16, MPT_F16, MPT_F64};
    for (int64_t layers = 1; layers <= 4; layers++) {
        mpt_gpt2_shape_t shape = odd_shape(layers);
        for (int c = 0; c < 4; c++) {
            mpt_arena_t keep = count_bytes(&shape, types[c], 0);
            for (int m = 0; m < 3; m++) {
                mpt_arena_t arena = count_bytes(&shape, types[c], m);
                size_t activations = arena.bytes_by_use[MPT_USE_ACTIVATIONS];
                assert_int_equal(activations, expected_activations(&shape, types[c], m));
                assert_int_equal(arena.used - activations,
                                 keep.used - keep.bytes_by_use[MPT_USE_ACTIVATIONS]);
                assert_true(layers > 1 || arena.used == keep.used); /* one block shares with none */
            }
        }
    }
}

/* Without padding, in figures: GPT-2's twelve layers hold 29 arrays of rows x dim in place of 194. */
static void twelve_layers_keep_a_seventh(void **state)
{
    (void)state;
    const mpt_gpt2_shape_t shape = {.layers = 12,
                                    .heads = 12,
                                    .dim = 768,
                                    .context = 1024,
                                    .vocab = 50257,
                                    .batch = 4,
                                    .seq = 1024};
    const size_t a = 4096 * 768 * 2, s = 4 * 4096 * 4, e = 4096 * 12 * 4,
                 ends = 2 * a + 2 * 4096 * 4;
    const size_t expected[3] = {12 * (16 * a + s + e) + ends, 12 * (11 * a + s) + 5 * a + e + ends,
                                12 * a + 15 * a + s + e + ends};
    for (int m = 0; m < 3; m++)
        assert_int_equal(count_bytes(&shape, MPT_BF16, m).bytes_by_use[MPT_USE_ACTIVATIONS],
                         expected[m]);
    assert_true((double)expected[2] < 0.15 * (double)expected[0]);
}

/* ---- work ------------------------------------------------------------------------------------------- */

/* Calls of an operation in one micro-step with recomputation, past those without. */
static int64_t calls_more(const rig_t *rig, const rig_t *keep, mpt_op_t op)
{
    return rig->kernels.profile[op].calls - keep->kernels.profile[op].calls;
}

/* Neither the last block, nor the projection that ends a block, nor the embedding, nor the head. */
static void only_what_backward_needs_is_computed_again(void **state)
{
    (void)state;
    static const int64_t linears[3] = {0, 1, 3}, norms[3] = {0, 1, 2}, attentions[3] = {0, 1, 1};
    const variant_t variant = {"ref", MPT_F32, MPT_ISA_PORTABLE};
    for (int64_t layers = 1; layers <= 4; layers++) {
        mpt_gpt2_shape_t shape = odd_shape(layers);
        rig_t keep;
        open_variant(&keep, &shape, &variant, 1, MPT_GPT2_KEEP);
        backward(&keep, SEED);
        for (int m = 0; m < 3; m++) {
            rig_t rig;
            open_variant(&rig, &shape, &variant, 1, modes[m]);
            backward(&rig, SEED);
            assert_int_equal(calls_more(&rig, &keep, MPT_OP_LINEAR), linears[m] * (layers - 1));
            assert_int_equal(calls_more(&rig, &keep, MPT_OP_LAYERNORM), norms[m] * (layers - 1));
            assert_int_equal(calls_more(&rig, &keep, MPT_OP_ATTENTION),
                             attentions[m] * (layers - 1));
            assert_int_equal(calls_more(&rig, &keep, MPT_OP_EMBED), 0);
            assert_int_equal(calls_more(&rig, &keep, MPT_OP_LOSS), 0);
            close_rig(&rig);
        }
        close_rig(&keep);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(backward_can_run_again_from_the_same_forward),
        cmocka_unit_test(sampling_reads_the_same_logits),
        cmocka_unit_test(activations_take_the_bytes_of_the_formula),
        cmocka_unit_test(twelve_layers_keep_a_seventh),
        cmocka_unit_test(only_what_backward_needs_is_computed_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
