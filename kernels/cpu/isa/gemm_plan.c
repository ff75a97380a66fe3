#include "gemm_plan.h"

#define ROUND_BYTES (12 << 20) /* packed B: moderate as memory, and found in the last cache again */
#if VEC_LANES == 16
#define A_BYTES (1 << 20) /* of a second-level cache, with room for what comes next */
#else
#define A_BYTES (256 << 10) /* those of processors without AVX-512 are smaller: 512 KiB, mostly */
#endif
#define C_BYTES (960 << 10)
#define C_COLUMNS 768    /* of a block whose sums stay in cache */
#define MOST_ROWS 1024   /* of a task */
#define SHORT_ROW_BYTES 4096 /* a contraction is short if no longer a row of A, packed */
#define TASKS_A_THREAD 4    /* so that threads that finish early find work */
#define MOST_IDLE_PERCENT 7 /* of their time that threads may wait for the others */
#define LEAST_PANELS 4      /* fewer panels of A for each of B cost more than an idle thread */

/* The length of equal pieces, at most `longest` (a multiple of `unit`), that cover `total`. */
static int64_t equal_pieces(int64_t total, int64_t longest, int64_t unit)
{
    return gemm_round_up(gemm_ceil(total, gemm_ceil(total, longest)), unit);
}

/* The largest multiple of `unit`, at least one, of which `unit_bytes` each fit `bytes`. */
static int64_t fitting(int64_t bytes, int64_t unit_bytes, int64_t unit)
{
    int64_t count = bytes / unit_bytes;
    return (count > 0 ? count : 1) * unit;
}

int64_t gemm_slice_length(const gemm_kernel_t *kernel, int64_t k)
{
    return equal_pieces(k, kernel->kc, kernel->k_step);
}

/* Columns and contraction of a round of at most ROUND_BYTES; whole slices. */
static void choose_round(gemm_plan_t *p, int64_t n, int64_t k)
{
    const gemm_kernel_t *kernel = p->kernel;
    int64_t least = gemm_min(gemm_round_up(n, kernel->nr), gemm_round_up(C_COLUMNS, kernel->nr));
    p->ks = k;
    if (gemm_panel_bytes(kernel, least, k) > ROUND_BYTES)
        p->ks = fitting(ROUND_BYTES, gemm_panel_bytes(kernel, least, p->kc), p->kc);
    int64_t strip = gemm_panel_bytes(kernel, kernel->nr, p->ks);
    p->ns = equal_pieces(n, fitting(ROUND_BYTES, strip, kernel->nr), kernel->nr);
}

/* Rows of A that stay in cache, packed over `count` indices of the contraction. */
static int64_t resident_rows(const gemm_kernel_t *kernel, int64_t count)
{
    return fitting(A_BYTES, gemm_panel_bytes(kernel, kernel->mr, count), kernel->mr);
}

/* A task's rows and columns on one thread. */
static void choose_block(gemm_plan_t *p, int64_t m)
{
    const gemm_kernel_t *kernel = p->kernel;
    int64_t rows = resident_rows(kernel, p->ks);
    p->long_k = p->kc < p->ks && gemm_panel_bytes(kernel, 1, p->ks) > SHORT_ROW_BYTES;
    p->nc = p->ns;
    if (p->long_k) {
        p->nc = equal_pieces(p->ns, gemm_round_up(C_COLUMNS, kernel->nr), kernel->nr);
        rows = gemm_min(fitting(C_BYTES, p->nc * kernel->mr * 4, kernel->mr),
                        resident_rows(kernel, p->kc));
    }
    p->mc = equal_pieces(m, gemm_min(rows, gemm_round_up(MOST_ROWS, kernel->mr)), kernel->mr);
}

/* Lower, then narrower blocks where threads would go without. */
static void share_out(gemm_plan_t *p, int threads, int64_t m)
{
    int64_t mr = p->kernel->mr, nr = p->kernel->nr;
    int64_t across = gemm_ceil(p->ns, p->nc), wanted = (int64_t)threads * TASKS_A_THREAD;
    if (gemm_ceil(m, p->mc) * across >= wanted)
        return;
    int64_t rows = gemm_round_up(gemm_ceil(m * across, wanted), mr);
    p->mc = gemm_min(p->mc, rows > LEAST_PANELS * mr ? rows : LEAST_PANELS * mr);
    int64_t down = gemm_ceil(m, p->mc);
    if (down * across < threads)
        p->nc = gemm_round_up(gemm_ceil(p->ns, gemm_ceil(wanted, down)), nr);
}

/* Whether threads that run out of tasks wait for long, as one of two does where there are 13. */
static int uneven(int64_t tasks, int threads)
{
    int64_t missing = gemm_ceil(tasks, threads) * threads - tasks;
    return missing * 100 > tasks * MOST_IDLE_PERCENT;
}

/* Lower blocks, or else narrower ones, for which A is packed more than once, where threads would wait. */
static void even_out(gemm_plan_t *p, int threads, int64_t m)
{
    int64_t mr = p->kernel->mr, nr = p->kernel->nr, columns = p->nc;
    int64_t down = gemm_ceil(m, p->mc), across = gemm_ceil(p->ns, p->nc);
    int64_t rows = p->mc, least = gemm_round_up(gemm_ceil(p->mc, 2), mr);
    least = least > LEAST_PANELS * mr ? least : LEAST_PANELS * mr;
    while (rows > least && uneven(gemm_ceil(m, rows) * across, threads))
        rows -= mr;
    if (!uneven(gemm_ceil(m, rows) * across, threads)) {
        p->mc = gemm_min(p->mc, equal_pieces(m, rows, mr));
        return;
    }
    while (columns > nr && uneven(down * gemm_ceil(p->ns, columns), threads))
        columns -= nr;
    p->nc = gemm_min(p->nc, equal_pieces(p->ns, columns, nr));
}

void gemm_plan_build(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k,
                     int adds, gemm_plan_t *plan_p)
{
    gemm_plan_t p = {.kernel = kernel, .kc = gemm_slice_length(kernel, k)};
    choose_round(&p, n, k);
    choose_block(&p, m);
    if (threads > 1) {
        share_out(&p, threads, m);
        even_out(&p, threads, m);
    }
    p.carries = p.ks < k && !adds;
    p.b_bytes = (size_t)gemm_panel_bytes(kernel, p.ns, p.ks);
    if (p.carries)
        p.carry_bytes = (size_t)(gemm_round_up(m, kernel->mr) * p.ns * 4);
    p.a_bytes = (size_t)gemm_panel_bytes(kernel, p.mc, p.long_k ? p.kc : p.ks);
    if (!p.carries)
        p.tile_bytes = (size_t)(p.mc * (p.long_k ? p.nc : 2 * kernel->nr) * 4);
    p.thread_bytes = p.a_bytes + p.tile_bytes;
    p.bytes = p.b_bytes + p.carry_bytes + (size_t)threads * p.thread_bytes;
    *plan_p = p;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Each part at its largest: it grows with every size and stops at the same limit as in the plan. */
size_t gemm_plan_bound(const gemm_kernel_t *kernel, int threads, int64_t m, int64_t n, int64_t k,
                       int adds)
{
    int64_t mr = kernel->mr, nr = kernel->nr;
    int64_t rows = gemm_round_up(m, mr), columns = gemm_round_up(n, nr);
    int64_t block = gemm_min(columns, gemm_round_up(C_COLUMNS, nr));
    int64_t slice = gemm_min(kernel->kc, k);
    int64_t b = gemm_min(gemm_panel_bytes(kernel, columns, k),
                         max64(ROUND_BYTES, gemm_panel_bytes(kernel, block, slice)));
    int64_t carry =
        gemm_panel_bytes(kernel, block, k) > ROUND_BYTES && !adds ? rows * columns * 4 : 0;
    int64_t a = gemm_min(gemm_panel_bytes(kernel, rows, k), A_BYTES);
    int64_t short_tiles = gemm_min(rows, gemm_round_up(MOST_ROWS, mr)) * 2 * nr * 4;
    int64_t long_tiles = gemm_min(rows * block * 4, max64(C_BYTES, mr * block * 4));
    return (size_t)(b + carry) + (size_t)threads * (size_t)(a + max64(short_tiles, long_tiles));
}
