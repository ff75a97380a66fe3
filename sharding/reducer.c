#include "reducer.h"

#include <math.h>
#include <stdio.h>

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

static mpt_status_t round_to_wire(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    const mpt_unit_t *u = &state->layout->units[unit];
    return mpt_to_wire(reducer->kernels,
                       &(mpt_to_wire_t){.wire_dtype = state->wire,
                                        .count = u->padded,
                                        .acc = state->accumulator + u->first,
                                        .wire = mpt_state_at(state->gradient, state->wire, u->first),
                                        .scale = (float)(1.0 / reducer->divisor),
                                        .bad = &state->bad_wire[unit]},
                       reducer->stream);
}

static mpt_status_t scan_slice(mpt_reducer_t *reducer, int unit, const void *slice, int64_t count)
{
    mpt_state_t *state = reducer->state;
    return mpt_grad_scan(reducer->kernels,
                         &(mpt_grad_scan_t){.dtype = state->wire,
                                            .count = count,
                                            .grad = slice,
                                            .sumsq = &state->sumsq[unit],
                                            .bad = &state->bad_sum[unit]},
                         reducer->stream);
}

mpt_status_t mpt_reducer_unit(mpt_reducer_t *reducer, int unit)
{
    mpt_state_t *state = reducer->state;
    mpt_comm_t *comm = reducer->comm;
    int64_t slice = mpt_layout_slice(state->layout, unit);
    void *all = mpt_state_at(state->gradient, state->wire, state->layout->units[unit].first);
    void *own = mpt_state_at(all, state->wire, slice * comm->rank);
    snprintf(reducer->what, sizeof reducer->what, "unit %d gradients", unit);
    comm->what = reducer->what;
    mpt_status_t status = round_to_wire(reducer, unit);
    if (status == MPT_OK)
        status = mpt_comm_reduce_scatter(comm, all, own, slice, state->wire, state->wire,
                                         reducer->stream);
    if (status == MPT_OK)
        status = scan_slice(reducer, unit, own, slice);
    if (status == MPT_OK)
        status = mpt_comm_all_gather(comm, own, all,
                                     (size_t)slice * mpt_dtype_bytes(state->wire), reducer->stream);
    comm->what = NULL;
    return status;
}

/* The lowest global element index among the units' offenders; `base` turns an index into a unit offset. */
static uint64_t first_offender(const mpt_reducer_t *reducer, const mpt_offender_t *bad, int in_slice,
                               mpt_record_t *record)
{
    const mpt_layout_t *layout = reducer->state->layout;
    uint64_t count = 0, best = UINT64_MAX;
    for (int u = 0; u < layout->unit_count; u++) {
        int tensor;
        int64_t element, offset = (int64_t)bad[u].first;
        count += bad[u].count;
        if (bad[u].count == 0)
            continue;
        if (in_slice)
            offset += mpt_layout_slice(layout, u) * reducer->comm->rank;
        if (!mpt_layout_locate(layout, u, offset, &tensor, &element))
            continue;
        uint64_t global = (uint64_t)(layout->tensors[tensor].first + element);
        if (global < best) {
            best = global;
            record->bad_element = global;
            record->bad_bits = bad[u].bits;
        }
    }
    return count;
}

void mpt_reducer_report(const mpt_reducer_t *reducer, int micro_step, mpt_record_t *record)
{
    const mpt_state_t *state = reducer->state;
    record->sumsq = 0.0;
    for (int u = 0; u < state->layout->unit_count; u++)
        record->sumsq += state->sumsq[u];
    uint64_t count = first_offender(reducer, state->bad_wire, 0, record);
    if (count > 0) {
        record->flags |= MPT_RECORD_BAD_WIRE;
    } else {
        count = first_offender(reducer, state->bad_sum, 1, record);
        if (count > 0)
            record->flags |= MPT_RECORD_BAD_SUM;
    }
    if (count > 0)
        record->micro_step = (uint16_t)micro_step;
    record->bad_count = count > UINT32_MAX ? UINT32_MAX : (uint32_t)count;
}
