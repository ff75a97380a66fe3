/*
 * Point to point: a ring of bytes for each ordered pair of ranks, in the receiver's segment. A
 * message is its length, then its bytes; longer ones than the ring flow through it. Counters wrap
 * modulo 2^32, which the rings' sizes divide.
 */
#include "shm.h"

#include <stdio.h>
#include <string.h>

static void ring_put(char *ring, size_t ring_bytes, uint32_t at, const char *data, size_t bytes)
{
    size_t first = at & (ring_bytes - 1);
    size_t head = mpt_min_bytes(bytes, ring_bytes - first);
    memcpy(ring + first, data, head);
    memcpy(ring, data + head, bytes - head);
}

static void ring_get(const char *ring, size_t ring_bytes, uint32_t at, char *data, size_t bytes)
{
    size_t first = at & (ring_bytes - 1);
    size_t head = mpt_min_bytes(bytes, ring_bytes - first);
    memcpy(data, ring + first, head);
    memcpy(data + head, ring, bytes - head);
}

/* Half a ring at a time, so that one side fills while the other empties. */
static mpt_status_t stream_out(mpt_comm_t *comm, int lane, const char *data, size_t bytes, int peer)
{
    shm_t *shm = comm->impl;
    shm_channel_t *channel = mpt_shm_channel(comm, lane, peer, comm->rank);
    char *ring = mpt_shm_ring(comm, lane, peer, comm->rank);
    size_t ring_bytes = mpt_shm_ring_bytes(shm, lane);
    uint32_t *written = &shm->written[lane * comm->ranks + peer];
    for (size_t done = 0, part; done < bytes; done += part) {
        part = mpt_min_bytes(bytes - done, ring_bytes / 2);
        uint32_t after = *written + (uint32_t)part;
        mpt_status_t status =
            mpt_shm_wait(comm, &channel->taken, after - (uint32_t)ring_bytes, peer);
        if (status)
            return status;
        ring_put(ring, ring_bytes, *written, data + done, part);
        *written = after;
        mpt_shm_raise(&channel->written, after);
    }
    return MPT_OK;
}

static mpt_status_t stream_in(mpt_comm_t *comm, int lane, char *data, size_t bytes, int peer)
{
    shm_t *shm = comm->impl;
    shm_channel_t *channel = mpt_shm_channel(comm, lane, comm->rank, peer);
    const char *ring = mpt_shm_ring(comm, lane, comm->rank, peer);
    size_t ring_bytes = mpt_shm_ring_bytes(shm, lane);
    uint32_t *taken = &shm->taken[lane * comm->ranks + peer];
    for (size_t done = 0, part; done < bytes; done += part) {
        part = mpt_min_bytes(bytes - done, ring_bytes / 2);
        uint32_t after = *taken + (uint32_t)part;
        mpt_status_t status = mpt_shm_wait(comm, &channel->written, after, peer);
        if (status)
            return status;
        ring_get(ring, ring_bytes, *taken, data + done, part);
        *taken = after;
        mpt_shm_raise(&channel->taken, after);
    }
    return MPT_OK;
}

mpt_status_t mpt_shm_mail_send(mpt_comm_t *comm, int lane, const void *buffer, size_t bytes,
                               int peer)
{
    mpt_status_t status = mpt_shm_check_alarm(comm);
    uint64_t length = bytes;
    status = status ? status : stream_out(comm, lane, (const char *)&length, sizeof length, peer);
    return status ? status : stream_out(comm, lane, buffer, bytes, peer);
}

mpt_status_t mpt_shm_mail_recv(mpt_comm_t *comm, int lane, void *buffer, size_t bytes, int peer)
{
    mpt_status_t status = mpt_shm_check_alarm(comm);
    uint64_t length = 0;
    status = status ? status : stream_in(comm, lane, (char *)&length, sizeof length, peer);
    if (status)
        return status;
    if (length != bytes) {
        char text[MPT_COMM_MAX_TEXT];
        snprintf(text, sizeof text, "rank %d sent %llu bytes where %zu were to come",
                 mpt_comm_world_rank(comm, peer), (unsigned long long)length, bytes);
        return mpt_shm_give_up(comm, text);
    }
    return stream_in(comm, lane, buffer, bytes, peer);
}
