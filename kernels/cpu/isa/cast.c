/* Conversion of arrays. FP64 is no type of a run; it takes the shared conversion, piece by
 * piece. */
#include "elementwise.h"
#include "vec.h"

VEC_INLINE void cast_range(const mpt_cast_t *a, mpt_dtype_t dst, mpt_dtype_t src, int64_t i,
                           int64_t end)
{
    for (; i + VEC_LANES <= end; i += VEC_LANES) {
        vec_prefetch(a->src, src, i);
        vec_store(a->dst, dst, i, VEC_LANES, vec_load(a->src, src, i, VEC_LANES));
    }
    if (i < end) {
        const int lanes = (int)(end - i);
        vec_store(a->dst, dst, i, lanes, vec_load(a->src, src, i, lanes));
    }
}

VEC_INLINE void cast_to(const mpt_cast_t *a, mpt_dtype_t dst, int64_t begin, int64_t end)
{
    if (a->src_dtype == MPT_F32)
        cast_range(a, dst, MPT_F32, begin, end);
    else if (a->src_dtype == MPT_BF16)
        cast_range(a, dst, MPT_BF16, begin, end);
    else
        cast_range(a, dst, MPT_F16, begin, end);
}

static void cast_f64(const mpt_cast_t *a, int64_t begin, int64_t end)
{
    char *dst = (char *)a->dst + begin * (int64_t)mpt_dtype_bytes(a->dst_dtype);
    const char *src = (const char *)a->src + begin * (int64_t)mpt_dtype_bytes(a->src_dtype);
    mpt_convert(dst, a->dst_dtype, src, a->src_dtype, end - begin);
}

static void cast_task(void *ctx, int task, int worker)
{
    (void)worker;
    const mpt_cast_t *a = ctx;
    const int64_t begin = (int64_t)task * TASK_ELEMENTS;
    const int64_t end = tasks_end(a->count, TASK_ELEMENTS, task);
    if (a->dst_dtype == MPT_F64 || a->src_dtype == MPT_F64)
        cast_f64(a, begin, end);
    else if (a->dst_dtype == MPT_F32)
        cast_to(a, MPT_F32, begin, end);
    else if (a->dst_dtype == MPT_BF16)
        cast_to(a, MPT_BF16, begin, end);
    else
        cast_to(a, MPT_F16, begin, end);
}

mpt_status_t cpu_cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    (void)s;
    mpt_cast_t args = *a;
    tasks_run(k, cast_task, &args, tasks_cover(a->count, TASK_ELEMENTS));
    return MPT_OK;
}
