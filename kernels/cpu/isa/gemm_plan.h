/*
 * How a product is cut: sizes, and where things lie in scratch (gemm.h draws the levels). Pure functions.
 * Slices and rounds depend on the shape alone; only the tasks depend on the threads.
 *
 *     scratch: packed B of a round | sums carried between rounds | thread 0 | thread 1 | ...
 *     thread:  packed A, whole or of one slice | tiles of C: the block's, or two columns of them, one being
 *              stored while the other is summed
 */
#ifndef MPT_CPU_GEMM_PLAN_H
#define MPT_CPU_GEMM_PLAN_H

#include "gemm_kernel.h"

#define gemm_plan_build MPT_LEVEL_NAME(mpt_cpu_gemm_plan_build)
#define gemm_plan_bound MPT_LEVEL_NAME(mpt_cpu_gemm_plan_bound)
#define gemm_slice_length MPT_LEVEL_NAME(mpt_cpu_gemm_slice_length)

typedef struct gemm_plan {
    const gemm_kernel_t *kernel;
    int64_t mc, nc; /* a task: rows and columns of C */
    int64_t kc;     /* slice of the contraction */
    int64_t ns, ks; /* round */
    int long_k;     /* 1: slice by slice, the block's sums staying in cache */
    int carries;    /* 1: sums are carried from round to round */
    size_t b_bytes, carry_bytes, a_bytes, tile_bytes, thread_bytes, bytes;
} gemm_plan_t;

/** Cut m x n x k for `threads` threads; `adds`: each round is added to the output. */
void gemm_plan_build(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k,
                     int adds, gemm_plan_t *plan_p);

/** Indices of a slice of a contraction over k: of the shape alone, so that packed operands outlive a plan. */
int64_t gemm_slice_length(const gemm_kernel_t *kernel, int64_t k);

/** At least the bytes of every plan for at most m x n x k. */
size_t gemm_plan_bound(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k,
                       int adds);

static inline int64_t gemm_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t gemm_ceil(int64_t value, int64_t unit)
{
    return (value + unit - 1) / unit;
}

static inline int64_t gemm_round_up(int64_t value, int64_t unit)
{
    return gemm_ceil(value, unit) * unit;
}

/** Bytes of packed panels: `lines` (a multiple of mr or nr) over `count` indices of the contraction. */
static inline int64_t gemm_panel_bytes(const gemm_kernel_t *kernel, int64_t lines, int64_t count)
{
    return lines * gemm_ceil(count, kernel->k_step) * kernel->unit_bytes;
}

#endif
