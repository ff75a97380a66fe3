#include "gather.h"

#include <stdio.h>

void mpt_gather_init(mpt_gather_t *gather, mpt_state_t *state, mpt_comm_t *comm, mpt_stream_t *stream)
{
    *gather = (mpt_gather_t){.state = state, .comm = comm, .stream = stream, .window = {-1, -1, -1}};
}

/* This rank's slice of unit `unit` to all who need the unit whole. */
static mpt_status_t gather_unit(mpt_gather_t *gather, int unit)
{
    mpt_state_t *state = gather->state;
    size_t bytes = (size_t)mpt_layout_slice(state->layout, unit) * mpt_dtype_bytes(state->params.compute);
    snprintf(gather->what, sizeof gather->what, "unit %d weights", unit);
    gather->comm->what = gather->what;
    mpt_status_t status =
        mpt_comm_all_gather(gather->comm, mpt_held_slice(state, &state->working, unit),
                            mpt_held_unit(state->layout, &state->gathered, unit), bytes, gather->stream);
    gather->comm->what = NULL;
    return status;
}

mpt_status_t mpt_gather_updated(mpt_gather_t *gather)
{
    const mpt_state_t *state = gather->state;
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < 3; i++)
        gather->window[i] = -1;
    if (state->gathered.hold == MPT_HOLD_WINDOW || state->params.shard == MPT_SHARD_DDP)
        return MPT_OK;
    for (int u = 0; u < state->layout->unit_count && status == MPT_OK; u++)
        status = gather_unit(gather, u);
    return status;
}

static mpt_status_t fill_place(mpt_gather_t *gather, int unit)
{
    int place = unit == 0 ? 0 : 1 + (unit - 1) % 2;
    if (gather->window[place] == unit)
        return MPT_OK;
    mpt_status_t status = gather_unit(gather, unit);
    if (status == MPT_OK)
        gather->window[place] = unit;
    return status;
}

mpt_status_t mpt_gather_need(mpt_gather_t *gather, int unit, int next)
{
    if (gather->state->gathered.hold != MPT_HOLD_WINDOW)
        return MPT_OK;
    mpt_status_t status = fill_place(gather, unit);
    if (status == MPT_OK && next >= 0)
        status = fill_place(gather, next);
    return status;
}
