/*
 * The bare loops behind mpt_peak_flops, one for each instruction level: a block of sums in registers,
 * operands loaded anew from the first-level cache for every product, nothing else.
 */
#ifndef MPT_CPU_PEAK_LEVEL_H
#define MPT_CPU_PEAK_LEVEL_H

#include "kernels.h"

/**
 * Do `rounds` rounds of products in `compute` with the level's best instruction for it. Reads and writes only its own stack.
 * @return the floating-point operations done (a multiply-add is two); those of the FP16 numbers where they
 * run as three BF16 products.
 */
typedef double (*mpt_peak_loop_t)(mpt_dtype_t compute, int64_t rounds);

double mpt_cpu_peak_loop_portable(mpt_dtype_t compute, int64_t rounds);
#ifdef MPT_HAS_LEVEL_AVX2
double mpt_cpu_peak_loop_avx2(mpt_dtype_t compute, int64_t rounds);
#endif
#ifdef MPT_HAS_LEVEL_AVX512
double mpt_cpu_peak_loop_avx512(mpt_dtype_t compute, int64_t rounds);
#endif
#ifdef MPT_HAS_LEVEL_AVX512_BF16
double mpt_cpu_peak_loop_avx512_bf16(mpt_dtype_t compute, int64_t rounds);
#endif
#ifdef MPT_HAS_LEVEL_AMX
double mpt_cpu_peak_loop_amx(mpt_dtype_t compute, int64_t rounds);
#endif

#endif
