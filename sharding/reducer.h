/*
 * The reducer: turns one unit's accumulated gradients into the reduced gradient, as soon as backward has
 * finished the unit:
 *
 *   merge lanes -> round to the wire (over the power of two D) -> reduce-scatter -> [hsdp: all-reduce across groups,
 *   round to the wire] -> scan this rank's part -> [ddp: all-gather]
 *
 * Under reduce_every = micro this happens in every micro-step but for the scan and the all-gather, and the sums over ranks,
 * FP32 and not rounded again, add up in the reduced slice.
 * Collective: every rank reduces the same units in the same order.
 */
#ifndef MPT_REDUCER_H
#define MPT_REDUCER_H

#include "comm.h"
#include "record.h"
#include "state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_reducer {
    mpt_state_t *state;     /* borrowed */
    mpt_kernels_t *kernels; /* borrowed */
    mpt_comm_t *group;      /* borrowed: the ranks that hold all slices once */
    mpt_comm_t *across;     /* borrowed: hsdp: the ranks that hold the same slice; NULL: this rank alone */
    mpt_stream_t *stream;   /* borrowed */
    double divisor;         /* D */
    char what[48];          /* for comm's messages */
} mpt_reducer_t;

/** D for a wire type: 1, or for FP16 the power of two 2^ceil(log2(m * sqrt(ranks))), m the micro-steps in one contribution. */
double mpt_reducer_divisor(mpt_dtype_t wire, int64_t micro_steps, int ranks);
/** Where lane `lane` (from 0) of this rank's adds its gradients. */
mpt_held_t *mpt_reducer_accumulator(const mpt_reducer_t *reducer, int lane);
/** Backward of the last micro-step of lane `lane` has finished unit `unit`: add what the tree has complete, in FP32. Enqueued. @return MPT_OK; MPT_ERR_DEVICE. */
mpt_status_t mpt_reducer_merge(mpt_reducer_t *reducer, int unit, int lane);
/** A step begins: nothing is reduced and nothing was bad. Enqueued. */
mpt_status_t mpt_reducer_begin(mpt_reducer_t *reducer);
/** Reduce unit `unit`, whose lanes are merged; `last`: nothing more comes in this step. Enqueued. @return MPT_OK; MPT_ERR_COMM; MPT_ERR_DEVICE. */
mpt_status_t mpt_reducer_unit(mpt_reducer_t *reducer, int unit, int last);
/** After a micro-step that reduced, complete on the stream: remember which units' contributions were bad in it. */
void mpt_reducer_note(mpt_reducer_t *reducer, int micro_step);
/** After every unit, complete on the stream: put this rank's sum of squares and first offender into the record. `micro_step` is named for offenders whose own is not known. */
void mpt_reducer_report(const mpt_reducer_t *reducer, int micro_step, mpt_record_t *record);

#ifdef __cplusplus
}
#endif
#endif
