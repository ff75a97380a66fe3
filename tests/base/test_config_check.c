#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "config_capture.h"

static void missing_training_data_is_an_error(void **state)
{
    (void)state;
    expect_error("", "model.cfg: data.train is missing; name a token file to train on, as in "
                     "data { train = \"tokens.bin\" }");
    expect_error("data { val = x }",
                 "model.cfg: data.train is missing; name a token file to train on, as in "
                 "data { train = \"tokens.bin\" }");
}

static void features_that_are_not_built_say_so(void **state)
{
    static const char *const cases[][2] = {
        {"precision.compute=fp8",
         "--set: precision.compute = fp8: not built yet; use fp32, tf32, bf16 or fp16"},
        {"precision.accumulate=bf16",
         "--set: precision.accumulate = bf16: not built yet; use fp32"},
        {"comm.heartbeat_s=2", "--set: comm.heartbeat_s = 2: not built yet; use 1"},
        {"device=cuda", "--set: device = cuda: no CUDA backend in this build; use auto or cpu"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_set_error(cases[i][0], cases[i][1]);
    expect_error("data { train = x }\n\nprecision { accumulate = fp16 }",
                 "model.cfg:3: precision.accumulate = fp16: not built yet; use fp32");
}

static void keys_that_need_another_one_say_which(void **state)
{
    const char *const three[] = {"parallel.shard=hsdp", "parallel.shard_ranks=3"};
    const char *const micro[] = {"train.reproducible=world", "parallel.reduce_every=micro"};
    const char *const many[] = {"train.reproducible=world", "train.lanes=32"};
    const char *const wide[] = {"train.reproducible=world", "train.micro_batch=16"};
    (void)state;
    expect_set_error("parallel.shard_ranks=2",
                     "--set: parallel.shard_ranks = 2: has no effect without parallel.shard = hsdp; "
                     "set both or neither");
    expect_set_error("parallel.shard=hsdp",
                     "--set: parallel.shard = hsdp: needs parallel.shard_ranks; set it to a power of two "
                     "that divides the ranks, as the ranks of one host");
    expect_line("data { train = x }", three, 2,
                "--set: parallel.shard_ranks = 3: is no power of two; use one that divides the ranks");
    expect_error("data { train = x }\ntrain { steps = 200\n lanes = 4 }",
                 "model.cfg:3: train.lanes = 4: has no effect without train.reproducible = world; "
                 "set both or neither");
    expect_line("data { train = x }", many, 2,
                "--set: train.lanes = 32: times train.micro_batch does not divide train.global_batch = 64; "
                "make that a multiple of 128, or lanes smaller");
    expect_line("data { train = x }\ntrain { global_batch = 96 micro_batch = 4 }", wide, 2,
                "model.cfg:2: train.lanes = 8: times train.micro_batch does not divide train.global_batch = 96; "
                "make that a multiple of 128, or lanes smaller");
    expect_line("data { train = x }", micro, 2,
                "--set: parallel.reduce_every = micro: does not go with train.reproducible = world; use step");
}

static void masters_and_rounding_must_go_together(void **state)
{
    const char *const wide[] = {"precision.compute=fp32", "precision.rounding=stochastic"};
    const char *const average[] = {"precision.compute=fp32", "precision.master=none", "train.ema=0.9",
                                   "precision.reduce=bf16"};
    (void)state;
    expect_set_error("precision.master=none",
                     "--set: precision.master = none: would lose small updates beside precision.rounding = "
                     "nearest; set rounding = stochastic, or master = fp32");
    expect_line("data { train = x }", wide, 2,
                "--set: precision.rounding = stochastic: has nothing to round beside precision.compute = fp32; "
                "use nearest");
    expect_line("data { train = x }", average, 4,
                "--set: precision.master = none: beside fp32 compute and train.ema needs fp32 gradients, not "
                "precision.reduce = bf16; set reduce = fp32, or master = fp32");
    mpt_config_t config = parse_good("data { train = x } precision { compute = fp32 master = none } train { ema = 0.9 }");
    assert_int_equal(config.precision.master_fp32, 0);
    assert_int_equal(config.precision.reduce, MPT_F32);
    parse_good("data { train = x } precision { compute = fp32 master = none reduce = bf16 } train { ema = 0 }");
    parse_good("data { train = x } precision { compute = fp32 master = none reduce = bf16 }\n"
               "train { ema = 0.9 reproducible = world }"); /* which makes it FP32 */
    config = parse_good("data { train = x } precision { compute = fp16 master = none rounding = stochastic }");
    assert_int_equal(config.precision.master_fp32, 0);
    assert_int_equal(config.precision.rounding, MPT_ROUNDING_STOCHASTIC);
}

/* As a person would who copies a whole page of defaults: none of them asks for what is not there. */
static void a_default_that_is_written_out_is_never_an_error(void **state)
{
    (void)state;
    mpt_config_t plain = parse_good("data { train = x }");
    mpt_config_t config = parse_good("data { train = x } train { lanes = 8 reproducible = run check_every = 0 }\n"
                                     "parallel { shard = zero2 shard_ranks = 0 reduce_every = step }\n"
                                     "precision { master = fp32 rounding = nearest }");
    assert_memory_equal(&config, &plain, sizeof config);
}

static void every_shard_mode_parses(void **state)
{
    static const char *const words[] = {"ddp", "zero1", "zero2", "zero3"};
    char text[80];
    (void)state;
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof text, "data { train = x } parallel { shard = %s }", words[i]);
        assert_int_equal(parse_good(text).parallel.shard, MPT_SHARD_DDP + i);
    }
    mpt_config_t config = parse_good("data { train = x } parallel { shard = hsdp shard_ranks = 4 reduce_every = micro }");
    assert_int_equal(config.parallel.shard, MPT_SHARD_HSDP);
    assert_int_equal(config.parallel.shard_ranks, 4);
    assert_int_equal(config.parallel.reduce_every, MPT_REDUCE_EVERY_MICRO);
    assert_int_equal(parse_good("data { train = x } parallel { shard = hsdp shard_ranks = 1 }").parallel.shard_ranks, 1);
}

static void world_reduces_in_fp32_whatever_was_asked(void **state)
{
    (void)state;
    mpt_config_t config = parse_good("data { train = x } train { reproducible = world lanes = 4 }\n"
                                     "precision { compute = bf16 reduce = fp16 }");
    assert_int_equal(config.train.lanes, 4);
    assert_int_equal(config.precision.reduce, MPT_F32);
    assert_int_equal(config.precision.compute, MPT_BF16);
    assert_int_equal(config.precision.dynamic_scale, 0); /* nothing is FP16 any more */
    config = parse_good("data { train = x } train { reproducible = world } precision { compute = fp16 }");
    assert_int_equal(config.precision.reduce, MPT_F32);
    assert_int_equal(config.precision.dynamic_scale, 1);
}

static void values_that_exclude_each_other_name_both_keys(void **state)
{
    (void)state;
    expect_error("data { train = x }\nmodel { heads = 5 }",
                 "model.cfg:2: model.heads = 5: does not divide model.dim = 768; "
                 "make dim a multiple of heads");
    expect_error("data { train = x }\nmodel { dim = 100 }",
                 "model.cfg:2: model.heads = 12: does not divide model.dim = 100; "
                 "make dim a multiple of heads");
    expect_error("data { train = x sequence = 2000 }",
                 "model.cfg:1: data.sequence = 2000: is more than model.context = 1024; "
                 "lower it, or use 0 for the whole context");
    expect_set_error(
        "train.micro_batch=5",
        "--set: train.global_batch = 64: is no multiple of train.micro_batch = 5; make it one");
    expect_set_error("train.steps=50",
                     "--set: train.warmup = 100: is more than train.steps = 50; lower it");
    expect_set_error("train.min_lr=1",
                     "--set: train.min_lr = 1: is above train.lr = 6e-4; lower it");
    expect_set_error(
        "precision.min_scale=131072",
        "--set: precision.init_scale = 65536: is below precision.min_scale = 131072; raise it");
    expect_set_error("precision.init_scale=33554432",
                     "--set: precision.init_scale = 33554432: is above precision.max_scale = "
                     "16777216; lower it");
    expect_set_error(
        "precision.max_scale=0.5",
        "--set: precision.min_scale = 1: is above precision.max_scale = 0.5; lower it");
}

static void sizes_whose_products_would_overflow_are_refused(void **state)
{
    const char *const huge[] = {"train.steps=1099511627776", "train.global_batch=1048576"};
    const char *const wide[] = {"train.micro_batch=1048576", "train.global_batch=1048576",
                                "model.dim=262144", "model.heads=1"};
    (void)state;
    expect_line("data { train = x }", huge, 2,
                "--set: train.steps = 1099511627776: makes more than 2^62 tokens with "
                "train.global_batch = 1048576; lower one of them");
    expect_line("data { train = x }", wide, 4,
                "--set: train.micro_batch = 1048576: makes more than 2^50 activations with "
                "model.dim = 262144; lower one of them");
}

static void loss_scale_resolves_from_the_types(void **state)
{
    (void)state;
    mpt_config_t config = parse_good("data { train = x } precision { compute = fp16 }");
    assert_int_equal(config.precision.dynamic_scale, 1);
    assert_int_equal(config.precision.reduce, MPT_F16);
    assert_true(config.precision.fixed_scale == 1);
    config = parse_good("data { train = x } precision { compute = fp32 reduce = fp16 }");
    assert_int_equal(config.precision.dynamic_scale, 1);
    config = parse_good("data { train = x } precision { compute = fp16 reduce = fp32 }");
    assert_int_equal(config.precision.dynamic_scale, 1);
    assert_int_equal(config.precision.reduce, MPT_F32);
    config = parse_good("data { train = x } precision { compute = fp32 }");
    assert_int_equal(config.precision.dynamic_scale, 0);
    assert_int_equal(config.precision.reduce, MPT_F32);
    config = parse_good("data { train = x } precision { compute = fp16 loss_scale = 4096 }");
    assert_int_equal(config.precision.dynamic_scale, 0);
    assert_true(config.precision.fixed_scale == 4096);
    config = parse_good("data { train = x } precision { loss_scale = dynamic }");
    assert_int_equal(config.precision.dynamic_scale, 1);
}

static void ranks_must_divide_the_batch(void **state)
{
    capture_t capture = {0};
    mpt_log_t log = {.level = MPT_LOG_DEBUG, .rank = -1, .sink = keep_line, .ctx = &capture};
    mpt_config_t config;
    (void)state;
    mpt_config_defaults(&config);
    assert_int_equal(mpt_config_check_ranks(&config, 1, &log), MPT_OK);
    assert_int_equal(mpt_config_check_ranks(&config, 16, &log), MPT_OK);
    assert_int_equal(capture.lines, 0);
    assert_int_equal(mpt_config_check_ranks(&config, 3, &log), MPT_ERR_CONFIG);
    assert_string_equal(capture.last,
                        "train.global_batch = 64: is no multiple of train.micro_batch = 4 times 3 "
                        "ranks; use a multiple of 12, as 60 or 72");
    assert_int_equal(mpt_config_check_ranks(&config, 32, &log), MPT_ERR_CONFIG);
    assert_string_equal(capture.last,
                        "train.global_batch = 64: is no multiple of train.micro_batch = 4 times 32 "
                        "ranks; use a multiple of 128, as 128");
}

/* @return the line that `ranks` ranks are refused with; "" where they are not. */
static const char *refusal_of(const mpt_config_t *config, int ranks, capture_t *capture)
{
    memset(capture, 0, sizeof *capture);
    mpt_log_t log = {.level = MPT_LOG_DEBUG, .rank = -1, .sink = keep_line, .ctx = capture};
    mpt_status_t status = mpt_config_check_ranks(config, ranks, &log);
    assert_int_equal(status, capture->lines > 0 ? MPT_ERR_CONFIG : MPT_OK);
    assert_true(capture->lines <= 1);
    return capture->last;
}

static void shard_ranks_must_divide_the_ranks(void **state)
{
    capture_t capture;
    (void)state;
    mpt_config_t config = parse_good("data { train = x } parallel { shard = hsdp shard_ranks = 4 }\n"
                                     "train { global_batch = 48 }");
    assert_string_equal(refusal_of(&config, 4, &capture), "");
    assert_string_equal(refusal_of(&config, 12, &capture), "");
    assert_string_equal(refusal_of(&config, 6, &capture),
                        "parallel.shard_ranks = 4: does not divide the 6 ranks; use a power of two that does");
    assert_string_equal(refusal_of(&config, 2, &capture),
                        "parallel.shard_ranks = 4: does not divide the 2 ranks; use a power of two that does");
    config.parallel.shard = MPT_SHARD_ZERO3; /* shards over all ranks, however many */
    assert_string_equal(refusal_of(&config, 6, &capture), "");
}

static void world_serves_powers_of_two_up_to_its_lanes(void **state)
{
    capture_t capture;
    (void)state;
    mpt_config_t config = parse_good("data { train = x } train { reproducible = world global_batch = 96 lanes = 8 }");
    for (int ranks = 1; ranks <= 8; ranks *= 2)
        assert_string_equal(refusal_of(&config, ranks, &capture), "");
    assert_string_equal(refusal_of(&config, 3, &capture),
                        "train.reproducible = world: does not serve 3 ranks; use a power of two of ranks, "
                        "at most train.lanes = 8");
    assert_string_equal(refusal_of(&config, 16, &capture),
                        "train.reproducible = world: does not serve 16 ranks; use a power of two of ranks, "
                        "at most train.lanes = 8");
    config.train.reproducible = MPT_REPRODUCIBLE_RUN;
    assert_string_equal(refusal_of(&config, 3, &capture), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_training_data_is_an_error),
        cmocka_unit_test(features_that_are_not_built_say_so),
        cmocka_unit_test(keys_that_need_another_one_say_which),
        cmocka_unit_test(masters_and_rounding_must_go_together),
        cmocka_unit_test(a_default_that_is_written_out_is_never_an_error),
        cmocka_unit_test(every_shard_mode_parses),
        cmocka_unit_test(world_reduces_in_fp32_whatever_was_asked),
        cmocka_unit_test(values_that_exclude_each_other_name_both_keys),
        cmocka_unit_test(sizes_whose_products_would_overflow_are_refused),
        cmocka_unit_test(loss_scale_resolves_from_the_types),
        cmocka_unit_test(ranks_must_divide_the_batch),
        cmocka_unit_test(shard_ranks_must_divide_the_ranks),
        cmocka_unit_test(world_serves_powers_of_two_up_to_its_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
