/*
 * The oracle: every operation in plain C, one file each, written to be read. Elements are loaded
 * exactly, all arithmetic is in double, and a result is rounded once, to the type that the
 * precision table names, where kernels.h says that it is rounded and nowhere else. With compute type
 * F64 nothing is rounded at all: that is what the gradients are tested in. Runs in the calling thread,
 * needs no scratch, and takes any types and shapes that the checks in kernels.c let through.
 */
#ifndef MPT_REF_H
#define MPT_REF_H

#include "kernels.h"
#include "numeric.h"

/** `value` rounded to `dtype`, as a store and a load would. */
static inline double ref_round(double value, mpt_dtype_t dtype)
{
    double slot;
    mpt_store(&slot, dtype, 0, value);
    return mpt_load(&slot, dtype, 0);
}

/** array[index] += value, rounded once. */
static inline void ref_accumulate(void *array, mpt_dtype_t dtype, int64_t index, double value)
{
    mpt_store(array, dtype, index, mpt_load(array, dtype, index) + value);
}

/** The element that mpt_load gives, without a call for the types that need none: products do little else. TF32: of FP32
 *  in memory. */
static inline double ref_load(const void *array, mpt_dtype_t dtype, int64_t index)
{
    if (dtype == MPT_F64)
        return ((const double *)array)[index];
    if (dtype == MPT_F32)
        return (double)((const float *)array)[index];
    if (dtype == MPT_TF32)
        return (double)mpt_round_tf32(((const float *)array)[index]);
    return mpt_load(array, dtype, index);
}

/**
 * The sum over i < count of a[a_first + i * a_stride] * b[b_first + i * b_stride]: a row or a column of
 * a row-major matrix against another.
 */
static inline double ref_dot(const void *a, int64_t a_first, int64_t a_stride, const void *b,
                             int64_t b_first, int64_t b_stride, mpt_dtype_t dtype, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum +=
            ref_load(a, dtype, a_first + i * a_stride) * ref_load(b, dtype, b_first + i * b_stride);
    return sum;
}

/** Round `value` to `dtype` and store it as element `index`: as `how` says, or to nearest where it is NULL. */
void ref_store_rounded(void *array, mpt_dtype_t dtype, int64_t index, float value,
                       const mpt_stochastic_t *how);

/** gelu(p) in the tanh form, and its derivative. */
double ref_gelu(double p);
double ref_gelu_slope(double p);

mpt_status_t ref_embed_forward(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s);
mpt_status_t ref_embed_backward(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s);
mpt_status_t ref_layernorm_forward(mpt_kernels_t *k, const mpt_layernorm_forward_t *a,
                                   mpt_stream_t *s);
mpt_status_t ref_layernorm_backward(mpt_kernels_t *k, const mpt_layernorm_backward_t *a,
                                    mpt_stream_t *s);
mpt_status_t ref_linear_forward(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s);
mpt_status_t ref_linear_backward_input(mpt_kernels_t *k, const mpt_linear_backward_input_t *a,
                                       mpt_stream_t *s);
mpt_status_t ref_linear_backward_weight(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a,
                                        mpt_stream_t *s);
mpt_status_t ref_attention_forward(mpt_kernels_t *k, const mpt_attention_forward_t *a,
                                   mpt_stream_t *s);
mpt_status_t ref_attention_backward(mpt_kernels_t *k, const mpt_attention_backward_t *a,
                                    mpt_stream_t *s);
mpt_status_t ref_loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s);
mpt_status_t ref_to_wire(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s);
mpt_status_t ref_grad_scan(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s);
mpt_status_t ref_adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s);
mpt_status_t ref_cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s);
mpt_status_t ref_add(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s);
mpt_status_t ref_hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s);

#endif
