/*
 * mpt-ddp over MPI: the one public header that includes mpi.h. Call MPI_Init_thread before, with at least
 * MPI_THREAD_FUNNELED, and with MPI_THREAD_SERIALIZED for communication beside compute (comm.overlap); destroy the boot before
 * MPI_Finalize. While a session is open, MPI calls of the host program must not run at the same time as the session's. These end
 * with the call on the session; but where communication overlaps (mpt_session_info), what follows an update goes on after
 * mpt_session_step and mpt_session_train, and beside the latter's hooks, until mpt_session_traffic, which waits for it.
 */
#ifndef MPT_MPI_H
#define MPT_MPI_H

#include <mpi.h>
#include "mpt.h"

#ifdef __cplusplus
extern "C" {
#endif

struct mpt_log;

/** What mpt_boot_mpi calls: mpi_comm is the address of an MPI_Comm; log: the library's own, or NULL. */
MPT_API mpt_status_t mpt_boot_mpi_create(const void *mpi_comm, const struct mpt_log *log,
                                         mpt_boot_t **boot_p);

/**
 * The ranks of an MPI communicator as the ranks of a session. Collective; `comm` is duplicated. Destroy
 * with mpt_boot_destroy.
 * @return MPT_OK; MPT_ERR_INVALID_ARG: MPI is not initialised; MPT_ERR_NO_MEMORY; MPT_ERR_COMM.
 */
static inline mpt_status_t mpt_boot_mpi(MPI_Comm comm, mpt_boot_t **boot_p)
{
    return mpt_boot_mpi_create(&comm, (const struct mpt_log *)0, boot_p);
}

/** 1 where mpirun or srun started this process; where not, MPI_Init only costs time. May be called before MPI_Init. */
MPT_API int mpt_launched_by_mpi(void);

#ifdef __cplusplus
}
#endif
#endif
