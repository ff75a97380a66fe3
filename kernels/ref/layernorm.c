#include <math.h>
#include "ref.h"

static const double layernorm_eps = 1e-5;

/* Mean and 1/sqrt(biased variance + eps) of `dim` elements from `first` on. */
static void row_statistics(const void *x, mpt_dtype_t dtype, int64_t first, int64_t dim,
                           double *mean_p, double *rstd_p)
{
    double sum = 0, squares = 0;
    for (int64_t d = 0; d < dim; d++)
        sum += mpt_load(x, dtype, first + d);
    double mean = sum / (double)dim;
    for (int64_t d = 0; d < dim; d++) {
        double centred = mpt_load(x, dtype, first + d) - mean;
        squares += centred * centred;
    }
    *mean_p = mean;
    *rstd_p = 1 / sqrt(squares / (double)dim + layernorm_eps);
}

mpt_status_t ref_layernorm_forward(mpt_kernels_t *k, const mpt_layernorm_forward_t *a,
                                   mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_LAYERNORM, a->compute);
    if (a->delta)
        for (int64_t i = 0; i < a->rows * a->dim; i++)
            mpt_store(a->sum, p.output, i,
                      mpt_load(a->x, p.input, i) + mpt_load(a->delta, p.input, i));
    const void *normalised = a->delta ? a->sum : a->x;
    for (int64_t row = 0; row < a->rows; row++) {
        double mean, rstd;
        row_statistics(normalised, p.input, row * a->dim, a->dim, &mean, &rstd);
        for (int64_t d = 0; d < a->dim; d++) {
            int64_t i = row * a->dim + d;
            double xhat = (mpt_load(normalised, p.input, i) - mean) * rstd;
            mpt_store(a->y, p.output, i,
                      mpt_load(a->gamma, p.input, d) * xhat + mpt_load(a->beta, p.input, d));
        }
        mpt_store(a->mean, p.accumulate, row, mean);
        mpt_store(a->rstd, p.accumulate, row, rstd);
    }
    return MPT_OK;
}

/*
 * With g = dy * gamma: dx = rstd * (g - average(g) - xhat * average(g * xhat)), averages over the row.
 */
static void row_backward(const mpt_layernorm_backward_t *a, mpt_op_precision_t p, int64_t row)
{
    double mean = mpt_load(a->mean, p.accumulate, row), rstd = mpt_load(a->rstd, p.accumulate, row);
    double sum_g = 0, sum_gx = 0;
    for (int64_t d = 0; d < a->dim; d++) {
        int64_t i = row * a->dim + d;
        double xhat = (mpt_load(a->x, p.input, i) - mean) * rstd;
        double g = mpt_load(a->dy, p.input, i) * mpt_load(a->gamma, p.input, d);
        sum_g += g;
        sum_gx += g * xhat;
    }
    for (int64_t d = 0; d < a->dim; d++) {
        int64_t i = row * a->dim + d;
        double xhat = (mpt_load(a->x, p.input, i) - mean) * rstd;
        double g = mpt_load(a->dy, p.input, i) * mpt_load(a->gamma, p.input, d);
        double past = a->dres ? mpt_load(a->dres, p.input, i) : 0;
        mpt_store(a->dx, p.output, i,
                  past + rstd * (g - sum_g / (double)a->dim - xhat * sum_gx / (double)a->dim));
    }
}

mpt_status_t ref_layernorm_backward(mpt_kernels_t *k, const mpt_layernorm_backward_t *a,
                                    mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_LAYERNORM, a->compute);
    /* Parameters first: dx may take the place of dy. */
    for (int64_t d = 0; d < a->dim; d++) {
        double dgamma = 0, dbeta = 0;
        for (int64_t row = 0; row < a->rows; row++) {
            double dy = mpt_load(a->dy, p.input, row * a->dim + d);
            double centred =
                mpt_load(a->x, p.input, row * a->dim + d) - mpt_load(a->mean, p.accumulate, row);
            dgamma += dy * centred * mpt_load(a->rstd, p.accumulate, row);
            dbeta += dy;
        }
        ref_accumulate(a->dgamma, p.gradient, d, dgamma);
        ref_accumulate(a->dbeta, p.gradient, d, dbeta);
    }
    for (int64_t row = 0; row < a->rows; row++)
        row_backward(a, p, row);
    return MPT_OK;
}
