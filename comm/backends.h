/*
 * The backends' tables, and what they share: copies and sums on the pool, and error lines. Included by
 * comm.c and the backends alone.
 */
#ifndef MPT_BACKENDS_H
#define MPT_BACKENDS_H

#include "comm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_COMM_MAX_RANKS MPT_BOOT_MAX_RANKS
#define MPT_COMM_MAX_TEXT 256   /* of an error, without who and where */

extern const mpt_comm_ops_t mpt_comm_self;
extern const mpt_comm_ops_t mpt_comm_mpi;
extern const mpt_comm_ops_t mpt_comm_shm;
extern const mpt_comm_ops_t mpt_comm_hier;

/* A call that writes as many bytes writes past the caches, which could not keep them: see docs/performance.md. */
#define MPT_COMM_PAST_CACHES ((size_t)8 << 20)

/** Copy to one place or to several, cut over the device's pool where it is large. A dst may be equal to src, must
 *  not otherwise overlap it or another. Complete on return, for others too. */
void mpt_comm_copy(const mpt_comm_t *comm, void *dst, const void *src, size_t bytes);
void mpt_comm_copy_to(const mpt_comm_t *comm, void *const *dsts, int dsts_count, const void *src,
                      size_t bytes);
/** mpt_tree_sum over comm->ranks sources, cut over the device's pool where it is large: elementwise, so the
 *  cut cannot change a bit. */
void mpt_comm_sum(const mpt_comm_t *comm, void *out, mpt_dtype_t out_dtype,
                  const void *const *sources, mpt_dtype_t wire, int64_t count);
/** The same over `sources_count` sources in place of comm->ranks. */
void mpt_comm_sum_of(const mpt_comm_t *comm, int sources_count, void *out, mpt_dtype_t out_dtype,
                     const void *const *sources, mpt_dtype_t wire, int64_t count);
/** The same into several places, each of which may be equal to a source of its type. */
void mpt_comm_sum_to(const mpt_comm_t *comm, void *const *outs, int outs_count,
                     mpt_dtype_t out_dtype, const void *const *sources, int sources_count,
                     mpt_dtype_t wire, int64_t count);

/** Ranks of each host where every host holds the same power of two, 2 or more, of consecutive ranks and there are
 *  two hosts or more; else 0. hosts: [ranks] any number that ranks of one host share. */
int mpt_comm_even_hosts(const int *hosts, int ranks);

/** Who has waited for this share of the timeout polls the parents as well. Not at once: a call that is about to end here need
 *  not fail because a rank that is further on gave up there. */
#define MPT_COMM_PARENTS_AFTER 0.5
/** Poll the parents, whatever their backends, from the nearest on; of a part, those of its whole. @return MPT_OK; MPT_ERR_COMM
 *  (logged; that parent has failed). */
mpt_status_t mpt_comm_poll_parents(mpt_comm_t *comm);

/** Log an error of this communicator, or of the one that it is a part of: "comm shm rank 1 of 4: unit 3 gradients:
 *  all_gather: TEXT". */
void mpt_comm_log_error(const mpt_comm_t *comm, const char *text);
/** The same of an error that another rank has logged, for who wants to see how it spread: at level debug. */
void mpt_comm_log_heard(const mpt_comm_t *comm, const char *text);
/** "rank 2", "ranks 0, 2 and 3", "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 92 more": those whose flag in
 *  `chosen` [ranks] is set, by their numbers in the world. */
void mpt_comm_name_ranks(const mpt_comm_t *comm, const unsigned char *chosen, char *text,
                         size_t bytes);
/** Rank r's number in the communicator that was split first. */
int mpt_comm_world_rank(const mpt_comm_t *comm, int rank);
/** Seconds of a clock that never goes back. */
double mpt_comm_now(void);
/** The smaller one. */
static inline size_t mpt_min_bytes(size_t a, size_t b)
{
    return a < b ? a : b;
}
/** Elements of one rank's slice when an all_reduce of `count` elements becomes a reduce_scatter and an
 *  all_gather: a multiple of 64, so that slices start on cache lines; the last slices may be short or empty. */
static inline int64_t mpt_comm_slice_count(int64_t count, int ranks)
{
    int64_t lines = (count + 63) / 64;
    return (lines + ranks - 1) / ranks * 64;
}
/** How much of `per`-sized slice r lies within `total`. */
static inline int64_t mpt_comm_slice_part(int64_t total, int64_t per, int rank)
{
    int64_t left = total - per * rank;
    return left <= 0 ? 0 : left < per ? left : per;
}

#ifdef __cplusplus
}
#endif
#endif
