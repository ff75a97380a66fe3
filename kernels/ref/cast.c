#include "ref.h"

mpt_status_t ref_cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->count; i++) {
        double value = mpt_load(a->src, a->src_dtype, i);
        if (a->stochastic)
            ref_store_rounded(a->dst, a->dst_dtype, i, (float)value, a->stochastic);
        else
            mpt_store(a->dst, a->dst_dtype, i, value);
    }
    return MPT_OK;
}
