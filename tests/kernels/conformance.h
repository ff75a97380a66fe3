/*
 * The conformance suite's harness. A case is a list of arrays, a call on them, and for each output the
 * exact result with the error that theory allows. A case runs on any backend, at any instruction
 * level, several times over: with 1, 2 and 4 threads, again with 1, and once with every array ending at
 * a page that may not be touched. Each run must give the same bits, leave inputs, guards around the arrays and
 * the bytes past the scratch as they were, and write every element of its outputs, which are poisoned
 * with NaN bytes before, as is the scratch. What surrounds inputs is NaN too, so that a read past
 * the end shows in the result. At the amx level the caller's tiles must be released.
 *
 * Tolerance: |got - want| <= slack + half a unit in the last place of the output's type. `want` comes from
 * the oracle run wholly in FP64 on the same inputs; slack bounds the rounding errors of an implementation
 * in FP32 in any order of summation (n terms of absolute sum A: about n u A, u = 2^-24; Higham,
 * Accuracy and Stability, 2002), plus those that kernels.h asks for. Each op's file writes its bound out. A want
 * that is not finite allows any value that is not finite: Inf and NaN trade places in sums.
 *
 * Arrays are host memory, which is the CPU's device memory, and calls go to no stream: the CPU runs them to
 * their end. A context belongs to one thread.
 */
#ifndef TEST_CONFORMANCE_H
#define TEST_CONFORMANCE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device.h"
#include "kernels.h"
#include "numeric.h"
#include "pool.h"

#define CONFORM_ARRAYS 12
#define CONFORM_GUARD                                                                              \
    192 /* bytes before and after each array; not a multiple of 128: data lies 64 past one */
#define CONFORM_PAGE 4096
#define CONFORM_U32 0x1p-24 /* unit roundoff of FP32 */

typedef enum conform_role {
    CONFORM_IN,
    CONFORM_OUT,  /* overwritten: poisoned before */
    CONFORM_INOUT /* holds something before */
} conform_role_t;

typedef enum conform_kind {
    CONFORM_COMPUTE, /* of the case's compute type as memory has it; FP64 in the exact run */
    CONFORM_WIDE,    /* of its wide type; FP64 in the exact run */
    CONFORM_FIXED,   /* of `dtype`, whatever the compute type */
    CONFORM_RAW      /* integers or structs of `element_bytes`: compared bit for bit */
} conform_kind_t;

/* Two places for the same array: between guards, and up against a page without access. */
typedef enum conform_place { CONFORM_GUARDED, CONFORM_FENCED, CONFORM_PLACES } conform_place_t;

typedef struct conform_buffer {
    unsigned char *base, *data; /* base: the mapping, of base_bytes */
    size_t base_bytes;
    size_t tail; /* bytes watched after the array; before it CONFORM_GUARD */
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
    int factor;             /* 1: products read it; rounded to TF32 in the exact run of a case in TF32 */
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
    int64_t n[5];     /* shape, as the op's file names it */
    unsigned variant; /* flags, as the op's file names them */
    uint64_t seed;    /* of the random contents */
    mpt_kernels_limits_t limits;
    conform_array_t array[CONFORM_ARRAYS];
    /* Build the op's arguments from `data` and call it; `compute` is the case's, or F64. */
    mpt_status_t (*call)(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                         void *const *data);
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
    int quiet;                     /* 1: count failures, print none */
    const conform_case_t *current; /* being run: what to name if the program dies of it */
    int cases;                     /* run so far, times targets */
    int failures;                  /* of them */
    double worst;                  /* largest error over tolerance so far, 1 being the limit */
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
        return mpt_dtype_memory(c->compute);
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
    return conform_put(c, index,
                       (conform_array_t){.name = name, .role = role, .kind = kind, .count = count});
}

static inline conform_array_t *conform_add_fixed(conform_case_t *c, int index, const char *name,
                                                 conform_role_t role, mpt_dtype_t dtype,
                                                 int64_t count)
{
    return conform_put(
        c, index,
        (conform_array_t){
            .name = name, .role = role, .kind = CONFORM_FIXED, .dtype = dtype, .count = count});
}

static inline conform_array_t *conform_add_raw(conform_case_t *c, int index, const char *name,
                                               conform_role_t role, size_t element_bytes,
                                               int64_t count)
{
    return conform_put(c, index,
                       (conform_array_t){.name = name,
                                         .role = role,
                                         .kind = CONFORM_RAW,
                                         .element_bytes = element_bytes,
                                         .count = count});
}

/* Let output `index` take the place of input `of`. */
static inline void conform_alias(conform_case_t *c, int index, int of)
{
    c->array[index].alias = of;
    c->array[of].overwritten = 1;
}

/* Write the label: the shape, then the names of the variant's flags, lowest bit first. */
static inline void conform_label(conform_case_t *c, int dims, const char *const *flags,
                                 int flag_count)
{
    size_t used = 0;
    for (int d = 0; d < dims; d++)
        used += (size_t)snprintf(c->label + used, sizeof c->label - used, "%s%lld", d ? "x" : "",
                                 (long long)c->n[d]);
    for (int bit = 0; bit < flag_count; bit++)
        if (c->variant >> bit & 1u)
            used += (size_t)snprintf(c->label + used, sizeof c->label - used, " %s", flags[bit]);
}

static inline int conform_is_output(const conform_array_t *a)
{
    return a->role != CONFORM_IN && a->count > 0;
}

#endif
