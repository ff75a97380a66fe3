#include "hier.h"

#include <stdlib.h>

/* Two chunks are under way at a time; of each there is a block a host to send, and one to receive. Larger blocks than
 * these leave too little to travel while the row sums; so many hosts that they get smaller ones share the most. */
#define BLOCKS 4 /* a host */
#define MAX_BLOCK_BYTES ((size_t)256 << 10)
#define MAX_SCRATCH_BYTES ((size_t)8 << 20)
#define BLOCK_ALIGN ((size_t)256)

static size_t block_bytes(int hosts)
{
    size_t share = MAX_SCRATCH_BYTES / (BLOCKS * (size_t)hosts) / BLOCK_ALIGN * BLOCK_ALIGN;
    return mpt_min_bytes(share, MAX_BLOCK_BYTES);
}

/* For as many hosts as `ranks` allows. */
static size_t hier_scratch_bytes(int ranks)
{
    return mpt_min_bytes(MAX_SCRATCH_BYTES, BLOCKS * MAX_BLOCK_BYTES * (size_t)(ranks / 2));
}

/* What hier_alloc allocates. */
static size_t table_bytes(int ranks, int local_ranks)
{
    return sizeof(hier_t) + (size_t)local_ranks * sizeof(int) + (size_t)(ranks / local_ranks) * sizeof(void *);
}

static size_t hier_own_bytes(int ranks, int local_ranks)
{
    return table_bytes(ranks, local_ranks) + mpt_comm_mpi.own_bytes(ranks, local_ranks) +
           mpt_comm_shm.own_bytes(local_ranks, local_ranks);
}

/* ---- giving up together -------------------------------------------------------------------------- */

mpt_status_t mpt_hier_begin(mpt_comm_t *comm)
{
    hier_t *hier = comm->impl;
    hier->local.timeout_s = comm->timeout_s;
    hier->world.timeout_s = HIER_WORLD_PATIENCE * comm->timeout_s;
    return mpt_mpi_check_alarm(&hier->world);
}

/* What this rank found in its row goes to all; what it found or heard over MPI, to its row: those there may be waiting
 * for this rank. What it heard in its row the others hear from whom it came. */
static void spread_alarm(mpt_comm_t *comm)
{
    hier_t *hier = comm->impl;
    const mpi_t *mpi = hier->world.impl;
    const char *own = mpt_shm_head(hier->local.impl, hier->lane)->reason;
    if (own[0])
        mpt_mpi_raise_alarms(&hier->world, own);
    if (mpi->reason[0])
        mpt_shm_raise_alarms(&hier->local, mpi->reason);
}

mpt_status_t mpt_hier_end(mpt_comm_t *comm, mpt_status_t status)
{
    hier_t *hier = comm->impl;
    if (status)
        spread_alarm(comm);
    return mpt_mpi_end(&hier->world, status);
}

static mpt_status_t hier_poll(mpt_comm_t *comm)
{
    hier_t *hier = comm->impl;
    mpt_status_t status = mpt_mpi_check_alarm(&hier->world);
    if (!hier->has_local)
        return status;
    status = status ? status : mpt_comm_shm.poll(&hier->local);
    if (status)
        spread_alarm(comm);
    return status;
}

static mpt_status_t look_after_whole(mpt_comm_t *part)
{
    return hier_poll(part->whole);
}

static void hier_abort(mpt_comm_t *comm, const char *reason)
{
    hier_t *hier = comm->impl;
    mpt_mpi_raise_alarms(&hier->world, reason);
    mpt_shm_raise_alarms(&hier->local, reason);
}

/* ---- create and destroy -------------------------------------------------------------------------- */

static void hier_free(hier_t *hier)
{
    if (!hier)
        return;
    free(hier->numbers);
    free(hier->sources);
    free(hier);
}

static hier_t *hier_alloc(const mpt_comm_t *comm, int local_ranks)
{
    int hosts = comm->ranks / local_ranks;
    hier_t *hier = calloc(1, sizeof *hier);
    if (!hier)
        goto fail;
    hier->local_ranks = local_ranks;
    hier->hosts = hosts;
    hier->host = comm->rank / local_ranks;
    hier->lane = comm->rank % local_ranks;
    hier->block = block_bytes(hosts);
    hier->numbers = calloc((size_t)local_ranks, sizeof *hier->numbers);
    hier->sources = calloc((size_t)hosts, sizeof *hier->sources);
    if (hier->numbers && hier->sources)
        return hier;

fail:
    mpt_comm_log_error(comm, "out of memory for its tables");
    hier_free(hier);
    return NULL;
}

static mpt_comm_t inner_part(mpt_comm_t *comm, const mpt_comm_ops_t *ops, int rank, int ranks)
{
    return (mpt_comm_t){.ops = ops,
                        .rank = rank,
                        .ranks = ranks,
                        .boot = comm->boot,
                        .device = comm->device,
                        .log = comm->log,
                        .timeout_s = comm->timeout_s,
                        .yield = comm->yield,
                        .beside = comm->beside,
                        .whole = comm,
                        .idle = look_after_whole};
}

static void place_world(mpt_comm_t *comm, hier_t *hier)
{
    hier->world = inner_part(comm, &mpt_comm_mpi, comm->rank, comm->ranks);
    hier->world.world = comm->world;
    comm->impl = hier;
}

static mpt_status_t row_exchange(mpt_boot_t *boot, const void *send, void *recv, size_t bytes)
{
    mpt_comm_t *comm = boot->impl;
    const hier_t *hier = comm->impl;
    mpt_comm_copy(comm, (char *)recv + (size_t)hier->lane * bytes, send, bytes);
    return mpt_hier_swap_row(
        comm, &(hier_swap_t){.send = send, .recv = recv, .recv_stride = bytes, .bytes = bytes});
}

static const mpt_boot_ops_t row_ops = {"row", row_exchange, NULL};

static void place_local(mpt_comm_t *comm)
{
    hier_t *hier = comm->impl;
    hier->boot = (mpt_boot_t){.ops = &row_ops,
                              .rank = hier->lane,
                              .ranks = hier->local_ranks,
                              .local_rank = hier->lane,
                              .local_ranks = hier->local_ranks,
                              .impl = comm};
    hier->local = inner_part(comm, &mpt_comm_shm, hier->lane, hier->local_ranks);
    hier->local.boot = &hier->boot;
    hier->local.world = hier->numbers;
    for (int i = 0; i < hier->local_ranks; i++)
        hier->numbers[i] = mpt_comm_world_rank(comm, hier->host * hier->local_ranks + i);
}

static void hier_close(mpt_comm_t *comm)
{
    hier_t *hier = comm->impl;
    if (hier->has_local)
        mpt_comm_shm.destroy(&hier->local);
    hier->world.failed = comm->failed;
    if (hier->world.impl)
        mpt_comm_mpi.destroy(&hier->world);
    hier_free(hier);
    comm->impl = NULL;
}

/* `world` is there: add `local`, on all hosts or on none. Closes what there is on failure. */
static mpt_status_t open_local(mpt_comm_t *comm)
{
    hier_t *hier = comm->impl;
    place_local(comm);
    mpt_status_t status = mpt_comm_shm.create(&hier->local);
    hier->has_local = status == MPT_OK;
    status = mpt_comm_agree(&hier->world, status);
    comm->held_bytes += table_bytes(comm->ranks, hier->local_ranks) + hier->world.held_bytes + hier->local.held_bytes;
    if (!status)
        return MPT_OK;
    comm->failed = status == MPT_ERR_COMM; /* freeing MPI's communicators would need everyone */
    hier_close(comm);
    return status;
}

/* What each rank says of itself before any can decide. */
typedef struct place {
    int32_t status;
    int32_t local_ranks, local_rank;
} place_t;

static int places_fit(const place_t *places, int ranks)
{
    int local = places[0].local_ranks;
    if (local < 2 || (local & (local - 1)) != 0 || local == ranks || ranks % local != 0)
        return 0;
    for (int r = 0; r < ranks; r++)
        if (places[r].local_ranks != local || places[r].local_rank != r % local)
            return 0;
    return 1;
}

/* All come to the same result. */
static mpt_status_t agree_on_places(const mpt_comm_t *comm, mpt_status_t mine)
{
    mpt_boot_t *boot = comm->boot;
    place_t places[MPT_COMM_MAX_RANKS];
    place_t own = {(int32_t)mine, boot->local_ranks, boot->local_rank};
    mpt_status_t status = boot->ops->exchange(boot, &own, places, sizeof own);
    for (int r = 0; r < comm->ranks && !status; r++)
        status = (mpt_status_t)places[r].status;
    if (status || places_fit(places, comm->ranks))
        return status;
    mpt_comm_log_error(
        comm, "backend hier serves two hosts or more that hold the same power of two, at least 2, "
              "of consecutive ranks");
    return MPT_ERR_INVALID_ARG;
}

static mpt_status_t hier_create(mpt_comm_t *comm)
{
    int local_ranks = comm->boot->local_ranks, sane = local_ranks > 0 && local_ranks <= comm->ranks;
    hier_t *hier = hier_alloc(comm, sane ? local_ranks : 1);
    mpt_status_t status = agree_on_places(comm, hier ? MPT_OK : MPT_ERR_NO_MEMORY);
    if (status)
        goto free_hier;
    place_world(comm, hier);
    status = mpt_comm_mpi.create(&hier->world);
    if (status)
        goto free_hier;
    return open_local(comm);

free_hier:
    hier_free(hier);
    comm->impl = NULL;
    return status;
}

/* ---- split ----------------------------------------------------------------------------------------- */

/* The hosts' numbers of a child's members. */
static void find_hosts(const mpt_comm_t *comm, const int *members, int count, int *hosts)
{
    const hier_t *hier = comm->impl;
    for (int i = 0; i < count; i++)
        hosts[i] = members[i] / hier->local_ranks;
}

static int on_one_host(const int *hosts, int count)
{
    for (int i = 1; i < count; i++)
        if (hosts[i] != hosts[0])
            return 0;
    return 1;
}

/* Every host holds a power of two of consecutive ranks, for all members on one host all; local: 0 where members lie otherwise. */
static const mpt_comm_ops_t *hier_child_kind(int count, int local)
{
    if (count == 1)
        return &mpt_comm_self;
    if (local == count)
        return &mpt_comm_shm;
    return local > 1 ? &mpt_comm_hier : &mpt_comm_mpi;
}

static const mpt_comm_ops_t *hier_child_ops(const mpt_comm_t *comm, const int *members, int count)
{
    int hosts[MPT_COMM_MAX_RANKS];
    find_hosts(comm, members, count, hosts);
    return hier_child_kind(count, on_one_host(hosts, count) ? count : mpt_comm_even_hosts(hosts, count));
}

/* Room for a hier child, before anyone waits for it. */
static mpt_status_t prepare_child(const mpt_comm_t *comm, const int *members, mpt_comm_t *child)
{
    int hosts[MPT_COMM_MAX_RANKS];
    find_hosts(comm, members, child->ranks, hosts);
    hier_t *hier = hier_alloc(child, mpt_comm_even_hosts(hosts, child->ranks));
    if (!hier)
        return MPT_ERR_NO_MEMORY;
    place_world(child, hier);
    return MPT_OK;
}

/* Nobody else would move MPI's messages on while this rank waits in a child of its host. */
static mpt_status_t progress_mpi(mpt_comm_t *comm)
{
    (void)comm;
    int pending;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_SELF, &pending, MPI_STATUS_IGNORE);
    return MPT_OK;
}

static mpt_status_t split_row(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child)
{
    hier_t *hier = comm->impl;
    int lanes[SHM_MAX_RANKS];
    for (int i = 0; i < child->ranks; i++)
        lanes[i] = members[i] % hier->local_ranks;
    child->idle = progress_mpi;
    return mpt_comm_shm.split(&hier->local, color, lanes, child);
}

/* Every rank splits `world`, which is collective, with a child or without. */
static mpt_status_t split_parts(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child)
{
    hier_t *hier = comm->impl;
    const mpt_comm_ops_t *ops = child ? child->ops : NULL;
    mpt_status_t status = MPT_OK;
    if (ops == &mpt_comm_hier)
        status = prepare_child(comm, members, child);
    status = mpt_comm_agree(&hier->world, status);
    mpt_comm_t *over_mpi = ops == &mpt_comm_mpi ? child : NULL;
    if (ops == &mpt_comm_hier && child->impl)
        over_mpi = &((hier_t *)child->impl)->world;
    if (!status)
        status = mpt_comm_mpi.split(&hier->world, color, members, over_mpi);
    if (!status && ops == &mpt_comm_shm)
        return split_row(comm, color, members, child);
    if (ops != &mpt_comm_hier)
        return status;
    if (status)
        hier_free(child->impl);
    else
        status = open_local(child);
    if (!status)
        mpt_shm_speak_with(&((hier_t *)child->impl)->local, &hier->local);
    return status;
}

static mpt_status_t hier_split(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child)
{
    mpt_status_t status = mpt_hier_begin(comm);
    return mpt_hier_end(comm, status ? status : split_parts(comm, color, members, child));
}

/* ---- registration and the table ------------------------------------------------------------------ */

/* Only the row reads each other's memory, and knows where it could not: the other hosts hear of it. */
static mpt_status_t hier_register(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p)
{
    hier_t *hier = comm->impl;
    mpt_status_t status = mpt_hier_begin(comm);
    status = status ? status : mpt_comm_shm.register_mem(&hier->local, mem, handle_p);
    status = mpt_hier_end(comm, status);
    if (status)
        hier_abort(comm, "a registration failed"); /* where no better reason has gone out */
    return status;
}

static void hier_deregister(mpt_comm_t *comm, void *handle)
{
    hier_t *hier = comm->impl;
    mpt_comm_shm.deregister_mem(&hier->local, handle);
}

const mpt_comm_ops_t mpt_comm_hier = {
    .name = "hier",
    .scratch_bytes = hier_scratch_bytes,
    .own_bytes = hier_own_bytes,
    .create = hier_create,
    .destroy = hier_close,
    .reduce_scatter = mpt_hier_reduce_scatter,
    .all_gather = mpt_hier_all_gather,
    .all_reduce = mpt_hier_all_reduce,
    .broadcast = mpt_hier_broadcast,
    .all_to_all = mpt_hier_all_to_all,
    .send = mpt_hier_send,
    .recv = mpt_hier_recv,
    .child_ops = hier_child_ops,
    .child_kind = hier_child_kind,
    .split = hier_split,
    .poll = hier_poll,
    .abort = hier_abort,
    .register_mem = hier_register,
    .deregister_mem = hier_deregister,
};
