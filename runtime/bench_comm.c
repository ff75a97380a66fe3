#include <stdlib.h>
#include <string.h>

#include "bench_host.h"

#define BUFFER_ALIGN ((size_t)4096)
#define TIMEOUT_S 120.0
#define FILL 0x3c00 /* 1 in FP16; small and normal in BF16, and twice over in FP32 */

struct mpt_bench_comm {
    mpt_bench_host_t host;
    mpt_boot_t *boot;
    mpt_mem_t scratch, buffers; /* buffers: send, then receive */
    size_t stride;              /* from one to the other */
    const char *backend;
    mpt_comm_t *comm;
    void *registration;
};

/* ---- open and close -------------------------------------------------------------------------------------- */

/* Every rank's status in, the worst out. */
static mpt_status_t vote(mpt_boot_t *boot, mpt_status_t own)
{
    int32_t mine = (int32_t)own, *all = calloc((size_t)boot->ranks, sizeof *all);
    if (all == NULL)
        return MPT_ERR_NO_MEMORY;
    mpt_status_t status = boot->ops->exchange(boot, &mine, all, sizeof mine);
    for (int r = 0; r < boot->ranks && status != MPT_ERR_COMM; r++)
        status = all[r] > (int32_t)status ? (mpt_status_t)all[r] : status;
    free(all);
    return status;
}

static void fill(void *buffer, size_t bytes)
{
    uint16_t *values = buffer;
    for (size_t i = 0; i < bytes / sizeof *values; i++)
        values[i] = FILL;
}

static mpt_status_t open_memory(mpt_bench_comm_t *own, size_t bytes)
{
    mpt_device_t *device = own->host.device;
    const char *name = own->host.environment.comm;
    own->backend = name[0] != '\0' ? name : mpt_comm_choose(own->boot);
    own->stride = (bytes + BUFFER_ALIGN - 1) / BUFFER_ALIGN * BUFFER_ALIGN;
    mpt_status_t status = device->ops->mem_alloc(
        device, MPT_MEM_PRIVATE, mpt_comm_scratch_bytes(own->backend, own->boot->ranks), &own->scratch);
    if (status == MPT_OK)
        status = device->ops->mem_alloc(device, MPT_MEM_PEER, 2 * own->stride, &own->buffers);
    if (status == MPT_OK)
        fill(own->buffers.ptr, 2 * own->stride);
    return status;
}

static mpt_status_t open_comm(mpt_bench_comm_t *own)
{
    mpt_status_t status = mpt_comm_create(&(mpt_comm_params_t){.backend = own->backend,
                                                               .boot = own->boot,
                                                               .device = own->host.device,
                                                               .log = &own->host.log,
                                                               .timeout_s = TIMEOUT_S,
                                                               .yield = own->host.place.yield,
                                                               .scratch = own->scratch.ptr},
                                          &own->comm);
    if (status == MPT_OK)
        status = mpt_comm_register(own->comm, &own->buffers, &own->registration);
    return status == MPT_ERR_INVALID_ARG ? MPT_ERR_CONFIG : status; /* MPT_COMM is all that is free to choose */
}

static mpt_status_t open_all(mpt_bench_comm_t *own, const mpt_bench_comm_params_t *params)
{
    const mpt_bench_host_params_t host = {.boot = own->boot,
                                          .threads = params->threads,
                                          .log = params->log,
                                          .log_ctx = params->log_ctx};
    mpt_status_t status = vote(own->boot, mpt_bench_host_open(&own->host, &host));
    if (status == MPT_OK)
        status = vote(own->boot, open_memory(own, params->bytes));
    if (status == MPT_OK)
        status = vote(own->boot, open_comm(own));
    return status;
}

mpt_status_t mpt_bench_comm_open(const mpt_bench_comm_params_t *params, mpt_bench_comm_t **comm_p)
{
    mpt_bench_comm_t *own = calloc(1, sizeof *own);
    if (own == NULL)
        return MPT_ERR_NO_MEMORY;
    own->boot = params->boot;
    mpt_status_t status = open_all(own, params);
    if (status != MPT_OK) {
        mpt_bench_comm_close(own);
        return status;
    }
    *comm_p = own;
    return MPT_OK;
}

void mpt_bench_comm_close(mpt_bench_comm_t *own)
{
    if (own == NULL)
        return;
    mpt_device_t *device = own->host.device;
    if (own->registration != NULL)
        mpt_comm_deregister(own->comm, own->registration);
    mpt_comm_destroy(own->comm);
    if (own->buffers.ptr != NULL)
        device->ops->mem_free(device, &own->buffers);
    if (own->scratch.ptr != NULL)
        device->ops->mem_free(device, &own->scratch);
    mpt_bench_host_close(&own->host);
    free(own);
}

/* ---- use --------------------------------------------------------------------------------------------------- */

static char *receive_of(const mpt_bench_comm_t *own)
{
    return (char *)own->buffers.ptr + own->stride;
}

void mpt_bench_comm_info(const mpt_bench_comm_t *own, mpt_bench_comm_info_t *info_p)
{
    *info_p = (mpt_bench_comm_info_t){.comm = own->comm->ops->name,
                                      .isa = mpt_isa_name(own->host.isa),
                                      .rank = own->boot->rank,
                                      .ranks = own->boot->ranks,
                                      .threads = own->host.place.threads,
                                      .shares_cores = own->host.place.yield,
                                      .send = own->buffers.ptr,
                                      .receive = receive_of(own)};
}

/* -1: no such type on the wire. */
static int find_type(const char *name)
{
    static const mpt_dtype_t types[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(mpt_dtype_name(types[i]), name) == 0)
            return (int)types[i];
    return -1;
}

static mpt_status_t run(mpt_bench_comm_t *own, mpt_bench_collective_t what, mpt_dtype_t wire, size_t bytes)
{
    void *send = own->buffers.ptr;
    char *receive = receive_of(own);
    size_t slice = bytes / (size_t)own->boot->ranks;
    int64_t element = (int64_t)mpt_dtype_bytes(wire);
    mpt_stream_t *stream = own->host.stream;
    switch (what) {
    case MPT_BENCH_ALL_REDUCE:
        return mpt_comm_all_reduce(own->comm, send, receive, (int64_t)bytes / element, wire, stream);
    case MPT_BENCH_REDUCE_SCATTER:
        return mpt_comm_reduce_scatter(own->comm, send, receive, (int64_t)slice / element, wire, wire, stream);
    case MPT_BENCH_ALL_GATHER:
        return mpt_comm_all_gather(own->comm, receive + (size_t)own->boot->rank * slice, receive, slice, stream);
    case MPT_BENCH_BROADCAST:
        return mpt_comm_broadcast(own->comm, receive, bytes, 0, stream);
    default:
        return MPT_ERR_INVALID_ARG;
    }
}

mpt_status_t mpt_bench_comm_run(mpt_bench_comm_t *own, mpt_bench_collective_t what, const char *type, size_t bytes)
{
    int wire = find_type(type);
    if (wire < 0 || bytes > own->stride ||
        bytes % (mpt_dtype_bytes((mpt_dtype_t)wire) * (size_t)own->boot->ranks) != 0)
        return MPT_ERR_INVALID_ARG;
    mpt_status_t status = run(own, what, (mpt_dtype_t)wire, bytes);
    mpt_device_t *device = own->host.device;
    return status == MPT_OK ? device->ops->stream_synchronize(device, own->host.stream) : status;
}

void mpt_bench_comm_copy(mpt_bench_comm_t *own, int way, size_t bytes)
{
    mpt_bench_host_copy(&own->host, way, receive_of(own), own->buffers.ptr, bytes < own->stride ? bytes : own->stride);
}
