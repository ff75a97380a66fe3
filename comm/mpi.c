#include <stdlib.h>
#include "boot_mpi.h"
#include "mpi_backend.h"

#define SCRATCH_BYTES                                                                              \
    ((size_t)8 << 20) /* in all, for up to 1024 ranks; beyond, MIN_BLOCK_BYTES rules */
#define MIN_BLOCK_BYTES ((size_t)4096)
#define BLOCK_ALIGN                                                                                \
    ((size_t)256)     /* 64 of the widest elements, so that padded slices fill blocks  \
                                   */
#define GOODBYE_S 0.5 /* how long destroy waits for our alarm to leave */

/* Two chunks are under way at a time, of one block a rank. */
static size_t block_bytes(int ranks)
{
    size_t bytes = SCRATCH_BYTES / (2 * (size_t)ranks) / BLOCK_ALIGN * BLOCK_ALIGN;
    return bytes < MIN_BLOCK_BYTES ? MIN_BLOCK_BYTES : bytes;
}

static size_t mpi_scratch_bytes(int ranks)
{
    return 2 * (size_t)ranks * block_bytes(ranks);
}

/* Requests, peers and sources: the tables below. MPI's own buffers are its business. */
static size_t mpi_own_bytes(int ranks, int local_ranks)
{
    (void)local_ranks;
    size_t each = 4 * sizeof(MPI_Request) + 6 * sizeof(int) + 4 * sizeof(size_t) +
                  2 * sizeof(MPI_Status) + sizeof(MPI_Request) + sizeof(void *) + 1;
    return sizeof(mpi_t) + (size_t)ranks * each;
}

static void mpi_free(mpi_t *mpi)
{
    if (!mpi)
        return;
    for (int b = 0; b < 2; b++) {
        free(mpi->batches[b].requests);
        free(mpi->batches[b].peers);
        free(mpi->batches[b].awaited);
    }
    free(mpi->indices);
    free(mpi->statuses);
    free(mpi->alarms);
    free(mpi->sources);
    free(mpi->missing);
    free(mpi);
}

/* Zeroed, and counted. */
static void *take(size_t *held_p, size_t count, size_t each)
{
    *held_p += count * each;
    return calloc(count, each);
}

static int batch_alloc(mpi_batch_t *batch, size_t messages, size_t *held_p)
{
    batch->requests = take(held_p, messages, sizeof *batch->requests);
    batch->peers = take(held_p, messages, sizeof *batch->peers);
    batch->awaited = take(held_p, messages, sizeof *batch->awaited);
    return batch->requests && batch->peers && batch->awaited;
}

static mpi_t *mpi_alloc(int ranks, size_t *held_p)
{
    size_t n = (size_t)ranks, held = 0;
    mpi_t *mpi = take(&held, 1, sizeof *mpi);
    if (!mpi)
        return NULL;
    mpi->data = mpi->alarm = MPI_COMM_NULL;
    mpi->block = block_bytes(ranks);
    int got_batches = batch_alloc(&mpi->batches[0], 2 * n, &held) && batch_alloc(&mpi->batches[1], 2 * n, &held);
    mpi->indices = take(&held, 2 * n, sizeof *mpi->indices);
    mpi->statuses = take(&held, 2 * n, sizeof *mpi->statuses);
    mpi->alarms = take(&held, n, sizeof *mpi->alarms);
    mpi->sources = take(&held, n, sizeof *mpi->sources);
    mpi->missing = take(&held, n, 1);
    if (!got_batches || !mpi->indices || !mpi->statuses || !mpi->alarms || !mpi->sources ||
        !mpi->missing) {
        mpi_free(mpi);
        return NULL;
    }
    for (int r = 0; r < ranks; r++)
        mpi->alarms[r] = MPI_REQUEST_NULL;
    *held_p = held;
    return mpi;
}

static mpt_status_t mpi_error(const mpt_comm_t *comm, int error)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length;
    MPI_Error_string(error, text, &length);
    mpt_comm_log_error(comm, text);
    return MPT_ERR_COMM;
}

/* Finish a communicator whose `data` is set. Every rank of it learns whether all had memory. */
static mpt_status_t set_up(mpt_comm_t *comm, MPI_Comm data)
{
    size_t held = 0;
    mpi_t *mpi = mpi_alloc(comm->ranks, &held);
    int status = mpi ? MPT_OK : MPT_ERR_NO_MEMORY;
    MPI_Comm alarm = MPI_COMM_NULL;
    if (!mpi)
        mpt_comm_log_error(comm, "out of memory for its tables");
    MPI_Comm_set_errhandler(data, MPI_ERRORS_RETURN);
    int error = MPI_Allreduce(MPI_IN_PLACE, &status, 1, MPI_INT, MPI_MAX, data);
    if (error)
        status = (int)mpi_error(comm, error);
    if (!status && (error = MPI_Comm_dup(data, &alarm)) != MPI_SUCCESS)
        status = (int)mpi_error(comm, error);
    if (status) {
        mpi_free(mpi);
        return (mpt_status_t)status;
    }
    MPI_Comm_set_errhandler(alarm, MPI_ERRORS_RETURN);
    mpi->data = data;
    mpi->alarm = alarm;
    comm->impl = mpi;
    comm->held_bytes += held;
    return MPT_OK;
}

static mpt_status_t mpi_create(mpt_comm_t *comm)
{
    const MPI_Comm *given = mpt_boot_mpi_comm(comm->boot);
    if (!given) {
        mpt_comm_log_error(comm, "backend mpi needs ranks that MPI started");
        return MPT_ERR_INVALID_ARG;
    }
    MPI_Comm data;
    int error = MPI_Comm_dup(*given, &data);
    if (error)
        return mpi_error(comm, error);
    mpt_status_t status = set_up(comm, data);
    if (status)
        MPI_Comm_free(&data);
    return status;
}

static mpt_status_t mpi_split(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child)
{
    (void)members; /* MPI orders by key, then rank: the child's ranks as keys give the same order */
    const mpi_t *mpi = comm->impl;
    MPI_Comm data;
    int error =
        MPI_Comm_split(mpi->data, child ? color : MPI_UNDEFINED, child ? child->rank : 0, &data);
    if (error)
        return mpi_error(comm, error);
    if (!child)
        return MPT_OK;
    mpt_status_t status = set_up(child, data);
    if (status)
        MPI_Comm_free(&data);
    return status;
}

/* Our alarm may still wait to be sent, and only calls to MPI move it on. */
static void see_alarms_off(const mpt_comm_t *comm, mpi_t *mpi)
{
    double start = mpt_comm_now();
    int done = 0;
    while (!done && mpt_comm_now() - start < GOODBYE_S)
        if (MPI_Testall(comm->ranks, mpi->alarms, &done, MPI_STATUSES_IGNORE))
            return;
}

/* After a failure the communicators stay: freeing is collective, and messages may still be under
 * way. */
static void mpi_destroy(mpt_comm_t *comm)
{
    mpi_t *mpi = comm->impl;
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized)
        mpt_comm_log_error(comm, "destroyed after MPI_Finalize");
    else if (comm->failed || mpi->gave_up)
        see_alarms_off(comm, mpi);
    else {
        MPI_Comm_free(&mpi->alarm);
        MPI_Comm_free(&mpi->data);
    }
    mpi_free(mpi);
}

/* MPI's messages need no registration: whatever it can do without copies, it does. */
static mpt_status_t mpi_register(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p)
{
    (void)comm, (void)mem;
    *handle_p = NULL;
    return MPT_OK;
}

static void mpi_deregister(mpt_comm_t *comm, void *handle)
{
    (void)comm, (void)handle;
}

const mpt_comm_ops_t mpt_comm_mpi = {
    .name = "mpi",
    .scratch_bytes = mpi_scratch_bytes,
    .own_bytes = mpi_own_bytes,
    .create = mpi_create,
    .destroy = mpi_destroy,
    .reduce_scatter = mpt_mpi_reduce_scatter,
    .all_gather = mpt_mpi_all_gather,
    .all_reduce = mpt_mpi_all_reduce,
    .broadcast = mpt_mpi_broadcast,
    .all_to_all = mpt_mpi_all_to_all,
    .send = mpt_mpi_send,
    .recv = mpt_mpi_recv,
    .split = mpi_split,
    .poll = mpt_mpi_check_alarm,
    .abort = mpt_mpi_raise_alarms,
    .register_mem = mpi_register,
    .deregister_mem = mpi_deregister,
};
