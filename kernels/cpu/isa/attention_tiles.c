#include "attention.h"

#ifdef ATTENTION_HAS_TILES

/* ---- softmax --------------------------------------------------------------------------------- */

/* Two vectors rounded to bf16, `low` in the lower half. */
VEC_INLINE __m512i to_bf16_pair(vec_t low, vec_t high)
{
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

/* What rounding to bf16 leaves of two vectors, given their rounded pair. */
VEC_INLINE __m512i rest_pair(vec_t low, vec_t high, __m512i pair)
{
    const vec_u16_t low_term = (vec_u16_t)_mm512_castsi512_si256(pair);
    const vec_u16_t high_term = (vec_u16_t)_mm512_extracti64x4_epi64(pair, 1);
    return to_bf16_pair(low - vec_from_bf16(low_term), high - vec_from_bf16(high_term));
}

/* Two vectors rounded to compute, as the bf16 terms of a row of 32. */
VEC_INLINE void split_pair(vec_t low, vec_t high, const int planes, __m512i term[2])
{
    if (planes == 2) {
        low = vec_round(low, MPT_F16);
        high = vec_round(high, MPT_F16);
    }
    term[0] = to_bf16_pair(low, high);
    if (planes == 2)
        term[1] = rest_pair(low, high, term[0]);
}

/* Four keys' rows of 32 probabilities, side by side by pairs of keys. */
VEC_INLINE void four_probabilities(const float *scores, int64_t ld, vec_t c,
                                   const vec_t minus_base[2], vec_t sum[2], __m512i zip,
                                   const attention_operand_t *to, const int planes)
{
    vec_t p[8]; /* keys 0 to 3; then the next 16 columns */
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        p[i] = vec_fma(vec_load_f32(scores + i % 4 * ld + i / 4 * 16, 16), c, minus_base[i / 4]);
    attention_exp2_of(p, 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        sum[i / 4] += p[i];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512i term[2];
        split_pair(p[2 * i], p[2 * i + 1], planes, term);
        for (int plane = 0; plane < planes; plane++)
            _mm512_store_si512(to->data + i / 2 * to->outer + i % 2 * 64 + plane * to->plane,
                               _mm512_permutexvar_epi16(zip, term[plane]));
    }
}

VEC_INLINE void probabilities_as(const float *scores, int64_t keys, int64_t columns, float c,
                                 const float *base, float *sum, attention_operand_t probs,
                                 const int planes)
{
    /* words 0 16 1 17 ...: keys k and k + 1 side by side for each query */
    const __m512i zip = _mm512_add_epi32(
        _mm512_set1_epi32(0x00100000),
        _mm512_mullo_epi32((__m512i)attention_lane_numbers(), _mm512_set1_epi32(0x00010001)));
    const vec_t by = attention_splat(c);
    for (int64_t q = 0; q < columns; q += 32) {
        const vec_t minus_base[2] = {-vec_load_f32(base + q, 16), -vec_load_f32(base + q + 16, 16)};
        vec_t total[2] = {vec_load_f32(sum + q, 16), vec_load_f32(sum + q + 16, 16)};
        for (int64_t k = 0; k < keys; k += 4) {
            attention_operand_t to = probs;
            to.data += q / 16 * probs.outer + k / 32 * probs.inner + k % 32 * 32;
            four_probabilities(scores + k * columns + q, columns, by, minus_base, total, zip, &to,
                               planes);
        }
        vec_store_f32(sum + q, 16, total[0]);
        vec_store_f32(sum + q + 16, 16, total[1]);
    }
}

void attention_tiles_probabilities(const attention_shape_t *shape, const float *scores,
                                   int64_t keys, int64_t columns, float c, const float *base,
                                   float *sum, attention_operand_t probs)
{
    if (shape->planes == 1)
        probabilities_as(scores, keys, columns, c, base, sum, probs, 1);
    else
        probabilities_as(scores, keys, columns, c, base, sum, probs, 2);
    ATTENTION_FENCE();
}

/* What the 32 columns of a square share, in registers. */
typedef struct square {
    const float *scores, *dprobs;
    int64_t ld;
    vec_t c, scale, minus_lse[2], minus_delta[2];
} square_t;

/* Four keys' rows of P and dS in a square, from `key` on, as bf16 terms. */
VEC_INLINE void square_rows(const square_t *square, int64_t key, const int planes, const int masked,
                            __m512i probs[4][2], __m512i dscores[4][2])
{
    vec_t p[8], g[8]; /* columns 0 and 16 of one key, then of the next */
    const int64_t at = key * square->ld, ld = square->ld;
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        p[i] = vec_fma(vec_load_f32(square->scores + at + i / 2 * ld + i % 2 * 16, 16), square->c,
                       square->minus_lse[i % 2]);
        p[i] = vec_min(vec_set(128), p[i]);
    }
    attention_exp2_of(p, 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const vec_i32_t visible = attention_lane_numbers() + i % 2 * 16 >= (int32_t)key + i / 2;
        g[i] = vec_fma(vec_load_f32(square->dprobs + at + i / 2 * ld + i % 2 * 16, 16),
                       square->scale, square->minus_delta[i % 2]);
        g[i] *= p[i];
        if (masked) {
            p[i] = vec_select(visible, p[i], vec_set(0));
            g[i] = vec_select(visible, g[i], vec_set(0));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        split_pair(p[2 * i], p[2 * i + 1], planes, probs[i]);
        split_pair(g[2 * i], g[2 * i + 1], planes, dscores[i]);
    }
}

/* Four rows into the operands, which start at this square. */
VEC_INLINE void store_rows(char *probs, char *dscores, char *dscores_right,
                           const attention_strip_t *strip, __m512i p[4][2], __m512i g[4][2],
                           const int planes)
{
    const int64_t right = strip->dscores_right.outer;
    for (int plane = 0; plane < planes; plane++) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m512i even = g[i & ~1][plane], odd = g[i | 1][plane];
            char *to = dscores_right + i / 2 * 64 + i % 2 * right;
            _mm512_store_si512(probs + 64 * i, p[i][plane]);
            _mm512_store_si512(dscores + 64 * i, g[i][plane]);
            _mm512_store_si512(to, i % 2 ? _mm512_unpackhi_epi16(even, odd)
                                         : _mm512_unpacklo_epi16(even, odd));
        }
        probs += strip->probs.plane;
        dscores += strip->dscores.plane;
        dscores_right += strip->dscores_right.plane;
    }
}

VEC_INLINE void square_gradients(attention_strip_t strip, int64_t first, const int planes,
                                 const int masked)
{
    square_t square = {.scores = strip.scores + first,
                       .dprobs = strip.dprobs + first,
                       .ld = strip.ld,
                       .c = attention_splat(strip.scale * ATTENTION_LOG2_E),
                       .scale = attention_splat(strip.scale)};
    for (int i = 0; i < 2; i++) {
        square.minus_lse[i] = vec_load_f32(strip.minus_lse + first + 16 * i, 16);
        square.minus_delta[i] = -vec_load_f32(strip.delta + first + 16 * i, 16);
    }
    char *probs = strip.probs.data + first / 32 * strip.probs.inner;
    char *dscores = strip.dscores.data + first / 32 * strip.dscores.inner;
    char *right = strip.dscores_right.data + first / 16 * strip.dscores_right.outer;
    for (int64_t key = 0; key < 32; key += 4) {
        const int64_t row = key / 16 * strip.probs.outer + key % 16 * 64;
        __m512i p[4][2], g[4][2];
        square_rows(&square, key, planes, masked, p, g);
        store_rows(probs + row, dscores + row, right + key * 32, &strip, p, g, planes);
    }
}

VEC_INLINE void gradients_as(const attention_strip_t *strip, const int planes)
{
    for (int64_t q = 0; q < strip->columns; q += 32) {
        if (strip->diagonal && q == 0)
            square_gradients(*strip, q, planes, 1);
        else
            square_gradients(*strip, q, planes, 0);
    }
}

void attention_tiles_gradients(const attention_shape_t *shape, const attention_strip_t *strip)
{
    if (shape->planes == 1)
        gradients_as(strip, 1);
    else
        gradients_as(strip, 2);
    ATTENTION_FENCE();
}

#endif
