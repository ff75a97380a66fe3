#include "ref.h"

/* y [rows,out] = x [rows,in] . w [out,in]^T. Operands of products in TF32 are FP32 in memory. */
mpt_status_t ref_linear_forward(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_LINEAR, a->compute);
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t o = 0; o < a->out; o++) {
            int64_t i = row * a->out + o;
            double z = ref_dot(a->x, row * a->in, 1, a->w, o * a->in, 1, p.math, a->in);
            if (a->bias)
                z += mpt_load(a->bias, p.input, o);
            if (a->pre) {
                mpt_store(a->pre, p.output, i, z);
                z = ref_gelu(mpt_load(a->pre, p.output, i));
            }
            mpt_store(a->y, a->y_dtype, i, z);
        }
    return MPT_OK;
}

/* dx [rows,in] = dy [rows,out] . w [out,in] */
mpt_status_t ref_linear_backward_input(mpt_kernels_t *k, const mpt_linear_backward_input_t *a,
                                       mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_LINEAR, a->compute);
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t n = 0; n < a->in; n++) {
            int64_t i = row * a->in + n;
            double dx = ref_dot(a->dy, row * a->out, 1, a->w, n, a->in, p.math, a->out);
            if (a->pre)
                dx *= ref_gelu_slope(mpt_load(a->pre, p.input, i));
            mpt_store(a->dx, p.output, i, dx);
        }
    return MPT_OK;
}

/* dw [out,in] += dy [rows,out]^T . x [rows,in] */
mpt_status_t ref_linear_backward_weight(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a,
                                        mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_LINEAR, a->compute);
    for (int64_t o = 0; o < a->out; o++) {
        for (int64_t n = 0; n < a->in; n++)
            ref_accumulate(a->dw, p.gradient, o * a->in + n,
                           ref_dot(a->dy, o, a->out, a->x, n, a->in, p.math, a->rows));
        if (!a->dbias)
            continue;
        double sum = 0;
        for (int64_t row = 0; row < a->rows; row++)
            sum += mpt_load(a->dy, p.input, row * a->out + o);
        ref_accumulate(a->dbias, p.gradient, o, sum);
    }
    return MPT_OK;
}
