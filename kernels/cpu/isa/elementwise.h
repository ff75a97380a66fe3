/*
 * What the elementwise files share: how they cut their work into tasks whose size depends on the
 * shape alone, so that results cannot depend on the number of threads, and what scratch they need.
 */
#ifndef MPT_CPU_ELEMENTWISE_H
#define MPT_CPU_ELEMENTWISE_H

#include "level.h"
#include "pool.h"

#define cpu_layernorm_scratch_bytes MPT_LEVEL_NAME(mpt_cpu_layernorm_scratch_bytes)
#define cpu_loss_scratch_bytes MPT_LEVEL_NAME(mpt_cpu_loss_scratch_bytes)
#define cpu_wire_scratch_bytes MPT_LEVEL_NAME(mpt_cpu_wire_scratch_bytes)

/** Scratch of cpu_layernorm_backward for rows of `dim`; any number of rows. */
size_t cpu_layernorm_scratch_bytes(int64_t dim);
/** Scratch of cpu_loss for rows of `vocab_padded`; any number of rows. */
size_t cpu_loss_scratch_bytes(int threads, int64_t vocab_padded);
/** Scratch of cpu_to_wire and cpu_grad_scan, for any count. */
size_t cpu_wire_scratch_bytes(void);

/* Elements of one task: some ten microseconds of work, few enough to balance and to stay in L2. */
#define TASK_ELEMENTS 32768

/** Run tasks 0 .. tasks-1 on the device's threads, or in the caller where the device has none. */
static inline void tasks_run(mpt_kernels_t *k, mpt_task_t task, void *ctx, int64_t tasks)
{
    if (k->device && k->device->pool) {
        mpt_pool_run(k->device->pool, task, ctx, (int)tasks);
        return;
    }
    for (int i = 0; i < (int)tasks; i++)
        task(ctx, i, 0);
}

/** How many workers may run tasks at a time: their numbers are below that. */
static inline int tasks_threads(const mpt_kernels_t *k)
{
    return k->device && k->device->pool ? mpt_pool_threads(k->device->pool) : 1;
}

/** How many pieces of `piece` elements cover `count`. */
static inline int64_t tasks_cover(int64_t count, int64_t piece)
{
    return (count + piece - 1) / piece;
}

/** The end of task `task` in a cut of `count` into pieces of `piece`. */
static inline int64_t tasks_end(int64_t count, int64_t piece, int task)
{
    const int64_t end = ((int64_t)task + 1) * piece;
    return end < count ? end : count;
}

/** Rows of `dim` elements that make one task. */
static inline int64_t tasks_rows(int64_t dim)
{
    return dim < TASK_ELEMENTS ? TASK_ELEMENTS / dim : 1;
}

/* Outputs from this size on do not wait in the caches for whoever reads them next. */
#define STREAM_BYTES ((size_t)8 << 20)

/** 1 if an output of `count` elements is to be stored past the caches; its elements then start on a cache line. */
static inline int tasks_stream(const void *array, mpt_dtype_t dtype, int64_t count)
{
    return (uintptr_t)array % 64 == 0 && (size_t)count * mpt_dtype_bytes(dtype) >= STREAM_BYTES;
}

/** 1 if scratch holds `bytes`; else 0 and a line in the log. */
static inline int tasks_scratch_fits(const mpt_kernels_t *k, size_t bytes, const char *op)
{
    if (bytes <= k->scratch_bytes)
        return 1;
    mpt_log_error(k->log, "%s: needs %zu bytes of scratch, has %zu", op, bytes, k->scratch_bytes);
    return 0;
}

#endif
