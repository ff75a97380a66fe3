#include "mpi_backend.h"

#define PIECE_BYTES                                                                                \
    ((size_t)64 << 20) /* of one message: far below the int that MPI counts with   \
                                        */
#define BROADCAST_BYTES ((size_t)1 << 20) /* pieces that flow down the tree */

/* Exchange pieces with all peers: from send + to * send_stride, into recv + from * bytes. */
static mpt_status_t exchange(mpt_comm_t *comm, const char *send, size_t send_stride, char *recv,
                             size_t bytes)
{
    mpi_t *mpi = comm->impl;
    mpi_batch_t *batch = &mpi->batches[0];
    mpt_status_t status = MPT_OK;
    for (size_t first = 0, part; first < bytes && !status; first += part) {
        part = mpt_min_bytes(PIECE_BYTES, bytes - first);
        for (int k = 1; k < comm->ranks && !status; k++) {
            int from = mpt_mpi_nth_peer(comm, comm->ranks - k);
            status = mpt_mpi_post_recv(comm, batch, recv + (size_t)from * bytes + first, part, from,
                                       MPI_TAG_COLLECTIVE);
        }
        for (int k = 1; k < comm->ranks && !status; k++) {
            int to = mpt_mpi_nth_peer(comm, k);
            status = mpt_mpi_post_send(comm, batch, send + (size_t)to * send_stride + first, part,
                                       to, MPI_TAG_COLLECTIVE);
        }
        status = status ? status : mpt_mpi_finish(comm, batch);
    }
    return status;
}

mpt_status_t mpt_mpi_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream)
{
    (void)stream;
    mpt_comm_copy(comm, (char *)recv + (size_t)comm->rank * bytes, send, bytes);
    return mpt_mpi_end(comm, exchange(comm, send, 0, recv, bytes));
}

mpt_status_t mpt_mpi_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream)
{
    (void)stream;
    size_t own = (size_t)comm->rank * bytes;
    mpt_comm_copy(comm, (char *)recv + own, (const char *)send + own, bytes);
    return mpt_mpi_end(comm, exchange(comm, send, bytes, recv, bytes));
}

/* One piece down a binomial tree: relative rank v gets it from v without its lowest set bit, and
 * passes it on to v + every smaller power of two. */
static mpt_status_t broadcast_piece(mpt_comm_t *comm, char *data, size_t bytes, int root)
{
    mpi_t *mpi = comm->impl;
    mpi_batch_t *batch = &mpi->batches[0];
    int relative = (comm->rank - root + comm->ranks) % comm->ranks;
    int bit = relative ? relative & -relative : 1;
    mpt_status_t status = MPT_OK;
    if (relative) {
        int parent = (relative - bit + root) % comm->ranks;
        status = mpt_mpi_post_recv(comm, batch, data, bytes, parent, MPI_TAG_COLLECTIVE);
        status = status ? status : mpt_mpi_finish(comm, batch);
    } else {
        while (bit < comm->ranks)
            bit *= 2;
    }
    for (bit /= 2; bit > 0 && !status; bit /= 2)
        if (relative + bit < comm->ranks)
            status = mpt_mpi_post_send(comm, batch, data, bytes,
                                       (relative + bit + root) % comm->ranks, MPI_TAG_COLLECTIVE);
    return status ? status : mpt_mpi_finish(comm, batch);
}

mpt_status_t mpt_mpi_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                               mpt_stream_t *stream)
{
    (void)stream;
    mpt_status_t status = MPT_OK;
    for (size_t first = 0, part; first < bytes && !status; first += part) {
        part = mpt_min_bytes(BROADCAST_BYTES, bytes - first);
        status = broadcast_piece(comm, (char *)buffer + first, part, root);
    }
    return mpt_mpi_end(comm, status);
}

mpt_status_t mpt_mpi_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                          mpt_stream_t *stream)
{
    (void)stream;
    mpi_t *mpi = comm->impl;
    mpt_status_t status = MPT_OK;
    for (size_t first = 0, part; first < bytes && !status; first += part) {
        part = mpt_min_bytes(PIECE_BYTES, bytes - first);
        status = mpt_mpi_post_send(comm, &mpi->batches[0], (const char *)buffer + first, part, peer,
                                   MPI_TAG_USER);
        status = status ? status : mpt_mpi_finish(comm, &mpi->batches[0]);
    }
    return mpt_mpi_end(comm, status);
}

mpt_status_t mpt_mpi_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                          mpt_stream_t *stream)
{
    (void)stream;
    mpi_t *mpi = comm->impl;
    mpt_status_t status = MPT_OK;
    for (size_t first = 0, part; first < bytes && !status; first += part) {
        part = mpt_min_bytes(PIECE_BYTES, bytes - first);
        status = mpt_mpi_post_recv(comm, &mpi->batches[0], (char *)buffer + first, part, peer,
                                   MPI_TAG_USER);
        status = status ? status : mpt_mpi_finish(comm, &mpi->batches[0]);
    }
    return mpt_mpi_end(comm, status);
}
