/*
 * Running a conformance case: laying its arrays out between guards, calling, inspecting, comparing.
 */
#ifndef TEST_CONFORMANCE_RUN_H
#define TEST_CONFORMANCE_RUN_H

#include <sys/mman.h>
#include "conformance_expect.h"

/* ---- one run -------------------------------------------------------------------------------------- */

static inline void conform_complain(conform_context_t *x, const conform_case_t *c,
                                    const conform_target_t *t, const char *text)
{
    x->failures++;
    if (!x->quiet && x->failures <= 20)
        fprintf(stderr, "FAIL %s %s %s %s %s: %s\n", c->op, t->ops->name, mpt_isa_name(t->isa),
                mpt_dtype_name(c->compute), c->label, text);
}

static inline void conform_place_guarded(conform_buffer_t *b, size_t bytes)
{
    size_t total = CONFORM_GUARD + bytes + CONFORM_GUARD;
    b->base_bytes = (total + CONFORM_PAGE - 1) / CONFORM_PAGE * CONFORM_PAGE;
    b->base = mmap(NULL, b->base_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->base == MAP_FAILED)
        abort();
    b->data = b->base + CONFORM_GUARD;
    b->tail = CONFORM_GUARD;
}

/* The array starts on a cache line and its last line ends at the page without access. */
static inline void conform_place_fenced(conform_buffer_t *b, size_t bytes)
{
    size_t lines = (bytes + 63) / 64 * 64;
    size_t open = (lines + CONFORM_GUARD + CONFORM_PAGE - 1) / CONFORM_PAGE * CONFORM_PAGE;
    b->base_bytes = open + CONFORM_PAGE;
    b->base = mmap(NULL, b->base_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->base == MAP_FAILED || mprotect(b->base + open, CONFORM_PAGE, PROT_NONE) != 0)
        abort();
    b->data = b->base + open - lines;
    b->tail = lines - bytes;
}

static inline void conform_unplace(conform_buffer_t *b)
{
    if (b->base)
        munmap(b->base, b->base_bytes);
    *b = (conform_buffer_t){0};
}

static inline int conform_guard_byte(const conform_array_t *a)
{
    return a->role == CONFORM_IN && a->kind != CONFORM_RAW ? 0xff : 0xa5;
}

static inline void conform_guard(const conform_buffer_t *b, size_t bytes, int byte)
{
    memset(b->data - CONFORM_GUARD, byte, CONFORM_GUARD);
    memset(b->data + bytes, byte, b->tail);
}

static inline int conform_guard_holds(const conform_buffer_t *b, size_t bytes, int byte)
{
    for (const unsigned char *before = b->data - CONFORM_GUARD; before < b->data; before++)
        if (*before != byte)
            return 0;
    for (size_t i = 0; i < b->tail; i++)
        if (b->data[bytes + i] != byte)
            return 0;
    return 1;
}

/* Put every array's initial contents and guards in place; give the call its pointers. */
static inline void conform_lay_out(conform_case_t *c, conform_place_t place, void **data)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        conform_array_t *a = &c->array[index];
        data[index] = NULL;
        if ((a->count == 0 && !a->empty) || a->alias >= 0)
            continue;
        size_t bytes = conform_bytes(c, index);
        conform_buffer_t *b = &a->place[place];
        if (!b->base && place == CONFORM_GUARDED)
            conform_place_guarded(b, bytes);
        else if (!b->base)
            conform_place_fenced(b, bytes);
        if (bytes > 0)
            memcpy(b->data, a->initial, bytes);
        conform_guard(b, bytes, conform_guard_byte(a));
        data[index] = b->data;
    }
    for (int index = 0; index < CONFORM_ARRAYS; index++)
        if (c->array[index].alias >= 0 && c->array[index].count > 0)
            data[index] = data[c->array[index].alias];
}

/* After a call: guards, inputs, and outputs against the first run's (taken now if `first`). */
static inline const char *conform_inspect(conform_case_t *c, conform_place_t place,
                                          void *const *data, int first)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        conform_array_t *a = &c->array[index];
        size_t bytes = conform_bytes(c, index);
        if (!data[index])
            continue;
        if (a->alias < 0 && !conform_guard_holds(&a->place[place], bytes, conform_guard_byte(a)))
            return "wrote outside of an array";
        if (a->role == CONFORM_IN && !a->overwritten && bytes > 0 &&
            memcmp(data[index], a->initial, bytes) != 0)
            return "changed an input";
        if (!conform_is_output(a))
            continue;
        if (first) {
            free(a->got);
            a->got = conform_alloc(bytes);
            memcpy(a->got, data[index], bytes);
        } else if (memcmp(a->got, data[index], bytes) != 0)
            return "gave other bits than the first run";
    }
    return NULL;
}

/* 1: the caller's tiles are still configured. They are to be released: who switches threads has to save them. */
static inline int conform_tiles_in_use(const conform_target_t *t)
{
    unsigned char config[64] = {0};
#if defined(__x86_64__)
    if (t->isa == MPT_ISA_AMX)
        __asm__ volatile("sttilecfg %0" : "=m"(config));
#endif
    return t->isa == MPT_ISA_AMX && config[0] != 0;
}

/* One call with the pool `pool`; NULL where all is well. */
static inline const char *conform_call(conform_context_t *x, conform_case_t *c,
                                       const conform_target_t *t, int pool, conform_place_t place,
                                       int first)
{
    const char *fault = NULL;
    void *data[CONFORM_ARRAYS];
    conform_buffer_t scratch = {0};
    size_t bytes = mpt_kernels_scratch_bytes(t->ops, t->isa, conform_threads[pool], &c->limits);
    conform_lay_out(c, place, data);
    conform_place_guarded(&scratch, bytes);
    memset(scratch.data, 0xff, bytes);
    conform_guard(&scratch, bytes, 0xa5);
    mpt_kernels_t k;
    if (mpt_kernels_init(&k, t->ops, x->devices[pool], NULL, t->isa, scratch.data, bytes,
                         &c->limits) != MPT_OK)
        fault = "mpt_kernels_init refused";
    else if (c->call(&k, c, c->compute, data) != MPT_OK)
        fault = "the call failed";
    else if (conform_tiles_in_use(t))
        fault = "left tiles configured";
    else
        fault = conform_inspect(c, place, data, first);
    if (!fault && !conform_guard_holds(&scratch, bytes, 0xa5))
        fault = "wrote outside of the scratch";
    conform_unplace(&scratch);
    return fault;
}

/* ---- comparison ----------------------------------------------------------------------------------- */

/* Bit for bit, any NaN being equal to any. Returns the first element that differs, or -1. */
static inline int64_t conform_first_other_bits(const conform_case_t *c, int index)
{
    const conform_array_t *a = &c->array[index];
    size_t size = conform_element_bytes(c, index);
    mpt_dtype_t dtype = conform_dtype(c, index); /* means nothing for raw arrays, nor is it used */
    for (int64_t i = 0; i < a->count; i++) {
        const unsigned char *got = a->got + (size_t)i * size, *exact = a->exact + (size_t)i * size;
        if (memcmp(got, exact, size) == 0)
            continue;
        if (a->kind == CONFORM_RAW || !isnan(mpt_load(got, dtype, 0)) ||
            !isnan(mpt_load(exact, dtype, 0)))
            return i;
    }
    return -1;
}

/* Error over tolerance, at most 1 where `got` passes. */
static inline double conform_error(double got, double want, double slack, mpt_dtype_t dtype)
{
    if (!isfinite(want))
        return isfinite(got) ? INFINITY : 0;
    if (slack == INFINITY)
        return 0;
    double overflow = conform_overflow(dtype);
    if (isinf(got))
        return fabs(want) + slack >= overflow && (got > 0) == (want > 0) ? 0 : INFINITY;
    if (fabs(want) - slack >= overflow)
        return INFINITY;
    double error = fabs(got - want) / (slack + conform_half_ulp(fabs(want) + slack, dtype));
    return isnan(error) ? INFINITY : error;
}

static inline void conform_compare_bits(conform_context_t *x, const conform_case_t *c,
                                        const conform_target_t *t, int index)
{
    const conform_array_t *a = &c->array[index];
    int64_t i = conform_first_other_bits(c, index);
    char text[256];
    if (i < 0)
        return;
    if (a->kind == CONFORM_RAW)
        snprintf(text, sizeof text, "%s[%lld] has other bits than defined", a->name, (long long)i);
    else
        snprintf(text, sizeof text, "%s[%lld] = %.9g, exactly %.9g expected", a->name, (long long)i,
                 conform_got(c, index, i), mpt_load(a->exact, conform_dtype(c, index), i));
    conform_complain(x, c, t, text);
}

static inline void conform_compare_values(conform_context_t *x, const conform_case_t *c,
                                          const conform_target_t *t, int index)
{
    const conform_array_t *a = &c->array[index];
    mpt_dtype_t dtype = conform_dtype(c, index);
    char text[256];
    for (int64_t i = 0; i < a->count; i++) {
        double got = conform_got(c, index, i), want = a->want[i], slack = a->slack[i];
        double error = conform_error(got, want, slack, dtype);
        if (error > x->worst) {
            x->worst = error;
            snprintf(x->worst_label, sizeof x->worst_label, "%.90s %s[%lld]", c->label, a->name,
                     (long long)i);
        }
        if (!(error <= 1)) {
            snprintf(text, sizeof text, "%s[%lld] = %.9g, want %.9g within %.3g", a->name,
                     (long long)i, got, want, slack + conform_half_ulp(fabs(want) + slack, dtype));
            conform_complain(x, c, t, text);
            return;
        }
    }
}

/* ---- running ---------------------------------------------------------------------------------------- */

/* Run a case, its expectations filled in, on one target. */
static inline void conform_run(conform_context_t *x, conform_case_t *c, const conform_target_t *t)
{
    static const struct {
        int pool;
        conform_place_t place;
        const char *name;
    } runs[] = {{0, CONFORM_GUARDED, "1 thread"},
                {1, CONFORM_GUARDED, "2 threads"},
                {2, CONFORM_GUARDED, "4 threads"},
                {0, CONFORM_FENCED, "1 thread again, fenced"}};
    int serial =
        t->ops == mpt_kernels_find("ref"); /* runs in its caller: more threads show nothing */
    x->cases++;
    x->current = c;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        if (serial && runs[i].pool > 0)
            continue;
        const char *fault = conform_call(x, c, t, runs[i].pool, runs[i].place, i == 0);
        if (!fault)
            continue;
        char text[128];
        snprintf(text, sizeof text, "%s: %s", runs[i].name, fault);
        conform_complain(x, c, t, text);
        return;
    }
    if (c->settle)
        c->settle(c);
    for (int index = 0; index < CONFORM_ARRAYS; index++)
        if (conform_is_output(&c->array[index]) && c->array[index].exact)
            conform_compare_bits(x, c, t, index);
        else if (conform_is_output(&c->array[index]))
            conform_compare_values(x, c, t, index);
}

static inline void conform_release(conform_case_t *c)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        conform_array_t *a = &c->array[index];
        free(a->initial);
        free(a->got);
        free(a->exact);
        free(a->want);
        free(a->slack);
        for (int place = 0; place < CONFORM_PLACES; place++)
            conform_unplace(&a->place[place]);
        *a = (conform_array_t){0};
    }
}

/* Expect once, run on every target, release. */
static inline void conform_case_run(conform_context_t *x, conform_case_t *c,
                                    const conform_target_t *targets, int target_count)
{
    conform_expect_begin(c);
    c->expect(c);
    for (int i = 0; i < target_count; i++)
        conform_run(x, c, &targets[i]);
    conform_release(c);
}

static inline void conform_open(conform_context_t *x)
{
    *x = (conform_context_t){0};
    for (int i = 0; i < 3; i++) {
        mpt_pool_params_t params = {.threads = conform_threads[i], .yield = 1};
        if (mpt_pool_create(&params, &x->pools[i]) != MPT_OK ||
            mpt_device_cpu_create(x->pools[i], NULL, &x->devices[i]) != MPT_OK)
            abort();
    }
}

static inline void conform_close(conform_context_t *x)
{
    for (int i = 0; i < 3; i++) {
        mpt_device_destroy(x->devices[i]);
        mpt_pool_destroy(x->pools[i]);
    }
}

#endif
