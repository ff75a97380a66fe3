#include <math.h>
#include "ref.h"

/* Moments of element `i` forward by one gradient; returns the direction to step against. */
static double advance_moments(const mpt_adamw_t *a, int64_t i)
{
    double g = mpt_load(a->grad, a->grad_dtype, i) * (double)a->factor;
    double m = (double)a->m[i] + (1 - (double)a->beta1) * (g - (double)a->m[i]);
    double v = (double)a->v[i] + (1 - (double)a->beta2) * (g * g - (double)a->v[i]);
    a->m[i] = (float)m;
    a->v[i] = (float)v;
    return (m / (double)a->correction1) / (sqrt(v / (double)a->correction2) + (double)a->eps);
}

mpt_status_t ref_adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->count; i++) {
        double decay = i < a->decay_count ? (double)a->decay : 0;
        double w = a->master ? (double)a->master[i] : mpt_load(a->working, a->compute, i);
        double step = advance_moments(a, i);
        /* What follows is of the rounded weight, so that a resumed run rebuilds the same working weights. */
        float rounded = (float)(w - (double)a->lr * (step + decay * w));
        if (a->master)
            a->master[i] = rounded;
        if (a->ema)
            a->ema[i] = (float)((double)a->ema[i] +
                                (1 - (double)a->ema_decay) * ((double)rounded - (double)a->ema[i]));
        ref_store_rounded(a->working, a->compute, i, rounded, a->stochastic);
    }
    return MPT_OK;
}
