#include "comm.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backends.h"

static const mpt_comm_ops_t *const backends[] = {&mpt_comm_self, &mpt_comm_mpi, &mpt_comm_shm,
                                               &mpt_comm_hier};

static const mpt_comm_ops_t *find_backend(const char *name)
{
    for (size_t i = 0; name && i < sizeof backends / sizeof backends[0]; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

const char *mpt_comm_choose(const mpt_boot_t *boot)
{
    if (boot->ranks == 1)
        return "self";
    if (boot->local_ranks == boot->ranks)
        return "shm";
    int local = boot->local_ranks;
    return boot->even_hosts && local > 1 && (local & (local - 1)) == 0 ? "hier" : "mpi";
}

size_t mpt_comm_scratch_bytes(const char *backend, int ranks)
{
    const mpt_comm_ops_t *ops = find_backend(backend);
    return ops ? ops->scratch_bytes(ranks) : 0;
}

size_t mpt_comm_own_bytes(const char *backend, int ranks, int local_ranks)
{
    const mpt_comm_ops_t *ops = find_backend(backend);
    return ops ? ops->own_bytes(ranks, local_ranks) : 0;
}

size_t mpt_comm_child_bytes(const char *backend, int count, int local_count)
{
    const mpt_comm_ops_t *ops = find_backend(backend);
    if (ops && ops->child_kind)
        ops = ops->child_kind(count, local_count);
    return ops ? ops->scratch_bytes(count) + ops->own_bytes(count, local_count) : 0;
}

/* ---- create, split, destroy --------------------------------------------------------------------
 */

mpt_status_t mpt_comm_create(const mpt_comm_params_t *params, mpt_comm_t **comm_p)
{
    if (!params || !params->boot || !comm_p || params->boot->ranks > MPT_COMM_MAX_RANKS)
        return MPT_ERR_INVALID_ARG;
    mpt_boot_t *boot = params->boot;
    const char *name = params->backend ? params->backend : mpt_comm_choose(boot);
    const mpt_comm_ops_t *ops = find_backend(name);
    if (!ops || (!params->scratch && ops->scratch_bytes(boot->ranks))) {
        mpt_log_error(params->log, "comm: %s: %s", name, ops ? "no scratch" : "no such backend");
        return MPT_ERR_INVALID_ARG;
    }
    /* Setting up needs every rank: one without memory takes part as well, and then says so. */
    mpt_comm_t spare, *made = calloc(1, sizeof *made), *comm = made ? made : &spare;
    *comm = (mpt_comm_t){.ops = ops,
                         .rank = boot->rank,
                         .ranks = boot->ranks,
                         .boot = boot,
                         .device = params->device,
                         .log = params->log,
                         .timeout_s = params->timeout_s,
                         .yield = params->yield,
                         .beside = params->beside,
                         .scratch = params->scratch};
    mpt_status_t status = ops->create(comm);
    if (status)
        goto fail;
    status = mpt_boot_agree(
        boot, made ? MPT_OK : mpt_log_no_memory(params->log, sizeof *comm, "a communicator"));
    if (status)
        goto fail_made;
    *comm_p = comm;
    return MPT_OK;

fail_made:
    ops->destroy(comm);
fail:
    free(made);
    return status;
}

void mpt_comm_destroy(mpt_comm_t *comm)
{
    if (!comm)
        return;
    comm->op = "destroy";
    comm->ops->destroy(comm);
    free(comm->own_scratch);
    free(comm->world);
    free(comm);
}

typedef struct wish {
    int32_t color;
    int32_t key;
} wish_t;

/* The ranks that share this rank's color, by key, then rank; returns their number. A stable
 * insertion. */
static int order_members(const mpt_comm_t *comm, const wish_t *wishes, int *members)
{
    int count = 0;
    for (int r = 0; r < comm->ranks; r++) {
        if (wishes[r].color != wishes[comm->rank].color)
            continue;
        int at = count++;
        for (; at > 0 && wishes[members[at - 1]].key > wishes[r].key; at--)
            members[at] = members[at - 1];
        members[at] = r;
    }
    return count;
}

/* Everything of a child but what its backend makes. Frees nothing on failure: see child_free. */
static mpt_status_t child_prepare(mpt_comm_t *comm, const int *members, int count,
                                  mpt_comm_t *child)
{
    const mpt_comm_ops_t *ops =
        comm->ops->child_ops ? comm->ops->child_ops(comm, members, count) : comm->ops;
    size_t scratch_bytes = ops->scratch_bytes(count);
    *child = (mpt_comm_t){.ops = ops,
                          .ranks = count,
                          .boot = comm->boot,
                          .device = comm->device,
                          .log = comm->log,
                          .timeout_s = comm->timeout_s,
                          .yield = comm->yield,
                          .beside = comm->beside,
                          .parent = comm,
                          .idle = comm->idle};
    child->world = malloc((size_t)count * sizeof *child->world);
    if (scratch_bytes)
        child->own_scratch = aligned_alloc(64, (scratch_bytes + 63) / 64 * 64);
    if (!child->world || (scratch_bytes && !child->own_scratch))
        return mpt_log_no_memory(comm->log, (size_t)count * sizeof *child->world + scratch_bytes,
                                 "a communicator's scratch");
    child->scratch = child->own_scratch;
    child->held_bytes = scratch_bytes;
    for (int i = 0; i < count; i++) {
        child->world[i] = mpt_comm_world_rank(comm, members[i]);
        if (members[i] == comm->rank)
            child->rank = i;
    }
    return MPT_OK;
}

static void child_free(mpt_comm_t *child)
{
    if (!child)
        return;
    free(child->own_scratch);
    free(child->world);
    free(child);
}

mpt_status_t mpt_comm_agree(mpt_comm_t *comm, mpt_status_t own)
{
    uint8_t votes[MPT_COMM_MAX_RANKS];
    if (comm->failed)
        return MPT_ERR_COMM;
    votes[comm->rank] = (uint8_t)own;
    mpt_status_t status = comm->ops->all_gather(comm, &votes[comm->rank], votes, 1, NULL);
    comm->failed = status == MPT_ERR_COMM;
    for (int r = 0; r < comm->ranks && !status; r++)
        status = (mpt_status_t)votes[r];
    return status;
}

/* A child without its backend's part, or NULL where this rank wants none. */
static mpt_status_t make_child(mpt_comm_t *comm, const int *members, int count,
                               mpt_comm_t **child_p)
{
    if (count == 0)
        return MPT_OK;
    mpt_comm_t *child = calloc(1, sizeof *child);
    if (!child)
        return mpt_log_no_memory(comm->log, sizeof *child, "a communicator");
    *child_p = child;
    return child_prepare(comm, members, count, child);
}

/* Every step ends in a vote: a group that fails takes the others along, who would wait for it in the next call. The tables
 * lie on the stack, so that no rank is missing in the first. */
static mpt_status_t split(mpt_comm_t *comm, wish_t wish, mpt_comm_t **child_p)
{
    wish_t wishes[MPT_COMM_MAX_RANKS];
    int members[MPT_COMM_MAX_RANKS];
    mpt_comm_t *child = NULL;
    wishes[comm->rank] = wish;
    mpt_status_t status =
        comm->ops->all_gather(comm, &wishes[comm->rank], wishes, sizeof wish, NULL);
    if (status)
        return status;
    int count = wish.color >= 0 ? order_members(comm, wishes, members) : 0;
    status = mpt_comm_agree(comm, make_child(comm, members, count, &child));
    if (status) {
        child_free(child);
        return status;
    }
    status = comm->ops->split(comm, wish.color, child ? members : NULL, child);
    int made = !status && child;
    status = mpt_comm_agree(comm, status);
    if (!status) {
        *child_p = child;
        return MPT_OK;
    }
    if (made) {
        child->failed = status == MPT_ERR_COMM; /* as its parent: nothing collective any more */
        mpt_comm_destroy(child);
    } else
        child_free(child);
    return status;
}

mpt_status_t mpt_comm_split(mpt_comm_t *comm, int color, int key, mpt_comm_t **child_p)
{
    if (!comm || !child_p)
        return MPT_ERR_INVALID_ARG;
    if (comm->failed)
        return MPT_ERR_COMM;
    comm->op = "split";
    mpt_status_t status = split(comm, (wish_t){color, key}, child_p);
    if (status == MPT_ERR_COMM)
        comm->failed = 1;
    return status;
}

/* ---- collectives: check, dispatch, count
 * --------------------------------------------------------- */

static int is_wire(mpt_dtype_t dtype)
{
    return dtype == MPT_F32 || dtype == MPT_BF16 || dtype == MPT_F16;
}

static int is_aligned(const void *pointer, mpt_dtype_t dtype)
{
    return (uintptr_t)pointer % mpt_dtype_bytes(dtype) == 0;
}

static int overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return x < y + b_bytes && y < x + a_bytes;
}

/* Do `ranks` blocks of `bytes` fit into an address space? */
static int blocks_fit(const mpt_comm_t *comm, size_t bytes)
{
    return bytes <= (size_t)PTRDIFF_MAX / (size_t)comm->ranks;
}

static int elements_fit(const mpt_comm_t *comm, int64_t count)
{
    return count >= 0 && (uint64_t)count <= PTRDIFF_MAX / 8 && blocks_fit(comm, (size_t)count * 8);
}

static mpt_status_t reject(const mpt_comm_t *comm, const char *op)
{
    if (comm)
        mpt_log_error(comm->log, "comm %s rank %d of %d: %s: invalid arguments", comm->ops->name,
                      comm->rank, comm->ranks, op);
    return MPT_ERR_INVALID_ARG;
}

static mpt_status_t leave(mpt_comm_t *comm, mpt_status_t status, uint64_t bytes)
{
    if (status == MPT_OK) {
        comm->stats.calls++;
        comm->stats.bytes_sent += bytes;
    }
    if (status == MPT_ERR_COMM)
        comm->failed = 1;
    return status;
}

static uint64_t to_others(const mpt_comm_t *comm, size_t bytes)
{
    return (uint64_t)(comm->ranks - 1) * bytes;
}

static int reduce_scatter_ok(const mpt_comm_t *comm, const void *send, const void *recv,
                             int64_t count, mpt_dtype_t wire, mpt_dtype_t out)
{
    if (!comm || !is_wire(wire) || (out != wire && out != MPT_F32) || !elements_fit(comm, count))
        return 0;
    if (count == 0)
        return 1;
    if (!send || !recv || !is_aligned(send, wire) || !is_aligned(recv, out))
        return 0;
    size_t slice = (size_t)count * mpt_dtype_bytes(wire);
    int in_place = out == wire && recv == (const char *)send + (size_t)comm->rank * slice;
    return in_place ||
           !overlap(send, (size_t)comm->ranks * slice, recv, (size_t)count * mpt_dtype_bytes(out));
}

mpt_status_t mpt_comm_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                     mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream)
{
    if (!reduce_scatter_ok(comm, send, recv, count, wire, out))
        return reject(comm, "reduce_scatter");
    if (comm->failed)
        return MPT_ERR_COMM;
    if (count == 0)
        return MPT_OK;
    comm->op = "reduce_scatter";
    mpt_status_t status = comm->ops->reduce_scatter(comm, send, recv, count, wire, out, stream);
    return leave(comm, status, to_others(comm, (size_t)count * mpt_dtype_bytes(wire)));
}

static int all_gather_ok(const mpt_comm_t *comm, const void *send, const void *recv, size_t bytes)
{
    if (!comm || !blocks_fit(comm, bytes))
        return 0;
    if (bytes == 0)
        return 1;
    if (!send || !recv)
        return 0;
    return send == (const char *)recv + (size_t)comm->rank * bytes ||
           !overlap(send, bytes, recv, (size_t)comm->ranks * bytes);
}

mpt_status_t mpt_comm_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream)
{
    if (!all_gather_ok(comm, send, recv, bytes))
        return reject(comm, "all_gather");
    if (comm->failed)
        return MPT_ERR_COMM;
    if (bytes == 0)
        return MPT_OK;
    comm->op = "all_gather";
    mpt_status_t status = comm->ops->all_gather(comm, send, recv, bytes, stream);
    return leave(comm, status, to_others(comm, bytes));
}

static int all_reduce_ok(const mpt_comm_t *comm, const void *send, const void *recv, int64_t count,
                         mpt_dtype_t wire)
{
    if (!comm || !is_wire(wire) || !elements_fit(comm, count))
        return 0;
    if (count == 0)
        return 1;
    if (!send || !recv || !is_aligned(send, wire) || !is_aligned(recv, wire))
        return 0;
    size_t bytes = (size_t)count * mpt_dtype_bytes(wire);
    return send == recv || !overlap(send, bytes, recv, bytes);
}

mpt_status_t mpt_comm_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                 mpt_dtype_t wire, mpt_stream_t *stream)
{
    if (!all_reduce_ok(comm, send, recv, count, wire))
        return reject(comm, "all_reduce");
    if (comm->failed)
        return MPT_ERR_COMM;
    if (count == 0)
        return MPT_OK;
    comm->op = "all_reduce";
    mpt_status_t status = comm->ops->all_reduce(comm, send, recv, count, wire, stream);
    uint64_t both_ways = 2 * to_others(comm, (size_t)count * mpt_dtype_bytes(wire));
    return leave(comm, status, both_ways / (uint64_t)comm->ranks);
}

mpt_status_t mpt_comm_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                                mpt_stream_t *stream)
{
    if (!comm || (!buffer && bytes) || root < 0 || root >= comm->ranks)
        return reject(comm, "broadcast");
    if (comm->failed)
        return MPT_ERR_COMM;
    if (bytes == 0)
        return MPT_OK;
    comm->op = "broadcast";
    mpt_status_t status = comm->ops->broadcast(comm, buffer, bytes, root, stream);
    return leave(comm, status, comm->rank == root ? to_others(comm, bytes) : 0);
}

static int all_to_all_ok(const mpt_comm_t *comm, const void *send, const void *recv, size_t bytes)
{
    if (!comm || !blocks_fit(comm, bytes))
        return 0;
    size_t total = (size_t)comm->ranks * bytes;
    return bytes == 0 || (send && recv && !overlap(send, total, recv, total));
}

mpt_status_t mpt_comm_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream)
{
    if (!all_to_all_ok(comm, send, recv, bytes))
        return reject(comm, "all_to_all");
    if (comm->failed)
        return MPT_ERR_COMM;
    if (bytes == 0)
        return MPT_OK;
    comm->op = "all_to_all";
    mpt_status_t status = comm->ops->all_to_all(comm, send, recv, bytes, stream);
    return leave(comm, status, to_others(comm, bytes));
}

static int peer_ok(const mpt_comm_t *comm, const void *buffer, size_t bytes, int peer)
{
    return comm && (buffer || !bytes) && peer >= 0 && peer < comm->ranks && peer != comm->rank;
}

mpt_status_t mpt_comm_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream)
{
    if (!peer_ok(comm, buffer, bytes, peer))
        return reject(comm, "send");
    if (comm->failed)
        return MPT_ERR_COMM;
    if (bytes == 0)
        return MPT_OK;
    comm->op = "send";
    return leave(comm, comm->ops->send(comm, buffer, bytes, peer, stream), bytes);
}

mpt_status_t mpt_comm_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream)
{
    if (!peer_ok(comm, buffer, bytes, peer))
        return reject(comm, "recv");
    if (comm->failed)
        return MPT_ERR_COMM;
    if (bytes == 0)
        return MPT_OK;
    comm->op = "recv";
    return leave(comm, comm->ops->recv(comm, buffer, bytes, peer, stream), 0);
}

/* ---- health and memory -------------------------------------------------------------------------
 */

mpt_status_t mpt_comm_poll(mpt_comm_t *comm)
{
    if (!comm)
        return MPT_ERR_INVALID_ARG;
    if (comm->failed)
        return MPT_ERR_COMM;
    comm->op = "poll";
    mpt_status_t status = comm->ops->poll(comm);
    if (status == MPT_ERR_COMM)
        comm->failed = 1;
    return status;
}

void mpt_comm_abort(mpt_comm_t *comm, const char *reason)
{
    if (!comm || comm->failed)
        return;
    char text[MPT_COMM_MAX_TEXT];
    snprintf(text, sizeof text, "aborted: %s", reason ? reason : "no reason given");
    comm->op = "abort";
    mpt_comm_log_heard(comm, text);
    comm->ops->abort(comm, text);
    comm->failed = 1;
}

mpt_status_t mpt_comm_register(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p)
{
    if (!comm || !mem || !handle_p || !mem->ptr || mem->mem_class != MPT_MEM_PEER)
        return reject(comm, "register");
    if (comm->failed)
        return MPT_ERR_COMM;
    comm->op = "register";
    mpt_status_t status = comm->ops->register_mem(comm, mem, handle_p);
    if (status)
        comm->failed = 1;
    return status;
}

void mpt_comm_deregister(mpt_comm_t *comm, void *handle)
{
    if (!comm || !handle)
        return;
    comm->op = "deregister";
    comm->ops->deregister_mem(comm, handle);
}
