#include "optimizer.h"

#include <math.h>

static double average(const mpt_unscale_t *unscale)
{
    return unscale->divisor / (unscale->scale * (double)unscale->micro_steps * unscale->ranks);
}

double mpt_optimizer_norm(double sumsq, const mpt_unscale_t *unscale)
{
    return sqrt(sumsq) * average(unscale);
}

double mpt_optimizer_clip(double norm, double clip)
{
    if (clip <= 0.0)
        return 1.0;
    double factor = clip / (norm + 1e-6);
    return factor < 1.0 ? factor : 1.0;
}

mpt_status_t mpt_optimizer_apply(mpt_state_t *state, mpt_kernels_t *kernels,
                                 const mpt_optimizer_params_t *params, const mpt_unscale_t *unscale,
                                 double clip_factor, double lr, int64_t t, mpt_stream_t *stream)
{
    mpt_adamw_t adamw = {.compute = state->compute,
                         .grad_dtype = state->wire,
                         .factor = (float)(average(unscale) * clip_factor),
                         .lr = (float)lr,
                         .beta1 = (float)params->beta1,
                         .beta2 = (float)params->beta2,
                         .eps = (float)params->eps,
                         .decay = (float)params->decay,
                         .correction1 = (float)(1.0 - pow(params->beta1, (double)t)),
                         .correction2 = (float)(1.0 - pow(params->beta2, (double)t))};
    for (int u = 0; u < state->layout->unit_count; u++) {
        const mpt_unit_t *unit = &state->layout->units[u];
        adamw.count = unit->padded;
        adamw.decay_count = unit->decay_count;
        adamw.master = state->master + unit->first;
        adamw.m = state->m + unit->first;
        adamw.v = state->v + unit->first;
        adamw.working = mpt_state_at(state->working, state->compute, unit->first);
        adamw.grad = mpt_state_at(state->gradient, state->wire, unit->first);
        mpt_status_t status = mpt_adamw(kernels, &adamw, stream);
        if (status != MPT_OK)
            return status;
    }
    return MPT_OK;
}
