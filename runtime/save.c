#include <inttypes.h>
#include <stdio.h>

#include "save_meta.h"
#include "session.h"

/* The session's part of the meta. */
static mpt_save_meta_t describe(const mpt_session_t *s)
{
    static const char *const shards[] = {"ddp", "zero1", "zero2", "zero3", "hsdp"};
    const mpt_config_t *config = &s->config;
    const mpt_progress_t *p = &s->progress;
    mpt_save_meta_t meta = {.layers = config->model.layers,
                            .heads = config->model.heads,
                            .dim = config->model.dim,
                            .context = config->model.context,
                            .vocab = config->model.vocab,
                            .parameters = s->memory.layout.parameters,
                            .seed = config->train.seed,
                            .global_batch = config->train.global_batch,
                            .sequence = config->data.sequence,
                            .micro_batch = config->train.micro_batch,
                            .lanes = config->train.reproducible == MPT_REPRODUCIBLE_WORLD ? config->train.lanes : 0,
                            .samples = mpt_data_samples(s->train),
                            .data_tokens = mpt_data_tokens(s->train),
                            .data_hash = mpt_data_hash(s->train),
                            .masters = config->precision.master_fp32,
                            .applied = p->applied,
                            .position = p->position,
                            .tokens = p->tokens,
                            .rounded = p->rounded,
                            .scale = p->scale.scale,
                            .scale_dynamic = s->scale_rule.dynamic,
                            .scale_clean = p->scale.clean,
                            .scale_hits = p->scale.hits,
                            .consecutive_skips = p->scale.consecutive_skips,
                            .known = UINT32_MAX};
    snprintf(meta.arch, sizeof meta.arch, "%s", config->model.arch);
    snprintf(meta.compute, sizeof meta.compute, "%s", mpt_dtype_name(config->precision.compute));
    snprintf(meta.shard, sizeof meta.shard, "%s", shards[config->parallel.shard]);
    snprintf(meta.order, sizeof meta.order, "%s",
             config->data.order == MPT_ORDER_SHUFFLED ? "shuffled" : "sequential");
    return meta;
}

static int end_save(mpt_session_t *s, int commit, int64_t *step_p)
{
    *step_p = mpt_checkpoint_step(s->saver);
    return mpt_checkpoint_finish(s->saver, commit) == MPT_OK && commit ? 1 : -1;
}

int mpt_save_poll(mpt_session_t *s, const mpt_verdict_t *verdict, int64_t *step_p)
{
    if (mpt_checkpoint_step(s->saver) < 0 || !verdict->saves_ended)
        return 0;
    if (mpt_checkpoint_ending(s->saver))
        return end_save(s, !verdict->save_failed, step_p);
    mpt_checkpoint_end(s->saver, !verdict->save_failed); /* in the background: steps do not wait for rank 0's disk */
    return 0;
}

/* Disks differ: a rank whose write is done waits this much longer for the others than in a step. */
#define SAVE_GRACE_S 600.0

/* One byte of every rank over the run's communicator; the worst comes back. */
static mpt_status_t vote_by_comm(mpt_session_t *s, uint8_t own, uint8_t *worst_p)
{
    uint8_t *all = s->memory.votes;
    double limit = s->comm->timeout_s;
    mpt_status_t status = mpt_worker_drain(s->overlap.worker); /* whose calls have the usual patience */
    s->comm->timeout_s = limit > 0.0 ? limit + SAVE_GRACE_S : 0.0;
    if (status == MPT_OK)
        status = mpt_session_gather(s, "vote on a checkpoint", &own, all, 1);
    s->comm->timeout_s = limit;
    if (status != MPT_OK) {
        s->failed = 1;
        return status;
    }
    *worst_p = 0;
    for (int r = 0; r < s->boot->ranks; r++)
        *worst_p = all[r] > *worst_p ? all[r] : *worst_p;
    return MPT_OK;
}

/* Whether every rank's part of what is under way, the write or the end, is good. */
static mpt_status_t vote_on_save(mpt_session_t *s, int *good_p)
{
    uint8_t worst;
    mpt_checkpoint_wait(s->saver);
    mpt_status_t status = vote_by_comm(s, mpt_checkpoint_progress(s->saver) != MPT_SAVE_SYNCED, &worst);
    if (status == MPT_OK)
        *good_p = worst == 0;
    return status;
}

mpt_status_t mpt_save_settle(mpt_session_t *s, int *outcome_p, int64_t *step_p)
{
    int good = 0;
    *outcome_p = 0;
    *step_p = mpt_checkpoint_step(s->saver);
    if (*step_p < 0)
        return MPT_OK;
    mpt_status_t status = MPT_OK;
    if (!mpt_checkpoint_ending(s->saver)) {
        status = vote_on_save(s, &good);
        if (status == MPT_OK)
            mpt_checkpoint_end(s->saver, good);
    }
    if (status == MPT_OK)
        status = vote_on_save(s, &good); /* rank 0's rename may have failed */
    if (status == MPT_OK)
        *outcome_p = end_save(s, good, step_p);
    return status;
}

/* ---- the folder ------------------------------------------------------------------------------------------ */

mpt_status_t mpt_save_lock(mpt_session_t *s)
{
    if (s->boot->rank != 0)
        return MPT_OK;
    return mpt_checkpoint_lock(s->config.checkpoint.dir, s->run, &s->log, &s->folder_lock);
}

mpt_status_t mpt_save_check_folder(mpt_session_t *s)
{
    if (s->boot->rank == 0)
        return MPT_OK;
    return mpt_checkpoint_same_folder(s->config.checkpoint.dir, s->run, &s->log);
}

/* It held none when the run began, or the run would have been refused: they are of another one that has come and gone. */
static mpt_status_t refuse_others(const mpt_session_t *s)
{
    int64_t step;
    int count;
    mpt_status_t status = mpt_checkpoint_look(s->config.checkpoint.dir, &step, 1, &s->log, &count);
    if (status != MPT_OK || count == 0)
        return status;
    mpt_log_error(&s->log, "checkpoint.dir %s holds checkpoints of another run: step %" PRId64 " is not saved",
                  s->config.checkpoint.dir, s->progress.step);
    return MPT_ERR_IO;
}

/* A run that was to save nothing saves after all, because it is stopped or asked to. Collective. */
static mpt_status_t claim_late(mpt_session_t *s)
{
    uint8_t worst;
    mpt_status_t own = mpt_save_lock(s);
    if (own == MPT_OK && s->boot->rank == 0 && !s->fresh_over)
        own = refuse_others(s);
    if (own == MPT_OK && s->boot->rank == 0)
        mpt_checkpoint_clean(s->config.checkpoint.dir);
    mpt_status_t status = vote_by_comm(s, own != MPT_OK, &worst);
    if (status == MPT_OK && worst == 0)
        status = vote_by_comm(s, mpt_save_check_folder(s) != MPT_OK, &worst);
    s->claimed = status == MPT_OK && worst == 0;
    if (s->claimed)
        return MPT_OK;
    mpt_checkpoint_unlock(s->folder_lock);
    s->folder_lock = -1;
    return status != MPT_OK ? status : MPT_ERR_IO;
}

/* ---- a save ------------------------------------------------------------------------------------------------ */

mpt_status_t mpt_save_begin(mpt_session_t *s)
{
    char meta[MPT_CHECKPOINT_META_MAX];
    int outcome;
    int64_t step;
    mpt_status_t status = mpt_save_settle(s, &outcome, &step);
    if (status == MPT_OK && !s->claimed)
        status = claim_late(s);
    if (status != MPT_OK)
        return status;
    status = s->device->ops->stream_synchronize(s->device, s->stream); /* the saver reads what the last step wrote */
    if (status != MPT_OK)
        return status;
    mpt_save_meta_t described = describe(s);
    mpt_save_meta_write(&described, meta, sizeof meta);
    mpt_checkpoint_begin(s->saver, s->progress.step, meta);
    return MPT_OK;
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
