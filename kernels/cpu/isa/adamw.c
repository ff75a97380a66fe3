/*
 * AdamW in one pass over memory: masters and moments are read and written once, the working copy is
 * written beside them. Divisions and square roots are IEEE's, not approximations.
 */
#include "elementwise.h"
#include "vec.h"

/* The constants of a step, once for each lane. */
typedef struct adamw_constants {
    vec_t take_m, take_v, decay, minus_lr;
} adamw_constants_t;

VEC_INLINE void adamw_step(const mpt_adamw_t *a, const adamw_constants_t *c, int64_t i, int lanes)
{
    vec_prefetch(a->grad, a->grad_dtype, i);
    vec_prefetch(a->m, MPT_F32, i);
    vec_prefetch(a->v, MPT_F32, i);
    vec_prefetch(a->master, MPT_F32, i);
    vec_prefetch(a->working, a->compute, i);
    const vec_t g = vec_load(a->grad, a->grad_dtype, i, lanes) * a->factor;
    vec_t m = vec_load_f32(a->m + i, lanes), v = vec_load_f32(a->v + i, lanes);
    vec_t w = vec_load_f32(a->master + i, lanes);
    m = vec_fma(c->take_m, g - m, m);
    v = vec_fma(c->take_v, vec_fma(g, g, -v), v);
    const vec_t ratio = (m / a->correction1) / (vec_sqrt(v / a->correction2) + a->eps);
    w = vec_fma(c->minus_lr, vec_fma(c->decay, w, ratio), w);
    vec_store_f32(a->m + i, lanes, m);
    vec_store_f32(a->v + i, lanes, v);
    vec_store_f32(a->master + i, lanes, w);
    vec_store(a->working, a->compute, i, lanes, w);
}

static void adamw_range(const mpt_adamw_t *a, float decay, int64_t i, int64_t end)
{
    const adamw_constants_t constants = {vec_set(1.0f - a->beta1), vec_set(1.0f - a->beta2),
                                         vec_set(decay), vec_set(-a->lr)};
    for (; i + VEC_LANES <= end; i += VEC_LANES)
        adamw_step(a, &constants, i, VEC_LANES);
    if (i < end)
        adamw_step(a, &constants, i, (int)(end - i));
}

static void adamw_task(void *ctx, int task, int worker)
{
    (void)worker;
    const mpt_adamw_t *a = ctx;
    const int64_t begin = (int64_t)task * TASK_ELEMENTS;
    const int64_t end = tasks_end(a->count, TASK_ELEMENTS, task);
    int64_t plain = a->decay_count;
    if (plain < begin)
        plain = begin;
    if (plain > end)
        plain = end;
    adamw_range(a, a->decay, begin, plain);
    adamw_range(a, 0.0f, plain, end);
}

mpt_status_t cpu_adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s)
{
    (void)s;
    mpt_adamw_t args = *a;
    tasks_run(k, adamw_task, &args, tasks_cover(a->count, TASK_ELEMENTS));
    return MPT_OK;
}
