#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "backends.h"
#include "pool.h"

static const mpt_kernels_ops_t *const backends[] = {&mpt_kernels_ref, &mpt_kernels_cpu};

const mpt_kernels_ops_t *mpt_kernels_find(const char *name)
{
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

size_t mpt_kernels_scratch_bytes(const mpt_kernels_ops_t *ops, mpt_isa_t isa, int threads,
                                 const mpt_kernels_limits_t *limits)
{
    return ops->scratch_bytes(isa, threads, limits);
}

size_t mpt_linear_pack_bytes(const mpt_kernels_ops_t *ops, mpt_isa_t isa, mpt_dtype_t compute, int64_t columns,
                             int64_t depth)
{
    return ops->linear_pack_bytes ? ops->linear_pack_bytes(isa, compute, columns, depth) : 0;
}

/* ---- checks ----------------------------------------------------------------------------------- */

/* The arguments of one call under examination. The first fault is logged; later ones are dropped. */
typedef struct check {
    const mpt_log_t *log;
    const char *call;
    int failed;
} check_t;

static void fail(check_t *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void fail(check_t *c, const char *format, ...)
{
    if (c->failed)
        return;
    c->failed = 1;
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mpt_log_error(c->log, "kernels: %s: %s", c->call, text);
}

static void check_pointer(check_t *c, const char *name, const void *pointer)
{
    if (!pointer)
        fail(c, "%s is NULL", name);
}

/* A size in [1, limit]. */
static void check_size(check_t *c, const char *name, int64_t value, int64_t limit)
{
    if (value < 1 || value > limit)
        fail(c, "%s is %lld, not within 1 and %lld", name, (long long)value, (long long)limit);
}

/* A length that may be zero: then the call reads and writes no element. */
static void check_count(check_t *c, int64_t count)
{
    if (count < 0)
        fail(c, "count is %lld", (long long)count);
}

static void check_dtype(check_t *c, const char *name, mpt_dtype_t dtype)
{
    if ((unsigned)dtype >= MPT_DTYPE_COUNT)
        fail(c, "%s is no element type: %d", name, (int)dtype);
}

/* A type that can be on the wire, or that working weights have in a run. */
static void check_run_dtype(check_t *c, const char *name, mpt_dtype_t dtype)
{
    check_dtype(c, name, dtype);
    if (!c->failed && dtype == MPT_F64)
        fail(c, "%s is fp64, which no run uses", name);
}

/* The runs themselves are the device's to read: what they hold is not looked at here. */
static void check_stochastic(check_t *c, const mpt_stochastic_t *how, mpt_dtype_t to)
{
    if (!how)
        return;
    if (to != MPT_BF16 && to != MPT_F16)
        fail(c, "stochastic rounding to %s, which has no 16 bits", mpt_dtype_name(to));
    if (how->run_count < 0)
        fail(c, "run_count is %d", how->run_count);
    if (how->run_count > 0)
        check_pointer(c, "runs", how->runs);
}

/* FP64 is the oracle's own. */
static int runs_in(const mpt_kernels_ops_t *ops, mpt_dtype_t compute)
{
    return compute != MPT_F64 || ops == &mpt_kernels_ref;
}

static check_t check_begin(const mpt_kernels_t *k, const char *call)
{
    return (check_t){.log = k->log, .call = call};
}

static void check_compute(check_t *c, mpt_dtype_t compute)
{
    if (compute != MPT_TF32)
        check_dtype(c, "compute", compute);
}

/* Scratch was sized for one compute type. */
static check_t check_begin_as(const mpt_kernels_t *k, const char *call, mpt_dtype_t compute,
                              mpt_dtype_t wanted)
{
    check_t c = check_begin(k, call);
    check_compute(&c, compute);
    if (!c.failed && compute != wanted)
        fail(&c, "compute is %s in a table set up for %s", mpt_dtype_name(compute),
             mpt_dtype_name(k->limits.compute));
    return c;
}

/* For operations with a compute type, which is one of memory. */
static check_t check_begin_typed(const mpt_kernels_t *k, const char *call, mpt_dtype_t compute)
{
    return check_begin_as(k, call, compute, mpt_dtype_memory(k->limits.compute));
}

/* For those of linear layers. */
static check_t check_begin_linear(const mpt_kernels_t *k, const char *call, mpt_dtype_t compute)
{
    return check_begin_as(k, call, compute, k->limits.compute);
}

/* ---- setting up ------------------------------------------------------------------------------- */

static void check_limits(check_t *c, const mpt_kernels_ops_t *ops,
                         const mpt_kernels_limits_t *limits)
{
    const int64_t sizes[] = {limits->batch,    limits->seq,          limits->heads,
                             limits->head_dim, limits->rows,         limits->dim,
                             limits->hidden,   limits->vocab_padded, limits->loss_rows};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i] < 0)
            fail(c, "a limit is negative: %lld", (long long)sizes[i]);
    check_compute(c, limits->compute);
    if (!c->failed && !runs_in(ops, limits->compute))
        fail(c, "%s does not run in %s", ops->name, mpt_dtype_name(limits->compute));
}

static void check_scratch(check_t *c, const mpt_kernels_ops_t *ops, const mpt_device_t *device,
                          mpt_isa_t isa, const void *scratch, size_t bytes,
                          const mpt_kernels_limits_t *limits)
{
    int threads = device->pool ? mpt_pool_threads(device->pool) : 1;
    size_t needed = mpt_kernels_scratch_bytes(ops, isa, threads, limits);
    if (bytes < needed)
        fail(c, "scratch of %zu bytes, %zu needed", bytes, needed);
    if (needed > 0)
        check_pointer(c, "scratch", scratch);
}

mpt_status_t mpt_kernels_init(mpt_kernels_t *k, const mpt_kernels_ops_t *ops, mpt_device_t *device,
                              const mpt_log_t *log, mpt_isa_t isa, void *scratch,
                              size_t scratch_bytes, const mpt_kernels_limits_t *limits)
{
    assert(k && ops && device && limits);
    check_t c = {.log = log, .call = "init"};
    if ((unsigned)isa >= MPT_ISA_COUNT || isa > mpt_isa_detect())
        fail(&c, "instruction level %d is above this processor's, %s", (int)isa,
             mpt_isa_name(mpt_isa_detect()));
    check_limits(&c, ops, limits);
    if (!c.failed)
        check_scratch(&c, ops, device, isa, scratch, scratch_bytes, limits);
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    *k = (mpt_kernels_t){.ops = ops,
                         .device = device,
                         .log = log,
                         .isa = isa,
                         .scratch = scratch,
                         .scratch_bytes = scratch_bytes,
                         .limits = *limits};
    return MPT_OK;
}

/* ---- where the time goes ---------------------------------------------------------------------- */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What a call has to do at least. */
typedef struct work {
    double flops; /* of matrix products */
    double bytes; /* of other calls: arrays read once and written once, those added to twice */
} work_t;

/* `reads` and `writes` of as many elements each. */
static work_t pass_over(double count, double reads_and_writes, mpt_dtype_t dtype)
{
    return (work_t){.bytes = count * reads_and_writes * (double)mpt_dtype_bytes(dtype)};
}

static work_t both(work_t a, work_t b)
{
    return (work_t){.flops = a.flops + b.flops, .bytes = a.bytes + b.bytes};
}

/* Add a call that began at `begin` to its row; passes its status on. */
static mpt_status_t account(mpt_kernels_t *k, mpt_op_t op, double begin, work_t work,
                            mpt_status_t status)
{
    k->profile[op].seconds += now_s() - begin;
    k->profile[op].flops += work.flops;
    k->profile[op].bytes += work.bytes;
    k->profile[op].calls++;
    return status;
}

static work_t linear_work(int64_t rows, int64_t in, int64_t out)
{
    return (work_t){.flops = 2.0 * (double)rows * (double)in * (double)out};
}

/* One product of the causal half: backward makes five of what forward makes two. */
static work_t attention_work(int64_t batch, int64_t seq, int64_t heads, int64_t head_dim, int products)
{
    return (work_t){.flops = products * (double)batch * (double)heads * (double)seq * (double)seq * (double)head_dim};
}

static work_t rows_work(int64_t rows, int64_t width, double reads_and_writes, mpt_dtype_t dtype)
{
    return pass_over((double)rows * (double)width, reads_and_writes, dtype);
}

/* The positions' table counts once, the tokens' for each row. */
static work_t embed_work(int64_t batch, int64_t seq, int64_t dim, double each_row, double each_position, mpt_dtype_t dtype)
{
    const double position = (double)seq * (double)dim;
    return both(pass_over((double)batch * position, each_row, dtype), pass_over(position, each_position, dtype));
}

static work_t adamw_work(const mpt_adamw_t *a)
{
    const double count = (double)a->count;
    const double fp32 = 4 + (a->master ? 2 : 0) + (a->ema ? 2 : 0);
    return both(pass_over(count, fp32, MPT_F32),
                both(pass_over(count, 1, a->grad_dtype), pass_over(count, a->master ? 1 : 2, a->compute)));
}

/* ---- checked calls ---------------------------------------------------------------------------- */

/* batch x seq tokens of `dim`, within the limits. */
static void check_embed(check_t *c, const mpt_kernels_t *k, int64_t batch, int64_t seq, int64_t dim)
{
    check_size(c, "seq", seq, k->limits.rows);
    check_size(c, "batch", batch, c->failed ? 1 : k->limits.rows / seq);
    check_size(c, "dim", dim, k->limits.dim);
}

mpt_status_t mpt_embed_forward(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s)
{
    check_t c = check_begin_typed(k, "embed_forward", a->compute);
    check_embed(&c, k, a->batch, a->seq, a->dim);
    check_pointer(&c, "tokens", a->tokens);
    check_pointer(&c, "wte", a->wte);
    check_pointer(&c, "wpe", a->wpe);
    check_pointer(&c, "out", a->out);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_EMBED, begin, embed_work(a->batch, a->seq, a->dim, 2, 1, a->compute),
                   k->ops->embed_forward(k, a, s));
}

mpt_status_t mpt_embed_backward(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s)
{
    check_t c = check_begin_typed(k, "embed_backward", a->compute);
    check_embed(&c, k, a->batch, a->seq, a->dim);
    check_pointer(&c, "tokens", a->tokens);
    check_pointer(&c, "dout", a->dout);
    check_pointer(&c, "dwte", a->dwte);
    check_pointer(&c, "dwpe", a->dwpe);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_EMBED, begin, both(embed_work(a->batch, a->seq, a->dim, 1, 0, a->compute),
                        embed_work(a->batch, a->seq, a->dim, 2, 2, mpt_dtype_wide(a->compute))),
                   k->ops->embed_backward(k, a, s));
}

mpt_status_t mpt_layernorm_forward(mpt_kernels_t *k, const mpt_layernorm_forward_t *a,
                                   mpt_stream_t *s)
{
    check_t c = check_begin_typed(k, "layernorm_forward", a->compute);
    check_size(&c, "rows", a->rows, k->limits.rows);
    check_size(&c, "dim", a->dim, k->limits.dim);
    check_pointer(&c, "x", a->x);
    if (a->delta)
        check_pointer(&c, "sum", a->sum);
    check_pointer(&c, "gamma", a->gamma);
    check_pointer(&c, "beta", a->beta);
    check_pointer(&c, "y", a->y);
    check_pointer(&c, "mean", a->mean);
    check_pointer(&c, "rstd", a->rstd);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_LAYERNORM, begin, rows_work(a->rows, a->dim, a->delta ? 4 : 2, a->compute),
                   k->ops->layernorm_forward(k, a, s));
}

mpt_status_t mpt_layernorm_backward(mpt_kernels_t *k, const mpt_layernorm_backward_t *a,
                                    mpt_stream_t *s)
{
    check_t c = check_begin_typed(k, "layernorm_backward", a->compute);
    check_size(&c, "rows", a->rows, k->limits.rows);
    check_size(&c, "dim", a->dim, k->limits.dim);
    check_pointer(&c, "dy", a->dy);
    check_pointer(&c, "x", a->x);
    check_pointer(&c, "gamma", a->gamma);
    check_pointer(&c, "mean", a->mean);
    check_pointer(&c, "rstd", a->rstd);
    check_pointer(&c, "dx", a->dx);
    check_pointer(&c, "dgamma", a->dgamma);
    check_pointer(&c, "dbeta", a->dbeta);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_LAYERNORM, begin, rows_work(a->rows, a->dim, a->dres ? 4 : 3, a->compute),
                   k->ops->layernorm_backward(k, a, s));
}

/*
 * A product fits the scratch as a block's (rows x {dim, and the wider of 3 dim and hidden}, either way round)
 * or as the head's (loss_rows x dim -> vocab_padded).
 */
static void check_linear(check_t *c, const mpt_kernels_t *k, int64_t rows, int64_t in, int64_t out)
{
    const mpt_kernels_limits_t *l = &k->limits;
    int64_t wide = 3 * l->dim > l->hidden ? 3 * l->dim : l->hidden;
    int64_t narrow_side = in < out ? in : out, wide_side = in < out ? out : in;
    int block = rows <= l->rows && narrow_side <= l->dim && wide_side <= wide;
    int head = rows <= l->loss_rows && in <= l->dim && out <= l->vocab_padded;
    if (rows < 1 || in < 1 || out < 1 || (!block && !head))
        fail(c, "rows %lld, in %lld, out %lld are outside the limits", (long long)rows,
             (long long)in, (long long)out);
}

mpt_status_t mpt_linear_pack(mpt_kernels_t *k, const mpt_linear_pack_t *a, mpt_stream_t *s)
{
    check_t c = check_begin_linear(k, "linear_pack", a->compute);
    check_linear(&c, k, 1, a->in, a->out);
    check_pointer(&c, "w", a->w);
    if (!c.failed && (a->forward || a->backward) && !k->ops->linear_pack)
        fail(&c, "backend %s packs no weights", k->ops->name);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    if (!a->forward && !a->backward)
        return MPT_OK;
    return account(k, MPT_OP_LINEAR, begin, (work_t){0},
                   k->ops->linear_pack(k, a, s));
}

mpt_status_t mpt_linear_forward(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s)
{
    check_t c = check_begin_linear(k, "linear_forward", a->compute);
    check_linear(&c, k, a->rows, a->in, a->out);
    check_pointer(&c, "x", a->x);
    check_pointer(&c, "w", a->w);
    check_pointer(&c, "y", a->y);
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    mpt_op_precision_t p = mpt_op_precision(MPT_OP_LINEAR, a->compute);
    if (a->y_dtype != p.output && a->y_dtype != p.accumulate)
        fail(&c, "y of type %d beside compute type %s", (int)a->y_dtype,
             mpt_dtype_name(a->compute));
    if (a->pre && a->y_dtype != p.output)
        fail(&c, "pre together with logits");
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_LINEAR, begin, linear_work(a->rows, a->in, a->out),
                   k->ops->linear_forward(k, a, s));
}

mpt_status_t mpt_linear_backward_input(mpt_kernels_t *k, const mpt_linear_backward_input_t *a,
                                       mpt_stream_t *s)
{
    check_t c = check_begin_linear(k, "linear_backward_input", a->compute);
    check_linear(&c, k, a->rows, a->in, a->out);
    check_pointer(&c, "dy", a->dy);
    check_pointer(&c, "w", a->w);
    check_pointer(&c, "dx", a->dx);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_LINEAR, begin, linear_work(a->rows, a->in, a->out),
                   k->ops->linear_backward_input(k, a, s));
}

mpt_status_t mpt_linear_backward_weight(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a,
                                        mpt_stream_t *s)
{
    check_t c = check_begin_linear(k, "linear_backward_weight", a->compute);
    check_linear(&c, k, a->rows, a->in, a->out);
    check_pointer(&c, "dy", a->dy);
    check_pointer(&c, "x", a->x);
    check_pointer(&c, "dw", a->dw);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_LINEAR, begin, linear_work(a->rows, a->in, a->out),
                   k->ops->linear_backward_weight(k, a, s));
}

static void check_attention(check_t *c, const mpt_kernels_t *k, int64_t batch, int64_t seq,
                            int64_t heads, int64_t head_dim)
{
    check_size(c, "batch", batch, k->limits.batch);
    check_size(c, "seq", seq, k->limits.seq);
    check_size(c, "heads", heads, k->limits.heads);
    check_size(c, "head_dim", head_dim, k->limits.head_dim);
}

mpt_status_t mpt_attention_forward(mpt_kernels_t *k, const mpt_attention_forward_t *a,
                                   mpt_stream_t *s)
{
    check_t c = check_begin_typed(k, "attention_forward", a->compute);
    check_attention(&c, k, a->batch, a->seq, a->heads, a->head_dim);
    check_pointer(&c, "qkv", a->qkv);
    check_pointer(&c, "out", a->out);
    check_pointer(&c, "lse", a->lse);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_ATTENTION, begin,
                   attention_work(a->batch, a->seq, a->heads, a->head_dim, 2),
                   k->ops->attention_forward(k, a, s));
}

mpt_status_t mpt_attention_backward(mpt_kernels_t *k, const mpt_attention_backward_t *a,
                                    mpt_stream_t *s)
{
    check_t c = check_begin_typed(k, "attention_backward", a->compute);
    check_attention(&c, k, a->batch, a->seq, a->heads, a->head_dim);
    check_pointer(&c, "qkv", a->qkv);
    check_pointer(&c, "out", a->out);
    check_pointer(&c, "dout", a->dout);
    check_pointer(&c, "lse", a->lse);
    check_pointer(&c, "dqkv", a->dqkv);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_ATTENTION, begin,
                   attention_work(a->batch, a->seq, a->heads, a->head_dim, 5),
                   k->ops->attention_backward(k, a, s));
}

mpt_status_t mpt_loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s)
{
    check_t c = check_begin_typed(k, "loss", a->compute);
    check_size(&c, "rows", a->rows, k->limits.loss_rows);
    check_size(&c, "vocab_padded", a->vocab_padded, k->limits.vocab_padded);
    check_size(&c, "vocab", a->vocab, a->vocab_padded);
    check_pointer(&c, "logits", a->logits);
    check_pointer(&c, "targets", a->targets);
    check_pointer(&c, "losses", a->losses);
    check_pointer(&c, "loss_sum", a->loss_sum);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_LOSS, begin, both(rows_work(a->rows, a->vocab_padded, 1, mpt_dtype_wide(a->compute)),
                        rows_work(a->rows, a->vocab_padded, a->dlogits ? 1 : 0, a->compute)),
                   k->ops->loss(k, a, s));
}

/* A power of two, as `scale` must be so that rounding to the wire is the only rounding. */
static int power_of_two(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x007fffffu) == 0 && bits > 0 && bits < 0x7f800000u;
}

mpt_status_t mpt_to_wire(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    check_t c = check_begin(k, "to_wire");
    check_run_dtype(&c, "wire_dtype", a->wire_dtype);
    check_count(&c, a->count);
    if (a->count > 0)
        check_pointer(&c, "acc", a->acc);
    if (a->count > 0)
        check_pointer(&c, "wire", a->wire);
    check_pointer(&c, "bad", a->bad);
    if (!power_of_two(a->scale))
        fail(&c, "scale %g is not a power of two", (double)a->scale);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_REDUCE, begin, both(pass_over((double)a->count, 1, MPT_F32), pass_over((double)a->count, 1, a->wire_dtype)),
                   k->ops->to_wire(k, a, s));
}

mpt_status_t mpt_grad_scan(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s)
{
    check_t c = check_begin(k, "grad_scan");
    check_run_dtype(&c, "dtype", a->dtype);
    check_count(&c, a->count);
    if (a->count > 0)
        check_pointer(&c, "grad", a->grad);
    check_pointer(&c, "sumsq", a->sumsq);
    check_pointer(&c, "bad", a->bad);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_REDUCE, begin, pass_over((double)a->count, 1, a->dtype),
                   k->ops->grad_scan(k, a, s));
}

mpt_status_t mpt_adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s)
{
    check_t c = check_begin(k, "adamw");
    check_run_dtype(&c, "compute", a->compute);
    check_run_dtype(&c, "grad_dtype", a->grad_dtype);
    check_count(&c, a->count);
    if (a->decay_count < 0)
        fail(&c, "decay_count is %lld", (long long)a->decay_count);
    if (a->ema && !(a->ema_decay >= 0.0f && a->ema_decay <= 1.0f))
        fail(&c, "ema_decay is %g, not within 0 and 1", (double)a->ema_decay);
    if (!c.failed)
        check_stochastic(&c, a->stochastic, a->compute);
    if (a->count > 0) {
        check_pointer(&c, "m", a->m);
        check_pointer(&c, "v", a->v);
        check_pointer(&c, "working", a->working);
        check_pointer(&c, "grad", a->grad);
    }
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_OPTIMIZER, begin, adamw_work(a),
                   k->ops->adamw(k, a, s));
}

mpt_status_t mpt_cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    check_t c = check_begin(k, "cast");
    check_dtype(&c, "dst_dtype", a->dst_dtype);
    check_dtype(&c, "src_dtype", a->src_dtype);
    check_count(&c, a->count);
    if (!c.failed)
        check_stochastic(&c, a->stochastic, a->dst_dtype);
    if (!c.failed && a->stochastic && a->src_dtype != MPT_F32)
        fail(&c, "stochastic rounding from %s, not fp32", mpt_dtype_name(a->src_dtype));
    if (a->count > 0) {
        check_pointer(&c, "dst", a->dst);
        check_pointer(&c, "src", a->src);
    }
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_OPTIMIZER, begin, both(pass_over((double)a->count, 1, a->src_dtype), pass_over((double)a->count, 1, a->dst_dtype)),
                   k->ops->cast(k, a, s));
}

mpt_status_t mpt_add(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s)
{
    check_t c = check_begin(k, "add");
    check_run_dtype(&c, "dtype", a->dtype);
    check_count(&c, a->count);
    if (a->count > 0) {
        check_pointer(&c, "acc", a->acc);
        check_pointer(&c, "x", a->x);
    }
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_REDUCE, begin, both(pass_over((double)a->count, 2, MPT_F32), pass_over((double)a->count, 1, a->dtype)),
                   k->ops->add(k, a, s));
}

mpt_status_t mpt_hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s)
{
    check_t c = check_begin(k, "hash");
    check_run_dtype(&c, "dtype", a->dtype);
    check_count(&c, a->count);
    if (a->count > 0)
        check_pointer(&c, "data", a->data);
    check_pointer(&c, "sum", a->sum);
    double begin = now_s();
    if (c.failed)
        return MPT_ERR_INVALID_ARG;
    return account(k, MPT_OP_OPTIMIZER, begin, pass_over((double)a->count, 1, a->dtype),
                   k->ops->hash(k, a, s));
}
