#include <assert.h>

#include "gemm_plan.h"
#include "log.h"
#include "pool.h"
#include "vec.h"

#define PACK_STRIPS 8 /* of B in one packing task */
#define PACK_DEPTH 32 /* indices of the contraction packed at once where lines lie across */
#define CACHE_LINE 64
#define LAG 2 /* newest tiles left alone: their last products may be under way */

/* Packed B, or where it goes: columns [n0, n0 + n_count) over [k0, k0 + k_count), slice after slice of kc, in each the
 * panels of nr columns one after the other. Slices start at multiples of kc of the whole contraction. */
typedef struct packed {
    const gemm_kernel_t *kernel;
    const gemm_operand_t *from;
    char *at;
    int64_t kc, n0, n_count, k0, k_count;
} packed_t;

/* One round: what every task of it needs. */
typedef struct round {
    const gemm_t *g;
    gemm_plan_t plan;
    gemm_multiply_t multiply_storing; /* for this output; NULL: none */
    char *scratch;
    packed_t b; /* the round's, or all of it */
    int64_t n0, n_count, k0, k_count;
} round_t;

/* Memory on its way into the second-level cache, line by line: rows of `row_bytes`, `stride` apart. */
typedef struct ahead {
    const char *row;
    int64_t at, row_bytes, stride;
    int64_t lines;        /* still to come */
    int64_t lines_a_call; /* during each product */
} ahead_t;

/* One task at work on its block of C. Rows and columns are those of C. */
typedef struct block {
    const round_t *r;
    int64_t m0, m_count, n0, n_count;
    char *a;         /* packed */
    float *tiles;    /* of C: the block's, or two columns of them */
    int rows_a_call; /* rows of complete tiles to store during each product */
    int most_queued; /* complete tiles that may wait: one column */
    ahead_t next_a;  /* what is packed next */
    gemm_queue_t queue;
} block_t;

/* ---- packing ----------------------------------------------------------------------------------- */

/* Packed operands: slice after slice, in each the panels of `width` lines one after the other. */
static int64_t panel_at(const gemm_kernel_t *kernel, int64_t lines, int64_t k, int64_t k_count,
                        int64_t line)
{
    return gemm_panel_bytes(kernel, lines, k) + gemm_panel_bytes(kernel, line, k_count);
}

/*
 * Pack `lines` lines over one slice. Where they lie across memory, the same few indices are packed of all of them
 * before the next: long runs of each row of memory instead of one cache line.
 */
static void pack_lines(const gemm_kernel_t *kernel, const gemm_operand_t *op, gemm_pack_t pack,
                       int width, int64_t first, int64_t lines, int64_t k0, int64_t k_count,
                       char *to)
{
    int64_t depth = op->k_contiguous ? k_count : PACK_DEPTH;
    for (int64_t k = 0; k < k_count; k += depth)
        for (int64_t i = 0; i < lines; i += width)
            pack(op, first + i, k0 + k, gemm_min(depth, k_count - k),
                 to + gemm_panel_bytes(kernel, i, k_count) + gemm_panel_bytes(kernel, width, k));
}

/* k: counted from the start of the contraction, at a slice of k_count. */
static char *panel_of_b(const packed_t *b, int64_t column, int64_t k, int64_t k_count)
{
    int64_t columns = gemm_round_up(b->n_count, b->kernel->nr);
    return b->at + panel_at(b->kernel, columns, k - b->k0, k_count, column - b->n0);
}

static void pack_b_task(void *ctx, int task, int worker)
{
    (void)worker;
    const packed_t *b = ctx;
    int64_t columns = (int64_t)PACK_STRIPS * b->kernel->nr;
    int64_t tasks_across = gemm_ceil(b->n_count, columns);
    int64_t n = task % tasks_across * columns, k = task / tasks_across * b->kc;
    int64_t k_count = gemm_min(b->kc, b->k_count - k);
    pack_lines(b->kernel, b->from, b->kernel->pack_b, b->kernel->nr, b->n0 + n,
               gemm_min(columns, b->n_count - n), b->k0 + k, k_count,
               panel_of_b(b, b->n0 + n, b->k0 + k, k_count));
}

static void pack_b(mpt_pool_t *pool, packed_t *b)
{
    int64_t tasks = gemm_ceil(b->k_count, b->kc) *
                    gemm_ceil(b->n_count, (int64_t)PACK_STRIPS * b->kernel->nr);
    mpt_pool_run(pool, pack_b_task, b, (int)tasks);
}

static char *panel_of_a(const block_t *b, int64_t i, int64_t k, int64_t k_count)
{
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    int64_t before = b->r->plan.long_k ? 0 : k;
    return b->a + panel_at(kernel, gemm_round_up(b->m_count, kernel->mr), before, k_count, i);
}

/* Rows of A that lie across, in FP32: sums[i] += over [k0, k0 + k_count) of line first + i, for a vector's lines at most. */
static void add_lines(const gemm_operand_t *op, int64_t first, int lines, int64_t k0, int64_t k_count, float *sums)
{
    vec_t total = {0};
    for (int64_t k = k0; k < k0 + k_count; k++)
        total += vec_load_f32((const float *)op->data + k * op->ld + first, lines);
    vec_store_f32(sums, lines, vec_load_f32(sums, lines) + total);
}

static void add_unpacked_rows(const block_t *b, int64_t k0, int64_t k_count)
{
    const gemm_t *g = b->r->g;
    assert(g->a.dtype == MPT_F32 && !g->a.k_contiguous);
    for (int64_t i = 0; i < b->m_count; i += VEC_LANES)
        add_lines(&g->a, b->m0 + i, (int)gemm_min(VEC_LANES, b->m_count - i), k0, k_count, g->row_sums + b->m0 + i);
}

/* The tasks at the left edge see every row of A once: they add up its rows. */
static void add_row_sums(const block_t *b, int64_t k, int64_t k_count)
{
    const gemm_t *g = b->r->g;
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    if (!g->row_sums || b->n0 > 0)
        return;
    if (!kernel->add_row_sums) {
        add_unpacked_rows(b, b->r->k0 + k, k_count);
        return;
    }
    for (int64_t i = 0; i < b->m_count; i += kernel->mr)
        kernel->add_row_sums(panel_of_a(b, i, k, k_count), gemm_ceil(k_count, kernel->k_step),
                             g->row_sums + b->m0 + i, (int)gemm_min(kernel->mr, b->m_count - i));
}

static void pack_a(const block_t *b, int64_t k, int64_t k_count)
{
    const round_t *r = b->r;
    const gemm_kernel_t *kernel = r->plan.kernel;
    pack_lines(kernel, &r->g->a, kernel->pack_a, kernel->mr, b->m0, b->m_count, r->k0 + k, k_count,
               panel_of_a(b, 0, k, k_count));
    add_row_sums(b, k, k_count);
}

/*
 * Vector kernels leave the paths to memory idle: meanwhile comes the part of A that the slice from `k` on
 * packs. Tiles need those paths themselves, their operands stream from the second-level cache.
 */
static void look_ahead(block_t *b, int64_t k)
{
    const round_t *r = b->r;
    const gemm_operand_t *op = &r->g->a;
    const gemm_kernel_t *kernel = r->plan.kernel;
    int64_t k_count = gemm_min(r->plan.kc, r->k_count - k);
    if (r->multiply_storing || k_count <= 0)
        return;
    int64_t bytes = (int64_t)mpt_dtype_bytes(op->dtype);
    int64_t k_first = r->k0 + k,
            calls = gemm_ceil(b->m_count, kernel->mr) * gemm_ceil(b->n_count, kernel->nr);
    int64_t rows = op->k_contiguous ? b->m_count : k_count,
            across = op->k_contiguous ? k_count : b->m_count;
    int64_t first = op->k_contiguous ? b->m0 * op->ld + k_first : k_first * op->ld + b->m0;
    b->next_a = (ahead_t){.row = (const char *)op->data + first * bytes,
                          .row_bytes = across * bytes,
                          .stride = op->ld * bytes,
                          .lines = rows * gemm_ceil(across * bytes, CACHE_LINE)};
    b->next_a.lines_a_call = gemm_ceil(b->next_a.lines, calls);
}

static void fetch_ahead(ahead_t *a)
{
    for (int64_t i = 0; i < a->lines_a_call && a->lines > 0; i++, a->lines--) {
        __builtin_prefetch(a->row + a->at, 0, 2);
        a->at += CACHE_LINE;
        if (a->at < a->row_bytes)
            continue;
        a->at = 0;
        a->row += a->stride;
    }
}

/* ---- products ---------------------------------------------------------------------------------- */

/* Where the sums of a tile are: in the block, in one of two columns, or where they wait for the next round. */
static float *tile_at(const block_t *b, int64_t row, int64_t column)
{
    const round_t *r = b->r;
    const gemm_plan_t *p = &r->plan;
    int64_t mr = p->kernel->mr, nr = p->kernel->nr;
    int64_t strip = (column - b->n0) / nr;
    if (!p->carries)
        return b->tiles + ((p->long_k ? strip : strip % 2) * p->mc + row - b->m0) * nr;
    int64_t tiles = row / mr * (p->ns / nr) + (column - r->n0) / nr;
    return (float *)(r->scratch + p->b_bytes) + tiles * mr * nr;
}

/* From a tile's sums to those of the next one down, in floats. */
static int64_t tile_stride(const block_t *b)
{
    const gemm_plan_t *p = &b->r->plan;
    int64_t tile = (int64_t)p->kernel->mr * p->kernel->nr;
    return p->carries ? p->ns / p->kernel->nr * tile : tile;
}

static gemm_rows_t rows_of_tile(const block_t *b, const float *tile, int64_t row, int64_t column)
{
    const gemm_kernel_t *kernel = b->r->plan.kernel;
    return (gemm_rows_t){.out = &b->r->g->out,
                         .tile = tile,
                         .pitch = kernel->nr,
                         .count = (int)gemm_min(kernel->mr, b->m0 + b->m_count - row),
                         .columns = (int)gemm_min(kernel->nr, b->n0 + b->n_count - column),
                         .row = row,
                         .column = column};
}

/* Two panels to multiply, into a tile's sums. */
typedef struct product {
    const char *a, *b;
    int64_t steps;
    float *c;
    int load; /* add to what is there */
    gemm_aside_t aside;
} product_t;

/* Where the kernel can, some rows of an earlier tile are stored meanwhile. */
static void multiply_panels(block_t *b, product_t *p)
{
    const round_t *r = b->r;
    p->aside.rows.count = 0;
    if (b->queue.count > LAG)
        p->aside.rows = gemm_queue_take(&b->queue, b->rows_a_call);
    if (p->aside.rows.count > 0 && p->aside.rows.columns == p->aside.rows.pitch) {
        r->multiply_storing(p->a, p->b, p->steps, p->c, p->load, &p->aside);
        return;
    }
    r->plan.kernel->multiply(p->a, p->b, p->steps, p->c, p->load, &p->aside);
    if (p->aside.rows.count > 0)
        gemm_store_rows(&p->aside.rows);
}

/* The last product of a tile, which is then stored, or queued where the kernel can store. */
static void complete_tile(block_t *b, product_t *p, int64_t row, int64_t column)
{
    gemm_rows_t rows = rows_of_tile(b, p->c, row, column);
    if (!b->r->multiply_storing) {
        gemm_fetch_operands(&rows);
        multiply_panels(b, p);
        gemm_store_rows(&rows);
        return;
    }
    multiply_panels(b, p);
    gemm_queue_push(&b->queue, &rows);
    gemm_queue_shorten(&b->queue, b->most_queued);
}

/* Of `bytes`, whole cache lines, what one of `steps` equal shares is at most. */
static int64_t line_share(int64_t bytes, int64_t steps)
{
    return gemm_ceil(bytes / CACHE_LINE, steps) * CACHE_LINE;
}

/* One panel of B, all panels of A. The strips of a slice follow each other. */
static void multiply_strip_slice(block_t *b, int64_t column, int64_t k, int64_t k_count)
{
    const round_t *r = b->r;
    const gemm_kernel_t *kernel = r->plan.kernel;
    int64_t bytes = gemm_panel_bytes(kernel, kernel->nr, k_count);
    int64_t a_bytes = gemm_panel_bytes(kernel, kernel->mr, k_count), stride = tile_stride(b);
    int complete =
        k + k_count == r->k_count && (!r->plan.carries || r->k0 + k + k_count == r->g->k);
    product_t p = {.a = panel_of_a(b, 0, k, k_count),
                   .b = panel_of_b(&r->b, column, r->k0 + k, k_count),
                   .steps = gemm_ceil(k_count, kernel->k_step),
                   .c = tile_at(b, b->m0, column),
                   .load = k > 0 || (r->k0 > 0 && r->plan.carries)};
    gemm_fetch_t *next = &p.aside.fetch;
    *next = (gemm_fetch_t){.at = p.b + bytes, .bytes = gemm_round_up(bytes * kernel->mr / b->m_count, CACHE_LINE)};
    p.aside.fetch_a_step = line_share(next->bytes, p.steps);
    p.aside.sums_a_step = line_share((int64_t)kernel->mr * kernel->nr * 4, p.steps);
    /* Stepped along: what divides to find a place costs as much as a few steps of a product. */
    for (int64_t i = 0; i < b->m_count; i += kernel->mr, next->at += next->bytes, p.a += a_bytes, p.c += stride) {
        fetch_ahead(&b->next_a);
        p.aside.next_sums = p.load && i + kernel->mr < b->m_count ? p.c + stride : NULL;
        if (complete)
            complete_tile(b, &p, b->m0 + i, column);
        else
            multiply_panels(b, &p);
    }
}

/* Slice by slice: every strip over one slice before the next. */
static void multiply_long(block_t *b)
{
    const gemm_plan_t *p = &b->r->plan;
    for (int64_t k = 0; k < b->r->k_count; k += p->kc) {
        int64_t k_count = gemm_min(p->kc, b->r->k_count - k);
        pack_a(b, k, k_count);
        look_ahead(b, k + p->kc);
        for (int64_t n = 0; n < b->n_count; n += p->kernel->nr)
            multiply_strip_slice(b, b->n0 + n, k, k_count);
    }
}

/* Strip by strip: every slice of one strip before the next. */
static void multiply_short(block_t *b)
{
    const gemm_plan_t *p = &b->r->plan;
    for (int64_t k = 0; k < b->r->k_count; k += p->kc)
        pack_a(b, k, gemm_min(p->kc, b->r->k_count - k));
    for (int64_t n = 0; n < b->n_count; n += p->kernel->nr)
        for (int64_t k = 0; k < b->r->k_count; k += p->kc)
            multiply_strip_slice(b, b->n0 + n, k, gemm_min(p->kc, b->r->k_count - k));
}

static void multiply_block(block_t *b)
{
    if (b->r->plan.long_k)
        multiply_long(b);
    else
        multiply_short(b);
    gemm_queue_shorten(&b->queue, 0);
    gemm_stream_end();
}

/* Storing keeps pace: a tile is complete after one product of the last slice, or one of each slice of its strip. */
static void set_pace(block_t *b)
{
    const gemm_plan_t *p = &b->r->plan;
    int64_t products = p->long_k ? 1 : gemm_ceil(b->r->k_count, p->kc);
    b->rows_a_call = (int)gemm_ceil(p->kernel->mr, products);
    b->most_queued = (int)gemm_ceil(b->m_count, p->kernel->mr);
}

static void block_task(void *ctx, int task, int worker)
{
    const round_t *r = ctx;
    const gemm_plan_t *p = &r->plan;
    int64_t tasks_down = gemm_ceil(r->g->a.count, p->mc);
    block_t b = {.r = r, .m0 = task % tasks_down * p->mc, .n0 = r->n0 + task / tasks_down * p->nc};
    b.m_count = gemm_min(p->mc, r->g->a.count - b.m0);
    b.n_count = gemm_min(p->nc, r->n0 + r->n_count - b.n0);
    b.a = r->scratch + p->b_bytes + p->carry_bytes + (size_t)worker * p->thread_bytes;
    b.tiles = (float *)(b.a + p->a_bytes);
    set_pace(&b);
    if (p->kernel->begin)
        p->kernel->begin();
    multiply_block(&b);
    if (p->kernel->end)
        p->kernel->end();
}

static void run_round(round_t *r, mpt_pool_t *pool)
{
    const gemm_plan_t *p = &r->plan;
    const gemm_t *g = r->g;
    int64_t blocks = gemm_ceil(g->a.count, p->mc) * gemm_ceil(r->n_count, p->nc);
    if (!g->packed_b) {
        r->b = (packed_t){.kernel = p->kernel, .from = &g->b, .at = r->scratch, .kc = p->kc,
                          .n0 = r->n0, .n_count = r->n_count, .k0 = r->k0, .k_count = r->k_count};
        pack_b(pool, &r->b);
    }
    mpt_pool_run(pool, block_task, r, (int)blocks);
}

mpt_status_t gemm_run(mpt_kernels_t *k, const gemm_t *g)
{
    mpt_pool_t *pool = k->device->pool;
    const gemm_kernel_t *kernel = gemm_kernel_for(g->math);
    round_t r = {.g = g, .scratch = k->scratch};
    r.b = (packed_t){.kernel = kernel, .at = (char *)g->packed_b, .n_count = g->b.count};
    if (kernel->multiply_storing)
        r.multiply_storing = kernel->multiply_storing[gemm_variant(&g->out)];
    gemm_plan_build(kernel, mpt_pool_threads(pool), g->a.count, g->b.count, g->k,
                    g->out.finish == GEMM_ADD, &r.plan);
    if (r.plan.bytes > k->scratch_bytes) {
        mpt_log_error(k->log, "linear: %lld x %lld x %lld needs %zu bytes of scratch, not %zu",
                      (long long)g->a.count, (long long)g->b.count, (long long)g->k, r.plan.bytes,
                      k->scratch_bytes);
        return MPT_ERR_INVALID_ARG;
    }
    for (r.n0 = 0; r.n0 < g->b.count; r.n0 += r.plan.ns)
        for (r.k0 = 0; r.k0 < g->k; r.k0 += r.plan.ks) {
            r.n_count = gemm_min(r.plan.ns, g->b.count - r.n0);
            r.k_count = gemm_min(r.plan.ks, g->k - r.k0);
            run_round(&r, pool);
        }
    return MPT_OK;
}

size_t gemm_scratch_bytes(mpt_dtype_t math, int threads, int64_t m, int64_t n, int64_t k,
                          int adds)
{
    return gemm_plan_bound(gemm_kernel_for(math), threads, m, n, k, adds);
}

void gemm_pack(mpt_pool_t *pool, mpt_dtype_t math, const gemm_operand_t *b, int64_t k, void *to)
{
    const gemm_kernel_t *kernel = gemm_kernel_for(math);
    packed_t packed = {.kernel = kernel, .from = b, .at = to, .kc = gemm_slice_length(kernel, k),
                       .n_count = b->count, .k_count = k};
    pack_b(pool, &packed);
}

size_t gemm_packed_bytes(mpt_dtype_t math, int64_t n, int64_t k)
{
    const gemm_kernel_t *kernel = gemm_kernel_for(math);
    return (size_t)gemm_panel_bytes(kernel, gemm_round_up(n, kernel->nr), k);
}
