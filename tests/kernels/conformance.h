/*
 * The conformance suite's harness. A case is a list of arrays, a call on them, and for each output the
 * exact result with the error that theory allows. A case runs on any backend, at any instruction
 * level, several times over: with 1, 2 and 4 threads, again with 1, and once with every array ending at
 * a page that may not be touched. Each run must give the same bits, leave inputs, guards around the arrays and
 * the bytes past the scratch as they were, and write every element of its outputs, which are poisoned
 * with NaN bytes before, as is the scratch. What surrounds inputs is NaN too, so that a read past
 * the end shows in the result.
 *
 * Tolerance: |got - want| <= slack + half a unit in the last place of the output's type. `want` comes from
 * the oracle run wholly in FP64 on the same inputs; slack bounds the rounding errors of an implementation
 * in FP32 in any order of summation (n terms of absolute sum A: about n u A, u = 2^-24; Higham,
 * Accuracy and Stability, 2002), plus those that kernels.h asks for. Each op's file writes its bound out. A want
 * that is not finite allows any value that is not finite: Inf and NaN trade places in sums.
 *
 * Arrays are host memory: the CPU's device memory. A context belongs to one thread.
 */
#ifndef TEST_CONFORMANCE_H
#define TEST_CONFORMANCE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "device.h"
#include "kernels.h"
#include "numeric.h"
#include "pool.h"

#define CONFORM_ARRAYS 12
#define CONFORM_GUARD 192 /* bytes before and after each array; not a multiple of 128: data lies 64 past one */
#define CONFORM_PAGE 4096
#define CONFORM_U32 0x1p-24 /* unit roundoff of FP32 */

typedef enum conform_role {
    CONFORM_IN,
    CONFORM_OUT,  /* overwritten: poisoned before */
    CONFORM_INOUT /* holds something before */
} conform_role_t;

typedef enum conform_kind {
    CONFORM_COMPUTE, /* of the case's compute type; FP64 in the exact run */
    CONFORM_WIDE,    /* of its wide type; FP64 in the exact run */
    CONFORM_FIXED,   /* of `dtype`, whatever the compute type */
    CONFORM_RAW      /* integers or structs of `element_bytes`: compared bit for bit */
} conform_kind_t;

/* Two places for the same array: between guards, and up against a page without access. */
typedef enum conform_place { CONFORM_GUARDED, CONFORM_FENCED, CONFORM_PLACES } conform_place_t;

typedef struct conform_buffer {
    unsigned char *base, *data; /* base: what is unmapped */
    size_t base_bytes, guard_bytes; /* guard_bytes: watched before and after, after at most `tail` */
    size_t tail;
} conform_buffer_t;

typedef struct conform_array {
    const char *name;
    conform_role_t role;
    conform_kind_t kind;
    mpt_dtype_t dtype;
    size_t element_bytes;
    int64_t count;          /* 0: absent, handed over as NULL, unless `empty` */
    int empty;              /* 1: handed over although it has no element */
    int alias;              /* index of the array whose memory it shares; -1: its own */
    int overwritten;        /* 1: an input that an alias writes over */
    int drop;               /* 1: NULL in the run on absolute values */
    unsigned char *initial; /* contents before a call */
    unsigned char *got;     /* outputs: what the first run left */
    unsigned char *exact;   /* outputs: expected bits; NULL: want and slack decide */
    double *want, *slack;
    conform_buffer_t place[CONFORM_PLACES];
} conform_array_t;

typedef struct conform_case conform_case_t;

struct conform_case {
    const char *op;
    char label[96];
    mpt_dtype_t compute;
    int64_t n[5];      /* shape, as the op's file names it */
    unsigned variant;  /* flags, as the op's file names them */
    uint64_t seed;     /* of the random contents */
    mpt_kernels_limits_t limits;
    conform_array_t array[CONFORM_ARRAYS];
    /* Build the op's arguments from `data` and call it; `compute` is the case's, or F64. */
    mpt_status_t (*call)(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute, void *const *data);
    /* Fill in want and slack, or exact, of each output. */
    void (*expect)(conform_case_t *c);
    /* The same for outputs that are defined by other outputs as they were `got`; may be NULL. */
    void (*settle)(conform_case_t *c);
};

/* What is under test. */
typedef struct conform_target {
    const mpt_kernels_ops_t *ops;
    mpt_isa_t isa;
} conform_target_t;

typedef struct conform_context {
    mpt_pool_t *pools[3]; /* 1, 2, 4 threads */
    mpt_device_t *devices[3];
    mpt_stream_t *streams[3];
    int quiet;    /* 1: count failures, print none */
    int cases;    /* run so far, times targets */
    int failures; /* of them */
    double worst; /* largest error over tolerance so far, 1 being the limit */
    char worst_label[160];
} conform_context_t;

static const int conform_threads[3] = {1, 2, 4};

/* ---- contents --------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t conform_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in (-1, 1). */
static inline double conform_uniform(uint64_t *state)
{
    return ((double)(conform_random(state) >> 11) + 0.5) * 0x1p-52 - 1;
}

static inline mpt_dtype_t conform_dtype(const conform_case_t *c, int index)
{
    const conform_array_t *a = &c->array[index];
    if (a->kind == CONFORM_COMPUTE)
        return c->compute;
    return a->kind == CONFORM_WIDE ? mpt_dtype_wide(c->compute) : a->dtype;
}

static inline size_t conform_element_bytes(const conform_case_t *c, int index)
{
    const conform_array_t *a = &c->array[index];
    return a->kind == CONFORM_RAW ? a->element_bytes : mpt_dtype_bytes(conform_dtype(c, index));
}

static inline size_t conform_bytes(const conform_case_t *c, int index)
{
    return (size_t)c->array[index].count * conform_element_bytes(c, index);
}

/* Element `i` of array `index` as it is before the call; as it was got, for an output. */
static inline double conform_input(const conform_case_t *c, int index, int64_t i)
{
    return mpt_load(c->array[index].initial, conform_dtype(c, index), i);
}

static inline double conform_got(const conform_case_t *c, int index, int64_t i)
{
    return mpt_load(c->array[index].got, conform_dtype(c, index), i);
}

static inline void conform_set(conform_case_t *c, int index, int64_t i, double value)
{
    mpt_store(c->array[index].initial, conform_dtype(c, index), i, value);
}

static inline void *conform_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    if (!memory)
        abort();
    return memory;
}

/* Uniform values within `scale` of `centre`. */
static inline void conform_fill(conform_case_t *c, int index, double centre, double scale)
{
    uint64_t state = c->seed * 1000003u + (uint64_t)index;
    for (int64_t i = 0; i < c->array[index].count; i++)
        conform_set(c, index, i, centre + scale * conform_uniform(&state));
}

/* ---- building a case ---------------------------------------------------------------------------- */

/* Put an array into the case: outputs poisoned, the others zero until they are filled. */
static inline conform_array_t *conform_put(conform_case_t *c, int index, conform_array_t array)
{
    conform_array_t *a = &c->array[index];
    *a = array;
    a->alias = -1;
    a->initial = conform_alloc(conform_bytes(c, index));
    if (a->role == CONFORM_OUT)
        memset(a->initial, 0xff, conform_bytes(c, index));
    return a;
}

/* An array of compute or wide type. */
static inline conform_array_t *conform_add(conform_case_t *c, int index, const char *name,
                                           conform_role_t role, conform_kind_t kind, int64_t count)
{
    return conform_put(c, index, (conform_array_t){.name = name, .role = role, .kind = kind, .count = count});
}

static inline conform_array_t *conform_add_fixed(conform_case_t *c, int index, const char *name,
                                                 conform_role_t role, mpt_dtype_t dtype, int64_t count)
{
    return conform_put(c, index, (conform_array_t){.name = name, .role = role, .kind = CONFORM_FIXED,
                                                   .dtype = dtype, .count = count});
}

static inline conform_array_t *conform_add_raw(conform_case_t *c, int index, const char *name,
                                               conform_role_t role, size_t element_bytes, int64_t count)
{
    return conform_put(c, index, (conform_array_t){.name = name, .role = role, .kind = CONFORM_RAW,
                                                   .element_bytes = element_bytes, .count = count});
}

/* Let output `index` take the place of input `of`. */
static inline void conform_alias(conform_case_t *c, int index, int of)
{
    c->array[index].alias = of;
    c->array[of].overwritten = 1;
}

/* Write the label: the shape, then the names of the variant's flags, lowest bit first. */
static inline void conform_label(conform_case_t *c, int dims, const char *const *flags, int flag_count)
{
    size_t used = 0;
    for (int d = 0; d < dims; d++)
        used += (size_t)snprintf(c->label + used, sizeof c->label - used, "%s%lld", d ? "x" : "", (long long)c->n[d]);
    for (int bit = 0; bit < flag_count; bit++)
        if (c->variant >> bit & 1u)
            used += (size_t)snprintf(c->label + used, sizeof c->label - used, " %s", flags[bit]);
}

static inline int conform_is_output(const conform_array_t *a)
{
    return a->role != CONFORM_IN && a->count > 0;
}

/* ---- the oracle ----------------------------------------------------------------------------------- */

/* A table of the oracle in `compute` that takes any shape. */
static inline mpt_kernels_t conform_oracle(mpt_dtype_t compute)
{
    static const int64_t any = INT64_C(1) << 30;
    return (mpt_kernels_t){.ops = mpt_kernels_find("ref"),
                           .limits = {.compute = compute, .batch = any, .seq = any, .heads = any,
                                      .head_dim = any, .rows = any, .dim = any, .hidden = any,
                                      .vocab_padded = any, .loss_rows = any}};
}

static inline void conform_oracle_call(const conform_case_t *c, mpt_dtype_t compute, void *const *data)
{
    mpt_kernels_t k = conform_oracle(compute);
    if (c->call(&k, c, compute, data) != MPT_OK) {
        fprintf(stderr, "%s %s: the oracle refuses its own case\n", c->op, c->label);
        abort();
    }
}

/* The case's arrays in FP64, outputs zero: arguments for an exact run. Absolute values on request. */
static inline void conform_twin_begin(const conform_case_t *c, int absolute, void **data)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        const conform_array_t *a = &c->array[index];
        data[index] = NULL;
        if (a->count == 0 || (absolute && a->drop))
            continue;
        data[index] = conform_alloc((size_t)a->count * (a->kind == CONFORM_RAW ? a->element_bytes : sizeof(double)));
        if (a->kind == CONFORM_RAW)
            memcpy(data[index], a->initial, conform_bytes(c, index));
        else if (a->role != CONFORM_OUT)
            for (int64_t i = 0; i < a->count; i++) {
                double value = conform_input(c, index, i);
                ((double *)data[index])[i] = absolute ? fabs(value) : value;
            }
    }
}

static inline void conform_twin_end(void **data)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++)
        free(data[index]);
}

/* Make room for want and slack (both zero) of each output. */
static inline void conform_expect_begin(conform_case_t *c)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        conform_array_t *a = &c->array[index];
        if (!conform_is_output(a) || a->want)
            continue;
        a->want = conform_alloc((size_t)a->count * sizeof(double));
        a->slack = conform_alloc((size_t)a->count * sizeof(double));
    }
}

/* Outputs of an exact run become what is wanted. */
static inline void conform_want(conform_case_t *c, void *const *data)
{
    conform_expect_begin(c);
    for (int index = 0; index < CONFORM_ARRAYS; index++)
        if (conform_is_output(&c->array[index]) && c->array[index].kind != CONFORM_RAW && data[index])
            memcpy(c->array[index].want, data[index], (size_t)c->array[index].count * sizeof(double));
}

/* Run the oracle in FP64 and want what it gives. */
static inline void conform_want_twin(conform_case_t *c)
{
    void *data[CONFORM_ARRAYS];
    conform_twin_begin(c, 0, data);
    conform_oracle_call(c, MPT_F64, data);
    conform_want(c, data);
    conform_twin_end(data);
}

/* Run the oracle in the case's own types and expect its bits, in all outputs or one (`only` >= 0). */
static inline void conform_want_bits(conform_case_t *c, int only)
{
    void *data[CONFORM_ARRAYS];
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        const conform_array_t *a = &c->array[index];
        data[index] = a->count > 0 || a->empty ? conform_alloc(conform_bytes(c, index)) : NULL;
        if (a->count > 0)
            memcpy(data[index], a->initial, conform_bytes(c, index));
    }
    conform_oracle_call(c, c->compute, data);
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        if (!conform_is_output(&c->array[index]) || (only >= 0 && index != only))
            continue;
        c->array[index].exact = data[index];
        data[index] = NULL;
    }
    conform_twin_end(data);
}

/* ---- tolerances ----------------------------------------------------------------------------------- */

/* Relative half unit in the last place: what one rounding to `dtype` costs a normal number. */
static inline double conform_unit(mpt_dtype_t dtype)
{
    static const double unit[MPT_DTYPE_COUNT] = {
        [MPT_F32] = 0x1p-24, [MPT_BF16] = 0x1p-8, [MPT_F16] = 0x1p-11, [MPT_F64] = 0x1p-53};
    return unit[dtype];
}

/* Smallest subnormal. */
static inline double conform_tiny(mpt_dtype_t dtype)
{
    static const double tiny[MPT_DTYPE_COUNT] = {
        [MPT_F32] = 0x1p-149, [MPT_BF16] = 0x1p-133, [MPT_F16] = 0x1p-24, [MPT_F64] = 0x1p-1074};
    return tiny[dtype];
}

/* From this value on, rounding to nearest gives infinity. */
static inline double conform_overflow(mpt_dtype_t dtype)
{
    static const double overflow[MPT_DTYPE_COUNT] = {
        [MPT_F32] = 0x1.ffffffp127, [MPT_BF16] = 0x1.ffp127, [MPT_F16] = 65520, [MPT_F64] = INFINITY};
    return overflow[dtype];
}

static inline double conform_half_ulp(double value, mpt_dtype_t dtype)
{
    double magnitude = fabs(value);
    if (!(magnitude > 0))
        return conform_tiny(dtype) / 2;
    int exponent;
    frexp(magnitude, &exponent); /* magnitude in [2^(e-1), 2^e) */
    double half = ldexp(conform_unit(dtype), exponent - 1);
    return half > conform_tiny(dtype) / 2 ? half : conform_tiny(dtype) / 2;
}

/*
 * Error of one product of two compute numbers, relative: FP32's rounding is counted by the sum. BF16
 * products are exact in FP32. An FP16 number split into two BF16 terms leaves out at most the
 * product of the two low ones, each at most 2^-8 of its number.
 */
static inline double conform_product(mpt_dtype_t compute)
{
    return compute == MPT_F16 ? 0x1p-16 : 0;
}

/*
 * What flushing costs: 16-bit dot products of the hardware take BF16 subnormals, and sums below FP32's
 * smallest normal number, as zero. `n` terms whose factors are at most `largest`.
 */
static inline double conform_floor(mpt_dtype_t compute, int64_t n, double largest)
{
    return (double)n * (compute == MPT_F32 ? 0x1p-149 : 0x1p-126 * (1 + largest));
}

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
    b->guard_bytes = b->tail = CONFORM_GUARD;
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
    b->guard_bytes = CONFORM_GUARD;
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
    memset(b->data - b->guard_bytes, byte, b->guard_bytes);
    memset(b->data + bytes, byte, b->tail);
}

static inline int conform_guard_holds(const conform_buffer_t *b, size_t bytes, int byte)
{
    for (size_t i = 0; i < b->guard_bytes; i++)
        if (b->data[-(ptrdiff_t)b->guard_bytes + (ptrdiff_t)i] != byte)
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
static inline const char *conform_inspect(conform_case_t *c, conform_place_t place, void *const *data, int first)
{
    for (int index = 0; index < CONFORM_ARRAYS; index++) {
        conform_array_t *a = &c->array[index];
        size_t bytes = conform_bytes(c, index);
        if (!data[index])
            continue;
        if (a->alias < 0 && !conform_guard_holds(&a->place[place], bytes, conform_guard_byte(a)))
            return "wrote outside of an array";
        if (a->role == CONFORM_IN && !a->overwritten && bytes > 0 && memcmp(data[index], a->initial, bytes) != 0)
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

/* One call with the pool `pool`; NULL where all is well. */
static inline const char *conform_call(conform_context_t *x, conform_case_t *c, const conform_target_t *t, int pool,
                                       conform_place_t place, int first)
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
    if (mpt_kernels_init(&k, t->ops, x->devices[pool], NULL, t->isa, scratch.data, bytes, &c->limits) != MPT_OK)
        fault = "mpt_kernels_init refused";
    else if (c->call(&k, c, c->compute, data) != MPT_OK)
        fault = "the call failed";
    else if (x->devices[pool]->ops->stream_synchronize(x->devices[pool], x->streams[pool]) != MPT_OK)
        fault = "the stream failed";
    else
        fault = conform_inspect(c, place, data, first);
    if (!fault && !conform_guard_holds(&scratch, bytes, 0xa5))
        fault = "wrote outside of the scratch";
    conform_unplace(&scratch);
    return fault;
}

/* ---- comparison ----------------------------------------------------------------------------------- */

static inline int conform_is_nan(const unsigned char *bytes, mpt_dtype_t dtype)
{
    return isnan(mpt_load(bytes, dtype, 0));
}

/* Bit for bit, any NaN being equal to any. Returns the first element that differs, or -1. */
static inline int64_t conform_first_other_bits(const conform_case_t *c, int index)
{
    const conform_array_t *a = &c->array[index];
    size_t size = conform_element_bytes(c, index);
    mpt_dtype_t dtype = conform_dtype(c, index);
    for (int64_t i = 0; i < a->count; i++) {
        const unsigned char *got = a->got + (size_t)i * size, *exact = a->exact + (size_t)i * size;
        if (memcmp(got, exact, size) == 0)
            continue;
        if (a->kind == CONFORM_RAW || !conform_is_nan(got, dtype) || !conform_is_nan(exact, dtype))
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

static inline void conform_compare_array(conform_context_t *x, const conform_case_t *c,
                                         const conform_target_t *t, int index)
{
    const conform_array_t *a = &c->array[index];
    char text[256];
    if (a->exact) {
        int64_t i = conform_first_other_bits(c, index);
        if (i < 0)
            return;
        snprintf(text, sizeof text, "%s[%lld] has other bits than defined", a->name, (long long)i);
        if (a->kind != CONFORM_RAW)
            snprintf(text, sizeof text, "%s[%lld] = %.9g, exactly %.9g expected", a->name, (long long)i,
                     conform_got(c, index, i), mpt_load(a->exact, conform_dtype(c, index), i));
        conform_complain(x, c, t, text);
        return;
    }
    for (int64_t i = 0; i < a->count; i++) {
        double got = conform_got(c, index, i);
        double error = conform_error(got, a->want[i], a->slack[i], conform_dtype(c, index));
        if (error > x->worst) {
            x->worst = error;
            snprintf(x->worst_label, sizeof x->worst_label, "%.90s %s[%lld]", c->label, a->name, (long long)i);
        }
        if (!(error <= 1)) {
            snprintf(text, sizeof text, "%s[%lld] = %.9g, want %.9g within %.3g", a->name, (long long)i,
                     got, a->want[i],
                     a->slack[i] + conform_half_ulp(fabs(a->want[i]) + a->slack[i], conform_dtype(c, index)));
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
    x->cases++;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
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
        if (conform_is_output(&c->array[index]))
            conform_compare_array(x, c, t, index);
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
static inline void conform_case_run(conform_context_t *x, conform_case_t *c, const conform_target_t *targets,
                                    int target_count)
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
            mpt_device_cpu_create(x->pools[i], NULL, &x->devices[i]) != MPT_OK ||
            x->devices[i]->ops->stream_create(x->devices[i], &x->streams[i]) != MPT_OK)
            abort();
    }
}

static inline void conform_close(conform_context_t *x)
{
    for (int i = 0; i < 3; i++) {
        x->devices[i]->ops->stream_destroy(x->devices[i], x->streams[i]);
        mpt_device_destroy(x->devices[i]);
        mpt_pool_destroy(x->pools[i]);
    }
}

#endif
