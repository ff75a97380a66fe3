#include "ref.h"

mpt_status_t ref_cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->count; i++)
        mpt_store(a->dst, a->dst_dtype, i, mpt_load(a->src, a->src_dtype, i));
    return MPT_OK;
}
