#include <math.h>
#include "ref.h"

mpt_status_t ref_adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->count; i++) {
        double decay = i < a->decay_count ? (double)a->decay : 0;
        double g = mpt_load(a->grad, a->grad_dtype, i) * (double)a->factor;
        double m = (double)a->m[i] + (1 - (double)a->beta1) * (g - (double)a->m[i]);
        double v = (double)a->v[i] + (1 - (double)a->beta2) * (g * g - (double)a->v[i]);
        double step =
            (m / (double)a->correction1) / (sqrt(v / (double)a->correction2) + (double)a->eps);
        double w = (double)a->master[i];
        a->m[i] = (float)m;
        a->v[i] = (float)v;
        a->master[i] = (float)(w - (double)a->lr * (step + decay * w));
        /* Of the rounded master, so that a resumed run rebuilds the same working weights. */
        mpt_store(a->working, a->compute, i, (double)a->master[i]);
    }
    return MPT_OK;
}
