/*
 * Checkpoints: folders that hold the whole training state, written by all ranks at once and readable by any
 * number of ranks in any shard mode.
 *
 *   dir/mpt-ddp.lock                  the run that has the folder, which rank 0 keeps locked
 *   dir/step-00000100/meta            text: "key = value" lines, the last of them the checksum of the rest;
 *                                     format version, step, ranks, run, kinds, then the session's lines
 *   dir/step-00000100/rank-00000.bin  one per rank that saved:
 *       header   magic, version, rank, ranks, step, run, extents, checksum of header and extents
 *       extents  (tensor, kind, first element, count, file offset, checksum) ...
 *       payload  FP32, little-endian, the extents' elements one after the other, to the end of the file
 *
 * Rank r writes its part (layout.h) of every unit, cut into extents of unpadded tensors, so that a reader needs only the
 * tensor table. Written as dir/step-00000100.partial, every file synced; when all ranks have said "synced"
 * through the consensus record, rank 0 sees that every rank's file is there, writes and syncs `meta` and renames the folder: that is the commit. A failed
 * save is removed and leaves older checkpoints whole. Step and run id stand in meta and in every header, so that
 * files of two saves are never taken for one. Checksums are XXH3 (64 bits). Version 1 had no run id and no kinds (it
 * held masters, m and v) and is still read.
 */
#ifndef MPT_CHECKPOINT_H
#define MPT_CHECKPOINT_H

#include "layout.h"
#include "log.h"
#include "pool.h"
#include "state.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_CHECKPOINT_META_MAX 4096
#define MPT_CHECKPOINT_PATH_MAX 1400

/* ---- a folder for one run ------------------------------------------------------------------------ */

/**
 * Take `dir`, made where it is missing, for run `run` alone, until mpt_checkpoint_unlock or the end of the process, however it ends: an
 * exclusive flock on dir/mpt-ddp.lock, which says whose it is and stays. For rank 0, before it looks at what lies there or changes it.
 * Where the file system has no locks that is a warning, and all else the same. Waits up to two seconds for another's end.
 * @return MPT_OK: *lock_p is for mpt_checkpoint_unlock; MPT_ERR_CONFIG (logged): another process or another session has it; MPT_ERR_IO (logged).
 */
mpt_status_t mpt_checkpoint_lock(const char *dir, uint64_t run, const mpt_log_t *log, int *lock_p);
/** Give the folder back. -1 is allowed. */
void mpt_checkpoint_unlock(int lock);
/** Whether `dir` as this rank sees it is the folder that rank 0 has locked for `run`: for the other ranks, while it has. @return MPT_OK;
 * MPT_ERR_CONFIG: it is another folder, or none; MPT_ERR_IO; both logged. */
mpt_status_t mpt_checkpoint_same_folder(const char *dir, uint64_t run, const mpt_log_t *log);
/** Remove what crashed saves left in `dir`. Rank 0, with the lock, while no rank saves. */
void mpt_checkpoint_clean(const char *dir);

/* ---- saving -------------------------------------------------------------------------------------- */

typedef struct mpt_checkpoint mpt_checkpoint_t;

typedef enum mpt_checkpoint_kind {
    MPT_KIND_MASTER = 0, /* without masters: the working weights, widened */
    MPT_KIND_M = 1,
    MPT_KIND_V = 2,
    MPT_KIND_EMA = 3, /* where the run keeps one */
    MPT_KIND_COUNT = 4
} mpt_checkpoint_kind_t;
/** "master", "m", "v", "ema". */
const char *mpt_checkpoint_kind_name(mpt_checkpoint_kind_t kind);
/** The array of `state` that `kind` is saved from and loaded to; its data is NULL where the state keeps none. */
const mpt_held_t *mpt_checkpoint_held(const mpt_state_t *state, mpt_checkpoint_kind_t kind);

typedef struct mpt_checkpoint_params {
    const char *dir;
    int64_t keep;             /* newest checkpoints to keep */
    const mpt_state_t *state; /* borrowed: what is saved; cut before the saver is created */
    mpt_pool_t *pool;         /* borrowed: the threads that copy to the snapshot; NULL: the caller copies */
    const mpt_log_t *log;     /* borrowed */
    int rank;
    uint64_t run; /* a number that all ranks of this run share and no other run has: it ties the files of one save together */
    float *snapshot; /* borrowed, mpt_checkpoint_snapshot_bytes: saves are asynchronous; NULL: they are not */
} mpt_checkpoint_params_t;

/** Bytes of the copy that an asynchronous save writes from: one FP32 part of every kind that is saved. The same on all ranks. Pure. */
size_t mpt_checkpoint_snapshot_bytes(const mpt_state_params_t *params);

/* A rank's progress with the save that began last, as it rides the record:
 *
 *           begin             written           end, rank 0 alone     committed         finish
 *   IDLE  -------->  WRITING -------->  SYNCED -----------> WRITING --------->  SYNCED ------->  IDLE
 *                       '------------>  FAILED  (likewise: dropped) --------->  FAILED ------->
 *
 * Every rank ends once all have written, and finishes once all have ended. */
typedef enum mpt_save_progress {
    MPT_SAVE_IDLE = 0,
    MPT_SAVE_WRITING = 1,
    MPT_SAVE_SYNCED = 2,
    MPT_SAVE_FAILED = 3
} mpt_save_progress_t;

/** Create the saver; makes the folder. Every rank creates before any begins a save. @return MPT_OK; MPT_ERR_IO (logged); MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_checkpoint_create(const mpt_checkpoint_params_t *params, mpt_checkpoint_t **saver_p);
/** Wait for a write in flight and free; an uncommitted save is left as .partial. NULL is allowed. */
void mpt_checkpoint_destroy(mpt_checkpoint_t *saver);
/**
 * Begin to save the state as of `step`; meta is the session's "key = value" lines, less than MPT_CHECKPOINT_META_MAX - 256 bytes of them. Asynchronous:
 * returns once the state is copied; else when it is written. One save at a time. Local. Failures show in mpt_checkpoint_progress.
 */
void mpt_checkpoint_begin(mpt_checkpoint_t *saver, int64_t step, const char *meta);
/** This rank's progress. Does not block. */
mpt_save_progress_t mpt_checkpoint_progress(mpt_checkpoint_t *saver);
/** Wait until this rank's progress is not WRITING. */
void mpt_checkpoint_wait(mpt_checkpoint_t *saver);
/**
 * Begin to end the save once every rank's progress is known: commit (all synced) or remove it (any failed). Every rank calls it with the same
 * `commit`; rank 0 does the work, where saves are asynchronous in the background. Progress is then SYNCED where it is committed, on the other
 * ranks where it is to be; else FAILED.
 */
void mpt_checkpoint_end(mpt_checkpoint_t *saver, int commit);
/** 1 from mpt_checkpoint_end on until the save is finished. */
int mpt_checkpoint_ending(const mpt_checkpoint_t *saver);
/**
 * Wait for the end of the save and forget it; where it is not ending yet, mpt_checkpoint_end with `commit` comes first.
 * On rank 0 returns MPT_ERR_IO where the commit itself failed (logged, removed).
 */
mpt_status_t mpt_checkpoint_finish(mpt_checkpoint_t *saver, int commit);
/** Step of the save in flight, or -1. */
int64_t mpt_checkpoint_step(const mpt_checkpoint_t *saver);

/* ---- reading ------------------------------------------------------------------------------------- */

/** A checkpoint's meta, checked. */
typedef struct mpt_checkpoint_meta {
    char path[MPT_CHECKPOINT_PATH_MAX];
    char text[MPT_CHECKPOINT_META_MAX];
    int version;
    int64_t step;
    int ranks;    /* that saved it */
    uint64_t run; /* 0 in version 1 */
} mpt_checkpoint_meta_t;

/** Steps of the committed checkpoints in `dir`, newest first; the newest `capacity` where there are more. Returns their number, 0 where there
 * is no folder; -1 with errno where the folder cannot be read: what it holds is not known then. */
int mpt_checkpoint_list(const char *dir, int64_t *steps, int capacity);
/** The same, said. @return MPT_OK: *count_p of them; MPT_ERR_IO, MPT_ERR_NO_MEMORY: it cannot be read (logged). */
mpt_status_t mpt_checkpoint_look(const char *dir, int64_t *steps, int capacity, const mpt_log_t *log, int *count_p);
/** Rename the checkpoints after `step`, which another run left, to step-N.lost-1 and so on, so that none is taken for this run's.
 * Says so for each. @return how many. */
int mpt_checkpoint_set_aside(const char *dir, int64_t step, const mpt_log_t *log);
/** dir/step-00000100 */
void mpt_checkpoint_path(const char *dir, int64_t step, char *out, size_t bytes);
/** Read and check `path`/meta. @return MPT_OK; MPT_ERR_CHECKPOINT (logged: what is wrong). */
mpt_status_t mpt_checkpoint_read_meta(const char *path, const mpt_log_t *log, mpt_checkpoint_meta_t *meta_p);
/** The value of `key` in meta text, copied; 1 if found. */
int mpt_checkpoint_get(const char *text, const char *key, char *out, size_t bytes);
/** A fingerprint of a tensor table: names and shapes. */
uint64_t mpt_checkpoint_fingerprint(const mpt_tensor_t *tensors, int count);

/** Takes elements [first, first+count) of tensor `tensor`, in pieces of any size and order. A status other than MPT_OK ends the reading with it. */
typedef struct mpt_checkpoint_sink {
    mpt_status_t (*put)(void *ctx, mpt_checkpoint_kind_t kind, int tensor, int64_t first, int64_t count,
                        const float *values);
    void *ctx;
} mpt_checkpoint_sink_t;

/** Which kinds a checkpoint holds, a bit (1 << kind) for each: from its meta. */
unsigned mpt_checkpoint_kinds(const mpt_checkpoint_meta_t *meta);
/**
 * Read every element of every tensor, of the kinds in `kinds` (a bit each), in chunks of at most 1 MiB to `sink`. First the headers and
 * tables of all files are checked: that they are of one save and of this model, and that each element of every kind comes exactly once. Then the payloads of the kinds asked for are
 * read and their checksums checked; those of other kinds are not read (mpt_checkpoint_verify does). Any number of ranks, in any shard mode, may have saved. `layout` names the tensors. A chunk
 * reaches the sink before its extent's checksum is known: after an error what the sink was given means nothing. Local. @return MPT_OK;
 * MPT_ERR_CHECKPOINT (logged: file, offset, what); MPT_ERR_NO_MEMORY; the sink's.
 */
mpt_status_t mpt_checkpoint_load(const mpt_checkpoint_meta_t *meta, const mpt_layout_t *layout, unsigned kinds,
                                 const mpt_checkpoint_sink_t *sink, const mpt_log_t *log);
/**
 * A sink over a state: keeps what this rank holds, of the kinds that it holds. Without masters MPT_KIND_MASTER goes to the working weights, rounded to
 * nearest (exact for what such a run saved); with masters the working weights are the caller's to refresh. Slices of
 * working weights that other ranks look after are the caller's to gather.
 */
mpt_checkpoint_sink_t mpt_checkpoint_state_sink(mpt_state_t *state);
/** Bytes of the folder's files together, as the file system has them. */
int64_t mpt_checkpoint_bytes(const mpt_checkpoint_meta_t *meta);
/**
 * Verify every byte of every file without a model: what load checks, but for the tensors' names and sizes. *bytes_p (may be NULL): what was read.
 * @return MPT_OK; MPT_ERR_CHECKPOINT (logged); MPT_ERR_NO_MEMORY.
 */
mpt_status_t mpt_checkpoint_verify(const mpt_checkpoint_meta_t *meta, const mpt_log_t *log, int64_t *bytes_p);

#ifdef __cplusplus
}
#endif
#endif
