/*
 * Boot: who am I among how many, and a slow exchange of bytes to set a communicator up with. Made by the
 * host program (from MPI, or between threads of one process) and borrowed by comm. A boot is used by
 * one thread at a time. Host programs may bring their own: the structs are open for that.
 */
#ifndef MPT_BOOT_H
#define MPT_BOOT_H

#include <stddef.h>
#include "log.h"
#include "numeric.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_BOOT_MAX_RANKS MPT_SUM_MAX_RANKS /* of a session: small exchanges fit the stack */

typedef struct mpt_boot mpt_boot_t;

typedef struct mpt_boot_ops {
    const char *name; /* "self", "mpi", "threads" */
    /* Every rank gives `bytes` bytes, all get ranks*bytes in rank order. Collective, blocking, and
     * no rank returns before all have called. @return MPT_OK; MPT_ERR_COMM. */
    mpt_status_t (*exchange)(mpt_boot_t *boot, const void *send, void *recv, size_t bytes);
    void (*destroy)(mpt_boot_t *boot);
} mpt_boot_ops_t;

struct mpt_boot {
    const mpt_boot_ops_t *ops;
    int rank;
    int ranks;
    int local_rank; /* among the ranks of this host */
    int local_ranks;
    int one_process; /* 1: all ranks are threads of this process, pointers mean the same to all */
    /* 1: every host holds local_ranks ranks, consecutive ones, in order. Same on every rank; 0: not known. */
    int even_hosts;
    void *impl;      /* whatever `ops` keeps */
};

/** One rank alone. @return MPT_OK; MPT_ERR_NO_MEMORY. */
MPT_API mpt_status_t mpt_boot_self_create(mpt_boot_t **boot_p);
/** `ranks` boots for `ranks` threads of one process, boots_p[r] for rank r; each destroyed by its user, the
 *  last one frees what they share. Once one is destroyed, an exchange of the others fails instead of
 *  waiting for ever. @return MPT_OK; MPT_ERR_INVALID_ARG: ranks < 1; MPT_ERR_NO_MEMORY. */
MPT_API mpt_status_t mpt_boot_threads_create(int ranks, mpt_boot_t **boots_p);
/** Every rank's status in, the first failure by rank out on all: before a stage that needs what each rank has prepared.
 *  Collective; allocates nothing, so that a rank without memory can say so. At most MPT_BOOT_MAX_RANKS ranks.
 *  @return that status; MPT_ERR_COMM. */
mpt_status_t mpt_boot_agree(mpt_boot_t *boot, mpt_status_t own);
/** Destroy; NULL is allowed. */
MPT_API void mpt_boot_destroy(mpt_boot_t *boot);

#ifdef __cplusplus
}
#endif
#endif
