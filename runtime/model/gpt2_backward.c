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
    const void *r = layer == 0 ? model->embed : model->blocks[layer - 1].out;
    mpt_status_t status = gpt2_linear_backward(model, base + MPT_GPT2_PROJ_W, base + MPT_GPT2_PROJ_B, c,
                                               c, model->dres, a->att, NULL, model->branch);
    if (status == MPT_OK)
        status = attend_backward(model, layer, model->branch, model->dhidden);
    if (status == MPT_OK)
        status = gpt2_linear_backward(model, base + MPT_GPT2_QKV_W, base + MPT_GPT2_QKV_B, c, 3 * c,
                                      model->dhidden, a->ln1_y, NULL, model->branch);
    if (status == MPT_OK)
        status = gpt2_norm_backward(model, base + MPT_GPT2_LN1_W, model->branch, r, a->ln1_mean,
                                    a->ln1_rstd, model->dres, model->dres);
    return status;
}

static mpt_status_t head_norm_backward(mpt_gpt2_t *model)
{
    return gpt2_norm_backward(model, mpt_gpt2_lnf(&model->shape), model->dres,
                              model->blocks[model->shape.layers - 1].out, model->lnf_mean,
                              model->lnf_rstd, NULL, model->dres);
}

static mpt_status_t embed_backward(mpt_gpt2_t *model, const uint32_t *tokens)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    return mpt_embed_backward(model->kernels,
                              &(mpt_embed_backward_t){.compute = model->compute,
                                                      .batch = shape->batch,
                                                      .seq = shape->seq,
                                                      .dim = shape->dim,
                                                      .tokens = tokens,
                                                      .dout = model->dres,
                                                      .dwte = model->grads[MPT_GPT2_WTE],
                                                      .dwpe = model->grads[MPT_GPT2_WPE]},
                              model->stream);
}

mpt_status_t mpt_gpt2_backward(mpt_gpt2_t *model, const uint32_t *tokens, mpt_gpt2_ready_t ready,
                               void *ctx)
{
    mpt_status_t status = head_norm_backward(model);
    if (status == MPT_OK && ready != NULL)
        status = ready(ctx, (int)model->shape.layers + 1);
    for (int64_t l = model->shape.layers - 1; l >= 0 && status == MPT_OK; l--) {
        status = mlp_backward(model, l);
        if (status == MPT_OK)
            status = attention_backward(model, l);
        if (status == MPT_OK && ready != NULL)
            status = ready(ctx, (int)l + 1);
    }
    if (status == MPT_OK)
        status = embed_backward(model, tokens);
    if (status == MPT_OK && ready != NULL)
        status = ready(ctx, 0);
    return status;
}
