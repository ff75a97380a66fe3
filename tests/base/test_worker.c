#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "counted_malloc.h"
#include "thread.h"
#include "worker.h"

#define MAX_JOBS 5000

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* What jobs do: plain writes, so that a missing happens-before shows under TSan. */
typedef struct record {
    int count;
    int a[MAX_JOBS], b[MAX_JOBS];
    pthread_t thread;
    _Atomic int begun;  /* a held job waits */
    _Atomic int gate;   /* held jobs wait until it is open */
    _Atomic int inside; /* jobs that run now */
    int faults;         /* jobs that were not alone */
    int failures;       /* calls of the callback */
    mpt_status_t failure;
    int count_at_failure;
} record_t;

static mpt_status_t note(void *ctx, int a, int b)
{
    record_t *r = ctx;
    r->faults += atomic_fetch_add(&r->inside, 1) != 0;
    r->a[r->count] = a;
    r->b[r->count++] = b;
    r->thread = pthread_self();
    atomic_fetch_sub(&r->inside, 1);
    return MPT_OK;
}

/* For ten seconds at most: then the test that holds it has failed, and says so. */
static mpt_status_t held(void *ctx, int a, int b)
{
    record_t *r = ctx;
    atomic_store(&r->begun, 1);
    for (int i = 0; i < 10000 && !atomic_load(&r->gate); i++)
        sleep_ms(1);
    return note(ctx, a, atomic_load(&r->gate) ? b : -1);
}

static mpt_status_t slow(void *ctx, int a, int b)
{
    sleep_ms(20);
    return note(ctx, a, b);
}

static mpt_status_t bad(void *ctx, int a, int b)
{
    (void)note(ctx, a, b);
    return (mpt_status_t)b;
}

static void on_failure(void *ctx, mpt_status_t status)
{
    record_t *r = ctx;
    r->failures++;
    r->failure = status;
    r->count_at_failure = r->count;
}

static record_t shared;

static mpt_worker_t *make_worker(int threaded, int capacity)
{
    mpt_worker_t *worker = NULL;
    memset(&shared, 0, sizeof shared);
    assert_int_equal(mpt_worker_create(&(mpt_worker_params_t){.threaded = threaded,
                                                              .capacity = capacity,
                                                              .failed = on_failure,
                                                              .ctx = &shared},
                                       &worker),
                     MPT_OK);
    return worker;
}

static mpt_ticket_t post(mpt_worker_t *worker, mpt_job_t job, int a, int b)
{
    mpt_ticket_t ticket = 0;
    assert_int_equal(mpt_worker_post(worker, job, &shared, a, b, &ticket), MPT_OK);
    return ticket;
}

/* A job that is under way when this returns, until the gate is opened. */
static mpt_ticket_t post_held(mpt_worker_t *worker, int a, int b)
{
    mpt_ticket_t ticket = post(worker, held, a, b);
    for (int i = 0; i < 10000 && !atomic_load(&shared.begun); i++)
        sleep_ms(1);
    assert_true(atomic_load(&shared.begun));
    return ticket;
}

/* ---- order and waiting --------------------------------------------------------------------------------- */

static void jobs_run_one_by_one_in_the_order_of_their_posts(void **state)
{
    (void)state;
    for (int threaded = 0; threaded <= 1; threaded++)
        for (int capacity = 1; capacity <= 64; capacity *= 4) {
            mpt_worker_t *worker = make_worker(threaded, capacity);
            for (int i = 0; i < MAX_JOBS; i++)
                assert_int_equal(post(worker, note, i, 3 * i), i + 1);
            assert_int_equal(mpt_worker_drain(worker), MPT_OK);
            assert_int_equal(shared.count, MAX_JOBS);
            assert_int_equal(shared.faults, 0);
            for (int i = 0; i < MAX_JOBS; i++)
                assert_true(shared.a[i] == i && shared.b[i] == 3 * i);
            mpt_worker_destroy(worker);
        }
}

static void a_post_returns_while_its_job_runs_on_another_thread(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 4);
    mpt_ticket_t ticket = post(worker, held, 1, 2);
    atomic_store(&shared.gate, 1); /* not reached by a post that waits */
    assert_int_equal(mpt_worker_wait(worker, ticket), MPT_OK);
    assert_int_equal(shared.b[0], 2);
    assert_false(pthread_equal(shared.thread, pthread_self()));
    mpt_worker_destroy(worker);
}

static void without_a_thread_a_job_is_done_when_its_post_returns(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(0, 1);
    (void)post(worker, note, 1, 2);
    assert_int_equal(shared.count, 1);
    assert_true(pthread_equal(shared.thread, pthread_self()));
    mpt_worker_destroy(worker);
}

static void a_wait_is_for_its_job_not_for_those_after_it(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 4);
    mpt_ticket_t first = post(worker, note, 7, 0), second = post(worker, held, 8, 0);
    assert_int_equal(mpt_worker_wait(worker, 0), MPT_OK);
    assert_int_equal(mpt_worker_wait(worker, first), MPT_OK);
    assert_int_equal(shared.a[0], 7);
    atomic_store(&shared.gate, 1);
    assert_int_equal(mpt_worker_wait(worker, second), MPT_OK);
    assert_int_equal(mpt_worker_wait(worker, first), MPT_OK);
    assert_int_equal(shared.count, 2);
    assert_int_equal(shared.b[1], 0);
    mpt_worker_destroy(worker);
}

/* Four jobs where there is room for two. Returns how long the posts waited. */
static double post_beyond_the_capacity(void)
{
    mpt_worker_t *worker = make_worker(1, 2);
    for (int i = 0; i < 4; i++)
        (void)post(worker, slow, i, 0);
    double waited = mpt_worker_times(worker).waited;
    assert_int_equal(mpt_worker_wait(worker, 2), MPT_OK); /* done already: or the fourth had overwritten the second */
    assert_int_equal(mpt_worker_drain(worker), MPT_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(shared.a[i], i);
    mpt_worker_destroy(worker);
    return waited;
}

/* Where this thread does not run between two posts, the jobs are done before it would wait: then once more. */
static void a_post_beyond_the_capacity_waits_for_room(void **state)
{
    double waited = 0;
    (void)state;
    for (int i = 0; i < 50 && !(waited > 0.015); i++)
        waited = post_beyond_the_capacity();
    assert_true(waited > 0.015);
}

static void a_call_runs_in_the_caller_after_all_that_was_posted(void **state)
{
    (void)state;
    for (int threaded = 0; threaded <= 1; threaded++) {
        mpt_worker_t *worker = make_worker(threaded, 4);
        (void)post(worker, slow, 1, 0);
        (void)post(worker, slow, 2, 0);
        assert_int_equal(mpt_worker_call(worker, note, &shared, 3, 0), MPT_OK);
        assert_int_equal(shared.count, 3);
        assert_int_equal(shared.a[2], 3);
        assert_true(pthread_equal(shared.thread, pthread_self()));
        mpt_worker_destroy(worker);
    }
}

static void destroy_finishes_what_is_posted(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 8);
    for (int i = 0; i < 5; i++)
        (void)post(worker, slow, i, 0);
    mpt_worker_destroy(worker);
    assert_int_equal(shared.count, 5);
    mpt_worker_destroy(NULL);
}

/* ---- failure ------------------------------------------------------------------------------------------- */

static void the_first_failure_ends_the_work_and_is_told_once(void **state)
{
    (void)state;
    for (int threaded = 0; threaded <= 1; threaded++) {
        mpt_worker_t *worker = make_worker(threaded, 8);
        mpt_ticket_t ticket = 77;
        (void)post(worker, note, 1, 0);
        mpt_status_t posted = mpt_worker_post(worker, bad, &shared, 2, MPT_ERR_COMM, &ticket);
        assert_int_equal(mpt_worker_drain(worker), MPT_ERR_COMM);
        if (!threaded)
            assert_int_equal(posted, MPT_ERR_COMM);
        ticket = 77;
        assert_int_equal(mpt_worker_post(worker, bad, &shared, 3, MPT_ERR_DEVICE, &ticket), MPT_ERR_COMM);
        assert_int_equal(ticket, 77);
        assert_int_equal(mpt_worker_call(worker, bad, &shared, 4, MPT_ERR_DEVICE), MPT_ERR_COMM);
        assert_int_equal(mpt_worker_wait(worker, 1), MPT_ERR_COMM);
        assert_int_equal(shared.count, 2);
        assert_int_equal(shared.failures, 1);
        assert_int_equal(shared.failure, MPT_ERR_COMM);
        assert_int_equal(shared.count_at_failure, 2);
        mpt_worker_destroy(worker);
    }
}

static void jobs_that_wait_behind_a_failure_are_not_run(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 8);
    mpt_ticket_t last = 0;
    (void)post(worker, held, 1, 0);
    (void)post(worker, bad, 2, MPT_ERR_DEVICE);
    for (int i = 3; i < 6; i++)
        last = post(worker, note, i, 0);
    atomic_store(&shared.gate, 1);
    assert_int_equal(mpt_worker_wait(worker, last), MPT_ERR_DEVICE);
    assert_int_equal(shared.count, 2);
    mpt_worker_destroy(worker);
}

static void a_failed_call_ends_the_work_as_well(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 8);
    assert_int_equal(mpt_worker_call(worker, bad, &shared, 1, MPT_ERR_COMM), MPT_ERR_COMM);
    assert_int_equal(shared.failures, 1);
    mpt_ticket_t ticket;
    assert_int_equal(mpt_worker_post(worker, note, &shared, 2, 0, &ticket), MPT_ERR_COMM);
    mpt_worker_destroy(worker);
    assert_int_equal(shared.count, 1);
}

static void stop_lets_the_job_under_way_end_and_drops_the_others(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 8);
    (void)post(worker, note, 0, 0);
    assert_int_equal(mpt_worker_drain(worker), MPT_OK);
    (void)post_held(worker, 1, 0);
    (void)post(worker, note, 2, 0);
    (void)post(worker, note, 3, 0);
    mpt_worker_stop(worker, MPT_ERR_DEVICE);
    atomic_store(&shared.gate, 1);
    assert_int_equal(mpt_worker_drain(worker), MPT_ERR_DEVICE);
    assert_int_equal(shared.count, 2);
    assert_int_equal(shared.a[1], 1);
    assert_int_equal(shared.failures, 0);
    mpt_worker_stop(worker, MPT_ERR_COMM);
    assert_int_equal(mpt_worker_drain(worker), MPT_ERR_DEVICE);
    mpt_worker_destroy(worker);
}

/* ---- time, place, memory ------------------------------------------------------------------------------- */

static mpt_status_t nothing(void *ctx, int a, int b)
{
    (void)ctx;
    (void)a;
    (void)b;
    return MPT_OK;
}

static void time_that_the_owner_worked_meanwhile_is_busy_but_not_waited(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 4);
    mpt_ticket_t ticket = post_held(worker, 0, 0);
    sleep_ms(20);
    atomic_store(&shared.gate, 1);
    assert_int_equal(mpt_worker_wait(worker, ticket), MPT_OK);
    mpt_worker_times_t times = mpt_worker_times(worker);
    assert_true(times.busy >= 0.019);
    assert_true(times.waited < times.busy);
    mpt_worker_destroy(worker);
}

/* Looked at anywhere, what is under way counts as far as it is, and waiting is a part of it. */
static void what_is_under_way_counts_up_to_now(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 4);
    (void)post_held(worker, 0, 0);
    mpt_worker_times_t before = mpt_worker_times(worker);
    sleep_ms(20);
    mpt_worker_times_t after = mpt_worker_times(worker);
    assert_true(after.busy - before.busy >= 0.019);
    assert_true(after.waited == 0.0);
    atomic_store(&shared.gate, 1);
    assert_int_equal(mpt_worker_drain(worker), MPT_OK);
    mpt_worker_destroy(worker);
}

static void no_stretch_of_time_is_waited_for_but_not_busy(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(1, 4);
    mpt_worker_times_t before = {0};
    for (int i = 0; i < 300; i++) { /* most of a wait for so short a job is the helper's waking up */
        mpt_ticket_t ticket = post(worker, nothing, 0, 0);
        if (i % 3 == 0)
            assert_int_equal(mpt_worker_call(worker, nothing, NULL, 0, 0), MPT_OK);
        assert_int_equal(mpt_worker_wait(worker, ticket), MPT_OK);
        mpt_worker_times_t after = mpt_worker_times(worker);
        assert_true(after.waited - before.waited <= after.busy - before.busy + 1e-12);
        before = after;
    }
    mpt_worker_destroy(worker);
}

static void without_a_thread_all_that_is_busy_is_waited_for(void **state)
{
    (void)state;
    mpt_worker_t *worker = make_worker(0, 4);
    (void)post(worker, slow, 0, 0);
    assert_int_equal(mpt_worker_call(worker, slow, &shared, 1, 0), MPT_OK);
    mpt_worker_times_t times = mpt_worker_times(worker);
    assert_true(times.busy >= 0.039);
    assert_true(times.waited == times.busy);
    mpt_worker_destroy(worker);
}

static mpt_status_t look_around(void *ctx, int a, int b)
{
    cpu_set_t *set = ctx;
    (void)a;
    (void)b;
    return pthread_getaffinity_np(pthread_self(), sizeof *set, set) == 0 ? MPT_OK : MPT_ERR_DEVICE;
}

static void the_helper_runs_where_it_is_told_to(void **state)
{
    (void)state;
    cpu_set_t allowed, seen;
    int cpu = 0;
    mpt_worker_t *worker;
    mpt_ticket_t ticket;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    while (!CPU_ISSET(cpu, &allowed))
        cpu++;
    assert_int_equal(mpt_worker_create(&(mpt_worker_params_t){.threaded = 1, .capacity = 1, .cpus = &cpu, .cpu_count = 1},
                                       &worker),
                     MPT_OK);
    assert_int_equal(mpt_worker_post(worker, look_around, &seen, 0, 0, &ticket), MPT_OK);
    assert_int_equal(mpt_worker_drain(worker), MPT_OK);
    assert_int_equal(CPU_COUNT(&seen), 1);
    assert_true(CPU_ISSET(cpu, &seen));
    mpt_worker_destroy(worker);
}

#if defined(__SSE__)
static mpt_status_t check_float_control(void *ctx, int a, int b)
{
    record_t *r = ctx;
    (void)a;
    (void)b;
    r->faults += (_mm_getcsr() & ~0x3fu) != 0x1f80u; /* the low bits are flags that operations raise */
    r->count++;
    return MPT_OK;
}

static void every_job_sees_one_float_control_word(void **state)
{
    (void)state;
    int faults = 0, jobs = 0;
    unsigned before = _mm_getcsr();
    _mm_setcsr(0xffc0u); /* flush to zero, subnormals are zero, round towards zero */
    for (int threaded = 0; threaded <= 1; threaded++) {
        mpt_worker_t *worker = make_worker(threaded, 4);
        (void)post(worker, check_float_control, 0, 0);
        (void)mpt_worker_call(worker, check_float_control, &shared, 0, 0);
        mpt_worker_destroy(worker);
        faults += shared.faults + ((_mm_getcsr() & ~0x3fu) != 0xffc0u);
        jobs += shared.count;
    }
    _mm_setcsr(before);
    assert_int_equal(faults, 0);
    assert_int_equal(jobs, 4);
}
#else
static void every_job_sees_one_float_control_word(void **state)
{
    (void)state;
    skip();
}
#endif

static void nothing_is_allocated_after_create(void **state)
{
    (void)state;
    if (!COUNTED_MALLOC)
        skip();
    for (int threaded = 0; threaded <= 1; threaded++) {
        mpt_worker_t *worker = make_worker(threaded, 4);
        (void)post(worker, note, 0, 0);
        assert_int_equal(mpt_worker_drain(worker), MPT_OK);
        long before = counted_mallocs();
        for (int i = 1; i < 1000; i++)
            (void)post(worker, note, i, 0);
        mpt_status_t status = mpt_worker_drain(worker);
        assert_int_equal(counted_mallocs() - before, 0);
        assert_int_equal(status, MPT_OK);
        mpt_worker_destroy(worker);
    }
    long before = counted_mallocs();
    void *volatile one = malloc(1); /* that the count counts; a compiler may leave out what nobody sees */
    free(one);
    assert_true(counted_mallocs() > before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_run_one_by_one_in_the_order_of_their_posts),
        cmocka_unit_test(a_post_returns_while_its_job_runs_on_another_thread),
        cmocka_unit_test(without_a_thread_a_job_is_done_when_its_post_returns),
        cmocka_unit_test(a_wait_is_for_its_job_not_for_those_after_it),
        cmocka_unit_test(a_post_beyond_the_capacity_waits_for_room),
        cmocka_unit_test(a_call_runs_in_the_caller_after_all_that_was_posted),
        cmocka_unit_test(destroy_finishes_what_is_posted),
        cmocka_unit_test(the_first_failure_ends_the_work_and_is_told_once),
        cmocka_unit_test(jobs_that_wait_behind_a_failure_are_not_run),
        cmocka_unit_test(a_failed_call_ends_the_work_as_well),
        cmocka_unit_test(stop_lets_the_job_under_way_end_and_drops_the_others),
        cmocka_unit_test(time_that_the_owner_worked_meanwhile_is_busy_but_not_waited),
        cmocka_unit_test(what_is_under_way_counts_up_to_now),
        cmocka_unit_test(no_stretch_of_time_is_waited_for_but_not_busy),
        cmocka_unit_test(without_a_thread_all_that_is_busy_is_waited_for),
        cmocka_unit_test(the_helper_runs_where_it_is_told_to),
        cmocka_unit_test(every_job_sees_one_float_control_word),
        cmocka_unit_test(nothing_is_allocated_after_create),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
