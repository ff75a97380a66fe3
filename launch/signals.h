/*
 * Signals that ask a run to save and stop: SIGUSR1, SIGTERM, SIGINT. One thread waits for them, so that no
 * handler and no global is needed; every thread started after mpt_signals_create has them blocked. Before a
 * session is attached SIGINT ends the process as ever, and the other two are remembered; a second SIGINT
 * always ends it. Create before MPI_Init, whose threads must inherit the mask.
 */
#ifndef MPT_SIGNALS_H
#define MPT_SIGNALS_H

#include "mpt.h"

typedef struct mpt_signals mpt_signals_t;

/** @return MPT_OK; MPT_ERR_NO_MEMORY: no thread, signals are as they were. */
mpt_status_t mpt_signals_create(mpt_signals_t **signals_p);
/** The session to stop and whom to tell (any thread may be running `told`); session NULL: none any more. */
void mpt_signals_attach(mpt_signals_t *signals, mpt_session_t *session,
                        void (*told)(void *ctx, const char *signal_name), void *ctx);
/** Stop the thread; signals stay blocked, since the process is about to end. NULL is allowed. */
void mpt_signals_destroy(mpt_signals_t *signals);

#endif
