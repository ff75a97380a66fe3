/*
 * The whole GPT-2, forward and backward: gradients against finite differences with the oracle run wholly in
 * FP64, then every backend, type and instruction level against the oracle. All sizes are odd ones.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gpt2.h"
#include "numeric.h"
#include "pool.h"

static const mpt_gpt2_shape_t small = {
    .layers = 2, .heads = 3, .dim = 15, .context = 9, .vocab = 11, .batch = 2, .seq = 7};
/* More rows than the head takes at a time, and more than one multiple of the vocabulary's padding. */
static const mpt_gpt2_shape_t chunked = {
    .layers = 1, .heads = 1, .dim = 8, .context = 300, .vocab = 131, .batch = 2, .seq = 300};

typedef struct rig {
    mpt_gpt2_shape_t shape;
    mpt_dtype_t compute, wide;
    int tensors;
    mpt_tensor_t *table;
    mpt_pool_t *pool;
    mpt_device_t *device;
    mpt_stream_t *stream;
    mpt_arena_t arena;
    mpt_kernels_t kernels;
    void *scratch;
    mpt_gpt2_t model;
    uint32_t *tokens, *targets;
} rig_t;

/* Elements of a tensor with what is reserved behind it. */
static int64_t room(const rig_t *rig, int t)
{
    return mpt_tensor_count(&rig->table[t]) + rig->table[t].reserve;
}

static void open_kernels(rig_t *rig, const char *kernels, mpt_isa_t isa)
{
    mpt_kernels_limits_t limits;
    const mpt_kernels_ops_t *ops = mpt_kernels_find(kernels);
    mpt_gpt2_limits(&rig->shape, rig->compute, &limits);
    size_t bytes = mpt_kernels_scratch_bytes(ops, isa, mpt_pool_threads(rig->pool), &limits);
    rig->scratch = bytes > 0 ? aligned_alloc(4096, (bytes + 4095) / 4096 * 4096) : NULL;
    assert_int_equal(
        mpt_kernels_init(&rig->kernels, ops, rig->device, NULL, isa, rig->scratch, bytes, &limits),
        MPT_OK);
}

static void open_model(rig_t *rig)
{
    assert_int_equal(mpt_gpt2_create(&rig->model, &rig->shape, rig->compute), MPT_OK);
    mpt_arena_init_counting(&rig->arena);
    mpt_gpt2_cut(&rig->model, &rig->arena);
    size_t bytes = rig->arena.used;
    assert_int_equal(mpt_arena_init(&rig->arena, rig->device, MPT_MEM_PRIVATE, bytes), MPT_OK);
    mpt_gpt2_cut(&rig->model, &rig->arena);
    assert_int_equal(rig->arena.used, bytes);
    memset(rig->arena.mem.ptr, 0xff, bytes); /* NaNs: nothing may be read before it was written */
    rig->model.kernels = &rig->kernels;
    rig->model.stream = rig->stream;
    for (int t = 0; t < rig->tensors; t++) {
        size_t count = ((size_t)room(rig, t) + 63) / 64 * 64;
        rig->model.params[t] = aligned_alloc(64, count * mpt_dtype_bytes(rig->compute));
        rig->model.grads[t] = aligned_alloc(64, count * mpt_dtype_bytes(rig->wide));
        memset(rig->model.params[t], 0, count * mpt_dtype_bytes(rig->compute));
        memset(rig->model.grads[t], 0, count * mpt_dtype_bytes(rig->wide));
    }
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void draw_tokens(rig_t *rig, uint64_t seed)
{
    for (int64_t i = 0; i < rig->shape.batch * rig->shape.seq; i++) {
        rig->tokens[i] = (uint32_t)(mix(seed * 1000 + (uint64_t)i) % (uint64_t)rig->shape.vocab);
        rig->targets[i] =
            (uint32_t)(mix(seed * 2000 + (uint64_t)i + 7) % (uint64_t)rig->shape.vocab);
    }
}

/* Weights of a size at which every part of the model bends: representable in every type. */
static void draw_params(rig_t *rig)
{
    for (int t = 0; t < rig->tensors; t++) {
        int gain = rig->table[t].dims == 1 && strstr(rig->table[t].name, "weight") != NULL;
        for (int64_t i = 0; i < mpt_tensor_count(&rig->table[t]); i++) {
            uint64_t bits = mix((uint64_t)(rig->table[t].first + i) + 99);
            double value =
                (double)((int64_t)(bits % 255) - 127) / 256.0; /* 8 bits: exact in BF16 */
            if (gain)
                value = 1.0 + (double)((int64_t)(bits % 63) - 31) / 128.0;
            mpt_store(rig->model.params[t], rig->compute, i, value);
        }
    }
}

static void open_rig(rig_t *rig, const mpt_gpt2_shape_t *shape, mpt_dtype_t compute,
                     const char *kernels, mpt_isa_t isa, int threads)
{
    size_t rows = (size_t)(shape->batch * shape->seq);
    memset(rig, 0, sizeof *rig);
    rig->shape = *shape;
    rig->compute = compute;
    rig->wide = mpt_dtype_wide(compute);
    rig->tensors = mpt_gpt2_tensor_count(shape);
    rig->table = calloc((size_t)rig->tensors, sizeof *rig->table);
    mpt_gpt2_tensors(shape, rig->table);
    mpt_pool_params_t pool = {.threads = threads, .yield = 1};
    assert_int_equal(mpt_pool_create(&pool, &rig->pool), MPT_OK);
    assert_int_equal(mpt_device_cpu_create(rig->pool, NULL, &rig->device), MPT_OK);
    assert_int_equal(rig->device->ops->stream_create(rig->device, &rig->stream), MPT_OK);
    open_kernels(rig, kernels, isa);
    open_model(rig);
    rig->tokens = calloc(rows, sizeof *rig->tokens);
    rig->targets = calloc(rows, sizeof *rig->targets);
    draw_tokens(rig, 1);
    draw_params(rig);
}

static void close_rig(rig_t *rig)
{
    for (int t = 0; t < rig->tensors; t++) {
        free(rig->model.params[t]);
        free(rig->model.grads[t]);
    }
    mpt_gpt2_release(&rig->model);
    mpt_arena_release(&rig->arena);
    rig->device->ops->stream_destroy(rig->device, rig->stream);
    mpt_device_destroy(rig->device);
    mpt_pool_destroy(rig->pool);
    free(rig->scratch);
    free(rig->table);
    free(rig->tokens);
    free(rig->targets);
}

static void open_oracle(rig_t *rig, const mpt_gpt2_shape_t *shape)
{
    open_rig(rig, shape, MPT_F64, "ref", MPT_ISA_PORTABLE, 1);
}

static double loss_of(rig_t *rig)
{
    assert_int_equal(mpt_gpt2_forward(&rig->model, rig->tokens), MPT_OK);
    assert_int_equal(mpt_gpt2_loss(&rig->model, rig->targets, 0.0f, 0), MPT_OK);
    return *rig->model.loss_sum;
}

/* Forward and backward, the gradients of `seed` times the loss added to what is there. */
static double backward(rig_t *rig, float seed, mpt_gpt2_ready_t ready, void *ctx)
{
    assert_int_equal(mpt_gpt2_forward(&rig->model, rig->tokens), MPT_OK);
    assert_int_equal(mpt_gpt2_loss(&rig->model, rig->targets, seed, 1), MPT_OK);
    double loss = *rig->model.loss_sum;
    assert_int_equal(mpt_gpt2_backward(&rig->model, rig->tokens, ready, ctx), MPT_OK);
    return loss;
}

static void clear_gradients(rig_t *rig)
{
    for (int t = 0; t < rig->tensors; t++)
        memset(rig->model.grads[t], 0, (size_t)room(rig, t) * mpt_dtype_bytes(rig->wide));
}

static double gradient(const rig_t *rig, int t, int64_t i)
{
    return mpt_load(rig->model.grads[t], rig->wide, i);
}

static double largest_gradient(const rig_t *rig, int t)
{
    double largest = 0;
    for (int64_t i = 0; i < mpt_tensor_count(&rig->table[t]); i++)
        largest = fmax(largest, fabs(gradient(rig, t, i)));
    return largest;
}

/* ---- finite differences --------------------------------------------------------------------------------- */

#define STEP 1e-3
#define SEED 0.0625f /* exact, so that the objective is exactly SEED times the loss */

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
    backward(&rig, SEED, NULL, NULL);
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
    backward(&rig, SEED, NULL, NULL);
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
    backward(&rig, SEED, NULL, NULL);
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

typedef struct variant {
    const char *kernels;
    mpt_dtype_t compute;
    mpt_isa_t isa;
} variant_t;

/* All that this processor runs; returns their number. */
static int list_variants(variant_t *variants)
{
    static const mpt_dtype_t types[] = {MPT_F32, MPT_BF16, MPT_F16};
    int count = 0;
    variants[count++] = (variant_t){"ref", MPT_F64, MPT_ISA_PORTABLE};
    for (int c = 0; c < 3; c++) {
        variants[count++] = (variant_t){"ref", types[c], MPT_ISA_PORTABLE};
        for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
            variants[count++] = (variant_t){"cpu", types[c], (mpt_isa_t)isa};
    }
    return count;
}

#define MAX_VARIANTS (4 + 3 * MPT_ISA_COUNT)

static const char *name_of(const variant_t *v)
{
    static char name[64];
    snprintf(name, sizeof name, "%s %s %s", v->kernels, mpt_dtype_name(v->compute),
             mpt_isa_name(v->isa));
    return name;
}

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
    double loss = backward(&rig, SEED, NULL, NULL);
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
        double loss = backward(&oracle, SEED, NULL, NULL);
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
        double a = backward(&one, SEED, NULL, NULL), b = backward(&three, SEED, NULL, NULL);
        assert_memory_equal(&a, &b, sizeof a);
        for (int t = 0; t < one.tensors; t++)
            assert_memory_equal(one.model.grads[t], three.model.grads[t],
                                (size_t)room(&one, t) * mpt_dtype_bytes(one.wide));
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
        backward(&rig, 1024.0f, NULL, NULL);
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

/* ---- accumulation, causality, order -------------------------------------------------------------------------- */

static void two_micro_batches_accumulate_to_the_sum_of_both(void **state)
{
    (void)state;
    rig_t a, b, both;
    open_oracle(&a, &small);
    open_oracle(&b, &small);
    open_oracle(&both, &small);
    draw_tokens(&b, 2);
    backward(&a, SEED, NULL, NULL);
    backward(&b, SEED, NULL, NULL);
    backward(&both, SEED, NULL, NULL);
    draw_tokens(&both, 2);
    backward(&both, SEED, NULL, NULL);
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
        backward(&plain, 1.0f, NULL, NULL);
        backward(&scaled, 65536.0f, NULL, NULL);
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

typedef struct order {
    int units[8];
    int count;
    int stop_at; /* unit at which to fail, or -1 */
    const rig_t *rig;
    int touched; /* whether a block had gradients of a unit that was not ready yet */
} order_t;

static mpt_status_t note(void *ctx, int unit)
{
    order_t *order = ctx;
    order->units[order->count++] = unit;
    for (int t = 0; t < order->rig->tensors; t++)
        if (order->rig->table[t].unit < unit && order->rig->table[t].unit > 0 &&
            largest_gradient(order->rig, t) != 0)
            order->touched = 1;
    return unit == order->stop_at ? MPT_ERR_COMM : MPT_OK;
}

static void units_are_ready_from_the_head_to_the_embedding(void **state)
{
    (void)state;
    rig_t rig;
    open_oracle(&rig, &small);
    order_t order = {.stop_at = -1, .rig = &rig};
    backward(&rig, SEED, note, &order);
    assert_int_equal(order.count, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(order.units[i], 3 - i);
    assert_int_equal(order.touched, 0);
    order = (order_t){.stop_at = 2, .rig = &rig};
    clear_gradients(&rig);
    assert_int_equal(mpt_gpt2_loss(&rig.model, rig.targets, SEED, 1), MPT_OK);
    assert_int_equal(mpt_gpt2_backward(&rig.model, rig.tokens, note, &order), MPT_ERR_COMM);
    assert_int_equal(order.count, 2);
    close_rig(&rig);
}

/* What was announced as ready is not written to afterwards: it may be on the wire. */
typedef struct frozen {
    rig_t *rig;
    double *copies[64];
} frozen_t;

static mpt_status_t freeze(void *ctx, int unit)
{
    frozen_t *frozen = ctx;
    for (int t = 0; t < frozen->rig->tensors; t++) {
        if (frozen->rig->table[t].unit != unit)
            continue;
        size_t bytes = (size_t)room(frozen->rig, t) * sizeof(double);
        frozen->copies[t] = malloc(bytes);
        memcpy(frozen->copies[t], frozen->rig->model.grads[t], bytes);
    }
    return MPT_OK;
}

static void a_ready_units_gradients_are_final(void **state)
{
    (void)state;
    rig_t rig;
    open_oracle(&rig, &small);
    frozen_t frozen = {.rig = &rig};
    backward(&rig, SEED, freeze, &frozen);
    for (int t = 0; t < rig.tensors; t++) {
        assert_memory_equal(frozen.copies[t], rig.model.grads[t],
                            (size_t)room(&rig, t) * sizeof(double));
        free(frozen.copies[t]);
    }
    close_rig(&rig);
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
        cmocka_unit_test(units_are_ready_from_the_head_to_the_embedding),
        cmocka_unit_test(a_ready_units_gradients_are_final),
        cmocka_unit_test(the_table_is_gpt2s),
        cmocka_unit_test(first_weights_have_gpt2s_spread),
        cmocka_unit_test(first_weights_depend_on_seed_and_element_alone),
        cmocka_unit_test(a_fresh_models_loss_is_the_logarithm_of_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
