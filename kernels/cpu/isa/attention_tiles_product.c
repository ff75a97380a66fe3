/*
 * Products of operands that are packed in tiles: by AMX, or, where there are no tiles to multiply, by dot products of the same
 * pairs. Both take denormal operands as zero and flush denormal sums.
 */
#include "attention.h"

#ifdef ATTENTION_HAS_TILES

#if defined(MPT_LEVEL_AMX)

#include "tiles.h"

void attention_tiles_begin(void)
{
    tiles_begin();
}

void attention_tiles_end(void)
{
    tiles_end();
}

/* Tiles 0 1 / 2 3 are a 2 x 2 block of c; 4 and 5 rows of the left operand; 6 and 7 columns of the
 * right one. */
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

VEC_INLINE void load_sums(const float *c, int64_t ld, int accumulate)
{
    if (accumulate) {
        _tile_loadd(0, c, ld * 4);
        _tile_loadd(1, c + 16, ld * 4);
        _tile_loadd(2, c + 16 * ld, ld * 4);
        _tile_loadd(3, c + 16 * ld + 16, ld * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
}

/* 32 x 32 of c, from `a` and `b` on. With two planes: high x low, high x high, low x high. */
VEC_INLINE void product_block(float *c, int64_t ld, const char *a, const char *b,
                              const attention_operand_t *left, const attention_operand_t *right,
                              int64_t steps, const int accumulate, const int planes)
{
    load_sums(c, ld, accumulate);
    do {
        LOAD_LEFT(a, left->outer);
        if (planes == 2) {
            LOAD_RIGHT(b + right->plane, right->outer);
            MULTIPLY();
        }
        LOAD_RIGHT(b, right->outer);
        MULTIPLY();
        if (planes == 2) {
            LOAD_LEFT(a + left->plane, left->outer);
            MULTIPLY();
        }
        a += left->inner;
        b += right->inner;
    } while (--steps > 0);
    _tile_stored(0, c, ld * 4);
    _tile_stored(1, c + 16, ld * 4);
    _tile_stored(2, c + 16 * ld, ld * 4);
    _tile_stored(3, c + 16 * ld + 16, ld * 4);
}

VEC_INLINE void product_as(float *c, int64_t ld, int64_t rows, int64_t columns,
                           attention_operand_t left, attention_operand_t right, int64_t steps,
                           const int accumulate, const int planes)
{
    const char *b = right.data;
    for (int64_t j = 0; j < columns; j += 32, b += 2 * right.outer) {
        const char *a = left.data;
        for (int64_t i = 0; i < rows; i += 32, a += 2 * left.outer)
            product_block(c + i * ld + j, ld, a, b, &left, &right, steps, accumulate, planes);
    }
}

void attention_tiles_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                             int64_t columns, attention_operand_t left, attention_operand_t right,
                             int64_t depth, int accumulate)
{
    const int64_t steps = depth / 32;
    ATTENTION_FENCE();
    if (shape->planes == 2)
        product_as(c, ld, rows, columns, left, right, steps, accumulate, 2);
    else if (accumulate)
        product_as(c, ld, rows, columns, left, right, steps, 1, 1);
    else
        product_as(c, ld, rows, columns, left, right, steps, 0, 1);
    ATTENTION_FENCE();
}

#else

void attention_tiles_begin(void) {}

void attention_tiles_end(void) {}

#define DOT_ROWS 8 /* of c at a time, by 32 columns: 16 sums */

VEC_INLINE vec_t dot(vec_t sum, __m512i left, __m512i right)
{
    return (vec_t)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
}

/* One step of 16 pairs: rows of 64 bytes of a left tile, the pairs of two right tiles. */
VEC_INLINE void dot_step(vec_t sum[DOT_ROWS][2], const char *a, const char *b, int64_t right)
{
    for (int64_t pair = 0; pair < 16; pair++, a += 4, b += 64) {
        const __m512i b0 = _mm512_load_si512(b), b1 = _mm512_load_si512(b + right);
#pragma GCC unroll 8
        for (int i = 0; i < DOT_ROWS; i++) {
            int32_t word;
            memcpy(&word, a + 64 * i, sizeof word);
            sum[i][0] = dot(sum[i][0], _mm512_set1_epi32(word), b0);
            sum[i][1] = dot(sum[i][1], _mm512_set1_epi32(word), b1);
        }
    }
}

/* DOT_ROWS x 32 of c. */
VEC_INLINE void product_block(float *c, int64_t ld, const char *a, const char *b,
                              const attention_operand_t *left, const attention_operand_t *right,
                              int64_t steps, const int accumulate)
{
    vec_t sum[DOT_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < DOT_ROWS; i++)
        for (int j = 0; j < 2; j++)
            sum[i][j] = accumulate ? vec_load_f32(c + i * ld + 16 * j, 16) : vec_set(0);
    for (; steps > 0; steps--, a += left->inner, b += right->inner)
        dot_step(sum, a, b, right->outer);
#pragma GCC unroll 8
    for (int i = 0; i < DOT_ROWS; i++)
        for (int j = 0; j < 2; j++)
            vec_store_f32(c + i * ld + 16 * j, 16, sum[i][j]);
}

VEC_INLINE void product_as(float *c, int64_t ld, int64_t rows, int64_t columns,
                           attention_operand_t left, attention_operand_t right, int64_t steps,
                           const int accumulate)
{
    const char *b = right.data;
    for (int64_t j = 0; j < columns; j += 32, b += 2 * right.outer)
        for (int64_t i = 0; i < rows; i += DOT_ROWS) {
            const char *a = left.data + i / 16 * left.outer + i % 16 * 64;
            product_block(c + i * ld + j, ld, a, b, &left, &right, steps, accumulate);
        }
}

void attention_tiles_product(const attention_shape_t *shape, float *c, int64_t ld, int64_t rows,
                             int64_t columns, attention_operand_t left, attention_operand_t right,
                             int64_t depth, int accumulate)
{
    (void)shape; /* one plane */
    if (accumulate)
        product_as(c, ld, rows, columns, left, right, depth / 32, 1);
    else
        product_as(c, ld, rows, columns, left, right, depth / 32, 0);
}

#endif
#endif
