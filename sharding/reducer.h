/*
 * The reducer: turns one unit's accumulated gradients into the reduced gradient, as soon as backward has
 * finished the unit. Per unit: round to the wire (dividing by the power of two D), reduce-scatter, scan
 * this rank's slice (sum of squares, non-finite values), all-gather the reduced slices (ddp).
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
    mpt_comm_t *comm;       /* borrowed */
    mpt_stream_t *stream;   /* borrowed */
    double divisor;         /* D */
    char what[48];          /* for comm's messages */
} mpt_reducer_t;

/** D for a wire type: 1, or for FP16 the power of two 2^ceil(log2(m * sqrt(ranks))), m the micro-steps in one contribution. */
double mpt_reducer_divisor(mpt_dtype_t wire, int64_t micro_steps, int ranks);
/** Reduce unit `unit`. Enqueued. @return MPT_OK; MPT_ERR_COMM; MPT_ERR_DEVICE. */
mpt_status_t mpt_reducer_unit(mpt_reducer_t *reducer, int unit);
/** After every unit: put this rank's sum of squares and first offender into the record. `micro_step` is named for offenders. */
void mpt_reducer_report(const mpt_reducer_t *reducer, int micro_step, mpt_record_t *record);

#ifdef __cplusplus
}
#endif
#endif
