/* How collectives end where a rank aborts, dies, stays away or calls something else. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "backends.h"
#include "party.h"
#include "shm.h"

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int says(const party_rank_t *rank, const char *words)
{
    if (strstr(rank->said, words))
        return 1;
    fprintf(stderr, "rank %d should say \"%s\", but says:\n%s", rank->rank, words, rank->said);
    return 0;
}

static mpt_status_t sum_one(mpt_comm_t *comm)
{
    float value = 1;
    return mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL);
}

/* Wait inside collectives until one fails; the rounds that went well are not counted. */
static mpt_status_t sum_until_failure(mpt_comm_t *comm)
{
    mpt_status_t status = MPT_OK;
    while (!status)
        status = sum_one(comm);
    return status;
}

/* One rank is about to break off after the third round. Its peers may still be in that, and fail in it. */
static int begin_rounds(party_rank_t *rank, int breaker)
{
    const int rounds = rank->rank == breaker ? 3 : 2;
    int wrong = 0;
    for (int round = 0; round < rounds; round++)
        wrong += sum_one(rank->comm) != MPT_OK;
    return wrong;
}

static int abort_in_third_round(party_rank_t *rank)
{
    mpt_comm_t *comm = rank->comm;
    comm->what = "unit 3 gradients";
    if (begin_rounds(rank, 2))
        return 1;
    if (rank->rank == 2) {
        mpt_comm_abort(comm, "disk on fire");
        return !says(rank, "aborted: disk on fire") + (sum_one(comm) != MPT_ERR_COMM);
    }
    double start = now();
    int wrong = sum_until_failure(comm) != MPT_ERR_COMM;
    wrong += !(now() - start < 5);
    wrong += !says(rank, "rank 2 gave up: aborted: disk on fire");
    wrong += !says(rank, "unit 3 gradients: all_reduce");
    return wrong + (mpt_comm_poll(comm) != MPT_ERR_COMM) + (sum_one(comm) != MPT_ERR_COMM);
}

static void abort_by_one_rank_fails_all_soon(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 4, .backend = "shm", .body = abort_in_third_round});
    assert_party(
        &(party_t){.ranks = 4, .backend = "shm", .processes = 1, .body = abort_in_third_round});
}

static int poll_until_aborted(party_rank_t *rank)
{
    if (rank->rank == 0) {
        mpt_comm_abort(rank->comm, NULL);
        return 0;
    }
    while (mpt_comm_poll(rank->comm) == MPT_OK)
        sched_yield();
    return !says(rank, "poll: rank 0 gave up: aborted: no reason given");
}

static void poll_learns_of_an_abort(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .body = poll_until_aborted});
}

static void wait_until_arrived(const party_rank_t *rank, int peer)
{
    while (mpt_shm_load(&mpt_shm_head(rank->comm->impl, peer)->arrived) == 0)
        usleep(1000);
}

/* Rank 3 has come when rank 0 begins to wait, and is the more patient: neither is missing to the other. */
static int wait_for_late_ranks(party_rank_t *rank)
{
    if (rank->rank == 1 || rank->rank == 2) { /* never arrive, and learn of it */
        while (mpt_comm_poll(rank->comm) == MPT_OK)
            usleep(1000);
        return !says(rank, "gave up: no sign of ranks 1 and 2 for 0.3 s");
    }
    if (rank->rank == 3)
        rank->comm->timeout_s = 30;
    else
        wait_until_arrived(rank, 3);
    int64_t record[8] = {0}, records[32];
    double start = now();
    rank->comm->what = "record 17";
    int wrong =
        mpt_comm_all_gather(rank->comm, record, records, sizeof record, NULL) != MPT_ERR_COMM;
    wrong += !(now() - start > 0.25) + !(now() - start < 10);
    wrong += !says(rank, "record 17: all_gather: ") + !says(rank, "no sign of ranks 1 and 2");
    return wrong;
}

static void timeout_names_the_ranks_that_never_arrived(void **state)
{
    (void)state;
    party_t party = {.ranks = 4, .backend = "shm", .timeout_s = 0.3, .body = wait_for_late_ranks};
    assert_party(&party);
    party.processes = 1;
    assert_party(&party);
}

static int receive_from_silent_rank(party_rank_t *rank)
{
    char byte = 0;
    if (rank->rank == 1) {
        while (mpt_comm_poll(rank->comm) == MPT_OK)
            usleep(1000);
        return 0;
    }
    int wrong = mpt_comm_recv(rank->comm, &byte, 1, 1, NULL) != MPT_ERR_COMM;
    return wrong + !says(rank, "recv: no sign of rank 1 for 0.2 s");
}

static void receive_times_out_and_names_the_sender(void **state)
{
    (void)state;
    assert_party(&(party_t){
        .ranks = 2, .backend = "shm", .timeout_s = 0.2, .body = receive_from_silent_rank});
}

static int die_in_third_round(party_rank_t *rank)
{
    if (begin_rounds(rank, 2))
        return 1;
    if (rank->rank == 2)
        raise(SIGKILL);
    double start = now();
    int wrong = sum_until_failure(rank->comm) != MPT_ERR_COMM;
    wrong += !(now() - start < 5);
    return wrong + !says(rank, "rank 2 died");
}

static void killed_rank_is_named_by_all_others(void **state)
{
    (void)state;
    party_t party = {
        .ranks = 4, .backend = "shm", .timeout_s = 30, .processes = 1, .body = die_in_third_round};
    party_table_t *table = party_run(&party);
    for (int r = 0; r < party.ranks; r++)
        assert_int_equal(table->result[r], r == 2 ? PARTY_KILLED : 0);
    munmap(table, sizeof *table);
}

static int poll_until_death(party_rank_t *rank)
{
    if (sum_one(rank->comm) != MPT_OK)
        return 1;
    if (rank->rank == 1)
        raise(SIGKILL);
    while (mpt_comm_poll(rank->comm) == MPT_OK)
        usleep(1000);
    return !says(rank, "rank 1 died");
}

static void poll_sees_a_death_without_any_timeout(void **state)
{
    (void)state;
    party_t party = {.ranks = 2, .backend = "shm", .processes = 1, .body = poll_until_death};
    party_table_t *table = party_run(&party);
    assert_int_equal(table->result[0], 0);
    assert_int_equal(table->result[1], PARTY_KILLED);
    munmap(table, sizeof *table);
}

static int leave_early(party_rank_t *rank)
{
    if (begin_rounds(rank, 0))
        return 1;
    if (rank->rank == 0)
        return 0;
    return (sum_until_failure(rank->comm) != MPT_ERR_COMM) + !says(rank, "rank 0 has left");
}

static void a_rank_that_left_is_not_waited_for(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .body = leave_early});
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .processes = 1, .body = leave_early});
}

static int call_differently(party_rank_t *rank)
{
    float a[8] = {0}, b[24];
    mpt_status_t status = rank->rank == 1 ? mpt_comm_all_gather(rank->comm, a, b, 12, NULL)
                                          : mpt_comm_all_reduce(rank->comm, a, a, 3, MPT_F32, NULL);
    return (status != MPT_ERR_COMM) + (strstr(rank->said, "called all_") == NULL);
}

static int count_differently(party_rank_t *rank)
{
    float a[8] = {0};
    mpt_status_t status = mpt_comm_all_reduce(rank->comm, a, a, 3 + rank->rank, MPT_F32, NULL);
    return (status != MPT_ERR_COMM) + (strstr(rank->said, "all_reduce (fp32 to fp32, ") == NULL);
}

static void different_calls_fail_on_every_rank(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .body = call_differently});
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .body = count_differently});
}

/* The root of a small broadcast does not wait for the others: it hears of their mistake in its next call, or at once where it
 * comes after them. */
static int broadcast_differently(party_rank_t *rank)
{
    float a[8] = {0};
    if (rank->rank == 0) {
        mpt_status_t status = mpt_comm_broadcast(rank->comm, a, 12, 0, NULL);
        return (status != MPT_OK && status != MPT_ERR_COMM) + (sum_one(rank->comm) != MPT_ERR_COMM);
    }
    mpt_status_t status = rank->rank == 1 ? mpt_comm_broadcast(rank->comm, a, 12, 2, NULL)
                                          : mpt_comm_broadcast(rank->comm, a, 12, 0, NULL);
    if (rank->rank == 2 && status == MPT_OK)
        status = sum_one(rank->comm);
    return (status != MPT_ERR_COMM) +
           (rank->rank == 1 && !strstr(rank->said, "called broadcast (fp32 to fp32, 12 bytes, root ") &&
            !strstr(rank->said, "gave up"));
}

static void a_root_that_went_on_fails_in_its_next_call(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .body = broadcast_differently});
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .processes = 1, .body = broadcast_differently});
}

static _Atomic int errors_said;

static void count_errors(void *ctx, mpt_log_level_t level, const char *line)
{
    errors_said += level == MPT_LOG_ERROR;
    party_hear(ctx, level, line);
}

/* A rank names `root`, and others another: all are to fail with the same message, in the call that follows. */
static int fails_in_the_next_call(party_rank_t *rank, int root)
{
    char bytes[12] = {0};
    rank->log.sink = count_errors;
    mpt_status_t status = mpt_comm_broadcast(rank->comm, bytes, sizeof bytes, root, NULL);
    if (root == rank->rank && status != MPT_OK)
        return 1;
    status = status ? status : sum_one(rank->comm);
    return (status != MPT_ERR_COMM) + !says(rank, "called broadcast (fp32 to fp32, 12 bytes, root ") +
           !says(rank, ", in an earlier call");
}

static int each_is_its_own_root(party_rank_t *rank)
{
    return fails_in_the_next_call(rank, rank->rank);
}

/* Rank 2 agrees with rank 0, and learns from it that all is well. */
static int two_are_roots(party_rank_t *rank)
{
    return fails_in_the_next_call(rank, rank->rank == 1 ? 1 : 0);
}

static void ranks_that_each_name_themselves_root_fail_together(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 5; ranks++) {
        errors_said = 0;
        assert_party(&(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 30, .body = each_is_its_own_root});
        assert_int_equal(errors_said, 1);
        assert_party(&(party_t){
            .ranks = ranks, .backend = "shm", .timeout_s = 30, .processes = 1, .body = each_is_its_own_root});
    }
    errors_said = 0;
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .timeout_s = 30, .body = two_are_roots});
    assert_int_equal(errors_said, 1);
}

static _Atomic int rank_1_waits;

/* Between rank 1's look at its alarm and the one at whom it waits for. */
static mpt_status_t meanwhile_rank_0_leaves(mpt_comm_t *comm)
{
    rank_1_waits = 1;
    while (mpt_shm_load(&mpt_shm_head(comm->impl, 0)->state) != SHM_LEFT)
        usleep(1000);
    return MPT_OK;
}

static int give_up_and_leave(party_rank_t *rank)
{
    char byte = 0;
    rank->log.sink = count_errors;
    if (rank->rank == 0) {
        while (!rank_1_waits)
            usleep(1000);
        mpt_comm_abort(rank->comm, "enough");
        return 0;
    }
    rank->comm->idle = meanwhile_rank_0_leaves;
    return (mpt_comm_recv(rank->comm, &byte, 1, 0, NULL) != MPT_ERR_COMM) + !says(rank, "rank 0 gave up: aborted: enough");
}

static void who_gives_up_and_leaves_is_heard(void **state)
{
    (void)state;
    errors_said = 0;
    assert_party(&(party_t){.ranks = 2, .backend = "shm", .body = give_up_and_leave});
    assert_int_equal(errors_said, 0);
}

/* Nothing but broadcasts, in which nobody waits; some were right before. */
static int broadcast_to_itself(party_rank_t *rank)
{
    char byte = 1;
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < 40 && !status; i++)
        status = mpt_comm_broadcast(rank->comm, &byte, 1, i % rank->comm->ranks, NULL);
    int calls = 0, wrong = status != MPT_OK;
    for (; calls < 1000 && !status; calls++)
        status = mpt_comm_broadcast(rank->comm, &byte, 1, rank->rank, NULL);
    return wrong + (status != MPT_ERR_COMM) + (calls > 128) + !says(rank, "called broadcast (fp32 to fp32, 1 bytes, root ") +
           !says(rank, ", in an earlier call");
}

static int poll_after_two_roots(party_rank_t *rank)
{
    char byte = 1;
    int wrong = mpt_comm_broadcast(rank->comm, &byte, 1, rank->rank, NULL) != MPT_OK;
    double start = now();
    while (mpt_comm_poll(rank->comm) == MPT_OK && now() - start < 20)
        usleep(1000);
    return wrong + (mpt_comm_poll(rank->comm) != MPT_ERR_COMM) + !says(rank, ", in an earlier call");
}

/* The last thing before they leave: there is no call to fail, but the one that leaves last sees it. */
static int leave_after_two_roots(party_rank_t *rank)
{
    char byte = 1;
    rank->log.sink = count_errors;
    return mpt_comm_broadcast(rank->comm, &byte, 1, rank->rank, NULL) != MPT_OK;
}

static void roots_that_only_broadcast_poll_or_leave_notice_too(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 4; ranks++) {
        assert_party(&(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 30, .body = broadcast_to_itself});
        assert_party(&(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 30, .body = poll_after_two_roots});
        errors_said = 0;
        assert_party(&(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 30, .body = leave_after_two_roots});
        assert_int_equal(errors_said, 1);
    }
}

/* Roots change, take turns, go ahead, are late; now and then all meet, or one polls. What is right is never refused. */
static int broadcast_at_random(party_rank_t *rank)
{
    enum { CALLS = 6000 };
    uint32_t calls = 7, own = (uint32_t)rank->rank + 1;
    int root = 0;
    for (int i = 0; i < CALLS; i++) {
        calls = calls * 1664525u + 1013904223u;
        own = own * 1664525u + 1013904223u;
        uint32_t value = calls;
        if (calls >> 24 < 40)
            root = (int)(calls >> 8) % rank->comm->ranks;
        if (own >> 24 < 2)
            sched_yield();
        if (own >> 24 == 3 && mpt_comm_poll(rank->comm) != MPT_OK)
            return 1;
        if (calls >> 24 == 255 && sum_one(rank->comm) != MPT_OK)
            return 2;
        if (rank->rank != root)
            value = 0;
        if (mpt_comm_broadcast(rank->comm, &value, sizeof value, root, NULL) != MPT_OK || value != calls)
            return 3;
    }
    return 0;
}

static void what_ranks_call_alike_is_never_refused(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 5; ranks++) {
        assert_party(&(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 30, .body = broadcast_at_random});
        assert_party(&(party_t){
            .ranks = ranks, .backend = "shm", .timeout_s = 30, .processes = 1, .body = broadcast_at_random});
    }
}

/* It is ahead by no more than there are places, and then waits, with the patience of any wait. */
static int broadcast_to_nobody(party_rank_t *rank)
{
    char byte = 1;
    mpt_status_t status = MPT_OK;
    if (rank->rank == 1) {
        while (mpt_comm_poll(rank->comm) == MPT_OK)
            usleep(1000);
        return !says(rank, "no sign of rank 1 for 0.2 s");
    }
    int calls = 0;
    for (; !status && calls < 1000; calls++)
        status = mpt_comm_broadcast(rank->comm, &byte, 1, 0, NULL);
    return (status != MPT_ERR_COMM) + !(calls > 2) + !says(rank, "no sign of rank 1 for 0.2 s");
}

static void a_root_waits_for_ranks_far_behind(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 2, .backend = "shm", .timeout_s = 0.2, .body = broadcast_to_nobody});
}

static int send_too_little(party_rank_t *rank)
{
    char bytes[20] = {0};
    if (rank->rank == 0)
        return mpt_comm_send(rank->comm, bytes, 19, 1, NULL) != MPT_OK;
    return (mpt_comm_recv(rank->comm, bytes, 20, 0, NULL) != MPT_ERR_COMM) +
           !says(rank, "rank 0 sent 19 bytes where 20 were to come");
}

static void a_message_of_another_length_is_an_error(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 2, .backend = "shm", .body = send_too_little});
}

/* Ten seconds at most: then what comes fails, and says so. */
static void wait_for_alarm(const party_rank_t *rank)
{
    const shm_flag_t *alarm = &mpt_shm_head(rank->comm->impl, rank->rank)->alarm;
    for (int i = 0; i < 10000 && !mpt_shm_load(alarm); i++)
        usleep(1000);
}

/* Rank 0 gives up on a sum over registered memory and frees its memory at once; then rank 1 is about to
 * read it. Sanitizers see it if the order is wrong. */
static int free_after_failure(party_rank_t *rank)
{
    enum { COUNT = 1 << 20 };
    mpt_device_t *device = rank->device;
    mpt_mem_t mem;
    void *handle = NULL;
    if (device->ops->mem_alloc(device, MPT_MEM_PEER, COUNT * sizeof(float), &mem) != MPT_OK ||
        mpt_comm_register(rank->comm, &mem, &handle) != MPT_OK)
        return 1;
    memset(mem.ptr, 0, mem.bytes); /* no page is left to be cleared while rank 0 waits */
    char ready = 1, all[3];
    if (rank->comm->boot->ops->exchange(rank->comm->boot, &ready, all, 1) != MPT_OK)
        return 1;
    if (rank->rank == 0) {
        rank->comm->timeout_s = 0.02;
    } else {
        wait_for_alarm(rank);
        usleep(100000); /* in which rank 0 frees */
    }
    mpt_status_t status = mpt_comm_all_reduce(rank->comm, mem.ptr, mem.ptr, COUNT, MPT_F32, NULL);
    mpt_comm_deregister(rank->comm, handle);
    device->ops->mem_free(device, &mem);
    return status != MPT_ERR_COMM;
}

static void registered_memory_may_be_freed_after_a_failure(void **state)
{
    (void)state;
    party_t party = {.ranks = 3, .backend = "shm", .timeout_s = 30, .body = free_after_failure};
    assert_party(&party);
    party.processes = 1;
    assert_party(&party);
}

/* All arrive together, but wait too shortly for the slowest: whoever gives up first frees memory that others may be
 * summing right now. */
static int free_while_others_read(party_rank_t *rank)
{
    enum { COUNT = 4 << 20 };
    mpt_device_t *device = rank->device;
    mpt_mem_t mem;
    void *handle = NULL;
    if (device->ops->mem_alloc(device, MPT_MEM_PEER, COUNT * sizeof(float), &mem) != MPT_OK ||
        mpt_comm_register(rank->comm, &mem, &handle) != MPT_OK)
        return 1;
    memset(mem.ptr, 0, mem.bytes);
    mpt_status_t status = sum_one(rank->comm);
    rank->comm->timeout_s = 0.001;
    while (!status)
        status = mpt_comm_all_reduce(rank->comm, mem.ptr, mem.ptr, COUNT, MPT_F32, NULL);
    mpt_comm_deregister(rank->comm, handle);
    device->ops->mem_free(device, &mem);
    return status != MPT_ERR_COMM;
}

static void memory_is_not_given_up_while_others_read_it(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++)
        assert_party(&(party_t){.ranks = 5, .backend = "shm", .body = free_while_others_read});
}

static int leave_at_once(party_rank_t *rank)
{
    return sum_one(rank->comm) != MPT_OK;
}

static void a_rank_may_leave_while_others_still_return(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        assert_party(&(party_t){.ranks = 5, .backend = "shm", .body = leave_at_once});
        assert_party(
            &(party_t){.ranks = 3, .backend = "shm", .processes = 1, .body = leave_at_once});
    }
}

static int break_child(party_rank_t *rank)
{
    mpt_comm_t *child = NULL;
    int wrong = mpt_comm_split(rank->comm, rank->rank / 2, 0, &child) != MPT_OK;
    if (rank->rank == 3)
        mpt_comm_abort(child, "child only");
    if (rank->rank == 2) {
        wrong += sum_until_failure(child) != MPT_ERR_COMM;
        wrong += !says(rank, "rank 3 gave up"); /* the world's number, not the child's */
    }
    if (rank->rank < 2)
        wrong += sum_one(child) != MPT_OK;
    wrong += sum_one(rank->comm) != MPT_OK;
    mpt_comm_destroy(child);
    return wrong;
}

static void a_broken_child_leaves_its_parent_whole(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 4, .backend = "shm", .timeout_s = 30, .body = break_child});
}

/* Rank 0 has told rank 1 alone so far that it gives up; what it is about to do next, it never does. */
static int tell_one(party_rank_t *rank)
{
    mpt_comm_t *comm = rank->comm;
    shm_t *shm = comm->impl;
    char byte = 0, all[4];
    int wrong = 0;
    for (int turn = 0; turn < 3; turn++) {
        if (turn == rank->rank && turn == 0) {
            snprintf(mpt_shm_head(shm, 0)->reason, MPT_COMM_MAX_TEXT, "half said");
            mpt_shm_store(&mpt_shm_head(shm, 1)->alarm, 1);
            comm->failed = shm->gave_up = 1;
        }
        if (turn == rank->rank && turn > 0)
            wrong += (mpt_comm_poll(comm) != MPT_ERR_COMM) + !says(rank, "rank 0 gave up: half said");
        wrong += comm->boot->ops->exchange(comm->boot, &byte, all, 1) != MPT_OK;
    }
    return wrong + (rank->rank == 3 && mpt_comm_poll(comm) != MPT_ERR_COMM);
}

static void who_hears_an_alarm_has_told_all_others(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 4, .backend = "shm", .timeout_s = 30, .body = tell_one});
    assert_party(&(party_t){.ranks = 4, .backend = "shm", .timeout_s = 30, .processes = 1, .body = tell_one});
}

static int poll_for(mpt_comm_t *comm, double seconds)
{
    double start = now();
    while (mpt_comm_poll(comm) == MPT_OK && now() - start < seconds)
        usleep(1000);
    return mpt_comm_poll(comm);
}

/* Rank 0 gives up on the parent, and maybe leaves the child at once; rank 1, which waits for it in the child, hears of that in the
 * parent. Rank 2 looks at the child alone, and must hear of it there. */
static int follow_parent(party_rank_t *rank, int leaves)
{
    mpt_comm_t *child = NULL;
    mpt_boot_t *boot = rank->comm->boot;
    char byte = 0, all[3];
    int wrong = mpt_comm_split(rank->comm, 0, 0, &child) != MPT_OK;
    wrong += boot->ops->exchange(boot, &byte, all, 1) != MPT_OK; /* who is still in the split would fail in it */
    if (wrong)
        return wrong;
    if (!leaves)
        child->timeout_s = 1;
    if (rank->rank == 0)
        mpt_comm_abort(rank->comm, "parent only");
    wrong += boot->ops->exchange(boot, &byte, all, 1) != MPT_OK; /* nobody's patience begins to run out before */
    if (rank->rank == 0) {
        wrong += !leaves && poll_for(child, 10) != MPT_ERR_COMM;
    } else if (rank->rank == 1) {
        wrong += mpt_comm_recv(child, &byte, 1, 0, NULL) != MPT_ERR_COMM;
        wrong += !says(rank, "rank 0 gave up: aborted: parent only");
    } else {
        wrong += poll_for(child, 10) != MPT_ERR_COMM;
        wrong += !says(rank, "rank 1 gave up: its parent failed");
    }
    mpt_comm_destroy(child);
    return wrong;
}

static int follow_parent_in_time(party_rank_t *rank)
{
    return follow_parent(rank, 0);
}

static int follow_parent_and_leave(party_rank_t *rank)
{
    return follow_parent(rank, 1);
}

static void a_child_that_fails_with_its_parent_tells_its_peers(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .timeout_s = 30, .body = follow_parent_in_time});
    assert_party(&(party_t){.ranks = 3, .backend = "shm", .timeout_s = 30, .body = follow_parent_and_leave});
    assert_party(
        &(party_t){.ranks = 3, .backend = "shm", .timeout_s = 30, .processes = 1, .body = follow_parent_and_leave});
}

/* ---- a parent that fails in the last vote of a split, which a communicator of this test's own makes up -------------------- */

typedef struct made_up {
    int gathers, children; /* so far */
    int destroyed_failed;
} made_up_t;

static mpt_status_t gather_twice(mpt_comm_t *comm, const void *send, void *recv, size_t bytes, mpt_stream_t *stream)
{
    (void)stream;
    for (int r = 0; r < comm->ranks; r++)
        memmove((char *)recv + (size_t)r * bytes, send, bytes);
    return ++((made_up_t *)comm->impl)->gathers < 3 ? MPT_OK : MPT_ERR_COMM;
}

static mpt_status_t make_child(mpt_comm_t *comm, int color, const int *members, mpt_comm_t *child)
{
    (void)color, (void)members;
    child->impl = comm->impl;
    ((made_up_t *)comm->impl)->children++;
    return MPT_OK;
}

static void keep_how_it_ended(mpt_comm_t *comm)
{
    ((made_up_t *)comm->impl)->destroyed_failed = comm->failed;
}

static size_t no_scratch(int ranks)
{
    (void)ranks;
    return 0;
}

/* Freeing what MPI has made for it would need the other ranks. */
static void a_child_made_while_its_parent_fails_is_destroyed_as_failed(void **state)
{
    (void)state;
    static const mpt_comm_ops_t ops = {.name = "made up",
                                       .scratch_bytes = no_scratch,
                                       .all_gather = gather_twice,
                                       .split = make_child,
                                       .destroy = keep_how_it_ended};
    made_up_t made_up = {0};
    mpt_comm_t comm = {.ops = &ops, .ranks = 2, .impl = &made_up}, *child = NULL;
    assert_int_equal(mpt_comm_split(&comm, 0, 0, &child), MPT_ERR_COMM);
    assert_null(child);
    assert_int_equal(made_up.children, 1);
    assert_int_equal(made_up.destroyed_failed, 1);
    assert_int_equal(comm.failed, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(abort_by_one_rank_fails_all_soon),
        cmocka_unit_test(poll_learns_of_an_abort),
        cmocka_unit_test(timeout_names_the_ranks_that_never_arrived),
        cmocka_unit_test(receive_times_out_and_names_the_sender),
        cmocka_unit_test(killed_rank_is_named_by_all_others),
        cmocka_unit_test(poll_sees_a_death_without_any_timeout),
        cmocka_unit_test(a_rank_that_left_is_not_waited_for),
        cmocka_unit_test(who_gives_up_and_leaves_is_heard),
        cmocka_unit_test(different_calls_fail_on_every_rank),
        cmocka_unit_test(a_root_that_went_on_fails_in_its_next_call),
        cmocka_unit_test(ranks_that_each_name_themselves_root_fail_together),
        cmocka_unit_test(roots_that_only_broadcast_poll_or_leave_notice_too),
        cmocka_unit_test(what_ranks_call_alike_is_never_refused),
        cmocka_unit_test(a_root_waits_for_ranks_far_behind),
        cmocka_unit_test(a_message_of_another_length_is_an_error),
        cmocka_unit_test(registered_memory_may_be_freed_after_a_failure),
        cmocka_unit_test(memory_is_not_given_up_while_others_read_it),
        cmocka_unit_test(a_rank_may_leave_while_others_still_return),
        cmocka_unit_test(a_broken_child_leaves_its_parent_whole),
        cmocka_unit_test(who_hears_an_alarm_has_told_all_others),
        cmocka_unit_test(a_child_that_fails_with_its_parent_tells_its_peers),
        cmocka_unit_test(a_child_made_while_its_parent_fails_is_destroyed_as_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
