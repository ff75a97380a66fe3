/*
 * Replicas must agree to the bit: what several ranks hold alike (ddp everything, zero1 and zero2 the working weights,
 * hsdp a slice and its optimizer state) is hashed, element by element and independent of any cut, and the hash rides the
 * consensus record. Where hashes differ, a second look, tensor by tensor, says where.
 */
#ifndef MPT_REPLICA_H
#define MPT_REPLICA_H

#include "comm.h"
#include "state.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Ranks r and s hold the same where r % sets == s % sets: 1 in ddp to zero2, shard_ranks in hsdp; `ranks` in zero3: nothing is replicated. */
int mpt_replica_sets(const mpt_layout_t *layout, mpt_shard_t shard);
/** Hash what this rank holds and others hold alike. Local; waits for the stream. *hash_p is never 0; 0 where nothing is replicated. @return MPT_OK; MPT_ERR_DEVICE. */
mpt_status_t mpt_replica_hash(mpt_state_t *state, mpt_kernels_t *kernels, mpt_stream_t *stream, uint64_t *hash_p);

/** Where replicas differ. */
typedef struct mpt_replica_finding {
    int rank;         /* the first rank that differs from most of those that hold the same; -1: none does */
    int ranks;        /* how many do */
    char list[128];   /* their numbers, "1, 5", cut off with ".." */
    int unit, tensor; /* the first that differs */
    const char *what; /* "weights", "masters", "m", "v", "ema" */
} mpt_replica_finding_t;

/** Compare tensor by tensor. Collective over `comm` (all ranks); allocates. The same finding on every rank. @return MPT_OK; MPT_ERR_NO_MEMORY; MPT_ERR_COMM; MPT_ERR_DEVICE. */
mpt_status_t mpt_replica_find(mpt_state_t *state, mpt_kernels_t *kernels, mpt_comm_t *comm, mpt_stream_t *stream,
                              mpt_replica_finding_t *finding_p);

#ifdef __cplusplus
}
#endif
#endif
