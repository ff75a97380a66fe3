/*
 * The public calls on checkpoints that need no session: describe, verify, export.
 */
#include <stdlib.h>
#include <string.h>

#include "llmc.h"
#include "session.h"

typedef void (*public_log_t)(void *ctx, mpt_log_severity_t severity, const char *line);

static mpt_log_t wrap_log(mpt_log_target_t *target, public_log_t log, void *ctx)
{
    *target = (mpt_log_target_t){.log = log, .ctx = ctx};
    return (mpt_log_t){.level = MPT_LOG_INFO,
                       .rank = -1,
                       .sink = log != NULL ? mpt_session_log_sink : NULL,
                       .ctx = target};
}

static int64_t integer(const mpt_checkpoint_meta_t *meta, const char *key)
{
    char value[64];
    return mpt_checkpoint_get(meta->text, key, value, sizeof value) ? strtoll(value, NULL, 10) : 0;
}

mpt_status_t mpt_checkpoint_info(const char *path, mpt_checkpoint_info_t *info_p, public_log_t log, void *log_ctx)
{
    mpt_log_target_t target;
    mpt_log_t own = wrap_log(&target, log, log_ctx);
    mpt_checkpoint_meta_t meta;
    mpt_checkpoint_info_t info = {0};
    char scale[64] = "0";
    mpt_status_t status = mpt_restore_find(path, &own, &meta);
    if (status != MPT_OK)
        return status;
    snprintf(info.path, sizeof info.path, "%s", meta.path);
    mpt_checkpoint_get(meta.text, "scale", scale, sizeof scale);
    mpt_checkpoint_get(meta.text, "compute", info.compute, sizeof info.compute);
    info.step = meta.step;
    info.saved_ranks = meta.ranks;
    info.loss_scale = strtod(scale, NULL);
    info.applied_steps = integer(&meta, "applied");
    info.tokens = integer(&meta, "tokens");
    info.layers = integer(&meta, "layers");
    info.heads = integer(&meta, "heads");
    info.dim = integer(&meta, "dim");
    info.context = integer(&meta, "context");
    info.vocab = integer(&meta, "vocab");
    info.parameters = integer(&meta, "parameters");
    info.bytes = mpt_checkpoint_bytes(&meta);
    *info_p = info;
    return MPT_OK;
}

mpt_status_t mpt_checkpoint_fsck(const char *path, public_log_t log, void *log_ctx)
{
    mpt_log_target_t target;
    mpt_log_t own = wrap_log(&target, log, log_ctx);
    mpt_checkpoint_meta_t meta;
    int64_t bytes;
    mpt_status_t status = mpt_restore_find(path, &own, &meta);
    if (status == MPT_OK)
        status = mpt_checkpoint_verify(&meta, &own, &bytes);
    if (status == MPT_OK)
        mpt_log_info(&own, "%s: %lld bytes verified", meta.path, (long long)bytes);
    return status;
}

mpt_status_t mpt_checkpoint_export(const char *path, const char *out_path, int version, public_log_t log,
                                   void *log_ctx)
{
    mpt_log_target_t target;
    mpt_log_t own = wrap_log(&target, log, log_ctx);
    mpt_checkpoint_meta_t meta;
    mpt_config_t config;
    mpt_layout_t layout = {0};
    mpt_config_defaults(&config);
    mpt_status_t status = mpt_restore_find(path, &own, &meta);
    if (status == MPT_OK && !mpt_restore_model_config(&meta, &config))
        status = MPT_ERR_CHECKPOINT;
    if (status != MPT_OK)
        return status;
    mpt_gpt2_shape_t shape = mpt_memory_shape(&config);
    int count = mpt_gpt2_tensor_count(&shape);
    mpt_tensor_t *tensors = calloc((size_t)count, sizeof *tensors);
    float *master = NULL;
    if (tensors == NULL)
        return MPT_ERR_NO_MEMORY;
    mpt_gpt2_tensors(&shape, tensors);
    status = mpt_layout_build(tensors, count, 1, &layout);
    if (status == MPT_OK)
        master = calloc((size_t)layout.total, sizeof *master);
    if (status == MPT_OK && master == NULL)
        status = MPT_ERR_NO_MEMORY;
    float *const arrays[MPT_KIND_COUNT] = {master, NULL, NULL};
    if (status == MPT_OK)
        status = mpt_checkpoint_load(&meta, &layout, arrays, &own);
    if (status == MPT_OK)
        status = mpt_llmc_write(out_path, &shape, &layout, &own, version, master);
    free(master);
    free(tensors);
    mpt_layout_release(&layout);
    return status;
}
