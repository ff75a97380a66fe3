/*
 * The boot of ranks that MPI started. Needs MPI_Init before and must be destroyed before MPI_Finalize. mpi.h
 * stays out of this header: a communicator is passed by its address.
 */
#ifndef MPT_BOOT_MPI_H
#define MPT_BOOT_MPI_H

#include "boot.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A boot over the ranks of a communicator, which is duplicated and may be freed afterwards. Collective.
 * mpi_comm: address of an MPI_Comm. log: borrowed, must outlive the boot; may be NULL: a lack of memory
 * is then said on standard error.
 * @return MPT_OK; MPT_ERR_INVALID_ARG: MPI is not initialised; MPT_ERR_NO_MEMORY; MPT_ERR_COMM.
 */
MPT_API mpt_status_t mpt_boot_mpi_create(const void *mpi_comm, const mpt_log_t *log,
                                         mpt_boot_t **boot_p);

/** 1 where MPI lets several threads in, one at a time: initialised with MPI_THREAD_SERIALIZED or more. */
int mpt_boot_mpi_serialized(void);
/** Address of a boot's own MPI_Comm (borrowed); NULL where MPI did not make this boot. */
const void *mpt_boot_mpi_comm(const mpt_boot_t *boot);

#ifdef __cplusplus
}
#endif
#endif
