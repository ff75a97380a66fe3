/*
 * Matrix products behind the linear operations: C[i,j] = sum over k of A[i,k] B[k,j], accumulated in
 * FP32, finished (bias, GELU, rounding, or added to what is there) and written once.
 *
 *     round: columns [n0, n0+ns) x contraction [k0, k0+ks): B packed by all threads into shared scratch,
 *            unless it was packed whole before, for many products (gemm_pack)
 *       task: rows mc x columns nc of C, on one thread
 *         strip: nr columns; slice: kc of the contraction. Their panel of B stays near, mostly in the first-level
 *                cache, while the packed rows of A, in the thread's scratch, pass by
 *           tile: mr x nr of C, computed from two panels by a micro-kernel (gemm_kernel.h)
 *
 * What stays in the second-level cache: for a short contraction the task's rows of A, packed whole, with all slices
 * of a strip before the next strip; for a long one the sums of the task's block of C, with all strips of a
 * slice before the next slice.
 *
 * Every element is summed over k in one chain of fixed order, whatever the tasks: results do not depend
 * on the number of threads.
 */
#ifndef MPT_CPU_GEMM_H
#define MPT_CPU_GEMM_H

#include "level.h"
#include "pool.h"

#define gemm_run MPT_LEVEL_NAME(mpt_cpu_gemm_run)
#define gemm_pack MPT_LEVEL_NAME(mpt_cpu_gemm_pack)
#define gemm_packed_bytes MPT_LEVEL_NAME(mpt_cpu_gemm_packed_bytes)
#define gemm_scratch_bytes MPT_LEVEL_NAME(mpt_cpu_gemm_scratch_bytes)

/* A [count, k] or B [k, count], element (line i, index k): at i * ld + k where k_contiguous, else at k * ld + i. */
typedef struct gemm_operand {
    const void *data;
    mpt_dtype_t dtype;
    int64_t count; /* rows of A, columns of B */
    int64_t ld;
    int k_contiguous;
} gemm_operand_t;

typedef enum gemm_finish {
    GEMM_STORE,      /* out = round(c + bias) */
    GEMM_GELU,       /* pre = round(c + bias), out = round(gelu(pre)) */
    GEMM_GELU_SLOPE, /* out = round(c * gelu'(slope_at)) */
    GEMM_ADD         /* out += c, in FP32; once a round */
} gemm_finish_t;

/* What becomes of C. Every matrix is dense, [rows of A, columns of B]. */
typedef struct gemm_output {
    gemm_finish_t finish;
    mpt_dtype_t compute; /* type of bias, pre, slope_at */
    mpt_dtype_t dtype;   /* type of data: compute, or F32 */
    int64_t ld;
    void *data;
    const void *bias;     /* [columns], or NULL */
    void *pre;            /* GEMM_GELU */
    const void *slope_at; /* GEMM_GELU_SLOPE */
} gemm_output_t;

typedef struct gemm {
    mpt_dtype_t math; /* how operands are multiplied: out.compute, or MPT_TF32 with F32 */
    int64_t k;
    gemm_operand_t a, b;
    const void *packed_b; /* b by gemm_pack; NULL: pack it */
    gemm_output_t out;
    float *row_sums; /* [rows of A] += sum over k of A[i,k], or NULL */
} gemm_t;

/**
 * Compute the product on the pool of `k->device`, with k->scratch.
 * @return MPT_OK; MPT_ERR_INVALID_ARG (scratch too small, logged; nothing written).
 */
mpt_status_t gemm_run(mpt_kernels_t *k, const gemm_t *g);

/** Pack `b`, whole, over a contraction of k, for products in `math`. to: gemm_packed_bytes(math, b->count, k), aligned to 64. */
void gemm_pack(mpt_pool_t *pool, mpt_dtype_t math, const gemm_operand_t *b, int64_t k, void *to);

/** Bytes of an n x k operand B by gemm_pack. Pure. */
size_t gemm_packed_bytes(mpt_dtype_t math, int64_t n, int64_t k);

/** Scratch that suffices for every product of at most m x n x k in `math`; `adds`: that finishes with GEMM_ADD. Pure. */
size_t gemm_scratch_bytes(mpt_dtype_t math, int threads, int64_t m, int64_t n, int64_t k,
                          int adds);

#endif
