#include "numeric.h"

#include <assert.h>
#include "numeric_level.h"
#include "numeric_scalar.h"
#include "past_caches.h"
#include "philox.h"

#define PAST_CACHES_BLOCK_BYTES ((size_t)1 << 10)

uint16_t mpt_f32_to_f16(float value)
{
    return f32_to_f16(value);
}

float mpt_f16_to_f32(uint16_t bits)
{
    return f16_to_f32(bits);
}

/* The random bits and those that go are added up; what carries stays. */
static uint32_t round_bf16(uint32_t magnitude, uint16_t random)
{
    return (magnitude + random) >> 16;
}

/*
 * Of 16 random bits the upper 13 meet the 13 that go. Below 2^-14 the magnitude is counted in units
 * of 2^-40, 16 places below FP16's last, exactly but for what lies lower still.
 */
static uint32_t round_f16(uint32_t magnitude, uint16_t random)
{
    if (magnitude >= 143u << 23) /* 65536: too large without a carry */
        return F16_INF;
    if (magnitude < 113u << 23)
        return ((uint32_t)(mpt_f32_from_bits(magnitude) * 0x1p40f) + random) >> 16;
    return (magnitude - F16_BIAS_SHIFT + (random >> 3)) >> 13;
}

uint16_t mpt_round_stochastic(float value, mpt_dtype_t dtype, uint16_t random)
{
    assert(dtype == MPT_BF16 || dtype == MPT_F16);
    uint32_t bits = mpt_f32_bits(value);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > F32_INF)
        return dtype == MPT_BF16 ? f32_to_bf16(value) : f32_to_f16(value);
    uint32_t half =
        dtype == MPT_BF16 ? round_bf16(magnitude, random) : round_f16(magnitude, random);
    return (uint16_t)((bits >> 16 & 0x8000u) | half);
}

uint16_t mpt_rounding_bits(uint64_t seed, uint64_t element, uint64_t step)
{
    mpt_philox_t bits = mpt_philox(seed, MPT_PURPOSE_ROUNDING, element / 8, step);
    return (uint16_t)(bits.word[element % 8 / 2] >> 16 * (element % 2));
}

double mpt_load(const void *array, mpt_dtype_t dtype, int64_t index)
{
    if (dtype == MPT_F64)
        return ((const double *)array)[index];
    return (double)widen(array, dtype, index);
}

void mpt_store(void *array, mpt_dtype_t dtype, int64_t index, double value)
{
    if (dtype == MPT_F64)
        ((double *)array)[index] = value;
    else if (dtype == MPT_F32)
        ((float *)array)[index] = (float)value;
    else
        narrow(array, dtype, index, f64_to_f32_odd(value));
}

void mpt_convert(void *dst, mpt_dtype_t dst_dtype, const void *src, mpt_dtype_t src_dtype,
                 int64_t count)
{
    mpt_numeric_level(0)->convert(dst, dst_dtype, src, src_dtype, count);
}

void mpt_tree_sum(void *out, mpt_dtype_t out_dtype, const void *const *sources, int ranks,
                  mpt_dtype_t wire, int64_t count)
{
    mpt_numeric_level(0)->tree_sum(out, out_dtype, sources, ranks, wire, count);
}

/* Elements until all outs have a line at once: fewer than a line holds, or -1 where they never do. */
static int64_t elements_to_line(void *const *outs, int outs_count, size_t element, int64_t first)
{
    size_t head = -((uintptr_t)outs[0] + (size_t)first * element) & (MPT_LINE_BYTES - 1);
    for (int o = 1; o < outs_count; o++)
        if (((uintptr_t)outs[o] ^ (uintptr_t)outs[0]) & (MPT_LINE_BYTES - 1))
            return -1;
    return head % element ? -1 : (int64_t)(head / element);
}

/* By a block at a time, from which it is copied. */
static void sum_blocks(void *const *outs, int outs_count, mpt_dtype_t out_dtype, const void *const *sources, int ranks,
                       mpt_dtype_t wire, int64_t first, int64_t count)
{
    _Alignas(64) char block[PAST_CACHES_BLOCK_BYTES];
    const void *from[MPT_SUM_MAX_RANKS];
    size_t element = mpt_dtype_bytes(out_dtype);
    int64_t end = first + count, most = (int64_t)(sizeof block / element), here;
    for (int64_t i = first; i < end; i += here) {
        here = end - i < most ? end - i : most;
        for (int r = 0; r < ranks; r++)
            from[r] = (const char *)sources[r] + (size_t)i * mpt_dtype_bytes(wire);
        mpt_tree_sum(block, out_dtype, from, ranks, wire, here);
        for (int o = 0; o < outs_count; o++)
            mpt_copy_past_caches((char *)outs[o] + (size_t)i * element, block, (size_t)here * element);
    }
}

void mpt_tree_sum_past_caches(void *const *outs, int outs_count, mpt_dtype_t out_dtype, const void *const *sources,
                              int ranks, mpt_dtype_t wire, int64_t first, int64_t count)
{
    assert(mpt_sum_is_defined(ranks, wire, out_dtype));
    int64_t head = elements_to_line(outs, outs_count, mpt_dtype_bytes(out_dtype), first), done = 0;
    if (head >= 0 && head < count) {
        sum_blocks(outs, outs_count, out_dtype, sources, ranks, wire, first, head);
        done = head + mpt_numeric_level(0)->sum_lines(outs, outs_count, out_dtype, sources, ranks, wire, first + head,
                                                      count - head);
    }
    sum_blocks(outs, outs_count, out_dtype, sources, ranks, wire, first + done, count - done);
}

double mpt_tree_sum_f64(double *values, int ranks)
{
    assert(ranks >= 1);
    for (int left = ranks; left > 1; left = (left + 1) / 2) {
        for (int pair = 0; pair < left / 2; pair++)
            values[pair] = values[2 * pair] + values[2 * pair + 1];
        if (left % 2)
            values[left / 2] = values[left - 1];
    }
    return values[0];
}
