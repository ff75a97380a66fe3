/*
 * GELU, tanh form, on vectors: 0.5 p (1 + tanh(u)) = p / (1 + e^(-2u)), u = sqrt(2/pi) (p + 0.044715 p^3); the
 * form on the right has no cancellation. Within 12 units in the last place of FP32 for |p| < 3, and within
 * 2e-7 |p| everywhere; the slope within 3e-6. Below p = -10 both are zero. As by the formula, NaN gives NaN, minus
 * infinity NaN, and so does the slope at either infinity.
 *
 * Micro-kernels store one tile while they multiply the next: what counts here is the number of
 * instructions, hence e^(-2u) as a power of two with log2(e) in the constants, and no division.
 */
#ifndef MPT_CPU_GELU_H
#define MPT_CPU_GELU_H

#include "vec.h"

#define GELU_A1 0x1.988454p+0f  /* d(2u)/dp = A1 + 3 A3 p^2: 2 sqrt(2/pi), */
#define GELU_3A3 0x1.b6676cp-3f /* and 0.044715 times three of that */
#define GELU_E1 -0x1.26aec2p+1f /* -2u log2(e) = p (E1 + E3 p^2) */
#define GELU_E3 -0x1.a5a7d0p-4f

#define GELU_MOST 125.0f /* the largest power of two in 1 + e^(-2u) */

/** 1 / d within 2 units in the last place for d in [1, 2^GELU_MOST); zero at 2^GELU_MOST, so that times infinity it is NaN. */
VEC_INLINE vec_t gelu_reciprocal(vec_t d)
{
#if defined(VEC_AVX512)
    const vec_t guess = (vec_t)_mm512_rcp14_ps((__m512)d);
    const vec_t r = vec_fma(guess, vec_fma(-d, guess, vec_set(1.0f)), guess);
#else
    const vec_t r = 1.0f / d;
#endif
    return r - vec_set(0x1p-125f);
}

/** 2^t for t in [-126, 126]: whole part in the exponent, the rest by a minimax polynomial (3e-9). */
VEC_INLINE vec_t gelu_power_of_two(vec_t t)
{
    const vec_t to_integer = vec_set(0x1.8p23f);
    const vec_t shifted = t + to_integer;
    const vec_t f = t - (shifted - to_integer);
    vec_t q = vec_set(0x1.470b4ap-13f);
    q = vec_fma(q, f, vec_set(0x1.5f7276p-10f));
    q = vec_fma(q, f, vec_set(0x1.3b270ep-7f));
    q = vec_fma(q, f, vec_set(0x1.c6ae72p-5f));
    q = vec_fma(q, f, vec_set(0x1.ebfbe2p-3f));
    q = vec_fma(q, f, vec_set(0x1.62e432p-1f));
    q = vec_fma(q, f, vec_set(1.0f));
    return (vec_t)((vec_u32_t)q + ((vec_u32_t)shifted << 23));
}

/** -2u log2(e) */
VEC_INLINE vec_t gelu_exponent(vec_t p)
{
    return p * vec_fma(p * p, vec_set(GELU_E3), vec_set(GELU_E1));
}

VEC_INLINE vec_t gelu_value(vec_t p)
{
    const vec_t t = vec_max(vec_set(-126.0f), vec_min(vec_set(GELU_MOST), gelu_exponent(p)));
    return p * gelu_reciprocal(gelu_power_of_two(t) + 1.0f);
}

/**
 * d gelu / dp = s + p s (1 - s) d(2u)/dp with s = 1 / (1 + e^(-2u)). Beyond 10 it is 1 or 0 in FP32; clamping
 * p there keeps infinity times zero away, and exponents above -126.
 */
VEC_INLINE vec_t gelu_slope(vec_t p)
{
    const vec_t q = vec_max(vec_set(-10.0f), vec_min(vec_set(10.0f), p));
    const vec_t power = gelu_power_of_two(vec_min(vec_set(GELU_MOST), gelu_exponent(q)));
    const vec_t s = gelu_reciprocal(power + 1.0f);
    const vec_t inner = q * vec_fma(q * q, vec_set(GELU_3A3), vec_set(GELU_A1));
    const vec_t rest = power * s; /* 1 - s */
    return vec_fma(s * rest, inner, s) + (p - p);
}

#endif
