/*
 * GELU, tanh form, on vectors: 0.5 p (1 + tanh(u)) = p / (1 + e^(-2u)), u = sqrt(2/pi) (p + 0.044715 p^3), the
 * form on the right having no cancellation. Within a few units in the last place of FP32 where the
 * result is not denormal. NaN gives NaN; the slope at an infinity is NaN, as by the formula.
 */
#ifndef MPT_CPU_GELU_H
#define MPT_CPU_GELU_H

#include "vec.h"

#define GELU_2C 0x1.988454p+0f        /* 2 sqrt(2/pi) */
#define GELU_2CA 0x1.2444f2p-4f       /* and times 0.044715 */
#define GELU_6CA (3.0f * GELU_2CA)

/** e^(-2u). */
VEC_INLINE vec_t gelu_exp(vec_t p)
{
    const vec_t slope = vec_fma(p * p, vec_set(-GELU_2CA), vec_set(-GELU_2C));
    return vec_exp(slope * p);
}

VEC_INLINE vec_t gelu_value(vec_t p)
{
    return p / (gelu_exp(p) + 1.0f);
}

/** d gelu / dp = s + p s (1 - s) d(2u)/dp with s = 1 / (1 + e^(-2u)). Beyond 10 it is 1 or 0 in FP32; clamping p keeps inf * 0 away. */
VEC_INLINE vec_t gelu_slope(vec_t p)
{
    const vec_t q = vec_max(vec_set(-10.0f), vec_min(vec_set(10.0f), p));
    const vec_t e = gelu_exp(q);
    const vec_t s = 1.0f / (e + 1.0f);
    const vec_t inner = q * vec_fma(q * q, vec_set(GELU_6CA), vec_set(GELU_2C));
    const vec_t slope = vec_fma(s * (e * s), inner, s);
    return slope + (p - p);
}

#endif
