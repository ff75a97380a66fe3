/*
 * A session's insides, shared by the files of this folder. See mpt.h for what it is.
 */
#ifndef MPT_SESSION_H
#define MPT_SESSION_H

#include <stdatomic.h>

#include "boot.h"
#include "checkpoint.h"
#include "comm.h"
#include "config.h"
#include "consensus.h"
#include "data.h"
#include "gather.h"
#include "inject.h"
#include "loss_scale.h"
#include "memory.h"
#include "metrics.h"
#include "mpt.h"
#include "optimizer.h"
#include "overlap.h"
#include "place.h"
#include "pool.h"
#include "reducer.h"
#include "replica.h"

/* Where the run stands; saved whole in checkpoints. */
typedef struct mpt_progress {
    int64_t step;     /* data steps done */
    int64_t applied;  /* optimizer steps among them */
    int64_t position; /* samples consumed: where the next step's first one stands in the endless order */
    int64_t tokens;
    int64_t rounded;  /* the data step of the last update: it keys stochastic rounding */
    mpt_loss_scale_t scale;
} mpt_progress_t;

/* Where log lines go. While a session opens, a rank's errors wait for the next vote: of an error that all ranks
 * meet, one says it. */
typedef struct mpt_log_target {
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line); /* NULL: standard error */
    void *ctx;
    int holding;
    char held[4096]; /* lines, parted by line breaks */
} mpt_log_target_t;

struct mpt_session {
    mpt_log_target_t log_target;
    mpt_log_t log;
    mpt_boot_t *boot, *own_boot; /* own_boot: where the caller gave none */
    mpt_config_t config;
    mpt_environment_t environment;
    mpt_place_t place;
    mpt_memory_params_t memory_params; /* isa, threads, backends as chosen */
    mpt_pool_t *pool;
    mpt_device_t *device;
    mpt_stream_t *stream;
    mpt_arena_t private_arena, peer_arena;
    size_t planned_bytes;
    mpt_memory_t memory;
    mpt_kernels_t kernels;
    mpt_overlap_t overlap;           /* whose worker makes the collectives */
    double comm_counted_s;           /* of its busy time: in steps' comm_ms, or before the first */
    mpt_comm_t *comm;                /* all ranks */
    mpt_comm_t *group, *across;      /* hsdp: children of it; else group is comm itself and across NULL */
    void *registration[3];           /* of the peer arena, with comm, group, across */
    mpt_consensus_t *consensus;
    mpt_reducer_t reducer;
    mpt_gather_t gather;
    uint64_t run;                    /* see checkpoint.h */
    mpt_loss_scale_rule_t scale_rule;
    mpt_progress_t progress;
    int64_t first_step;
    int resumed;               /* from a checkpoint, which may be of step 0 */
    mpt_data_t *train, *val;
    int slot;                  /* of memory.inputs that holds the next step */
    mpt_status_t data_status;  /* of reading it */
    mpt_checkpoint_t *saver;
    int resuming, fresh_over;  /* as asked for: mpt_session_params_t has a `resume`; its fresh_over */
    int claimed;               /* checkpoint.dir is this run's alone: the same on every rank */
    int folder_lock;           /* rank 0's, or -1 */
    mpt_metrics_t *metrics;    /* rank 0 only */
    mpt_inject_t inject;
    atomic_int stop_requested;
    int failed;                /* the communicator is unusable: no more collectives */
    double peak_flops;         /* all ranks */
    double flops_6nd, flops_palm, flops_causal; /* a token */
    double pace_ms;            /* smoothed step time */
};

/** The session's communicators, children first; returns their number. */
int mpt_session_comms(const mpt_session_t *session, mpt_comm_t *comms[3]);
/** Bytes of the arenas, and what the communicators say they hold. */
int64_t mpt_session_held_bytes(const mpt_session_t *session);
/** Make every rank's collectives fail soon, on all of the session's communicators, once the one under way has ended. Local. */
void mpt_session_abort(mpt_session_t *session, const char *reason);
/** The same by the thread that has the communicators. */
void mpt_session_abort_comms(mpt_session_t *session, const char *reason);
/** All-gather over all ranks by the rank's own thread, after all of the worker's jobs. Complete on return. `what` is named in errors. @return MPT_OK;
 *  MPT_ERR_COMM; MPT_ERR_DEVICE. */
mpt_status_t mpt_session_gather(mpt_session_t *session, const char *what, const void *send, void *recv, size_t bytes);
/** Every rank's status in, the worst out; errors held are said by the first rank that has it. Collective over the boot: for open and
 *  restore. */
mpt_status_t mpt_session_vote(mpt_session_t *session, mpt_status_t own);
/** Run one step (step.c); `verdict_p` may be NULL. Collective. */
typedef struct mpt_step_report {
    mpt_step_result_t result;
    mpt_verdict_t verdict;
    mpt_scale_change_t scale_change;
    double scale_after;
} mpt_step_report_t;
mpt_status_t mpt_step_run(mpt_session_t *session, mpt_step_report_t *report_p);
/** Read and check the next step's samples into the free slot; the status is kept in data_status. Local. */
void mpt_step_read_ahead(mpt_session_t *session);

/** mpt_session_validate with the average of the weights in their place. Collective. */
mpt_status_t mpt_validate_ema(mpt_session_t *session, double *loss_p);

/* save.c: checkpoints */

/** Rank 0 takes checkpoint.dir for this run; nothing on the other ranks. Local. @return MPT_OK; MPT_ERR_CONFIG: another run has it; MPT_ERR_IO; both logged. */
mpt_status_t mpt_save_lock(mpt_session_t *session);
/** The other ranks see that theirs is the folder that rank 0 has taken; nothing on rank 0. Local. @return MPT_OK; MPT_ERR_CONFIG: it is not;
 *  MPT_ERR_IO; both logged. */
mpt_status_t mpt_save_check_folder(mpt_session_t *session);
/** Begin a save of the state as it is. A save in flight is settled first. A run that has not claimed checkpoint.dir does so now. Collective.
 *  @return MPT_OK; MPT_ERR_IO: it cannot be claimed (logged; nothing was begun); MPT_ERR_COMM; MPT_ERR_DEVICE. */
mpt_status_t mpt_save_begin(mpt_session_t *session);
/** See in a step's verdict how far every rank is with the save in flight: once all have written, rank 0 begins to commit; once it has, the save
 *  ends. Returns 1: committed, -1: failed, 0: nothing ended. *step_p: of the save. */
int mpt_save_poll(mpt_session_t *session, const mpt_verdict_t *verdict, int64_t *step_p);
/** Wait for the save in flight and end it by a vote. Collective. As mpt_save_poll in *outcome_p. */
mpt_status_t mpt_save_settle(mpt_session_t *session, int *outcome_p, int64_t *step_p);

/* restore.c */

/** Start from a checkpoint, a model file, or random weights, as asked; collective, votes. `resume` as in mpt_session_params_t. */
mpt_status_t mpt_restore(mpt_session_t *session, const char *resume);
/** After this rank's working weights changed: make what is made of them follow (gather.h; packed weights). Collective. */
mpt_status_t mpt_session_weights_changed(mpt_session_t *session);
/** Bring the working weights to where the masters are, as the last update rounded them. Collective. */
mpt_status_t mpt_session_refresh(mpt_session_t *session);
/** The type of that name where a run can compute in it, else MPT_DTYPE_COUNT. */
mpt_dtype_t mpt_restore_compute(const char *name);
/** The model's numbers and type in a checkpoint's meta into a config. @return MPT_OK; MPT_ERR_CHECKPOINT (logged: file and what): one is
 *  missing, or no model can have it; the config is then as it was. */
mpt_status_t mpt_restore_model_config(const mpt_checkpoint_meta_t *meta, const mpt_log_t *log, mpt_config_t *config);
/** `path` itself if it is a checkpoint folder, else the newest checkpoint in it; MPT_ERR_CHECKPOINT (logged) if there is none. */
mpt_status_t mpt_restore_find(const char *path, const mpt_log_t *log, mpt_checkpoint_meta_t *meta_p);

/** A config's text, from memory or its file, to be freed. @return as mpt_config_read. */
mpt_status_t mpt_session_source_text(const mpt_config_source_t *source, const mpt_log_t *log, char **text_p);

/* log adaptor */
void mpt_session_log_sink(void *target, mpt_log_level_t level, const char *line);
/** The level of that name, or -1. */
int mpt_session_log_level_find(const char *name);
mpt_log_level_t mpt_session_log_level(const mpt_environment_t *environment);
/** This machine's instruction level, capped by MPT_ISA. @return MPT_OK; MPT_ERR_CONFIG (logged): no such level; *isa_p is then not capped. */
mpt_status_t mpt_session_isa(const mpt_environment_t *environment, const mpt_log_t *log, mpt_isa_t *isa_p);

#endif
