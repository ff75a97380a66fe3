/*
 * Softmax and cross-entropy, one row at a time, in two passes: the first reads the row from memory,
 * block by block, and keeps a running maximum and the sum of exp beneath it (Milakov and Gimelshein
 * 2018); the second finds the row in L2 and writes dlogits. Sums within a block are FP32, over
 * blocks FP64.
 */
#include "elementwise.h"
#include "vec.h"
#include <float.h>
#include <math.h>

/* Elements of a block: read twice from L1, once for the maximum and once for the sum; while
 * summing, the next block is asked for, so that memory and arithmetic overlap. */
#define BLOCK 2048
/* Independent chains of a block's maximum and sum. */
#define CHAINS 4

/* Softmax of a row is exp(x - max) / sum. */
typedef struct softmax {
    float max;
    double sum;
} softmax_t;

static float block_max(const float *x, int64_t count, float floor)
{
    vec_t largest[CHAINS];
    for (int c = 0; c < CHAINS; c++)
        largest[c] = vec_set(floor);
    int64_t i = 0;
    for (; i + CHAINS * VEC_LANES <= count; i += CHAINS * VEC_LANES)
        for (int c = 0; c < CHAINS; c++)
            largest[c] = vec_max(vec_load_f32(x + i + c * VEC_LANES, VEC_LANES), largest[c]);
    float max =
        vec_max_lane(vec_max(vec_max(largest[0], largest[1]), vec_max(largest[2], largest[3])));
    for (; i < count; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static float block_sum(const float *x, int64_t count, float max)
{
    vec_t total[CHAINS] = {{0}};
    int64_t i = 0;
    for (; i + CHAINS * VEC_LANES <= count; i += CHAINS * VEC_LANES) {
        for (int line = 0; line < CHAINS * VEC_LANES; line += 16)
            __builtin_prefetch(x + i + BLOCK + line);
        for (int c = 0; c < CHAINS; c++)
            total[c] += vec_exp(vec_load_f32(x + i + c * VEC_LANES, VEC_LANES) - max);
    }
    for (; i + VEC_LANES <= count; i += VEC_LANES)
        total[0] += vec_exp(vec_load_f32(x + i, VEC_LANES) - max);
    if (i < count) {
        const int lanes = (int)(count - i);
        total[1] += vec_first(vec_exp(vec_load_f32(x + i, lanes) - max), lanes);
    }
    return vec_sum((total[0] + total[1]) + (total[2] + total[3]));
}

/* The maximum starts at the lowest finite number, not at -inf, so that a block of -inf adds
 * zeros, not NaN. */
static softmax_t row_softmax(const float *x, int64_t count)
{
    softmax_t softmax = {-FLT_MAX, 0.0};
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        const int64_t size = count - begin < BLOCK ? count - begin : BLOCK;
        const float max = block_max(x + begin, size, softmax.max);
        if (max > softmax.max)
            softmax.sum *= exp((double)softmax.max - (double)max);
        softmax.max = max;
        softmax.sum += (double)block_sum(x + begin, size, max);
    }
    return softmax;
}

VEC_INLINE void row_gradient(const mpt_loss_t *a, const float *x, int64_t row, softmax_t softmax,
                             mpt_dtype_t dtype)
{
    const size_t bytes = mpt_dtype_bytes(dtype);
    char *out = (char *)a->dlogits + (size_t)(row * a->vocab_padded) * bytes;
    const float scale = (float)((double)a->seed / softmax.sum), max = softmax.max;
    int64_t i = 0;
    for (; i + VEC_LANES <= a->vocab; i += VEC_LANES) {
        vec_prefetch(out, dtype, i);
        vec_store(out, dtype, i, VEC_LANES, vec_exp(vec_load_f32(x + i, VEC_LANES) - max) * scale);
    }
    if (i < a->vocab) {
        const int lanes = (int)(a->vocab - i);
        vec_store(out, dtype, i, lanes, vec_exp(vec_load_f32(x + i, lanes) - max) * scale);
    }
    const double p = exp((double)x[a->targets[row]] - (double)max) / softmax.sum;
    mpt_store(out, dtype, a->targets[row], (p - 1.0) * (double)a->seed);
    memset(out + (size_t)a->vocab * bytes, 0, (size_t)(a->vocab_padded - a->vocab) * bytes);
}

static void loss_row(const mpt_loss_t *a, int64_t row)
{
    const float *x = (const float *)a->logits + row * a->vocab_padded;
    const softmax_t softmax = row_softmax(x, a->vocab);
    const double shifted = (double)x[a->targets[row]] - (double)softmax.max;
    ((float *)a->losses)[row] = (float)(log(softmax.sum) - shifted);
    if (!a->dlogits)
        return;
    if (a->compute == MPT_F32)
        row_gradient(a, x, row, softmax, MPT_F32);
    else if (a->compute == MPT_BF16)
        row_gradient(a, x, row, softmax, MPT_BF16);
    else
        row_gradient(a, x, row, softmax, MPT_F16);
}

static void loss_task(void *ctx, int task, int worker)
{
    (void)worker;
    const mpt_loss_t *a = ctx;
    const int64_t piece = tasks_rows(a->vocab_padded);
    const int64_t end = tasks_end(a->rows, piece, task);
    for (int64_t row = task * piece; row < end; row++)
        loss_row(a, row);
}

/* Each loss is added to *loss_sum itself, so that the sum does not depend on how callers cut
 * rows into calls. */
mpt_status_t cpu_loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s)
{
    (void)s;
    mpt_loss_t args = *a;
    tasks_run(k, loss_task, &args, tasks_cover(a->rows, tasks_rows(a->vocab_padded)));
    for (int64_t row = 0; row < a->rows; row++)
        *a->loss_sum += (double)((const float *)a->losses)[row];
    return MPT_OK;
}
