/*
 * Every shard mode trains to the same bits, with clipping, accumulation, an overflow and a growth of the scale on the way;
 * holds what its table says; and makes the collectives that its table says.
 */
#include "session_fixture.h"

#define OVERFLOW "overflow:rank=2,step=9,micro=0,tensor=h.1.mlp.c_fc.weight,element=5"

typedef struct mode {
    const char *name;
    const char *set[2];
} shard_mode_t;

static const shard_mode_t modes[] = {{"ddp", {"parallel.shard=ddp"}},
                                {"zero1", {"parallel.shard=zero1"}},
                                {"zero2", {"parallel.shard=zero2"}},
                                {"zero3", {"parallel.shard=zero3"}},
                                {"hsdp 2", {"parallel.shard=hsdp", "parallel.shard_ranks=2"}},
                                {"hsdp 4", {"parallel.shard=hsdp", "parallel.shard_ranks=4"}},
                                {"hsdp 1", {"parallel.shard=hsdp", "parallel.shard_ranks=1"}}};
#define MODES ((int)(sizeof modes / sizeof *modes))

/* Run a job in a mode; its own overrides first. */
static fixture_run_t *run_mode(const shard_mode_t *mode, fixture_job_t job)
{
    int count = 0;
    while (job.set[count] != NULL)
        count++;
    for (int i = 0; i < 2 && mode->set[i] != NULL; i++)
        job.set[count++] = mode->set[i];
    fixture_remove(job.folder != NULL && job.resume == NULL ? job.folder : "nothing");
    return fixture_expect(job, MPT_OK);
}

static void expect_same(const fixture_run_t *a, const fixture_run_t *b, const char *what)
{
    for (int64_t i = 0; i < a->steps && i < b->steps; i++)
        if (memcmp(&a->step[i].loss, &b->step[i].loss, sizeof(double)) != 0 ||
            memcmp(&a->step[i].grad_norm, &b->step[i].grad_norm, sizeof(double)) != 0)
            fail_msg("%s: step %d: loss %.17g, %.17g, norm %.17g, %.17g", what, (int)i + 1, a->step[i].loss,
                     b->step[i].loss, a->step[i].grad_norm, b->step[i].grad_norm);
    if (a->steps != b->steps || a->skips != b->skips || !fixture_same_state(a, 0, b, 0))
        fail_msg("%s: %d and %d steps, %d and %d skips, or other weights", what, (int)a->steps, (int)b->steps,
                 a->skips, b->skips);
}

/* All modes against ddp. */
static void compare_modes(fixture_job_t job, const char *what, void (*check)(const fixture_run_t *run))
{
    fixture_run_t *ddp = NULL;
    job.folder = "run";
    for (int m = 0; m < MODES; m++) {
        char text[128];
        fixture_run_t *run = run_mode(&modes[m], job);
        snprintf(text, sizeof text, "%s, %s", what, modes[m].name);
        for (int r = 1; r < job.ranks; r++)
            assert_true(fixture_same_state(run, 0, run, r));
        if (check != NULL)
            check(run);
        if (ddp == NULL) {
            ddp = run;
            continue;
        }
        expect_same(ddp, run, text);
        fixture_free(run);
    }
    fixture_free(ddp);
}

/* The run that the comparison is worth something for: it clipped, skipped and grew. */
static void check_eventful(const fixture_run_t *run)
{
    int clipped = 0, grew = 0;
    for (int64_t i = 0; i < run->steps; i++) {
        clipped += run->step[i].clipped;
        grew += i > 0 && run->step[i].loss_scale > run->step[i - 1].loss_scale;
    }
    assert_int_equal(run->steps, 50);
    assert_int_equal(run->skips, 1);
    assert_true(clipped > 5);
    assert_true(grew >= 1);
}

static void all_modes_give_the_same_bits_through_clips_skips_and_growth(void **state)
{
    static const char *const computes[] = {"fp32", "bf16", "fp16"};
    (void)state;
    setenv("MPT_INJECT", OVERFLOW, 1);
    for (int c = 0; c < 3; c++) {
        char compute[40];
        snprintf(compute, sizeof compute, "precision.compute=%s", computes[c]);
        compare_modes((fixture_job_t){.ranks = 4,
                                      .set = {compute, "train.steps=50", "precision.loss_scale=dynamic",
                                              "precision.init_scale=1024", "precision.growth_interval=20",
                                              "train.clip=0.5"}},
                      computes[c], check_eventful);
    }
    unsetenv("MPT_INJECT");
}

static void all_modes_give_the_same_bits_where_every_micro_step_reduces(void **state)
{
    (void)state;
    setenv("MPT_INJECT", OVERFLOW, 1);
    compare_modes((fixture_job_t){.ranks = 4,
                                  .set = {"precision.compute=bf16", "train.steps=12",
                                          "parallel.reduce_every=micro", "precision.loss_scale=dynamic"}},
                  "reduce_every = micro", NULL);
    unsetenv("MPT_INJECT");
}

static void all_modes_give_the_same_bits_with_one_micro_step(void **state)
{
    (void)state;
    compare_modes((fixture_job_t){.ranks = 4, .set = {"precision.compute=fp16", "train.steps=8", "train.global_batch=8"}},
                  "one micro-step", NULL);
}

static void all_modes_give_the_same_bits_with_everything_on(void **state)
{
    (void)state;
    compare_modes((fixture_job_t){.ranks = 4,
                                  .set = {"precision.compute=bf16", "train.steps=10", "train.ema=0.9",
                                          "precision.rounding=stochastic", "precision.master=none",
                                          "train.recompute=block", "train.val_every=5", "train.check_every=3"}},
                  "everything", NULL);
}

static void odd_rank_counts_train_in_every_mode(void **state)
{
    (void)state;
    fixture_run_t *ddp = NULL;
    for (int m = 0; m < 4; m++) {
        fixture_run_t *run =
            run_mode(&modes[m], (fixture_job_t){.ranks = 3,
                                                .folder = "run",
                                                .set = {"precision.compute=bf16", "train.steps=6",
                                                        "train.global_batch=6", "train.micro_batch=1"}});
        if (ddp == NULL) {
            ddp = run;
            continue;
        }
        expect_same(ddp, run, modes[m].name);
        fixture_free(run);
    }
    fixture_free(ddp);
}

/* ---- reproducible = world ---------------------------------------------------------------------------- */

static void world_gives_the_same_bits_for_every_rank_count_and_mode(void **state)
{
    static const char *const batches[] = {"train.global_batch=16", "train.global_batch=32"};
    (void)state;
    for (int b = 0; b < 2; b++) {
        fixture_run_t *one = NULL;
        for (int ranks = 1; ranks <= 8; ranks *= 2)
            for (int m = 0; m < 5; m++) {
                char what[80];
                if (m == 4 && ranks < 2)
                    continue;
                fixture_run_t *run = run_mode(
                    &modes[m], (fixture_job_t){.ranks = ranks,
                                               .folder = "run",
                                               .set = {"precision.compute=bf16", "train.steps=6", batches[b],
                                                       "train.reproducible=world", "precision.rounding=stochastic",
                                                       "train.val_every=6", "train.ema=0.5"}});
                snprintf(what, sizeof what, "%s, %d ranks, %s", batches[b], ranks, modes[m].name);
                if (one == NULL) {
                    one = run;
                    continue;
                }
                expect_same(one, run, what);
                assert_true(memcmp(&one->val_loss, &run->val_loss, sizeof(double)) == 0);
                fixture_free(run);
            }
        fixture_free(one);
    }
}

static void without_world_two_rank_counts_do_round_otherwise(void **state)
{
    (void)state;
    fixture_run_t *runs[2];
    for (int i = 0; i < 2; i++)
        runs[i] = run_mode(&modes[2], (fixture_job_t){.ranks = 1 << i,
                                                      .folder = "run",
                                                      .set = {"precision.compute=bf16", "train.steps=6"}});
    assert_false(fixture_same_state(runs[0], 0, runs[1], 0));
    fixture_free(runs[0]);
    fixture_free(runs[1]);
}

/* ---- bytes ------------------------------------------------------------------------------------------ */

static int64_t used(const mpt_session_t *s, mpt_use_t use)
{
    return (int64_t)(s->private_arena.bytes_by_use[use] + s->peer_arena.bytes_by_use[use]);
}

/* Runs on a rank's own thread, where cmocka's asserts do not work. */
static int is_held(const char *what, int64_t bytes, int64_t expected)
{
    if (bytes != expected)
        print_error("%s: %" PRId64 " bytes, not %" PRId64 "\n", what, bytes, expected);
    return bytes == expected;
}

/* What a run's state should hold, by the formulas of the table in state.h; layout by the session's own tables. */
static mpt_status_t check_bytes(mpt_session_t *s, int rank, void *ctx)
{
    const mpt_layout_t *layout = &s->memory.layout;
    int sliced_optimizer = s->config.parallel.shard != MPT_SHARD_DDP;
    int sliced_gradients = s->config.parallel.shard >= MPT_SHARD_ZERO2;
    int sliced_weights = s->config.parallel.shard >= MPT_SHARD_ZERO3;
    int64_t total = layout->total, slice = total / layout->group;
    int64_t window = layout->units[0].padded + 2 * mpt_layout_largest(layout);
    int64_t micro = s->memory.state.params.reduce_micro ? 4 : 2;
    int right = 1;
    (void)rank;
    (void)ctx;
    right &= is_held("optimizer", used(s, MPT_USE_MASTERS) + used(s, MPT_USE_MOMENTS),
                     12 * (sliced_optimizer ? slice : total));
    right &= is_held("weights", used(s, MPT_USE_WEIGHTS), 2 * (sliced_weights ? slice + window : total));
    right &= is_held("accumulators", used(s, MPT_USE_ACCUMULATORS), 4 * (sliced_gradients ? window : total));
    right &= is_held("gradients", used(s, MPT_USE_GRADIENTS),
                     (sliced_gradients ? 2 * window + micro * slice : 2 * total));
    return right ? MPT_OK : MPT_ERR_INVALID_ARG;
}

static void each_mode_holds_what_its_table_says(void **state)
{
    (void)state;
    for (int m = 0; m < 6; m++)
        for (int micro = 0; micro < 2; micro++) {
            if (micro && m < 2)
                continue;
            fixture_free(run_mode(&modes[m],
                                  (fixture_job_t){.ranks = 4,
                                                  .folder = "run",
                                                  .body = check_bytes,
                                                  .set = {"precision.compute=bf16",
                                                          micro ? "parallel.reduce_every=micro"
                                                                : "parallel.reduce_every=step",
                                                          micro ? "train.global_batch=32" : "train.global_batch=8"}}));
        }
}

/* ---- collectives ------------------------------------------------------------------------------------- */

typedef struct counted {
    uint64_t calls, bytes; /* of the second and third step together */
    int units;
    int64_t total, window_units;
} counted_t;

static mpt_status_t count_calls(mpt_session_t *s, int rank, void *ctx)
{
    counted_t *counted = ctx;
    mpt_step_result_t result;
    mpt_traffic_t before, after;
    mpt_status_t status = mpt_session_step(s, &result);
    mpt_session_traffic(s, &before);
    for (int i = 0; i < 2 && status == MPT_OK; i++)
        status = mpt_session_step(s, &result);
    mpt_session_traffic(s, &after);
    if (rank == 0)
        *counted = (counted_t){.calls = after.collectives - before.collectives,
                               .bytes = after.bytes_sent - before.bytes_sent,
                               .units = s->memory.layout.unit_count,
                               .total = s->memory.layout.total};
    return status;
}

static counted_t count_mode(const shard_mode_t *mode, const char *batch, const char *every)
{
    counted_t counted;
    fixture_free(run_mode(mode, (fixture_job_t){.ranks = 4,
                                                .folder = "run",
                                                .body = count_calls,
                                                .ctx = &counted,
                                                .set = {"precision.compute=bf16", "model.layers=3", batch, every}}));
    return counted;
}

/* Per step: ddp, zero1, zero2: 2 units + 1. zero3: every unit reduced once, and gathered at most twice a micro-step. */
static void collectives_of_a_step_are_those_of_the_table(void **state)
{
    const char *step = "parallel.reduce_every=step", *micro = "parallel.reduce_every=micro";
    (void)state;
    for (int64_t m = 1; m <= 2; m++) {
        const char *batch = m == 1 ? "train.global_batch=8" : "train.global_batch=16";
        for (int i = 0; i < 3; i++) {
            counted_t c = count_mode(&modes[i], batch, step);
            assert_int_equal(c.calls, 2 * (2 * c.units + 1));
            /* a reduce-scatter and an all-gather of N each, of which a rank sends 3/4; and 64 bytes to three */
            assert_int_equal(c.bytes, 2 * (2 * c.total * 2 * 3 / 4 + 3 * 64));
        }
        counted_t c = count_mode(&modes[3], batch, step), h = count_mode(&modes[4], batch, step);
        /* Unit 0 is gathered once a step; of the others the last two stay from forward to backward, and the first two from
         * backward to the next forward. */
        int64_t gathers = 1 + m * 2 * (c.units - 1) - (2 * m - 1) * 2;
        assert_int_equal(c.calls, 2 * (gathers + c.units + 1));
        assert_true(c.calls <= 2 * ((2 * (uint64_t)m + 1) * (uint64_t)c.units + 1));
        assert_int_equal(h.calls, c.calls + 2 * (uint64_t)h.units);
        assert_true(c.bytes <= (2 * (2 * (uint64_t)m + 1) * (uint64_t)c.total * 2 * 3 / 4 + 2 * 3 * 64));
    }
    counted_t a = count_mode(&modes[2], "train.global_batch=16", micro);
    assert_int_equal(a.calls, 2 * (3 * a.units + 1)); /* two reductions and a gather of weights */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_modes_give_the_same_bits_through_clips_skips_and_growth, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(all_modes_give_the_same_bits_where_every_micro_step_reduces, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(all_modes_give_the_same_bits_with_one_micro_step, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(all_modes_give_the_same_bits_with_everything_on, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(odd_rank_counts_train_in_every_mode, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(world_gives_the_same_bits_for_every_rank_count_and_mode, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(without_world_two_rank_counts_do_round_otherwise, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(each_mode_holds_what_its_table_says, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(collectives_of_a_step_are_those_of_the_table, fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
