/*
 * Conformance cases of the passes over flat buffers that are defined to the bit: to_wire, grad_scan, cast, add,
 * hash. n: count.
 */
#ifndef TEST_CONFORMANCE_FLAT_H
#define TEST_CONFORMANCE_FLAT_H

#include "conformance_run.h"

/* Around vectors, around the segment of the scan, and enough for every thread to get a part. */
static const int64_t flat_counts[] = {0,  1,    7,    15,   17,   63,    64,
                                      65, 1000, 4095, 4096, 4097, 12288, 40013};
#define FLAT_COUNT_COUNT (sizeof flat_counts / sizeof flat_counts[0])

enum {
    FLAT_SPECIAL = 1,
    FLAT_IN_PLACE = 2,
    FLAT_SCALED = 4,
    FLAT_FULL = 8,
    FLAT_STOCHASTIC = 16,
    FLAT_EMA = 32,
    FLAT_MASTERLESS = 64
};
static const char *const flat_flags[] = {"special",    "in-place", "scaled",    "full",
                                         "stochastic", "average",  "masterless"};

static conform_case_t flat_case(const char *op, mpt_dtype_t compute, int64_t count,
                                unsigned variant)
{
    conform_case_t c = {.op = op,
                        .compute = compute,
                        .n = {count},
                        .variant = variant,
                        .seed = (uint64_t)count * 31 + variant,
                        .limits = {.compute = compute,
                                   .batch = 1,
                                   .seq = 1,
                                   .heads = 1,
                                   .head_dim = 1,
                                   .rows = 1,
                                   .dim = 1,
                                   .hidden = 1,
                                   .vocab_padded = 1,
                                   .loss_rows = 1}};
    conform_label(&c, 1, flat_flags, 7);
    return c;
}

/* Where the call found nothing, the offender's place and value mean nothing. */
static void flat_clear_offender(conform_case_t *c, int index)
{
    mpt_offender_t *bad = (mpt_offender_t *)c->array[index].got;
    bad->reserved = 0;
    if (bad->count == 0)
        bad->first = bad->bits = 0;
}

static void flat_expect_bits(conform_case_t *c)
{
    conform_want_bits(c, -1);
}

/* Values over the whole range of FP32: signs, ties of every 16-bit type, subnormals, zeros. */
static void flat_fill_range(conform_case_t *c, int index)
{
    uint64_t state = c->seed;
    static const double notable[] = {
        0.0,         -0.0,      1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-11,    1 + 3 * 0x1p-11,
        65504,       65519.99,  65520,      -65520,         0x1p-24,        0x1p-25,
        3 * 0x1p-25, 0x1.8p-24, 0x1p-14,    0x1.ffcp-15,    0x1.fffffep127, 0x1.ff7p127};
    for (int64_t i = 0; i < c->array[index].count; i++) {
        uint64_t random = conform_random(&state);
        double value = notable[random % (sizeof notable / sizeof notable[0])];
        if (random >> 62)
            value = ldexp(conform_uniform(&state), (int)((random >> 32) % 60) - 34);
        conform_set(c, index, i, value);
    }
}

/*
 * Runs of a stochastic rounding: they start and end at odd places, in the middle of a block of eight random
 * numbers, leave gaps before, between and behind, and one crosses an element whose number of its block needs a second
 * word. As many elements as a chunk of random bits holds, and more, lie in each of a long array's.
 */
#define FLAT_RUNS 3

static void flat_fill_runs(conform_case_t *c, int index)
{
    mpt_run_t *run = (mpt_run_t *)c->array[index].initial;
    int64_t count = c->n[0], third = count / 3;
    run[0] = (mpt_run_t){count / 9, third - count / 9, 1000003};
    run[1] = (mpt_run_t){third, third / 2, (INT64_C(1) << 35) - third / 4};
    run[2] = (mpt_run_t){2 * third + 1, count > 9 ? count - 2 * third - 3 : 0, 5};
}

static mpt_stochastic_t flat_stochastic(const void *runs)
{
    return (mpt_stochastic_t){.seed = UINT64_C(0x123456789abcdef0),
                              .step = (UINT64_C(1) << 32) + 77,
                              .runs = runs,
                              .run_count = FLAT_RUNS};
}

/* ---- to_wire --------------------------------------------------------------------------------------- */

enum { WIRE_ACC, WIRE_WIRE, WIRE_BAD };

static mpt_status_t to_wire_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                                 void *const *data)
{
    (void)compute;
    mpt_to_wire_t a = {.wire_dtype = c->compute,
                       .count = c->n[0],
                       .acc = data[WIRE_ACC],
                       .wire = data[WIRE_WIRE],
                       .scale = c->variant & FLAT_SCALED ? 0.125f : 1.0f,
                       .bad = data[WIRE_BAD]};
    return mpt_to_wire(k, &a, NULL);
}

static void to_wire_settle(conform_case_t *c)
{
    flat_clear_offender(c, WIRE_BAD);
}

static void to_wire_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                         mpt_dtype_t compute, int64_t count, unsigned variant)
{
    conform_case_t c = flat_case("to_wire", compute, count, variant);
    conform_add_fixed(&c, WIRE_ACC, "acc", CONFORM_IN, MPT_F32, count)->empty = 1;
    conform_add(&c, WIRE_WIRE, "wire", CONFORM_OUT, CONFORM_COMPUTE, count)->empty = 1;
    conform_add_raw(&c, WIRE_BAD, "bad", CONFORM_OUT, sizeof(mpt_offender_t), 1);
    if (variant & FLAT_IN_PLACE)
        conform_alias(&c, WIRE_WIRE, WIRE_ACC);
    if (variant & FLAT_SPECIAL)
        flat_fill_range(&c, WIRE_ACC);
    else
        conform_fill(&c, WIRE_ACC, 0, 3);
    if (variant & FLAT_SPECIAL && count > 9) {
        conform_set(&c, WIRE_ACC, count - 2, -INFINITY);
        conform_set(&c, WIRE_ACC, count / 2, NAN);
    }
    c.call = to_wire_call;
    c.expect = flat_expect_bits;
    c.settle = to_wire_settle;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_to_wire(conform_context_t *x, const conform_target_t *targets, int count,
                            mpt_dtype_t compute)
{
    for (size_t i = 0; i < FLAT_COUNT_COUNT; i++) {
        to_wire_case(x, targets, count, compute, flat_counts[i], 0);
        to_wire_case(x, targets, count, compute, flat_counts[i], FLAT_SPECIAL | FLAT_SCALED);
        if (compute == MPT_F32 && flat_counts[i] > 0)
            to_wire_case(x, targets, count, compute, flat_counts[i], FLAT_SCALED | FLAT_IN_PLACE);
    }
}

/* ---- grad_scan ------------------------------------------------------------------------------------- */

enum { SCAN_GRAD, SCAN_SUMSQ, SCAN_BAD };

static mpt_status_t grad_scan_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                                   void *const *data)
{
    (void)compute;
    mpt_grad_scan_t a = {.dtype = c->compute,
                         .count = c->n[0],
                         .grad = data[SCAN_GRAD],
                         .sumsq = data[SCAN_SUMSQ],
                         .bad = data[SCAN_BAD]};
    return mpt_grad_scan(k, &a, NULL);
}

static void grad_scan_settle(conform_case_t *c)
{
    flat_clear_offender(c, SCAN_BAD);
}

static void grad_scan_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                           mpt_dtype_t compute, int64_t count, unsigned variant)
{
    conform_case_t c = flat_case("grad_scan", compute, count, variant);
    conform_add(&c, SCAN_GRAD, "grad", CONFORM_IN, CONFORM_COMPUTE, count)->empty = 1;
    conform_add_fixed(&c, SCAN_SUMSQ, "sumsq", CONFORM_OUT, MPT_F64, 1);
    conform_add_raw(&c, SCAN_BAD, "bad", CONFORM_OUT, sizeof(mpt_offender_t), 1);
    conform_fill(&c, SCAN_GRAD, 0, 1);
    if (variant & FLAT_SPECIAL && count > 0) {
        conform_set(&c, SCAN_GRAD, count - 1, INFINITY);
        conform_set(&c, SCAN_GRAD, count * 2 / 3, -INFINITY);
    }
    if (variant & FLAT_SPECIAL && variant & FLAT_FULL)
        for (int64_t i = count / 3; i < count; i++)
            conform_set(&c, SCAN_GRAD, i, NAN);
    c.call = grad_scan_call;
    c.expect = flat_expect_bits;
    c.settle = grad_scan_settle;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_grad_scan(conform_context_t *x, const conform_target_t *targets, int count,
                              mpt_dtype_t compute)
{
    for (size_t i = 0; i < FLAT_COUNT_COUNT; i++) {
        grad_scan_case(x, targets, count, compute, flat_counts[i], 0);
        grad_scan_case(x, targets, count, compute, flat_counts[i], FLAT_SPECIAL);
        grad_scan_case(x, targets, count, compute, flat_counts[i], FLAT_SPECIAL | FLAT_FULL);
    }
}

/* ---- cast ------------------------------------------------------------------------------------------ */

enum { CAST_DST, CAST_SRC, CAST_RUNS };

static mpt_status_t cast_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                              void *const *data)
{
    (void)compute;
    mpt_cast_t a = {.dst_dtype = c->array[CAST_DST].dtype,
                    .src_dtype = c->array[CAST_SRC].dtype,
                    .count = c->n[0],
                    .dst = data[CAST_DST],
                    .src = data[CAST_SRC]};
    mpt_stochastic_t how = flat_stochastic(data[CAST_RUNS]);
    if (c->variant & FLAT_STOCHASTIC)
        a.stochastic = &how;
    return mpt_cast(k, &a, NULL);
}

static void cast_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                      mpt_dtype_t dst, mpt_dtype_t src, int64_t count, unsigned variant)
{
    conform_case_t c = flat_case("cast", dst == MPT_F64 ? MPT_F32 : dst, count, variant);
    snprintf(c.label, sizeof c.label, "%lld elements from %s to %s%s", (long long)count,
             mpt_dtype_name(src), mpt_dtype_name(dst),
             variant & FLAT_STOCHASTIC ? ", stochastic" : "");
    conform_add_fixed(&c, CAST_DST, "dst", CONFORM_OUT, dst, count)->empty = 1;
    conform_add_fixed(&c, CAST_SRC, "src", CONFORM_IN, src, count)->empty = 1;
    flat_fill_range(&c, CAST_SRC);
    if (variant & FLAT_STOCHASTIC) {
        conform_add_raw(&c, CAST_RUNS, "runs", CONFORM_IN, sizeof(mpt_run_t), FLAT_RUNS);
        flat_fill_runs(&c, CAST_RUNS);
    }
    if (count > 30) {
        conform_set(&c, CAST_SRC, 11, NAN);
        conform_set(&c, CAST_SRC, 12, INFINITY);
        conform_set(&c, CAST_SRC, count - 1, -INFINITY);
        /* Ties only after a first rounding to FP32: two roundings go the wrong way. */
        conform_set(&c, CAST_SRC, 20, 1 + 0x1p-11 + 0x1p-40);
        conform_set(&c, CAST_SRC, 21, 1 + 3 * 0x1p-11 - 0x1p-40);
        conform_set(&c, CAST_SRC, 22, 1 + 0x1p-8 + 0x1p-40);
        conform_set(&c, CAST_SRC, 23, 0x1p-25 + 0x1p-60);
        conform_set(&c, CAST_SRC, 24, 0x1p-140);
    }
    c.call = cast_call;
    c.expect = flat_expect_bits;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_cast(conform_context_t *x, const conform_target_t *targets, int count,
                         mpt_dtype_t compute)
{
    for (size_t i = 0; i < FLAT_COUNT_COUNT; i++) {
        for (int src = 0; src < MPT_DTYPE_COUNT; src++)
            cast_case(x, targets, count, compute, (mpt_dtype_t)src, flat_counts[i], 0);
        cast_case(x, targets, count, MPT_F64, compute, flat_counts[i], 0);
        if (compute != MPT_F32)
            cast_case(x, targets, count, compute, MPT_F32, flat_counts[i], FLAT_STOCHASTIC);
    }
    if (compute == MPT_F32)
        cast_case(x, targets, count, MPT_F64, MPT_F64, 1000, 0);
}

/* ---- add ------------------------------------------------------------------------------------------- */

enum { ADD_ACC, ADD_X };

static mpt_status_t add_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                             void *const *data)
{
    (void)compute;
    mpt_add_t a = {.dtype = c->compute, .count = c->n[0], .acc = data[ADD_ACC], .x = data[ADD_X]};
    return mpt_add(k, &a, NULL);
}

/* The sums are raw words: the bits of a NaN count as well. */
static void add_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                     mpt_dtype_t compute, int64_t count, unsigned variant)
{
    conform_case_t c = flat_case("add", compute, count, variant);
    conform_put(&c, ADD_ACC,
                (conform_array_t){.name = "acc",
                                  .role = CONFORM_INOUT,
                                  .kind = CONFORM_RAW,
                                  .dtype = MPT_F32,
                                  .element_bytes = sizeof(float),
                                  .count = count,
                                  .empty = 1});
    conform_add(&c, ADD_X, "x", CONFORM_IN, CONFORM_COMPUTE, count)->empty = 1;
    flat_fill_range(&c, ADD_ACC);
    conform_fill(&c, ADD_X, 0, 3);
    if (variant & FLAT_SPECIAL && count > 9) {
        conform_set(&c, ADD_ACC, 0, -NAN);
        conform_set(&c, ADD_X, 1, -NAN);
        conform_set(&c, ADD_ACC, count - 1, INFINITY);
        conform_set(&c, ADD_X, count - 1, -INFINITY);
        conform_set(&c, ADD_ACC, count / 2, -NAN);
        conform_set(&c, ADD_X, count / 2, NAN);
        conform_set(&c, ADD_X, count / 3, -INFINITY);
    }
    c.call = add_call;
    c.expect = flat_expect_bits;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_add_up(conform_context_t *x, const conform_target_t *targets, int count,
                           mpt_dtype_t compute)
{
    for (size_t i = 0; i < FLAT_COUNT_COUNT; i++) {
        add_case(x, targets, count, compute, flat_counts[i], 0);
        add_case(x, targets, count, compute, flat_counts[i], FLAT_SPECIAL);
    }
}

/* ---- hash ------------------------------------------------------------------------------------------ */

enum { HASH_DATA, HASH_SUM };

static mpt_status_t hash_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                              void *const *data)
{
    (void)compute;
    mpt_hash_t a = {.dtype = c->compute,
                    .count = c->n[0],
                    .data = data[HASH_DATA],
                    .element = (UINT64_C(1) << 33) + 5,
                    .salt = UINT64_C(0xfedcba9876543210),
                    .sum = data[HASH_SUM]};
    return mpt_hash(k, &a, NULL);
}

/* Any bits, NaNs among them. */
static void hash_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                      mpt_dtype_t compute, int64_t count)
{
    conform_case_t c = flat_case("hash", compute, count, FLAT_SPECIAL);
    conform_add(&c, HASH_DATA, "data", CONFORM_IN, CONFORM_COMPUTE, count)->empty = 1;
    conform_add_raw(&c, HASH_SUM, "sum", CONFORM_INOUT, sizeof(uint64_t), 1);
    uint64_t state = c.seed;
    for (size_t i = 0; i < conform_bytes(&c, HASH_DATA); i++)
        c.array[HASH_DATA].initial[i] = (unsigned char)conform_random(&state);
    memset(c.array[HASH_SUM].initial, 0x77, sizeof(uint64_t));
    c.call = hash_call;
    c.expect = flat_expect_bits;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_hash(conform_context_t *x, const conform_target_t *targets, int count,
                         mpt_dtype_t compute)
{
    for (size_t i = 0; i < FLAT_COUNT_COUNT; i++)
        hash_case(x, targets, count, compute, flat_counts[i]);
}

#endif
