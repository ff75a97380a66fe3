#include "tensor.h"
#include <string.h>

static const struct {
    size_t bytes;
    const char *name;
} dtype_table[] = {
    [MPT_F32] = {4, "fp32"},
    [MPT_BF16] = {2, "bf16"},
    [MPT_F16] = {2, "fp16"},
    [MPT_F64] = {8, "fp64"},
    [MPT_TF32] = {4, "tf32"},
};

size_t mpt_dtype_bytes(mpt_dtype_t dtype)
{
    return dtype_table[dtype].bytes;
}

const char *mpt_dtype_name(mpt_dtype_t dtype)
{
    return dtype_table[dtype].name;
}

mpt_dtype_t mpt_dtype_named(const char *name)
{
    for (size_t d = 0; d < sizeof dtype_table / sizeof *dtype_table; d++)
        if (dtype_table[d].name != NULL && strcmp(dtype_table[d].name, name) == 0)
            return (mpt_dtype_t)d;
    return MPT_DTYPE_COUNT;
}

mpt_dtype_t mpt_dtype_memory(mpt_dtype_t dtype)
{
    return dtype == MPT_TF32 ? MPT_F32 : dtype;
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
