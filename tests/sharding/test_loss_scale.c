/*
 * The loss scale against PyTorch's rule (torch/amp/grad_scaler.py, _amp_update_scale_ in
 * aten/src/ATen/native/cuda/AmpKernels.cu): on overflow scale *= backoff and the growth tracker is zeroed; else the
 * tracker is incremented and, when it reaches the interval, scale *= growth and the tracker is zeroed. The trace
 * is written out, so that the rule under test is not the one that made the expectations.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "loss_scale.h"

static mpt_loss_scale_rule_t torch_rule(void)
{
    return (mpt_loss_scale_rule_t){.dynamic = 1,
                                   .init = 65536,
                                   .growth = 2,
                                   .backoff = 0.5,
                                   .floor = 1,
                                   .ceiling = 16777216,
                                   .growth_interval = 4,
                                   .hysteresis = 1,
                                   .max_skips = 100};
}

typedef struct transition {
    int overflow;
    double scale; /* after it */
    int tracker;  /* clean steps after it */
    mpt_scale_change_t change;
} transition_t;

static const transition_t trace[40] = {
    /* 1-8: the scale starts too high and falls; single clean steps do not raise it */
    {1, 32768, 0, MPT_SCALE_SHRANK},
    {1, 16384, 0, MPT_SCALE_SHRANK},
    {0, 16384, 1, MPT_SCALE_KEPT},
    {1, 8192, 0, MPT_SCALE_SHRANK},
    {0, 8192, 1, MPT_SCALE_KEPT},
    {0, 8192, 2, MPT_SCALE_KEPT},
    {0, 8192, 3, MPT_SCALE_KEPT},
    {1, 4096, 0, MPT_SCALE_SHRANK}, /* one short of growing */
    /* 9-16: two growths, each after four clean steps */
    {0, 4096, 1, MPT_SCALE_KEPT},
    {0, 4096, 2, MPT_SCALE_KEPT},
    {0, 4096, 3, MPT_SCALE_KEPT},
    {0, 8192, 0, MPT_SCALE_GREW},
    {0, 8192, 1, MPT_SCALE_KEPT},
    {0, 8192, 2, MPT_SCALE_KEPT},
    {0, 8192, 3, MPT_SCALE_KEPT},
    {0, 16384, 0, MPT_SCALE_GREW},
    /* 17-21: an overflow right after a growth takes it back */
    {1, 8192, 0, MPT_SCALE_SHRANK},
    {0, 8192, 1, MPT_SCALE_KEPT},
    {0, 8192, 2, MPT_SCALE_KEPT},
    {0, 8192, 3, MPT_SCALE_KEPT},
    {0, 16384, 0, MPT_SCALE_GREW},
    /* 22-27: an overflow in the middle starts the count again */
    {0, 16384, 1, MPT_SCALE_KEPT},
    {0, 16384, 2, MPT_SCALE_KEPT},
    {1, 8192, 0, MPT_SCALE_SHRANK},
    {1, 4096, 0, MPT_SCALE_SHRANK},
    {0, 4096, 1, MPT_SCALE_KEPT},
    {1, 2048, 0, MPT_SCALE_SHRANK},
    /* 28-39: up three times */
    {0, 2048, 1, MPT_SCALE_KEPT},
    {0, 2048, 2, MPT_SCALE_KEPT},
    {0, 2048, 3, MPT_SCALE_KEPT},
    {0, 4096, 0, MPT_SCALE_GREW},
    {0, 4096, 1, MPT_SCALE_KEPT},
    {0, 4096, 2, MPT_SCALE_KEPT},
    {0, 4096, 3, MPT_SCALE_KEPT},
    {0, 8192, 0, MPT_SCALE_GREW},
    {0, 8192, 1, MPT_SCALE_KEPT},
    {0, 8192, 2, MPT_SCALE_KEPT},
    {0, 8192, 3, MPT_SCALE_KEPT},
    {0, 16384, 0, MPT_SCALE_GREW},
    {1, 8192, 0, MPT_SCALE_SHRANK},
};

static void forty_transitions_follow_gradscaler(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    mpt_loss_scale_init(&scale, &rule);
    assert_true(scale.scale == 65536);
    assert_int_equal(scale.clean, 0);
    for (int i = 0; i < 40; i++) {
        mpt_scale_change_t change = mpt_loss_scale_update(&scale, &rule, trace[i].overflow);
        if (!(scale.scale == trace[i].scale) || scale.clean != trace[i].tracker ||
            change != trace[i].change)
            fail_msg("transition %d: scale %g, tracker %d, change %d; expected %g, %d, %d", i + 1,
                     scale.scale, (int)scale.clean, (int)change, trace[i].scale, trace[i].tracker,
                     (int)trace[i].change);
    }
}

/* Runs `count` equal verdicts; the last one's change comes back. */
static mpt_scale_change_t run(mpt_loss_scale_t *scale, const mpt_loss_scale_rule_t *rule,
                              int overflow, int count)
{
    mpt_scale_change_t change = MPT_SCALE_KEPT;
    for (int i = 0; i < count; i++)
        change = mpt_loss_scale_update(scale, rule, overflow);
    return change;
}

static void the_default_interval_is_two_thousand_clean_steps_in_a_row(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.growth_interval = 2000;
    mpt_loss_scale_init(&scale, &rule);
    assert_int_equal(run(&scale, &rule, 0, 1999), MPT_SCALE_KEPT);
    assert_true(scale.scale == 65536);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
    assert_int_equal(run(&scale, &rule, 0, 1999), MPT_SCALE_KEPT);
    assert_true(scale.scale == 32768);
    assert_int_equal(run(&scale, &rule, 0, 1), MPT_SCALE_GREW);
    assert_true(scale.scale == 65536);
}

static void an_interval_of_one_grows_every_clean_step(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.growth_interval = 1;
    mpt_loss_scale_init(&scale, &rule);
    for (int i = 1; i <= 8; i++) {
        assert_int_equal(run(&scale, &rule, 0, 1), MPT_SCALE_GREW);
        assert_true(scale.scale == 65536.0 * (1 << i));
    }
}

static void the_scale_never_leaves_floor_and_ceiling(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.init = 8;
    rule.growth = 3;
    rule.backoff = 0.3;
    rule.floor = 3;
    rule.ceiling = 20;
    mpt_loss_scale_init(&scale, &rule);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
    assert_true(scale.scale == 3); /* 2.4 would be below the floor */
    assert_int_equal(run(&scale, &rule, 1, 5), MPT_SCALE_KEPT);
    assert_true(scale.scale == 3);
    assert_int_equal(run(&scale, &rule, 0, 4), MPT_SCALE_GREW);
    assert_true(scale.scale == 9);
    assert_int_equal(run(&scale, &rule, 0, 4), MPT_SCALE_GREW);
    assert_true(scale.scale == 20); /* 27 would be above the ceiling */
    assert_int_equal(run(&scale, &rule, 0, 400), MPT_SCALE_KEPT);
    assert_true(scale.scale == 20);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
    assert_true(scale.scale == 6);
}

/* Hysteresis 3: two overflows since the last growth are forgiven, the third and all later ones halve. */
static void with_hysteresis_the_third_overflow_since_growth_halves(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.hysteresis = 3;
    mpt_loss_scale_init(&scale, &rule);
    assert_int_equal(run(&scale, &rule, 1, 2), MPT_SCALE_KEPT);
    assert_true(scale.scale == 65536);
    assert_int_equal(run(&scale, &rule, 0, 3),
                     MPT_SCALE_KEPT); /* clean steps alone forgive nothing */
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
    assert_true(scale.scale == 32768);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
    assert_true(scale.scale == 16384);
    assert_int_equal(run(&scale, &rule, 0, 4), MPT_SCALE_GREW); /* growth forgives */
    assert_true(scale.scale == 32768);
    assert_int_equal(run(&scale, &rule, 1, 2), MPT_SCALE_KEPT);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
    assert_true(scale.scale == 16384);
}

static void an_overflow_under_hysteresis_still_restarts_the_count_to_growth(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.hysteresis = 2;
    mpt_loss_scale_init(&scale, &rule);
    run(&scale, &rule, 0, 3);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_KEPT);
    assert_int_equal(run(&scale, &rule, 0, 3), MPT_SCALE_KEPT);
    assert_true(scale.scale == 65536);
    assert_int_equal(run(&scale, &rule, 0, 1), MPT_SCALE_GREW);
}

static void max_skips_at_the_floor_is_stuck(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.init = 1;
    rule.max_skips = 3;
    mpt_loss_scale_init(&scale, &rule);
    assert_int_equal(run(&scale, &rule, 1, 2), MPT_SCALE_KEPT);
    assert_int_equal(run(&scale, &rule, 0, 1), MPT_SCALE_KEPT); /* not in a row any more */
    assert_int_equal(run(&scale, &rule, 1, 2), MPT_SCALE_KEPT);
    assert_int_equal(scale.consecutive_skips, 2);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_STUCK);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_STUCK);
    assert_true(scale.scale == 1);
}

static void above_the_floor_no_number_of_skips_is_stuck(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.max_skips = 2;
    mpt_loss_scale_init(&scale, &rule);
    for (int i = 0; i < 16; i++) /* 65536 down to 1 */
        assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
    assert_true(scale.scale == 1);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_STUCK);
}

/* Hysteresis holds the scale up there: it can still fall, so the run is not stuck. */
static void skips_that_hysteresis_forgives_are_not_stuck(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.hysteresis = 10;
    rule.max_skips = 3;
    mpt_loss_scale_init(&scale, &rule);
    for (int i = 0; i < 9; i++)
        assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_KEPT);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_SHRANK);
}

static void a_fixed_scale_keeps_and_only_counts_skips(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t scale;
    rule.dynamic = 0;
    rule.init = 1024;
    rule.max_skips = 4;
    mpt_loss_scale_init(&scale, &rule);
    assert_int_equal(run(&scale, &rule, 0, 100), MPT_SCALE_KEPT);
    assert_int_equal(run(&scale, &rule, 1, 3), MPT_SCALE_KEPT);
    assert_int_equal(run(&scale, &rule, 0, 1), MPT_SCALE_KEPT);
    assert_int_equal(scale.consecutive_skips, 0);
    assert_int_equal(run(&scale, &rule, 1, 3), MPT_SCALE_KEPT);
    assert_int_equal(run(&scale, &rule, 1, 1), MPT_SCALE_STUCK);
    assert_true(scale.scale == 1024);
}

/* Saved and put back in the middle of an interval, the state goes on as if nothing had happened. */
static void a_copy_of_the_state_continues_it(void **state)
{
    (void)state;
    mpt_loss_scale_rule_t rule = torch_rule();
    mpt_loss_scale_t whole, copy;
    rule.hysteresis = 2;
    mpt_loss_scale_init(&whole, &rule);
    for (int i = 0; i < 17; i++)
        mpt_loss_scale_update(&whole, &rule, trace[i].overflow);
    copy = whole;
    for (int i = 17; i < 40; i++) {
        assert_int_equal(mpt_loss_scale_update(&whole, &rule, trace[i].overflow),
                         mpt_loss_scale_update(&copy, &rule, trace[i].overflow));
        assert_memory_equal(&whole, &copy, sizeof whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forty_transitions_follow_gradscaler),
        cmocka_unit_test(the_default_interval_is_two_thousand_clean_steps_in_a_row),
        cmocka_unit_test(an_interval_of_one_grows_every_clean_step),
        cmocka_unit_test(the_scale_never_leaves_floor_and_ceiling),
        cmocka_unit_test(with_hysteresis_the_third_overflow_since_growth_halves),
        cmocka_unit_test(an_overflow_under_hysteresis_still_restarts_the_count_to_growth),
        cmocka_unit_test(max_skips_at_the_floor_is_stuck),
        cmocka_unit_test(above_the_floor_no_number_of_skips_is_stuck),
        cmocka_unit_test(skips_that_hysteresis_forgives_are_not_stuck),
        cmocka_unit_test(a_fixed_scale_keeps_and_only_counts_skips),
        cmocka_unit_test(a_copy_of_the_state_continues_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
