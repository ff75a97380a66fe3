/*
 * Collectives over shared memory. What fits a slot goes there (shm_small.c). Else each begins with a meeting in which every
 * rank says what it calls and where its buffers lie. Where all that are to be read and written lie in registered
 * memory, the ranks do so in place ("direct") and meet once more before they return: each has a share of the result,
 * reads what that is made of once, and writes it to all who want it. Otherwise the data goes
 * through the staging halves, a chunk at a time ("staged"): fill own half, meet, read the others'
 * halves. The next chunk uses the other half, so that one meeting a chunk is enough: a half is
 * filled again only after a meeting that every reader reached after reading it.
 */
#include "shm.h"

/* Of an all_reduce, above which two meetings cost less than that every rank sums all: with more ranks they cost more. */
#define SMALL_REDUCE_BYTES(ranks) ((size_t)128 * (size_t)(ranks) * (size_t)(ranks))


/* ---- what the collectives share ----------------------------------------------------------------
 */

/* Fill shm->sends, and say whether every rank's send buffer can be read. Every rank finds the same.
 */
static int find_sends(const mpt_comm_t *comm)
{
    const shm_t *shm = comm->impl;
    int all = 1;
    for (int r = 0; r < comm->ranks; r++)
        all &= (shm->sends[r] = mpt_shm_address(shm, r, mpt_shm_call(comm, r)->send)) != NULL;
    return all;
}

static int find_recvs(const mpt_comm_t *comm)
{
    const shm_t *shm = comm->impl;
    int all = 1;
    for (int r = 0; r < comm->ranks; r++)
        all &= (shm->recvs[r] = mpt_shm_address(shm, r, mpt_shm_call(comm, r)->recv)) != NULL;
    return all;
}

/* Bytes of one of `ranks` blocks that share a half: a multiple of 64, so of every element too. */
static size_t block_bytes(const mpt_comm_t *comm)
{
    return SHM_HALF_BYTES / (size_t)comm->ranks / SHM_LINE * SHM_LINE;
}

/* ---- reduce_scatter
 * ------------------------------------------------------------------------------ */

typedef struct reduce_job {
    const char *send;
    char *recv;
    size_t slice;  /* bytes of one rank's slice of send */
    size_t stride; /* from one slice to the next */
    mpt_dtype_t wire, out;
} reduce_job_t;

static mpt_status_t reduce_scatter_direct(mpt_comm_t *comm, const reduce_job_t *job)
{
    const shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++)
        shm->sources[r] = (const char *)shm->sends[r] + (size_t)comm->rank * job->stride;
    mpt_comm_sum(comm, job->recv, job->out, shm->sources, job->wire,
                 (int64_t)(job->slice / mpt_dtype_bytes(job->wire)));
    return mpt_shm_barrier(comm);
}

/* Show each peer `bytes` bytes of its block, starting at `first` within it. */
static void fill_blocks(const mpt_comm_t *comm, int half, const char *send, size_t stride,
                        size_t first, size_t bytes)
{
    char *stage = mpt_shm_stage(comm, comm->rank, half);
    for (int r = 0; r < comm->ranks; r++)
        if (r != comm->rank)
            mpt_comm_copy(comm, stage + (size_t)r * block_bytes(comm),
                          send + (size_t)r * stride + first, bytes);
}

static const char *block_for_us(const mpt_comm_t *comm, int peer, int half)
{
    return mpt_shm_stage(comm, peer, half) + (size_t)comm->rank * block_bytes(comm);
}

static mpt_status_t reduce_scatter_staged(mpt_comm_t *comm, const reduce_job_t *job)
{
    const shm_t *shm = comm->impl;
    size_t bytes, wire_bytes = mpt_dtype_bytes(job->wire), out_bytes = mpt_dtype_bytes(job->out);
    int half = 0;
    for (size_t first = 0; first < job->slice; first += bytes, half ^= 1) {
        bytes = mpt_min_bytes(block_bytes(comm), job->slice - first);
        fill_blocks(comm, half, job->send, job->stride, first, bytes);
        mpt_status_t status = mpt_shm_barrier(comm);
        if (status)
            return status;
        for (int r = 0; r < comm->ranks; r++)
            shm->sources[r] = block_for_us(comm, r, half);
        shm->sources[comm->rank] = job->send + (size_t)comm->rank * job->stride + first;
        mpt_comm_sum(comm, job->recv + first / wire_bytes * out_bytes, job->out, shm->sources,
                     job->wire, (int64_t)(bytes / wire_bytes));
    }
    return MPT_OK;
}

mpt_status_t mpt_shm_reduce_strided(mpt_comm_t *comm, const void *send, size_t stride, void *recv,
                                    int64_t count, mpt_dtype_t wire, mpt_dtype_t out)
{
    reduce_job_t job = {send, recv, (size_t)count * mpt_dtype_bytes(wire), stride, wire, out};
    size_t reach = (size_t)(comm->ranks - 1) * stride + job.slice;
    shm_call_t call = {.op = SHM_REDUCE_SCATTER,
                       .wire = wire,
                       .out = out,
                       .bytes = job.slice,
                       .send = mpt_shm_find(comm, send, reach)};
    if (mpt_shm_is_small(comm, (size_t)comm->ranks * job.slice))
        return mpt_shm_reduce_small(comm, &call, send, stride, recv);
    mpt_status_t status = mpt_shm_begin(comm, &call);
    if (!status)
        status = find_sends(comm) ? reduce_scatter_direct(comm, &job)
                                  : reduce_scatter_staged(comm, &job);
    return mpt_shm_end(comm, status);
}

mpt_status_t mpt_shm_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                    mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream)
{
    (void)stream;
    size_t slice = (size_t)count * mpt_dtype_bytes(wire);
    return mpt_shm_reduce_strided(comm, send, slice, recv, count, wire, out);
}

/* ---- all_gather
 * ------------------------------------------------------------------------------------ */

/* Receive buffers are all that counts: each rank reads its own part and writes it everywhere. */
static mpt_status_t all_gather_direct(mpt_comm_t *comm, const char *send, size_t bytes)
{
    const shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++)
        shm->recvs[r] = (char *)shm->recvs[r] + (size_t)comm->rank * bytes;
    mpt_comm_copy_to(comm, shm->recvs, comm->ranks, send, bytes);
    return mpt_shm_barrier(comm);
}

static mpt_status_t all_gather_staged(mpt_comm_t *comm, const char *send, char *recv, size_t bytes)
{
    int half = 0;
    size_t part;
    for (size_t first = 0; first < bytes; first += part, half ^= 1) {
        part = mpt_min_bytes(SHM_HALF_BYTES, bytes - first);
        mpt_comm_copy(comm, mpt_shm_stage(comm, comm->rank, half), send + first, part);
        mpt_status_t status = mpt_shm_barrier(comm);
        if (status)
            return status;
        for (int k = 1; k < comm->ranks; k++) {
            int r = (comm->rank + k) % comm->ranks;
            mpt_comm_copy(comm, recv + (size_t)r * bytes + first, mpt_shm_stage(comm, r, half),
                          part);
        }
    }
    mpt_comm_copy(comm, recv + (size_t)comm->rank * bytes, send, bytes);
    return MPT_OK;
}

mpt_status_t mpt_shm_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream)
{
    (void)stream;
    shm_call_t call = {.op = SHM_ALL_GATHER,
                       .bytes = bytes,
                       .recv = mpt_shm_find(comm, recv, (size_t)comm->ranks * bytes)};
    if (mpt_shm_is_small(comm, bytes))
        return mpt_shm_gather_small(comm, &call, send, recv);
    mpt_status_t status = mpt_shm_begin(comm, &call);
    if (!status)
        status = find_recvs(comm) ? all_gather_direct(comm, send, bytes)
                                  : all_gather_staged(comm, send, recv, bytes);
    return mpt_shm_end(comm, status);
}

/* ---- all_reduce
 * ------------------------------------------------------------------------------------ */

/* Each rank sums its share and writes it to everyone's result. In place nobody else reads that share. */
static mpt_status_t all_reduce_direct(mpt_comm_t *comm, int64_t count, mpt_dtype_t wire)
{
    const shm_t *shm = comm->impl;
    int64_t per = mpt_comm_slice_count(count, comm->ranks);
    int64_t mine = mpt_comm_slice_part(count, per, comm->rank);
    size_t first = mine ? (size_t)(per * comm->rank) * mpt_dtype_bytes(wire) : 0;
    for (int r = 0; r < comm->ranks; r++) {
        shm->sources[r] = (const char *)shm->sends[r] + first;
        shm->recvs[r] = (char *)shm->recvs[r] + first;
    }
    mpt_comm_sum_to(comm, shm->recvs, comm->ranks, wire, shm->sources, comm->ranks, wire, mine);
    return mpt_shm_barrier(comm);
}

/* One chunk that fits a half: half 0 shows the contributions, half 1 the sums. Two meetings, so
 * that both may be filled again for the next chunk at once. */
static mpt_status_t all_reduce_chunk(mpt_comm_t *comm, const char *send, char *recv, int64_t count,
                                     mpt_dtype_t wire)
{
    const shm_t *shm = comm->impl;
    size_t element = mpt_dtype_bytes(wire);
    int64_t per = mpt_comm_slice_count(count, comm->ranks);
    int64_t mine = mpt_comm_slice_part(count, per, comm->rank);
    mpt_comm_copy(comm, mpt_shm_stage(comm, comm->rank, 0), send, (size_t)count * element);
    mpt_status_t status = mpt_shm_barrier(comm);
    if (status)
        return status;
    for (int r = 0; r < comm->ranks; r++)
        shm->sources[r] =
            mpt_shm_stage(comm, r, 0) + (mine ? (size_t)(per * comm->rank) * element : 0);
    if (mine)
        mpt_comm_sum(comm, mpt_shm_stage(comm, comm->rank, 1), wire, shm->sources, wire, mine);
    status = mpt_shm_barrier(comm);
    for (int k = 0; k < comm->ranks && !status; k++) {
        int r = (comm->rank + k) % comm->ranks;
        size_t bytes = (size_t)mpt_comm_slice_part(count, per, r) * element;
        if (bytes)
            mpt_comm_copy(comm, recv + (size_t)(per * r) * element, mpt_shm_stage(comm, r, 1),
                          bytes);
    }
    return status;
}

static mpt_status_t all_reduce_staged(mpt_comm_t *comm, const char *send, char *recv, int64_t count,
                                      mpt_dtype_t wire)
{
    size_t element = mpt_dtype_bytes(wire);
    int64_t chunk = (int64_t)(SHM_HALF_BYTES / element);
    mpt_status_t status = MPT_OK;
    for (int64_t first = 0; first < count && !status; first += chunk) {
        int64_t part = count - first < chunk ? count - first : chunk;
        status = all_reduce_chunk(comm, send + (size_t)first * element,
                                  recv + (size_t)first * element, part, wire);
    }
    return status;
}

mpt_status_t mpt_shm_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                mpt_dtype_t wire, mpt_stream_t *stream)
{
    (void)stream;
    size_t bytes = (size_t)count * mpt_dtype_bytes(wire);
    shm_call_t call = {.op = SHM_ALL_REDUCE,
                       .wire = wire,
                       .out = wire,
                       .bytes = bytes,
                       .send = mpt_shm_find(comm, send, bytes),
                       .recv = mpt_shm_find(comm, recv, bytes)};
    if (mpt_shm_is_small(comm, bytes) && bytes <= SMALL_REDUCE_BYTES(comm->ranks))
        return mpt_shm_all_reduce_small(comm, &call, send, recv);
    mpt_status_t status = mpt_shm_begin(comm, &call);
    if (!status)
        status = find_sends(comm) && find_recvs(comm)
                     ? all_reduce_direct(comm, count, wire)
                     : all_reduce_staged(comm, send, recv, count, wire);
    return mpt_shm_end(comm, status);
}

/* ---- broadcast
 * ------------------------------------------------------------------------------------- */

/* Each rank reads its share of the root's bytes and writes it to all others. */
static mpt_status_t broadcast_direct(mpt_comm_t *comm, size_t bytes, int root)
{
    const shm_t *shm = comm->impl;
    int64_t per = mpt_comm_slice_count((int64_t)bytes, comm->ranks);
    int64_t mine = mpt_comm_slice_part((int64_t)bytes, per, comm->rank);
    for (int r = 0; r < comm->ranks && mine; r++)
        shm->recvs[r] = (char *)shm->recvs[r] + per * comm->rank;
    mpt_comm_copy_to(comm, shm->recvs, comm->ranks, shm->recvs[root], (size_t)mine);
    return mpt_shm_barrier(comm);
}

static mpt_status_t broadcast_staged(mpt_comm_t *comm, char *buffer, size_t bytes, int root)
{
    int half = 0;
    size_t part;
    for (size_t first = 0; first < bytes; first += part, half ^= 1) {
        part = mpt_min_bytes(SHM_HALF_BYTES, bytes - first);
        if (comm->rank == root)
            mpt_comm_copy(comm, mpt_shm_stage(comm, root, half), buffer + first, part);
        mpt_status_t status = mpt_shm_barrier(comm);
        if (status)
            return status;
        if (comm->rank != root)
            mpt_comm_copy(comm, buffer + first, mpt_shm_stage(comm, root, half), part);
    }
    return MPT_OK;
}

mpt_status_t mpt_shm_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                               mpt_stream_t *stream)
{
    (void)stream;
    shm_call_t call = {.op = SHM_BROADCAST,
                       .bytes = bytes,
                       .root = root,
                       .recv = mpt_shm_find(comm, buffer, bytes)};
    if (mpt_shm_is_small(comm, bytes))
        return mpt_shm_broadcast_small(comm, &call, buffer);
    mpt_status_t status = mpt_shm_begin(comm, &call);
    if (!status)
        status = find_recvs(comm) ? broadcast_direct(comm, bytes, root)
                                  : broadcast_staged(comm, buffer, bytes, root);
    return mpt_shm_end(comm, status);
}

/* ---- all_to_all
 * ------------------------------------------------------------------------------------ */

static mpt_status_t all_to_all_direct(mpt_comm_t *comm, char *recv, size_t bytes)
{
    const shm_t *shm = comm->impl;
    for (int k = 0; k < comm->ranks; k++) {
        int r = (comm->rank + k) % comm->ranks;
        mpt_comm_copy(comm, recv + (size_t)r * bytes,
                      (const char *)shm->sends[r] + (size_t)comm->rank * bytes, bytes);
    }
    return mpt_shm_barrier(comm);
}

static mpt_status_t all_to_all_staged(mpt_comm_t *comm, const char *send, char *recv, size_t bytes)
{
    int half = 0;
    size_t part;
    for (size_t first = 0; first < bytes; first += part, half ^= 1) {
        part = mpt_min_bytes(block_bytes(comm), bytes - first);
        fill_blocks(comm, half, send, bytes, first, part);
        mpt_status_t status = mpt_shm_barrier(comm);
        if (status)
            return status;
        for (int k = 1; k < comm->ranks; k++) {
            int r = (comm->rank + k) % comm->ranks;
            mpt_comm_copy(comm, recv + (size_t)r * bytes + first, block_for_us(comm, r, half),
                          part);
        }
    }
    size_t own = (size_t)comm->rank * bytes;
    mpt_comm_copy(comm, recv + own, send + own, bytes);
    return MPT_OK;
}

mpt_status_t mpt_shm_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream)
{
    (void)stream;
    shm_call_t call = {.op = SHM_ALL_TO_ALL,
                       .bytes = bytes,
                       .send = mpt_shm_find(comm, send, (size_t)comm->ranks * bytes)};
    if (mpt_shm_is_small(comm, (size_t)comm->ranks * bytes))
        return mpt_shm_exchange_small(comm, &call, send, recv);
    mpt_status_t status = mpt_shm_begin(comm, &call);
    if (!status)
        status = find_sends(comm) ? all_to_all_direct(comm, recv, bytes)
                                  : all_to_all_staged(comm, send, recv, bytes);
    return mpt_shm_end(comm, status);
}
