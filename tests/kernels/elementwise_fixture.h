/*
 * What the tests of the elementwise operations share: a kernel table at one instruction level with
 * so many threads, and arrays between guards, poisoned with NaN bytes, so that an element left out
 * and a byte written outside both show. Array sizes are odd on purpose: guards follow the last
 * element directly.
 */
#ifndef TEST_ELEMENTWISE_FIXTURE_H
#define TEST_ELEMENTWISE_FIXTURE_H

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

#define GUARD 128
#define GUARD_BYTE 0xa5

static const mpt_dtype_t run_dtypes[] = {MPT_F32, MPT_BF16, MPT_F16};
#define RUN_DTYPES 3
static const int thread_counts[] = {1, 2, 3};
#define THREAD_COUNTS 3

typedef struct rig {
    mpt_pool_t *pool;
    mpt_device_t *device;
    void *scratch;
    mpt_kernels_t k;
} rig_t;

/* A table for calls of up to 4096 rows of `dim` and 64 rows of `vocab`. */
static inline void rig_open(rig_t *rig, mpt_isa_t isa, int threads, mpt_dtype_t compute,
                            int64_t dim, int64_t vocab)
{
    const mpt_kernels_limits_t limits = {.compute = compute,
                                         .batch = 1,
                                         .seq = 1,
                                         .heads = 1,
                                         .head_dim = 1,
                                         .rows = 4096,
                                         .dim = dim,
                                         .hidden = dim,
                                         .vocab_padded = vocab,
                                         .loss_rows = 64};
    const mpt_pool_params_t params = {.threads = threads, .yield = 1};
    const mpt_kernels_ops_t *ops = mpt_kernels_find("cpu");
    assert_int_equal(mpt_pool_create(&params, &rig->pool), MPT_OK);
    assert_int_equal(mpt_device_cpu_create(rig->pool, NULL, &rig->device), MPT_OK);
    const size_t bytes = (mpt_kernels_scratch_bytes(ops, isa, threads, &limits) + 63) / 64 * 64;
    rig->scratch = aligned_alloc(64, bytes);
    assert_non_null(rig->scratch);
    memset(rig->scratch, 0xff, bytes);
    assert_int_equal(
        mpt_kernels_init(&rig->k, ops, rig->device, NULL, isa, rig->scratch, bytes, &limits),
        MPT_OK);
}

static inline void rig_close(rig_t *rig)
{
    free(rig->scratch);
    mpt_device_destroy(rig->device);
    mpt_pool_destroy(rig->pool);
}

/* `count` elements between guards, all bytes 0xff: NaN in every type. */
static inline void *guarded(int64_t count, size_t element_bytes)
{
    const size_t bytes = (size_t)count * element_bytes;
    unsigned char *base = aligned_alloc(64, (GUARD + bytes + GUARD + 63) / 64 * 64);
    assert_non_null(base);
    memcpy(base, &bytes, sizeof bytes);
    memset(base + sizeof bytes, GUARD_BYTE, GUARD - sizeof bytes);
    memset(base + GUARD, 0xff, bytes);
    memset(base + GUARD + bytes, GUARD_BYTE, GUARD);
    return base + GUARD;
}

static inline void *guarded_of(int64_t count, mpt_dtype_t dtype)
{
    return guarded(count, mpt_dtype_bytes(dtype));
}

/* Check the guards and free. */
static inline void release(void *array)
{
    unsigned char *base = (unsigned char *)array - GUARD;
    size_t bytes;
    memcpy(&bytes, base, sizeof bytes);
    for (size_t i = sizeof bytes; i < GUARD; i++)
        assert_int_equal(base[i], GUARD_BYTE);
    for (size_t i = 0; i < GUARD; i++)
        assert_int_equal(base[GUARD + bytes + i], GUARD_BYTE);
    free(base);
}

/* A copy between guards of its own. */
static inline void *duplicate(const void *array)
{
    size_t bytes;
    memcpy(&bytes, (const unsigned char *)array - GUARD, sizeof bytes);
    void *copy = guarded((int64_t)bytes, 1);
    memcpy(copy, array, bytes);
    return copy;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t random_bits(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in (-1, 1). */
static inline double random_unit(uint64_t *state)
{
    return ((double)(random_bits(state) >> 11) + 0.5) * 0x1p-52 - 1.0;
}

/* Uniform values within `scale` of `centre`, between guards. */
static inline void *random_array(int64_t count, mpt_dtype_t dtype, double centre, double scale,
                                 uint64_t seed)
{
    void *array = guarded_of(count, dtype);
    for (int64_t i = 0; i < count; i++)
        mpt_store(array, dtype, i, centre + scale * random_unit(&seed));
    return array;
}

/* One rounding error of `dtype`, relative. */
static inline double unit_of(mpt_dtype_t dtype)
{
    return dtype == MPT_F32 ? 0x1p-24 : dtype == MPT_BF16 ? 0x1p-8 : 0x1p-11;
}

/* The smallest step that `dtype` has. */
static inline double step_of(mpt_dtype_t dtype)
{
    return dtype == MPT_F32 ? 0x1p-149 : dtype == MPT_BF16 ? 0x1p-133 : 0x1p-24;
}

/* |got - want| within one rounding to `dtype` and `slack`. */
static inline void assert_close(double got, double want, mpt_dtype_t dtype, double slack)
{
    if (!(fabs(got - want) <= unit_of(dtype) * fabs(want) + slack + step_of(dtype)))
        fail_msg("got %.9g, want %.9g in %s, slack %.3g", got, want, mpt_dtype_name(dtype), slack);
}

#endif
