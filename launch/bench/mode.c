#include <stdio.h>
#include <string.h>
#include "bench.h"
#include "launch.h"

/* While a session opens, rank 0's first error is why the mode is left out; all else is for people now. */
static void keep_refusal(void *ctx, mpt_log_severity_t severity, const char *line)
{
    mpt_bench_mode_t *mode = ctx;
    if (severity != MPT_SEVERITY_ERROR || mode->session || !mode->is_first_rank)
        mpt_log_quiet(NULL, severity, line);
    else if (!mode->refusal[0])
        snprintf(mode->refusal, sizeof(mode->refusal), "%s", line);
}

static void copy_info(mpt_bench_mode_t *mode)
{
    mpt_session_info(mode->session, &mode->info);
    snprintf(mode->compute, sizeof(mode->compute), "%s", mode->info.compute);
    snprintf(mode->reduce, sizeof(mode->reduce), "%s", mode->info.reduce);
    snprintf(mode->isa, sizeof(mode->isa), "%s", mode->info.isa);
    snprintf(mode->comm, sizeof(mode->comm), "%s", mode->info.comm);
}

static mpt_status_t open_mode(mpt_bench_mode_t *mode, const mpt_session_params_t *params)
{
    mpt_session_params_t own = *params;
    own.log = keep_refusal;
    own.log_ctx = mode;
    mpt_status_t status = mpt_session_open(&own, &mode->session);
    if (status != MPT_OK && !mode->refusal[0])
        snprintf(mode->refusal, sizeof(mode->refusal), "%s", mpt_status_string(status));
    if (status != MPT_OK)
        return status;
    copy_info(mode);
    sched_getaffinity(0, sizeof(mode->cores), &mode->cores);
    return mpt_bench_warm_up(mode->session);
}

/* A step ends when what it sends has arrived: another mode's may come next. */
static mpt_status_t time_step(mpt_bench_mode_t *mode)
{
    mpt_traffic_t before, after;
    mpt_step_result_t step;
    mpt_session_traffic(mode->session, &before);
    double start = mpt_bench_now();
    mpt_status_t status = mpt_session_step(mode->session, &step);
    if (status != MPT_OK)
        return status;
    mpt_session_traffic(mode->session, &after);
    double seconds = mpt_bench_now() - start;
    mode->step_s[mode->steps] = seconds;
    mode->exposed_s[mode->steps] = after.exposed_seconds - before.exposed_seconds;
    mode->comm_s[mode->steps++] = after.seconds - before.seconds;
    mode->collectives += after.collectives - before.collectives;
    mode->bytes_sent += after.bytes_sent - before.bytes_sent;
    mode->skipped += step.skipped;
    if (mode->is_first_rank)
        fprintf(stderr, "%s: step %d: %.3f s\n", mode->name, mode->steps, seconds);
    return MPT_OK;
}

/* What another mode may need less of is no reason to stop. */
static int may_be_left_out(mpt_status_t status)
{
    return status == MPT_ERR_CONFIG || status == MPT_ERR_NO_MEMORY;
}

static mpt_status_t visit(mpt_bench_mode_t *mode, const mpt_session_params_t *params, int steps,
                          int keep)
{
    mpt_status_t status = MPT_OK;
    if (mode->session)
        sched_setaffinity(0, sizeof(mode->cores), &mode->cores);
    else
        status = open_mode(mode, params);
    if (!mode->session) {
        mode->status = status;
        return may_be_left_out(status) ? MPT_OK : status;
    }
    for (int i = 0; i < steps && status == MPT_OK; i++)
        status = time_step(mode);
    if (status != MPT_OK || !keep)
        mpt_bench_mode_close(mode);
    return status;
}

mpt_status_t mpt_bench_mode_visit(mpt_bench_mode_t *mode, const mpt_session_params_t *params,
                                  int steps, int keep)
{
    if (mode->status != MPT_OK)
        return MPT_OK;
    /* A session takes its cores from those that this thread may use, and binds it to some of them. */
    sched_setaffinity(0, sizeof(mode->allowed), &mode->allowed);
    mpt_status_t status = visit(mode, params, steps, keep);
    sched_setaffinity(0, sizeof(mode->allowed), &mode->allowed);
    if (status != MPT_OK && mode->is_first_rank)
        fprintf(stderr, "%s: %s\n", mode->name,
                mode->refusal[0] ? mode->refusal : mpt_status_string(status));
    return status;
}

void mpt_bench_mode_close(mpt_bench_mode_t *mode)
{
    mpt_session_close(mode->session);
    mode->session = NULL;
}
