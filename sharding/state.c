#include "state.h"

/* ---- what is held where --------------------------------------------------------------------------- */

int64_t mpt_held_count(const mpt_layout_t *layout, mpt_hold_t hold)
{
    if (hold == MPT_HOLD_WINDOW)
        return layout->units[0].padded + 2 * mpt_layout_largest(layout);
    return hold == MPT_HOLD_ALL ? layout->total : layout->total / layout->group;
}

/* Offset of unit `unit` in an array held so. */
static int64_t unit_at(const mpt_layout_t *layout, mpt_hold_t hold, int unit)
{
    int64_t first = layout->units[unit].first;
    if (hold == MPT_HOLD_WINDOW)
        return unit == 0 ? 0 : layout->units[0].padded + (mpt_window_place(unit) - 1) * mpt_layout_largest(layout);
    return hold == MPT_HOLD_ALL ? first : first / layout->group;
}

void *mpt_held_unit(const mpt_layout_t *layout, const mpt_held_t *held, int unit)
{
    return mpt_state_at(held->data, held->dtype, unit_at(layout, held->hold, unit));
}

int64_t mpt_held_unit_count(const mpt_layout_t *layout, const mpt_held_t *held, int unit)
{
    return held->hold == MPT_HOLD_SLICE ? mpt_layout_slice(layout, unit) : layout->units[unit].padded;
}

void *mpt_held_slice(const mpt_state_t *state, const mpt_held_t *held, int unit)
{
    const mpt_layout_t *layout = state->layout;
    int64_t at = unit_at(layout, held->hold, unit);
    if (held->hold != MPT_HOLD_SLICE)
        at += mpt_layout_slice(layout, unit) * mpt_layout_slice_of(layout, state->params.rank);
    return mpt_state_at(held->data, held->dtype, at);
}

void mpt_state_owned(const mpt_state_t *state, int *pieces_p, int *index_p)
{
    int whole = state->params.shard == MPT_SHARD_DDP;
    *pieces_p = whole ? 1 : state->layout->group;
    *index_p = whole ? 0 : mpt_layout_slice_of(state->layout, state->params.rank);
}

void *mpt_held_at(const mpt_state_t *state, const mpt_held_t *held, int64_t at)
{
    const mpt_layout_t *layout = state->layout;
    int unit = 0;
    if (held->hold == MPT_HOLD_ALL)
        return mpt_state_at(held->data, held->dtype, at);
    while (at >= layout->units[unit].first + layout->units[unit].padded)
        unit++;
    int64_t slice = mpt_layout_slice(layout, unit);
    int64_t first = slice * mpt_layout_slice_of(layout, state->params.rank);
    return mpt_state_at(mpt_held_unit(layout, held, unit), held->dtype,
                        at - layout->units[unit].first - first);
}

/* ---- cutting ---------------------------------------------------------------------------------------- */

static mpt_held_t cut(const mpt_state_t *state, mpt_arena_t *arena, mpt_use_t use, mpt_hold_t hold,
                      mpt_dtype_t dtype)
{
    size_t bytes = (size_t)mpt_held_count(state->layout, hold) * mpt_dtype_bytes(dtype);
    return (mpt_held_t){.data = mpt_arena_cut(arena, use, bytes), .dtype = dtype, .hold = hold};
}

static void cut_weights(mpt_state_t *state, mpt_arena_t *private_arena, mpt_arena_t *peer_arena)
{
    const mpt_state_params_t *p = &state->params;
    int sliced = p->shard >= MPT_SHARD_ZERO3;
    mpt_hold_t owned = p->shard == MPT_SHARD_DDP ? MPT_HOLD_ALL : MPT_HOLD_SLICE;
    state->working = cut(state, peer_arena, MPT_USE_WEIGHTS, sliced ? MPT_HOLD_SLICE : MPT_HOLD_ALL, p->compute);
    state->gathered = state->working;
    if (sliced)
        state->gathered = cut(state, private_arena, MPT_USE_WEIGHTS, MPT_HOLD_WINDOW, p->compute);
    if (p->with_master)
        state->master = cut(state, private_arena, MPT_USE_MASTERS, owned, MPT_F32);
    state->m = cut(state, private_arena, MPT_USE_MOMENTS, owned, MPT_F32);
    state->v = cut(state, private_arena, MPT_USE_MOMENTS, owned, MPT_F32);
    if (p->with_ema)
        state->ema = cut(state, private_arena, MPT_USE_EMA, owned, MPT_F32);
}

static void cut_accumulators(mpt_state_t *state, mpt_arena_t *arena)
{
    const mpt_state_params_t *p = &state->params;
    int window = p->reduce_micro || (p->shard >= MPT_SHARD_ZERO2 && p->micro_steps == 1);
    for (int lanes = p->lanes; lanes > 0; lanes /= 2)
        state->accumulator[state->accumulators++] =
            cut(state, arena, MPT_USE_ACCUMULATORS, window ? MPT_HOLD_WINDOW : MPT_HOLD_ALL, MPT_F32);
}

static void cut_reduced(mpt_state_t *state, mpt_arena_t *private_arena, mpt_arena_t *peer_arena)
{
    const mpt_state_params_t *p = &state->params;
    int in_place = !p->reduce_micro && state->contribution.hold == MPT_HOLD_ALL;
    int sliced = !in_place && p->shard != MPT_SHARD_DDP;
    mpt_dtype_t dtype = p->reduce_micro ? MPT_F32 : p->wire;
    state->reduced = state->contribution;
    if (in_place)
        return;
    if (sliced)
        state->reduced = cut(state, private_arena, MPT_USE_GRADIENTS, MPT_HOLD_SLICE, dtype);
    else
        state->reduced = cut(state, peer_arena, MPT_USE_GRADIENTS, MPT_HOLD_ALL, dtype);
}

static void cut_gradients(mpt_state_t *state, mpt_arena_t *private_arena, mpt_arena_t *peer_arena)
{
    const mpt_state_params_t *p = &state->params;
    int in_place = p->wire == MPT_F32, window = p->shard >= MPT_SHARD_ZERO2 || p->reduce_micro;
    cut_accumulators(state, in_place ? peer_arena : private_arena);
    state->contribution = state->accumulator[0];
    if (!in_place)
        state->contribution =
            cut(state, peer_arena, MPT_USE_GRADIENTS, window ? MPT_HOLD_WINDOW : MPT_HOLD_ALL, p->wire);
    cut_reduced(state, private_arena, peer_arena);
}

static void cut_partial(mpt_state_t *state, mpt_arena_t *peer_arena)
{
    const mpt_layout_t *layout = state->layout;
    int64_t largest = mpt_layout_largest(layout);
    if (state->params.shard != MPT_SHARD_HSDP)
        return;
    if (layout->units[0].padded > largest)
        largest = layout->units[0].padded;
    state->partial =
        mpt_arena_cut(peer_arena, MPT_USE_COMM, (size_t)(largest / layout->group) * sizeof(float));
}

/* ---- global elements ---------------------------------------------------------------------------------- */

/* The unit's tensors of one kind, in the order of their offsets. */
static int fill_kind(mpt_state_t *state, int unit, int decay, int count)
{
    const mpt_layout_t *layout = state->layout;
    int pieces, index;
    mpt_state_owned(state, &pieces, &index);
    int64_t start = layout->units[unit].first + layout->units[unit].padded / pieces * index;
    for (int t = 0; t < layout->tensor_count; t++) {
        mpt_extent_t extent;
        if (layout->tensors[t].unit != unit || !!layout->tensors[t].decay != decay ||
            !mpt_layout_extent(layout, pieces, index, t, &extent))
            continue;
        state->runs[count++] = (mpt_run_t){.at = extent.at - start,
                                           .count = extent.count,
                                           .element = layout->tensors[t].first + extent.first};
    }
    return count;
}

static void fill_runs(mpt_state_t *state)
{
    int count = 0;
    for (int u = 0; u < state->layout->unit_count; u++) {
        state->run_first[u] = count;
        count = fill_kind(state, u, 1, count);
        count = fill_kind(state, u, 0, count);
    }
    state->run_first[state->layout->unit_count] = count;
}

void mpt_state_cut(mpt_state_t *state, const mpt_state_params_t *params, mpt_arena_t *private_arena,
                   mpt_arena_t *peer_arena)
{
    const mpt_layout_t *layout = params->layout;
    size_t units = (size_t)layout->unit_count, lanes = (size_t)(layout->lanes / layout->ranks);
    *state = (mpt_state_t){.params = *params, .layout = layout};
    cut_weights(state, private_arena, peer_arena);
    cut_gradients(state, private_arena, peer_arena);
    cut_partial(state, peer_arena);
    state->runs = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, (size_t)layout->tensor_count * sizeof(mpt_run_t));
    state->run_first = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, (units + 1) * sizeof(int));
    state->bad_wire = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, units * sizeof(mpt_offender_t));
    state->bad_kept = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, units * sizeof(mpt_offender_t));
    state->bad_sum = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, units * lanes * sizeof(mpt_offender_t));
    state->sumsq = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, units * lanes * sizeof(double));
    state->hash = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, sizeof(uint64_t));
    if (!mpt_arena_counting(private_arena))
        fill_runs(state);
}

/* ---- working weights ------------------------------------------------------------------------------------ */

mpt_status_t mpt_state_refresh(mpt_state_t *state, const mpt_held_t *from, const mpt_stochastic_t *stochastic,
                               mpt_kernels_t *kernels, mpt_stream_t *stream)
{
    const mpt_layout_t *layout = state->layout;
    mpt_status_t status = MPT_OK;
    for (int u = 0; u < layout->unit_count && status == MPT_OK; u++) {
        int whole = from->hold == MPT_HOLD_ALL;
        mpt_stochastic_t rounding = {0};
        if (stochastic != NULL) {
            rounding = *stochastic;
            rounding.runs = state->runs + state->run_first[u];
            rounding.run_count = state->run_first[u + 1] - state->run_first[u];
        }
        status = mpt_cast(kernels,
                          &(mpt_cast_t){.dst_dtype = state->params.compute,
                                        .src_dtype = MPT_F32,
                                        .count = mpt_held_unit_count(layout, from, u),
                                        .dst = whole ? mpt_held_unit(layout, &state->working, u)
                                                     : mpt_held_slice(state, &state->working, u),
                                        .src = mpt_held_unit(layout, from, u),
                                        .stochastic = stochastic != NULL ? &rounding : NULL},
                          stream);
    }
    return status;
}
