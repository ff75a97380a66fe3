#include "attention.h"

#ifdef MPT_LEVEL_AMX

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

#endif
