/*
 * The instruction levels that this build holds: one table each, compiled from isa/ with the level's
 * flags. Which exist depends on the architecture alone; which may run is mpt_isa_detect's to say.
 */
#ifndef MPT_CPU_LEVELS_H
#define MPT_CPU_LEVELS_H

#include "kernels.h"

extern const mpt_kernels_ops_t mpt_cpu_level_table_portable;
#ifdef MPT_HAS_LEVEL_AVX2
extern const mpt_kernels_ops_t mpt_cpu_level_table_avx2;
#endif
#ifdef MPT_HAS_LEVEL_AVX512
extern const mpt_kernels_ops_t mpt_cpu_level_table_avx512;
#endif
#ifdef MPT_HAS_LEVEL_AVX512_BF16
extern const mpt_kernels_ops_t mpt_cpu_level_table_avx512_bf16;
#endif
#ifdef MPT_HAS_LEVEL_AMX
extern const mpt_kernels_ops_t mpt_cpu_level_table_amx;
#endif

#endif
