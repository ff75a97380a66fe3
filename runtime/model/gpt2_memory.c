#include "gpt2.h"

#include <stdlib.h>
#include <string.h>

/* The head's chunk of logits is FP32 and as wide as the vocabulary: small enough to matter little beside the
 * activations, large enough that the tied gradient, which is read and written once a chunk, costs little. */
#define LOSS_ROWS_MAX 512

int64_t mpt_gpt2_loss_rows(const mpt_gpt2_shape_t *shape)
{
    int64_t rows = shape->batch * shape->seq;
    return rows < LOSS_ROWS_MAX ? rows : LOSS_ROWS_MAX;
}

void mpt_gpt2_limits(const mpt_gpt2_shape_t *shape, mpt_dtype_t compute, mpt_kernels_limits_t *limits_p)
{
    *limits_p = (mpt_kernels_limits_t){.compute = compute,
                                       .batch = shape->batch,
                                       .seq = shape->seq,
                                       .heads = shape->heads,
                                       .head_dim = shape->dim / shape->heads,
                                       .rows = shape->batch * shape->seq,
                                       .dim = shape->dim,
                                       .hidden = 4 * shape->dim,
                                       .vocab_padded = mpt_gpt2_vocab_padded(shape),
                                       .loss_rows = mpt_gpt2_loss_rows(shape)};
}

mpt_status_t mpt_gpt2_create(mpt_gpt2_t *model, const mpt_gpt2_shape_t *shape, mpt_dtype_t compute)
{
    size_t tensors = (size_t)mpt_gpt2_tensor_count(shape);
    memset(model, 0, sizeof *model);
    model->shape = *shape;
    model->compute = compute;
    model->loss_rows = mpt_gpt2_loss_rows(shape);
    model->params = calloc(tensors, sizeof *model->params);
    model->grads = calloc(tensors, sizeof *model->grads);
    model->blocks = calloc((size_t)shape->layers, sizeof *model->blocks);
    if (model->params == NULL || model->grads == NULL || model->blocks == NULL) {
        mpt_gpt2_release(model);
        return MPT_ERR_NO_MEMORY;
    }
    return MPT_OK;
}

void mpt_gpt2_release(mpt_gpt2_t *model)
{
    free(model->params);
    free(model->grads);
    free(model->blocks);
    memset(model, 0, sizeof *model);
}

static void cut_block(mpt_gpt2_block_acts_t *block, mpt_arena_t *arena, size_t row, size_t stats,
                      size_t lse)
{
    const mpt_use_t use = MPT_USE_ACTIVATIONS;
    block->ln1_y = mpt_arena_cut(arena, use, row);
    block->qkv = mpt_arena_cut(arena, use, 3 * row);
    block->att = mpt_arena_cut(arena, use, row);
    block->mid = mpt_arena_cut(arena, use, row);
    block->ln2_y = mpt_arena_cut(arena, use, row);
    block->fc_pre = mpt_arena_cut(arena, use, 4 * row);
    block->fc_act = mpt_arena_cut(arena, use, 4 * row);
    block->out = mpt_arena_cut(arena, use, row);
    block->ln1_mean = mpt_arena_cut(arena, use, stats);
    block->ln1_rstd = mpt_arena_cut(arena, use, stats);
    block->ln2_mean = mpt_arena_cut(arena, use, stats);
    block->ln2_rstd = mpt_arena_cut(arena, use, stats);
    block->lse = mpt_arena_cut(arena, use, lse);
}

void mpt_gpt2_cut(mpt_gpt2_t *model, mpt_arena_t *arena)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    size_t rows = (size_t)(shape->batch * shape->seq);
    size_t element = mpt_dtype_bytes(model->compute);
    size_t wide = mpt_dtype_bytes(mpt_dtype_wide(model->compute));
    size_t row = rows * (size_t)shape->dim * element;
    size_t lse = rows * (size_t)shape->heads * wide;
    size_t chunk = (size_t)model->loss_rows * (size_t)mpt_gpt2_vocab_padded(shape);

    model->embed = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, row);
    for (int64_t l = 0; l < shape->layers; l++)
        cut_block(&model->blocks[l], arena, row, rows * wide, lse);
    model->lnf_y = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, row);
    model->lnf_mean = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, rows * wide);
    model->lnf_rstd = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, rows * wide);
    model->logits = mpt_arena_cut(arena, MPT_USE_SCRATCH, chunk * wide);
    model->dlogits = mpt_arena_cut(arena, MPT_USE_SCRATCH, chunk * element);
    model->losses = mpt_arena_cut(arena, MPT_USE_SCRATCH, rows * wide);
    model->loss_sum = mpt_arena_cut(arena, MPT_USE_SCRATCH, sizeof(double));
    model->branch = mpt_arena_cut(arena, MPT_USE_SCRATCH, row);
    model->dres = mpt_arena_cut(arena, MPT_USE_SCRATCH, row);
    model->dhidden = mpt_arena_cut(arena, MPT_USE_SCRATCH, 4 * row);
}
