/*
 * Working weights where the model can read them. In ddp to zero2 every rank holds them all, and after an update the slices
 * are gathered in place, unit by unit. In zero3 and hsdp a rank holds a slice, and a unit is gathered into the
 * state's window just before its use and given up when another takes its place; unit 0 has a place of its own.
 * What is in the window stays good until the weights change, so that a unit that is needed again at once (the last
 * ones of forward, the first ones of backward) is not gathered twice. Collective: every rank needs the same units
 * in the same order.
 */
#ifndef MPT_GATHER_H
#define MPT_GATHER_H

#include "comm.h"
#include "state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_gather {
    mpt_state_t *state;   /* borrowed */
    mpt_comm_t *comm;     /* borrowed: the ranks that hold all slices once */
    mpt_stream_t *stream; /* borrowed */
    int window[3];        /* the unit in each place of the window, -1: none */
    char what[48];
} mpt_gather_t;

/** Start with nothing gathered. */
void mpt_gather_init(mpt_gather_t *gather, mpt_state_t *state, mpt_comm_t *comm, mpt_stream_t *stream);
/** The working weights have changed: ddp: nothing; zero1, zero2: gather every unit; zero3, hsdp: forget what was gathered. Enqueued. @return MPT_OK; MPT_ERR_COMM. */
mpt_status_t mpt_gather_updated(mpt_gather_t *gather);
/** Make unit `unit` readable, and begin with `next` (-1: none). Enqueued. @return MPT_OK; MPT_ERR_COMM. */
mpt_status_t mpt_gather_need(mpt_gather_t *gather, int unit, int next);

#ifdef __cplusplus
}
#endif
#endif
