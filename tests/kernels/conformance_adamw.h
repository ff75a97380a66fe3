/*
 * Conformance cases of AdamW: with masters and without, with an average, rounding to nearest and stochastically.
 * n: count, type of the gradient.
 *
 * u = 2^-24, c1 and c2 the corrections: m off by 6 u (|m| + |g|), v by 8 u (v + g^2), the step
 * s = m' / (sqrt v' + eps) by the m of it and, relative, by (4 (v + g^2) / v_new + 8) u; the new weight by
 * lr times the step's error and 4 u (|w| + lr (|s| + decay |w|)); the average by the weight's error times 1 - d and
 * 4 u (|e| + |w|). With masters, working weights are the target's masters, rounded, to the bit. Without, the weight
 * is not seen: rounding is monotone, so that the working one lies between its error's two ends, rounded.
 */
#ifndef TEST_CONFORMANCE_ADAMW_H
#define TEST_CONFORMANCE_ADAMW_H

#include "conformance_flat.h"

enum { ADAM_MASTER, ADAM_M, ADAM_V, ADAM_EMA, ADAM_WORKING, ADAM_GRAD, ADAM_RUNS };

static mpt_adamw_t adamw_arguments(const conform_case_t *c)
{
    int64_t count = c->n[0];
    return (mpt_adamw_t){.compute = c->compute,
                         .grad_dtype = (mpt_dtype_t)c->n[1],
                         .count = count,
                         .decay_count = c->variant & FLAT_FULL ? count : count / 3,
                         .factor = 0.03125f * 0.7f,
                         .lr = 3e-3f,
                         .beta1 = 0.9f,
                         .beta2 = 0.95f,
                         .eps = 1e-8f,
                         .decay = 0.1f,
                         .correction1 = 1 - 0.9f * 0.9f,
                         .correction2 = 1 - 0.95f * 0.95f,
                         .ema_decay = 0.97f};
}

static mpt_status_t adamw_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                               void *const *data)
{
    (void)compute;
    mpt_adamw_t a = adamw_arguments(c);
    mpt_stochastic_t how = flat_stochastic(data[ADAM_RUNS]);
    a.master = data[ADAM_MASTER];
    a.m = data[ADAM_M];
    a.v = data[ADAM_V];
    a.ema = data[ADAM_EMA];
    a.working = data[ADAM_WORKING];
    a.grad = data[ADAM_GRAD];
    if (c->variant & FLAT_STOCHASTIC)
        a.stochastic = &how;
    return mpt_adamw(k, &a, NULL);
}

/* ---- what is expected ------------------------------------------------------------------------------ */

/* Element `i` of the weights before the step. */
static double adamw_weight(const conform_case_t *c, int64_t i)
{
    return conform_input(c, c->variant & FLAT_MASTERLESS ? ADAM_WORKING : ADAM_MASTER, i);
}

/* `w` rounded as element `i` of the working weights is. */
static double adamw_rounded(const conform_case_t *c, int64_t i, double w)
{
    uint16_t bits;
    mpt_stochastic_t how = flat_stochastic(c->array[ADAM_RUNS].initial);
    for (int r = 0; r < how.run_count && c->variant & FLAT_STOCHASTIC; r++) {
        const mpt_run_t *run = &how.runs[r];
        if (i < run->at || i >= run->at + run->count)
            continue;
        uint64_t element = (uint64_t)(run->element + i - run->at);
        bits = mpt_round_stochastic((float)w, c->compute,
                                    mpt_rounding_bits(how.seed, element, how.step));
        return mpt_load(&bits, c->compute, 0);
    }
    float wide;
    void *slot = c->compute == MPT_F32 ? (void *)&wide : (void *)&bits;
    mpt_store(slot, c->compute, 0, w);
    return mpt_load(slot, c->compute, 0);
}

/* Slack of the moments; want and slack of the new weight, which is returned. */
static double adamw_bound(conform_case_t *c, int64_t i, double *slack_p)
{
    const double u = CONFORM_U32;
    mpt_adamw_t a = adamw_arguments(c);
    double g = fabs(conform_input(c, ADAM_GRAD, i) * (double)a.factor),
           m = fabs(conform_input(c, ADAM_M, i));
    double v = conform_input(c, ADAM_V, i), w = adamw_weight(c, i);
    double v_new = c->array[ADAM_V].want[i], m_new = c->array[ADAM_M].want[i];
    double root = sqrt(v_new / (double)a.correction2) + (double)a.eps, m_error = 6 * u * (m + g);
    double ratio = v_new > 0 ? (v + g * g) / v_new : 0, step = m_new / (double)a.correction1 / root;
    double step_error = m_error / (double)a.correction1 / root + fabs(step) * (4 * ratio + 8) * u;
    double decay = i < a.decay_count ? (double)a.decay : 0;
    c->array[ADAM_M].slack[i] = m_error;
    c->array[ADAM_V].slack[i] = 8 * u * (v + g * g) + 0x1p-147;
    *slack_p = 4 * u * (fabs(w) + (double)a.lr * (fabs(step) + decay * fabs(w))) +
               (double)a.lr * step_error;
    return w - (double)a.lr * (step + decay * w);
}

static void adamw_expect_element(conform_case_t *c, int64_t i)
{
    double slack, w = adamw_bound(c, i, &slack);
    double take = 1 - (double)adamw_arguments(c).ema_decay;
    if (c->variant & FLAT_EMA)
        c->array[ADAM_EMA].slack[i] =
            take * slack + 4 * CONFORM_U32 * (fabs(conform_input(c, ADAM_EMA, i)) + fabs(w));
    if (!(c->variant & FLAT_MASTERLESS)) {
        c->array[ADAM_MASTER].slack[i] = slack;
        return;
    }
    double low = adamw_rounded(c, i, w - slack), high = adamw_rounded(c, i, w + slack);
    c->array[ADAM_WORKING].want[i] = isfinite(w) ? low + (high - low) / 2 : w;
    c->array[ADAM_WORKING].slack[i] = isfinite(w) ? (high - low) / 2 : 0;
}

static void adamw_drop_exact(conform_case_t *c, int index)
{
    conform_array_t *array = &c->array[index];
    for (int64_t i = 0; i < array->count; i++)
        array->want[i] = mpt_load(array->exact, conform_dtype(c, index), i);
    free(array->exact);
    array->exact = NULL;
}

/* The oracle's bits of all arrays, of which those that may differ in the last place become values. */
static void adamw_expect(conform_case_t *c)
{
    conform_want_bits(c, -1);
    for (int index = ADAM_MASTER; index <= ADAM_EMA; index++)
        if (conform_is_output(&c->array[index]))
            adamw_drop_exact(c, index);
    if (c->variant & FLAT_MASTERLESS && c->n[0] > 0)
        adamw_drop_exact(c, ADAM_WORKING);
    for (int64_t i = 0; i < c->n[0]; i++)
        adamw_expect_element(c, i);
}

static void adamw_settle(conform_case_t *c)
{
    if (c->variant & FLAT_MASTERLESS)
        return;
    for (int64_t i = 0; i < c->n[0]; i++)
        mpt_store(c->array[ADAM_WORKING].exact, c->compute, i,
                  adamw_rounded(c, i, conform_got(c, ADAM_MASTER, i)));
}

/* ---- cases ----------------------------------------------------------------------------------------- */

static void adamw_add_arrays(conform_case_t *c, int64_t count)
{
    const int masterless = (c->variant & FLAT_MASTERLESS) != 0;
    if (!masterless)
        conform_add_fixed(c, ADAM_MASTER, "master", CONFORM_INOUT, MPT_F32, count)->empty = 1;
    conform_add_fixed(c, ADAM_M, "m", CONFORM_INOUT, MPT_F32, count)->empty = 1;
    conform_add_fixed(c, ADAM_V, "v", CONFORM_INOUT, MPT_F32, count)->empty = 1;
    if (c->variant & FLAT_EMA)
        conform_add_fixed(c, ADAM_EMA, "ema", CONFORM_INOUT, MPT_F32, count)->empty = 1;
    conform_add(c, ADAM_WORKING, "working", masterless ? CONFORM_INOUT : CONFORM_OUT,
                CONFORM_COMPUTE, count)
        ->empty = 1;
    conform_add_fixed(c, ADAM_GRAD, "grad", CONFORM_IN, (mpt_dtype_t)c->n[1], count)->empty = 1;
    conform_add_raw(c, ADAM_RUNS, "runs", CONFORM_IN, sizeof(mpt_run_t), FLAT_RUNS);
}

static void adamw_fill(conform_case_t *c)
{
    conform_fill(c, c->variant & FLAT_MASTERLESS ? ADAM_WORKING : ADAM_MASTER, 0, 1);
    conform_fill(c, ADAM_M, 0, 0.01);
    conform_fill(c, ADAM_V, 1.1e-4, 1e-4);
    conform_fill(c, ADAM_EMA, 0, 1);
    conform_fill(c, ADAM_GRAD, 0, 1);
    flat_fill_runs(c, ADAM_RUNS);
}

static void adamw_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                       mpt_dtype_t compute, mpt_dtype_t grad_dtype, int64_t count, unsigned variant)
{
    conform_case_t c = flat_case("adamw", compute, count, variant);
    c.n[1] = grad_dtype;
    adamw_add_arrays(&c, count);
    adamw_fill(&c);
    if (variant & FLAT_SPECIAL && count > 9) {
        conform_set(&c, ADAM_GRAD, count - 1, INFINITY);
        conform_set(&c, ADAM_GRAD, count / 2, NAN);
        conform_set(&c, ADAM_GRAD, 3,
                    0); /* a first step without a gradient leaves the moments at zero */
        conform_set(&c, ADAM_M, 3, 0);
        conform_set(&c, ADAM_V, 3, 0);
    }
    c.call = adamw_call;
    c.expect = adamw_expect;
    c.settle = adamw_settle;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_adamw(conform_context_t *x, const conform_target_t *targets, int count,
                          mpt_dtype_t compute)
{
    const unsigned rounding = compute == MPT_F32 ? 0 : FLAT_STOCHASTIC;
    for (size_t i = 0; i < FLAT_COUNT_COUNT; i++) {
        int64_t n = flat_counts[i];
        adamw_case(x, targets, count, compute, compute, n, 0);
        adamw_case(x, targets, count, compute, compute, n, FLAT_SPECIAL);
        adamw_case(x, targets, count, compute, MPT_F32, n, FLAT_FULL);
        adamw_case(x, targets, count, compute, compute, n, FLAT_EMA);
        adamw_case(x, targets, count, compute, MPT_F32, n, rounding);
        adamw_case(x, targets, count, compute, compute, n, FLAT_SPECIAL | FLAT_EMA | rounding);
        adamw_case(x, targets, count, compute, compute, n, FLAT_MASTERLESS);
        adamw_case(x, targets, count, compute, MPT_F32, n,
                   FLAT_SPECIAL | FLAT_MASTERLESS | FLAT_EMA | rounding);
    }
    adamw_case(x, targets, count, compute, MPT_BF16, 1000, 0);
    adamw_case(x, targets, count, compute, MPT_F16, 1000, 0);
}

#endif
