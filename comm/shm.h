/*
 * Inside the shm backend. The ranks of one host, processes or threads of one process, each own a segment of shared
 * memory that all the others map:
 *
 *   head      flags on cache lines of their own, the reason of an abort
 *   slots     [SHM_SLOTS]: what the owner calls, and with a small call its bytes
 *   said      [SHM_SAID]: the same calls in short, kept for longer: who went on without waiting looks back at them
 *   channels  [2][ranks]: counters of the rings below; lane 0 is send/recv, lane 1 sets up splits
 *   rings     [ranks] of lane 0, then [ranks] of lane 1: bytes that rank r has sent to the owner
 *   stage     2 halves: what the owner shows to the others when its buffers are not registered
 *
 * A segment is a memfd without a name, passed over an abstract unix socket: nothing is left behind
 * after a crash. Registered memory is mapped by all others as well, to be read and written within a call. The sockets stay open, so that a peer's death is seen at once. Ranks that are threads use
 * each other's pointers instead; there the last one to leave frees a segment.
 *
 * Order between ranks comes from flags alone: data is written before a flag is raised (release) and
 * read after the flag was seen (acquire). Flags only grow, so a late reader misses nothing.
 */
#ifndef MPT_SHM_H
#define MPT_SHM_H

#include "backends.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SHM_LINE 64
#define SHM_MAX_RANKS 1024
#define SHM_LANES 2
#define SHM_HALF_BYTES ((size_t)1 << 20) /* of staging: hides a meeting, fits the L2 cache */
#define SHM_SETUP_RING_BYTES ((size_t)512)
#define SHM_SLOTS 64 /* calls that a broadcasting rank may be ahead of the others */
#define SHM_SLOT_BYTES ((size_t)4096)
/* Whoever looks back has come to a meeting within the last SHM_SLOTS, of which it looks at the calls since the one before; a peer may be
 * SHM_SLOTS calls further. */
#define SHM_SAID (2 * SHM_SLOTS)

/* One word that grows, and how many ranks sleep on it. */
typedef struct shm_flag {
    uint32_t value;
    uint32_t sleepers;
    char line[SHM_LINE - 8];
} shm_flag_t;

typedef struct shm_channel {
    shm_flag_t written; /* bytes put into the ring, by the sender */
    shm_flag_t taken;   /* bytes taken out, by the receiver */
} shm_channel_t;

/* Where a buffer lies, in a way that means the same to all ranks. */
typedef struct shm_place {
    int64_t region; /* number of the registration; -1: not registered */
    uint64_t offset;
} shm_place_t;

typedef enum shm_op {
    SHM_REDUCE_SCATTER = 1,
    SHM_ALL_GATHER,
    SHM_ALL_REDUCE,
    SHM_BROADCAST,
    SHM_ALL_TO_ALL,
    SHM_REGISTER
} shm_op_t;

/* What a rank is calling: all must say the same but for the places and the status. */
typedef struct shm_call {
    uint8_t op;
    uint8_t wire, out; /* mpt_dtype_t */
    uint8_t status;    /* register: how it went so far */
    int32_t root;
    uint64_t bytes;
    shm_place_t send, recv;
    uint64_t pointer; /* register among threads: the memory itself */
} shm_call_t;

/* A call in short: all must say the same. Whose `past` is equal, said the same before too. */
typedef struct shm_said {
    uint64_t what; /* op, types, root */
    uint64_t bytes;
    uint64_t past; /* a hash of this call and of all before it */
    uint64_t filler;
} shm_said_t;

typedef struct shm_slot {
    shm_call_t call;
    char line[SHM_LINE - sizeof(shm_call_t)];
    char bytes[SHM_SLOT_BYTES];
} shm_slot_t;

/* SHM_ACROSS: a rank of hier that waits for another host. Its peers here have more patience with it, so that who waits
 * for the silent rank itself is the first to say so. */
enum { SHM_OUTSIDE = 0, SHM_INSIDE = 1, SHM_LEFT = 2, SHM_ACROSS = 3 };
#define SHM_ACROSS_PATIENCE 3 /* timeouts */

typedef struct shm_head {
    shm_flag_t arrived;  /* barriers that the owner has reached */
    shm_flag_t alarm;    /* set by peers: 1 + rank of the first that gave up, as far as they know */
    shm_flag_t state;    /* SHM_OUTSIDE or SHM_INSIDE a collective, SHM_ACROSS, SHM_LEFT: destroyed */
    shm_flag_t spoken;   /* rank 0's: 1 once a rank has logged why it gave up */
    shm_flag_t users;    /* threads: ranks that still look at this segment */
    /* Why the owner gave up; written once, before it raises alarms. */
    char reason[MPT_COMM_MAX_TEXT];
} shm_head_t;

/* A registered allocation and where each rank's lies in this address space. */
typedef struct shm_region {
    struct shm_region *next;
    int64_t number;
    size_t bytes;
    int borrowed; /* peers[] are pointers of other threads, not mappings */
    char *peers[];
} shm_region_t;

typedef struct shm {
    char **segments; /* [ranks], this rank's own included */
    size_t segment_bytes;
    size_t ring_bytes; /* of lane 0, a power of two */
    int one_process;
    int *links;        /* [ranks] sockets; -1: this rank, or threads */
    uint32_t epoch;    /* meetings that this rank has reached */
    uint32_t met;      /* the newest that it knows all to have reached */
    uint32_t *seen;    /* [ranks] and each peer, when it last looked */
    uint32_t called;   /* the one of its newest call, which says in which slots that lies */
    uint64_t past;     /* as it said there */
    uint32_t *written; /* [lanes][ranks] our side's count of each channel to a peer */
    uint32_t *taken;   /* [lanes][ranks] and of each channel from a peer */
    int gave_up;       /* alarms raised, or one heeded, or a registration failed on all ranks */
    int64_t regions_made;
    shm_region_t *regions;
    shm_flag_t *spoken;     /* in the head of the first rank here, or there in the communicator that was split first */
    const void **sends;     /* [ranks] the peers' send buffers in this call, where registered */
    void **recvs;           /* [ranks] and their receive buffers */
    const void **sources;   /* [ranks] arguments of one sum */
    unsigned char *missing; /* [ranks] */
} shm_t;

/* ---- shm.c: layout ----------------------------------------------------------------------------- */

static inline shm_head_t *mpt_shm_head(const shm_t *shm, int rank)
{
    return (shm_head_t *)shm->segments[rank];
}
/** The channel in `owner`'s segment through which `sender` sends, and its ring. */
shm_channel_t *mpt_shm_channel(const mpt_comm_t *comm, int lane, int owner, int sender);
char *mpt_shm_ring(const mpt_comm_t *comm, int lane, int owner, int sender);
size_t mpt_shm_ring_bytes(const shm_t *shm, int lane);
/** Where a rank says what it calls at meeting `epoch`. */
shm_slot_t *mpt_shm_slot(const mpt_comm_t *comm, int rank, uint32_t epoch);
/** What it said there, in short. */
shm_said_t *mpt_shm_said(const mpt_comm_t *comm, int rank, uint32_t epoch);
/** Half `half` (0 or 1) of a rank's staging, SHM_HALF_BYTES. */
char *mpt_shm_stage(const mpt_comm_t *comm, int rank, int half);

/* ---- shm_sync.c -------------------------------------------------------------------------------- */

static inline uint32_t mpt_shm_load(const shm_flag_t *flag)
{
    return __atomic_load_n(&flag->value, __ATOMIC_SEQ_CST);
}
static inline void mpt_shm_store(shm_flag_t *flag, uint32_t value)
{
    __atomic_store_n(&flag->value, value, __ATOMIC_SEQ_CST);
}
/** Raise a flag and wake who sleeps on it. */
void mpt_shm_raise(shm_flag_t *flag, uint32_t value);
/** Wait until `flag`, which `peer` raises, has reached `value` (counting modulo 2^32).
 *  @return MPT_OK; MPT_ERR_COMM (logged): timeout, the peer is gone, or a rank gave up. */
mpt_status_t mpt_shm_wait(mpt_comm_t *comm, shm_flag_t *flag, uint32_t value, int peer);
/** Say that this rank has come to its next meeting. */
void mpt_shm_arrive(mpt_comm_t *comm);
/** Wait until `peer` has come to meeting `epoch`. @return as mpt_shm_wait. */
mpt_status_t mpt_shm_await(mpt_comm_t *comm, int peer, uint32_t epoch);
/** Wait until all have. @return as mpt_shm_wait. */
mpt_status_t mpt_shm_await_all(mpt_comm_t *comm, uint32_t epoch);
/** Both: wait until all ranks have come here as often as this one. */
mpt_status_t mpt_shm_barrier(mpt_comm_t *comm);
/** Give up: log the text, as an error where this rank is the first to, and raise every peer's alarm. Returns MPT_ERR_COMM. */
mpt_status_t mpt_shm_give_up(mpt_comm_t *comm, const char *text);
/** Raise every peer's alarm with a reason that has been logged. */
void mpt_shm_raise_alarms(mpt_comm_t *comm, const char *reason);
/** Of the ranks of both, one is to log why it gave up. `comm`: whole or in part among those of `elder`, which outlives it. */
static inline void mpt_shm_speak_with(mpt_comm_t *comm, const mpt_comm_t *elder)
{
    ((shm_t *)comm->impl)->spoken = ((const shm_t *)elder->impl)->spoken;
}
/** MPT_ERR_COMM (which the peer has logged) where a peer raised this rank's alarm; then all others' are raised too. */
mpt_status_t mpt_shm_check_alarm(mpt_comm_t *comm);
/** MPT_ERR_COMM (logged once) where a peer died. One that destroyed its side may just be done. */
mpt_status_t mpt_shm_check_peers(mpt_comm_t *comm);

/* ---- shm_link.c: sockets between processes -------------------------------------------------------- */

#define SHM_NAME_BYTES 32

/** Random bytes for names and secrets. */
mpt_status_t mpt_shm_random(const mpt_comm_t *comm, void *bytes, size_t count);
/** Listen at the abstract address `name`. */
mpt_status_t mpt_shm_listen(const mpt_comm_t *comm, const char *name, int *listener_p);
/** Connect to a lower rank, which listens at `name`, and say who calls. */
mpt_status_t mpt_shm_connect(mpt_comm_t *comm, const char *name, const char *secret, int peer);
/** Accept the connections of all higher ranks, which must have been made by now. */
mpt_status_t mpt_shm_accept(mpt_comm_t *comm, int listener, const char *secret);
/** Every rank's status in, the first failure by rank out on all; what a rank sent before, has arrived after it. */
typedef mpt_status_t (*shm_vote_t)(void *ctx, mpt_status_t own);
/** Pass the open file `fd` to every peer, and map theirs, of `bytes` bytes each. Collective: as many calls of vote(ctx, status) on
 *  every rank. own: a failure of this rank until here, which all ranks then return. peers: [ranks], NULL to begin with, untouched where
 *  `own` is a failure; this rank's entry is left alone; what was mapped before a failure is the caller's to unmap.
 *  @return what the last vote did. After a failure files may lie untaken in the sockets, which are of no more use. */
mpt_status_t mpt_shm_swap_memory(const mpt_comm_t *comm, int fd, size_t bytes, mpt_status_t own,
                                 shm_vote_t vote, void *ctx, char **peers);
/** 1 where a peer's process has ended. */
int mpt_shm_peer_gone(const shm_t *shm, int peer);
/** Close what is open. */
void mpt_shm_unlink(const mpt_comm_t *comm);

/* ---- shm_region.c: registration ---------------------------------------------------------------- */

mpt_status_t mpt_shm_register(mpt_comm_t *comm, const mpt_mem_t *mem, void **handle_p);
void mpt_shm_deregister(mpt_comm_t *comm, void *handle);
/** Where [pointer, pointer + bytes) lies in a registered region of this rank. */
shm_place_t mpt_shm_find(const mpt_comm_t *comm, const void *pointer, size_t bytes);
/** The address here of a place of `peer`'s; NULL: not registered. */
char *mpt_shm_address(const shm_t *shm, int peer, shm_place_t place);

/* ---- shm_call.c ------------------------------------------------------------------------------------ */

/** Say what this rank calls and meet the others. @return MPT_OK: all called the same; MPT_ERR_COMM. */
mpt_status_t mpt_shm_begin(mpt_comm_t *comm, const shm_call_t *call);
/** What a rank said of the latest call. */
static inline const shm_call_t *mpt_shm_call(const mpt_comm_t *comm, int rank)
{
    return &mpt_shm_slot(comm, rank, ((const shm_t *)comm->impl)->called)->call;
}
/** Pass the status on; this rank no longer looks at its peers' memory. */
mpt_status_t mpt_shm_end(mpt_comm_t *comm, mpt_status_t status);
/** The slot for the next call, once nobody reads what lay there. Fill it, then meet or arrive. */
mpt_status_t mpt_shm_open_slot(mpt_comm_t *comm, const shm_call_t *call, shm_slot_t **slot_p);
/** Show the slot and see all others'. @return as mpt_shm_begin. Slots stay as they are until the next call. */
mpt_status_t mpt_shm_meet(mpt_comm_t *comm);
/** @return MPT_OK: `peer`, which has come to the latest call, called the same; MPT_ERR_COMM (logged). */
mpt_status_t mpt_shm_compare(mpt_comm_t *comm, int peer);
/** Compare the calls that this rank has not waited for, as far as all have come. Does not wait. @return as mpt_shm_compare. */
mpt_status_t mpt_shm_look_back(mpt_comm_t *comm);

/* ---- shm_small.c: calls whose bytes fit a slot: one meeting ------------------------------------------ */

/** Do `bytes` a rank fit, and is it little for each rank to read everyone's? */
int mpt_shm_is_small(const mpt_comm_t *comm, size_t bytes);
mpt_status_t mpt_shm_all_reduce_small(mpt_comm_t *comm, const shm_call_t *call, const void *send,
                                      void *recv);
/** `send`: slices that start `stride` bytes apart. */
mpt_status_t mpt_shm_reduce_small(mpt_comm_t *comm, const shm_call_t *call, const char *send,
                                  size_t stride, void *recv);
mpt_status_t mpt_shm_gather_small(mpt_comm_t *comm, const shm_call_t *call, const void *send,
                                  char *recv);
mpt_status_t mpt_shm_broadcast_small(mpt_comm_t *comm, const shm_call_t *call, void *buffer);
mpt_status_t mpt_shm_exchange_small(mpt_comm_t *comm, const shm_call_t *call, const void *send,
                                    char *recv);

/* ---- shm_collective.c, shm_mail.c ----------------------------------------------------------------- */

mpt_status_t mpt_shm_reduce_scatter(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                    mpt_dtype_t wire, mpt_dtype_t out, mpt_stream_t *stream);
/** As reduce_scatter, of slices that start `stride` bytes apart. */
mpt_status_t mpt_shm_reduce_strided(mpt_comm_t *comm, const void *send, size_t stride, void *recv,
                                    int64_t count, mpt_dtype_t wire, mpt_dtype_t out);
mpt_status_t mpt_shm_all_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream);
mpt_status_t mpt_shm_all_reduce(mpt_comm_t *comm, const void *send, void *recv, int64_t count,
                                mpt_dtype_t wire, mpt_stream_t *stream);
mpt_status_t mpt_shm_broadcast(mpt_comm_t *comm, void *buffer, size_t bytes, int root,
                               mpt_stream_t *stream);
mpt_status_t mpt_shm_all_to_all(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                mpt_stream_t *stream);
/** A message through a lane. Both sides name the same bytes, which is checked. */
mpt_status_t mpt_shm_mail_send(mpt_comm_t *comm, int lane, const void *buffer, size_t bytes,
                               int peer);
mpt_status_t mpt_shm_mail_recv(mpt_comm_t *comm, int lane, void *buffer, size_t bytes, int peer);

#ifdef __cplusplus
}
#endif
#endif
