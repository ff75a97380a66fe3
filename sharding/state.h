/*
 * What one rank holds of the training state. Owned by the session, which cuts it from its arenas; what peers
 * read (gradients, working weights) is peer memory.
 *
 * Every array runs over the layout's units, and holds one of three things:
 *
 *   all      every unit, whole
 *   slice    of every unit this rank's slice
 *   window   two units in turn, whole, and unit 0 (the embeddings, which the tied head needs all the time)
 *
 *              working   gathered  accumulators  contribution  reduced          master m v ema
 *   ddp        all       = working all           all           = contribution   all
 *   zero1      all       = working all           all           = contribution   slice
 *   zero2      all       = working all *         window        slice            slice
 *   zero3      slice     window    all *         window        slice            slice
 *   hsdp       as zero3, the slice being one of shard_ranks
 *
 *   *  window where every micro-step's gradients are reduced at once (one micro-step, or reduce_every = micro)
 *
 * Where the wire is FP32, contribution is the accumulator itself; where that is whole, reduced lies in it in every mode.
 * Under reduce_every = micro with several micro-steps accumulators and contribution are windows in every mode, and reduced is
 * an FP32 array of its own, all in ddp, in which the reduced slices add up. One rank alone holds what ddp holds.
 */
#ifndef MPT_STATE_H
#define MPT_STATE_H

#include "arena.h"
#include "config.h"
#include "kernels.h"
#include "layout.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mpt_hold { MPT_HOLD_ALL = 0, MPT_HOLD_SLICE, MPT_HOLD_WINDOW } mpt_hold_t;

/* The window's places: unit 0 has the first, the others take turns. */
#define MPT_WINDOW_PLACES 3
static inline int mpt_window_place(int unit)
{
    return unit == 0 ? 0 : 1 + (unit - 1) % 2;
}

/* An array over the layout. data NULL: there is none. */
typedef struct mpt_held {
    void *data;
    mpt_dtype_t dtype;
    mpt_hold_t hold;
} mpt_held_t;

#define MPT_LANES_MAX 4096
#define MPT_STACK_MAX 13 /* accumulators of unfinished lanes: log2(lanes a rank) + 1 */

/** All that a rank's state depends on. */
typedef struct mpt_state_params {
    const mpt_layout_t *layout; /* borrowed */
    int rank;                   /* any, where only sizes matter */
    mpt_shard_t shard;
    mpt_dtype_t compute, wire;
    int64_t micro_steps;        /* of a step on this rank, all its lanes together */
    int lanes;                  /* on this rank: a power of two */
    int reduce_micro;           /* reduce_every = micro and several micro-steps */
    int with_master, with_ema;
} mpt_state_params_t;

typedef struct mpt_state {
    mpt_state_params_t params;
    const mpt_layout_t *layout; /* = params.layout */
    mpt_held_t working;         /* compute: what the optimizer writes */
    mpt_held_t gathered;        /* compute: what the model reads */
    mpt_held_t accumulator[MPT_STACK_MAX]; /* FP32: where backward adds weight gradients */
    int accumulators;
    mpt_held_t contribution;    /* wire: what this rank gives to the sum */
    mpt_held_t reduced;         /* wire, or FP32 under reduce_micro: what comes out of it */
    float *partial;             /* hsdp: the group's sum of one slice, FP32 */
    mpt_held_t master, m, v, ema; /* FP32 */
    mpt_run_t *runs;            /* the global elements of `working`; by unit, see run_first; tensor_count entries */
    int *run_first;             /* [unit_count + 1] into runs */
    /* device memory */
    mpt_offender_t *bad_wire;           /* per unit: of the contribution that was handed over last */
    mpt_offender_t *bad_kept;           /* per unit: of the step's first bad contribution; `reserved` is its micro-step */
    mpt_offender_t *bad_sum;            /* per unit and lane of this rank's part: [unit_count][lanes] */
    double *sumsq;                      /* as bad_sum */
    uint64_t *hash;                     /* [1] */
} mpt_state_t;

/** Cut the state's arrays from a rank's private and peer arenas (counting or real). Pure where counting. */
void mpt_state_cut(mpt_state_t *state, const mpt_state_params_t *params, mpt_arena_t *private_arena,
                   mpt_arena_t *peer_arena);
/** Elements of an array held so. Pure. */
int64_t mpt_held_count(const mpt_layout_t *layout, mpt_hold_t hold);
/** Address of unit `unit`: whole, or where slices are held of this rank's slice. */
void *mpt_held_unit(const mpt_layout_t *layout, const mpt_held_t *held, int unit);
/** Elements there: padded, or those of a slice. */
int64_t mpt_held_unit_count(const mpt_layout_t *layout, const mpt_held_t *held, int unit);
/** Address of this rank's slice of unit `unit`, whatever is held. */
void *mpt_held_slice(const mpt_state_t *state, const mpt_held_t *held, int unit);
/** Pieces and index, for mpt_layout_extents, of what masters, moments and EMA hold on this rank. */
void mpt_state_owned(const mpt_state_t *state, int *pieces_p, int *index_p);
/** Address in `held` (all or slice) of flat offset `at` of the layout, which must be there. */
void *mpt_held_at(const mpt_state_t *state, const mpt_held_t *held, int64_t at);
/** The address of element `at` of a flat array of `dtype`. */
static inline void *mpt_state_at(void *array, mpt_dtype_t dtype, int64_t at)
{
    return (char *)array + at * (int64_t)mpt_dtype_bytes(dtype);
}
/**
 * Round `from` (FP32: masters or EMA) to this rank's working weights; `stochastic`, whose runs this fills in, or NULL. Enqueued. The working weights
 * of other ranks' slices are not touched.
 */
mpt_status_t mpt_state_refresh(mpt_state_t *state, const mpt_held_t *from, const mpt_stochastic_t *stochastic,
                               mpt_kernels_t *kernels, mpt_stream_t *stream);

#ifdef __cplusplus
}
#endif
#endif
