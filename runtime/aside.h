/*
 * A file that appears whole or not at all: written as "<path>.partial" in any order, then synced and renamed. Bytes that
 * were never written are zero. Plain values, owned by the caller; one thread at a time. Every failure is logged once.
 */
#ifndef MPT_ASIDE_H
#define MPT_ASIDE_H

#include "log.h"
#include "tensor.h"

#define MPT_ASIDE_PATH_MAX 4096
#define MPT_ASIDE_SUFFIX ".partial"

typedef struct mpt_aside {
    char path[MPT_ASIDE_PATH_MAX];
    int fd; /* -1: not open */
    int force;
    const mpt_log_t *log; /* borrowed */
} mpt_aside_t;

/** Begin. @return MPT_OK; MPT_ERR_CONFIG: `path` exists, and no `force`, or is no regular file (nothing was touched);
 *  MPT_ERR_IO. */
mpt_status_t mpt_aside_open(mpt_aside_t *file, const char *path, int force, const mpt_log_t *log);
/** @return MPT_OK; MPT_ERR_IO. */
mpt_status_t mpt_aside_put(mpt_aside_t *file, const void *bytes, size_t count, uint64_t offset);
/** FP32 values as `dtype` (MPT_F32: the same bits; else rounded to nearest even). @return as above. */
mpt_status_t mpt_aside_put_floats(mpt_aside_t *file, mpt_dtype_t dtype, const float *values, int64_t count,
                                  uint64_t offset);
/** Make it `bytes` long and sync it; it stays aside. @return MPT_OK; MPT_ERR_IO, and nothing is left of it. */
mpt_status_t mpt_aside_finish(mpt_aside_t *file, uint64_t bytes);
/** Rename what mpt_aside_finish left, close. @return MPT_OK; MPT_ERR_CONFIG: `path` has come to exist, and no `force`;
 *  MPT_ERR_IO. On failure nothing is left of it, unless it was only the folder that could not be synced. */
mpt_status_t mpt_aside_place(mpt_aside_t *file);
/** Both. @return as they. */
mpt_status_t mpt_aside_commit(mpt_aside_t *file, uint64_t bytes);
/** Give up: remove what was written. Safe where it is not open. */
void mpt_aside_drop(mpt_aside_t *file);

#endif
