#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "comm.h"

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

int64_t mpt_memory_val_micros(const mpt_config_t *config, int ranks)
{
    if (config->train.val_every == 0 || config->data.val[0] == '\0')
        return 0;
    return config->train.val_batches * mpt_memory_micro_steps(config, ranks);
}

mpt_status_t mpt_memory_create(mpt_memory_t *memory, const mpt_memory_params_t *params)
{
    mpt_gpt2_shape_t shape = mpt_memory_shape(params->config);
    int count = mpt_gpt2_tensor_count(&shape);
    memset(memory, 0, sizeof *memory);
    mpt_tensor_t *tensors = calloc((size_t)count, sizeof *tensors);
    if (tensors == NULL)
        return MPT_ERR_NO_MEMORY;
    mpt_gpt2_tensors(&shape, tensors);
    mpt_status_t status = mpt_layout_build(tensors, count, params->ranks, &memory->layout);
    free(tensors);
    if (status == MPT_OK)
        status = mpt_gpt2_create(&memory->model, &shape, params->config->precision.compute);
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

static void cut_comm(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *arena)
{
    size_t ranks = (size_t)params->ranks;
    memory->comm_scratch =
        mpt_arena_cut(arena, MPT_USE_COMM, mpt_comm_scratch_bytes(params->comm_backend, params->ranks));
    memory->records = mpt_arena_cut(arena, MPT_USE_COMM, ranks * sizeof *memory->records);
    memory->fold = mpt_arena_cut(arena, MPT_USE_COMM, ranks * sizeof *memory->fold);
}

/* Room for a copy of the masters and moments of this rank's slices: the same bytes on every rank. */
static void cut_snapshot(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *arena)
{
    if (params->config->checkpoint.every == 0 || !params->config->checkpoint.async)
        return;
    size_t slice = (size_t)(memory->layout.total / params->ranks);
    memory->snapshot = mpt_arena_cut(arena, MPT_USE_SNAPSHOT, 3 * slice * sizeof(float));
}

/* The model reads parameters and adds gradients through pointers by tensor. */
static void point_model(mpt_memory_t *memory)
{
    mpt_state_t *state = &memory->state;
    for (int t = 0; t < memory->layout.tensor_count && state->working != NULL; t++) {
        int64_t at = mpt_layout_at(&memory->layout, t);
        memory->model.params[t] = mpt_state_at(state->working, state->compute, at);
        memory->model.grads[t] = state->accumulator + at;
    }
}

void mpt_memory_cut(mpt_memory_t *memory, const mpt_memory_params_t *params, mpt_arena_t *private_arena,
                    mpt_arena_t *peer_arena)
{
    const mpt_config_t *config = params->config;
    mpt_kernels_limits_t limits;
    mpt_gpt2_limits(&memory->model.shape, config->precision.compute, &limits);
    mpt_state_cut(&memory->state, &memory->layout, config->precision.compute, config->precision.reduce,
                  private_arena, peer_arena);
    mpt_gpt2_cut(&memory->model, private_arena);
    memory->kernel_scratch_bytes =
        mpt_kernels_scratch_bytes(params->kernel_ops, params->isa, params->threads, &limits);
    memory->kernel_scratch = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, memory->kernel_scratch_bytes);
    memory->micro_sumsq = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, sizeof(double));
    memory->micro_bad = mpt_arena_cut(private_arena, MPT_USE_SCRATCH, sizeof(mpt_offender_t));
    cut_comm(memory, params, private_arena);
    cut_data(memory, params, private_arena);
    cut_snapshot(memory, params, private_arena);
    point_model(memory);
}
