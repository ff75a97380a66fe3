#include "gemm_kernel.h"

#if defined(MPT_LEVEL_AVX512_BF16)

#include "pack_pairs.h"

/*
 * BF16 products by dot products of pairs. A panel: for each pair of indices MR (or NR) words. The
 * instruction takes denormal inputs as zero, flushes denormal sums, and rounds to nearest even.
 */
#define MR 8
#define NR 48

VEC_INLINE void pack_panel(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                           uint32_t *panel, int width)
{
    const int step = width < PAIRS ? width : PAIRS;
    for (int64_t k = 0; k < count; k += PAIRS_DEPTH)
        for (int j = 0; j < width; j += step) {
            vec_u32_t square[PAIRS];
            const int depth = pack_min(count - k, PAIRS_DEPTH);
            pairs_square(op, first + j, k0 + k, depth, 0, square);
            uint32_t *to = panel + k / 2 * width + j;
            for (int i = 0; i < (depth + 1) / 2; i++)
                vec_store_f32((float *)(to + (int64_t)i * width), step, (vec_t)square[i]);
        }
}

static void pack_a(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel)
{
    pack_panel(op, first, k0, count, panel, MR);
}

static void pack_b(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel)
{
    pack_panel(op, first, k0, count, panel, NR);
}

static void multiply(const void *a, const void *b, int64_t steps, float *c, int load,
                     const gemm_aside_t *aside)
{
    const uint32_t *pa = a, *pb = b;
    vec_t sum[MR][3];
    gemm_fetch(&aside->fetch);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            sum[i][j] = load ? vec_load_f32(c + i * NR + j * PAIRS, PAIRS) : vec_set(0);
    for (int64_t s = 0; s < steps; s++, pa += MR, pb += NR) {
        const vec_u32_t b0 = (vec_u32_t)_mm512_loadu_si512(pb);
        const vec_u32_t b1 = (vec_u32_t)_mm512_loadu_si512(pb + PAIRS);
        const vec_u32_t b2 = (vec_u32_t)_mm512_loadu_si512(pb + 2 * PAIRS);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) {
            const vec_u32_t ai = (vec_u32_t)_mm512_set1_epi32((int)pa[i]);
            sum[i][0] = pairs_dot(sum[i][0], ai, b0);
            sum[i][1] = pairs_dot(sum[i][1], ai, b1);
            sum[i][2] = pairs_dot(sum[i][2], ai, b2);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            vec_store_f32(c + i * NR + j * PAIRS, PAIRS, sum[i][j]);
}

static void add_row_sums(const void *a, int64_t steps, float *sums, int rows)
{
    const uint32_t *panel = a;
    float total[MR] = {0};
    for (int64_t s = 0; s < steps; s++, panel += MR)
        for (int i = 0; i < MR; i++)
            total[i] +=
                mpt_f32_from_bits(panel[i] << 16) + mpt_f32_from_bits(panel[i] & 0xffff0000u);
    for (int i = 0; i < rows; i++)
        sums[i] += total[i];
}

const gemm_kernel_t gemm_dot_kernel = {
    .mr = MR,
    .nr = NR,
    .k_step = 2,
    .unit_bytes = 4,
    .kc = 320,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .multiply = multiply,
    .add_row_sums = add_row_sums,
};

#endif
