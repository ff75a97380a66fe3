/*
 * Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers:
 * as easy as 1, 2, 3", SC 2011). A draw is a pure function of (seed, purpose, element, step): the
 * same on every device and for any number of ranks. No state.
 */
#ifndef MPT_PHILOX_H
#define MPT_PHILOX_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mpt_purpose {
    MPT_PURPOSE_INIT = 1,     /* initial weights; element: global element index */
    MPT_PURPOSE_ORDER = 2,    /* order of samples; element: round and half, step: epoch */
    MPT_PURPOSE_ROUNDING = 3, /* stochastic rounding; element: global element index / 8 */
    MPT_PURPOSE_DROPOUT = 4,
    MPT_PURPOSE_SAMPLE = 5 /* text sampling; element: position */
} mpt_purpose_t;

typedef struct mpt_philox {
    uint32_t word[4];
} mpt_philox_t;

/* The paper's constants, for code that computes many draws at a time. */
#define MPT_PHILOX_ROUNDS 10
#define MPT_PHILOX_MULTIPLIER_0 0xd2511f53u
#define MPT_PHILOX_MULTIPLIER_1 0xcd9e8d57u
#define MPT_PHILOX_WEYL_0 0x9e3779b9u /* golden ratio */
#define MPT_PHILOX_WEYL_1 0xbb67ae85u /* sqrt(3) - 1 */

/** The key of all draws for (seed, purpose): see mpt_philox. */
static inline void mpt_philox_key(uint64_t seed, mpt_purpose_t purpose, uint32_t key[2])
{
    key[0] = (uint32_t)seed;
    key[1] = (uint32_t)(seed >> 32) ^ (uint32_t)purpose << 24;
}

/** The raw function of the paper: ten rounds over counter and key. */
mpt_philox_t mpt_philox4x32(const uint32_t counter[4], const uint32_t key[2]);
/** 128 random bits for (seed, purpose, element, step): key = seed's halves xored with the purpose's
 *  in the high one's top byte; counter = element (low, high), step (low, high). */
mpt_philox_t mpt_philox(uint64_t seed, mpt_purpose_t purpose, uint64_t element, uint64_t step);
/** Uniform in [0, 1) with 24 bits. */
static inline float mpt_uniform(uint32_t word)
{
    return (float)(word >> 8) * (1.0f / 16777216.0f);
}
/** Standard normal by Box-Muller in double, from words 0 and 1. */
double mpt_normal(mpt_philox_t bits);
/** A pseudo-random permutation of [0, count): position -> sample, keyed by (seed, epoch). Cycle-walking
 *  Feistel network, four rounds of Philox; O(1) memory. count in [1, 2^62]. */
uint64_t mpt_permute(uint64_t seed, uint64_t epoch, uint64_t count, uint64_t position);

#ifdef __cplusplus
}
#endif
#endif
