/*
 * One rank alone: every collective is a copy. The template for a backend: what each call means is
 * all here, without waiting, peers or failure.
 */
#include "backends.h"
#include "numeric.h"

static size_t self_scratch_bytes(int ranks)
{
    (void)ranks;
    return 0;
}

static size_t self_own_bytes(int ranks, int local_ranks)
{
    (void)ranks, (void)local_ranks;
    return 0;
}

static mpt_status_t self_create(mpt_comm_t *comm)
{
    if (comm->ranks == 1)
        return MPT_OK;
    mpt_comm_log_error(comm, "backend self serves one rank only");
    return MPT_ERR_INVALID_ARG;
}

static void self_destroy(mpt_comm_t *comm)
{
    (void)comm;
}

static mpt_status_t self_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv,
                                        int64_t count, mpt_dtype_t wire, mpt_dtype_t out,
                                        mpt_stream_t *stream)
{
    (void)stream;
    const void *sources[] = {send};
    mpt_comm_sum(comm, recv, out, sources, wire, count);
    return MPT_OK;
}

static mpt_status_t self_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                    mpt_stream_t *stream)
{
    (void)stream;
    mpt_comm_copy(comm, recv, send, bytes);
    return MPT_OK;
}

static mpt_status_t self_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                    mpt_dtype_t wire, mpt_stream_t *stream)
{
    return self_reduce_scatter(comm, send, recv, count, wire, wire, stream);
}

static mpt_status_t self_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                                   mpt_stream_t *stream)
{
    (void)comm, (void)buffer, (void)bytes, (void)root, (void)stream;
    return MPT_OK;
}

/* comm.c lets no rank send to itself, so these two are never reached. */
static mpt_status_t self_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                              mpt_stream_t *stream)
{
    (void)comm, (void)buffer, (void)bytes, (void)peer, (void)stream;
    return MPT_ERR_INVALID_ARG;
}

static mpt_status_t self_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                              mpt_stream_t *stream)
{
    (void)comm, (void)buffer, (void)bytes, (void)peer, (void)stream;
    return MPT_ERR_INVALID_ARG;
}

static mpt_status_t self_split(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child)
{
    (void)comm, (void)color, (void)members, (void)child;
    return MPT_OK;
}

static mpt_status_t self_poll(mpt_comm_t *comm)
{
    (void)comm;
    return MPT_OK;
}

static void self_abort(mpt_comm_t *comm, const char *reason)
{
    (void)comm, (void)reason;
}

static mpt_status_t self_register(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p)
{
    (void)comm, (void)mem;
    *handle_p = NULL;
    return MPT_OK;
}

static void self_deregister(mpt_comm_t *comm, void *handle)
{
    (void)comm, (void)handle;
}

const mpt_comm_ops_t mpt_comm_self = {
    .name = "self",
    .scratch_bytes = self_scratch_bytes,
    .own_bytes = self_own_bytes,
    .create = self_create,
    .destroy = self_destroy,
    .reduce_scatter = self_reduce_scatter,
    .all_gather = self_all_gather,
    .all_reduce = self_all_reduce,
    .broadcast = self_broadcast,
    .all_to_all = self_all_gather, /* one rank: the only block stays where it is */
    .send = self_send,
    .recv = self_recv,
    .split = self_split,
    .poll = self_poll,
    .abort = self_abort,
    .register_mem = self_register,
    .deregister_mem = self_deregister,
};
