/* Partial sums of gradients: one addition an element. */
#include "elementwise.h"
#include "vec.h"

VEC_INLINE void add_step(const mpt_add_t *a, mpt_dtype_t dtype, int64_t i, int lanes)
{
    vec_prefetch(a->acc, MPT_F32, i);
    vec_prefetch(a->x, dtype, i);
    const vec_t sum = vec_load_f32(a->acc + i, lanes) + vec_load(a->x, dtype, i, lanes);
    /* Of two NaNs the processor keeps one by the operands' order, which compilers may swap. */
    const vec_t settled = vec_select(sum != sum, (vec_t)vec_set_u32(0x7fc00000u), sum);
    vec_store_f32(a->acc + i, lanes, settled);
}

VEC_INLINE void add_range(const mpt_add_t *a, mpt_dtype_t dtype, int64_t i, int64_t end)
{
    for (; i + VEC_LANES <= end; i += VEC_LANES)
        add_step(a, dtype, i, VEC_LANES);
    if (i < end)
        add_step(a, dtype, i, (int)(end - i));
}

static void add_task(void *ctx, int task, int worker)
{
    (void)worker;
    const mpt_add_t *a = ctx;
    const int64_t begin = (int64_t)task * TASK_ELEMENTS;
    const int64_t end = tasks_end(a->count, TASK_ELEMENTS, task);
    if (a->dtype == MPT_F32)
        add_range(a, MPT_F32, begin, end);
    else if (a->dtype == MPT_BF16)
        add_range(a, MPT_BF16, begin, end);
    else
        add_range(a, MPT_F16, begin, end);
}

mpt_status_t cpu_add(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s)
{
    (void)s;
    mpt_add_t args = *a;
    tasks_run(k, add_task, &args, tasks_cover(a->count, TASK_ELEMENTS));
    return MPT_OK;
}
