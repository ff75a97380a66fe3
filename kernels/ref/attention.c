#include <math.h>
#include "ref.h"

#define BLOCK 128 /* elements of a head accumulated at a time, so that no shape needs memory */

/* One head of one sequence: what forward and backward both read. */
typedef struct head {
    mpt_op_precision_t p;
    const void *qkv;
    int64_t seq, heads, head_dim;
    int64_t batch_index, head_index;
    double scale;
} head_t;

enum { Q = 0, K = 1, V = 2 };

/* First element of this head's row `t` in [batch,seq,heads,head_dim]. */
static int64_t row_of(const head_t *h, int64_t t)
{
    return ((h->batch_index * h->seq + t) * h->heads + h->head_index) * h->head_dim;
}

/* First element of this head's row `t` of Q, K or V in [batch,seq,3,heads,head_dim]. */
static int64_t qkv_row(const head_t *h, int64_t t, int part)
{
    return (((h->batch_index * h->seq + t) * 3 + part) * h->heads + h->head_index) * h->head_dim;
}

/* Index of this head's row `t` in [batch,heads,seq]. */
static int64_t lse_row(const head_t *h, int64_t t)
{
    return (h->batch_index * h->heads + h->head_index) * h->seq + t;
}

static double score(const head_t *h, int64_t i, int64_t j)
{
    return h->scale * ref_dot(h->qkv, qkv_row(h, i, Q), 1, h->qkv, qkv_row(h, j, K), 1, h->p.input,
                              h->head_dim);
}

/* log of the sum over j <= i of exp(score(i,j)). */
static double row_lse(const head_t *h, int64_t i)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j <= i; j++) {
        double value = score(h, i, j);
        if (!(value <= largest)) /* a NaN stays, and with it the row is NaN */
            largest = value;
    }
    for (int64_t j = 0; j <= i; j++)
        sum += exp(score(h, i, j) - largest);
    return largest + log(sum);
}

static int64_t block_size(const head_t *h, int64_t first)
{
    return h->head_dim - first < BLOCK ? h->head_dim - first : BLOCK;
}

/* acc[0 .. n) += factor * row[first .. first + n) of `array`. */
static void accumulate(double *acc, double factor, const void *array, mpt_dtype_t dtype,
                       int64_t first, int64_t n)
{
    for (int64_t d = 0; d < n; d++)
        acc[d] += factor * ref_load(array, dtype, first + d);
}

static void store_block(void *array, mpt_dtype_t dtype, int64_t first, const double *acc, int64_t n)
{
    for (int64_t d = 0; d < n; d++)
        mpt_store(array, dtype, first + d, acc[d]);
}

static void forward_row(const mpt_attention_forward_t *a, const head_t *h, int64_t i)
{
    double lse = row_lse(h, i);
    mpt_store(a->lse, h->p.accumulate, lse_row(h, i), lse);
    for (int64_t first = 0; first < h->head_dim; first += BLOCK) {
        double acc[BLOCK] = {0};
        int64_t n = block_size(h, first);
        for (int64_t j = 0; j <= i; j++)
            accumulate(acc, ref_round(exp(score(h, i, j) - lse), h->p.math), h->qkv, h->p.input,
                       qkv_row(h, j, V) + first, n);
        store_block(a->out, h->p.output, row_of(h, i) + first, acc, n);
    }
}

mpt_status_t ref_attention_forward(mpt_kernels_t *k, const mpt_attention_forward_t *a,
                                   mpt_stream_t *s)
{
    (void)k;
    (void)s;
    head_t h = {.p = mpt_op_precision(MPT_OP_ATTENTION, a->compute),
                .qkv = a->qkv,
                .seq = a->seq,
                .heads = a->heads,
                .head_dim = a->head_dim,
                .scale = 1 / sqrt((double)a->head_dim)};
    for (h.batch_index = 0; h.batch_index < a->batch; h.batch_index++)
        for (h.head_index = 0; h.head_index < a->heads; h.head_index++)
            for (int64_t i = 0; i < a->seq; i++)
                forward_row(a, &h, i);
    return MPT_OK;
}

/*
 * What queries i and keys j owe each other: P, and the gradient of the unscaled score q_i . k_j,
 * dS = P (dP - D) scale, where dP = dout_i . v_j and D = dout_i . out_i. Neither is rounded here: a
 * backend that rounds them to feed 16-bit products stays within the tolerance of that rounding.
 */
static void pair_gradient(const mpt_attention_backward_t *a, const head_t *h, int64_t i, int64_t j,
                          double *p_p, double *ds_p)
{
    int64_t row = row_of(h, i);
    double p = exp(score(h, i, j) - mpt_load(a->lse, h->p.accumulate, lse_row(h, i)));
    double dp = ref_dot(a->dout, row, 1, h->qkv, qkv_row(h, j, V), 1, h->p.input, h->head_dim);
    double average = ref_dot(a->dout, row, 1, a->out, row, 1, h->p.input, h->head_dim);
    *p_p = p;
    *ds_p = p * (dp - average) * h->scale;
}

/* Row `t` of dQ, dK and dV: queries look back, keys and values are looked at from ahead. */
static void backward_row(const mpt_attention_backward_t *a, const head_t *h, int64_t t)
{
    for (int64_t first = 0; first < h->head_dim; first += BLOCK) {
        double dq[BLOCK] = {0}, dk[BLOCK] = {0}, dv[BLOCK] = {0}, p, ds;
        int64_t n = block_size(h, first);
        for (int64_t j = 0; j <= t; j++) {
            pair_gradient(a, h, t, j, &p, &ds);
            accumulate(dq, ds, h->qkv, h->p.input, qkv_row(h, j, K) + first, n);
        }
        for (int64_t i = t; i < h->seq; i++) {
            pair_gradient(a, h, i, t, &p, &ds);
            accumulate(dk, ds, h->qkv, h->p.input, qkv_row(h, i, Q) + first, n);
            accumulate(dv, p, a->dout, h->p.input, row_of(h, i) + first, n);
        }
        store_block(a->dqkv, h->p.output, qkv_row(h, t, Q) + first, dq, n);
        store_block(a->dqkv, h->p.output, qkv_row(h, t, K) + first, dk, n);
        store_block(a->dqkv, h->p.output, qkv_row(h, t, V) + first, dv, n);
    }
}

mpt_status_t ref_attention_backward(mpt_kernels_t *k, const mpt_attention_backward_t *a,
                                    mpt_stream_t *s)
{
    (void)k;
    (void)s;
    head_t h = {.p = mpt_op_precision(MPT_OP_ATTENTION, a->compute),
                .qkv = a->qkv,
                .seq = a->seq,
                .heads = a->heads,
                .head_dim = a->head_dim,
                .scale = 1 / sqrt((double)a->head_dim)};
    for (h.batch_index = 0; h.batch_index < a->batch; h.batch_index++)
        for (h.head_index = 0; h.head_index < a->heads; h.head_index++)
            for (int64_t t = 0; t < a->seq; t++)
                backward_row(a, &h, t);
    return MPT_OK;
}
