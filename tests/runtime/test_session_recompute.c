/*
 * Activations that are computed again in backward are the same bits: whole runs with train.recompute = none, attention and
 * block end alike, in every type, with weights whole and gathered; and the plan and the run hold fewer activations.
 */
#include "shard_fixture.h"

static const char *const recomputes[] = {"train.recompute=none", "train.recompute=attention", "train.recompute=block"};

static fixture_run_t *run_with(const char *recompute, int mode, const char *const *set)
{
    const char *const more[] = {recompute,      "train.steps=8", "model.layers=3", "precision.init_scale=1024",
                                "train.clip=1", NULL};
    fixture_job_t job = shard_job(4, mode, "run", set);
    shard_add(&job, more);
    fixture_remove("run");
    return fixture_expect(job, MPT_OK);
}

static void recomputing_changes_no_bit(void **state)
{
    static const char *const sets[][4] = {{"precision.compute=fp32"},
                                          {"precision.compute=bf16", "train.val_every=3"},
                                          {"precision.compute=fp16", "parallel.reduce_every=micro"},
                                          {"precision.compute=bf16", "train.reproducible=world"},
                                          {"precision.compute=fp16", "train.global_batch=8", "train.ema=0.5"}};
    static const int modes[] = {SHARD_ZERO2, SHARD_ZERO3, SHARD_HSDP2};
    (void)state;
    setenv("MPT_INJECT", "overflow:rank=1,step=4,micro=0,tensor=h.1.attn.c_proj.weight,element=5", 1);
    for (size_t c = 0; c < sizeof sets / sizeof *sets; c++)
        for (int m = 0; m < 3; m++) {
            fixture_run_t *kept = run_with(recomputes[0], modes[m], sets[c]);
            assert_int_equal(kept->steps, 8);
            assert_int_equal(kept->skips, 1);
            for (int r = 1; r < 3; r++) {
                char what[120];
                fixture_run_t *run = run_with(recomputes[r], modes[m], sets[c]);
                snprintf(what, sizeof what, "%s, %s, %s", sets[c][0], shard_modes[modes[m]].name, recomputes[r]);
                shard_expect_same(kept, run, what);
                assert_true(memcmp(&kept->val_loss, &run->val_loss, sizeof kept->val_loss) == 0);
                assert_true(run->held_bytes[0] < kept->held_bytes[0]);
                assert_true(run->held_bytes[0] == run->planned_bytes[0]);
                fixture_free(run);
            }
            fixture_free(kept);
        }
    unsetenv("MPT_INJECT");
}

static int64_t planned(const char *recompute, const char *use)
{
    const char *set[] = {recompute, "model.layers=8", "precision.compute=bf16"};
    mpt_plan_t plan;
    assert_int_equal(mpt_plan(&(mpt_config_source_t){.text = fixture_config, .path = "test.cfg", .overrides = set, .override_count = 3},
                              4, &plan, NULL, NULL),
                     MPT_OK);
    for (int i = 0; i < plan.memory_rows; i++)
        if (strcmp(plan.memory[i].use, use) == 0)
            return plan.memory[i].bytes;
    return -1;
}

/* Recomputing attention saves its norm, queries, keys, values and output; recomputing blocks, all but what enters them. */
static void the_plan_shows_fewer_activations(void **state)
{
    (void)state;
    int64_t none = planned(recomputes[0], "activations"), attention = planned(recomputes[1], "activations"),
            block = planned(recomputes[2], "activations");
    assert_true(none > 0 && attention > 0 && block > 0);
    if (!(attention < 0.85 * (double)none && block < 0.5 * (double)none && block < attention))
        fail_msg("activations: %d, %d, %d bytes", (int)none, (int)attention, (int)block);
    for (int r = 1; r < 3; r++) {
        assert_int_equal(planned(recomputes[r], "masters"), planned(recomputes[0], "masters"));
        assert_int_equal(planned(recomputes[r], "gradients"), planned(recomputes[0], "gradients"));
    }
}

/* A model of one layer: its block is the first and the last. */
static void one_layer_recomputes_too(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "model.layers=1", NULL};
    (void)state;
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        fixture_run_t *runs[3];
        for (int r = 0; r < 3; r++) {
            const char *const more[] = {recomputes[r], "train.steps=4", NULL};
            fixture_job_t job = shard_job(4, mode, "run", set);
            shard_add(&job, more);
            fixture_remove("run");
            runs[r] = fixture_expect(job, MPT_OK);
            shard_expect_same(runs[0], runs[r], shard_modes[mode].name);
        }
        for (int r = 0; r < 3; r++)
            fixture_free(runs[r]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recomputing_changes_no_bit),
        cmocka_unit_test(the_plan_shows_fewer_activations),
        cmocka_unit_test(one_layer_recomputes_too),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
