/*
 * Inside the hier backend: ranks on several hosts, every host holding the same power of two, L, of consecutive ranks. Rank
 * r = host * L + lane. Two inner communicators do the work and share this one's name in messages:
 *
 *             lane 0   lane 1  ...              local   shm over a row
 *   host 0    0        1                        world   mpi over all ranks; within a collective a rank
 *   host 1    L        L + 1                            talks to its column, the counterparts
 *
 * A sum is taken in the row first, in FP32, then in the column, and rounded once: since rows are aligned powers of two,
 * that is the tree over all ranks, cut between its levels. A byte crosses between two hosts once.
 *
 *   reduce_scatter   row: lane l sums the blocks l, L + l, 2L + l ... of its host; column: exchange and sum
 *   all_gather       column: blocks of the lane; row: the lanes' blocks of every host
 *   broadcast        a tree down the root's column, a piece at a time; row: from that lane
 *
 * Who gives up tells every rank over `world` and its row over `local`. A wait in one looks after the other as well
 * (`idle`): alarms and deaths are seen wherever a rank waits, and MPI's messages move on while it waits for its row.
 *
 * Patience: who waits for a silent rank itself shall say so before those who wait for that one. A rank waits one
 * timeout for its row, two for another host, three for a row's peer that waits for another host (SHM_ACROSS). So one rank
 * logs the error: a row claims the line together, as shm does, and the others hear of it before their own time is up.
 */
#ifndef MPT_COMM_HIER_H
#define MPT_COMM_HIER_H

#include "mpi_backend.h"
#include "shm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HIER_WORLD_PATIENCE 2 /* timeouts */

typedef struct hier {
    mpt_comm_t world, local;
    mpt_boot_t boot; /* of local; its exchange goes over world */
    int has_local;   /* local is there: until then failures are seen over world alone */
    int local_ranks, hosts;
    int host, lane; /* this rank's */
    int *numbers;   /* [local_ranks] world ranks of the row, for messages */
    const void **sources; /* [hosts] of a sum */
    size_t block;         /* bytes of scratch for one host's part of a chunk */
} hier_t;

/** Blocks to swap with one rank on each of several, or with each of several on one host. */
typedef struct hier_swap {
    const char *send; /* the i-th peer gets send + i * send_stride */
    char *recv;       /* and fills recv + i * recv_stride */
    size_t send_stride, recv_stride, bytes;
} hier_swap_t;

/* ---- hier.c -------------------------------------------------------------------------------------- */

/** A call begins: set patience, see whether a rank gave up. @return MPT_OK; MPT_ERR_COMM (logged). */
mpt_status_t mpt_hier_begin(mpt_comm_t *comm);
/** Pass `status` on; after a failure take back messages and tell every rank. Last act of every call. */
mpt_status_t mpt_hier_end(mpt_comm_t *comm, mpt_status_t status);

/* ---- hier_collective.c --------------------------------------------------------------------------- */

/** Swap with the ranks of this host; peer i is lane i. @return MPT_OK; MPT_ERR_COMM (logged). */
mpt_status_t mpt_hier_swap_row(mpt_comm_t *comm, const hier_swap_t *swap);
mpt_status_t mpt_hier_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                     mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream);
mpt_status_t mpt_hier_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                 mpt_dtype_t wire, mpt_stream_t *stream);
mpt_status_t mpt_hier_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream);
mpt_status_t mpt_hier_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream);
mpt_status_t mpt_hier_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                                mpt_stream_t *stream);
mpt_status_t mpt_hier_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream);
mpt_status_t mpt_hier_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream);

#ifdef __cplusplus
}
#endif
#endif
