#include "numeric.h"

#include <assert.h>
#include "numeric_level.h"
#include "numeric_scalar.h"
#include "philox.h"

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
