#include <math.h>
#include "ref.h"

/* Element `index` widened to FP32, bit for bit where it is a NaN as well. */
static uint32_t bits_at(const void *array, mpt_dtype_t dtype, int64_t index)
{
    if (dtype == MPT_F32)
        return ((const uint32_t *)array)[index];
    uint16_t bits = ((const uint16_t *)array)[index];
    return mpt_f32_bits(dtype == MPT_BF16 ? mpt_bf16_to_f32(bits) : mpt_f16_to_f32(bits));
}

/* Note element `index` if it is not finite. */
static void note_offender(mpt_offender_t *bad, const void *array, mpt_dtype_t dtype, int64_t index)
{
    if (isfinite(mpt_load(array, dtype, index)))
        return;
    if (bad->count++ > 0)
        return;
    bad->first = (uint64_t)index;
    bad->bits = bits_at(array, dtype, index);
}

mpt_status_t ref_to_wire(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_offender_t bad = {0};
    for (int64_t i = 0; i < a->count; i++) {
        mpt_store(a->wire, a->wire_dtype, i, (double)a->acc[i] * (double)a->scale);
        note_offender(&bad, a->wire, a->wire_dtype, i);
    }
    *a->bad = bad;
    return MPT_OK;
}

/* The eight lanes and the tree that kernels.h defines; `count` up to MPT_SCAN_SEGMENT. */
static double segment_squares(const void *grad, mpt_dtype_t dtype, int64_t first, int64_t count)
{
    double lane[8] = {0};
    for (int64_t i = 0; i < count; i++) {
        double g = mpt_load(grad, dtype, first + i);
        lane[i % 8] += g * g;
    }
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
           ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

mpt_status_t ref_grad_scan(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    mpt_offender_t bad = {0};
    double sumsq = 0;
    for (int64_t first = 0; first < a->count; first += MPT_SCAN_SEGMENT) {
        int64_t left = a->count - first;
        sumsq += segment_squares(a->grad, a->dtype, first,
                                 left < MPT_SCAN_SEGMENT ? left : MPT_SCAN_SEGMENT);
    }
    for (int64_t i = 0; i < a->count; i++)
        note_offender(&bad, a->grad, a->dtype, i);
    *a->sumsq = sumsq;
    *a->bad = bad;
    return MPT_OK;
}
