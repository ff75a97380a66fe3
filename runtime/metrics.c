#include "metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "file.h"
#include "metrics_file.h"

struct mpt_metrics {
    int fd;
    off_t bytes; /* of whole lines */
    char path[1200];
    const mpt_log_t *log;
    int warned;
};

const char *mpt_metrics_number(double value, char *out, size_t bytes)
{
    if (isnan(value))
        snprintf(out, bytes, "\"nan\"");
    else if (isinf(value))
        snprintf(out, bytes, value > 0 ? "\"inf\"" : "\"-inf\"");
    else
        for (int digits = 6; digits <= 17; digits++) {
            snprintf(out, bytes, "%.*g", digits, value);
            if (strtod(out, NULL) == value)
                break;
        }
    return out;
}

mpt_status_t mpt_metrics_open(const char *dir, const mpt_log_t *log, mpt_metrics_t **metrics_p)
{
    mpt_metrics_t *metrics = calloc(1, sizeof *metrics);
    if (metrics == NULL)
        return mpt_log_no_memory(log, sizeof *metrics, "metrics");
    metrics->log = log;
    snprintf(metrics->path, sizeof metrics->path, "%s/metrics.jsonl", dir);
    mpt_status_t status = mpt_file_make_dirs(dir) == 0 ? mpt_metrics_file_open(metrics->path, log, &metrics->fd)
                                                       : mpt_metrics_file_fail(metrics->path, log);
    if (status != MPT_OK) {
        free(metrics);
        return status;
    }
    metrics->bytes = lseek(metrics->fd, 0, SEEK_END);
    *metrics_p = metrics;
    return MPT_OK;
}

mpt_status_t mpt_metrics_go_on(mpt_metrics_t *metrics, int64_t last_step)
{
    return mpt_metrics_file_cut(metrics->fd, metrics->path, last_step, metrics->log, &metrics->bytes);
}

void mpt_metrics_close(mpt_metrics_t *metrics)
{
    if (metrics == NULL)
        return;
    fsync(metrics->fd);
    flock(metrics->fd, LOCK_UN); /* also where a child process still has the descriptor */
    close(metrics->fd);
    free(metrics);
}

const char *mpt_metrics_path(const mpt_metrics_t *metrics)
{
    return metrics->path;
}

/* A line stands in the file whole or not at all: what a full disk took of one is cut off again, so that the next
 * line, when there is room, starts where a line starts. */
static void put_line(mpt_metrics_t *metrics, const char *line)
{
    size_t count = strlen(line);
    if (mpt_file_write_all(metrics->fd, line, count) == 0) {
        metrics->bytes += (off_t)count;
        return;
    }
    int error = errno;
    if (ftruncate(metrics->fd, metrics->bytes) != 0)
        error = errno;
    if (!metrics->warned)
        mpt_log_warn(metrics->log, "cannot write %s: %s; lines are being lost", metrics->path,
                     strerror(error));
    metrics->warned = 1;
}

/* Append "name":value to the line under way. */
static int add_number(char *line, size_t bytes, int n, const char *name, double value)
{
    char number[40];
    return n + snprintf(line + n, bytes - (size_t)n, ",\"%s\":%s", name,
                        mpt_metrics_number(value, number, sizeof number));
}

static int add_integer(char *line, size_t bytes, int n, const char *name, int64_t value)
{
    return n + snprintf(line + n, bytes - (size_t)n, ",\"%s\":%" PRId64, name, value);
}

void mpt_metrics_step(mpt_metrics_t *metrics, const mpt_step_result_t *r)
{
    char line[1024];
    const size_t size = sizeof line;
    if (metrics == NULL)
        return;
    int n = snprintf(line, size, "{\"step\":%" PRId64, r->step);
    n = add_number(line, size, n, "loss", r->loss);
    n = add_number(line, size, n, "lr", r->lr);
    n = add_number(line, size, n, "grad_norm", r->grad_norm);
    n = add_integer(line, size, n, "clipped", r->clipped);
    n = add_number(line, size, n, "loss_scale", r->loss_scale);
    n = add_integer(line, size, n, "skipped", r->skipped);
    n = add_integer(line, size, n, "tokens", r->tokens);
    n = add_number(line, size, n, "tokens_per_s", r->tokens_per_s);
    n = add_number(line, size, n, "step_ms", r->step_ms);
    n = add_number(line, size, n, "compute_ms", r->compute_ms);
    n = add_number(line, size, n, "comm_ms", r->comm_ms);
    n = add_number(line, size, n, "exposed_comm_ms", r->exposed_comm_ms);
    n = add_number(line, size, n, "flops_6nd_per_s", r->flops_6nd_per_s);
    n = add_number(line, size, n, "flops_model_per_s", r->flops_model_per_s);
    n = add_number(line, size, n, "flops_causal_per_s", r->flops_causal_per_s);
    n = add_number(line, size, n, "mfu", r->mfu);
    n = add_integer(line, size, n, "mem_bytes", r->mem_bytes);
    snprintf(line + n, size - (size_t)n, "}\n");
    put_line(metrics, line);
}

void mpt_metrics_validation(mpt_metrics_t *metrics, int64_t step, double val_loss, const double *val_loss_ema)
{
    char line[200], number[40], average[64] = "";
    if (metrics == NULL)
        return;
    if (val_loss_ema != NULL)
        snprintf(average, sizeof average, ",\"val_loss_ema\":%s",
                 mpt_metrics_number(*val_loss_ema, number, sizeof number));
    snprintf(line, sizeof line, "{\"step\":%" PRId64 ",\"event\":\"validation\",\"val_loss\":%s%s}\n", step,
             mpt_metrics_number(val_loss, number, sizeof number), average);
    put_line(metrics, line);
}

void mpt_metrics_event(mpt_metrics_t *metrics, int64_t step, const char *kind, const char *fields)
{
    char line[1024];
    if (metrics == NULL)
        return;
    snprintf(line, sizeof line, "{\"step\":%" PRId64 ",\"event\":\"%s\"%s%s}\n", step, kind,
             fields[0] != '\0' ? "," : "", fields);
    put_line(metrics, line);
}
