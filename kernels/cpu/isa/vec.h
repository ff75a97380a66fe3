/*
 * FP32 vectors at the width of the instruction level that a file is compiled for: 4, 8 or 16 lanes.
 * Arithmetic is the compiler's own on vec_t (+ - * /); this header adds what the operators lack:
 * loads and stores of F32, BF16 and F16 arrays with the conversions of numeric.h bit for bit, tails
 * that touch no byte outside their array, fused multiply-add, square root, folds, exp.
 *
 * Functions that take `lanes` handle the first `lanes` elements (1 to VEC_LANES); lanes past them
 * load as zero and are not stored. Called with the constant VEC_LANES they are one instruction or
 * two. Pure functions; round to nearest even is assumed to be the rounding mode.
 */
#ifndef MPT_CPU_VEC_H
#define MPT_CPU_VEC_H

#include "numeric.h"

#if defined(MPT_LEVEL_PORTABLE)
#define VEC_LANES 4
#elif defined(MPT_LEVEL_AVX2)
#include <immintrin.h>
#define VEC_LANES 8
#elif defined(MPT_LEVEL_AVX512) || defined(MPT_LEVEL_AVX512_BF16) || defined(MPT_LEVEL_AMX)
#include <immintrin.h>
#define VEC_LANES 16
#define VEC_AVX512 1
#else
#error "vec.h is for files that are compiled for one instruction level"
#endif

#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef float vec_t __attribute__((vector_size(4 * VEC_LANES)));
typedef int32_t vec_i32_t __attribute__((vector_size(4 * VEC_LANES)));
typedef uint32_t vec_u32_t __attribute__((vector_size(4 * VEC_LANES)));
typedef uint16_t vec_u16_t __attribute__((vector_size(2 * VEC_LANES)));
/* Half as many doubles fill the same register. */
#define VEC_F64_LANES (VEC_LANES / 2)
typedef double vec_f64_t __attribute__((vector_size(8 * VEC_F64_LANES)));
typedef uint64_t vec_u64_t __attribute__((vector_size(8 * VEC_F64_LANES)));

/* ---- arithmetic
 * -------------------------------------------------------------------------------- */

VEC_INLINE vec_t vec_set(float value)
{
    return value - (vec_t){0}; /* exact for -0 too */
}

VEC_INLINE vec_u32_t vec_set_u32(uint32_t value)
{
    return (vec_u32_t){0} + value;
}

/** a * b + c: rounded once from avx2 on, twice at the portable level. */
VEC_INLINE vec_t vec_fma(vec_t a, vec_t b, vec_t c)
{
#if defined(VEC_AVX512)
    return (vec_t)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_t)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/** The same in doubles. */
VEC_INLINE vec_f64_t vec_fma_f64(vec_f64_t a, vec_f64_t b, vec_f64_t c)
{
#if defined(VEC_AVX512)
    return (vec_f64_t)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_f64_t)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

/** Lanes of `a` where `mask` is all ones, of `b` where it is zero. */
VEC_INLINE vec_t vec_select(vec_i32_t mask, vec_t a, vec_t b)
{
    return (vec_t)(((vec_i32_t)a & mask) | ((vec_i32_t)b & ~mask));
}

VEC_INLINE vec_u32_t vec_select_u32(vec_i32_t mask, vec_u32_t a, vec_u32_t b)
{
    return (a & (vec_u32_t)mask) | (b & ~(vec_u32_t)mask);
}

/** a > b ? a : b in each lane; where either is NaN, b. */
VEC_INLINE vec_t vec_max(vec_t a, vec_t b)
{
#if defined(VEC_AVX512)
    return (vec_t)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_t)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vec_select(a > b, a, b);
#endif
}

/** a < b ? a : b in each lane; where either is NaN, b. */
VEC_INLINE vec_t vec_min(vec_t a, vec_t b)
{
#if defined(VEC_AVX512)
    return (vec_t)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_t)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vec_select(a < b, a, b);
#endif
}

VEC_INLINE vec_i32_t vec_max_i32(vec_i32_t a, vec_i32_t b)
{
#if defined(VEC_AVX512)
    return (vec_i32_t)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_i32_t)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const vec_i32_t above = a > b;
    return (a & above) | (b & ~above);
#endif
}

/** Correctly rounded square root. */
VEC_INLINE vec_t vec_sqrt(vec_t x)
{
#if defined(VEC_AVX512)
    return (vec_t)_mm512_sqrt_ps((__m512)x);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_t)_mm256_sqrt_ps((__m256)x);
#else
    for (int lane = 0; lane < VEC_LANES; lane++)
        x[lane] = __builtin_sqrtf(x[lane]);
    return x;
#endif
}

/** Sum over lanes: halves are added until one value is left. */
VEC_INLINE float vec_sum(vec_t x)
{
#if VEC_LANES == 4
    return (x[0] + x[2]) + (x[1] + x[3]);
#else
    typedef float quarter_t __attribute__((vector_size(16)));
    typedef float eight_t __attribute__((vector_size(32)));
#if VEC_LANES == 16
    const eight_t eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                          __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    const eight_t eight = x;
#endif
    const quarter_t four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                           __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
    return (four[0] + four[2]) + (four[1] + four[3]);
#endif
}

/** The largest lane; NaN lanes may be passed over. */
VEC_INLINE float vec_max_lane(vec_t x)
{
    float largest = x[0];
    for (int lane = 1; lane < VEC_LANES; lane++)
        largest = x[lane] > largest ? x[lane] : largest;
    return largest;
}

VEC_INLINE int32_t vec_max_lane_i32(vec_i32_t x)
{
    int32_t largest = x[0];
    for (int lane = 1; lane < VEC_LANES; lane++)
        largest = x[lane] > largest ? x[lane] : largest;
    return largest;
}

/* ---- conversions
 * ------------------------------------------------------------------------------- */

/* Conversions name their instruction where the compiler's own goes through quarters or single
 * lanes. */

/** The lower half of the lanes as doubles. */
VEC_INLINE vec_f64_t vec_widen_low(vec_t x)
{
#if defined(VEC_AVX512)
    return (vec_f64_t)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x));
#elif defined(MPT_LEVEL_AVX2)
    return (vec_f64_t)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)x));
#else
    return __builtin_convertvector(__builtin_shufflevector(x, x, 0, 1), vec_f64_t);
#endif
}

/** The upper half of the lanes as doubles. */
VEC_INLINE vec_f64_t vec_widen_high(vec_t x)
{
#if defined(VEC_AVX512)
    return (vec_f64_t)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1));
#elif defined(MPT_LEVEL_AVX2)
    return (vec_f64_t)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, 1));
#else
    return __builtin_convertvector(__builtin_shufflevector(x, x, 2, 3), vec_f64_t);
#endif
}

VEC_INLINE vec_u32_t vec_widen_u16(vec_u16_t x)
{
#if defined(VEC_AVX512)
    return (vec_u32_t)_mm512_cvtepu16_epi32((__m256i)x);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_u32_t)_mm256_cvtepu16_epi32((__m128i)x);
#else
    return __builtin_convertvector(x, vec_u32_t);
#endif
}

/** The low halves of values below 65536. */
VEC_INLINE vec_u16_t vec_narrow_u32(vec_u32_t x)
{
#if defined(VEC_AVX512)
    return (vec_u16_t)_mm512_cvtepi32_epi16((__m512i)x);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_u16_t)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
#else
    return __builtin_convertvector(x, vec_u16_t);
#endif
}

/** The upper halves. */
VEC_INLINE vec_u16_t vec_upper_u32(vec_u32_t x)
{
#if defined(VEC_AVX512)
    const __m512i upper = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29,
                                           27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return (vec_u16_t)_mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, (__m512i)x));
#else
    return vec_narrow_u32(x >> 16);
#endif
}

VEC_INLINE vec_t vec_from_bf16(vec_u16_t bits)
{
#if defined(VEC_AVX512)
    /* Places each word in the upper half of its lane at once; what lies past the register half is not read. */
    const __m512i from = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7,
                                          0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
    return (vec_t)_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, from,
                                                 _mm512_castsi256_si512((__m256i)bits));
#else
    return (vec_t)(vec_widen_u16(bits) << 16);
#endif
}

/** BF16 in the upper halves; the lower ones are left over. */
VEC_INLINE vec_u32_t vec_round_bf16(vec_t value)
{
#if defined(VEC_AVX512)
    const __m512i bits = (__m512i)value, below = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x00010000));
    const __m512i rounded = _mm512_mask_add_epi32(below, odd, below, _mm512_set1_epi32(1));
    /* The table says: where `value` is a NaN, that NaN made quiet; else what was rounded. */
    return (vec_u32_t)_mm512_fixupimm_ps((__m512)rounded, (__m512)value, _mm512_set1_epi32(0x22),
                                         0);
#else
    const vec_u32_t bits = (vec_u32_t)value;
    const vec_u32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const vec_i32_t is_nan = value != value;
    return vec_select_u32(is_nan, bits | 0x00400000u, rounded);
#endif
}

/* Integer arithmetic at every level: the processor's own instruction flushes denormals to zero. */
VEC_INLINE vec_u16_t vec_to_bf16(vec_t value)
{
    return vec_upper_u32(vec_round_bf16(value));
}

VEC_INLINE vec_t vec_from_f16(vec_u16_t bits)
{
#if defined(VEC_AVX512)
    return (vec_t)_mm512_cvtph_ps((__m256i)bits);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_t)_mm256_cvtph_ps((__m128i)bits);
#else
    const vec_u32_t wide = vec_widen_u16(bits);
    const vec_u32_t magnitude = wide & 0x7fffu;
    const vec_u32_t normal = (magnitude << 13) + (112u << 23);
    const vec_t subnormal = __builtin_convertvector((vec_i32_t)magnitude, vec_t) * 0x1p-24f;
    const vec_i32_t order = (vec_i32_t)magnitude; /* baseline x86 compares signed numbers alone */
    const vec_u32_t quiet = (vec_u32_t)(order > 0x7c00) & 0x00400000u;
    const vec_u32_t special = (magnitude << 13) | 0x7f800000u | quiet;
    vec_u32_t out = vec_select_u32(order < 0x0400, (vec_u32_t)subnormal, normal);
    out = vec_select_u32(order >= 0x7c00, special, out);
    return (vec_t)(out | ((wide & 0x8000u) << 16));
#endif
}

VEC_INLINE vec_u16_t vec_to_f16(vec_t value)
{
#if defined(VEC_AVX512)
    return (vec_u16_t)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(MPT_LEVEL_AVX2)
    return (vec_u16_t)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#else
    const vec_u32_t bits = (vec_u32_t)value;
    const vec_u32_t magnitude = bits & 0x7fffffffu;
    const vec_u32_t normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    /* Adding 0.5 puts the last place of the sum at 2^-24, that of FP16's subnormals. */
    const vec_u32_t subnormal = (vec_u32_t)((vec_t)magnitude + 0.5f) - 0x3f000000u;
    const vec_u32_t quiet = 0x7e00u | ((magnitude >> 13) & 0x03ffu);
    const vec_i32_t order = (vec_i32_t)magnitude;
    vec_u32_t out = vec_select_u32(order < 0x38800000, subnormal, normal);
    out = vec_select_u32(order >= 0x477ff000, vec_set_u32(0x7c00u), out);
    out = vec_select_u32(order > 0x7f800000, quiet, out);
    return vec_narrow_u32(out | ((bits >> 16) & 0x8000u));
#endif
}

/* ---- memory
 * ------------------------------------------------------------------------------------ */

#if defined(VEC_AVX512)
VEC_INLINE __mmask16 vec_mask(int lanes)
{
    return (__mmask16)((1u << lanes) - 1u);
}
#endif

VEC_INLINE vec_t vec_load_f32(const float *array, int lanes)
{
    vec_t value = {0};
#if defined(MPT_LEVEL_AVX2)
    if (lanes == 4) /* memcpy would go through the stack, where a read of more than was just written waits */
        return (vec_t)_mm256_zextps128_ps256(_mm_loadu_ps(array));
#endif
    if (lanes == VEC_LANES)
        memcpy(&value, array, sizeof value);
    else
#if defined(VEC_AVX512)
        value = (vec_t)_mm512_maskz_loadu_ps(vec_mask(lanes), array);
#else
        memcpy(&value, array, (size_t)lanes * sizeof *array);
#endif
    return value;
}

VEC_INLINE void vec_store_f32(float *array, int lanes, vec_t value)
{
    if (lanes == VEC_LANES)
        memcpy(array, &value, sizeof value);
    else
#if defined(VEC_AVX512)
        _mm512_mask_storeu_ps(array, vec_mask(lanes), (__m512)value);
#else
        memcpy(array, &value, (size_t)lanes * sizeof *array);
#endif
}

VEC_INLINE vec_u16_t vec_load_u16(const uint16_t *array, int lanes)
{
    vec_u16_t value = {0};
#if defined(MPT_LEVEL_AVX2)
    if (lanes == 4)
        return (vec_u16_t)_mm_loadl_epi64((const __m128i *)array);
#endif
    if (lanes == VEC_LANES)
        memcpy(&value, array, sizeof value);
    else
#if defined(VEC_AVX512)
        value = (vec_u16_t)_mm256_maskz_loadu_epi16(vec_mask(lanes), array);
#else
        memcpy(&value, array, (size_t)lanes * sizeof *array);
#endif
    return value;
}

VEC_INLINE void vec_store_u16(uint16_t *array, int lanes, vec_u16_t value)
{
    if (lanes == VEC_LANES)
        memcpy(array, &value, sizeof value);
    else
#if defined(VEC_AVX512)
        _mm256_mask_storeu_epi16(array, vec_mask(lanes), (__m256i)value);
#else
        memcpy(array, &value, (size_t)lanes * sizeof *array);
#endif
}

/** Elements [first, first + lanes) of an array of F32, BF16 or F16, widened to FP32. */
VEC_INLINE vec_t vec_load(const void *array, mpt_dtype_t dtype, int64_t first, int lanes)
{
    if (dtype == MPT_F32)
        return vec_load_f32((const float *)array + first, lanes);
    const vec_u16_t bits = vec_load_u16((const uint16_t *)array + first, lanes);
    return dtype == MPT_BF16 ? vec_from_bf16(bits) : vec_from_f16(bits);
}

/* Bytes from an element to the one worth asking for while it is worked on. */
#define VEC_AHEAD 2048

/** Ask for what a pass from front to back will reach soon; may lie past the array's end. */
VEC_INLINE void vec_prefetch(const void *array, mpt_dtype_t dtype, int64_t i)
{
    const uintptr_t bytes = dtype == MPT_F32 ? 4 : 2;
    __builtin_prefetch((const void *)((uintptr_t)array + (uintptr_t)i * bytes + VEC_AHEAD));
}

/** Ask for `bytes` from `at` on, into the second-level cache; may lie past an array's end. */
VEC_INLINE void vec_fetch(const void *at, int64_t bytes)
{
    for (int64_t line = 0; line < bytes; line += 64)
        __builtin_prefetch((const void *)((uintptr_t)at + (uintptr_t)line), 0, 2);
    __asm__ volatile(""); /* else GCC takes functions that only prefetch for ones without effect, and drops their calls */
}

/** Round once to F32, BF16 or F16 and store. */
VEC_INLINE void vec_store(void *array, mpt_dtype_t dtype, int64_t first, int lanes, vec_t value)
{
    if (dtype == MPT_F32)
        vec_store_f32((float *)array + first, lanes, value);
    else
        vec_store_u16((uint16_t *)array + first, lanes,
                      dtype == MPT_BF16 ? vec_to_bf16(value) : vec_to_f16(value));
}

/** Round once to F32, BF16 or F16, store, and return what was stored, widened again. */
VEC_INLINE vec_t vec_store_rounded(void *array, mpt_dtype_t dtype, int64_t first, int lanes,
                                   vec_t value)
{
    if (dtype == MPT_F32) {
        vec_store_f32((float *)array + first, lanes, value);
        return value;
    }
    const vec_u32_t upper = dtype == MPT_BF16 ? vec_round_bf16(value) : (vec_u32_t){0};
    const vec_u16_t bits = dtype == MPT_BF16 ? vec_upper_u32(upper) : vec_to_f16(value);
    vec_store_u16((uint16_t *)array + first, lanes, bits);
    return dtype == MPT_BF16 ? (vec_t)(upper & 0xffff0000u) : vec_from_f16(bits);
}

/**
 * vec_store of a whole vector past the caches, so that its lines are not read first: for outputs that
 * nobody reads soon. array + first is aligned to the vector's bytes in that type. Whoever used it
 * calls vec_stream_end before another thread may look.
 */
VEC_INLINE void vec_stream(void *array, mpt_dtype_t dtype, int64_t first, vec_t value)
{
#if defined(VEC_AVX512)
    if (dtype == MPT_F32)
        _mm512_stream_ps((float *)array + first, (__m512)value);
    else
        _mm256_stream_si256((__m256i *)((uint16_t *)array + first),
                            (__m256i)(dtype == MPT_BF16 ? vec_to_bf16(value) : vec_to_f16(value)));
#elif defined(MPT_LEVEL_AVX2)
    if (dtype == MPT_F32)
        _mm256_stream_ps((float *)array + first, (__m256)value);
    else
        _mm_stream_si128((__m128i *)((uint16_t *)array + first),
                         (__m128i)(dtype == MPT_BF16 ? vec_to_bf16(value) : vec_to_f16(value)));
#else
    vec_store(array, dtype, first, VEC_LANES, value);
#endif
}

VEC_INLINE void vec_stream_end(void)
{
#if !defined(MPT_LEVEL_PORTABLE)
    _mm_sfence();
#endif
}

/** The value after one rounding to `dtype`. */
VEC_INLINE vec_t vec_round(vec_t value, mpt_dtype_t dtype)
{
    if (dtype == MPT_F32)
        return value;
    if (dtype == MPT_BF16)
        return (vec_t)(vec_round_bf16(value) & 0xffff0000u);
    return vec_from_f16(vec_to_f16(value));
}

/** The first `lanes` lanes of `value`, zero in the others. */
VEC_INLINE vec_t vec_first(vec_t value, int lanes)
{
#if defined(VEC_AVX512)
    return (vec_t)_mm512_maskz_mov_ps(vec_mask(lanes), (__m512)value);
#else
    for (int lane = lanes; lane < VEC_LANES; lane++)
        value[lane] = 0.0f;
    return value;
#endif
}

/* ---- exp
 * --------------------------------------------------------------------------------------- */

/** p * 2^n for whole n in [-150, 128] and p near 1; denormal results are rounded once. */
VEC_INLINE vec_t vec_scale_exponent(vec_t p, vec_t n, vec_i32_t n_int)
{
#if defined(VEC_AVX512)
    (void)n_int;
    return (vec_t)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    (void)n;
    /* 2^n itself may lie outside FP32; the halves do not, and only the last product can round. */
    const vec_i32_t half = n_int >> 1;
    const vec_t low = (vec_t)((vec_u32_t)(half + 127) << 23);
    const vec_t high = (vec_t)((vec_u32_t)(n_int - half + 127) << 23);
    return p * low * high;
#endif
}

/**
 * e^x within 2 units in the last place; 0 at -inf, inf at +inf, NaN at NaN. x = n ln 2 + r with |r|
 * <= ln 2 / 2; e^r by a polynomial of degree 6 whose first two coefficients are 1 and the rest
 * minimax in relative error (3e-9).
 */
VEC_INLINE vec_t vec_exp(vec_t x)
{
    /* Adding and taking off 1.5 * 2^23 rounds to a whole number, whose low bits the sum then
     * shows. */
    const vec_t to_integer = vec_set(0x1.8p23f);
    x = vec_max(vec_set(-105.0f), vec_min(vec_set(89.0f), x));
    const vec_t shifted = vec_fma(x, vec_set(0x1.715476p0f), to_integer);
    const vec_t n = shifted - to_integer;
    /* ln 2 in two parts, the first of 9 bits, so that n times it is exact without FMA as well. */
    vec_t r = vec_fma(n, vec_set(-0x1.63p-1f), x);
    r = vec_fma(n, vec_set(0x1.bd0106p-13f), r);
    vec_t p = vec_set(0x1.6a2244p-10f);
    p = vec_fma(p, r, vec_set(0x1.123b0ep-7f));
    p = vec_fma(p, r, vec_set(0x1.5558f8p-5f));
    p = vec_fma(p, r, vec_set(0x1.555490p-3f));
    p = vec_fma(p, r, vec_set(0x1.fffffcp-2f));
    p = vec_fma(p, r, vec_set(1.0f));
    p = vec_fma(p, r, vec_set(1.0f));
    return vec_scale_exponent(p, n, (vec_i32_t)shifted - (vec_i32_t)to_integer);
}

#endif
