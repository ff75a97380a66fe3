#include "gpt2_ops.h"

/* The residual stream that enters block `layer` is r = mid_{l-1} + branch, summed by the norm that reads
 * it; the first block's is the embedding itself. */
static mpt_status_t first_norm(mpt_gpt2_t *model, int64_t layer)
{
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    const void *x = layer == 0 ? model->embed : model->blocks[layer - 1].mid;
    const void *delta = layer == 0 ? NULL : model->branch;
    void *sum = layer == 0 ? NULL : model->blocks[layer - 1].out;
    return gpt2_norm(model, mpt_gpt2_block(layer, MPT_GPT2_LN1_W), x, delta, sum, a->ln1_y,
                     a->ln1_mean, a->ln1_rstd);
}

static mpt_status_t attention(mpt_gpt2_t *model, int64_t layer)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    return mpt_attention_forward(model->kernels,
                                 &(mpt_attention_forward_t){.compute = model->compute,
                                                            .batch = shape->batch,
                                                            .seq = shape->seq,
                                                            .heads = shape->heads,
                                                            .head_dim = shape->dim / shape->heads,
                                                            .qkv = a->qkv,
                                                            .out = a->att,
                                                            .lse = a->lse},
                                 model->stream);
}

mpt_status_t mpt_gpt2_attend(mpt_gpt2_t *model, int64_t layer)
{
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    int64_t c = model->shape.dim;
    int base = mpt_gpt2_block(layer, MPT_GPT2_QKV_W);
    mpt_status_t status = gpt2_linear(model, base + MPT_GPT2_QKV_W, base + MPT_GPT2_QKV_B, c, 3 * c,
                                      a->ln1_y, NULL, a->qkv);
    if (status == MPT_OK)
        status = attention(model, layer);
    return status;
}

mpt_status_t mpt_gpt2_expand(mpt_gpt2_t *model, int64_t layer)
{
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    int64_t c = model->shape.dim;
    int base = mpt_gpt2_block(layer, MPT_GPT2_QKV_W);
    mpt_status_t status = gpt2_linear(model, base + MPT_GPT2_PROJ_W, base + MPT_GPT2_PROJ_B, c, c, a->att,
                                      NULL, model->branch);
    if (status == MPT_OK)
        status = gpt2_norm(model, base + MPT_GPT2_LN2_W, gpt2_input(model, layer), model->branch, a->mid,
                           a->ln2_y, a->ln2_mean, a->ln2_rstd);
    if (status == MPT_OK)
        status = gpt2_linear(model, base + MPT_GPT2_FC_W, base + MPT_GPT2_FC_B, c, 4 * c, a->ln2_y,
                             a->fc_pre, a->fc_act);
    return status;
}

static mpt_status_t block_forward(mpt_gpt2_t *model, int64_t layer)
{
    int64_t c = model->shape.dim;
    int base = mpt_gpt2_block(layer, MPT_GPT2_QKV_W);
    mpt_status_t status = gpt2_need(model, layer + 1, layer + 2, 0);
    model->held = layer;
    if (status == MPT_OK)
        status = first_norm(model, layer);
    if (status == MPT_OK)
        status = mpt_gpt2_attend(model, layer);
    if (status == MPT_OK)
        status = mpt_gpt2_expand(model, layer);
    if (status == MPT_OK)
        status = gpt2_linear(model, base + MPT_GPT2_FCPROJ_W, base + MPT_GPT2_FCPROJ_B, 4 * c, c,
                             model->blocks[layer].fc_act, NULL, model->branch);
    return status;
}

static mpt_status_t embed_forward(mpt_gpt2_t *model, const uint32_t *tokens)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    mpt_status_t status = gpt2_need(model, 0, 1, 0);
    if (status != MPT_OK)
        return status;
    return mpt_embed_forward(model->kernels,
                             &(mpt_embed_forward_t){.compute = model->compute,
                                                    .batch = shape->batch,
                                                    .seq = shape->seq,
                                                    .dim = shape->dim,
                                                    .tokens = tokens,
                                                    .wte = model->params[MPT_GPT2_WTE],
                                                    .wpe = model->params[MPT_GPT2_WPE],
                                                    .out = model->embed},
                             model->stream);
}

static mpt_status_t head_norm(mpt_gpt2_t *model)
{
    int64_t layers = model->shape.layers;
    mpt_gpt2_block_acts_t *last = &model->blocks[layers - 1];
    mpt_status_t status = gpt2_need(model, layers + 1, 0, 0);
    if (status != MPT_OK)
        return status;
    return gpt2_norm(model, mpt_gpt2_lnf(&model->shape), last->mid, model->branch, last->out,
                     model->lnf_y, model->lnf_mean, model->lnf_rstd);
}

mpt_status_t mpt_gpt2_forward(mpt_gpt2_t *model, const uint32_t *tokens)
{
    mpt_status_t status = embed_forward(model, tokens);
    for (int64_t l = 0; l < model->shape.layers && status == MPT_OK; l++)
        status = block_forward(model, l);
    if (status == MPT_OK)
        status = head_norm(model);
    return status;
}

static const void *row_of(const mpt_gpt2_t *model, const void *array, int64_t row)
{
    return (const char *)array + row * model->shape.dim * (int64_t)mpt_dtype_bytes(model->compute);
}

static mpt_status_t head_logits(mpt_gpt2_t *model, int64_t row, int64_t rows)
{
    mpt_status_t status =
        mpt_gpt2_pack(model, MPT_GPT2_WTE, model->shape.dim, mpt_gpt2_vocab_padded(&model->shape));
    if (status != MPT_OK)
        return status;
    return mpt_linear_forward(
        model->kernels,
        &(mpt_linear_forward_t){.compute = model->math,
                                .rows = rows,
                                .in = model->shape.dim,
                                .out = mpt_gpt2_vocab_padded(&model->shape),
                                .x = row_of(model, model->lnf_y, row),
                                .w = model->params[MPT_GPT2_WTE],
                                .packed = model->packs[MPT_GPT2_WTE].forward,
                                .y = model->logits,
                                .y_dtype = mpt_dtype_wide(model->compute)},
        model->stream);
}

/* Gradients of rows [row, row+rows) of the head from model->dlogits. */
static mpt_status_t head_backward(mpt_gpt2_t *model, int64_t row, int64_t rows)
{
    int64_t c = model->shape.dim, vp = mpt_gpt2_vocab_padded(&model->shape);
    mpt_status_t status = mpt_linear_backward_weight(
        model->kernels,
        &(mpt_linear_backward_weight_t){.compute = model->math,
                                        .rows = rows,
                                        .in = c,
                                        .out = vp,
                                        .dy = model->dlogits,
                                        .x = row_of(model, model->lnf_y, row),
                                        .dw = model->grads[MPT_GPT2_WTE]},
        model->stream);
    if (status != MPT_OK)
        return status;
    return mpt_linear_backward_input(
        model->kernels,
        &(mpt_linear_backward_input_t){.compute = model->math,
                                       .rows = rows,
                                       .in = c,
                                       .out = vp,
                                       .dy = model->dlogits,
                                       .w = model->params[MPT_GPT2_WTE],
                                       .packed = model->packs[MPT_GPT2_WTE].backward,
                                       .dx = (void *)row_of(model, model->dres, row)},
        model->stream);
}

static mpt_status_t loss_chunk(mpt_gpt2_t *model, const uint32_t *targets, float seed, int64_t row,
                               int64_t rows, int with_gradient)
{
    size_t wide = mpt_dtype_bytes(mpt_dtype_wide(model->compute));
    mpt_status_t status = head_logits(model, row, rows);
    if (status == MPT_OK)
        status = mpt_loss(model->kernels,
                          &(mpt_loss_t){.compute = model->compute,
                                        .rows = rows,
                                        .vocab = model->shape.vocab,
                                        .vocab_padded = mpt_gpt2_vocab_padded(&model->shape),
                                        .logits = model->logits,
                                        .targets = targets + row,
                                        .seed = seed,
                                        .dlogits = with_gradient ? model->dlogits : NULL,
                                        .losses = (char *)model->losses + (size_t)row * wide,
                                        .loss_sum = model->loss_sum},
                          model->stream);
    if (status == MPT_OK && with_gradient)
        status = head_backward(model, row, rows);
    return status;
}

mpt_status_t mpt_gpt2_loss(mpt_gpt2_t *model, const uint32_t *targets, float seed, int with_gradient)
{
    int64_t total = gpt2_rows(model);
    mpt_device_t *device = model->kernels->device;
    mpt_status_t status = gpt2_need(model, 0, with_gradient ? model->shape.layers + 1 : -1, with_gradient);
    if (status == MPT_OK)
        status = device->ops->fill_zero(device, model->loss_sum, sizeof *model->loss_sum, model->stream);
    for (int64_t row = 0; row < total && status == MPT_OK; row += model->loss_rows) {
        int64_t rows = total - row < model->loss_rows ? total - row : model->loss_rows;
        status = loss_chunk(model, targets, seed, row, rows, with_gradient);
    }
    return status;
}

mpt_status_t mpt_gpt2_logits(mpt_gpt2_t *model, int64_t row)
{
    mpt_status_t status = gpt2_need(model, 0, -1, 0);
    if (status == MPT_OK)
        status = head_logits(model, row, 1);
    return status;
}
