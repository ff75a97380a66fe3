/*
 * Working weights where the model can read them. In ddp to zero2 every rank holds them all, and after an update the slices
 * are gathered in place, unit by unit. In zero3 and hsdp a rank holds a slice, and a unit is gathered into the
 * state's window just before its use and given up when another takes its place; unit 0 has a place of its own.
 * What is in the window stays good until the weights change, so that a unit that is needed again at once (the last
 * ones of forward, the first ones of backward) is not gathered twice.
 *
 * Gathers are the worker's jobs: the caller waits for a unit where it needs it, and computes with it while the next one
 * comes. Collective: every rank needs the same units
 * in the same order.
 */
#ifndef MPT_GATHER_H
#define MPT_GATHER_H

#include "comm.h"
#include "state.h"
#include "worker.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_gather {
    mpt_state_t *state;   /* borrowed, as is all that follows */
    mpt_worker_t *worker;
    mpt_comm_t *comm;     /* the worker's: the ranks that hold all slices once */
    mpt_stream_t *stream; /* the worker's */
    int window[MPT_WINDOW_PLACES];           /* the unit in each place of the window, -1: none */
    mpt_ticket_t tickets[MPT_WINDOW_PLACES]; /* of its gather */
    mpt_ticket_t first;   /* where all are held: of unit 0's gather, which the others' follow one by one; 0: none */
    char what[48];        /* the worker's */
} mpt_gather_t;

/** Start with nothing gathered. */
void mpt_gather_init(mpt_gather_t *gather, mpt_state_t *state, mpt_worker_t *worker, mpt_comm_t *comm, mpt_stream_t *stream);
/** The working weights of unit `unit` have changed, of every unit, from 0 on in order: ddp: nothing; zero1, zero2: gather it; zero3, hsdp: forget what was
 *  gathered. Handed to the worker. @return MPT_OK; MPT_ERR_COMM. */
mpt_status_t mpt_gather_updated(mpt_gather_t *gather, int unit);
/** The same for all units. */
mpt_status_t mpt_gather_all_updated(mpt_gather_t *gather);
/** Make unit `unit` readable, and begin with `next` (-1: none). Complete on return, but for `next`. @return MPT_OK; MPT_ERR_COMM. */
mpt_status_t mpt_gather_need(mpt_gather_t *gather, int unit, int next);

#ifdef __cplusplus
}
#endif
#endif
