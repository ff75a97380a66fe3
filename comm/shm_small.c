/*
 * Calls whose bytes fit a slot. Every rank's bytes travel with the word that says what it calls, so that one meeting
 * is all there is: each rank reads what it needs from the others' slots and is done. A broadcast needs not even that: the
 * root goes on at once, and the others wait for the root alone.
 */
#include "shm.h"

#include <string.h>
#include "numeric.h"

#define READ_BYTES ((size_t)64 << 10) /* of all slots; above it sharing the work out pays for a meeting more */

int mpt_shm_is_small(const mpt_comm_t *comm, size_t bytes)
{
    return bytes <= SHM_SLOT_BYTES && bytes * (size_t)comm->ranks <= READ_BYTES;
}

/* The sum of every rank's elements from `at` on. */
static void sum_slots(const mpt_comm_t *comm, const shm_call_t *call, size_t at, void *recv)
{
    const shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++)
        shm->sources[r] = mpt_shm_slot(comm, r, shm->called)->bytes + at;
    mpt_tree_sum(recv, (mpt_dtype_t)call->out, shm->sources, comm->ranks, (mpt_dtype_t)call->wire,
                 (int64_t)(call->bytes / mpt_dtype_bytes((mpt_dtype_t)call->wire)));
}

mpt_status_t mpt_shm_all_reduce_small(mpt_comm_t *comm, const shm_call_t *call, const void *send,
                                      void *recv)
{
    shm_slot_t *slot;
    mpt_status_t status = mpt_shm_open_slot(comm, call, &slot);
    if (status)
        return status;
    memcpy(slot->bytes, send, call->bytes);
    status = mpt_shm_meet(comm);
    if (!status)
        sum_slots(comm, call, 0, recv);
    return status;
}

mpt_status_t mpt_shm_reduce_small(mpt_comm_t *comm, const shm_call_t *call, const char *send,
                                  size_t stride, void *recv)
{
    shm_slot_t *slot;
    mpt_status_t status = mpt_shm_open_slot(comm, call, &slot);
    if (status)
        return status;
    for (int r = 0; r < comm->ranks; r++)
        memcpy(slot->bytes + (size_t)r * call->bytes, send + (size_t)r * stride, call->bytes);
    status = mpt_shm_meet(comm);
    if (!status)
        sum_slots(comm, call, (size_t)comm->rank * call->bytes, recv);
    return status;
}

mpt_status_t mpt_shm_gather_small(mpt_comm_t *comm, const shm_call_t *call, const void *send,
                                  char *recv)
{
    const shm_t *shm = comm->impl;
    shm_slot_t *slot;
    mpt_status_t status = mpt_shm_open_slot(comm, call, &slot);
    if (status)
        return status;
    memcpy(slot->bytes, send, call->bytes);
    status = mpt_shm_meet(comm);
    for (int r = 0; r < comm->ranks && !status; r++)
        memcpy(recv + (size_t)r * call->bytes, mpt_shm_slot(comm, r, shm->called)->bytes,
               call->bytes);
    return status;
}

mpt_status_t mpt_shm_exchange_small(mpt_comm_t *comm, const shm_call_t *call, const void *send,
                                    char *recv)
{
    const shm_t *shm = comm->impl;
    size_t bytes = call->bytes;
    shm_slot_t *slot;
    mpt_status_t status = mpt_shm_open_slot(comm, call, &slot);
    if (status)
        return status;
    memcpy(slot->bytes, send, (size_t)comm->ranks * bytes);
    status = mpt_shm_meet(comm);
    for (int r = 0; r < comm->ranks && !status; r++)
        memcpy(recv + (size_t)r * bytes,
               mpt_shm_slot(comm, r, shm->called)->bytes + (size_t)comm->rank * bytes, bytes);
    return status;
}

/* A root that has gone on meets a failure in its next call. */
mpt_status_t mpt_shm_broadcast_small(mpt_comm_t *comm, const shm_call_t *call, void *buffer)
{
    shm_t *shm = comm->impl;
    int root = call->root;
    shm_slot_t *slot;
    mpt_status_t status = mpt_shm_open_slot(comm, call, &slot);
    if (status)
        return status;
    if (comm->rank == root)
        memcpy(slot->bytes, buffer, call->bytes);
    mpt_shm_arrive(comm);
    if (comm->rank != root)
        status = mpt_shm_await(comm, root, shm->epoch);
    if (status || comm->rank == root)
        return status;
    status = mpt_shm_compare(comm, root);
    if (!status)
        memcpy(buffer, mpt_shm_slot(comm, root, shm->called)->bytes, call->bytes);
    return status;
}
