#include "attention.h"

#ifdef MPT_LEVEL_AMX

/* The compiler does not know that tile instructions read and write memory. */
#define MEMORY_FENCE() __asm__ volatile("" ::: "memory")

void attention_tiles_begin(void)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}

void attention_tiles_end(void)
{
    _tile_release();
}

/* ---- packing ------------------------------------------------------------------------------------ */

/* Where packing reads, and what it has seen. */
typedef struct tile_source {
    const attention_shape_t *shape;
    attention_source_t rows;
    int64_t first;
    int clean;      /* zeros in place of non-finite values */
    __mmask16 seen; /* not zero: there were some */
} tile_source_t;

/* One bf16 term of 16 elements from d on of row r, zeros outside the array. */
VEC_INLINE __m256i load_term(tile_source_t *source, int64_t r, int64_t d, const int planes,
                             const int plane)
{
    const attention_shape_t *shape = source->shape;
    const int64_t left = shape->head_dim - d;
    if (source->first + r >= shape->seq || left <= 0)
        return _mm256_setzero_si256();
    const char *row = source->rows.base + (source->first + r) * source->rows.stride;
    const __mmask16 lanes = left < 16 ? vec_mask((int)left) : 0xffff;
    __m256i x = _mm256_maskz_loadu_epi16(lanes, row + 2 * d);
    const __m256i exponent = _mm256_set1_epi16(planes == 1 ? 0x7f80 : 0x7c00);
    const __mmask16 bad = _mm256_cmpeq_epi16_mask(_mm256_and_si256(x, exponent), exponent);
    source->seen |= bad;
    if (source->clean)
        x = _mm256_maskz_mov_epi16((__mmask16)~bad, x);
    if (planes == 1)
        return x;
    const __m512 wide = _mm512_cvtph_ps(x);
    const __m256i high = (__m256i)_mm512_cvtneps_pbh(wide);
    if (plane == 0)
        return high;
    const __m512 rest = _mm512_sub_ps(wide, (__m512)vec_from_bf16((vec_u16_t)high));
    return _mm256_maskz_mov_epi16((__mmask16)~bad, (__m256i)_mm512_cvtneps_pbh(rest));
}

/* Tiles of 16 rows x 32 elements; as a right operand transposed in dwords: 16 pairs x 16 rows. */
VEC_INLINE void pack_wide(tile_source_t *source, int64_t rows, attention_operand_t to,
                          const int planes, const int plane, const int right)
{
    for (int64_t r = 0; r < rows; r += 16)
        for (int64_t d = 0; d < source->shape->width; d += 32) {
            char *tile = to.data + r / 16 * to.outer + d / 32 * to.inner;
            vec_t square[16];
            for (int i = 0; i < 16; i++) {
                const __m256i low = load_term(source, r + i, d, planes, plane);
                const __m256i high = load_term(source, r + i, d + 16, planes, plane);
                square[i] = (vec_t)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
            }
            if (right)
                attention_transpose(square);
            memcpy(tile, square, sizeof square);
        }
}

/* Tiles of 16 pairs of rows x 16 elements; as a left operand transposed: 16 elements x 32 rows. */
VEC_INLINE void pack_rows(tile_source_t *source, int64_t rows, attention_operand_t to,
                          const int planes, const int plane, const int left)
{
    for (int64_t r = 0; r < rows; r += 32)
        for (int64_t d = 0; d < source->shape->width; d += 16) {
            char *tile = to.data + r / 32 * to.inner + d / 16 * to.outer;
            vec_t square[16];
            for (int i = 0; i < 16; i++) {
                const __m256i even = load_term(source, r + 2 * i, d, planes, plane);
                const __m256i odd = load_term(source, r + 2 * i + 1, d, planes, plane);
                square[i] = (vec_t)_mm512_or_si512(
                    _mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
            }
            if (left)
                attention_transpose(square);
            memcpy(tile, square, sizeof square);
        }
}

VEC_INLINE void pack_plane(tile_source_t *source, attention_form_t form, int64_t rows,
                           attention_operand_t to, const int planes, const int plane)
{
    to.data += plane * to.plane;
    if (form == ATTENTION_LEFT_WIDE)
        pack_wide(source, rows, to, planes, plane, 0);
    else if (form == ATTENTION_RIGHT_WIDE)
        pack_wide(source, rows, to, planes, plane, 1);
    else if (form == ATTENTION_LEFT_ROWS)
        pack_rows(source, rows, to, planes, plane, 1);
    else
        pack_rows(source, rows, to, planes, plane, 0);
}

int attention_tiles_pack(const attention_shape_t *shape, attention_form_t form,
                         attention_source_t source, int64_t first, int64_t rows,
                         attention_operand_t to)
{
    tile_source_t from = {
        .shape = shape,
        .rows = source,
        .first = first,
        .clean = form == ATTENTION_LEFT_ROWS || form == ATTENTION_RIGHT_ROWS};
    if (shape->planes == 1) {
        pack_plane(&from, form, rows, to, 1, 0);
    } else {
        pack_plane(&from, form, rows, to, 2, 0);
        pack_plane(&from, form, rows, to, 2, 1);
    }
    return from.seen != 0;
}

/* ---- products ----------------------------------------------------------------------------------- */

/* Tiles 0 1 / 2 3 are a 2 x 2 block of c; 4, 5 the left operand's two rows; 6, 7 the right one's two columns. */
#define LOAD_LEFT(from, stride)                                                                    \
    _tile_loadd(4, from, 64);                                                                      \
    _tile_loadd(5, (from) + (stride), 64)
#define LOAD_RIGHT(from, stride)                                                                   \
    _tile_loadd(6, from, 64);                                                                      \
    _tile_loadd(7, (from) + (stride), 64)
#define MULTIPLY()                                                                                 \
    _tile_dpbf16ps(0, 4, 6);                                                                       \
    _tile_dpbf16ps(1, 4, 7);                                                                       \
    _tile_dpbf16ps(2, 5, 6);                                                                       \
    _tile_dpbf16ps(3, 5, 7)

/* 32 x 32 of c. With two planes: high x low, high x high, low x high; each tile is loaded once but the
 * right one's first. */
VEC_INLINE void product_block(float *c, int64_t ld, attention_operand_t left,
                              attention_operand_t right, int64_t steps, int accumulate,
                              const int planes)
{
    const int64_t stride = ld * 4;
    if (accumulate) {
        _tile_loadd(0, c, stride);
        _tile_loadd(1, c + 16, stride);
        _tile_loadd(2, c + 16 * ld, stride);
        _tile_loadd(3, c + 16 * ld + 16, stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    const char *a = left.data, *b = right.data;
    for (int64_t i = 0; i < steps; i++, a += left.inner, b += right.inner) {
        LOAD_LEFT(a, left.outer);
        if (planes == 2) {
            LOAD_RIGHT(b + right.plane, right.outer);
            MULTIPLY();
        }
        LOAD_RIGHT(b, right.outer);
        MULTIPLY();
        if (planes == 2) {
            LOAD_LEFT(a + left.plane, left.outer);
            MULTIPLY();
        }
    }
    _tile_stored(0, c, stride);
    _tile_stored(1, c + 16, stride);
    _tile_stored(2, c + 16 * ld, stride);
    _tile_stored(3, c + 16 * ld + 16, stride);
}

void attention_tiles_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                             int64_t columns, attention_operand_t left, attention_operand_t right,
                             int64_t depth, int accumulate)
{
    MEMORY_FENCE();
    for (int64_t j = 0; j < columns; j += 32)
        for (int64_t i = 0; i < rows; i += 32) {
            const attention_operand_t a = attention_at(shape, left, i, 0);
            const attention_operand_t b = attention_at(shape, right, j, 0);
            if (shape->planes == 1)
                product_block(c + i * ld + j, ld, a, b, depth / 32, accumulate, 1);
            else
                product_block(c + i * ld + j, ld, a, b, depth / 32, accumulate, 2);
        }
    MEMORY_FENCE();
}

/* ---- softmax ------------------------------------------------------------------------------------ */

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

VEC_INLINE void probabilities_as(const float *scores, int64_t keys, int64_t columns, float c,
                                 const float *peak, float *sum, attention_operand_t probs,
                                 const int planes)
{
    /* words 0 16 1 17 ...: keys k and k + 1 side by side for each query */
    const __m512i zip = _mm512_add_epi32(_mm512_set1_epi32(0x00100000),
                                         _mm512_mullo_epi32((__m512i)attention_lane_numbers(),
                                                            _mm512_set1_epi32(0x00010001)));
    for (int64_t q = 0; q < columns; q += 16) {
        const vec_t minus_peak = -vec_load_f32(peak + q, 16);
        vec_t total = vec_load_f32(sum + q, 16);
        for (int64_t k = 0; k < keys; k += 2) {
            const float *at = scores + k * columns + q;
            char *to = probs.data + q / 16 * probs.outer + k / 32 * probs.inner + k % 32 * 32;
            const vec_t even = attention_exp2(vec_fma(vec_load_f32(at, 16), vec_set(c), minus_peak));
            const vec_t odd =
                attention_exp2(vec_fma(vec_load_f32(at + columns, 16), vec_set(c), minus_peak));
            __m512i term[2];
            total += even;
            total += odd;
            split_pair(even, odd, planes, term);
            for (int plane = 0; plane < planes; plane++)
                _mm512_store_si512(to + plane * probs.plane,
                                   _mm512_permutexvar_epi16(zip, term[plane]));
        }
        vec_store_f32(sum + q, 16, total);
    }
}

void attention_tiles_probabilities(const attention_shape_t *shape, const float *scores,
                                   int64_t keys, int64_t columns, float c, const float *peak,
                                   float *sum, attention_operand_t probs)
{
    if (shape->planes == 1)
        probabilities_as(scores, keys, columns, c, peak, sum, probs, 1);
    else
        probabilities_as(scores, keys, columns, c, peak, sum, probs, 2);
}

/* What the 32 columns of a square share. */
typedef struct square {
    const attention_strip_t *strip;
    int64_t first; /* its first column */
    vec_t minus_lse[2], delta[2];
} square_t;

/* One key's row of P and dS in a square, as bf16 terms, also stored in the left operands. */
VEC_INLINE void square_row(const square_t *square, int64_t key, const int planes, const int masked,
                           __m512i dscores[2])
{
    const attention_strip_t *strip = square->strip;
    const vec_t c = vec_set(strip->scale * ATTENTION_LOG2_E), scale = vec_set(strip->scale);
    const int64_t at = key * strip->ld + square->first;
    vec_t p[2], g[2];
    for (int i = 0; i < 2; i++) {
        const vec_t s = vec_load_f32(strip->scores + at + 16 * i, 16);
        const vec_t dp = vec_load_f32(strip->dprobs + at + 16 * i, 16);
        p[i] = attention_exp2(vec_min(vec_set(128), vec_fma(s, c, square->minus_lse[i])));
        g[i] = p[i] * vec_fma(dp, scale, -square->delta[i]);
        if (masked) {
            const vec_i32_t visible = attention_lane_numbers() + 16 * i >= (int32_t)key;
            p[i] = vec_select(visible, p[i], vec_set(0));
            g[i] = vec_select(visible, g[i], vec_set(0));
        }
    }
    __m512i probs[2];
    split_pair(p[0], p[1], planes, probs);
    split_pair(g[0], g[1], planes, dscores);
    const int64_t to = key / 16 * strip->probs.outer + square->first / 32 * strip->probs.inner +
                       key % 16 * 64;
    for (int plane = 0; plane < planes; plane++) {
        _mm512_store_si512(strip->probs.data + to + plane * strip->probs.plane, probs[plane]);
        _mm512_store_si512(strip->dscores.data + to + plane * strip->dscores.plane, dscores[plane]);
    }
}

VEC_INLINE void square_gradients(const square_t *square, const int planes, const int masked)
{
    const attention_operand_t right = square->strip->dscores_right;
    for (int64_t key = 0; key < 32; key += 2) {
        char *to = right.data + square->first / 16 * right.outer + key * 32;
        __m512i even[2], odd[2];
        square_row(square, key, planes, masked, even);
        square_row(square, key + 1, planes, masked, odd);
        for (int plane = 0; plane < planes; plane++, to += right.plane) {
            _mm512_store_si512(to, _mm512_unpacklo_epi16(even[plane], odd[plane]));
            _mm512_store_si512(to + right.outer, _mm512_unpackhi_epi16(even[plane], odd[plane]));
        }
    }
}

VEC_INLINE void gradients_as(const attention_strip_t *strip, const int planes)
{
    for (int64_t q = 0; q < strip->columns; q += 32) {
        square_t square = {.strip = strip, .first = q};
        for (int i = 0; i < 2; i++) {
            square.minus_lse[i] = vec_load_f32(strip->minus_lse + q + 16 * i, 16);
            square.delta[i] = vec_load_f32(strip->delta + q + 16 * i, 16);
        }
        if (strip->diagonal && q == 0)
            square_gradients(&square, planes, 1);
        else
            square_gradients(&square, planes, 0);
    }
}

void attention_tiles_gradients(const attention_shape_t *shape, const attention_strip_t *strip)
{
    if (shape->planes == 1)
        gradients_as(strip, 1);
    else
        gradients_as(strip, 2);
}

#endif
