/* Conversion of arrays. FP64 is no type of a run; it takes the shared conversion, piece by
 * piece. */
#include "elementwise.h"
#include "stochastic.h"

/* Whole vectors of elements [i, end), past the caches; returns where they end. */
VEC_INLINE int64_t cast_stream(const mpt_cast_t *a, mpt_dtype_t dst, mpt_dtype_t src, int64_t i,
                               int64_t end)
{
    for (; i + VEC_LANES <= end; i += VEC_LANES) {
        vec_prefetch(a->src, src, i);
        vec_stream(a->dst, dst, i, vec_load(a->src, src, i, VEC_LANES));
    }
    vec_stream_end();
    return i;
}

VEC_INLINE void cast_range(const mpt_cast_t *a, mpt_dtype_t dst, mpt_dtype_t src, int64_t i,
                           int64_t end)
{
    if (i % VEC_LANES == 0 && tasks_stream(a->dst, dst, a->count))
        i = cast_stream(a, dst, src, i, end);
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

/* ---- stochastic: from FP32 to BF16 or FP16 -------------------------------------------------- */

VEC_INLINE void cast_chunk(const mpt_cast_t *a, mpt_dtype_t dst, int64_t i, int64_t end,
                           const uint16_t *random)
{
    const float *src = a->src;
    for (; i + VEC_LANES <= end; i += VEC_LANES, random += VEC_LANES) {
        vec_prefetch(src, MPT_F32, i);
        vec_store_stochastic(a->dst, dst, i, VEC_LANES, vec_load_f32(src + i, VEC_LANES), random);
    }
    if (i < end) {
        const int lanes = (int)(end - i);
        vec_store_stochastic(a->dst, dst, i, lanes, vec_load_f32(src + i, lanes), random);
    }
}

VEC_INLINE void cast_run(const mpt_cast_t *a, mpt_dtype_t dst, stretch_t t)
{
    rounding_bits_t room;
    for (int64_t i = t.begin; i < t.end; i += ROUNDING_CHUNK) {
        const int64_t end = t.end - i < ROUNDING_CHUNK ? t.end : i + ROUNDING_CHUNK;
        const uint64_t element = (uint64_t)(t.run->element + (i - t.run->at));
        cast_chunk(a, dst, i, end, cpu_rounding_bits(a->stochastic, element, end - i, &room));
    }
}

VEC_INLINE void cast_stochastic(const mpt_cast_t *a, mpt_dtype_t dst, int64_t i, int64_t end)
{
    while (i < end) {
        const stretch_t t = stretch_at(a->stochastic, i, end);
        if (t.run)
            cast_run(a, dst, t);
        else
            cast_range(a, dst, MPT_F32, t.begin, t.end);
        i = t.end;
    }
}

static void cast_task(void *ctx, int task, int worker)
{
    (void)worker;
    const mpt_cast_t *a = ctx;
    const int64_t begin = (int64_t)task * TASK_ELEMENTS;
    const int64_t end = tasks_end(a->count, TASK_ELEMENTS, task);
    if (a->stochastic && a->dst_dtype == MPT_BF16)
        cast_stochastic(a, MPT_BF16, begin, end);
    else if (a->stochastic)
        cast_stochastic(a, MPT_F16, begin, end);
    else if (a->dst_dtype == MPT_F64 || a->src_dtype == MPT_F64)
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
