#include "gemm_plan.h"

#define MAX_ROUND_BYTES (8 << 20)  /* packed B: held by all caches together, and moderate as memory */
#define MAX_BLOCK_BYTES (1 << 20)  /* sums of a block kept between slices: half of a second-level cache */
#define TASKS_A_THREAD 4           /* so that threads that finish early find work */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The length of equal pieces, at most `longest` (a multiple of `unit`), that cover `total`. */
static int64_t equal_pieces(int64_t total, int64_t longest, int64_t unit)
{
    return gemm_round_up(gemm_ceil(total, gemm_ceil(total, longest)), unit);
}

static int64_t choose_kc(const gemm_kernel_t *kernel, int64_t k)
{
    return k <= kernel->kc_whole ? gemm_round_up(k, kernel->k_step)
                                 : equal_pieces(k, kernel->kc, kernel->k_step);
}

/* As high as the cache for a block's sums allows, but enough blocks for every thread. */
static int64_t choose_mc(const gemm_plan_t *p, int64_t m, int64_t blocks_across, int sliced)
{
    int64_t unit = p->group;
    int64_t most = gemm_round_up(m, unit);
    if (sliced)
        most = min64(most, MAX_BLOCK_BYTES / 4 / p->nc / unit * unit);
    if (p->threads > 1)
        most = min64(most, gemm_round_up(gemm_ceil(m * blocks_across, p->threads * TASKS_A_THREAD), unit));
    return equal_pieces(m, most, unit);
}

/* Columns and contraction of one round of packed B. */
static void choose_round(gemm_plan_t *p, int64_t n, int64_t k)
{
    int64_t column_block = gemm_panel_bytes(p->kernel, p->nc, k);
    p->ks = k;
    p->ns = p->nc * min64(gemm_ceil(n, p->nc), MAX_ROUND_BYTES / column_block);
    if (p->ns > 0)
        return;
    p->ns = p->nc;
    p->ks = MAX_ROUND_BYTES / gemm_panel_bytes(p->kernel, p->nc, p->kc) * p->kc;
}

void gemm_plan_build(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k,
                     gemm_plan_t *plan_p)
{
    gemm_plan_t p = {.kernel = kernel, .threads = threads};
    p.kc = choose_kc(kernel, k);
    p.nc = equal_pieces(n, kernel->nc, kernel->nr);
    p.group = min64(kernel->group, gemm_round_up(m, kernel->mr));
    choose_round(&p, n, k);
    p.mc = choose_mc(&p, m, p.ns / p.nc, p.kc < k);
    p.b_bytes = (size_t)gemm_panel_bytes(kernel, p.ns, p.ks);
    if (p.ks < k)
        p.carry_bytes = (size_t)(gemm_round_up(m, kernel->mr) * p.ns * 4);
    p.group_bytes = (size_t)gemm_panel_bytes(kernel, p.group, p.kc);
    if (p.kc < k && p.ks == k)
        p.block_bytes = (size_t)(p.mc * p.nc * 4);
    p.thread_bytes = p.group_bytes + p.block_bytes + 2 * GEMM_MAX_TILE * sizeof(float);
    p.bytes = p.b_bytes + p.carry_bytes + (size_t)threads * p.thread_bytes;
    *plan_p = p;
}

/* Each part at its largest; parts grow with every size and stop at the same limits as in the plan. */
size_t gemm_plan_bound(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k)
{
    int64_t rows = gemm_round_up(m, kernel->mr);
    int64_t columns = gemm_round_up(n, kernel->nr);
    int64_t block_columns = min64(columns, kernel->nc);
    int64_t slice = min64(k, kernel->kc > kernel->kc_whole ? kernel->kc : kernel->kc_whole);
    int64_t b = min64(gemm_panel_bytes(kernel, columns, k), MAX_ROUND_BYTES);
    int carried = gemm_panel_bytes(kernel, block_columns, k) > MAX_ROUND_BYTES;
    int64_t carry = carried ? rows * block_columns * 4 : 0;
    int64_t group = gemm_panel_bytes(kernel, min64(kernel->group, rows), slice);
    int64_t block = min64(rows * columns * 4, MAX_BLOCK_BYTES);
    return (size_t)(b + carry) +
           (size_t)threads * ((size_t)(group + block) + 2 * GEMM_MAX_TILE * sizeof(float));
}
