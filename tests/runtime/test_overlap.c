/*
 * Where communication overlaps: the cores that a rank's share leaves over, and the rule of comm.overlap = auto.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "session.h"

/* ---- cores to spare ---------------------------------------------------------------------------------------- */

/* Other ranks that see what this one sees. */
static mpt_status_t echo(mpt_boot_t *boot, const void *send, void *recv, size_t bytes)
{
    for (int r = 0; r < boot->ranks; r++)
        memcpy((char *)recv + (size_t)r * bytes, send, bytes);
    return MPT_OK;
}

static mpt_place_t place_of(int rank, int ranks, int threads)
{
    const mpt_boot_ops_t ops = {"echo", echo, NULL};
    mpt_boot_t boot = {.ops = &ops, .rank = rank, .ranks = ranks, .local_rank = rank, .local_ranks = ranks};
    mpt_place_t place = {0};
    assert_int_equal(mpt_place_choose(&boot, threads, NULL, &place), MPT_OK);
    return place;
}

#define MOST 6

static void a_rank_knows_the_cores_of_its_share_that_no_thread_has(void **state)
{
    (void)state;
    int cores = place_of(0, 1, 0).threads, most = cores < MOST ? cores : MOST; /* each place reads the topology again */
    for (int ranks = 1; ranks <= most; ranks++)
        for (int threads = 1; threads <= most + 1; threads++) {
            int share = cores / ranks, fits = threads <= share;
            int taken[1 + MPT_PLACE_MAX_THREADS] = {0};
            for (int r = 0; r < ranks; r++) {
                mpt_place_t place = place_of(r, ranks, threads);
                assert_int_equal(place.threads, threads);
                assert_int_equal(place.bound, fits);
                assert_int_equal(place.spare, fits ? share - threads : 0);
                for (int i = 0; i < threads + place.spare && fits; i++)
                    for (int j = 0; j < taken[0]; j++)
                        assert_int_not_equal(taken[1 + j], place.cpus[i]);
                for (int i = 0; i < threads + place.spare && fits; i++)
                    taken[1 + taken[0]++] = place.cpus[i];
            }
        }
    assert_int_equal(place_of(0, cores + 1, 1).spare, 0);
}

static void by_default_threads_leave_no_core(void **state)
{
    (void)state;
    assert_int_equal(place_of(0, 1, 0).spare, 0);
    assert_int_equal(place_of(0, 2, 0).spare, 0);
}

/* ---- the rule ---------------------------------------------------------------------------------------------- */

static mpt_session_t session;

static int overlaps(mpt_overlap_kind_t wish, int ranks, int local_ranks, int spare, const char *backend)
{
    mpt_boot_t boot = {.ranks = ranks, .local_ranks = local_ranks};
    memset(&session, 0, sizeof session);
    session.boot = &boot;
    session.config.comm.overlap = wish;
    session.config.model.layers = 3;
    session.memory_params.comm_backend = backend;
    session.place.spare = spare;
    assert_int_equal(mpt_overlap_open(&session), MPT_OK);
    int on = session.overlap.on;
    mpt_overlap_end(&session);
    mpt_overlap_close(&session);
    return on;
}

static void auto_overlaps_where_a_core_is_to_spare(void **state)
{
    (void)state;
    assert_false(overlaps(MPT_OVERLAP_AUTO, 4, 4, 0, "shm"));
    assert_true(overlaps(MPT_OVERLAP_AUTO, 4, 4, 1, "shm"));
    assert_false(overlaps(MPT_OVERLAP_AUTO, 1, 1, 3, "self"));
}

static void auto_overlaps_between_hosts_without_one(void **state)
{
    (void)state;
    assert_true(overlaps(MPT_OVERLAP_AUTO, 4, 2, 0, "shm"));
    assert_true(overlaps(MPT_OVERLAP_AUTO, 2, 1, 0, "shm"));
}

static void on_and_off_are_taken_at_their_word(void **state)
{
    (void)state;
    assert_true(overlaps(MPT_OVERLAP_ON, 4, 4, 0, "shm"));
    assert_true(overlaps(MPT_OVERLAP_ON, 1, 1, 0, "self"));
    assert_false(overlaps(MPT_OVERLAP_OFF, 4, 2, 0, "shm"));
    assert_false(overlaps(MPT_OVERLAP_OFF, 4, 4, 2, "shm"));
}

/* No MPI in this program: what is not initialised lets nobody in. */
static void without_a_serialized_mpi_its_backends_do_not_overlap(void **state)
{
    (void)state;
    assert_false(overlaps(MPT_OVERLAP_ON, 4, 2, 1, "mpi"));
    assert_false(overlaps(MPT_OVERLAP_AUTO, 4, 2, 1, "hier"));
    assert_true(overlaps(MPT_OVERLAP_ON, 4, 4, 1, "shm"));
}

static void a_helper_without_a_core_of_its_own_is_known_to_share_one(void **state)
{
    (void)state;
    assert_true(overlaps(MPT_OVERLAP_ON, 4, 4, 0, "shm"));
    assert_true(mpt_overlap_shares_core(&session));
    assert_true(overlaps(MPT_OVERLAP_ON, 4, 4, 1, "shm"));
    assert_false(mpt_overlap_shares_core(&session));
    assert_false(overlaps(MPT_OVERLAP_OFF, 4, 4, 0, "shm"));
    assert_false(mpt_overlap_shares_core(&session));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_knows_the_cores_of_its_share_that_no_thread_has),
        cmocka_unit_test(by_default_threads_leave_no_core),
        cmocka_unit_test(auto_overlaps_where_a_core_is_to_spare),
        cmocka_unit_test(auto_overlaps_between_hosts_without_one),
        cmocka_unit_test(on_and_off_are_taken_at_their_word),
        cmocka_unit_test(without_a_serialized_mpi_its_backends_do_not_overlap),
        cmocka_unit_test(a_helper_without_a_core_of_its_own_is_known_to_share_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
