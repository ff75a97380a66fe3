#include "numeric_level.h"

#include <assert.h>
#include <stddef.h>
#include "numeric_fused.h"
#include "numeric_scalar.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BLOCK 512 /* elements at a time: partial sums stay in the first-level cache */
/* Partial sums alive at once, of MPT_SUM_MAX_RANKS: a bit each of 1023 groups of four ranks, and the last group's. */
#define MAX_PARTIALS 11

typedef float block_t[BLOCK];

/* ---- blocks ------------------------------------------------------------------------- */

/* The choice of type stands outside the loops below, so that each is of one type and vectorises.
 * FP16 is left to functions of the level: processors convert it by instructions of their own. */
typedef struct f16_ops {
    void (*widen)(float *dst, const uint16_t *src, int64_t count);
    void (*narrow)(uint16_t *dst, const float *src, int64_t count);
} f16_ops_t;

MPT_INLINE void widen_block(f16_ops_t f16, float *restrict dst, const void *src, mpt_dtype_t dtype,
                            int64_t first, int64_t count)
{
    if (dtype == MPT_BF16)
        for (int64_t i = 0; i < count; i++)
            dst[i] = widen(src, MPT_BF16, first + i);
    else if (dtype == MPT_F16)
        f16.widen(dst, (const uint16_t *)src + first, count);
    else
        memcpy(dst, (const float *)src + first, (size_t)count * sizeof *dst);
}

MPT_INLINE void narrow_block(f16_ops_t f16, void *restrict dst, mpt_dtype_t dtype, int64_t first,
                             const float *restrict src, int64_t count)
{
    if (dtype == MPT_BF16)
        for (int64_t i = 0; i < count; i++)
            narrow(dst, MPT_BF16, first + i, src[i]);
    else if (dtype == MPT_F16)
        f16.narrow((uint16_t *)dst + first, src, count);
    else if (dtype == MPT_F32)
        memcpy((float *)dst + first, src, (size_t)count * sizeof *src);
    else
        for (int64_t i = 0; i < count; i++)
            ((double *)dst)[first + i] = (double)src[i];
}

MPT_INLINE void add_block(float *restrict left, const float *restrict right, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        left[i] = left[i] + right[i];
}

/* Of two NaNs the processor keeps one by the operands' order, which compilers are free to swap. */
MPT_INLINE void settle_nans(float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = mpt_f32_bits(values[i]);
        values[i] = mpt_f32_from_bits((bits & 0x7fffffffu) > F32_INF ? F32_QUIET_NAN : bits);
    }
}

/* ---- mpt_convert --------------------------------------------------------------------- */

MPT_INLINE void convert_from_f64(void *dst, mpt_dtype_t dst_dtype, const double *src, int64_t count)
{
    if (dst_dtype == MPT_F32)
        for (int64_t i = 0; i < count; i++)
            ((float *)dst)[i] = (float)src[i];
    else
        for (int64_t i = 0; i < count; i++)
            narrow(dst, dst_dtype, i, f64_to_f32_odd(src[i]));
}

MPT_INLINE void convert_body(f16_ops_t f16, void *dst, mpt_dtype_t dst_dtype, const void *src,
                             mpt_dtype_t src_dtype, int64_t count)
{
    if (dst_dtype == src_dtype) {
        if (dst != src && count > 0)
            memmove(dst, src, (size_t)count * mpt_dtype_bytes(dst_dtype));
        return;
    }
    if (src_dtype == MPT_F64) {
        convert_from_f64(dst, dst_dtype, src, count);
        return;
    }
    block_t buffer;
    for (int64_t first = 0; first < count; first += BLOCK) {
        int64_t here = count - first < BLOCK ? count - first : BLOCK;
        if (dst_dtype == MPT_F32) {
            widen_block(f16, (float *)dst + first, src, src_dtype, first, here);
        } else if (src_dtype == MPT_F32) {
            narrow_block(f16, dst, dst_dtype, first, (const float *)src + first, here);
        } else {
            widen_block(f16, buffer, src, src_dtype, first, here);
            narrow_block(f16, dst, dst_dtype, first, buffer, here);
        }
    }
}

/* ---- mpt_tree_sum ------------------------------------------------------------------- */

/*
 * Pairing neighbours level by level is the carry of a binary counter. With 7 ranks:
 *
 *         (0123) + (456)
 *         /            \
 *    (01) + (23)    (45) + 6
 *
 * A group of four is one subtree of the tree. Two partial sums over equally many groups merge at
 * once; what is left at the end, ever smaller, folds from the right.
 */

/* a + b, or (a + b) + (c + d), for FP32 and BF16 in one loop. */
MPT_INLINE void add_sources(float *restrict dst, const void *const *sources, int ranks,
                            mpt_dtype_t dtype, int64_t first, int64_t count)
{
    const void *a = sources[0], *b = sources[1];
    if (ranks == 2) {
        for (int64_t i = first; i < first + count; i++)
            dst[i - first] = widen(a, dtype, i) + widen(b, dtype, i);
        return;
    }
    const void *c = sources[2], *d = sources[3];
    for (int64_t i = first; i < first + count; i++)
        dst[i - first] =
            (widen(a, dtype, i) + widen(b, dtype, i)) + (widen(c, dtype, i) + widen(d, dtype, i));
}

MPT_INLINE void pair_block(f16_ops_t f16, float *dst, const void *const *sources, mpt_dtype_t wire,
                           int64_t first, int64_t count)
{
    if (wire == MPT_BF16) {
        add_sources(dst, sources, 2, MPT_BF16, first, count);
    } else if (wire == MPT_F32) {
        add_sources(dst, sources, 2, MPT_F32, first, count);
    } else {
        block_t other;
        widen_block(f16, dst, sources[0], MPT_F16, first, count);
        widen_block(f16, other, sources[1], MPT_F16, first, count);
        add_block(dst, other, count);
    }
}

MPT_INLINE void four_block(f16_ops_t f16, float *dst, const void *const *sources, mpt_dtype_t wire,
                           int64_t first, int64_t count)
{
    if (wire == MPT_BF16) {
        add_sources(dst, sources, 4, MPT_BF16, first, count);
    } else if (wire == MPT_F32) {
        add_sources(dst, sources, 4, MPT_F32, first, count);
    } else {
        block_t other;
        pair_block(f16, dst, sources, MPT_F16, first, count);
        pair_block(f16, other, sources + 2, MPT_F16, first, count);
        add_block(dst, other, count);
    }
}

/* The last one to three ranks: a, a + b, or (a + b) + c, as pairing does. */
MPT_INLINE void rest_block(f16_ops_t f16, float *dst, const void *const *sources, int ranks,
                           mpt_dtype_t wire, int64_t first, int64_t count)
{
    if (ranks == 1) {
        widen_block(f16, dst, sources[0], wire, first, count);
        return;
    }
    pair_block(f16, dst, sources, wire, first, count);
    if (ranks == 3) {
        block_t last;
        widen_block(f16, last, sources[2], wire, first, count);
        add_block(dst, last, count);
    }
}

MPT_INLINE void sum_block(f16_ops_t f16, block_t *partials, const void *const *sources, int ranks,
                          mpt_dtype_t wire, int64_t first, int64_t count)
{
    int depth = 0;
    for (int group = 0; group < ranks / 4; group++) {
        four_block(f16, partials[depth++], sources + 4 * group, wire, first, count);
        for (int carry = group; carry & 1; carry >>= 1, depth--)
            add_block(partials[depth - 2], partials[depth - 1], count);
    }
    if (ranks % 4)
        rest_block(f16, partials[depth++], sources + ranks / 4 * 4, ranks % 4, wire, first, count);
    for (; depth > 1; depth--)
        add_block(partials[depth - 2], partials[depth - 1], count);
}

/* Of elements [done, count). */
MPT_INLINE void tree_sum_body(f16_ops_t f16, void *out, mpt_dtype_t out_dtype,
                              const void *const *sources, int ranks, mpt_dtype_t wire,
                              int64_t done, int64_t count)
{
    block_t partials[MAX_PARTIALS];
    for (int64_t first = done; first < count; first += BLOCK) {
        int64_t here = count - first < BLOCK ? count - first : BLOCK;
        sum_block(f16, partials, sources, ranks, wire, first, here);
        settle_nans(partials[0], here);
        narrow_block(f16, out, out_dtype, first, partials[0], here);
    }
}

/* ---- levels -------------------------------------------------------------------------- */

#define DEFINE_LEVEL(level, attributes)                                                            \
    attributes static void convert_##level(void *dst, mpt_dtype_t dst_dtype, const void *src,      \
                                           mpt_dtype_t src_dtype, int64_t count)                   \
    {                                                                                              \
        f16_ops_t f16 = {widen_f16_##level, narrow_f16_##level};                                   \
        convert_body(f16, dst, dst_dtype, src, src_dtype, count);                                  \
    }                                                                                              \
    attributes static void tree_sum_##level(void *out, mpt_dtype_t out_dtype,                      \
                                            const void *const *sources, int ranks,                 \
                                            mpt_dtype_t wire, int64_t count)                       \
    {                                                                                              \
        f16_ops_t f16 = {widen_f16_##level, narrow_f16_##level};                                   \
        assert(mpt_sum_is_defined(ranks, wire, out_dtype));                                        \
        if (ranks == 1) {                                                                          \
            convert_##level(out, out_dtype, sources[0], wire, count);                              \
            return;                                                                                \
        }                                                                                          \
        fused_job_t job = {&out, 1, ranks, out_dtype, wire, sources, 0, count, 0};                  \
        int64_t done = ranks <= FUSED_RANKS ? fused_##level(&job) : 0;                             \
        tree_sum_body(f16, out, out_dtype, sources, ranks, wire, done, count);                     \
    }                                                                                              \
    attributes static int64_t sum_lines_##level(void *const *outs, int outs_count, mpt_dtype_t out_dtype, \
                                                const void *const *sources, int ranks,             \
                                                mpt_dtype_t wire, int64_t first, int64_t count)    \
    {                                                                                              \
        fused_job_t job = {outs, outs_count, ranks, out_dtype, wire, sources, first, count, 1};    \
        return ranks >= 2 && ranks <= FUSED_RANKS ? fused_##level(&job) : 0;                       \
    }

static void widen_f16_portable(float *restrict dst, const uint16_t *restrict src, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        dst[i] = f16_to_f32(src[i]);
}

static void narrow_f16_portable(uint16_t *restrict dst, const float *restrict src, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        dst[i] = f32_to_f16(src[i]);
}

/* Compilers turn the blocks into vectors by themselves. */
static int64_t fused_portable(const fused_job_t *job)
{
    (void)job;
    return 0;
}

DEFINE_LEVEL(portable, )

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,f16c")))
#define AVX512                                                                                     \
    __attribute__((target("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,"                          \
                          "prefer-vector-width=512")))

AVX2 static void widen_f16_avx2(float *dst, const uint16_t *src, int64_t count)
{
    int64_t whole = count - count % 8;
    for (int64_t i = 0; i < whole; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(src + i))));
    widen_f16_portable(dst + whole, src + whole, count - whole);
}

AVX2 static void narrow_f16_avx2(uint16_t *dst, const float *src, int64_t count)
{
    int64_t whole = count - count % 8;
    for (int64_t i = 0; i < whole; i += 8)
        _mm_storeu_si128((__m128i *)(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    narrow_f16_portable(dst + whole, src + whole, count - whole);
}

AVX512 static void widen_f16_avx512(float *dst, const uint16_t *src, int64_t count)
{
    int64_t whole = count - count % 16;
    for (int64_t i = 0; i < whole; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(src + i))));
    widen_f16_portable(dst + whole, src + whole, count - whole);
}

AVX512 static void narrow_f16_avx512(uint16_t *dst, const float *src, int64_t count)
{
    int64_t whole = count - count % 16;
    for (int64_t i = 0; i < whole; i += 16)
        _mm256_storeu_si256((__m256i *)(dst + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    narrow_f16_portable(dst + whole, src + whole, count - whole);
}

/* ---- vectors for fused sums. BF16 is rounded by integers: the processor's own conversion flushes subnormals. ---- */

/* FP32 or FP16: BF16 is loaded in pairs, below. */
AVX2 MPT_INLINE __m256 load_avx2(const void *array, mpt_dtype_t dtype, int64_t i)
{
    if (dtype == MPT_F32)
        return _mm256_loadu_ps((const float *)array + i);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)array + i)));
}

/* Rounded to BF16, in the lower half. `value` is no NaN but the quiet one, which rounding leaves a quiet NaN. */
AVX2 MPT_INLINE __m256i round_bf16_avx2(__m256 value)
{
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
}

AVX2 MPT_INLINE void store_avx2(void *array, mpt_dtype_t dtype, int64_t i, __m256 value)
{
    if (dtype == MPT_F32) {
        _mm256_storeu_ps((float *)array + i, value);
        return;
    }
    __m256i high = dtype == MPT_BF16 ? round_bf16_avx2(value) : _mm256_setzero_si256();
    __m128i bits = dtype == MPT_BF16
                       ? _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1))
                       : _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128((__m128i *)((uint16_t *)array + i), bits);
}

AVX2 MPT_INLINE __m256 add_avx2(__m256 a, __m256 b)
{
    return _mm256_add_ps(a, b);
}

AVX2 MPT_INLINE __m256 settle_avx2(__m256 value)
{
    __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32((int)F32_QUIET_NAN));
    return _mm256_blendv_ps(value, quiet, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
}

/* Sixteen BF16 elements: 0 to 3 and 8 to 11, 4 to 7 and 12 to 15, as they are interleaved and packed within halves of a
 * register: what crosses between halves costs a third of the time with two sources. */
typedef struct pairs_avx2 {
    __m256 low, high;
} pairs_avx2_t;

/* Zeros below each element: as upper half of a float it is that float. */
AVX2 MPT_INLINE pairs_avx2_t load_pairs_avx2(const void *array, mpt_dtype_t dtype, int64_t i)
{
    (void)dtype;
    __m256i bits = _mm256_loadu_si256((const __m256i *)((const uint16_t *)array + i)), zero = _mm256_setzero_si256();
    return (pairs_avx2_t){_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, bits)),
                          _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, bits))};
}

AVX2 MPT_INLINE void store_pairs_avx2(void *array, mpt_dtype_t dtype, int64_t i, pairs_avx2_t value)
{
    if (dtype == MPT_F32) {
        float *to = (float *)array + i;
        _mm256_storeu_ps(to, _mm256_permute2f128_ps(value.low, value.high, 0x20));
        _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(value.low, value.high, 0x31));
        return;
    }
    __m256i packed = _mm256_packus_epi32(round_bf16_avx2(value.low), round_bf16_avx2(value.high));
    _mm256_storeu_si256((__m256i *)((uint16_t *)array + i), packed);
}

AVX2 MPT_INLINE pairs_avx2_t add_pairs_avx2(pairs_avx2_t a, pairs_avx2_t b)
{
    return (pairs_avx2_t){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

AVX2 MPT_INLINE pairs_avx2_t settle_pairs_avx2(pairs_avx2_t value)
{
    return (pairs_avx2_t){settle_avx2(value.low), settle_avx2(value.high)};
}

AVX512 MPT_INLINE __m512 load_avx512(const void *array, mpt_dtype_t dtype, int64_t i)
{
    if (dtype == MPT_F32)
        return _mm512_loadu_ps((const float *)array + i);
    __m256i bits = _mm256_loadu_si256((const __m256i *)((const uint16_t *)array + i));
    return dtype == MPT_F16 ? _mm512_cvtph_ps(bits)
                            : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

AVX512 MPT_INLINE __m256i to_bf16_avx512(__m512 value)
{
    __m512i bits = _mm512_castps_si512(value);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(bits, up), 16));
}

AVX512 MPT_INLINE void store_avx512(void *array, mpt_dtype_t dtype, int64_t i, __m512 value)
{
    if (dtype == MPT_F32) {
        _mm512_storeu_ps((float *)array + i, value);
        return;
    }
    __m256i bits = dtype == MPT_BF16 ? to_bf16_avx512(value) : _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256((__m256i *)((uint16_t *)array + i), bits);
}

AVX512 MPT_INLINE __m512 add_avx512(__m512 a, __m512 b)
{
    return _mm512_add_ps(a, b);
}

AVX512 MPT_INLINE __m512 settle_avx512(__m512 value)
{
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(value, nan, _mm512_castsi512_ps(_mm512_set1_epi32((int)F32_QUIET_NAN)));
}

DEFINE_FUSED_SUM(avx2, AVX2, __m256, 8, 1024)
DEFINE_FUSED_SUM(pairs_avx2, AVX2, pairs_avx2_t, 16, 1024)
DEFINE_FUSED_SUM(avx512, AVX512, __m512, 16, 0)
DEFINE_FUSED(avx2, AVX2, pairs_avx2)
DEFINE_FUSED(avx512, AVX512, avx512)
DEFINE_LEVEL(avx2, AVX2)
DEFINE_LEVEL(avx512, AVX512)
#endif

static const mpt_numeric_level_t levels[] = {
#if defined(__x86_64__)
    {"avx512", convert_avx512, tree_sum_avx512, sum_lines_avx512},
    {"avx2", convert_avx2, tree_sum_avx2, sum_lines_avx2},
#endif
    {"portable", convert_portable, tree_sum_portable, sum_lines_portable},
};

#define LEVEL_COUNT ((int)(sizeof levels / sizeof levels[0]))

/* Index of the fastest level that this processor runs. A processor with one level has all that
 * follow. */
static int fastest_level(void)
{
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("f16c"))
        return 2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 0;
    return 1;
#else
    return 0;
#endif
}

const mpt_numeric_level_t *mpt_numeric_level(int index)
{
    assert(index >= 0);
    int row = fastest_level() + index;
    return row < LEVEL_COUNT ? &levels[row] : NULL;
}
