/*
 * The model's shorthand for the hooks and kernels it calls: shapes and types filled in, so that forward and backward
 * read like the model's equations; and the parts of a block that are computed again. Private to model/.
 */
#ifndef MPT_GPT2_OPS_H
#define MPT_GPT2_OPS_H

#include "gpt2.h"

static inline int64_t gpt2_rows(const mpt_gpt2_t *model)
{
    return model->shape.batch * model->shape.seq;
}

/* The residual stream that enters block `layer`. */
static inline const void *gpt2_input(const mpt_gpt2_t *model, int64_t layer)
{
    return layer == 0 ? model->embed : model->blocks[layer - 1].out;
}

static inline mpt_status_t gpt2_need(const mpt_gpt2_t *model, int64_t unit, int64_t next, int backward)
{
    const mpt_gpt2_hooks_t *hooks = &model->hooks;
    return hooks->need == NULL ? MPT_OK : hooks->need(hooks->ctx, (int)unit, (int)next, backward);
}

static inline mpt_status_t gpt2_ready(const mpt_gpt2_t *model, int64_t unit)
{
    const mpt_gpt2_hooks_t *hooks = &model->hooks;
    return hooks->ready == NULL ? MPT_OK : hooks->ready(hooks->ctx, (int)unit);
}

/* Bring the packed weights of params[tensor], [out,in], up to date, where there are any. */
mpt_status_t mpt_gpt2_pack(mpt_gpt2_t *model, int tensor, int64_t in, int64_t out);

/* y = x . params[w]^T + params[w_bias]; with `pre`, GELU. */
static inline mpt_status_t gpt2_linear(mpt_gpt2_t *model, int w, int bias, int64_t in, int64_t out,
                                       const void *x, void *pre, void *y)
{
    mpt_status_t status = mpt_gpt2_pack(model, w, in, out);
    if (status != MPT_OK)
        return status;
    return mpt_linear_forward(model->kernels,
                              &(mpt_linear_forward_t){.compute = model->math,
                                                      .rows = gpt2_rows(model),
                                                      .in = in,
                                                      .out = out,
                                                      .x = x,
                                                      .w = model->params[w],
                                                      .packed = model->packs[w].forward,
                                                      .bias = model->params[bias],
                                                      .pre = pre,
                                                      .y = y,
                                                      .y_dtype = model->compute},
                              model->stream);
}

/* Both gradients of a linear layer: dw, dbias +=, then dx (times gelu'(pre) where given). */
static inline mpt_status_t gpt2_linear_backward(mpt_gpt2_t *model, int w, int bias, int64_t in,
                                                int64_t out, const void *dy, const void *x,
                                                const void *pre, void *dx)
{
    int64_t rows = gpt2_rows(model);
    mpt_status_t status =
        mpt_linear_backward_weight(model->kernels,
                                   &(mpt_linear_backward_weight_t){.compute = model->math,
                                                                   .rows = rows,
                                                                   .in = in,
                                                                   .out = out,
                                                                   .dy = dy,
                                                                   .x = x,
                                                                   .dw = model->grads[w],
                                                                   .dbias = model->grads[bias]},
                                   model->stream);
    if (status == MPT_OK)
        status = mpt_gpt2_pack(model, w, in, out);
    if (status != MPT_OK)
        return status;
    return mpt_linear_backward_input(model->kernels,
                                     &(mpt_linear_backward_input_t){.compute = model->math,
                                                                    .rows = rows,
                                                                    .in = in,
                                                                    .out = out,
                                                                    .dy = dy,
                                                                    .w = model->params[w],
                                                                    .packed = model->packs[w].backward,
                                                                    .pre = pre,
                                                                    .dx = dx},
                                     model->stream);
}

/* sum = x + delta (delta NULL: sum is x), y = norm(sum); `w` indexes the gain, w+1 the bias. */
static inline mpt_status_t gpt2_norm(mpt_gpt2_t *model, int w, const void *x, const void *delta,
                                     void *sum, void *y, void *mean, void *rstd)
{
    return mpt_layernorm_forward(model->kernels,
                                 &(mpt_layernorm_forward_t){.compute = model->compute,
                                                            .rows = gpt2_rows(model),
                                                            .dim = model->shape.dim,
                                                            .x = x,
                                                            .delta = delta,
                                                            .sum = sum,
                                                            .gamma = model->params[w],
                                                            .beta = model->params[w + 1],
                                                            .y = y,
                                                            .mean = mean,
                                                            .rstd = rstd},
                                 model->stream);
}

static inline mpt_status_t gpt2_norm_backward(mpt_gpt2_t *model, int w, const void *dy, const void *x,
                                              const void *mean, const void *rstd, const void *dres,
                                              void *dx)
{
    return mpt_layernorm_backward(model->kernels,
                                  &(mpt_layernorm_backward_t){.compute = model->compute,
                                                              .rows = gpt2_rows(model),
                                                              .dim = model->shape.dim,
                                                              .dy = dy,
                                                              .x = x,
                                                              .gamma = model->params[w],
                                                              .mean = mean,
                                                              .rstd = rstd,
                                                              .dres = dres,
                                                              .dx = dx,
                                                              .dgamma = model->grads[w],
                                                              .dbeta = model->grads[w + 1]},
                                  model->stream);
}

/* ln1_y -> qkv -> att, lse of block `layer`. */
mpt_status_t mpt_gpt2_attend(mpt_gpt2_t *model, int64_t layer);
/* att -> mid -> ln2_y -> fc_pre, fc_act of block `layer`. Uses `branch`. */
mpt_status_t mpt_gpt2_expand(mpt_gpt2_t *model, int64_t layer);
/* Before a block's backward: put its own activations into what the blocks share. Uses `branch`. */
mpt_status_t mpt_gpt2_recompute_block(mpt_gpt2_t *model, int64_t layer);

#endif
