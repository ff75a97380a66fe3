/*
 * Conformance cases of attention. Shape n: batch, seq, heads, head_dim.
 *
 * Bounds, with u = 2^-24, c the unit of the compute type, A the sum of the absolute terms of a dot product:
 *   score    s = scale q.k          off by ds = ((d + 4) u + product) A, at most D over a row
 *   lse                             D + (4 n + 16) u + 2 u (|lse| + max |s|)
 *   P        relative               E = 2 D + (4 n + 16) u + 4 u max |s|; then one rounding to compute, c
 *   out      sum of P V             (E + c + (n + 3) u + product) sum of P |V|
 *   dS       scale P (dP - D)       P scale ((E + c) |dP - D| + their own errors) + c |dS|
 *   dQ, dK, dV                      the sums of those errors times |K|, |Q|, |dout|, plus their own sums'
 * FP16 rounds P and dS to multiples of 2^-24: half of that more for each term.
 * Backward may round P and dS to compute, as it has to where they enter 16-bit products.
 */
#ifndef TEST_CONFORMANCE_ATTENTION_H
#define TEST_CONFORMANCE_ATTENTION_H

#include "conformance_run.h"

enum { ATTENTION_SPECIAL = 1, ATTENTION_PEAKED = 2, ATTENTION_TINY = 4 };
static const char *const attention_flags[] = {"special", "peaked", "tiny"};

static const int64_t attention_shapes[][4] = {
    {1, 1, 1, 1},   {2, 7, 3, 5},    {1, 7, 1, 1},    {1, 64, 2, 32},   {1, 65, 1, 64},
    {1, 33, 3, 64}, {2, 130, 2, 80}, {1, 200, 1, 16}, {1, 129, 1, 128}, {3, 17, 5, 24}};
#define ATTENTION_SHAPE_COUNT (sizeof attention_shapes / sizeof attention_shapes[0])

enum { ATTENTION_QKV, ATTENTION_OUT, ATTENTION_LSE, ATTENTION_DOUT, ATTENTION_DQKV };

/* One head, its arrays as doubles. */
typedef struct attention_head {
    const conform_case_t *c;
    const double *qkv, *out,
        *dout; /* FP64 copies of the whole arrays; out and dout NULL in forward */
    int64_t b, h, seq, heads, dim;
    double scale, product, unit, floor;
} attention_head_t;

static int64_t attention_row(const attention_head_t *a, int64_t t)
{
    return ((a->b * a->seq + t) * a->heads + a->h) * a->dim;
}

static int64_t attention_qkv_row(const attention_head_t *a, int64_t t, int part)
{
    return (((a->b * a->seq + t) * 3 + part) * a->heads + a->h) * a->dim;
}

static int64_t attention_lse_row(const attention_head_t *a, int64_t t)
{
    return (a->b * a->heads + a->h) * a->seq + t;
}

/* Dot product of two rows and the sum of its absolute terms. */
static double attention_dot(const double *x, const double *y, int64_t n, double *magnitude_p)
{
    double sum = 0, magnitude = 0;
    for (int64_t d = 0; d < n; d++) {
        sum += x[d] * y[d];
        magnitude += fabs(x[d] * y[d]);
    }
    *magnitude_p = magnitude;
    return sum;
}

static double attention_score(const attention_head_t *a, int64_t i, int64_t j, double *error_p)
{
    double magnitude,
        s = a->scale * attention_dot(a->qkv + attention_qkv_row(a, i, 0),
                                     a->qkv + attention_qkv_row(a, j, 1), a->dim, &magnitude);
    *error_p = ((double)(a->dim + 4) * CONFORM_U32 + a->product) * magnitude * a->scale;
    return s;
}

static attention_head_t attention_head(const conform_case_t *c, const double *qkv,
                                       const double *out, const double *dout, int64_t index)
{
    return (attention_head_t){.c = c,
                              .qkv = qkv,
                              .out = out,
                              .dout = dout,
                              .seq = c->n[1],
                              .heads = c->n[2],
                              .dim = c->n[3],
                              .b = index / c->n[2],
                              .h = index % c->n[2],
                              .scale = 1 / sqrt((double)c->n[3]),
                              .product = conform_product(c->compute),
                              .unit = conform_unit(c->compute),
                              .floor = conform_tiny(c->compute) / 2};
}

/* Any finite result will do where this head holds something non-finite: a tile's zero times Inf is NaN. */
static int attention_tainted(const attention_head_t *a)
{
    for (int64_t t = 0; t < a->seq; t++)
        for (int part = 0; part < 3; part++)
            for (int64_t d = 0; d < a->dim; d++)
                if (!isfinite(a->qkv[attention_qkv_row(a, t, part) + d]) ||
                    (a->dout && !isfinite(a->dout[attention_row(a, t) + d])))
                    return 1;
    return 0;
}

/* Largest score and largest error of a score in row i. */
static void attention_row_extremes(const attention_head_t *a, int64_t i, double *score_p,
                                   double *error_p)
{
    *score_p = *error_p = 0;
    for (int64_t j = 0; j <= i; j++) {
        double error, s = fabs(attention_score(a, i, j, &error));
        *score_p = s > *score_p ? s : *score_p;
        *error_p = error > *error_p ? error : *error_p;
    }
}

static mpt_kernels_limits_t attention_limits(mpt_dtype_t compute, const int64_t *n)
{
    return (mpt_kernels_limits_t){.compute = compute,
                                  .batch = n[0],
                                  .seq = n[1],
                                  .heads = n[2],
                                  .head_dim = n[3],
                                  .rows = 1,
                                  .dim = 1,
                                  .hidden = 1,
                                  .vocab_padded = 1,
                                  .loss_rows = 1};
}

static conform_case_t attention_case(const char *op, mpt_dtype_t compute, const int64_t *n,
                                     unsigned variant)
{
    conform_case_t c = {.op = op,
                        .compute = compute,
                        .variant = variant,
                        .n = {n[0], n[1], n[2], n[3]},
                        .seed = (uint64_t)(n[1] * 7919 + n[3] * 31 + n[0]) + variant,
                        .limits = attention_limits(compute, n)};
    conform_label(&c, 4, attention_flags, 3);
    return c;
}

/* Peaked: scores of tens, so that most probabilities vanish. Tiny: values and gradients subnormal in FP16. */
static void attention_fill(conform_case_t *c)
{
    conform_fill(c, ATTENTION_QKV, 0, c->variant & ATTENTION_PEAKED ? 6 : 1.5);
    int64_t row = c->n[2] * c->n[3];
    if (c->variant & ATTENTION_TINY)
        for (int64_t t = 0; t < c->n[0] * c->n[1]; t++)
            for (int64_t d = 0; d < row; d++) {
                int64_t i = (t * 3 + 2) * row + d;
                conform_set(c, ATTENTION_QKV, i, conform_input(c, ATTENTION_QKV, i) * 0x1p-16);
            }
    if (c->variant & ATTENTION_SPECIAL) { /* a query of one head, a value of another */
        conform_set(c, ATTENTION_QKV, (c->n[1] / 2 * 3 + 0) * row, NAN);
        conform_set(c, ATTENTION_QKV, (c->n[1] / 3 * 3 + 2) * row + row - 1, INFINITY);
    }
}

/* ---- forward --------------------------------------------------------------------------------------- */

static mpt_status_t attention_forward_call(mpt_kernels_t *k, const conform_case_t *c,
                                           mpt_dtype_t compute, void *const *data)
{
    mpt_attention_forward_t a = {.compute = compute,
                                 .batch = c->n[0],
                                 .seq = c->n[1],
                                 .heads = c->n[2],
                                 .head_dim = c->n[3],
                                 .qkv = data[ATTENTION_QKV],
                                 .out = data[ATTENTION_OUT],
                                 .lse = data[ATTENTION_LSE]};
    return mpt_attention_forward(k, &a, NULL);
}

static void attention_forward_row(conform_case_t *c, const attention_head_t *a, int64_t i)
{
    double *slack = c->array[ATTENTION_OUT].slack + attention_row(a, i);
    double largest, row_error, lse = c->array[ATTENTION_LSE].want[attention_lse_row(a, i)];
    attention_row_extremes(a, i, &largest, &row_error);
    double sums = (double)(4 * (i + 1) + 16) * CONFORM_U32;
    c->array[ATTENTION_LSE].slack[attention_lse_row(a, i)] =
        row_error + sums + 2 * CONFORM_U32 * (fabs(lse) + largest);
    double relative = 2 * row_error + 2 * sums + 4 * CONFORM_U32 * largest + a->unit + a->product;
    for (int64_t j = 0; j <= i; j++) {
        double unused, p = exp(attention_score(a, i, j, &unused) - lse);
        for (int64_t d = 0; d < a->dim; d++)
            slack[d] += fabs(a->qkv[attention_qkv_row(a, j, 2) + d]) * (relative * p + a->floor);
    }
}

static void attention_forward_expect(conform_case_t *c)
{
    conform_want_twin(c, -1);
    void *data[CONFORM_ARRAYS];
    conform_twin_begin(c, 0, data);
    for (int64_t index = 0; index < c->n[0] * c->n[2]; index++) {
        attention_head_t a = attention_head(c, data[ATTENTION_QKV], NULL, NULL, index);
        int tainted = attention_tainted(&a);
        for (int64_t i = 0; i < a.seq; i++) {
            attention_forward_row(c, &a, i);
            for (int64_t d = 0; d < a.dim && tainted; d++)
                c->array[ATTENTION_OUT].slack[attention_row(&a, i) + d] = INFINITY;
        }
    }
    conform_twin_end(data);
}

static void attention_forward_case(conform_context_t *x, const conform_target_t *targets,
                                   int target_count, mpt_dtype_t compute, const int64_t *n,
                                   unsigned variant)
{
    conform_case_t c = attention_case("attention_forward", compute, n, variant);
    int64_t elements = n[0] * n[1] * n[2] * n[3];
    conform_add(&c, ATTENTION_QKV, "qkv", CONFORM_IN, CONFORM_COMPUTE, 3 * elements);
    conform_add(&c, ATTENTION_OUT, "out", CONFORM_OUT, CONFORM_COMPUTE, elements);
    conform_add(&c, ATTENTION_LSE, "lse", CONFORM_OUT, CONFORM_WIDE, n[0] * n[1] * n[2]);
    attention_fill(&c);
    c.call = attention_forward_call;
    c.expect = attention_forward_expect;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_attention_forward(conform_context_t *x, const conform_target_t *targets,
                                      int count, mpt_dtype_t compute)
{
    static const int64_t special[4] = {2, 37, 2, 20};
    for (size_t i = 0; i < ATTENTION_SHAPE_COUNT; i++)
        attention_forward_case(x, targets, count, compute, attention_shapes[i], 0);
    attention_forward_case(x, targets, count, compute, attention_shapes[4], ATTENTION_PEAKED);
    for (unsigned variant = 1; variant <= ATTENTION_TINY; variant *= 2)
        attention_forward_case(x, targets, count, compute, special, variant);
}

/* ---- backward -------------------------------------------------------------------------------------- */

static mpt_status_t attention_backward_call(mpt_kernels_t *k, const conform_case_t *c,
                                            mpt_dtype_t compute, void *const *data)
{
    mpt_attention_backward_t a = {.compute = compute,
                                  .batch = c->n[0],
                                  .seq = c->n[1],
                                  .heads = c->n[2],
                                  .head_dim = c->n[3],
                                  .qkv = data[ATTENTION_QKV],
                                  .out = data[ATTENTION_OUT],
                                  .dout = data[ATTENTION_DOUT],
                                  .lse = data[ATTENTION_LSE],
                                  .dqkv = data[ATTENTION_DQKV]};
    return mpt_attention_backward(k, &a, NULL);
}

/* What pair (i, j) adds to the slack of dQ's row i and of dK's and dV's row j. */
static void attention_backward_pair(conform_case_t *c, const attention_head_t *a, int64_t i,
                                    int64_t j)
{
    double *slack = c->array[ATTENTION_DQKV].slack, score_error, dp_magnitude, average_magnitude;
    int64_t row = attention_row(a, i), q = attention_qkv_row(a, i, 0),
            k = attention_qkv_row(a, j, 1);
    int64_t v = attention_qkv_row(a, j, 2);
    double s = attention_score(a, i, j, &score_error),
           lse = conform_input(c, ATTENTION_LSE, attention_lse_row(a, i));
    double p = exp(s - lse), dp = attention_dot(a->dout + row, a->qkv + v, a->dim, &dp_magnitude);
    double average = attention_dot(a->dout + row, a->out + row, a->dim, &average_magnitude);
    double dots = (double)(a->dim + 4) * CONFORM_U32,
           sums = (double)(a->seq + 4) * CONFORM_U32 + a->product;
    double p_error = score_error + (8 + 2 * fabs(lse) + 2 * fabs(s)) * CONFORM_U32 + a->unit;
    double ds = p * (dp - average) * a->scale;
    double ds_error = a->scale * p *
                          (p_error * fabs(dp - average) + (dots + a->product) * dp_magnitude +
                           dots * average_magnitude) +
                      fabs(ds) * (a->unit + 4 * CONFORM_U32 + sums) + a->floor;
    for (int64_t d = 0; d < a->dim; d++) {
        slack[q + d] += ds_error * fabs(a->qkv[k + d]);
        slack[k + d] += ds_error * fabs(a->qkv[q + d]);
        slack[v + d] += (p * (p_error + sums) + a->floor) * fabs(a->dout[row + d]);
    }
}

static void attention_backward_head(conform_case_t *c, const attention_head_t *a)
{
    for (int64_t i = 0; i < a->seq; i++)
        for (int64_t j = 0; j <= i; j++)
            attention_backward_pair(c, a, i, j);
    if (!attention_tainted(a))
        return;
    for (int64_t t = 0; t < a->seq; t++)
        for (int part = 0; part < 3; part++)
            for (int64_t d = 0; d < a->dim; d++)
                c->array[ATTENTION_DQKV].slack[attention_qkv_row(a, t, part) + d] = INFINITY;
}

static void attention_backward_expect(conform_case_t *c)
{
    conform_want_twin(c, -1);
    void *data[CONFORM_ARRAYS];
    conform_twin_begin(c, 0, data);
    for (int64_t index = 0; index < c->n[0] * c->n[2]; index++) {
        attention_head_t a = attention_head(c, data[ATTENTION_QKV], data[ATTENTION_OUT],
                                            data[ATTENTION_DOUT], index);
        attention_backward_head(c, &a);
    }
    conform_twin_end(data);
}

/* out and lse as the oracle's forward leaves them in the compute type. */
static void attention_run_forward(conform_case_t *c)
{
    void *data[CONFORM_ARRAYS] = {[ATTENTION_QKV] = c->array[ATTENTION_QKV].initial,
                                  [ATTENTION_OUT] = c->array[ATTENTION_OUT].initial,
                                  [ATTENTION_LSE] = c->array[ATTENTION_LSE].initial};
    mpt_kernels_t k = conform_oracle(c->compute);
    if (attention_forward_call(&k, c, c->compute, data) != MPT_OK)
        abort();
}

static void attention_backward_case(conform_context_t *x, const conform_target_t *targets,
                                    int target_count, mpt_dtype_t compute, const int64_t *n,
                                    unsigned variant)
{
    conform_case_t c = attention_case("attention_backward", compute, n, variant);
    int64_t elements = n[0] * n[1] * n[2] * n[3];
    conform_add(&c, ATTENTION_QKV, "qkv", CONFORM_IN, CONFORM_COMPUTE, 3 * elements);
    conform_add(&c, ATTENTION_OUT, "out", CONFORM_IN, CONFORM_COMPUTE, elements);
    conform_add(&c, ATTENTION_LSE, "lse", CONFORM_IN, CONFORM_WIDE, n[0] * n[1] * n[2]);
    conform_add(&c, ATTENTION_DOUT, "dout", CONFORM_IN, CONFORM_COMPUTE, elements);
    conform_add(&c, ATTENTION_DQKV, "dqkv", CONFORM_OUT, CONFORM_COMPUTE, 3 * elements);
    attention_fill(&c);
    attention_run_forward(&c);
    conform_fill(&c, ATTENTION_DOUT, 0, variant & ATTENTION_TINY ? 0x1p-14 : 2);
    if (variant & ATTENTION_SPECIAL)
        conform_set(&c, ATTENTION_DOUT, elements - 1, INFINITY);
    c.call = attention_backward_call;
    c.expect = attention_backward_expect;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_attention_backward(conform_context_t *x, const conform_target_t *targets,
                                       int count, mpt_dtype_t compute)
{
    static const int64_t special[4] = {2, 37, 2, 20};
    for (size_t i = 0; i < ATTENTION_SHAPE_COUNT; i++)
        attention_backward_case(x, targets, count, compute, attention_shapes[i], 0);
    attention_backward_case(x, targets, count, compute, attention_shapes[4], ATTENTION_PEAKED);
    for (unsigned variant = 1; variant <= ATTENTION_TINY; variant *= 2)
        attention_backward_case(x, targets, count, compute, special, variant);
}

#endif
