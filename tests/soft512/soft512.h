/*
 * The AVX-512 and AMX intrinsics that kernels/cpu/isa and runtime/base/numeric_level.c use, written for AVX2, FMA and
 * F16C. Included before a level's source, it takes the place of the compiler's own, so that the avx512, avx512_bf16 and amx levels run on
 * processors that lack their instructions. The bits are the instructions', as Intel's manual gives them (SDM
 * volume 2), under the MXCSR that a process starts with; where software can be stricter than the processor, it is:
 *
 *   - an address that would fault for its alignment traps here too;
 *   - masked loads and stores touch no element that is masked out, which a sanitizer sees;
 *   - register halves that a cast leaves undefined are all ones;
 *   - VRCP14PS gives the coarsest result that its bound allows, a relative error up to 2^-14. Processors differ in it;
 *   - what an instruction could do besides, other predicates, tables and rounding modes, traps.
 *
 * An intrinsic that is missing here does not compile. Pure functions but for memory and for the tiles, of which each
 * thread has its own.
 */
#ifndef SOFT512_H
#define SOFT512_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SOFT static inline __attribute__((always_inline, unused))
/* What is long: kernels unroll their loops, and inlined these would take minutes to compile. */
#define SOFT_CALL static __attribute__((noinline, unused))

typedef int16_t soft_i16_t __attribute__((vector_size(64)));
typedef int32_t soft_i32_t __attribute__((vector_size(64)));
typedef uint32_t soft_u32_t __attribute__((vector_size(64)));
typedef int64_t soft_i64_t __attribute__((vector_size(64)));

/* A register, and its halves. */
typedef union soft512 {
    __m512 f;
    __m512d d;
    __m512i i;
    __m256 f8[2];
    __m256d d4[2];
    __m256i i8[2];
    float f32[16];
    uint32_t u32[16];
    uint16_t u16[32];
} soft512_t;

/* Half by half, what AVX2 has an instruction for. */
#define SOFT_UNARY(name, type, whole, halves, half_of)                                                                 \
    SOFT type name(type a)                                                                                             \
    {                                                                                                                  \
        const soft512_t x = {.whole = a};                                                                              \
        return ((soft512_t){.halves = {half_of(x.halves[0]), half_of(x.halves[1])}}).whole;                            \
    }
#define SOFT_BINARY(name, type, whole, halves, half_of)                                                                \
    SOFT type name(type a, type b)                                                                                     \
    {                                                                                                                  \
        const soft512_t x = {.whole = a}, y = {.whole = b};                                                            \
        return ((soft512_t){.halves = {half_of(x.halves[0], y.halves[0]), half_of(x.halves[1], y.halves[1])}}).whole;  \
    }
#define SOFT_TERNARY(name, type, whole, halves, half_of)                                                               \
    SOFT type name(type a, type b, type c)                                                                             \
    {                                                                                                                  \
        const soft512_t x = {.whole = a}, y = {.whole = b}, z = {.whole = c};                                          \
        return ((soft512_t){.halves = {half_of(x.halves[0], y.halves[0], z.halves[0]),                                 \
                                       half_of(x.halves[1], y.halves[1], z.halves[1])}})                               \
            .whole;                                                                                                    \
    }

/* ---- arithmetic ----------------------------------------------------------------------------------------- */

SOFT_TERNARY(soft_fmadd_ps, __m512, f, f8, _mm256_fmadd_ps)
SOFT_TERNARY(soft_fmadd_pd, __m512d, d, d4, _mm256_fmadd_pd)
SOFT_BINARY(soft_add_ps, __m512, f, f8, _mm256_add_ps)
SOFT_BINARY(soft_sub_ps, __m512, f, f8, _mm256_sub_ps)
SOFT_BINARY(soft_max_ps, __m512, f, f8, _mm256_max_ps)
SOFT_BINARY(soft_min_ps, __m512, f, f8, _mm256_min_ps)
SOFT_UNARY(soft_sqrt_ps, __m512, f, f8, _mm256_sqrt_ps)
SOFT_BINARY(soft_add_epi32, __m512i, i, i8, _mm256_add_epi32)
SOFT_BINARY(soft_max_epi32, __m512i, i, i8, _mm256_max_epi32)
SOFT_BINARY(soft_mullo_epi32, __m512i, i, i8, _mm256_mullo_epi32)
SOFT_BINARY(soft_mul_epu32, __m512i, i, i8, _mm256_mul_epu32)
SOFT_BINARY(soft_and_si512, __m512i, i, i8, _mm256_and_si256)
SOFT_BINARY(soft_or_si512, __m512i, i, i8, _mm256_or_si256)
SOFT_BINARY(soft_unpacklo_epi16, __m512i, i, i8, _mm256_unpacklo_epi16)
SOFT_BINARY(soft_unpackhi_epi16, __m512i, i, i8, _mm256_unpackhi_epi16)

SOFT __m512i soft_slli_epi32(__m512i a, unsigned count)
{
    return (__m512i)((soft_u32_t)a << count);
}

SOFT __m512i soft_srli_epi32(__m512i a, unsigned count)
{
    return (__m512i)((soft_u32_t)a >> count);
}

/* a 2^floor(b) of one lane, rounded once: no step before the conversion can round in FP64. */
SOFT float soft_scale(float a, float b)
{
    if (isnan(a) || isnan(b))
        return a + b;
    if (isinf(b) && (b > 0 ? a == 0 : isinf(a)))
        return NAN;
    if (isinf(b))
        return copysignf(b > 0 ? INFINITY : 0, a);
    const double power = floor(fmin(fmax((double)b, -500), 500));
    return (float)((double)a * (double)ldexp(1, (int)power));
}

SOFT_CALL __m512 soft_scalef_ps(__m512 a, __m512 b)
{
    soft512_t x = {.f = a}, y = {.f = b};
    for (int lane = 0; lane < 16; lane++)
        x.f32[lane] = soft_scale(x.f32[lane], y.f32[lane]);
    return x.f;
}

/* The reciprocal of one lane with 13 bits behind the point; of normal results alone. */
SOFT float soft_reciprocal(float x)
{
    soft512_t near = {.f32 = {1 / x}};
    if (isnormal(near.f32[0]))
        near.u32[0] = (near.u32[0] + 0x200u) & ~0x3ffu;
    return near.f32[0];
}

SOFT_CALL __m512 soft_rcp14_ps(__m512 a)
{
    soft512_t x = {.f = a};
    for (int lane = 0; lane < 16; lane++)
        x.f32[lane] = soft_reciprocal(x.f32[lane]);
    return x.f;
}

/* ---- making, casting, moving ---------------------------------------------------------------------------- */

SOFT __m512i soft_set1_epi32(int32_t value)
{
    return (__m512i)(value - (soft_i32_t){0});
}

SOFT __m512i soft_set1_epi64(int64_t value)
{
    return (__m512i)(value - (soft_i64_t){0});
}

/* The arguments of _mm512_set_epi16 start with the highest element. */
SOFT __m512i soft_reverse_epi16(soft_i16_t words)
{
    return (__m512i)__builtin_shufflevector(words, words, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
                                            16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}

SOFT __m256 soft_extractf32x8_ps(__m512 a, int half)
{
    return ((soft512_t){.f = a}).f8[half & 1];
}

SOFT __m256i soft_extracti64x4_epi64(__m512i a, int half)
{
    return ((soft512_t){.i = a}).i8[half & 1];
}

SOFT __m512i soft_inserti64x4(__m512i a, __m256i half, int at)
{
    soft512_t x = {.i = a};
    x.i8[at & 1] = half;
    return x.i;
}

SOFT __m512i soft_castsi256_si512(__m256i low)
{
    return ((soft512_t){.i8 = {low, _mm256_set1_epi32(-1)}}).i;
}

SOFT_CALL __m512i soft_permutexvar_epi16(__m512i index, __m512i a)
{
    const soft512_t at = {.i = index}, x = {.i = a};
    soft512_t out;
    for (int word = 0; word < 32; word++)
        out.u16[word] = x.u16[at.u16[word] & 31];
    return out.i;
}

/* ---- masks ---------------------------------------------------------------------------------------------- */

/* The lower eight bits, each as 32 bits. */
SOFT __m256i soft_lanes_epi32(unsigned bits)
{
    const __m256i own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), own), own);
}

SOFT __m512 soft_maskz_mov_ps(__mmask16 mask, __m512 a)
{
    const soft512_t x = {.f = a};
    return ((soft512_t){.i8 = {_mm256_and_si256(soft_lanes_epi32(mask), x.i8[0]),
                               _mm256_and_si256(soft_lanes_epi32(mask >> 8), x.i8[1])}})
        .f;
}

SOFT __m512 soft_mask_mov_ps(__m512 otherwise, __mmask16 mask, __m512 a)
{
    const soft512_t x = {.f = a}, old = {.f = otherwise};
    return ((soft512_t){.i8 = {_mm256_blendv_epi8(old.i8[0], x.i8[0], soft_lanes_epi32(mask)),
                               _mm256_blendv_epi8(old.i8[1], x.i8[1], soft_lanes_epi32(mask >> 8))}})
        .f;
}

SOFT __m512i soft_mask_add_epi32(__m512i otherwise, __mmask16 mask, __m512i a, __m512i b)
{
    return (__m512i)soft_mask_mov_ps((__m512)otherwise, mask, (__m512)soft_add_epi32(a, b));
}

SOFT unsigned soft_bits_epi32(__m256i lanes)
{
    return (unsigned)_mm256_movemask_ps((__m256)lanes);
}

SOFT __mmask16 soft_test_epi32_mask(__m512i a, __m512i b)
{
    const soft512_t both = {.i = a & b};
    const __m256i zero = _mm256_setzero_si256();
    return (__mmask16) ~(soft_bits_epi32(_mm256_cmpeq_epi32(both.i8[0], zero)) |
                         soft_bits_epi32(_mm256_cmpeq_epi32(both.i8[1], zero)) << 8);
}

SOFT __mmask16 soft_cmp_ps_mask(__m512 a, __m512 b, int predicate)
{
    const soft512_t x = {.f = a}, y = {.f = b};
    if (predicate != _CMP_ORD_Q && predicate != _CMP_UNORD_Q)
        __builtin_trap();
    const int ordered = _mm256_movemask_ps(_mm256_cmp_ps(x.f8[0], y.f8[0], _CMP_ORD_Q)) |
                        _mm256_movemask_ps(_mm256_cmp_ps(x.f8[1], y.f8[1], _CMP_ORD_Q)) << 8;
    return (__mmask16)(predicate == _CMP_ORD_Q ? ordered : ~ordered);
}

SOFT_CALL __m512i soft_maskz_permutexvar_epi16(__mmask32 mask, __m512i index, __m512i a)
{
    soft512_t out = {.i = soft_permutexvar_epi16(index, a)};
    for (int word = 0; word < 32; word++)
        out.u16[word] = mask >> word & 1 ? out.u16[word] : 0;
    return out.i;
}

SOFT __mmask16 soft_cmpeq_epi16_mask(__m256i a, __m256i b)
{
    const __m256i equal = _mm256_cmpeq_epi16(a, b);
    return (__mmask16)_mm_movemask_epi8(
        _mm_packs_epi16(_mm256_castsi256_si128(equal), _mm256_extracti128_si256(equal, 1)));
}

SOFT __mmask16 soft_cmpneq_epi16_mask(__m256i a, __m256i b)
{
    return (__mmask16)~soft_cmpeq_epi16_mask(a, b);
}

SOFT __m256i soft_maskz_mov_epi16(__mmask16 mask, __m256i a)
{
    const __m256i own = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
                                          INT16_MIN);
    return _mm256_and_si256(_mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)mask), own), own), a);
}

/* ---- memory --------------------------------------------------------------------------------------------- */

SOFT __m512i soft_loadu_si512(const void *from)
{
    soft512_t x;
    memcpy(&x, from, sizeof x);
    return x.i;
}

SOFT void soft_storeu_si512(void *to, __m512i a)
{
    memcpy(to, &a, sizeof a);
}

SOFT __m512 soft_loadu_ps(const void *from)
{
    return (__m512)soft_loadu_si512(from);
}

SOFT void soft_storeu_ps(void *to, __m512 a)
{
    soft_storeu_si512(to, (__m512i)a);
}

SOFT void soft_check_aligned(const void *address)
{
    if ((uintptr_t)address % 64 != 0)
        __builtin_trap();
}

SOFT __m512i soft_load_si512(const void *from)
{
    soft_check_aligned(from);
    return soft_loadu_si512(from);
}

SOFT void soft_store_si512(void *to, __m512i a)
{
    soft_check_aligned(to);
    soft_storeu_si512(to, a);
}

SOFT void soft_store_ps(void *to, __m512 a)
{
    soft_store_si512(to, (__m512i)a);
}

/* Elements of `bytes`, those whose bit is set. */
SOFT void soft_copy_masked(void *to, const void *from, uint32_t mask, size_t bytes)
{
    for (size_t at = 0; mask; mask >>= 1, at += bytes)
        if (mask & 1)
            memcpy((char *)to + at, (const char *)from + at, bytes);
}

SOFT_CALL __m512 soft_maskz_loadu_ps(__mmask16 mask, const void *from)
{
    soft512_t x = {.u32 = {0}};
    soft_copy_masked(&x, from, mask, 4);
    return x.f;
}

SOFT_CALL void soft_mask_storeu_ps(void *to, __mmask16 mask, __m512 a)
{
    soft_copy_masked(to, &a, mask, 4);
}

SOFT_CALL __m512i soft_maskz_loadu_32_epi16(__mmask32 mask, const void *from)
{
    soft512_t x = {.u32 = {0}};
    soft_copy_masked(&x, from, mask, 2);
    return x.i;
}

SOFT_CALL __m256i soft_maskz_loadu_16_epi16(__mmask16 mask, const void *from)
{
    __m256i x = _mm256_setzero_si256();
    if (mask == 0xffff)
        return _mm256_loadu_si256(from);
    soft_copy_masked(&x, from, mask, 2);
    return x;
}

SOFT_CALL void soft_mask_storeu_epi16(void *to, __mmask16 mask, __m256i a)
{
    soft_copy_masked(to, &a, mask, 2);
}

/* ---- conversions ---------------------------------------------------------------------------------------- */

SOFT __m512d soft_cvtps_pd(__m256 a)
{
    return ((soft512_t){.d4 = {_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                               _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))}})
        .d;
}

SOFT __m512i soft_cvtepu16_epi32(__m256i a)
{
    return ((soft512_t){.i8 = {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(a)),
                               _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1))}})
        .i;
}

/* Words below 65536, of two vectors, in order. */
SOFT __m256i soft_pack_epu32(__m256i low, __m256i high)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
}

SOFT __m256i soft_cvtepi32_epi16(__m512i a)
{
    const soft512_t x = {.i = a};
    const __m256i word = _mm256_set1_epi32(0xffff);
    return soft_pack_epu32(_mm256_and_si256(x.i8[0], word), _mm256_and_si256(x.i8[1], word));
}

SOFT __m512 soft_cvtph_ps(__m256i a)
{
    return ((soft512_t){.f8 = {_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
                               _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))}})
        .f;
}

SOFT __m256i soft_cvtps_ph(__m512 a, int rounding)
{
    const soft512_t x = {.f = a};
    if (rounding != _MM_FROUND_TO_NEAREST_INT)
        __builtin_trap();
    return _mm256_set_m128i(_mm256_cvtps_ph(x.f8[1], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(x.f8[0], _MM_FROUND_TO_NEAREST_INT));
}

/* One half to BF16, in the lower words: to nearest even, denormals are zero, NaNs become quiet. */
SOFT __m256i soft_half_to_bf16(__m256 a)
{
    const __m256i x = (__m256i)a, infinity = _mm256_set1_epi32(0x7f800000);
    const __m256i exponent = _mm256_and_si256(x, infinity), upper = _mm256_srli_epi32(x, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i below = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(x, below), 16);
    const __m256i sign = _mm256_and_si256(upper, _mm256_set1_epi32(0x8000));
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i tiny = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
    const __m256i nan = (__m256i)_mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    return _mm256_blendv_epi8(_mm256_blendv_epi8(rounded, sign, tiny), quiet, nan);
}

SOFT_CALL __m256bh soft_cvtneps_pbh(__m512 a)
{
    const soft512_t x = {.f = a};
    return (__m256bh)soft_pack_epu32(soft_half_to_bf16(x.f8[0]), soft_half_to_bf16(x.f8[1]));
}

SOFT_CALL __m512bh soft_cvtne2ps_pbh(__m512 high, __m512 low)
{
    return (__m512bh)((soft512_t){.i8 = {(__m256i)soft_cvtneps_pbh(low), (__m256i)soft_cvtneps_pbh(high)}}).i;
}

SOFT __m512 soft_cvtpbh_ps(__m256bh a)
{
    return (__m512)soft_slli_epi32(soft_cvtepu16_epi32((__m256i)a), 16);
}

/* VFIXUPIMMPS by the table that says: a NaN in b, made quiet, instead of a. */
SOFT_CALL __m512 soft_fixupimm_ps(__m512 a, __m512 b, __m512i table, int flags)
{
    const soft512_t x = {.f = a}, y = {.f = b}, t = {.i = table};
    soft512_t out;
    const __m256i quiet = _mm256_set1_epi32(0x00400000);
    for (int half = 0; half < 2; half++) {
        const __m256i nan = (__m256i)_mm256_cmp_ps(y.f8[half], y.f8[half], _CMP_UNORD_Q);
        const __m256i known = _mm256_cmpeq_epi32(t.i8[half], _mm256_set1_epi32(0x22));
        if (soft_bits_epi32(known) != 0xff || flags != 0)
            __builtin_trap();
        out.i8[half] = _mm256_blendv_epi8(x.i8[half], _mm256_or_si256(y.i8[half], quiet), nan);
    }
    return out.f;
}

/* ---- products and tiles, in soft512.c ------------------------------------------------------------------- */

/** VDPBF16PS: sum[i] += x[2i+1] y[2i+1], then x[2i] y[2i]; denormals are zero going in and coming out. */
void soft_add_dot_products(soft512_t *sum, const soft512_t *x, const soft512_t *y);

SOFT __m512 soft_dpbf16_ps(__m512 sum, __m512bh x, __m512bh y)
{
    soft512_t out = {.f = sum}, left = {.i = (__m512i)x}, right = {.i = (__m512i)y};
    soft_add_dot_products(&out, &left, &right);
    return out.f;
}

/* The thread's tiles, those of tile_emulator.h as well. What a processor would refuse ends the process, and is named. */
void soft_tile_loadconfig(const void *config);
void soft_tile_release(void);
void soft_tile_zero(unsigned tile);
void soft_tile_loadd(unsigned tile, const void *from, int64_t stride);
void soft_tile_stored(unsigned tile, void *to, int64_t stride);
void soft_tile_dpbf16ps(unsigned sum, unsigned a, unsigned b);

#include "soft512_names.h"

#endif
