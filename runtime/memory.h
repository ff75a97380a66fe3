/*
 * A session's memory: one function cuts everything a run needs, from counting arenas for the plan and from
 * real ones for the run, so that the two cannot disagree.
 */
#ifndef MPT_MEMORY_H
#define MPT_MEMORY_H

#include "arena.h"
#include "config.h"
#include "gpt2.h"
#include "kernels.h"
#include "record.h"
#include "state.h"

/** All that sizes depend on. */
typedef struct mpt_memory_params {
    const mpt_config_t *config;
    const mpt_kernels_ops_t *kernel_ops;
    mpt_isa_t isa;
    int threads, ranks;
    int rank; /* any, where only sizes matter: they are the same on all */
    const char *comm_backend;
    int local_ranks; /* of one host; 0: all */
    const mpt_log_t *log; /* may be NULL */
} mpt_memory_params_t;

typedef struct mpt_memory {
    mpt_gpt2_t model;
    mpt_layout_t layout;
    mpt_state_t state;
    void *kernel_scratch;
    size_t kernel_scratch_bytes;
    void *worker_scratch;  /* of the kernels that reduce beside the model's */
    size_t worker_scratch_bytes;
    void *comm_scratch;
    void *consensus;       /* records and their folding */
    size_t comm_own_bytes; /* what the session's communicators allocate themselves: MPT_USE_COMMUNICATORS */
    uint8_t *votes;        /* [ranks] */
    uint32_t *inputs[2], *targets[2]; /* [micro_steps, batch, seq]: this step's and the next one's */
    uint32_t *val_inputs, *val_targets; /* [batch, seq]; NULL without validation */
    double *val_sums;      /* [1 + validation micro-batches of a rank], then gathered: * (1 + ranks) */
    double *micro_sumsq;   /* [1] */
    mpt_offender_t *micro_bad; /* [1]: whether a micro-step's activation gradients were finite */
    float *snapshot;       /* asynchronous save; NULL: none */
} mpt_memory_t;

/** The model's shape under a config. */
mpt_gpt2_shape_t mpt_memory_shape(const mpt_config_t *config);
/** Micro-steps of one step on one rank, all its lanes together. */
int64_t mpt_memory_micro_steps(const mpt_config_t *config, int ranks);
/** Lanes of one rank: 1 but under reproducible = world. */
int mpt_memory_lanes(const mpt_config_t *config, int ranks);
/** Validation micro-batches on one rank. */
int64_t mpt_memory_val_micros(const mpt_config_t *config, int ranks);
/** How the consensus folds. After mpt_memory_cut. */
mpt_record_fold_t mpt_memory_fold(const mpt_memory_t *memory);
/** Build layout and model tables (host memory, small). @return MPT_OK; MPT_ERR_NO_MEMORY (logged); MPT_ERR_INVALID_ARG. */
mpt_status_t mpt_memory_create(mpt_memory_t *memory, const mpt_memory_params_t *params);
/** Limits of the kernels that reduce: elementwise ones, by one thread. */
mpt_kernels_limits_t mpt_memory_worker_limits(const mpt_config_t *config);
/** Cut everything, and count what communicators allocate themselves. Pure on counting arenas. */
void mpt_memory_cut(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *private_arena,
                    mpt_arena_t *peer_arena);
/** Point the model at its parameters, and at `accumulator` for its gradients: where the state's arrays place each unit. */
void mpt_memory_point(mpt_memory_t *memory, const mpt_held_t *accumulator);
/** Free the tables; safe on zeroed memory. */
void mpt_memory_release(mpt_memory_t *memory);

#endif
