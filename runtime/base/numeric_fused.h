/*
 * Sums of two to eight sources in registers: every source is read once, widened, added, rounded and stored without a
 * pass through memory between, which two ranks at the speed of memory leave no time for. Internal to numeric_level.c, which
 * says for each instruction set what a vector is. The same tree and the same roundings as the blocks there, so
 * the same bits. Pure.
 */
#ifndef MPT_NUMERIC_FUSED_H
#define MPT_NUMERIC_FUSED_H

#include <string.h>
#include "numeric_scalar.h"
#include "past_caches.h"

#define FUSED_RANKS 8

/* Elements [first, first + count) of 2 to FUSED_RANKS sources to each of `outs`. */
typedef struct fused_job {
    void *const *outs;
    int outs_count, ranks;
    mpt_dtype_t out, wire;
    const void *const *sources;
    int64_t first, count;
    int past_caches; /* in whole lines, of which each out has one at `first`; else there is one out */
} fused_job_t;

/* Ask for the lines of elements [i, i + count). */
MPT_INLINE void fused_ask(const char *array, mpt_dtype_t dtype, int64_t i, int64_t count)
{
    size_t bytes = (size_t)count * mpt_dtype_bytes(dtype);
    for (size_t at = 0; at < bytes; at += MPT_LINE_BYTES)
        __builtin_prefetch(array + (size_t)i * mpt_dtype_bytes(dtype) + at);
}

/*
 * For `level`, whose vector type is `vec` of `lanes` floats, in any order that its loads and stores agree on, with
 *     vec load_level(const void *array, mpt_dtype_t dtype, int64_t i), of the wire types that it is used for,
 *     void store_level(void *array, mpt_dtype_t dtype, int64_t i, vec),
 * vec add_level(vec, vec) and settle_level(vec), which makes every NaN F32_QUIET_NAN:
 *
 * int64_t fused_sum_level(job, wire, out) sums the whole vectors of a job, or its whole lines, and returns how many elements those
 * are: what is left is for the blocks. Inline, for types that are constants; the number of ranks is one where it is two, else its
 * branches go the same way in all of a loop.
 *
 * A line that goes past the caches is made and stored before the next: with blocks of lines the processor stops reading while it
 * stores. `ahead` is how many bytes before they are read lines are asked for, 0 where the processor's own requests do.
 */
#define DEFINE_FUSED_SUM(level, attributes, vec, lanes, ahead)                                               \
    /* One to four neighbours: a, a + b, (a + b) + c or (a + b) + (c + d). */                                \
    attributes MPT_INLINE vec four_##level(const void *const *sources, int ranks, mpt_dtype_t wire, int64_t i) \
    {                                                                                                        \
        vec left = load_##level(sources[0], wire, i);                                                        \
        if (ranks > 1)                                                                                       \
            left = add_##level(left, load_##level(sources[1], wire, i));                                     \
        if (ranks < 3)                                                                                       \
            return left;                                                                                     \
        vec right = load_##level(sources[2], wire, i);                                                       \
        if (ranks > 3)                                                                                       \
            right = add_##level(right, load_##level(sources[3], wire, i));                                   \
        return add_##level(left, right);                                                                     \
    }                                                                                                        \
                                                                                                             \
    attributes MPT_INLINE vec tree_##level(const void *const *sources, int ranks, mpt_dtype_t wire, int64_t i) \
    {                                                                                                        \
        vec sum = four_##level(sources, ranks < 4 ? ranks : 4, wire, i);                                     \
        if (ranks > 4)                                                                                       \
            sum = add_##level(sum, four_##level(sources + 4, ranks - 4, wire, i));                           \
        return settle_##level(sum);                                                                          \
    }                                                                                                        \
                                                                                                             \
    attributes MPT_INLINE int64_t fused_vectors_##level(const fused_job_t *job, const void *const *sources,  \
                                                        int ranks, mpt_dtype_t wire, mpt_dtype_t out)        \
    {                                                                                                        \
        int64_t end = job->first + job->count - job->count % (lanes);                                        \
        void *to = job->outs[0];                                                                             \
        for (int64_t i = job->first; i < end; i += (lanes))                                                  \
            store_##level(to, out, i, tree_##level(sources, ranks, wire, i));                                \
        return end - job->first;                                                                             \
    }                                                                                                        \
                                                                                                             \
    attributes MPT_INLINE int64_t fused_lines_##level(const fused_job_t *job, const void *const *sources,    \
                                                      int ranks, mpt_dtype_t wire, mpt_dtype_t out)          \
    {                                                                                                        \
        int64_t per = (int64_t)(MPT_LINE_BYTES / mpt_dtype_bytes(out));                                      \
        int64_t end = job->first + job->count - job->count % per;                                            \
        for (int64_t i = job->first; i < end; i += per) {                                                    \
            _Alignas(64) char line[MPT_LINE_BYTES];                                                          \
            for (int r = 0; (ahead) && r < ranks; r++)                                                       \
                fused_ask((const char *)sources[r] + (ahead), wire, i, per);                                 \
            for (int64_t k = 0; k < per; k += (lanes))                                                       \
                store_##level(line, out, k, tree_##level(sources, ranks, wire, i + k));                      \
            for (int o = 0; o < job->outs_count; o++)                                                        \
                mpt_line_past_caches((char *)job->outs[o] + (size_t)i * mpt_dtype_bytes(out), line);         \
        }                                                                                                    \
        return end - job->first;                                                                             \
    }                                                                                                        \
                                                                                                             \
    attributes MPT_INLINE int64_t fused_sum_##level(const fused_job_t *job, mpt_dtype_t wire, mpt_dtype_t out) \
    {                                                                                                        \
        const void *from[FUSED_RANKS]; /* which no store can change */                                       \
        memcpy(from, job->sources, (size_t)job->ranks * sizeof *from);                                       \
        if (job->past_caches)                                                                                \
            return job->ranks == 2 ? fused_lines_##level(job, from, 2, wire, out)                            \
                                   : fused_lines_##level(job, from, job->ranks, wire, out);                  \
        return job->ranks == 2 ? fused_vectors_##level(job, from, 2, wire, out)                              \
                               : fused_vectors_##level(job, from, job->ranks, wire, out);                    \
    }

/* int64_t fused_level(job), of any types: BF16 by fused_sum_bf16_level, the others by fused_sum_level. */
#define DEFINE_FUSED(level, attributes, bf16_level)                                                          \
    attributes static int64_t fused_##level(const fused_job_t *job)                                          \
    {                                                                                                        \
        if (job->wire == MPT_BF16)                                                                           \
            return job->out == MPT_F32 ? fused_sum_##bf16_level(job, MPT_BF16, MPT_F32)                      \
                                       : fused_sum_##bf16_level(job, MPT_BF16, MPT_BF16);                    \
        if (job->wire == MPT_F16)                                                                            \
            return job->out == MPT_F32 ? fused_sum_##level(job, MPT_F16, MPT_F32)                            \
                                       : fused_sum_##level(job, MPT_F16, MPT_F16);                           \
        if (job->out == MPT_F32)                                                                             \
            return fused_sum_##level(job, MPT_F32, MPT_F32);                                                 \
        return job->out == MPT_BF16 ? fused_sum_##level(job, MPT_F32, MPT_BF16)                              \
                                    : fused_sum_##level(job, MPT_F32, MPT_F16);                              \
    }

#endif
