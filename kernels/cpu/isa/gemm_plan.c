#include "gemm_plan.h"

#define MAX_ROUND_BYTES (8 << 20)  /* packed B: held by all caches together, and moderate as memory */
#define MAX_BLOCK_BYTES (1 << 20)  /* sums of a block kept between slices: half of a second-level cache */
#define TASKS_A_THREAD 4           /* so that threads that finish early find work */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
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

/* Rows summed together, and how many such row blocks a thread keeps. */
static void choose_row_block(gemm_plan_t *p, int64_t m, int64_t k)
{
    int64_t most = gemm_round_up(m, p->group);
    p->mc = min64(p->group, most);
    p->row_blocks = p->kc < k ? 2 : 0;
    if (p->row_blocks == 0 || (p->ks == k && gemm_panel_bytes(p->kernel, p->nc, k) <= p->kernel->near))
        return;
    int64_t fitting = MAX_BLOCK_BYTES / 4 / p->nc / p->group * p->group;
    p->mc = equal_pieces(m, min64(most, fitting > p->group ? fitting : p->group), p->group);
    p->row_blocks = 1;
}

/* All rows in one task, but enough tasks for every thread. */
static int64_t choose_height(const gemm_plan_t *p, int64_t m)
{
    if (p->threads == 1)
        return gemm_round_up(m, p->mc);
    int64_t blocks_across = p->ns / p->nc;
    int64_t most = gemm_ceil(m * blocks_across, (int64_t)p->threads * TASKS_A_THREAD);
    return equal_pieces(m, gemm_round_up(most, p->mc), p->mc);
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
    choose_row_block(&p, m, k);
    p.height = choose_height(&p, m);
    p.b_bytes = (size_t)gemm_panel_bytes(kernel, p.ns, p.ks);
    p.group_bytes = (size_t)gemm_panel_bytes(kernel, p.group, p.kc);
    if (p.ks < k)
        p.carry_bytes = (size_t)(gemm_round_up(m, kernel->mr) * p.ns * 4);
    else if (p.row_blocks > 0)
        p.tile_bytes = (size_t)(p.row_blocks * p.mc * p.nc * 4);
    else
        p.tile_bytes = (size_t)(GEMM_RING * kernel->mr * kernel->nr * 4);
    p.thread_bytes = p.group_bytes + p.tile_bytes;
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
    int64_t group = min64(kernel->group, rows);
    int64_t group_bytes = gemm_panel_bytes(kernel, group, slice);
    int64_t ring = (int64_t)GEMM_RING * kernel->mr * kernel->nr;
    int64_t two = 2 * group * block_columns;
    int64_t one = min64(gemm_round_up(rows, group) * block_columns, MAX_BLOCK_BYTES / 4);
    return (size_t)(b + carry) +
           (size_t)threads * (size_t)(group_bytes + 4 * max64(ring, max64(one, two)));
}
