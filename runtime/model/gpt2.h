/*
 * GPT-2: learned positions, pre-LayerNorm, biases, tanh-GELU, head tied to the token embedding. Forward and
 * backward are written out; there is no autograd. The model sees parameters and gradients as arrays of
 * pointers by tensor index, and knows nothing of how they are sharded.
 *
 * Units: 0 the embeddings (wte, wpe), 1..layers the blocks, layers+1 the head (ln_f). The tied wte is in unit 0, ready last.
 *
 * One micro-batch, R = batch*seq rows, C = dim, r_l the residual stream:
 *
 *   tokens -> embed -> r_0 -> [ln_1 -> qkv -> attention -> proj -> + -> ln_2 -> fc, gelu -> proj -> +] x layers
 *          -> ln_f -> head and loss, a chunk of rows at a time
 */
#ifndef MPT_GPT2_H
#define MPT_GPT2_H

#include "arena.h"
#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_GPT2_VOCAB_MULTIPLE 128

typedef struct mpt_gpt2_shape {
    int64_t layers, heads, dim, context, vocab;
    int64_t batch, seq; /* of one micro-batch */
} mpt_gpt2_shape_t;

/* Tensors of one block, in table order: decayed ones first. */
typedef enum mpt_gpt2_block_tensor {
    MPT_GPT2_QKV_W = 0,
    MPT_GPT2_PROJ_W,
    MPT_GPT2_FC_W,
    MPT_GPT2_FCPROJ_W,
    MPT_GPT2_LN1_W,
    MPT_GPT2_LN1_B,
    MPT_GPT2_QKV_B,
    MPT_GPT2_PROJ_B,
    MPT_GPT2_LN2_W,
    MPT_GPT2_LN2_B,
    MPT_GPT2_FC_B,
    MPT_GPT2_FCPROJ_B,
    MPT_GPT2_BLOCK_TENSORS
} mpt_gpt2_block_tensor_t;

enum { MPT_GPT2_WTE = 0, MPT_GPT2_WPE = 1, MPT_GPT2_EMBED_TENSORS = 2 };

/** Index of a block's tensor in the table. */
static inline int mpt_gpt2_block(int64_t layer, mpt_gpt2_block_tensor_t tensor)
{
    return MPT_GPT2_EMBED_TENSORS + (int)layer * MPT_GPT2_BLOCK_TENSORS + (int)tensor;
}
/** Index of ln_f's weight; its bias is the next. */
static inline int mpt_gpt2_lnf(const mpt_gpt2_shape_t *shape)
{
    return mpt_gpt2_block(shape->layers, MPT_GPT2_QKV_W);
}
/** Rows of wte with padding. */
int64_t mpt_gpt2_vocab_padded(const mpt_gpt2_shape_t *shape);
/** Number of tensors: 2 + 12 layers + 2. */
int mpt_gpt2_tensor_count(const mpt_gpt2_shape_t *shape);
/** Fill in the table (`first` as well), mpt_gpt2_tensor_count entries. */
void mpt_gpt2_tensors(const mpt_gpt2_shape_t *shape, mpt_tensor_t *tensors);
/** Initial value of elements [first, first+count) of tensor `index`: N(0, 0.02), residual projections times
 *  1/sqrt(2 layers), gains 1, biases 0. A pure function of (seed, global element). */
void mpt_gpt2_init(const mpt_gpt2_shape_t *shape, const mpt_tensor_t *tensors, int index,
                   uint64_t seed, int64_t first, int64_t count, float *out);

/*
 * Activations of one block that backward needs. Shapes with R rows; compute type but for the statistics (wide).
 * Those that are computed again are one set for all blocks, which every block's pointers name.
 */
typedef struct mpt_gpt2_block_acts {
    void *ln1_y;    /* [R,C] */
    void *qkv;      /* [R,3C] */
    void *att;      /* [R,C] */
    void *mid;      /* [R,C] residual after attention */
    void *ln2_y;    /* [R,C] */
    void *fc_pre;   /* [R,4C] */
    void *fc_act;   /* [R,4C] */
    void *out;      /* [R,C] residual after the MLP */
    void *ln1_mean, *ln1_rstd, *ln2_mean, *ln2_rstd; /* [R] */
    void *lse;      /* [batch,heads,seq] */
} mpt_gpt2_block_acts_t;

/*
 * What the owner of parameters and gradients does around their use. A status other than MPT_OK ends the pass with it.
 * Forward needs 0, 1 .. layers, layers+1 in this order, the loss 0 (the tied wte), backward layers+1, layers .. 1, 0;
 * mpt_gpt2_logits needs 0. After the last unit of forward comes the loss's 0, after a loss with gradient backward's
 * layers+1; after a loss without, after logits and after backward's 0 comes none. A unit's parameters and gradients
 * are not touched any more once another is needed.
 */
typedef struct mpt_gpt2_hooks {
    /* Before unit `unit`'s parameters are read and, with `backward`, its gradients added to. `next` is the unit that will
     * follow, -1: none. May set params[] and grads[] of both. NULL: they are where they always are. */
    mpt_status_t (*need)(void *ctx, int unit, int next, int backward);
    /* In backward: unit `unit`'s gradients of this micro-batch are complete. NULL: nobody asks. */
    mpt_status_t (*ready)(void *ctx, int unit);
    void *ctx;
} mpt_gpt2_hooks_t;

/*
 * What backward computes again instead of keeping it from forward; the bits are the same. With A = R*C elements, S the
 * four statistics (4 R wide) and E = lse (R*heads wide), the blocks' activations are
 *
 *   KEEP                 layers (16 A + S + E)
 *   RECOMPUTE_ATTENTION  layers (11 A + S) +  5 A + E        ln1_y, qkv, att, lse again, from the block's input
 *   RECOMPUTE_BLOCK      layers A          + 15 A + S + E    all again but `out`
 *
 * and r_0, lnf_y and ln_f's statistics (2 A + 2 R wide) in each. The set still holds the last block when backward begins:
 * that block is not computed again.
 */
typedef enum mpt_gpt2_recompute {
    MPT_GPT2_KEEP = 0,
    MPT_GPT2_RECOMPUTE_ATTENTION,
    MPT_GPT2_RECOMPUTE_BLOCK
} mpt_gpt2_recompute_t;

/* Which weights are kept in packed form as well, and for which products. */
typedef struct mpt_gpt2_packing {
    const mpt_kernels_ops_t *ops;
    mpt_isa_t isa;
    int backward; /* 1: for input gradients too */
} mpt_gpt2_packing_t;

/* A linear layer's packed weights; NULL: packed anew in every product. */
typedef struct mpt_gpt2_pack {
    void *forward, *backward;
    int fresh; /* 1: they are those of the weights now */
} mpt_gpt2_pack_t;

typedef struct mpt_gpt2 {
    mpt_gpt2_shape_t shape;
    mpt_dtype_t compute; /* of memory */
    mpt_dtype_t math;    /* compute type of linear layers: MPT_TF32, or the same */
    mpt_gpt2_recompute_t recompute;
    mpt_gpt2_hooks_t hooks; /* set by the owner; zero: none */
    mpt_kernels_t *kernels; /* borrowed */
    mpt_stream_t *stream;   /* borrowed */
    void **params;          /* by tensor index: compute; set by the owner */
    void **grads;           /* by tensor index: wide accumulators, +=; set by the owner */
    mpt_gpt2_pack_t *packs;        /* by tensor index; biases, gains and wpe have none */
    mpt_gpt2_block_acts_t *blocks; /* [layers] */
    int64_t held;                  /* the layer whose activations the shared set holds, -1: none */
    void *embed;                   /* [R,C] r_0 */
    void *lnf_y, *lnf_mean, *lnf_rstd;
    int64_t loss_rows;             /* rows of the head at a time */
    void *logits;                  /* [loss_rows,Vp] wide */
    void *dlogits;                 /* [loss_rows,Vp] compute */
    void *losses;                  /* [R] wide */
    double *loss_sum;              /* [1] device */
    void *branch;                  /* [R,C] output of a projection; in backward, of an input gradient */
    void *dres;                    /* [R,C] gradient of the residual stream */
    void *dhidden;                 /* [R,4C] */
} mpt_gpt2_t;

/** Rows of the head and loss taken at a time. Pure. */
int64_t mpt_gpt2_loss_rows(const mpt_gpt2_shape_t *shape);
/** The kernels' limits for this shape. Pure. */
void mpt_gpt2_limits(const mpt_gpt2_shape_t *shape, mpt_dtype_t compute, mpt_kernels_limits_t *limits_p);
/** Host memory for the pointer tables. compute: MPT_TF32 as well. @return MPT_OK; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_gpt2_create(mpt_gpt2_t *model, const mpt_gpt2_shape_t *shape, mpt_dtype_t compute,
                             mpt_gpt2_recompute_t recompute);
/** Cut the activations from a private arena, counting or real. */
void mpt_gpt2_cut(mpt_gpt2_t *model, mpt_arena_t *arena);
/** Cut memory for packed weights of every linear layer from a private arena, counting or real. Without it, or where the backend packs
 *  nothing, products read params[] alone; the bits are the same. For weights that stay where they are: params[] is read when a layer is
 *  first used after mpt_gpt2_weights_changed. */
void mpt_gpt2_cut_packs(mpt_gpt2_t *model, const mpt_gpt2_packing_t *packing, mpt_arena_t *arena);
/** What params[] points at has changed. Call it whenever it does. */
void mpt_gpt2_weights_changed(mpt_gpt2_t *model);
/** Free the pointer tables; safe on a zeroed model. */
void mpt_gpt2_release(mpt_gpt2_t *model);

/** Forward through ln_f. tokens: [batch,seq] device. Enqueued. */
mpt_status_t mpt_gpt2_forward(mpt_gpt2_t *model, const uint32_t *tokens);
/** Head and loss: *loss_sum (device) is set to the sum over rows. With `with_gradient` also the gradients, scaled by `seed`, of the head: dres becomes d(ln_f output), wte's += . */
mpt_status_t mpt_gpt2_loss(mpt_gpt2_t *model, const uint32_t *targets, float seed, int with_gradient);
/** Backward from mpt_gpt2_loss's dres; gradients +=. */
mpt_status_t mpt_gpt2_backward(mpt_gpt2_t *model, const uint32_t *tokens);
/** Logits [vocab] (wide, host-readable on the CPU) of row `row` after mpt_gpt2_forward, in model->logits. */
mpt_status_t mpt_gpt2_logits(mpt_gpt2_t *model, int64_t row);

/** FLOPs a token by the three conventions: 6N; PaLM (6N + 12 L H Q T, Chowdhery et al. 2022, appendix B); causal (6N + 6 L H Q T). */
void mpt_gpt2_flops(const mpt_gpt2_shape_t *shape, int64_t parameters, double *six_nd_p, double *palm_p, double *causal_p);

#ifdef __cplusplus
}
#endif
#endif
