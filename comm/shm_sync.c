#include "shm.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "thread.h"

/* How a wait goes on: first by looking again and again, which costs the core but nothing else;
 * then, where ranks outnumber cores, by giving the core away; at last asleep, in slices short
 * enough to notice an alarm or a death soon. */
#define SPINS 4000
#define SPINS_YIELDING 4
#define YIELDS 100
#define SLICE_NS 2000000L

static int reached(const shm_flag_t *flag, uint32_t value)
{
    return (int32_t)(mpt_shm_load(flag) - value) >= 0;
}

/* The store alone leaves at once, with what was written before. Adding 0 orders it before a look at the sleepers: who counts
 * itself later sees the value, and does not sleep. */
void mpt_shm_raise(shm_flag_t *flag, uint32_t value)
{
    __atomic_store_n(&flag->value, value, __ATOMIC_RELEASE);
    if (__atomic_fetch_add(&flag->sleepers, 0, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, &flag->value, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* Sleep while the flag still holds `seen`, a slice at most. */
static void sleep_on(shm_flag_t *flag, uint32_t seen)
{
    const struct timespec slice = {.tv_nsec = SLICE_NS};
    __atomic_add_fetch(&flag->sleepers, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &flag->value, FUTEX_WAIT, seen, &slice, NULL, 0);
    __atomic_sub_fetch(&flag->sleepers, 1, __ATOMIC_SEQ_CST);
}

/* Tell all others that `origin` gave up, unless they have an alarm already. */
static void spread_alarm(const mpt_comm_t *comm, int origin)
{
    const shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++) {
        uint32_t silent = 0;
        if (r != comm->rank && r != origin)
            __atomic_compare_exchange_n(&mpt_shm_head(shm, r)->alarm.value, &silent,
                                        (uint32_t)origin + 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST);
    }
}

void mpt_shm_raise_alarms(mpt_comm_t *comm, const char *reason)
{
    shm_t *shm = comm->impl;
    if (shm->gave_up)
        return;
    shm->gave_up = 1;
    snprintf(mpt_shm_head(shm, comm->rank)->reason, MPT_COMM_MAX_TEXT, "%s", reason);
    spread_alarm(comm, comm->rank);
}

/* Several ranks may find the same at once, in children of one communicator as well. */
static int speaks_first(const mpt_comm_t *comm)
{
    const shm_t *shm = comm->impl;
    uint32_t silent = 0;
    return __atomic_compare_exchange_n(&shm->spoken->value, &silent, 1, 0, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

mpt_status_t mpt_shm_give_up(mpt_comm_t *comm, const char *text)
{
    if (speaks_first(comm))
        mpt_comm_log_error(comm, text);
    else
        mpt_comm_log_heard(comm, text);
    mpt_shm_raise_alarms(comm, text);
    return MPT_ERR_COMM;
}

/* An alarm heard for the first time goes on to the others, whom its origin may still be about to tell: then this rank may free
 * memory, since who does not hear the alarm said before that it is inside. */
mpt_status_t mpt_shm_check_alarm(mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    uint32_t alarm = mpt_shm_load(&mpt_shm_head(shm, comm->rank)->alarm);
    if (!alarm)
        return MPT_OK;
    int origin = (int)alarm - 1;
    char text[MPT_COMM_MAX_TEXT + 32];
    snprintf(text, sizeof text, "rank %d gave up: %s", mpt_comm_world_rank(comm, origin),
             mpt_shm_head(shm, origin)->reason);
    if (!shm->gave_up) {
        mpt_comm_log_heard(comm, text);
        spread_alarm(comm, origin);
    }
    shm->gave_up = 1;
    return MPT_ERR_COMM;
}

static int has_left(const shm_t *shm, int peer)
{
    return mpt_shm_load(&mpt_shm_head(shm, peer)->state) == SHM_LEFT;
}

/* Since this rank last looked the peer may have raised its alarm, and then gone: that is to be heard, not found. */
static mpt_status_t give_up_on(mpt_comm_t *comm, int peer)
{
    char text[MPT_COMM_MAX_TEXT];
    mpt_status_t status = mpt_shm_check_alarm(comm);
    if (status)
        return status;
    snprintf(text, sizeof text, "rank %d %s", mpt_comm_world_rank(comm, peer),
             has_left(comm->impl, peer) ? "has left" : "died");
    return mpt_shm_give_up(comm, text);
}

mpt_status_t mpt_shm_check_peers(mpt_comm_t *comm)
{
    for (int r = 0; r < comm->ranks; r++)
        if (r != comm->rank && mpt_shm_peer_gone(comm->impl, r) && !has_left(comm->impl, r))
            return give_up_on(comm, r);
    return MPT_OK;
}

/* Who is not there yet: for a barrier all that have not reached it, else the one peer. */
static mpt_status_t give_up_waiting(mpt_comm_t *comm, const shm_flag_t *flag, uint32_t value,
                                    int peer)
{
    shm_t *shm = comm->impl;
    int in_barrier = flag == &mpt_shm_head(shm, peer)->arrived;
    for (int r = 0; r < comm->ranks; r++)
        shm->missing[r] = in_barrier ? !reached(&mpt_shm_head(shm, r)->arrived, value) : r == peer;
    char names[96], text[MPT_COMM_MAX_TEXT];
    mpt_comm_name_ranks(comm, shm->missing, names, sizeof names);
    snprintf(text, sizeof text, "no sign of %s for %.1f s", names, comm->timeout_s);
    return mpt_shm_give_up(comm, text);
}

static double patience(const mpt_comm_t *comm, int peer)
{
    int across = mpt_shm_load(&mpt_shm_head(comm->impl, peer)->state) == SHM_ACROSS;
    return comm->timeout_s * (across ? SHM_ACROSS_PATIENCE : 1);
}

/* A parent that failed ends this communicator as well: the peers here hear it from this rank, and none of them reads its memory
 * unseen. */
static mpt_status_t follow_parents(mpt_comm_t *comm)
{
    mpt_status_t status = mpt_comm_poll_parents(comm);
    if (status)
        mpt_shm_raise_alarms(comm, "its parent failed");
    return status;
}

/* A peer that left may have heard from a parent why: then this rank hears it there too, and it is nobody's error here. */
static mpt_status_t leave_with(mpt_comm_t *comm, int peer)
{
    mpt_status_t status = has_left(comm->impl, peer) ? follow_parents(comm) : MPT_OK;
    return status ? status : give_up_on(comm, peer);
}

/* A peer that is gone may have raised the flag first: look at the flag again after seeing it gone.
 */
static mpt_status_t check_wait(mpt_comm_t *comm, const shm_flag_t *flag, uint32_t value, int peer,
                               double start)
{
    mpt_status_t status = mpt_shm_check_alarm(comm);
    if (!status && comm->idle)
        status = comm->idle(comm);
    if (status)
        return status;
    int gone = has_left(comm->impl, peer) || mpt_shm_peer_gone(comm->impl, peer);
    if (gone && !reached(flag, value))
        return leave_with(comm, peer);
    double waited = comm->timeout_s > 0 ? mpt_comm_now() - start : 0;
    if (waited > MPT_COMM_PARENTS_AFTER * comm->timeout_s)
        status = follow_parents(comm);
    if (!status && waited > patience(comm, peer) && !reached(flag, value))
        return give_up_waiting(comm, flag, value, peer);
    return status;
}

static mpt_status_t wait_asleep(mpt_comm_t *comm, shm_flag_t *flag, uint32_t value, int peer)
{
    double start = mpt_comm_now();
    for (;;) {
        uint32_t seen = mpt_shm_load(flag);
        if ((int32_t)(seen - value) >= 0)
            return MPT_OK;
        mpt_status_t status = check_wait(comm, flag, value, peer, start);
        if (status)
            return status;
        sleep_on(flag, seen);
    }
}

mpt_status_t mpt_shm_wait(mpt_comm_t *comm, shm_flag_t *flag, uint32_t value, int peer)
{
    for (int i = comm->yield ? SPINS_YIELDING : SPINS; i > 0; i--) {
        if (reached(flag, value))
            return MPT_OK;
        mpt_thread_pause();
    }
    for (int i = comm->yield && !comm->beside ? YIELDS : 0; i > 0; i--) { /* beside compute a yield takes its time slice */
        if (reached(flag, value))
            return MPT_OK;
        sched_yield();
    }
    return wait_asleep(comm, flag, value, peer);
}

void mpt_shm_arrive(mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    mpt_shm_raise(&mpt_shm_head(shm, comm->rank)->arrived, ++shm->epoch);
}

/* What was seen of a peer before spares a look at its flag, of which it may be writing the line just then. */
mpt_status_t mpt_shm_await(mpt_comm_t *comm, int peer, uint32_t epoch)
{
    shm_t *shm = comm->impl;
    if ((int32_t)(shm->seen[peer] - epoch) >= 0)
        return MPT_OK;
    shm_flag_t *arrived = &mpt_shm_head(shm, peer)->arrived;
    mpt_status_t status = mpt_shm_wait(comm, arrived, epoch, peer);
    shm->seen[peer] = mpt_shm_load(arrived);
    return status;
}

mpt_status_t mpt_shm_await_all(mpt_comm_t *comm, uint32_t epoch)
{
    shm_t *shm = comm->impl;
    for (int k = 1; k < comm->ranks; k++) {
        mpt_status_t status = mpt_shm_await(comm, (comm->rank + k) % comm->ranks, epoch);
        if (status)
            return status;
    }
    shm->met = epoch;
    return MPT_OK;
}

mpt_status_t mpt_shm_barrier(mpt_comm_t *comm)
{
    mpt_shm_arrive(comm);
    return mpt_shm_await_all(comm, ((const shm_t *)comm->impl)->epoch);
}
