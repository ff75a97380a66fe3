/*
 * safetensors files (https://github.com/huggingface/safetensors): a little-endian u64, the length of a JSON header; the header,
 *   {"__metadata__": {"key": "text", ..}, "name": {"dtype": "F32", "shape": [2,3], "data_offsets": [0,24]}, ..}
 * padded with blanks to a multiple of 8; then the tensors' bytes, which leave no gap and do not overlap. Read and
 * written in pieces. Of the format's types F32, BF16 and F16 are known, of shapes those with at most MPT_TENSOR_MAX_DIMS
 * dimensions; any other is refused, like everything in a file that contradicts itself.
 *
 * Objects are owned by who opened them. A file open for reading may be used by several threads at once.
 */
#ifndef MPT_SAFETENSORS_H
#define MPT_SAFETENSORS_H

#include "log.h"
#include "tensor.h"

typedef struct mpt_safetensor {
    const char *name;
    mpt_dtype_t dtype;
    int dims;
    int64_t shape[MPT_TENSOR_MAX_DIMS]; /* row-major */
    uint64_t begin, end;                /* bytes, from where the header ends */
} mpt_safetensor_t;

/* ---- reading ------------------------------------------------------------------------------------- */

typedef struct mpt_safetensors mpt_safetensors_t;

/** Open and check the whole header. `log` is borrowed. @return MPT_OK; MPT_ERR_CHECKPOINT (logged: file, what);
 *  MPT_ERR_NO_MEMORY. Close with mpt_safetensors_close. */
mpt_status_t mpt_safetensors_open(const char *path, const mpt_log_t *log, mpt_safetensors_t **file_p);
/** NULL is allowed. */
void mpt_safetensors_close(mpt_safetensors_t *file);
/** Number of tensors. */
int mpt_safetensors_count(const mpt_safetensors_t *file);
/** The index-th tensor, in order of names; lives as long as the file. */
const mpt_safetensor_t *mpt_safetensors_at(const mpt_safetensors_t *file, int index);
/** Index of the tensor named `name`, or -1. */
int mpt_safetensors_find(const mpt_safetensors_t *file, const char *name);
/** The metadata under `key`, or NULL; lives as long as the file. */
const char *mpt_safetensors_text(const mpt_safetensors_t *file, const char *key);
/** Elements [first, first+count) of the index-th tensor, exactly. @return MPT_OK; MPT_ERR_CHECKPOINT (logged). */
mpt_status_t mpt_safetensors_read(const mpt_safetensors_t *file, int index, int64_t first, int64_t count,
                                  float *out);

/* ---- writing: new, set and add, begin, put, commit, drop --------------------------------------------- */

typedef struct mpt_safetensors_writer mpt_safetensors_writer_t;

/** @return MPT_OK; MPT_ERR_NO_MEMORY. Free with mpt_safetensors_drop. */
mpt_status_t mpt_safetensors_new(mpt_safetensors_writer_t **writer_p);
/** Add metadata; a key once. @return MPT_OK; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_safetensors_set(mpt_safetensors_writer_t *writer, const char *key, const char *text);
/** Add a tensor (begin and end are not looked at), each name once; they lie in the file as they were added, the first being number 0.
 *  @return MPT_OK; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_safetensors_add(mpt_safetensors_writer_t *writer, const mpt_safetensor_t *tensor);
/** Begin the file, aside (aside.h), with its header. `log` is borrowed. @return MPT_OK; MPT_ERR_CONFIG (logged): `path` exists and no `force`;
 *  MPT_ERR_IO (logged); MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_safetensors_begin(mpt_safetensors_writer_t *writer, const char *path, int force,
                                   const mpt_log_t *log);
/** Put elements [first, first+count) of tensor `number`, rounded to its type (F32: the same bits). @return MPT_OK; MPT_ERR_IO (logged). */
mpt_status_t mpt_safetensors_put(mpt_safetensors_writer_t *writer, int number, int64_t first, int64_t count,
                                 const float *values);
/** Sync and rename: all tensors have been put. *bytes_p: the file's size. @return as mpt_aside_commit. */
mpt_status_t mpt_safetensors_commit(mpt_safetensors_writer_t *writer, int64_t *bytes_p);
/** Free; what was begun and not committed is removed. NULL is allowed. */
void mpt_safetensors_drop(mpt_safetensors_writer_t *writer);

#endif
