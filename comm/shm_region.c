#include "shm.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Registration goes by votes: each is a meeting in which a rank says whether it could do its part. So a rank that runs
 * out of addresses fails the call on every rank, and nobody waits for a file that never comes. */

typedef struct ballot {
    mpt_comm_t *comm;
    shm_call_t call;
} ballot_t;

/* The rank that could not has said why, and every rank finds it here: no alarm is needed, which one might see before the
 * status. What peers offered may lie untaken in the sockets: the communicator is of no more use. */
static mpt_status_t all_could(mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++) {
        mpt_status_t status = (mpt_status_t)mpt_shm_call(comm, r)->status;
        if (!status)
            continue;
        comm->failed = shm->gave_up = 1;
        return status;
    }
    return MPT_OK;
}

static void unmap_peers(const mpt_comm_t *comm, const shm_region_t *region)
{
    for (int r = 0; r < comm->ranks && !region->borrowed; r++)
        if (r != comm->rank && region->peers[r])
            munmap(region->peers[r], region->bytes);
}

static mpt_status_t vote(void *ctx, mpt_status_t own)
{
    ballot_t *ballot = ctx;
    ballot->call.status = (uint8_t)own;
    mpt_status_t status = mpt_shm_begin(ballot->comm, &ballot->call);
    return status ? status : all_could(ballot->comm);
}

/* Threads find each other's memory in the vote itself. */
static mpt_status_t swap_pointers(ballot_t *ballot, mpt_status_t own, char **peers)
{
    const mpt_comm_t *comm = ballot->comm;
    mpt_status_t status = vote(ballot, own);
    for (int r = 0; r < comm->ranks && !status; r++)
        peers[r] = (char *)(uintptr_t)mpt_shm_call(comm, r)->pointer;
    return status;
}

/* `region` may be NULL: this rank has no memory for it, and says so. */
static mpt_status_t swap(mpt_comm_t *comm, const mpt_mem_t *mem, shm_region_t *region)
{
    const shm_t *shm = comm->impl;
    ballot_t ballot = {comm,
                       {.op = SHM_REGISTER,
                        .bytes = mem->bytes,
                        .pointer = (uint64_t)(uintptr_t)mem->ptr}};
    mpt_status_t own = region ? MPT_OK : MPT_ERR_NO_MEMORY;
    char **peers = region ? region->peers : NULL;
    return shm->one_process ? swap_pointers(&ballot, own, peers)
                            : mpt_shm_swap_memory(comm, mem->fd, mem->bytes, own, vote, &ballot, peers);
}

mpt_status_t mpt_shm_register(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p)
{
    shm_t *shm = comm->impl;
    shm_region_t *region = calloc(1, sizeof *region + (size_t)comm->ranks * sizeof(char *));
    if (!region)
        mpt_comm_log_error(comm, "out of memory for its table");
    if (region) {
        region->number = shm->regions_made;
        region->bytes = mem->bytes;
        region->borrowed = shm->one_process;
        region->peers[comm->rank] = mem->ptr;
    }
    mpt_status_t status = mpt_shm_end(comm, swap(comm, mem, region));
    if (status) {
        if (region)
            unmap_peers(comm, region);
        free(region);
        return status;
    }
    shm->regions_made++;
    region->next = shm->regions;
    shm->regions = region;
    *handle_p = region;
    return MPT_OK;
}

/* Collectives end with a meeting, so that a peer reads or writes our memory only while we are inside one as
 * well. After a failure that no longer holds: a thread may still be at it. It leaves as soon as
 * it sees the alarm. (Processes have mappings of their own.) */
static void await_readers(const mpt_comm_t *comm)
{
    const shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++)
        while (r != comm->rank && mpt_shm_load(&mpt_shm_head(shm, r)->state) == SHM_INSIDE)
            sched_yield();
}

void mpt_shm_deregister(mpt_comm_t *comm, void *handle)
{
    shm_t *shm = comm->impl;
    shm_region_t *region = handle;
    shm_region_t **link = &shm->regions;
    while (*link && *link != region)
        link = &(*link)->next;
    if (!*link)
        return;
    *link = region->next;
    if (region->borrowed && shm->gave_up)
        await_readers(comm);
    unmap_peers(comm, region);
    free(region);
}

shm_place_t mpt_shm_find(const mpt_comm_t *comm, const void *pointer, size_t bytes)
{
    const shm_t *shm = comm->impl;
    uintptr_t first = (uintptr_t)pointer;
    for (const shm_region_t *region = shm->regions; region; region = region->next) {
        uintptr_t base = (uintptr_t)region->peers[comm->rank];
        if (first >= base && first - base <= region->bytes &&
            bytes <= region->bytes - (first - base))
            return (shm_place_t){region->number, first - base};
    }
    return (shm_place_t){.region = -1};
}

char *mpt_shm_address(const shm_t *shm, int peer, shm_place_t place)
{
    for (const shm_region_t *region = shm->regions; region; region = region->next)
        if (region->number == place.region)
            return region->peers[peer] + place.offset;
    return NULL;
}
