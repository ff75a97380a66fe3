#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <time.h>
#include "comm/party.h"
#include "consensus.h"
#include "records.h"

/* Ranks are threads or processes of one host; where they say they are is up to the test. */

enum { ALWAYS_FOLD = 1, NEVER_FOLD = 1 << 20 };

typedef struct agreeing {
    mpt_consensus_t *consensus;
    void *memory;
} agreeing_t;

static mpt_status_t open_consensus(party_rank_t *rank, mpt_record_fold_t fold, int local_ranks,
                                   int local_rank, int fold_above, agreeing_t *agreeing)
{
    mpt_consensus_params_t params = {.comm = rank->comm,
                                     .fold = fold,
                                     .local_ranks = local_ranks,
                                     .local_rank = local_rank,
                                     .fold_above = fold_above};
    size_t bytes = (mpt_consensus_bytes(fold.ranks) + 63) / 64 * 64;
    params.memory = aligned_alloc(64, bytes);
    memset(params.memory, 0xa5, bytes);
    *agreeing = (agreeing_t){.memory = params.memory};
    return mpt_consensus_create(&params, &agreeing->consensus);
}

static void close_consensus(agreeing_t *agreeing)
{
    mpt_consensus_destroy(agreeing->consensus);
    free(agreeing->memory);
}

/* Hosts of `local` consecutive ranks. */
static mpt_status_t open_even(party_rank_t *rank, int local, agreeing_t *agreeing)
{
    int ranks = rank->comm->ranks;
    return open_consensus(rank, (mpt_record_fold_t){ranks, ranks, 1}, local, rank->rank % local,
                          ALWAYS_FOLD, agreeing);
}

/* Agree on random records, `rounds` times; every verdict is that of folding all records here. */
static int verdicts_are_those_of_all_records(party_rank_t *rank, mpt_consensus_t *consensus,
                                             const mpt_record_fold_t *fold, int rounds)
{
    mpt_stream_t *stream;
    uint64_t seed = (uint64_t)fold->ranks;
    int result = 0;
    if (rank->device->ops->stream_create(rank->device, &stream) != MPT_OK)
        return __LINE__;
    for (int i = 0; i < rounds && result == 0; i++) {
        mpt_record_t records[PARTY_MAX_RANKS];
        double scratch[PARTY_MAX_RANKS];
        mpt_verdict_t expected, verdict;
        records_randomize(records, fold->ranks, &seed);
        mpt_record_fold(records, fold, scratch, &expected);
        memset(&verdict, 0xa5, sizeof verdict);
        if (mpt_consensus_agree(consensus, &records[rank->rank], i % 2 ? stream : NULL, &verdict) !=
            MPT_OK)
            result = __LINE__;
        else if (!verdicts_same(&verdict, &expected))
            result = __LINE__;
    }
    rank->device->ops->stream_destroy(rank->device, stream);
    return result;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- verdicts ---------------------------------------------------------------------------------------- */

static int agree_at_once(party_rank_t *rank)
{
    int ranks = rank->comm->ranks;
    for (int group = 1; group <= ranks; group++)
        for (int replicas = 1; replicas <= ranks; replicas++) {
            if (ranks % group != 0 || ranks % replicas != 0)
                continue;
            mpt_record_fold_t fold = {ranks, group, replicas};
            agreeing_t a;
            uint64_t before = rank->comm->stats.calls;
            if (open_consensus(rank, fold, ranks, rank->rank, NEVER_FOLD, &a) != MPT_OK)
                return __LINE__;
            if (mpt_consensus_folds(a.consensus) || rank->comm->stats.calls != before)
                return __LINE__;
            int result = verdicts_are_those_of_all_records(rank, a.consensus, &fold, 7);
            close_consensus(&a);
            if (result != 0)
                return result;
            if (rank->comm->stats.calls != before + 7)
                return __LINE__;
        }
    return 0;
}

static void one_all_gather_a_step_gives_every_rank_the_verdict(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= PARTY_MAX_RANKS; ranks++)
        assert_party(&(party_t){.ranks = ranks,
                                .backend = ranks == 1 ? "self" : "shm",
                                .timeout_s = 60,
                                .body = agree_at_once});
}

static int agree_by_host(party_rank_t *rank)
{
    int ranks = rank->comm->ranks;
    for (int local = 1; local <= ranks; local++)
        for (int alone = 0; alone < 2; alone++) {
            mpt_record_fold_t fold = {ranks, ranks, alone ? ranks : 1};
            int folds =
                local >= 2 && local < ranks && ranks % local == 0 && (local & (local - 1)) == 0;
            agreeing_t a;
            if (open_consensus(rank, fold, local, rank->rank % local, ALWAYS_FOLD, &a) != MPT_OK)
                return __LINE__;
            if (mpt_consensus_folds(a.consensus) != folds)
                return __LINE__;
            uint64_t before = rank->comm->stats.calls;
            int result = verdicts_are_those_of_all_records(rank, a.consensus, &fold, 60);
            close_consensus(&a);
            if (result != 0)
                return result;
            if (rank->comm->stats.calls != before + (folds ? 0 : 60))
                return __LINE__;
        }
    return 0;
}

static void folding_by_host_gives_the_bits_of_one_all_gather(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= PARTY_MAX_RANKS; ranks++)
        assert_party(
            &(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 60, .body = agree_by_host});
}

static void folding_by_host_works_among_processes(void **state)
{
    (void)state;
    assert_party(&(party_t){
        .ranks = 8, .backend = "shm", .timeout_s = 60, .processes = 1, .body = agree_by_host});
}

/* ---- where it folds ------------------------------------------------------------------------------------ */

typedef struct placing {
    int local_ranks[8], local_rank[8];
} placing_t;

static const placing_t uneven[] = {
    {{2, 2, 3, 3, 3, 3, 3, 3}, {0, 1, 0, 1, 2, 0, 1, 2}},
    {{4, 4, 4, 4, 2, 2, 2, 2}, {0, 1, 2, 3, 0, 1, 0, 1}},
    {{4, 4, 4, 4, 4, 4, 4, 4}, {0, 0, 1, 1, 2, 2, 3, 3}}, /* dealt in turn */
    {{4, 4, 4, 4, 4, 4, 4, 4}, {0, 1, 0, 1, 2, 3, 2, 3}}, /* in turn, two at a time */
    {{4, 4, 4, 4, 6, 6, 6, 6}, {0, 1, 2, 3, 0, 1, 2, 3}},
    {{1, 2, 2, 2, 2, 2, 2, 1}, {0, 0, 1, 0, 1, 0, 1, 0}}, /* not from a multiple on */
    {{1, 1, 1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0, 0, 0}},
    {{8, 8, 8, 8, 8, 8, 8, 8}, {0, 1, 2, 3, 4, 5, 6, 7}},
    {{0, 0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0, 0, 0}},
};

static int agree_on_uneven_hosts(party_rank_t *rank)
{
    mpt_record_fold_t fold = {8, 8, 1};
    for (size_t i = 0; i < sizeof uneven / sizeof uneven[0]; i++) {
        agreeing_t a;
        if (open_consensus(rank, fold, uneven[i].local_ranks[rank->rank],
                           uneven[i].local_rank[rank->rank], ALWAYS_FOLD, &a) != MPT_OK)
            return __LINE__;
        if (mpt_consensus_folds(a.consensus))
            return __LINE__;
        int result = verdicts_are_those_of_all_records(rank, a.consensus, &fold, 5);
        close_consensus(&a);
        if (result != 0)
            return result;
    }
    return 0;
}

static void uneven_hosts_gather_all_records(void **state)
{
    (void)state;
    assert_party(
        &(party_t){.ranks = 8, .backend = "shm", .timeout_s = 60, .body = agree_on_uneven_hosts});
}

static int agree_on_what_needs_all_records(party_rank_t *rank)
{
    static const mpt_record_fold_t folds[] = {{8, 4, 1}, {8, 4, 4}, {8, 8, 4}, {8, 1, 8}};
    for (size_t i = 0; i < sizeof folds / sizeof folds[0]; i++) {
        agreeing_t a;
        if (open_consensus(rank, folds[i], 4, rank->rank % 4, ALWAYS_FOLD, &a) != MPT_OK)
            return __LINE__;
        if (mpt_consensus_folds(a.consensus))
            return __LINE__;
        int result = verdicts_are_those_of_all_records(rank, a.consensus, &folds[i], 20);
        close_consensus(&a);
        if (result != 0)
            return result;
    }
    return 0;
}

static void groups_and_their_replicas_gather_all_records(void **state)
{
    (void)state;
    assert_party(&(party_t){
        .ranks = 8, .backend = "shm", .timeout_s = 60, .body = agree_on_what_needs_all_records});
}

static int fold_only_above(party_rank_t *rank)
{
    for (int above = 7; above <= 9; above++) {
        agreeing_t a;
        if (open_consensus(rank, (mpt_record_fold_t){8, 8, 1}, 2, rank->rank % 2, above, &a) !=
            MPT_OK)
            return __LINE__;
        int folds = mpt_consensus_folds(a.consensus);
        close_consensus(&a);
        if (folds != (above == 7))
            return __LINE__;
    }
    return 0;
}

static void records_fold_by_host_only_above_the_given_number(void **state)
{
    (void)state;
    assert_party(
        &(party_t){.ranks = 8, .backend = "shm", .timeout_s = 60, .body = fold_only_above});
}

/* ---- failures ---------------------------------------------------------------------------------------- */

enum { GOOD_ROUNDS = 3 };

static mpt_status_t agree_once(party_rank_t *rank, mpt_consensus_t *consensus)
{
    mpt_record_t own = {.tokens = 5};
    mpt_verdict_t verdict;
    mpt_status_t status = mpt_consensus_agree(consensus, &own, NULL, &verdict);
    if (status == MPT_OK && verdict.tokens != 5 * (uint64_t)rank->comm->ranks)
        return MPT_ERR_INVALID_ARG;
    return status;
}

static int says(const party_rank_t *rank, const char *words)
{
    return strstr(rank->said, words) != NULL;
}

/* By way of the boot, which does not know of communicators. */
static int meet(party_rank_t *rank)
{
    char own = 0, all[PARTY_MAX_RANKS];
    return rank->comm->boot->ops->exchange(rank->comm->boot, &own, all, 1) == MPT_OK;
}

/* How a rank gives up. Where the communicator alone is aborted, those in a consensus that folds by host learn of it when
 * that rank destroys its consensus, or agrees again. */
enum { BY_CONSENSUS, BY_COMMUNICATOR, BY_COMMUNICATOR_AND_AGREEING };

/* Rank `victim` gives up in place of agreeing; the others must fail, now and from then on. */
static int give_up(party_rank_t *rank, int local, int victim, int how)
{
    agreeing_t a;
    int result = 0;
    if (open_even(rank, local, &a) != MPT_OK)
        return __LINE__;
    for (int i = 0; i < GOOD_ROUNDS; i++)
        if (agree_once(rank, a.consensus) != MPT_OK)
            result = __LINE__;
    /* A root is done with a small broadcast before the others are: none gives up while another is in a good round. */
    if (!meet(rank))
        result = __LINE__;
    if (rank->rank != victim) {
        if (agree_once(rank, a.consensus) != MPT_ERR_COMM ||
            agree_once(rank, a.consensus) != MPT_ERR_COMM || !rank->comm->failed)
            result = __LINE__;
        else if (!says(rank, "consensus record") || !says(rank, "gave up"))
            result = __LINE__;
        else if (how == BY_COMMUNICATOR && local < 8 && rank->rank / local == victim / local &&
                 !says(rank, "the communicator failed"))
            result = __LINE__;
    } else {
        if (how == BY_CONSENSUS)
            mpt_consensus_abort(a.consensus, "out of patience");
        else
            mpt_comm_abort(rank->comm, "out of patience");
        if (how != BY_COMMUNICATOR && agree_once(rank, a.consensus) != MPT_ERR_COMM)
            result = __LINE__;
    }
    if (how != BY_COMMUNICATOR && !meet(rank))
        result = __LINE__;
    close_consensus(&a);
    return result;
}

/* A communicator serves one failure: each case has a party of its own. */
#define GIVE_UP(name, local, victim, how)                                                          \
    static int name(party_rank_t *rank)                                                            \
    {                                                                                              \
        return give_up(rank, local, victim, how);                                                  \
    }
GIVE_UP(leader_0_of_pairs, 2, 0, BY_CONSENSUS)
GIVE_UP(rank_5_of_pairs, 2, 5, BY_CONSENSUS)
GIVE_UP(leader_6_of_pairs, 2, 6, BY_COMMUNICATOR)
GIVE_UP(leader_0_of_fours, 4, 0, BY_COMMUNICATOR)
GIVE_UP(rank_3_of_fours, 4, 3, BY_CONSENSUS)
GIVE_UP(leader_4_of_fours, 4, 4, BY_COMMUNICATOR_AND_AGREEING)
GIVE_UP(rank_7_of_fours, 4, 7, BY_COMMUNICATOR)
GIVE_UP(rank_6_of_fours, 4, 6, BY_COMMUNICATOR_AND_AGREEING)
GIVE_UP(rank_0_of_all, 8, 0, BY_CONSENSUS)
GIVE_UP(rank_3_of_all, 8, 3, BY_COMMUNICATOR)

static void a_rank_that_gives_up_fails_all_soon(void **state)
{
    (void)state;
    static int (*const bodies[])(party_rank_t *) = {
        leader_0_of_pairs, rank_5_of_pairs, leader_6_of_pairs, leader_0_of_fours, rank_3_of_fours,
        leader_4_of_fours, rank_7_of_fours, rank_6_of_fours,   rank_0_of_all,     rank_3_of_all};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        double start = now();
        assert_party(&(party_t){.ranks = 8, .backend = "shm", .timeout_s = 60, .body = bodies[i]});
        assert_true(now() - start < 20);
    }
}

/* Rank 5 comes only after everybody has given it up, in 3 s; its host is late as well, but not too late: the other's leader has
 * 6 s for it. */
static int wait_for_rank_5(party_rank_t *rank)
{
    agreeing_t a;
    int result = 0;
    if (open_even(rank, 4, &a) != MPT_OK || agree_once(rank, a.consensus) != MPT_OK)
        return __LINE__;
    double start = now();
    while (rank->rank == 5 && mpt_comm_poll(rank->comm) == MPT_OK && now() - start < 30)
        usleep(1000);
    if (rank->rank / 4 == 1)
        usleep(500000);
    if (agree_once(rank, a.consensus) != MPT_ERR_COMM || now() - start > 10)
        result = __LINE__;
    else if (says(rank, "no sign of") && !says(rank, "no sign of rank 5 "))
        result = __LINE__; /* nobody blames a rank that only waits itself */
    else if ((rank->rank == 4 || rank->rank == 6) && !says(rank, "rank 5"))
        result = __LINE__;
    close_consensus(&a);
    return result;
}

static void a_silent_rank_is_named_and_fails_all(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 8, .backend = "shm", .timeout_s = 3, .body = wait_for_rank_5});
}

/* A dead leader takes along its host, and through the other leaders the others. */
static int die_in_third_round(party_rank_t *rank, int victim)
{
    agreeing_t a;
    if (open_even(rank, 4, &a) != MPT_OK)
        return __LINE__;
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < 100 && status == MPT_OK; i++) {
        if (i == 3 && rank->rank == victim)
            raise(SIGKILL);
        status = agree_once(rank, a.consensus);
    }
    close_consensus(&a);
    return status == MPT_ERR_COMM ? 0 : __LINE__;
}

static int leader_dies(party_rank_t *rank)
{
    return die_in_third_round(rank, 4);
}

static int follower_dies(party_rank_t *rank)
{
    return die_in_third_round(rank, 2);
}

static void assert_all_fail_when_killed(int (*body)(party_rank_t *), int victim)
{
    double start = now();
    party_table_t *table = party_run(
        &(party_t){.ranks = 8, .backend = "shm", .timeout_s = 60, .processes = 1, .body = body});
    for (int r = 0; r < 8; r++)
        assert_int_equal(table->result[r], r == victim ? PARTY_KILLED : 0);
    munmap(table, sizeof *table);
    assert_true(now() - start < 20);
}

static void a_killed_leader_fails_all_soon(void **state)
{
    (void)state;
    assert_all_fail_when_killed(leader_dies, 4);
}

static void a_killed_rank_of_a_host_fails_all_soon(void **state)
{
    (void)state;
    assert_all_fail_when_killed(follower_dies, 2);
}

static int leave_the_label_alone(party_rank_t *rank)
{
    agreeing_t a;
    rank->comm->what = "step 3";
    if (open_even(rank, 2, &a) != MPT_OK || strcmp(rank->comm->what, "step 3") != 0)
        return __LINE__;
    close_consensus(&a);
    if (open_even(rank, rank->comm->ranks, &a) != MPT_OK ||
        agree_once(rank, a.consensus) != MPT_OK || strcmp(rank->comm->what, "step 3") != 0)
        return __LINE__;
    close_consensus(&a);
    return 0;
}

static void what_the_communicator_says_it_does_is_as_before(void **state)
{
    (void)state;
    assert_party(
        &(party_t){.ranks = 4, .backend = "shm", .timeout_s = 60, .body = leave_the_label_alone});
}

static void destroying_nothing_is_allowed(void **state)
{
    (void)state;
    mpt_consensus_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_all_gather_a_step_gives_every_rank_the_verdict),
        cmocka_unit_test(folding_by_host_gives_the_bits_of_one_all_gather),
        cmocka_unit_test(folding_by_host_works_among_processes),
        cmocka_unit_test(uneven_hosts_gather_all_records),
        cmocka_unit_test(groups_and_their_replicas_gather_all_records),
        cmocka_unit_test(records_fold_by_host_only_above_the_given_number),
        cmocka_unit_test(a_rank_that_gives_up_fails_all_soon),
        cmocka_unit_test(a_silent_rank_is_named_and_fails_all),
        cmocka_unit_test(a_killed_leader_fails_all_soon),
        cmocka_unit_test(a_killed_rank_of_a_host_fails_all_soon),
        cmocka_unit_test(what_the_communicator_says_it_does_is_as_before),
        cmocka_unit_test(destroying_nothing_is_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
