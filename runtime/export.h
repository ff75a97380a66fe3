/*
 * Checkpoints to model files and back: the work behind mpt_checkpoint_export and mpt_checkpoint_import.
 *
 *   checkpoint --load, in pieces--> llm.c file (weights)                   no copy of the model in memory
 *                                   safetensors file (every kind held)
 *   model file --whole arrays--> one rank's state --the trainer's own writer--> checkpoint
 *
 * In safetensors files the masters bear the tensors' own names; the other kinds the prefixes of mpt_export_prefix. The metadata is
 * every line of the checkpoint's meta.
 */
#ifndef MPT_EXPORT_H
#define MPT_EXPORT_H

#include "checkpoint.h"
#include "gpt2.h"
#include "mpt.h"

#define MPT_EXPORT_NAME_MAX (MPT_TENSOR_MAX_NAME + 16)

/** "", "optimizer.m.", "optimizer.v.", "ema." */
const char *mpt_export_prefix(mpt_checkpoint_kind_t kind);
/** "master, m, v" for a bit each; `out` has room for 32 bytes. */
void mpt_export_kinds(unsigned kinds, char *out);
/** The layout of a model on one rank. @return MPT_OK; MPT_ERR_NO_MEMORY (logged). */
mpt_status_t mpt_export_layout(const mpt_gpt2_shape_t *shape, const mpt_log_t *log, mpt_layout_t *layout_p);

/** See mpt_checkpoint_export. */
mpt_status_t mpt_export_run(const mpt_checkpoint_export_params_t *params, const mpt_log_t *log,
                            mpt_checkpoint_export_result_t *result_p);
/** See mpt_checkpoint_import. */
mpt_status_t mpt_import_run(const mpt_checkpoint_import_params_t *params, const mpt_log_t *log,
                            mpt_checkpoint_import_result_t *result_p);

#endif
