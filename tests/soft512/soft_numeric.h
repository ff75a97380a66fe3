/*
 * The levels of numeric_level.h, and before them avx512 in software where the processor has AVX2 but no AVX-512. Its
 * intrinsics are soft512.h's; what compilers make vectors of by themselves is compiled for AVX2.
 */
#ifndef SOFT_NUMERIC_H
#define SOFT_NUMERIC_H

#include <string.h>
#include "numeric_level.h"

#if defined(MPT_SOFT_NUMERIC)
/** All levels, from avx512 on, whatever the processor has. */
const mpt_numeric_level_t *soft_numeric_level(int index);

static inline int soft_numeric_is_used(void)
{
    return !strcmp(mpt_numeric_level(0)->name, "avx2");
}
#else
static inline const mpt_numeric_level_t *soft_numeric_level(int index)
{
    return mpt_numeric_level(index);
}

static inline int soft_numeric_is_used(void)
{
    return 0;
}
#endif

/** As mpt_numeric_level. */
static inline const mpt_numeric_level_t *numeric_level(int index)
{
    if (!soft_numeric_is_used())
        return mpt_numeric_level(index);
    return index == 0 ? soft_numeric_level(0) : mpt_numeric_level(index - 1);
}

#endif
