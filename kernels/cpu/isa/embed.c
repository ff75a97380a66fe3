/*
 * Embedding: rows of the token table plus rows of the position table, and their gradients. Forward
 * is cut over rows; backward over columns, because a token may stand in any number of rows and each
 * gradient element must see its additions in row order.
 */
#include "elementwise.h"
#include "vec.h"

/* Columns of one backward task are a multiple of this: whole cache lines. */
#define COLUMNS 64
/* Rows ahead of which the row that a token picks is asked for. */
#define FORWARD_AHEAD 2
#define BACKWARD_AHEAD 16

VEC_INLINE void add_rows(void *out, const void *a, const void *b, mpt_dtype_t dtype, int64_t i,
                         int lanes)
{
    vec_store(out, dtype, i, lanes, vec_load(a, dtype, i, lanes) + vec_load(b, dtype, i, lanes));
}

VEC_INLINE void forward_row(const mpt_embed_forward_t *a, int64_t row, mpt_dtype_t dtype)
{
    const int64_t bytes = (int64_t)mpt_dtype_bytes(dtype);
    const int64_t next = row + FORWARD_AHEAD < a->batch * a->seq ? row + FORWARD_AHEAD : row;
    const char *ahead = (const char *)a->wte + (int64_t)a->tokens[next] * a->dim * bytes;
    const char *token = (const char *)a->wte + (int64_t)a->tokens[row] * a->dim * bytes;
    const char *position = (const char *)a->wpe + row % a->seq * a->dim * bytes;
    char *out = (char *)a->out + row * a->dim * bytes;
    int64_t i = 0;
    for (; i + VEC_LANES <= a->dim; i += VEC_LANES) {
        __builtin_prefetch(ahead + i * bytes);
        add_rows(out, token, position, dtype, i, VEC_LANES);
    }
    if (i < a->dim)
        add_rows(out, token, position, dtype, i, (int)(a->dim - i));
}

static void forward_task(void *ctx, int task, int worker)
{
    (void)worker;
    const mpt_embed_forward_t *a = ctx;
    const int64_t piece = tasks_rows(a->dim);
    const int64_t end = tasks_end(a->batch * a->seq, piece, task);
    for (int64_t row = task * piece; row < end; row++) {
        if (a->compute == MPT_F32)
            forward_row(a, row, MPT_F32);
        else if (a->compute == MPT_BF16)
            forward_row(a, row, MPT_BF16);
        else
            forward_row(a, row, MPT_F16);
    }
}

mpt_status_t cpu_embed_forward(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s)
{
    (void)s;
    mpt_embed_forward_t args = *a;
    tasks_run(k, forward_task, &args, tasks_cover(a->batch * a->seq, tasks_rows(a->dim)));
    return MPT_OK;
}

VEC_INLINE void accumulate(float *dtoken, float *dposition, const void *dout, mpt_dtype_t dtype,
                           int64_t i, int lanes)
{
    const vec_t g = vec_load(dout, dtype, i, lanes);
    vec_store_f32(dtoken + i, lanes, vec_load_f32(dtoken + i, lanes) + g);
    vec_store_f32(dposition + i, lanes, vec_load_f32(dposition + i, lanes) + g);
}

VEC_INLINE void backward_columns(const mpt_embed_backward_t *a, int64_t begin, int64_t end,
                                 mpt_dtype_t dtype)
{
    const int64_t rows = a->batch * a->seq;
    for (int64_t row = 0; row < rows; row++) {
        const char *dout = (const char *)a->dout + row * a->dim * (int64_t)mpt_dtype_bytes(dtype);
        float *dtoken = (float *)a->dwte + (int64_t)a->tokens[row] * a->dim;
        float *dposition = (float *)a->dwpe + row % a->seq * a->dim;
        if (row + BACKWARD_AHEAD < rows) {
            const float *next =
                (const float *)a->dwte + (int64_t)a->tokens[row + BACKWARD_AHEAD] * a->dim;
            for (int64_t i = begin; i < end; i += 16)
                __builtin_prefetch(next + i, 1);
        }
        int64_t i = begin;
        for (; i + VEC_LANES <= end; i += VEC_LANES)
            accumulate(dtoken, dposition, dout, dtype, i, VEC_LANES);
        if (i < end)
            accumulate(dtoken, dposition, dout, dtype, i, (int)(end - i));
    }
}

typedef struct backward_call {
    const mpt_embed_backward_t *a;
    int64_t columns; /* of one task */
} backward_call_t;

static void backward_task(void *ctx, int task, int worker)
{
    (void)worker;
    const backward_call_t *call = ctx;
    const mpt_embed_backward_t *a = call->a;
    const int64_t begin = (int64_t)task * call->columns;
    const int64_t end = tasks_end(a->dim, call->columns, task);
    if (a->compute == MPT_F32)
        backward_columns(a, begin, end, MPT_F32);
    else if (a->compute == MPT_BF16)
        backward_columns(a, begin, end, MPT_BF16);
    else
        backward_columns(a, begin, end, MPT_F16);
}

/* One piece a thread, as memory gives long pieces of a row sooner than many short ones. Where columns are cut
 * does not show in the result. */
mpt_status_t cpu_embed_backward(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s)
{
    (void)s;
    const int64_t lines = tasks_cover(a->dim, COLUMNS);
    backward_call_t call = {a, tasks_cover(lines, tasks_threads(k)) * COLUMNS};
    tasks_run(k, backward_task, &call, tasks_cover(a->dim, call.columns));
    return MPT_OK;
}
