#include "soft_levels.h"

#if defined(MPT_SOFT_LEVELS)

mpt_isa_t __real_mpt_isa_detect(void);

/* A level's own code is the `real` one; what the program calls is the wrapped one. */
#define LEVEL(name)                                                                                                    \
    extern const mpt_kernels_ops_t __real_mpt_cpu_level_table_##name, mpt_cpu_level_table_##name##_soft;               \
    mpt_kernels_ops_t __wrap_mpt_cpu_level_table_##name;                                                               \
    double __real_mpt_cpu_peak_loop_##name(mpt_dtype_t compute, int64_t rounds);                                       \
    double mpt_cpu_peak_loop_##name##_soft(mpt_dtype_t compute, int64_t rounds);                                       \
    double __wrap_mpt_cpu_peak_loop_##name(mpt_dtype_t compute, int64_t rounds);

LEVEL(avx512)
LEVEL(avx512_bf16)
LEVEL(amx)

mpt_isa_t soft_levels_first(void)
{
    const mpt_isa_t detected = __real_mpt_isa_detect();
    if (detected < MPT_ISA_AVX2 || detected >= MPT_ISA_AVX512_BF16)
        return MPT_ISA_COUNT;
    return detected + 1;
}

#define CHOOSE(name, level, first)                                                                                     \
    __wrap_mpt_cpu_level_table_##name =                                                                                \
        (level) < (first) ? __real_mpt_cpu_level_table_##name : mpt_cpu_level_table_##name##_soft

__attribute__((constructor)) static void choose(void)
{
    const mpt_isa_t first = soft_levels_first();
    CHOOSE(avx512, MPT_ISA_AVX512, first);
    CHOOSE(avx512_bf16, MPT_ISA_AVX512_BF16, first);
    CHOOSE(amx, MPT_ISA_AMX, first);
}

#define PEAK(name, level)                                                                                              \
    double __wrap_mpt_cpu_peak_loop_##name(mpt_dtype_t compute, int64_t rounds)                                        \
    {                                                                                                                  \
        return (level) < soft_levels_first() ? __real_mpt_cpu_peak_loop_##name(compute, rounds)                        \
                                             : mpt_cpu_peak_loop_##name##_soft(compute, rounds);                       \
    }

PEAK(avx512, MPT_ISA_AVX512)
PEAK(avx512_bf16, MPT_ISA_AVX512_BF16)
PEAK(amx, MPT_ISA_AMX)

#else

mpt_isa_t soft_levels_first(void)
{
    return MPT_ISA_COUNT;
}

#endif
