/*
 * Philox for VEC_F64_LANES blocks at a time, one in each 64-bit lane: a product of two 32-bit words is
 * then one instruction. A word stands in the lower half of its lane; what is left over in the
 * upper half is never read.
 */
#include "stochastic.h"
#include "philox.h"
#if defined(MPT_LEVEL_PORTABLE) && defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Products of the lower halves. */
VEC_INLINE vec_u64_t multiply_low(vec_u64_t a, uint32_t b)
{
#if defined(VEC_AVX512)
    return (vec_u64_t)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(MPT_LEVEL_AVX2)
    return (vec_u64_t)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
    return (vec_u64_t)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
    return (a & 0xffffffffu) * (uint64_t)b;
#endif
}

/* Lane j's block in a group: so numbered that interleaving pairs of lanes puts blocks in order. */
VEC_INLINE vec_u64_t block_numbers(void)
{
#if VEC_F64_LANES == 8
    return (vec_u64_t){0, 4, 1, 5, 2, 6, 3, 7};
#elif VEC_F64_LANES == 4
    return (vec_u64_t){0, 2, 1, 3};
#else
    return (vec_u64_t){0, 1};
#endif
}

/* Lanes a0 b0 a2 b2 ... and a1 b1 a3 b3 ..., one after the other. */
VEC_INLINE void store_pairs(uint16_t *out, vec_u64_t a, vec_u64_t b)
{
#if VEC_F64_LANES == 8
    const vec_u64_t even = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
    const vec_u64_t odd = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
#elif VEC_F64_LANES == 4
    const vec_u64_t even = __builtin_shufflevector(a, b, 0, 4, 2, 6);
    const vec_u64_t odd = __builtin_shufflevector(a, b, 1, 5, 3, 7);
#else
    const vec_u64_t even = __builtin_shufflevector(a, b, 0, 2);
    const vec_u64_t odd = __builtin_shufflevector(a, b, 1, 3);
#endif
    memcpy(out, &even, sizeof even);
    memcpy(out + ROUNDING_GROUP / 2, &odd, sizeof odd);
}

/* The draws of blocks [block, block + VEC_F64_LANES), as mpt_philox lays them out. */
VEC_INLINE void draw_group(uint16_t *out, const uint32_t key[2], uint64_t block, uint64_t step)
{
    vec_u64_t x0 = block + block_numbers(), x1 = x0 >> 32;
    vec_u64_t x2 = (vec_u64_t){0} + step, x3 = x2 >> 32;
    uint32_t key_0 = key[0], key_1 = key[1];
    for (int round = 0; round < MPT_PHILOX_ROUNDS; round++) {
        const vec_u64_t product_0 = multiply_low(x0, MPT_PHILOX_MULTIPLIER_0);
        const vec_u64_t product_1 = multiply_low(x2, MPT_PHILOX_MULTIPLIER_1);
        x0 = (product_1 >> 32) ^ x1 ^ key_0;
        x1 = product_1;
        x2 = (product_0 >> 32) ^ x3 ^ key_1;
        x3 = product_0;
        key_0 += MPT_PHILOX_WEYL_0;
        key_1 += MPT_PHILOX_WEYL_1;
    }
    store_pairs(out, (x0 & 0xffffffffu) | (x1 << 32), (x2 & 0xffffffffu) | (x3 << 32));
}

const uint16_t *cpu_rounding_bits(const mpt_stochastic_t *how, uint64_t element, int64_t count,
                                  rounding_bits_t *room)
{
    const int64_t before = (int64_t)(element % 8);
    uint64_t block = element / 8;
    uint32_t key[2];
    mpt_philox_key(how->seed, MPT_PURPOSE_ROUNDING, key);
    for (int64_t i = 0; i < before + count; i += ROUNDING_GROUP, block += VEC_F64_LANES)
        draw_group(room->bits + i, key, block, how->step);
    return room->bits + before;
}
