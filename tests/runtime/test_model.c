/*
 * The whole GPT-2, forward and backward: gradients against finite differences with the oracle run wholly in
 * FP64, then every backend, type and instruction level against the oracle. All sizes are odd ones.
 */
#include "model_rig.h"

/* ---- finite differences --------------------------------------------------------------------------------- */

#define STEP 1e-3

static double difference(rig_t *rig, int t, int64_t i)
{
    static const double offset[4] = {-2, -1, 1, 2};
    double *param = (double *)rig->model.params[t] + i;
    const double at = *param;
    double f[4];
    for (int j = 0; j < 4; j++) {
        *param = at + offset[j] * STEP;
        f[j] = SEED * loss_of(rig);
    }
    *param = at;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * STEP);
}

/* Several elements of a tensor, ends included; relative to its largest gradient. */
static void check_tensor(rig_t *rig, int t, int samples)
{
    int64_t count = mpt_tensor_count(&rig->table[t]);
    double largest = largest_gradient(rig, t);
    assert_true(largest > 1e-6); /* nothing is cut off from the loss */
    for (int s = 0; s < samples; s++) {
        int64_t i = s == 0   ? 0
                    : s == 1 ? count - 1
                             : (int64_t)(mix((uint64_t)(t * 100 + s)) % (uint64_t)count);
        double want = difference(rig, t, i), got = gradient(rig, t, i);
        if (!(fabs(got - want) <= 1e-7 * largest + 1e-6 * fabs(want)))
            fail_msg("%s[%lld]: gradient %.12g, difference %.12g", rig->table[t].name, (long long)i,
                     got, want);
    }
}

static void every_tensors_gradient_matches_finite_differences(void **state)
{
    (void)state;
    rig_t rig;
    open_oracle(&rig, &small);
    backward(&rig, SEED);
    for (int t = 0; t < rig.tensors; t++)
        check_tensor(&rig, t, 16);
    close_rig(&rig);
}

/* The head adds to wte where no token is embedded; positions past the sequence are never touched. */
static void the_tied_head_reaches_every_row_and_unused_positions_none(void **state)
{
    (void)state;
    rig_t rig;
    open_oracle(&rig, &small);
    for (int64_t i = 0; i < small.batch * small.seq; i++)
        rig.tokens[i] = (uint32_t)(i % 3);
    backward(&rig, SEED);
    check_tensor(&rig, MPT_GPT2_WTE, 40);
    for (int64_t v = 0; v < small.vocab; v++)
        assert_true(fabs(gradient(&rig, MPT_GPT2_WTE, v * small.dim)) > 0);
    for (int64_t i = small.seq * small.dim; i < small.context * small.dim; i++)
        assert_true(gradient(&rig, MPT_GPT2_WPE, i) == 0);
    close_rig(&rig);
}

static void a_head_in_chunks_has_the_same_gradients(void **state)
{
    (void)state;
    rig_t rig;
    open_oracle(&rig, &chunked);
    assert_true(rig.model.loss_rows < chunked.batch * chunked.seq);
    backward(&rig, SEED);
    check_tensor(&rig, MPT_GPT2_WTE, 3);
    check_tensor(&rig, mpt_gpt2_lnf(&chunked), 3);
    check_tensor(&rig, mpt_gpt2_block(0, MPT_GPT2_QKV_W), 3);
    close_rig(&rig);
}

/* Cross-entropy by its definition, from the logits of each row. */
static double loss_by_rows(rig_t *rig)
{
    double sum = 0;
    assert_int_equal(mpt_gpt2_forward(&rig->model, rig->tokens), MPT_OK);
    for (int64_t row = 0; row < rig->shape.batch * rig->shape.seq; row++) {
        double total = 0;
        assert_int_equal(mpt_gpt2_logits(&rig->model, row), MPT_OK);
        for (int64_t v = 0; v < rig->shape.vocab; v++)
            total += exp(mpt_load(rig->model.logits, rig->wide, v));
        sum += log(total) - mpt_load(rig->model.logits, rig->wide, rig->targets[row]);
    }
    return sum;
}

static void the_loss_is_the_cross_entropy_of_every_row(void **state)
{
    (void)state;
    static const mpt_gpt2_shape_t *const shapes[] = {&small, &chunked};
    for (int s = 0; s < 2; s++) {
        rig_t rig;
        open_oracle(&rig, shapes[s]);
        double expected = loss_by_rows(&rig), loss = loss_of(&rig);
        assert_true(fabs(loss - expected) <= 1e-12 * expected);
        close_rig(&rig);
    }
}

/* ---- every backend, type and level ------------------------------------------------------------------------ */

/* How far a tensor's gradient is from the oracle's, relative to its length. */
static double gradient_error(const rig_t *rig, const rig_t *oracle, int t)
{
    double error = 0, length = 0;
    for (int64_t i = 0; i < mpt_tensor_count(&rig->table[t]); i++) {
        error += pow(gradient(rig, t, i) - gradient(oracle, t, i), 2);
        length += pow(gradient(oracle, t, i), 2);
    }
    return sqrt(error / length);
}

static void check_against_oracle(const variant_t *v, const mpt_gpt2_shape_t *shape, rig_t *oracle,
                                 double oracle_loss)
{
    static const double tolerances[MPT_DTYPE_COUNT] = {
        [MPT_F32] = 2e-5, [MPT_BF16] = 6e-2, [MPT_F16] = 1e-2, [MPT_F64] = 1e-12};
    double tolerance = tolerances[v->compute];
    rig_t rig;
    open_rig(&rig, shape, v->compute, v->kernels, v->isa, 2);
    double loss = backward(&rig, SEED);
    if (!(fabs(loss - oracle_loss) <= tolerance * oracle_loss))
        fail_msg("%s: loss %.9g, the oracle's is %.9g", name_of(v), loss, oracle_loss);
    for (int t = 0; t < rig.tensors; t++) {
        double error = gradient_error(&rig, oracle, t);
        if (!(error <= tolerance))
            fail_msg("%s: %s: relative error %.3g", name_of(v), rig.table[t].name, error);
    }
    close_rig(&rig);
}

static void every_level_and_type_agrees_with_the_oracle(void **state)
{
    (void)state;
    static const mpt_gpt2_shape_t *const shapes[] = {&small, &chunked};
    variant_t variants[MAX_VARIANTS];
    int count = list_variants(variants);
    for (int s = 0; s < 2; s++) {
        rig_t oracle;
        open_oracle(&oracle, shapes[s]);
        double loss = backward(&oracle, SEED);
        for (int i = 0; i < count; i++)
            check_against_oracle(&variants[i], shapes[s], &oracle, loss);
        close_rig(&oracle);
    }
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    variant_t variants[MAX_VARIANTS];
    int count = list_variants(variants);
    for (int i = 0; i < count; i++) {
        rig_t one, three;
        open_rig(&one, &small, variants[i].compute, variants[i].kernels, variants[i].isa, 1);
        open_rig(&three, &small, variants[i].compute, variants[i].kernels, variants[i].isa, 3);
        double a = backward(&one, SEED), b = backward(&three, SEED);
        assert_memory_equal(&a, &b, sizeof a);
        expect_same_gradients(&one, &three, name_of(&variants[i]));
        close_rig(&one);
        close_rig(&three);
    }
}

/* ---- the vocabulary's padding ------------------------------------------------------------------------------- */

static void padding_rows_get_exactly_no_gradient(void **state)
{
    (void)state;
    variant_t variants[MAX_VARIANTS];
    int count = list_variants(variants);
    for (int i = 0; i < count; i++) {
        rig_t rig;
        open_rig(&rig, &small, variants[i].compute, variants[i].kernels, variants[i].isa, 1);
        backward(&rig, 1024.0f);
        for (int64_t e = small.vocab * small.dim; e < room(&rig, MPT_GPT2_WTE); e++)
            assert_true(gradient(&rig, MPT_GPT2_WTE, e) == 0);
        close_rig(&rig);
    }
}

static void padding_rows_never_reach_the_loss(void **state)
{
    (void)state;
    variant_t variants[MAX_VARIANTS];
    int count = list_variants(variants);
    for (int i = 0; i < count; i++) {
        rig_t rig;
        open_rig(&rig, &small, variants[i].compute, variants[i].kernels, variants[i].isa, 1);
        double clean = loss_of(&rig);
        for (int64_t e = small.vocab * small.dim; e < room(&rig, MPT_GPT2_WTE); e++)
            mpt_store(rig.model.params[MPT_GPT2_WTE], rig.compute, e, 1000.0);
        double dirty = loss_of(&rig);
        assert_memory_equal(&clean, &dirty, sizeof clean);
        close_rig(&rig);
    }
}

/* ---- accumulation, causality ----------------------------------------------------------------------------- */

static void two_micro_batches_accumulate_to_the_sum_of_both(void **state)
{
    (void)state;
    rig_t a, b, both;
    open_oracle(&a, &small);
    open_oracle(&b, &small);
    open_oracle(&both, &small);
    draw_tokens(&b, 2);
    backward(&a, SEED);
    backward(&b, SEED);
    backward(&both, SEED);
    draw_tokens(&both, 2);
    backward(&both, SEED);
    for (int t = 0; t < a.tensors; t++) {
        double largest = largest_gradient(&both, t);
        for (int64_t i = 0; i < mpt_tensor_count(&a.table[t]); i++)
            assert_true(fabs(gradient(&both, t, i) - gradient(&a, t, i) - gradient(&b, t, i)) <=
                        1e-13 * largest);
    }
    close_rig(&a);
    close_rig(&b);
    close_rig(&both);
}

/* The seed multiplies every gradient; a power of two does so exactly. */
static void a_power_of_two_seed_scales_gradients_exactly(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t plain, scaled;
        open_rig(&plain, &small, MPT_F32, "cpu", (mpt_isa_t)isa, 1);
        open_rig(&scaled, &small, MPT_F32, "cpu", (mpt_isa_t)isa, 1);
        backward(&plain, 1.0f);
        backward(&scaled, 65536.0f);
        for (int t = 0; t < plain.tensors; t++)
            for (int64_t i = 0; i < mpt_tensor_count(&plain.table[t]); i++)
                assert_true(gradient(&scaled, t, i) == 65536.0 * gradient(&plain, t, i));
        close_rig(&plain);
        close_rig(&scaled);
    }
}

static void copy_logits(rig_t *rig, int64_t row, void *out)
{
    assert_int_equal(mpt_gpt2_logits(&rig->model, row), MPT_OK);
    memcpy(out, rig->model.logits, (size_t)rig->shape.vocab * mpt_dtype_bytes(rig->wide));
}

static void a_later_token_changes_no_bit_of_earlier_logits(void **state)
{
    (void)state;
    const int64_t seq = small.seq, changed = 4; /* of the first sequence */
    variant_t variants[MAX_VARIANTS];
    int count = list_variants(variants);
    for (int i = 0; i < count; i++) {
        rig_t rig;
        double before[16], after[16]; /* room for vocab elements of any wide type */
        open_rig(&rig, &small, variants[i].compute, variants[i].kernels, variants[i].isa, 1);
        size_t bytes = (size_t)small.vocab * mpt_dtype_bytes(rig.wide);
        uint32_t token = rig.tokens[changed], other = (token + 1) % (uint32_t)small.vocab;
        for (int64_t row = 0; row < 2 * seq; row++) {
            rig.tokens[changed] = token;
            assert_int_equal(mpt_gpt2_forward(&rig.model, rig.tokens), MPT_OK);
            copy_logits(&rig, row, before);
            rig.tokens[changed] = other;
            assert_int_equal(mpt_gpt2_forward(&rig.model, rig.tokens), MPT_OK);
            copy_logits(&rig, row, after);
            if (row >= changed && row < seq)
                assert_true(memcmp(before, after, bytes) != 0);
            else
                assert_memory_equal(before, after, bytes);
        }
        close_rig(&rig);
    }
}

/* ---- the table and the first weights ---------------------------------------------------------------------------- */

static void the_table_is_gpt2s(void **state)
{
    (void)state;
    const mpt_gpt2_shape_t gpt2 = {.layers = 12,
                                   .heads = 12,
                                   .dim = 768,
                                   .context = 1024,
                                   .vocab = 50257,
                                   .batch = 1,
                                   .seq = 8};
    int count = mpt_gpt2_tensor_count(&gpt2);
    mpt_tensor_t *table = calloc((size_t)count, sizeof *table);
    int64_t parameters = 0;
    assert_int_equal(count, 148);
    mpt_gpt2_tensors(&gpt2, table);
    for (int t = 0; t < count; t++) {
        assert_int_equal(table[t].first, parameters);
        assert_int_equal(table[t].decay, table[t].dims == 2); /* matrices and nothing else */
        parameters += mpt_tensor_count(&table[t]);
    }
    assert_int_equal(parameters, 124439808);
    assert_string_equal(table[0].name, "wte.weight");
    assert_int_equal(table[0].reserve, (50304 - 50257) * 768);
    assert_string_equal(table[mpt_gpt2_block(11, MPT_GPT2_FCPROJ_W)].name,
                        "h.11.mlp.c_proj.weight");
    assert_int_equal(table[mpt_gpt2_block(11, MPT_GPT2_FCPROJ_W)].unit, 12);
    assert_int_equal(table[mpt_gpt2_lnf(&gpt2)].unit, 13);
    assert_int_equal(mpt_gpt2_vocab_padded(&gpt2), 50304);
    free(table);
}

static void first_weights_have_gpt2s_spread(void **state)
{
    (void)state;
    const mpt_gpt2_shape_t shape = {
        .layers = 8, .heads = 2, .dim = 64, .context = 32, .vocab = 256, .batch = 1, .seq = 8};
    int count = mpt_gpt2_tensor_count(&shape);
    mpt_tensor_t *table = calloc((size_t)count, sizeof *table);
    mpt_gpt2_tensors(&shape, table);
    for (int t = 0; t < count; t++) {
        int64_t n = mpt_tensor_count(&table[t]);
        float *w = malloc((size_t)n * sizeof *w);
        double sum = 0, squares = 0;
        mpt_gpt2_init(&shape, table, t, 1234, 0, n, w);
        for (int64_t i = 0; i < n; i++) {
            sum += w[i];
            squares += (double)w[i] * w[i];
        }
        if (table[t].dims == 1) {
            double constant = strstr(table[t].name, "weight") != NULL ? 1 : 0;
            assert_true(sum == constant * (double)n && squares == constant * (double)n);
        } else {
            double spread = strstr(table[t].name, "c_proj") != NULL ? 0.02 / sqrt(16) : 0.02;
            assert_true(fabs(sqrt(squares / (double)n) - spread) <= 5 * spread / sqrt((double)n));
            assert_true(fabs(sum / (double)n) <= 5 * spread / sqrt((double)n));
        }
        free(w);
    }
    free(table);
}

static void first_weights_depend_on_seed_and_element_alone(void **state)
{
    (void)state;
    mpt_tensor_t table[32];
    float whole[675], part[675];
    int t = mpt_gpt2_block(1, MPT_GPT2_QKV_W);
    assert_true(mpt_gpt2_tensor_count(&small) <= 32);
    mpt_gpt2_tensors(&small, table);
    assert_int_equal(mpt_tensor_count(&table[t]), 675);
    mpt_gpt2_init(&small, table, t, 5, 0, 675, whole);
    for (int64_t first = 0; first < 675;) {
        int64_t n = first % 5 + 1 < 675 - first ? first % 5 + 1 : 675 - first;
        mpt_gpt2_init(&small, table, t, 5, first, n, part + first);
        first += n;
    }
    assert_memory_equal(part, whole, sizeof whole);
    mpt_gpt2_init(&small, table, t, 6, 0, 675, part);
    assert_memory_not_equal(part, whole, sizeof whole);
    mpt_gpt2_init(&small, table, mpt_gpt2_block(0, MPT_GPT2_QKV_W), 5, 0, 675, part);
    assert_memory_not_equal(part, whole, sizeof whole);
}

static void a_fresh_models_loss_is_the_logarithm_of_the_vocabulary(void **state)
{
    (void)state;
    const mpt_gpt2_shape_t shape = {
        .layers = 3, .heads = 4, .dim = 64, .context = 24, .vocab = 300, .batch = 3, .seq = 24};
    rig_t rig;
    open_rig(&rig, &shape, MPT_F32, "cpu", mpt_isa_detect(), 1);
    for (int t = 0; t < rig.tensors; t++)
        mpt_gpt2_init(&shape, rig.table, t, 1, 0, mpt_tensor_count(&rig.table[t]),
                      rig.model.params[t]);
    double loss = loss_of(&rig) / (double)(shape.batch * shape.seq);
    assert_true(fabs(loss - log(300)) <= 0.02 * log(300));
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensors_gradient_matches_finite_differences),
        cmocka_unit_test(the_tied_head_reaches_every_row_and_unused_positions_none),
        cmocka_unit_test(a_head_in_chunks_has_the_same_gradients),
        cmocka_unit_test(the_loss_is_the_cross_entropy_of_every_row),
        cmocka_unit_test(every_level_and_type_agrees_with_the_oracle),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(padding_rows_get_exactly_no_gradient),
        cmocka_unit_test(padding_rows_never_reach_the_loss),
        cmocka_unit_test(two_micro_batches_accumulate_to_the_sum_of_both),
        cmocka_unit_test(a_power_of_two_seed_scales_gradients_exactly),
        cmocka_unit_test(a_later_token_changes_no_bit_of_earlier_logits),
        cmocka_unit_test(the_table_is_gpt2s),
        cmocka_unit_test(first_weights_have_gpt2s_spread),
        cmocka_unit_test(first_weights_depend_on_seed_and_element_alone),
        cmocka_unit_test(a_fresh_models_loss_is_the_logarithm_of_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
