/*
 * Where a run starts from: a checkpoint, a model file, or random weights. All ranks try the same candidate
 * and vote; a damaged one is passed over for the one before it, and said so.
 */
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "llmc.h"
#include "philox.h"
#include "save_meta.h"
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

mpt_dtype_t mpt_restore_compute(const char *name)
{
    mpt_dtype_t type = mpt_dtype_named(name);
    return type == MPT_F64 ? MPT_DTYPE_COUNT : type; /* FP64 is the oracle's alone */
}

static mpt_status_t check_shape(const mpt_checkpoint_meta_t *meta, const mpt_save_meta_t *saved, const mpt_log_t *log)
{
    const mpt_gpt2_shape_t shape = {.layers = saved->layers,
                                    .heads = saved->heads,
                                    .dim = saved->dim,
                                    .context = saved->context,
                                    .vocab = saved->vocab};
    const char *fault = mpt_llmc_shape_fault(&shape);
    if (fault == NULL)
        return MPT_OK;
    mpt_log_error(log,
                  "%s/meta: %s: layers %" PRId64 ", heads %" PRId64 ", dim %" PRId64 ", context %" PRId64
                  ", vocab %" PRId64 "; the file is damaged",
                  meta->path, fault, saved->layers, saved->heads, saved->dim, saved->context, saved->vocab);
    return MPT_ERR_CHECKPOINT;
}

mpt_status_t mpt_restore_model_config(const mpt_checkpoint_meta_t *meta, const mpt_log_t *log, mpt_config_t *config)
{
    mpt_save_meta_t saved;
    mpt_status_t status = mpt_save_meta_require(meta, MPT_META_MODEL, log, &saved);
    if (status == MPT_OK)
        status = check_shape(meta, &saved, log);
    if (status != MPT_OK)
        return status;
    mpt_dtype_t compute = mpt_restore_compute(saved.compute);
    if (compute == MPT_DTYPE_COUNT) {
        mpt_log_error(log, "%s/meta: compute = %s: a type that no run trains in; the file is damaged", meta->path,
                      saved.compute);
        return MPT_ERR_CHECKPOINT;
    }
    config->model.layers = saved.layers;
    config->model.heads = saved.heads;
    config->model.dim = saved.dim;
    config->model.context = config->data.sequence = saved.context;
    config->model.vocab = saved.vocab;
    config->precision.compute = compute;
    return MPT_OK;
}

mpt_status_t mpt_restore_find(const char *path, const mpt_log_t *log, mpt_checkpoint_meta_t *meta_p)
{
    char newest[MPT_CHECKPOINT_PATH_MAX];
    int64_t step;
    int count;
    mpt_status_t status = mpt_checkpoint_look(path, &step, 1, log, &count);
    if (status != MPT_OK)
        return status == MPT_ERR_IO ? MPT_ERR_CHECKPOINT : status;
    if (count == 0)
        return mpt_checkpoint_read_meta(path, log, meta_p);
    mpt_checkpoint_path(path, step, newest, sizeof newest);
    return mpt_checkpoint_read_meta(newest, log, meta_p);
}

/* ---- a checkpoint ------------------------------------------------------------------------------------ */

static mpt_status_t check_model(const mpt_session_t *s, const mpt_checkpoint_meta_t *meta, int *other_model_p)
{
    mpt_config_t saved = s->config;
    const mpt_config_t *config = &s->config;
    mpt_status_t status = mpt_restore_model_config(meta, &s->log, &saved);
    if (status != MPT_OK)
        return status;
    if (saved.model.layers == config->model.layers && saved.model.heads == config->model.heads &&
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
    *other_model_p = 1;
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t read_progress(mpt_session_t *s, const mpt_checkpoint_meta_t *meta)
{
    mpt_save_meta_t saved;
    mpt_status_t status = mpt_save_meta_require(meta, MPT_META_PROGRESS, &s->log, &saved);
    if (status != MPT_OK)
        return status;
    s->progress = (mpt_progress_t){.step = meta->step,
                                   .applied = saved.applied,
                                   .position = saved.position,
                                   .tokens = saved.tokens,
                                   .rounded = saved.rounded,
                                   .scale = {.scale = saved.scale,
                                             .clean = saved.scale_clean,
                                             .hits = saved.scale_hits,
                                             .consecutive_skips = saved.consecutive_skips}};
    /* A fixed scale is the config's, whatever was saved; and one that was fixed says nothing to a dynamic one. */
    if (!s->scale_rule.dynamic || !saved.scale_dynamic)
        s->progress.scale.scale = s->scale_rule.init;
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
    if (s->boot->rank == 0 && meta->ranks != s->boot->ranks &&
        s->config.train.reproducible != MPT_REPRODUCIBLE_WORLD)
        mpt_log_warn(&s->log,
                     "%s was saved by %d rank%s; with %d sums round otherwise from here on (not under "
                     "train.reproducible = world)",
                     meta->path, meta->ranks, meta->ranks > 1 ? "s" : "", s->boot->ranks);
}

/* What the checkpoint says of `key` and the run does otherwise; where it says nothing, nothing. */
static int differs(const mpt_checkpoint_meta_t *meta, const char *key, int64_t own)
{
    int found = 1;
    int64_t saved = get_integer(meta, key, &found);
    return found && saved != own;
}

/* Another file, or one that has grown: the data's position means other samples. Older checkpoints do not say what they were trained on. */
static void warn_data(const mpt_session_t *s, const mpt_checkpoint_meta_t *meta)
{
    mpt_save_meta_t saved;
    int64_t samples = mpt_data_samples(s->train), tokens = mpt_data_tokens(s->train);
    mpt_save_meta_read(meta->text, &saved);
    if (s->boot->rank != 0 || !mpt_save_meta_known(&saved, "samples") || !mpt_save_meta_known(&saved, "data_tokens"))
        return;
    int cut_alike = !differs(meta, "sequence", s->config.data.sequence);
    if (tokens != saved.data_tokens || (samples != saved.samples && cut_alike))
        mpt_log_warn(&s->log,
                     "%s was saved with %" PRId64 " samples of %" PRId64 " tokens in data.train, which has %" PRId64 " of %" PRId64
                     " now: the order of data is another one from here on",
                     meta->path, saved.samples, saved.data_tokens, samples, tokens);
    else if (mpt_save_meta_known(&saved, "data_hash") && saved.data_hash != mpt_data_hash(s->train))
        mpt_log_warn(&s->log,
                     "%s was saved with as many tokens in data.train, but others, or cut into other files: from here on the data are "
                     "other ones",
                     meta->path);
}

static void warn_sums(const mpt_session_t *s, const mpt_checkpoint_meta_t *meta)
{
    const mpt_config_t *config = &s->config;
    int world = config->train.reproducible == MPT_REPRODUCIBLE_WORLD;
    int ema = config->train.ema > 0.0;
    if (s->boot->rank != 0)
        return;
    if (differs(meta, "lanes", world ? config->train.lanes : 0) || differs(meta, "micro_batch", config->train.micro_batch))
        mpt_log_warn(&s->log,
                     "%s was saved with another train.micro_batch, train.lanes or train.reproducible: sums round otherwise "
                     "from here on",
                     meta->path);
    if (differs(meta, "masters", config->precision.master_fp32))
        mpt_log_warn(&s->log,
                     config->precision.master_fp32
                         ? "%s was trained without masters: its working weights become the masters"
                         : "%s was trained with FP32 masters: precision.master = none rounds them to the working weights",
                     meta->path);
    if (!ema && mpt_checkpoint_kinds(meta) & 1u << MPT_KIND_EMA)
        mpt_log_warn(&s->log, "%s holds an average of the weights, which train.ema = 0 drops", meta->path);
}

/* The average starts where the weights are. */
static mpt_status_t start_ema(mpt_session_t *s)
{
    mpt_state_t *state = &s->memory.state;
    const mpt_layout_t *layout = &s->memory.layout;
    const mpt_held_t *from = state->master.data != NULL ? &state->master : &state->working;
    mpt_status_t status = MPT_OK;
    for (int u = 0; u < layout->unit_count && state->ema.data != NULL && status == MPT_OK; u++) {
        int whole = state->ema.hold == MPT_HOLD_ALL;
        status = mpt_cast(&s->kernels,
                          &(mpt_cast_t){.dst_dtype = MPT_F32,
                                        .src_dtype = from->dtype,
                                        .count = mpt_held_unit_count(layout, &state->ema, u),
                                        .dst = mpt_held_unit(layout, &state->ema, u),
                                        .src = whole ? mpt_held_unit(layout, from, u)
                                                     : mpt_held_slice(state, from, u)},
                          s->stream);
    }
    return status;
}

static mpt_status_t load_state(mpt_session_t *s, const mpt_checkpoint_meta_t *meta)
{
    const unsigned wanted = 1u << MPT_KIND_MASTER | 1u << MPT_KIND_M | 1u << MPT_KIND_V, ema = 1u << MPT_KIND_EMA;
    int with_ema = s->memory.state.ema.data != NULL, has_ema = (mpt_checkpoint_kinds(meta) & ema) != 0;
    mpt_checkpoint_sink_t sink = mpt_checkpoint_state_sink(&s->memory.state);
    mpt_status_t status =
        mpt_checkpoint_load(meta, &s->memory.layout, wanted | (with_ema && has_ema ? ema : 0), &sink, &s->log);
    if (status != MPT_OK || !with_ema || has_ema)
        return status;
    if (s->boot->rank == 0)
        mpt_log_warn(&s->log, "%s holds no average of the weights: train.ema starts from the weights of step %" PRId64,
                     meta->path, meta->step);
    return start_ema(s);
}

static mpt_status_t load_own(mpt_session_t *s, const char *path, int *other_model_p)
{
    mpt_checkpoint_meta_t meta;
    *other_model_p = 0;
    mpt_status_t status = mpt_checkpoint_read_meta(path, &s->log, &meta);
    if (status != MPT_OK)
        return status;
    status = check_model(s, &meta, other_model_p);
    if (status == MPT_OK)
        status = read_progress(s, &meta);
    if (status == MPT_OK)
        status = load_state(s, &meta);
    if (status == MPT_OK)
        warn_changes(s, &meta);
    if (status == MPT_OK)
        warn_data(s, &meta);
    if (status == MPT_OK)
        warn_sums(s, &meta);
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

/* Whether two names mean one file; 0 where one of them means none. */
static int same_path(const char *a, const char *b)
{
    char real_a[PATH_MAX], real_b[PATH_MAX];
    return realpath(a, real_a) != NULL && realpath(b, real_b) != NULL && strcmp(real_a, real_b) == 0;
}

/* Whether `path` is `dir` or stands in it, as it is written or as its links lead. */
static int lies_in(const char *path, const char *dir)
{
    char written[PATH_MAX], real[PATH_MAX];
    snprintf(written, sizeof written, "%s", path);
    return same_path(path, dir) || same_path(dirname(written), dir) ||
           (realpath(path, real) != NULL && same_path(dirname(real), dir));
}

/* Retention would thin out checkpoints that are not this run's, and those after its first step would be set aside. */
static mpt_status_t refuse_foreign(const mpt_session_t *s, const char *resume)
{
    const char *dir = s->config.checkpoint.dir;
    int64_t step;
    int count;
    if (s->fresh_over || access(resume, F_OK) != 0) /* which is said when it is read */
        return MPT_OK;
    mpt_status_t status = mpt_checkpoint_look(dir, &step, 1, &s->log, &count);
    if (status != MPT_OK || count == 0 || lies_in(resume, dir))
        return status;
    mpt_log_error(&s->log,
                  "checkpoint.dir %s holds checkpoints, and %s is not among them: add --resume auto to go on from those, "
                  "or choose another folder (--set checkpoint.dir=...)",
                  dir, resume);
    return MPT_ERR_CONFIG;
}

static mpt_status_t look(const mpt_session_t *s, const char *resume, candidates_t *c)
{
    int automatic = strcmp(resume, "auto") == 0;
    const char *dir = automatic ? s->config.checkpoint.dir : resume;
    snprintf(c->dir, sizeof c->dir, "%s", dir);
    mpt_status_t status = mpt_checkpoint_look(dir, c->steps, MAX_CANDIDATES, &s->log, &c->count);
    if (status == MPT_OK && c->count == 0 && !automatic) {
        c->explicit_path = 1;
        c->count = 1;
    }
    return status == MPT_OK && !automatic ? refuse_foreign(s, resume) : status;
}

/* Rank 0's candidates to every rank. */
static mpt_status_t share(mpt_session_t *s, candidates_t *c)
{
    size_t bytes = (size_t)s->boot->ranks * sizeof(candidates_t);
    candidates_t *all = calloc(1, bytes);
    mpt_status_t status = all != NULL ? MPT_OK : mpt_log_no_memory(&s->log, bytes, "the list of checkpoints");
    status = mpt_boot_agree(s->boot, status);
    if (status == MPT_OK)
        status = s->boot->ops->exchange(s->boot, c, all, sizeof *c);
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
        if (status == MPT_OK || status == MPT_ERR_COMM || status == MPT_ERR_NO_MEMORY)
            return status;
        if (mpt_boot_agree(s->boot, other_model ? status : MPT_OK) != MPT_OK)
            return status;
        if (i + 1 < c->count && s->boot->rank == 0)
            mpt_log_warn(&s->log, "%s cannot be used; trying the checkpoint before it", path);
    }
    return MPT_ERR_CHECKPOINT;
}

/* ---- fresh weights ------------------------------------------------------------------------------------- */

#define CHUNK ((int64_t)16384)

/* Weights come in chunks, from several threads at once, and go to what this rank holds of them. */
typedef struct fill {
    mpt_session_t *session;
    mpt_checkpoint_sink_t sink;
    mpt_llmc_t *file; /* NULL: drawn */
    mpt_extent_t extent;
    atomic_int status;
} fill_t;

static void fill_chunk(void *ctx, int task, int worker)
{
    fill_t *fill = ctx;
    mpt_session_t *s = fill->session;
    const mpt_layout_t *layout = &s->memory.layout;
    int64_t at = task * CHUNK, left = fill->extent.count - at, n = left < CHUNK ? left : CHUNK;
    int64_t first = fill->extent.first + at;
    float values[CHUNK];
    mpt_status_t status = MPT_OK;
    (void)worker;
    if (fill->file != NULL)
        status = mpt_llmc_read(fill->file, fill->extent.tensor, first, n, values);
    else
        mpt_gpt2_init(&s->memory.model.shape, layout->tensors, fill->extent.tensor, s->config.train.seed, first, n,
                      values);
    if (status == MPT_OK)
        status = fill->sink.put(fill->sink.ctx, MPT_KIND_MASTER, fill->extent.tensor, first, n, values);
    if (status != MPT_OK)
        atomic_store(&fill->status, (int)status);
}

static mpt_status_t fill_weights(mpt_session_t *s, mpt_llmc_t *file)
{
    const mpt_layout_t *layout = &s->memory.layout;
    fill_t fill = {.session = s, .sink = mpt_checkpoint_state_sink(&s->memory.state), .file = file};
    int pieces, index;
    mpt_state_owned(&s->memory.state, &pieces, &index);
    atomic_init(&fill.status, MPT_OK);
    for (int t = 0; t < layout->tensor_count; t++)
        if (mpt_layout_extent(layout, pieces, index, t, &fill.extent))
            mpt_pool_run(s->pool, fill_chunk, &fill, (int)((fill.extent.count + CHUNK - 1) / CHUNK));
    return (mpt_status_t)atomic_load(&fill.status);
}

static mpt_status_t read_model(mpt_session_t *s)
{
    mpt_llmc_t *file;
    mpt_status_t status = mpt_llmc_open(s->config.model.init, &s->memory.model.shape, &s->log, &file);
    if (status != MPT_OK)
        return status;
    status = fill_weights(s, file);
    mpt_llmc_close(file);
    return status;
}

static mpt_status_t refuse_over_checkpoints(const mpt_session_t *s)
{
    int64_t step;
    int count;
    mpt_status_t status = mpt_checkpoint_look(s->config.checkpoint.dir, &step, 1, &s->log, &count);
    if (status != MPT_OK || count == 0)
        return status;
    mpt_log_error(&s->log,
                  "checkpoint.dir %s holds checkpoints: add --resume auto to go on from them, or "
                  "choose another folder (--set checkpoint.dir=...)",
                  s->config.checkpoint.dir);
    return MPT_ERR_CONFIG;
}

static mpt_status_t start_fresh(mpt_session_t *s)
{
    mpt_status_t status = s->fresh_over || s->boot->rank != 0 ? MPT_OK : refuse_over_checkpoints(s);
    if (status != MPT_OK)
        return status;
    mpt_loss_scale_init(&s->progress.scale, &s->scale_rule);
    status = s->config.model.init[0] != '\0' ? read_model(s) : fill_weights(s, NULL);
    return status == MPT_OK ? start_ema(s) : status;
}

mpt_status_t mpt_session_weights_changed(mpt_session_t *s)
{
    mpt_gpt2_weights_changed(&s->memory.model);
    return mpt_gather_all_updated(&s->gather);
}

mpt_status_t mpt_session_refresh(mpt_session_t *s)
{
    mpt_state_t *state = &s->memory.state;
    mpt_stochastic_t rounding = {.seed = s->config.train.seed, .step = (uint64_t)s->progress.rounded};
    int stochastic = s->config.precision.rounding == MPT_ROUNDING_STOCHASTIC && s->progress.rounded > 0;
    mpt_status_t status = MPT_OK;
    if (state->master.data != NULL)
        status = mpt_state_refresh(state, &state->master, stochastic ? &rounding : NULL, &s->kernels, s->stream);
    if (status == MPT_OK)
        status = mpt_session_weights_changed(s);
    return status == MPT_OK ? mpt_worker_drain(s->overlap.worker) : status;
}

mpt_status_t mpt_restore(mpt_session_t *s, const char *resume)
{
    candidates_t candidates = {0};
    mpt_status_t status = MPT_OK;
    if (s->boot->rank == 0 && resume != NULL)
        status = look(s, resume, &candidates);
    mpt_status_t shared = share(s, &candidates); /* which takes every rank, whatever it has found */
    status = mpt_session_vote(s, status != MPT_OK ? status : shared);
    if (status != MPT_OK)
        return status;
    s->resumed = candidates.count > 0;
    if (s->resumed)
        status = try_candidates(s, &candidates);
    else
        status = mpt_session_vote(s, start_fresh(s));
    if (status == MPT_OK)
        status = mpt_session_refresh(s);
    s->first_step = s->progress.step + 1;
    return status;
}
