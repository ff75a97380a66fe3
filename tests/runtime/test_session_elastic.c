/*
 * A checkpoint belongs to no number of ranks and to no shard mode: under reproducible = world a run that goes on with
 * others ends bit for bit like one that never stopped, metrics and all; without it, another mode on the same ranks does.
 */
#include "shard_fixture.h"

#define OVERFLOW "overflow:rank=2,step=4,micro=1,tensor=h.1.mlp.c_fc.weight,element=5"
#define STOP 6
#define STEPS 12

static const char *const world[] = {"precision.compute=fp16",
                                    "precision.init_scale=1024",
                                    "precision.growth_interval=5",
                                    "precision.rounding=stochastic",
                                    "train.reproducible=world",
                                    "train.global_batch=32",
                                    "train.steps=12",
                                    "train.ema=0.9",
                                    "train.val_every=4",
                                    "train.clip=0.5",
                                    NULL};

/* Where a run goes on. */
typedef struct target {
    int ranks, mode;
} target_t;

static const target_t targets[] = {{2, SHARD_ZERO3}, {1, SHARD_DDP},   {8, SHARD_HSDP2}, {8, SHARD_ZERO1},
                                   {4, SHARD_HSDP4}, {2, SHARD_HSDP1}, {1, SHARD_ZERO3}, {4, SHARD_ZERO2}};
#define TARGETS ((int)(sizeof targets / sizeof *targets))

static fixture_job_t job(target_t target, const char *folder, const char *const *set, int async)
{
    const char *const save[] = {"checkpoint.every=4", async ? "checkpoint.async=true" : "checkpoint.async=false",
                                NULL};
    fixture_job_t made = shard_job(target.ranks, target.mode, folder, set);
    shard_add(&made, save);
    return made;
}

/* The run that never stops in "whole", and one that stopped at step STOP in "saved"; both overflow on the way. */
static fixture_run_t *save_and_run_on(target_t saver, const char *const *set, int async)
{
    setenv("MPT_INJECT", OVERFLOW, 1);
    fixture_remove("whole");
    fixture_remove("saved");
    fixture_run_t *whole = fixture_expect(job(saver, "whole", set, 1), MPT_OK);
    fixture_job_t stop = job(saver, "saved", set, async);
    stop.stop_at = STOP;
    stop.stop_rank = saver.ranks - 1;
    fixture_free(fixture_expect(stop, MPT_STOPPED));
    unsetenv("MPT_INJECT");
    return whole;
}

static void expect_same_metrics(const char *folder, const char *what)
{
    char *a = fixture_metrics("whole"), *b = fixture_metrics(folder);
    if (strcmp(a, b) != 0)
        print_error("%s\n", what);
    assert_string_equal(a, b);
    free(a);
    free(b);
}

static void go_on(const fixture_run_t *whole, target_t target, const char *const *set, int async)
{
    char what[80];
    snprintf(what, sizeof what, "gone on with on %d ranks, %s", target.ranks, shard_modes[target.mode].name);
    shard_copy("saved", "resumed");
    fixture_job_t rest = job(target, "resumed", set, async);
    rest.resume = "auto";
    fixture_run_t *run = fixture_expect(rest, MPT_OK);
    if (run->steps != STEPS - STOP || strstr(run->log, "round otherwise") != NULL)
        fail_msg("%s: %d steps\n%s", what, (int)run->steps, run->log);
    shard_expect_same(whole, run, what);
    expect_same_metrics("resumed", what);
    for (int r = 1; r < target.ranks; r++)
        assert_true(fixture_same_state(run, 0, run, r));
    fixture_free(run);
}

/* The run is worth comparing: it skipped a step before the save, and the scale fell and grew. */
static void check_eventful(const fixture_run_t *whole)
{
    assert_int_equal(whole->steps, STEPS);
    assert_int_equal(whole->skips, 1);
    assert_true(whole->step[3].skipped);
    assert_true(whole->step[4].loss_scale == 512.0);
    assert_true(whole->step[STEPS - 1].loss_scale == 1024.0);
    assert_int_equal(whole->progress.applied, STEPS - 1);
    assert_int_equal(whole->validations, 3);
}

static void under_world_a_run_goes_on_with_other_ranks_and_modes_to_the_same_bits(void **state)
{
    (void)state;
    fixture_run_t *whole = save_and_run_on((target_t){4, SHARD_ZERO2}, world, 1);
    check_eventful(whole);
    for (int i = 0; i < TARGETS; i++)
        go_on(whole, targets[i], world, i % 2);
    fixture_free(whole);
}

static void so_does_one_that_saves_in_the_foreground_or_from_sharded_weights(void **state)
{
    static const target_t savers[] = {{4, SHARD_DDP}, {4, SHARD_ZERO3}, {8, SHARD_HSDP2}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        fixture_run_t *whole = save_and_run_on(savers[i], world, i % 2);
        check_eventful(whole);
        go_on(whole, targets[i], world, 0);
        go_on(whole, targets[TARGETS - 1 - i], world, 1);
        fixture_free(whole);
    }
}

static void without_masters_it_goes_on_to_the_same_bits_too(void **state)
{
    const char *set[sizeof world / sizeof *world + 1];
    const int last = (int)(sizeof world / sizeof *world) - 1;
    (void)state;
    memcpy(set, world, sizeof world);
    set[last] = "precision.master=none";
    set[last + 1] = NULL;
    for (int async = 0; async < 2; async++) {
        fixture_run_t *whole = save_and_run_on((target_t){4, SHARD_ZERO2}, set, async);
        check_eventful(whole);
        for (int i = async; i < TARGETS; i += 2)
            go_on(whole, targets[i], set, !async);
        fixture_free(whole);
    }
}

/* Three numbers of ranks and three modes in one run. */
static void a_run_may_change_ranks_and_mode_more_than_once(void **state)
{
    (void)state;
    fixture_run_t *whole = save_and_run_on((target_t){4, SHARD_ZERO2}, world, 1);
    fixture_job_t middle = job((target_t){8, SHARD_HSDP2}, "saved", world, 1);
    middle.resume = "auto";
    middle.stop_at = 9;
    fixture_free(fixture_expect(middle, MPT_STOPPED));
    fixture_job_t end = job((target_t){1, SHARD_ZERO1}, "saved", world, 0);
    end.resume = "auto";
    fixture_run_t *run = fixture_expect(end, MPT_OK);
    assert_int_equal(run->steps, STEPS - 9);
    shard_expect_same(whole, run, "4, 8, 1 ranks");
    expect_same_metrics("saved", "4, 8, 1 ranks");
    fixture_free(run);
    fixture_free(whole);
}

/* ---- without world ------------------------------------------------------------------------------------ */

static const char *const plain[] = {"precision.compute=fp16",
                                    "precision.init_scale=1024",
                                    "precision.growth_interval=5",
                                    "precision.rounding=stochastic",
                                    "train.global_batch=32",
                                    "train.steps=12",
                                    "train.ema=0.9",
                                    "train.val_every=4",
                                    NULL};

static void without_world_another_mode_on_the_same_ranks_gives_the_same_bits(void **state)
{
    (void)state;
    for (int saver = SHARD_ZERO2; saver <= SHARD_HSDP2; saver += SHARD_HSDP2 - SHARD_ZERO2) {
        fixture_run_t *whole = save_and_run_on((target_t){4, saver}, plain, 1);
        check_eventful(whole);
        for (int mode = 0; mode < SHARD_MODES; mode++)
            go_on(whole, (target_t){4, mode}, plain, mode % 2);
        fixture_free(whole);
    }
}

static void without_world_another_number_of_ranks_is_warned_of(void **state)
{
    (void)state;
    fixture_run_t *whole = save_and_run_on((target_t){4, SHARD_ZERO2}, plain, 1);
    shard_copy("saved", "resumed");
    fixture_job_t rest = job((target_t){2, SHARD_ZERO3}, "resumed", plain, 1);
    rest.resume = "auto";
    fixture_run_t *run = fixture_expect(rest, MPT_OK);
    assert_int_equal(fixture_count(run->log, "was saved by 4 ranks; with 2 sums round otherwise from here on"), 1);
    assert_int_equal(run->errors, 0);
    assert_int_equal(run->steps, STEPS - STOP);
    assert_memory_equal(&whole->progress, &run->progress, sizeof run->progress);
    assert_false(fixture_same_state(whole, 0, run, 0));
    fixture_free(run);
    fixture_free(whole);
}

/* ---- what is in a checkpoint, and what a run makes of it ------------------------------------------------- */

/* The state as it was loaded. */
static mpt_status_t look(mpt_session_t *session, int rank, void *ctx)
{
    (void)session;
    (void)rank;
    (void)ctx;
    return MPT_OK;
}

static fixture_run_t *load(target_t target, const char *const *set, const char *master)
{
    const char *const more[] = {master, NULL};
    fixture_job_t one = job(target, "elsewhere", set, 0);
    shard_add(&one, more);
    one.resume = "saved";
    one.body = look;
    fixture_remove("elsewhere");
    return fixture_expect(one, MPT_OK);
}

static void every_mode_loads_the_same_state(void **state)
{
    (void)state;
    fixture_free(save_and_run_on((target_t){4, SHARD_ZERO2}, world, 1));
    fixture_run_t *first = load(targets[0], world, "precision.master=fp32");
    for (int i = 1; i < TARGETS; i++) {
        fixture_run_t *run = load(targets[i], world, "precision.master=fp32");
        if (!fixture_same_state(first, 0, run, targets[i].ranks - 1))
            fail_msg("%d ranks, %s: other state", targets[i].ranks, shard_modes[targets[i].mode].name);
        fixture_free(run);
    }
    fixture_free(first);
}

/* Masters of a run that had none are its weights, and they round to themselves. */
static void a_run_with_masters_goes_on_from_one_without(void **state)
{
    const char *set[sizeof world / sizeof *world + 1];
    const int last = (int)(sizeof world / sizeof *world) - 1;
    (void)state;
    memcpy(set, world, sizeof world);
    set[last] = "precision.master=none";
    set[last + 1] = NULL;
    fixture_free(save_and_run_on((target_t){4, SHARD_ZERO2}, set, 1));
    fixture_run_t *without = load((target_t){2, SHARD_ZERO3}, world, "precision.master=none");
    fixture_run_t *with = load((target_t){2, SHARD_ZERO3}, world, "precision.master=fp32");
    int64_t n = with->state_count / FIXTURE_KINDS;
    const float *a = without->state[0], *b = with->state[0];
    assert_memory_equal(b, b + 3 * n, (size_t)n * sizeof *b);                    /* masters and working weights */
    assert_memory_equal(a + n, b + n, (size_t)(FIXTURE_KINDS - 1) * (size_t)n * sizeof *b); /* all but masters */
    fixture_free(without);
    fixture_free(with);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(under_world_a_run_goes_on_with_other_ranks_and_modes_to_the_same_bits),
        cmocka_unit_test(so_does_one_that_saves_in_the_foreground_or_from_sharded_weights),
        cmocka_unit_test(without_masters_it_goes_on_to_the_same_bits_too),
        cmocka_unit_test(a_run_may_change_ranks_and_mode_more_than_once),
        cmocka_unit_test(without_world_another_mode_on_the_same_ranks_gives_the_same_bits),
        cmocka_unit_test(without_world_another_number_of_ranks_is_warned_of),
        cmocka_unit_test(every_mode_loads_the_same_state),
        cmocka_unit_test(a_run_with_masters_goes_on_from_one_without),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
