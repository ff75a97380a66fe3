/*
 * Softmax and cross-entropy, one row at a time, in two passes: the first reads the row from memory,
 * block by block, and keeps a running maximum and the sum of exp beneath it (Milakov and Gimelshein
 * 2018). Where dlogits are asked for, it leaves the block's exp in scratch, and the second finds
 * them in L2 and only scales them: a block's factor makes up for a maximum that rose after it. Sums
 * within a block are FP32, over blocks FP64.
 *
 *     scratch, a worker's: exp of one row [vocab_padded], then the maximum of each block, FP32
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

/* A worker's scratch. */
typedef struct kept {
    float *exp, *max;
} kept_t;

static int64_t kept_floats(int64_t vocab_padded)
{
    return (vocab_padded + tasks_cover(vocab_padded, BLOCK) + 15) / 16 * 16;
}

size_t cpu_loss_scratch_bytes(int threads, int64_t vocab_padded)
{
    return (size_t)(threads * kept_floats(vocab_padded)) * sizeof(float);
}

static kept_t kept_of(float *scratch, int worker, int64_t vocab_padded)
{
    float *first = scratch + worker * kept_floats(vocab_padded);
    return (kept_t){first, first + vocab_padded};
}

/* ---- the softmax
 * ------------------------------------------------------------------------------- */

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

/* exp of these elements less max, kept at `kept` unless that is NULL. */
VEC_INLINE vec_t exp_below(const float *x, int64_t i, int lanes, float max, float *kept)
{
    const vec_t e = vec_exp(vec_load_f32(x + i, lanes) - max);
    if (kept)
        vec_store_f32(kept + i, lanes, e);
    return e;
}

/* The sum of exp(x - max). */
VEC_INLINE float block_sum(const float *x, int64_t count, float max, float *kept)
{
    vec_t total[CHAINS] = {{0}};
    int64_t i = 0;
    for (; i + CHAINS * VEC_LANES <= count; i += CHAINS * VEC_LANES) {
        for (int line = 0; line < CHAINS * VEC_LANES; line += 16)
            __builtin_prefetch(x + i + BLOCK + line);
        for (int c = 0; c < CHAINS; c++)
            total[c] += exp_below(x, i + c * VEC_LANES, VEC_LANES, max, kept);
    }
    for (; i + VEC_LANES <= count; i += VEC_LANES)
        total[0] += exp_below(x, i, VEC_LANES, max, kept);
    if (i < count) {
        const int lanes = (int)(count - i);
        total[1] += vec_first(exp_below(x, i, lanes, max, kept), lanes);
    }
    return vec_sum((total[0] + total[1]) + (total[2] + total[3]));
}

/* The maximum starts at the lowest finite number, not at -inf, so that a block of -inf adds
 * zeros, not NaN. keeps: a constant. */
VEC_INLINE softmax_t row_softmax(const float *x, int64_t count, kept_t kept, int keeps)
{
    softmax_t softmax = {-FLT_MAX, 0.0};
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        const int64_t size = count - begin < BLOCK ? count - begin : BLOCK;
        const float max = block_max(x + begin, size, softmax.max);
        if (max > softmax.max)
            softmax.sum *= exp((double)softmax.max - (double)max);
        softmax.max = max;
        softmax.sum += (double)block_sum(x + begin, size, max, keeps ? kept.exp + begin : NULL);
        if (keeps)
            kept.max[begin / BLOCK] = max;
    }
    return softmax;
}

/* ---- the gradient
 * ------------------------------------------------------------------------------ */

VEC_INLINE void scale_block(void *out, mpt_dtype_t dtype, const float *kept, float factor,
                            int64_t i, int64_t end, int stream)
{
    for (; stream && i + VEC_LANES <= end; i += VEC_LANES)
        vec_stream(out, dtype, i, vec_load_f32(kept + i, VEC_LANES) * factor);
    for (; i + VEC_LANES <= end; i += VEC_LANES) {
        vec_prefetch(out, dtype, i);
        vec_store(out, dtype, i, VEC_LANES, vec_load_f32(kept + i, VEC_LANES) * factor);
    }
    if (i < end)
        vec_store(out, dtype, i, (int)(end - i), vec_load_f32(kept + i, (int)(end - i)) * factor);
}

VEC_INLINE void row_gradient(const mpt_loss_t *a, const float *x, int64_t row, softmax_t softmax,
                             kept_t kept, mpt_dtype_t dtype)
{
    const size_t bytes = mpt_dtype_bytes(dtype);
    char *out = (char *)a->dlogits + (size_t)(row * a->vocab_padded) * bytes;
    const int stream =
        (uintptr_t)out % 64 == 0 && tasks_stream(a->dlogits, dtype, a->rows * a->vocab_padded);
    const double scale = (double)a->seed / softmax.sum, max = (double)softmax.max;
    for (int64_t i = 0; i < a->vocab; i += BLOCK) {
        const int64_t end = a->vocab - i < BLOCK ? a->vocab : i + BLOCK;
        const float factor = (float)(scale * exp((double)kept.max[i / BLOCK] - max));
        scale_block(out, dtype, kept.exp, factor, i, end, stream);
    }
    const double p = exp((double)x[a->targets[row]] - max) / softmax.sum;
    mpt_store(out, dtype, a->targets[row], (p - 1.0) * (double)a->seed);
    memset(out + (size_t)a->vocab * bytes, 0, (size_t)(a->vocab_padded - a->vocab) * bytes);
}

static void row_gradient_any(const mpt_loss_t *a, const float *x, int64_t row, softmax_t softmax,
                             kept_t kept)
{
    if (a->compute == MPT_F32)
        row_gradient(a, x, row, softmax, kept, MPT_F32);
    else if (a->compute == MPT_BF16)
        row_gradient(a, x, row, softmax, kept, MPT_BF16);
    else
        row_gradient(a, x, row, softmax, kept, MPT_F16);
}

static void loss_row(const mpt_loss_t *a, int64_t row, kept_t kept)
{
    const float *x = (const float *)a->logits + row * a->vocab_padded;
    const softmax_t softmax =
        a->dlogits ? row_softmax(x, a->vocab, kept, 1) : row_softmax(x, a->vocab, kept, 0);
    const double shifted = (double)x[a->targets[row]] - (double)softmax.max;
    ((float *)a->losses)[row] = (float)(log(softmax.sum) - shifted);
    if (a->dlogits)
        row_gradient_any(a, x, row, softmax, kept);
}

typedef struct loss_call {
    const mpt_loss_t *a;
    float *scratch;
} loss_call_t;

static void loss_task(void *ctx, int task, int worker)
{
    const loss_call_t *call = ctx;
    const mpt_loss_t *a = call->a;
    const kept_t kept = kept_of(call->scratch, worker, a->vocab_padded);
    const int64_t piece = tasks_rows(a->vocab_padded);
    const int64_t end = tasks_end(a->rows, piece, task);
    for (int64_t row = task * piece; row < end; row++)
        loss_row(a, row, kept);
    vec_stream_end();
}

/* Each loss is added to *loss_sum itself, so that the sum does not depend on how callers cut
 * rows into calls. */
mpt_status_t cpu_loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s)
{
    (void)s;
    const size_t needed = cpu_loss_scratch_bytes(tasks_threads(k), a->vocab_padded);
    if (!tasks_scratch_fits(k, needed, "loss"))
        return MPT_ERR_INVALID_ARG;
    loss_call_t call = {a, k->scratch};
    tasks_run(k, loss_task, &call, tasks_cover(a->rows, tasks_rows(a->vocab_padded)));
    for (int64_t row = 0; row < a->rows; row++)
        *a->loss_sum += (double)((const float *)a->losses)[row];
    return MPT_OK;
}
