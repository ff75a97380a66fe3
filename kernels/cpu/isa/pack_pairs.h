/*
 * Squares of 16 lines by 16 pairs of 16-bit elements, one pair a word, for kernels that multiply BF16 in pairs
 * along the contraction. avx512_bf16 and above.
 */
#ifndef MPT_CPU_PACK_PAIRS_H
#define MPT_CPU_PACK_PAIRS_H

#include "pack.h"

#define PAIRS 16       /* words in a vector */
#define PAIRS_DEPTH 32 /* indices of the contraction in a square */

/* Elements [at, at + count) of the operand, count <= 32, as words; zeros after them. */
VEC_INLINE vec_u32_t pairs_load(const gemm_operand_t *op, int64_t at, int count)
{
    const uint16_t *from = (const uint16_t *)op->data + at;
    if (count == PAIRS_DEPTH)
        return (vec_u32_t)_mm512_loadu_si512(from);
    const __mmask32 mask = count <= 0 ? 0 : 0xffffffffu >> (PAIRS_DEPTH - count);
    return (vec_u32_t)_mm512_maskz_loadu_epi16(mask, from);
}

/* Lines along the contraction: vector i is line `first + i`. */
VEC_INLINE void pairs_along(const gemm_operand_t *op, int64_t first, int64_t k, int depth,
                            vec_u32_t square[PAIRS])
{
    const int lines = pack_min(op->count - first, PAIRS);
    if (lines == PAIRS && depth == PAIRS_DEPTH) {
#pragma GCC unroll 16
        for (int i = 0; i < PAIRS; i++)
            square[i] = pairs_load(op, (first + i) * op->ld + k, PAIRS_DEPTH);
        return;
    }
    for (int i = 0; i < PAIRS; i++)
        square[i] = i < lines ? pairs_load(op, (first + i) * op->ld + k, depth) : (vec_u32_t){0};
}

/* One index of the contraction for `lines` lines (none where k is past its end), widened to words. */
VEC_INLINE vec_u32_t pairs_across_one(const gemm_operand_t *op, int64_t first, int64_t k, int lines)
{
    const uint16_t *from = (const uint16_t *)op->data + k * op->ld + first;
    return vec_widen_u16(vec_load_u16(from, lines));
}

/* Lines across: vector i is the pair (k + 2i, k + 2i + 1) of 16 lines. */
VEC_INLINE void pairs_across(const gemm_operand_t *op, int64_t first, int64_t k, int depth,
                             vec_u32_t square[PAIRS])
{
    const int lines = pack_min(op->count - first, PAIRS);
    if (lines == PAIRS && depth == PAIRS_DEPTH) {
#pragma GCC unroll 16
        for (int i = 0; i < PAIRS; i++)
            square[i] = pairs_across_one(op, first, k + 2 * i, PAIRS) |
                        pairs_across_one(op, first, k + 2 * i + 1, PAIRS) << 16;
        return;
    }
    for (int i = 0; i < PAIRS; i++) {
        square[i] = (vec_u32_t){0};
        if (lines > 0 && 2 * i < depth)
            square[i] |= pairs_across_one(op, first, k + 2 * i, lines);
        if (lines > 0 && 2 * i + 1 < depth)
            square[i] |= pairs_across_one(op, first, k + 2 * i + 1, lines) << 16;
    }
}

/** The square with line i in vector i (by_line), or pair i of all lines in vector i. */
VEC_INLINE void pairs_square(const gemm_operand_t *op, int64_t first, int64_t k, int depth,
                             int by_line, vec_u32_t square[PAIRS])
{
    if (op->k_contiguous)
        pairs_along(op, first, k, depth, square);
    else
        pairs_across(op, first, k, depth, square);
    if (op->k_contiguous != by_line)
        pack_transpose(square, PAIRS);
}

/** a[i] += x[2i] y[2i] + x[2i+1] y[2i+1], the pairs in BF16. */
VEC_INLINE vec_t pairs_dot(vec_t a, vec_u32_t x, vec_u32_t y)
{
    return (vec_t)_mm512_dpbf16_ps((__m512)a, (__m512bh)x, (__m512bh)y);
}

#endif
