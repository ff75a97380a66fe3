/*
 * The parts of fused attention, private to this level. For one (batch, head) pair, Q, K, V, dO being
 * [seq,head_dim], everything is computed on transposed scores, a row per key and a column per query, so that softmax
 * works down columns, lane by lane, and the running maximum, log-sum and D are vectors:
 *
 *   forward, a block of queries against blocks of keys     backward, a block of keys against blocks of queries
 *     S^T = K Q^T                                            S^T = K Q^T, dP^T = V dO^T, 32 keys at a time
 *     P^T = 2^(S^T c - peak), peak per column                P^T = 2^(S^T c - lse), dS^T = P^T (dP^T - D) scale
 *     O^T = O^T 2^(old peak - peak) + V^T P^T                dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T
 *
 * c = scale log2(e). Two engines do the block products: FP32 vectors ("fma", every level and type), and
 * bf16 tiles ("tiles", BF16 and F16 at the amx level; an FP16 number is the sum of two bf16 numbers, its
 * planes, and a product keeps three of the four terms). P and dS are rounded to compute before products: that is what tiles
 * multiply, and what the other levels imitate.
 *
 * Non-finite values: packing reports them. Operands whose rows are summed over with weights that are zero
 * above the diagonal are packed with zeros in their place, because 0 * inf would reach rows that must not see them;
 * attention_nonfinite.c puts back what the sum should have shown.
 */
#ifndef MPT_CPU_ATTENTION_H
#define MPT_CPU_ATTENTION_H

#include "attention_math.h"
#include "level.h"

#define ATTENTION_STEP 32 /* rows are padded to this; blocks and masked squares are multiples of it */

/** How one call is computed. */
typedef struct attention_shape {
    mpt_dtype_t compute;
    int tiles;  /* which engine */
    int planes; /* bf16 terms of an element: 1, or 2 for F16; 1 without tiles */
    int64_t batch, seq, heads, head_dim;
    int64_t rows;      /* seq padded to ATTENTION_STEP */
    int64_t width;     /* head_dim padded: to 32 for tiles, else to a vector */
    int64_t depth;     /* length of contractions over head_dim */
    int64_t queries;   /* rows of a query block */
    int64_t keys;      /* rows of a key block */
    int64_t columns;   /* backward: queries of a strip that go through softmax at a time */
} attention_shape_t;

/**
 * A packed matrix operand of a block. `outer` counts rows of a left operand, columns of a right one; `inner`
 * counts the contraction. Strides in bytes: of an element (fma), or of a tile of 16 outer x 32 inner elements of
 * 1 KiB (tiles), `plane` apart for the second bf16 term.
 */
typedef struct attention_operand {
    char *data;
    int64_t outer, inner, plane;
} attention_operand_t;

/** Rows of one head in the caller's array: row r of head_dim elements at base + r * stride bytes. */
typedef struct attention_source {
    const char *base;
    int64_t stride;
} attention_source_t;

/** How a block of rows is packed. */
typedef enum attention_form {
    ATTENTION_LEFT_WIDE,  /* left operand, outer: rows, inner: head_dim */
    ATTENTION_RIGHT_WIDE, /* right operand, outer: rows, inner: head_dim */
    ATTENTION_LEFT_ROWS,  /* left operand, outer: head_dim, inner: rows; non-finite values as zero */
    ATTENTION_RIGHT_ROWS  /* right operand, outer: head_dim, inner: rows; non-finite values as zero */
} attention_form_t;

/** What turns 32 keys of S^T and dP^T into P^T and dS^T. Columns are queries. */
typedef struct attention_strip {
    const float *scores, *dprobs;   /* [32,ld] */
    int64_t ld, columns;            /* columns: a multiple of 32 */
    const float *minus_lse, *delta; /* [columns]: -lse log2(e); D scale */
    float scale;
    int diagonal;                       /* the first 32 columns are queries at the keys' own positions */
    attention_operand_t probs, dscores; /* left operands, outer: 32 keys, inner: columns */
    attention_operand_t dscores_right;  /* right operand, outer: columns (zipped by tiles), inner: keys */
} attention_strip_t;

#define attention_shape_init MPT_LEVEL_NAME(mpt_attention_shape_init)
#define attention_operand_bytes MPT_LEVEL_NAME(mpt_attention_operand_bytes)
#define attention_operand_init MPT_LEVEL_NAME(mpt_attention_operand_init)
#define attention_operand_over_rows MPT_LEVEL_NAME(mpt_attention_operand_over_rows)
#define attention_scratch_cut MPT_LEVEL_NAME(mpt_attention_scratch_cut)
#define attention_store_transposed MPT_LEVEL_NAME(mpt_attention_store_transposed)
#define attention_forward_scratch MPT_LEVEL_NAME(mpt_attention_forward_scratch)
#define attention_backward_scratch MPT_LEVEL_NAME(mpt_attention_backward_scratch)
#define attention_nonfinite_down MPT_LEVEL_NAME(mpt_attention_nonfinite_down)
#define attention_nonfinite_up MPT_LEVEL_NAME(mpt_attention_nonfinite_up)
#define attention_fma_pack MPT_LEVEL_NAME(mpt_attention_fma_pack)
#define attention_fma_product MPT_LEVEL_NAME(mpt_attention_fma_product)
#define attention_fma_probabilities MPT_LEVEL_NAME(mpt_attention_fma_probabilities)
#define attention_fma_gradients MPT_LEVEL_NAME(mpt_attention_fma_gradients)
#define attention_tiles_pack MPT_LEVEL_NAME(mpt_attention_tiles_pack)
#define attention_tiles_product MPT_LEVEL_NAME(mpt_attention_tiles_product)
#define attention_tiles_probabilities MPT_LEVEL_NAME(mpt_attention_tiles_probabilities)
#define attention_tiles_gradients MPT_LEVEL_NAME(mpt_attention_tiles_gradients)
#define attention_tiles_begin MPT_LEVEL_NAME(mpt_attention_tiles_begin)
#define attention_tiles_end MPT_LEVEL_NAME(mpt_attention_tiles_end)

/* ---- attention.c ------------------------------------------------------------------------------- */

attention_shape_t attention_shape_init(mpt_dtype_t compute, int64_t batch, int64_t seq,
                                       int64_t heads, int64_t head_dim, int backward);
/** Bytes of `rows` packed rows (a multiple of ATTENTION_STEP), in any form. */
size_t attention_operand_bytes(const attention_shape_t *shape, int64_t rows);
attention_operand_t attention_operand_init(const attention_shape_t *shape, attention_form_t form,
                                           int64_t rows, void *data);

/** A right operand whose contraction runs over `rows` rows, `width` columns; or a left one of its transpose. */
attention_operand_t attention_operand_over_rows(const attention_shape_t *shape, int64_t rows,
                                                int64_t width, void *data);
/** Cut `bytes` from scratch that starts at `base` (NULL: count only) and is used up to *used. */
void *attention_scratch_cut(char *base, size_t *used, size_t bytes);

/** The operand from (outer, inner) on; multiples of ATTENTION_STEP. */
static inline attention_operand_t attention_at(const attention_shape_t *shape,
                                               attention_operand_t operand, int64_t outer,
                                               int64_t inner)
{
    if (shape->tiles) {
        outer /= 16;
        inner /= 32;
    }
    operand.data += outer * operand.outer + inner * operand.inner;
    return operand;
}

/**
 * Round from[d * ld + i] * factor[i] (factor NULL: 1) to compute and write it as element d of row i, for
 * the first `rows` of them, at to + i * stride bytes. zipped: columns are in the order of dscores_right.
 * [width,ld] is read for rows padded to ATTENTION_STEP.
 */
void attention_store_transposed(const attention_shape_t *shape, const float *from, int64_t ld,
                                const float *factor, int zipped, char *to, int64_t stride,
                                int64_t rows);

/* ---- attention_forward.c, attention_backward.c -------------------------------------------------- */

/** Bytes of scratch a thread needs; they grow with seq and head_dim. */
size_t attention_forward_scratch(const attention_shape_t *shape);
size_t attention_backward_scratch(const attention_shape_t *shape);

/* ---- attention_nonfinite.c ---------------------------------------------------------------------- */

/**
 * For each row i in [first, last) of `to`: add the non-finite elements of rows 0 .. i of `from`, column by column,
 * each times `factor` (1; 0 makes them all NaN). `running`: scratch of head_dim floats.
 */
void attention_nonfinite_down(const attention_shape_t *shape, attention_source_t from, float factor,
                              char *to, int64_t to_stride, int64_t first, int64_t last,
                              float *running);
/** The same with rows i .. seq-1 of `from`. */
void attention_nonfinite_up(const attention_shape_t *shape, attention_source_t from, float factor,
                            char *to, int64_t to_stride, int64_t first, int64_t last,
                            float *running);

/* ---- the engines: attention_fma.c; attention_tiles.c, attention_tiles_pack.c -------------------- */

/**
 * Pack rows [first, first + rows) in `form`; rows from seq on are zero. `rows` is a multiple of ATTENTION_STEP, `to` was made
 * for a block of at least as many. @return 1 where a _ROWS form has seen a non-finite value.
 */
int attention_fma_pack(const attention_shape_t *shape, attention_form_t form,
                       attention_source_t source, int64_t first, int64_t rows,
                       attention_operand_t to);
/**
 * c[rows,columns] (FP32, ld) = left . right, or += it. Rows, columns and depth are multiples of ATTENTION_STEP,
 * or, where they run over head_dim, `width` and `depth` of the shape.
 */
void attention_fma_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                           int64_t columns, attention_operand_t left, attention_operand_t right,
                           int64_t depth, int accumulate);
/**
 * probs = 2^(scores c - base) rounded to compute, a right operand (outer: columns, inner: keys); sum += its column
 * sums before rounding. scores: [keys,columns], ld = columns. fma: probs may lie in their place.
 */
void attention_fma_probabilities(const attention_shape_t *shape, const float *scores, int64_t keys,
                                 int64_t columns, float c, const float *base, float *sum,
                                 attention_operand_t probs);
void attention_fma_gradients(const attention_shape_t *shape, const attention_strip_t *strip);

#ifdef MPT_LEVEL_AMX
int attention_tiles_pack(const attention_shape_t *shape, attention_form_t form,
                         attention_source_t source, int64_t first, int64_t rows,
                         attention_operand_t to);
void attention_tiles_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                             int64_t columns, attention_operand_t left, attention_operand_t right,
                             int64_t depth, int accumulate);
void attention_tiles_probabilities(const attention_shape_t *shape, const float *scores, int64_t keys,
                                   int64_t columns, float c, const float *base, float *sum,
                                   attention_operand_t probs);
void attention_tiles_gradients(const attention_shape_t *shape, const attention_strip_t *strip);
/** Configure this thread's tiles before the others, and release them after. */
void attention_tiles_begin(void);
void attention_tiles_end(void);
#define attention_engine(shape, part) \
    ((shape)->tiles ? attention_tiles_##part : attention_fma_##part)
#else
#define attention_engine(shape, part) attention_fma_##part
#endif

#endif
