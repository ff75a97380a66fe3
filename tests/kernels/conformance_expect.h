/*
 * What a conformance case expects: the oracle's results in FP64 or to the bit, and the units of tolerance.
 */
#ifndef TEST_CONFORMANCE_EXPECT_H
#define TEST_CONFORMANCE_EXPECT_H

#include "conformance.h"

/* ---- the oracle ----------------------------------------------------------------------------------- */

/* A table of the oracle in `compute` that takes any shape. */
static inline mpt_kernels_t conform_oracle(mpt_dtype_t compute)
{
    static const int64_t any = INT64_C(1) << 30;
    return (mpt_kernels_t){.ops = mpt_kernels_find("ref"),
                           .limits = {.compute = compute,
                                      .batch = any,
                                      .seq = any,
                                      .heads = any,
                                      .head_dim = any,
                                      .rows = any,
                                      .dim = any,
                                      .hidden = any,
                                      .vocab_padded = any,
                                      .loss_rows = any}};
}

static inline void conform_oracle_call(const conform_case_t *c, mpt_dtype_t compute,
                                       void *const *data)
{
    mpt_kernels_t k = conform_oracle(compute);
    if (c->call(&k, c, compute, data) != MPT_OK) {
        fprintf(stderr, "%s %s: the oracle refuses its own case\n", c->op, c->label);
        abort();
    }
}

/* What the exact run reads for element `i` of array `index`. TF32 is FP32 whose products round their factors first: by definition,
 * so that this rounding is no error. */
static inline double conform_exact_input(const conform_case_t *c, int index, int64_t i)
{
    double value = conform_input(c, index, i);
    return c->compute == MPT_TF32 && c->array[index].factor ? (double)mpt_round_tf32((float)value) : value;
}

/* The case's arrays in FP64, outputs zero: arguments for an exact run. Absolute values on request. */
static inline void conform_twin_begin(const conform_case_t *c, int absolute, void **data)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        const conform_array_t *a = &c->array[index];
        data[index] = NULL;
        if (a->count == 0 || (absolute && a->drop))
            continue;
        data[index] = conform_alloc((size_t)a->count *
                                    (a->kind == CONFORM_RAW ? a->element_bytes : sizeof(double)));
        if (a->kind == CONFORM_RAW)
            memcpy(data[index], a->initial, conform_bytes(c, index));
        else if (a->role != CONFORM_OUT)
            for (int64_t i = 0; i < a->count; i++) {
                double value = conform_exact_input(c, index, i);
                ((double *)data[index])[i] = absolute ? fabs(value) : value;
            }
    }
}

static inline void conform_twin_end(void **data)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++)
        free(data[index]);
}

/* Make room for want and slack (both zero) of each output. */
static inline void conform_expect_begin(conform_case_t *c)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        conform_array_t *a = &c->array[index];
        if (!conform_is_output(a) || a->want)
            continue;
        a->want = conform_alloc((size_t)a->count * sizeof(double));
        a->slack = conform_alloc((size_t)a->count * sizeof(double));
    }
}

/* Outputs of an exact run, or one of them (`only` >= 0), become what is wanted. */
static inline void conform_want(conform_case_t *c, void *const *data, int only)
{
    conform_expect_begin(c);
    for (int index = 0; index < CONFORM_ARRAYS; index++)
        if (conform_is_output(&c->array[index]) && c->array[index].kind != CONFORM_RAW &&
            data[index] && (only < 0 || index == only))
            memcpy(c->array[index].want, data[index],
                   (size_t)c->array[index].count * sizeof(double));
}

/* Run the oracle in FP64 and want what it gives, in all outputs or one (`only` >= 0). */
static inline void conform_want_twin(conform_case_t *c, int only)
{
    void *data[CONFORM_ARRAYS];
    conform_twin_begin(c, 0, data);
    conform_oracle_call(c, MPT_F64, data);
    conform_want(c, data, only);
    conform_twin_end(data);
}

/* Run the oracle in the case's own types and expect its bits, in all outputs or one (`only` >= 0). */
static inline void conform_want_bits(conform_case_t *c, int only)
{
    void *data[CONFORM_ARRAYS];
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        const conform_array_t *a = &c->array[index];
        data[index] = a->count > 0 || a->empty ? conform_alloc(conform_bytes(c, index)) : NULL;
        if (a->count > 0)
            memcpy(data[index], a->initial, conform_bytes(c, index));
    }
    conform_oracle_call(c, c->compute, data);
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        if (!conform_is_output(&c->array[index]) || (only >= 0 && index != only))
            continue;
        c->array[index].exact = data[index];
        data[index] = NULL;
    }
    conform_twin_end(data);
}

/* ---- tolerances ----------------------------------------------------------------------------------- */

/* Relative half unit in the last place: what one rounding to `dtype` costs a normal number. */
static inline double conform_unit(mpt_dtype_t dtype)
{
    static const double unit[MPT_DTYPE_COUNT] = {
        [MPT_F32] = 0x1p-24, [MPT_BF16] = 0x1p-8, [MPT_F16] = 0x1p-11, [MPT_F64] = 0x1p-53};
    return unit[dtype];
}

/* Smallest subnormal. */
static inline double conform_tiny(mpt_dtype_t dtype)
{
    static const double tiny[MPT_DTYPE_COUNT] = {
        [MPT_F32] = 0x1p-149, [MPT_BF16] = 0x1p-133, [MPT_F16] = 0x1p-24, [MPT_F64] = 0x1p-1074};
    return tiny[dtype];
}

/* From this value on, rounding to nearest gives infinity. */
static inline double conform_overflow(mpt_dtype_t dtype)
{
    static const double overflow[MPT_DTYPE_COUNT] = {[MPT_F32] = 0x1.ffffffp127,
                                                     [MPT_BF16] = 0x1.ffp127,
                                                     [MPT_F16] = 65520,
                                                     [MPT_F64] = INFINITY};
    return overflow[dtype];
}

static inline double conform_half_ulp(double value, mpt_dtype_t dtype)
{
    double magnitude = fabs(value);
    if (!(magnitude > 0))
        return conform_tiny(dtype) / 2;
    int exponent;
    frexp(magnitude, &exponent); /* magnitude in [2^(e-1), 2^e) */
    double half = ldexp(conform_unit(dtype), exponent - 1);
    return half > conform_tiny(dtype) / 2 ? half : conform_tiny(dtype) / 2;
}

/*
 * Error of one product of two compute numbers, relative: FP32's rounding is counted by the sum. BF16
 * products are exact in FP32, and those of TF32, of 11 bits each. FP16 and TF32 numbers split into two BF16 terms leave out at most the
 * product of the two low ones, each at most 2^-8 of its number; that has room for the additions of the other three.
 */
static inline double conform_product(mpt_dtype_t compute)
{
    return compute == MPT_F16 || compute == MPT_TF32 ? 0x1p-16 : 0;
}

/*
 * What flushing costs: 16-bit dot products of the hardware, TF32's terms among them, take BF16 subnormals, and sums below FP32's
 * smallest normal number, as zero. `n` terms whose factors are at most `largest`.
 */
static inline double conform_floor(mpt_dtype_t compute, int64_t n, double largest)
{
    return (double)n * (compute == MPT_F32 ? 0x1p-149 : 0x1p-126 * (1 + largest));
}

#endif
