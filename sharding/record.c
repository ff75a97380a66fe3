#include "record.h"

#include <math.h>
#include <string.h>

#include "numeric.h"

_Static_assert(sizeof(mpt_record_t) == 64, "the record is 64 bytes");

/* Order of offenders: wire before sum, then micro-step, element; rank order decides ties. */
static int comes_before(const mpt_record_t *a, const mpt_record_t *b)
{
    int a_wire = !!(a->flags & MPT_RECORD_BAD_WIRE), b_wire = !!(b->flags & MPT_RECORD_BAD_WIRE);
    if (a_wire != b_wire)
        return a_wire;
    if (a->micro_step != b->micro_step)
        return a->micro_step < b->micro_step;
    return a->bad_element < b->bad_element;
}

static double fold_tree(const mpt_record_t *records, int ranks, double *scratch, int loss)
{
    for (int r = 0; r < ranks; r++)
        scratch[r] = loss ? records[r].loss_sum : records[r].sumsq;
    return mpt_tree_sum_f64(scratch, ranks);
}

static void fold_offender(const mpt_record_t *records, int ranks, mpt_verdict_t *verdict)
{
    const mpt_record_t *first = NULL;
    for (int r = 0; r < ranks; r++) {
        if (!(records[r].flags & (MPT_RECORD_BAD_WIRE | MPT_RECORD_BAD_SUM)))
            continue;
        if (first == NULL || comes_before(&records[r], first)) {
            first = &records[r];
            verdict->bad_rank = r;
        }
    }
    if (first == NULL)
        return;
    uint8_t kind = first->flags & MPT_RECORD_BAD_WIRE ? MPT_RECORD_BAD_WIRE : MPT_RECORD_BAD_SUM;
    for (int r = 0; r < ranks; r++)
        if (records[r].flags & kind)
            verdict->bad_count += records[r].bad_count;
    verdict->overflow = 1;
    verdict->wire = kind == MPT_RECORD_BAD_WIRE;
    verdict->bad_micro_step = first->micro_step;
    verdict->bad_element = first->bad_element;
    verdict->bad_bits = first->bad_bits;
}

void mpt_record_fold(const mpt_record_t *records, int ranks, double *scratch,
                     mpt_verdict_t *verdict_p)
{
    mpt_verdict_t verdict = {.status = MPT_OK, .bad_rank = -1, .disagree_rank = -1};
    for (int r = 0; r < ranks; r++) {
        const mpt_record_t *record = &records[r];
        if ((int)record->status > (int)verdict.status) {
            verdict.status = (mpt_status_t)record->status;
            verdict.status_rank = r;
        }
        verdict.stop |= record->flags & MPT_RECORD_STOP;
        verdict.tokens += record->tokens;
        if (verdict.disagree_rank < 0 &&
            (record->step != records[0].step || record->scale != records[0].scale))
            verdict.disagree_rank = r;
    }
    fold_offender(records, ranks, &verdict);
    verdict.loss_sum = fold_tree(records, ranks, scratch, 1);
    verdict.sumsq = fold_tree(records, ranks, scratch, 0);
    *verdict_p = verdict;
}
