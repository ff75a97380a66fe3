/*
 * Reading squares of an operand for packing: VEC_LANES words of 32 bits a side, in the order of the contraction
 * that the packed format wants, zeros past the operand's edges. A word is an FP32 value, or two
 * consecutive 16-bit elements of one line. Nothing past the last element of a line is read.
 */
#ifndef MPT_CPU_PACK_H
#define MPT_CPU_PACK_H

#include "gemm.h"
#include "vec.h"

/* Which lanes pair up when two vectors are interleaved; the low halves and the high halves. */
#if VEC_LANES == 16
#define PACK_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define PACK_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VEC_LANES == 8
#define PACK_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define PACK_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define PACK_LOW 0, 4, 1, 5
#define PACK_HIGH 2, 6, 3, 7
#endif

/* One perfect shuffle of `count` vectors' lanes, a power of two: the number of the vector becomes the lowest bit of the lane. */
VEC_INLINE void pack_shuffle(const vec_u32_t *in, vec_u32_t *out, int count)
{
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; i++) {
        out[2 * i] = __builtin_shufflevector(in[i], in[i + count / 2], PACK_LOW);
        out[2 * i + 1] = __builtin_shufflevector(in[i], in[i + count / 2], PACK_HIGH);
    }
}

/**
 * Transpose `count` rows, a power of two up to VEC_LANES, in place: element j of row i moves to place j * count + i
 * of all the vectors laid end to end. Of a square, lane j of vector i becomes lane i of vector j.
 */
VEC_INLINE void pack_transpose(vec_u32_t *rows, int count)
{
    vec_u32_t other[VEC_LANES];
#pragma GCC unroll 2
    for (int done = 1; done < count; done *= 4) {
        pack_shuffle(rows, other, count);
        if (2 * done < count)
            pack_shuffle(other, rows, count);
        else
            memcpy(rows, other, (size_t)count * sizeof *rows);
    }
}

/** FP32 rounded to TF32, to nearest even: 8 exponent and 10 fraction bits (mpt_round_tf32). */
VEC_INLINE vec_t pack_round_tf32(vec_t value)
{
    const vec_u32_t bits = (vec_u32_t)value;
    const vec_u32_t rounded = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu;
    return (vec_t)vec_select_u32(value != value, bits | 0x00400000u, rounded);
}

static inline int pack_min(int64_t a, int b)
{
    return a < b ? (int)a : b;
}

#endif
