#include "reducer.h"

#include <math.h>
#include <stdio.h>

#include "numeric.h"

double mpt_reducer_divisor(mpt_dtype_t wire, int64_t micro_steps, int ranks)
{
    if (wire != MPT_F16)
        return 1.0;
    double divisor = 1.0;
    /* ceil(log2(x)) without a logarithm's rounding: x^2 = m^2 * ranks is exact. */
    while (divisor * divisor < (double)micro_steps * (double)micro_steps * ranks)
        divisor *= 2.0;
    return divisor;
}

/* ---- lanes ------------------------------------------------------------------------------------------ */

/* Lanes whose sums wait while lane `lane` runs: one for each bit set, as in a binary counter. */
static int waiting(int lane)
{
    return __builtin_popcount((unsigned)lane);
}

mpt_held_t *mpt_reducer_accumulator(const mpt_reducer_t *reducer, int lane)
{
    return &reducer->state->accumulator[waiting(lane)];
}

/* A counter's step from `lane` to `lane + 1` carries once for each trailing one: neighbours are added. */
mpt_status_t mpt_reducer_merge(mpt_reducer_t *reducer, int unit, int lane)
{
    mpt_state_t *state = reducer->state;
    mpt_status_t status = MPT_OK;
    int top = waiting(lane), carries = __builtin_ctz((unsigned)lane + 1);
    for (int i = 0; i < carries && status == MPT_OK; i++, top--)
        status = mpt_add(reducer->kernels,
                         &(mpt_add_t){.dtype = MPT_F32,
                                      .count = state->layout->units[unit].padded,
                                      .acc = mpt_held_unit(state->layout, &state->accumulator[top - 1], unit),
                                      .x = mpt_held_unit(state->layout, &state->accumulator[top], unit)},
                         reducer->stream);
    return status;
}

/* ---- one unit --------------------------------------------------------------------------------------- */

mpt_status_t mpt_reducer_begin(mpt_reducer_t *reducer)
{
    mpt_state_t *state = reducer->state;
    mpt_device_t *device = reducer->kernels->device;
    for (int u = 0; u < state->layout->unit_count; u++)
        state->bad_kept[u] = (mpt_offender_t){0};
    if (!state->params.reduce_micro)
        return MPT_OK;
    size_t bytes = (size_t)mpt_held_count(state->layout, state->reduced.hold) * sizeof(float);
    return device->ops->fill_zero(device, state->reduced.data, bytes, reducer->stream);
}

static mpt_status_t round_to_wire(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    const mpt_layout_t *layout = state->layout;
    return mpt_to_wire(reducer->worker_kernels,
                       &(mpt_to_wire_t){.wire_dtype = state->params.wire,
                                        .count = layout->units[unit].padded,
                                        .acc = mpt_held_unit(layout, &state->accumulator[0], unit),
                                        .wire = mpt_held_unit(layout, &state->contribution, unit),
                                        .scale = (float)(1.0 / reducer->divisor),
                                        .bad = &state->bad_wire[unit]},
                       reducer->worker_stream);
}

/* The group's sum of this rank's slice, then of all groups, FP32, in `partial`. */
static mpt_status_t sum_across(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    int64_t slice = mpt_layout_slice(state->layout, unit);
    mpt_status_t status =
        mpt_comm_reduce_scatter(reducer->group, mpt_held_unit(state->layout, &state->contribution, unit),
                                state->partial, slice, state->params.wire, MPT_F32, reducer->worker_stream);
    if (status == MPT_OK && reducer->across != NULL)
        status = mpt_comm_all_reduce(reducer->across, state->partial, state->partial, slice, MPT_F32,
                                     reducer->worker_stream);
    return status;
}

static mpt_status_t add_slice(mpt_reducer_t *reducer, int unit, const float *sum)
{
    mpt_state_t *state = reducer->state;
    return mpt_add(reducer->worker_kernels,
                   &(mpt_add_t){.dtype = MPT_F32,
                                .count = mpt_layout_slice(state->layout, unit),
                                .acc = mpt_held_slice(state, &state->reduced, unit),
                                .x = sum},
                   reducer->worker_stream);
}

static mpt_status_t reduce_hsdp(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    int lanes = state->layout->lanes / state->layout->ranks;
    mpt_status_t status = sum_across(reducer, unit);
    if (status != MPT_OK)
        return status;
    if (state->params.reduce_micro)
        return add_slice(reducer, unit, state->partial);
    return mpt_to_wire(reducer->worker_kernels,
                       &(mpt_to_wire_t){.wire_dtype = state->params.wire,
                                        .count = mpt_layout_slice(state->layout, unit),
                                        .acc = state->partial,
                                        .wire = mpt_held_slice(state, &state->reduced, unit),
                                        .scale = 1.0f,
                                        /* overwritten by the scan, which looks at these values again */
                                        .bad = &state->bad_sum[unit * lanes]},
                       reducer->worker_stream);
}

/* Sums that go on adding up are not rounded: they pass through the accumulator, whose values have gone to the wire. */
static mpt_status_t reduce(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    int micro = state->params.reduce_micro;
    void *sum = mpt_held_slice(state, micro ? &state->accumulator[0] : &state->reduced, unit);
    mpt_status_t status =
        mpt_comm_reduce_scatter(reducer->group, mpt_held_unit(state->layout, &state->contribution, unit), sum,
                                mpt_layout_slice(state->layout, unit), state->params.wire,
                                micro ? MPT_F32 : state->params.wire, reducer->worker_stream);
    return status == MPT_OK && micro ? add_slice(reducer, unit, sum) : status;
}

/* This rank's part of the reduced slice, lane by lane. */
static mpt_status_t scan_part(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    const mpt_layout_t *layout = state->layout;
    int lanes = layout->lanes / layout->ranks;
    int64_t part = mpt_layout_part(layout, unit), count = part / lanes;
    mpt_dtype_t dtype = state->reduced.dtype;
    char *from = mpt_state_at(mpt_held_slice(state, &state->reduced, unit), dtype,
                              part * (state->params.rank / layout->group));
    mpt_status_t status = MPT_OK;
    for (int q = 0; q < lanes && status == MPT_OK; q++)
        status = mpt_grad_scan(reducer->worker_kernels,
                               &(mpt_grad_scan_t){.dtype = dtype,
                                                  .count = count,
                                                  .grad = mpt_state_at(from, dtype, q * count),
                                                  .sumsq = &state->sumsq[unit * lanes + q],
                                                  .bad = &state->bad_sum[unit * lanes + q]},
                               reducer->worker_stream);
    return status;
}

static mpt_status_t gather_reduced(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    size_t bytes = (size_t)mpt_layout_slice(state->layout, unit) * mpt_dtype_bytes(state->reduced.dtype);
    return mpt_comm_all_gather(reducer->group, mpt_held_slice(state, &state->reduced, unit),
                               mpt_held_unit(state->layout, &state->reduced, unit), bytes, reducer->worker_stream);
}

static void name_calls(mpt_reducer_t *reducer, const char *what)
{
    reducer->group->what = what;
    if (reducer->across != NULL)
        reducer->across->what = what;
}

void mpt_reducer_note(mpt_reducer_t *reducer, int unit, int micro_step)
{
    mpt_state_t *state = reducer->state;
    const mpt_offender_t *bad = &state->bad_wire[unit];
    mpt_offender_t *kept = &state->bad_kept[unit];
    uint64_t before = kept->count;
    if (bad->count > 0 && before == 0) {
        *kept = *bad;
        kept->reserved = (uint32_t)micro_step;
    }
    kept->count = before + bad->count;
}

static mpt_status_t pass_on(mpt_reducer_t *reducer, int unit, int last)
{
    const mpt_state_t *state = reducer->state;
    mpt_status_t status = state->params.shard == MPT_SHARD_HSDP ? reduce_hsdp(reducer, unit) : reduce(reducer, unit);
    if (status == MPT_OK && last)
        status = scan_part(reducer, unit);
    if (status == MPT_OK && last && state->params.shard == MPT_SHARD_DDP)
        status = gather_reduced(reducer, unit);
    return status;
}

/* The worker's job. */
static mpt_status_t reduce_unit(void *ctx, int unit, int micro_step)
{
    mpt_reducer_t *reducer = ctx;
    mpt_state_t *state = reducer->state;
    mpt_device_t *device = reducer->worker_kernels->device;
    snprintf(reducer->what, sizeof reducer->what, "unit %d gradients", unit);
    name_calls(reducer, reducer->what);
    mpt_status_t status = round_to_wire(reducer, unit);
    if (status == MPT_OK)
        status = pass_on(reducer, unit, micro_step == state->params.micro_steps - 1);
    name_calls(reducer, NULL);
    if (status == MPT_OK)
        status = device->ops->stream_synchronize(device, reducer->worker_stream);
    if (status == MPT_OK)
        mpt_reducer_note(reducer, unit, micro_step);
    return status;
}

mpt_status_t mpt_reducer_unit(mpt_reducer_t *reducer, int unit, int micro_step)
{
    return mpt_worker_post(reducer->worker, reduce_unit, reducer, unit, micro_step,
                           &reducer->tickets[mpt_window_place(unit)]);
}

mpt_status_t mpt_reducer_claim(mpt_reducer_t *reducer, int unit)
{
    return mpt_worker_wait(reducer->worker, reducer->tickets[mpt_window_place(unit)]);
}

mpt_status_t mpt_reducer_finish(mpt_reducer_t *reducer)
{
    return mpt_worker_drain(reducer->worker);
}

/* ---- what it found ---------------------------------------------------------------------------------- */

/* Take `bad`, whose first value lies at `offset` of unit `unit`, for the record if it comes before what is there. */
static void consider(const mpt_layout_t *layout, const mpt_offender_t *bad, int unit, int64_t offset,
                     int micro_step, mpt_record_t *record)
{
    int tensor;
    int64_t element;
    if (!mpt_layout_locate(layout, unit, offset, &tensor, &element))
        return;
    uint64_t global = (uint64_t)(layout->tensors[tensor].first + element);
    if (micro_step > UINT16_MAX) /* the record has no more bits for it */
        micro_step = UINT16_MAX;
    if (micro_step > record->micro_step ||
        (micro_step == record->micro_step && global >= record->bad_element))
        return;
    record->micro_step = (uint16_t)micro_step;
    record->bad_element = global;
    record->bad_bits = bad->bits;
}

static uint64_t report_wire(const mpt_reducer_t *reducer, int micro_step, mpt_record_t *record)
{
    const mpt_state_t *state = reducer->state;
    uint64_t count = 0;
    for (int u = 0; u < state->layout->unit_count; u++) {
        const mpt_offender_t *bad = &state->bad_kept[u];
        int micro = state->params.reduce_micro ? (int)bad->reserved : micro_step;
        count += bad->count;
        if (bad->count > 0)
            consider(state->layout, bad, u, (int64_t)bad->first, micro, record);
    }
    return count;
}

static uint64_t report_sum(const mpt_reducer_t *reducer, int micro_step, mpt_record_t *record)
{
    const mpt_state_t *state = reducer->state;
    const mpt_layout_t *layout = state->layout;
    int lanes = layout->lanes / layout->ranks;
    uint64_t count = 0;
    for (int i = 0; i < layout->unit_count * lanes; i++) {
        const mpt_offender_t *bad = &state->bad_sum[i];
        int64_t part = mpt_layout_part(layout, i / lanes);
        int64_t first = part * mpt_layout_part_of(layout, state->params.rank) + part / lanes * (i % lanes);
        count += bad->count;
        if (bad->count > 0)
            consider(layout, bad, i / lanes, first + (int64_t)bad->first, micro_step, record);
    }
    return count;
}

/* Units in order, then the tree over lanes. */
static double own_sumsq(const mpt_state_t *state)
{
    int lanes = state->layout->lanes / state->layout->ranks;
    double sums[MPT_LANES_MAX] = {0.0};
    for (int i = 0; i < state->layout->unit_count * lanes; i++)
        sums[i % lanes] += state->sumsq[i];
    return mpt_tree_sum_f64(sums, lanes);
}

void mpt_reducer_report(const mpt_reducer_t *reducer, int micro_step, mpt_record_t *record)
{
    record->sumsq = own_sumsq(reducer->state);
    record->micro_step = UINT16_MAX;
    record->bad_element = UINT64_MAX;
    uint8_t flag = MPT_RECORD_BAD_WIRE;
    uint64_t count = report_wire(reducer, micro_step, record);
    if (count == 0) {
        flag = MPT_RECORD_BAD_SUM;
        count = report_sum(reducer, micro_step, record);
    }
    record->bad_count = count > UINT32_MAX ? UINT32_MAX : (uint32_t)count;
    if (count > 0) {
        record->flags |= flag;
        return;
    }
    record->micro_step = 0;
    record->bad_element = 0;
}
