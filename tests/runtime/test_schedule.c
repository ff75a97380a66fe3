#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "schedule.h"

static mpt_config_t config_of(mpt_schedule_kind_t kind, int64_t steps, int64_t warmup)
{
    mpt_config_t config;
    mpt_config_defaults(&config);
    config.train.schedule = kind;
    config.train.steps = steps;
    config.train.warmup = warmup;
    config.train.lr = 1.0;
    config.train.min_lr = 0.25;
    return config;
}

static void assert_lr(const mpt_config_t *config, int64_t t, double expected)
{
    double lr = mpt_schedule_lr(config, t);
    if (!(fabs(lr - expected) <= 1e-15))
        fail_msg("step %lld: %.17g, not %.17g", (long long)t, lr, expected);
}

static void warm_up_rises_in_equal_steps_to_the_full_rate(void **state)
{
    (void)state;
    static const mpt_schedule_kind_t kinds[] = {MPT_SCHEDULE_COSINE, MPT_SCHEDULE_LINEAR,
                                                MPT_SCHEDULE_CONSTANT, MPT_SCHEDULE_WSD};
    for (int k = 0; k < 4; k++) {
        mpt_config_t config = config_of(kinds[k], 100, 8);
        for (int64_t t = 1; t <= 8; t++)
            assert_lr(&config, t, (double)t / 8);
    }
}

static void without_warm_up_the_first_step_decays_already_a_little(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_SCHEDULE_LINEAR, 100, 0);
    assert_lr(&config, 1, 1 - 0.75 / 100);
    config.train.schedule = MPT_SCHEDULE_CONSTANT;
    assert_lr(&config, 1, 1);
}

static void constant_stays(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_SCHEDULE_CONSTANT, 50, 10);
    for (int64_t t = 10; t <= 50; t++)
        assert_lr(&config, t, 1);
}

static void linear_falls_in_equal_steps_to_the_least_rate_at_the_last_step(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_SCHEDULE_LINEAR, 50, 10);
    for (int64_t t = 10; t <= 50; t++)
        assert_lr(&config, t, 1 - 0.75 * (double)(t - 10) / 40);
    assert_lr(&config, 50, 0.25);
}

static void cosine_passes_through_its_quarters(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_SCHEDULE_COSINE, 50, 10);
    assert_lr(&config, 10, 1);
    assert_lr(&config, 20, 0.25 + 0.75 * (0.5 + 0.25 * sqrt(2)));
    assert_lr(&config, 30, 0.625);
    assert_lr(&config, 40, 0.25 + 0.75 * (0.5 - 0.25 * sqrt(2)));
    assert_lr(&config, 50, 0.25);
}

static void wsd_is_stable_until_the_last_fifth(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_SCHEDULE_WSD, 100, 10);
    for (int64_t t = 10; t <= 80; t++)
        assert_lr(&config, t, 1);
    for (int64_t t = 80; t <= 100; t++)
        assert_lr(&config, t, 1 - 0.75 * (double)(t - 80) / 20);
    assert_lr(&config, 100, 0.25);
}

static void wsd_decays_from_the_end_of_a_long_warm_up(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_SCHEDULE_WSD, 100, 90);
    assert_lr(&config, 89, 89.0 / 90);
    assert_lr(&config, 90, 1);
    assert_lr(&config, 95, 0.625);
    assert_lr(&config, 100, 0.25);
}

static void a_run_that_is_all_warm_up_ends_at_the_full_rate(void **state)
{
    (void)state;
    static const mpt_schedule_kind_t kinds[] = {MPT_SCHEDULE_COSINE, MPT_SCHEDULE_LINEAR,
                                                MPT_SCHEDULE_WSD};
    for (int k = 0; k < 3;
         k++) { /* there is no room between warm-up and the end: the peak is kept */
        mpt_config_t config = config_of(kinds[k], 20, 20);
        assert_lr(&config, 19, 19.0 / 20);
        assert_lr(&config, 20, 1);
    }
}

static void rates_stay_between_the_bounds_and_only_fall_after_warm_up(void **state)
{
    (void)state;
    static const mpt_schedule_kind_t kinds[] = {MPT_SCHEDULE_COSINE, MPT_SCHEDULE_LINEAR,
                                                MPT_SCHEDULE_CONSTANT, MPT_SCHEDULE_WSD};
    for (int k = 0; k < 4; k++)
        for (int64_t steps = 1; steps <= 60; steps++)
            for (int64_t warmup = 0; warmup <= steps; warmup += 7) {
                mpt_config_t config = config_of(kinds[k], steps, warmup);
                double before = INFINITY;
                for (int64_t t = warmup > 0 ? warmup : 1; t <= steps; t++) {
                    double lr = mpt_schedule_lr(&config, t);
                    assert_true(lr <= before && lr >= 0.25 && lr <= 1);
                    before = lr;
                }
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_in_equal_steps_to_the_full_rate),
        cmocka_unit_test(without_warm_up_the_first_step_decays_already_a_little),
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(linear_falls_in_equal_steps_to_the_least_rate_at_the_last_step),
        cmocka_unit_test(cosine_passes_through_its_quarters),
        cmocka_unit_test(wsd_is_stable_until_the_last_fifth),
        cmocka_unit_test(wsd_decays_from_the_end_of_a_long_warm_up),
        cmocka_unit_test(a_run_that_is_all_warm_up_ends_at_the_full_rate),
        cmocka_unit_test(rates_stay_between_the_bounds_and_only_fall_after_warm_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
