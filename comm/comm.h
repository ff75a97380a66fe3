/*
 * Collectives. One contract, backends `self` (one rank, the template to read), `mpi`, `shm` (one host,
 * processes or threads; peers read each other's memory), `hier` (several hosts: shm within each, mpi across)
 * and later `nccl`.
 *
 * Every rank of a communicator makes the same calls in the same order with the same counts. Calls are
 * enqueued on `stream`; on the CPU they are complete on return and `stream` may be NULL. Buffers must live
 * until the stream has passed the call, and be aligned to their element type. Counts and bytes of 0 do nothing.
 * Collectives do not allocate. One call at a time per communicator, poll and abort included; large copies and sums
 * run on device->pool, so the pool's rule (one caller at a time) holds for them too. After MPT_ERR_COMM the
 * communicator is unusable except for abort, deregister and destroy, and every peer's next call on it fails
 * as well; what results hold then is undefined, and peers may write to them until they are deregistered; of all ranks one logs it as an error, the others at level debug; MPT_ERR_INVALID_ARG enqueues nothing (then report it in the record, or abort: the peers may
 * already be inside).
 *
 * A sum has one definition (mpt_tree_sum in numeric.h): each contribution in the wire type, summed in
 * FP32 in a binary tree over ranks, rounded once. Every backend gives its bits exactly.
 */
#ifndef MPT_COMM_H
#define MPT_COMM_H

#include "boot.h"
#include "device.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_comm mpt_comm_t;

/* What a backend implements. comm.c has checked every argument, and that nothing failed before; counts and
 * bytes are above 0. A backend logs what it finds once and returns MPT_ERR_COMM; comm.c remembers it. */
typedef struct mpt_comm_ops {
    const char *name;
    size_t (*scratch_bytes)(int ranks);       /* given by the caller as `scratch` */
    /* Allocated by the backend itself at create; local_ranks: how many ranks a host holds. */
    size_t (*own_bytes)(int ranks, int local_ranks);
    mpt_status_t (*create)(mpt_comm_t *comm); /* all fields but impl are set */
    void (*destroy)(mpt_comm_t *comm);
    mpt_status_t (*reduce_scatter)(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                   mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream);
    mpt_status_t (*all_gather)(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                               mpt_stream_t *stream);
    mpt_status_t (*all_reduce)(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                               mpt_dtype_t wire, mpt_stream_t *stream);
    mpt_status_t (*broadcast)(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                              mpt_stream_t *stream);
    mpt_status_t (*all_to_all)(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                               mpt_stream_t *stream);
    mpt_status_t (*send)(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                         mpt_stream_t *stream);
    mpt_status_t (*recv)(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                         mpt_stream_t *stream);
    /* The backend of a child with these members, `count` of them, and of one of `count` of which every host holds `local`, consecutive
     * ones. NULL, both: always the parent's own. */
    const struct mpt_comm_ops *(*child_ops)(const mpt_comm_t *comm, const int *members, int count);
    const struct mpt_comm_ops *(*child_kind)(int count, int local);
    /* Like create, for `child`, whose fields comm.c has set; members[r] is the rank in `comm` of the child's
     * rank r. Called by every rank of `comm`; child and members are NULL where color < 0. */
    mpt_status_t (*split)(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child);
    mpt_status_t (*poll)(mpt_comm_t *comm);
    void (*abort)(mpt_comm_t *comm, const char *reason);
    mpt_status_t (*register_mem)(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p);
    void (*deregister_mem)(mpt_comm_t *comm, void *handle);
} mpt_comm_ops_t;

/** Counts since create, for tests, metrics and the traffic table. No times: reading the clock took a third of a small call. */
typedef struct mpt_comm_stats {
    uint64_t calls; /* collectives and point-to-point calls that succeeded */
    /* Payload that this rank contributed to others, by the textbook volume of each collective over n ranks:
     * reduce_scatter (n-1)*count*wire, all_gather and all_to_all (n-1)*bytes, all_reduce
     * 2*(n-1)*count*wire/n, broadcast (n-1)*bytes at the root and 0 elsewhere, send bytes, recv 0. */
    uint64_t bytes_sent;
} mpt_comm_stats_t;

struct mpt_comm {
    const mpt_comm_ops_t *ops;
    int rank;
    int ranks;
    mpt_boot_t *boot;     /* borrowed; a child has its parent's */
    mpt_device_t *device; /* borrowed; NULL: no pool to work with */
    const mpt_log_t *log; /* borrowed */
    double timeout_s;     /* a peer silent for so long is an error; 0: wait for ever */
    int yield;            /* more ranks than cores: waits give the core away */
    int beside;           /* calls run beside compute, on its core: waits sleep */
    void *scratch;        /* borrowed, scratch_bytes(ranks) */
    mpt_comm_stats_t stats;
    /* What the caller is doing now ("unit 3 gradients"), for error messages. Set by the caller at will;
     * borrowed, may be NULL. */
    const char *what;
    const char *op; /* the call under way, for error messages */
    int failed;     /* 1 after MPT_ERR_COMM, abort or a failed registration */
    mpt_comm_t *parent; /* of a child: borrowed, outlives it */
    int *world;     /* rank r's number in the communicator that was split first; NULL: r itself */
    void *own_scratch; /* of a child, freed with it */
    size_t held_bytes; /* what it has allocated itself: of the backend, counted where it is allocated, and own_scratch */
    mpt_comm_t *whole; /* the communicator that this one is an inner part of and that speaks for it, or NULL */
    /* Called now and then while a call waits: what fails here fails the call. NULL: nothing to look after. */
    mpt_status_t (*idle)(mpt_comm_t *comm);
    void *impl;
};

typedef struct mpt_comm_params {
    const char *backend;  /* "self", "mpi", "shm", "hier", or NULL: mpt_comm_choose */
    mpt_boot_t *boot;     /* borrowed, as are device and log */
    mpt_device_t *device; /* the CPU's, or NULL */
    const mpt_log_t *log;
    double timeout_s;
    int yield, beside;
    void *scratch; /* mpt_comm_scratch_bytes(backend, ranks); may be NULL if that is 0 */
} mpt_comm_params_t;

/** The backend for a boot: self for one rank, shm where all ranks share a host, hier where every host holds the same
 *  power of two, 2 or more, of consecutive ranks, else mpi. */
const char *mpt_comm_choose(const mpt_boot_t *boot);
/** Scratch of a backend. Pure. */
size_t mpt_comm_scratch_bytes(const char *backend, int ranks);
/** What a backend allocates itself for one rank beside the scratch (shm: flags, slots and staging in a memfd; mpi: its tables), where a host
 *  holds `local_ranks` ranks: a communicator's held_bytes. Pure. */
size_t mpt_comm_own_bytes(const char *backend, int ranks, int local_ranks);
/** held_bytes of a child of `count` ranks, of which every host holds `local_count`, split off a communicator of `backend`: its scratch, and what
 *  its backend allocates. Pure. */
size_t mpt_comm_child_bytes(const char *backend, int count, int local_count);
/** Create. Collective over the boot's ranks. @return MPT_OK; MPT_ERR_INVALID_ARG (unknown backend, or one that
 *  does not serve this boot); MPT_ERR_NO_MEMORY; MPT_ERR_COMM. */
mpt_status_t mpt_comm_create(const mpt_comm_params_t *params, mpt_comm_t **comm_p);
/** Destroy; NULL is allowed. Collective unless the communicator failed or was aborted. Children go first. */
void mpt_comm_destroy(mpt_comm_t *comm);

/** recv[i] = sum over ranks of send_of_rank[rank*count + i]. send: [ranks*count] of wire; recv: [count] of out (wire or MPT_F32); recv may be
 *  send + rank*count (in place, out == wire), must not otherwise overlap. */
mpt_status_t mpt_comm_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                     mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream);
/** recv: [ranks*bytes], rank r's send at r*bytes; send may be recv + rank*bytes. */
mpt_status_t mpt_comm_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream);
/** recv[i] = sum over ranks of send[i], any count; send may be equal to recv. Same bits on every rank. */
mpt_status_t mpt_comm_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                 mpt_dtype_t wire, mpt_stream_t *stream);
/** Every rank's buffer gets the root's bytes. The root may return before the others have come: what fails then, other roots or bytes
 *  among it, fails a later call: the next that waits for all (any other collective), of broadcasts the 64th at the latest, or a poll, once the
 *  others have come. */
mpt_status_t mpt_comm_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                                mpt_stream_t *stream);
/** recv: [ranks*bytes]; block r of recv is block `rank` of rank r's send. No overlap. */
mpt_status_t mpt_comm_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                 mpt_stream_t *stream);
/** Point to point, matched in order per pair of ranks; both name the same bytes; peer must be another rank. A send
 *  may return before its receive, or wait for it. */
mpt_status_t mpt_comm_send(mpt_comm_t *comm, const void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream);
mpt_status_t mpt_comm_recv(mpt_comm_t *comm, void *buffer, size_t bytes, int peer,
                           mpt_stream_t *stream);
/** Ranks of equal color form a communicator, ordered by key, then rank; color < 0: none, *child_p = NULL.
 *  Collective. The child borrows what the parent borrows and allocates its own scratch. It has the parent's backend,
 *  but a child of hier has what its members call for: self, shm within one host, hier, else mpi. */
mpt_status_t mpt_comm_split(mpt_comm_t *comm, int color, int key, mpt_comm_t **child_p);
/** Every rank's status in, the first failure by rank out on all. Collective, allocates nothing. @return that status;
 *  MPT_ERR_COMM. */
mpt_status_t mpt_comm_agree(mpt_comm_t *comm, mpt_status_t own);
/** MPT_OK while healthy; MPT_ERR_COMM once a peer aborted or vanished. Local, does not block. */
mpt_status_t mpt_comm_poll(mpt_comm_t *comm);
/** Make every rank's current and later calls on this communicator fail soon, and calls on its children that wait long. Local. For a
 *  reason that the caller has logged: it and each peer, with this rank's number, log it at level debug. */
void mpt_comm_abort(mpt_comm_t *comm, const char *reason);
/** Tell peers about an allocation, so that collectives on it need no copy. Collective: same order and sizes on
 *  every rank. Peer memory only (else MPT_ERR_INVALID_ARG); where a backend has no use for it, a no-op with
 *  *handle_p = NULL. Allocates. A failure on any rank, of whichever kind, ends the communicator, as MPT_ERR_COMM does; ranks of
 *  other hosts may learn of it in a later call. Deregister before freeing, after a failure too; collective. */
mpt_status_t mpt_comm_register(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p);
void mpt_comm_deregister(mpt_comm_t *comm, void *handle);

#ifdef __cplusplus
}
#endif
#endif
