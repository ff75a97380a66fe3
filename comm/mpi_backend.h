/*
 * Inside the mpi backend. Collectives are built on nonblocking point-to-point messages alone: one progress loop serves
 * all of them, which sees a timeout and a peer's alarm, and knows whose message is missing. A reduction is an
 * all-to-all of slices and a local tree sum, in chunks, so that its bits are the tree's and its scratch is
 * bounded. One thread makes every call.
 */
#ifndef MPT_COMM_MPI_H
#define MPT_COMM_MPI_H

#include <mpi.h>
#include "backends.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPI_TAG_COLLECTIVE 1
#define MPI_TAG_USER 2

/* Messages under way together. The arrays hold 2 * ranks. */
typedef struct mpi_batch {
    MPI_Request *requests;
    int *peers;      /* whom each is with */
    size_t *awaited; /* bytes that a receive must bring; 0: a send */
    int count;
} mpi_batch_t;

typedef struct mpi {
    MPI_Comm data;
    MPI_Comm alarm; /* only for news of a rank that gave up */
    size_t block;   /* bytes of scratch for one peer's part of a chunk */
    mpi_batch_t batches[2];
    int *indices;           /* [2 * ranks] of completed requests */
    MPI_Status *statuses;   /* [2 * ranks] theirs */
    MPI_Request *alarms;    /* [ranks] our own alarm on its way */
    const void **sources;   /* [ranks] of a sum */
    unsigned char *missing; /* [ranks] */
    int gave_up;
    char reason[MPT_COMM_MAX_TEXT]; /* why we gave up; sent with our alarm, so it has to stay */
} mpi_t;

/* ---- mpi_wait.c ----------------------------------------------------------------------------------- */

/** Start a message of at most INT_MAX bytes and note it in a batch. @return MPT_OK; MPT_ERR_COMM (logged). */
mpt_status_t mpt_mpi_post_send(mpt_comm_t *comm, mpi_batch_t *batch, const void *data, size_t bytes,
                               int peer, int tag);
mpt_status_t mpt_mpi_post_recv(mpt_comm_t *comm, mpi_batch_t *batch, void *data, size_t bytes,
                               int peer, int tag);
/** Wait for all of a batch and empty it. @return MPT_OK; MPT_ERR_COMM (logged): timeout, alarm, MPI's error. */
mpt_status_t mpt_mpi_finish(mpt_comm_t *comm, mpi_batch_t *batch);
/** Pass `status` on; after a failure take back the messages under way. Last act of every call. */
mpt_status_t mpt_mpi_end(mpt_comm_t *comm, mpt_status_t status);
/** MPT_ERR_COMM (logged once) where a peer gave up. */
mpt_status_t mpt_mpi_check_alarm(mpt_comm_t *comm);
/** Tell all peers to give up. */
void mpt_mpi_raise_alarms(mpt_comm_t *comm, const char *reason);

/* ---- mpi_reduce.c, mpi_copy.c ----------------------------------------------------------------------- */

mpt_status_t mpt_mpi_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                    mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream);
mpt_status_t mpt_mpi_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                mpt_dtype_t wire, mpt_stream_t *stream);
mpt_status_t mpt_mpi_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream);
mpt_status_t mpt_mpi_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream);
mpt_status_t mpt_mpi_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                               mpt_stream_t *stream);
mpt_status_t mpt_mpi_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                          mpt_stream_t *stream);
mpt_status_t mpt_mpi_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                          mpt_stream_t *stream);
/** The k-th peer to talk to: each rank starts with its neighbour, so that not all send to one. */
static inline int mpt_mpi_nth_peer(const mpt_comm_t *comm, int k)
{
    return (comm->rank + k) % comm->ranks;
}

#ifdef __cplusplus
}
#endif
#endif
