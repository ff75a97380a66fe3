/*
 * Where a run starts from: a checkpoint, a model file, or random weights. All ranks try the same candidate
 * and vote; a damaged one is passed over for the one before it, and said so.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "llmc.h"
#include "philox.h"
#include "session.h"

#define MAX_CANDIDATES 64

static int64_t get_integer(const mpt_checkpoint_meta_t *meta, const char *key, int *found)
{
    char value[64];
    if (!mpt_checkpoint_get(meta->text, key, value, sizeof value)) {
        *found = 0;
        return 0;
    }
    return strtoll(value, NULL, 10);
}

int mpt_restore_model_config(const mpt_checkpoint_meta_t *meta, mpt_config_t *config)
{
    int found = 1;
    char compute[16];
    config->model.layers = get_integer(meta, "layers", &found);
    config->model.heads = get_integer(meta, "heads", &found);
    config->model.dim = get_integer(meta, "dim", &found);
    config->model.context = get_integer(meta, "context", &found);
    config->model.vocab = get_integer(meta, "vocab", &found);
    if (!mpt_checkpoint_get(meta->text, "compute", compute, sizeof compute))
        return 0;
    for (int d = 0; d < MPT_DTYPE_COUNT; d++)
        if (strcmp(mpt_dtype_name((mpt_dtype_t)d), compute) == 0)
            config->precision.compute = (mpt_dtype_t)d;
    config->data.sequence = config->model.context;
    return found;
}

mpt_status_t mpt_restore_find(const char *path, const mpt_log_t *log, mpt_checkpoint_meta_t *meta_p)
{
    char newest[MPT_CHECKPOINT_PATH_MAX];
    int64_t step;
    if (mpt_checkpoint_list(path, &step, 1) == 0)
        return mpt_checkpoint_read_meta(path, log, meta_p);
    int64_t steps[MAX_CANDIDATES];
    mpt_checkpoint_list(path, steps, MAX_CANDIDATES);
    mpt_checkpoint_path(path, steps[0], newest, sizeof newest);
    return mpt_checkpoint_read_meta(newest, log, meta_p);
}

/* ---- a checkpoint ------------------------------------------------------------------------------------ */

static mpt_status_t check_model(const mpt_session_t *s, const mpt_checkpoint_meta_t *meta)
{
    mpt_config_t saved = s->config;
    const mpt_config_t *config = &s->config;
    int found = mpt_restore_model_config(meta, &saved);
    if (found && saved.model.layers == config->model.layers && saved.model.heads == config->model.heads &&
        saved.model.dim == config->model.dim && saved.model.context == config->model.context &&
        saved.model.vocab == config->model.vocab)
        return MPT_OK;
    mpt_log_error(&s->log,
                  "%s: is of another model: layers %" PRId64 ", heads %" PRId64 ", dim %" PRId64
                  ", context %" PRId64 ", vocab %" PRId64 "; the config has %" PRId64 ", %" PRId64
                  ", %" PRId64 ", %" PRId64 ", %" PRId64,
                  meta->path, saved.model.layers, saved.model.heads, saved.model.dim, saved.model.context,
                  saved.model.vocab, config->model.layers, config->model.heads, config->model.dim,
                  config->model.context, config->model.vocab);
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t read_progress(mpt_session_t *s, const mpt_checkpoint_meta_t *meta)
{
    char scale[64];
    int found = mpt_checkpoint_get(meta->text, "scale", scale, sizeof scale);
    mpt_progress_t p = {.step = meta->step,
                        .applied = get_integer(meta, "applied", &found),
                        .position = get_integer(meta, "position", &found),
                        .tokens = get_integer(meta, "tokens", &found)};
    int64_t was_dynamic = get_integer(meta, "scale_dynamic", &found);
    p.scale.clean = get_integer(meta, "scale_clean", &found);
    p.scale.hits = get_integer(meta, "scale_hits", &found);
    p.scale.consecutive_skips = get_integer(meta, "consecutive_skips", &found);
    if (!found) {
        mpt_log_error(&s->log, "%s/meta: lacks a value that a run needs; the file is damaged", meta->path);
        return MPT_ERR_CHECKPOINT;
    }
    p.scale.scale = strtod(scale, NULL);
    /* A fixed scale is the config's, whatever was saved; and one that was fixed says nothing to a dynamic one. */
    if (!s->scale_rule.dynamic || !was_dynamic)
        p.scale.scale = s->scale_rule.init;
    s->progress = p;
    return MPT_OK;
}

/* Say what a resumed run cannot continue exactly, because the config has changed. */
static void warn_changes(const mpt_session_t *s, const mpt_checkpoint_meta_t *meta)
{
    char text[32] = "";
    int found = mpt_checkpoint_get(meta->text, "seed", text, sizeof text);
    uint64_t seed = strtoull(text, NULL, 10);
    int64_t batch = get_integer(meta, "global_batch", &found);
    int64_t sequence = get_integer(meta, "sequence", &found);
    found = found && mpt_checkpoint_get(meta->text, "order", text, sizeof text);
    int shuffled = strcmp(text, "shuffled") == 0;
    if (s->boot->rank == 0 && found &&
        (seed != s->config.train.seed || batch != s->config.train.global_batch ||
         sequence != s->config.data.sequence ||
         shuffled != (s->config.data.order == MPT_ORDER_SHUFFLED)))
        mpt_log_warn(&s->log,
                     "%s was saved with seed %" PRIu64 ", global_batch %" PRId64 ", sequence %" PRId64
                     ", order %s; with other values the order of data is another one from here on",
                     meta->path, seed, batch, sequence, text);
    const char *compute = mpt_dtype_name(s->config.precision.compute);
    if (s->boot->rank == 0 && mpt_checkpoint_get(meta->text, "compute", text, sizeof text) &&
        strcmp(text, compute) != 0)
        mpt_log_warn(&s->log, "%s was trained in %s; from here on it is %s", meta->path, text, compute);
}

static mpt_status_t load_own(mpt_session_t *s, const char *path, int *other_model_p)
{
    mpt_checkpoint_meta_t meta;
    float *const arrays[MPT_KIND_COUNT] = {s->memory.state.master, s->memory.state.m, s->memory.state.v};
    *other_model_p = 0;
    mpt_status_t status = mpt_checkpoint_read_meta(path, &s->log, &meta);
    if (status != MPT_OK)
        return status;
    status = check_model(s, &meta);
    *other_model_p = status != MPT_OK;
    if (status == MPT_OK)
        status = mpt_checkpoint_load(&meta, &s->memory.layout, arrays, &s->log);
    if (status == MPT_OK)
        status = read_progress(s, &meta);
    if (status == MPT_OK)
        warn_changes(s, &meta);
    return status;
}

/* ---- candidates -------------------------------------------------------------------------------------- */

/* What rank 0 tells the others to try. */
typedef struct candidates {
    int32_t count;
    int32_t explicit_path; /* 1: `dir` is the checkpoint itself */
    char dir[MPT_CONFIG_MAX_PATH];
    int64_t steps[MAX_CANDIDATES];
} candidates_t;

static void look(const mpt_session_t *s, const char *resume, candidates_t *c)
{
    int automatic = strcmp(resume, "auto") == 0;
    const char *dir = automatic ? s->config.checkpoint.dir : resume;
    snprintf(c->dir, sizeof c->dir, "%s", dir);
    c->count = mpt_checkpoint_list(dir, c->steps, MAX_CANDIDATES);
    if (c->count == 0 && !automatic) {
        c->explicit_path = 1;
        c->count = 1;
    }
}

/* Rank 0's candidates to every rank. */
static mpt_status_t share(mpt_session_t *s, candidates_t *c)
{
    candidates_t *all = calloc((size_t)s->boot->ranks, sizeof *all);
    if (all == NULL)
        return MPT_ERR_NO_MEMORY;
    mpt_status_t status = s->boot->ops->exchange(s->boot, c, all, sizeof *c);
    if (status == MPT_OK)
        *c = all[0];
    free(all);
    return status;
}

static mpt_status_t try_candidates(mpt_session_t *s, const candidates_t *c)
{
    for (int i = 0; i < c->count; i++) {
        char path[MPT_CHECKPOINT_PATH_MAX];
        int other_model;
        if (c->explicit_path)
            snprintf(path, sizeof path, "%s", c->dir);
        else
            mpt_checkpoint_path(c->dir, c->steps[i], path, sizeof path);
        mpt_status_t status = mpt_session_vote(s, load_own(s, path, &other_model));
        if (status == MPT_OK || status == MPT_ERR_COMM || other_model)
            return status;
        if (i + 1 < c->count && s->boot->rank == 0)
            mpt_log_warn(&s->log, "%s cannot be used; trying the checkpoint before it", path);
    }
    return MPT_ERR_CHECKPOINT;
}

/* ---- fresh weights ------------------------------------------------------------------------------------- */

#define DRAW_CHUNK ((int64_t)65536)

typedef struct draw {
    mpt_session_t *session;
    int tensor;
} draw_t;

static void draw_chunk(void *ctx, int task, int worker)
{
    draw_t *draw = ctx;
    const mpt_layout_t *layout = &draw->session->memory.layout;
    int64_t count = mpt_tensor_count(&layout->tensors[draw->tensor]), first = task * DRAW_CHUNK;
    int64_t n = count - first < DRAW_CHUNK ? count - first : DRAW_CHUNK;
    (void)worker;
    mpt_gpt2_init(&draw->session->memory.model.shape, layout->tensors, draw->tensor,
                  draw->session->config.train.seed, first, n,
                  draw->session->memory.state.master + mpt_layout_at(layout, draw->tensor) + first);
}

static mpt_status_t draw_weights(mpt_session_t *s)
{
    const mpt_layout_t *layout = &s->memory.layout;
    for (int t = 0; t < layout->tensor_count; t++) {
        draw_t draw = {.session = s, .tensor = t};
        int64_t count = mpt_tensor_count(&layout->tensors[t]);
        mpt_pool_run(s->pool, draw_chunk, &draw, (int)((count + DRAW_CHUNK - 1) / DRAW_CHUNK));
    }
    return MPT_OK;
}

static mpt_status_t start_fresh(mpt_session_t *s, int fresh_over)
{
    int64_t step;
    if (!fresh_over && s->boot->rank == 0 &&
        mpt_checkpoint_list(s->config.checkpoint.dir, &step, 1) > 0) {
        mpt_log_error(&s->log,
                      "checkpoint.dir %s holds checkpoints: add --resume auto to go on from them, or "
                      "choose another folder (--set checkpoint.dir=...)",
                      s->config.checkpoint.dir);
        return MPT_ERR_CONFIG;
    }
    mpt_loss_scale_init(&s->progress.scale, &s->scale_rule);
    if (s->config.model.init[0] != '\0')
        return mpt_llmc_read(s->config.model.init, &s->memory.model.shape, &s->memory.layout, &s->log,
                             s->memory.state.master);
    return draw_weights(s);
}

mpt_status_t mpt_restore(mpt_session_t *s, const char *resume, int fresh_over)
{
    candidates_t candidates = {0};
    mpt_status_t status = MPT_OK;
    if (s->boot->rank == 0 && resume != NULL)
        look(s, resume, &candidates);
    status = mpt_session_vote(s, share(s, &candidates));
    if (status != MPT_OK)
        return status;
    if (candidates.count > 0)
        status = try_candidates(s, &candidates);
    else
        status = mpt_session_vote(s, start_fresh(s, fresh_over));
    if (status == MPT_OK)
        status = mpt_state_refresh(&s->memory.state, &s->kernels, s->stream);
    s->first_step = s->progress.step + 1;
    return status;
}
