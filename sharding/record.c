#include "record.h"

#include <assert.h>
#include <math.h>

#include "checkpoint.h"
#include "numeric.h"

_Static_assert(sizeof(mpt_record_t) == 64, "the record is 64 bytes");
_Static_assert(sizeof(mpt_record_partial_t) == 96,
               "the partial has no padding: it is sent as it is");

/* ---- one record, and two neighbours ---------------------------------------------------------------- */

static mpt_record_partial_t partial_of(const mpt_record_t *record, int rank)
{
    mpt_record_partial_t partial = {.sumsq = record->sumsq,
                                    .loss_sum = record->loss_sum,
                                    .tokens = record->tokens,
                                    .step = record->step,
                                    .hash = record->hash,
                                    .scale_bits = mpt_f32_bits(record->scale),
                                    .first_rank = rank,
                                    .status_rank = rank,
                                    .bad_rank = -1,
                                    .disagree_rank = -1,
                                    .replica_rank = -1,
                                    .status = record->status,
                                    .stop = !!(record->flags & MPT_RECORD_STOP)};
    partial.save_failed = record->save == MPT_SAVE_FAILED;
    partial.save_pending = !partial.save_failed && record->save != MPT_SAVE_SYNCED;
    if (record->flags & (MPT_RECORD_BAD_WIRE | MPT_RECORD_BAD_SUM)) {
        partial.bad_kind =
            record->flags & MPT_RECORD_BAD_WIRE ? MPT_RECORD_BAD_WIRE : MPT_RECORD_BAD_SUM;
        partial.bad_rank = rank;
        partial.bad_count = record->bad_count;
        partial.bad_micro_step = record->micro_step;
        partial.bad_element = record->bad_element;
        partial.bad_bits = record->bad_bits;
    }
    return partial;
}

/* Order of offenders of one kind: micro-step, element; rank order decides ties. */
static int comes_before(const mpt_record_partial_t *a, const mpt_record_partial_t *b)
{
    if (a->bad_micro_step != b->bad_micro_step)
        return a->bad_micro_step < b->bad_micro_step;
    return a->bad_element < b->bad_element;
}

static void take_offender(mpt_record_partial_t *to, const mpt_record_partial_t *from)
{
    to->bad_kind = from->bad_kind;
    to->bad_rank = from->bad_rank;
    to->bad_micro_step = from->bad_micro_step;
    to->bad_element = from->bad_element;
    to->bad_bits = from->bad_bits;
}

static int kind_order(uint8_t kind)
{
    return kind == MPT_RECORD_BAD_WIRE ? 2 : kind == MPT_RECORD_BAD_SUM ? 1 : 0;
}

static void absorb_offender(mpt_record_partial_t *left, const mpt_record_partial_t *right)
{
    int order = kind_order(right->bad_kind) - kind_order(left->bad_kind);
    if (order < 0 || right->bad_kind == 0)
        return;
    left->bad_count = (order > 0 ? 0 : left->bad_count) + right->bad_count;
    if (order > 0 || comes_before(right, left))
        take_offender(left, right);
}

/* The first rank that differs from left's first one. */
static int32_t first_other(int32_t left, const mpt_record_partial_t *right, int32_t right_other,
                           int differ)
{
    if (left >= 0)
        return left;
    return differ ? right->first_rank : right_other;
}

/* Everything but the sums. */
static void absorb(mpt_record_partial_t *left, const mpt_record_partial_t *right)
{
    if (right->status > left->status) {
        left->status = right->status;
        left->status_rank = right->status_rank;
    }
    left->stop |= right->stop;
    left->tokens += right->tokens;
    left->save_pending |= right->save_pending;
    left->save_failed |= right->save_failed;
    left->disagree_rank =
        first_other(left->disagree_rank, right, right->disagree_rank,
                    left->step != right->step || left->scale_bits != right->scale_bits);
    left->replica_rank =
        first_other(left->replica_rank, right, right->replica_rank, left->hash != right->hash);
    absorb_offender(left, right);
}

/* ---- many -------------------------------------------------------------------------------------------- */

/* The tree over a field of `count` structs that are `stride` bytes apart. */
static double fold_tree(const double *field, size_t stride, int count, double *scratch)
{
    for (int i = 0; i < count; i++)
        scratch[i] = *(const double *)((const char *)field + (size_t)i * stride);
    return mpt_tree_sum_f64(scratch, count);
}

void mpt_record_summarize(const mpt_record_t *records, int first_rank, int count, double *scratch,
                          mpt_record_partial_t *partial_p)
{
    assert(count >= 1);
    mpt_record_partial_t all = partial_of(&records[0], first_rank);
    for (int i = 1; i < count; i++) {
        mpt_record_partial_t one = partial_of(&records[i], first_rank + i);
        absorb(&all, &one);
    }
    all.loss_sum = fold_tree(&records[0].loss_sum, sizeof *records, count, scratch);
    all.sumsq = fold_tree(&records[0].sumsq, sizeof *records, count, scratch);
    *partial_p = all;
}

void mpt_record_merge(const mpt_record_partial_t *partials, int count, double *scratch,
                      mpt_record_partial_t *partial_p)
{
    assert(count >= 1);
    mpt_record_partial_t all = partials[0];
    for (int i = 1; i < count; i++)
        absorb(&all, &partials[i]);
    all.loss_sum = fold_tree(&partials[0].loss_sum, sizeof *partials, count, scratch);
    all.sumsq = fold_tree(&partials[0].sumsq, sizeof *partials, count, scratch);
    *partial_p = all;
}

/* Which NaN a sum of NaNs is depends on how the compiler ordered its operands. */
static double one_nan(double sum)
{
    return isnan(sum) ? (double)NAN : sum;
}

void mpt_record_conclude(const mpt_record_partial_t *partial, const mpt_record_fold_t *fold,
                         mpt_verdict_t *verdict_p)
{
    int replica_rank = fold->replicas == 1 ? partial->replica_rank : -1;
    *verdict_p = (mpt_verdict_t){.status = (mpt_status_t)partial->status,
                                 .status_rank = partial->status_rank,
                                 .stop = partial->stop,
                                 .overflow = partial->bad_kind != 0,
                                 .wire = partial->bad_kind == MPT_RECORD_BAD_WIRE,
                                 .bad_rank = partial->bad_rank,
                                 .bad_micro_step = partial->bad_micro_step,
                                 .bad_element = partial->bad_element,
                                 .bad_bits = partial->bad_bits,
                                 .bad_count = partial->bad_count,
                                 .sumsq = one_nan(partial->sumsq),
                                 .loss_sum = one_nan(partial->loss_sum),
                                 .tokens = partial->tokens,
                                 .disagree_rank = partial->disagree_rank,
                                 .saves_ended = !partial->save_pending,
                                 .save_failed = partial->save_failed,
                                 .replica_rank = replica_rank,
                                 .replica_of = replica_rank >= 0 ? partial->first_rank : -1};
}

/* ---- all records together ---------------------------------------------------------------------------- */

/* Sums of squares in the order of the parts that ranks look after (layout.h). */
static double fold_parts(const mpt_record_t *records, const mpt_record_fold_t *fold,
                         double *scratch)
{
    int groups = fold->ranks / fold->group;
    for (int r = 0; r < fold->ranks; r++)
        scratch[r % fold->group * groups + r / fold->group] = records[r].sumsq;
    return mpt_tree_sum_f64(scratch, fold->ranks);
}

static void compare_replicas(const mpt_record_t *records, const mpt_record_fold_t *fold,
                             mpt_verdict_t *verdict)
{
    for (int r = fold->replicas; r < fold->ranks; r++) {
        if (records[r].hash == records[r % fold->replicas].hash)
            continue;
        verdict->replica_rank = r;
        verdict->replica_of = r % fold->replicas;
        return;
    }
}

void mpt_record_fold(const mpt_record_t *records, const mpt_record_fold_t *fold, double *scratch,
                     mpt_verdict_t *verdict_p)
{
    assert(fold->group >= 1 && fold->ranks % fold->group == 0 && fold->replicas >= 1);
    mpt_record_partial_t all;
    mpt_record_summarize(records, 0, fold->ranks, scratch, &all);
    if (fold->group != fold->ranks)
        all.sumsq = fold_parts(records, fold, scratch);
    mpt_record_conclude(&all, fold, verdict_p);
    if (fold->replicas != 1)
        compare_replicas(records, fold, verdict_p);
}
