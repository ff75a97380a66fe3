/*
 * What the conformance suite's small shapes do not reach: contractions of several slices and rounds, packed
 * operands larger than a round, GELU over its whole range, the accuracy of FP16 products, scratch at its exact size.
 * Sums are checked at sampled elements against sums in double.
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
#include "device.h"
#include "kernels.h"
#include "numeric.h"
#include "pool.h"

#define SAMPLES 400
#define GUARD 256

typedef struct rig {
    mpt_pool_t *pool;
    mpt_device_t *device;
    mpt_kernels_t k;
    unsigned char *scratch;
} rig_t;

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    assert_non_null(memory);
    return memory;
}

/* A table whose scratch is exactly what it asked for, between its start and a guard. */
static void rig_open(rig_t *rig, mpt_isa_t isa, int threads, const mpt_kernels_limits_t *limits)
{
    const mpt_kernels_ops_t *cpu = mpt_kernels_find("cpu");
    mpt_pool_params_t params = {.threads = threads, .yield = 1};
    assert_int_equal(mpt_pool_create(&params, &rig->pool), MPT_OK);
    assert_int_equal(mpt_device_cpu_create(rig->pool, NULL, &rig->device), MPT_OK);
    size_t bytes = mpt_kernels_scratch_bytes(cpu, isa, threads, limits);
    rig->scratch = allocate(bytes + GUARD);
    memset(rig->scratch, 0xff, bytes + GUARD);
    assert_int_equal(
        mpt_kernels_init(&rig->k, cpu, rig->device, NULL, isa, rig->scratch, bytes, limits),
        MPT_OK);
}

static void rig_close(rig_t *rig)
{
    for (int i = 0; i < GUARD; i++)
        assert_int_equal(rig->scratch[rig->k.scratch_bytes + (size_t)i], 0xff);
    free(rig->scratch);
    mpt_device_destroy(rig->device);
    mpt_pool_destroy(rig->pool);
}

static mpt_kernels_limits_t limits_for(mpt_dtype_t compute, int64_t rows, int64_t in, int64_t out)
{
    return (mpt_kernels_limits_t){.compute = compute,
                                  .batch = 1,
                                  .seq = 1,
                                  .heads = 1,
                                  .head_dim = 1,
                                  .rows = rows,
                                  .dim = in < out ? in : out,
                                  .hidden = in < out ? out : in,
                                  .vocab_padded = 1,
                                  .loss_rows = 1};
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static const mpt_dtype_t computes[] = {MPT_F32, MPT_BF16, MPT_F16, MPT_TF32};
#define COMPUTES (sizeof computes / sizeof *computes)

static void *random_array(mpt_dtype_t dtype, int64_t count, uint32_t seed)
{
    void *array = allocate((size_t)count * mpt_dtype_bytes(dtype));
    for (int64_t i = 0; i < count; i++)
        mpt_store(array, mpt_dtype_memory(dtype), i, next_random(&seed) * 0x1p-23 - 1);
    return array;
}

/* One of the three products: C[m,n] over k, A at (i, k) times B at (j, k). */
typedef enum product { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, PRODUCTS } product_t;

typedef struct problem {
    product_t product;
    mpt_dtype_t compute;
    int64_t rows, in, out;
    int64_t m, n, k;
    void *a, *b; /* x, w; dy, w; dy, x */
} problem_t;

static problem_t make_problem(product_t product, mpt_dtype_t compute, int64_t rows, int64_t in,
                              int64_t out)
{
    problem_t p = {.product = product, .compute = compute, .rows = rows, .in = in, .out = out};
    const int64_t shapes[PRODUCTS][3] = {{rows, out, in}, {rows, in, out}, {out, in, rows}};
    p.m = shapes[product][0];
    p.n = shapes[product][1];
    p.k = shapes[product][2];
    p.a = random_array(compute, p.m * p.k, 1);
    p.b = random_array(compute, p.n * p.k, 2);
    return p;
}

static void free_problem(problem_t *p)
{
    free(p->a);
    free(p->b);
}

static int64_t a_index(const problem_t *p, int64_t i, int64_t k)
{
    return p->product == BACKWARD_WEIGHT ? k * p->m + i : i * p->k + k;
}

static int64_t b_index(const problem_t *p, int64_t j, int64_t k)
{
    return p->product == FORWARD ? j * p->k + k : k * p->n + j;
}

static mpt_dtype_t out_dtype(const problem_t *p)
{
    return p->product == BACKWARD_INPUT ? mpt_dtype_memory(p->compute) : MPT_F32;
}

/* An element as products see it. */
static double operand(const problem_t *p, const void *array, int64_t index)
{
    if (p->compute == MPT_TF32)
        return (double)mpt_round_tf32(((const float *)array)[index]);
    return mpt_load(array, p->compute, index);
}

/* Logits for forward, so that what is compared was not rounded to 16 bits. packed: of the weights, or NULL. */
static mpt_status_t call(mpt_kernels_t *k, const problem_t *p, const void *packed, void *out,
                         float *sums)
{
    mpt_linear_forward_t f = {.compute = p->compute,
                              .rows = p->rows,
                              .in = p->in,
                              .out = p->out,
                              .x = p->a,
                              .w = p->b,
                              .packed = packed,
                              .y = out,
                              .y_dtype = MPT_F32};
    mpt_linear_backward_input_t i = {.compute = p->compute,
                                     .rows = p->rows,
                                     .in = p->in,
                                     .out = p->out,
                                     .dy = p->a,
                                     .w = p->b,
                                     .packed = packed,
                                     .dx = out};
    mpt_linear_backward_weight_t w = {.compute = p->compute,
                                      .rows = p->rows,
                                      .in = p->in,
                                      .out = p->out,
                                      .dy = p->a,
                                      .x = p->b,
                                      .dw = out,
                                      .dbias = sums};
    if (p->product == FORWARD)
        return mpt_linear_forward(k, &f, NULL);
    return p->product == BACKWARD_INPUT ? mpt_linear_backward_input(k, &i, NULL)
                                        : mpt_linear_backward_weight(k, &w, NULL);
}

static void check_element(const problem_t *p, const void *out, int64_t i, int64_t j)
{
    double want = 0, magnitude = 0;
    for (int64_t k = 0; k < p->k; k++) {
        double product = operand(p, p->a, a_index(p, i, k)) * operand(p, p->b, b_index(p, j, k));
        want += product;
        magnitude += fabs(product);
    }
    double got = mpt_load(out, out_dtype(p), i * p->n + j);
    double unit = out_dtype(p) == MPT_BF16 ? 0x1p-8 : out_dtype(p) == MPT_F16 ? 0x1p-11 : 0x1p-24;
    int two_terms = p->compute == MPT_F16 || p->compute == MPT_TF32; /* on tiles */
    double slack = (two_terms ? 0x1p-18 : 0x1p-20) * magnitude + unit * fabs(want);
    if (!(fabs(got - want) <= slack))
        fail_msg(
            "product %d in %s, %lld x %lld x %lld: element %lld,%lld is %.9g, not %.9g within %.3g",
            (int)p->product, mpt_dtype_name(p->compute), (long long)p->m, (long long)p->n,
            (long long)p->k, (long long)i, (long long)j, got, want, slack);
}

/* Corners, then anywhere. */
static void check_samples(const problem_t *p, const void *out)
{
    uint32_t state = 3;
    check_element(p, out, 0, 0);
    check_element(p, out, p->m - 1, 0);
    check_element(p, out, 0, p->n - 1);
    check_element(p, out, p->m - 1, p->n - 1);
    for (int s = 0; s < SAMPLES; s++)
        check_element(p, out, next_random(&state) % p->m, next_random(&state) % p->n);
}

#define PACK_GUARD 64 /* bytes watched behind packed weights */

static void *pack_weights(mpt_kernels_t *k, const problem_t *p)
{
    const int forward = p->product == FORWARD;
    const size_t bytes = mpt_linear_pack_bytes(k->ops, k->isa, p->compute, p->n, p->k);
    unsigned char *packed = allocate(bytes + PACK_GUARD);
    memset(packed, 0xff, bytes + PACK_GUARD); /* NaN where nothing is packed */
    const mpt_linear_pack_t a = {.compute = p->compute,
                                 .in = p->in,
                                 .out = p->out,
                                 .w = p->b,
                                 .forward = forward ? packed : NULL,
                                 .backward = forward ? NULL : packed};
    assert_true(bytes > 0);
    assert_int_equal(mpt_linear_pack(k, &a, NULL), MPT_OK);
    for (int i = 0; i < PACK_GUARD; i++)
        assert_int_equal(packed[bytes + (size_t)i], 0xff);
    return packed;
}

/* Packed weights, and nothing else of them, give the bits of `want`. */
static void check_packed(mpt_kernels_t *k, const problem_t *p, const void *want, size_t bytes)
{
    void *packed = pack_weights(k, p), *out = allocate(bytes);
    problem_t without = *p;
    without.b = allocate(mpt_dtype_bytes(p->compute) * (size_t)(p->n * p->k));
    memset(without.b, 0xff, mpt_dtype_bytes(p->compute) * (size_t)(p->n * p->k));
    memset(out, 0xff, bytes);
    assert_int_equal(call(k, &without, packed, out, NULL), MPT_OK);
    assert_memory_equal(out, want, bytes);
    free(without.b);
    free(packed);
    free(out);
}

static void *run(const problem_t *p, mpt_isa_t isa, int threads, float *sums)
{
    rig_t rig;
    mpt_kernels_limits_t limits = limits_for(p->compute, p->rows, p->in, p->out);
    size_t bytes = (size_t)(p->m * p->n) * mpt_dtype_bytes(out_dtype(p));
    void *out = allocate(bytes);
    memset(out, p->product == BACKWARD_WEIGHT ? 0 : 0xff, bytes);
    rig_open(&rig, isa, threads, &limits);
    assert_int_equal(call(&rig.k, p, NULL, out, sums), MPT_OK);
    if (p->product != BACKWARD_WEIGHT)
        check_packed(&rig.k, p, out, bytes);
    rig_close(&rig);
    return out;
}

static void for_each_level_and_type(product_t product, int64_t rows, int64_t in, int64_t out)
{
    for (size_t c = 0; c < COMPUTES; c++) {
        problem_t p = make_problem(product, computes[c], rows, in, out);
        for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
            void *got = run(&p, (mpt_isa_t)isa, 1 + isa % 2, NULL);
            check_samples(&p, got);
            free(got);
        }
        free_problem(&p);
    }
}

static void contractions_of_several_slices_are_summed_whole(void **state)
{
    (void)state;
    for_each_level_and_type(FORWARD, 45, 1999, 70);
    for_each_level_and_type(BACKWARD_INPUT, 333, 50, 1531);
    for_each_level_and_type(BACKWARD_WEIGHT, 2111, 130, 35);
}

static void contractions_of_several_rounds_are_carried_on(void **state)
{
    (void)state;
    for_each_level_and_type(BACKWARD_INPUT, 37, 240, 20001);
    for_each_level_and_type(BACKWARD_WEIGHT, 9001, 700, 33);
}

static void packed_columns_of_several_rounds_are_all_written(void **state)
{
    (void)state;
    for_each_level_and_type(FORWARD, 33, 600, 9001);
}

static void blocks_of_several_tasks_cover_the_output(void **state)
{
    (void)state;
    for_each_level_and_type(FORWARD, 1100, 100, 200);
    for_each_level_and_type(BACKWARD_INPUT, 700, 1000, 600);
}

/* Between 768 and 1024 in FP32 at avx2: all of A stays, and strips take one slice after the other. */
static void short_contractions_of_two_slices_are_summed_whole(void **state)
{
    (void)state;
    for_each_level_and_type(FORWARD, 45, 900, 70);
    for_each_level_and_type(BACKWARD_WEIGHT, 1000, 70, 45);
}

static void any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    const int threads[] = {2, 3, 4, 7, 16};
    for (int product = 0; product < PRODUCTS; product++)
        for (size_t c = 0; c < COMPUTES; c++)
            for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
                problem_t p = make_problem((product_t)product, computes[c], 301, 270, 290);
                size_t bytes = (size_t)(p.m * p.n) * mpt_dtype_bytes(out_dtype(&p));
                float first_sums[290] = {0};
                void *first = run(&p, (mpt_isa_t)isa, 1, first_sums);
                for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
                    float sums[290] = {0};
                    void *other = run(&p, (mpt_isa_t)isa, threads[t], sums);
                    assert_memory_equal(first, other, bytes);
                    assert_memory_equal(first_sums, sums, sizeof sums);
                    free(other);
                }
                free(first);
                free_problem(&p);
            }
}

/* Long enough for several rounds, in which the sums must not be taken twice. */
static void bias_gradients_are_the_sums_over_all_rows(void **state)
{
    (void)state;
    for (size_t c = 0; c < COMPUTES; c++)
        for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
            problem_t p = make_problem(BACKWARD_WEIGHT, computes[c], 9001, 700, 33);
            float sums[33];
            for (int i = 0; i < 33; i++)
                sums[i] = 2;
            free(run(&p, (mpt_isa_t)isa, 2, sums));
            for (int i = 0; i < 33; i++) {
                double want = 2, magnitude = 2;
                for (int64_t row = 0; row < p.rows; row++) {
                    want += mpt_load(p.a, mpt_dtype_memory(p.compute), row * p.out + i);
                    magnitude += fabs(mpt_load(p.a, mpt_dtype_memory(p.compute), row * p.out + i));
                }
                assert_true(fabs(sums[i] - want) <= 0x1p-20 * magnitude);
            }
            free_problem(&p);
        }
}

static void weight_gradients_add_to_what_is_there(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        problem_t p = make_problem(BACKWARD_WEIGHT, MPT_BF16, 100, 90, 80);
        mpt_kernels_limits_t limits = limits_for(p.compute, p.rows, p.in, p.out);
        float *once = allocate(90 * 80 * 4), *twice = allocate(90 * 80 * 4);
        memset(once, 0, 90 * 80 * 4);
        memset(twice, 0, 90 * 80 * 4);
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, &limits);
        assert_int_equal(call(&rig.k, &p, NULL, once, NULL), MPT_OK);
        assert_int_equal(call(&rig.k, &p, NULL, twice, NULL), MPT_OK);
        assert_int_equal(call(&rig.k, &p, NULL, twice, NULL), MPT_OK);
        rig_close(&rig);
        for (int i = 0; i < 90 * 80; i++)
            assert_true(twice[i] == 2 * once[i]);
        free(once);
        free(twice);
        free_problem(&p);
    }
}

/* ---- TF32 --------------------------------------------------------------------------------------------- */

/* One product of one number with one: what the operand became. Below 2^-126 tiles see zero. */
static void tf32_operands_are_rounded_to_nearest_even(void **state)
{
    static const float values[] = {
        1.0f, -1.0f, 0x1.002p0f, 0x1.006p0f, 0x1.001p0f, 0x1.003p0f, -0x1.0020002p0f, 0x1.ffep5f,
        0x1.fffp5f, 0x1.ffcp127f, 0x1.ff8p127f, 0x1.fep127f, -0x1.ffcp127f, 0x1.fffffep127f,
        0x1.23456p-100f, 3.14159265f, 0.0f, INFINITY, -INFINITY, NAN};
    enum { COUNT = sizeof values / sizeof *values };
    (void)state;
    float x[COUNT], one = 1, y[COUNT];
    memcpy(x, values, sizeof x);
    mpt_kernels_limits_t limits = limits_for(MPT_TF32, COUNT, 1, 1);
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, &limits);
        mpt_linear_forward_t f = {.compute = MPT_TF32, .rows = COUNT, .in = 1, .out = 1, .x = x,
                                  .w = &one, .y = y, .y_dtype = MPT_F32};
        assert_int_equal(mpt_linear_forward(&rig.k, &f, NULL), MPT_OK);
        rig_close(&rig);
        for (int i = 0; i < COUNT; i++) {
            float want = mpt_round_tf32(values[i]);
            assert_true(isfinite(want) ? y[i] == want : !isfinite(y[i]));
        }
    }
    assert_true(mpt_round_tf32(0x1.001p0f) == 1.0f && mpt_round_tf32(0x1.003p0f) == 0x1.004p0f);
    assert_true(mpt_round_tf32(0x1.002p0f) == 1.0f && mpt_round_tf32(0x1.006p0f) == 0x1.008p0f);
}

/* Terms below 2^-126 count as zero where tiles multiply, and leave their neighbours in the contraction alone. */
static void tf32_numbers_near_the_smallest_stay_small_in_every_product(void **state)
{
    static const float tiny[] = {0x1p-149f, 0x1p-136f, 0x1p-135f, 0x1.8p-135f, -0x1p-134f, 0x1.004p-126f, 0x1.01cp-125f, 0x1.554p-124f};
    enum { K = sizeof tiny / sizeof *tiny };
    (void)state;
    for (int product = 0; product < PRODUCTS; product++) {
        problem_t p = make_problem((product_t)product, MPT_TF32, product == BACKWARD_WEIGHT ? K : 1,
                                   product == FORWARD ? K : 1, product == BACKWARD_INPUT ? K : 1);
        for (int side = 0; side < 2; side++)
            for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
                for (int k = 0; k < K; k++) {
                    ((float *)p.a)[a_index(&p, 0, k)] = side ? 1 : tiny[k];
                    ((float *)p.b)[b_index(&p, 0, k)] = side ? tiny[k] : 1;
                }
                float *got = run(&p, (mpt_isa_t)isa, 1, NULL);
                if (!(fabsf(*got) <= 0x1p-122f))
                    fail_msg("product %d, side %d at %s: %g", product, side, mpt_isa_name((mpt_isa_t)isa), (double)*got);
                free(got);
            }
        free(p.a);
        free(p.b);
    }
}

/* Bias, GELU and its slope around a TF32 product are what they are around the FP32 product of the rounded operands. */
enum { FUSED_ROWS = 45, FUSED_IN = 75, FUSED_OUT = 70 };

typedef struct fused {
    float x[FUSED_ROWS * FUSED_IN], w[FUSED_OUT * FUSED_IN], bias[FUSED_OUT], dy[FUSED_ROWS * FUSED_OUT];
    float slope_at[FUSED_ROWS * FUSED_IN];
    float pre[FUSED_ROWS * FUSED_OUT], y[FUSED_ROWS * FUSED_OUT], dx[FUSED_ROWS * FUSED_IN];
} fused_t;

static void fill(float *array, int64_t count, uint32_t seed, int rounded)
{
    for (int64_t i = 0; i < count; i++) {
        const float value = (float)(next_random(&seed) * 0x1p-23 - 1);
        array[i] = rounded ? mpt_round_tf32(value) : value;
    }
}

static void run_fused(fused_t *f, mpt_dtype_t compute, mpt_isa_t isa)
{
    mpt_kernels_limits_t limits = limits_for(compute, FUSED_ROWS, FUSED_IN, FUSED_OUT);
    rig_t rig;
    fill(f->x, FUSED_ROWS * FUSED_IN, 1, compute == MPT_F32);
    fill(f->w, FUSED_OUT * FUSED_IN, 2, compute == MPT_F32);
    fill(f->dy, FUSED_ROWS * FUSED_OUT, 3, compute == MPT_F32);
    fill(f->bias, FUSED_OUT, 4, 0);
    fill(f->slope_at, FUSED_ROWS * FUSED_IN, 5, 0);
    rig_open(&rig, isa, 2, &limits);
    mpt_linear_forward_t forward = {.compute = compute, .rows = FUSED_ROWS, .in = FUSED_IN, .out = FUSED_OUT,
                                    .x = f->x, .w = f->w, .bias = f->bias, .pre = f->pre, .y = f->y,
                                    .y_dtype = MPT_F32};
    mpt_linear_backward_input_t backward = {.compute = compute, .rows = FUSED_ROWS, .in = FUSED_IN, .out = FUSED_OUT,
                                            .dy = f->dy, .w = f->w, .pre = f->slope_at, .dx = f->dx};
    assert_int_equal(mpt_linear_forward(&rig.k, &forward, NULL), MPT_OK);
    assert_int_equal(mpt_linear_backward_input(&rig.k, &backward, NULL), MPT_OK);
    rig_close(&rig);
}

static void expect_near(const float *got, const float *want, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        assert_true(fabsf(got[i] - want[i]) <= 0x1p-18f * FUSED_IN);
}

static void tf32_products_are_finished_as_fp32_ones(void **state)
{
    (void)state;
    fused_t *fp32 = allocate(sizeof *fp32), *tf32 = allocate(sizeof *tf32);
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        run_fused(fp32, MPT_F32, (mpt_isa_t)isa);
        run_fused(tf32, MPT_TF32, (mpt_isa_t)isa);
        expect_near(tf32->pre, fp32->pre, FUSED_ROWS * FUSED_OUT);
        expect_near(tf32->y, fp32->y, FUSED_ROWS * FUSED_OUT);
        expect_near(tf32->dx, fp32->dx, FUSED_ROWS * FUSED_IN);
    }
    free(fp32);
    free(tf32);
}

/* ---- GELU ------------------------------------------------------------------------------------------ */

static double gelu(double p)
{
    return 0.5 * p * (1 + tanh(0.79788456080286535588 * (p + 0.044715 * p * p * p)));
}

static double gelu_slope(double p)
{
    double t = tanh(0.79788456080286535588 * (p + 0.044715 * p * p * p));
    return 0.5 * (1 + t) +
           0.5 * p * (1 - t * t) * 0.79788456080286535588 * (1 + 3 * 0.044715 * p * p);
}

#define POINTS 6000 /* steps of 1/250 from -12 to 12 */

static void gelu_is_accurate_over_its_whole_range(void **state)
{
    (void)state;
    mpt_kernels_limits_t limits = limits_for(MPT_F32, POINTS, 1, 1);
    float *x = allocate(POINTS * 4), *pre = allocate(POINTS * 4), *y = allocate(POINTS * 4),
          one = 1;
    for (int i = 0; i < POINTS; i++)
        x[i] = (float)(i - POINTS / 2) / 250;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, &limits);
        mpt_linear_forward_t f = {.compute = MPT_F32,
                                  .rows = POINTS,
                                  .in = 1,
                                  .out = 1,
                                  .x = x,
                                  .w = &one,
                                  .pre = pre,
                                  .y = y,
                                  .y_dtype = MPT_F32};
        mpt_linear_backward_input_t b = {.compute = MPT_F32,
                                         .rows = POINTS,
                                         .in = 1,
                                         .out = 1,
                                         .dy = x,
                                         .w = &one,
                                         .pre = pre,
                                         .dx = y};
        assert_int_equal(mpt_linear_forward(&rig.k, &f, NULL), MPT_OK);
        for (int i = 0; i < POINTS; i++) {
            assert_true(pre[i] == x[i]);
            assert_true(fabs(y[i] - gelu(x[i])) <= 2e-7 * fabs((double)x[i]));
            assert_true(fabs((double)x[i]) > 3 ||
                        fabs(y[i] - gelu(x[i])) <= 1e-6 * fabs(gelu(x[i])));
        }
        assert_int_equal(mpt_linear_backward_input(&rig.k, &b, NULL), MPT_OK);
        for (int i = 0; i < POINTS; i++)
            assert_true(fabs(y[i] - x[i] * gelu_slope(x[i])) <= 3e-6 * fabs((double)x[i]));
        rig_close(&rig);
    }
    free(x);
    free(pre);
    free(y);
}

static void gelu_of_huge_and_special_numbers_is_what_the_formula_says(void **state)
{
    (void)state;
    const float in[] = {3e38f, -3e38f, 1e20f, -1e20f, 40, -40, INFINITY, -INFINITY, NAN};
    enum { COUNT = sizeof in / sizeof in[0] };
    mpt_kernels_limits_t limits = limits_for(MPT_F32, COUNT, 1, 1);
    float *x = allocate(sizeof in), *y = allocate(sizeof in), *pre = allocate(sizeof in), one = 1;
    memcpy(x, in, sizeof in);
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, &limits);
        mpt_linear_forward_t f = {.compute = MPT_F32,
                                  .rows = COUNT,
                                  .in = 1,
                                  .out = 1,
                                  .x = x,
                                  .w = &one,
                                  .pre = pre,
                                  .y = y,
                                  .y_dtype = MPT_F32};
        assert_int_equal(mpt_linear_forward(&rig.k, &f, NULL), MPT_OK);
        for (int i = 0; i < 6; i++)
            assert_true(y[i] == (x[i] > 0 ? x[i] : 0));
        assert_true(y[6] == INFINITY);
        assert_true(isnan(y[7]) && isnan(y[8]));
        rig_close(&rig);
    }
    free(x);
    free(y);
    free(pre);
}

/* ---- FP16 ------------------------------------------------------------------------------------------ */

/* 1 + 2^-10 has eleven significant bits: BF16 alone would make it 1. */
static void fp16_products_keep_all_eleven_bits(void **state)
{
    (void)state;
    mpt_kernels_limits_t limits = limits_for(MPT_F16, 1, 64, 1);
    uint16_t *x = allocate(128), *w = allocate(128);
    for (int i = 0; i < 64; i++) {
        x[i] = mpt_f32_to_f16(i % 2 ? -1.0f : 1.0009765625f);
        w[i] = mpt_f32_to_f16(1.0009765625f);
    }
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        float y;
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, &limits);
        mpt_linear_forward_t f = {.compute = MPT_F16,
                                  .rows = 1,
                                  .in = 64,
                                  .out = 1,
                                  .x = x,
                                  .w = w,
                                  .y = &y,
                                  .y_dtype = MPT_F32};
        assert_int_equal(mpt_linear_forward(&rig.k, &f, NULL), MPT_OK);
        assert_true(fabs(y - 32 * 0x1p-10 * (1 + 0x1p-10)) <= 64 * 0x1p-18);
        rig_close(&rig);
    }
    free(x);
    free(w);
}

/* ---- scratch --------------------------------------------------------------------------------------- */

static void scratch_is_enough_for_every_shape_within_the_limits(void **state)
{
    (void)state;
    uint32_t random = 5;
    mpt_kernels_limits_t limits = {.compute = MPT_BF16,
                                   .batch = 1,
                                   .seq = 1,
                                   .heads = 1,
                                   .head_dim = 1,
                                   .rows = 600,
                                   .dim = 300,
                                   .hidden = 1200,
                                   .vocab_padded = 5000,
                                   .loss_rows = 70};
    rig_t rig;
    rig_open(&rig, mpt_isa_detect(), 3, &limits);
    void *a = random_array(MPT_BF16, 600 * 1200, 1), *b = random_array(MPT_BF16, 300 * 5000, 2);
    void *out = allocate(300 * 5000 * 4);
    for (int i = 0; i < 60; i++) {
        int head = i % 3 == 0;
        problem_t p = {.product = (product_t)(i % PRODUCTS), .compute = MPT_BF16, .a = a, .b = b};
        p.rows = 1 + next_random(&random) % (head ? 70 : 600);
        p.in = 1 + next_random(&random) % 300;
        p.out = 1 + next_random(&random) % (head ? 5000 : 1200);
        if (p.product == BACKWARD_WEIGHT)
            memset(out, 0, 300 * 5000 * 4);
        p.b = p.product == BACKWARD_WEIGHT ? a : b;
        assert_int_equal(call(&rig.k, &p, NULL, out, NULL), MPT_OK);
    }
    rig_close(&rig);
    free(a);
    free(b);
    free(out);
}

static void too_little_scratch_is_refused_before_anything_is_written(void **state)
{
    (void)state;
    problem_t p = make_problem(FORWARD, MPT_BF16, 64, 64, 64);
    mpt_kernels_limits_t limits = limits_for(MPT_BF16, 64, 64, 64);
    float *out = allocate(64 * 64 * 4);
    memset(out, 0xff, 64 * 64 * 4);
    rig_t rig;
    rig_open(&rig, mpt_isa_detect(), 1, &limits);
    size_t bytes = rig.k.scratch_bytes;
    rig.k.scratch_bytes = 64;
    assert_int_equal(call(&rig.k, &p, NULL, out, NULL), MPT_ERR_INVALID_ARG);
    for (int i = 0; i < 64 * 64; i++)
        assert_true(isnan(out[i]));
    rig.k.scratch_bytes = bytes;
    rig_close(&rig);
    free(out);
    free_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contractions_of_several_slices_are_summed_whole),
        cmocka_unit_test(contractions_of_several_rounds_are_carried_on),
        cmocka_unit_test(packed_columns_of_several_rounds_are_all_written),
        cmocka_unit_test(blocks_of_several_tasks_cover_the_output),
        cmocka_unit_test(short_contractions_of_two_slices_are_summed_whole),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(bias_gradients_are_the_sums_over_all_rows),
        cmocka_unit_test(weight_gradients_add_to_what_is_there),
        cmocka_unit_test(tf32_operands_are_rounded_to_nearest_even),
        cmocka_unit_test(tf32_numbers_near_the_smallest_stay_small_in_every_product),
        cmocka_unit_test(tf32_products_are_finished_as_fp32_ones),
        cmocka_unit_test(gelu_is_accurate_over_its_whole_range),
        cmocka_unit_test(gelu_of_huge_and_special_numbers_is_what_the_formula_says),
        cmocka_unit_test(fp16_products_keep_all_eleven_bits),
        cmocka_unit_test(scratch_is_enough_for_every_shape_within_the_limits),
        cmocka_unit_test(too_little_scratch_is_refused_before_anything_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
