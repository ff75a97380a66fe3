/*
 * Sums of two to eight sources in registers: every source is read once, widened, added, rounded and stored without a
 * pass through memory between, which two ranks at the speed of memory leave no time for. Internal to numeric_level.c, which
 * says for each instruction set what a vector is. The same tree and the same roundings as the blocks there, so
 * the same bits. Pure.
 */
#ifndef MPT_NUMERIC_FUSED_H
#define MPT_NUMERIC_FUSED_H

#include <string.h>
#include "numeric_scalar.h"

#define FUSED_RANKS 8

/*
 * For `level`, whose vector type is `vec` of `lanes` floats, in any order that its loads and stores agree on, with
 *     vec load_level(const void *array, mpt_dtype_t dtype, int64_t i), of the wire types that it is used for,
 *     void store_level(void *array, mpt_dtype_t dtype, int64_t i, vec),
 * vec add_level(vec, vec) and settle_level(vec), which makes every NaN F32_QUIET_NAN:
 *
 * int64_t fused_sum_level(out, out_dtype, sources, ranks, wire, count) sums the whole vectors among `count` elements and returns
 * how many elements those are: what is left is for the blocks. Inline, for types that are constants; the number of ranks is
 * one where it is two, else its branches go the same way in all of a loop.
 */
#define DEFINE_FUSED_SUM(level, attributes, vec, lanes)                                                      \
    /* One to four neighbours: a, a + b, (a + b) + c or (a + b) + (c + d). */                                \
    attributes MPT_INLINE vec four_##level(const void *const *sources, int ranks, mpt_dtype_t wire, int64_t i) \
    {                                                                                                        \
        vec left = load_##level(sources[0], wire, i);                                                        \
        if (ranks > 1)                                                                                       \
            left = add_##level(left, load_##level(sources[1], wire, i));                                     \
        if (ranks < 3)                                                                                       \
            return left;                                                                                     \
        vec right = load_##level(sources[2], wire, i);                                                       \
        if (ranks > 3)                                                                                       \
            right = add_##level(right, load_##level(sources[3], wire, i));                                   \
        return add_##level(left, right);                                                                     \
    }                                                                                                        \
                                                                                                             \
    attributes MPT_INLINE int64_t fused_loop_##level(void *out, mpt_dtype_t out_dtype, const void *const *sources, \
                                                     int ranks, mpt_dtype_t wire, int64_t count)             \
    {                                                                                                        \
        int64_t whole = count - count % (lanes);                                                             \
        int first = ranks < 4 ? ranks : 4;                                                                   \
        const void *from[FUSED_RANKS]; /* which no store can change */                                       \
        memcpy(from, sources, (size_t)ranks * sizeof *from);                                                 \
        for (int64_t i = 0; i < whole; i += (lanes)) {                                                       \
            vec sum = four_##level(from, first, wire, i);                                                    \
            if (ranks > 4)                                                                                   \
                sum = add_##level(sum, four_##level(from + 4, ranks - 4, wire, i));                          \
            store_##level(out, out_dtype, i, settle_##level(sum));                                           \
        }                                                                                                    \
        return whole;                                                                                        \
    }                                                                                                        \
                                                                                                             \
    attributes MPT_INLINE int64_t fused_sum_##level(void *out, mpt_dtype_t out_dtype, const void *const *sources, \
                                                    int ranks, mpt_dtype_t wire, int64_t count)              \
    {                                                                                                        \
        return ranks == 2 ? fused_loop_##level(out, out_dtype, sources, 2, wire, count)                      \
                          : fused_loop_##level(out, out_dtype, sources, ranks, wire, count);                 \
    }

/* int64_t fused_level, the same for any types: BF16 by fused_sum_bf16_level, the others by fused_sum_level. */
#define DEFINE_FUSED(level, attributes, bf16_level)                                                          \
    attributes static int64_t fused_##level(void *out, mpt_dtype_t out_dtype, const void *const *sources,    \
                                            int ranks, mpt_dtype_t wire, int64_t count)                      \
    {                                                                                                        \
        if (wire == MPT_BF16)                                                                                \
            return out_dtype == MPT_F32                                                                      \
                       ? fused_sum_##bf16_level(out, MPT_F32, sources, ranks, MPT_BF16, count)               \
                       : fused_sum_##bf16_level(out, MPT_BF16, sources, ranks, MPT_BF16, count);             \
        if (wire == MPT_F16)                                                                                 \
            return out_dtype == MPT_F32 ? fused_sum_##level(out, MPT_F32, sources, ranks, MPT_F16, count)    \
                                        : fused_sum_##level(out, MPT_F16, sources, ranks, MPT_F16, count);   \
        if (out_dtype == MPT_F32)                                                                            \
            return fused_sum_##level(out, MPT_F32, sources, ranks, MPT_F32, count);                          \
        return out_dtype == MPT_BF16 ? fused_sum_##level(out, MPT_BF16, sources, ranks, MPT_F32, count)      \
                                     : fused_sum_##level(out, MPT_F16, sources, ranks, MPT_F32, count);      \
    }

#endif
