#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include "boot.h"

enum { RANKS = 5 };

typedef struct rank_run {
    mpt_boot_t *boot;
    int rounds;
    int wrong;
    mpt_status_t status;
    int insists; /* after a failure it calls again, as often */
} rank_run_t;

static void self_is_one_rank_that_gets_its_own_bytes(void **state)
{
    (void)state;
    mpt_boot_t *boot = NULL;
    int sent = 42, received = 0;
    assert_int_equal(mpt_boot_self_create(&boot), MPT_OK);
    assert_int_equal(boot->rank, 0);
    assert_int_equal(boot->ranks, 1);
    assert_int_equal(boot->local_ranks, 1);
    assert_int_equal(boot->ops->exchange(boot, &sent, &received, sizeof sent), MPT_OK);
    assert_int_equal(received, 42);
    mpt_boot_destroy(boot);
    mpt_boot_destroy(NULL);
}

static void *exchange_rounds(void *argument)
{
    rank_run_t *run = argument;
    mpt_boot_t *boot = run->boot;
    for (int round = 0; round < run->rounds && !run->status; round++) {
        int sent = round * 100 + boot->rank, received[RANKS];
        run->status = boot->ops->exchange(boot, &sent, received, sizeof sent);
        for (int r = 0; r < boot->ranks && !run->status; r++)
            run->wrong += received[r] != round * 100 + r;
    }
    for (int i = 0; i < run->insists && run->status; i++) {
        int sent = 77, received[RANKS] = {0};
        run->wrong += boot->ops->exchange(boot, &sent, received, sizeof sent) != MPT_ERR_COMM;
        for (int r = 0; r < boot->ranks; r++)
            run->wrong += received[r] != 0;
    }
    mpt_boot_destroy(boot);
    return NULL;
}

static void run_ranks(rank_run_t *runs)
{
    mpt_boot_t *boots[RANKS];
    pthread_t threads[RANKS];
    assert_int_equal(mpt_boot_threads_create(RANKS, boots), MPT_OK);
    for (int r = 0; r < RANKS; r++) {
        assert_int_equal(boots[r]->rank, r);
        assert_int_equal(boots[r]->ranks, RANKS);
        assert_int_equal(boots[r]->one_process, 1);
        runs[r].boot = boots[r];
        pthread_create(&threads[r], NULL, exchange_rounds, &runs[r]);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
}

static void threads_exchange_in_rank_order(void **state)
{
    (void)state;
    rank_run_t runs[RANKS] = {{0}};
    for (int r = 0; r < RANKS; r++)
        runs[r].rounds = 200;
    run_ranks(runs);
    for (int r = 0; r < RANKS; r++) {
        assert_int_equal(runs[r].status, MPT_OK);
        assert_int_equal(runs[r].wrong, 0);
    }
}

static void every_exchange_fails_once_a_rank_has_left(void **state)
{
    (void)state;
    rank_run_t runs[RANKS] = {{0}};
    for (int r = 0; r < RANKS; r++) {
        runs[r].rounds = r == 3 ? 10 : 11;
        runs[r].insists = 2;
    }
    run_ranks(runs);
    for (int r = 0; r < RANKS; r++) {
        assert_int_equal(runs[r].status, r == 3 ? MPT_OK : MPT_ERR_COMM);
        assert_int_equal(runs[r].wrong, 0);
    }
}

static void no_ranks_is_an_error(void **state)
{
    (void)state;
    mpt_boot_t *boots[1];
    assert_int_equal(mpt_boot_threads_create(0, boots), MPT_ERR_INVALID_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(self_is_one_rank_that_gets_its_own_bytes),
        cmocka_unit_test(threads_exchange_in_rank_order),
        cmocka_unit_test(every_exchange_fails_once_a_rank_has_left),
        cmocka_unit_test(no_ranks_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
