/*
 * LayerNorm with the residual addition fused in. Forward is cut over rows: each takes three passes
 * that all but the first find in L1 (sum and mean, variance, output), the variance of differences
 * from the mean.
 *
 * Backward is cut into a fixed number of row chunks. Each chunk sums dgamma and dbeta of its rows,
 * in order, into scratch; then the chunks are added in order, cut over columns:
 *
 *     scratch: [CHUNKS][2][padded dim] FP32, dgamma before dbeta
 */
#include "elementwise.h"
#include "vec.h"
#include <math.h>

#define EPSILON 1e-5f
#define CHUNKS 64
/* Columns of one task of the fold. */
#define FOLD_COLUMNS 256
/* Rows that forward works on together: what they read stays in L1 from pass to pass. */
#define ABREAST 2
/* Independent chains of a row's sums. */
#define CHAINS 4

static int64_t padded(int64_t dim)
{
    return (dim + 15) / 16 * 16;
}

size_t cpu_layernorm_scratch_bytes(int64_t dim)
{
    return (size_t)(CHUNKS * 2 * padded(dim)) * sizeof(float);
}

/* ---- forward
 * ----------------------------------------------------------------------------------- */

/* One row's arrays, at the row's start. */
typedef struct forward_row {
    const char *x, *delta;
    char *sum, *y;
} forward_row_t;

VEC_INLINE vec_t add_residual(const forward_row_t *row, mpt_dtype_t dtype, int64_t i, int lanes)
{
    vec_t value = vec_load(row->x, dtype, i, lanes);
    vec_prefetch(row->x, dtype, i);
    if (row->delta) {
        vec_prefetch(row->delta, dtype, i);
        value += vec_load(row->delta, dtype, i, lanes);
        value = vec_store_rounded(row->sum, dtype, i, lanes, value);
    }
    return value;
}

/* Writes the residual sum and returns the mean. */
VEC_INLINE float row_mean(const forward_row_t *row, int64_t dim, mpt_dtype_t dtype)
{
    vec_t total[CHAINS] = {{0}};
    int64_t i = 0;
    for (; i + CHAINS * VEC_LANES <= dim; i += CHAINS * VEC_LANES)
        for (int c = 0; c < CHAINS; c++)
            total[c] += add_residual(row, dtype, i + c * VEC_LANES, VEC_LANES);
    for (; i + VEC_LANES <= dim; i += VEC_LANES)
        total[0] += add_residual(row, dtype, i, VEC_LANES);
    if (i < dim)
        total[1] += add_residual(row, dtype, i, (int)(dim - i));
    return vec_sum((total[0] + total[1]) + (total[2] + total[3])) / (float)dim;
}

VEC_INLINE float row_rstd(const char *sum, int64_t dim, mpt_dtype_t dtype, float mean)
{
    vec_t total[CHAINS] = {{0}};
    int64_t i = 0;
    for (; i + CHAINS * VEC_LANES <= dim; i += CHAINS * VEC_LANES)
        for (int c = 0; c < CHAINS; c++) {
            const vec_t d = vec_load(sum, dtype, i + c * VEC_LANES, VEC_LANES) - mean;
            total[c] = vec_fma(d, d, total[c]);
        }
    for (; i + VEC_LANES <= dim; i += VEC_LANES) {
        const vec_t d = vec_load(sum, dtype, i, VEC_LANES) - mean;
        total[0] = vec_fma(d, d, total[0]);
    }
    if (i < dim) {
        const int lanes = (int)(dim - i);
        const vec_t d = vec_first(vec_load(sum, dtype, i, lanes) - mean, lanes);
        total[1] = vec_fma(d, d, total[1]);
    }
    const float variance = vec_sum((total[0] + total[1]) + (total[2] + total[3])) / (float)dim;
    return 1.0f / sqrtf(variance + EPSILON);
}

VEC_INLINE void normalise(const mpt_layernorm_forward_t *a, const forward_row_t *row, float mean,
                          float rstd, mpt_dtype_t dtype, int64_t i, int lanes)
{
    vec_prefetch(row->y, dtype, i);
    const vec_t xhat = (vec_load(row->sum, dtype, i, lanes) - mean) * rstd;
    const vec_t gamma = vec_load(a->gamma, dtype, i, lanes);
    const vec_t beta = vec_load(a->beta, dtype, i, lanes);
    vec_store(row->y, dtype, i, lanes, vec_fma(gamma, xhat, beta));
}

VEC_INLINE forward_row_t forward_arrays(const mpt_layernorm_forward_t *a, int64_t index,
                                        mpt_dtype_t dtype)
{
    const int64_t offset = index * a->dim * (int64_t)mpt_dtype_bytes(dtype);
    return (forward_row_t){
        .x = (const char *)a->x + offset,
        .delta = a->delta ? (const char *)a->delta + offset : NULL,
        .sum = a->delta ? (char *)a->sum + offset : (char *)a->x + offset,
        .y = (char *)a->y + offset,
    };
}

VEC_INLINE void normalise_row(const mpt_layernorm_forward_t *a, const forward_row_t *row,
                              float mean, float rstd, mpt_dtype_t dtype)
{
    int64_t i = 0;
    for (; i + VEC_LANES <= a->dim; i += VEC_LANES)
        normalise(a, row, mean, rstd, dtype, i, VEC_LANES);
    if (i < a->dim)
        normalise(a, row, mean, rstd, dtype, i, (int)(a->dim - i));
}

/* Pass by pass, so that one row's work hides the end of another's sum. */
VEC_INLINE void forward_rows(const mpt_layernorm_forward_t *a, int64_t first, int count,
                             mpt_dtype_t dtype)
{
    forward_row_t row[ABREAST];
    float *mean = (float *)a->mean + first, *rstd = (float *)a->rstd + first;
    for (int r = 0; r < count; r++) {
        row[r] = forward_arrays(a, first + r, dtype);
        mean[r] = row_mean(&row[r], a->dim, dtype);
    }
    for (int r = 0; r < count; r++)
        rstd[r] = row_rstd(row[r].sum, a->dim, dtype, mean[r]);
    for (int r = 0; r < count; r++)
        normalise_row(a, &row[r], mean[r], rstd[r], dtype);
}

static void forward_task(void *ctx, int task, int worker)
{
    (void)worker;
    const mpt_layernorm_forward_t *a = ctx;
    const int64_t piece = tasks_rows(a->dim);
    const int64_t end = tasks_end(a->rows, piece, task);
    for (int64_t row = task * piece; row < end; row += ABREAST) {
        const int count = end - row < ABREAST ? (int)(end - row) : ABREAST;
        if (a->compute == MPT_F32)
            forward_rows(a, row, count, MPT_F32);
        else if (a->compute == MPT_BF16)
            forward_rows(a, row, count, MPT_BF16);
        else
            forward_rows(a, row, count, MPT_F16);
    }
}

mpt_status_t cpu_layernorm_forward(mpt_kernels_t *k, const mpt_layernorm_forward_t *a,
                                   mpt_stream_t *s)
{
    (void)s;
    mpt_layernorm_forward_t args = *a;
    tasks_run(k, forward_task, &args, tasks_cover(a->rows, tasks_rows(a->dim)));
    return MPT_OK;
}

/* ---- backward
 * ---------------------------------------------------------------------------------- */

typedef struct backward {
    const mpt_layernorm_backward_t *a;
    float *partials;
} backward_t;

/* One row's arrays, at the row's start, and the sums that its dx needs. */
typedef struct backward_row {
    const char *dy, *x, *dres;
    char *dx;
    float mean, rstd;
    vec_t sum_g, sum_gx; /* of dy * gamma, and of that times xhat */
} backward_row_t;

VEC_INLINE void add_gradients(const mpt_layernorm_backward_t *a, backward_row_t *row, float *dgamma,
                              float *dbeta, mpt_dtype_t dtype, int64_t i, int lanes)
{
    vec_prefetch(row->dy, dtype, i);
    vec_prefetch(row->x, dtype, i);
    const vec_t dy = vec_load(row->dy, dtype, i, lanes);
    const vec_t xhat = (vec_load(row->x, dtype, i, lanes) - row->mean) * row->rstd;
    const vec_t g = dy * vec_load(a->gamma, dtype, i, lanes);
    row->sum_g += g;
    row->sum_gx = vec_fma(g, xhat, row->sum_gx);
    vec_store_f32(dgamma + i, lanes, vec_fma(dy, xhat, vec_load_f32(dgamma + i, lanes)));
    vec_store_f32(dbeta + i, lanes, vec_load_f32(dbeta + i, lanes) + dy);
}

VEC_INLINE void input_gradient(const mpt_layernorm_backward_t *a, const backward_row_t *row,
                               float mean_g, float mean_gx, mpt_dtype_t dtype, int64_t i, int lanes)
{
    const vec_t xhat = (vec_load(row->x, dtype, i, lanes) - row->mean) * row->rstd;
    const vec_t g = vec_load(row->dy, dtype, i, lanes) * vec_load(a->gamma, dtype, i, lanes);
    vec_t dx = vec_fma(-xhat, vec_set(mean_gx), g - mean_g) * row->rstd;
    if (row->dres) {
        vec_prefetch(row->dres, dtype, i);
        dx += vec_load(row->dres, dtype, i, lanes);
    }
    vec_store(row->dx, dtype, i, lanes, dx);
}

VEC_INLINE void backward_row(const mpt_layernorm_backward_t *a, int64_t index, float *dgamma,
                             float *dbeta, mpt_dtype_t dtype)
{
    const int64_t dim = a->dim, offset = index * dim * (int64_t)mpt_dtype_bytes(dtype);
    backward_row_t row = {
        .dy = (const char *)a->dy + offset,
        .x = (const char *)a->x + offset,
        .dres = a->dres ? (const char *)a->dres + offset : NULL,
        .dx = (char *)a->dx + offset,
        .mean = ((const float *)a->mean)[index],
        .rstd = ((const float *)a->rstd)[index],
    };
    int64_t i = 0;
    for (; i + VEC_LANES <= dim; i += VEC_LANES)
        add_gradients(a, &row, dgamma, dbeta, dtype, i, VEC_LANES);
    if (i < dim)
        add_gradients(a, &row, dgamma, dbeta, dtype, i, (int)(dim - i));
    const float mean_g = vec_sum(row.sum_g) / (float)dim;
    const float mean_gx = vec_sum(row.sum_gx) / (float)dim;
    for (i = 0; i + VEC_LANES <= dim; i += VEC_LANES)
        input_gradient(a, &row, mean_g, mean_gx, dtype, i, VEC_LANES);
    if (i < dim)
        input_gradient(a, &row, mean_g, mean_gx, dtype, i, (int)(dim - i));
}

static int64_t chunk_rows(int64_t rows)
{
    return tasks_cover(rows, CHUNKS);
}

static void backward_task(void *ctx, int task, int worker)
{
    (void)worker;
    const backward_t *b = ctx;
    const mpt_layernorm_backward_t *a = b->a;
    const int64_t piece = chunk_rows(a->rows), width = padded(a->dim);
    const int64_t end = tasks_end(a->rows, piece, task);
    float *dgamma = b->partials + task * 2 * width, *dbeta = dgamma + width;
    memset(dgamma, 0, (size_t)(2 * width) * sizeof *dgamma);
    for (int64_t row = task * piece; row < end; row++) {
        if (a->compute == MPT_F32)
            backward_row(a, row, dgamma, dbeta, MPT_F32);
        else if (a->compute == MPT_BF16)
            backward_row(a, row, dgamma, dbeta, MPT_BF16);
        else
            backward_row(a, row, dgamma, dbeta, MPT_F16);
    }
}

/* total[i] += the chunks' partial sums of column i, first to last. */
VEC_INLINE void fold(float *total, const float *partials, int64_t chunks, int64_t stride, int64_t i,
                     int lanes)
{
    vec_t sum = {0};
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        sum += vec_load_f32(partials + chunk * stride + i, lanes);
    vec_store_f32(total + i, lanes, vec_load_f32(total + i, lanes) + sum);
}

static void fold_task(void *ctx, int task, int worker)
{
    (void)worker;
    const backward_t *b = ctx;
    const int64_t width = padded(b->a->dim), end = tasks_end(b->a->dim, FOLD_COLUMNS, task);
    const int64_t chunks = tasks_cover(b->a->rows, chunk_rows(b->a->rows));
    for (int64_t i = (int64_t)task * FOLD_COLUMNS; i < end; i += VEC_LANES) {
        const int lanes = end - i < VEC_LANES ? (int)(end - i) : VEC_LANES;
        fold(b->a->dgamma, b->partials, chunks, 2 * width, i, lanes);
        fold(b->a->dbeta, b->partials + width, chunks, 2 * width, i, lanes);
    }
}

mpt_status_t cpu_layernorm_backward(mpt_kernels_t *k, const mpt_layernorm_backward_t *a,
                                    mpt_stream_t *s)
{
    (void)s;
    if (!tasks_scratch_fits(k, cpu_layernorm_scratch_bytes(a->dim), "layernorm_backward"))
        return MPT_ERR_INVALID_ARG;
    if (a->rows == 0)
        return MPT_OK;
    backward_t b = {a, k->scratch};
    tasks_run(k, backward_task, &b, tasks_cover(a->rows, chunk_rows(a->rows)));
    tasks_run(k, fold_task, &b, tasks_cover(a->dim, FOLD_COLUMNS));
    return MPT_OK;
}
