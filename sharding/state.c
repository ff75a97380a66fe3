#include "state.h"

static void *cut(mpt_arena_t *arena, mpt_use_t use, int64_t count, size_t element_bytes)
{
    return mpt_arena_cut(arena, use, (size_t)count * element_bytes);
}

void mpt_state_cut(mpt_state_t *state, const mpt_layout_t *layout, mpt_dtype_t compute,
                   mpt_dtype_t wire, mpt_arena_t *private_arena, mpt_arena_t *peer_arena)
{
    int64_t total = layout->total, units = layout->unit_count;
    int in_place = wire == MPT_F32;
    mpt_arena_t *accumulators = in_place ? peer_arena : private_arena;
    *state = (mpt_state_t){.layout = layout, .compute = compute, .wire = wire};
    state->working = cut(peer_arena, MPT_USE_WEIGHTS, total, mpt_dtype_bytes(compute));
    state->accumulator = cut(accumulators, MPT_USE_ACCUMULATORS, total, sizeof(float));
    state->gradient = in_place ? (void *)state->accumulator
                               : cut(peer_arena, MPT_USE_GRADIENTS, total, mpt_dtype_bytes(wire));
    state->master = cut(private_arena, MPT_USE_MASTERS, total, sizeof(float));
    state->m = cut(private_arena, MPT_USE_MOMENTS, total, sizeof(float));
    state->v = cut(private_arena, MPT_USE_MOMENTS, total, sizeof(float));
    state->bad_wire = cut(private_arena, MPT_USE_SCRATCH, units, sizeof(mpt_offender_t));
    state->bad_sum = cut(private_arena, MPT_USE_SCRATCH, units, sizeof(mpt_offender_t));
    state->sumsq = cut(private_arena, MPT_USE_SCRATCH, units, sizeof(double));
}

mpt_status_t mpt_state_refresh(mpt_state_t *state, mpt_kernels_t *kernels, mpt_stream_t *stream)
{
    return mpt_cast(kernels,
                    &(mpt_cast_t){.dst_dtype = state->compute,
                                  .src_dtype = MPT_F32,
                                  .count = state->layout->total,
                                  .dst = state->working,
                                  .src = state->master},
                    stream);
}
