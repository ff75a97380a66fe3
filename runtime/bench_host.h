/*
 * What the benches of single operations and collectives stand on: this process's environment, threads and device as a
 * session would choose them, and plain copies as the limit of what moves bytes. Made in place, inside its
 * owner, and not to be moved while open. One thread at a time.
 */
#ifndef MPT_BENCH_HOST_H
#define MPT_BENCH_HOST_H

#include "session.h"

typedef struct mpt_bench_host {
    mpt_environment_t environment;
    mpt_log_target_t target;
    mpt_log_t log;
    mpt_place_t place;
    mpt_isa_t isa;
    mpt_pool_t *pool;
    mpt_device_t *device;
    mpt_stream_t *stream;
} mpt_bench_host_t;

/** How it is opened. */
typedef struct mpt_bench_host_params {
    mpt_boot_t *boot; /* borrowed while opening */
    int threads;      /* 0: this rank's share */
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line);
    void *log_ctx;
} mpt_bench_host_params_t;

/** Read the environment, choose cores, start threads and device. Collective over the boot; what fails may differ from rank to rank.
 *  @return MPT_OK; MPT_ERR_CONFIG (logged), MPT_ERR_NO_MEMORY, MPT_ERR_COMM: close it all the same. */
mpt_status_t mpt_bench_host_open(mpt_bench_host_t *host, const mpt_bench_host_params_t *params);
/** Safe on a zeroed host. */
void mpt_bench_host_close(mpt_bench_host_t *host);
/** Copy with all threads, in one of MPT_BENCH_COPY_WAYS: 0 by memcpy, 1 with stores past the caches where the processor has them. Both
 *  aligned to 64 bytes, not overlapping. */
void mpt_bench_host_copy(const mpt_bench_host_t *host, int way, void *dst, const void *src, size_t bytes);

#endif
