#include "gemm_kernel.h"
#include "pack.h"

/*
 * FP32 products by fused multiply-add, 16-bit operands widened while packing. A panel: for each index of
 * the contraction MR (or NR) floats. The tile's sums fill most of the vector registers, 24 of 32 or 12 of 16, in a shape
 * with few loads for each product: a processor at its power limit is slowed by every instruction.
 */
#if VEC_LANES == 16
#define MR 8
#define KC 192
#else
#define MR 4
#define KC 384
#endif
#define VECTORS 3
#define NR (VECTORS * VEC_LANES)

/* MPT_TF32: FP32, rounded. */
VEC_INLINE vec_t load_as(const void *array, mpt_dtype_t dtype, int64_t at, int lanes)
{
    if (dtype == MPT_TF32)
        return pack_round_tf32(vec_load(array, MPT_F32, at, lanes));
    return vec_load(array, dtype, at, lanes);
}

/* Lines lie across: each index of the contraction is one short run in memory. */
VEC_INLINE void pack_across(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                            float *panel, int width, mpt_dtype_t dtype)
{
    const int step = width < VEC_LANES ? width : VEC_LANES;
    const int lines = pack_min(op->count - first, width);
    for (int64_t k = 0; k < count; k++, panel += width) {
        const int64_t at = (k0 + k) * op->ld + first;
        for (int j = 0; j < width; j += step) {
            vec_t v = {0};
            if (j + step <= lines)
                v = load_as(op->data, dtype, at + j, step);
            else if (j < lines)
                v = load_as(op->data, dtype, at + j, lines - j);
            vec_store_f32(panel + j, step, v);
        }
    }
}

/* `lines` lines (of `width`, the rest zero) by `depth` indices of the contraction, of one vector at most. */
VEC_INLINE void pack_square(const gemm_operand_t *op, int64_t line, int lines, int64_t k, int depth,
                            float *panel, int pitch, int width, mpt_dtype_t dtype)
{
    vec_u32_t rows[VEC_LANES] = {{0}};
    for (int i = 0; i < lines; i++) {
        const int64_t at = (line + i) * op->ld + k;
        rows[i] = (vec_u32_t)(depth == VEC_LANES ? load_as(op->data, dtype, at, VEC_LANES)
                                                 : load_as(op->data, dtype, at, depth));
    }
    pack_transpose(rows, width);
    if (width == pitch)
        memcpy(panel, rows, (size_t)(depth * width) * sizeof *panel);
    else
        for (int i = 0; i < depth; i++)
            memcpy(panel + (int64_t)i * pitch, &rows[i], sizeof *rows);
}

/* Lines lie along the contraction. */
VEC_INLINE void pack_along(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                           float *panel, int width, mpt_dtype_t dtype)
{
    const int step = width < VEC_LANES ? width : VEC_LANES;
    for (int64_t k = 0; k < count; k += VEC_LANES)
        for (int j = 0; j < width; j += step) {
            const int64_t left = op->count - first - j;
            const int lines = left < 0 ? 0 : pack_min(left, step);
            float *to = panel + k * width + j;
            if (lines == step && count - k >= VEC_LANES)
                pack_square(op, first + j, step, k0 + k, VEC_LANES, to, width, step, dtype);
            else
                pack_square(op, first + j, lines, k0 + k, pack_min(count - k, VEC_LANES), to, width,
                            step, dtype);
        }
}

VEC_INLINE void pack_panel(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                           float *panel, int width, mpt_dtype_t dtype)
{
    if (op->k_contiguous)
        pack_along(op, first, k0, count, panel, width, dtype);
    else
        pack_across(op, first, k0, count, panel, width, dtype);
}

VEC_INLINE void pack_any(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                         float *panel, int width)
{
    if (op->dtype == MPT_F32)
        pack_panel(op, first, k0, count, panel, width, MPT_F32);
    else if (op->dtype == MPT_BF16)
        pack_panel(op, first, k0, count, panel, width, MPT_BF16);
    else
        pack_panel(op, first, k0, count, panel, width, MPT_F16);
}

static void pack_a(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel)
{
    pack_any(op, first, k0, count, panel, MR);
}

static void pack_b(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel)
{
    pack_any(op, first, k0, count, panel, NR);
}

static void pack_a_tf32(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel)
{
    pack_panel(op, first, k0, count, panel, MR, MPT_TF32);
}

static void pack_b_tf32(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel)
{
    pack_panel(op, first, k0, count, panel, NR, MPT_TF32);
}

/* Subtracting zero, unlike adding it, leaves every value as it is and costs nothing. */
VEC_INLINE vec_t broadcast(float value)
{
    return value - (vec_t){0};
}

static void multiply(const void *a, const void *b, int64_t steps, float *c, int load,
                     const gemm_aside_t *aside)
{
    const float *pa = a, *pb = b;
    vec_t sum[MR][VECTORS], bj[VECTORS];
    if (steps < 1)
        __builtin_unreachable(); /* else sums would go to the stack and back around the loop */
    gemm_fetch(&aside->fetch);
    if (aside->next_sums)
        vec_fetch(aside->next_sums, MR * NR * (int64_t)sizeof *c);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
        for (int j = 0; j < VECTORS; j++)
            sum[i][j] = load ? vec_load_f32(c + i * NR + j * VEC_LANES, VEC_LANES) : vec_set(0);
    for (int64_t s = 0; s < steps; s++, pa += MR, pb += NR) {
#pragma GCC unroll 3
        for (int j = 0; j < VECTORS; j++)
            bj[j] = vec_load_f32(pb + j * VEC_LANES, VEC_LANES);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) {
            const vec_t ai = broadcast(pa[i]);
#pragma GCC unroll 3
            for (int j = 0; j < VECTORS; j++)
                sum[i][j] = vec_fma(ai, bj[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
        for (int j = 0; j < VECTORS; j++)
            vec_store_f32(c + i * NR + j * VEC_LANES, VEC_LANES, sum[i][j]);
}

static void add_row_sums(const void *a, int64_t steps, float *sums, int rows)
{
    const float *panel = a;
    float total[MR] = {0};
    for (int64_t s = 0; s < steps; s++, panel += MR)
        for (int i = 0; i < MR; i++)
            total[i] += panel[i];
    for (int i = 0; i < rows; i++)
        sums[i] += total[i];
}

const gemm_kernel_t gemm_fma_kernel = {
    .mr = MR,
    .nr = NR,
    .k_step = 1,
    .unit_bytes = 4,
    .kc = KC,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .multiply = multiply,
    .add_row_sums = add_row_sums,
};

const gemm_kernel_t gemm_fma_tf32_kernel = {
    .mr = MR,
    .nr = NR,
    .k_step = 1,
    .unit_bytes = 4,
    .kc = KC,
    .pack_a = pack_a_tf32,
    .pack_b = pack_b_tf32,
    .multiply = multiply,
};
