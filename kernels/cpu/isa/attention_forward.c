#include <float.h>
#include "attention.h"

typedef struct forward_job {
    attention_shape_t shape;
    const mpt_attention_forward_t *args;
    char *scratch;
    size_t scratch_stride;
    int64_t chunks; /* tasks a head is cut into: query blocks chunk, chunk + chunks, ... */
} forward_job_t;

/* How far, in powers of two, scores may rise over the base of their exponents before it follows.
 * Sums are rarely rescaled so, and 2^8 leaves FP16 room. */
#define RISE 8

/* One task: a head, and this thread's scratch. */
typedef struct forward_task {
    const attention_shape_t *shape;
    attention_source_t q, k, v;
    char *out; /* row 0 of this head */
    int64_t out_stride;
    float *lse;
    float c;             /* scale log2(e) */
    char *keys, *values; /* packed blocks, one after the other */
    char *queries, *probs;
    float *scores;              /* [keys,queries] */
    float *out_sums;            /* O^T: [width,queries] */
    float *base, *sum, *factor; /* [queries]; base: what exponents are taken against */
    float *running;             /* [head_dim] */
} forward_task_t;

static size_t cut_scratch(const attention_shape_t *shape, char *base, forward_task_t *t)
{
    const int64_t blocks = (shape->rows + shape->keys - 1) / shape->keys;
    const size_t packed = attention_operand_bytes(shape, blocks * shape->keys);
    const size_t row = (size_t)shape->queries * sizeof(float);
    const size_t block = row * (size_t)shape->keys;
    size_t used = 0;
    t->keys = attention_scratch_cut(base, &used, packed);
    t->values = attention_scratch_cut(base, &used, packed);
    t->queries = attention_scratch_cut(base, &used, attention_operand_bytes(shape, shape->queries));
    t->scores = attention_scratch_cut(base, &used, block);
    t->probs = (char *)t->scores;
    if (shape->tiles)
        t->probs = attention_scratch_cut(base, &used, block);
    t->out_sums = attention_scratch_cut(base, &used, row * (size_t)shape->width);
    t->base = attention_scratch_cut(base, &used, row);
    t->sum = attention_scratch_cut(base, &used, row);
    t->factor = attention_scratch_cut(base, &used, row);
    t->running = attention_scratch_cut(base, &used, (size_t)shape->head_dim * sizeof(float));
    return used;
}

size_t attention_forward_scratch(const attention_shape_t *shape)
{
    forward_task_t unused;
    return cut_scratch(shape, NULL, &unused);
}

static attention_operand_t key_block(const forward_task_t *t, attention_form_t form, char *packed,
                                     int64_t key)
{
    const attention_shape_t *shape = t->shape;
    packed += (size_t)(key / shape->keys) * attention_operand_bytes(shape, shape->keys);
    return attention_operand_init(shape, form, shape->keys, packed);
}

/* Pack keys and values 0 .. last-1. Returns 1 where a value is not finite. */
static int pack_keys(const forward_task_t *t, int64_t last)
{
    const attention_shape_t *shape = t->shape;
    int bad = 0;
    for (int64_t key = 0; key < last; key += shape->keys) {
        const int64_t rows = attention_smaller(shape->keys, last - key);
        attention_fetch(shape, t->k, key + rows, key + rows + shape->keys);
        attention_fetch(shape, t->v, key + rows, key + rows + shape->keys);
        attention_engine(shape, pack)(shape, ATTENTION_LEFT_WIDE, t->k, key, rows,
                                      key_block(t, ATTENTION_LEFT_WIDE, t->keys, key));
        bad |= attention_engine(shape, pack)(shape, ATTENTION_LEFT_ROWS, t->v, key, rows,
                                             key_block(t, ATTENTION_LEFT_ROWS, t->values, key));
    }
    return bad;
}

/* Queries do not see keys after them. */
static void mask_scores(float *scores, int64_t ld, int64_t first_key, int64_t keys,
                        int64_t first_query, int64_t columns)
{
    for (int64_t k = 0; k < keys; k++)
        for (int64_t q = 0; q < columns && first_query + q < first_key + k; q += VEC_LANES) {
            float *at = scores + k * ld + q;
            const int32_t distance = (int32_t)(first_key + k - first_query - q);
            const vec_i32_t visible = attention_lane_numbers() >= distance;
            vec_store_f32(at, VEC_LANES,
                          vec_select(visible, vec_load_f32(at, VEC_LANES), vec_set(-INFINITY)));
        }
}

static vec_t column_peak(const float *scores, int64_t keys, int64_t ld)
{
    vec_t high[4];
    for (int i = 0; i < 4; i++)
        high[i] = vec_load_f32(scores + i * ld, VEC_LANES);
    for (int64_t k = 4; k < keys; k += 4)
        for (int i = 0; i < 4; i++)
            high[i] = vec_max(high[i], vec_load_f32(scores + (k + i) * ld, VEC_LANES));
    return vec_max(vec_max(high[0], high[1]), vec_max(high[2], high[3]));
}

/*
 * Raise the bases of columns whose scores have risen far over them, or that have none yet, and
 * bring their sums to the new base: factor = 2^(old base - new base). Each column decides by its
 * own scores, so that no query's bits depend on another's. Returns 1 where some factor is not 1.
 */
static int raise_bases(const forward_task_t *t, int64_t keys, int64_t columns)
{
    vec_i32_t moved = {0};
    for (int64_t q = 0; q < columns; q += VEC_LANES) {
        const vec_t old = vec_load_f32(t->base + q, VEC_LANES);
        const vec_t peak = column_peak(t->scores + q, keys, columns) * t->c;
        const vec_t base = vec_select(peak > old + RISE, peak, old);
        const vec_t factor = attention_exp2(old - base);
        vec_store_f32(t->base + q, VEC_LANES, base);
        vec_store_f32(t->sum + q, VEC_LANES, vec_load_f32(t->sum + q, VEC_LANES) * factor);
        vec_store_f32(t->factor + q, VEC_LANES, factor);
        moved |= factor != 1.0f;
    }
    return attention_any(moved);
}

static void scale_columns(float *matrix, int64_t rows, int64_t columns, const float *factor)
{
    for (int64_t i = 0; i < rows; i++, matrix += columns)
        for (int64_t j = 0; j < columns; j += VEC_LANES)
            vec_store_f32(matrix + j, VEC_LANES,
                          vec_load_f32(matrix + j, VEC_LANES) *
                              vec_load_f32(factor + j, VEC_LANES));
}

/* Queries query .. query + columns - 1 against one block of keys. */
static void add_keys(const forward_task_t *t, attention_operand_t queries, int64_t query,
                     int64_t columns, int64_t key)
{
    const attention_shape_t *shape = t->shape;
    const int64_t keys = attention_smaller(shape->keys, query + columns - key);
    const attention_operand_t probs =
        attention_operand_over_rows(shape, shape->keys, columns, t->probs);
    attention_engine(shape, product)(shape, t->scores, columns, keys, columns,
                                     key_block(t, ATTENTION_LEFT_WIDE, t->keys, key), queries,
                                     shape->depth, 0);
    mask_scores(t->scores, columns, key, keys, query, columns);
    if (raise_bases(t, keys, columns) && key > 0)
        scale_columns(t->out_sums, shape->width, columns, t->factor);
    attention_engine(shape, probabilities)(shape, t->scores, keys, columns, t->c, t->base, t->sum,
                                           probs);
    attention_engine(shape, product)(shape, t->out_sums, columns, shape->width, columns,
                                     key_block(t, ATTENTION_LEFT_ROWS, t->values, key), probs, keys,
                                     key > 0);
}

static void store_block(const forward_task_t *t, int64_t query, int64_t columns)
{
    const int64_t rows = attention_smaller(columns, t->shape->seq - query);
    for (int64_t q = 0; q < columns; q += VEC_LANES) {
        const vec_t sum = vec_load_f32(t->sum + q, VEC_LANES);
        const vec_t log_sum = vec_load_f32(t->base + q, VEC_LANES) + attention_log2(sum);
        vec_store_f32(t->factor + q, VEC_LANES, 1.0f / sum);
        vec_store_f32(t->base + q, VEC_LANES, log_sum * ATTENTION_LN_2);
    }
    memcpy(t->lse + query, t->base, (size_t)rows * sizeof(float));
    attention_store_transposed(t->shape, t->out_sums, columns, t->factor, 0,
                               t->out + query * t->out_stride, t->out_stride, rows);
}

static void forward_block(const forward_task_t *t, int64_t query)
{
    const attention_shape_t *shape = t->shape;
    const int64_t columns = attention_smaller(shape->queries, shape->rows - query);
    const attention_operand_t queries =
        attention_operand_init(shape, ATTENTION_RIGHT_WIDE, columns, t->queries);
    attention_engine(shape, pack)(shape, ATTENTION_RIGHT_WIDE, t->q, query, columns, queries);
    for (int64_t q = 0; q < columns; q++) {
        t->base[q] = -FLT_MAX; /* finite, so that -inf scores against it are -inf, not NaN */
        t->sum[q] = 0;
    }
    for (int64_t key = 0; key < query + columns; key += shape->keys)
        add_keys(t, queries, query, columns, key);
    store_block(t, query, columns);
}

static forward_task_t start_task(const forward_job_t *job, int64_t head, int worker)
{
    const attention_shape_t *shape = &job->shape;
    const mpt_attention_forward_t *args = job->args;
    const int64_t b = head / shape->heads, h = head % shape->heads;
    const int64_t row = shape->head_dim * (int64_t)mpt_dtype_bytes(shape->compute);
    const int64_t token = shape->heads * row;
    const char *q = (const char *)args->qkv + b * shape->seq * 3 * token + h * row;
    forward_task_t t = {.shape = shape,
                        .q = {q, 3 * token},
                        .k = {q + token, 3 * token},
                        .v = {q + 2 * token, 3 * token},
                        .out = (char *)args->out + b * shape->seq * token + h * row,
                        .out_stride = token,
                        .lse = (float *)args->lse + head * shape->seq,
                        .c = ATTENTION_LOG2_E / sqrtf((float)shape->head_dim)};
    cut_scratch(shape, job->scratch + (size_t)worker * job->scratch_stride, &t);
    return t;
}

/* Last blocks first: they see the most keys. */
static void run_task(void *ctx, int index, int worker)
{
    const forward_job_t *job = ctx;
    const attention_shape_t *shape = &job->shape;
    const int64_t chunk = index % job->chunks;
    const forward_task_t t = start_task(job, index / job->chunks, worker);
    const int64_t blocks = (shape->rows + shape->queries - 1) / shape->queries;
    const int64_t last = blocks - 1 - chunk;
#ifdef ATTENTION_HAS_TILES
    attention_tiles_begin();
#endif
    const int bad = pack_keys(&t, attention_smaller(shape->rows, (last + 1) * shape->queries));
    for (int64_t block = last; block >= 0; block -= job->chunks) {
        const int64_t query = block * shape->queries;
        forward_block(&t, query);
        if (bad)
            attention_nonfinite_down(shape, t.v, 1, t.out, t.out_stride, query,
                                     attention_smaller(shape->seq, query + shape->queries),
                                     t.running);
    }
#ifdef ATTENTION_HAS_TILES
    attention_tiles_end();
#endif
}

mpt_status_t cpu_attention_forward(mpt_kernels_t *k, const mpt_attention_forward_t *a,
                                   mpt_stream_t *s)
{
    (void)s; /* the CPU's streams run each call to its end */
    forward_job_t job = {
        .shape = attention_shape_init(a->compute, a->batch, a->seq, a->heads, a->head_dim, 0),
        .args = a,
        .scratch = k->scratch};
    const int64_t heads = a->batch * a->heads, threads = attention_threads(k);
    const int64_t blocks = (job.shape.rows + job.shape.queries - 1) / job.shape.queries;
    job.scratch_stride = attention_forward_scratch(&job.shape);
    if (!attention_scratch_fits(k, job.scratch_stride, "attention_forward"))
        return MPT_ERR_INVALID_ARG;
    /* Each chunk packs the head's keys again. A block's bits do not depend on the cut. */
    job.chunks = heads >= 2 * threads ? 1 : attention_smaller(blocks, 4 * threads / heads + 1);
    attention_run(k, run_task, &job, heads * job.chunks);
    return MPT_OK;
}
