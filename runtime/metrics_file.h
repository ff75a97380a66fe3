/*
 * The file of metrics.jsonl: one run's at a time, with the lines of the steps that it goes on from. Internal to metrics.
 */
#ifndef MPT_METRICS_FILE_H
#define MPT_METRICS_FILE_H

#include <stdint.h>
#include "log.h"

/**
 * Open `path` to append, locked (flock), and move the lines of steps after `last_step`, and a last one without an end, to `path`.lost-N. The
 * caller closes it. @return MPT_OK; MPT_ERR_CONFIG: another run writes it; MPT_ERR_IO. Logged. Without locks a warning.
 */
mpt_status_t mpt_metrics_file_open(const char *path, int64_t last_step, const mpt_log_t *log, int *fd_p);
/** Say that `path` cannot be written, and why (errno). @return MPT_ERR_IO. */
mpt_status_t mpt_metrics_file_fail(const char *path, const mpt_log_t *log);

#endif
