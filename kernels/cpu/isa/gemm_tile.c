#include "gemm_kernel.h"
#include "gemm_tile.h"

#if defined(MPT_LEVEL_AMX)

#include "pack_pairs.h"
#include "tiles.h"

/*
 * BF16 products by tiles of 16 rows by 64 bytes, four tiles of sums at a time. One step of a panel is 32
 * indices of the contraction for 32 lines, two tiles of 1 KiB: a tile of A holds 16 rows of 16 pairs, a tile of
 * B 16 pairs of 16 columns. Tiles take denormal inputs as zero and flush denormal sums.
 *
 * FP16 runs on the same tiles. An FP16 number is hi + lo, both BF16: 11 significant bits are 8, and 3 with a
 * sign, and neither term is ever denormal in BF16. A step of a panel is then two tiles of hi and two of lo, and
 * a product hi hi + hi lo + lo hi; lo lo, at most 2^-16 of it, is left out. An infinity has lo = 0, so
 * that infinity times a number can come out NaN instead of infinity: not finite either way.
 *
 * TF32 has as many significant bits as FP16 and splits the same way, out of FP32 in memory. Its exponents are BF16's: the high
 * term of what would round to infinity is the largest number instead, and low terms below 2^-126 count as zero.
 */
#define LINE 64 /* bytes of a cache line */
#define PITCH (NR * (int)sizeof(float))

/* ---- products ---------------------------------------------------------------------------------- *
 * Tiles 0 to 3 are the sums, 4 and 5 of A, 6 and 7 of B. */

VEC_INLINE void start_sums(const float *c, int load)
{
    /* Tile loads do not tell the compiler that they read memory: what was stored before must be there. */
    __asm__ volatile("" ::: "memory");
    if (load) {
        _tile_loadd(0, c, PITCH);
        _tile_loadd(1, c + 16, PITCH);
        _tile_loadd(2, c + 16 * NR, PITCH);
        _tile_loadd(3, c + 16 * NR + 16, PITCH);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
}

VEC_INLINE void store_sums(float *c)
{
    _tile_stored(0, c, PITCH);
    _tile_stored(1, c + 16, PITCH);
    _tile_stored(2, c + 16 * NR, PITCH);
    _tile_stored(3, c + 16 * NR + 16, PITCH);
}

VEC_INLINE void load_a(const char *a)
{
    _tile_stream_loadd(4, a, 64);
    _tile_stream_loadd(5, a + TILE_BYTES, 64);
}

VEC_INLINE void load_b(const char *b)
{
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + TILE_BYTES, 64);
}

VEC_INLINE void add_products(void)
{
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

VEC_INLINE void store_line(void *to, __m512i line, int stream)
{
    if (stream)
        _mm512_stream_si512(to, line);
    else
        _mm512_storeu_si512(to, line);
}

/* Round two vectors, side by side, and store them. @return, of BF16 as FP32, in v, what was stored. */
VEC_INLINE void store_pair(void *array, mpt_dtype_t dtype, int64_t at, vec_t v[2], int stream)
{
    if (dtype == MPT_BF16) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
        store_line((uint16_t *)array + at, both, stream);
        v[0] = vec_from_bf16((vec_u16_t)_mm512_castsi512_si256(both));
        v[1] = vec_from_bf16((vec_u16_t)_mm512_extracti64x4_epi64(both, 1));
    } else if (dtype == MPT_F16) {
        const vec_u16_t low = vec_to_f16(v[0]), high = vec_to_f16(v[1]);
        const __m512i both =
            _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low), (__m256i)high, 1);
        store_line((uint16_t *)array + at, both, stream);
        v[0] = vec_from_f16(low);
        v[1] = vec_from_f16(high);
    } else {
        gemm_store_f32((float *)array + at, v[0], stream);
        gemm_store_f32((float *)array + at + PAIRS, v[1], stream);
    }
}

/* What the same row of the tile to the right will read: past the last column it is the next row, no harm. */
VEC_INLINE void fetch_operand(const gemm_output_t *out, int64_t at, gemm_variant_t variant, mpt_dtype_t compute)
{
    if (variant == GEMM_VARIANT_ADD) {
        __builtin_prefetch((const float *)out->data + at + NR, 0, 2);
        __builtin_prefetch((const float *)out->data + at + NR + PAIRS, 0, 2);
    } else if (variant == GEMM_VARIANT_SLOPE) {
        const char *next = (const char *)out->slope_at + (at + NR) * (int64_t)mpt_dtype_bytes(compute);
        __builtin_prefetch(next, 0, 2);
        if (compute == MPT_F32)
            __builtin_prefetch(next + LINE, 0, 2);
    }
}

/* Row `i` of the rows to store. What is added to was just read: it goes through the caches. */
VEC_INLINE void store_row(const gemm_rows_t *rows, const gemm_output_t *out, const vec_t bias[2],
                          int64_t i, int stream, gemm_variant_t variant, mpt_dtype_t compute)
{
    const float *c = rows->tile + i * NR;
    const int64_t at = (rows->row + i) * out->ld + rows->column;
    vec_t v[2];
    fetch_operand(out, at, variant, compute);
    for (int j = 0; j < 2; j++)
        v[j] = gemm_finish_vector(out, vec_load_f32(c + j * PAIRS, PAIRS), bias[j], at + j * PAIRS,
                                  PAIRS, variant, compute);
    if (variant == GEMM_VARIANT_GELU) {
        store_pair(out->pre, compute, at, v, stream);
        v[0] = gelu_value(v[0]);
        v[1] = gelu_value(v[1]);
    }
    store_pair(out->data, gemm_out_dtype(variant, compute), at, v, stream);
}

VEC_INLINE void multiply_step(const char *a, const char *b, int split)
{
    load_a(a);
    if (split) {
        load_b(b + STEP_BYTES);
        add_products();
    }
    load_b(b);
    add_products();
    if (split) {
        load_a(a + STEP_BYTES);
        add_products();
    }
}

VEC_INLINE void multiply(const char *a, const char *b, int64_t steps, float *c, int load,
                         const gemm_aside_t *aside, int storing, gemm_variant_t variant,
                         mpt_dtype_t compute)
{
    const int split = compute != MPT_BF16; /* F32 in memory: TF32 here */
    const gemm_rows_t rows = aside->rows;
    const gemm_output_t out = storing ? *rows.out : (gemm_output_t){0};
    const vec_t bias[2] = {
        storing ? gemm_bias(&out, rows.column, PAIRS, compute) : (vec_t){0},
        storing ? gemm_bias(&out, rows.column + PAIRS, PAIRS, compute) : (vec_t){0},
    };
    const int stream = storing && gemm_streams(&out, rows.column);
    const char *fetch = aside->fetch.at, *fetch_end = fetch + aside->fetch.bytes;
    /* Beside GELU's slope, which reads as well, fetching sums only adds to the work. */
    const char *sums = variant == GEMM_VARIANT_SLOPE ? NULL : (const char *)aside->next_sums;
    const char *sums_end = sums ? sums + MR * PITCH : NULL;
    int64_t row = 0, due = 0; /* rows are stored evenly over the steps */
    start_sums(c, load);
    for (int64_t s = 0; s < steps; s++, a += STEP_BYTES << split, b += STEP_BYTES << split) {
        multiply_step(a, b, split);
        for (int64_t at = 0; at < aside->fetch_a_step && fetch < fetch_end; at += LINE, fetch += LINE)
            __builtin_prefetch(fetch, 0, 2);
        for (int64_t at = 0; at < aside->sums_a_step && sums < sums_end; at += LINE, sums += LINE)
            __builtin_prefetch(sums, 0, 3);
        for (due += rows.count; storing && due >= steps; due -= steps)
            store_row(&rows, &out, bias, row++, stream, variant, compute);
    }
    store_sums(c);
}

#define DEFINE_MULTIPLY(name, compute)                                                             \
    static void name(const void *a, const void *b, int64_t steps, float *c, int load,              \
                     const gemm_aside_t *aside)                                                    \
    {                                                                                              \
        multiply(a, b, steps, c, load, aside, 0, GEMM_VARIANT_STORE, compute);                     \
    }

#define DEFINE_MULTIPLY_STORING(name, variant, compute)                                            \
    static void name(const void *a, const void *b, int64_t steps, float *c, int load,              \
                     const gemm_aside_t *aside)                                                    \
    {                                                                                              \
        multiply(a, b, steps, c, load, aside, 1, variant, compute);                                \
    }

DEFINE_MULTIPLY(multiply_bf16, MPT_BF16)
DEFINE_MULTIPLY_STORING(multiply_bf16_store, GEMM_VARIANT_STORE, MPT_BF16)
DEFINE_MULTIPLY_STORING(multiply_bf16_widen, GEMM_VARIANT_WIDEN, MPT_BF16)
DEFINE_MULTIPLY_STORING(multiply_bf16_gelu, GEMM_VARIANT_GELU, MPT_BF16)
DEFINE_MULTIPLY_STORING(multiply_bf16_slope, GEMM_VARIANT_SLOPE, MPT_BF16)
DEFINE_MULTIPLY_STORING(multiply_bf16_add, GEMM_VARIANT_ADD, MPT_BF16)
DEFINE_MULTIPLY(multiply_f16, MPT_F16)
DEFINE_MULTIPLY_STORING(multiply_f16_store, GEMM_VARIANT_STORE, MPT_F16)
DEFINE_MULTIPLY_STORING(multiply_f16_widen, GEMM_VARIANT_WIDEN, MPT_F16)
DEFINE_MULTIPLY_STORING(multiply_f16_gelu, GEMM_VARIANT_GELU, MPT_F16)
DEFINE_MULTIPLY_STORING(multiply_f16_slope, GEMM_VARIANT_SLOPE, MPT_F16)
DEFINE_MULTIPLY_STORING(multiply_f16_add, GEMM_VARIANT_ADD, MPT_F16)

DEFINE_MULTIPLY(multiply_tf32, MPT_F32)
DEFINE_MULTIPLY_STORING(multiply_tf32_store, GEMM_VARIANT_STORE, MPT_F32)
DEFINE_MULTIPLY_STORING(multiply_tf32_gelu, GEMM_VARIANT_GELU, MPT_F32)
DEFINE_MULTIPLY_STORING(multiply_tf32_slope, GEMM_VARIANT_SLOPE, MPT_F32)
DEFINE_MULTIPLY_STORING(multiply_tf32_add, GEMM_VARIANT_ADD, MPT_F32)

static const gemm_multiply_t storing_bf16[GEMM_VARIANTS] = {
    multiply_bf16_store, multiply_bf16_widen, multiply_bf16_gelu,
    multiply_bf16_slope, multiply_bf16_add,
};

static const gemm_multiply_t storing_f16[GEMM_VARIANTS] = {
    multiply_f16_store, multiply_f16_widen, multiply_f16_gelu, multiply_f16_slope, multiply_f16_add,
};

static const gemm_multiply_t storing_tf32[GEMM_VARIANTS] = {
    multiply_tf32_store, multiply_tf32_store, multiply_tf32_gelu,
    multiply_tf32_slope, multiply_tf32_add, /* FP32 is as wide as it gets */
};

/* ---- row sums ---------------------------------------------------------------------------------- */

/* Sums over the panel of row i of each of 16 rows, of which the words lie `stride` bytes apart from step to step. */
VEC_INLINE void add_tile_sums(const char *tile, int64_t steps, int64_t stride, int terms,
                              float *sums, int rows)
{
    const vec_u32_t ones = (vec_u32_t)_mm512_set1_epi32(0x3f803f80);
    vec_t total[PAIRS] = {{0}};
    for (int64_t s = 0; s < steps; s++, tile += stride)
        for (int term = 0; term < terms; term++)
#pragma GCC unroll 16
            for (int i = 0; i < PAIRS; i++)
                total[i] = pairs_dot(
                    total[i], (vec_u32_t)_mm512_loadu_si512(tile + term * STEP_BYTES + 64 * i),
                    ones);
    for (int i = 0; i < rows; i++)
        sums[i] += vec_sum(total[i]);
}

VEC_INLINE void add_panel_sums(const char *panel, int64_t steps, int terms, float *sums, int rows)
{
    const int64_t stride = (int64_t)terms * STEP_BYTES;
    add_tile_sums(panel, steps, stride, terms, sums, pack_min(rows, PAIRS));
    add_tile_sums(panel + TILE_BYTES, steps, stride, terms, sums + PAIRS, rows - PAIRS);
}

static void add_row_sums_bf16(const void *a, int64_t steps, float *sums, int rows)
{
    add_panel_sums(a, steps, 1, sums, rows);
}

static void add_row_sums_f16(const void *a, int64_t steps, float *sums, int rows)
{
    add_panel_sums(a, steps, 2, sums, rows);
}

const gemm_kernel_t gemm_tile_bf16_kernel = {
    .mr = MR,
    .nr = NR,
    .k_step = PAIRS_DEPTH,
    .unit_bytes = 64,
    .kc = 640,
    .pack_a = gemm_tile_pack_a_bf16,
    .pack_b = gemm_tile_pack_b_bf16,
    .multiply = multiply_bf16,
    .multiply_storing = storing_bf16,
    .add_row_sums = add_row_sums_bf16,
    .begin = tiles_begin,
    .end = tiles_end,
};

const gemm_kernel_t gemm_tile_f16_kernel = {
    .mr = MR,
    .nr = NR,
    .k_step = PAIRS_DEPTH,
    .unit_bytes = 128,
    .kc = 320,
    .pack_a = gemm_tile_pack_a_f16,
    .pack_b = gemm_tile_pack_b_f16,
    .multiply = multiply_f16,
    .multiply_storing = storing_f16,
    .add_row_sums = add_row_sums_f16,
    .begin = tiles_begin,
    .end = tiles_end,
};

const gemm_kernel_t gemm_tile_tf32_kernel = {
    .mr = MR,
    .nr = NR,
    .k_step = PAIRS_DEPTH,
    .unit_bytes = 128,
    .kc = 320,
    .pack_a = gemm_tile_pack_a_tf32,
    .pack_b = gemm_tile_pack_b_tf32,
    .multiply = multiply_tf32,
    .multiply_storing = storing_tf32,
    .begin = tiles_begin,
    .end = tiles_end,
};

#endif
