/*
 * Opening a session, stage by stage; every rank votes after each, so that a failure on one ends all.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "numeric.h"
#include "session.h"
#include "step.h"

/* ---- stage 1: the config ------------------------------------------------------------------------------- */

/* Rank 0's text or NULL to every rank, to be freed, through an exchange that is fixed in size. */
static mpt_status_t share_text(mpt_session_t *s, char **text_p)
{
    int64_t bytes = *text_p != NULL ? (int64_t)strlen(*text_p) : 0, sizes[MPT_BOOT_MAX_RANKS];
    mpt_status_t status = s->boot->ops->exchange(s->boot, &bytes, sizes, sizeof bytes);
    if (status != MPT_OK)
        return status;
    size_t block = (size_t)sizes[0] + 1, total = block * (size_t)s->boot->ranks;
    char *send = calloc(1, block), *all = calloc(1, total);
    if (send == NULL || all == NULL)
        status = mpt_log_no_memory(&s->log, block + total, "the config's text");
    status = mpt_boot_agree(s->boot, status);
    if (status == MPT_OK) {
        memcpy(send, *text_p != NULL ? *text_p : "", *text_p != NULL ? block : 1);
        status = s->boot->ops->exchange(s->boot, send, all, block);
    }
    free(*text_p);
    free(send);
    *text_p = all; /* rank 0's block stands first and ends in NUL */
    return status;
}

static mpt_status_t open_config(mpt_session_t *s, const mpt_config_source_t *source)
{
    char *text = NULL;
    mpt_log_t log = s->log;
    log.level = s->boot->rank == 0 ? log.level : MPT_LOG_ERROR; /* what all find, one rank says */
    mpt_status_t status = s->boot->rank == 0 ? mpt_session_source_text(source, &log, &text) : MPT_OK;
    status = mpt_boot_agree(s->boot, status);
    if (status == MPT_OK)
        status = share_text(s, &text);
    if (status == MPT_OK)
        status = mpt_config_parse(text, source->path != NULL ? source->path : "config", source->overrides,
                                  source->override_count, &log, &s->config);
    if (status == MPT_OK)
        status = mpt_config_check_ranks(&s->config, s->boot->ranks, &log);
    free(text);
    return status;
}

/* ---- stage 2: threads, device, backends -------------------------------------------------------------------- */

/* Values of the environment that no other check looks at; rank 0 speaks. */
static mpt_status_t check_environment(mpt_session_t *s)
{
    const mpt_environment_t *env = &s->environment;
    const mpt_log_t *log = s->boot->rank == 0 ? &s->log : NULL;
    if (env->comm[0] != '\0' && strcmp(env->comm, "self") != 0 && strcmp(env->comm, "mpi") != 0 &&
        strcmp(env->comm, "shm") != 0 && strcmp(env->comm, "hier") != 0) {
        mpt_log_error(log, "MPT_COMM=%s: not one of self, mpi, shm, hier", env->comm);
        return MPT_ERR_CONFIG;
    }
    if (env->log_level[0] != '\0' && mpt_session_log_level_find(env->log_level) < 0) {
        mpt_log_error(log, "MPT_LOG=%s: not one of error, warn, info, debug", env->log_level);
        return MPT_ERR_CONFIG;
    }
    if (mpt_kernels_find(env->kernels[0] != '\0' ? env->kernels : "cpu") == NULL) {
        mpt_log_error(log, "MPT_KERNELS=%s: not one of cpu, ref", env->kernels);
        return MPT_ERR_CONFIG;
    }
    return MPT_OK;
}

/* The lowest instruction level of all ranks, so that all compute the same bits. */
static mpt_status_t agree_on_isa(mpt_session_t *s, mpt_isa_t own, mpt_isa_t *isa_p)
{
    int32_t mine = (int32_t)own, all[MPT_BOOT_MAX_RANKS];
    mpt_status_t status = s->boot->ops->exchange(s->boot, &mine, all, sizeof mine);
    *isa_p = own;
    for (int r = 0; r < s->boot->ranks && status == MPT_OK; r++)
        if (all[r] < (int32_t)*isa_p)
            *isa_p = (mpt_isa_t)all[r];
    return status;
}

static mpt_status_t choose_backends(mpt_session_t *s)
{
    mpt_isa_t own;
    const mpt_environment_t *env = &s->environment;
    mpt_memory_params_t *p = &s->memory_params;
    mpt_status_t status = mpt_session_isa(env, &s->log, &own);
    p->config = &s->config;
    p->log = &s->log;
    p->ranks = s->boot->ranks;
    p->rank = s->boot->rank;
    p->comm_backend = env->comm[0] != '\0' ? env->comm : mpt_comm_choose(s->boot);
    p->local_ranks = s->boot->local_ranks;
    p->kernel_ops = mpt_kernels_find(env->kernels[0] != '\0' ? env->kernels : "cpu");
    mpt_status_t agreed = agree_on_isa(s, own, &p->isa);
    return status != MPT_OK ? status : agreed;
}

static mpt_status_t open_device(mpt_session_t *s)
{
    const mpt_place_t *place = &s->place;
    mpt_status_t status = mpt_place_choose(s->boot, s->config.threads, &s->log, &s->place);
    if (status != MPT_OK)
        return status;
    s->memory_params.threads = place->threads;
    status = mpt_pool_create(&(mpt_pool_params_t){.threads = place->threads,
                                                  .cpus = place->bound ? place->cpus : NULL,
                                                  .yield = place->yield,
                                                  .log = &s->log},
                             &s->pool);
    if (status == MPT_OK)
        status = mpt_device_cpu_create(s->pool, &s->log, &s->device);
    if (status == MPT_OK)
        status = s->device->ops->stream_create(s->device, &s->stream);
    return status;
}

/* ---- stage 3: memory, communicator, kernels -------------------------------------------------------------- */

/* What MPT_MEMORY grants a rank; SIZE_MAX: no cap. 0: malformed. */
static size_t granted_bytes(const char *text)
{
    static const char units[] = "KMGT";
    char *end;
    if (text[0] == '\0')
        return SIZE_MAX;
    double value = strtod(text, &end);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL) {
        value *= (double)((size_t)1024 << 10 * (unit - units));
        end++;
    }
    return end == text || *end != '\0' || !(value >= 1.0 && value < 0x1p60) ? 0 : (size_t)value;
}

static mpt_status_t check_fits(const mpt_session_t *s)
{
    size_t granted = granted_bytes(s->environment.memory);
    if (granted == 0) {
        mpt_log_error(&s->log, "MPT_MEMORY=%s: not a number of bytes, as 8G", s->environment.memory);
        return MPT_ERR_CONFIG;
    }
    if (s->planned_bytes <= granted)
        return MPT_OK;
    const char *backend = s->memory_params.comm_backend;
    int several_hosts = s->boot->local_ranks < s->boot->ranks; /* which a plan does not know */
    mpt_log_error(&s->log,
                  "this run needs %.1f MiB a rank, and MPT_MEMORY=%s grants it %.1f MiB: see what fits with %s%s%smpt-ddp "
                  "plan --ranks %d --memory %s",
                  (double)s->planned_bytes / 0x1p20, s->environment.memory, (double)granted / 0x1p20,
                  several_hosts ? "MPT_COMM=" : "", several_hosts ? backend : "", several_hosts ? " " : "",
                  s->boot->ranks, s->environment.memory);
    return MPT_ERR_NO_MEMORY;
}

/* Count, allocate exactly that, cut again. */
static mpt_status_t open_memory(mpt_session_t *s)
{
    mpt_arena_t private_count, peer_count;
    mpt_status_t status = mpt_memory_create(&s->memory, &s->memory_params);
    if (status != MPT_OK)
        return status;
    mpt_arena_init_counting(&private_count);
    mpt_arena_init_counting(&peer_count);
    mpt_memory_cut(&s->memory, &s->memory_params, &private_count, &peer_count);
    s->planned_bytes = private_count.used + peer_count.used + s->memory.comm_own_bytes;
    status = check_fits(s);
    if (status == MPT_OK)
        status = mpt_arena_init(&s->private_arena, s->device, MPT_MEM_PRIVATE, private_count.used);
    if (status == MPT_OK)
        status = mpt_arena_init(&s->peer_arena, s->device, MPT_MEM_PEER, peer_count.used);
    if (status == MPT_OK)
        mpt_memory_cut(&s->memory, &s->memory_params, &s->private_arena, &s->peer_arena);
    return status;
}

static mpt_status_t open_comm(mpt_session_t *s)
{
    mpt_status_t status =
        mpt_comm_create(&(mpt_comm_params_t){.backend = s->memory_params.comm_backend,
                                             .boot = s->boot,
                                             .device = s->overlap.device,
                                             .log = &s->log,
                                             .timeout_s = s->config.comm.timeout_s,
                                             .yield = s->place.yield || mpt_overlap_shares_core(s),
                                             .beside = mpt_overlap_shares_core(s),
                                             .scratch = s->memory.comm_scratch},
                        &s->comm);
    s->group = s->comm;
    return status;
}

/* A rank that waits across groups may wait for one that waits in its group: that one finds who is silent first. */
#define ACROSS_PATIENCE 2

/* hsdp: the ranks of this rank's copy, and those that hold the same slice. */
static mpt_status_t open_groups(mpt_session_t *s)
{
    int k = s->memory.layout.group, rank = s->boot->rank;
    if (s->memory.state.params.shard != MPT_SHARD_HSDP)
        return MPT_OK;
    s->group = NULL;
    mpt_status_t status = mpt_comm_split(s->comm, rank / k, rank, &s->group);
    if (status == MPT_OK)
        status = mpt_comm_split(s->comm, rank % k, rank, &s->across);
    if (status == MPT_OK)
        s->across->timeout_s *= ACROSS_PATIENCE;
    return status;
}

static mpt_status_t open_registration(mpt_session_t *s)
{
    mpt_comm_t *comms[3];
    int count = mpt_session_comms(s, comms);
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < count && status == MPT_OK; i++) /* one group's failure keeps all from the next communicator */
        status = mpt_boot_agree(s->boot, mpt_comm_register(comms[i], &s->peer_arena.mem, &s->registration[i]));
    return status;
}

static mpt_status_t open_consensus(mpt_session_t *s)
{
    const mpt_layout_t *layout = &s->memory.layout;
    if (s->config.train.check_every > 0 && s->boot->rank == 0 &&
        mpt_replica_sets(layout, s->memory.state.params.shard) == layout->ranks)
        mpt_log_warn(&s->log, "train.check_every: no two ranks hold the same here, there is nothing to compare");
    return mpt_consensus_create(
        &(mpt_consensus_params_t){
            .comm = s->comm,
            .fold = mpt_memory_fold(&s->memory),
            .local_ranks = s->boot->local_ranks,
            .local_rank = s->boot->local_rank,
            .fold_above = MPT_CONSENSUS_FOLD_ABOVE,
            .memory = s->memory.consensus},
        &s->consensus);
}

static void open_reducer(mpt_session_t *s)
{
    const mpt_state_params_t *state = &s->memory.state.params;
    int64_t contributed = state->reduce_micro ? 1 : state->micro_steps;
    s->reducer = (mpt_reducer_t){.state = &s->memory.state,
                                 .kernels = &s->kernels,
                                 .stream = s->stream,
                                 .worker = s->overlap.worker,
                                 .worker_kernels = s->overlap.kernels,
                                 .worker_stream = s->overlap.stream,
                                 .group = s->group,
                                 .across = s->across,
                                 .divisor = mpt_reducer_divisor(state->wire, contributed, s->boot->ranks)};
    mpt_gather_init(&s->gather, &s->memory.state, s->overlap.worker, s->group, s->overlap.stream);
}

static mpt_status_t open_kernels(mpt_session_t *s)
{
    mpt_kernels_limits_t limits;
    mpt_gpt2_t *model = &s->memory.model;
    mpt_gpt2_limits(&model->shape, model->math, &limits);
    mpt_status_t status = mpt_kernels_init(&s->kernels, s->memory_params.kernel_ops, s->device, &s->log,
                                           s->memory_params.isa, s->memory.kernel_scratch,
                                           s->memory.kernel_scratch_bytes, &limits);
    model->kernels = &s->kernels;
    model->stream = s->stream;
    model->hooks = mpt_step_forward_hooks(s);
    if (status == MPT_OK)
        status = mpt_overlap_open_kernels(s);
    open_reducer(s);
    return status;
}

/* ---- stage 4: data ------------------------------------------------------------------------------------------- */

static mpt_status_t open_sources(mpt_session_t *s)
{
    const mpt_config_t *config = &s->config;
    mpt_data_params_t params = {.pattern = config->data.train,
                                .sequence = config->data.sequence,
                                .vocab = config->model.vocab,
                                .shuffled = config->data.order == MPT_ORDER_SHUFFLED,
                                .seed = config->train.seed,
                                .log = &s->log};
    mpt_status_t status = mpt_data_open(&params, &s->train);
    if (status != MPT_OK || mpt_memory_val_micros(config, s->boot->ranks) == 0)
        return status;
    params.pattern = config->data.val;
    params.shuffled = 0;
    return mpt_data_open(&params, &s->val);
}

/* What a rank sees of one source. */
typedef struct view {
    int64_t samples, tokens;
    uint64_t hash;
} view_t;

static view_t view_of(const mpt_data_t *data)
{
    if (data == NULL)
        return (view_t){0};
    return (view_t){mpt_data_samples(data), mpt_data_tokens(data), mpt_data_hash(data)};
}

static mpt_status_t refuse_views(const mpt_log_t *log, const char *key, int rank, const view_t *its, const view_t *first)
{
    if (its->samples != first->samples || its->tokens != first->tokens)
        mpt_log_error(log,
                      "%s: rank %d has %lld samples of %lld tokens, rank 0 has %lld of %lld; give every host the same files",
                      key, rank, (long long)its->samples, (long long)its->tokens, (long long)first->samples,
                      (long long)first->tokens);
    else
        mpt_log_error(log, "%s: rank %d has as many tokens as rank 0, but others, or cut into other files; give every host the same files", key,
                      rank);
    return MPT_ERR_DATA;
}

static mpt_status_t agree_on_source(mpt_session_t *s, const mpt_data_t *data, const char *key)
{
    view_t own = view_of(data), all[MPT_BOOT_MAX_RANKS];
    mpt_status_t status = s->boot->ops->exchange(s->boot, &own, all, sizeof own);
    for (int r = 1; r < s->boot->ranks && status == MPT_OK; r++)
        if (memcmp(&all[r], &all[0], sizeof own) != 0)
            status = refuse_views(s->boot->rank == 0 ? &s->log : NULL, key, r, &all[r], &all[0]);
    return status;
}

/* A rank with another file under the same name would train on samples that are not its own. */
static mpt_status_t agree_on_data(mpt_session_t *s)
{
    mpt_status_t status = agree_on_source(s, s->train, "data.train");
    return status == MPT_OK ? agree_on_source(s, s->val, "data.val") : status;
}

static mpt_status_t open_data(mpt_session_t *s)
{
    mpt_status_t own = open_sources(s);
    return mpt_boot_agree(s->boot, own) == MPT_OK ? agree_on_data(s) : own;
}

/* ---- stage 5: where the run stands ----------------------------------------------------------------------------- */

static void fill_scale_rule(mpt_session_t *s)
{
    const mpt_config_t *config = &s->config;
    s->scale_rule = (mpt_loss_scale_rule_t){
        .dynamic = config->precision.dynamic_scale,
        .init = config->precision.dynamic_scale ? config->precision.init_scale
                                                : config->precision.fixed_scale,
        .growth = config->precision.growth,
        .backoff = config->precision.backoff,
        .floor = config->precision.min_scale,
        .ceiling = config->precision.max_scale,
        .growth_interval = config->precision.growth_interval,
        .hysteresis = config->precision.hysteresis,
        .max_skips = config->precision.max_skips};
}

/* A number that no other run has: rank 0's clock and process. */
static mpt_status_t agree_on_run(mpt_session_t *s)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t own = mpt_hash_mix((uint64_t)now.tv_sec, (uint32_t)now.tv_nsec, (uint64_t)getpid());
    uint64_t all[MPT_BOOT_MAX_RANKS];
    mpt_status_t status = s->boot->ops->exchange(s->boot, &own, all, sizeof own);
    if (status == MPT_OK)
        s->run = all[0];
    return status;
}

/* Before anyone looks at what lies in it. Who starts afresh and is not to save leaves it alone. */
static mpt_status_t claim_folder(mpt_session_t *s)
{
    s->claimed = s->config.checkpoint.every > 0 || s->resuming;
    return s->claimed ? mpt_save_lock(s) : MPT_OK;
}

static mpt_status_t check_folder(mpt_session_t *s)
{
    return s->claimed ? mpt_save_check_folder(s) : MPT_OK;
}

/* What is later than the step that the run goes on from is set aside: nothing where there is nothing to do. Checkpoints come before metrics: a
 * run that dies in between is resumed from a step whose lines are all there. */
static mpt_status_t tidy_folders(mpt_session_t *s)
{
    const mpt_config_t *config = &s->config;
    int64_t last_step = s->progress.step >= config->train.steps ? INT64_MAX : s->progress.step;
    mpt_status_t status = mpt_metrics_open(config->log.dir, &s->log, &s->metrics);
    if (status != MPT_OK)
        return status;
    if (s->claimed)
        mpt_checkpoint_clean(config->checkpoint.dir);
    if (s->resumed)
        mpt_checkpoint_set_aside(config->checkpoint.dir, last_step, &s->log);
    return mpt_metrics_go_on(s->metrics, last_step);
}

static mpt_status_t open_files(mpt_session_t *s)
{
    const mpt_config_t *config = &s->config;
    mpt_status_t status = mpt_checkpoint_create(
        &(mpt_checkpoint_params_t){.dir = config->checkpoint.dir,
                                   .keep = config->checkpoint.keep,
                                   .state = &s->memory.state,
                                   .log = &s->log,
                                   .rank = s->boot->rank,
                                   .run = s->run,
                                   .pool = s->pool,
                                   .snapshot = s->memory.snapshot},
        &s->saver);
    return status != MPT_OK || s->boot->rank != 0 ? status : tidy_folders(s);
}

static mpt_status_t measure_peak(mpt_session_t *s)
{
    /* A thread that shares its core measures the whole core, once for each that shares it. */
    double own =
        mpt_peak_flops(s->device, s->memory_params.isa, s->config.precision.compute) / s->place.load;
    double all[MPT_BOOT_MAX_RANKS];
    mpt_status_t status = s->boot->ops->exchange(s->boot, &own, all, sizeof own);
    for (int r = 0; r < s->boot->ranks && status == MPT_OK; r++)
        s->peak_flops += all[r];
    mpt_gpt2_flops(&s->memory.model.shape, s->memory.layout.parameters, &s->flops_6nd, &s->flops_palm,
                   &s->flops_causal);
    return status;
}

static mpt_status_t read_first_step(mpt_session_t *s)
{
    mpt_status_t status = mpt_inject_parse(s->environment.inject, &s->memory.layout, &s->log, &s->inject);
    if (status == MPT_OK && s->progress.step < s->config.train.steps) {
        mpt_step_read_ahead(s);
        status = s->data_status;
    }
    return status;
}

/* ---- all of it --------------------------------------------------------------------------------------------- */

typedef mpt_status_t (*stage_t)(mpt_session_t *session);

static mpt_status_t open_stages(mpt_session_t *s, const mpt_session_params_t *params)
{
    static const stage_t before[] = {check_environment, choose_backends, open_device,       mpt_overlap_open,
                                     open_memory,       open_comm,       open_groups,       open_registration,
                                     open_consensus,    open_kernels,    open_data,         agree_on_run,
                                     claim_folder,      check_folder};
    static const stage_t after[] = {open_files, measure_peak, read_first_step};
    s->resuming = params->resume != NULL;
    s->fresh_over = params->fresh_over;
    mpt_status_t status = mpt_session_vote(s, open_config(s, &params->config));
    for (size_t i = 0; i < sizeof before / sizeof *before && status == MPT_OK; i++)
        status = mpt_session_vote(s, before[i](s));
    if (status != MPT_OK)
        return status;
    fill_scale_rule(s);
    status = mpt_restore(s, params->resume);
    for (size_t i = 0; i < sizeof after / sizeof *after && status == MPT_OK; i++)
        status = mpt_session_vote(s, after[i](s));
    s->comm_counted_s = mpt_worker_times(s->overlap.worker).busy; /* the opening's is no step's */
    return status;
}

/* A session that knows its ranks and can speak, or none on any rank. */
static mpt_status_t allocate(const mpt_session_params_t *params, mpt_session_t **session_p)
{
    mpt_log_target_t target = {.log = params->log, .ctx = params->log_ctx};
    mpt_log_t log = {.rank = params->boot != NULL ? params->boot->rank : 0, .sink = mpt_session_log_sink, .ctx = &target};
    mpt_boot_t *own_boot = NULL, *boot = params->boot;
    mpt_session_t *s = calloc(1, sizeof *s);
    mpt_status_t status = MPT_OK;
    if (boot != NULL && boot->ranks > MPT_BOOT_MAX_RANKS) {
        mpt_log_error(boot->rank == 0 ? &log : NULL, "%d ranks: %d at most", boot->ranks, MPT_BOOT_MAX_RANKS);
        status = MPT_ERR_INVALID_ARG; /* on every rank */
        goto fail;
    }
    if (s == NULL || (boot == NULL && mpt_boot_self_create(&own_boot) != MPT_OK))
        status = mpt_log_no_memory(&log, sizeof *s, "a session");
    if (boot != NULL)
        status = mpt_boot_agree(boot, status);
    if (status != MPT_OK)
        goto fail;
    mpt_environment_read(&s->environment);
    atomic_init(&s->stop_requested, 0);
    s->folder_lock = -1;
    s->own_boot = own_boot;
    s->boot = boot != NULL ? boot : own_boot;
    s->log_target = target;
    s->log_target.holding = 1;
    log.level = mpt_session_log_level(&s->environment);
    log.ctx = &s->log_target;
    s->log = log;
    *session_p = s;
    return MPT_OK;

fail:
    mpt_boot_destroy(own_boot);
    free(s);
    return status;
}

mpt_status_t mpt_session_open(const mpt_session_params_t *params, mpt_session_t **session_p)
{
    mpt_session_t *s;
    mpt_status_t status = allocate(params, &s);
    if (status != MPT_OK)
        return status;
    status = open_stages(s, params);
    s->log_target.holding = 0;
    if (status != MPT_OK) {
        mpt_session_close(s);
        return status;
    }
    *session_p = s;
    return MPT_OK;
}
