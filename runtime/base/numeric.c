#include "numeric.h"

#include <assert.h>
#include "numeric_level.h"
#include "numeric_scalar.h"

uint16_t mpt_f32_to_f16(float value)
{
    return f32_to_f16(value);
}

float mpt_f16_to_f32(uint16_t bits)
{
    return f16_to_f32(bits);
}

double mpt_load(const void *array, mpt_dtype_t dtype, int64_t index)
{
    if (dtype == MPT_F64)
        return ((const double *)array)[index];
    return (double)widen(array, dtype, index);
}

void mpt_store(void *array, mpt_dtype_t dtype, int64_t index, double value)
{
    if (dtype == MPT_F64)
        ((double *)array)[index] = value;
    else if (dtype == MPT_F32)
        ((float *)array)[index] = (float)value;
    else
        narrow(array, dtype, index, f64_to_f32_odd(value));
}

void mpt_convert(void *dst, mpt_dtype_t dst_dtype, const void *src, mpt_dtype_t src_dtype,
                 int64_t count)
{
    mpt_numeric_level(0)->convert(dst, dst_dtype, src, src_dtype, count);
}

void mpt_tree_sum(void *out, mpt_dtype_t out_dtype, const void *const *sources, int ranks,
                  mpt_dtype_t wire, int64_t count)
{
    mpt_numeric_level(0)->tree_sum(out, out_dtype, sources, ranks, wire, count);
}

double mpt_tree_sum_f64(double *values, int ranks)
{
    assert(ranks >= 1);
    for (int left = ranks; left > 1; left = (left + 1) / 2) {
        for (int pair = 0; pair < left / 2; pair++)
            values[pair] = values[2 * pair] + values[2 * pair + 1];
        if (left % 2)
            values[left / 2] = values[left - 1];
    }
    return values[0];
}
