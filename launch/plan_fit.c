#include "plan_show.h"
#include <stdlib.h>

#define MAX_DIVISORS 4096 /* more than any number below 2^40 has */

int mpt_plan_divisors(int64_t n, int64_t *divisors, int capacity)
{
    int count = 0;
    int64_t i = 1;
    for (; i <= n / i && count < capacity; i++)
        if (n % i == 0)
            divisors[count++] = n / i;
    for (i--; i >= 1 && count < capacity; i--)
        if (n % i == 0 && n / i != i)
            divisors[count++] = i;
    return count;
}

const char *mpt_plan_variant(int variant)
{
    static const char *const changes[MPT_PLAN_VARIANTS] = {NULL, "train.recompute=block",
                                                           "parallel.reduce_every=micro",
                                                           "train.recompute=block parallel.reduce_every=micro"};
    return changes[variant];
}

static mpt_plan_changes_t variant_changes(const mpt_plan_mode_t *mode, int variant)
{
    mpt_plan_changes_t changes = mode->changes;
    for (int v = 1; v < MPT_PLAN_BOTH; v++)
        if (variant == v || variant == MPT_PLAN_BOTH)
            mpt_plan_change(&changes, "%s", mpt_plan_variant(v));
    return changes;
}

/* The threads that the mode's plan found are named: counting the machine's cores takes longer than all the rest. */
static int ask_quickly(mpt_plan_query_t *query, const mpt_plan_mode_t *mode,
                       const mpt_plan_changes_t *changes, mpt_plan_t *plan_p)
{
    mpt_plan_changes_t all = *changes;
    char reason[8];
    mpt_plan_change(&all, "threads=%d", mode->plan.threads);
    return mpt_plan_ask(query, mode->plan.ranks, &all, plan_p, reason, sizeof(reason)) == MPT_OK;
}

/* Whether a variant is built, and saves a byte in any mode. */
static int variant_helps(mpt_plan_query_t *query, const mpt_plan_report_t *report,
                         int variant)
{
    for (int m = 0; m < MPT_PLAN_MODES; m++) {
        const mpt_plan_mode_t *mode = &report->modes[m];
        mpt_plan_changes_t changes = variant_changes(mode, variant);
        mpt_plan_t plan;
        if (mode->planned && ask_quickly(query, mode, &changes, &plan) &&
            plan.bytes < mode->plan.bytes)
            return 1;
    }
    return 0;
}

/* From the largest down, each of them: bytes need not grow with the micro-batch, a single one needs no accumulator. */
static void search(mpt_plan_query_t *query, const mpt_plan_mode_t *mode, int variant,
                   int64_t memory, const int64_t *divisors, int count, mpt_plan_fit_t *fit)
{
    *fit = (mpt_plan_fit_t){.planned = 0};
    for (int i = 0; i < count && !fit->fits; i++) {
        mpt_plan_changes_t changes = variant_changes(mode, variant);
        mpt_plan_t plan;
        mpt_plan_change(&changes, "train.micro_batch=%lld", (long long)divisors[i]);
        if (!ask_quickly(query, mode, &changes, &plan))
            continue;
        if (fit->planned && plan.bytes > memory && plan.bytes >= fit->plan.bytes)
            continue;
        *fit = (mpt_plan_fit_t){
            .planned = 1, .fits = plan.bytes <= memory, .changes = changes, .plan = plan};
    }
}

/* Less traffic, or as much with larger micro-batches. */
static int comes_before(const mpt_plan_t *a, const mpt_plan_t *b)
{
    if (mpt_plan_wire(a) != mpt_plan_wire(b))
        return mpt_plan_wire(a) < mpt_plan_wire(b);
    return a->micro_batch > b->micro_batch;
}

/* The least traffic among the fits of a variant; spared: only where the micro-batch need not shrink. */
static const mpt_plan_fit_t *least_traffic(const mpt_plan_report_t *report, int variant, int spared)
{
    const mpt_plan_fit_t *best = NULL;
    for (int m = 0; m < MPT_PLAN_MODES && report->offered[variant]; m++) {
        const mpt_plan_fit_t *fit = &report->fits[m][variant];
        if (!fit->fits)
            continue;
        if (spared && fit->plan.micro_batch < report->modes[m].plan.micro_batch)
            continue;
        if (!best || comes_before(&fit->plan, &best->plan))
            best = fit;
    }
    return best;
}

static const mpt_plan_fit_t *fewest_bytes(const mpt_plan_report_t *report)
{
    const mpt_plan_fit_t *best = NULL;
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        for (int v = 0; v < MPT_PLAN_VARIANTS; v++) {
            const mpt_plan_fit_t *fit = &report->fits[m][v];
            if (fit->planned && (!best || fit->plan.bytes < best->plan.bytes))
                best = fit;
        }
    return best;
}

static const mpt_plan_fit_t *choose(const mpt_plan_report_t *report)
{
    const mpt_plan_fit_t *best = least_traffic(report, 0, 1);
    for (int v = 0; v < MPT_PLAN_VARIANTS && !best; v++)
        best = least_traffic(report, v, 0);
    return best ? best : fewest_bytes(report);
}

void mpt_plan_fit(mpt_plan_query_t *query, int64_t memory, mpt_plan_report_t *report)
{
    int64_t divisors[MAX_DIVISORS];
    report->memory = memory;
    for (int v = 0; v < MPT_PLAN_VARIANTS; v++)
        report->offered[v] = v == 0 || (v == MPT_PLAN_BOTH ? report->offered[1] && report->offered[2]
                                                           : variant_helps(query, report, v));
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        for (int v = 0; v < MPT_PLAN_VARIANTS; v++) {
            const mpt_plan_mode_t *mode = &report->modes[m];
            report->fits[m][v] = (mpt_plan_fit_t){.planned = 0};
            if (!mode->planned || !report->offered[v])
                continue;
            int count = mpt_plan_divisors(mode->plan.micro_batch * mode->plan.micro_steps, divisors,
                                          MAX_DIVISORS);
            search(query, mode, v, memory, divisors, count, &report->fits[m][v]);
        }
    report->chosen = choose(report);
}
