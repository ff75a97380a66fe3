/*
 * Gradients to and from the wire: the rounding of the accumulator to the wire type, and the pass
 * over reduced values that gives their norm. Both report non-finite values. The vectors only find
 * out whether a block holds one; a block that does is read again, element by element, which costs
 * nothing in a step that is not skipped.
 *
 * Scratch: SPAN_SEGMENTS segment sums, then SPAN_TASKS offenders. A count beyond one span is done
 * in several, in order.
 */
#include "elementwise.h"
#include "vec.h"
#include <math.h>

#define SPAN_SEGMENTS 4096
#define SPAN ((int64_t)SPAN_SEGMENTS * MPT_SCAN_SEGMENT)
#define SPAN_TASKS (SPAN / TASK_ELEMENTS)
/* Chains of a segment's sum, as the contract has it. */
#define SUM_LANES 8

size_t cpu_wire_scratch_bytes(void)
{
    return SPAN_TASKS * sizeof(mpt_offender_t) + SPAN_SEGMENTS * sizeof(double);
}

/* ---- offenders
 * --------------------------------------------------------------------------------- */

static uint32_t widened_bits(const void *array, mpt_dtype_t dtype, int64_t i)
{
    if (dtype == MPT_F32)
        return mpt_f32_bits(((const float *)array)[i]);
    const uint16_t bits = ((const uint16_t *)array)[i];
    return mpt_f32_bits(dtype == MPT_BF16 ? mpt_bf16_to_f32(bits) : mpt_f16_to_f32(bits));
}

/* Add the non-finite values of elements [begin, end) to `bad`, which has seen only lower ones. */
static void count_offenders(const void *array, mpt_dtype_t dtype, int64_t begin, int64_t end,
                            mpt_offender_t *bad)
{
    for (int64_t i = begin; i < end; i++) {
        const uint32_t bits = widened_bits(array, dtype, i);
        if ((bits & 0x7f800000u) != 0x7f800000u)
            continue;
        if (bad->count++ == 0) {
            bad->first = (uint64_t)i;
            bad->bits = bits;
        }
    }
}

/* Add what was found above to what was found below. */
static void fold_offenders(mpt_offender_t *bad, const mpt_offender_t *above, int64_t tasks)
{
    for (int64_t i = 0; i < tasks; i++) {
        if (bad->count == 0 && above[i].count > 0) {
            bad->first = above[i].first;
            bad->bits = above[i].bits;
        }
        bad->count += above[i].count;
    }
}

/* ---- to the wire
 * ------------------------------------------------------------------------------- */

typedef struct to_wire {
    const mpt_to_wire_t *a;
    int stream;
    int64_t begin, end;  /* of the span */
    mpt_offender_t *bad; /* one a task */
} to_wire_t;

/* FP32 magnitudes from here on are not finite in the wire type after rounding. */
static int32_t overflow_bits(mpt_dtype_t dtype)
{
    if (dtype == MPT_F32)
        return 0x7f800000;
    return dtype == MPT_BF16 ? 0x7f7f8000 : 0x477ff000;
}

/* Where the rounded values go: nowhere, to the wire, to the wire past the caches. */
typedef enum wire_way { WIRE_LOOK, WIRE_STORE, WIRE_STREAM } wire_way_t;

/* Returns the larger of `seen` and the magnitudes of these elements, as bit patterns. */
VEC_INLINE vec_i32_t wire_step(const mpt_to_wire_t *a, mpt_dtype_t dtype, wire_way_t way, int64_t i,
                               int lanes, vec_i32_t seen)
{
    vec_prefetch(a->acc, MPT_F32, i);
    const vec_t value = vec_load_f32(a->acc + i, lanes) * a->scale;
    if (way == WIRE_STREAM && lanes == VEC_LANES)
        vec_stream(a->wire, dtype, i, value);
    else if (way != WIRE_LOOK)
        vec_store(a->wire, dtype, i, lanes, value);
    return vec_max_i32(seen, (vec_i32_t)value & 0x7fffffff);
}

VEC_INLINE int32_t wire_block(const mpt_to_wire_t *a, mpt_dtype_t dtype, wire_way_t way, int64_t i,
                              int64_t end)
{
    vec_i32_t seen = {0};
    for (; i + VEC_LANES <= end; i += VEC_LANES)
        seen = wire_step(a, dtype, way, i, VEC_LANES, seen);
    if (i < end)
        seen = wire_step(a, dtype, way, i, (int)(end - i), seen);
    return vec_max_lane_i32(seen);
}

/* Below FP32's normal range a product would be rounded to FP32 first, where BF16 still has
 * numbers. */
static int32_t wire_block_tiny(const mpt_to_wire_t *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        mpt_store(a->wire, a->wire_dtype, i, (double)a->acc[i] * (double)a->scale);
    return wire_block(a, a->wire_dtype, WIRE_LOOK, begin, end);
}

VEC_INLINE int32_t wire_block_to(const mpt_to_wire_t *a, mpt_dtype_t dtype, int stream,
                                 int64_t begin, int64_t end)
{
    return stream ? wire_block(a, dtype, WIRE_STREAM, begin, end)
                  : wire_block(a, dtype, WIRE_STORE, begin, end);
}

static int32_t wire_block_any(const mpt_to_wire_t *a, int stream, int64_t begin, int64_t end)
{
    if (a->wire_dtype == MPT_BF16 && a->scale < 1.0f)
        return wire_block_tiny(a, begin, end);
    if (a->wire_dtype == MPT_BF16)
        return wire_block_to(a, MPT_BF16, stream, begin, end);
    if (a->wire_dtype == MPT_F16)
        return wire_block_to(a, MPT_F16, stream, begin, end);
    if (a->wire == a->acc && a->scale == 1.0f)
        return wire_block(a, MPT_F32, WIRE_LOOK, begin, end);
    return wire_block_to(a, MPT_F32, stream, begin, end);
}

static void to_wire_task(void *ctx, int task, int worker)
{
    (void)worker;
    const to_wire_t *w = ctx;
    const int64_t end = w->begin + tasks_end(w->end - w->begin, TASK_ELEMENTS, task);
    mpt_offender_t *bad = &w->bad[task];
    *bad = (mpt_offender_t){0};
    for (int64_t i = w->begin + (int64_t)task * TASK_ELEMENTS; i < end; i += MPT_SCAN_SEGMENT) {
        const int64_t block_end = end - i < MPT_SCAN_SEGMENT ? end : i + MPT_SCAN_SEGMENT;
        if (wire_block_any(w->a, w->stream, i, block_end) >= overflow_bits(w->a->wire_dtype))
            count_offenders(w->a->wire, w->a->wire_dtype, i, block_end, bad);
    }
    if (w->stream)
        vec_stream_end();
}

mpt_status_t cpu_to_wire(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    (void)s;
    if (!tasks_scratch_fits(k, cpu_wire_scratch_bytes(), "to_wire"))
        return MPT_ERR_INVALID_ARG;
    mpt_offender_t total = {0};
    to_wire_t w = {.a = a, .bad = k->scratch};
    w.stream = a->wire != a->acc && tasks_stream(a->wire, a->wire_dtype, a->count);
    for (w.begin = 0; w.begin < a->count; w.begin = w.end) {
        w.end = a->count - w.begin < SPAN ? a->count : w.begin + SPAN;
        const int64_t tasks = tasks_cover(w.end - w.begin, TASK_ELEMENTS);
        tasks_run(k, to_wire_task, &w, tasks);
        fold_offenders(&total, w.bad, tasks);
    }
    *a->bad = total;
    return MPT_OK;
}

/* ---- the norm's scan
 * --------------------------------------------------------------------------- */

typedef struct scan {
    const mpt_grad_scan_t *a;
    int64_t begin, end;  /* of the span */
    mpt_offender_t *bad; /* one a task */
    double *sums;        /* one a segment */
} scan_t;

/* Registers that hold the lanes of one sum, and elements of one round over them. */
#define REGISTERS (SUM_LANES / VEC_F64_LANES)
#define ROUND 16
/* Whole segments summed side by side, as registers allow: one alone would wait for its additions. */
#define GROUP (8 / REGISTERS)
/* Elements of one task of the scan: several groups, as a group asks for what the next one reads. */
#define SCAN_ELEMENTS (32 * MPT_SCAN_SEGMENT)

VEC_INLINE void scan_step(const mpt_grad_scan_t *a, mpt_dtype_t dtype, int64_t i, int lanes,
                          int reg, vec_f64_t *sum)
{
    const vec_t g = vec_load(a->grad, dtype, i, lanes);
    const vec_f64_t low = vec_widen_low(g), high = vec_widen_high(g);
    sum[reg % REGISTERS] = vec_fma_f64(low, low, sum[reg % REGISTERS]);
    sum[(reg + 1) % REGISTERS] = vec_fma_f64(high, high, sum[(reg + 1) % REGISTERS]);
}

VEC_INLINE double add_lanes(const vec_f64_t *sum)
{
    double lane[SUM_LANES];
    memcpy(lane, sum, sizeof lane);
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
           ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* Lane j sums elements j, j + 8, ... of a segment; squares of FP32 are exact in FP64, fused or
 * not. */
VEC_INLINE void group_sums(const mpt_grad_scan_t *a, mpt_dtype_t dtype, int64_t begin, double *sums)
{
    vec_f64_t sum[GROUP][REGISTERS] = {{{0}}};
    const uintptr_t bytes =
        dtype == MPT_F32 ? 4 : 2; /* the next group is asked for front to back */
    uintptr_t next = (uintptr_t)a->grad + ((uintptr_t)begin + GROUP * MPT_SCAN_SEGMENT) * bytes;
    for (int64_t i = 0; i < MPT_SCAN_SEGMENT; i += ROUND)
        for (int g = 0; g < GROUP; g++, next += ROUND * bytes) {
            __builtin_prefetch((const void *)next);
            for (int u = 0; u < ROUND / VEC_LANES; u++)
                scan_step(a, dtype, begin + g * MPT_SCAN_SEGMENT + i + u * VEC_LANES, VEC_LANES,
                          2 * u, sum[g]);
        }
    for (int g = 0; g < GROUP; g++)
        sums[g] = add_lanes(sum[g]);
}

VEC_INLINE double segment_sum(const mpt_grad_scan_t *a, mpt_dtype_t dtype, int64_t i, int64_t end)
{
    vec_f64_t sum[REGISTERS] = {{0}};
    for (int u = 0; i < end; u++, i += VEC_LANES)
        scan_step(a, dtype, i, end - i < VEC_LANES ? (int)(end - i) : VEC_LANES, 2 * u, sum);
    return add_lanes(sum);
}

/* The sums of the segments from `i`, a segment's start, to `end`. */
VEC_INLINE void segment_sums(const mpt_grad_scan_t *a, mpt_dtype_t dtype, int64_t i, int64_t end,
                             double *sums)
{
    for (; i + GROUP * MPT_SCAN_SEGMENT <= end; i += GROUP * MPT_SCAN_SEGMENT, sums += GROUP)
        group_sums(a, dtype, i, sums);
    for (; i < end; i += MPT_SCAN_SEGMENT)
        *sums++ = segment_sum(a, dtype, i, end - i < MPT_SCAN_SEGMENT ? end : i + MPT_SCAN_SEGMENT);
}

static void segment_sums_any(const mpt_grad_scan_t *a, int64_t begin, int64_t end, double *sums)
{
    if (a->dtype == MPT_F32)
        segment_sums(a, MPT_F32, begin, end, sums);
    else if (a->dtype == MPT_BF16)
        segment_sums(a, MPT_BF16, begin, end, sums);
    else
        segment_sums(a, MPT_F16, begin, end, sums);
}

/* Squares of finite FP32 values cannot overflow FP64: a sum is finite where every element is. */
static void scan_task(void *ctx, int task, int worker)
{
    (void)worker;
    const scan_t *w = ctx;
    const int64_t begin = w->begin + (int64_t)task * SCAN_ELEMENTS;
    const int64_t end = w->begin + tasks_end(w->end - w->begin, SCAN_ELEMENTS, task);
    double *sum = w->sums + (begin - w->begin) / MPT_SCAN_SEGMENT;
    mpt_offender_t *bad = &w->bad[task];
    *bad = (mpt_offender_t){0};
    segment_sums_any(w->a, begin, end, sum);
    for (int64_t i = begin; i < end; i += MPT_SCAN_SEGMENT)
        if (!isfinite(*sum++))
            count_offenders(w->a->grad, w->a->dtype, i,
                            end - i < MPT_SCAN_SEGMENT ? end : i + MPT_SCAN_SEGMENT, bad);
}

mpt_status_t cpu_grad_scan(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s)
{
    (void)s;
    if (!tasks_scratch_fits(k, cpu_wire_scratch_bytes(), "grad_scan"))
        return MPT_ERR_INVALID_ARG;
    double sumsq = 0.0;
    mpt_offender_t total = {0};
    scan_t w = {.a = a, .sums = k->scratch};
    w.bad = (mpt_offender_t *)(w.sums + SPAN_SEGMENTS);
    for (w.begin = 0; w.begin < a->count; w.begin = w.end) {
        w.end = a->count - w.begin < SPAN ? a->count : w.begin + SPAN;
        const int64_t tasks = tasks_cover(w.end - w.begin, SCAN_ELEMENTS);
        const int64_t segments = tasks_cover(w.end - w.begin, MPT_SCAN_SEGMENT);
        tasks_run(k, scan_task, &w, tasks);
        for (int64_t i = 0; i < segments; i++)
            sumsq += w.sums[i];
        fold_offenders(&total, w.bad, tasks);
    }
    *a->sumsq = sumsq;
    *a->bad = total;
    return MPT_OK;
}
