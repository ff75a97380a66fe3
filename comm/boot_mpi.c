#include "boot_mpi.h"

#include <limits.h>
#include <mpi.h>
#include <stdlib.h>

typedef struct boot_mpi {
    MPI_Comm comm; /* our own duplicate */
    const mpt_log_t *log;
} boot_mpi_t;

static mpt_status_t failed(const mpt_log_t *log, const char *call, int error)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(error, text, &length);
    mpt_log_error(log, "boot: %s: %s", call, text);
    return MPT_ERR_COMM;
}

static mpt_status_t boot_mpi_exchange(mpt_boot_t *boot, const void *send, void *recv, size_t bytes)
{
    boot_mpi_t *impl = boot->impl;
    if (bytes > INT_MAX) {
        mpt_log_error(impl->log, "boot: exchange of %zu bytes is too large", bytes);
        return MPT_ERR_COMM;
    }
    int error = MPI_Allgather(send, (int)bytes, MPI_BYTE, recv, (int)bytes, MPI_BYTE, impl->comm);
    return error ? failed(impl->log, "MPI_Allgather", error) : MPT_OK;
}

static void boot_mpi_destroy(mpt_boot_t *boot)
{
    boot_mpi_t *impl = boot->impl;
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized && impl->comm != MPI_COMM_NULL)
        MPI_Comm_free(&impl->comm);
    free(impl);
    free(boot);
}

static const mpt_boot_ops_t boot_mpi_ops = {"mpi", boot_mpi_exchange, boot_mpi_destroy};

const void *mpt_boot_mpi_comm(const mpt_boot_t *boot)
{
    return boot->ops == &boot_mpi_ops ? &((const boot_mpi_t *)boot->impl)->comm : NULL;
}

int mpt_boot_mpi_serialized(void)
{
    int initialized = 0, level = MPI_THREAD_SINGLE;
    MPI_Initialized(&initialized);
    if (initialized)
        MPI_Query_thread(&level);
    return level >= MPI_THREAD_SERIALIZED;
}

/* Does every host hold as many ranks, consecutive ones? Numbers on a host are in rank order: where they run
 * 0, 1, .. local_ranks - 1 again and again, each run is a host. */
static mpt_status_t compare_hosts(mpt_boot_t *boot)
{
    boot_mpi_t *impl = boot->impl;
    int fits = boot->local_rank == boot->rank % boot->local_ranks;
    int least[] = {boot->local_ranks, -boot->local_ranks, fits};
    int error = MPI_Allreduce(MPI_IN_PLACE, least, 3, MPI_INT, MPI_MIN, impl->comm);
    boot->even_hosts = least[0] == -least[1] && least[2];
    return error ? failed(impl->log, "MPI_Allreduce", error) : MPT_OK;
}

/* MPI knows which ranks can share memory; that is what "this host" means here. */
static mpt_status_t find_local_ranks(mpt_boot_t *boot)
{
    boot_mpi_t *impl = boot->impl;
    MPI_Comm local;
    int error =
        MPI_Comm_split_type(impl->comm, MPI_COMM_TYPE_SHARED, boot->rank, MPI_INFO_NULL, &local);
    if (error)
        return failed(impl->log, "MPI_Comm_split_type", error);
    MPI_Comm_rank(local, &boot->local_rank);
    MPI_Comm_size(local, &boot->local_ranks);
    MPI_Comm_free(&local);
    return compare_hosts(boot);
}

static mpt_status_t join(mpt_boot_t *boot, MPI_Comm given)
{
    boot_mpi_t *impl = boot->impl;
    int error = MPI_Comm_dup(given, &impl->comm);
    if (error)
        return failed(impl->log, "MPI_Comm_dup", error);
    MPI_Comm_set_errhandler(impl->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(impl->comm, &boot->rank);
    MPI_Comm_size(impl->comm, &boot->ranks);
    return find_local_ranks(boot);
}

/* Does every rank have memory for a boot? Joining needs all of them. */
static mpt_status_t agree(MPI_Comm given, int have, const mpt_log_t *log)
{
    int all = have;
    if (!have)
        mpt_log_no_memory(log, sizeof(boot_mpi_t) + sizeof(mpt_boot_t), "a boot");
    int error = MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, given);
    if (error)
        return failed(log, "MPI_Allreduce", error);
    return all ? MPT_OK : MPT_ERR_NO_MEMORY;
}

mpt_status_t mpt_boot_mpi_create(const void *mpi_comm, const mpt_log_t *log, mpt_boot_t **boot_p)
{
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (!initialized || !mpi_comm)
        return MPT_ERR_INVALID_ARG;
    const MPI_Comm given = *(const MPI_Comm *)mpi_comm;
    mpt_log_t aloud = {.level = MPT_LOG_ERROR};
    MPI_Comm_rank(given, &aloud.rank);
    boot_mpi_t *impl = calloc(1, sizeof *impl);
    mpt_boot_t *boot = calloc(1, sizeof *boot);
    mpt_status_t status = agree(given, impl && boot, log ? log : &aloud);
    if (status)
        goto fail;
    *impl = (boot_mpi_t){.comm = MPI_COMM_NULL, .log = log};
    *boot = (mpt_boot_t){.ops = &boot_mpi_ops, .impl = impl};
    status = join(boot, given);
    if (status)
        goto fail_join;
    *boot_p = boot;
    return MPT_OK;

fail_join:
    if (impl->comm != MPI_COMM_NULL)
        MPI_Comm_free(&impl->comm);
fail:
    free(boot);
    free(impl);
    return status;
}
