#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "config_capture.h"
#include "config_table.h"

/* Keys whose value another key's "auto" or 0 follows. */
static int follows(const char *key, const char *other)
{
    static const char *const pairs[][2] = {{"model.context", "data.sequence"},
                                           {"precision.compute", "precision.reduce"},
                                           {"precision.compute", "precision.loss_scale"},
                                           {"precision.reduce", "precision.loss_scale"},
                                           {"train.reproducible", "precision.reduce"},
                                           {"train.reproducible", "precision.loss_scale"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(pairs[i][0], key) == 0 && strcmp(pairs[i][1], other) == 0)
            return 1;
    return 0;
}

/* What keys that say nothing by themselves are tried beside. */
static const mpt_config_row_t *companion_of(const char *key, const char **setting_p)
{
    static const char *const pairs[][3] = {{"train.lanes", "train.reproducible", "world"},
                                           {"precision.master", "precision.rounding", "stochastic"},
                                           {"parallel.shard", "parallel.shard_ranks", "2"},
                                           {"parallel.shard_ranks", "parallel.shard", "hsdp"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(pairs[i][0], key) == 0) {
            *setting_p = pairs[i][2];
            return mpt_config_row(mpt_config_find(pairs[i][1]));
        }
    return NULL;
}

static int field_equal(const mpt_config_row_t *row, const mpt_config_t *a, const mpt_config_t *b)
{
    if (row->type == MPT_CONFIG_SCALE && a->precision.dynamic_scale != b->precision.dynamic_scale)
        return 0;
    return memcmp((const char *)a + row->offset, (const char *)b + row->offset, row->bytes) == 0;
}

/* 1 where `value` as written means the default. */
static int means_default(const mpt_config_row_t *row, const char *value)
{
    char *end;
    if (strcmp(value, row->text) == 0)
        return 1;
    if (row->type == MPT_CONFIG_SCALE)
        return strtod(value, &end) == 1; /* auto is 1 beside bf16 */
    if (strcmp(row->key, "reduce") == 0)
        return strcmp(value, "bf16") == 0;
    return row->type != MPT_CONFIG_TEXT && strtod(value, &end) == strtod(row->text, NULL) &&
           end != value && !end[strspn(end, " ")];
}

/* What `row`, and `beside` where that is not NULL, may change with it. */
static int may_change(const mpt_config_row_t *row, const mpt_config_row_t *beside, const mpt_config_row_t *other)
{
    char name[MPT_CONFIG_MAX_NAME], beside_name[MPT_CONFIG_MAX_NAME] = "", other_name[MPT_CONFIG_MAX_NAME];
    mpt_config_row_name(row, name);
    mpt_config_row_name(other, other_name);
    if (beside)
        mpt_config_row_name(beside, beside_name);
    return other == row || other == beside || follows(name, other_name) || follows(beside_name, other_name);
}

/* @return 1 where the value was accepted and is not the default. `beside`: a key that is set too, or NULL. */
static int takes_effect_or_errs(const mpt_config_row_t *row, const char *value, const char *text,
                                const char *const *overrides, int count, const mpt_config_row_t *beside)
{
    char name[MPT_CONFIG_MAX_NAME];
    capture_t capture;
    mpt_config_t config, plain = parse_good("data { train = x }");
    mpt_config_row_name(row, name);
    if (parse_with(text, overrides, count, &capture, &config) != MPT_OK) {
        if (capture.lines == 1 && strstr(capture.last, name) && strlen(capture.last) < 1000)
            return 0;
        fail_msg("'%s' logged '%s'", text, capture.last);
    }
    if (field_equal(row, &config, &plain) != means_default(row, value))
        fail_msg("%s = %s was accepted without its effect", name, value);
    for (int i = 0; i < mpt_config_row_count(); i++) {
        const mpt_config_row_t *other = mpt_config_row(i);
        if (!may_change(row, beside, other) && !field_equal(other, &config, &plain))
            fail_msg("%s = %s changed %s.%s", name, value, other->section, other->key);
    }
    return !means_default(row, value);
}

/* 1 where a value other than the default is built. */
static int has_choice(const mpt_config_row_t *row)
{
    int built = 0;
    for (const mpt_config_word_t *word = row->words; word && word->word; word++)
        built += word->built;
    return row->words ? built > 1 : !(row->flags & MPT_CONFIG_DEFAULT_ONLY);
}

/* The value by --set, beside the key that it needs, where there is one. */
static int try_beside(const mpt_config_row_t *row, const char *value)
{
    char name[MPT_CONFIG_MAX_NAME], other_name[MPT_CONFIG_MAX_NAME], setting[4096], other[128];
    const char *other_value;
    const mpt_config_row_t *beside = companion_of(mpt_config_row_name(row, name), &other_value);
    if (!beside || strpbrk(value, "{}\"'"))
        return 0;
    snprintf(setting, sizeof setting, "%s=%s", name, value);
    snprintf(other, sizeof other, "%s=%s", mpt_config_row_name(beside, other_name), other_value);
    const char *overrides[] = {setting, other};
    return takes_effect_or_errs(row, value, "data { train = x }", overrides, 2, beside);
}

/* The same value in a file, and by --set where it is not the file's syntax that is tried. */
static int try_value(const mpt_config_row_t *row, const char *value)
{
    char name[MPT_CONFIG_MAX_NAME], text[4096], setting[4096];
    int is_train = strcmp(mpt_config_row_name(row, name), "data.train") == 0;
    if (!row->section[0])
        snprintf(text, sizeof text, "data { train = x }\n%s = %s\n", row->key, value);
    else if (strcmp(row->section, "data") == 0)
        snprintf(text, sizeof text, "data { %s %s = %s\n}", is_train ? "" : "train = x", row->key,
                 value);
    else
        snprintf(text, sizeof text, "data { train = x }\n%s { %s = %s }", row->section, row->key,
                 value);
    int effect = takes_effect_or_errs(row, value, text, NULL, 0, NULL);
    snprintf(setting, sizeof setting, "%s=%s", name, value);
    const char *overrides[] = {setting};
    if (!strpbrk(value, "{}\"'"))
        assert_int_equal(takes_effect_or_errs(row, value, "data { train = x }", overrides, 1, NULL),
                         effect);
    return effect || try_beside(row, value);
}

/* Every word that is built, the default aside, does something. @return how many do. */
static int try_words(const mpt_config_row_t *row)
{
    int effects = 0;
    for (const mpt_config_word_t *word = row->words; word && word->word; word++) {
        int effect = try_value(row, word->word);
        if (effect != (word->built && !means_default(row, word->word)))
            fail_msg("%s.%s = %s: effect %d", row->section, row->key, word->word, effect);
        effects += effect;
    }
    return effects;
}

static void every_key_has_an_effect_or_an_error_for_every_kind_of_value(void **state)
{
    static const char *const values[] = {"1",
                                         "2",
                                         "3",
                                         "7",
                                         "0",
                                         "-1",
                                         "-0.5",
                                         "0.25",
                                         "0.5",
                                         "1.5",
                                         "6e-4",
                                         "1e-30",
                                         "1e-320",
                                         "1536",
                                         "4096",
                                         "1e5",
                                         "1e+5",
                                         "999999",
                                         "9223372036854775807",
                                         "-9223372036854775808",
                                         "18446744073709551615",
                                         "99999999999999999999999",
                                         "1e400",
                                         "-1e400",
                                         "nan",
                                         "NaN",
                                         "-nan",
                                         "inf",
                                         "-inf",
                                         "0x10",
                                         "1_000",
                                         "1 ",
                                         "--1",
                                         "1-",
                                         "true",
                                         "false",
                                         "yes",
                                         "on",
                                         "auto",
                                         "dynamic",
                                         "fp32",
                                         "bf16",
                                         "fp16",
                                         "tf32",
                                         "fp8",
                                         "fp64",
                                         "none",
                                         "zero3",
                                         "world",
                                         "gpt2",
                                         "gpt3",
                                         "constant",
                                         "wsd",
                                         "sequential",
                                         "cuda",
                                         "cpu",
                                         "word",
                                         "path/to/file.bin",
                                         "{1, 2}",
                                         "{}",
                                         "{ a = 1 }",
                                         "\"1\"",
                                         "'2'",
                                         "\"two words\"",
                                         "\"\"",
                                         "''",
                                         "1.0.0",
                                         "."};
    int accepted = 0;
    char huge[2048];
    (void)state;
    for (int i = 0; i < mpt_config_row_count(); i++) {
        const mpt_config_row_t *row = mpt_config_row(i);
        int effects = 0;
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) {
            if (!strpbrk(values[j], "\"'")) {
                effects += try_value(row, values[j]);
                continue;
            }
            /* A quoted value means what stands between the quotes. */
            char inside[64];
            snprintf(inside, sizeof inside, "%.*s", (int)strlen(values[j]) - 2, values[j] + 1);
            char text[256], name[MPT_CONFIG_MAX_NAME];
            mpt_config_row_name(row, name);
            snprintf(text, sizeof text, "%s%s%s = %s%s%s", row->section,
                     row->section[0] ? " { " : "", row->key, values[j], row->section[0] ? " }" : "",
                     strcmp(name, "data.train") == 0 ? "" : "\n");
            const char *overrides[] = {"data.train=x"};
            takes_effect_or_errs(row, inside, text, overrides, strcmp(name, "data.train") != 0, NULL);
        }
        effects += try_words(row);
        memset(huge, 'x', sizeof huge - 1);
        huge[sizeof huge - 1] = '\0';
        assert_int_equal(try_value(row, huge), 0);
        if (effects == 0 && has_choice(row)) /* then the tries are beside the point */
            fail_msg("no value had an effect for %s.%s", row->section, row->key);
        accepted += effects;
    }
    assert_true(accepted > 5 * mpt_config_row_count());
}

static void table_is_consistent(void **state)
{
    (void)state;
    for (int i = 0; i < mpt_config_row_count(); i++) {
        const mpt_config_row_t *row = mpt_config_row(i);
        char name[MPT_CONFIG_MAX_NAME];
        assert_int_equal(mpt_config_find(mpt_config_row_name(row, name)), i);
        assert_true(row->help && row->help[0]);
        assert_true(row->offset + row->bytes <= sizeof(mpt_config_t));
        for (int j = 0; j < i; j++)
            assert_true(mpt_config_row(j)->offset + mpt_config_row(j)->bytes <= row->offset ||
                        mpt_config_row(j)->offset >= row->offset + row->bytes);
    }
    assert_int_equal(mpt_config_find_section("model"), 0);
    assert_int_equal(mpt_config_find_section("data"), 1);
    assert_int_equal(mpt_config_find_section(""), -1);
    assert_int_equal(mpt_config_find_section("device"), -1);
}

static char *read_all(FILE *file)
{
    char *text = calloc(1, 1 << 18);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 18) - 1, file) > 0);
    return text;
}

static void documentation_is_what_the_table_says(void **state)
{
    char *generated = NULL;
    size_t bytes = 0;
    (void)state;
    FILE *out = open_memstream(&generated, &bytes);
    assert_non_null(out);
    mpt_config_write_markdown(out);
    assert_int_equal(fclose(out), 0);
    for (int i = 0; i < mpt_config_row_count(); i++)
        assert_non_null(strstr(generated, mpt_config_row(i)->help));
    FILE *file = fopen(MPT_SOURCE_DIR "/docs/config.md", "r");
    assert_non_null(file);
    char *documented = read_all(file);
    fclose(file);
    assert_string_equal(documented, generated);
    free(documented);
    free(generated);
}

int main(int argc, char **argv)
{
    /* "--write" prints the page, to write docs/config.md anew. */
    if (argc > 1 && strcmp(argv[1], "--write") == 0) {
        mpt_config_write_markdown(stdout);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_consistent),
        cmocka_unit_test(every_key_has_an_effect_or_an_error_for_every_kind_of_value),
        cmocka_unit_test(documentation_is_what_the_table_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
