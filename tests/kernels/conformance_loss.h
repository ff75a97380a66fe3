/*
 * Conformance cases of the loss. Shape n: rows, vocab, vocab_padded; columns past vocab hold NaN.
 *
 * With u = 2^-24 and L the largest |logit| of a row: the argument of exp is off by up to 2 L u, a sum of
 * `vocab` terms by vocab u, relative: e = (vocab + 12 + 4 L) u. losses: e + 2 L u absolutely.
 * dlogits: |seed| (e softmax + 2 u). loss_sum: FP64, of the losses as the target stored them.
 */
#ifndef TEST_CONFORMANCE_LOSS_H
#define TEST_CONFORMANCE_LOSS_H

#include "conformance_run.h"

enum { LOSS_ONLY = 1, LOSS_LARGE = 2, LOSS_SPECIAL = 4, LOSS_SCALED = 8 };
static const char *const loss_flags[] = {"only", "large", "special", "scaled"};
enum { LOSS_LOGITS, LOSS_TARGETS, LOSS_DLOGITS, LOSS_LOSSES, LOSS_SUM };

static const int64_t loss_shapes[][3] = {{1, 1, 1},     {1, 2, 64},      {3, 257, 384},
                                         {33, 65, 128}, {7, 1000, 1024}, {2, 5003, 5120}};
#define LOSS_SHAPE_COUNT (sizeof loss_shapes / sizeof loss_shapes[0])

static float loss_seed(const conform_case_t *c)
{
    return c->variant & LOSS_SCALED ? 4096.0f / 96 : 1.0f / 96;
}

static mpt_status_t loss_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                              void *const *data)
{
    mpt_loss_t a = {.compute = compute,
                    .rows = c->n[0],
                    .vocab = c->n[1],
                    .vocab_padded = c->n[2],
                    .logits = data[LOSS_LOGITS],
                    .targets = data[LOSS_TARGETS],
                    .seed = loss_seed(c),
                    .dlogits = data[LOSS_DLOGITS],
                    .losses = data[LOSS_LOSSES],
                    .loss_sum = data[LOSS_SUM]};
    return mpt_loss(k, &a, NULL);
}

static void loss_row_slack(conform_case_t *c, int64_t row)
{
    const double u = CONFORM_U32, seed = (double)loss_seed(c);
    double largest = 0;
    for (int64_t v = 0; v < c->n[1]; v++) {
        double logit = fabs(conform_input(c, LOSS_LOGITS, row * c->n[2] + v));
        largest = isfinite(logit) && logit > largest ? logit : largest;
    }
    double relative = ((double)c->n[1] + 12 + 4 * largest) * u;
    c->array[LOSS_LOSSES].slack[row] = relative + 2 * largest * u;
    for (int64_t v = 0; v < c->n[1] && !(c->variant & LOSS_ONLY); v++) {
        int64_t i = row * c->n[2] + v;
        int target = ((const uint32_t *)c->array[LOSS_TARGETS].initial)[row] == (uint32_t)v;
        double softmax = c->array[LOSS_DLOGITS].want[i] / seed + target;
        c->array[LOSS_DLOGITS].slack[i] =
            seed * (relative * softmax + (target ? 2 * u : 0) + 0x1p-124);
    }
}

static void loss_expect(conform_case_t *c)
{
    conform_want_twin(c, -1);
    for (int64_t row = 0; row < c->n[0]; row++)
        loss_row_slack(c, row);
}

static void loss_settle(conform_case_t *c)
{
    double sum = 0, magnitude = fabs(conform_input(c, LOSS_SUM, 0));
    for (int64_t row = 0; row < c->n[0]; row++) {
        sum += conform_got(c, LOSS_LOSSES, row);
        magnitude += fabs(conform_got(c, LOSS_LOSSES, row));
    }
    c->array[LOSS_SUM].want[0] = conform_input(c, LOSS_SUM, 0) + sum;
    c->array[LOSS_SUM].slack[0] = (double)(c->n[0] + 1) * 0x1p-53 * magnitude;
    if (c->variant & LOSS_ONLY)
        return;
    /* Padding is exactly zero: no half unit of tolerance. */
    for (int64_t row = 0; row < c->n[0]; row++)
        for (int64_t v = c->n[1]; v < c->n[2]; v++)
            if (conform_got(c, LOSS_DLOGITS, row * c->n[2] + v) != 0)
                c->array[LOSS_DLOGITS].want[row * c->n[2] + v] = NAN;
}

static void loss_fill(conform_case_t *c)
{
    uint64_t state = c->seed;
    conform_fill(c, LOSS_LOGITS, 0, c->variant & LOSS_LARGE ? 900 : 6);
    conform_fill(c, LOSS_SUM, 1000, 1);
    for (int64_t row = 0; row < c->n[0]; row++) {
        uint32_t target = (uint32_t)(conform_random(&state) % (uint64_t)c->n[1]);
        ((uint32_t *)c->array[LOSS_TARGETS].initial)[row] = target;
        for (int64_t v = c->n[1]; v < c->n[2]; v++)
            conform_set(c, LOSS_LOGITS, row * c->n[2] + v, row % 2 ? NAN : INFINITY);
    }
    if (!(c->variant & LOSS_SPECIAL))
        return;
    conform_set(c, LOSS_LOGITS, 1 * c->n[2] + 2, NAN);
    conform_set(c, LOSS_LOGITS, 3 * c->n[2] + 5, INFINITY);
    for (int64_t v = 7; v < c->n[1];
         v++) /* most logits impossible: the others share the probability */
        conform_set(c, LOSS_LOGITS, 5 * c->n[2] + v, -INFINITY);
    ((uint32_t *)c->array[LOSS_TARGETS].initial)[5] = 3;
}

static void loss_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                      mpt_dtype_t compute, const int64_t *n, unsigned variant)
{
    conform_case_t c = {.op = "loss",
                        .compute = compute,
                        .n = {n[0], n[1], n[2]},
                        .variant = variant,
                        .seed = (uint64_t)(n[0] * 7919 + n[1]) + variant,
                        .call = loss_call,
                        .expect = loss_expect,
                        .settle = loss_settle,
                        .limits = {.compute = compute,
                                   .batch = 1,
                                   .seq = 1,
                                   .heads = 1,
                                   .head_dim = 1,
                                   .rows = 1,
                                   .dim = 1,
                                   .hidden = 1,
                                   .vocab_padded = n[2],
                                   .loss_rows = n[0]}};
    conform_label(&c, 3, loss_flags, 4);
    conform_add(&c, LOSS_LOGITS, "logits", CONFORM_IN, CONFORM_WIDE, n[0] * n[2]);
    conform_add_raw(&c, LOSS_TARGETS, "targets", CONFORM_IN, sizeof(uint32_t), n[0]);
    conform_add(&c, LOSS_DLOGITS, "dlogits", CONFORM_OUT, CONFORM_COMPUTE,
                variant & LOSS_ONLY ? 0 : n[0] * n[2]);
    conform_add(&c, LOSS_LOSSES, "losses", CONFORM_OUT, CONFORM_WIDE, n[0]);
    conform_add_fixed(&c, LOSS_SUM, "loss_sum", CONFORM_INOUT, MPT_F64, 1);
    loss_fill(&c);
    conform_case_run(x, &c, targets, target_count);
}

static void conform_loss(conform_context_t *x, const conform_target_t *targets, int count,
                         mpt_dtype_t compute)
{
    static const unsigned variants[] = {0, LOSS_ONLY, LOSS_LARGE, LOSS_SCALED};
    static const int64_t special[3] = {7, 19, 32};
    for (size_t i = 0; i < LOSS_SHAPE_COUNT; i++)
        for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++)
            loss_case(x, targets, count, compute, loss_shapes[i], variants[v]);
    loss_case(x, targets, count, compute, special, LOSS_SPECIAL);
    loss_case(x, targets, count, compute, special, LOSS_SPECIAL | LOSS_ONLY);
}

#endif
