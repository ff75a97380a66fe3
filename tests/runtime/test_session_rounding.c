/*
 * Stochastic rounding of 16-bit weights: keyed to elements and steps, so the same for any number of ranks; without bias; and
 * good enough to train without masters, which rounding to nearest is not.
 */
#include "shard_fixture.h"

#include "numeric.h"

/* ---- the same everywhere -------------------------------------------------------------------------------- */

static const int ranks_and_modes[][2] = {{1, SHARD_DDP},   {2, SHARD_ZERO3}, {4, SHARD_HSDP2},
                                         {8, SHARD_ZERO1}, {8, SHARD_HSDP4}, {4, SHARD_DDP}};

static void under_world_any_number_of_ranks_rounds_alike(void **state)
{
    static const char *const types[] = {"precision.compute=bf16", "precision.compute=fp16"};
    static const char *const masters[] = {"precision.master=fp32", "precision.master=none"};
    (void)state;
    for (int c = 0; c < 4; c++) {
        const char *const set[] = {types[c / 2],  masters[c % 2],  "precision.rounding=stochastic", "train.reproducible=world",
                                   "train.steps=6", "train.ema=0.5", "precision.init_scale=1024", NULL};
        fixture_run_t *one = NULL;
        for (size_t i = 0; i < sizeof ranks_and_modes / sizeof *ranks_and_modes; i++) {
            fixture_remove("run");
            fixture_run_t *run =
                fixture_expect(shard_job(ranks_and_modes[i][0], ranks_and_modes[i][1], "run", set), MPT_OK);
            if (one == NULL) {
                one = run;
                continue;
            }
            shard_expect_same(one, run, shard_modes[ranks_and_modes[i][1]].name);
            fixture_free(run);
        }
        fixture_free(one);
    }
}

static void rounding_to_nearest_gives_other_weights(void **state)
{
    static const char *const rounding[] = {"precision.rounding=stochastic", "precision.rounding=nearest"};
    fixture_run_t *runs[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *const set[] = {"precision.compute=bf16", "train.steps=3", rounding[i], NULL};
        fixture_remove("run");
        runs[i] = fixture_expect(shard_job(2, SHARD_ZERO2, "run", set), MPT_OK);
    }
    assert_false(fixture_same_state(runs[0], 0, runs[1], 0));
    fixture_free(runs[0]);
    fixture_free(runs[1]);
}

/* ---- what a weight rounds to ------------------------------------------------------------------------------- */

typedef struct counts {
    int64_t elements, exact, up, outside, changed; /* of masters and working weights after a step */
    double expected_up, variance;
} counts_t;

static float neighbour(float x, int up)
{
    uint32_t bits = mpt_f32_bits(x) & 0xffff0000u;
    int away = (x > 0.0f) == (up != 0); /* from zero */
    return mpt_f32_from_bits(away ? bits + 0x10000u : bits);
}

/* The BF16 numbers on both sides of a master, and how near the upper one is. */
static void count_element(counts_t *c, float master, float working)
{
    float low = neighbour(master, 0), high = neighbour(master, 1);
    c->elements++;
    if ((mpt_f32_bits(master) & 0xffffu) == 0) {
        c->exact++;
        c->outside += working != master;
        return;
    }
    double p = ((double)master - low) / ((double)high - low);
    c->outside += working != low && working != high;
    c->up += working == high;
    c->expected_up += p;
    c->variance += p * (1.0 - p);
}

static mpt_status_t count_rounding(mpt_session_t *s, int rank, void *ctx)
{
    const mpt_layout_t *layout = &s->memory.layout;
    int64_t count, n = layout->parameters;
    mpt_step_result_t result;
    mpt_status_t status = MPT_OK;
    for (int step = 0; step < 3 && status == MPT_OK; step++)
        status = mpt_session_step(s, &result);
    float *state = fixture_state(s, &count);
    for (int64_t i = 0; i < n && rank == 0; i++)
        count_element(ctx, state[i], state[3 * n + i]);
    free(state);
    return status;
}

static void weights_round_to_a_neighbour_of_the_master_and_without_bias(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "precision.rounding=stochastic", NULL};
    (void)state;
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        counts_t c = {0};
        fixture_job_t job = shard_job(4, mode, "run", set);
        job.body = count_rounding;
        job.ctx = &c;
        fixture_remove("run");
        fixture_free(fixture_expect(job, MPT_OK));
        assert_true(c.elements > 30000 && c.exact < c.elements / 4);
        if (c.outside != 0 || !(fabs((double)c.up - c.expected_up) <= 5.0 * sqrt(c.variance)))
            fail_msg("%s: %d of %d weights are no neighbours; %d rounded up where %g were expected", shard_modes[mode].name,
                     (int)c.outside, (int)c.elements, (int)c.up, c.expected_up);
    }
}

/* ---- without masters -------------------------------------------------------------------------------------- */

static double final_loss(const char *const *set)
{
    static const char *const more[] = {"precision.compute=bf16", "train.steps=200", "train.val_every=200", "train.val_batches=8",
                                       "train.warmup=10", NULL};
    fixture_job_t job = shard_job(2, SHARD_ZERO2, "run", more);
    shard_add(&job, set);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(job, MPT_OK);
    double loss = run->val_loss;
    assert_true(run->step[199].loss < 0.75 * run->step[0].loss); /* it learns */
    fixture_free(run);
    return loss;
}

static void training_without_masters_comes_within_three_per_cent(void **state)
{
    static const char *const with[] = {"precision.master=fp32", NULL};
    static const char *const without[] = {"precision.master=none", "precision.rounding=stochastic", NULL};
    (void)state;
    double a = final_loss(with), b = final_loss(without);
    if (!(fabs(b - a) <= 0.03 * a))
        fail_msg("validation loss %g with masters, %g without", a, b);
}

static void rounding_to_nearest_without_masters_is_refused(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "precision.master=none", NULL};
    static const char *const wide[] = {"precision.compute=fp32", "precision.rounding=stochastic", NULL};
    (void)state;
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(shard_job(2, SHARD_ZERO2, "run", set), MPT_ERR_CONFIG);
    assert_int_equal(run->errors, 1);
    assert_non_null(strstr(run->log, "set rounding = stochastic"));
    fixture_free(run);
    run = fixture_expect(shard_job(2, SHARD_ZERO2, "run", wide), MPT_ERR_CONFIG);
    assert_int_equal(run->errors, 1);
    assert_non_null(strstr(run->log, "precision.rounding"));
    fixture_free(run);
}

static int64_t planned(const char *master, const char *use, int64_t *bytes_p)
{
    const char *set[] = {master, "precision.compute=bf16", "precision.rounding=stochastic"};
    mpt_plan_t plan;
    assert_int_equal(mpt_plan(&(mpt_config_source_t){.text = fixture_config, .path = "test.cfg", .overrides = set, .override_count = 3},
                              4, &plan, NULL, NULL),
                     MPT_OK);
    *bytes_p = plan.bytes;
    for (int i = 0; i < plan.memory_rows; i++)
        if (strcmp(plan.memory[i].use, use) == 0)
            return plan.memory[i].bytes;
    return -1;
}

static void the_plan_without_masters_has_no_row_of_them(void **state)
{
    int64_t with, without;
    (void)state;
    int64_t masters = planned("precision.master=fp32", "masters", &with);
    assert_true(masters > 0);
    assert_int_equal(planned("precision.master=none", "masters", &without), -1);
    assert_true(with - without >= masters && with - without < masters + 4096);
    assert_true(planned("precision.master=none", "moments", &without) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(under_world_any_number_of_ranks_rounds_alike),
        cmocka_unit_test(rounding_to_nearest_gives_other_weights),
        cmocka_unit_test(weights_round_to_a_neighbour_of_the_master_and_without_bias),
        cmocka_unit_test(training_without_masters_comes_within_three_per_cent),
        cmocka_unit_test(rounding_to_nearest_without_masters_is_refused),
        cmocka_unit_test(the_plan_without_masters_has_no_row_of_them),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
