/*
 * One flipped bit on one rank, in every array and mode that keeps it more than once: all ranks stop at the next comparison
 * and one message says where; no checkpoint has it, and the run goes on from the last good one to the bits it would have
 * had. Where nothing is kept twice there is nothing to compare.
 */
#include "shard_fixture.h"

#define RANKS 4
#define LAYERS 2

/* ---- what to flip -------------------------------------------------------------------------------------- */

static const mpt_gpt2_shape_t shape = {.layers = LAYERS, .heads = 2, .dim = 32, .context = 32, .vocab = 256, .batch = 2, .seq = 32};

/* The slices that a mode makes of masters and moments, and of working weights. */
static int pieces(int mode, const char *array, int ranks)
{
    int group = mode == SHARD_HSDP1 ? 1 : mode == SHARD_HSDP2 ? 2 : ranks;
    if (mode == SHARD_DDP || (strcmp(array, "working") == 0 && mode < SHARD_ZERO3))
        return 1;
    return group;
}

/* Some element of tensor `name` that rank `rank` holds in `array`, of a mode on `ranks` ranks; -1: none. */
static int64_t held_element(int mode, int ranks, int rank, const char *array, const char *name)
{
    mpt_tensor_t tensors[64];
    mpt_layout_t layout;
    mpt_extent_t extent;
    int group = mode == SHARD_HSDP1 ? 1 : mode == SHARD_HSDP2 ? 2 : ranks, cut = pieces(mode, array, ranks);
    assert_true(mpt_gpt2_tensor_count(&shape) <= 64);
    mpt_gpt2_tensors(&shape, tensors);
    assert_int_equal(mpt_layout_build(tensors, mpt_gpt2_tensor_count(&shape),
                                      &(mpt_layout_cut_t){.ranks = ranks, .group = group}, &layout),
                     MPT_OK);
    int tensor = mpt_layout_find(&layout, name);
    int found = mpt_layout_extent(&layout, cut, rank % cut, tensor, &extent);
    mpt_layout_release(&layout);
    return found ? extent.first + extent.count / 2 : -1;
}

typedef struct flip {
    int rank;
    int64_t step;
    const char *array, *tensor;
    int bit;
} flip_t;

/* Arm MPT_INJECT; 0: the rank holds nothing of the tensor. */
static int arm(int mode, int ranks, const flip_t *f)
{
    char text[200];
    int64_t element = held_element(mode, ranks, f->rank, f->array, f->tensor);
    snprintf(text, sizeof text, "flip:rank=%d,step=%" PRId64 ",tensor=%s,element=%" PRId64 ",kind=%s,bit=%d", f->rank,
             f->step, f->tensor, element, f->array, f->bit);
    setenv("MPT_INJECT", text, 1);
    return element >= 0;
}

/* ---- jobs ------------------------------------------------------------------------------------------------ */

static const char *const common[] = {"precision.compute=bf16", "train.ema=0.9", "train.steps=12", NULL};

static fixture_job_t job(int mode, const char *folder, const char *check, const char *save)
{
    const char *const more[] = {check, save, NULL};
    fixture_job_t made = shard_job(RANKS, mode, folder, common);
    shard_add(&made, more);
    return made;
}

/* The name in messages. */
static const char *spoken(const char *array)
{
    return strcmp(array, "working") == 0 ? "weights" : strcmp(array, "master") == 0 ? "masters" : array;
}

static int unit_of(const char *tensor)
{
    int layer;
    if (sscanf(tensor, "h.%d.", &layer) == 1)
        return layer + 1;
    return strncmp(tensor, "ln_f", 4) == 0 ? LAYERS + 1 : 0;
}

static void expect_stop_event(const char *folder, const flip_t *f, int64_t step, const char *ranks)
{
    char want[300], path[FIXTURE_PATH];
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    char *metrics = fixture_read(path);
    snprintf(want, sizeof want,
             "{\"step\":%" PRId64 ",\"event\":\"stop\",\"cause\":\"replicas\",\"ranks\":\"%s\",\"unit\":%d,\"tensor\":\"%s\","
             "\"array\":\"%s\"}\n",
             step, ranks, unit_of(f->tensor), f->tensor, spoken(f->array));
    if (strstr(metrics, want) == NULL)
        fail_msg("no %s in:\n%s", want, metrics);
    free(metrics);
}

/* All ranks stopped in step `step`, and one line says where. */
static void expect_found(const fixture_run_t *run, int mode, const flip_t *f, int64_t step)
{
    char where[200], who[96], ranks[16];
    int copies = RANKS / pieces(mode, f->array, RANKS);
    /* Of two copies the first counts as right, and the message says that either may be wrong. */
    int named = copies == 2 ? f->rank % 2 + 2 : f->rank;
    snprintf(ranks, sizeof ranks, "%d", named);
    snprintf(who, sizeof who, "step %d: ranks that must hold the same do not: rank %d differs", (int)step, named);
    snprintf(where, sizeof where, "first in the %s of unit %d, %s:", spoken(f->array), unit_of(f->tensor), f->tensor);
    if (run->errors != 1 || run->steps != step - 1 || strstr(run->log, who) == NULL || strstr(run->log, where) == NULL ||
        (strstr(run->log, "either may be wrong") != NULL) != (copies == 2))
        fail_msg("%s, %s of %s: %d errors, %d steps\n%s", shard_modes[mode].name, f->array, f->tensor, run->errors,
                 (int)run->steps, run->log);
    expect_stop_event("run", f, step, ranks);
}

/* ---- every array and mode ---------------------------------------------------------------------------------- */

static void flip_and_expect(int mode, const flip_t *f, int *flips)
{
    if (!arm(mode, RANKS, f))
        return;
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(job(mode, "run", "train.check_every=1", "checkpoint.every=0"), MPT_ERR_DEVICE);
    expect_found(run, mode, f, f->step);
    fixture_free(run);
    *flips += 1;
}

static void a_flipped_bit_is_found_in_every_array_that_is_kept_more_than_once(void **state)
{
    static const char *const arrays[] = {"working", "master", "m", "v", "ema"};
    static const char *const tensors[] = {"wte.weight", "h.1.mlp.c_fc.weight", "h.0.ln_1.bias", "ln_f.weight"};
    static const int bits[] = {0, 3, 15, 31};
    static const int modes[] = {SHARD_DDP, SHARD_ZERO1, SHARD_ZERO2, SHARD_HSDP1, SHARD_HSDP2};
    (void)state;
    for (int i = 0; i < 5; i++) {
        int mode = modes[i], flips = 0, only_weights = mode == SHARD_ZERO1 || mode == SHARD_ZERO2;
        for (int a = 0; a < (only_weights ? 1 : 5); a++)
            for (int t = a % 2; t < 4; t += only_weights ? 1 : 2)
                flip_and_expect(mode, &(flip_t){(a + t) % RANKS, 2, arrays[a], tensors[t], bits[(a + t) % 4]}, &flips);
        assert_true(flips >= (only_weights ? 3 : 6));
    }
    assert_int_equal(mpt_status_exit_code(MPT_ERR_DEVICE), 4);
    unsetenv("MPT_INJECT");
}

static void where_nothing_is_kept_twice_there_is_nothing_to_compare(void **state)
{
    static const struct {
        int mode;
        const char *array;
    } alone[] = {{SHARD_ZERO3, "working"}, {SHARD_ZERO3, "master"}, {SHARD_ZERO3, "v"}, {SHARD_HSDP4, "master"},
                 {SHARD_HSDP4, "working"}, {SHARD_ZERO1, "m"},      {SHARD_ZERO2, "ema"}};
    (void)state;
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
        assert_true(arm(alone[i].mode, RANKS, &(flip_t){2, 3, alone[i].array, "wte.weight", 3}));
        fixture_remove("run");
        fixture_run_t *run =
            fixture_expect(job(alone[i].mode, "run", "train.check_every=1", "checkpoint.every=5"), MPT_OK);
        assert_int_equal(run->steps, 12);
        assert_int_equal(run->errors, 0);
        assert_null(strstr(run->log, "nothing flipped"));
        fixture_free(run);
    }
    unsetenv("MPT_INJECT");
}

static void an_injection_that_hits_nothing_says_so(void **state)
{
    (void)state;
    int64_t other = held_element(SHARD_ZERO3, RANKS, 3, "master", "wte.weight");
    char text[160];
    snprintf(text, sizeof text, "flip:rank=0,step=2,tensor=wte.weight,element=%" PRId64 ",kind=master,bit=1", other);
    setenv("MPT_INJECT", text, 1);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(job(SHARD_ZERO3, "run", "train.check_every=1", "checkpoint.every=0"), MPT_OK);
    assert_int_equal(fixture_count(run->log, "rank 0: MPT_INJECT: nothing flipped"), 1);
    fixture_free(run);
    unsetenv("MPT_INJECT");
}

/* ---- when ------------------------------------------------------------------------------------------------ */

static void a_flip_between_comparisons_is_found_at_the_next_one(void **state)
{
    static const struct {
        int mode;
        const char *array;
    } kept[] = {{SHARD_DDP, "master"}, {SHARD_DDP, "v"}, {SHARD_DDP, "ema"}, {SHARD_HSDP1, "m"}, {SHARD_HSDP2, "master"}};
    (void)state;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        /* a high bit of the mantissa, so that updates do not round it away; the EMA forgets slowly */
        flip_t f = {3, 6, kept[i].array, "h.1.mlp.c_fc.weight", 21};
        if (!arm(kept[i].mode, RANKS, &f))
            f.rank = 2;
        assert_true(arm(kept[i].mode, RANKS, &f));
        fixture_remove("run");
        fixture_run_t *run =
            fixture_expect(job(kept[i].mode, "run", "train.check_every=4", "checkpoint.every=0"), MPT_ERR_DEVICE);
        assert_int_equal(run->errors, 1);
        assert_int_equal(run->steps, 7);
        assert_non_null(strstr(run->log, "step 8: ranks that must hold the same do not: rank"));
        fixture_free(run);
    }
    unsetenv("MPT_INJECT");
}

static void comparing_changes_no_bit(void **state)
{
    static const char *const every[] = {"train.check_every=1", "train.check_every=5"};
    (void)state;
    unsetenv("MPT_INJECT");
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        fixture_remove("run");
        fixture_run_t *never = fixture_expect(job(mode, "run", "train.check_every=0", "checkpoint.every=0"), MPT_OK);
        for (int i = 0; i < 2; i++) {
            fixture_remove("run");
            fixture_run_t *run = fixture_expect(job(mode, "run", every[i], "checkpoint.every=4"), MPT_OK);
            shard_expect_same(never, run, shard_modes[mode].name);
            fixture_free(run);
        }
        fixture_free(never);
    }
}

/* A comparison also reads what a skipped step leaves alone. */
static void a_step_that_is_skipped_is_compared_too(void **state)
{
    (void)state;
    setenv("MPT_INJECT", "overflow:rank=1,step=4,micro=0,tensor=wte.weight,element=5", 1);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(job(SHARD_DDP, "run", "train.check_every=1", "checkpoint.every=0"), MPT_OK);
    assert_int_equal(run->skips, 1);
    fixture_free(run);
    unsetenv("MPT_INJECT");
}

/* ---- checkpoints ------------------------------------------------------------------------------------------ */

/* The newest checkpoint of "run" is of step `step`, whole, and the run goes on from it to `whole`'s bits. */
static void expect_good_checkpoint(const fixture_run_t *whole, int mode, int64_t step, const char *save)
{
    int64_t steps[16];
    unsetenv("MPT_INJECT");
    assert_true(mpt_checkpoint_list("run", steps, 16) > 0);
    if (steps[0] != step)
        fail_msg("%s: the newest checkpoint is of step %d, not %d", shard_modes[mode].name, (int)steps[0], (int)step);
    fixture_job_t rest = job(mode, "run", "train.check_every=4", save);
    rest.resume = "auto";
    fixture_run_t *run = fixture_expect(rest, MPT_OK);
    assert_int_equal(run->steps, 12 - step);
    shard_expect_same(whole, run, shard_modes[mode].name);
    fixture_free(run);
    assert_int_equal(mpt_checkpoint_list("run", steps, 16) > 0, 1);
    assert_int_equal(steps[0], 12);
}

/* Every third step is saved and every fourth compared. */
static void flip_between_saves(const fixture_run_t *whole, int mode, const flip_t *f, int64_t found, int64_t good,
                               int async)
{
    const char *const save[] = {async ? "checkpoint.async=true" : "checkpoint.async=false", NULL};
    fixture_job_t flipped = job(mode, "run", "train.check_every=4", "checkpoint.every=3");
    shard_add(&flipped, save);
    assert_true(arm(mode, RANKS, f));
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(flipped, MPT_ERR_DEVICE);
    if (run->steps != found - 1 || run->errors != 1)
        fail_msg("%s, flipped in step %d: stopped in step %d, not %d\n%s", shard_modes[mode].name, (int)f->step,
                 (int)run->steps + 1, (int)found, run->log);
    fixture_free(run);
    expect_good_checkpoint(whole, mode, good, "checkpoint.every=3");
}

static void no_checkpoint_has_the_flip_and_the_run_goes_on_to_its_bits(void **state)
{
    static const int modes[] = {SHARD_DDP, SHARD_HSDP1, SHARD_HSDP2};
    (void)state;
    for (int i = 0; i < 3; i++) {
        int mode = modes[i];
        fixture_remove("whole");
        fixture_run_t *whole = fixture_expect(job(mode, "whole", "train.check_every=0", "checkpoint.every=0"), MPT_OK);
        for (int async = 0; async < 2; async++) {
            flip_t f = {2, 5, "master", "wte.weight", 21}; /* found in step 7, before the save of step 6 counts, or as it is to begin */
            flip_between_saves(whole, mode, &f, 7, 3, async);
            f.step = 7;
            if (async) /* in the step that compares what was saved in step 6: drops it, though it was still good */
                flip_between_saves(whole, mode, &f, 7, 3, async);
            else
                flip_between_saves(whole, mode, &f, 8, 6, async);
            f.step = 8; /* where saves are asynchronous, that of step 6 may still be on its way */
            if (!async)
                flip_between_saves(whole, mode, &f, 8, 6, async);
        }
        fixture_free(whole);
    }
    unsetenv("MPT_INJECT");
}

static void the_save_that_ends_a_run_is_compared_first(void **state)
{
    (void)state;
    for (int mode = SHARD_DDP; mode <= SHARD_HSDP2; mode += SHARD_HSDP2) {
        fixture_remove("whole");
        fixture_run_t *whole = fixture_expect(job(mode, "whole", "train.check_every=0", "checkpoint.every=0"), MPT_OK);
        flip_t last = {2, 12, "master", "wte.weight", 21}, stopped = {2, 8, "v", "wte.weight", 30};
        flip_t *flips[] = {&last, &stopped};
        for (int i = 0; i < 2; i++) {
            fixture_job_t flipped = job(mode, "run", "train.check_every=7", "checkpoint.every=5");
            flipped.stop_at = i == 1 ? 9 : 0;
            assert_true(arm(mode, RANKS, flips[i]));
            fixture_remove("run");
            fixture_run_t *run = fixture_expect(flipped, MPT_ERR_DEVICE);
            assert_int_equal(run->errors, 1);
            fixture_free(run);
            expect_good_checkpoint(whole, mode, i == 0 ? 10 : 5, "checkpoint.every=5");
        }
        fixture_free(whole);
    }
    unsetenv("MPT_INJECT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_is_found_in_every_array_that_is_kept_more_than_once),
        cmocka_unit_test(where_nothing_is_kept_twice_there_is_nothing_to_compare),
        cmocka_unit_test(an_injection_that_hits_nothing_says_so),
        cmocka_unit_test(a_flip_between_comparisons_is_found_at_the_next_one),
        cmocka_unit_test(comparing_changes_no_bit),
        cmocka_unit_test(a_step_that_is_skipped_is_compared_too),
        cmocka_unit_test(no_checkpoint_has_the_flip_and_the_run_goes_on_to_its_bits),
        cmocka_unit_test(the_save_that_ends_a_run_is_compared_first),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
