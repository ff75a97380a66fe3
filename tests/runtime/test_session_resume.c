/*
 * A run that is stopped and resumed ends bit for bit like one that never stopped: weights, moments, loss scale, metrics;
 * in FP16 with the scale growing and falling on the way, with asynchronous and synchronous saves.
 */
#include <fcntl.h>
#include <sys/wait.h>
#include "session_fixture.h"

#define STEPS 12
#define KILLED 77

static int killed_in_rename; /* of a checkpoint to be set aside */

/* In libc's place. */
int rename(const char *from, const char *to)
{
    if (killed_in_rename && strstr(to, ".lost-"))
        _exit(KILLED);
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

/* Dynamic scale: grows every three clean steps; the overflow at step 7 halves it. */
static const char *const fp16_set[] = {"precision.compute=fp16",  "precision.init_scale=1024",
                                       "precision.growth_interval=3", "train.steps=12",
                                       "train.val_every=4",       NULL};

static fixture_job_t job(int ranks, const char *folder, const char *resume, const char *const *set,
                         const char *save)
{
    fixture_job_t out = {.ranks = ranks, .folder = folder, .resume = resume};
    int n = 0;
    for (; set[n] != NULL; n++)
        out.set[n] = set[n];
    out.set[n++] = save;
    out.set[n] = "checkpoint.every=5";
    return out;
}

static void expect_same_end(const fixture_run_t *whole, const fixture_run_t *resumed, const char *folder)
{
    char *a = fixture_metrics("whole"), *b = fixture_metrics(folder);
    assert_memory_equal(&whole->progress, &resumed->progress, sizeof whole->progress);
    assert_true(fixture_same_state(whole, 0, resumed, 0));
    assert_string_equal(a, b);
    free(a);
    free(b);
}

/* Stopped after `k` steps by rank `who`, and gone on with. */
static void stop_and_resume(const fixture_run_t *whole, int ranks, int64_t k, const char *const *set,
                            const char *save)
{
    fixture_job_t stop = job(ranks, "stopped", "auto", set, save);
    stop.stop_at = k;
    stop.stop_rank = (int)k % ranks;
    fixture_remove("stopped");
    fixture_run_t *stopped = fixture_expect(stop, MPT_STOPPED);
    assert_int_equal(stopped->progress.step, k);
    assert_int_equal(mpt_status_exit_code(MPT_STOPPED), 75);
    fixture_free(stopped);
    fixture_run_t *resumed = fixture_expect(job(ranks, "stopped", "auto", set, save), MPT_OK);
    assert_int_equal(resumed->steps, STEPS - k);
    expect_same_end(whole, resumed, "stopped");
    fixture_free(resumed);
}

static fixture_run_t *whole_run(int ranks, const char *const *set, const char *save)
{
    fixture_remove("whole");
    return fixture_expect(job(ranks, "whole", NULL, set, save), MPT_OK);
}

static void a_run_stopped_after_any_step_ends_like_one_that_never_stopped(void **state)
{
    (void)state;
    setenv("MPT_INJECT", "overflow:rank=1,step=7,micro=0,tensor=wte.weight,element=5", 1);
    fixture_run_t *whole = whole_run(2, fp16_set, "checkpoint.async=true");
    assert_int_equal(whole->skips, 1);
    assert_int_equal(whole->validations, 3);
    assert_true(whole->progress.scale.scale == 1024.0 * 2 * 2 / 2 * 2);
    for (int64_t k = 1; k < STEPS; k++)
        stop_and_resume(whole, 2, k, fp16_set, k % 2 ? "checkpoint.async=true" : "checkpoint.async=false");
    unsetenv("MPT_INJECT");
    fixture_free(whole);
}

static void other_types_and_rank_counts_resume_exactly_too(void **state)
{
    static const char *const fp32_set[] = {"train.steps=12", "train.val_every=4", "data.order=sequential", NULL};
    static const char *const bf16_set[] = {"train.steps=12", "precision.compute=bf16", "train.schedule=wsd",
                                           NULL};
    (void)state;
    fixture_run_t *whole = whole_run(1, fp32_set, "checkpoint.async=true");
    stop_and_resume(whole, 1, 6, fp32_set, "checkpoint.async=true");
    fixture_free(whole);
    whole = whole_run(4, bf16_set, "checkpoint.async=false");
    stop_and_resume(whole, 4, 9, bf16_set, "checkpoint.async=true");
    fixture_free(whole);
}

/* As after a kill: the files of a run at its 7th step, with a checkpoint of the 5th and the metrics of what came after it. */
static void lines_after_the_checkpoint_are_set_aside(void **state)
{
    (void)state;
    fixture_run_t *whole = whole_run(2, fp16_set, "checkpoint.async=true");
    char *all = fixture_read("whole/metrics.jsonl"), *eighth = strstr(all, "{\"step\":8,\"loss\"");
    assert_non_null(eighth);
    fixture_remove("killed");
    assert_int_equal(mkdir("killed", 0777), 0);
    assert_int_equal(rename("whole/step-00000005", "killed/step-00000005"), 0);
    FILE *file = fopen("killed/metrics.jsonl", "w");
    assert_non_null(file);
    fwrite(all, 1, (size_t)(eighth - all), file);
    fputs("{\"step\":8,\"lo", file); /* cut short by the kill */
    fclose(file);
    fixture_run_t *resumed = fixture_expect(job(2, "killed", "auto", fp16_set, "checkpoint.async=true"), MPT_OK);
    assert_int_equal(resumed->steps, STEPS - 5);
    expect_same_end(whole, resumed, "killed");
    char *lost = fixture_read("killed/metrics.jsonl.lost-1");
    assert_int_equal(fixture_count(lost, "\"loss\":"), 2);
    assert_non_null(strstr(lost, "{\"step\":6,"));
    assert_non_null(strstr(lost, "{\"step\":8,\"lo"));
    free(lost);
    free(all);
    fixture_free(resumed);
    fixture_free(whole);
}

/* Whatever checkpoint the next one goes on from, the lines up to it are there. */
static void a_run_killed_while_it_sets_things_aside_leaves_no_hole_in_the_metrics(void **state)
{
    static const char *const set[] = {"train.steps=12", NULL}, *const longer[] = {"train.steps=14", NULL};
    char line[64];
    int ended = 0;
    (void)state;
    fixture_free(whole_run(1, set, "checkpoint.async=true"));
    pid_t child = fork();
    if (child == 0) {
        killed_in_rename = 1;
        fixture_free(fixture_run(job(1, "whole", "whole/step-00000005", longer, "checkpoint.async=true")));
        _exit(1);
    }
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFEXITED(ended) && WEXITSTATUS(ended) == KILLED);
    fixture_free(fixture_expect(job(1, "whole", "auto", longer, "checkpoint.async=true"), MPT_OK));
    char *text = fixture_read("whole/metrics.jsonl"), *at = text;
    for (int step = 1; step <= 14; step++) {
        snprintf(line, sizeof line, "{\"step\":%d,\"loss\"", step);
        at = strstr(at, line);
        assert_non_null(at);
    }
    assert_int_equal(fixture_count(text, "\"loss\":"), 14);
    free(text);
}

static void a_checkpoint_serves_any_number_of_ranks(void **state)
{
    static const char *const set[] = {"train.steps=12", "train.val_every=12", NULL};
    (void)state;
    fixture_run_t *whole = whole_run(1, set, "checkpoint.async=true");
    fixture_remove("stopped");
    fixture_job_t stop = job(4, "stopped", NULL, set, "checkpoint.async=true");
    stop.stop_at = 6;
    fixture_free(fixture_expect(stop, MPT_STOPPED));
    fixture_run_t *resumed = fixture_expect(job(2, "stopped", "auto", set, "checkpoint.async=true"), MPT_OK);
    assert_true(fabs(resumed->val_loss - whole->val_loss) <= 1e-5 * whole->val_loss);
    assert_int_equal(resumed->progress.tokens, whole->progress.tokens);
    fixture_free(resumed);
    fixture_free(whole);
}

static void a_finished_run_says_so_and_a_longer_one_goes_on(void **state)
{
    static const char *const set[] = {"train.schedule=constant", "train.steps=12", NULL};
    static const char *const shorter[] = {"train.schedule=constant", "train.steps=6", NULL};
    (void)state;
    fixture_run_t *whole = whole_run(2, set, "checkpoint.async=true");
    fixture_remove("stopped");
    fixture_free(fixture_expect(job(2, "stopped", NULL, shorter, "checkpoint.async=true"), MPT_OK));
    fixture_run_t *again = fixture_expect(job(2, "stopped", "auto", shorter, "checkpoint.async=true"), MPT_OK);
    assert_int_equal(again->steps, 0);
    assert_non_null(strstr(again->notice, "finished already at step 6"));
    fixture_free(again);
    fixture_run_t *longer = fixture_expect(job(2, "stopped", "auto", set, "checkpoint.async=true"), MPT_OK);
    assert_int_equal(longer->steps, 6);
    expect_same_end(whole, longer, "stopped");
    fixture_free(longer);
    fixture_free(whole);
}

/* From a step of its middle, with a config that ends there. */
static void a_finished_run_leaves_what_is_later_where_it_is(void **state)
{
    static const char *const set[] = {"train.steps=12", NULL}, *const shorter[] = {"train.steps=5", NULL};
    (void)state;
    fixture_free(whole_run(2, set, "checkpoint.async=true"));
    char *before = fixture_read("whole/metrics.jsonl");
    fixture_run_t *run =
        fixture_expect(job(2, "whole", "whole/step-00000005", shorter, "checkpoint.async=true"), MPT_OK);
    assert_int_equal(run->steps, 0);
    assert_non_null(strstr(run->notice, "finished already at step 5"));
    assert_null(strstr(run->log, "set aside"));
    assert_true(fixture_exists("whole/step-00000010/meta"));
    assert_true(fixture_exists("whole/step-00000012/meta"));
    char *after = fixture_read("whole/metrics.jsonl");
    assert_string_equal(before, after);
    assert_false(fixture_exists("whole/metrics.jsonl.lost-1"));
    free(before);
    free(after);
    fixture_free(run);
}

static void auto_without_a_checkpoint_starts_afresh_and_a_fresh_start_over_one_is_refused(void **state)
{
    static const char *const set[] = {"train.steps=6", NULL};
    (void)state;
    fixture_remove("fresh");
    fixture_run_t *first = fixture_expect(job(2, "fresh", "auto", set, "checkpoint.async=true"), MPT_OK);
    assert_int_equal(first->steps, 6);
    char *metrics = fixture_read("fresh/metrics.jsonl");
    fixture_run_t *refused = fixture_expect(job(2, "fresh", NULL, set, "checkpoint.async=true"), MPT_ERR_CONFIG);
    assert_int_equal(refused->errors, 1);
    assert_non_null(strstr(refused->log, "holds checkpoints: add --resume auto"));
    char *untouched = fixture_read("fresh/metrics.jsonl");
    assert_string_equal(metrics, untouched);
    assert_false(fixture_exists("fresh/metrics.jsonl.lost-1"));
    free(metrics);
    free(untouched);
    fixture_free(refused);
    fixture_free(first);
}

static void only_the_newest_checkpoints_are_kept(void **state)
{
    static const char *const set[] = {"train.steps=8", "checkpoint.keep=2", "checkpoint.every=2", NULL};
    fixture_job_t many = {.ranks = 2, .folder = "kept"};
    (void)state;
    for (int i = 0; set[i] != NULL; i++)
        many.set[i] = set[i];
    fixture_remove("kept");
    fixture_run_t *run = fixture_expect(many, MPT_OK);
    int64_t steps[8];
    assert_int_equal(run->checkpoints, 4);
    assert_int_equal(mpt_checkpoint_list("kept", steps, 8), 2);
    assert_int_equal(steps[0], 8);
    assert_int_equal(steps[1], 6);
    fixture_free(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_stopped_after_any_step_ends_like_one_that_never_stopped),
        cmocka_unit_test(other_types_and_rank_counts_resume_exactly_too),
        cmocka_unit_test(lines_after_the_checkpoint_are_set_aside),
        cmocka_unit_test(a_run_killed_while_it_sets_things_aside_leaves_no_hole_in_the_metrics),
        cmocka_unit_test(a_checkpoint_serves_any_number_of_ranks),
        cmocka_unit_test(a_finished_run_says_so_and_a_longer_one_goes_on),
        cmocka_unit_test(a_finished_run_leaves_what_is_later_where_it_is),
        cmocka_unit_test(auto_without_a_checkpoint_starts_afresh_and_a_fresh_start_over_one_is_refused),
        cmocka_unit_test(only_the_newest_checkpoints_are_kept),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
