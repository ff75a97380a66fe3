#include "world.h"
#include <stdio.h>
#include "mpt_mpi.h"

static mpt_status_t open_mpi(mpt_world_t *world)
{
    int provided;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) {
        fprintf(stderr, "mpt-ddp: MPI_Init_thread failed\n");
        return MPT_ERR_COMM;
    }
    world->mpi = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &world->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world->ranks);
    return mpt_boot_mpi(MPI_COMM_WORLD, &world->boot);
}

mpt_status_t mpt_world_open(mpt_world_t *world)
{
    *world = (mpt_world_t){.ranks = 1};
    if (mpt_launched_by_mpi())
        return open_mpi(world);
    mpt_status_t status = mpt_boot_self_create(&world->boot);
    if (status != MPT_OK)
        fprintf(stderr, "mpt-ddp: %s\n", mpt_status_string(status));
    return status;
}

mpt_status_t mpt_world_agree(const mpt_world_t *world, mpt_status_t own)
{
    int status = (int)own;
    if (world->mpi)
        MPI_Allreduce(MPI_IN_PLACE, &status, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    return (mpt_status_t)status;
}

void mpt_world_sum(const mpt_world_t *world, double *values, int count)
{
    if (!world->mpi)
        return;
    const void *send = world->rank == 0 ? MPI_IN_PLACE : values;
    MPI_Reduce(send, values, count, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
}

void mpt_world_close(mpt_world_t *world, mpt_status_t status)
{
    mpt_boot_destroy(world->boot);
    world->boot = NULL;
    if (!world->mpi)
        return;
    if (status == MPT_ERR_COMM)
        MPI_Abort(MPI_COMM_WORLD, mpt_status_exit_code(status));
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
}
