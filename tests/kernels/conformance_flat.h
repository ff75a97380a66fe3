/*
 * Conformance cases of the passes over flat buffers: to_wire, grad_scan, adamw, cast. The first two and cast are
 * defined to the bit. n: count.
 *
 * AdamW, u = 2^-24, c1 and c2 the corrections: m off by 6 u (|m| + |g|), v by 8 u (v + g^2), the step
 * s = m' / (sqrt v' + eps) by the m of it and, relative, by (4 (v + g^2) / v_new + 8) u; the master by
 * lr times the step's error and 4 u (|w| + lr (|s| + decay |w|)). Working weights are the target's masters, rounded.
 */
#ifndef TEST_CONFORMANCE_FLAT_H
#define TEST_CONFORMANCE_FLAT_H

#include "conformance_run.h"

/* Around vectors, around the segment of the scan, and enough for every thread to get a part. */
static const int64_t flat_counts[] = {0,  1,    7,    15,   17,   63,    64,
                                      65, 1000, 4095, 4096, 4097, 12288, 40013};
#define FLAT_COUNT_COUNT (sizeof flat_counts / sizeof flat_counts[0])

enum { FLAT_SPECIAL = 1, FLAT_IN_PLACE = 2, FLAT_SCALED = 4, FLAT_FULL = 8 };
static const char *const flat_flags[] = {"special", "in-place", "scaled", "full"};

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
    conform_label(&c, 1, flat_flags, 4);
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

/* ---- adamw ----------------------------------------------------------------------------------------- */

enum { ADAM_MASTER, ADAM_M, ADAM_V, ADAM_WORKING, ADAM_GRAD };

static mpt_adamw_t adamw_arguments(const conform_case_t *c)
{
    int64_t count = c->n[0];
    return (mpt_adamw_t){.compute = c->compute,
                         .grad_dtype = (mpt_dtype_t)c->n[1],
                         .count = count,
                         .decay_count = c->variant & FLAT_FULL ? count : count / 3,
                         .factor = 0.03125f * 0.7f,
                         .lr = 3e-3f,
                         .beta1 = 0.9f,
                         .beta2 = 0.95f,
                         .eps = 1e-8f,
                         .decay = 0.1f,
                         .correction1 = 1 - 0.9f * 0.9f,
                         .correction2 = 1 - 0.95f * 0.95f};
}

static mpt_status_t adamw_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                               void *const *data)
{
    (void)compute;
    mpt_adamw_t a = adamw_arguments(c);
    a.master = data[ADAM_MASTER];
    a.m = data[ADAM_M];
    a.v = data[ADAM_V];
    a.working = data[ADAM_WORKING];
    a.grad = data[ADAM_GRAD];
    return mpt_adamw(k, &a, NULL);
}

static void adamw_slack(conform_case_t *c, int64_t i)
{
    const double u = CONFORM_U32;
    mpt_adamw_t a = adamw_arguments(c);
    double g = fabs(conform_input(c, ADAM_GRAD, i) * (double)a.factor),
           m = fabs(conform_input(c, ADAM_M, i));
    double v = conform_input(c, ADAM_V, i), w = fabs(conform_input(c, ADAM_MASTER, i));
    double v_new = c->array[ADAM_V].want[i], m_new = fabs(c->array[ADAM_M].want[i]);
    double root = sqrt(v_new / (double)a.correction2) + (double)a.eps, m_error = 6 * u * (m + g);
    double ratio = v_new > 0 ? (v + g * g) / v_new : 0, step = m_new / (double)a.correction1 / root;
    double step_error = m_error / (double)a.correction1 / root + step * (4 * ratio + 8) * u;
    double decay = i < a.decay_count ? (double)a.decay : 0;
    c->array[ADAM_M].slack[i] = m_error;
    c->array[ADAM_V].slack[i] = 8 * u * (v + g * g) + 0x1p-147;
    c->array[ADAM_MASTER].slack[i] =
        4 * u * (w + (double)a.lr * (step + decay * w)) + (double)a.lr * step_error;
}

static void adamw_expect(conform_case_t *c)
{
    conform_want_bits(c, -1);
    for (int index = ADAM_MASTER; index <= ADAM_V; index++) {
        conform_array_t *array = &c->array[index];
        for (int64_t i = 0; i < array->count; i++)
            array->want[i] = mpt_load(array->exact, MPT_F32, i);
        free(array->exact);
        array->exact = NULL;
    }
    for (int64_t i = 0; i < c->n[0]; i++)
        adamw_slack(c, i);
}

static void adamw_settle(conform_case_t *c)
{
    for (int64_t i = 0; i < c->n[0]; i++)
        mpt_store(c->array[ADAM_WORKING].exact, c->compute, i, conform_got(c, ADAM_MASTER, i));
}

static void adamw_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                       mpt_dtype_t compute, mpt_dtype_t grad_dtype, int64_t count, unsigned variant)
{
    conform_case_t c = flat_case("adamw", compute, count, variant);
    c.n[1] = grad_dtype;
    conform_add_fixed(&c, ADAM_MASTER, "master", CONFORM_INOUT, MPT_F32, count)->empty = 1;
    conform_add_fixed(&c, ADAM_M, "m", CONFORM_INOUT, MPT_F32, count)->empty = 1;
    conform_add_fixed(&c, ADAM_V, "v", CONFORM_INOUT, MPT_F32, count)->empty = 1;
    conform_add(&c, ADAM_WORKING, "working", CONFORM_OUT, CONFORM_COMPUTE, count)->empty = 1;
    conform_add_fixed(&c, ADAM_GRAD, "grad", CONFORM_IN, grad_dtype, count)->empty = 1;
    conform_fill(&c, ADAM_MASTER, 0, 1);
    conform_fill(&c, ADAM_M, 0, 0.01);
    conform_fill(&c, ADAM_V, 1.1e-4, 1e-4);
    conform_fill(&c, ADAM_GRAD, 0, 1);
    if (variant & FLAT_SPECIAL && count > 9) {
        conform_set(&c, ADAM_GRAD, count - 1, INFINITY);
        conform_set(&c, ADAM_GRAD, count / 2, NAN);
        conform_set(&c, ADAM_GRAD, 3,
                    0); /* a first step without a gradient leaves the moments at zero */
        conform_set(&c, ADAM_M, 3, 0);
        conform_set(&c, ADAM_V, 3, 0);
    }
    c.call = adamw_call;
    c.expect = adamw_expect;
    c.settle = adamw_settle;
    conform_case_run(x, &c, targets, target_count);
}

static void conform_adamw(conform_context_t *x, const conform_target_t *targets, int count,
                          mpt_dtype_t compute)
{
    for (size_t i = 0; i < FLAT_COUNT_COUNT; i++) {
        adamw_case(x, targets, count, compute, compute, flat_counts[i], 0);
        adamw_case(x, targets, count, compute, compute, flat_counts[i], FLAT_SPECIAL);
        adamw_case(x, targets, count, compute, MPT_F32, flat_counts[i], FLAT_FULL);
    }
    adamw_case(x, targets, count, compute, MPT_BF16, 1000, 0);
    adamw_case(x, targets, count, compute, MPT_F16, 1000, 0);
}

/* ---- cast ------------------------------------------------------------------------------------------ */

enum { CAST_DST, CAST_SRC };

static mpt_status_t cast_call(mpt_kernels_t *k, const conform_case_t *c, mpt_dtype_t compute,
                              void *const *data)
{
    (void)compute;
    mpt_cast_t a = {.dst_dtype = c->array[CAST_DST].dtype,
                    .src_dtype = c->array[CAST_SRC].dtype,
                    .count = c->n[0],
                    .dst = data[CAST_DST],
                    .src = data[CAST_SRC]};
    return mpt_cast(k, &a, NULL);
}

static void cast_case(conform_context_t *x, const conform_target_t *targets, int target_count,
                      mpt_dtype_t dst, mpt_dtype_t src, int64_t count)
{
    conform_case_t c = flat_case("cast", dst == MPT_F64 ? MPT_F32 : dst, count, FLAT_SPECIAL);
    snprintf(c.label, sizeof c.label, "%lld elements from %s to %s", (long long)count,
             mpt_dtype_name(src), mpt_dtype_name(dst));
    conform_add_fixed(&c, CAST_DST, "dst", CONFORM_OUT, dst, count)->empty = 1;
    conform_add_fixed(&c, CAST_SRC, "src", CONFORM_IN, src, count)->empty = 1;
    flat_fill_range(&c, CAST_SRC);
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
            cast_case(x, targets, count, compute, (mpt_dtype_t)src, flat_counts[i]);
        cast_case(x, targets, count, MPT_F64, compute, flat_counts[i]);
    }
    if (compute == MPT_F32)
        cast_case(x, targets, count, MPT_F64, MPT_F64, 1000);
}

#endif
