#include "gemm_tile.h"

#if defined(MPT_LEVEL_AMX)

#include "pack_pairs.h"

/* How numbers split into BF16 terms is told in gemm_tile.c. */

VEC_INLINE void write_tile(void *to, const vec_u32_t square[PAIRS])
{
#pragma GCC unroll 16
    for (int i = 0; i < PAIRS; i++)
        memcpy((char *)to + 64 * i, &square[i], 64);
}

/* Split a word's two FP16 elements into words of their hi and lo terms. */
VEC_INLINE void split_words(vec_u32_t words, vec_u32_t *hi_p, vec_u32_t *lo_p)
{
    const __m512 left = _mm512_cvtph_ps(_mm512_castsi512_si256((__m512i)words));
    const __m512 right = _mm512_cvtph_ps(_mm512_extracti64x4_epi64((__m512i)words, 1));
    const __m512bh hi = _mm512_cvtne2ps_pbh(right, left);
    const __m256bh left_hi = (__m256bh)_mm512_castsi512_si256((__m512i)hi);
    const __m256bh right_hi = (__m256bh)_mm512_extracti64x4_epi64((__m512i)hi, 1);
    const __m512 left_lo = _mm512_sub_ps(left, _mm512_cvtpbh_ps(left_hi));
    const __m512 right_lo = _mm512_sub_ps(right, _mm512_cvtpbh_ps(right_hi));
    const __mmask16 left_finite = _mm512_cmp_ps_mask(left_lo, left_lo, _CMP_ORD_Q);
    const __mmask16 right_finite = _mm512_cmp_ps_mask(right_lo, right_lo, _CMP_ORD_Q);
    *hi_p = (vec_u32_t)hi;
    *lo_p = (vec_u32_t)_mm512_cvtne2ps_pbh(_mm512_maskz_mov_ps(right_finite, right_lo),
                                           _mm512_maskz_mov_ps(left_finite, left_lo));
}

/* FP32 values as TF32, in two terms whose lower halves are zero, but for a low term below 2^-126. */
VEC_INLINE void split_tf32(vec_t value, vec_u32_t *hi_p, vec_u32_t *lo_p)
{
    const vec_t x = pack_round_tf32(value);
    const vec_u32_t bits = (vec_u32_t)x, largest = vec_set_u32(0x7f7f0000u);
    const vec_u32_t magnitude = bits & 0x7fffffffu;
    const vec_u32_t nearest = (magnitude + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    const vec_i32_t finite = (vec_i32_t)magnitude < 0x7f800000;
    const vec_u32_t bounded = vec_select_u32((vec_i32_t)nearest < 0x7f800000, nearest, largest);
    *hi_p = vec_select_u32(finite, bounded, magnitude) | (bits & 0x80000000u);
    *lo_p = vec_select_u32(finite, (vec_u32_t)(x - (vec_t)*hi_p), vec_set_u32(0));
}

/* 16 elements of a line along the contraction, or of 16 lines across it; zeros past the edges. */
VEC_INLINE vec_t tf32_load(const gemm_operand_t *op, int64_t line, int64_t k, int lines, int depth)
{
    const float *at = (const float *)op->data + (op->k_contiguous ? line * op->ld + k : k * op->ld + line);
    const int count = pack_min(op->k_contiguous ? depth : lines, PAIRS);
    return lines <= 0 || depth <= 0 ? (vec_t){0} : vec_load_f32(at, count);
}

/* Word i of the square's own order: line i, or pair i of all lines. */
VEC_INLINE void tf32_row(const gemm_operand_t *op, int64_t first, int64_t k, int depth, int i, vec_u32_t *hi_p,
                         vec_u32_t *lo_p)
{
    const int along = op->k_contiguous, lines = pack_min(op->count - first, PAIRS);
    const int64_t second = along ? k + PAIRS : k + 2 * i + 1;
    vec_u32_t hi[2], lo[2];
    if (along) {
        split_tf32(tf32_load(op, first + i, k, lines - i, depth), &hi[0], &lo[0]);
        split_tf32(tf32_load(op, first + i, second, lines - i, depth - PAIRS), &hi[1], &lo[1]);
        *hi_p = (vec_u32_t)_mm512_cvtne2ps_pbh((__m512)hi[1], (__m512)hi[0]);
        *lo_p = (vec_u32_t)_mm512_cvtne2ps_pbh((__m512)lo[1], (__m512)lo[0]);
        return;
    }
    split_tf32(tf32_load(op, first, k + 2 * i, lines, depth - 2 * i), &hi[0], &lo[0]);
    split_tf32(tf32_load(op, first, second, lines, depth - 2 * i - 1), &hi[1], &lo[1]);
    *hi_p = hi[0] >> 16 | (hi[1] & 0xffff0000u);
    *lo_p = lo[0] >> 16 | (lo[1] & 0xffff0000u);
}

/* A square of 16 lines by 32 indices in two terms, as pairs_square gives the words of 16-bit elements. */
VEC_INLINE void tf32_squares(const gemm_operand_t *op, int64_t first, int64_t k, int depth, int by_line,
                             vec_u32_t hi[PAIRS], vec_u32_t lo[PAIRS])
{
    for (int i = 0; i < PAIRS; i++)
        tf32_row(op, first, k, depth, i, &hi[i], &lo[i]);
    if (op->k_contiguous == by_line)
        return;
    pack_transpose(hi, PAIRS);
    pack_transpose(lo, PAIRS);
}

VEC_INLINE void write_split(char *to, const vec_u32_t square[PAIRS])
{
    for (int i = 0; i < PAIRS; i++) {
        vec_u32_t hi, lo;
        split_words(square[i], &hi, &lo);
        memcpy(to + 64 * i, &hi, 64);
        memcpy(to + STEP_BYTES + 64 * i, &lo, 64);
    }
}

VEC_INLINE void pack_half(const gemm_operand_t *op, int64_t first, int64_t k, int depth, char *to,
                          int by_line, mpt_dtype_t math)
{
    vec_u32_t square[PAIRS], rest[PAIRS];
    if (math == MPT_TF32) {
        tf32_squares(op, first, k, depth, by_line, square, rest);
        write_tile(to, square);
        write_tile(to + STEP_BYTES, rest);
        return;
    }
    pairs_square(op, first, k, depth, by_line, square);
    if (math == MPT_F16)
        write_split(to, square);
    else
        write_tile(to, square);
}

VEC_INLINE void pack_panel(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                           char *panel, int by_line, mpt_dtype_t math)
{
    for (int64_t k = 0; k < count; k += PAIRS_DEPTH, panel += STEP_BYTES << (math != MPT_BF16))
        for (int half = 0; half < 2; half++)
            pack_half(op, first + half * PAIRS, k0 + k, pack_min(count - k, PAIRS_DEPTH),
                      panel + half * TILE_BYTES, by_line, math);
}

void gemm_tile_pack_a_bf16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                        void *panel)
{
    pack_panel(op, first, k0, count, panel, 1, MPT_BF16);
}

void gemm_tile_pack_b_bf16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                        void *panel)
{
    pack_panel(op, first, k0, count, panel, 0, MPT_BF16);
}

void gemm_tile_pack_a_f16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                       void *panel)
{
    pack_panel(op, first, k0, count, panel, 1, MPT_F16);
}

void gemm_tile_pack_b_f16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                       void *panel)
{
    pack_panel(op, first, k0, count, panel, 0, MPT_F16);
}

void gemm_tile_pack_a_tf32(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                        void *panel)
{
    pack_panel(op, first, k0, count, panel, 1, MPT_TF32);
}

void gemm_tile_pack_b_tf32(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                        void *panel)
{
    pack_panel(op, first, k0, count, panel, 0, MPT_TF32);
}

#endif
