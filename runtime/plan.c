#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session.h"

/* Where public calls without a session log to. */
typedef struct local_log {
    mpt_environment_t environment;
    mpt_log_target_t target;
    mpt_log_t log;
} local_log_t;

static void open_log(local_log_t *local, void (*log)(void *, mpt_log_severity_t, const char *), void *ctx)
{
    mpt_environment_read(&local->environment);
    local->target = (mpt_log_target_t){.log = log, .ctx = ctx};
    local->log = (mpt_log_t){.level = mpt_session_log_level(&local->environment),
                             .rank = -1,
                             .sink = log != NULL ? mpt_session_log_sink : NULL,
                             .ctx = &local->target};
}

static void fill_memory(mpt_plan_t *plan, const mpt_arena_t *a, const mpt_arena_t *b, size_t communicators)
{
    for (int u = 0; u < MPT_USE_COUNT; u++) {
        int64_t bytes = (int64_t)(a->bytes_by_use[u] + b->bytes_by_use[u]);
        if (u == MPT_USE_COMMUNICATORS)
            bytes += (int64_t)communicators;
        if (bytes == 0)
            continue;
        plan->memory[plan->memory_rows].use = mpt_use_name((mpt_use_t)u);
        plan->memory[plan->memory_rows++].bytes = bytes;
        plan->bytes += bytes;
    }
}

static const char *type_name(mpt_dtype_t dtype)
{
    return dtype == MPT_DTYPE_COUNT ? "-" : mpt_dtype_name(dtype);
}

static void fill_precision(mpt_plan_t *plan, mpt_dtype_t compute, mpt_dtype_t wire, mpt_dtype_t sum)
{
    for (int op = 0; op < MPT_OP_COUNT; op++) {
        mpt_op_precision_t row = mpt_run_precision((mpt_op_t)op, compute, wire, sum);
        plan->precision[op].op = mpt_op_name((mpt_op_t)op);
        plan->precision[op].input = type_name(row.input);
        plan->precision[op].math = type_name(row.math);
        plan->precision[op].accumulate = type_name(row.accumulate);
        plan->precision[op].output = type_name(row.output);
        plan->precision[op].gradient = type_name(row.gradient);
    }
    plan->precision_rows = MPT_OP_COUNT;
}

/* After ranks and micro_steps. */
static void fill_parallel(mpt_plan_t *plan, const mpt_config_t *config)
{
    mpt_shard_t shard = config->parallel.shard;
    plan->micro_batch = config->train.micro_batch;
    plan->reductions = config->parallel.reduce_every == MPT_REDUCE_EVERY_MICRO ? plan->micro_steps : 1;
    plan->shard_ranks = shard == MPT_SHARD_DDP    ? 1
                        : shard == MPT_SHARD_HSDP ? (int)config->parallel.shard_ranks
                                                  : plan->ranks;
}

static mpt_status_t fill_plan(mpt_plan_t *plan, const mpt_config_t *config, const mpt_memory_params_t *params)
{
    static const char *const shards[] = {"ddp", "zero1", "zero2", "zero3", "hsdp"};
    mpt_memory_t memory;
    mpt_arena_t private_count, peer_count;
    mpt_status_t status = mpt_memory_create(&memory, params);
    if (status != MPT_OK)
        return status;
    mpt_arena_init_counting(&private_count);
    mpt_arena_init_counting(&peer_count);
    mpt_memory_cut(&memory, params, &private_count, &peer_count);
    plan->parameters = memory.layout.parameters;
    plan->padded_parameters = memory.layout.total;
    plan->ranks = params->ranks;
    plan->threads = params->threads;
    plan->comm = params->comm_backend;
    plan->hosts = strcmp(plan->comm, "mpi") == 0 ? 0 : params->ranks / params->local_ranks;
    plan->compute = mpt_dtype_name(config->precision.compute);
    plan->reduce = mpt_dtype_name(config->precision.reduce);
    plan->shard = shards[config->parallel.shard];
    plan->isa = mpt_isa_name(params->isa);
    plan->tokens_per_step = config->train.global_batch * config->data.sequence;
    plan->micro_steps = mpt_memory_micro_steps(config, params->ranks);
    plan->chinchilla_tokens = 20.0 * (double)plan->parameters;
    fill_parallel(plan, config);
    fill_memory(plan, &private_count, &peer_count, memory.comm_own_bytes);
    fill_precision(plan, config->precision.compute, config->precision.reduce,
                   memory.state.params.reduce_micro ? MPT_F32 : config->precision.reduce);
    mpt_gpt2_flops(&memory.model.shape, plan->parameters, &plan->flops_6nd_per_token,
                   &plan->flops_model_per_token, &plan->flops_causal_per_token);
    mpt_memory_release(&memory);
    return MPT_OK;
}

/* A backend's own name, which outlives the environment. NULL: MPT_COMM has another. */
static const char *comm_of(const mpt_environment_t *env, int ranks)
{
    static const char *const names[] = {"self", "mpi", "shm", "hier"};
    if (env->comm[0] == '\0')
        return ranks == 1 ? "self" : "shm";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(env->comm, names[i]) == 0)
            return names[i];
    return NULL;
}

/* Ranks of a host: all, but under hier the largest power of two of which there are two hosts or more. 0: there are none. */
static int local_ranks_of(const char *comm, int ranks)
{
    int local = 0;
    if (strcmp(comm, "hier") != 0)
        return ranks;
    for (int l = 2; 2 * l <= ranks && ranks % l == 0; l *= 2)
        local = l;
    return local;
}

static mpt_status_t fill_comm(mpt_memory_params_t *params, const mpt_environment_t *env, const mpt_log_t *log)
{
    params->comm_backend = comm_of(env, params->ranks);
    if (params->comm_backend == NULL) {
        mpt_log_error(log, "MPT_COMM=%s: not one of self, mpi, shm, hier", env->comm);
        return MPT_ERR_CONFIG;
    }
    params->local_ranks = local_ranks_of(params->comm_backend, params->ranks);
    if (params->local_ranks > 0)
        return MPT_OK;
    mpt_log_error(log, "MPT_COMM=hier: %d ranks make no two hosts of 2, 4, 8 .. ranks each", params->ranks);
    return MPT_ERR_CONFIG;
}

/* What a run of `ranks` ranks would choose, with this environment: on one host where it does not say otherwise. */
static mpt_status_t fill_params(mpt_memory_params_t *params, const mpt_config_t *config, int ranks,
                                const local_log_t *local)
{
    const mpt_environment_t *env = &local->environment;
    *params = (mpt_memory_params_t){.config = config,
                                    .log = &local->log,
                                    .kernel_ops =
                                        mpt_kernels_find(env->kernels[0] != '\0' ? env->kernels : "cpu"),
                                    .threads = config->threads > 0 ? config->threads : mpt_place_share(ranks),
                                    .ranks = ranks};
    if (params->kernel_ops == NULL) {
        mpt_log_error(&local->log, "MPT_KERNELS=%s: not one of cpu, ref", env->kernels);
        return MPT_ERR_CONFIG;
    }
    mpt_status_t status = fill_comm(params, env, &local->log);
    return status == MPT_OK ? mpt_session_isa(env, &local->log, &params->isa) : status;
}

mpt_status_t mpt_plan(const mpt_config_source_t *source, int ranks, mpt_plan_t *plan_p,
                      void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx)
{
    local_log_t local;
    mpt_config_t config;
    mpt_plan_t plan = {0};
    open_log(&local, log, log_ctx);
    char *text = NULL;
    mpt_status_t status = ranks < 1 ? MPT_ERR_CONFIG : mpt_session_source_text(source, &local.log, &text);
    if (status == MPT_OK)
        status = mpt_config_parse(text, source->path != NULL ? source->path : "config", source->overrides,
                                  source->override_count, &local.log, &config);
    free(text);
    if (status == MPT_OK)
        status = mpt_config_check_ranks(&config, ranks, &local.log);
    if (status != MPT_OK)
        return status;
    mpt_memory_params_t params;
    status = fill_params(&params, &config, ranks, &local);
    if (status != MPT_OK)
        return status;
    status = fill_plan(&plan, &config, &params);
    if (status == MPT_OK)
        *plan_p = plan;
    return status;
}

double mpt_measure_peak(const char *compute, int threads, const char **isa_p)
{
    mpt_log_t quiet = {.level = MPT_LOG_ERROR, .rank = -1};
    mpt_pool_t *pool = NULL;
    mpt_device_t *device = NULL;
    mpt_dtype_t dtype = MPT_F32;
    mpt_environment_t environment;
    mpt_isa_t isa;
    double peak = 0.0;
    mpt_environment_read(&environment);
    (void)mpt_session_isa(&environment, NULL, &isa); /* a wrong cap: no cap; a session refuses it aloud */
    if (mpt_dtype_named(compute) != MPT_DTYPE_COUNT)
        dtype = mpt_dtype_named(compute);
    if (mpt_pool_create(&(mpt_pool_params_t){.threads = threads, .log = &quiet}, &pool) == MPT_OK &&
        mpt_device_cpu_create(pool, &quiet, &device) == MPT_OK)
        peak = mpt_peak_flops(device, isa, dtype);
    if (isa_p != NULL)
        *isa_p = mpt_isa_name(isa);
    mpt_device_destroy(device);
    mpt_pool_destroy(pool);
    return peak;
}

mpt_status_t mpt_config_help(int fd)
{
    int own = dup(fd); /* the caller's stays open */
    FILE *out = own >= 0 ? fdopen(own, "w") : NULL;
    if (out == NULL) {
        if (own >= 0)
            close(own);
        return MPT_ERR_IO;
    }
    mpt_config_write_markdown(out);
    return fclose(out) == 0 ? MPT_OK : MPT_ERR_IO;
}
