#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
/* The program is no library: its files are compiled in. mpt_plan is this file's own, so that every mode can be asked
 * of, built or not; no config is read. */
#include "../../launch/format.c"
#include "../../launch/options.c"
#include "../../launch/plan_ask.c"
#include "../../launch/plan_fit.c"
#include "../../launch/plan_modes.c"
#include "../../launch/plan_suggest.c"

#define N 1000000 /* parameters */
#define UNIT 1000 /* of the FP32 accumulator that is left once gradients are shared */
#define GLOBAL_BATCH 48
#define SAMPLE 400000 /* bytes of activations a sequence */

/* What the planner of this test refuses, besides what no planner could plan. */
static struct {
    const char *shard;      /* a mode that is not built; NULL: all are */
    int recompute, micro;   /* built */
    int configured_share;   /* the config's parallel.shard_ranks */
    int64_t micro_batch;    /* the config's */
    int asked;
} fake;

static const char *value_of(const mpt_config_source_t *config, const char *key, const char *otherwise)
{
    const char *value = otherwise;
    size_t length = strlen(key);
    for (int i = 0; i < config->override_count; i++)
        if (strncmp(config->overrides[i], key, length) == 0 && config->overrides[i][length] == '=')
            value = config->overrides[i] + length + 1;
    return value;
}

static int64_t number_of(const mpt_config_source_t *config, const char *key, int64_t otherwise)
{
    const char *value = value_of(config, key, NULL);
    return value ? atoll(value) : otherwise;
}

static void add(mpt_plan_t *plan, const char *use, int64_t bytes)
{
    plan->memory[plan->memory_rows].use = use;
    plan->memory[plan->memory_rows++].bytes = bytes;
    plan->bytes += bytes;
}

static mpt_status_t refuse(void (*log)(void *, mpt_log_severity_t, const char *), void *ctx,
                           const char *line)
{
    log(ctx, MPT_SEVERITY_WARN, "a warning is no reason");
    log(ctx, MPT_SEVERITY_ERROR, line);
    return MPT_ERR_CONFIG;
}

static void add_memory(mpt_plan_t *plan, int level, int recompute, int micro)
{
    int share = plan->shard_ranks;
    int whole = level < 2 || (plan->micro_steps > 1 && !micro);
    add(plan, "weights", 2 * N / (level >= 3 ? share : 1));
    add(plan, "masters", 4 * N / share);
    add(plan, "moments", 8 * N / share);
    add(plan, "accumulators", whole ? 4 * N : 4 * UNIT);
    add(plan, "gradients", 2 * N / (level >= 2 ? share : 1));
    add(plan, "activations", plan->micro_batch * SAMPLE / (recompute ? 4 : 1));
    add(plan, "unheard of", 64);
}

mpt_status_t mpt_plan(const mpt_config_source_t *config, int ranks, mpt_plan_t *plan_p,
                      void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx)
{
    static const char *const shards[] = {"ddp", "zero1", "zero2", "zero3", "hsdp"};
    mpt_plan_t plan = {.parameters = N, .ranks = ranks, .threads = 3, .reductions = 1};
    int recompute = strcmp(value_of(config, "train.recompute", "none"), "block") == 0;
    int micro = strcmp(value_of(config, "parallel.reduce_every", "step"), "micro") == 0;
    int share = (int)number_of(config, "parallel.shard_ranks", fake.configured_share), level = 0;
    plan.micro_batch = number_of(config, "train.micro_batch", fake.micro_batch);
    fake.asked++;
    while (strcmp(shards[level], value_of(config, "parallel.shard", "ddp")) != 0)
        level++;
    plan.shard = shards[level]; /* outlives the config */
    if (fake.shard && strcmp(fake.shard, plan.shard) == 0)
        return refuse(log, log_ctx, "--set: parallel.shard: not built yet");
    if ((recompute && !fake.recompute) || (micro && !fake.micro))
        return refuse(log, log_ctx, "not built yet");
    if (level == 4 ? share < 2 || ranks % share != 0 : share != 0)
        return refuse(log, log_ctx, "shard_ranks does not suit");
    if (GLOBAL_BATCH % (plan.micro_batch * ranks) != 0)
        return refuse(log, log_ctx, "global_batch is no multiple");
    plan.micro_steps = GLOBAL_BATCH / (plan.micro_batch * ranks);
    plan.reductions = micro ? plan.micro_steps : 1;
    plan.shard_ranks = level == 0 ? 1 : level == 4 ? share : ranks;
    add_memory(&plan, level, recompute, micro);
    *plan_p = plan;
    return MPT_OK;
}

mpt_status_t mpt_config_read(const char *path, char **text_p,
                             void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx)
{
    (void)path, (void)text_p, (void)log, (void)log_ctx;
    return MPT_ERR_CONFIG;
}

void mpt_log_quiet(void *ctx, mpt_log_severity_t severity, const char *line)
{
    (void)ctx, (void)severity, (void)line;
}

static mpt_plan_report_t *report_of(int ranks, int64_t memory)
{
    mpt_plan_report_t *report = test_calloc(1, sizeof *report);
    mpt_plan_query_t query = {.config = {.path = "/nowhere/at/all.cfg"}};
    mpt_plan_ask_modes(&query, ranks, report);
    if (memory > 0)
        mpt_plan_fit(&query, memory, report);
    return report;
}

static int start(void **state)
{
    (void)state;
    memset(&fake, 0, sizeof fake);
    fake.micro_batch = 2;
    return 0;
}

/* ---- JSON, checked by a parser of its own ------------------------------------------------------------ */

static const char *skip_value(const char *at);

static const char *skip_space(const char *at)
{
    return at + strspn(at, " \n");
}

static const char *skip_string(const char *at)
{
    if (*at++ != '"')
        return NULL;
    for (; *at && *at != '"'; at++)
        if (*at == '\\' && !*++at)
            return NULL;
    return *at ? at + 1 : NULL;
}

static const char *skip_members(const char *at, char close)
{
    at = skip_space(at + 1);
    if (*at == close)
        return at + 1;
    for (;;) {
        if (close == '}') {
            at = skip_string(skip_space(at));
            at = at ? skip_space(at) : NULL;
            if (!at || *at++ != ':')
                return NULL;
        }
        at = skip_value(at);
        if (!at || (*at != ',' && *at != close))
            return NULL;
        if (*at++ == close)
            return at;
    }
}

/* Past a value and the blanks after it; NULL: there is none. */
static const char *skip_value(const char *at)
{
    static const char *const words[] = {"true", "false", "null"};
    const char *end = NULL;
    at = skip_space(at);
    if (*at == '{' || *at == '[')
        end = skip_members(at, *at == '{' ? '}' : ']');
    else if (*at == '"')
        end = skip_string(at);
    for (int i = 0; i < 3; i++)
        if (strncmp(at, words[i], strlen(words[i])) == 0)
            end = at + strlen(words[i]);
    size_t digits = strspn(at, "0123456789.-+e");
    if (digits > 0)
        end = at + digits;
    return end ? skip_space(end) : NULL;
}

static char *json_of(const mpt_plan_report_t *report)
{
    char *text = NULL;
    size_t bytes;
    mpt_json_t json = {.out = open_memstream(&text, &bytes)};
    assert_non_null(json.out);
    mpt_json_open(&json, NULL, '{');
    mpt_json_open(&json, "modes", '[');
    mpt_plan_modes_write(&json, report);
    mpt_json_close(&json, ']');
    if (report->memory > 0)
        mpt_plan_suggest_write(&json, report, 1);
    mpt_json_close(&json, '}');
    fclose(json.out);
    return text;
}

/* ---- arithmetic -------------------------------------------------------------------------------------- */

static void hsdp_takes_the_largest_power_of_two_that_makes_several_groups(void **state)
{
    (void)state;
    static const int want[][2] = {{1, 0}, {2, 0}, {3, 0},  {4, 2},  {5, 0},     {6, 2},        {7, 0},
                                  {8, 4}, {9, 0}, {12, 4}, {24, 8}, {1000, 8}, {65536, 32768}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_int_equal(mpt_plan_hsdp_ranks(want[i][0]), want[i][1]);
}

static void divisors_come_all_and_largest_first(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= 400; n++) {
        int64_t divisors[MAX_DIVISORS];
        int count = mpt_plan_divisors(n, divisors, MAX_DIVISORS), at = 0;
        for (int64_t d = n; d >= 1; d--)
            if (n % d == 0)
                assert_int_equal(divisors[at++], d);
        assert_int_equal(at, count);
    }
    int64_t few[4];
    assert_int_equal(mpt_plan_divisors(5040, few, 4), 4);
    assert_int_equal(few[3], 1260);
}

static int64_t wire_of(const char *shard, int ranks, int share, int64_t micro_steps, int64_t reductions)
{
    mpt_plan_t plan = {.parameters = N,
                       .ranks = ranks,
                       .shard = shard,
                       .shard_ranks = share,
                       .micro_steps = micro_steps,
                       .reductions = reductions};
    return mpt_plan_wire(&plan);
}

static void the_wire_carries_what_the_design_says(void **state)
{
    (void)state;
    assert_int_equal(wire_of("ddp", 8, 1, 3, 1), 2 * N);
    assert_int_equal(wire_of("zero1", 8, 8, 3, 1), 2 * N);
    assert_int_equal(wire_of("zero2", 8, 8, 3, 1), 2 * N);
    assert_int_equal(wire_of("zero2", 8, 8, 3, 3), 4 * N);
    assert_int_equal(wire_of("zero3", 8, 8, 1, 1), 3 * N);
    assert_int_equal(wire_of("zero3", 8, 8, 3, 1), 7 * N);
    assert_int_equal(wire_of("zero3", 8, 8, 3, 3), 9 * N);
    assert_int_equal(wire_of("hsdp", 8, 4, 1, 1), 3 * N + N / 2);
    assert_int_equal(wire_of("hsdp", 8, 8, 1, 1), 3 * N);
    assert_int_equal(wire_of("hsdp", 8, 1, 1, 1), 2 * N);
    assert_int_equal(wire_of("zero3", 1, 1, 4, 1), 0);
}

/* ---- modes ------------------------------------------------------------------------------------------- */

static void every_mode_is_planned_or_says_why_not(void **state)
{
    (void)state;
    fake.shard = "zero2";
    mpt_plan_report_t *report = report_of(8, 0);
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        assert_int_equal(report->modes[m].planned, m != 2);
    assert_string_equal(report->modes[2].reason, "parallel.shard: not built yet");
    assert_int_equal(report->modes[3].plan.bytes, 4 * N + 16 * N / 8 + 2 * SAMPLE + 64);
    assert_int_equal(mpt_plan_state(&report->modes[3].plan), 4 * N + 16 * N / 8);
    assert_int_equal(report->modes[4].plan.shard_ranks, 4);
    test_free(report);
}

static void hsdp_keeps_the_configs_shard_ranks_where_they_suit(void **state)
{
    (void)state;
    fake.configured_share = 2;
    mpt_plan_report_t *report = report_of(8, 0);
    assert_int_equal(report->modes[4].plan.shard_ranks, 2);
    assert_true(report->modes[1].planned); /* although the key is hsdp's alone */
    test_free(report);
    fake.configured_share = 16;
    report = report_of(8, 0);
    assert_int_equal(report->modes[4].plan.shard_ranks, 4);
    test_free(report);
    report = report_of(3, 0);
    assert_false(report->modes[4].planned);
    assert_non_null(strstr(report->modes[4].reason, "3 ranks cannot be cut"));
    test_free(report);
}

/* ---- what fits --------------------------------------------------------------------------------------- */

/* The largest micro-batch of a mode by trying every number. */
static int64_t largest_by_hand(const char *shard, int share, int ranks, int64_t memory)
{
    for (int64_t micro = GLOBAL_BATCH; micro >= 1; micro--) {
        char words[3][48];
        const char *overrides[] = {words[0], words[1], words[2]};
        mpt_config_source_t config = {.overrides = overrides, .override_count = 3};
        mpt_plan_t plan;
        char reason[64];
        heard_t heard = {reason, sizeof reason};
        snprintf(words[0], sizeof words[0], "parallel.shard=%s", shard);
        snprintf(words[1], sizeof words[1], "parallel.shard_ranks=%d", share);
        snprintf(words[2], sizeof words[2], "train.micro_batch=%lld", (long long)micro);
        if (mpt_plan(&config, ranks, &plan, hear_error, &heard) == MPT_OK && plan.bytes <= memory)
            return micro;
    }
    return 0;
}

static void the_largest_micro_batch_divides_the_batch_and_fits(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 8; ranks *= 2)
        for (int64_t memory = N; memory < 40 * (int64_t)N; memory += N / 3) {
            mpt_plan_report_t *report = report_of(ranks, memory);
            for (int m = 0; m < MPT_PLAN_MODES; m++) {
                const mpt_plan_fit_t *fit = &report->fits[m][0];
                const mpt_plan_mode_t *mode = &report->modes[m];
                if (!mode->planned)
                    continue;
                int share = m == 4 ? mode->plan.shard_ranks : 0;
                assert_int_equal(fit->fits ? fit->plan.micro_batch : 0,
                                 largest_by_hand(mode->shard, share, ranks, memory));
                assert_true(fit->planned);
                assert_int_equal(GLOBAL_BATCH % (fit->plan.micro_batch * ranks), 0);
                assert_int_equal(fit->fits, fit->plan.bytes <= memory);
            }
            test_free(report);
        }
}

static void the_suggestion_is_the_least_traffic_that_spares_the_micro_batch(void **state)
{
    (void)state;
    mpt_plan_report_t *report = report_of(8, 100 * (int64_t)N);
    assert_string_equal(report->chosen->plan.shard, "ddp");
    assert_int_equal(report->chosen->plan.micro_batch, 6);
    test_free(report);
    /* ddp takes 20 N and two sequences, zero1 9.5 N, zero2 7.75 N, zero3 6 N. */
    report = report_of(8, 20 * (int64_t)N);
    assert_string_equal(report->chosen->plan.shard, "zero1");
    assert_int_equal(mpt_plan_wire(&report->chosen->plan), 2 * N);
    test_free(report);
    report = report_of(8, 9 * (int64_t)N);
    assert_string_equal(report->chosen->plan.shard, "zero2");
    test_free(report);
    report = report_of(8, 8 * (int64_t)N);
    assert_string_equal(report->chosen->plan.shard, "zero2"); /* a single micro-step needs no accumulator */
    assert_int_equal(report->chosen->plan.micro_batch, 6);
    test_free(report);
    fake.shard = "zero2";
    report = report_of(8, 7 * (int64_t)N);
    assert_string_equal(report->chosen->plan.shard, "zero3");
    test_free(report);
}

static void a_smaller_micro_batch_is_the_next_best(void **state)
{
    (void)state;
    fake.micro_batch = 6;
    /* One rank shares nothing: of equal modes the first. */
    mpt_plan_report_t *report = report_of(1, 20 * (int64_t)N + SAMPLE + 64);
    assert_string_equal(report->chosen->plan.shard, "ddp");
    assert_int_equal(report->chosen->plan.micro_batch, 1);
    test_free(report);
}

static void variants_that_are_not_built_are_not_offered(void **state)
{
    (void)state;
    mpt_plan_report_t *report = report_of(8, 8 * (int64_t)N);
    assert_true(report->offered[0]);
    assert_false(report->offered[1]);
    assert_false(report->offered[2]);
    test_free(report);
    fake.recompute = fake.micro = 1;
    report = report_of(8, 8 * (int64_t)N);
    assert_true(report->offered[1]);
    assert_true(report->offered[2]);
    test_free(report);
}

static void a_variant_is_suggested_only_where_nothing_fits_without(void **state)
{
    (void)state;
    fake.micro_batch = 6;
    fake.shard = "zero3";
    fake.recompute = 1;
    /* zero2 in one micro-step: 2 N + 14 N / 8 + the unit's accumulator, and six sequences of activations. */
    int64_t state_bytes = 2 * N + 14 * N / 8 + 4 * UNIT + 64;
    mpt_plan_report_t *report = report_of(8, state_bytes + 6 * SAMPLE);
    assert_int_equal(report->chosen->changes.count, 2); /* mode and micro-batch */
    assert_string_equal(report->chosen->plan.shard, "zero2");
    test_free(report);
    report = report_of(8, state_bytes + 6 * SAMPLE / 4);
    assert_true(report->chosen->fits);
    assert_string_equal(report->chosen->plan.shard, "zero2");
    assert_string_equal(report->chosen->changes.set[1], "train.recompute=block");
    test_free(report);
}

static void where_nothing_fits_the_closest_is_named(void **state)
{
    (void)state;
    mpt_plan_report_t *report = report_of(8, N);
    assert_false(report->chosen->fits);
    for (int m = 0; m < MPT_PLAN_MODES; m++) {
        assert_false(report->fits[m][0].fits);
        assert_true(report->fits[m][0].plan.bytes >= report->chosen->plan.bytes);
    }
    char *json = json_of(report);
    char want[64];
    snprintf(want, sizeof want, "\"fits\": false, \"shard\": \"%s\"", report->chosen->plan.shard);
    assert_non_null(strstr(json, want));
    snprintf(want, sizeof want, "\"short_by\": %lld,", (long long)(report->chosen->plan.bytes - N));
    assert_non_null(strstr(json, want));
    free(json);
    test_free(report);
}

static void a_batch_that_the_ranks_do_not_divide_suggests_nothing(void **state)
{
    (void)state;
    mpt_plan_report_t *report = report_of(7, 100 * (int64_t)N);
    assert_null(report->chosen);
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        assert_false(report->modes[m].planned);
    char *json = json_of(report);
    assert_non_null(strstr(json, "\"suggestion\": null"));
    free(json);
    test_free(report);
}

static void the_json_parses_whatever_is_refused(void **state)
{
    (void)state;
    static const char *const refused[] = {NULL, "ddp", "zero2", "hsdp"};
    for (int i = 0; i < 4; i++)
        for (int ranks = 1; ranks <= 8; ranks++)
            for (int memory = 0; memory <= 30; memory += 10) {
                fake.shard = refused[i];
                mpt_plan_report_t *report = report_of(ranks, memory * (int64_t)N);
                char *json = json_of(report);
                const char *end = skip_value(json);
                assert_non_null(end);
                assert_int_equal(*end, '\0');
                free(json);
                test_free(report);
            }
}

static void a_few_hundred_questions_are_enough(void **state)
{
    (void)state;
    fake.recompute = fake.micro = 1;
    test_free(report_of(1, 1));
    assert_true(fake.asked < 5 * 2 + 5 * 2 + 5 * 3 * 10);
}

/* ---- the command line -------------------------------------------------------------------------------- */

static mpt_parsed_t parse(mpt_option_kind_t kind, const char *value, void *target, char *message)
{
    const mpt_option_t option = {"--it", "IT", "it", kind, target, 1, 0x1p60};
    const mpt_usage_t usage = {.command = "test", .options = &option, .option_count = 1};
    char words[2][64];
    char *argv[] = {words[0], words[1]};
    int count;
    snprintf(words[0], sizeof words[0], "--it");
    snprintf(words[1], sizeof words[1], "%s", value);
    return mpt_options_parse(&usage, 2, argv, &count, message);
}

static void sizes_are_powers_of_1024(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes;
    } sizes[] = {{"1", 1},
                 {"4096", 4096},
                 {"1K", 1024},
                 {"16G", (int64_t)16 << 30},
                 {"16g", (int64_t)16 << 30},
                 {"1.5M", 3 << 19},
                 {"0.5T", (int64_t)1 << 39},
                 {"80GiB", (int64_t)80 << 30},
                 {"1.K", 1024},
                 {"1048576T", (int64_t)1 << 60}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t bytes = -1;
        char message[MPT_OPTIONS_MESSAGE];
        assert_int_equal(parse(MPT_OPTION_SIZE, sizes[i].text, &bytes, message), MPT_PARSED_RUN);
        assert_int_equal(bytes, sizes[i].bytes);
    }
}

static void what_is_no_size_is_refused_in_one_line(void **state)
{
    (void)state;
    static const char *const sizes[] = {"",     "0",    "G",   "-1G", "+1G",   "16X",  "16GG", "16 G", "1e9",
                                        "0x10", "inf",  "nan", ".5G", "1.2.3", "16Gi", "16GB", "0.1",  "2000000T",
                                        "1048577T"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t bytes = -1;
        char message[MPT_OPTIONS_MESSAGE];
        assert_int_equal(parse(MPT_OPTION_SIZE, sizes[i], &bytes, message), MPT_PARSED_ERROR);
        assert_int_equal(bytes, -1);
        assert_non_null(strstr(message, "must be a size in bytes"));
        assert_null(strchr(message, '\n'));
    }
}

static void numbers_may_stand_between_commas(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ",", "1,", ",1", "1,,2", "1;2", "0,1", "1,x", "1 2",
                                      "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"};
    mpt_option_ints_t ints = {.items = {9}, .count = 1};
    char message[MPT_OPTIONS_MESSAGE];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(parse(MPT_OPTION_INTS, bad[i], &ints, message), MPT_PARSED_ERROR);
    assert_int_equal(ints.count, 1);
    assert_int_equal(ints.items[0], 9);
    assert_int_equal(parse(MPT_OPTION_INTS, "8,16,1", &ints, message), MPT_PARSED_RUN);
    assert_int_equal(ints.count, 3);
    assert_int_equal(ints.items[1], 16);
    assert_int_equal(ints.items[2], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hsdp_takes_the_largest_power_of_two_that_makes_several_groups),
        cmocka_unit_test(divisors_come_all_and_largest_first),
        cmocka_unit_test(the_wire_carries_what_the_design_says),
        cmocka_unit_test_setup(every_mode_is_planned_or_says_why_not, start),
        cmocka_unit_test_setup(hsdp_keeps_the_configs_shard_ranks_where_they_suit, start),
        cmocka_unit_test_setup(the_largest_micro_batch_divides_the_batch_and_fits, start),
        cmocka_unit_test_setup(the_suggestion_is_the_least_traffic_that_spares_the_micro_batch, start),
        cmocka_unit_test_setup(a_smaller_micro_batch_is_the_next_best, start),
        cmocka_unit_test_setup(variants_that_are_not_built_are_not_offered, start),
        cmocka_unit_test_setup(a_variant_is_suggested_only_where_nothing_fits_without, start),
        cmocka_unit_test_setup(where_nothing_fits_the_closest_is_named, start),
        cmocka_unit_test_setup(a_batch_that_the_ranks_do_not_divide_suggests_nothing, start),
        cmocka_unit_test_setup(the_json_parses_whatever_is_refused, start),
        cmocka_unit_test_setup(a_few_hundred_questions_are_enough, start),
        cmocka_unit_test(sizes_are_powers_of_1024),
        cmocka_unit_test(what_is_no_size_is_refused_in_one_line),
        cmocka_unit_test(numbers_may_stand_between_commas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
