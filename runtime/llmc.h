/*
 * llm.c's model files: 256 int32 of header (magic 20240326, version 3 = fp32 or 5 = bf16, context, vocab, layers,
 * heads, dim, padded vocab), then the parameters type by type, each type's layers together, in the order
 *   wte wpe ln1w ln1b qkvw qkvb attprojw attprojb ln2w ln2b fcw fcb fcprojw fcprojb lnfw lnfb
 * with wte's padding rows in the file. Matrices are [out,in], as in the tensor table.
 *
 * Read and written in pieces, in any order: nobody needs room for a whole model. An open file for reading may be
 * used by several threads at once.
 */
#ifndef MPT_LLMC_H
#define MPT_LLMC_H

#include "aside.h"
#include "gpt2.h"

enum { MPT_LLMC_FP32 = 3, MPT_LLMC_BF16 = 5 }; /* versions */

typedef struct mpt_llmc mpt_llmc_t;

/** What no model has about a shape that came from a file (batch and seq apart), as a phrase; NULL: nothing. The config's limits. */
const char *mpt_llmc_shape_fault(const mpt_gpt2_shape_t *shape);

/** 1 where the file can be read and begins with llm.c's magic. */
int mpt_llmc_begins(const char *path);
/** Read the header's shape (batch and seq 0); the file's size must fit it. @return MPT_OK; MPT_ERR_CHECKPOINT (logged). */
mpt_status_t mpt_llmc_shape(const char *path, const mpt_log_t *log, mpt_gpt2_shape_t *shape_p);

/** Open for reading: checks header and size, and that the file is of `shape` (batch and seq apart). `log` is borrowed.
 *  @return MPT_OK; MPT_ERR_CHECKPOINT (logged); MPT_ERR_NO_MEMORY. Close with mpt_llmc_close. */
mpt_status_t mpt_llmc_open(const char *path, const mpt_gpt2_shape_t *shape, const mpt_log_t *log,
                           mpt_llmc_t **file_p);
/** MPT_F32 or MPT_BF16. */
mpt_dtype_t mpt_llmc_dtype(const mpt_llmc_t *file);
/** Elements [first, first+count) of tensor `tensor` of the table, exactly. @return MPT_OK; MPT_ERR_CHECKPOINT (logged). */
mpt_status_t mpt_llmc_read(const mpt_llmc_t *file, int tensor, int64_t first, int64_t count, float *out);

/** Begin to write, aside (aside.h), with wte's padding rows zero; version 3 or 5 (rounded to nearest even). @return MPT_OK;
 *  MPT_ERR_CONFIG (logged): `path` exists and no `force`, or another version; MPT_ERR_IO (logged); MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_llmc_create(const char *path, const mpt_gpt2_shape_t *shape, int version, int force,
                             const mpt_log_t *log, mpt_llmc_t **file_p);
/** Put elements [first, first+count) of tensor `tensor`. @return MPT_OK; MPT_ERR_IO (logged). */
mpt_status_t mpt_llmc_put(mpt_llmc_t *file, int tensor, int64_t first, int64_t count, const float *values);
/** Sync and rename: all tensors have been put. *bytes_p: the file's size. @return as mpt_aside_commit. */
mpt_status_t mpt_llmc_commit(mpt_llmc_t *file, int64_t *bytes_p);

/** Free; what was begun and not committed is removed. NULL is allowed. */
void mpt_llmc_close(mpt_llmc_t *file);

#endif
