/*
 * One rank of four fails where the others need it: its data is bad while weights are gathered for the others, it is slow, or
 * too slow. In every mode all ranks end with the same status, and one line says why.
 */
#include <time.h>

#include "shard_fixture.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Communication in the caller and beside compute, which must end alike. */
static const char *const overlaps[] = {"comm.overlap=off", "comm.overlap=on"};
#define CASES (2 * SHARD_MODES)

static fixture_job_t case_job(int number, const char *const *set)
{
    const char *const overlap[] = {overlaps[number / SHARD_MODES], NULL};
    fixture_job_t job = shard_job(4, number % SHARD_MODES, "run", set);
    shard_add(&job, overlap);
    return job;
}

/* A file with a token beyond the vocabulary in sample `sample` of 32 tokens. */
static void write_bad_tokens(const char *path, int64_t sample)
{
    uint16_t *tokens = calloc(6000, sizeof *tokens);
    assert_non_null(tokens);
    for (int i = 0; i < 6000; i++)
        tokens[i] = (uint16_t)(32 + i % 61);
    tokens[sample * 32 + 7] = 999;
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){path, tokens, 6000}, 1, 1, NULL), MPT_OK);
    free(tokens);
}

/* Rank 2's second micro-batch of validation is samples 12 and 13; the save of step 3 is in flight when it is read. */
static void bad_validation_data_on_one_rank_ends_all_in_every_mode(void **state)
{
    static const char *const set[] = {"data.val=bad.bin",   "train.val_every=4", "train.steps=8",
                                      "checkpoint.every=3", "train.ema=0.9",     "comm.timeout_s=30", NULL};
    (void)state;
    write_bad_tokens("bad.bin", 13);
    for (int i = 0; i < CASES; i++) {
        int mode = i % SHARD_MODES;
        int64_t steps[4];
        double start = now_s();
        fixture_remove("run");
        fixture_run_t *run = fixture_expect(case_job(i, set), MPT_ERR_DATA);
        if (run->errors != 1 || strstr(run->log, "rank 2: ") == NULL || strstr(run->log, "999") == NULL)
            fail_msg("%s, %s: %d errors\n%s", shard_modes[mode].name, overlaps[i / SHARD_MODES], run->errors, run->log);
        assert_int_equal(run->steps, 4);
        assert_int_equal(mpt_checkpoint_list("run", steps, 4), 1);
        assert_int_equal(steps[0], 3);
        assert_true(now_s() - start < 20.0); /* nobody's patience ran out */
        fixture_free(run);
    }
}

/* Rank 2's first micro-batch of step 3 in file order, read in step 2, whose record tells the others. */
static void bad_training_data_on_one_rank_ends_all_in_every_mode(void **state)
{
    static const char *const set[] = {"data.train=bad.bin", "data.order=sequential", "train.steps=8", "checkpoint.every=1",
                                      "comm.timeout_s=30", NULL};
    (void)state;
    write_bad_tokens("bad.bin", 2 * 16 + 4);
    for (int i = 0; i < CASES; i++) {
        int mode = i % SHARD_MODES;
        int64_t steps[8];
        double start = now_s();
        fixture_remove("run");
        fixture_run_t *run = fixture_expect(case_job(i, set), MPT_ERR_DATA);
        if (run->errors != 1 || strstr(run->log, "rank 2: bad.bin") == NULL)
            fail_msg("%s, %s: %d errors\n%s", shard_modes[mode].name, overlaps[i / SHARD_MODES], run->errors, run->log);
        assert_int_equal(run->steps, 2);
        assert_int_equal(mpt_checkpoint_list("run", steps, 8), 2); /* step 2 is whole, and its save was due */
        assert_int_equal(steps[0], 2);
        assert_true(now_s() - start < 20.0); /* nobody's patience ran out */
        fixture_free(run);
    }
}

/* ---- slow ---------------------------------------------------------------------------------------------- */

static void a_slow_rank_changes_nothing_but_the_time(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=6", "checkpoint.every=2", "comm.timeout_s=20",
                                      NULL};
    static const int modes[] = {SHARD_DDP, SHARD_ZERO2, SHARD_ZERO3, SHARD_HSDP2};
    (void)state;
    for (int m = 0; m < 4; m++) {
        fixture_remove("run");
        fixture_run_t *usual = fixture_expect(shard_job(4, modes[m], "run", set), MPT_OK);
        setenv("MPT_INJECT", "slow:rank=1,step=3,ms=1500", 1); /* or rank 0 might come as late itself */
        fixture_remove("run");
        fixture_run_t *slow = fixture_expect(shard_job(4, modes[m], "run", set), MPT_OK);
        unsetenv("MPT_INJECT");
        shard_expect_same(usual, slow, shard_modes[modes[m]].name);
        assert_int_equal(slow->errors, 0);
        assert_true(slow->step[2].step_ms >= 200.0);
        fixture_free(usual);
        fixture_free(slow);
    }
}

/* The call in which a mode first needs rank 1. Where its group is itself alone, only those wait who do so for twice as long. */
static void a_rank_that_is_too_slow_ends_all_with_one_message(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=6", "comm.timeout_s=1.5", NULL};
    static const char *const calls[SHARD_MODES] = {
        "unit 3 gradients: reduce_scatter", "unit 3 gradients: reduce_scatter", "unit 3 gradients: reduce_scatter",
        "unit 0 weights: all_gather",       "unit 3 gradients: all_reduce",     "unit 0 weights: all_gather",
        "unit 0 weights: all_gather"};
    (void)state;
    for (int i = 0; i < CASES; i++) {
        int mode = i % SHARD_MODES, alone = mode == SHARD_HSDP1;
        char late[32];
        double start = now_s();
        setenv("MPT_INJECT", alone ? "slow:rank=1,step=3,ms=5000" : "slow:rank=1,step=3,ms=3000", 1);
        fixture_remove("run");
        fixture_run_t *run = fixture_expect(case_job(i, set), MPT_ERR_COMM);
        snprintf(late, sizeof late, "no sign of rank 1 for %s s", alone ? "3.0" : "1.5");
        if (run->errors != 1 || strstr(run->log, calls[mode]) == NULL || strstr(run->log, late) == NULL)
            fail_msg("%s, %s: %d errors\n%s", shard_modes[mode].name, overlaps[i / SHARD_MODES], run->errors, run->log);
        assert_int_equal(run->steps, 2);
        assert_true(now_s() - start < 20.0);
        fixture_free(run);
    }
    unsetenv("MPT_INJECT");
    assert_int_equal(mpt_status_exit_code(MPT_ERR_COMM), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_training_data_on_one_rank_ends_all_in_every_mode),
        cmocka_unit_test(a_slow_rank_changes_nothing_but_the_time),
        cmocka_unit_test(a_rank_that_is_too_slow_ends_all_with_one_message),
        cmocka_unit_test(bad_validation_data_on_one_rank_ends_all_in_every_mode),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
