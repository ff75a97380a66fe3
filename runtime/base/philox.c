#include "philox.h"

#include <assert.h>
#include <math.h>

mpt_philox_t mpt_philox4x32(const uint32_t counter[4], const uint32_t key[2])
{
    mpt_philox_t x = {{counter[0], counter[1], counter[2], counter[3]}};
    uint32_t key_0 = key[0], key_1 = key[1];
    for (int round = 0; round < MPT_PHILOX_ROUNDS; round++) {
        uint64_t product_0 = (uint64_t)MPT_PHILOX_MULTIPLIER_0 * x.word[0];
        uint64_t product_1 = (uint64_t)MPT_PHILOX_MULTIPLIER_1 * x.word[2];
        x = (mpt_philox_t){{
            (uint32_t)(product_1 >> 32) ^ x.word[1] ^ key_0,
            (uint32_t)product_1,
            (uint32_t)(product_0 >> 32) ^ x.word[3] ^ key_1,
            (uint32_t)product_0,
        }};
        key_0 += MPT_PHILOX_WEYL_0;
        key_1 += MPT_PHILOX_WEYL_1;
    }
    return x;
}

mpt_philox_t mpt_philox(uint64_t seed, mpt_purpose_t purpose, uint64_t element, uint64_t step)
{
    uint32_t key[2];
    mpt_philox_key(seed, purpose, key);
    uint32_t counter[4] = {(uint32_t)element, (uint32_t)(element >> 32), (uint32_t)step,
                           (uint32_t)(step >> 32)};
    return mpt_philox4x32(counter, key);
}

double mpt_normal(mpt_philox_t bits)
{
    const double two_pi = 6.283185307179586476925;
    double radius_uniform =
        ((double)bits.word[0] + 1.0) * 0x1p-32; /* (0, 1]: its logarithm is finite */
    double angle_uniform = (double)bits.word[1] * 0x1p-32;
    return sqrt(-2.0 * log(radius_uniform)) * cos(two_pi * angle_uniform);
}

#define FEISTEL_ROUNDS 4

/* Bits of each half: the smallest balanced network whose domain covers `count`, at most four times
 * it. */
static int half_bits_for(uint64_t count)
{
    int bits = 1;
    while (2 * bits < 62 && (UINT64_C(1) << (2 * bits)) < count)
        bits++;
    return bits;
}

static uint64_t feistel(uint64_t seed, uint64_t epoch, int half_bits, uint64_t value)
{
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint64_t left = value >> half_bits, right = value & mask;
    for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
        mpt_philox_t bits = mpt_philox(seed, MPT_PURPOSE_ORDER, round << 32 | right, epoch);
        uint64_t next = left ^ (bits.word[0] & mask);
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

uint64_t mpt_permute(uint64_t seed, uint64_t epoch, uint64_t count, uint64_t position)
{
    assert(count >= 1 && count <= UINT64_C(1) << 62 && position < count);
    int half_bits = half_bits_for(count);
    uint64_t value = position;
    do /* walk the cycle of the larger domain until it comes back inside: still a bijection */
        value = feistel(seed, epoch, half_bits, value);
    while (value >= count);
    return value;
}
