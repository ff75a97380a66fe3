#include "overlap.h"

#include <string.h>

#include "boot_mpi.h"
#include "session.h"

/* ---- whether ----------------------------------------------------------------------------------------- */

/* A helper's calls need an MPI that lets more than one thread in. */
static int is_allowed(const mpt_session_t *s)
{
    const char *backend = s->memory_params.comm_backend;
    int by_mpi = strcmp(backend, "mpi") == 0 || strcmp(backend, "hier") == 0;
    if (!by_mpi || mpt_boot_mpi_serialized())
        return 1;
    if (s->config.comm.overlap == MPT_OVERLAP_ON && s->boot->rank == 0)
        mpt_log_warn(&s->log, "comm.overlap = on: MPI was initialised for one thread alone, with less than "
                              "MPI_THREAD_SERIALIZED: communication does not overlap");
    return 0;
}

static int pays(const mpt_session_t *s)
{
    return s->boot->ranks > 1 && (s->place.spare > 0 || s->boot->local_ranks < s->boot->ranks);
}

static int decide(const mpt_session_t *s)
{
    mpt_overlap_kind_t wish = s->config.comm.overlap;
    return wish != MPT_OVERLAP_OFF && (wish == MPT_OVERLAP_ON || pays(s)) && is_allowed(s);
}

int mpt_overlap_shares_core(const mpt_session_t *s)
{
    return s->overlap.on && s->place.spare == 0;
}

/* ---- with what ----------------------------------------------------------------------------------------- */

/* At once, by the thread that is in the collective: the peers may be in others. */
static void on_failure(void *ctx, mpt_status_t status)
{
    mpt_session_abort_comms(ctx, mpt_status_string(status));
}

/* What can be under way together is what an update gathers, or what a backward reduces. */
static int most_jobs(const mpt_session_t *s)
{
    return (int)s->config.model.layers + 2;
}

static mpt_status_t start_worker(mpt_session_t *s)
{
    const mpt_place_t *place = &s->place;
    int own = place->spare > 0;
    return mpt_worker_create(&(mpt_worker_params_t){.threaded = s->overlap.on,
                                                    .capacity = most_jobs(s),
                                                    .cpus = own ? place->cpus + place->threads : place->cpus,
                                                    .cpu_count = !place->bound ? 0 : own ? place->spare : place->threads,
                                                    .failed = on_failure,
                                                    .ctx = s,
                                                    .log = &s->log},
                             &s->overlap.worker);
}

static mpt_status_t open_own_device(mpt_session_t *s)
{
    mpt_overlap_t *overlap = &s->overlap;
    mpt_status_t status = mpt_pool_create(&(mpt_pool_params_t){.threads = 1, .log = &s->log}, &overlap->own_pool);
    if (status == MPT_OK)
        status = mpt_device_cpu_create(overlap->own_pool, &s->log, &overlap->own_device);
    overlap->device = overlap->own_device;
    if (status == MPT_OK)
        status = overlap->device->ops->stream_create(overlap->device, &overlap->stream);
    return status;
}

mpt_status_t mpt_overlap_open(mpt_session_t *s)
{
    mpt_overlap_t *overlap = &s->overlap;
    mpt_status_t status = MPT_OK;
    *overlap = (mpt_overlap_t){.on = decide(s), .device = s->device, .stream = s->stream, .kernels = &s->kernels};
    if (overlap->on)
        status = open_own_device(s);
    return status == MPT_OK ? start_worker(s) : status;
}

mpt_status_t mpt_overlap_open_kernels(mpt_session_t *s)
{
    mpt_overlap_t *overlap = &s->overlap;
    mpt_kernels_limits_t limits = mpt_memory_worker_limits(&s->config);
    if (!overlap->on)
        return MPT_OK;
    overlap->kernels = &overlap->own_kernels;
    return mpt_kernels_init(overlap->kernels, s->memory_params.kernel_ops, overlap->device, &s->log,
                            s->memory_params.isa, s->memory.worker_scratch, s->memory.worker_scratch_bytes, &limits);
}

/* ---- the end --------------------------------------------------------------------------------------------- */

void mpt_overlap_end(mpt_session_t *s)
{
    mpt_worker_destroy(s->overlap.worker);
    s->overlap.worker = NULL;
}

void mpt_overlap_close(mpt_session_t *s)
{
    mpt_overlap_t *overlap = &s->overlap;
    if (overlap->own_device != NULL && overlap->stream != NULL)
        overlap->device->ops->stream_destroy(overlap->device, overlap->stream);
    mpt_device_destroy(overlap->own_device);
    mpt_pool_destroy(overlap->own_pool);
}
