/*
 * What one rank holds of the training state: flat arrays over the layout's `total` elements. Owned by the
 * session, which cuts them from its arenas; gradients and working weights are peer memory.
 */
#ifndef MPT_STATE_H
#define MPT_STATE_H

#include "arena.h"
#include "kernels.h"
#include "layout.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_state {
    const mpt_layout_t *layout; /* borrowed */
    mpt_dtype_t compute, wire;
    void *working;      /* compute: what the model reads */
    float *accumulator; /* FP32: where backward adds weight gradients */
    void *gradient;     /* wire: contribution, then the reduced gradient; the accumulator itself where wire is FP32 */
    float *master, *m, *v;
    /* per unit, device memory */
    mpt_offender_t *bad_wire, *bad_sum;
    double *sumsq;
} mpt_state_t;

/** Cut the state's arrays from a rank's private and peer arenas (counting or real). Pure where counting. */
void mpt_state_cut(mpt_state_t *state, const mpt_layout_t *layout, mpt_dtype_t compute,
                   mpt_dtype_t wire, mpt_arena_t *private_arena, mpt_arena_t *peer_arena);
/** The address of element `at` of a flat array of `dtype`. */
static inline void *mpt_state_at(void *array, mpt_dtype_t dtype, int64_t at)
{
    return (char *)array + at * (int64_t)mpt_dtype_bytes(dtype);
}
/** Round the masters to the working copy. Enqueued. */
mpt_status_t mpt_state_refresh(mpt_state_t *state, mpt_kernels_t *kernels, mpt_stream_t *stream);

#ifdef __cplusplus
}
#endif
#endif
