#include "gpt2_ops.h"

/* dres holds d(loss)/d(residual after the block) and leaves as d(loss)/d(residual before it). */
static mpt_status_t mlp_backward(mpt_gpt2_t *model, int64_t layer)
{
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    int64_t c = model->shape.dim;
    int base = mpt_gpt2_block(layer, MPT_GPT2_QKV_W);
    mpt_status_t status = gpt2_linear_backward(model, base + MPT_GPT2_FCPROJ_W, base + MPT_GPT2_FCPROJ_B,
                                               4 * c, c, model->dres, a->fc_act, a->fc_pre,
                                               model->dhidden);
    if (status == MPT_OK)
        status = gpt2_linear_backward(model, base + MPT_GPT2_FC_W, base + MPT_GPT2_FC_B, c, 4 * c,
                                      model->dhidden, a->ln2_y, NULL, model->branch);
    if (status == MPT_OK)
        status = gpt2_norm_backward(model, base + MPT_GPT2_LN2_W, model->branch, a->mid, a->ln2_mean,
                                    a->ln2_rstd, model->dres, model->dres);
    return status;
}

static mpt_status_t attend_backward(mpt_gpt2_t *model, int64_t layer, const void *dout, void *dqkv)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    return mpt_attention_backward(model->kernels,
                                  &(mpt_attention_backward_t){.compute = model->compute,
                                                              .batch = shape->batch,
                                                              .seq = shape->seq,
                                                              .heads = shape->heads,
                                                              .head_dim = shape->dim / shape->heads,
                                                              .qkv = a->qkv,
                                                              .out = a->att,
                                                              .dout = dout,
                                                              .lse = a->lse,
                                                              .dqkv = dqkv},
                                  model->stream);
}

static mpt_status_t attention_backward(mpt_gpt2_t *model, int64_t layer)
{
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    int64_t c = model->shape.dim;
    int base = mpt_gpt2_block(layer, MPT_GPT2_QKV_W);
    mpt_status_t status = gpt2_linear_backward(model, base + MPT_GPT2_PROJ_W, base + MPT_GPT2_PROJ_B, c,
                                               c, model->dres, a->att, NULL, model->branch);
    if (status == MPT_OK)
        status = attend_backward(model, layer, model->branch, model->dhidden);
    if (status == MPT_OK)
        status = gpt2_linear_backward(model, base + MPT_GPT2_QKV_W, base + MPT_GPT2_QKV_B, c, 3 * c,
                                      model->dhidden, a->ln1_y, NULL, model->branch);
    if (status == MPT_OK)
        status = gpt2_norm_backward(model, base + MPT_GPT2_LN1_W, model->branch,
                                    gpt2_input(model, layer), a->ln1_mean, a->ln1_rstd, model->dres,
                                    model->dres);
    return status;
}

static mpt_status_t head_norm_backward(mpt_gpt2_t *model)
{
    int64_t layers = model->shape.layers;
    mpt_status_t status = gpt2_need(model, layers + 1, layers, 1);
    if (status == MPT_OK)
        status = gpt2_norm_backward(model, mpt_gpt2_lnf(&model->shape), model->dres,
                                    model->blocks[layers - 1].out, model->lnf_mean, model->lnf_rstd,
                                    NULL, model->dres);
    if (status == MPT_OK)
        status = gpt2_ready(model, layers + 1);
    return status;
}

static mpt_status_t block_backward(mpt_gpt2_t *model, int64_t layer)
{
    mpt_status_t status = gpt2_need(model, layer + 1, layer, 1);
    if (status == MPT_OK)
        status = mpt_gpt2_recompute_block(model, layer);
    if (status == MPT_OK)
        status = mlp_backward(model, layer);
    if (status == MPT_OK)
        status = attention_backward(model, layer);
    if (status == MPT_OK)
        status = gpt2_ready(model, layer + 1);
    return status;
}

static mpt_status_t embed_backward(mpt_gpt2_t *model, const uint32_t *tokens)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    mpt_status_t status = gpt2_need(model, 0, -1, 1);
    if (status == MPT_OK)
        status = mpt_embed_backward(model->kernels,
                                    &(mpt_embed_backward_t){.compute = model->compute,
                                                            .batch = shape->batch,
                                                            .seq = shape->seq,
                                                            .dim = shape->dim,
                                                            .tokens = tokens,
                                                            .dout = model->dres,
                                                            .dwte = model->grads[MPT_GPT2_WTE],
                                                            .dwpe = model->grads[MPT_GPT2_WPE]},
                                    model->stream);
    if (status == MPT_OK)
        status = gpt2_ready(model, 0);
    return status;
}

mpt_status_t mpt_gpt2_backward(mpt_gpt2_t *model, const uint32_t *tokens)
{
    mpt_status_t status = head_norm_backward(model);
    for (int64_t l = model->shape.layers - 1; l >= 0 && status == MPT_OK; l--)
        status = block_backward(model, l);
    if (status == MPT_OK)
        status = embed_backward(model, tokens);
    return status;
}
