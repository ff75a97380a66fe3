/*
 * AdamW in one pass over memory: masters and moments are read and written once, the working copy is
 * written beside them. Divisions and square roots are IEEE's, not approximations.
 *
 * Every step is adamw_step. Loops over it are compiled for the plain form, with masters, without an
 * average, rounding to nearest, once with the working copy stored past the caches: the next forward
 * reads it, long after; and one that asks for each element's form.
 */
#include "elementwise.h"
#include "stochastic.h"

typedef enum form { ANY, PLAIN, STREAMED } form_t;

/* The constants of a step, once for each lane. */
typedef struct adamw_constants {
    vec_t take_m, take_v, decay, minus_lr, take_ema;
} adamw_constants_t;

VEC_INLINE void adamw_prefetch(const mpt_adamw_t *a, int64_t i, form_t form)
{
    vec_prefetch(a->grad, a->grad_dtype, i);
    vec_prefetch(a->m, MPT_F32, i);
    vec_prefetch(a->v, MPT_F32, i);
    if (form != ANY || a->master)
        vec_prefetch(a->master, MPT_F32, i);
    if (form == ANY && a->ema)
        vec_prefetch(a->ema, MPT_F32, i);
    if (form != STREAMED)
        vec_prefetch(a->working, a->compute, i);
}

/* Store the new weights wherever the call keeps them. */
VEC_INLINE void adamw_store(const mpt_adamw_t *a, const adamw_constants_t *c, int64_t i, int lanes,
                            vec_t w, const uint16_t *random, form_t form)
{
    if (form != ANY || a->master)
        vec_store_f32(a->master + i, lanes, w);
    if (form == ANY && a->ema) {
        const vec_t ema = vec_load_f32(a->ema + i, lanes);
        vec_store_f32(a->ema + i, lanes, vec_fma(c->take_ema, w - ema, ema));
    }
    if (form == ANY && random)
        vec_store_stochastic(a->working, a->compute, i, lanes, w, random);
    else if (form == STREAMED)
        vec_stream(a->working, a->compute, i, w);
    else
        vec_store(a->working, a->compute, i, lanes, w);
}

/* random: this vector's random bits, NULL: round to nearest. form: a constant. */
VEC_INLINE void adamw_step(const mpt_adamw_t *a, const adamw_constants_t *c, int64_t i, int lanes,
                           const uint16_t *random, form_t form)
{
    adamw_prefetch(a, i, form);
    const vec_t g = vec_load(a->grad, a->grad_dtype, i, lanes) * a->factor;
    vec_t m = vec_load_f32(a->m + i, lanes), v = vec_load_f32(a->v + i, lanes);
    vec_t w = form != ANY || a->master ? vec_load_f32(a->master + i, lanes)
                                       : vec_load(a->working, a->compute, i, lanes);
    m = vec_fma(c->take_m, g - m, m);
    v = vec_fma(c->take_v, vec_fma(g, g, -v), v);
    const vec_t ratio = (m / a->correction1) / (vec_sqrt(v / a->correction2) + a->eps);
    w = vec_fma(c->minus_lr, vec_fma(c->decay, w, ratio), w);
    vec_store_f32(a->m + i, lanes, m);
    vec_store_f32(a->v + i, lanes, v);
    adamw_store(a, c, i, lanes, w, random, form);
}

static adamw_constants_t constants_of(const mpt_adamw_t *a, float decay)
{
    return (adamw_constants_t){vec_set(1.0f - a->beta1), vec_set(1.0f - a->beta2), vec_set(decay),
                               vec_set(-a->lr), vec_set(1.0f - a->ema_decay)};
}

/* Whole vectors of elements [i, end); returns where they end. */
VEC_INLINE int64_t adamw_vectors(const mpt_adamw_t *a, const adamw_constants_t *c, int64_t i,
                                 int64_t end, form_t form)
{
    for (; i + VEC_LANES <= end; i += VEC_LANES)
        adamw_step(a, c, i, VEC_LANES, NULL, form);
    return i;
}

static void adamw_plain(const mpt_adamw_t *a, float decay, int64_t i, int64_t end)
{
    const adamw_constants_t constants = constants_of(a, decay);
    if (tasks_stream(a->working, a->compute, a->count)) {
        const int64_t whole = (i + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
        const int64_t aligned = whole < end ? whole : end;
        if (i < aligned)
            adamw_step(a, &constants, i, (int)(aligned - i), NULL, PLAIN);
        i = adamw_vectors(a, &constants, aligned, end, STREAMED);
        vec_stream_end();
    }
    i = adamw_vectors(a, &constants, i, end, PLAIN);
    if (i < end)
        adamw_step(a, &constants, i, (int)(end - i), NULL, PLAIN);
}

/* random: the bits of element `i`, the others' behind it. */
static void adamw_any(const mpt_adamw_t *a, float decay, int64_t i, int64_t end,
                      const uint16_t *random)
{
    const adamw_constants_t constants = constants_of(a, decay);
    for (; i + VEC_LANES <= end; i += VEC_LANES) {
        adamw_step(a, &constants, i, VEC_LANES, random, ANY);
        random = random ? random + VEC_LANES : NULL;
    }
    if (i < end)
        adamw_step(a, &constants, i, (int)(end - i), random, ANY);
}

static void adamw_run(const mpt_adamw_t *a, float decay, stretch_t t)
{
    rounding_bits_t room;
    for (int64_t i = t.begin; i < t.end; i += ROUNDING_CHUNK) {
        const int64_t end = t.end - i < ROUNDING_CHUNK ? t.end : i + ROUNDING_CHUNK;
        const uint64_t element = (uint64_t)(t.run->element + (i - t.run->at));
        adamw_any(a, decay, i, end, cpu_rounding_bits(a->stochastic, element, end - i, &room));
    }
}

static void adamw_range(const mpt_adamw_t *a, float decay, int64_t i, int64_t end)
{
    if (!a->stochastic && !a->ema && a->master) {
        adamw_plain(a, decay, i, end);
        return;
    }
    if (!a->stochastic) {
        adamw_any(a, decay, i, end, NULL);
        return;
    }
    while (i < end) {
        const stretch_t t = stretch_at(a->stochastic, i, end);
        if (t.run)
            adamw_run(a, decay, t);
        else
            adamw_any(a, decay, t.begin, t.end, NULL);
        i = t.end;
    }
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
