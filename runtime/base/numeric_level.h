/*
 * The loops behind mpt_convert and mpt_tree_sum, compiled once for each instruction set. Internal
 * to numeric.c, and to the tests that hold every level against the same oracle. All levels give the
 * same bits: they are one source, of integer operations and single IEEE additions. Pure.
 */
#ifndef MPT_NUMERIC_LEVEL_H
#define MPT_NUMERIC_LEVEL_H

#include "numeric.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What a caller of mpt_tree_sum has to see to. */
static inline int mpt_sum_is_defined(int ranks, mpt_dtype_t wire, mpt_dtype_t out_dtype)
{
    return ranks >= 1 && ranks <= MPT_SUM_MAX_RANKS && wire != MPT_F64 &&
           (out_dtype == wire || out_dtype == MPT_F32 || wire == MPT_F32);
}

typedef struct mpt_numeric_level {
    const char *name; /* "avx512", "avx2", "portable" */
    /* As mpt_convert and mpt_tree_sum, which call the fastest level. */
    void (*convert)(void *dst, mpt_dtype_t dst_dtype, const void *src, mpt_dtype_t src_dtype,
                    int64_t count);
    void (*tree_sum)(void *out, mpt_dtype_t out_dtype, const void *const *sources, int ranks,
                     mpt_dtype_t wire, int64_t count);
    /* The whole lines of mpt_tree_sum_past_caches, of `outs` that each have a line at element `first`. Returns how many
     * elements those are; 0 where the level has no loop for so many ranks. */
    int64_t (*sum_lines)(void *const *outs, int outs_count, mpt_dtype_t out_dtype, const void *const *sources,
                         int ranks, mpt_dtype_t wire, int64_t first, int64_t count);
} mpt_numeric_level_t;

/** The levels that this processor runs, fastest first: level 0 always exists, the last is
 * "portable". NULL for an `index` past it. Cheap enough to ask on every call. */
const mpt_numeric_level_t *mpt_numeric_level(int index);

#ifdef __cplusplus
}
#endif
#endif
