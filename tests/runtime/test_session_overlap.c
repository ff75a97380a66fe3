/*
 * Communication beside compute: the same bits as without in every mode, a reduction that runs while backward goes on, what the
 * metrics say of it, no allocation in a step, and failures while a job is under way.
 */
#include <time.h>

#include "backends.h"
#include "counted_malloc.h"
#include "shard_fixture.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* ---- the same bits ----------------------------------------------------------------------------------------- */

static fixture_run_t *run_with(int ranks, int mode, const char *overlap, const char *const *set)
{
    const char *const wish[] = {overlap, NULL};
    fixture_job_t job = shard_job(ranks, mode, "run", set);
    shard_add(&job, wish);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(job, MPT_OK);
    for (int r = 1; r < ranks; r++)
        if (!fixture_same_state(run, 0, run, r))
            fail_msg("%s, %s: rank %d holds something else", shard_modes[mode].name, overlap, r);
    for (int r = 0; r < ranks; r++)
        assert_int_equal(run->planned_bytes[r], run->held_bytes[r]);
    return run;
}

static void compare(int ranks, const char *const *set)
{
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        if (ranks == 3 && mode >= SHARD_HSDP2)
            continue;
        fixture_run_t *off = run_with(ranks, mode, "comm.overlap=off", set);
        fixture_run_t *on = run_with(ranks, mode, "comm.overlap=on", set);
        shard_expect_same(off, on, shard_modes[mode].name);
        assert_int_equal(off->skips, on->skips);
        assert_true(memcmp(&off->val_loss, &on->val_loss, sizeof off->val_loss) == 0);
        fixture_free(off);
        fixture_free(on);
    }
}

#define OVERFLOW "overflow:rank=2,step=4,micro=1,tensor=h.1.mlp.c_fc.weight,element=5"

static void accumulated_steps_with_an_overflow_give_the_same_bits(void **state)
{
    static const char *const set[] = {"precision.compute=fp16", "train.steps=8", "precision.init_scale=1024", "train.clip=0.5",
                                      NULL};
    (void)state;
    setenv("MPT_INJECT", OVERFLOW, 1);
    compare(4, set);
    unsetenv("MPT_INJECT");
}

static void micro_steps_that_reduce_at_once_give_the_same_bits(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=6", "train.global_batch=32",
                                      "parallel.reduce_every=micro", "precision.loss_scale=dynamic", NULL};
    (void)state;
    setenv("MPT_INJECT", OVERFLOW, 1);
    compare(4, set);
    unsetenv("MPT_INJECT");
}

static void steps_of_one_micro_step_give_the_same_bits(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=6", "train.global_batch=8", "model.layers=5", NULL};
    static const char *const wide[] = {"precision.compute=fp32", "train.steps=6", "train.global_batch=6",
                                       "train.micro_batch=2", NULL};
    (void)state;
    compare(4, set);
    compare(3, wide);
}

static void lanes_give_the_same_bits(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=6", "train.global_batch=32",
                                      "train.reproducible=world", NULL};
    (void)state;
    compare(4, set);
}

static void everything_else_on_gives_the_same_bits(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=9",       "train.ema=0.9",
                                      "precision.master=none",  "train.recompute=block", "train.val_every=2",
                                      "train.check_every=3",    "checkpoint.every=4",   "precision.rounding=stochastic",
                                      NULL};
    (void)state;
    compare(4, set);
}

static void one_rank_alone_gives_the_same_bits(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=5", NULL};
    (void)state;
    fixture_run_t *off = run_with(1, SHARD_ZERO2, "comm.overlap=off", set);
    fixture_run_t *on = run_with(1, SHARD_ZERO2, "comm.overlap=on", set);
    shard_expect_same(off, on, "one rank");
    fixture_free(off);
    fixture_free(on);
}

/* A bit that flips on one rank is found there, not sent on. */
static void a_flipped_bit_is_found_where_it_was_flipped(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=6", "train.check_every=1", "comm.overlap=on",
                                      NULL};
    static const int modes[] = {SHARD_DDP, SHARD_ZERO1, SHARD_ZERO2};
    (void)state;
    setenv("MPT_INJECT", "flip:rank=1,step=3,tensor=h.0.attn.c_attn.weight,element=900,kind=working,bit=3", 1);
    for (int m = 0; m < 3; m++) {
        fixture_remove("run");
        fixture_run_t *run = fixture_expect(shard_job(4, modes[m], "run", set), MPT_ERR_DEVICE);
        if (strstr(run->log, "step 3: ranks that must hold the same do not: rank 1 differs") == NULL)
            fail_msg("%s: %s", shard_modes[modes[m]].name, run->log);
        fixture_free(run);
    }
    unsetenv("MPT_INJECT");
}

/* ---- beside compute ---------------------------------------------------------------------------------------- */

static const mpt_kernels_ops_t *plain;
/* Kernels in which one is replaced, of each rank's backward and of its jobs. */
static mpt_kernels_ops_t own_ops[FIXTURE_RANKS], job_ops[FIXTURE_RANKS];
static _Atomic int norms[FIXTURE_RANKS];  /* that backward has passed: the head's, and two a block */
static _Atomic int passed[FIXTURE_RANKS]; /* HIDDEN_MS of the head's reduction */
static _Atomic int late;                  /* jobs that waited for backward in vain */
#define HIDDEN_MS 200 /* far more than a busy machine takes to wake a thread */
enum { NORMS = 1 + 2 * 2, BELOW_HEAD = NORMS + 2 }; /* of one micro-step; in the second, the block below the head */

static void take_ops(mpt_session_t *s, int rank)
{
    s->kernels.ops = &own_ops[rank];
    s->overlap.own_kernels.ops = &job_ops[rank];
}

/* Below the head backward takes until HIDDEN_MS of the head's reduction have passed. */
static mpt_status_t norm_seen(mpt_kernels_t *k, const mpt_layernorm_backward_t *a, mpt_stream_t *s)
{
    int below = atomic_fetch_add(&norms[k->ops - own_ops], 1) + 1 == BELOW_HEAD;
    for (int i = 0; below && i < 5000 && !atomic_load(&passed[k->ops - own_ops]); i++)
        sleep_ms(1);
    return plain->layernorm_backward(k, a, s);
}

/* The head's reduction waits until backward has gone on to the block below: in the caller it never would. */
static mpt_status_t to_wire_held(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    int waited = 0;
    for (; waited < 5000 && atomic_load(&norms[k->ops - job_ops]) < BELOW_HEAD; waited++)
        sleep_ms(1);
    if (waited == 5000)
        atomic_fetch_add(&late, 1);
    if (!atomic_load(&passed[k->ops - job_ops]))
        sleep_ms(HIDDEN_MS);
    atomic_store(&passed[k->ops - job_ops], 1);
    return plain->to_wire(k, a, s);
}

/* Two micro-steps, so that accumulators are whole: in a window backward waits for the unit that lies where the next one goes. */
static mpt_status_t watch(mpt_session_t *s, int rank, void *ctx)
{
    mpt_step_result_t *results = ctx;
    mpt_status_t status = mpt_session_step(s, &results[rank]);
    own_ops[rank] = job_ops[rank] = *s->kernels.ops;
    own_ops[rank].layernorm_backward = norm_seen;
    job_ops[rank].to_wire = to_wire_held;
    atomic_store(&norms[rank], 0);
    atomic_store(&passed[rank], 0);
    take_ops(s, rank);
    return status == MPT_OK ? mpt_session_step(s, &results[rank]) : status;
}

static void a_unit_is_reduced_while_the_layer_below_goes_backward(void **state)
{
    static const int modes[] = {SHARD_DDP, SHARD_ZERO2, SHARD_ZERO3, SHARD_HSDP2};
    (void)state;
    plain = mpt_kernels_find("cpu");
    for (int m = 0; m < 4; m++) {
        mpt_step_result_t results[FIXTURE_RANKS] = {{0}};
        static const char *const set[] = {"comm.overlap=on", "precision.compute=bf16", "train.global_batch=16", NULL};
        fixture_job_t job = shard_job(4, modes[m], "run", set);
        job.body = watch;
        job.ctx = results;
        fixture_remove("run");
        fixture_free(fixture_expect(job, MPT_OK));
        assert_int_equal(atomic_load(&late), 0);
        for (int r = 0; r < 4; r++) {
            assert_true(results[r].comm_ms >= HIDDEN_MS);
            assert_true(results[r].exposed_comm_ms < results[r].comm_ms - HIDDEN_MS / 4);
        }
    }
}

/* ---- handed over only when done ----------------------------------------------------------------------------- */

static mpt_comm_ops_t slow_comm[FIXTURE_RANKS];

static mpt_status_t all_gather_late(mpt_comm_t *comm, const void *send, void *recv, size_t bytes, mpt_stream_t *stream)
{
    sleep_ms(3);
    return mpt_comm_shm.all_gather(comm, send, recv, bytes, stream);
}

static mpt_status_t to_wire_late(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    sleep_ms(3);
    return plain->to_wire(k, a, s);
}

/* Jobs take longer than the compute beside them: whoever does not wait reads and writes too early. */
static mpt_status_t train_with_slow_jobs(mpt_session_t *s, int rank, void *ctx)
{
    (void)ctx;
    own_ops[rank] = job_ops[rank] = *s->kernels.ops;
    job_ops[rank].to_wire = to_wire_late;
    slow_comm[rank] = *s->group->ops;
    slow_comm[rank].all_gather = all_gather_late;
    take_ops(s, rank);
    s->group->ops = &slow_comm[rank];
    return mpt_session_train(s, NULL);
}

static void jobs_slower_than_compute_change_no_bits(void **state)
{
    static const char *const sets[][4] = {{"train.global_batch=8", "train.steps=3", "precision.compute=bf16", NULL},
                                          {"parallel.reduce_every=micro", "train.steps=3", "precision.compute=bf16", NULL},
                                          {"train.global_batch=8", "train.steps=3", "precision.compute=fp32", NULL}};
    static const char *const on[] = {"comm.overlap=on", NULL};
    static const int modes[] = {SHARD_DDP, SHARD_ZERO1, SHARD_ZERO2, SHARD_ZERO3, SHARD_HSDP2};
    (void)state;
    plain = mpt_kernels_find("cpu");
    for (int i = 0; i < 3; i++)
        for (int m = 0; m < 5; m++) {
            fixture_job_t job = shard_job(4, modes[m], "run", sets[i]);
            fixture_run_t *off = run_with(4, modes[m], "comm.overlap=off", sets[i]);
            shard_add(&job, on);
            job.body = train_with_slow_jobs;
            fixture_remove("run");
            fixture_run_t *slow = fixture_expect(job, MPT_OK);
            for (int r = 0; r < 4; r++)
                if (!fixture_same_state(off, r, slow, r))
                    fail_msg("%s, %s: rank %d has other weights or moments", sets[i][0], shard_modes[modes[m]].name, r);
            fixture_free(off);
            fixture_free(slow);
        }
}

/* ---- metrics --------------------------------------------------------------------------------------------------- */

static void without_overlap_all_communication_is_exposed(void **state)
{
    static const char *const set[] = {"comm.overlap=off", "train.steps=4", NULL};
    (void)state;
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(shard_job(4, SHARD_ZERO2, "run", set), MPT_OK);
    for (int64_t i = 0; i < run->steps; i++) {
        const mpt_step_result_t *r = &run->step[i];
        assert_true(r->comm_ms > 0.0);
        assert_true(fabs(r->exposed_comm_ms - r->comm_ms) < 1e-6);
        assert_true(fabs(r->compute_ms + r->exposed_comm_ms - r->step_ms) < 1e-6);
    }
    fixture_free(run);
}

/* Steps with time between them, in which gathers end; a validation in between; then all there was. */
typedef struct spent {
    mpt_step_result_t step[4];
    double comm_s;
} spent_t;

static mpt_status_t count_comm(mpt_session_t *s, int rank, void *ctx)
{
    spent_t *spent = (spent_t *)ctx + rank;
    mpt_traffic_t before, after;
    double loss;
    mpt_status_t status = MPT_OK;
    slow_comm[rank] = *s->group->ops;
    slow_comm[rank].all_gather = all_gather_late;
    s->group->ops = &slow_comm[rank];
    mpt_session_traffic(s, &before);
    for (int i = 0; i < 4 && status == MPT_OK; i++) {
        status = mpt_session_step(s, &spent->step[i]);
        if (i < 3)
            sleep_ms(40);
        if (i == 1 && status == MPT_OK)
            status = mpt_session_validate(s, &loss);
    }
    mpt_session_traffic(s, &after);
    spent->comm_s = after.seconds - before.seconds;
    return status;
}

static void every_millisecond_of_communication_is_in_one_steps_comm(void **state)
{
    static const char *const wishes[] = {"comm.overlap=off", "comm.overlap=on"};
    (void)state;
    for (int mode = 0; mode < SHARD_MODES; mode++)
        for (int w = 0; w < 2; w++) {
            const char *const set[] = {"precision.compute=bf16", "train.steps=4", "train.val_every=3", wishes[w], NULL};
            spent_t spent[FIXTURE_RANKS] = {{.comm_s = 0}};
            fixture_job_t job = shard_job(4, mode, "run", set);
            job.body = count_comm;
            job.ctx = spent;
            fixture_remove("run");
            fixture_free(fixture_expect(job, MPT_OK));
            for (int r = 0; r < 4; r++) {
                double sum_ms = 0;
                for (int i = 0; i < 4; i++) {
                    const mpt_step_result_t *step = &spent[r].step[i];
                    sum_ms += step->comm_ms;
                    assert_true(step->exposed_comm_ms <= step->comm_ms && step->exposed_comm_ms > 0.0);
                    assert_true(fabs(step->compute_ms + step->exposed_comm_ms - step->step_ms) < 1e-6);
                }
                if (!(fabs(sum_ms - 1e3 * spent[r].comm_s) < 1e-6))
                    fail_msg("%s, %s, rank %d: %.3f ms of communication, of which steps have %.3f", shard_modes[mode].name,
                             wishes[w], r, 1e3 * spent[r].comm_s, sum_ms);
            }
        }
}

/* ---- memory ------------------------------------------------------------------------------------------------ */

/* All ranks are threads of this process: between barriers, so that none is elsewhere meanwhile. */
static pthread_barrier_t barrier;
static long steady;

static mpt_status_t count_allocations(mpt_session_t *s, int rank, void *ctx)
{
    mpt_step_result_t result;
    mpt_traffic_t traffic;
    mpt_status_t status = MPT_OK;
    (void)ctx;
    for (int i = 0; i < 2 && status == MPT_OK; i++)
        status = mpt_session_step(s, &result);
    pthread_barrier_wait(&barrier);
    long before = counted_mallocs();
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 4 && status == MPT_OK; i++)
        status = mpt_session_step(s, &result);
    mpt_session_traffic(s, &traffic); /* the last gathers too */
    pthread_barrier_wait(&barrier);
    if (rank == 0)
        steady = counted_mallocs() - before;
    pthread_barrier_wait(&barrier);
    return status;
}

static void a_steady_step_allocates_nothing(void **state)
{
    static const char *const wishes[] = {"comm.overlap=off", "comm.overlap=on"};
    (void)state;
    if (!COUNTED_MALLOC)
        skip();
    pthread_barrier_init(&barrier, NULL, 4);
    for (int mode = 0; mode < SHARD_MODES; mode++)
        for (int w = 0; w < 2; w++) {
            const char *const set[] = {"precision.compute=bf16", "train.steps=8", wishes[w], NULL};
            fixture_job_t job = shard_job(4, mode, "run", set);
            job.body = count_allocations;
            fixture_remove("run");
            fixture_free(fixture_expect(job, MPT_OK));
            if (steady != 0)
                fail_msg("%s, %s: %ld allocations in four steps", shard_modes[mode].name, wishes[w], steady);
        }
    pthread_barrier_destroy(&barrier);
}

/* ---- failures ---------------------------------------------------------------------------------------------- */

static mpt_status_t embed_backward_fails(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s)
{
    (void)a;
    (void)s;
    mpt_log_error(k->log, "a kernel that fails");
    return MPT_ERR_DEVICE;
}

static mpt_status_t to_wire_slow(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    sleep_ms(50);
    return plain->to_wire(k, a, s);
}

static mpt_status_t to_wire_fails(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    (void)a;
    (void)s;
    mpt_log_error(k->log, "a job that fails");
    return MPT_ERR_DEVICE;
}

/* Rank 2's backward, or its helper, fails in the third step; jobs of all ranks are slow, so that some are under way. */
static mpt_status_t fail_in_step_3(mpt_session_t *s, int rank, void *ctx)
{
    int in_job = *(const int *)ctx;
    mpt_step_result_t result;
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < 2 && status == MPT_OK; i++)
        status = mpt_session_step(s, &result);
    own_ops[rank] = job_ops[rank] = *s->kernels.ops;
    job_ops[rank].to_wire = rank == 2 && in_job ? to_wire_fails : to_wire_slow;
    if (rank == 2 && !in_job)
        own_ops[rank].embed_backward = embed_backward_fails;
    take_ops(s, rank);
    while (status == MPT_OK)
        status = mpt_session_step(s, &result);
    return status;
}

static void a_failure_while_jobs_are_under_way_ends_all_with_one_message(void **state)
{
    static const char *const set[] = {"comm.overlap=on", "precision.compute=bf16", "train.steps=9", "comm.timeout_s=30", NULL};
    (void)state;
    plain = mpt_kernels_find("cpu");
    for (int mode = 0; mode < SHARD_MODES; mode++)
        for (int in_job = 0; in_job < 2; in_job++) {
            fixture_job_t job = shard_job(4, mode, "run", set);
            job.body = fail_in_step_3;
            job.ctx = &in_job;
            fixture_remove("run");
            double start = now_s();
            fixture_run_t *run = fixture_run(job);
            for (int r = 0; r < 4; r++)
                if (run->trained[r] != (r == 2 ? MPT_ERR_DEVICE : MPT_ERR_COMM))
                    fail_msg("%s: rank %d: %s\n%s", shard_modes[mode].name, r, mpt_status_string(run->trained[r]),
                             run->log);
            if (run->errors != 1 || strstr(run->log, in_job ? "rank 2: a job that fails" : "rank 2: a kernel that fails") == NULL)
                fail_msg("%s: %d errors\n%s", shard_modes[mode].name, run->errors, run->log);
            assert_true(now_s() - start < 20.0); /* nobody's patience ran out */
            fixture_free(run);
        }
}

/* A rank that leaves while the others go on, whose helpers then wait for it. */
static mpt_status_t leave_early(mpt_session_t *s, int rank, void *ctx)
{
    mpt_step_result_t result;
    mpt_status_t status = MPT_OK;
    (void)ctx;
    for (int i = 0; status == MPT_OK && (rank != 1 || i < 3); i++)
        status = mpt_session_step(s, &result);
    if (status == MPT_OK) {
        mpt_session_abort(s, "a rank that gives up");
        s->failed = 1;
    }
    return status;
}

static void a_rank_that_gives_up_ends_all_at_once(void **state)
{
    static const char *const set[] = {"comm.overlap=on", "train.steps=400", "comm.timeout_s=20", NULL};
    (void)state;
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        fixture_job_t job = shard_job(4, mode, "run", set);
        job.body = leave_early;
        fixture_remove("run");
        double start = now_s();
        fixture_run_t *run = fixture_run(job);
        for (int r = 0; r < 4; r++)
            assert_int_equal(run->trained[r], r == 1 ? MPT_OK : MPT_ERR_COMM);
        assert_int_equal(run->errors, 0);
        assert_true(now_s() - start < 15.0);
        fixture_free(run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accumulated_steps_with_an_overflow_give_the_same_bits),
        cmocka_unit_test(micro_steps_that_reduce_at_once_give_the_same_bits),
        cmocka_unit_test(steps_of_one_micro_step_give_the_same_bits),
        cmocka_unit_test(lanes_give_the_same_bits),
        cmocka_unit_test(everything_else_on_gives_the_same_bits),
        cmocka_unit_test(one_rank_alone_gives_the_same_bits),
        cmocka_unit_test(a_flipped_bit_is_found_where_it_was_flipped),
        cmocka_unit_test(a_unit_is_reduced_while_the_layer_below_goes_backward),
        cmocka_unit_test(jobs_slower_than_compute_change_no_bits),
        cmocka_unit_test(without_overlap_all_communication_is_exposed),
        cmocka_unit_test(every_millisecond_of_communication_is_in_one_steps_comm),
        cmocka_unit_test(a_steady_step_allocates_nothing),
        cmocka_unit_test(a_failure_while_jobs_are_under_way_ends_all_with_one_message),
        cmocka_unit_test(a_rank_that_gives_up_ends_all_at_once),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
