#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_capture.h"

static void defaults_are_the_documented_ones(void **state)
{
    (void)state;
    mpt_config_t config = parse_good("data { train = t.bin }"), defaults;
    mpt_config_defaults(&defaults);
    assert_string_equal(config.data.train, "t.bin");
    assert_string_equal(defaults.data.train, "");
    memset(config.data.train, 0, sizeof config.data.train);
    assert_memory_equal(&config, &defaults, sizeof config);
    assert_int_equal(config.model.layers, 12);
    assert_int_equal(config.data.sequence, 1024);
    assert_int_equal(config.train.seed, 1234);
    assert_true(config.train.lr == 6e-4 && config.train.beta2 == 0.95 && config.train.eps == 1e-8);
    assert_int_equal(config.precision.compute, MPT_BF16);
    assert_int_equal(config.precision.reduce, MPT_BF16);
    assert_int_equal(config.precision.dynamic_scale, 0);
    assert_true(config.precision.fixed_scale == 1 && config.precision.max_scale == 16777216);
    assert_int_equal(config.precision.master_fp32, 1);
    assert_int_equal(config.parallel.shard, MPT_SHARD_ZERO2);
    assert_int_equal(config.train.lanes, 8);
    assert_int_equal(config.checkpoint.async, 1);
    assert_string_equal(config.log.dir, "run");
}

static void sections_and_values_reach_their_fields(void **state)
{
    (void)state;
    mpt_config_t config =
        parse_good("device = cpu threads = 3\r\n"
                   "model { heads = 3 dim = 9 context = 32 }# end\n"
                   "data { train = \"kjv \\\"train\\\\.bin\"  val = 'a\\'${b} #c'\n"
                   "  order = sequential # shuffled\n"
                   "  sequence = 16 }\n"
                   "train { seed = 18446744073709551615 lr = 1 clip = 1e+2\n"
                   "schedule = \"wsd\" }\n"
                   "precision\n"
                   "{ # a comment where libConfuse takes none\n"
                   "  compute = # and here\n"
                   "  fp16 min_scale=2}\n"
                   "checkpoint{dir=data/*.d async=false}");
    assert_int_equal(config.device, MPT_DEVICE_CPU);
    assert_int_equal(config.threads, 3);
    assert_int_equal(config.data.sequence, 16);
    assert_int_equal(config.data.order, MPT_ORDER_SEQUENTIAL);
    assert_string_equal(config.data.train, "kjv \"train\\.bin");
    assert_string_equal(config.data.val, "a'${b} #c");
    assert_true(config.train.seed == UINT64_MAX);
    assert_true(config.train.lr == 1 && config.train.clip == 100);
    assert_int_equal(config.train.schedule, MPT_SCHEDULE_WSD);
    assert_int_equal(config.precision.compute, MPT_F16);
    assert_true(config.precision.min_scale == 2);
    assert_string_equal(config.checkpoint.dir, "data/*.d");
    assert_int_equal(config.checkpoint.async, 0);
}

static void unknown_keys_name_the_nearest_known_one(void **state)
{
    (void)state;
    expect_error("# first\n\ndata { train = x }\n\ntrain {\n  steps = 3\n  lrr = 1 }",
                 "model.cfg:7: unknown key 'train.lrr'; did you mean 'train.lr'?");
    expect_error("trian { }", "model.cfg:1: unknown key 'trian'; did you mean 'train'?");
    expect_error("data { train = x }\nlr = 1",
                 "model.cfg:2: unknown key 'lr'; did you mean 'train.lr'?");
    expect_error("model { compute = fp32 }",
                 "model.cfg:1: unknown key 'model.compute'; did you mean 'precision.compute'?");
    expect_error("devcie = cpu", "model.cfg:1: unknown key 'devcie'; did you mean 'device'?");
    expect_error("train { betas { } }",
                 "model.cfg:1: unknown key 'train.betas'; did you mean 'train.beta1'?");
    expect_error("train { LR = 1 }",
                 "model.cfg:1: unknown key 'train.LR'; did you mean 'train.lr'?");
    expect_set_error("train.stesp=4",
                     "--set: unknown key 'train.stesp'; did you mean 'train.steps'?");
    expect_set_error("lr=4", "--set: unknown key 'lr'; did you mean 'train.lr'?");
    expect_set_error("train=4", "--set: 'train' is a section; write a key of it, as train.steps=VALUE");
}

static void wrong_values_say_what_would_be_right(void **state)
{
    (void)state;
    expect_error("\ntrain { steps = 6e-4 }",
                 "model.cfg:2: train.steps = 6e-4: must be a whole number from 1 to 2^40");
    expect_error(
        "train { steps = 99999999999999999999 }",
        "model.cfg:1: train.steps = 99999999999999999999: must be a whole number from 1 to 2^40");
    expect_error("train { lr = nan }",
                 "model.cfg:1: train.lr = nan: must be a number from 0 to 1000");
    expect_error("train { lr = 1e999 }",
                 "model.cfg:1: train.lr = 1e999: must be a number from 0 to 1000");
    expect_error("train { beta1 = 1 }",
                 "model.cfg:1: train.beta1 = 1: must be a number from 0 to below 1");
    expect_error("train { seed = -1 }",
                 "model.cfg:1: train.seed = -1: must be a whole number from 0 to 2^64 - 1");
    expect_error("train { seed = 18446744073709551616 }",
                 "model.cfg:1: train.seed = 18446744073709551616: must be a whole number from 0 to "
                 "2^64 - 1");
    expect_error("data { order = random }",
                 "model.cfg:1: data.order = random: must be shuffled or sequential");
    expect_error("checkpoint { async = yes }",
                 "model.cfg:1: checkpoint.async = yes: must be true or false");
    expect_error(
        "precision { growth = 3 }",
        "model.cfg:1: precision.growth = 3: must be a power of two above 1 and at most 65536");
    expect_error("precision { backoff = 1 }",
                 "model.cfg:1: precision.backoff = 1: must be a power of two above 0 and below 1");
    expect_error(
        "precision { loss_scale = 1000 }",
        "model.cfg:1: precision.loss_scale = 1000: must be auto, dynamic or a power of two from "
        "2^-24 to 2^64");
    expect_error(
        "model { vocab = 4294967296 }",
        "model.cfg:1: model.vocab = 4294967296: must be a whole number from 1 to 4294967295");
    expect_error("data { train = \"\" }",
                 "model.cfg:1: data.train = \"\": must be non-empty text of at most 1023 bytes");
    expect_set_error("train.lr=abc", "--set: train.lr = abc: must be a number from 0 to 1000");
    expect_set_error("train.steps=",
                     "--set: train.steps = \"\": must be a whole number from 1 to 2^40");
    expect_set_error("train.steps", "--set train.steps: no value; write section.key=value");
}

static void repeated_keys_and_sections_are_errors(void **state)
{
    (void)state;
    expect_error("train { lr = 1\nsteps = 4\nlr = 1 }",
                 "model.cfg:3: train.lr is set twice, first in line 1; keep one");
    expect_error("device = cpu\ndevice = cpu",
                 "model.cfg:2: device is set twice, first in line 1; keep one");
    expect_error("train { lr = 1 }\n\ntrain { steps = 4 }",
                 "model.cfg:3: section 'train' comes twice, first in line 1; join them");
    expect_error("log { }\nlog { }",
                 "model.cfg:2: section 'log' comes twice, first in line 1; join them");
}

static void what_is_not_closed_is_an_error(void **state)
{
    (void)state;
    expect_error("data { train = x }\ntrain { lr = 1\n\n",
                 "model.cfg:2: section 'train' is not closed; end it with '}'");
    expect_error("data { train = \"x\n }", "model.cfg:1: data.train: the text is not closed with a "
                                           "quote in its line; write train = value");
    expect_error("data { train = 'x", "model.cfg:1: data.train: the text is not closed with a "
                                      "quote in its line; write train = value");
    expect_error("data { train = x } }", "model.cfg:1: unexpected closing brace");
    expect_error("data { train = x", "model.cfg:1: section 'data' is not closed; end it with '}'");
    expect_error("data {\n train =\n\n}", "model.cfg:2: data.train: no value; write train = value");
    expect_error("device =", "model.cfg:1: device: no value; write device = value");
    expect_error("train { lr 5 }", "model.cfg:1: train: missing equal sign after option 'lr'");
    expect_error("train { lr = 5 = 6 }", "model.cfg:1: train: unexpected token '='");
    expect_error("train = 5", "model.cfg:1: missing opening brace for section 'train'");
    expect_error("train", "model.cfg:1: premature end of file");
    expect_error("{ lr = 5 }", "model.cfg:1: unexpected token '{'");
}

static void variables_are_refused(void **state)
{
    (void)state;
    setenv("MPT_TEST_LEAK", "7", 1);
    expect_error(
        "data { train = \"${MPT_TEST_LEAK}/x\" }",
        "model.cfg:1: data.train: variables (${...}) are not replaced; write train = value");
    expect_error("data { train = ${MPT_TEST_LEAK} }",
                 "model.cfg:1: variables (${...}) are not replaced; write the value itself");
    unsetenv("MPT_TEST_LEAK");
}

static void functions_lists_and_appending_are_refused(void **state)
{
    (void)state;
    expect_error("include(\"other.cfg\")",
                 "model.cfg:1: unexpected '(' after 'include'; pairs key = value need "
                 "only blanks between them, a text that holds it needs quotes");
    expect_error("data { train += x }",
                 "model.cfg:1: data.train: '+=' does not append here; write train = value");
    expect_error("data { train+=x }",
                 "model.cfg:1: data.train: '+=' does not append here; write train = value");
    expect_error(
        "data { train = {x, y} }",
        "model.cfg:1: data.train: a list where one value is expected; write train = value");
    expect_error("train { lr = 1, steps = 4 }",
                 "model.cfg:1: unexpected ',' after 'lr'; pairs key = value need "
                 "only blanks between them, a text that holds it needs quotes");
    expect_error("train|lr = 4", "model.cfg:1: unknown key 'train|lr'; did you mean 'train.lr'?");
    expect_error("'device' = cpu",
                 "model.cfg:1: a quoted text where a key is expected; only values take quotes");
    expect_error("__unknown = 4",
                 "model.cfg:1: unknown key '__unknown'; did you mean 'checkpoint'?");
}

static void other_comments_and_escapes_are_refused(void **state)
{
    (void)state;
    expect_error("// remark",
                 "model.cfg:1: '//' starts no comment here; use '#', or quotes for a path");
    expect_error("\n/* remark */",
                 "model.cfg:2: '/*' starts no comment here; use '#', or quotes for a path");
    expect_error("data { train = x#y }",
                 "model.cfg:1: 'x#': put a blank before a comment, or quotes round a text");
    expect_error("data { train = \"a\\x41\" }",
                 "model.cfg:1: data.train: a backslash must be doubled, or stand before a quote; "
                 "write train = value");
    expect_error("data { train = \"a\\", "model.cfg:1: data.train: a backslash must be doubled, or "
                                         "stand before a quote; write train = value");
    expect_error("data { train = \"a\tb\" }",
                 "model.cfg:1: data.train = a\tb: must be non-empty text of at most 1023 bytes");
    expect_error("data { train = a\001b }", "model.cfg:1: control character 0x01");
    /* libConfuse reads octal and hexadecimal whole numbers. */
    expect_error("train { steps = 0x10 }",
                 "model.cfg:1: train.steps = 0x10: must be a whole number from 1 to 2^40");
    assert_int_equal(parse_good("data { train = x } train { steps = 0100 }").train.steps, 100);
}

static void overrides_change_one_key_and_the_last_holds(void **state)
{
    const char *const overrides[] = {"train.lr=1e-3",  " train.steps = 300 ", "train.lr=2e-3",
                                     "data.val=a=b c", "device=cpu",          "parallel.shard=zero2"};
    capture_t capture;
    mpt_config_t config, plain;
    const char *text = "data { train = x val = y } train { lr = 1 } parallel { shard = zero3 }";
    (void)state;
    assert_int_equal(parse_with(text, overrides, 6, &capture, &config), MPT_OK);
    assert_true(config.train.lr == 2e-3);
    assert_int_equal(config.train.steps, 300);
    assert_string_equal(config.data.val, "a=b c");
    plain =
        parse_good("data { train = x val = 'a=b c' } train { lr = 2e-3 steps = 300 } device = cpu");
    assert_memory_equal(&config, &plain, sizeof config);
}

/* Cut and damaged texts: any outcome but a crash, a silent failure or several lines. */
static void damaged_texts_are_refused_with_one_line(void **state)
{
    static const char whole[] =
        "device = cpu\ndata { train = \"x y\" val = 'z' } # end\n"
        "train { lr = 1e-3 steps = 200\n schedule = wsd }\nlog { every = 2 }";
    static const char marks[] = "{}=\"'#\\\n +$(),/*|;\001\xff";
    char text[sizeof whole];
    capture_t capture;
    mpt_config_t config;
    (void)state;
    for (size_t i = 0; i < sizeof whole - 1; i++) {
        for (size_t j = 0; j < sizeof marks; j++) {
            memcpy(text, whole, sizeof whole);
            text[i] = marks[j]; /* the last is the NUL, which cuts */
            mpt_status_t status = parse_with(text, NULL, 0, &capture, &config);
            assert_int_equal(capture.lines, status != MPT_OK);
        }
    }
}

static void random_texts_are_refused_with_one_line(void **state)
{
    static const char *const pieces[] = {
        "train", "data", "lr",      "steps", "device",  "=",  "{",  "}",        "\"", "'",
        "#",     "\n",   " ",       "+=",    "${HOME}", "(",  ")",  ",",        "1",  "x",
        "\\",    "|",    "include", "cpu",   "/*",      "//", "\t", "__unknown"};
    uint32_t random = 12345;
    capture_t capture;
    mpt_config_t config;
    (void)state;
    for (int i = 0; i < 20000; i++) {
        char text[512] = "";
        int length = (int)(random >> 28) + 1;
        for (int j = 0; j < length; j++) {
            random = random * 1664525u + 1013904223u;
            strcat(text, pieces[(random >> 8) % (sizeof pieces / sizeof *pieces)]);
            strcat(text, random >> 30 ? " " : "");
        }
        random = random * 1664525u + 1013904223u;
        mpt_status_t status = parse_with(text, NULL, 0, &capture, &config);
        assert_int_equal(capture.lines, status != MPT_OK);
    }
}

static void *parse_often(void *arg)
{
    int *failures = arg;
    for (int i = 0; i < 200; i++) {
        capture_t capture;
        mpt_config_t config;
        *failures += parse_with("data { train = x } train { lr = 0.5 }", NULL, 0, &capture,
                                &config) != MPT_OK;
        *failures += parse_with("data { train = x } train { lrr = 0.5 }", NULL, 0, &capture,
                                &config) == MPT_OK;
        *failures += config.train.lr != 0.5 || !strstr(capture.last, "'train.lr'");
    }
    return NULL;
}

static void threads_may_parse_at_once(void **state)
{
    pthread_t threads[4];
    int failures[4] = {0};
    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, parse_often, &failures[i]), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(failures[i], 0);
}

static void locale_of_the_thread_survives(void **state)
{
    (void)state;
    locale_t mine = newlocale(LC_ALL_MASK, "C.UTF-8", (locale_t)0);
    if (!mine)
        skip();
    locale_t before = uselocale(mine);
    parse_good("data { train = x } train { lr = 0.5 }");
    assert_true(uselocale(before) == mine);
    freelocale(mine);
}

static void environment_is_read_and_cut(void **state)
{
    mpt_environment_t environment;
    char huge[300];
    (void)state;
    memset(huge, 'y', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    setenv("MPT_ISA", "avx2", 1);
    setenv("MPT_INJECT", huge, 1);
    setenv("MPT_MEMORY", "64G", 1);
    unsetenv("MPT_COMM");
    mpt_environment_read(&environment);
    assert_string_equal(environment.isa_cap, "avx2");
    assert_string_equal(environment.comm, "");
    assert_string_equal(environment.memory, "64G");
    assert_int_equal(strlen(environment.inject), sizeof environment.inject - 1);
    unsetenv("MPT_ISA");
    unsetenv("MPT_INJECT");
    unsetenv("MPT_MEMORY");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_documented_ones),
        cmocka_unit_test(sections_and_values_reach_their_fields),
        cmocka_unit_test(unknown_keys_name_the_nearest_known_one),
        cmocka_unit_test(wrong_values_say_what_would_be_right),
        cmocka_unit_test(repeated_keys_and_sections_are_errors),
        cmocka_unit_test(what_is_not_closed_is_an_error),
        cmocka_unit_test(variables_are_refused),
        cmocka_unit_test(functions_lists_and_appending_are_refused),
        cmocka_unit_test(other_comments_and_escapes_are_refused),
        cmocka_unit_test(overrides_change_one_key_and_the_last_holds),
        cmocka_unit_test(damaged_texts_are_refused_with_one_line),
        cmocka_unit_test(random_texts_are_refused_with_one_line),
        cmocka_unit_test(threads_may_parse_at_once),
        cmocka_unit_test(locale_of_the_thread_survives),
        cmocka_unit_test(environment_is_read_and_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
