/*
 * The public calls on checkpoints that need no session: describe, verify, export, import.
 */
#include <stdio.h>

#include "export.h"
#include "save_meta.h"
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

static mpt_checkpoint_info_t describe(const mpt_checkpoint_meta_t *meta)
{
    mpt_save_meta_t saved;
    mpt_save_meta_read(meta->text, &saved);
    mpt_checkpoint_info_t info = {.step = meta->step,
                                  .applied_steps = saved.applied,
                                  .tokens = saved.tokens,
                                  .saved_ranks = meta->ranks,
                                  .loss_scale = saved.scale,
                                  .dynamic_scale = saved.scale_dynamic != 0,
                                  .layers = saved.layers,
                                  .heads = saved.heads,
                                  .dim = saved.dim,
                                  .context = saved.context,
                                  .vocab = saved.vocab,
                                  .parameters = saved.parameters,
                                  .bytes = mpt_checkpoint_bytes(meta)};
    snprintf(info.path, sizeof info.path, "%s", meta->path);
    snprintf(info.shard, sizeof info.shard, "%s", saved.shard);
    snprintf(info.compute, sizeof info.compute, "%s", saved.compute);
    mpt_export_kinds(mpt_checkpoint_kinds(meta), info.kinds);
    return info;
}

mpt_status_t mpt_checkpoint_info(const char *path, mpt_checkpoint_info_t *info_p, public_log_t log, void *log_ctx)
{
    mpt_log_target_t target;
    mpt_log_t own = wrap_log(&target, log, log_ctx);
    mpt_checkpoint_meta_t meta;
    mpt_status_t status = mpt_restore_find(path, &own, &meta);
    if (status == MPT_OK)
        *info_p = describe(&meta);
    return status;
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

mpt_status_t mpt_checkpoint_export(const mpt_checkpoint_export_params_t *params,
                                   mpt_checkpoint_export_result_t *result_p)
{
    mpt_log_target_t target;
    mpt_log_t own = wrap_log(&target, params->log, params->log_ctx);
    mpt_checkpoint_export_result_t result;
    mpt_status_t status = mpt_export_run(params, &own, &result);
    if (status == MPT_OK && result_p != NULL)
        *result_p = result;
    return status;
}

mpt_status_t mpt_checkpoint_import(const mpt_checkpoint_import_params_t *params,
                                   mpt_checkpoint_import_result_t *result_p)
{
    mpt_log_target_t target;
    mpt_log_t own = wrap_log(&target, params->log, params->log_ctx);
    mpt_checkpoint_import_result_t result;
    mpt_status_t status = mpt_import_run(params, &own, &result);
    if (status == MPT_OK && result_p != NULL)
        *result_p = result;
    return status;
}
