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

static float *at(const mpt_state_t *state, const mpt_held_t *held, int unit)
{
    return held->data != NULL ? mpt_held_unit(state->layout, held, unit) : NULL;
}

/* Point the pass at unit `unit`: all of it, or this rank's slice. */
static void aim(mpt_adamw_t *adamw, mpt_state_t *state, int unit)
{
    const mpt_layout_t *layout = state->layout;
    int whole = state->m.hold == MPT_HOLD_ALL;
    int64_t first = whole ? 0 : mpt_layout_slice(layout, unit) * mpt_layout_slice_of(layout, state->params.rank);
    int64_t decayed = layout->units[unit].decay_count - first;
    adamw->count = mpt_held_unit_count(layout, &state->m, unit);
    adamw->decay_count = decayed < 0 ? 0 : decayed < adamw->count ? decayed : adamw->count;
    adamw->master = at(state, &state->master, unit);
    adamw->m = at(state, &state->m, unit);
    adamw->v = at(state, &state->v, unit);
    adamw->ema = at(state, &state->ema, unit);
    adamw->working = whole ? mpt_held_unit(layout, &state->working, unit)
                           : mpt_held_slice(state, &state->working, unit);
    adamw->grad = whole ? mpt_held_unit(layout, &state->reduced, unit)
                        : mpt_held_slice(state, &state->reduced, unit);
}

mpt_status_t mpt_optimizer_unit(mpt_state_t *state, mpt_kernels_t *kernels, const mpt_update_t *update, int unit,
                                mpt_stream_t *stream)
{
    const mpt_optimizer_params_t *params = update->params;
    double t = (double)update->t;
    mpt_stochastic_t rounding = {.seed = params->seed,
                                 .step = (uint64_t)update->step,
                                 .runs = state->runs + state->run_first[unit],
                                 .run_count = state->run_first[unit + 1] - state->run_first[unit]};
    mpt_adamw_t adamw = {.compute = state->params.compute,
                         .grad_dtype = state->reduced.dtype,
                         .factor = (float)(average(update->unscale) * update->clip_factor),
                         .lr = (float)update->lr,
                         .beta1 = (float)params->beta1,
                         .beta2 = (float)params->beta2,
                         .eps = (float)params->eps,
                         .decay = (float)params->decay,
                         .correction1 = (float)(1.0 - pow(params->beta1, t)),
                         .correction2 = (float)(1.0 - pow(params->beta2, t)),
                         .ema_decay = (float)params->ema,
                         .stochastic = params->stochastic ? &rounding : NULL};
    aim(&adamw, state, unit);
    return mpt_adamw(kernels, &adamw, stream);
}
