/*
 * Conversions of single values, as branchless integer code that compilers turn into vector code for
 * any instruction set. Internal to numeric*.c, which alone include it. Needs round to nearest even
 * and no flushing of subnormals, as everything here does. Pure.
 */
#ifndef MPT_NUMERIC_SCALAR_H
#define MPT_NUMERIC_SCALAR_H

#include "numeric.h"

/* Inlined even into functions compiled for another instruction set, so that they vectorise there.
 */
#define MPT_INLINE static inline __attribute__((always_inline, unused))

#define F32_INF 0x7f800000u
#define F32_QUIET_NAN 0x7fc00000u
#define F16_INF 0x7c00u
#define F16_BIAS_SHIFT                                                                             \
    (112u << 23) /* the difference of the exponents' biases, 127 - 15, in FP32's place */

/*
 * FP32 to FP16, round to nearest even. Above 2^-14 the integer sum rounds the 13 bits that go, and
 * a carry moves into the exponent as it should. Below, adding 0.5 makes the FP32 adder round at
 * 2^-24, FP16's last place; the sum's low bits are then the subnormal.
 */
MPT_INLINE uint16_t f32_to_f16(float value)
{
    uint32_t bits = mpt_f32_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude - F16_BIAS_SHIFT + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t subnormal = mpt_f32_bits(mpt_f32_from_bits(magnitude) + 0.5f) - mpt_f32_bits(0.5f);
    uint32_t nan = F16_INF | 0x200u | ((magnitude >> 13) & 0x3ffu);
    uint32_t half = magnitude < (113u << 23) ? subnormal : normal;
    half = magnitude >= 0x477ff000u ? F16_INF : half; /* 65520 and more */
    half = magnitude > F32_INF ? nan : half;
    return (uint16_t)(sign | half);
}

/*
 * FP16 to FP32, exact; NaNs quiet. A subnormal is put behind the exponent of 2^-14, where its
 * fraction means the same plus 2^-14, which is then taken off.
 */
MPT_INLINE float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t normal = magnitude + F16_BIAS_SHIFT;
    uint32_t subnormal = mpt_f32_bits(mpt_f32_from_bits(magnitude + (113u << 23)) - 0x1p-14f);
    uint32_t special = magnitude | F32_INF | (magnitude > (F16_INF << 13) ? 0x400000u : 0u);
    uint32_t wide = magnitude < (1u << 23) ? subnormal : normal;
    wide = magnitude >= (F16_INF << 13) ? special : wide;
    return mpt_f32_from_bits(sign | wide);
}

/* mpt_f32_to_bf16 without its branch. */
MPT_INLINE uint16_t f32_to_bf16(float value)
{
    uint32_t bits = mpt_f32_bits(value);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)(((bits & 0x7fffffffu) > F32_INF ? bits | 0x400000u : rounded) >> 16);
}

/*
 * FP64 to FP32, round to odd: an inexact result gets an odd last bit. It then remembers on which
 * side of a 16-bit type's halfway points the double lies, so that rounding it once more is one
 * rounding in all (Boldo and Melquiond, "When double rounding is odd", 2005).
 */
MPT_INLINE float f64_to_f32_odd(double value)
{
    float nearest = (float)value;
    uint32_t bits = mpt_f32_bits(nearest);
    double error = (double)nearest - value;
    if (!(error > 0.0 || error < 0.0) || (bits & 1u)) /* exact, infinite, NaN; or odd already */
        return nearest;
    int away_from_zero = (error > 0.0) == (value > 0.0);
    return mpt_f32_from_bits(away_from_zero ? bits - 1u : bits + 1u);
}

/* Element `index` of an array of FP32, BF16 or FP16. */
MPT_INLINE float widen(const void *array, mpt_dtype_t dtype, int64_t index)
{
    if (dtype == MPT_BF16)
        return mpt_bf16_to_f32(((const uint16_t *)array)[index]);
    if (dtype == MPT_F16)
        return f16_to_f32(((const uint16_t *)array)[index]);
    return ((const float *)array)[index];
}

/* Round to FP32, BF16 or FP16 and store. */
MPT_INLINE void narrow(void *array, mpt_dtype_t dtype, int64_t index, float value)
{
    if (dtype == MPT_BF16)
        ((uint16_t *)array)[index] = f32_to_bf16(value);
    else if (dtype == MPT_F16)
        ((uint16_t *)array)[index] = f32_to_f16(value);
    else
        ((float *)array)[index] = value;
}

#endif
