/*
 * How a product is cut: block sizes and where things lie in scratch (gemm.h draws the levels). Pure
 * functions. Slices and rounds depend on the shape alone; only the blocks' height depends on the threads.
 *
 *     scratch: packed B of a round | sums carried between rounds | thread 0 | thread 1 | ...
 *     thread:  group of A | block of C | two tiles
 */
#ifndef MPT_CPU_GEMM_PLAN_H
#define MPT_CPU_GEMM_PLAN_H

#include "gemm_kernel.h"

#define gemm_plan_build MPT_LEVEL_NAME(mpt_cpu_gemm_plan_build)
#define gemm_plan_bound MPT_LEVEL_NAME(mpt_cpu_gemm_plan_bound)

typedef struct gemm_plan {
    const gemm_kernel_t *kernel;
    int threads;
    int64_t mc, nc, kc; /* block of C, slice of the contraction */
    int64_t ns, ks;     /* round; ks < k: sums are carried from round to round */
    int64_t group;      /* rows of A packed at once */
    size_t b_bytes, carry_bytes, group_bytes, block_bytes, thread_bytes, bytes;
} gemm_plan_t;

/** Cut m x n x k for `threads` threads. */
void gemm_plan_build(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k,
                     gemm_plan_t *plan_p);

/** At least the bytes of every plan for at most m x n x k. */
size_t gemm_plan_bound(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k);

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
