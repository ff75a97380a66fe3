/*
 * Conformance cases of the operations on rows: embedding, layer norm, loss. u = 2^-24 throughout.
 */
#ifndef TEST_CONFORMANCE_ROWS_H
#define TEST_CONFORMANCE_ROWS_H

#include "conformance_run.h"

static mpt_kernels_limits_t rows_limits(mpt_dtype_t compute, int64_t rows, int64_t dim)
{
    return (mpt_kernels_limits_t){.compute = compute,
                                  .batch = 1,
                                  .seq = 1,
                                  .heads = 1,
                                  .head_dim = 1,
                                  .rows = rows,
                                  .dim = dim,
                                  .hidden = 1,
                                  .vocab_padded = 1,
                                  .loss_rows = 1};
}

/* ---- embedding ------------------------------------------------------------------------------------- *
 * Shape n: batch, seq, dim, vocab. Forward is one rounding: its bits are defined. Backward adds up to
 * batch x seq numbers to one: that many u of the absolute sum.
 */

static const int64_t embed_shapes[][4] = {{1, 1, 1, 1},       {2, 7, 33, 5},    {3, 64, 65, 11},
                                          {1, 130, 128, 300}, {4, 33, 768, 17}, {5, 3, 1, 2}};

enum { EMBED_TOKENS, EMBED_WTE, EMBED_WPE, EMBED_OUT };
enum { EMBED_DOUT = 1, EMBED_DWTE, EMBED_DWPE };

static conform_case_t embed_case(const char *op, mpt_dtype_t compute, const int64_t *n)
{
    conform_case_t c = {.op = op,
                        .compute = compute,
                        .n = {n[0], n[1], n[2], n[3]},
                        .seed = (uint64_t)(n[1] * 7919 + n[2]),
                        .limits = rows_limits(compute, n[0] * n[1], n[2])};
    conform_label(&c, 4, NULL, 0);
    conform_add_raw(&c, EMBED_TOKENS, "tokens", CONFORM_IN, sizeof(uint32_t), n[0] * n[1]);
    uint64_t state = c.seed;
    for (int64_t i = 0; i < n[0] * n[1]; i++)
        ((uint32_t *)c.array[EMBED_TOKENS].initial)[i] =
            (uint32_t)(conform_random(&state) % (uint64_t)n[3]);
    return c;
}

static mpt_status_t embed_forward_call(mpt_kernels_t *k, const conform_case_t *c,
                                       mpt_dtype_t compute, void *const *data)
{
    mpt_embed_forward_t a = {.compute = compute,
                             .batch = c->n[0],
                             .seq = c->n[1],
                             .dim = c->n[2],
                             .tokens = data[EMBED_TOKENS],
                             .wte = data[EMBED_WTE],
                             .wpe = data[EMBED_WPE],
                             .out = data[EMBED_OUT]};
    return mpt_embed_forward(k, &a, NULL);
}

static void embed_forward_expect(conform_case_t *c)
{
    conform_want_bits(c, -1);
}

static void embed_forward_case(conform_context_t *x, const conform_target_t *targets,
                               int target_count, mpt_dtype_t compute, const int64_t *n)
{
    conform_case_t c = embed_case("embed_forward", compute, n);
    conform_add(&c, EMBED_WTE, "wte", CONFORM_IN, CONFORM_COMPUTE, n[3] * n[2]);
    conform_add(&c, EMBED_WPE, "wpe", CONFORM_IN, CONFORM_COMPUTE, n[1] * n[2]);
    conform_add(&c, EMBED_OUT, "out", CONFORM_OUT, CONFORM_COMPUTE, n[0] * n[1] * n[2]);
    conform_fill(&c, EMBED_WTE, 0, 1);
    conform_fill(&c, EMBED_WPE, 0, 0.1);
    if (n[2] ==
        65) { /* one row that is not finite, one that overflows FP16, one that is subnormal in it */
        conform_set(&c, EMBED_WTE, 3, NAN);
        conform_set(&c, EMBED_WTE, 4, -INFINITY);
        conform_set(&c, EMBED_WTE, 65 + 4, 65504);
        conform_set(&c, EMBED_WPE, 4, 65504);
        conform_set(&c, EMBED_WTE, 130 + 5, 3 * 0x1p-24);
        conform_set(&c, EMBED_WPE, 5, 0x1p-24);
    }
    c.call = embed_forward_call;
    c.expect = embed_forward_expect;
    conform_case_run(x, &c, targets, target_count);
}

static mpt_status_t embed_backward_call(mpt_kernels_t *k, const conform_case_t *c,
                                        mpt_dtype_t compute, void *const *data)
{
    mpt_embed_backward_t a = {.compute = compute,
                              .batch = c->n[0],
                              .seq = c->n[1],
                              .dim = c->n[2],
                              .tokens = data[EMBED_TOKENS],
                              .dout = data[EMBED_DOUT],
                              .dwte = data[EMBED_DWTE],
                              .dwpe = data[EMBED_DWPE]};
    return mpt_embed_backward(k, &a, NULL);
}

static void embed_backward_expect(conform_case_t *c)
{
    void *data[CONFORM_ARRAYS];
    conform_want_twin(c, -1);
    conform_twin_begin(c, 1, data);
    conform_oracle_call(c, MPT_F64, data);
    for (int index = EMBED_DWTE; index <= EMBED_DWPE; index++)
        for (int64_t i = 0; i < c->array[index].count; i++)
            c->array[index].slack[i] =
                (double)(c->n[0] * c->n[1] + 1) * CONFORM_U32 * ((double *)data[index])[i];
    conform_twin_end(data);
}

static void embed_backward_case(conform_context_t *x, const conform_target_t *targets,
                                int target_count, mpt_dtype_t compute, const int64_t *n)
{
    conform_case_t c = embed_case("embed_backward", compute, n);
    conform_add(&c, EMBED_DOUT, "dout", CONFORM_IN, CONFORM_COMPUTE, n[0] * n[1] * n[2]);
    conform_add(&c, EMBED_DWTE, "dwte", CONFORM_INOUT, CONFORM_WIDE, n[3] * n[2]);
    conform_add(&c, EMBED_DWPE, "dwpe", CONFORM_INOUT, CONFORM_WIDE, n[1] * n[2]);
    conform_fill(&c, EMBED_DOUT, 0, 1);
    conform_fill(&c, EMBED_DWTE, 0, 2);
    conform_fill(&c, EMBED_DWPE, 0, 2);
    if (n[2] == 65)
        conform_set(&c, EMBED_DOUT, 70, INFINITY);
    c.call = embed_backward_call;
    c.expect = embed_backward_expect;
    conform_case_run(x, &c, targets, target_count);
}

#define EMBED_SHAPE_COUNT (sizeof embed_shapes / sizeof embed_shapes[0])

static void conform_embed_forward(conform_context_t *x, const conform_target_t *targets, int count,
                                  mpt_dtype_t compute)
{
    for (size_t i = 0; i < EMBED_SHAPE_COUNT; i++)
        embed_forward_case(x, targets, count, compute, embed_shapes[i]);
}

static void conform_embed_backward(conform_context_t *x, const conform_target_t *targets, int count,
                                   mpt_dtype_t compute)
{
    for (size_t i = 0; i < EMBED_SHAPE_COUNT; i++)
        embed_backward_case(x, targets, count, compute, embed_shapes[i]);
}

/* ---- layer norm ------------------------------------------------------------------------------------ *
 * Shape n: rows, dim. The sum's bits are defined. With n = dim and averages over a row:
 *   mean    dm = (n + 2) u avg|x|
 *   var     relative (n + 6) u, plus dm^2: the mean's error enters squared if the variance is taken around
 *           the mean; a variance as avg x^2 - mean^2 fails where the mean is large, and so does this suite
 *   rstd    relative dr = half of that + 4 u
 *   y       |gamma| (rstd dm + (dr + 3 u) |xhat| + 2 u rstd (|x| + |mean|)) + 2 u |beta|
 * Backward, g = dy gamma, xhat known to 2 u X, X = rstd (|x| + |mean|):
 *   dx      u |dres| + rstd u (4 |g| + (n + 6) (avg|g| + |xhat| avg|g X| + X avg|g xhat|) + 4 ...)
 *   dgamma  (rows + 5) u sum|dy X|, dbeta (rows + 2) u sum|dy|, each with what it is added to
 */

static const int64_t norm_shapes[][2] = {{1, 1},   {1, 7},     {3, 33},   {65, 64},
                                         {5, 768}, {130, 257}, {31, 1030}};
#define NORM_SHAPE_COUNT (sizeof norm_shapes / sizeof norm_shapes[0])

enum { NORM_DELTA = 1, NORM_ONTO_X = 2, NORM_ONTO_DELTA = 4, NORM_OFFSET = 8, NORM_SPECIAL = 16 };
static const char *const norm_flags[] = {"delta", "sum-onto-x", "sum-onto-delta", "offset",
                                         "special"};
enum { NORM_X, NORM_DELTA_IN, NORM_GAMMA, NORM_BETA, NORM_SUM, NORM_Y, NORM_MEAN, NORM_RSTD };

static const double norm_eps = 1e-5;

static conform_case_t norm_case(const char *op, mpt_dtype_t compute, const int64_t *n,
                                unsigned variant, const char *const *flags, int flag_count)
{
    conform_case_t c = {.op = op,
                        .compute = compute,
                        .n = {n[0], n[1]},
                        .variant = variant,
                        .seed = (uint64_t)(n[0] * 7919 + n[1]) + variant,
                        .limits = rows_limits(compute, n[0], n[1])};
    conform_label(&c, 2, flags, flag_count);
    return c;
}

static mpt_status_t norm_forward_call(mpt_kernels_t *k, const conform_case_t *c,
                                      mpt_dtype_t compute, void *const *data)
{
    mpt_layernorm_forward_t a = {.compute = compute,
                                 .rows = c->n[0],
                                 .dim = c->n[1],
                                 .x = data[NORM_X],
                                 .delta = data[NORM_DELTA_IN],
                                 .sum = data[NORM_SUM],
                                 .gamma = data[NORM_GAMMA],
                                 .beta = data[NORM_BETA],
                                 .y = data[NORM_Y],
                                 .mean = data[NORM_MEAN],
                                 .rstd = data[NORM_RSTD]};
    return mpt_layernorm_forward(k, &a, NULL);
}

static void norm_forward_row_slack(conform_case_t *c, const double *x, int64_t row)
{
    int64_t dim = c->n[1];
    const double u = CONFORM_U32, mean = c->array[NORM_MEAN].want[row],
                 rstd = c->array[NORM_RSTD].want[row];
    double magnitude = 0, var = 1 / (rstd * rstd) - norm_eps;
    for (int64_t d = 0; d < dim; d++)
        magnitude += fabs(x[row * dim + d]) / (double)dim;
    double mean_error = (double)(dim + 2) * u * magnitude;
    double var_error = (double)(dim + 6) * u * var + mean_error * mean_error;
    double rstd_error = 0.5 * var_error / (var + norm_eps) + 4 * u;
    c->array[NORM_MEAN].slack[row] = mean_error;
    c->array[NORM_RSTD].slack[row] = rstd * rstd_error;
    for (int64_t d = 0; d < dim; d++) {
        double value = x[row * dim + d], xhat = fabs(value - mean) * rstd;
        c->array[NORM_Y].slack[row * dim + d] =
            fabs(conform_input(c, NORM_GAMMA, d)) *
                (rstd * mean_error + (rstd_error + 3 * u) * xhat +
                 2 * u * rstd * (fabs(value) + fabs(mean))) +
            2 * u * fabs(conform_input(c, NORM_BETA, d));
    }
}

/* The exact run starts from the rounded sum. */
static void norm_forward_expect(conform_case_t *c)
{
    void *data[CONFORM_ARRAYS];
    conform_twin_begin(c, 0, data);
    if (c->variant & NORM_DELTA) {
        conform_want_bits(c, NORM_SUM);
        for (int64_t i = 0; i < c->array[NORM_X].count; i++)
            ((double *)data[NORM_X])[i] = mpt_load(c->array[NORM_SUM].exact, c->compute, i);
        free(data[NORM_DELTA_IN]);
        data[NORM_DELTA_IN] = NULL;
    }
    conform_oracle_call(c, MPT_F64, data);
    conform_want(c, data, -1);
    for (int64_t row = 0; row < c->n[0]; row++)
        norm_forward_row_slack(c, data[NORM_X], row);
    conform_twin_end(data);
}

static void norm_forward_case(conform_context_t *x, const conform_target_t *targets,
                              int target_count, mpt_dtype_t compute, const int64_t *n,
                              unsigned variant)
{
    conform_case_t c = norm_case("layernorm_forward", compute, n, variant, norm_flags, 5);
    int64_t count = n[0] * n[1], delta_count = variant & NORM_DELTA ? count : 0;
    conform_add(&c, NORM_X, "x", CONFORM_IN, CONFORM_COMPUTE, count);
    conform_add(&c, NORM_DELTA_IN, "delta", CONFORM_IN, CONFORM_COMPUTE, delta_count);
    conform_add(&c, NORM_GAMMA, "gamma", CONFORM_IN, CONFORM_COMPUTE, n[1]);
    conform_add(&c, NORM_BETA, "beta", CONFORM_IN, CONFORM_COMPUTE, n[1]);
    conform_add(&c, NORM_SUM, "sum", CONFORM_OUT, CONFORM_COMPUTE, delta_count);
    conform_add(&c, NORM_Y, "y", CONFORM_OUT, CONFORM_COMPUTE, count);
    conform_add(&c, NORM_MEAN, "mean", CONFORM_OUT, CONFORM_WIDE, n[0]);
    conform_add(&c, NORM_RSTD, "rstd", CONFORM_OUT, CONFORM_WIDE, n[0]);
    conform_fill(&c, NORM_X, variant & NORM_OFFSET ? 300 : 0.25, 2);
    conform_fill(&c, NORM_DELTA_IN, 0, 1);
    conform_fill(&c, NORM_GAMMA, 1, 0.5);
    conform_fill(&c, NORM_BETA, 0, 0.5);
    if (variant & (NORM_ONTO_X | NORM_ONTO_DELTA))
        conform_alias(&c, NORM_SUM, variant & NORM_ONTO_X ? NORM_X : NORM_DELTA_IN);
    if (variant & NORM_SPECIAL) {
        conform_set(&c, NORM_X, count / 2, NAN);
        conform_set(&c, NORM_X, 0, INFINITY);
    }
    c.call = norm_forward_call;
    c.expect = norm_forward_expect;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_norm_forward(conform_context_t *x, const conform_target_t *targets, int count,
                                 mpt_dtype_t compute)
{
    static const unsigned variants[] = {0, NORM_DELTA, NORM_DELTA | NORM_ONTO_X,
                                        NORM_DELTA | NORM_ONTO_DELTA, NORM_OFFSET};
    static const int64_t special[2] = {9, 37};
    for (size_t i = 0; i < NORM_SHAPE_COUNT; i++)
        for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++)
            norm_forward_case(x, targets, count, compute, norm_shapes[i], variants[v]);
    norm_forward_case(x, targets, count, compute, special, NORM_SPECIAL);
    norm_forward_case(x, targets, count, compute, special, NORM_SPECIAL | NORM_DELTA);
}

enum { BACK_RES = 1, BACK_ONTO_RES = 2, BACK_ONTO_DY = 4, BACK_SPECIAL = 8 };
static const char *const back_flags[] = {"dres", "dx-onto-dres", "dx-onto-dy", "special"};
enum {
    BACK_DY,
    BACK_X,
    BACK_GAMMA,
    BACK_MEAN,
    BACK_RSTD,
    BACK_DRES,
    BACK_DX,
    BACK_DGAMMA,
    BACK_DBETA
};

static mpt_status_t norm_backward_call(mpt_kernels_t *k, const conform_case_t *c,
                                       mpt_dtype_t compute, void *const *data)
{
    mpt_layernorm_backward_t a = {.compute = compute,
                                  .rows = c->n[0],
                                  .dim = c->n[1],
                                  .dy = data[BACK_DY],
                                  .x = data[BACK_X],
                                  .gamma = data[BACK_GAMMA],
                                  .mean = data[BACK_MEAN],
                                  .rstd = data[BACK_RSTD],
                                  .dres = data[BACK_DRES],
                                  .dx = data[BACK_DX],
                                  .dgamma = data[BACK_DGAMMA],
                                  .dbeta = data[BACK_DBETA]};
    return mpt_layernorm_backward(k, &a, NULL);
}

static void norm_backward_row_slack(conform_case_t *c, int64_t row)
{
    int64_t dim = c->n[1];
    const double u = CONFORM_U32, sums = (double)(dim + 6) * u;
    double mean = conform_input(c, BACK_MEAN, row), rstd = conform_input(c, BACK_RSTD, row);
    double avg_g = 0, avg_gx = 0, avg_gm = 0;
    for (int64_t d = 0; d < dim; d++) {
        double x = conform_input(c, BACK_X, row * dim + d);
        double g = fabs(conform_input(c, BACK_DY, row * dim + d) * conform_input(c, BACK_GAMMA, d));
        avg_g += g / (double)dim;
        avg_gx += g * fabs(x - mean) * rstd / (double)dim;
        avg_gm += g * (fabs(x) + fabs(mean)) * rstd / (double)dim;
    }
    for (int64_t d = 0; d < dim; d++) {
        int64_t i = row * dim + d;
        double x = conform_input(c, BACK_X, i), xhat = fabs(x - mean) * rstd,
               wide_xhat = (fabs(x) + fabs(mean)) * rstd;
        double dy = fabs(conform_input(c, BACK_DY, i)),
               g = dy * fabs(conform_input(c, BACK_GAMMA, d));
        double past = c->variant & BACK_RES ? fabs(conform_input(c, BACK_DRES, i)) : 0;
        c->array[BACK_DX].slack[i] =
            u * past + rstd * (4 * u * g + sums * avg_g + sums * xhat * avg_gx +
                               4 * u * (xhat * avg_gm + wide_xhat * avg_gx));
        c->array[BACK_DGAMMA].slack[d] += (double)(c->n[0] + 5) * u * dy * wide_xhat;
        c->array[BACK_DBETA].slack[d] += (double)(c->n[0] + 2) * u * dy;
    }
}

static void norm_backward_expect(conform_case_t *c)
{
    conform_want_twin(c, -1);
    for (int64_t d = 0; d < c->n[1]; d++) {
        c->array[BACK_DGAMMA].slack[d] = 2 * CONFORM_U32 * fabs(conform_input(c, BACK_DGAMMA, d));
        c->array[BACK_DBETA].slack[d] = 2 * CONFORM_U32 * fabs(conform_input(c, BACK_DBETA, d));
    }
    for (int64_t row = 0; row < c->n[0]; row++)
        norm_backward_row_slack(c, row);
}

/* mean and rstd of the rows of x, as a forward pass leaves them. */
static void norm_statistics(conform_case_t *c)
{
    for (int64_t row = 0; row < c->n[0]; row++) {
        double mean = 0, var = 0;
        for (int64_t d = 0; d < c->n[1]; d++)
            mean += conform_input(c, BACK_X, row * c->n[1] + d) / (double)c->n[1];
        for (int64_t d = 0; d < c->n[1]; d++) {
            double centred = conform_input(c, BACK_X, row * c->n[1] + d) - mean;
            var += centred * centred / (double)c->n[1];
        }
        conform_set(c, BACK_MEAN, row, mean);
        conform_set(c, BACK_RSTD, row, 1 / sqrt(var + norm_eps));
    }
}

static void norm_backward_case(conform_context_t *x, const conform_target_t *targets,
                               int target_count, mpt_dtype_t compute, const int64_t *n,
                               unsigned variant)
{
    conform_case_t c = norm_case("layernorm_backward", compute, n, variant, back_flags, 4);
    int64_t count = n[0] * n[1];
    conform_add(&c, BACK_DY, "dy", CONFORM_IN, CONFORM_COMPUTE, count);
    conform_add(&c, BACK_X, "x", CONFORM_IN, CONFORM_COMPUTE, count);
    conform_add(&c, BACK_GAMMA, "gamma", CONFORM_IN, CONFORM_COMPUTE, n[1]);
    conform_add(&c, BACK_MEAN, "mean", CONFORM_IN, CONFORM_WIDE, n[0]);
    conform_add(&c, BACK_RSTD, "rstd", CONFORM_IN, CONFORM_WIDE, n[0]);
    conform_add(&c, BACK_DRES, "dres", CONFORM_IN, CONFORM_COMPUTE, variant & BACK_RES ? count : 0);
    conform_add(&c, BACK_DX, "dx", CONFORM_OUT, CONFORM_COMPUTE, count);
    conform_add(&c, BACK_DGAMMA, "dgamma", CONFORM_INOUT, CONFORM_WIDE, n[1]);
    conform_add(&c, BACK_DBETA, "dbeta", CONFORM_INOUT, CONFORM_WIDE, n[1]);
    conform_fill(&c, BACK_DY, 0, 1);
    conform_fill(&c, BACK_X, 0.25, 2);
    conform_fill(&c, BACK_GAMMA, 1, 0.5);
    conform_fill(&c, BACK_DRES, 0, 1);
    conform_fill(&c, BACK_DGAMMA, 0, 3);
    conform_fill(&c, BACK_DBETA, 0, 3);
    norm_statistics(&c);
    if (variant & (BACK_ONTO_RES | BACK_ONTO_DY))
        conform_alias(&c, BACK_DX, variant & BACK_ONTO_RES ? BACK_DRES : BACK_DY);
    if (variant & BACK_SPECIAL) {
        conform_set(&c, BACK_DY, count / 2, INFINITY);
        conform_set(&c, BACK_DRES, 3, NAN);
    }
    c.call = norm_backward_call;
    c.expect = norm_backward_expect;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_norm_backward(conform_context_t *x, const conform_target_t *targets, int count,
                                  mpt_dtype_t compute)
{
    static const unsigned variants[] = {0, BACK_RES, BACK_RES | BACK_ONTO_RES,
                                        BACK_RES | BACK_ONTO_DY, BACK_ONTO_DY};
    static const int64_t special[2] = {9, 37};
    for (size_t i = 0; i < NORM_SHAPE_COUNT; i++)
        for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++)
            norm_backward_case(x, targets, count, compute, norm_shapes[i], variants[v]);
    norm_backward_case(x, targets, count, compute, special, BACK_RES | BACK_SPECIAL);
}

#endif
