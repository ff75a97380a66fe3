/*
 * Conformance cases of the three products. Shape n: rows, in, out.
 *
 * Slack of a sum of K products of absolute sum A: (K + 3) u A in FP32, in any order, plus the product's own
 * error (see conform_product; in TF32 the exact run has rounded the factors). A is computed by running the oracle on absolute values. GELU: the tanh is off
 * by a few u absolutely, so gelu(p) by 8 u |p|, and its slope by 8 u (1 + |p| w'), w' the derivative of
 * tanh's argument.
 */
#ifndef TEST_CONFORMANCE_LINEAR_H
#define TEST_CONFORMANCE_LINEAR_H

#include "conformance_run.h"

enum {
    LINEAR_BIAS = 1,
    LINEAR_PRE = 2,
    LINEAR_WIDE = 4,
    LINEAR_SPECIAL = 8,
    LINEAR_TINY = 16,
    LINEAR_HUGE = 32
};
static const char *const linear_flags[] = {"bias", "pre", "wide", "special", "tiny", "huge"};

/* Shapes: single rows and columns, primes, around tiles and vectors; from LINEAR_LARGE on past every blocking factor. */
enum { LINEAR_LARGE = 9 };
static const int64_t linear_shapes[][3] = {
    {1, 1, 1},      {1, 5, 3},     {3, 1, 2},     {2, 3, 1},      {7, 13, 11},
    {16, 32, 48},   {33, 65, 31},  {65, 33, 129}, {64, 64, 64},   {130, 515, 66},
    {96, 128, 384}, {9, 2100, 40}, {2050, 9, 24}, {17, 20, 2100}, {257, 129, 515}};

static double linear_gelu(double p)
{
    return 0.5 * p * (1 + tanh(0.79788456080286535588 * (p + 0.044715 * p * p * p)));
}

static double linear_gelu_slope(double p)
{
    double t = tanh(0.79788456080286535588 * (p + 0.044715 * p * p * p));
    return 0.5 * (1 + t) + 0.5 * p * (1 - t * t) * 0.79788456080286535588 * (1 + 0.134145 * p * p);
}

/* The result of the case's call on absolute values, without its GELU: A. Freed by the caller. */
static double *linear_magnitude(const conform_case_t *c, int output)
{
    void *data[CONFORM_ARRAYS];
    conform_twin_begin(c, 1, data);
    conform_oracle_call(c, MPT_F64, data);
    double *magnitude = data[output];
    data[output] = NULL;
    conform_twin_end(data);
    return magnitude;
}

static double linear_largest(const conform_case_t *c, int index)
{
    double largest = 0;
    for (int64_t i = 0; i < c->array[index].count; i++)
        if (isfinite(conform_input(c, index, i)) && fabs(conform_input(c, index, i)) > largest)
            largest = fabs(conform_input(c, index, i));
    return largest;
}

/* Slack of output `index`, sums of `terms` terms from arrays `a` and `b`, each off by `product` relative. */
static void linear_slack(conform_case_t *c, int index, int64_t terms, int a, int b, double product)
{
    double *magnitude = linear_magnitude(c, index);
    double floor = conform_floor(c->compute, terms, linear_largest(c, a) + linear_largest(c, b));
    for (int64_t i = 0; i < c->array[index].count; i++)
        c->array[index].slack[i] =
            ((double)(terms + 3) * CONFORM_U32 + product) * magnitude[i] + floor;
    free(magnitude);
}

/* A case without its arrays. The limits are as tight as they may be: a block's, or the head's. */
static conform_case_t linear_case(const char *op, mpt_dtype_t compute, const int64_t *shape,
                                  unsigned variant)
{
    conform_case_t c = {
        .op = op, .compute = compute, .variant = variant, .n = {shape[0], shape[1], shape[2]}};
    int64_t rows = shape[0], in = shape[1], out = shape[2];
    c.seed = (uint64_t)(rows * 7919 + in * 104729 + out) + variant;
    c.limits = (mpt_kernels_limits_t){.compute = compute,
                                      .batch = 1,
                                      .seq = 1,
                                      .heads = 1,
                                      .head_dim = 1,
                                      .rows = rows,
                                      .dim = in < out ? in : out,
                                      .hidden = in < out ? out : in,
                                      .vocab_padded = 1,
                                      .loss_rows = 1};
    if (variant & LINEAR_WIDE) {
        c.limits.rows = c.limits.hidden = 1;
        c.limits.dim = in;
        c.limits.vocab_padded = out;
        c.limits.loss_rows = rows;
    }
    conform_label(&c, 3, linear_flags, 6);
    return c;
}

/* The factors' contents. Tiny: subnormal in FP16, which must not get lost; huge: sums overflow FP16. */
static void linear_fill(conform_case_t *c, int a, int b)
{
    c->array[a].factor = c->array[b].factor = 1;
    double scale = c->variant & LINEAR_TINY ? 0x1p-15 : c->variant & LINEAR_HUGE ? 300 : 2;
    conform_fill(c, a, 0, scale);
    conform_fill(c, b, 0, c->variant & LINEAR_HUGE ? 300 : 1);
    if (c->variant & LINEAR_SPECIAL) {
        conform_set(c, a, c->array[a].count / 3, INFINITY);
        conform_set(c, a, c->array[a].count - 1, NAN);
        conform_set(c, b, c->array[b].count / 2, -INFINITY);
    }
}

/* ---- forward --------------------------------------------------------------------------------------- */

enum { FORWARD_X, FORWARD_W, FORWARD_BIAS, FORWARD_PRE, FORWARD_Y };

static mpt_status_t linear_forward_call(mpt_kernels_t *k, const conform_case_t *c,
                                        mpt_dtype_t compute, void *const *data)
{
    mpt_linear_forward_t a = {.compute = compute,
                              .rows = c->n[0],
                              .in = c->n[1],
                              .out = c->n[2],
                              .x = data[FORWARD_X],
                              .w = data[FORWARD_W],
                              .bias = data[FORWARD_BIAS],
                              .pre = data[FORWARD_PRE],
                              .y = data[FORWARD_Y],
                              .y_dtype = c->variant & LINEAR_WIDE ? mpt_dtype_wide(compute)
                                                                  : mpt_dtype_memory(compute)};
    return mpt_linear_forward(k, &a, NULL);
}

static void linear_forward_expect(conform_case_t *c)
{
    conform_want_twin(c, -1);
    int sums = c->variant & LINEAR_PRE ? FORWARD_PRE : FORWARD_Y;
    linear_slack(c, sums, c->n[1] + 1, FORWARD_X, FORWARD_W, conform_product(c->compute));
}

/* y = gelu of the rounded pre: of the pre that the target stored. */
static void linear_forward_settle(conform_case_t *c)
{
    if (!(c->variant & LINEAR_PRE))
        return;
    for (int64_t i = 0; i < c->array[FORWARD_Y].count; i++) {
        double p = conform_got(c, FORWARD_PRE, i);
        c->array[FORWARD_Y].want[i] =
            p == -INFINITY ? 0 : linear_gelu(p); /* there -Inf x 0 is NaN, or 0 */
        c->array[FORWARD_Y].slack[i] = isfinite(p) ? 8 * CONFORM_U32 * fabs(p) : INFINITY;
    }
}

static void linear_forward_case(conform_context_t *x, const conform_target_t *targets,
                                int target_count, mpt_dtype_t compute, const int64_t *shape,
                                unsigned variant)
{
    conform_case_t c = linear_case("linear_forward", compute, shape, variant);
    int64_t rows = shape[0], in = shape[1], out = shape[2];
    conform_add(&c, FORWARD_X, "x", CONFORM_IN, CONFORM_COMPUTE, rows * in);
    conform_add(&c, FORWARD_W, "w", CONFORM_IN, CONFORM_COMPUTE, out * in);
    conform_add(&c, FORWARD_BIAS, "bias", CONFORM_IN, CONFORM_COMPUTE,
                variant & LINEAR_BIAS ? out : 0);
    conform_add(&c, FORWARD_PRE, "pre", CONFORM_OUT, CONFORM_COMPUTE,
                variant & LINEAR_PRE ? rows * out : 0);
    conform_add(&c, FORWARD_Y, "y", CONFORM_OUT,
                variant & LINEAR_WIDE ? CONFORM_WIDE : CONFORM_COMPUTE, rows * out);
    linear_fill(&c, FORWARD_X, FORWARD_W);
    conform_fill(&c, FORWARD_BIAS, 0, 3);
    c.call = linear_forward_call;
    c.expect = linear_forward_expect;
    c.settle = linear_forward_settle;
    conform_case_run(x, &c, targets, target_count);
}

/* ---- backward, input ------------------------------------------------------------------------------- */

enum { INPUT_DY, INPUT_W, INPUT_PRE, INPUT_DX };

static mpt_status_t linear_input_call(mpt_kernels_t *k, const conform_case_t *c,
                                      mpt_dtype_t compute, void *const *data)
{
    mpt_linear_backward_input_t a = {.compute = compute,
                                     .rows = c->n[0],
                                     .in = c->n[1],
                                     .out = c->n[2],
                                     .dy = data[INPUT_DY],
                                     .w = data[INPUT_W],
                                     .pre = data[INPUT_PRE],
                                     .dx = data[INPUT_DX]};
    return mpt_linear_backward_input(k, &a, NULL);
}

static void linear_input_expect(conform_case_t *c)
{
    conform_want_twin(c, -1);
    linear_slack(c, INPUT_DX, c->n[2], INPUT_DY, INPUT_W, conform_product(c->compute));
    if (!(c->variant & LINEAR_PRE))
        return;
    double *magnitude = linear_magnitude(c, INPUT_DX);
    for (int64_t i = 0; i < c->array[INPUT_DX].count; i++) {
        double p = conform_input(c, INPUT_PRE, i), argument_slope = 0.8 * (1 + 0.134145 * p * p);
        c->array[INPUT_DX].slack[i] =
            c->array[INPUT_DX].slack[i] * fabs(linear_gelu_slope(p)) +
            magnitude[i] * 8 * CONFORM_U32 * (1 + fabs(p) * argument_slope);
    }
    free(magnitude);
}

static void linear_input_case(conform_context_t *x, const conform_target_t *targets,
                              int target_count, mpt_dtype_t compute, const int64_t *shape,
                              unsigned variant)
{
    conform_case_t c = linear_case("linear_backward_input", compute, shape, variant);
    int64_t rows = shape[0], in = shape[1], out = shape[2];
    conform_add(&c, INPUT_DY, "dy", CONFORM_IN, CONFORM_COMPUTE, rows * out);
    conform_add(&c, INPUT_W, "w", CONFORM_IN, CONFORM_COMPUTE, out * in);
    conform_add(&c, INPUT_PRE, "pre", CONFORM_IN, CONFORM_COMPUTE,
                variant & LINEAR_PRE ? rows * in : 0)
        ->drop = 1;
    conform_add(&c, INPUT_DX, "dx", CONFORM_OUT, CONFORM_COMPUTE, rows * in);
    linear_fill(&c, INPUT_DY, INPUT_W);
    conform_fill(&c, INPUT_PRE, 0, 6);
    c.call = linear_input_call;
    c.expect = linear_input_expect;
    conform_case_run(x, &c, targets, target_count);
}

/* ---- backward, weight ------------------------------------------------------------------------------ */

enum { WEIGHT_DY, WEIGHT_X, WEIGHT_DW, WEIGHT_DBIAS };

static mpt_status_t linear_weight_call(mpt_kernels_t *k, const conform_case_t *c,
                                       mpt_dtype_t compute, void *const *data)
{
    mpt_linear_backward_weight_t a = {.compute = compute,
                                      .rows = c->n[0],
                                      .in = c->n[1],
                                      .out = c->n[2],
                                      .dy = data[WEIGHT_DY],
                                      .x = data[WEIGHT_X],
                                      .dw = data[WEIGHT_DW],
                                      .dbias = data[WEIGHT_DBIAS]};
    return mpt_linear_backward_weight(k, &a, NULL);
}

static void linear_weight_expect(conform_case_t *c)
{
    conform_want_twin(c, WEIGHT_DW);
    linear_slack(c, WEIGHT_DW, c->n[0] + 1, WEIGHT_DY, WEIGHT_X, conform_product(c->compute));
    if (!(c->variant & LINEAR_BIAS))
        return;
    c->array[WEIGHT_DY].factor = 0; /* the bias's gradient adds up dy as it is */
    conform_want_twin(c, WEIGHT_DBIAS);
    linear_slack(c, WEIGHT_DBIAS, c->n[0] + 1, WEIGHT_DY, WEIGHT_DY, 0);
}

static void linear_weight_case(conform_context_t *x, const conform_target_t *targets,
                               int target_count, mpt_dtype_t compute, const int64_t *shape,
                               unsigned variant)
{
    conform_case_t c = linear_case("linear_backward_weight", compute, shape, variant);
    int64_t rows = shape[0], in = shape[1], out = shape[2];
    conform_add(&c, WEIGHT_DY, "dy", CONFORM_IN, CONFORM_COMPUTE, rows * out);
    conform_add(&c, WEIGHT_X, "x", CONFORM_IN, CONFORM_COMPUTE, rows * in);
    conform_add(&c, WEIGHT_DW, "dw", CONFORM_INOUT, CONFORM_WIDE, out * in);
    conform_add(&c, WEIGHT_DBIAS, "dbias", CONFORM_INOUT, CONFORM_WIDE,
                variant & LINEAR_BIAS ? out : 0);
    linear_fill(&c, WEIGHT_DY, WEIGHT_X);
    double before = c.variant & LINEAR_TINY ? 0x1p-15 : 5;
    conform_fill(&c, WEIGHT_DW, 0, before);
    conform_fill(&c, WEIGHT_DBIAS, 0, before);
    c.call = linear_weight_call;
    c.expect = linear_weight_expect;
    conform_case_run(x, &c, targets, target_count);
}

/* ---- suites ---------------------------------------------------------------------------------------- */

#define LINEAR_SHAPE_COUNT (sizeof linear_shapes / sizeof linear_shapes[0])
static const int64_t linear_special_shape[3] = {19, 35, 37};

/* Large shapes take turns at the variants: the oracle's time is what this suite costs. */
static int linear_takes(size_t shape, size_t variant)
{
    return shape < LINEAR_LARGE || variant % 2 == shape % 2;
}

static void conform_linear_forward(conform_context_t *x, const conform_target_t *targets, int count,
                                   mpt_dtype_t compute)
{
    static const unsigned variants[] = {0, LINEAR_BIAS, LINEAR_BIAS | LINEAR_PRE, LINEAR_WIDE};
    static const unsigned special[] = {LINEAR_SPECIAL | LINEAR_BIAS,
                                       LINEAR_SPECIAL | LINEAR_WIDE,
                                       LINEAR_TINY | LINEAR_WIDE,
                                       LINEAR_TINY,
                                       LINEAR_HUGE,
                                       LINEAR_HUGE | LINEAR_BIAS | LINEAR_PRE};
    for (size_t i = 0; i < LINEAR_SHAPE_COUNT; i++)
        for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++)
            if (linear_takes(i, v))
                linear_forward_case(x, targets, count, compute, linear_shapes[i], variants[v]);
    for (size_t v = 0; v < sizeof special / sizeof special[0]; v++)
        linear_forward_case(x, targets, count, compute, linear_special_shape, special[v]);
}

static void conform_linear_input(conform_context_t *x, const conform_target_t *targets, int count,
                                 mpt_dtype_t compute)
{
    static const unsigned variants[] = {0, LINEAR_PRE, LINEAR_WIDE};
    static const unsigned special[] = {LINEAR_SPECIAL, LINEAR_TINY, LINEAR_TINY | LINEAR_PRE,
                                       LINEAR_HUGE};
    for (size_t i = 0; i < LINEAR_SHAPE_COUNT; i++)
        for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++)
            if (linear_takes(i, v))
                linear_input_case(x, targets, count, compute, linear_shapes[i], variants[v]);
    for (size_t v = 0; v < sizeof special / sizeof special[0]; v++)
        linear_input_case(x, targets, count, compute, linear_special_shape, special[v]);
}

static void conform_linear_weight(conform_context_t *x, const conform_target_t *targets, int count,
                                  mpt_dtype_t compute)
{
    static const unsigned variants[] = {0, LINEAR_BIAS, LINEAR_WIDE};
    static const unsigned special[] = {LINEAR_SPECIAL | LINEAR_BIAS, LINEAR_TINY | LINEAR_BIAS,
                                       LINEAR_HUGE};
    for (size_t i = 0; i < LINEAR_SHAPE_COUNT; i++)
        for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++)
            if (linear_takes(i, v))
                linear_weight_case(x, targets, count, compute, linear_shapes[i], variants[v]);
    for (size_t v = 0; v < sizeof special / sizeof special[0]; v++)
        linear_weight_case(x, targets, count, compute, linear_special_shape, special[v]);
}

#endif
