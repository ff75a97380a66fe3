/*
 * A run as a person watches it, on rank 0: one line a step where standard output is a pipe or a file, one
 * live line redrawn in place where it is a terminal, with notices scrolling above it. Owned by the training
 * thread; mpt_progress_note and mpt_progress_log may come from any thread.
 */
#ifndef MPT_PROGRESS_H
#define MPT_PROGRESS_H

#include "mpt.h"

typedef struct mpt_progress mpt_progress_t;

/**
 * quiet: this rank prints nothing on standard output (every rank but 0). A terminal that does not know its
 * width counts as a pipe: mpirun hands ranks such terminals when its own output is a pipe.
 * @return MPT_OK; MPT_ERR_NO_MEMORY.
 */
mpt_status_t mpt_progress_create(int quiet, mpt_progress_t **progress_p);
/** Ends the live line; NULL is allowed. */
void mpt_progress_destroy(mpt_progress_t *progress);
/** Steps the run will have had at its end, which the bar needs; `every`: steps between lines where there is no terminal, 0: none. */
void mpt_progress_set_steps(mpt_progress_t *progress, int64_t steps, int64_t every);
/** Show a step, or leave it out. */
void mpt_progress_step(mpt_progress_t *progress, const mpt_step_result_t *result);
/** Show the latest validation loss in the live line from now on. */
void mpt_progress_validation(mpt_progress_t *progress, double val_loss);
/** A line of its own on standard output. */
void mpt_progress_note(mpt_progress_t *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/** Finish the live line, if there is one; later lines follow it. */
void mpt_progress_end(mpt_progress_t *progress);
/** A session's log sink, ctx being the progress: information is a note; the rest goes to standard error, from all ranks. */
void mpt_progress_log(void *progress, mpt_log_severity_t severity, const char *line);

#endif
