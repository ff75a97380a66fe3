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
    assert_int_equal(mpt_kernels_init(&rig->k, cpu, rig->device, NULL, isa, rig->scratch, bytes, limits),
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
    return (mpt_kernels_limits_t){.compute = compute, .batch = 1, .seq = 1, .heads = 1, .head_dim = 1,
                                  .rows = rows, .dim = in < out ? in : out, .hidden = in < out ? out : in,
                                  .vocab_padded = 1, .loss_rows = 1};
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *random_array(mpt_dtype_t dtype, int64_t count, uint32_t seed)
{
    void *array = allocate((size_t)count * mpt_dtype_bytes(dtype));
    for (int64_t i = 0; i < count; i++)
        mpt_store(array, dtype, i, next_random(&seed) * 0x1p-23 - 1);
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

static problem_t make_problem(product_t product, mpt_dtype_t compute, int64_t rows, int64_t in, int64_t out)
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
    return p->product == BACKWARD_INPUT ? p->compute : MPT_F32;
}

/* Logits for forward, so that what is compared was not rounded to 16 bits. */
static mpt_status_t call(mpt_kernels_t *k, const problem_t *p, void *out, float *sums)
{
    mpt_linear_forward_t f = {.compute = p->compute, .rows = p->rows, .in = p->in, .out = p->out,
                              .x = p->a, .w = p->b, .y = out, .y_dtype = MPT_F32};
    mpt_linear_backward_input_t i = {.compute = p->compute, .rows = p->rows, .in = p->in, .out = p->out,
                                     .dy = p->a, .w = p->b, .dx = out};
    mpt_linear_backward_weight_t w = {.compute = p->compute, .rows = p->rows, .in = p->in, .out = p->out,
                                      .dy = p->a, .x = p->b, .dw = out, .dbias = sums};
    if (p->product == FORWARD)
        return mpt_linear_forward(k, &f, NULL);
    return p->product == BACKWARD_INPUT ? mpt_linear_backward_input(k, &i, NULL)
                                        : mpt_linear_backward_weight(k, &w, NULL);
}

static void check_element(const problem_t *p, const void *out, int64_t i, int64_t j)
{
    double want = 0, magnitude = 0;
    for (int64_t k = 0; k < p->k; k++) {
        double product = mpt_load(p->a, p->compute, a_index(p, i, k)) * mpt_load(p->b, p->compute, b_index(p, j, k));
        want += product;
        magnitude += fabs(product);
    }
    double got = mpt_load(out, out_dtype(p), i * p->n + j);
    double unit = out_dtype(p) == MPT_BF16 ? 0x1p-8 : out_dtype(p) == MPT_F16 ? 0x1p-11 : 0x1p-24;
    double slack = (p->compute == MPT_F16 ? 0x1p-18 : 0x1p-20) * magnitude + unit * fabs(want);
    if (!(fabs(got - want) <= slack))
        fail_msg("product %d in %s, %lld x %lld x %lld: element %lld,%lld is %.9g, not %.9g within %.3g",
                 (int)p->product, mpt_dtype_name(p->compute), (long long)p->m, (long long)p->n, (long long)p->k,
                 (long long)i, (long long)j, got, want, slack);
}

/* Corners, then anywhere. */
static void check_samples(const problem_t *p, const void *out)
{
    uint32_t state = 3;
    check_element(p, out, 0, 0);
    check_element(p, out, p->m - 1, 0);
    check_element(p, out, 0, p->n - 1);
    check_element(p, out, p->m - 1, p->n - 1);
    int64_t samples = gemm_samples(p->k);
    for (int64_t s = 0; s < samples; s++)
        check_element(p, out, next_random(&state) % p->m, next_random(&state) % p->n);
}
