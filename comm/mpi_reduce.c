#include "mpi_backend.h"

/* ---- reduce_scatter
 * ------------------------------------------------------------------------------ */

typedef struct reduce_job {
    const char *send;
    char *recv;
    size_t slice; /* bytes of one rank's slice */
    mpt_dtype_t wire, out;
} reduce_job_t;

static char *scratch_block(const mpt_comm_t *comm, int half, int peer)
{
    const mpi_t *mpi = comm->impl;
    return (char *)comm->scratch + ((size_t)half * (size_t)comm->ranks + (size_t)peer) * mpi->block;
}

/* Start the exchange of bytes [first, first + bytes) of every slice. */
static mpt_status_t post_slices(mpt_comm_t *comm, int half, const reduce_job_t *job, size_t first,
                                size_t bytes)
{
    mpi_t *mpi = comm->impl;
    mpi_batch_t *batch = &mpi->batches[half];
    mpt_status_t status = MPT_OK;
    for (int k = 1; k < comm->ranks && !status; k++) {
        int from = mpt_mpi_nth_peer(comm, comm->ranks - k);
        status = mpt_mpi_post_recv(comm, batch, scratch_block(comm, half, from), bytes, from,
                                   MPI_TAG_COLLECTIVE);
    }
    for (int k = 1; k < comm->ranks && !status; k++) {
        int to = mpt_mpi_nth_peer(comm, k);
        status = mpt_mpi_post_send(comm, batch, job->send + (size_t)to * job->slice + first, bytes,
                                   to, MPI_TAG_COLLECTIVE);
    }
    return status;
}

static void sum_slices(mpt_comm_t *comm, int half, const reduce_job_t *job, size_t first,
                       size_t bytes)
{
    mpi_t *mpi = comm->impl;
    size_t wire_bytes = mpt_dtype_bytes(job->wire);
    for (int r = 0; r < comm->ranks; r++)
        mpi->sources[r] = scratch_block(comm, half, r);
    mpi->sources[comm->rank] = job->send + (size_t)comm->rank * job->slice + first;
    mpt_comm_sum(comm, job->recv + first / wire_bytes * mpt_dtype_bytes(job->out), job->out,
                 mpi->sources, job->wire, (int64_t)(bytes / wire_bytes));
}

/* Two chunks are under way at a time: one travels while the other is summed. */
static mpt_status_t reduce_slices(mpt_comm_t *comm, const reduce_job_t *job)
{
    mpi_t *mpi = comm->impl;
    size_t bytes = mpt_min_bytes(mpi->block, job->slice), next_bytes;
    mpt_status_t status = post_slices(comm, 0, job, 0, bytes);
    int half = 0;
    for (size_t first = 0; first < job->slice && !status; first += bytes, bytes = next_bytes) {
        size_t next = first + bytes;
        next_bytes = mpt_min_bytes(mpi->block, job->slice - next);
        if (next_bytes)
            status = post_slices(comm, half ^ 1, job, next, next_bytes);
        status = status ? status : mpt_mpi_finish(comm, &mpi->batches[half]);
        if (!status)
            sum_slices(comm, half, job, first, bytes);
        half ^= 1;
    }
    return status;
}

mpt_status_t mpt_mpi_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                    mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream)
{
    (void)stream;
    reduce_job_t job = {send, recv, (size_t)count * mpt_dtype_bytes(wire), wire, out};
    return mpt_mpi_end(comm, reduce_slices(comm, &job));
}

/* ---- all_reduce
 * ----------------------------------------------------------------------------------- */

/* A vector cut into one slice a rank; the last slices may be short or empty. */
typedef struct vector_job {
    const char *send;
    char *recv;
    int64_t count, per;
    mpt_dtype_t wire;
} vector_job_t;

static size_t slice_offset(const vector_job_t *job, int rank)
{
    return (size_t)(job->per * rank) * mpt_dtype_bytes(job->wire);
}

static size_t slice_bytes(const vector_job_t *job, int rank)
{
    return (size_t)mpt_comm_slice_part(job->count, job->per, rank) * mpt_dtype_bytes(job->wire);
}

/* Collect this rank's slice from all and sum it into recv. The sends have ended when this returns:
 * in place, the sums will come to where they read. */
static mpt_status_t vector_reduce(mpt_comm_t *comm, const vector_job_t *job)
{
    mpi_t *mpi = comm->impl;
    mpi_batch_t *batch = &mpi->batches[0];
    size_t own = slice_bytes(job, comm->rank);
    mpt_status_t status = MPT_OK;
    for (int r = 0; r < comm->ranks; r++)
        mpi->sources[r] = scratch_block(comm, 0, r);
    for (int k = 1; k < comm->ranks && own && !status; k++) {
        int from = mpt_mpi_nth_peer(comm, comm->ranks - k);
        status = mpt_mpi_post_recv(comm, batch, scratch_block(comm, 0, from), own, from,
                                   MPI_TAG_COLLECTIVE);
    }
    for (int k = 1; k < comm->ranks && !status; k++) {
        int to = mpt_mpi_nth_peer(comm, k);
        if (slice_bytes(job, to))
            status = mpt_mpi_post_send(comm, batch, job->send + slice_offset(job, to),
                                       slice_bytes(job, to), to, MPI_TAG_COLLECTIVE);
    }
    status = status ? status : mpt_mpi_finish(comm, batch);
    if (status || !own)
        return status;
    size_t first = slice_offset(job, comm->rank);
    mpi->sources[comm->rank] = job->send + first;
    mpt_comm_sum(comm, job->recv + first, job->wire, mpi->sources, job->wire,
                 mpt_comm_slice_part(job->count, job->per, comm->rank));
    return MPT_OK;
}

static mpt_status_t vector_gather(mpt_comm_t *comm, const vector_job_t *job)
{
    mpi_t *mpi = comm->impl;
    mpi_batch_t *batch = &mpi->batches[0];
    mpt_status_t status = MPT_OK;
    for (int k = 1; k < comm->ranks && !status; k++) {
        int from = mpt_mpi_nth_peer(comm, comm->ranks - k);
        if (slice_bytes(job, from))
            status = mpt_mpi_post_recv(comm, batch, job->recv + slice_offset(job, from),
                                       slice_bytes(job, from), from, MPI_TAG_COLLECTIVE);
    }
    size_t own = slice_bytes(job, comm->rank);
    for (int k = 1; k < comm->ranks && own && !status; k++)
        status = mpt_mpi_post_send(comm, batch, job->recv + slice_offset(job, comm->rank), own,
                                   mpt_mpi_nth_peer(comm, k), MPI_TAG_COLLECTIVE);
    return status ? status : mpt_mpi_finish(comm, batch);
}

mpt_status_t mpt_mpi_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                mpt_dtype_t wire, mpt_stream_t *stream)
{
    (void)stream;
    mpi_t *mpi = comm->impl;
    size_t element = mpt_dtype_bytes(wire);
    int64_t chunk = (int64_t)(mpi->block / element) * comm->ranks;
    mpt_status_t status = MPT_OK;
    for (int64_t first = 0; first < count && !status; first += chunk) {
        int64_t part = count - first < chunk ? count - first : chunk;
        size_t at = (size_t)first * element;
        vector_job_t job = {(const char *)send + at, (char *)recv + at, part,
                            mpt_comm_slice_count(part, comm->ranks), wire};
        status = vector_reduce(comm, &job);
        status = status ? status : vector_gather(comm, &job);
    }
    return mpt_mpi_end(comm, status);
}
