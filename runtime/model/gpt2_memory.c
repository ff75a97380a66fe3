#include "gpt2.h"

#include <stdlib.h>
#include <string.h>

/* The head's chunk of logits is FP32 and as wide as the vocabulary: small enough to matter little beside the
 * activations, large enough that the tied gradient, which is read and written once a chunk, costs little. */
#define LOSS_ROWS_MAX 1024

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

mpt_status_t mpt_gpt2_create(mpt_gpt2_t *model, const mpt_gpt2_shape_t *shape, mpt_dtype_t compute,
                             mpt_gpt2_recompute_t recompute)
{
    size_t tensors = (size_t)mpt_gpt2_tensor_count(shape);
    memset(model, 0, sizeof *model);
    model->shape = *shape;
    model->compute = mpt_dtype_memory(compute);
    model->math = compute;
    model->recompute = recompute;
    model->held = -1;
    model->loss_rows = mpt_gpt2_loss_rows(shape);
    model->params = calloc(tensors, sizeof *model->params);
    model->grads = calloc(tensors, sizeof *model->grads);
    model->packs = calloc(tensors, sizeof *model->packs);
    model->blocks = calloc((size_t)shape->layers, sizeof *model->blocks);
    if (model->params == NULL || model->packs == NULL || model->grads == NULL || model->blocks == NULL) {
        mpt_gpt2_release(model);
        return MPT_ERR_NO_MEMORY;
    }
    return MPT_OK;
}

void mpt_gpt2_release(mpt_gpt2_t *model)
{
    free(model->params);
    free(model->grads);
    free(model->packs);
    free(model->blocks);
    memset(model, 0, sizeof *model);
}

/* Bytes of one array of a kind. */
typedef struct sizes {
    size_t row;   /* [R,C] compute */
    size_t stats; /* [R] wide */
    size_t lse;   /* [batch,heads,seq] wide */
} sizes_t;

static sizes_t sizes_of(const mpt_gpt2_t *model)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    size_t rows = (size_t)(shape->batch * shape->seq);
    size_t wide = mpt_dtype_bytes(mpt_dtype_wide(model->compute));
    return (sizes_t){.row = rows * (size_t)shape->dim * mpt_dtype_bytes(model->compute),
                     .stats = rows * wide,
                     .lse = rows * (size_t)shape->heads * wide};
}

static void cut_attention(mpt_gpt2_block_acts_t *block, mpt_arena_t *arena, const sizes_t *bytes)
{
    const mpt_use_t use = MPT_USE_ACTIVATIONS;
    block->ln1_y = mpt_arena_cut(arena, use, bytes->row);
    block->qkv = mpt_arena_cut(arena, use, 3 * bytes->row);
    block->att = mpt_arena_cut(arena, use, bytes->row);
    block->lse = mpt_arena_cut(arena, use, bytes->lse);
}

static void cut_mlp_and_stats(mpt_gpt2_block_acts_t *block, mpt_arena_t *arena, const sizes_t *bytes)
{
    const mpt_use_t use = MPT_USE_ACTIVATIONS;
    block->mid = mpt_arena_cut(arena, use, bytes->row);
    block->ln2_y = mpt_arena_cut(arena, use, bytes->row);
    block->fc_pre = mpt_arena_cut(arena, use, 4 * bytes->row);
    block->fc_act = mpt_arena_cut(arena, use, 4 * bytes->row);
    block->ln1_mean = mpt_arena_cut(arena, use, bytes->stats);
    block->ln1_rstd = mpt_arena_cut(arena, use, bytes->stats);
    block->ln2_mean = mpt_arena_cut(arena, use, bytes->stats);
    block->ln2_rstd = mpt_arena_cut(arena, use, bytes->stats);
}

/* What the blocks share is cut with the first; the others take over its pointers. */
static void cut_block(mpt_gpt2_t *model, int64_t layer, mpt_arena_t *arena, const sizes_t *bytes)
{
    mpt_gpt2_block_acts_t *block = &model->blocks[layer];
    *block = model->blocks[0];
    if (layer == 0 || model->recompute == MPT_GPT2_KEEP)
        cut_attention(block, arena, bytes);
    if (layer == 0 || model->recompute != MPT_GPT2_RECOMPUTE_BLOCK)
        cut_mlp_and_stats(block, arena, bytes);
    block->out = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, bytes->row);
}

void mpt_gpt2_cut(mpt_gpt2_t *model, mpt_arena_t *arena)
{
    sizes_t bytes = sizes_of(model);
    size_t chunk = (size_t)model->loss_rows * (size_t)mpt_gpt2_vocab_padded(&model->shape);
    mpt_dtype_t wide = mpt_dtype_wide(model->compute);

    model->embed = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, bytes.row);
    for (int64_t l = 0; l < model->shape.layers; l++)
        cut_block(model, l, arena, &bytes);
    model->lnf_y = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, bytes.row);
    model->lnf_mean = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, bytes.stats);
    model->lnf_rstd = mpt_arena_cut(arena, MPT_USE_ACTIVATIONS, bytes.stats);
    model->logits = mpt_arena_cut(arena, MPT_USE_SCRATCH, chunk * mpt_dtype_bytes(wide));
    model->dlogits = mpt_arena_cut(arena, MPT_USE_SCRATCH, chunk * mpt_dtype_bytes(model->compute));
    model->losses = mpt_arena_cut(arena, MPT_USE_SCRATCH, bytes.stats);
    model->loss_sum = mpt_arena_cut(arena, MPT_USE_SCRATCH, sizeof(double));
    model->branch = mpt_arena_cut(arena, MPT_USE_SCRATCH, bytes.row);
    model->dres = mpt_arena_cut(arena, MPT_USE_SCRATCH, bytes.row);
    model->dhidden = mpt_arena_cut(arena, MPT_USE_SCRATCH, 4 * bytes.row);
}
