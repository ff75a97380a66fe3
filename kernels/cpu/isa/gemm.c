#include "gemm_plan.h"
#include "log.h"
#include "pool.h"

/* One round: what every task of it needs. Offsets n0, k0 are those of the round. */
typedef struct round {
    const gemm_t *g;
    gemm_plan_t plan;
    gemm_store_row_t store_row;
    char *scratch;
    int64_t n0, n_count, k0, k_count;
} round_t;

/* One task at work on its block of C. */
typedef struct block {
    const round_t *r;
    int64_t m0, m_count;
    int64_t n0, n_count; /* columns of C, absolute */
    char *group;         /* packed rows of A */
    float *sums;         /* tiles kept between slices; NULL where there is one slice */
    int64_t pitch;       /* tiles in a row of them */
    float *tiles;        /* two, used in turn where there is one slice */
    int turn;
    gemm_store_t pending; /* the last finished tile; none where rows is 0 */
} block_t;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t strips_in_round(const round_t *r)
{
    return gemm_ceil(r->n_count, r->plan.kernel->nr);
}

/* Packed B of a round: slice after slice, in each the strips of nr columns one after the other. */
static char *panel_of_b(const round_t *r, int64_t k, int64_t k_count, int64_t strip)
{
    const gemm_kernel_t *kernel = r->plan.kernel;
    int64_t strip_bytes = gemm_panel_bytes(kernel, kernel->nr, k_count);
    int64_t before = gemm_panel_bytes(kernel, strips_in_round(r) * kernel->nr, k);
    return r->scratch + before + strip * strip_bytes;
}

/* ---- packing ----------------------------------------------------------------------------------- */

static void pack_task(void *ctx, int task, int worker)
{
    (void)worker;
    const round_t *r = ctx;
    const gemm_plan_t *p = &r->plan;
    int64_t strips = strips_in_round(r);
    int64_t strip = task % strips, k = task / strips * p->kc;
    int64_t k_count = min64(p->kc, r->k_count - k);
    p->kernel->pack_b(&r->g->b, r->n0 + strip * p->kernel->nr, r->k0 + k, k_count,
                      panel_of_b(r, k, k_count, strip));
}

static void pack_group(const block_t *b, int64_t row, int64_t rows, int64_t k, int64_t k_count)
{
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    int64_t panel_bytes = gemm_panel_bytes(kernel, kernel->mr, k_count);
    char *panel = b->group;
    for (int64_t i = 0; i < rows; i += kernel->mr, panel += panel_bytes)
        kernel->pack_a(&b->r->g->a, row + i, b->r->k0 + k, k_count, panel);
}

/* The tasks of the first column of blocks see every row of A once: they add up its rows. */
static void add_group_sums(const block_t *b, int64_t row, int64_t rows, int64_t k_count)
{
    const gemm_t *g = b->r->g;
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    if (!g->row_sums || b->n0 > 0)
        return;
    int64_t panel_bytes = gemm_panel_bytes(kernel, kernel->mr, k_count);
    for (int64_t i = 0; i < rows; i += kernel->mr)
        kernel->add_row_sums(b->group + i / kernel->mr * panel_bytes,
                             gemm_ceil(k_count, kernel->k_step), g->row_sums + row + i,
                             (int)min64(kernel->mr, rows - i));
}

/* ---- products ---------------------------------------------------------------------------------- */

static void finish_pending(block_t *b)
{
    gemm_store_some(&b->pending, b->pending.rows);
    b->pending.rows = 0;
}

static float *tile_at(block_t *b, int64_t row, int64_t strip)
{
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    int64_t size = (int64_t)kernel->mr * kernel->nr;
    if (b->sums)
        return b->sums + ((row - b->m0) / kernel->mr * b->pitch + strip) * size;
    b->turn ^= 1;
    return b->tiles + b->turn * size;
}

/* One tile over one slice: row and column absolute, strip counted within the block. */
static void multiply_tile(block_t *b, const char *panel_a, int64_t row, int64_t strip, int64_t k,
                          int64_t k_count)
{
    const round_t *r = b->r;
    const gemm_kernel_t *kernel = r->plan.kernel;
    int64_t column = b->n0 + strip * kernel->nr;
    int64_t round_strip = (column - r->n0) / kernel->nr;
    float *c = tile_at(b, row, strip);
    kernel->multiply(panel_a, panel_of_b(r, k, k_count, round_strip),
                     gemm_ceil(k_count, kernel->k_step), c, r->k0 + k > 0,
                     b->pending.rows ? &b->pending : NULL);
    finish_pending(b);
    if (r->k0 + k + k_count < r->g->k)
        return;
    b->pending = (gemm_store_t){.out = &r->g->out,
                                .store_row = r->store_row,
                                .tile = c,
                                .pitch = kernel->nr,
                                .rows = (int)min64(kernel->mr, b->m0 + b->m_count - row),
                                .columns = (int)min64(kernel->nr, b->n0 + b->n_count - column),
                                .row = row,
                                .column = column};
}

static void multiply_group(block_t *b, int64_t row, int64_t rows, int64_t k, int64_t k_count)
{
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    int64_t strips = gemm_ceil(b->n_count, kernel->nr);
    int64_t panel_bytes = gemm_panel_bytes(kernel, kernel->mr, k_count);
    for (int64_t strip = 0; strip < strips; strip++)
        for (int64_t i = 0; i < rows; i += kernel->mr)
            multiply_tile(b, b->group + i / kernel->mr * panel_bytes, row + i, strip, k, k_count);
}

static void multiply_slice(block_t *b, int64_t k, int64_t k_count)
{
    const gemm_plan_t *p = &b->r->plan;
    for (int64_t i = 0; i < b->m_count; i += p->group) {
        int64_t rows = min64(p->group, b->m_count - i);
        pack_group(b, b->m0 + i, rows, k, k_count);
        add_group_sums(b, b->m0 + i, rows, k_count);
        multiply_group(b, b->m0 + i, rows, k, k_count);
    }
}

/* Where the block's sums stay between slices: the thread's scratch, or, between rounds, the carry. */
static void place_sums(block_t *b, char *thread_scratch)
{
    const round_t *r = b->r;
    const gemm_plan_t *p = &r->plan;
    const gemm_kernel_t *kernel = p->kernel;
    b->group = thread_scratch;
    b->tiles = (float *)(thread_scratch + p->group_bytes + p->block_bytes);
    if (p->carry_bytes) {
        int64_t first = b->m0 / kernel->mr * (p->ns / kernel->nr) + (b->n0 - r->n0) / kernel->nr;
        b->sums = (float *)(r->scratch + p->b_bytes) + first * kernel->mr * kernel->nr;
        b->pitch = p->ns / kernel->nr;
    } else if (p->block_bytes) {
        b->sums = (float *)(thread_scratch + p->group_bytes);
        b->pitch = p->nc / kernel->nr;
    }
}

static void block_task(void *ctx, int task, int worker)
{
    const round_t *r = ctx;
    const gemm_plan_t *p = &r->plan;
    int64_t blocks_down = gemm_ceil(r->g->a.count, p->mc);
    block_t b = {.r = r, .m0 = task % blocks_down * p->mc, .n0 = r->n0 + task / blocks_down * p->nc};
    b.m_count = min64(p->mc, r->g->a.count - b.m0);
    b.n_count = min64(p->nc, r->n0 + r->n_count - b.n0);
    place_sums(&b, r->scratch + p->b_bytes + p->carry_bytes + (size_t)worker * p->thread_bytes);
    if (p->kernel->begin)
        p->kernel->begin();
    for (int64_t k = 0; k < r->k_count; k += p->kc)
        multiply_slice(&b, k, min64(p->kc, r->k_count - k));
    finish_pending(&b);
    if (p->kernel->end)
        p->kernel->end();
}

static void run_round(round_t *r, mpt_pool_t *pool)
{
    const gemm_plan_t *p = &r->plan;
    int64_t slices = gemm_ceil(r->k_count, p->kc);
    int64_t blocks = gemm_ceil(r->g->a.count, p->mc) * gemm_ceil(r->n_count, p->nc);
    mpt_pool_run(pool, pack_task, r, (int)(slices * strips_in_round(r)));
    mpt_pool_run(pool, block_task, r, (int)blocks);
}

mpt_status_t gemm_run(mpt_kernels_t *k, mpt_dtype_t compute, const gemm_t *g)
{
    mpt_pool_t *pool = k->device->pool;
    round_t r = {.g = g, .store_row = gemm_store_row_function(&g->out), .scratch = k->scratch};
    gemm_plan_build(gemm_kernel_for(compute), mpt_pool_threads(pool), g->a.count, g->b.count, g->k,
                    &r.plan);
    if (r.plan.bytes > k->scratch_bytes) {
        mpt_log_error(k->log, "linear: a product of %lld x %lld x %lld needs %zu bytes of scratch, there are %zu",
                      (long long)g->a.count, (long long)g->b.count, (long long)g->k, r.plan.bytes,
                      k->scratch_bytes);
        return MPT_ERR_INVALID_ARG;
    }
    for (r.n0 = 0; r.n0 < g->b.count; r.n0 += r.plan.ns)
        for (r.k0 = 0; r.k0 < g->k; r.k0 += r.plan.ks) {
            r.n_count = min64(r.plan.ns, g->b.count - r.n0);
            r.k_count = min64(r.plan.ks, g->k - r.k0);
            run_round(&r, pool);
        }
    return MPT_OK;
}

size_t gemm_scratch_bytes(mpt_dtype_t compute, int threads, int64_t m, int64_t n, int64_t k)
{
    return gemm_plan_bound(gemm_kernel_for(compute), threads, m, n, k);
}
