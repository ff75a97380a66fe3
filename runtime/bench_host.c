#include "bench_host.h"

#include <string.h>
#include "past_caches.h"

#define PIECE_BYTES ((size_t)1 << 20) /* of a copy, one task; a multiple of 64 */

mpt_status_t mpt_bench_host_open(mpt_bench_host_t *host, const mpt_bench_host_params_t *params)
{
    mpt_environment_read(&host->environment);
    host->target = (mpt_log_target_t){.log = params->log, .ctx = params->log_ctx};
    host->log = (mpt_log_t){.level = mpt_session_log_level(&host->environment),
                            .rank = params->boot->rank,
                            .sink = mpt_session_log_sink,
                            .ctx = &host->target};
    mpt_status_t chosen = mpt_place_choose(params->boot, params->threads, &host->log, &host->place);
    mpt_status_t status = mpt_session_isa(&host->environment, &host->log, &host->isa);
    if (status != MPT_OK || chosen != MPT_OK)
        return chosen != MPT_OK ? chosen : status;
    status = mpt_pool_create(&(mpt_pool_params_t){.threads = host->place.threads,
                                                  .cpus = host->place.bound ? host->place.cpus : NULL,
                                                  .yield = host->place.yield,
                                                  .log = &host->log},
                             &host->pool);
    if (status == MPT_OK)
        status = mpt_device_cpu_create(host->pool, &host->log, &host->device);
    if (status == MPT_OK)
        status = host->device->ops->stream_create(host->device, &host->stream);
    return status;
}

void mpt_bench_host_close(mpt_bench_host_t *host)
{
    if (host->stream != NULL)
        host->device->ops->stream_destroy(host->device, host->stream);
    mpt_device_destroy(host->device);
    mpt_pool_destroy(host->pool);
    host->stream = NULL;
    host->device = NULL;
    host->pool = NULL;
}

/* ---- copies ---------------------------------------------------------------------------------------------- */

typedef struct copy_job {
    char *dst;
    const char *src;
    size_t bytes, piece;
    int past_caches;
} copy_job_t;

static void copy_piece(void *ctx, int task, int worker)
{
    const copy_job_t *job = ctx;
    size_t first = (size_t)task * job->piece;
    size_t bytes = job->bytes - first < job->piece ? job->bytes - first : job->piece;
    (void)worker;
    if (job->past_caches) {
        mpt_copy_past_caches(job->dst + first, job->src + first, bytes);
        mpt_past_caches_end();
    } else {
        memcpy(job->dst + first, job->src + first, bytes);
    }
}

void mpt_bench_host_copy(const mpt_bench_host_t *host, int way, void *dst, const void *src, size_t bytes)
{
    copy_job_t job = {.dst = dst, .src = src, .bytes = bytes, .piece = PIECE_BYTES, .past_caches = way == 1};
    size_t share = bytes / (size_t)host->place.threads / MPT_LINE_BYTES * MPT_LINE_BYTES;
    if (share < job.piece)
        job.piece = share + MPT_LINE_BYTES;
    mpt_pool_run(host->pool, copy_piece, &job, (int)((bytes + job.piece - 1) / job.piece));
}
