/*
 * metrics.jsonl: one JSON object a line, written by rank 0, each step's line flushed at once. Floats are printed so that
 * they read back exactly; non-finite ones as strings "inf", "-inf", "nan". Local, one thread.
 */
#ifndef MPT_METRICS_H
#define MPT_METRICS_H

#include "log.h"
#include "mpt.h"

typedef struct mpt_metrics mpt_metrics_t;

/**
 * Open `dir`/metrics.jsonl, for this run alone until it is closed; makes the folder. @return MPT_OK; MPT_ERR_CONFIG: another run writes it;
 * MPT_ERR_IO; MPT_ERR_NO_MEMORY. Logged.
 */
mpt_status_t mpt_metrics_open(const char *dir, const mpt_log_t *log, mpt_metrics_t **metrics_p);
/**
 * Before the first line: go on after `last_step` (0: a fresh run). What a run that was lost wrote from the first later step on, or half a line at
 * the end, is moved to metrics.jsonl.lost-N. @return MPT_OK; MPT_ERR_IO; MPT_ERR_NO_MEMORY; both logged: the file is as it was.
 */
mpt_status_t mpt_metrics_go_on(mpt_metrics_t *metrics, int64_t last_step);
/** Sync and close; NULL is allowed. */
void mpt_metrics_close(mpt_metrics_t *metrics);
const char *mpt_metrics_path(const mpt_metrics_t *metrics);
/** The line of a data step. Failing to write warns once and goes on. NULL metrics: nothing. */
void mpt_metrics_step(mpt_metrics_t *metrics, const mpt_step_result_t *result);
/** A validation line: event "validation" with val_loss and, where the run keeps an average of the weights, its val_loss_ema; NULL: none. */
void mpt_metrics_validation(mpt_metrics_t *metrics, int64_t step, double val_loss, const double *val_loss_ema);
/** An event line: {"step": .., "event": kind, fields...}. `fields` is JSON members without braces, or "". */
void mpt_metrics_event(mpt_metrics_t *metrics, int64_t step, const char *kind, const char *fields);
/** Print a double as JSON: a number that reads back exactly, or a string. Returns `out`. */
const char *mpt_metrics_number(double value, char *out, size_t bytes);

#endif
