#include <inttypes.h>
#include <stdio.h>

#include "session.h"

/* The session's part of a checkpoint's meta. Doubles in hexadecimal: they read back exactly. */
static void write_meta(const mpt_session_t *s, char *out, size_t bytes)
{
    const mpt_config_t *config = &s->config;
    const mpt_progress_t *p = &s->progress;
    snprintf(out, bytes,
             "arch = %s\nlayers = %" PRId64 "\nheads = %" PRId64 "\ndim = %" PRId64 "\ncontext = %" PRId64
             "\nvocab = %" PRId64 "\nparameters = %" PRId64 "\ncompute = %s\nseed = %" PRIu64
             "\nglobal_batch = %" PRId64 "\nsequence = %" PRId64 "\norder = %s\n"
             "applied = %" PRId64 "\nposition = %" PRId64 "\ntokens = %" PRId64
             "\nscale = %a\nscale_dynamic = %d\nscale_clean = %" PRId64 "\nscale_hits = %" PRId64
             "\nconsecutive_skips = %" PRId64 "\n",
             config->model.arch, config->model.layers, config->model.heads, config->model.dim,
             config->model.context, config->model.vocab, s->memory.layout.parameters,
             mpt_dtype_name(config->precision.compute), config->train.seed, config->train.global_batch,
             config->data.sequence, config->data.order == MPT_ORDER_SHUFFLED ? "shuffled" : "sequential",
             p->applied, p->position, p->tokens, p->scale.scale, s->scale_rule.dynamic, p->scale.clean,
             p->scale.hits, p->scale.consecutive_skips);
}

mpt_status_t mpt_save_begin(mpt_session_t *s)
{
    char meta[MPT_CHECKPOINT_META_MAX];
    int outcome;
    int64_t step;
    mpt_status_t status = mpt_save_settle(s, &outcome, &step);
    if (status != MPT_OK)
        return status;
    write_meta(s, meta, sizeof meta);
    mpt_checkpoint_begin(s->saver, &s->memory.state, s->progress.step, meta);
    return MPT_OK;
}

static int end_save(mpt_session_t *s, int commit, int64_t *step_p)
{
    *step_p = mpt_checkpoint_step(s->saver);
    return mpt_checkpoint_finish(s->saver, commit) == MPT_OK && commit ? 1 : -1;
}

int mpt_save_poll(mpt_session_t *s, int64_t *step_p)
{
    int failed = 0;
    if (mpt_checkpoint_step(s->saver) < 0)
        return 0;
    for (int r = 0; r < s->boot->ranks; r++) {
        uint32_t progress = s->memory.records[r].save;
        if (progress != MPT_SAVE_SYNCED && progress != MPT_SAVE_FAILED)
            return 0;
        failed |= progress == MPT_SAVE_FAILED;
    }
    return end_save(s, !failed, step_p);
}

/* Disks differ: a rank whose write is done waits this much longer for the others than in a step. */
#define SAVE_GRACE_S 600.0

/* One byte of every rank over the run's communicator; the worst comes back. */
static mpt_status_t vote_by_comm(mpt_session_t *s, uint8_t own, uint8_t *worst_p)
{
    uint8_t *all = (uint8_t *)s->memory.records;
    double limit = s->comm->timeout_s;
    s->comm->what = "vote on a checkpoint";
    s->comm->timeout_s = limit > 0.0 ? limit + SAVE_GRACE_S : 0.0;
    mpt_status_t status = mpt_comm_all_gather(s->comm, &own, all, 1, s->stream);
    s->comm->timeout_s = limit;
    s->comm->what = NULL;
    if (status == MPT_OK)
        status = s->device->ops->stream_synchronize(s->device, s->stream);
    if (status != MPT_OK) {
        s->failed = 1;
        return status;
    }
    *worst_p = 0;
    for (int r = 0; r < s->boot->ranks; r++)
        *worst_p = all[r] > *worst_p ? all[r] : *worst_p;
    return MPT_OK;
}

mpt_status_t mpt_save_settle(mpt_session_t *s, int *outcome_p, int64_t *step_p)
{
    uint8_t worst;
    *outcome_p = 0;
    *step_p = mpt_checkpoint_step(s->saver);
    if (*step_p < 0)
        return MPT_OK;
    mpt_checkpoint_wait(s->saver);
    uint8_t failed = mpt_checkpoint_progress(s->saver) != MPT_SAVE_SYNCED;
    mpt_status_t status = vote_by_comm(s, failed, &worst);
    if (status != MPT_OK)
        return status;
    failed = end_save(s, worst == 0, step_p) < 0;
    status = vote_by_comm(s, failed, &worst); /* rank 0's rename may have failed */
    if (status == MPT_OK)
        *outcome_p = worst == 0 ? 1 : -1;
    return status;
}

mpt_status_t mpt_session_save(mpt_session_t *s)
{
    int outcome;
    int64_t step;
    if (s->failed)
        return MPT_ERR_COMM;
    mpt_status_t status = mpt_save_begin(s);
    if (status == MPT_OK)
        status = mpt_save_settle(s, &outcome, &step);
    if (status != MPT_OK)
        return status;
    return outcome > 0 ? MPT_OK : MPT_ERR_IO;
}
