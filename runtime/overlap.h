/*
 * Whether and how a session's communication overlaps with its compute. Every collective of a step is a job of one worker, in
 * the order of the program, which is the same on every rank: reductions, gathers. Where it overlaps, the worker
 * is a helper thread with a device, stream and kernels of its own, and the communicators are its; between a post and the wait for it
 * they are nobody else's. Where not, jobs run in the caller at once, on the session's own device.
 *
 * comm.overlap = auto overlaps where that takes no core from compute: where a core of this rank's share is left over, which the helper then has for itself,
 * and between hosts, where most of a collective is waiting for the network, in which the helper sleeps. Among ranks of one host without a core
 * to spare every byte is moved by the cores that compute: there is nothing to hide. Ranks need not decide alike: the calls are the same.
 */
#ifndef MPT_OVERLAP_H
#define MPT_OVERLAP_H

#include "kernels.h"
#include "pool.h"
#include "worker.h"

typedef struct mpt_session mpt_session_t;

typedef struct mpt_overlap {
    int on;
    mpt_worker_t *worker;
    mpt_device_t *device;   /* the communicators' and the jobs': where off the session's own, as are the next two */
    mpt_stream_t *stream;
    mpt_kernels_t *kernels;
    mpt_pool_t *own_pool; /* of one: the helper itself */
    mpt_device_t *own_device;
    mpt_kernels_t own_kernels;
} mpt_overlap_t;

/** Decide, and start the worker; before communicators are made. @return MPT_OK; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_overlap_open(mpt_session_t *session);
/** Its kernels, once there is memory and the session has its own. @return MPT_OK; MPT_ERR_INVALID_ARG. */
mpt_status_t mpt_overlap_open_kernels(mpt_session_t *session);
/** 1 where the helper has no core of its own: it shares those that compute. */
int mpt_overlap_shares_core(const mpt_session_t *session);
/** End the worker, before the communicators go. */
void mpt_overlap_end(mpt_session_t *session);
/** Free the rest, after the communicators. */
void mpt_overlap_close(mpt_session_t *session);

#endif
