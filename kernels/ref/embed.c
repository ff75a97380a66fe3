#include "ref.h"

mpt_status_t ref_embed_forward(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_EMBED, a->compute);
    for (int64_t row = 0; row < a->batch * a->seq; row++) {
        int64_t token = a->tokens[row], t = row % a->seq;
        for (int64_t d = 0; d < a->dim; d++)
            mpt_store(a->out, p.output, row * a->dim + d,
                      mpt_load(a->wte, p.input, token * a->dim + d) +
                          mpt_load(a->wpe, p.input, t * a->dim + d));
    }
    return MPT_OK;
}

mpt_status_t ref_embed_backward(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_EMBED, a->compute);
    for (int64_t row = 0; row < a->batch * a->seq; row++) {
        int64_t token = a->tokens[row], t = row % a->seq;
        for (int64_t d = 0; d < a->dim; d++) {
            double gradient = mpt_load(a->dout, p.input, row * a->dim + d);
            ref_accumulate(a->dwte, p.gradient, token * a->dim + d, gradient);
            ref_accumulate(a->dwpe, p.gradient, t * a->dim + d, gradient);
        }
    }
    return MPT_OK;
}
