#include "hier.h"

#include <string.h>

#define PIECE_BYTES ((size_t)64 << 20) /* of one message: far below the int that MPI counts with */
#define BROADCAST_BYTES ((size_t)1 << 20) /* pieces that flow down the tree */
#define SMALL_BYTES ((size_t)8 << 10) /* of a host's blocks: sending all of them saves a meeting */
#define PAD_COUNT ((int64_t)MPT_COMM_MAX_RANKS) /* elements of a padded all_reduce, on the stack */

/* ---- between hosts ------------------------------------------------------------------------------- */

/* The row knows meanwhile whether this rank waits for another host. */
static void tell_row(const hier_t *hier, uint32_t state)
{
    if (hier->has_local)
        mpt_shm_store(&mpt_shm_head(hier->local.impl, hier->lane)->state, state);
}

static mpt_status_t finish_across(mpt_comm_t *comm, int half)
{
    hier_t *hier = comm->impl;
    mpi_t *mpi = hier->world.impl;
    tell_row(hier, SHM_ACROSS);
    mpt_status_t status = mpt_mpi_finish(&hier->world, &mpi->batches[half]);
    tell_row(hier, SHM_OUTSIDE);
    return status;
}

/* Peers are the ranks first + i * step for i in [0, count) but `own`; each starts with its neighbour. */
typedef struct peers {
    int first, step, count, own;
} peers_t;

static peers_t column(const hier_t *hier, int lane)
{
    return (peers_t){lane, hier->local_ranks, hier->hosts, hier->host};
}

/* Start the swap of bytes [at, at + bytes) of every block. */
static mpt_status_t post_swap(mpt_comm_t *comm, int half, const peers_t *peers,
                              const hier_swap_t *swap, size_t at, size_t bytes)
{
    hier_t *hier = comm->impl;
    mpi_batch_t *batch = &((mpi_t *)hier->world.impl)->batches[half];
    mpt_status_t status = MPT_OK;
    for (int k = 1; k < peers->count && !status; k++) {
        int i = (peers->own + peers->count - k) % peers->count;
        status =
            mpt_mpi_post_recv(&hier->world, batch, swap->recv + (size_t)i * swap->recv_stride + at,
                              bytes, peers->first + i * peers->step, MPI_TAG_COLLECTIVE);
    }
    for (int k = 1; k < peers->count && !status; k++) {
        int i = (peers->own + k) % peers->count;
        status =
            mpt_mpi_post_send(&hier->world, batch, swap->send + (size_t)i * swap->send_stride + at,
                              bytes, peers->first + i * peers->step, MPI_TAG_COLLECTIVE);
    }
    return status;
}

static mpt_status_t swap_blocks(mpt_comm_t *comm, peers_t peers, const hier_swap_t *swap)
{
    mpt_status_t status = MPT_OK;
    for (size_t at = 0, part; at < swap->bytes && !status; at += part) {
        part = mpt_min_bytes(PIECE_BYTES, swap->bytes - at);
        status = post_swap(comm, 0, &peers, swap, at, part);
        status = status ? status : finish_across(comm, 0);
    }
    return status;
}

mpt_status_t mpt_hier_swap_row(mpt_comm_t *comm, const hier_swap_t *swap)
{
    hier_t *hier = comm->impl;
    peers_t row = {hier->host * hier->local_ranks, 1, hier->local_ranks, hier->lane};
    return mpt_mpi_end(&hier->world, swap_blocks(comm, row, swap));
}

/* ---- reduce_scatter ------------------------------------------------------------------------------ */

typedef struct reduce_job {
    const char *send;
    char *recv;
    int64_t count; /* elements of one rank's slice */
    mpt_dtype_t wire, out;
} reduce_job_t;

/* Scratch: [half][to send, received][host]. */
static float *partial(const mpt_comm_t *comm, int half, int received, int host)
{
    const hier_t *hier = comm->impl;
    size_t at = ((size_t)(2 * half + received) * (size_t)hier->hosts + (size_t)host) * hier->block;
    return (float *)((char *)comm->scratch + at);
}

/* This lane's share of elements [first, first + count) of every slice: the host's sums of what each counterpart owns,
 * and their exchange, which goes on while this returns. */
static mpt_status_t start_chunk(mpt_comm_t *comm, int half, const reduce_job_t *job, int64_t first,
                                int64_t count)
{
    hier_t *hier = comm->impl;
    size_t element = mpt_dtype_bytes(job->wire), slice = (size_t)job->count * element;
    mpt_status_t status = MPT_OK;
    for (int host = 0; host < hier->hosts && !status; host++)
        status = mpt_shm_reduce_strided(
            &hier->local,
            job->send + (size_t)(host * hier->local_ranks) * slice + (size_t)first * element, slice,
            partial(comm, half, 0, host), count, job->wire, MPT_F32);
    if (status)
        return status;
    peers_t peers = column(hier, hier->lane);
    hier_swap_t swap = {.send = (const char *)partial(comm, half, 0, 0),
                        .recv = (char *)partial(comm, half, 1, 0),
                        .send_stride = hier->block,
                        .recv_stride = hier->block};
    return post_swap(comm, half, &peers, &swap, 0, (size_t)count * sizeof(float));
}

static mpt_status_t end_chunk(mpt_comm_t *comm, int half, const reduce_job_t *job, int64_t first,
                              int64_t count)
{
    hier_t *hier = comm->impl;
    mpt_status_t status = finish_across(comm, half);
    if (status)
        return status;
    for (int host = 0; host < hier->hosts; host++)
        hier->sources[host] = partial(comm, half, host != hier->host, host);
    mpt_comm_sum_of(comm, hier->hosts, job->recv + (size_t)first * mpt_dtype_bytes(job->out),
                    job->out, hier->sources, MPT_F32, count);
    return MPT_OK;
}

/* Two chunks are under way at a time: one travels while the row sums the next. In place, a chunk of the result comes to
 * where this lane alone has read, and has done so. */
static mpt_status_t reduce_slices(mpt_comm_t *comm, const reduce_job_t *job)
{
    const hier_t *hier = comm->impl;
    int64_t chunk = (int64_t)(hier->block / sizeof(float)), next_count;
    int64_t count = mpt_comm_slice_part(job->count, chunk, 0);
    mpt_status_t status = start_chunk(comm, 0, job, 0, count);
    int half = 0;
    for (int64_t first = 0; first < job->count && !status; first += count, count = next_count) {
        int64_t next = first + count;
        next_count = mpt_comm_slice_part(job->count - next, chunk, 0);
        if (next_count)
            status = start_chunk(comm, half ^ 1, job, next, next_count);
        status = status ? status : end_chunk(comm, half, job, first, count);
        half ^= 1;
    }
    return status;
}

mpt_status_t mpt_hier_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                     mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream)
{
    (void)stream;
    reduce_job_t job = {send, recv, count, wire, out};
    mpt_status_t status = mpt_hier_begin(comm);
    return mpt_hier_end(comm, status ? status : reduce_slices(comm, &job));
}

/* ---- all_gather ---------------------------------------------------------------------------------- */

/* The row's blocks first, then all of them to and from every counterpart. */
static mpt_status_t gather_small(mpt_comm_t *comm, const char *send, char *recv, size_t bytes)
{
    hier_t *hier = comm->impl;
    size_t row = (size_t)hier->local_ranks * bytes;
    char *own = recv + (size_t)hier->host * row;
    mpt_status_t status = mpt_comm_shm.all_gather(&hier->local, send, own, bytes, NULL);
    hier_swap_t swap = {.send = own, .recv = recv, .recv_stride = row, .bytes = row};
    return status ? status : swap_blocks(comm, column(hier, hier->lane), &swap);
}

static mpt_status_t gather_large(mpt_comm_t *comm, const char *send, char *recv, size_t bytes)
{
    hier_t *hier = comm->impl;
    size_t row = (size_t)hier->local_ranks * bytes;
    char *lane = recv + (size_t)hier->lane * bytes;
    mpt_comm_copy(comm, lane + (size_t)hier->host * row, send, bytes);
    hier_swap_t swap = {.send = send, .recv = lane, .recv_stride = row, .bytes = bytes};
    mpt_status_t status = swap_blocks(comm, column(hier, hier->lane), &swap);
    for (int host = 0; host < hier->hosts && !status; host++) {
        size_t at = (size_t)host * row;
        status = mpt_comm_shm.all_gather(&hier->local, lane + at, recv + at, bytes, NULL);
    }
    return status;
}

static mpt_status_t gather(mpt_comm_t *comm, const char *send, char *recv, size_t bytes)
{
    const hier_t *hier = comm->impl;
    return bytes <= SMALL_BYTES / (size_t)hier->local_ranks ? gather_small(comm, send, recv, bytes)
                                                            : gather_large(comm, send, recv, bytes);
}

mpt_status_t mpt_hier_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream)
{
    (void)stream;
    mpt_status_t status = mpt_hier_begin(comm);
    return mpt_hier_end(comm, status ? status : gather(comm, send, recv, bytes));
}

/* ---- all_reduce: a reduce_scatter, then an all_gather ---------------------------------------------- */

static mpt_status_t reduce_and_gather(mpt_comm_t *comm, const char *send, char *recv, int64_t per,
                                      mpt_dtype_t wire)
{
    size_t bytes = (size_t)per * mpt_dtype_bytes(wire);
    char *own = recv + (size_t)comm->rank * bytes;
    reduce_job_t job = {send, own, per, wire, wire};
    mpt_status_t status = reduce_slices(comm, &job);
    return status ? status : gather(comm, own, recv, bytes);
}

/* A few elements, which need not divide by the ranks. */
static mpt_status_t reduce_padded(mpt_comm_t *comm, const char *send, char *recv, int64_t count,
                                  mpt_dtype_t wire)
{
    float pad[PAD_COUNT] = {0}; /* as many of the narrower types fit as well */
    size_t bytes = (size_t)count * mpt_dtype_bytes(wire);
    int64_t per = (count + comm->ranks - 1) / comm->ranks;
    memcpy(pad, send, bytes);
    mpt_status_t status = reduce_and_gather(comm, (char *)pad, (char *)pad, per, wire);
    if (!status)
        memcpy(recv, pad, bytes);
    return status;
}

/* Elements a rank of the part that goes without padding: whole cache lines where what is left then fits the pad. */
static int64_t unpadded_slice(const mpt_comm_t *comm, int64_t count)
{
    if (count + comm->ranks <= PAD_COUNT)
        return 0;
    int64_t lines = count / comm->ranks / 64 * 64;
    return count - lines * comm->ranks + comm->ranks <= PAD_COUNT ? lines : count / comm->ranks;
}

static mpt_status_t reduce_vector(mpt_comm_t *comm, const char *send, char *recv, int64_t count,
                                  mpt_dtype_t wire)
{
    int64_t per = unpadded_slice(comm, count), left = count - per * comm->ranks;
    size_t done = (size_t)(count - left) * mpt_dtype_bytes(wire);
    mpt_status_t status = MPT_OK;
    if (per)
        status = reduce_and_gather(comm, send, recv, per, wire);
    if (left && !status)
        status = reduce_padded(comm, send + done, recv + done, left, wire);
    return status;
}

mpt_status_t mpt_hier_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                 mpt_dtype_t wire, mpt_stream_t *stream)
{
    (void)stream;
    mpt_status_t status = mpt_hier_begin(comm);
    return mpt_hier_end(comm, status ? status : reduce_vector(comm, send, recv, count, wire));
}

/* ---- all_to_all ------------------------------------------------------------------------------------ */

/* The row, then round by round the lanes of the other hosts: in round i lane l talks to lane l xor i. */
static mpt_status_t swap_all(mpt_comm_t *comm, const char *send, char *recv, size_t bytes)
{
    hier_t *hier = comm->impl;
    size_t row = (size_t)hier->local_ranks * bytes, own = (size_t)hier->host * row;
    mpt_status_t status =
        mpt_comm_shm.all_to_all(&hier->local, send + own, recv + own, bytes, NULL);
    for (int i = 0; i < hier->local_ranks && !status; i++) {
        int lane = hier->lane ^ i;
        size_t at = (size_t)lane * bytes;
        hier_swap_t swap = {send + at, recv + at, row, row, bytes};
        status = swap_blocks(comm, column(hier, lane), &swap);
    }
    return status;
}

mpt_status_t mpt_hier_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream)
{
    (void)stream;
    mpt_status_t status = mpt_hier_begin(comm);
    return mpt_hier_end(comm, status ? status : swap_all(comm, send, recv, bytes));
}

/* ---- broadcast ------------------------------------------------------------------------------------- */

/* A binomial tree over the hosts, along the root's lane: host v, counted from the root's, gets a piece from v without its
 * lowest set bit, and passes it on to v + every smaller power of two. */
static mpt_status_t take_piece(mpt_comm_t *comm, char *data, size_t bytes, int root)
{
    hier_t *hier = comm->impl;
    mpi_batch_t *batch = &((mpi_t *)hier->world.impl)->batches[0];
    int relative = (hier->host - root / hier->local_ranks + hier->hosts) % hier->hosts;
    if (!relative)
        return MPT_OK;
    int parent = (hier->host - (relative & -relative) + hier->hosts) % hier->hosts;
    mpt_status_t status =
        mpt_mpi_post_recv(&hier->world, batch, data, bytes, parent * hier->local_ranks + hier->lane,
                          MPI_TAG_COLLECTIVE);
    return status ? status : finish_across(comm, 0);
}

static mpt_status_t pass_piece_on(mpt_comm_t *comm, const char *data, size_t bytes, int root)
{
    hier_t *hier = comm->impl;
    mpi_batch_t *batch = &((mpi_t *)hier->world.impl)->batches[0];
    int relative = (hier->host - root / hier->local_ranks + hier->hosts) % hier->hosts;
    int bit = relative ? relative & -relative : 1;
    mpt_status_t status = MPT_OK;
    while (!relative && bit < hier->hosts)
        bit *= 2;
    for (bit /= 2; bit > 0 && !status; bit /= 2)
        if (relative + bit < hier->hosts)
            status =
                mpt_mpi_post_send(&hier->world, batch, data, bytes,
                                  (hier->host + bit) % hier->hosts * hier->local_ranks + hier->lane,
                                  MPI_TAG_COLLECTIVE);
    return status;
}

static mpt_status_t broadcast_piece(mpt_comm_t *comm, char *data, size_t bytes, int root)
{
    hier_t *hier = comm->impl;
    int root_lane = root % hier->local_ranks;
    mpt_status_t status = MPT_OK;
    if (hier->lane == root_lane) {
        status = take_piece(comm, data, bytes, root);
        status = status ? status : pass_piece_on(comm, data, bytes, root);
    }
    if (!status)
        status = mpt_comm_shm.broadcast(&hier->local, data, bytes, root_lane, NULL);
    return status ? status : finish_across(comm, 0);
}

mpt_status_t mpt_hier_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                                mpt_stream_t *stream)
{
    (void)stream;
    mpt_status_t status = mpt_hier_begin(comm);
    for (size_t first = 0, part; first < bytes && !status; first += part) {
        part = mpt_min_bytes(BROADCAST_BYTES, bytes - first);
        status = broadcast_piece(comm, (char *)buffer + first, part, root);
    }
    return mpt_hier_end(comm, status);
}

/* ---- point to point -------------------------------------------------------------------------------- */

static int in_row(const hier_t *hier, int peer)
{
    return peer / hier->local_ranks == hier->host;
}

static mpt_status_t send_across(hier_t *hier, const void *buffer, size_t bytes, int peer)
{
    tell_row(hier, SHM_ACROSS);
    mpt_status_t status = mpt_mpi_send(&hier->world, buffer, bytes, peer, NULL);
    tell_row(hier, SHM_OUTSIDE);
    return status;
}

static mpt_status_t recv_across(hier_t *hier, void *buffer, size_t bytes, int peer)
{
    tell_row(hier, SHM_ACROSS);
    mpt_status_t status = mpt_mpi_recv(&hier->world, buffer, bytes, peer, NULL);
    tell_row(hier, SHM_OUTSIDE);
    return status;
}

mpt_status_t mpt_hier_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream)
{
    (void)stream;
    hier_t *hier = comm->impl;
    mpt_status_t status = mpt_hier_begin(comm);
    if (!status)
        status = in_row(hier, peer)
                     ? mpt_shm_mail_send(&hier->local, 0, buffer, bytes, peer % hier->local_ranks)
                     : send_across(hier, buffer, bytes, peer);
    return mpt_hier_end(comm, status);
}

mpt_status_t mpt_hier_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream)
{
    (void)stream;
    hier_t *hier = comm->impl;
    mpt_status_t status = mpt_hier_begin(comm);
    if (!status)
        status = in_row(hier, peer)
                     ? mpt_shm_mail_recv(&hier->local, 0, buffer, bytes, peer % hier->local_ranks)
                     : recv_across(hier, buffer, bytes, peer);
    return mpt_hier_end(comm, status);
}
