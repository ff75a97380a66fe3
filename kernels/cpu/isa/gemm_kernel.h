/*
 * A micro-kernel and its packed formats. A panel holds mr lines of A (or nr of B) over a range of the
 * contraction, k_step indices at a time: unit_bytes for each line and step, zeros past the operand's
 * edges. How a step lies inside the panel is the kernel's own business. Pure functions on memory that
 * the caller owns; panels are aligned to 64 bytes.
 */
#ifndef MPT_CPU_GEMM_KERNEL_H
#define MPT_CPU_GEMM_KERNEL_H

#include "gemm_finish.h"
#include "gemm_store.h"

#define gemm_fma_kernel MPT_LEVEL_NAME(mpt_cpu_gemm_fma_kernel)
#define gemm_fma_tf32_kernel MPT_LEVEL_NAME(mpt_cpu_gemm_fma_tf32_kernel)
#define gemm_dot_kernel MPT_LEVEL_NAME(mpt_cpu_gemm_dot_kernel)
#define gemm_tile_bf16_kernel MPT_LEVEL_NAME(mpt_cpu_gemm_tile_bf16_kernel)
#define gemm_tile_f16_kernel MPT_LEVEL_NAME(mpt_cpu_gemm_tile_f16_kernel)
#define gemm_tile_tf32_kernel MPT_LEVEL_NAME(mpt_cpu_gemm_tile_tf32_kernel)

/* Pack `count` indices of the contraction from k0 on, of the lines from `first` on. */
typedef void (*gemm_pack_t)(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count,
                            void *panel);

/* c[mr][nr] = (load ? c : 0) + the product of two panels over `steps` steps. */
typedef void (*gemm_multiply_t)(const void *a, const void *b, int64_t steps, float *c, int load,
                                const gemm_aside_t *aside);

typedef struct gemm_kernel {
    int mr, nr;
    int k_step, unit_bytes;
    int64_t kc; /* longest slice: a panel of B over it stays near: in the first-level cache, or mostly */
    gemm_pack_t pack_a, pack_b;
    gemm_multiply_t multiply; /* stores no rows */
    /* The same, storing rows of an earlier tile meanwhile, by variant of the output. NULL: none. */
    const gemm_multiply_t *multiply_storing;
    /* sums[i] += the sum of row i of a packed panel of A, for i < rows. NULL: packing rounds, add up what was packed. */
    void (*add_row_sums)(const void *a, int64_t steps, float *sums, int rows);
    void (*begin)(void); /* around a task, on its thread; NULL: nothing to do */
    void (*end)(void);
} gemm_kernel_t;

extern const gemm_kernel_t gemm_fma_kernel;       /* any type, widened to FP32; every level */
extern const gemm_kernel_t gemm_fma_tf32_kernel;  /* FP32 rounded to TF32 while packing; every level */
extern const gemm_kernel_t gemm_dot_kernel;       /* BF16; avx512_bf16 */
extern const gemm_kernel_t gemm_tile_bf16_kernel; /* BF16; amx */
extern const gemm_kernel_t gemm_tile_f16_kernel;  /* F16 as two BF16 terms; amx */
extern const gemm_kernel_t gemm_tile_tf32_kernel; /* FP32 rounded to TF32, as two BF16 terms; amx */

/** The kernel for products in `math` at this level. */
static inline const gemm_kernel_t *gemm_kernel_for(mpt_dtype_t math)
{
#if defined(MPT_LEVEL_AMX)
    if (math == MPT_F16)
        return &gemm_tile_f16_kernel;
    if (math == MPT_BF16)
        return &gemm_tile_bf16_kernel;
    if (math == MPT_TF32)
        return &gemm_tile_tf32_kernel;
#elif defined(MPT_LEVEL_AVX512_BF16)
    if (math == MPT_BF16)
        return &gemm_dot_kernel;
#endif
    return math == MPT_TF32 ? &gemm_fma_tf32_kernel : &gemm_fma_kernel;
}

#endif
