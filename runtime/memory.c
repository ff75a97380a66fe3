#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "comm.h"
#include "consensus.h"
#include "replica.h"

mpt_gpt2_shape_t mpt_memory_shape(const mpt_config_t *config)
{
    return (mpt_gpt2_shape_t){.layers = config->model.layers,
                              .heads = config->model.heads,
                              .dim = config->model.dim,
                              .context = config->model.context,
                              .vocab = config->model.vocab,
                              .batch = config->train.micro_batch,
                              .seq = config->data.sequence};
}

int64_t mpt_memory_micro_steps(const mpt_config_t *config, int ranks)
{
    return config->train.global_batch / (config->train.micro_batch * ranks);
}

int mpt_memory_lanes(const mpt_config_t *config, int ranks)
{
    return config->train.reproducible == MPT_REPRODUCIBLE_WORLD ? (int)config->train.lanes / ranks : 1;
}

int64_t mpt_memory_val_micros(const mpt_config_t *config, int ranks)
{
    if (config->train.val_every == 0 || config->data.val[0] == '\0')
        return 0;
    return config->train.val_batches * mpt_memory_micro_steps(config, ranks);
}

static mpt_gpt2_recompute_t recompute_of(mpt_recompute_t recompute)
{
    return recompute == MPT_RECOMPUTE_BLOCK       ? MPT_GPT2_RECOMPUTE_BLOCK
           : recompute == MPT_RECOMPUTE_ATTENTION ? MPT_GPT2_RECOMPUTE_ATTENTION
                                                  : MPT_GPT2_KEEP;
}

mpt_status_t mpt_memory_create(mpt_memory_t *memory, const mpt_memory_params_t *params)
{
    mpt_gpt2_shape_t shape = mpt_memory_shape(params->config);
    const mpt_config_t *config = params->config;
    int count = mpt_gpt2_tensor_count(&shape), hsdp = config->parallel.shard == MPT_SHARD_HSDP;
    const mpt_layout_cut_t cut = {.ranks = params->ranks,
                                  .group = hsdp ? (int)config->parallel.shard_ranks : params->ranks,
                                  .lanes = params->ranks * mpt_memory_lanes(config, params->ranks)};
    memset(memory, 0, sizeof *memory);
    mpt_tensor_t *tensors = calloc((size_t)count, sizeof *tensors);
    mpt_status_t status = MPT_ERR_NO_MEMORY;
    if (tensors != NULL) {
        mpt_gpt2_tensors(&shape, tensors);
        status = mpt_layout_build(tensors, count, &cut, &memory->layout);
    }
    free(tensors);
    if (status == MPT_OK)
        status = mpt_gpt2_create(&memory->model, &shape, config->precision.compute,
                                 recompute_of(config->train.recompute));
    if (status == MPT_ERR_NO_MEMORY)
        mpt_log_error(params->log, "out of memory for the tables of %d tensors", count);
    if (status != MPT_OK)
        mpt_memory_release(memory);
    return status;
}

void mpt_memory_release(mpt_memory_t *memory)
{
    mpt_gpt2_release(&memory->model);
    mpt_layout_release(&memory->layout);
    memset(memory, 0, sizeof *memory);
}

/* Only weights that stay where they are: a window's are read once or twice before others take their place. */
static void cut_packs(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *arena)
{
    if (!params->config->train.pack_weights || memory->state.gathered.hold != MPT_HOLD_ALL)
        return;
    mpt_gpt2_cut_packs(&memory->model,
                       &(mpt_gpt2_packing_t){.ops = params->kernel_ops, .isa = params->isa, .backward = 1}, arena);
}

static void cut_data(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *arena)
{
    const mpt_config_t *config = params->config;
    size_t micro = (size_t)(config->train.micro_batch * config->data.sequence) * sizeof(uint32_t);
    size_t step = micro * (size_t)mpt_memory_micro_steps(config, params->ranks);
    for (int slot = 0; slot < 2; slot++) {
        memory->inputs[slot] = mpt_arena_cut(arena, MPT_USE_DATA, step);
        memory->targets[slot] = mpt_arena_cut(arena, MPT_USE_DATA, step);
    }
    size_t sums = (size_t)mpt_memory_val_micros(config, params->ranks);
    if (sums == 0)
        return;
    memory->val_inputs = mpt_arena_cut(arena, MPT_USE_DATA, micro);
    memory->val_targets = mpt_arena_cut(arena, MPT_USE_DATA, micro);
    memory->val_sums = mpt_arena_cut(arena, MPT_USE_COMM,
                                     (1 + sums) * (size_t)(1 + params->ranks) * sizeof(double));
}

mpt_record_fold_t mpt_memory_fold(const mpt_memory_t *memory)
{
    return (mpt_record_fold_t){.ranks = memory->layout.ranks,
                               .group = memory->layout.group,
                               .replicas = mpt_replica_sets(&memory->layout, memory->state.params.shard)};
}

/* All ranks; under hsdp the ranks of a copy, consecutive ones, and those that hold the same slice; what the consensus splits off. */
static size_t comm_own_bytes(const mpt_memory_t *memory, const mpt_memory_params_t *params)
{
    const char *backend = params->comm_backend;
    int ranks = params->ranks, local = params->local_ranks > 0 ? params->local_ranks : ranks;
    int group = memory->layout.group;
    const mpt_record_fold_t fold = mpt_memory_fold(memory);
    size_t bytes = mpt_comm_own_bytes(backend, ranks, local) +
                   mpt_consensus_split_bytes(backend, &fold, local, MPT_CONSENSUS_FOLD_ABOVE);
    if (memory->state.params.shard != MPT_SHARD_HSDP)
        return bytes;
    return bytes + mpt_comm_child_bytes(backend, group, group < local ? group : local) +
           mpt_comm_child_bytes(backend, ranks / group, group < local ? local / group : 1);
}

static void cut_comm(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *arena)
{
    memory->comm_scratch =
        mpt_arena_cut(arena, MPT_USE_COMM, mpt_comm_scratch_bytes(params->comm_backend, params->ranks));
    memory->consensus = mpt_arena_cut(arena, MPT_USE_COMM, mpt_consensus_bytes(params->ranks));
    memory->votes = mpt_arena_cut(arena, MPT_USE_COMM, (size_t)params->ranks);
    memory->comm_own_bytes = comm_own_bytes(memory, params);
}

static void cut_snapshot(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *arena)
{
    if (params->config->checkpoint.every == 0 || !params->config->checkpoint.async)
        return;
    memory->snapshot = mpt_arena_cut(arena, MPT_USE_SNAPSHOT, mpt_checkpoint_snapshot_bytes(&memory->state.params));
}

void mpt_memory_point(mpt_memory_t *memory, const mpt_held_t *accumulator)
{
    mpt_layout_t *layout = &memory->layout;
    mpt_state_t *state = &memory->state;
    for (int t = 0; t < layout->tensor_count; t++) {
        int unit = layout->tensors[t].unit;
        char *params = mpt_held_unit(layout, &state->gathered, unit);
        memory->model.params[t] = mpt_state_at(params, state->params.compute, layout->offset[t]);
        memory->model.grads[t] = (float *)mpt_held_unit(layout, accumulator, unit) + layout->offset[t];
    }
}

static mpt_state_params_t state_params(const mpt_memory_t *memory, const mpt_memory_params_t *params)
{
    const mpt_config_t *config = params->config;
    int64_t micro_steps = mpt_memory_micro_steps(config, params->ranks);
    return (mpt_state_params_t){
        .layout = &memory->layout,
        .rank = params->rank,
        .shard = params->ranks == 1 ? MPT_SHARD_DDP : config->parallel.shard,
        .compute = mpt_dtype_memory(config->precision.compute),
        .wire = config->precision.reduce,
        .micro_steps = micro_steps,
        .lanes = mpt_memory_lanes(config, params->ranks),
        .reduce_micro = config->parallel.reduce_every == MPT_REDUCE_EVERY_MICRO && micro_steps > 1,
        .with_master = config->precision.master_fp32,
        .with_ema = config->train.ema > 0.0};
}

mpt_kernels_limits_t mpt_memory_worker_limits(const mpt_config_t *config)
{
    return (mpt_kernels_limits_t){.compute = config->precision.compute};
}

/* Whether or not communication overlaps in this run: a plan cannot know that. */
static void cut_worker(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *arena)
{
    mpt_kernels_limits_t limits = mpt_memory_worker_limits(params->config);
    memory->worker_scratch_bytes = mpt_kernels_scratch_bytes(params->kernel_ops, params->isa, 1, &limits);
    memory->worker_scratch = mpt_arena_cut(arena, MPT_USE_SCRATCH, memory->worker_scratch_bytes);
}

void mpt_memory_cut(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *private_arena,
                    mpt_arena_t *peer_arena)
{
    const mpt_config_t *config = params->config;
    mpt_kernels_limits_t limits;
    mpt_gpt2_limits(&memory->model.shape, config->precision.compute, &limits);
    const mpt_state_params_t state = state_params(memory, params);
    mpt_state_cut(&memory->state, &state, private_arena, peer_arena);
    mpt_gpt2_cut(&memory->model, private_arena);
    cut_packs(memory, params, private_arena);
    memory->kernel_scratch_bytes =
        mpt_kernels_scratch_bytes(params->kernel_ops, params->isa, params->threads, &limits);
    memory->kernel_scratch = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, memory->kernel_scratch_bytes);
    cut_worker(memory, params, private_arena);
    memory->micro_sumsq = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, sizeof(double));
    memory->micro_bad = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, sizeof(mpt_offender_t));
    cut_comm(memory, params, private_arena);
    cut_data(memory, params, private_arena);
    cut_snapshot(memory, params, private_arena);
    if (!mpt_arena_counting(private_arena))
        mpt_memory_point(memory, &memory->state.accumulator[0]);
}
