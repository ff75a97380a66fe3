/*
 * What the tests of numeric share: BF16 and FP16 in double, from the definition of the formats.
 */
#ifndef TEST_NUMERIC_ORACLE_H
#define TEST_NUMERIC_ORACLE_H

#include <math.h>
#include <stdint.h>
#include "numeric.h"

typedef struct format {
    mpt_dtype_t dtype;
    int fraction_bits, exponent_bits;
} format_t;

static const format_t bf16 = {MPT_BF16, 7, 8}, f16 = {MPT_F16, 10, 5};

static inline int bias(const format_t *f)
{
    return (1 << (f->exponent_bits - 1)) - 1;
}

static inline double decode(const format_t *f, uint16_t bits)
{
    int fraction = bits & ((1 << f->fraction_bits) - 1);
    int exponent = (bits >> f->fraction_bits) & ((1 << f->exponent_bits) - 1);
    double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == (1 << f->exponent_bits) - 1)
        return fraction ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp(fraction, 1 - bias(f) - f->fraction_bits);
    return sign * ldexp(fraction + (1 << f->fraction_bits), exponent - bias(f) - f->fraction_bits);
}

/* Rounds any double but NaN to the format: to a whole number of its last places, ties to even. */
static inline uint16_t encode(const format_t *f, double value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    uint16_t infinity = (uint16_t)(((1 << f->exponent_bits) - 1) << f->fraction_bits);
    double magnitude = fabs(value);
    if (isinf(magnitude))
        return sign | infinity;
    if (magnitude == 0.0)
        return sign;
    int exponent = ilogb(magnitude);
    if (exponent < 1 - bias(f))
        exponent = 1 - bias(f);
    double places = nearbyint(ldexp(magnitude, f->fraction_bits - exponent));
    /* With the hidden bit left in, a fraction that rounded up to the next power of two carries by
     * itself. */
    double bits = ldexp(exponent + bias(f) - 1, f->fraction_bits) + places;
    return sign | (bits >= infinity ? infinity : (uint16_t)bits);
}

static inline uint16_t narrow_scalar(const format_t *f, float value)
{
    return f->dtype == MPT_F16 ? mpt_f32_to_f16(value) : mpt_f32_to_bf16(value);
}

static inline float widen_scalar(const format_t *f, uint16_t bits)
{
    return f->dtype == MPT_F16 ? mpt_f16_to_f32(bits) : mpt_bf16_to_f32(bits);
}

static inline uint32_t xorshift(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (uint32_t)(*seed >> 32);
}

static const format_t *const formats[] = {&bf16, &f16};

#endif
