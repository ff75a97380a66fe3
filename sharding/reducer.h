/*
 * The reducer: turns one unit's accumulated gradients into the reduced gradient, as soon as backward has
 * finished the unit:
 *
 *   merge lanes -> round to the wire (over the power of two D) -> reduce-scatter -> [hsdp: all-reduce across groups,
 *   round to the wire] -> scan this rank's part -> [ddp: all-gather]
 *
 * Under reduce_every = micro this happens in every micro-step but for the scan and the all-gather, and the sums over ranks,
 * FP32 and not rounded again, add up in the reduced slice.
 *
 * Units are reduced by the worker, after one another, while backward goes on with the next: the caller waits only before it
 * writes where a unit under way lies (mpt_reducer_claim), and for all of them in the end (mpt_reducer_finish).
 * Collective: every rank reduces the same units in the same order.
 */
#ifndef MPT_REDUCER_H
#define MPT_REDUCER_H

#include "comm.h"
#include "record.h"
#include "state.h"
#include "worker.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_reducer {
    mpt_state_t *state;     /* borrowed, as is all that follows */
    mpt_kernels_t *kernels; /* the caller's: lanes are merged with them */
    mpt_stream_t *stream;
    mpt_worker_t *worker;
    mpt_kernels_t *worker_kernels; /* what the worker's jobs work with */
    mpt_stream_t *worker_stream;
    mpt_comm_t *group;      /* the worker's: the ranks that hold all slices once */
    mpt_comm_t *across;     /* the worker's: hsdp: the ranks that hold the same slice; NULL: this rank alone */
    double divisor;         /* D */
    mpt_ticket_t tickets[MPT_WINDOW_PLACES]; /* of the unit that was handed over last from each place of the window */
    char what[48];          /* the worker's: for comm's messages */
} mpt_reducer_t;

/** D for a wire type: 1, or for FP16 the power of two 2^ceil(log2(m * sqrt(ranks))), m the micro-steps in one contribution. */
double mpt_reducer_divisor(mpt_dtype_t wire, int64_t micro_steps, int ranks);
/** Where lane `lane` (from 0) of this rank's adds its gradients. */
mpt_held_t *mpt_reducer_accumulator(const mpt_reducer_t *reducer, int lane);
/** Backward of the last micro-step of lane `lane` has finished unit `unit`: add what the tree has complete, in FP32. Enqueued. @return MPT_OK; MPT_ERR_DEVICE. */
mpt_status_t mpt_reducer_merge(mpt_reducer_t *reducer, int unit, int lane);
/** A step begins: nothing is reduced and nothing was bad. Enqueued. */
mpt_status_t mpt_reducer_begin(mpt_reducer_t *reducer);
/**
 * Reduce unit `unit`, whose lanes are merged and whose last contribution was micro-step `micro_step`'s; after the last micro-step nothing
 * more comes in this step. Remembers where contributions were bad. Handed to the worker, and complete after mpt_reducer_finish.
 * @return MPT_OK; MPT_ERR_COMM, MPT_ERR_DEVICE, of this unit or an earlier one.
 */
mpt_status_t mpt_reducer_unit(mpt_reducer_t *reducer, int unit, int micro_step);
/** Before unit `unit`'s accumulator is written for the first time in a micro-step: wait until what lies there has gone. @return as mpt_reducer_unit. */
mpt_status_t mpt_reducer_claim(mpt_reducer_t *reducer, int unit);
/** What the reduction of a unit ends with: remember whether its contribution of `micro_step` was bad. Local; for tests. */
void mpt_reducer_note(mpt_reducer_t *reducer, int unit, int micro_step);
/** Wait for all units. @return as mpt_reducer_unit. */
mpt_status_t mpt_reducer_finish(mpt_reducer_t *reducer);
/** After mpt_reducer_finish: put this rank's sum of squares and first offender into the record. `micro_step` is named for offenders whose own is not known. */
void mpt_reducer_report(const mpt_reducer_t *reducer, int micro_step, mpt_record_t *record);

#ifdef __cplusplus
}
#endif
#endif
