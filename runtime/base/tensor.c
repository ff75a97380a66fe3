#include "tensor.h"

static const struct {
    size_t bytes;
    const char *name;
} dtype_table[MPT_DTYPE_COUNT] = {
    [MPT_F32] = {4, "fp32"},
    [MPT_BF16] = {2, "bf16"},
    [MPT_F16] = {2, "fp16"},
    [MPT_F64] = {8, "fp64"},
};

size_t mpt_dtype_bytes(mpt_dtype_t dtype)
{
    return dtype_table[dtype].bytes;
}

const char *mpt_dtype_name(mpt_dtype_t dtype)
{
    return dtype_table[dtype].name;
}

mpt_dtype_t mpt_dtype_wide(mpt_dtype_t dtype)
{
    return dtype == MPT_F64 ? MPT_F64 : MPT_F32;
}

int64_t mpt_tensor_count(const mpt_tensor_t *tensor)
{
    int64_t count = 1;
    for (int d = 0; d < tensor->dims; d++)
        count *= tensor->shape[d];
    return count;
}
