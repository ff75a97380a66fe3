#include "ref.h"

static uint32_t bits_at(const void *array, mpt_dtype_t dtype, int64_t index)
{
    if (dtype == MPT_F32)
        return ((const uint32_t *)array)[index];
    return ((const uint16_t *)array)[index];
}

mpt_status_t ref_hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->count; i++)
        *a->sum += mpt_hash_mix(a->element + (uint64_t)i, bits_at(a->data, a->dtype, i), a->salt);
    return MPT_OK;
}
