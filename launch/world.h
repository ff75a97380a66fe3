/*
 * Who the ranks of this process's run are: MPI's world where something like mpirun started the process, else
 * this process alone, without MPI at all (Open MPI's lone start costs a daemon and a third of a second).
 * Owned by the thread that opened it, which makes every MPI call here; no session may be open meanwhile.
 */
#ifndef MPT_WORLD_H
#define MPT_WORLD_H

#include "mpt.h"

typedef struct mpt_world {
    int mpi; /* MPI is initialised */
    int rank, ranks;
    mpt_boot_t *boot; /* for the session */
} mpt_world_t;

/** Collective. @return MPT_OK; MPT_ERR_COMM; MPT_ERR_NO_MEMORY: close the world all the same. */
mpt_status_t mpt_world_open(mpt_world_t *world);
/** Every rank's status in, the worst out on all. Collective. */
mpt_status_t mpt_world_agree(const mpt_world_t *world, mpt_status_t own);
/** Sum `count` values over all ranks, in place; rank 0 alone gets the sums. Collective. */
void mpt_world_sum(const mpt_world_t *world, double *values, int count);
/**
 * Barrier, then MPI_Finalize. Collective, so that no rank's exit code ends the others early. A failed
 * communicator aborts instead: its peers may never arrive. The session must be closed.
 */
void mpt_world_close(mpt_world_t *world, mpt_status_t status);

#endif
