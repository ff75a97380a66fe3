#include "gpt2_ops.h"

/* Forward took this norm of mid_{l-1} + branch and kept the rounded sum: the same input, so the same bits. */
static mpt_status_t first_norm_again(mpt_gpt2_t *model, int64_t layer)
{
    mpt_gpt2_block_acts_t *a = &model->blocks[layer];
    return gpt2_norm(model, mpt_gpt2_block(layer, MPT_GPT2_LN1_W), gpt2_input(model, layer), NULL, NULL,
                     a->ln1_y, a->ln1_mean, a->ln1_rstd);
}

mpt_status_t mpt_gpt2_recompute_block(mpt_gpt2_t *model, int64_t layer)
{
    if (model->recompute == MPT_GPT2_KEEP || model->held == layer)
        return MPT_OK;
    model->held = layer;
    mpt_status_t status = first_norm_again(model, layer);
    if (status == MPT_OK)
        status = mpt_gpt2_attend(model, layer);
    if (status == MPT_OK && model->recompute == MPT_GPT2_RECOMPUTE_BLOCK)
        status = mpt_gpt2_expand(model, layer);
    return status;
}
