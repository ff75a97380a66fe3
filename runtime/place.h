/*
 * Placement: which cores a rank's threads run on. Ranks of one host whose allowed cores are the same share them
 * out by local rank; a rank that the launcher has bound already keeps what it was given.
 */
#ifndef MPT_PLACE_H
#define MPT_PLACE_H

#include "boot.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_PLACE_MAX_THREADS 256

typedef struct mpt_place {
    int threads;
    int bound;  /* cpus[] is meaningful */
    double load; /* threads of the ranks that share these cores, over the cores; at least 1 */
    int yield;  /* this host has fewer cores than threads of all its ranks: waits give the core away */
    int spare;  /* cores of this rank's share that none of its threads has */
    int cpus[MPT_PLACE_MAX_THREADS]; /* of the threads, then the spare ones */
} mpt_place_t;

/** Choose. `threads` 0: this rank's share of the cores, at least 1. Collective over the boot. @return MPT_OK; MPT_ERR_COMM. */
mpt_status_t mpt_place_choose(mpt_boot_t *boot, int threads, const mpt_log_t *log, mpt_place_t *place_p);
/** A rank's share with `local_ranks` ranks on this host, without asking anyone: for plans. */
int mpt_place_share(int local_ranks);

#ifdef __cplusplus
}
#endif
#endif
