#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "bench.h"
#include "launch.h"
#include "memory.h"

#define MAX_WARM_UP 4

double mpt_bench_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double mpt_bench_median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), compare_doubles);
    return 0.5 * (values[(count - 1) / 2] + values[count / 2]);
}

double mpt_bench_median_of(const double *values, int count)
{
    double copy[MPT_BENCH_MAX_STEPS];
    memcpy(copy, values, (size_t)count * sizeof(*values));
    return mpt_bench_median(copy, count);
}

/* First steps touch memory and tune; a skipped one has not run its optimizer, so it is not warm yet. */
mpt_status_t mpt_bench_warm_up(mpt_session_t *session)
{
    mpt_profile_row_t rows[MPT_BENCH_MAX_ROWS];
    mpt_step_result_t step = {.skipped = 1};
    for (int i = 0; i < MAX_WARM_UP && step.skipped; i++) {
        mpt_status_t status = mpt_session_step(session, &step);
        if (status != MPT_OK)
            return status;
    }
    mpt_session_profile(session, rows, MPT_BENCH_MAX_ROWS, 1);
    return MPT_OK;
}

static void run_aside(mpt_bench_aside_t aside, const mpt_bench_result_t *result)
{
    if (aside.run)
        aside.run(aside.ctx, result->threads);
}

static mpt_status_t time_steps(mpt_session_t *session, int steps, mpt_bench_aside_t aside, mpt_bench_result_t *result)
{
    double seconds[MPT_BENCH_MAX_STEPS];
    mpt_step_result_t step;
    for (int i = 0; i < steps; i++) {
        run_aside(aside, result);
        double start = mpt_bench_now();
        mpt_status_t status = mpt_session_step(session, &step);
        if (status != MPT_OK)
            return status;
        seconds[i] = mpt_bench_now() - start;
        result->skipped += step.skipped;
        result->loss = step.loss;
        fprintf(stderr, "%s: step %d of %d: %.3f s\n", result->compute, i + 1, steps, seconds[i]);
    }
    result->steps = steps;
    result->step_s = mpt_bench_median(seconds, steps);
    return MPT_OK;
}

static void copy_profile(mpt_session_t *session, mpt_bench_result_t *result)
{
    mpt_profile_row_t rows[MPT_BENCH_MAX_ROWS];
    int count = mpt_session_profile(session, rows, MPT_BENCH_MAX_ROWS, 0);
    result->row_count = count;
    for (int i = 0; i < count; i++) {
        mpt_bench_row_t *row = &result->rows[i];
        snprintf(row->op, sizeof(row->op), "%s", rows[i].op);
        row->seconds = rows[i].seconds;
        row->flops = rows[i].flops;
        row->bytes = rows[i].bytes;
        row->calls = rows[i].calls;
    }
}

static void copy_info(const mpt_session_info_t *info, mpt_bench_result_t *result)
{
    snprintf(result->compute, sizeof(result->compute), "%s", info->compute);
    snprintf(result->isa, sizeof(result->isa), "%s", info->isa);
    result->threads = info->threads;
    result->parameters = info->parameters;
    result->tokens_per_step = info->tokens_per_step;
    result->planned_bytes = info->planned_bytes;
    result->peak_flops = info->peak_flops;
}

static void derive_rates(const mpt_session_info_t *info, mpt_bench_result_t *result)
{
    double rate = (double)info->tokens_per_step / result->step_s;
    result->tokens_per_s = rate;
    result->flops_6nd_per_s = rate * info->flops_6nd_per_token;
    result->flops_model_per_s = rate * info->flops_model_per_token;
    result->flops_causal_per_s = rate * info->flops_causal_per_token;
}

mpt_status_t mpt_bench_measure(const mpt_config_source_t *config, int steps, mpt_bench_aside_t aside,
                               mpt_bench_result_t *result_p)
{
    const mpt_session_params_t params = {.config = *config, .fresh_over = 1, .log = mpt_log_quiet};
    mpt_bench_result_t result = {0};
    mpt_session_info_t info;
    mpt_session_t *session;
    int64_t base = mpt_memory_used();
    mpt_status_t status = mpt_session_open(&params, &session);
    if (status != MPT_OK)
        return status;
    mpt_session_info(session, &info);
    copy_info(&info, &result);
    status = mpt_bench_warm_up(session);
    if (status != MPT_OK)
        goto err_close;
    status = time_steps(session, steps, aside, &result);
    if (status != MPT_OK)
        goto err_close;
    int64_t used = mpt_memory_used();
    result.used_bytes = used >= 0 && base >= 0 ? used - base : -1;
    derive_rates(&info, &result);
    copy_profile(session, &result);
    run_aside(aside, &result);
    result.measured = 1;
    mpt_session_close(session);
    *result_p = result;
    return MPT_OK;

err_close:
    mpt_session_close(session);
    return status;
}

double mpt_bench_row_rate(const mpt_bench_result_t *result, const char *op)
{
    for (int i = 0; i < result->row_count; i++)
        if (strcmp(result->rows[i].op, op) == 0 && result->rows[i].seconds > 0)
            return result->rows[i].flops / result->rows[i].seconds;
    return 0;
}
