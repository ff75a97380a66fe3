#include "gather.h"

#include <stdio.h>

static void forget(mpt_gather_t *gather)
{
    for (int i = 0; i < MPT_WINDOW_PLACES; i++)
        gather->window[i] = -1;
}

void mpt_gather_init(mpt_gather_t *gather, mpt_state_t *state, mpt_worker_t *worker, mpt_comm_t *comm,
                     mpt_stream_t *stream)
{
    *gather = (mpt_gather_t){.state = state, .worker = worker, .comm = comm, .stream = stream};
    forget(gather);
}

/* The worker's job: this rank's slice of unit `unit` to all who need the unit whole. */
static mpt_status_t gather_unit(void *ctx, int unit, int unused)
{
    mpt_gather_t *gather = ctx;
    mpt_state_t *state = gather->state;
    size_t bytes = (size_t)mpt_layout_slice(state->layout, unit) * mpt_dtype_bytes(state->params.compute);
    (void)unused;
    snprintf(gather->what, sizeof gather->what, "unit %d weights", unit);
    gather->comm->what = gather->what;
    mpt_status_t status =
        mpt_comm_all_gather(gather->comm, mpt_held_slice(state, &state->working, unit),
                            mpt_held_unit(state->layout, &state->gathered, unit), bytes, gather->stream);
    gather->comm->what = NULL;
    return status;
}

mpt_status_t mpt_gather_updated(mpt_gather_t *gather, int unit)
{
    const mpt_state_t *state = gather->state;
    mpt_ticket_t ticket;
    forget(gather);
    if (state->gathered.hold == MPT_HOLD_WINDOW || state->params.shard == MPT_SHARD_DDP)
        return MPT_OK;
    mpt_status_t status = mpt_worker_post(gather->worker, gather_unit, gather, unit, 0, &ticket);
    if (status == MPT_OK && unit == 0)
        gather->first = ticket;
    return status;
}

mpt_status_t mpt_gather_all_updated(mpt_gather_t *gather)
{
    mpt_status_t status = MPT_OK;
    for (int u = 0; u < gather->state->layout->unit_count && status == MPT_OK; u++)
        status = mpt_gather_updated(gather, u);
    return status;
}

static mpt_status_t fill_place(mpt_gather_t *gather, int unit)
{
    int place = mpt_window_place(unit);
    if (gather->window[place] == unit)
        return MPT_OK;
    mpt_status_t status = mpt_worker_post(gather->worker, gather_unit, gather, unit, 0, &gather->tickets[place]);
    if (status == MPT_OK)
        gather->window[place] = unit;
    return status;
}

mpt_status_t mpt_gather_need(mpt_gather_t *gather, int unit, int next)
{
    if (gather->state->gathered.hold != MPT_HOLD_WINDOW)
        return gather->first == 0 ? MPT_OK
                                  : mpt_worker_wait(gather->worker, gather->first + (mpt_ticket_t)unit);
    mpt_status_t status = fill_place(gather, unit);
    if (status == MPT_OK && next >= 0)
        status = fill_place(gather, next);
    return status == MPT_OK ? mpt_worker_wait(gather->worker, gather->tickets[mpt_window_place(unit)]) : status;
}
