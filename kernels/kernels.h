/*
 * Kernels: the operations of a transformer's training step, forward and backward, behind one table.
 *
 * Linear layers know one compute type more, MPT_TF32: everything is FP32 in memory, and products read both operands rounded to
 * TF32, to nearest even (mpt_round_tf32); the other operations of such a run compute in F32.
 *
 * Two types name everything. `compute` is the type of working weights, activations and activation
 * gradients (F32, BF16, F16; F64 in the oracle). "wide" is mpt_dtype_wide(compute): statistics,
 * logits, gradient accumulators; FP32, or FP64 beside F64. Which operation computes and accumulates in what
 * is one table, mpt_op_precision; the checks in front of every call read it.
 *
 * Every call is enqueued on `stream` and never allocates. Arrays are device memory, row-major and
 * dense, aligned to 64 bytes (element offsets inside a unit's flat buffer: to 64 bytes as well, see sharding/layout).
 * Outputs must not overlap inputs except where said. "+=" adds to what is there. A kernel's result depends
 * on its inputs alone: not on the number of threads or on timing. Non-finite values pass through as IEEE says.
 *
 * A mpt_kernels_t belongs to one session; one call at a time.
 */
#ifndef MPT_KERNELS_H
#define MPT_KERNELS_H

#include "device.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_kernels mpt_kernels_t;

/* Instruction levels of the CPU backend, lowest first; each includes those before it. */
typedef enum mpt_isa {
    MPT_ISA_PORTABLE = 0,    /* the compiler's baseline for the architecture */
    MPT_ISA_AVX2 = 1,        /* AVX2, FMA, F16C */
    MPT_ISA_AVX512 = 2,      /* AVX-512 F, BW, DQ, VL */
    MPT_ISA_AVX512_BF16 = 3, /* and BF16 dot products */
    MPT_ISA_AMX = 4,         /* and AMX tiles, BF16 */
    MPT_ISA_COUNT = 5
} mpt_isa_t;

/** "portable", "avx2", "avx512", "avx512_bf16", "amx". */
const char *mpt_isa_name(mpt_isa_t isa);
/** The highest level this processor and system support. AMX asks the system for permission to use tiles (once per process, harmless to repeat). */
mpt_isa_t mpt_isa_detect(void);

/* ---- which operation runs in which precision ------------------------------------------------ */

typedef enum mpt_op {
    MPT_OP_EMBED = 0,
    MPT_OP_LAYERNORM,
    MPT_OP_LINEAR,   /* forward, input gradient, weight gradient */
    MPT_OP_ATTENTION,
    MPT_OP_GELU,
    MPT_OP_LOSS,     /* softmax and cross-entropy */
    MPT_OP_REDUCE,   /* the gradient sum over ranks */
    MPT_OP_OPTIMIZER,
    MPT_OP_COUNT
} mpt_op_t;

typedef struct mpt_op_precision {
    mpt_dtype_t input;      /* what it reads: activations, working weights */
    mpt_dtype_t math;       /* operands of products and of elementwise arithmetic */
    mpt_dtype_t accumulate; /* sums */
    mpt_dtype_t output;     /* activations written */
    mpt_dtype_t gradient;   /* parameter gradients written; MPT_DTYPE_COUNT: it writes none */
} mpt_op_precision_t;

/** Lower-case name of an operation. */
const char *mpt_op_name(mpt_op_t op);
/** The row of the table for `op` in a run with compute type `compute`, gradients crossing to other ranks in `wire` and their sum
 * being left in `sum`. */
mpt_op_precision_t mpt_run_precision(mpt_op_t op, mpt_dtype_t compute, mpt_dtype_t wire, mpt_dtype_t sum);
/** The same where nothing crosses in another type: what kernels ask. */
mpt_op_precision_t mpt_op_precision(mpt_op_t op, mpt_dtype_t compute);

/* ---- arguments -------------------------------------------------------------------------------- */

/** out[b,t,:] = wte[tokens[b,t],:] + wpe[t,:], one rounding. */
typedef struct mpt_embed_forward {
    mpt_dtype_t compute;
    int64_t batch, seq, dim;
    const uint32_t *tokens; /* [batch,seq], each below wte's rows (the caller has checked) */
    const void *wte;        /* [vocab_padded,dim] compute */
    const void *wpe;        /* [>=seq,dim] compute */
    void *out;              /* [batch,seq,dim] compute */
} mpt_embed_forward_t;

/** dwte[tokens[b,t],:] += dout[b,t,:]; dwpe[t,:] += dout[b,t,:]; rows added in the order of b, then t. */
typedef struct mpt_embed_backward {
    mpt_dtype_t compute;
    int64_t batch, seq, dim;
    const uint32_t *tokens;
    const void *dout; /* [batch,seq,dim] compute */
    void *dwte;       /* [vocab_padded,dim] wide, += */
    void *dwpe;       /* [seq,dim] wide, += */
} mpt_embed_backward_t;

/**
 * sum = x + delta, rounded to compute; y = gamma * (sum - mean) * rstd + beta, the statistics of the
 * rounded sum in wide, rstd = 1/sqrt(var + 1e-5), var the biased variance. (LayerNorm, Ba et al. 2016.)
 */
typedef struct mpt_layernorm_forward {
    mpt_dtype_t compute;
    int64_t rows, dim;
    const void *x;     /* [rows,dim] compute */
    const void *delta; /* [rows,dim] compute, or NULL: sum is x and `sum` is not written */
    void *sum;         /* [rows,dim] compute; may be equal to x or delta; NULL only if delta is */
    const void *gamma; /* [dim] compute */
    const void *beta;  /* [dim] compute */
    void *y;           /* [rows,dim] compute */
    void *mean;        /* [rows] wide */
    void *rstd;        /* [rows] wide */
} mpt_layernorm_forward_t;

/** dx = dres + dLN/dx(dy), one rounding; dgamma += sum over rows of dy * xhat; dbeta += sum of dy. */
typedef struct mpt_layernorm_backward {
    mpt_dtype_t compute;
    int64_t rows, dim;
    const void *dy;    /* [rows,dim] compute */
    const void *x;     /* [rows,dim] compute: what was normalised (`sum`) */
    const void *gamma; /* [dim] compute */
    const void *mean;  /* [rows] wide */
    const void *rstd;  /* [rows] wide */
    const void *dres;  /* [rows,dim] compute, gradient that arrives past the norm; NULL: none */
    void *dx;          /* [rows,dim] compute; may be equal to dres or dy */
    void *dgamma;      /* [dim] wide, += */
    void *dbeta;       /* [dim] wide, += */
} mpt_layernorm_backward_t;

/**
 * A linear layer's weights laid out as the backend's products read them, for many products: whoever changes w packs it again.
 * The bits of a product are the same with and without. Which bytes stand where is the backend's own business.
 */
typedef struct mpt_linear_pack {
    mpt_dtype_t compute;
    int64_t in, out;
    const void *w;  /* [out,in] compute */
    void *forward;  /* for linear_forward: linear_pack_bytes(isa, compute, out, in); NULL: not wanted */
    void *backward; /* for linear_backward_input: linear_pack_bytes(isa, compute, in, out); NULL: not wanted */
} mpt_linear_pack_t;

/**
 * z = x . w^T + bias, accumulated in wide. Without `pre`: y = z. With `pre`: pre = z rounded to
 * compute, y = gelu(pre) (tanh form: 0.5 p (1 + tanh(sqrt(2/pi) (p + 0.044715 p^3)))), taken of the
 * rounded pre, so that backward, which reads pre, sees what forward saw.
 */
typedef struct mpt_linear_forward {
    mpt_dtype_t compute;
    int64_t rows, in, out;
    const void *x;       /* [rows,in] compute */
    const void *w;       /* [out,in] compute */
    const void *packed;  /* w's `forward` by mpt_linear_pack, or NULL */
    const void *bias;    /* [out] compute, or NULL */
    void *pre;           /* [rows,out] compute, or NULL: no GELU */
    void *y;             /* [rows,out] of y_dtype */
    mpt_dtype_t y_dtype; /* compute, or wide (logits; then pre is NULL) */
} mpt_linear_forward_t;

/** dx = dy . w, accumulated in wide; with `pre`, times gelu'(pre) before the rounding. */
typedef struct mpt_linear_backward_input {
    mpt_dtype_t compute;
    int64_t rows, in, out;
    const void *dy;  /* [rows,out] compute */
    const void *w;   /* [out,in] compute */
    const void *packed; /* w's `backward` by mpt_linear_pack, or NULL */
    const void *pre; /* [rows,in] compute: input of the GELU whose output was x; NULL: none */
    void *dx;        /* [rows,in] compute */
} mpt_linear_backward_input_t;

/** dw += dy^T . x, accumulated in wide; dbias += sum over rows of dy. */
typedef struct mpt_linear_backward_weight {
    mpt_dtype_t compute;
    int64_t rows, in, out;
    const void *dy; /* [rows,out] compute */
    const void *x;  /* [rows,in] compute */
    void *dw;       /* [out,in] wide, += */
    void *dbias;    /* [out] wide, +=; NULL: no bias */
} mpt_linear_backward_weight_t;

/**
 * Causal self-attention, scale 1/sqrt(head_dim), fused: no seq x seq matrix is stored. Scores and softmax in
 * wide; the probabilities that multiply V are rounded to compute, their row sums are taken before that rounding. (FlashAttention-2, Dao 2023.)
 */
typedef struct mpt_attention_forward {
    mpt_dtype_t compute;
    int64_t batch, seq, heads, head_dim;
    const void *qkv; /* [batch,seq,3,heads,head_dim] compute */
    void *out;       /* [batch,seq,heads,head_dim] compute */
    void *lse;       /* [batch,heads,seq] wide: log of the sum of exp(scaled scores) */
} mpt_attention_forward_t;

typedef struct mpt_attention_backward {
    mpt_dtype_t compute;
    int64_t batch, seq, heads, head_dim;
    const void *qkv;  /* [batch,seq,3,heads,head_dim] compute */
    const void *out;  /* [batch,seq,heads,head_dim] compute */
    const void *dout; /* [batch,seq,heads,head_dim] compute */
    const void *lse;  /* [batch,heads,seq] wide */
    void *dqkv;       /* [batch,seq,3,heads,head_dim] compute */
} mpt_attention_backward_t;

/**
 * losses[r] = log(sum over v < vocab of exp(logits[r,v])) - logits[r,targets[r]];
 * dlogits[r,v] = (softmax(logits[r])[v] - (v == targets[r])) * seed, exactly zero for v >= vocab.
 * *loss_sum += the sum of losses, rows in order, in FP64.
 */
typedef struct mpt_loss {
    mpt_dtype_t compute;
    int64_t rows, vocab, vocab_padded;
    const void *logits;      /* [rows,vocab_padded] wide; columns from vocab on are ignored */
    const uint32_t *targets; /* [rows], each below vocab (the caller has checked) */
    float seed;              /* loss scale / (micro_batch * seq) */
    void *dlogits;           /* [rows,vocab_padded] compute, or NULL: loss only */
    void *losses;            /* [rows] wide */
    double *loss_sum;        /* device memory, += */
} mpt_loss_t;

/** Where a pass found non-finite values. `first` and `bits` mean something only if count > 0. */
typedef struct mpt_offender {
    uint64_t count;
    uint64_t first; /* lowest index */
    uint32_t bits;  /* the value there, widened to FP32 */
    uint32_t reserved;
} mpt_offender_t;

/** wire[i] = acc[i] * scale, rounded once to `wire_dtype`; *bad counts wire values that are not finite. */
typedef struct mpt_to_wire {
    mpt_dtype_t wire_dtype; /* F32, BF16, F16 */
    int64_t count;
    const float *acc;
    void *wire; /* may be equal to acc if wire_dtype is F32 */
    float scale; /* a power of two */
    mpt_offender_t *bad; /* device memory, overwritten */
} mpt_to_wire_t;

#define MPT_SCAN_SEGMENT 4096 /* elements of the norm that are summed by themselves */

/**
 * *sumsq = sum of g[i]^2 in FP64 (inf or NaN where g holds one); *bad counts non-finite values. The
 * order of the sum is defined, so that its bits depend neither on threads nor on the backend: segments of
 * MPT_SCAN_SEGMENT elements from the start, the last one maybe shorter; in a segment eight lanes from
 * zero, lane j adding the squares of its elements j, j+8, j+16, ... in order (a square is exact in FP64);
 * lanes folded as ((0+1)+(2+3))+((4+5)+(6+7)); segments added in order, from zero. A count of 0 gives 0.
 */
typedef struct mpt_grad_scan {
    mpt_dtype_t dtype; /* F32, BF16, F16 */
    int64_t count;
    const void *grad;
    double *sumsq;       /* device memory, overwritten */
    mpt_offender_t *bad; /* device memory, overwritten */
} mpt_grad_scan_t;

/** Elements [at, at+count) of a call's arrays are the global elements [element, element+count). */
typedef struct mpt_run {
    int64_t at, count;
    int64_t element;
} mpt_run_t;

/**
 * Stochastic rounding of FP32 to a 16-bit type (Gupta et al. 2015; Connolly, Higham and Mary 2021): up with the
 * probability of the distance, from 16 random bits that Philox gives for (seed, MPT_PURPOSE_ROUNDING, global element, step):
 * see mpt_round_stochastic in numeric.h. Elements in no run (padding) are rounded to nearest; what a run holds past the
 * call's count does not matter.
 */
typedef struct mpt_stochastic {
    uint64_t seed, step;
    const mpt_run_t *runs; /* ascending, disjoint; device-readable */
    int run_count;
} mpt_stochastic_t;

/**
 * AdamW (Loshchilov and Hutter 2019), one pass. With g = grad[i] * factor, all in FP32:
 * m = m + (1-beta1)(g - m); v = v + (1-beta2)(g*g - v);
 * w = w - lr * ((m/correction1) / (sqrt(v/correction2) + eps) + decay * w); working = round(w);
 * with `ema`, ema = ema + (1-ema_decay)(w - ema), w before it is rounded to `working`.
 * decay applies to elements below decay_count, 0 to the rest. Without masters w is read from `working`.
 */
typedef struct mpt_adamw {
    mpt_dtype_t compute;    /* type of `working` */
    mpt_dtype_t grad_dtype; /* F32, BF16, F16 */
    int64_t count, decay_count;
    float *master;         /* [count]; NULL: none, the working weights are all there is */
    float *m, *v;          /* [count] */
    float *ema;            /* [count]; NULL: none */
    void *working;         /* [count] compute */
    const void *grad;      /* [count] grad_dtype */
    float factor;          /* unscale, average and clip in one */
    float lr, beta1, beta2, eps, decay;
    float correction1, correction2; /* 1 - beta^t */
    float ema_decay;
    const mpt_stochastic_t *stochastic; /* how w is rounded to a 16-bit `compute`; NULL: to nearest */
} mpt_adamw_t;

/** dst[i] = src[i] rounded to dst_dtype. F32, BF16, F16, F64 on both sides. */
typedef struct mpt_cast {
    mpt_dtype_t dst_dtype, src_dtype;
    int64_t count;
    void *dst;
    const void *src;
    const mpt_stochastic_t *stochastic; /* F32 to BF16 or F16 only; NULL: to nearest */
} mpt_cast_t;

/** acc[i] = acc[i] + x[i], one FP32 addition; a NaN sum is the quiet NaN 0x7fc00000, as in mpt_tree_sum. */
typedef struct mpt_add {
    mpt_dtype_t dtype; /* of x: F32, BF16, F16 */
    int64_t count;
    float *acc;
    const void *x;
} mpt_add_t;

/**
 * *sum += the sum over i, modulo 2^64, of mix(element + i, bits of data[i], salt): the same for any cut and order, so
 * that replicas can be compared. mix is mpt_hash_mix in numeric.h.
 */
typedef struct mpt_hash {
    mpt_dtype_t dtype; /* F32, BF16, F16 */
    int64_t count;
    const void *data;
    uint64_t element; /* global element of data[0] */
    uint64_t salt;    /* parts arrays that hold the same elements */
    uint64_t *sum;    /* device memory, += */
} mpt_hash_t;

/* ---- the table ---------------------------------------------------------------------------------- */

/**
 * The largest shapes that a session will ask for: what scratch is sized by. A call is refused beyond them.
 * A product (rows, in, out) fits if rows <= rows, one of in and out is at most dim, and the other at most
 * the larger of 3 dim and hidden; or if rows <= loss_rows, in <= dim and out <= vocab_padded (the head).
 */
typedef struct mpt_kernels_limits {
    mpt_dtype_t compute;                 /* MPT_TF32: of linear layers, F32 of the others */
    int64_t batch, seq, heads, head_dim; /* attention */
    int64_t rows, dim, hidden;           /* linear: rows x {dim, 3 dim, hidden} */
    int64_t vocab_padded, loss_rows;     /* head and loss, loss_rows rows at a time */
} mpt_kernels_limits_t;

typedef struct mpt_kernels_ops {
    const char *name; /* "ref", "cpu", "cuda" */
    /* Bytes of device scratch that the calls within `limits` need with `threads` host threads. Pure. */
    size_t (*scratch_bytes)(mpt_isa_t isa, int threads, const mpt_kernels_limits_t *limits);
    mpt_status_t (*embed_forward)(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s);
    mpt_status_t (*embed_backward)(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s);
    mpt_status_t (*layernorm_forward)(mpt_kernels_t *k, const mpt_layernorm_forward_t *a, mpt_stream_t *s);
    mpt_status_t (*layernorm_backward)(mpt_kernels_t *k, const mpt_layernorm_backward_t *a, mpt_stream_t *s);
    /* Bytes of packed weights that give `columns` outputs over a contraction of `depth`; 0: this backend packs nothing. Pure. */
    size_t (*linear_pack_bytes)(mpt_isa_t isa, mpt_dtype_t compute, int64_t columns, int64_t depth);
    mpt_status_t (*linear_pack)(mpt_kernels_t *k, const mpt_linear_pack_t *a, mpt_stream_t *s);
    mpt_status_t (*linear_forward)(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s);
    mpt_status_t (*linear_backward_input)(mpt_kernels_t *k, const mpt_linear_backward_input_t *a, mpt_stream_t *s);
    mpt_status_t (*linear_backward_weight)(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a, mpt_stream_t *s);
    mpt_status_t (*attention_forward)(mpt_kernels_t *k, const mpt_attention_forward_t *a, mpt_stream_t *s);
    mpt_status_t (*attention_backward)(mpt_kernels_t *k, const mpt_attention_backward_t *a, mpt_stream_t *s);
    mpt_status_t (*loss)(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s);
    mpt_status_t (*to_wire)(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s);
    mpt_status_t (*grad_scan)(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s);
    mpt_status_t (*adamw)(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s);
    mpt_status_t (*cast)(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s);
    mpt_status_t (*add)(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s);
    mpt_status_t (*hash)(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s);
} mpt_kernels_ops_t;

/** Host time inside the calls of one operation, the arithmetic of its matrix products, and of passes over memory the bytes: arrays read once
 *  and written once, those added to twice. */
typedef struct mpt_op_profile {
    double seconds, flops, bytes;
    int64_t calls;
} mpt_op_profile_t;

struct mpt_kernels {
    const mpt_kernels_ops_t *ops;
    mpt_device_t *device;   /* borrowed; its pool does the work on the CPU */
    const mpt_log_t *log;   /* borrowed */
    mpt_isa_t isa;          /* the level in use, at most what was detected */
    void *scratch;          /* borrowed device memory, at least scratch_bytes(...) */
    size_t scratch_bytes;
    mpt_kernels_limits_t limits;
    mpt_op_profile_t profile[MPT_OP_COUNT]; /* since init; whoever reads it may zero it */
};

/** The backends by name: "ref" (plain C oracle, accumulates in double, runs in every type) and "cpu". NULL where unknown. */
const mpt_kernels_ops_t *mpt_kernels_find(const char *name);

/** Scratch for a backend with these limits; see the table. */
size_t mpt_kernels_scratch_bytes(const mpt_kernels_ops_t *ops, mpt_isa_t isa, int threads,
                                 const mpt_kernels_limits_t *limits);

/** Bytes of `forward` (columns = out, depth = in) or `backward` (columns = in, depth = out) of mpt_linear_pack; 0: nothing to pack. Pure. */
size_t mpt_linear_pack_bytes(const mpt_kernels_ops_t *ops, mpt_isa_t isa, mpt_dtype_t compute, int64_t columns,
                             int64_t depth);

/** Fill in a kernel table's handle; everything is borrowed. `isa` above what the processor has is MPT_ERR_INVALID_ARG. */
mpt_status_t mpt_kernels_init(mpt_kernels_t *k, const mpt_kernels_ops_t *ops, mpt_device_t *device,
                              const mpt_log_t *log, mpt_isa_t isa, void *scratch,
                              size_t scratch_bytes, const mpt_kernels_limits_t *limits);

/* ---- checked calls: what everyone uses -------------------------------------------------------- *
 * Each checks shapes against the limits, types against mpt_op_precision, and NULLs, then enqueues.
 * Sizes are at least 1; a `count` may be 0.
 * @return MPT_OK; MPT_ERR_INVALID_ARG (nothing enqueued, logged); MPT_ERR_DEVICE.
 */
mpt_status_t mpt_embed_forward(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s);
mpt_status_t mpt_embed_backward(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s);
mpt_status_t mpt_layernorm_forward(mpt_kernels_t *k, const mpt_layernorm_forward_t *a, mpt_stream_t *s);
mpt_status_t mpt_layernorm_backward(mpt_kernels_t *k, const mpt_layernorm_backward_t *a, mpt_stream_t *s);
mpt_status_t mpt_linear_pack(mpt_kernels_t *k, const mpt_linear_pack_t *a, mpt_stream_t *s);
mpt_status_t mpt_linear_forward(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s);
mpt_status_t mpt_linear_backward_input(mpt_kernels_t *k, const mpt_linear_backward_input_t *a, mpt_stream_t *s);
mpt_status_t mpt_linear_backward_weight(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a, mpt_stream_t *s);
mpt_status_t mpt_attention_forward(mpt_kernels_t *k, const mpt_attention_forward_t *a, mpt_stream_t *s);
mpt_status_t mpt_attention_backward(mpt_kernels_t *k, const mpt_attention_backward_t *a, mpt_stream_t *s);
mpt_status_t mpt_loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s);
mpt_status_t mpt_to_wire(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s);
mpt_status_t mpt_grad_scan(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s);
mpt_status_t mpt_adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s);
mpt_status_t mpt_cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s);
mpt_status_t mpt_add(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s);
mpt_status_t mpt_hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s);

/**
 * Matrix peak of this processor at level `isa` for products in `compute`, FLOP/s summed over `threads` threads of
 * the device's pool: a bare loop of tile products (or FMAs) whose operands come from L1; shares no code
 * with the kernels. Best of several short runs; about 30 ms.
 */
double mpt_peak_flops(mpt_device_t *device, mpt_isa_t isa, mpt_dtype_t compute);

#ifdef __cplusplus
}
#endif
#endif
