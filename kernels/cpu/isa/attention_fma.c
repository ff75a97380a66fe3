#include "attention.h"

#define ROWS 4 /* rows of the register block */
#if VEC_LANES == 16
#define VECTORS 4 /* its columns, in vectors */
#elif VEC_LANES == 8
#define VECTORS 3
#else
#define VECTORS 2
#endif

/* ---- packing --------------------------------------------------------------------------------- */

/* Element d and its neighbours of row r, zero past the row's end and past seq. */
VEC_INLINE vec_t load_element(const attention_shape_t *shape, attention_source_t source, mpt_dtype_t compute,
                              int64_t r, int64_t d)
{
    const int64_t left = shape->head_dim - d;
    if (r >= shape->seq || left <= 0)
        return (vec_t){0};
    const char *row = source.base + r * source.stride;
    if (left >= VEC_LANES)
        return vec_load(row, compute, d, VEC_LANES);
    return vec_load(row, compute, d, (int)left);
}

static inline vec_i32_t not_finite(vec_t v)
{
    return ((vec_i32_t)v & 0x7f800000) == 0x7f800000;
}

/* [rows,width], a row per row: as a left operand over head_dim, or either operand over rows. */
VEC_INLINE int pack_rows(const attention_shape_t *shape, attention_source_t source, mpt_dtype_t compute,
                         int64_t first, int64_t rows, int clean, float *to)
{
    vec_i32_t seen = {0};
    for (int64_t r = 0; r < rows; r++, to += shape->width)
        for (int64_t d = 0; d < shape->width; d += VEC_LANES) {
            const vec_t v = load_element(shape, source, compute, first + r, d);
            const vec_i32_t bad = not_finite(v);
            seen |= bad;
            vec_store_f32(to + d, VEC_LANES, clean ? vec_select(bad, (vec_t){0}, v) : v);
        }
    return attention_any(seen);
}

/* [width,ld], a column per row. */
VEC_INLINE int pack_columns(const attention_shape_t *shape, attention_source_t source, mpt_dtype_t compute,
                            int64_t first, int64_t rows, float *to, int64_t ld)
{
    for (int64_t r = 0; r < rows; r += VEC_LANES)
        for (int64_t d = 0; d < shape->width; d += VEC_LANES) {
            vec_t square[VEC_LANES];
            for (int i = 0; i < VEC_LANES; i++)
                square[i] = load_element(shape, source, compute, first + r + i, d);
            attention_transpose(square);
            for (int i = 0; i < VEC_LANES; i++)
                vec_store_f32(to + (d + i) * ld + r, VEC_LANES, square[i]);
        }
    return 0;
}

VEC_INLINE int pack_as(const mpt_dtype_t compute, const attention_shape_t *shape, attention_form_t form,
                       attention_source_t source, int64_t first, int64_t rows, attention_operand_t to)
{
    float *data = (float *)to.data;
    if (form == ATTENTION_RIGHT_WIDE)
        return pack_columns(shape, source, compute, first, rows, data, to.inner / 4);
    if (form == ATTENTION_LEFT_WIDE)
        return pack_rows(shape, source, compute, first, rows, 0, data);
    return pack_rows(shape, source, compute, first, rows, 1, data);
}

int attention_fma_pack(const attention_shape_t *shape, attention_form_t form,
                       attention_source_t source, int64_t first, int64_t rows,
                       attention_operand_t to)
{
    if (shape->compute == MPT_BF16)
        return pack_as(MPT_BF16, shape, form, source, first, rows, to);
    if (shape->compute == MPT_F16)
        return pack_as(MPT_F16, shape, form, source, first, rows, to);
    return pack_as(MPT_F32, shape, form, source, first, rows, to);
}

/* ---- products -------------------------------------------------------------------------------- */

/* ROWS x (vectors * VEC_LANES) of c. `vectors` is a constant where this is inlined. */
VEC_INLINE void product_block(float *c, int64_t ld, const attention_operand_t *left,
                              const attention_operand_t *right, int64_t depth, int accumulate,
                              const int vectors)
{
    vec_t sum[ROWS][VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            sum[i][j] =
                accumulate ? vec_load_f32(c + i * ld + j * VEC_LANES, VEC_LANES) : vec_set(0);
    const char *a = left->data, *b = right->data;
    for (int64_t k = 0; k < depth; k++, a += left->inner, b += right->inner) {
        vec_t column[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            column[j] = vec_load_f32((const float *)b + j * VEC_LANES, VEC_LANES);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            const vec_t row = attention_splat(*(const float *)(a + i * left->outer));
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++)
                sum[i][j] = vec_fma(row, column[j], sum[i][j]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            vec_store_f32(c + i * ld + j * VEC_LANES, VEC_LANES, sum[i][j]);
}

static void product_columns(float *c, int64_t ld, int64_t rows, attention_operand_t left,
                            const attention_operand_t *right, int64_t depth, int accumulate,
                            int vectors)
{
    for (int64_t i = 0; i < rows; i += ROWS, left.data += ROWS * left.outer, c += ROWS * ld)
        switch (vectors) {
#if VECTORS == 4
        case 4:
            product_block(c, ld, &left, right, depth, accumulate, 4);
            break;
#endif
#if VECTORS >= 3
        case 3:
            product_block(c, ld, &left, right, depth, accumulate, 3);
            break;
#endif
        case 2:
            product_block(c, ld, &left, right, depth, accumulate, 2);
            break;
        default:
            product_block(c, ld, &left, right, depth, accumulate, 1);
            break;
        }
}

void attention_fma_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                           int64_t columns, attention_operand_t left, attention_operand_t right,
                           int64_t depth, int accumulate)
{
    (void)shape;
    int64_t left_over = columns / VEC_LANES; /* vectors; shared evenly, since narrow blocks load more for each product */
    for (int64_t parts = (left_over + VECTORS - 1) / VECTORS; parts > 0; parts--) {
        const int64_t vectors = (left_over + parts - 1) / parts;
        product_columns(c, ld, rows, left, &right, depth, accumulate, (int)vectors);
        left_over -= vectors;
        c += vectors * VEC_LANES;
        right.data += vectors * VEC_LANES * right.outer;
    }
}

/* ---- softmax --------------------------------------------------------------------------------- */

VEC_INLINE void probabilities_as(const mpt_dtype_t compute, const float *scores, int64_t keys,
                                 int64_t columns, float c, const float *base, float *sum,
                                 float *probs, int64_t ld)
{
    for (int64_t q = 0; q < columns; q += VEC_LANES) {
        const vec_t minus_base = -vec_load_f32(base + q, VEC_LANES);
        vec_t total = vec_load_f32(sum + q, VEC_LANES);
        for (int64_t k = 0; k < keys; k++) {
            const vec_t s = vec_load_f32(scores + k * columns + q, VEC_LANES);
            const vec_t p = attention_exp2(vec_fma(s, vec_set(c), minus_base));
            total += p;
            vec_store_f32(probs + k * ld + q, VEC_LANES, vec_round(p, compute));
        }
        vec_store_f32(sum + q, VEC_LANES, total);
    }
}

void attention_fma_probabilities(const attention_shape_t *shape, const float *scores, int64_t keys,
                                 int64_t columns, float c, const float *base, float *sum,
                                 attention_operand_t probs)
{
    const mpt_dtype_t compute = shape->compute;
    float *to = (float *)probs.data;
    const int64_t ld = probs.inner / 4;
    if (compute == MPT_BF16)
        probabilities_as(MPT_BF16, scores, keys, columns, c, base, sum, to, ld);
    else if (compute == MPT_F16)
        probabilities_as(MPT_F16, scores, keys, columns, c, base, sum, to, ld);
    else
        probabilities_as(MPT_F32, scores, keys, columns, c, base, sum, to, ld);
}

/* Columns first to last - 1 of one key's row. masked: zero in columns before the key, whatever the
 * scores there are. */
VEC_INLINE void gradients_row(const mpt_dtype_t compute, const attention_strip_t *strip,
                              int64_t key, int64_t first, int64_t last, const int masked)
{
    const vec_t c = vec_set(strip->scale * ATTENTION_LOG2_E), scale = vec_set(strip->scale);
    float *probs = (float *)(strip->probs.data + key * strip->probs.outer);
    float *dscores = (float *)(strip->dscores.data + key * strip->dscores.outer);
    for (int64_t q = first; q < last; q += VEC_LANES) {
        const int64_t at = key * strip->ld + q;
        const vec_t t = vec_fma(vec_load_f32(strip->scores + at, VEC_LANES), c,
                                vec_load_f32(strip->minus_lse + q, VEC_LANES));
        vec_t p = attention_exp2(vec_min(vec_set(128), t));
        vec_t g = p * vec_fma(vec_load_f32(strip->dprobs + at, VEC_LANES), scale,
                              -vec_load_f32(strip->delta + q, VEC_LANES));
        if (masked) {
            const vec_i32_t visible = attention_lane_numbers() + (int32_t)q >= (int32_t)key;
            p = vec_select(visible, p, vec_set(0));
            g = vec_select(visible, g, vec_set(0));
        }
        vec_store_f32(probs + q, VEC_LANES, vec_round(p, compute));
        vec_store_f32(dscores + q, VEC_LANES, vec_round(g, compute));
    }
}

VEC_INLINE void gradients_as(const mpt_dtype_t compute, const attention_strip_t *strip)
{
    const int64_t masked = strip->diagonal ? ATTENTION_STEP : 0;
    for (int64_t key = 0; key < ATTENTION_STEP; key++) {
        gradients_row(compute, strip, key, 0, masked, 1);
        gradients_row(compute, strip, key, masked, strip->columns, 0);
    }
}

void attention_fma_gradients(const attention_shape_t *shape, const attention_strip_t *strip)
{
    const mpt_dtype_t compute = shape->compute;
    if (compute == MPT_BF16)
        gradients_as(MPT_BF16, strip);
    else if (compute == MPT_F16)
        gradients_as(MPT_F16, strip);
    else
        gradients_as(MPT_F32, strip);
}
