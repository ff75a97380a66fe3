#include <limits.h>
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

/* One task at work on its block of C. Rows and columns are those of C. */
typedef struct block {
    const round_t *r;
    int64_t m0, m_count, n0, n_count;
    int64_t row_block; /* first row of the row block at work */
    char *group;       /* packed rows of A */
    float *tiles;      /* of C: see gemm_plan.h, or the carry */
    int64_t pitch;     /* tiles in a row of a row block */
    int64_t turn;      /* tiles, or row blocks, begun so far: which of the buffers is next */
    gemm_drain_t drain;
    int drain_limit;   /* complete tiles that may wait at most */
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

static float *tile_at(block_t *b, int64_t row, int64_t strip)
{
    const gemm_plan_t *p = &b->r->plan;
    const gemm_kernel_t *kernel = p->kernel;
    int64_t size = (int64_t)kernel->mr * kernel->nr;
    if (p->carry_bytes)
        return b->tiles + (row / kernel->mr * b->pitch + strip) * size;
    if (p->row_blocks == 0)
        return b->tiles + b->turn++ % GEMM_RING * size;
    float *row_block = b->tiles + b->turn % p->row_blocks * p->mc * p->nc;
    return row_block + ((row - b->row_block) / kernel->mr * b->pitch + strip) * size;
}

static void complete_tile(block_t *b, const float *tile, int64_t row, int64_t column)
{
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    const gemm_done_t done = {.tile = tile,
                              .rows = (int)min64(kernel->mr, b->m0 + b->m_count - row),
                              .columns = (int)min64(kernel->nr, b->n0 + b->n_count - column),
                              .row = row,
                              .column = column};
    gemm_drain_push(&b->drain, &done);
    gemm_drain_rows(&b->drain, INT_MAX, b->drain_limit);
}

/* One tile over one slice; the strip is counted within the block. */
static void multiply_tile(block_t *b, const char *panel_a, int64_t row, int64_t strip, int64_t k,
                          int64_t k_count)
{
    const round_t *r = b->r;
    const gemm_kernel_t *kernel = r->plan.kernel;
    int64_t column = b->n0 + strip * kernel->nr;
    float *c = tile_at(b, row, strip);
    kernel->multiply(panel_a, panel_of_b(r, k, k_count, (column - r->n0) / kernel->nr),
                     gemm_ceil(k_count, kernel->k_step), c, r->k0 + k > 0, &b->drain);
    if (r->k0 + k + k_count == r->g->k)
        complete_tile(b, c, row, column);
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

static void multiply_slice(block_t *b, int64_t rows, int64_t k, int64_t k_count)
{
    const gemm_plan_t *p = &b->r->plan;
    for (int64_t i = 0; i < rows; i += p->group) {
        int64_t row = b->row_block + i, count = min64(p->group, rows - i);
        pack_group(b, row, count, k, k_count);
        add_group_sums(b, row, count, k_count);
        multiply_group(b, row, count, k, k_count);
    }
}

static void multiply_row_block(block_t *b, int64_t row, int64_t rows)
{
    const gemm_plan_t *p = &b->r->plan;
    b->row_block = row;
    for (int64_t k = 0; k < b->r->k_count; k += p->kc)
        multiply_slice(b, rows, k, min64(p->kc, b->r->k_count - k));
    if (p->row_blocks == 1)
        gemm_drain_rows(&b->drain, INT_MAX, 0);
    b->turn += p->row_blocks > 0;
}

static void place_tiles(block_t *b, char *thread_scratch)
{
    const round_t *r = b->r;
    const gemm_plan_t *p = &r->plan;
    const gemm_kernel_t *kernel = p->kernel;
    b->group = thread_scratch;
    b->tiles = (float *)(thread_scratch + p->group_bytes);
    b->pitch = p->nc / kernel->nr;
    if (!p->carry_bytes)
        return;
    b->tiles = (float *)(r->scratch + p->b_bytes) + (b->n0 - r->n0) * kernel->mr;
    b->pitch = p->ns / kernel->nr;
}

/* How far storing may lag behind: by two tiles in a ring, by one of two row blocks. */
static void set_up_drain(block_t *b)
{
    const gemm_plan_t *p = &b->r->plan;
    const gemm_kernel_t *kernel = p->kernel;
    int64_t slices = gemm_ceil(b->r->k_count, p->kc);
    b->drain.out = &b->r->g->out;
    b->drain.store_row = b->r->store_row;
    b->drain.pitch = kernel->nr;
    b->drain.keep = 2;
    b->drain.rows_a_call = kernel->mr;
    b->drain_limit = kernel->drains ? 2 : 0;
    if (!kernel->drains || p->row_blocks != 2)
        return;
    b->drain.rows_a_call = (int)gemm_ceil(kernel->mr, slices);
    b->drain_limit = (int)(p->mc / kernel->mr * gemm_ceil(b->n_count, kernel->nr));
}

static void block_task(void *ctx, int task, int worker)
{
    const round_t *r = ctx;
    const gemm_plan_t *p = &r->plan;
    int64_t tasks_down = gemm_ceil(r->g->a.count, p->height);
    block_t b = {.r = r, .m0 = task % tasks_down * p->height, .n0 = r->n0 + task / tasks_down * p->nc};
    b.m_count = min64(p->height, r->g->a.count - b.m0);
    b.n_count = min64(p->nc, r->n0 + r->n_count - b.n0);
    place_tiles(&b, r->scratch + p->b_bytes + p->carry_bytes + (size_t)worker * p->thread_bytes);
    set_up_drain(&b);
    if (p->kernel->begin)
        p->kernel->begin();
    for (int64_t i = 0; i < b.m_count; i += p->mc)
        multiply_row_block(&b, b.m0 + i, min64(p->mc, b.m_count - i));
    gemm_drain_rows(&b.drain, INT_MAX, 0);
    if (p->kernel->end)
        p->kernel->end();
}

static void run_round(round_t *r, mpt_pool_t *pool)
{
    const gemm_plan_t *p = &r->plan;
    int64_t slices = gemm_ceil(r->k_count, p->kc);
    int64_t blocks = gemm_ceil(r->g->a.count, p->height) * gemm_ceil(r->n_count, p->nc);
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
