/*
 * The parts of fused attention, private to this level. For one (batch, head) pair, Q, K, V and dO
 * being [seq,head_dim], everything is computed on transposed scores, a row per key and a column per
 * query, so that softmax works down columns, lane by lane, and its maxima, sums and D are vectors:
 *
 *   forward: a block of queries            backward: a block of keys against blocks of queries,
 *   against blocks of keys                 32 keys at a time
 *     S^T = K Q^T                            S^T = K Q^T, dP^T = V dO^T
 *     P^T = 2^(c S^T - base)                 P^T = 2^(c S^T - lse), dS^T = P^T (dP^T - D) scale
 *     O^T += V^T P^T                         dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T
 *
 * c = scale log2(e). Sums are FP32, in an order that the shape alone decides, rounded to compute
 * once at the end. P and dS are rounded to compute before they are multiplied: that is what tiles
 * multiply, and what the levels without tiles do as well. Row sums are taken before that rounding.
 *
 * Two engines do the work on blocks: FP32 vectors ("fma": every level and type), and bf16 operands
 * packed in tiles ("tiles": BF16 and F16 at the amx level, BF16 at avx512_bf16, where dot products
 * multiply them). An FP16 number is the sum of two bf16 numbers, its planes; a product keeps three
 * of the four terms and drops low x low, at most 2^-16 of it. Without tile instructions three dot
 * products cost more than one FP32 product: F16 stays with fma there.
 *
 * Non-finite values. Where rows are summed with weights that are zero above the diagonal, 0 * inf
 * would reach rows that must not see it. Such operands are packed with zeros in place of non-finite
 * values, and attention_nonfinite.c adds to the result what the sum should have shown. An infinite
 * element on F16 tiles makes NaN of scores that IEEE would leave infinite.
 */
#ifndef MPT_CPU_ATTENTION_H
#define MPT_CPU_ATTENTION_H

#include "attention_math.h"
#include "level.h"
#include "pool.h"

#if defined(MPT_LEVEL_AMX)
#define ATTENTION_HAS_TILES
#define ATTENTION_MULTIPLIES_TILES 1
#elif defined(MPT_LEVEL_AVX512_BF16)
#define ATTENTION_HAS_TILES
#define ATTENTION_MULTIPLIES_TILES 0
#endif

#define ATTENTION_STEP 32 /* rows are padded to this; blocks are multiples of it */

/** How one call is computed. */
typedef struct attention_shape {
    mpt_dtype_t compute;
    int tiles;  /* which engine */
    int planes; /* tiles: bf16 terms of an element, 2 for F16, else 1 */
    int64_t batch, seq, heads, head_dim;
    int64_t rows;    /* seq padded to ATTENTION_STEP */
    int64_t width;   /* head_dim padded: to 32 for tiles, else to a vector */
    int64_t depth;   /* length of contractions over head_dim */
    int64_t queries; /* rows of a query block */
    int64_t keys;    /* rows of a key block */
    int64_t columns; /* backward: queries whose P and dS are computed at a time */
} attention_shape_t;

/**
 * A packed operand of products. `outer` counts rows of a left operand and columns of a right one;
 * `inner` counts the contraction. Strides in bytes: fma, of one element; tiles, of a tile of 1 KiB,
 * 16 outer x 32 inner elements, `plane` from an element's first bf16 term to its second.
 */
typedef struct attention_operand {
    char *data;
    int64_t outer, inner, plane;
} attention_operand_t;

/** Rows of one head in the caller's array: head_dim elements at base + r * stride bytes. */
typedef struct attention_source {
    const char *base;
    int64_t stride;
} attention_source_t;

/** How a block of rows is packed. The _ROWS forms hold zeros in place of non-finite values. */
typedef enum attention_form {
    ATTENTION_LEFT_WIDE,  /* left operand, outer: rows, inner: head_dim */
    ATTENTION_RIGHT_WIDE, /* right operand, outer: rows, inner: head_dim */
    ATTENTION_LEFT_ROWS,  /* left operand, outer: head_dim, inner: rows */
    ATTENTION_RIGHT_ROWS  /* right operand, outer: head_dim, inner: rows */
} attention_form_t;

/** What turns 32 rows (keys) of S^T and dP^T into P^T and dS^T. */
typedef struct attention_strip {
    const float *scores, *dprobs; /* [32,ld] */
    int64_t ld, columns;          /* columns (queries): a multiple of 32 */
    const float *minus_lse;       /* [columns]: -lse log2(e) */
    const float *delta;           /* [columns]: D scale, D = rowsum(dout * out) */
    float scale;
    int diagonal;                       /* the first 32 queries are at the keys' own positions */
    attention_operand_t probs, dscores; /* left operands, outer: 32 keys, inner: columns */
    attention_operand_t
        dscores_right; /* right operand, outer: columns (tiles: zipped), inner: keys */
} attention_strip_t;

#define attention_shape_init MPT_LEVEL_NAME(mpt_attention_shape_init)
#define attention_operand_bytes MPT_LEVEL_NAME(mpt_attention_operand_bytes)
#define attention_operand_init MPT_LEVEL_NAME(mpt_attention_operand_init)
#define attention_operand_over_rows MPT_LEVEL_NAME(mpt_attention_operand_over_rows)
#define attention_scratch_cut MPT_LEVEL_NAME(mpt_attention_scratch_cut)
#define attention_scratch_fits MPT_LEVEL_NAME(mpt_attention_scratch_fits)
#define attention_store_transposed MPT_LEVEL_NAME(mpt_attention_store_transposed)
#define attention_threads MPT_LEVEL_NAME(mpt_attention_threads)
#define attention_run MPT_LEVEL_NAME(mpt_attention_run)
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

static inline int64_t attention_smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t attention_larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- attention.c ----------------------------------------------------------------------------- */

/** Block sizes are those of forward or of `backward`. */
attention_shape_t attention_shape_init(mpt_dtype_t compute, int64_t batch, int64_t seq,
                                       int64_t heads, int64_t head_dim, int backward);
/** Bytes of `rows` packed rows (a multiple of ATTENTION_STEP), in any form. */
size_t attention_operand_bytes(const attention_shape_t *shape, int64_t rows);
/** The operand that `rows` rows packed in `form` make at `data`. */
attention_operand_t attention_operand_init(const attention_shape_t *shape, attention_form_t form,
                                           int64_t rows, void *data);
/** A right operand of `width` columns whose contraction runs over `rows` rows, or the left operand
 *  that is its transpose. */
attention_operand_t attention_operand_over_rows(const attention_shape_t *shape, int64_t rows,
                                                int64_t width, void *data);

/** The operand from (outer, inner) on, which are multiples of ATTENTION_STEP. */
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

/** Cut `bytes` from scratch that starts at `base` (NULL: count only) and is used up to *used. */
void *attention_scratch_cut(char *base, size_t *used, size_t bytes);
/** 1 if scratch holds `bytes` for each thread; else 0 and a line in the log. */
int attention_scratch_fits(const mpt_kernels_t *k, size_t bytes, const char *op);
/** Threads of the device's pool; 1 where it has none. */
int64_t attention_threads(const mpt_kernels_t *k);
/** Run the tasks on the pool, or in the caller where there is none. */
void attention_run(mpt_kernels_t *k, mpt_task_t task, void *ctx, int64_t tasks);

/**
 * Round from[d * ld + i] * factor[i] (factor NULL: 1) to compute and store it as element d of row
 * i < rows, at to + i * stride bytes. zipped: `from` has its columns in the order of dscores_right.
 * [width,ld] is read, for rows padded to ATTENTION_STEP.
 */
void attention_store_transposed(const attention_shape_t *shape, const float *from, int64_t ld,
                                const float *factor, int zipped, char *to, int64_t stride,
                                int64_t rows);

/** Ask for rows [first, last) of `source`: a head's rows lie far apart, where processors do not look ahead. */
static inline void attention_fetch(const attention_shape_t *shape, attention_source_t source, int64_t first, int64_t last)
{
    const int64_t bytes = shape->head_dim * (int64_t)mpt_dtype_bytes(shape->compute);
    last = attention_smaller(last, shape->seq);
    for (int64_t r = first; r < last; r++)
        vec_fetch(source.base + r * source.stride, bytes);
}

/* ---- attention_forward.c, attention_backward.c ----------------------------------------------- */

/** Bytes of scratch that a thread needs; they grow with seq and head_dim. */
size_t attention_forward_scratch(const attention_shape_t *shape);
size_t attention_backward_scratch(const attention_shape_t *shape);

/* ---- attention_nonfinite.c ------------------------------------------------------------------- */

/**
 * To each row i of `to` in [first, last): add the non-finite elements of rows 0 to i of `from`,
 * column by column, each times `factor` (1, or 0 to make them NaN). `running`: head_dim floats.
 */
void attention_nonfinite_down(const attention_shape_t *shape, attention_source_t from, float factor,
                              char *to, int64_t to_stride, int64_t first, int64_t last,
                              float *running);
/** The same with rows i to seq - 1 of `from`. */
void attention_nonfinite_up(const attention_shape_t *shape, attention_source_t from, float factor,
                            char *to, int64_t to_stride, int64_t first, int64_t last,
                            float *running);

/* ---- the engines: attention_fma.c; attention_tiles.c, _tiles_pack.c, _tiles_product.c -------- */

/**
 * Pack rows [first, first + rows) in `form`; rows from seq on are zero. `rows` is a multiple of
 * ATTENTION_STEP. @return 1 where a _ROWS form has met a non-finite value.
 */
int attention_fma_pack(const attention_shape_t *shape, attention_form_t form,
                       attention_source_t source, int64_t first, int64_t rows,
                       attention_operand_t to);
/**
 * c[rows,columns] (FP32, ld) = left . right, or += it. Rows, columns and depth are multiples of
 * ATTENTION_STEP, or, where they run over head_dim, `width` and `depth` of the shape.
 */
void attention_fma_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                           int64_t columns, attention_operand_t left, attention_operand_t right,
                           int64_t depth, int accumulate);
/**
 * probs = 2^(c scores - base) rounded to compute, a right operand (outer: columns, inner: keys);
 * sum += its column sums before rounding. scores: [keys,columns]; with fma probs may be in place.
 */
void attention_fma_probabilities(const attention_shape_t *shape, const float *scores, int64_t keys,
                                 int64_t columns, float c, const float *base, float *sum,
                                 attention_operand_t probs);
void attention_fma_gradients(const attention_shape_t *shape, const attention_strip_t *strip);

#ifdef ATTENTION_HAS_TILES
/* The compiler does not know that tile instructions read and write memory. */
#define ATTENTION_FENCE() __asm__ volatile("" ::: "memory")
int attention_tiles_pack(const attention_shape_t *shape, attention_form_t form,
                         attention_source_t source, int64_t first, int64_t rows,
                         attention_operand_t to);
void attention_tiles_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                             int64_t columns, attention_operand_t left, attention_operand_t right,
                             int64_t depth, int accumulate);
void attention_tiles_probabilities(const attention_shape_t *shape, const float *scores,
                                   int64_t keys, int64_t columns, float c, const float *base,
                                   float *sum, attention_operand_t probs);
void attention_tiles_gradients(const attention_shape_t *shape, const attention_strip_t *strip);
/** Configure this thread's tiles before the others, and release them after. */
void attention_tiles_begin(void);
void attention_tiles_end(void);
#define attention_engine(shape, part)                                                              \
    ((shape)->tiles ? attention_tiles_##part : attention_fma_##part)
#else
#define attention_engine(shape, part) attention_fma_##part
#endif

#endif
