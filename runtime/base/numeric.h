/*
 * Conversions between FP32 and the 16-bit types, and the one definition of the gradient sum. Kernels
 * and comm share these. Conversions round to nearest even, keep infinities, overflow to infinity
 * and make every NaN quiet (but BF16 to FP32 is a bare shift); FP16 subnormals are exact both ways.
 */
#ifndef MPT_NUMERIC_H
#define MPT_NUMERIC_H

#include <string.h>
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline uint32_t mpt_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float mpt_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/** FP32 to BF16, round to nearest even. */
static inline uint16_t mpt_f32_to_bf16(float value)
{
    uint32_t bits = mpt_f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x0040u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/** FP32 rounded to TF32, to nearest even: 8 exponent and 10 fraction bits. NaNs become quiet. */
static inline float mpt_round_tf32(float value)
{
    uint32_t bits = mpt_f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return mpt_f32_from_bits(bits | 0x00400000u);
    return mpt_f32_from_bits((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
}

static inline float mpt_bf16_to_f32(uint16_t bits)
{
    return mpt_f32_from_bits((uint32_t)bits << 16);
}

/** FP32 to FP16, round to nearest even; from 65520 on it is infinity. */
uint16_t mpt_f32_to_f16(float value);
float mpt_f16_to_f32(uint16_t bits);

/**
 * Round `value` to `dtype` (BF16, F16; the bits come back) by 16 random bits: the magnitude, cut to the type's
 * fraction, goes up by one unit in the last place where the bits cut off, together with the random ones at the same
 * weight, carry. Where fewer than 16 are cut off the upper random ones meet them; where more are (FP16's
 * subnormals), the upper 16 count and the rest is dropped. Exact values and infinities stay as they are, NaNs become
 * quiet; carries past the largest number, and numbers from the power of two above it on, give infinity.
 */
uint16_t mpt_round_stochastic(float value, mpt_dtype_t dtype, uint16_t random);
/** The 16 random bits of global element `element`: half element%8 (low half first) of Philox (seed,
 *  MPT_PURPOSE_ROUNDING, element/8, step). */
uint16_t mpt_rounding_bits(uint64_t seed, uint64_t element, uint64_t step);
/** One element's part of a replica hash: the finalizer of SplitMix64 (Steele, Lea and Flood 2014) over position, value and array. For
 *  fixed element and salt different bits give different values. */
static inline uint64_t mpt_hash_mix(uint64_t element, uint32_t bits, uint64_t salt)
{
    uint64_t z = (element + 1) * 0x9e3779b97f4a7c15u ^ salt * 0xd6e8feb86659fd93u;
    z += (uint64_t)bits * 0xc2b2ae3d27d4eb4fu;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/** Read element `index` of an array of `dtype` as a double (exact). */
double mpt_load(const void *array, mpt_dtype_t dtype, int64_t index);
/** Round `value` once to `dtype` and store it (double to 16 bits in one rounding, not through FP32). */
void mpt_store(void *array, mpt_dtype_t dtype, int64_t index, double value);

/** Convert arrays; `dst` and `src` may be equal only where the types have the same size. Vectorised. */
void mpt_convert(void *dst, mpt_dtype_t dst_dtype, const void *src, mpt_dtype_t src_dtype,
                 int64_t count);

#define MPT_SUM_MAX_RANKS 4096

/**
 * The gradient sum. sources: `ranks` arrays (1 to MPT_SUM_MAX_RANKS) of `count` elements of `wire` (F32, BF16,
 * F16), in rank order. Each element is widened to FP32 and summed in FP32 in a binary tree over
 * ranks that pairs neighbours, (0,1) (2,3) ..., an odd last one passing up unchanged, until one is
 * left; rounded once to `out_dtype` (`wire` or MPT_F32; any of the three where `wire` is F32) into `out`, which may be equal to one of
 * the sources if the types have the same size. A sum of two or more that is NaN is the quiet NaN
 * 0x7fc00000 (rounded), whatever NaNs went in. Vectorised; never allocates; the bits do not depend on
 * how a caller cuts `count`.
 */
void mpt_tree_sum(void *out, mpt_dtype_t out_dtype, const void *const *sources, int ranks,
                  mpt_dtype_t wire, int64_t count);

/**
 * As mpt_tree_sum, of elements [first, first + count), into that place of each of `outs`, past the caches (past_caches.h):
 * mpt_past_caches_end before anyone is told. An out may be equal to a source of the same type, or else lies apart from all.
 * Each source is read once.
 */
void mpt_tree_sum_past_caches(void *const *outs, int outs_count, mpt_dtype_t out_dtype, const void *const *sources,
                              int ranks, mpt_dtype_t wire, int64_t first, int64_t count);

/** The same tree over doubles in place of arrays: folds values[0 .. ranks), destroys them, returns the sum. */
double mpt_tree_sum_f64(double *values, int ranks);

#ifdef __cplusplus
}
#endif
#endif
