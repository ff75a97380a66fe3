/*
 * llm.c's model files: 256 int32 of header (magic 20240326, version 3 = fp32 or 5 = bf16, context, vocab, layers,
 * heads, dim, padded vocab), then the parameters type by type, each type's layers together, in the order
 *   wte wpe ln1w ln1b qkvw qkvb attprojw attprojb ln2w ln2b fcw fcb fcprojw fcprojb lnfw lnfb
 * with wte's padding rows in the file.
 */
#ifndef MPT_LLMC_H
#define MPT_LLMC_H

#include "gpt2.h"
#include "layout.h"

/** Read the header's shape (batch and seq 0). @return MPT_OK; MPT_ERR_CHECKPOINT (logged). */
mpt_status_t mpt_llmc_shape(const char *path, const mpt_log_t *log, mpt_gpt2_shape_t *shape_p);
/** Read all parameters into masters, a flat array over `layout`; the file's shape must be `shape`. @return MPT_OK; MPT_ERR_CHECKPOINT (logged). */
mpt_status_t mpt_llmc_read(const char *path, const mpt_gpt2_shape_t *shape, const mpt_layout_t *layout,
                           const mpt_log_t *log, float *master);
/** Write, aside and renamed; version 3 or 5 (rounded to nearest even). @return MPT_OK; MPT_ERR_IO (logged);
 *  MPT_ERR_INVALID_ARG: another version (logged). */
mpt_status_t mpt_llmc_write(const char *path, const mpt_gpt2_shape_t *shape, const mpt_layout_t *layout,
                            const mpt_log_t *log, int version, const float *master);

#endif
