/*
 * Stochastic rounding of vectors, the bits of mpt_round_stochastic and mpt_rounding_bits. A caller
 * cuts its range into stretches, each in one run or in none, and a run's stretch into chunks, whose
 * random bits are drawn together: Philox is cheapest for many blocks of eight at a time.
 */
#ifndef MPT_CPU_STOCHASTIC_H
#define MPT_CPU_STOCHASTIC_H

#include "level.h"
#include "vec.h"

#define cpu_rounding_bits MPT_LEVEL_NAME(mpt_cpu_rounding_bits)

/* Elements of a chunk: their random bits take 1 KiB. */
#define ROUNDING_CHUNK 512
/* Elements drawn at once: eight for each 64-bit lane. */
#define ROUNDING_GROUP (8 * VEC_F64_LANES)

/* A chunk's random bits, with room for what comes with its first and last element. */
typedef struct rounding_bits {
    uint16_t bits[ROUNDING_CHUNK + 8 + ROUNDING_GROUP];
} rounding_bits_t;

/** Draw for global elements [element, element + count), count up to ROUNDING_CHUNK; returns the first one's, in `room`. */
const uint16_t *cpu_rounding_bits(const mpt_stochastic_t *how, uint64_t element, int64_t count,
                                  rounding_bits_t *room);

/** Elements [begin, end) of a call's arrays; `run` is the one they lie in, NULL: none. */
typedef struct stretch {
    int64_t begin, end;
    const mpt_run_t *run;
} stretch_t;

/** The stretch that begins at `begin`, cut off at `end`. */
static inline stretch_t stretch_at(const mpt_stochastic_t *how, int64_t begin, int64_t end)
{
    for (int r = 0; r < how->run_count; r++) {
        const mpt_run_t *run = &how->runs[r];
        const int64_t run_end = run->at + run->count;
        if (begin >= run_end)
            continue;
        if (begin < run->at)
            return (stretch_t){begin, run->at < end ? run->at : end, NULL};
        return (stretch_t){begin, run_end < end ? run_end : end, run};
    }
    return (stretch_t){begin, end, NULL};
}

VEC_INLINE vec_u16_t vec_stochastic_bf16(vec_t value, vec_u32_t random)
{
    const vec_u32_t bits = (vec_u32_t)value;
    const vec_i32_t is_nan = value != value;
    return vec_upper_u32(vec_select_u32(is_nan, bits | 0x00400000u, bits + random));
}

/* Below 2^-14 the magnitude is counted in units of 2^-40: see mpt_round_stochastic. */
VEC_INLINE vec_u16_t vec_stochastic_f16(vec_t value, vec_u32_t random)
{
    const vec_u32_t bits = (vec_u32_t)value;
    const vec_u32_t magnitude = bits & 0x7fffffffu;
    const vec_i32_t order = (vec_i32_t)magnitude, is_small = order < 0x38800000;
    const vec_t small = (vec_t)(magnitude & (vec_u32_t)is_small) * 0x1p40f;
    const vec_u32_t normal = (magnitude - (112u << 23) + (random >> 3)) >> 13;
    const vec_u32_t subnormal =
        ((vec_u32_t)__builtin_convertvector(small, vec_i32_t) + random) >> 16;
    const vec_u32_t quiet = 0x7e00u | ((magnitude >> 13) & 0x03ffu);
    vec_u32_t out = vec_select_u32(is_small, subnormal, normal);
    out = vec_select_u32(order >= 0x47800000, vec_set_u32(0x7c00u), out);
    out = vec_select_u32(order > 0x7f800000, quiet, out);
    return vec_narrow_u32(out | ((bits >> 16) & 0x8000u));
}

/** Round by the random bits at `random` to BF16 or F16 and store. */
VEC_INLINE void vec_store_stochastic(void *array, mpt_dtype_t dtype, int64_t first, int lanes,
                                     vec_t value, const uint16_t *random)
{
    const vec_u32_t bits = vec_widen_u16(vec_load_u16(random, lanes));
    vec_store_u16((uint16_t *)array + first, lanes,
                  dtype == MPT_BF16 ? vec_stochastic_bf16(value, bits)
                                    : vec_stochastic_f16(value, bits));
}

#endif
