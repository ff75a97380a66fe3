/*
 * An overflow on one rank: nobody steps, every bit stays, the scale falls, the metrics say why and where; the next step
 * works. At a scale that cannot fall the run ends.
 */
#include "session_fixture.h"

#define INJECTION "overflow:rank=2,step=3,micro=0,tensor=h.1.mlp.c_fc.weight,element=5"

/* What every rank sees round the step with the overflow. */
typedef struct watched {
    float *before[FIXTURE_RANKS], *after[FIXTURE_RANKS], *later[FIXTURE_RANKS];
    mpt_step_result_t step[FIXTURE_RANKS][5]; /* steps 1 to 4 */
    int64_t count;
} watched_t;

static mpt_status_t step_and_watch(mpt_session_t *session, int rank, void *ctx)
{
    watched_t *w = ctx;
    float **copies[5] = {NULL, NULL, &w->before[rank], &w->after[rank], &w->later[rank]};
    for (int step = 1; step <= 4; step++) {
        int64_t count = 0;
        mpt_status_t status = mpt_session_step(session, &w->step[rank][step]);
        if (status != MPT_OK)
            return status;
        if (copies[step] != NULL)
            *copies[step] = fixture_state(session, &count);
        if (rank == 0 && step == 4)
            w->count = count;
    }
    return MPT_OK;
}

static int same(const watched_t *w, const float *a, const float *b)
{
    return memcmp(a, b, (size_t)w->count * sizeof *a) == 0;
}

static void check_rank(const watched_t *w, int rank, double scale, double scale_after)
{
    const mpt_step_result_t *step = w->step[rank];
    assert_true(same(w, w->before[rank], w->after[rank])); /* masters, m, v, working weights */
    assert_false(same(w, w->after[rank], w->later[rank]));
    assert_true(same(w, w->after[0], w->after[rank]));
    assert_true(same(w, w->later[0], w->later[rank]));
    assert_false(step[2].skipped);
    assert_true(step[3].skipped);
    assert_false(step[4].skipped);
    assert_int_equal(step[2].applied_steps, 2);
    assert_int_equal(step[3].applied_steps, 2);
    assert_int_equal(step[4].applied_steps, 3);
    assert_true(step[3].lr == step[4].lr); /* the third update's, whenever it comes */
    assert_true(step[3].lr > step[2].lr);
    assert_int_equal(step[3].tokens, 3 * 16 * 32); /* the data moved on */
    assert_true(step[3].loss_scale == scale);
    assert_true(step[4].loss_scale == scale_after);
    assert_true(isfinite(step[3].loss) && !isfinite(step[3].grad_norm));
    assert_true(isfinite(step[4].loss) && isfinite(step[4].grad_norm));
}

static void check_skip(const char *compute, const char *reduce, double scale, double scale_after)
{
    char set[2][40];
    watched_t w = {.count = 0};
    snprintf(set[0], sizeof set[0], "precision.compute=%s", compute);
    snprintf(set[1], sizeof set[1], "precision.reduce=%s", reduce);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 4,
                                                        .body = step_and_watch,
                                                        .ctx = &w,
                                                        .set = {set[0], set[1], "precision.init_scale=4096",
                                                                "train.warmup=10"}},
                                        MPT_OK);
    for (int rank = 0; rank < 4; rank++)
        check_rank(&w, rank, scale, scale_after);
    for (int rank = 0; rank < 4; rank++) {
        free(w.before[rank]);
        free(w.after[rank]);
        free(w.later[rank]);
    }
    fixture_free(run);
}

static void an_overflow_on_one_rank_is_skipped_by_all_and_changes_no_bit(void **state)
{
    (void)state;
    setenv("MPT_INJECT", INJECTION, 1);
    check_skip("fp16", "auto", 4096.0, 2048.0);
    check_skip("bf16", "auto", 1.0, 1.0);
    check_skip("fp32", "auto", 1.0, 1.0);
    check_skip("fp32", "fp16", 4096.0, 2048.0);
    unsetenv("MPT_INJECT");
}

/* The text of step 3's line of that kind. */
static const char *line_of(const char *metrics, const char *event)
{
    char start[64];
    snprintf(start, sizeof start, "{\"step\":3,\"event\":\"%s\"", event);
    return strstr(metrics, start);
}

static void the_metrics_say_why_and_where(void **state)
{
    (void)state;
    fixture_remove("run");
    setenv("MPT_INJECT", INJECTION, 1);
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 4,
                                                        .set = {"precision.compute=fp16", "train.steps=5",
                                                                "precision.init_scale=4096"}},
                                        MPT_OK);
    unsetenv("MPT_INJECT");
    char *metrics = fixture_metrics("run");
    const char *skip = line_of(metrics, "skip"), *scale = line_of(metrics, "scale");
    assert_non_null(skip);
    assert_non_null(scale);
    static const char *const parts[] = {"\"cause\":\"gradient\"", "\"rank\":2", "\"tensor\":\"h.1.mlp.c_fc.weight\"",
                                        "\"element\":5,", "\"micro_step\":0", "\"value\":\"inf\"",
                                        "\"count\":1,", "\"loss_scale\":4096"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const char *at = strstr(skip, parts[i]);
        if (at == NULL || at > strchr(skip, '\n'))
            fail_msg("no %s in %s", parts[i], skip);
    }
    assert_ptr_equal(scale, strstr(metrics, "{\"step\":3,\"event\":\"scale\",\"from\":4096,\"to\":2048}\n"));
    /* Every data step has one line, the skipped one says so. */
    assert_int_equal(fixture_count(metrics, "\"loss\":"), 5);
    assert_int_equal(fixture_count(metrics, "\"skipped\":1"), 1);
    assert_int_equal(fixture_count(metrics, "\"grad_norm\":\"inf\"") + fixture_count(metrics, "\"grad_norm\":\"nan\""), 1);
    assert_int_equal(run->skips, 1);
    free(metrics);
    fixture_free(run);
}

static void the_offender_is_named_by_the_micro_step_it_came_in(void **state)
{
    (void)state;
    fixture_remove("run");
    setenv("MPT_INJECT", "overflow:rank=1,step=2,micro=1,tensor=wte.weight,element=40", 1);
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 2, .set = {"train.steps=3"}}, MPT_OK);
    unsetenv("MPT_INJECT");
    char *metrics = fixture_metrics("run");
    assert_non_null(strstr(metrics, "\"rank\":1,\"tensor\":\"wte.weight\",\"element\":40,\"micro_step\":1,"));
    free(metrics);
    fixture_free(run);
}

/* At a scale that cannot fall, max_skips in a row end the run; the message names the first offender. */
static void expect_divergence(const char *const *set, int64_t steps)
{
    fixture_job_t job = {.ranks = 2};
    for (int i = 0; set[i] != NULL; i++)
        job.set[i] = set[i];
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(job, MPT_ERR_DIVERGED);
    assert_int_equal(mpt_status_exit_code(MPT_ERR_DIVERGED), 5);
    assert_int_equal(run->steps, steps);
    assert_int_equal(run->errors, 1);
    assert_non_null(strstr(run->log, "diverged"));
    assert_non_null(strstr(run->log, "wte.weight[7] = \"inf\", micro-step 0"));
    fixture_free(run);
}

static void overflows_at_a_scale_that_cannot_fall_end_the_run(void **state)
{
    (void)state;
    setenv("MPT_INJECT", "overflow:rank=1,step=4,micro=0,tensor=wte.weight,element=7", 1);
    expect_divergence((const char *const[]){"precision.compute=fp16", "precision.loss_scale=256",
                                            "precision.max_skips=1", NULL}, 4);
    expect_divergence((const char *const[]){"precision.compute=bf16", "precision.max_skips=1", NULL}, 4);
    expect_divergence((const char *const[]){"precision.compute=fp16", "precision.init_scale=64",
                                            "precision.min_scale=64", "precision.max_skips=1", NULL}, 4);
    unsetenv("MPT_INJECT");
}

static void a_scale_that_can_fall_does_not_end_the_run(void **state)
{
    (void)state;
    fixture_remove("run");
    setenv("MPT_INJECT", "overflow:rank=1,step=4,micro=0,tensor=wte.weight,element=7", 1);
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 2,
                                                        .set = {"precision.compute=fp16",
                                                                "precision.init_scale=256",
                                                                "precision.max_skips=1", "train.steps=6"}},
                                        MPT_OK);
    unsetenv("MPT_INJECT");
    assert_true(run->progress.scale.scale == 128.0);
    fixture_free(run);
}

/* Without any injection: the scale is far too high for FP16, comes down by itself, and then the run learns. */
static void a_scale_that_is_too_high_comes_down_by_itself(void **state)
{
    (void)state;
    fixture_remove("run");
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 2,
                                                        .set = {"precision.compute=fp16",
                                                                "precision.init_scale=16777216",
                                                                "train.steps=40"}},
                                        MPT_OK);
    assert_true(run->skips > 0 && run->skips < 20);
    assert_int_equal(run->progress.applied, 40 - run->skips);
    assert_true(run->progress.scale.scale == ldexp(16777216.0, -run->skips));
    assert_true(run->step[39].loss < run->step[0].loss - 0.5);
    fixture_free(run);
}

static void an_injection_that_names_nothing_is_refused(void **state)
{
    static const char *const bad[] = {"overflow", "overflow:rank=0,step=1,micro=0,tensor=none,element=0",
                                      "overflow:rank=0,step=1,micro=0,tensor=wte.weight,element=99999999",
                                      "overflow:rank=9,step=1,micro=0,tensor=wte.weight,element=1"};
    (void)state;
    for (int i = 0; i < 4; i++) {
        fixture_remove("run");
        setenv("MPT_INJECT", bad[i], 1);
        fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 2}, MPT_ERR_CONFIG);
        assert_int_equal(run->errors, 1);
        fixture_free(run);
    }
    unsetenv("MPT_INJECT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_overflow_on_one_rank_is_skipped_by_all_and_changes_no_bit),
        cmocka_unit_test(the_metrics_say_why_and_where),
        cmocka_unit_test(the_offender_is_named_by_the_micro_step_it_came_in),
        cmocka_unit_test(overflows_at_a_scale_that_cannot_fall_end_the_run),
        cmocka_unit_test(a_scale_that_can_fall_does_not_end_the_run),
        cmocka_unit_test(a_scale_that_is_too_high_comes_down_by_itself),
        cmocka_unit_test(an_injection_that_names_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
