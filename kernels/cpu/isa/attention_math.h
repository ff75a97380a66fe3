/*
 * The vector functions that attention needs beyond vec.h: 2^t and log2, and the transposition of a
 * square of vectors. Pure functions.
 */
#ifndef MPT_CPU_ATTENTION_MATH_H
#define MPT_CPU_ATTENTION_MATH_H

#include <math.h>
#include "vec.h"

#define ATTENTION_LOG2_E 0x1.715476p0f
#define ATTENTION_LN_2 0x1.62e430p-1f

/** `x` in all lanes, as a broadcast from memory where it can be: x - 0 is x for every x, so that
 *  the compiler drops it, which it may not with 0 + x. */
VEC_INLINE vec_t attention_splat(float x)
{
    return x - (vec_t){0};
}

/** 1 where any lane of a comparison's result is set. */
VEC_INLINE int attention_any(vec_i32_t mask)
{
#if VEC_LANES == 16
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif VEC_LANES == 8
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

/** The lanes' numbers: 0, 1, 2 ... */
VEC_INLINE vec_i32_t attention_lane_numbers(void)
{
    static const int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec_i32_t lanes;
    memcpy(&lanes, numbers, sizeof lanes);
    return lanes;
}

#define ATTENTION_EXP2_MAX 8

/**
 * t = 2^t, for t <= 128, of `count` vectors. Relative error below 2e-7; 0 below -126.5, where results
 * would be subnormal, which is slow; inf above 127.5; exactly 1 for 0; NaN for NaN. It is 2^n
 * times a minimax polynomial in t - n on [-1/2, 1/2]; n is read from the low bits of
 * t + 1.5 * 2^23 + 127, where it stands as a biased exponent. Each step is done for all vectors:
 * one vector after the other would fill the processor's scheduler with instructions that wait.
 */
VEC_INLINE void attention_exp2_of(vec_t *t, const int count)
{
    static const float coefficients[] = {0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f,
                                         0x1.62e42ap-1f, 1.0f};
    const vec_t magic = vec_set(0x1.8p23f + 127);
    vec_t shifted[ATTENTION_EXP2_MAX], p[ATTENTION_EXP2_MAX];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
        t[i] = vec_max(vec_set(-127.0f), t[i]);
        shifted[i] = t[i] + magic;
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        t[i] -= shifted[i] - magic;
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        p[i] = vec_fma(vec_set(0x1.5bba14p-10f), t[i], vec_set(coefficients[0]));
#pragma GCC unroll 4
    for (int k = 1; k < 5; k++)
#pragma GCC unroll 8
        for (int i = 0; i < count; i++)
            p[i] = vec_fma(p[i], t[i], vec_set(coefficients[k]));
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        t[i] = p[i] * (vec_t)((vec_u32_t)shifted[i] << 23);
}

/** The same of one vector. */
VEC_INLINE vec_t attention_exp2(vec_t t)
{
    attention_exp2_of(&t, 1);
    return t;
}

/**
 * log2(x) for normal x > 0, absolute error below 2e-7 plus half a unit in the last place; -inf for
 * 0, inf for inf, NaN for NaN. x = 2^e m with m in [1/sqrt(2), sqrt(2)), and
 * log m = 2 atanh((m - 1) / (m + 1)).
 */
VEC_INLINE vec_t attention_log2(vec_t x)
{
    const vec_i32_t e = ((vec_i32_t)x - 0x3f3504f3) >> 23;
    const vec_t m = (vec_t)((vec_u32_t)x - ((vec_u32_t)e << 23));
    const vec_t f = (m - 1.0f) / (m + 1.0f);
    const vec_t s = f * f;
    vec_t p = vec_fma(vec_set(1.0f / 9), s, vec_set(1.0f / 7));
    p = vec_fma(p, s, vec_set(1.0f / 5));
    p = vec_fma(p, s, vec_set(1.0f / 3));
    p = vec_fma(p, s, vec_set(1.0f));
    vec_t y = vec_fma(f * p, vec_set(2 * ATTENTION_LOG2_E), __builtin_convertvector(e, vec_t));
    y = vec_select((x > 0.0f) & (x < INFINITY), y, x);
    return vec_select(x == 0.0f, vec_set(-INFINITY), y);
}

#if VEC_LANES == 16
#define ATTENTION_ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ATTENTION_ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VEC_LANES == 8
#define ATTENTION_ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ATTENTION_ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define ATTENTION_ZIP_LOW 0, 4, 1, 5
#define ATTENTION_ZIP_HIGH 2, 6, 3, 7
#endif

/* Perfect shuffles of rows i and i + half; log2(VEC_LANES) such rounds transpose. */
VEC_INLINE void attention_zip(vec_t to[VEC_LANES], const vec_t from[VEC_LANES])
{
#pragma GCC unroll 8
    for (int i = 0; i < VEC_LANES / 2; i++) {
        const vec_t a = from[i], b = from[i + VEC_LANES / 2];
        to[2 * i] = __builtin_shufflevector(a, b, ATTENTION_ZIP_LOW);
        to[2 * i + 1] = __builtin_shufflevector(a, b, ATTENTION_ZIP_HIGH);
    }
}

/** Transpose a square: lane j of row i becomes lane i of row j. */
VEC_INLINE void attention_transpose(vec_t rows[VEC_LANES])
{
    vec_t other[VEC_LANES];
    attention_zip(other, rows);
    attention_zip(rows, other);
#if VEC_LANES == 8
    attention_zip(other, rows);
    memcpy(rows, other, sizeof other);
#elif VEC_LANES == 16
    attention_zip(other, rows);
    attention_zip(rows, other);
#endif
}

#endif
