/*
 * The file of metrics.jsonl: one run's at a time, cut back to the steps that a run goes on from. Internal to metrics. One thread.
 */
#ifndef MPT_METRICS_FILE_H
#define MPT_METRICS_FILE_H

#include <stdint.h>
#include <sys/types.h>
#include "log.h"

/**
 * Open `path` to append, and lock it (flock) for as long as it is open; the caller closes it. @return MPT_OK; MPT_ERR_CONFIG: another run
 * writes it; MPT_ERR_IO; MPT_ERR_NO_MEMORY. Logged. Where the file system has no locks that is a warning.
 */
mpt_status_t mpt_metrics_file_open(const char *path, const mpt_log_t *log, int *fd_p);
/**
 * Move everything from the first line of a step after `last_step` on, or else a last line without its end, to a new file `path`.lost-N, which
 * is on disk before anything is cut off; `bytes_p` is how much stays. Where nothing has to move, nothing is written. @return MPT_OK;
 * MPT_ERR_IO; MPT_ERR_NO_MEMORY; both logged: the file is as it was.
 */
mpt_status_t mpt_metrics_file_cut(int fd, const char *path, int64_t last_step, const mpt_log_t *log, off_t *bytes_p);
/** Say that `path` cannot be written, and why (errno). @return MPT_ERR_IO; MPT_ERR_NO_MEMORY for ENOMEM. */
mpt_status_t mpt_metrics_file_fail(const char *path, const mpt_log_t *log);

#endif
