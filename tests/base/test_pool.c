#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "pool.h"

#define MAX_THREADS 5
#define MAX_TASKS 2000

static mpt_pool_t *make_pool(int threads, int yield)
{
    mpt_pool_params_t params = {.threads = threads, .yield = yield};
    mpt_pool_t *pool = NULL;
    assert_int_equal(mpt_pool_create(&params, &pool), MPT_OK);
    assert_int_equal(mpt_pool_threads(pool), threads);
    return pool;
}

/* What the tasks of one run do: plain writes, so that a missing happens-before shows under TSan. */
typedef struct job {
    int threads;
    int value;
    int counts[MAX_TASKS];
    int values[MAX_TASKS];
    _Atomic int inside[MAX_THREADS]; /* tasks that run as this worker now */
    int last[MAX_THREADS];           /* the worker's task before this one */
    _Atomic int faults;
} job_t;

static void note_task(void *ctx, int task, int worker)
{
    job_t *job = ctx;
    if (worker < 0 || worker >= job->threads) {
        atomic_fetch_add(&job->faults, 1);
        return;
    }
    if (atomic_fetch_add(&job->inside[worker], 1) != 0 || task <= job->last[worker])
        atomic_fetch_add(&job->faults, 1);
    job->last[worker] = task;
    job->counts[task]++;
    job->values[task] = job->value;
    atomic_fetch_sub(&job->inside[worker], 1);
}

static void run_and_check(mpt_pool_t *pool, job_t *job, int tasks)
{
    int threads = mpt_pool_threads(pool), value = job->value + 1;
    memset(job, 0, sizeof *job);
    job->threads = threads;
    job->value = value;
    for (int w = 0; w < MAX_THREADS; w++)
        job->last[w] = -1;
    mpt_pool_run(pool, note_task, job, tasks);
    assert_int_equal(job->faults, 0);
    for (int t = 0; t < MAX_TASKS; t++) {
        assert_int_equal(job->counts[t], t < tasks);
        assert_int_equal(job->values[t], t < tasks ? value : 0);
    }
}

static job_t shared_job;

static void every_task_runs_once(void **state)
{
    (void)state;
    static const int tasks[] = {0, 1, 2, 3, 7, 64, 1999, 2000, -1};
    for (int yield = 0; yield <= 1; yield++) {
        for (int threads = 1; threads <= MAX_THREADS; threads++) {
            mpt_pool_t *pool = make_pool(threads, yield);
            for (int repeat = 0; repeat < 3; repeat++)
                for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++)
                    run_and_check(pool, &shared_job, tasks[i]);
            mpt_pool_destroy(pool);
        }
    }
}

static void add_index(void *ctx, int task, int worker)
{
    (void)worker;
    int64_t *slots = ctx;
    slots[task] += task + 1;
}

/* Runs back to back: workers are late, asleep, or still leaving the run before. */
static void runs_back_to_back_lose_nothing(void **state)
{
    (void)state;
    for (int yield = 0; yield <= 1; yield++) {
        for (int threads = 2; threads <= 4; threads++) {
            mpt_pool_t *pool = make_pool(threads, yield);
            int64_t slots[8] = {0};
            int runs = 3000;
            for (int i = 0; i < runs; i++)
                mpt_pool_run(pool, add_index, slots, 2 + i % 7);
            mpt_pool_destroy(pool);
            for (int t = 0; t < 8; t++) {
                int64_t times = 0;
                for (int i = 0; i < runs; i++)
                    times += t < 2 + i % 7;
                assert_int_equal(slots[t], times * (t + 1));
            }
        }
    }
}

static void sleep_us(long us)
{
    struct timespec pause = {.tv_nsec = us * 1000};
    nanosleep(&pause, NULL);
}

static void workers_wake_from_any_depth_of_sleep(void **state)
{
    (void)state;
    mpt_pool_t *pool = make_pool(3, 0);
    int64_t slots[6] = {0};
    for (int i = 0; i < 200; i++) {
        mpt_pool_run(pool, add_index, slots, 6);
        sleep_us(i % 10 * 20); /* from inside the spinning to well past it */
    }
    mpt_pool_destroy(pool);
    for (int t = 0; t < 6; t++)
        assert_int_equal(slots[t], 200 * (t + 1));
}

/* Each of the tasks waits until all have begun: returns only if so many threads really run at once.
 */
typedef struct meeting {
    _Atomic int arrived;
    _Atomic int missed;
    int expected;
} meeting_t;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void meet(void *ctx, int task, int worker)
{
    (void)task;
    (void)worker;
    meeting_t *meeting = ctx;
    double deadline = seconds() + 20.0;
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < meeting->expected) {
        if (seconds() > deadline) {
            atomic_fetch_add(&meeting->missed, 1);
            return;
        }
        sched_yield();
    }
}

static void all_workers_take_part(void **state)
{
    (void)state;
    for (int yield = 0; yield <= 1; yield++) {
        mpt_pool_t *pool = make_pool(4, yield);
        for (int i = 0; i < 50; i++) {
            meeting_t meeting = {.expected = 2 + i % 3};
            mpt_pool_run(pool, meet, &meeting, meeting.expected);
            assert_int_equal(meeting.missed, 0);
            sleep_us(i % 4 * 100);
        }
        mpt_pool_destroy(pool);
    }
}

static void last_one_is_slow(void *ctx, int task, int worker)
{
    (void)worker;
    if (task == 1)
        sleep_us(3000);
    ((int *)ctx)[task] = 1;
}

static void the_caller_waits_for_stragglers(void **state)
{
    (void)state;
    for (int yield = 0; yield <= 1; yield++) {
        mpt_pool_t *pool = make_pool(2, yield);
        for (int i = 0; i < 20; i++) {
            int finished[2] = {0};
            mpt_pool_run(pool, last_one_is_slow, finished, 2);
            assert_int_equal(finished[0], 1);
            assert_int_equal(finished[1], 1);
        }
        mpt_pool_destroy(pool);
    }
}

static void pools_may_be_created_and_destroyed_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 150; i++) {
        mpt_pool_t *pool = make_pool(1 + i % MAX_THREADS, i & 1);
        int64_t slots[4] = {0};
        if (i % 3 == 0)
            mpt_pool_run(pool, add_index, slots, 4);
        mpt_pool_destroy(pool);
    }
    mpt_pool_destroy(NULL);
}

static void *run_one_session(void *arg)
{
    int64_t *slots = arg;
    mpt_pool_t *pool;
    mpt_pool_params_t params = {.threads = 2, .yield = 1};
    if (mpt_pool_create(&params, &pool) != MPT_OK)
        return NULL;
    for (int i = 0; i < 1000; i++)
        mpt_pool_run(pool, add_index, slots, 4);
    mpt_pool_destroy(pool);
    return NULL;
}

static void sessions_of_one_process_do_not_meet(void **state)
{
    (void)state;
    enum { SESSIONS = 3 };
    pthread_t threads[SESSIONS];
    int64_t slots[SESSIONS][4];
    memset(slots, 0, sizeof slots);
    for (int s = 0; s < SESSIONS; s++)
        assert_int_equal(pthread_create(&threads[s], NULL, run_one_session, slots[s]), 0);
    for (int s = 0; s < SESSIONS; s++) {
        pthread_join(threads[s], NULL);
        for (int t = 0; t < 4; t++)
            assert_int_equal(slots[s][t], 1000 * (t + 1));
    }
}

static void count_warnings(void *ctx, mpt_log_level_t level, const char *line)
{
    (void)line;
    if (level <= MPT_LOG_WARN)
        ++*(int *)ctx;
}

static void bad_parameters_are_refused(void **state)
{
    (void)state;
    int lines = 0;
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = -1, .sink = count_warnings, .ctx = &lines};
    int negative[2] = {0, -1}, huge[2] = {1 << 20, 0};
    mpt_pool_params_t rows[] = {
        {.threads = 0, .log = &log},
        {.threads = -3, .log = &log},
        {.threads = 1 << 30, .log = &log},
        {.threads = 2, .cpus = negative, .log = &log},
        {.threads = 2, .cpus = huge, .log = &log},
    };
    for (int i = 0; i < 5; i++) {
        mpt_pool_t *pool = (mpt_pool_t *)&lines;
        assert_int_equal(mpt_pool_create(&rows[i], &pool), MPT_ERR_INVALID_ARG);
        assert_ptr_equal(pool, &lines);
        assert_int_equal(lines, i + 1);
    }
}

/* ---- binding ------------------------------------------------------------------------- */

static int allowed_cpus(int *cpus, int room)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    int count = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && count < room; cpu++)
        if (CPU_ISSET(cpu, &set))
            cpus[count++] = cpu;
    return count;
}

typedef struct binding {
    meeting_t meeting; /* so that each worker has one of the tasks */
    const int *cpus;
    _Atomic int faults;
} binding_t;

static void check_binding(void *ctx, int task, int worker)
{
    binding_t *binding = ctx;
    meet(&binding->meeting, task, worker);
    cpu_set_t set;
    if (pthread_getaffinity_np(pthread_self(), sizeof set, &set) != 0 || CPU_COUNT(&set) != 1 ||
        !CPU_ISSET(binding->cpus[worker], &set))
        atomic_fetch_add(&binding->faults, 1);
}

static void workers_are_bound_and_the_caller_is_put_back(void **state)
{
    (void)state;
    int cpus[3], count = allowed_cpus(cpus, 3);
    cpu_set_t before, after;
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof before, &before), 0);
    mpt_pool_params_t params = {.threads = count, .cpus = cpus};
    mpt_pool_t *pool;
    assert_int_equal(mpt_pool_create(&params, &pool), MPT_OK);
    binding_t binding = {.meeting = {.expected = count}, .cpus = cpus};
    mpt_pool_run(pool, check_binding, &binding, count);
    assert_int_equal(binding.faults, 0);
    assert_int_equal(binding.meeting.missed, 0);
    mpt_pool_destroy(pool);
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
}

static void a_refused_binding_is_said_and_survived(void **state)
{
    (void)state;
    int warnings = 0, cpus[2] = {8000, 8001};
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = -1, .sink = count_warnings, .ctx = &warnings};
    mpt_pool_params_t params = {.threads = 2, .cpus = cpus, .log = &log};
    mpt_pool_t *pool;
    assert_int_equal(mpt_pool_create(&params, &pool), MPT_OK);
    assert_int_equal(warnings, 2);
    run_and_check(pool, &shared_job, 10);
    mpt_pool_destroy(pool);
}

/* ---- the state of a worker ----------------------------------------------------------- */

static void check_signals(void *ctx, int task, int worker)
{
    binding_t *shared = ctx;
    meet(&shared->meeting, task, worker);
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    int expected = worker != 0;
    if (sigismember(&blocked, SIGTERM) != expected || sigismember(&blocked, SIGINT) != expected ||
        sigismember(&blocked, SIGSEGV) != 0)
        atomic_fetch_add(&shared->faults, 1);
}

static void signals_are_left_to_the_host_program(void **state)
{
    (void)state;
    mpt_pool_t *pool = make_pool(3, 0);
    binding_t shared = {.meeting = {.expected = 3}};
    mpt_pool_run(pool, check_signals, &shared, 3);
    assert_int_equal(shared.faults, 0);
    mpt_pool_destroy(pool);
}

#if defined(__SSE__)
static void check_float_control(void *ctx, int task, int worker)
{
    binding_t *shared = ctx;
    if (shared->meeting.expected > 1)
        meet(&shared->meeting, task, worker);
    if ((_mm_getcsr() & ~0x3fu) != 0x1f80u) /* the low bits are flags that operations raise */
        atomic_fetch_add(&shared->faults, 1);
}

static void every_task_sees_one_float_control_word(void **state)
{
    (void)state;
    unsigned before = _mm_getcsr();
    _mm_setcsr(0xffc0u); /* flush to zero, subnormals are zero, round towards zero */
    mpt_pool_t *pool = make_pool(3, 0);
    int faults = 0;
    for (int tasks = 3; tasks >= 1; tasks -= 2) {
        binding_t shared = {.meeting = {.expected = tasks}};
        mpt_pool_run(pool, check_float_control, &shared, tasks);
        faults += shared.faults + ((_mm_getcsr() & ~0x3fu) != 0xffc0u);
    }
    mpt_pool_destroy(pool);
    _mm_setcsr(before);
    assert_int_equal(faults, 0);
}
#else
static void every_task_sees_one_float_control_word(void **state)
{
    (void)state;
    skip();
}
#endif

static void burn(void *ctx, int task, int worker)
{
    (void)task;
    (void)worker;
    double until = seconds() + *(const double *)ctx;
    while (seconds() < until)
        ;
}

/* A guard against a lost wake-up, which costs far more: not a measurement. */
static void a_dispatch_is_cheap(void **state)
{
    (void)state;
    mpt_pool_t *pool = make_pool(2, 0);
    double task_seconds = 5e-6, begin = seconds();
    for (int i = 0; i < 2000; i++)
        mpt_pool_run(pool, burn, &task_seconds, 2);
    double each = (seconds() - begin) / 2000;
    print_message("two tasks of 5 us over two threads: %.2f us a run\n", each * 1e6);
    assert_true(each < 5e-3);
    mpt_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(runs_back_to_back_lose_nothing),
        cmocka_unit_test(workers_wake_from_any_depth_of_sleep),
        cmocka_unit_test(all_workers_take_part),
        cmocka_unit_test(the_caller_waits_for_stragglers),
        cmocka_unit_test(pools_may_be_created_and_destroyed_at_once),
        cmocka_unit_test(sessions_of_one_process_do_not_meet),
        cmocka_unit_test(bad_parameters_are_refused),
        cmocka_unit_test(workers_are_bound_and_the_caller_is_put_back),
        cmocka_unit_test(a_refused_binding_is_said_and_survived),
        cmocka_unit_test(signals_are_left_to_the_host_program),
        cmocka_unit_test(every_task_sees_one_float_control_word),
        cmocka_unit_test(a_dispatch_is_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
