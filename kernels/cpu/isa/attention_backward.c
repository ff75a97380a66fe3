#include "attention.h"

#define ROWS_AHEAD 16 /* asked for, of those that are read one by one */

typedef struct backward_job {
    attention_shape_t shape;
    const mpt_attention_backward_t *args;
    char *scratch;
    size_t scratch_stride;
    int64_t chunks; /* 1: a task does all of a head; else see narrow_task */
} backward_job_t;

/* One task: some of a head's keys against some of its queries. */
typedef struct backward_task {
    const attention_shape_t *shape;
    attention_source_t q, k, v, out, dout;
    char *dq, *dk, *dv; /* row 0 of this head */
    int64_t stride;     /* theirs and that of q, k, v */
    const float *lse;
    float scale;
    int64_t first_key, last_key, first_query, last_query;
    int want_keys, want_queries;                   /* dK and dV; dQ */
    char *q_wide, *dout_wide, *q_rows, *dout_rows; /* packed query blocks, one after the other */
    float *minus_lse, *delta;                      /* [rows] */
    float *dq_sums;                 /* dQ^T, a block after the other: [width,queries] */
    char *k_wide, *v_wide, *k_rows; /* a packed key block */
    float *dk_sums, *dv_sums;       /* [keys,width] */
    float *scores, *dprobs;         /* [32,columns] */
    char *probs, *dscores;          /* P, dS of a strip of 32 keys: [32,queries] */
    char *dscores_right;            /* dS of a block: [keys,queries] */
    float *running;                 /* [head_dim] */
} backward_task_t;

static int64_t query_blocks(const attention_shape_t *shape)
{
    return (shape->rows + shape->queries - 1) / shape->queries;
}

static void cut_queries(const attention_shape_t *shape, char *base, size_t *used,
                        backward_task_t *t)
{
    const int64_t rows = query_blocks(shape) * shape->queries;
    const size_t packed = attention_operand_bytes(shape, rows);
    t->q_wide = attention_scratch_cut(base, used, packed);
    t->dout_wide = attention_scratch_cut(base, used, packed);
    t->q_rows = attention_scratch_cut(base, used, packed);
    t->dout_rows = attention_scratch_cut(base, used, packed);
    t->minus_lse = attention_scratch_cut(base, used, (size_t)rows * sizeof(float));
    t->delta = attention_scratch_cut(base, used, (size_t)rows * sizeof(float));
    t->dq_sums = attention_scratch_cut(base, used, (size_t)(rows * shape->width) * sizeof(float));
}

static size_t cut_scratch(const attention_shape_t *shape, char *base, backward_task_t *t)
{
    const size_t packed = attention_operand_bytes(shape, shape->keys);
    const size_t sums = (size_t)(shape->keys * shape->width) * sizeof(float);
    const size_t square = (size_t)(ATTENTION_STEP * shape->columns) * sizeof(float);
    const size_t strip = (size_t)(ATTENTION_STEP * shape->queries) * sizeof(float);
    const size_t block = (size_t)(shape->keys * shape->queries) * sizeof(float);
    size_t used = 0;
    cut_queries(shape, base, &used, t);
    t->k_wide = attention_scratch_cut(base, &used, packed);
    t->v_wide = attention_scratch_cut(base, &used, packed);
    t->k_rows = attention_scratch_cut(base, &used, packed);
    t->dk_sums = attention_scratch_cut(base, &used, sums);
    t->dv_sums = attention_scratch_cut(base, &used, sums);
    t->scores = attention_scratch_cut(base, &used, square);
    t->dprobs = attention_scratch_cut(base, &used, square);
    t->probs = attention_scratch_cut(base, &used, strip);
    t->dscores = attention_scratch_cut(base, &used, shape->tiles ? strip : 0);
    t->dscores_right = attention_scratch_cut(base, &used, block);
    t->running = attention_scratch_cut(base, &used, (size_t)shape->head_dim * sizeof(float));
    return used;
}

size_t attention_backward_scratch(const attention_shape_t *shape)
{
    backward_task_t unused;
    return cut_scratch(shape, NULL, &unused);
}

/* Where the packed block of queries from `query` on lies. */
static attention_operand_t query_block(const backward_task_t *t, attention_form_t form,
                                       char *packed, int64_t query)
{
    const attention_shape_t *shape = t->shape;
    packed += (size_t)(query / shape->queries) * attention_operand_bytes(shape, shape->queries);
    return attention_operand_init(shape, form, shape->queries, packed);
}

static float *dq_block(const backward_task_t *t, int64_t query)
{
    return t->dq_sums + query * t->shape->width;
}

/* ---- what is done once a task ---------------------------------------------------------------- */

/* -lse log2(e) and D = rowsum(dout * out) scale; for rows past seq what makes P and dS zero. */
static void prepare_rows(const backward_task_t *t)
{
    const attention_shape_t *shape = t->shape;
    for (int64_t r = t->first_query; r < t->last_query; r++) {
        attention_fetch(shape, t->out, r + ROWS_AHEAD, r + ROWS_AHEAD + 1);
        attention_fetch(shape, t->dout, r + ROWS_AHEAD, r + ROWS_AHEAD + 1);
        vec_t sum = vec_set(0);
        for (int64_t d = 0; d < shape->head_dim && r < shape->seq; d += VEC_LANES) {
            const int lanes = (int)attention_smaller(VEC_LANES, shape->head_dim - d);
            const char *out = t->out.base + r * t->out.stride;
            const char *dout = t->dout.base + r * t->dout.stride;
            sum = vec_fma(vec_load(out, shape->compute, d, lanes),
                          vec_load(dout, shape->compute, d, lanes), sum);
        }
        t->delta[r] = vec_sum(sum) * t->scale;
        t->minus_lse[r] = r < shape->seq ? -t->lse[r] * ATTENTION_LOG2_E : -INFINITY;
    }
}

/* Returns 1 where a value that is summed over is not finite. */
static int pack_queries(const backward_task_t *t)
{
    const attention_shape_t *shape = t->shape;
    int bad = 0;
    for (int64_t q = t->first_query; q < t->last_query; q += shape->queries) {
        const int64_t rows = attention_smaller(shape->queries, t->last_query - q);
        attention_fetch(shape, t->q, q + rows, q + rows + shape->queries);
        attention_fetch(shape, t->dout, q + rows, q + rows + shape->queries);
        attention_engine(shape, pack)(shape, ATTENTION_RIGHT_WIDE, t->q, q, rows,
                                      query_block(t, ATTENTION_RIGHT_WIDE, t->q_wide, q));
        attention_engine(shape, pack)(shape, ATTENTION_RIGHT_WIDE, t->dout, q, rows,
                                      query_block(t, ATTENTION_RIGHT_WIDE, t->dout_wide, q));
        if (!t->want_keys)
            continue;
        bad |= attention_engine(shape, pack)(shape, ATTENTION_RIGHT_ROWS, t->q, q, rows,
                                             query_block(t, ATTENTION_RIGHT_ROWS, t->q_rows, q));
        bad |= attention_engine(shape, pack)(shape, ATTENTION_RIGHT_ROWS, t->dout, q, rows,
                                             query_block(t, ATTENTION_RIGHT_ROWS, t->dout_rows, q));
    }
    return bad;
}

/* ---- a block of keys ------------------------------------------------------------------------- */

/* The key block's operands. */
typedef struct backward_keys {
    attention_operand_t k_wide, v_wide, k_rows;
    int64_t first, rows; /* rows: padded to ATTENTION_STEP */
} backward_keys_t;

static int pack_keys(const backward_task_t *t, int64_t key, backward_keys_t *keys)
{
    const attention_shape_t *shape = t->shape;
    const int64_t rows = attention_smaller(shape->keys, t->last_key - key);
    *keys = (backward_keys_t){
        .k_wide = attention_operand_init(shape, ATTENTION_LEFT_WIDE, shape->keys, t->k_wide),
        .v_wide = attention_operand_init(shape, ATTENTION_LEFT_WIDE, shape->keys, t->v_wide),
        .k_rows = attention_operand_init(shape, ATTENTION_LEFT_ROWS, shape->keys, t->k_rows),
        .first = key,
        .rows = rows};
    attention_fetch(shape, t->k, key + rows, key + rows + shape->keys);
    attention_fetch(shape, t->v, key + rows, key + rows + shape->keys);
    attention_engine(shape, pack)(shape, ATTENTION_LEFT_WIDE, t->k, key, rows, keys->k_wide);
    attention_engine(shape, pack)(shape, ATTENTION_LEFT_WIDE, t->v, key, rows, keys->v_wide);
    return attention_engine(shape, pack)(shape, ATTENTION_LEFT_ROWS, t->k, key, rows, keys->k_rows);
}

/* 32 keys of a key block against a query block, as far as these see them. */
typedef struct backward_strip {
    int64_t row;                        /* first key, within its block */
    int64_t query;                      /* the query block */
    int64_t skip, columns;              /* its first query that sees the keys; its end */
    attention_operand_t probs, dscores; /* left operands, outer: 32 keys, inner: queries */
    attention_operand_t dscores_right;  /* right operand, outer: queries, inner: the block's keys */
} backward_strip_t;

/* fma: dS is one matrix, by rows the left operand and by columns the right one. */
static backward_strip_t strip_init(const backward_task_t *t, const backward_keys_t *keys,
                                   int64_t row, int64_t query, int64_t columns)
{
    const attention_shape_t *shape = t->shape;
    const int64_t ld = shape->queries;
    attention_operand_t left = {.data = t->probs, .outer = ld * 4, .inner = 4};
    if (shape->tiles)
        left = (attention_operand_t){
            .data = t->probs, .outer = 1024, .inner = 2 * 1024, .plane = ATTENTION_STEP * ld * 2};
    backward_strip_t strip = {
        .row = row,
        .query = query,
        .skip = attention_larger(0, keys->first + row - query),
        .columns = columns,
        .probs = left,
        .dscores = left,
        .dscores_right = attention_operand_over_rows(shape, shape->keys, ld, t->dscores_right)};
    strip.dscores.data = shape->tiles ? t->dscores : t->dscores_right + row * ld * 4;
    return strip;
}

/* P and dS of queries column .. column + columns - 1. */
static void strip_gradients(const backward_task_t *t, const backward_keys_t *keys,
                            const backward_strip_t *s, int64_t column, int64_t columns)
{
    const attention_shape_t *shape = t->shape;
    const int64_t ld = shape->columns;
    const attention_operand_t q = query_block(t, ATTENTION_RIGHT_WIDE, t->q_wide, s->query);
    const attention_operand_t dout = query_block(t, ATTENTION_RIGHT_WIDE, t->dout_wide, s->query);
    const attention_strip_t part = {.scores = t->scores,
                                    .dprobs = t->dprobs,
                                    .ld = ld,
                                    .columns = columns,
                                    .minus_lse = t->minus_lse + s->query + column,
                                    .delta = t->delta + s->query + column,
                                    .scale = t->scale,
                                    .diagonal = keys->first + s->row == s->query + column,
                                    .probs = attention_at(shape, s->probs, 0, column),
                                    .dscores = attention_at(shape, s->dscores, 0, column),
                                    .dscores_right =
                                        attention_at(shape, s->dscores_right, column, s->row)};
    attention_engine(shape, product)(shape, t->scores, ld, ATTENTION_STEP, columns,
                                     attention_at(shape, keys->k_wide, s->row, 0),
                                     attention_at(shape, q, column, 0), shape->depth, 0);
    attention_engine(shape, product)(shape, t->dprobs, ld, ATTENTION_STEP, columns,
                                     attention_at(shape, keys->v_wide, s->row, 0),
                                     attention_at(shape, dout, column, 0), shape->depth, 0);
    attention_engine(shape, gradients)(shape, &part);
}

/* dV += P^T dO, dK += dS^T Q for the strip's keys. */
static void strip_products(const backward_task_t *t, const backward_strip_t *s)
{
    const attention_shape_t *shape = t->shape;
    const int64_t width = shape->width, depth = s->columns - s->skip;
    const attention_operand_t dout = query_block(t, ATTENTION_RIGHT_ROWS, t->dout_rows, s->query);
    const attention_operand_t q = query_block(t, ATTENTION_RIGHT_ROWS, t->q_rows, s->query);
    attention_engine(shape, product)(shape, t->dv_sums + s->row * width, width, ATTENTION_STEP,
                                     width, attention_at(shape, s->probs, 0, s->skip),
                                     attention_at(shape, dout, 0, s->skip), depth, 1);
    attention_engine(shape, product)(shape, t->dk_sums + s->row * width, width, ATTENTION_STEP,
                                     width, attention_at(shape, s->dscores, 0, s->skip),
                                     attention_at(shape, q, 0, s->skip), depth, 1);
}

/* dQ^T += K^T dS^T for the block; on the diagonal 32 columns at a time, over the keys they see. */
static void block_products(const backward_task_t *t, const backward_keys_t *keys, int64_t query,
                           int64_t columns)
{
    const attention_shape_t *shape = t->shape;
    const attention_operand_t dscores =
        attention_operand_over_rows(shape, shape->keys, shape->queries, t->dscores_right);
    const int whole = keys->first + keys->rows <= query + ATTENTION_STEP;
    const int64_t step = whole ? columns : ATTENTION_STEP;
    for (int64_t q = 0; q < columns; q += step) {
        const int64_t seen =
            attention_smaller(keys->rows, query + q + ATTENTION_STEP - keys->first);
        if (seen > 0)
            attention_engine(shape, product)(shape, dq_block(t, query) + q, shape->queries,
                                             shape->width, step, keys->k_rows,
                                             attention_at(shape, dscores, q, 0), seen, 1);
    }
}

/* A key block against a query block. */
static void pass_block(const backward_task_t *t, const backward_keys_t *keys, int64_t query)
{
    const attention_shape_t *shape = t->shape;
    const int64_t columns = attention_smaller(shape->queries, t->last_query - query);
    const int64_t rows = attention_smaller(keys->rows, query + columns - keys->first);
    for (int64_t row = 0; row < rows; row += ATTENTION_STEP) {
        const backward_strip_t strip = strip_init(t, keys, row, query, columns);
        for (int64_t q = strip.skip; q < columns; q += shape->columns)
            strip_gradients(t, keys, &strip, q, attention_smaller(shape->columns, columns - q));
        if (t->want_keys)
            strip_products(t, &strip);
    }
    if (t->want_queries)
        block_products(t, keys, query, columns);
}

/* Rows of [.,width] to the caller's array. */
static void store_rows(const backward_task_t *t, const float *from, char *to, int64_t first,
                       int64_t rows)
{
    const attention_shape_t *shape = t->shape;
    for (int64_t r = 0; r < rows && first + r < shape->seq; r++)
        for (int64_t d = 0; d < shape->head_dim; d += VEC_LANES) {
            const int lanes = (int)attention_smaller(VEC_LANES, shape->head_dim - d);
            vec_store(to + (first + r) * t->stride, shape->compute, d, lanes,
                      vec_load_f32(from + r * shape->width + d, VEC_LANES));
        }
}

static int backward_keys(const backward_task_t *t, int64_t key)
{
    const attention_shape_t *shape = t->shape;
    const size_t sums = (size_t)(shape->keys * shape->width) * sizeof(float);
    backward_keys_t keys;
    const int bad = pack_keys(t, key, &keys);
    memset(t->dk_sums, 0, sums);
    memset(t->dv_sums, 0, sums);
    const int64_t first = attention_larger(t->first_query, key / shape->queries * shape->queries);
    for (int64_t query = first; query < t->last_query; query += shape->queries)
        pass_block(t, &keys, query);
    if (t->want_keys) {
        store_rows(t, t->dk_sums, t->dk, key, keys.rows);
        store_rows(t, t->dv_sums, t->dv, key, keys.rows);
    }
    return bad;
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static void store_queries(const backward_task_t *t)
{
    const attention_shape_t *shape = t->shape;
    for (int64_t q = t->first_query; q < t->last_query; q += shape->queries) {
        const int64_t last = attention_smaller(q + shape->queries, t->last_query);
        const int64_t rows = attention_smaller(last, shape->seq) - q;
        attention_store_transposed(shape, dq_block(t, q), shape->queries, NULL, shape->tiles,
                                   t->dq + q * t->stride, t->stride, rows);
    }
}

static void restore_nonfinite(const backward_task_t *t, int bad_queries, int bad_keys)
{
    const attention_shape_t *shape = t->shape;
    const int64_t last_key = attention_smaller(t->last_key, shape->seq);
    const int64_t last_query = attention_smaller(t->last_query, shape->seq);
    if (t->want_keys && bad_queries) {
        attention_nonfinite_up(shape, t->dout, 1, t->dv, t->stride, t->first_key, last_key,
                               t->running);
        attention_nonfinite_up(shape, t->q, 0, t->dk, t->stride, t->first_key, last_key,
                               t->running);
    }
    if (t->want_queries && bad_keys)
        attention_nonfinite_down(shape, t->k, 0, t->dq, t->stride, t->first_query, last_query,
                                 t->running);
}

static void backward_part(const backward_task_t *t)
{
    int bad_keys = 0;
    prepare_rows(t);
    const int bad_queries = pack_queries(t);
    if (t->want_queries)
        memset(dq_block(t, t->first_query), 0,
               (size_t)((query_blocks(t->shape) * t->shape->queries - t->first_query) *
                        t->shape->width) *
                   sizeof(float));
    for (int64_t key = t->first_key; key < t->last_key; key += t->shape->keys)
        bad_keys |= backward_keys(t, key);
    if (t->want_queries)
        store_queries(t);
    restore_nonfinite(t, bad_queries, bad_keys);
}

static backward_task_t start_task(const backward_job_t *job, int64_t head, int worker)
{
    const attention_shape_t *shape = &job->shape;
    const mpt_attention_backward_t *args = job->args;
    const int64_t b = head / shape->heads, h = head % shape->heads;
    const int64_t row = shape->head_dim * (int64_t)mpt_dtype_bytes(shape->compute);
    const int64_t token = shape->heads * row, first = b * shape->seq * token + h * row;
    const char *q = (const char *)args->qkv + b * shape->seq * 3 * token + h * row;
    char *dq = (char *)args->dqkv + (q - (const char *)args->qkv);
    backward_task_t t = {.shape = shape,
                         .q = {q, 3 * token},
                         .k = {q + token, 3 * token},
                         .v = {q + 2 * token, 3 * token},
                         .out = {(const char *)args->out + first, token},
                         .dout = {(const char *)args->dout + first, token},
                         .dq = dq,
                         .dk = dq + token,
                         .dv = dq + 2 * token,
                         .stride = 3 * token,
                         .lse = (const float *)args->lse + head * shape->seq,
                         .scale = 1 / sqrtf((float)shape->head_dim),
                         .last_key = shape->rows,
                         .last_query = shape->rows,
                         .want_keys = 1,
                         .want_queries = 1};
    cut_scratch(shape, job->scratch + (size_t)worker * job->scratch_stride, &t);
    return t;
}

/*
 * chunks > 1: a head is cut into 2 * chunks tasks. The first `chunks` of them take some keys each
 * against all queries that see them, for dK and dV; the others some queries each against all keys
 * that they see, for dQ. S and dP are computed twice, but every sum in the order of the whole task.
 */
static void narrow_task(const backward_job_t *job, int64_t part, backward_task_t *t)
{
    const attention_shape_t *shape = &job->shape;
    const int64_t unit = attention_larger(shape->keys, shape->queries);
    const int64_t units = (shape->rows + unit - 1) / unit, chunk = part % job->chunks;
    const int64_t first = units * chunk / job->chunks * unit;
    const int64_t last = attention_smaller(shape->rows, units * (chunk + 1) / job->chunks * unit);
    t->want_keys = part < job->chunks;
    t->want_queries = !t->want_keys;
    if (t->want_keys) {
        t->first_key = t->first_query = first;
        t->last_key = last;
    } else {
        t->first_query = first;
        t->last_key = t->last_query = last;
    }
}

static void run_task(void *ctx, int index, int worker)
{
    const backward_job_t *job = ctx;
    const int64_t parts = job->chunks > 1 ? 2 * job->chunks : 1;
    backward_task_t t = start_task(job, index / parts, worker);
    if (parts > 1)
        narrow_task(job, index % parts, &t);
#ifdef ATTENTION_HAS_TILES
    attention_tiles_begin();
#endif
    backward_part(&t);
#ifdef ATTENTION_HAS_TILES
    attention_tiles_end();
#endif
}

/* Cut heads where whole ones would leave threads idle for longer than S and dP take a second time:
 * 7 products in place of 5. */
static int64_t choose_chunks(const attention_shape_t *shape, int64_t threads)
{
    const int64_t heads = shape->batch * shape->heads;
    const int64_t rounds = (heads + threads - 1) / threads;
    const int64_t unit = attention_larger(shape->keys, shape->queries);
    if (7 * heads >= 5 * rounds * threads)
        return 1;
    return attention_smaller((shape->rows + unit - 1) / unit, (2 * threads + heads - 1) / heads);
}

mpt_status_t cpu_attention_backward(mpt_kernels_t *k, const mpt_attention_backward_t *a,
                                    mpt_stream_t *s)
{
    (void)s; /* the CPU's streams run each call to its end */
    backward_job_t job = {
        .shape = attention_shape_init(a->compute, a->batch, a->seq, a->heads, a->head_dim, 1),
        .args = a,
        .scratch = k->scratch};
    job.scratch_stride = attention_backward_scratch(&job.shape);
    if (!attention_scratch_fits(k, job.scratch_stride, "attention_backward"))
        return MPT_ERR_INVALID_ARG;
    job.chunks = choose_chunks(&job.shape, attention_threads(k));
    const int64_t parts = job.chunks > 1 ? 2 * job.chunks : 1;
    attention_run(k, run_task, &job, a->batch * a->heads * parts);
    return MPT_OK;
}
