#include "attention.h"

#ifdef ATTENTION_HAS_TILES

/* Where packing reads. */
typedef struct tile_source {
    const char *base; /* row 0 of the block */
    int64_t stride;
    int64_t rows;  /* of it that exist; those after them read as zero */
    int64_t width; /* head_dim: elements from there on read as zero */
    int clean;     /* zeros in place of non-finite values */
    __m256i seen;  /* largest exponent field met, by lanes */
} tile_source_t;

VEC_INLINE __m256i exponent_mask(const int planes)
{
    return _mm256_set1_epi16(planes == 1 ? 0x7f80 : 0x7c00);
}

/* Which of sixteen elements from d on exist. */
VEC_INLINE __mmask16 columns_from(const tile_source_t *source, int64_t d)
{
    const int64_t left = source->width - d;
    return left >= 16 ? 0xffff : left > 0 ? vec_mask((int)left) : 0;
}

/* Sixteen elements from d on of row r. `whole`: all rows of the tile exist. */
VEC_INLINE __m256i load_elements(const tile_source_t *source, int64_t r, int64_t d,
                                 __mmask16 columns, const int whole)
{
    const char *at = source->base + r * source->stride + 2 * d;
    return _mm256_maskz_loadu_epi16(whole || r < source->rows ? columns : 0, at);
}

/* Note what exponents `x` holds, and clear the non-finite ones where asked to. */
VEC_INLINE __m256i inspect(tile_source_t *source, __m256i x, const int planes)
{
    const __m256i exponent = _mm256_and_si256(x, exponent_mask(planes));
    source->seen = _mm256_max_epu16(source->seen, exponent);
    if (!source->clean)
        return x;
    return _mm256_maskz_mov_epi16(_mm256_cmpneq_epi16_mask(exponent, exponent_mask(planes)), x);
}

/* One bf16 term of FP16 elements; the low term of what is not finite is zero. */
VEC_INLINE __m256i split_term(__m256i x, const int plane)
{
    const __m512 wide = _mm512_cvtph_ps(x);
    const __m256i high = (__m256i)_mm512_cvtneps_pbh(wide);
    if (plane == 0)
        return high;
    const __m512 rest = _mm512_sub_ps(wide, (__m512)vec_from_bf16((vec_u16_t)high));
    const __m256i exponent = _mm256_and_si256(x, exponent_mask(2));
    return _mm256_maskz_mov_epi16(_mm256_cmpneq_epi16_mask(exponent, exponent_mask(2)),
                                  (__m256i)_mm512_cvtneps_pbh(rest));
}

VEC_INLINE __m256i term_of(__m256i x, const int planes, const int plane)
{
    return planes == 1 ? x : split_term(x, plane);
}

/* A tile of 16 rows x 32 elements; transposed in dwords: 16 pairs x 16 rows. */
VEC_INLINE void wide_tile(const tile_source_t *source, int64_t r, int64_t d, float *to,
                          const int planes, const int plane, const int transposed, const int whole)
{
    const __mmask16 columns[2] = {columns_from(source, d), columns_from(source, d + 16)};
    vec_t square[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        const __m256i low = load_elements(source, r + i, d, columns[0], whole);
        const __m256i high = load_elements(source, r + i, d + 16, columns[1], whole);
        square[i] = (vec_t)_mm512_inserti64x4(_mm512_castsi256_si512(term_of(low, planes, plane)),
                                              term_of(high, planes, plane), 1);
    }
    if (transposed)
        attention_transpose(square);
    for (int i = 0; i < 16; i++)
        vec_store_f32(to + 16 * i, 16, square[i]);
}

/* A tile of 16 pairs of rows x 16 elements; transposed: 16 elements x 32 rows. */
VEC_INLINE void rows_tile(tile_source_t *source, int64_t r, int64_t d, float *to, const int planes,
                          const int plane, const int transposed, const int whole)
{
    const __mmask16 columns = columns_from(source, d);
    vec_t square[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        const __m256i even = load_elements(source, r + 2 * i, d, columns, whole);
        const __m256i odd = load_elements(source, r + 2 * i + 1, d, columns, whole);
        const __m256i low = term_of(inspect(source, even, planes), planes, plane);
        const __m256i high = term_of(inspect(source, odd, planes), planes, plane);
        square[i] = (vec_t)_mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    }
    if (transposed)
        attention_transpose(square);
    for (int i = 0; i < 16; i++)
        vec_store_f32(to + 16 * i, 16, square[i]);
}

VEC_INLINE void pack_wide(const tile_source_t *source, int64_t rows, int64_t width,
                          attention_operand_t to, const int planes, const int plane,
                          const int transposed)
{
    for (int64_t r = 0; r < rows; r += 16)
        for (int64_t d = 0; d < width; d += 32) {
            float *tile = (float *)(to.data + r / 16 * to.outer + d / 32 * to.inner);
            if (r + 16 <= source->rows)
                wide_tile(source, r, d, tile, planes, plane, transposed, 1);
            else
                wide_tile(source, r, d, tile, planes, plane, transposed, 0);
        }
}

VEC_INLINE void pack_rows(tile_source_t *source, int64_t rows, int64_t width,
                          attention_operand_t to, const int planes, const int plane,
                          const int transposed)
{
    for (int64_t r = 0; r < rows; r += 32)
        for (int64_t d = 0; d < width; d += 16) {
            float *tile = (float *)(to.data + r / 32 * to.inner + d / 16 * to.outer);
            if (r + 32 <= source->rows)
                rows_tile(source, r, d, tile, planes, plane, transposed, 1);
            else
                rows_tile(source, r, d, tile, planes, plane, transposed, 0);
        }
}

VEC_INLINE void pack_plane(tile_source_t *source, attention_form_t form, int64_t rows,
                           int64_t width, attention_operand_t to, const int planes, const int plane)
{
    to.data += plane * to.plane;
    if (form == ATTENTION_LEFT_WIDE)
        pack_wide(source, rows, width, to, planes, plane, 0);
    else if (form == ATTENTION_RIGHT_WIDE)
        pack_wide(source, rows, width, to, planes, plane, 1);
    else if (form == ATTENTION_LEFT_ROWS)
        pack_rows(source, rows, width, to, planes, plane, 1);
    else
        pack_rows(source, rows, width, to, planes, plane, 0);
}

/* Returns 1 where a _ROWS form has met a non-finite value. */
static int pack_planes(tile_source_t *source, const attention_shape_t *shape, attention_form_t form,
                       int64_t rows, attention_operand_t to)
{
    if (shape->planes == 1) {
        pack_plane(source, form, rows, shape->width, to, 1, 0);
        return _mm256_cmpeq_epi16_mask(source->seen, exponent_mask(1)) != 0;
    }
    pack_plane(source, form, rows, shape->width, to, 2, 0);
    pack_plane(source, form, rows, shape->width, to, 2, 1);
    return _mm256_cmpeq_epi16_mask(source->seen, exponent_mask(2)) != 0;
}

int attention_tiles_pack(const attention_shape_t *shape, attention_form_t form,
                         attention_source_t source, int64_t first, int64_t rows,
                         attention_operand_t to)
{
    tile_source_t from = {.base = source.base + first * source.stride,
                          .stride = source.stride,
                          .rows = shape->seq - first,
                          .width = shape->head_dim,
                          .seen = _mm256_setzero_si256()};
    if (!pack_planes(&from, shape, form, rows, to))
        return 0;
    from.clean = 1;
    pack_planes(&from, shape, form, rows, to);
    return 1;
}

#endif
