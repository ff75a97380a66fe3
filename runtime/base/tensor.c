#include "tensor.h"
#include <string.h>

static const char *const names[] = {
    [MPT_F32] = "fp32", [MPT_BF16] = "bf16", [MPT_F16] = "fp16", [MPT_F64] = "fp64", [MPT_TF32] = "tf32",
};

const char *mpt_dtype_name(mpt_dtype_t dtype)
{
    return names[dtype];
}

mpt_dtype_t mpt_dtype_named(const char *name)
{
    for (size_t d = 0; d < sizeof names / sizeof *names; d++)
        if (names[d] != NULL && strcmp(names[d], name) == 0)
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
