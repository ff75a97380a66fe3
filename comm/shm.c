#include "shm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- layout of a segment
 * ------------------------------------------------------------------------- */

static size_t round_up(size_t bytes, size_t multiple)
{
    return (bytes + multiple - 1) / multiple * multiple;
}

/* 64 KiB for up to 16 ranks, then about 1 MiB for all senders together, but at least a page. */
static size_t ring_bytes_for(int ranks)
{
    size_t bytes = (size_t)64 << 10;
    while (bytes > 4096 && bytes * (size_t)ranks > ((size_t)1 << 20))
        bytes /= 2;
    return bytes;
}

static size_t slots_offset(void)
{
    return round_up(sizeof(shm_head_t), SHM_LINE);
}

static size_t said_offset(void)
{
    return slots_offset() + SHM_SLOTS * sizeof(shm_slot_t);
}

static size_t channels_offset(void)
{
    return said_offset() + SHM_SAID * sizeof(shm_said_t);
}

static size_t rings_offset(int ranks)
{
    return channels_offset() + SHM_LANES * (size_t)ranks * sizeof(shm_channel_t);
}

static size_t stage_offset(int ranks)
{
    size_t rings = (size_t)ranks * (ring_bytes_for(ranks) + SHM_SETUP_RING_BYTES);
    return round_up(rings_offset(ranks) + rings, 4096);
}

static size_t segment_bytes(int ranks)
{
    return stage_offset(ranks) + 2 * SHM_HALF_BYTES;
}

static size_t shm_own_bytes(int ranks, int local_ranks)
{
    (void)local_ranks;
    return segment_bytes(ranks);
}

static size_t shm_scratch_bytes(int ranks)
{
    (void)ranks;
    return 0;
}

shm_channel_t *mpt_shm_channel(const mpt_comm_t *comm, int lane, int owner, int sender)
{
    const shm_t *shm = comm->impl;
    shm_channel_t *channels = (shm_channel_t *)(shm->segments[owner] + channels_offset());
    return &channels[lane * comm->ranks + sender];
}

size_t mpt_shm_ring_bytes(const shm_t *shm, int lane)
{
    return lane == 0 ? shm->ring_bytes : SHM_SETUP_RING_BYTES;
}

char *mpt_shm_ring(const mpt_comm_t *comm, int lane, int owner, int sender)
{
    const shm_t *shm = comm->impl;
    size_t lane_offset = lane == 0 ? 0 : (size_t)comm->ranks * shm->ring_bytes;
    return shm->segments[owner] + rings_offset(comm->ranks) + lane_offset +
           (size_t)sender * mpt_shm_ring_bytes(shm, lane);
}

shm_slot_t *mpt_shm_slot(const mpt_comm_t *comm, int rank, uint32_t epoch)
{
    const shm_t *shm = comm->impl;
    return (shm_slot_t *)(shm->segments[rank] + slots_offset()) + epoch % SHM_SLOTS;
}

shm_said_t *mpt_shm_said(const mpt_comm_t *comm, int rank, uint32_t epoch)
{
    const shm_t *shm = comm->impl;
    return (shm_said_t *)(shm->segments[rank] + said_offset()) + epoch % SHM_SAID;
}

char *mpt_shm_stage(const mpt_comm_t *comm, int rank, int half)
{
    const shm_t *shm = comm->impl;
    return shm->segments[rank] + stage_offset(comm->ranks) + (size_t)half * SHM_HALF_BYTES;
}

/* ---- create
 * -------------------------------------------------------------------------------------- */

/* What the ranks tell each other first. */
typedef struct hello {
    char name[SHM_NAME_BYTES];   /* where this rank listens */
    char secret[SHM_NAME_BYTES]; /* rank 0's counts */
    uint64_t segment;            /* its address, for threads */
    int32_t status;
} hello_t;

/* What only create needs. */
typedef struct setup {
    mpt_boot_t *boot;
    hello_t *hellos; /* [ranks] */
    int listener;
    int segment_fd;
} setup_t;

static void shm_free(shm_t *shm)
{
    if (!shm)
        return;
    free(shm->segments);
    free(shm->links);
    free(shm->written);
    free(shm->taken);
    free(shm->sends);
    free(shm->recvs);
    free(shm->sources);
    free(shm->missing);
    free(shm->seen);
    free(shm);
}

static shm_t *shm_alloc(int ranks, int one_process)
{
    size_t n = (size_t)ranks;
    shm_t *shm = calloc(1, sizeof *shm);
    if (!shm)
        return NULL;
    shm->segment_bytes = segment_bytes(ranks);
    shm->ring_bytes = ring_bytes_for(ranks);
    shm->one_process = one_process;
    shm->segments = calloc(n, sizeof *shm->segments);
    shm->links = malloc(n * sizeof *shm->links);
    shm->written = calloc(SHM_LANES * n, sizeof *shm->written);
    shm->taken = calloc(SHM_LANES * n, sizeof *shm->taken);
    shm->sends = calloc(n, sizeof *shm->sends);
    shm->recvs = calloc(n, sizeof *shm->recvs);
    shm->sources = calloc(n, sizeof *shm->sources);
    shm->missing = calloc(n, 1);
    shm->seen = calloc(n, sizeof *shm->seen);
    if (!shm->segments || !shm->links || !shm->written || !shm->taken || !shm->sends ||
        !shm->recvs || !shm->sources || !shm->missing || !shm->seen) {
        shm_free(shm);
        return NULL;
    }
    for (int r = 0; r < ranks; r++)
        shm->links[r] = -1;
    return shm;
}

static mpt_status_t make_segment(const mpt_comm_t *comm, int *fd_p)
{
    shm_t *shm = comm->impl;
    char text[MPT_COMM_MAX_TEXT];
    void *address = MAP_FAILED;
    int fd = memfd_create("mpt-comm", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)shm->segment_bytes) == 0)
        address = mmap(NULL, shm->segment_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) {
        snprintf(text, sizeof text, "shared memory of %zu bytes: %s", shm->segment_bytes,
                 strerror(errno));
        mpt_comm_log_error(comm, text);
        if (fd >= 0)
            close(fd);
        return MPT_ERR_NO_MEMORY;
    }
    shm->segments[comm->rank] = address;
    mpt_shm_head(shm, comm->rank)->users.value = (uint32_t)comm->ranks;
    *fd_p = fd;
    return MPT_OK;
}

static void write_hex(char text[SHM_NAME_BYTES], const unsigned char *bytes)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SHM_NAME_BYTES / 2 - 1; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[SHM_NAME_BYTES - 2] = '\0';
}

static mpt_status_t open_door(const mpt_comm_t *comm, setup_t *setup, hello_t *hello)
{
    unsigned char random[SHM_NAME_BYTES];
    mpt_status_t status = mpt_shm_random(comm, random, sizeof random);
    status = status ? status : mpt_shm_random(comm, hello->secret, sizeof hello->secret);
    if (status)
        return status;
    write_hex(hello->name, random);
    return mpt_shm_listen(comm, hello->name, &setup->listener);
}

static mpt_status_t exchange_hellos(mpt_comm_t *comm, setup_t *setup)
{
    const shm_t *shm = comm->impl;
    hello_t hello = {.status = MPT_OK};
    mpt_status_t status = make_segment(comm, &setup->segment_fd);
    if (!status && !shm->one_process)
        status = open_door(comm, setup, &hello);
    hello.segment = (uint64_t)(uintptr_t)shm->segments[comm->rank];
    hello.status = (int32_t)status;
    status = setup->boot->ops->exchange(setup->boot, &hello, setup->hellos, sizeof hello);
    for (int r = 0; r < comm->ranks && !status; r++)
        status = (mpt_status_t)setup->hellos[r].status;
    return status;
}

static mpt_status_t vote_over_boot(void *ctx, mpt_status_t own)
{
    return mpt_boot_agree(ctx, own);
}

/* A connection waits in its listener's queue until it is accepted, so with a vote between the steps
 * none of them has to wait: connect to all lower ranks, vote, accept all higher ones, swap the segments, with votes
 * of its own. */
static mpt_status_t map_over_sockets(mpt_comm_t *comm, setup_t *setup)
{
    shm_t *shm = comm->impl;
    const char *secret = setup->hellos[0].secret;
    mpt_status_t status = MPT_OK;
    for (int r = 0; r < comm->rank && !status; r++)
        status = mpt_shm_connect(comm, setup->hellos[r].name, secret, r);
    status = mpt_boot_agree(setup->boot, status);
    if (status)
        return status;
    status = mpt_shm_accept(comm, setup->listener, secret);
    return mpt_shm_swap_memory(comm, setup->segment_fd, shm->segment_bytes, status, vote_over_boot, setup->boot,
                               shm->segments);
}

static mpt_status_t connect_segments(mpt_comm_t *comm, setup_t *setup)
{
    shm_t *shm = comm->impl;
    mpt_status_t status = exchange_hellos(comm, setup);
    if (status)
        return status;
    if (!shm->one_process)
        return map_over_sockets(comm, setup);
    for (int r = 0; r < comm->ranks; r++)
        shm->segments[r] = (char *)(uintptr_t)setup->hellos[r].segment;
    return MPT_OK;
}

/* Let go of the segments. Threads share one mapping of each, which the last user unmaps. */
static void release_segments(mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++) {
        if (!shm->segments[r])
            continue;
        shm_flag_t *users = &mpt_shm_head(shm, r)->users;
        if (!shm->one_process || __atomic_sub_fetch(&users->value, 1, __ATOMIC_SEQ_CST) == 0)
            munmap(shm->segments[r], shm->segment_bytes);
    }
}

static void drop_own_segment(mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++)
        if (shm->segments[r] && (r == comm->rank || !shm->one_process))
            munmap(shm->segments[r], shm->segment_bytes);
}

/* Map every page of the slots and of what was said now: the first calls would stop for each, in turn, on every rank. A wish. */
static void fault_in_slots(const mpt_comm_t *comm)
{
#ifdef MADV_POPULATE_WRITE
    const shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++)
        (void)madvise(shm->segments[r], round_up(channels_offset(), 4096), MADV_POPULATE_WRITE);
#else
    (void)comm;
#endif
}

/* Create over a boot that need not be comm->boot: a split makes one of its own. */
static mpt_status_t create_over(mpt_comm_t *comm, mpt_boot_t *boot)
{
    mpt_status_t status = MPT_ERR_NO_MEMORY;
    size_t n = (size_t)comm->ranks;
    setup_t setup = {.boot = boot, .listener = -1, .segment_fd = -1};
    setup.hellos = calloc(n, sizeof *setup.hellos);
    shm_t *shm = shm_alloc(comm->ranks, boot->one_process);
    if (setup.hellos && shm)
        status = MPT_OK;
    else
        mpt_comm_log_error(comm, "out of memory for its tables");
    status = mpt_boot_agree(boot, status);
    if (status)
        goto done;
    comm->impl = shm;
    status = connect_segments(comm, &setup);
    if (setup.listener >= 0)
        close(setup.listener);
    if (setup.segment_fd >= 0)
        close(setup.segment_fd);
    if (!status) {
        shm->spoken = &mpt_shm_head(shm, 0)->spoken;
        comm->held_bytes += shm->segment_bytes;
        fault_in_slots(comm);
        shm = NULL; /* comm's now */
        goto done;
    }
    mpt_shm_unlink(comm);
    drop_own_segment(comm);
    comm->impl = NULL;

done:
    shm_free(shm);
    free(setup.hellos);
    return status;
}

static mpt_status_t shm_create(mpt_comm_t *comm)
{
    if (comm->boot->local_ranks == comm->ranks && comm->ranks <= SHM_MAX_RANKS)
        return create_over(comm, comm->boot);
    mpt_comm_log_error(comm, "backend shm serves ranks of one host only, 1024 at most");
    return MPT_ERR_INVALID_ARG;
}

static void shm_destroy(mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    if (!shm->gave_up)
        (void)mpt_shm_look_back(comm); /* logs what nobody else will: there is no next call */
    while (shm->regions)
        mpt_shm_deregister(comm, shm->regions);
    mpt_shm_store(&mpt_shm_head(shm, comm->rank)->state, SHM_LEFT);
    release_segments(comm);
    mpt_shm_unlink(comm);
    shm_free(shm);
}

/* ---- split: a boot among the members, over the parent's second lane
 * ---------------------------------- */

typedef struct family {
    mpt_comm_t *parent;
    const int *members; /* the child's ranks, in the parent's numbers */
} family_t;

static mpt_status_t family_exchange(mpt_boot_t *boot, const void *send, void *recv, size_t bytes)
{
    const family_t *family = boot->impl;
    mpt_status_t status = MPT_OK;
    for (int r = 0; r < boot->ranks && !status; r++)
        if (r != boot->rank)
            status = mpt_shm_mail_send(family->parent, 1, send, bytes, family->members[r]);
    for (int r = 0; r < boot->ranks && !status; r++)
        if (r != boot->rank)
            status = mpt_shm_mail_recv(family->parent, 1, (char *)recv + (size_t)r * bytes, bytes,
                                       family->members[r]);
    memcpy((char *)recv + (size_t)boot->rank * bytes, send, bytes);
    return status;
}

static const mpt_boot_ops_t family_ops = {"family", family_exchange, NULL};

static mpt_status_t shm_split(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child)
{
    (void)color;
    if (!child)
        return MPT_OK;
    family_t family = {comm, members};
    mpt_boot_t boot = {.ops = &family_ops,
                       .rank = child->rank,
                       .ranks = child->ranks,
                       .local_rank = child->rank,
                       .local_ranks = child->ranks,
                       .one_process = comm->boot->one_process,
                       .impl = &family};
    mpt_status_t status = create_over(child, &boot);
    if (!status)
        mpt_shm_speak_with(child, comm);
    return status;
}

/* ---- the rest of the table
 * ------------------------------------------------------------------------ */

static mpt_status_t shm_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                             mpt_stream_t *stream)
{
    (void)stream;
    return mpt_shm_mail_send(comm, 0, buffer, bytes, peer);
}

static mpt_status_t shm_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                             mpt_stream_t *stream)
{
    (void)stream;
    return mpt_shm_mail_recv(comm, 0, buffer, bytes, peer);
}

static mpt_status_t shm_poll(mpt_comm_t *comm)
{
    mpt_status_t status = mpt_shm_check_alarm(comm);
    status = status ? status : mpt_shm_look_back(comm);
    return status ? status : mpt_shm_check_peers(comm);
}

const mpt_comm_ops_t mpt_comm_shm = {
    .name = "shm",
    .scratch_bytes = shm_scratch_bytes,
    .own_bytes = shm_own_bytes,
    .create = shm_create,
    .destroy = shm_destroy,
    .reduce_scatter = mpt_shm_reduce_scatter,
    .all_gather = mpt_shm_all_gather,
    .all_reduce = mpt_shm_all_reduce,
    .broadcast = mpt_shm_broadcast,
    .all_to_all = mpt_shm_all_to_all,
    .send = shm_send,
    .recv = shm_recv,
    .split = shm_split,
    .poll = shm_poll,
    .abort = mpt_shm_raise_alarms,
    .register_mem = mpt_shm_register,
    .deregister_mem = mpt_shm_deregister,
};
