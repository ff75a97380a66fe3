/*
 * How a product is cut: sizes, and where things lie in scratch (gemm.h draws the levels). Pure functions.
 * Slices, row blocks and rounds depend on the shape alone; only the tasks' height depends on the threads.
 *
 *     scratch: packed B of a round | sums carried between rounds | thread 0 | thread 1 | ...
 *     thread:  group of A | tiles of C
 *
 * A thread's tiles of C:
 *     one slice             a ring of GEMM_RING tiles
 *     B near, some slices   two row blocks of one group: one is stored while the other is summed
 *     B far                 one row block, as high as the second-level cache allows: each pass over it
 *                           fetches a slice of B anew
 */
#ifndef MPT_CPU_GEMM_PLAN_H
#define MPT_CPU_GEMM_PLAN_H

#include "gemm_kernel.h"

#define gemm_plan_build MPT_LEVEL_NAME(mpt_cpu_gemm_plan_build)
#define gemm_plan_bound MPT_LEVEL_NAME(mpt_cpu_gemm_plan_bound)

#define GEMM_RING 4

typedef struct gemm_plan {
    const gemm_kernel_t *kernel;
    int threads;
    int64_t height, nc; /* a task: rows and columns of C */
    int64_t mc, kc;     /* row block within a task; slice of the contraction */
    int64_t ns, ks;     /* round; ks < k: sums are carried from round to round */
    int64_t group;      /* rows of A packed at once */
    int row_blocks;     /* of tiles in a thread's scratch: 0 (a ring), 1 or 2 */
    size_t b_bytes, carry_bytes, group_bytes, tile_bytes, thread_bytes, bytes;
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
