/*
 * How a call begins: every rank writes what it calls, and the bytes of a small call, into a slot of its own segment and comes
 * to a meeting; who needs another's slot waits until that rank has come, compares and reads. A slot is used again
 * SHM_SLOTS meetings later, once all have come to a later meeting than its own: they have read it. Who need not wait compares
 * later, when all have come to a later meeting: at the next call that waits for all, SHM_SLOTS calls later, or at a poll.
 */
#include "shm.h"

#include <stdio.h>

static const char *const op_names[] = {"nothing",   "reduce_scatter", "all_gather", "all_reduce",
                                       "broadcast", "all_to_all",     "register"};

/* In registers: bytes written one by one and read as one word wait for each other. */
static shm_said_t in_short(const shm_call_t *call)
{
    return (shm_said_t){.what = (uint64_t)call->op | (uint64_t)call->wire << 8 | (uint64_t)call->out << 16 |
                                (uint64_t)(uint32_t)call->root << 32,
                        .bytes = call->bytes};
}

static void describe(char *text, size_t size, const shm_said_t *said)
{
    unsigned op = said->what & 0xff, wire = said->what >> 8 & 0xff, out = said->what >> 16 & 0xff;
    snprintf(text, size, "%s (%s to %s, %llu bytes, root %d)", op_names[op % (sizeof op_names / sizeof op_names[0])],
             mpt_dtype_name((mpt_dtype_t)(wire % MPT_DTYPE_COUNT)), mpt_dtype_name((mpt_dtype_t)(out % MPT_DTYPE_COUNT)),
             (unsigned long long)said->bytes, (int)(said->what >> 32));
}

static int same_said(const shm_said_t *a, const shm_said_t *b)
{
    return a->what == b->what && a->bytes == b->bytes;
}

static mpt_status_t give_up_on_mismatch(mpt_comm_t *comm, int peer, const shm_said_t *own, const shm_said_t *other,
                                        const char *when)
{
    char mine[96], theirs[96], text[MPT_COMM_MAX_TEXT];
    describe(mine, sizeof mine, own);
    describe(theirs, sizeof theirs, other);
    snprintf(text, sizeof text, "called %s while rank %d called %s%s", mine,
             mpt_comm_world_rank(comm, peer), theirs, when);
    return mpt_shm_give_up(comm, text);
}

mpt_status_t mpt_shm_compare(mpt_comm_t *comm, int peer)
{
    const shm_said_t mine = in_short(mpt_shm_call(comm, comm->rank)), theirs = in_short(mpt_shm_call(comm, peer));
    return same_said(&mine, &theirs) ? MPT_OK : give_up_on_mismatch(comm, peer, &mine, &theirs, "");
}

static mpt_status_t give_up_on_first(mpt_comm_t *comm, int peer, uint32_t first, uint32_t last)
{
    uint32_t epoch = first;
    while (epoch != last && same_said(mpt_shm_said(comm, comm->rank, epoch), mpt_shm_said(comm, peer, epoch)))
        epoch++;
    return give_up_on_mismatch(comm, peer, mpt_shm_said(comm, comm->rank, epoch), mpt_shm_said(comm, peer, epoch),
                               ", in an earlier call");
}

/* A root goes on without having seen what the others called, and two roots look at nobody. Once all have come to a later
 * meeting than those broadcasts, which are `first` to `last`, they are compared, by one look at each peer. No peer is so far
 * ahead that it writes there again before this rank comes to its next meeting. */
static mpt_status_t compare_since(mpt_comm_t *comm, uint32_t first, uint32_t last)
{
    if ((int32_t)(last - first) < 0)
        return MPT_OK;
    uint64_t past = mpt_shm_said(comm, comm->rank, last)->past;
    for (int r = 0; r < comm->ranks; r++)
        if (mpt_shm_said(comm, r, last)->past != past)
            return give_up_on_first(comm, r, first, last);
    return MPT_OK;
}

mpt_status_t mpt_shm_look_back(mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    uint32_t first = shm->met + 1, last = shm->epoch;
    for (int r = 0; r < comm->ranks; r++) {
        uint32_t arrived = shm->seen[r] = mpt_shm_load(&mpt_shm_head(shm, r)->arrived);
        if ((int32_t)(arrived - last) < 0)
            last = arrived;
    }
    if ((int32_t)(last - first) >= 0)
        shm->met = last;
    return compare_since(comm, first, last);
}

/* Multiplying and folding by turns, as SplitMix64 does (Steele, Lea, Flood 2014). */
static uint64_t add_to_past(uint64_t past, uint64_t word)
{
    past = (past + word) * 0x9e3779b97f4a7c15u;
    return past ^ past >> 29;
}

static void say_in_short(mpt_comm_t *comm, const shm_call_t *call, uint32_t epoch)
{
    shm_t *shm = comm->impl;
    const shm_said_t said = in_short(call);
    shm_said_t *to = mpt_shm_said(comm, comm->rank, epoch);
    shm->past = add_to_past(add_to_past(shm->past, said.what), said.bytes);
    to->what = said.what;
    to->bytes = said.bytes;
    to->past = shm->past;
}

/* Fetch the first lines of the slot after this one to write them: a peer was the last to read them. */
static void own_soon(const shm_slot_t *slot)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0\n\tprefetchw %1" : : "m"(slot->call), "m"(slot->bytes[0]));
#else
    __builtin_prefetch(&slot->call, 1);
    __builtin_prefetch(slot->bytes, 1);
    __asm__ volatile(""); /* else GCC may take this for a function without effect */
#endif
}

/* Who is ahead by all slots waits for half of them: then several calls go without a wait. */
mpt_status_t mpt_shm_open_slot(mpt_comm_t *comm, const shm_call_t *call, shm_slot_t **slot_p)
{
    shm_t *shm = comm->impl;
    uint32_t next = shm->epoch + 1;
    mpt_status_t status = mpt_shm_check_alarm(comm);
    if (status)
        return status;
    if ((int32_t)(shm->met - (next - SHM_SLOTS)) <= 0) {
        uint32_t first = shm->met + 1, last = next - SHM_SLOTS / 2;
        status = mpt_shm_await_all(comm, last);
        status = status ? status : compare_since(comm, first, last);
        if (status)
            return status;
    }
    shm->called = next;
    say_in_short(comm, call, next);
    *slot_p = mpt_shm_slot(comm, comm->rank, next);
    (*slot_p)->call = *call;
    own_soon(mpt_shm_slot(comm, comm->rank, next + 1));
    return MPT_OK;
}

mpt_status_t mpt_shm_meet(mpt_comm_t *comm)
{
    const shm_t *shm = comm->impl;
    uint32_t first = shm->met + 1;
    mpt_status_t status = mpt_shm_barrier(comm);
    if (!status)
        status = compare_since(comm, first, shm->epoch - 1);
    for (int r = 0; r < comm->ranks && !status; r++)
        if (r != comm->rank)
            status = mpt_shm_compare(comm, r);
    return status;
}

mpt_status_t mpt_shm_begin(mpt_comm_t *comm, const shm_call_t *call)
{
    shm_slot_t *slot;
    mpt_status_t status = mpt_shm_open_slot(comm, call, &slot);
    if (status)
        return status;
    mpt_shm_store(&mpt_shm_head(comm->impl, comm->rank)->state, SHM_INSIDE);
    status = mpt_shm_meet(comm);
    /* A barrier looks at the alarm only while it waits. Whoever raised it may free registered
     * memory once it sees us outside, so look now, after having said that we are inside. */
    return status ? status : mpt_shm_check_alarm(comm);
}

mpt_status_t mpt_shm_end(mpt_comm_t *comm, mpt_status_t status)
{
    mpt_shm_store(&mpt_shm_head(comm->impl, comm->rank)->state, SHM_OUTSIDE);
    return status;
}
