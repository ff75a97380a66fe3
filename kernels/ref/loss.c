#include <math.h>
#include "ref.h"

/* log of the sum of exp(logits[first .. first + vocab)), shifted by the largest so that nothing overflows. */
static double log_sum_exp(const void *logits, mpt_dtype_t dtype, int64_t first, int64_t vocab)
{
    double largest = mpt_load(logits, dtype, first), sum = 0;
    for (int64_t v = 1; v < vocab; v++) {
        double logit = mpt_load(logits, dtype, first + v);
        if (!(logit <= largest)) /* a NaN stays, and with it the row is NaN */
            largest = logit;
    }
    for (int64_t v = 0; v < vocab; v++)
        sum += exp(mpt_load(logits, dtype, first + v) - largest);
    return largest + log(sum);
}

static void row_gradient(const mpt_loss_t *a, mpt_op_precision_t p, int64_t row, double lse)
{
    int64_t first = row * a->vocab_padded;
    for (int64_t v = 0; v < a->vocab_padded; v++) {
        double gradient = 0;
        if (v < a->vocab)
            gradient = (exp(mpt_load(a->logits, p.input, first + v) - lse) -
                        (v == (int64_t)a->targets[row])) *
                       (double)a->seed;
        mpt_store(a->dlogits, p.output, first + v, gradient);
    }
}

mpt_status_t ref_loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_LOSS, a->compute);
    double sum = 0;
    for (int64_t row = 0; row < a->rows; row++) {
        int64_t first = row * a->vocab_padded;
        double lse = log_sum_exp(a->logits, p.input, first, a->vocab);
        mpt_store(a->losses, p.accumulate, row,
                  lse - mpt_load(a->logits, p.input, first + a->targets[row]));
        sum += mpt_load(a->losses, p.accumulate, row);
        if (a->dlogits)
            row_gradient(a, p, row, lse);
    }
    *a->loss_sum += sum;
    return MPT_OK;
}
