#include "config_table.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int mpt_config_is_power_of_two(double value)
{
    int exponent;
    return value > 0 && isfinite(value) && frexp(value, &exponent) == 0.5;
}

static int in_range(const mpt_config_row_t *row, double value)
{
    if (!(row->flags & MPT_CONFIG_ABOVE_MIN ? value > row->min : value >= row->min))
        return 0;
    if (!(row->flags & MPT_CONFIG_BELOW_MAX ? value < row->max : value <= row->max))
        return 0;
    return !(row->flags & MPT_CONFIG_POWER_OF_TWO) || mpt_config_is_power_of_two(value);
}

/* strtoll and strtod alone would take blanks, "0x10", "nan", "inf" and what follows a number. */
static int has_only(const char *text, const char *allowed)
{
    return text[0] && strspn(text, allowed) == strlen(text);
}

static int read_float(const mpt_config_row_t *row, const char *text, double *value_p)
{
    char *end;
    if (!has_only(text, "0123456789+-.eE"))
        return 0;
    errno = 0;
    double value = strtod(text, &end);
    if (*end || end == text || errno == ERANGE || !in_range(row, value))
        return 0;
    *value_p = value;
    return 1;
}

static int read_int(const mpt_config_row_t *row, const char *text, long long *value_p)
{
    char *end;
    if (!has_only(text, "0123456789-"))
        return 0;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (*end || end == text || errno == ERANGE || !in_range(row, (double)value))
        return 0;
    *value_p = value;
    return 1;
}

static int store_float(const mpt_config_row_t *row, const char *text, void *field)
{
    double value;
    if (!read_float(row, text, &value))
        return 0;
    memcpy(field, &value, sizeof value);
    return 1;
}

static int store_int(const mpt_config_row_t *row, const char *text, void *field)
{
    long long value;
    if (!read_int(row, text, &value))
        return 0;
    if (row->bytes == sizeof(int))
        *(int *)field = (int)value;
    else
        *(int64_t *)field = (int64_t)value;
    return 1;
}

static int store_seed(const char *text, void *field)
{
    char *end;
    if (!has_only(text, "0123456789"))
        return 0;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end || errno == ERANGE)
        return 0;
    *(uint64_t *)field = (uint64_t)value;
    return 1;
}

static int store_text(const mpt_config_row_t *row, const char *text, void *field)
{
    size_t length = strlen(text);
    if (length >= row->bytes || (length == 0 && (row->flags & MPT_CONFIG_REQUIRED)))
        return 0;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return 0;
    memset(field, 0, row->bytes);
    memcpy(field, text, length);
    return 1;
}

static int store_word(const mpt_config_row_t *row, const char *text, void *field)
{
    const mpt_config_word_t *word = row->words;
    while (word->word && strcmp(word->word, text) != 0)
        word++;
    if (!word->word)
        return 0;
    if (row->bytes != sizeof(int))
        return store_text(row, text, field);
    *(int *)field = word->value;
    return 1;
}

static int store_bool(const char *text, void *field)
{
    int is_true = strcmp(text, "true") == 0;
    if (!is_true && strcmp(text, "false") != 0)
        return 0;
    *(int *)field = is_true;
    return 1;
}

static int store_scale(const mpt_config_row_t *row, const char *text, void *field)
{
    double value = MPT_CONFIG_SCALE_AUTO;
    if (strcmp(text, "dynamic") == 0)
        value = MPT_CONFIG_SCALE_DYNAMIC;
    else if (strcmp(text, "auto") != 0)
        return store_float(row, text, field);
    memcpy(field, &value, sizeof value);
    return 1;
}

int mpt_config_store(const mpt_config_row_t *row, const char *text, mpt_config_t *config)
{
    void *field = (char *)config + row->offset;
    switch (row->type) {
    case MPT_CONFIG_INT:
        return store_int(row, text, field);
    case MPT_CONFIG_SEED:
        return store_seed(text, field);
    case MPT_CONFIG_FLOAT:
        return store_float(row, text, field);
    case MPT_CONFIG_TEXT:
        return store_text(row, text, field);
    case MPT_CONFIG_WORD:
        return store_word(row, text, field);
    case MPT_CONFIG_BOOL:
        return store_bool(text, field);
    case MPT_CONFIG_SCALE:
        return store_scale(row, text, field);
    }
    return 0;
}

void mpt_config_fill(mpt_config_t *config_p)
{
    memset(config_p, 0, sizeof *config_p);
    for (int i = 0; i < mpt_config_row_count(); i++) {
        const mpt_config_row_t *row = mpt_config_row(i);
        int stored = mpt_config_store(row, row->text, config_p);
        assert(stored || (row->type == MPT_CONFIG_TEXT && !row->text[0]));
        (void)stored;
    }
}

locale_t mpt_config_enter_c_locale(void)
{
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return uselocale(plain);
}

void mpt_config_leave_c_locale(locale_t before)
{
    locale_t plain = uselocale(before);
    if (plain != before && plain != LC_GLOBAL_LOCALE)
        freelocale(plain);
}

/* "none, block or attention": the words of a row, all of them or only those that are built. */
static void list_words(const mpt_config_row_t *row, int built_only, char *out, size_t capacity)
{
    const mpt_config_word_t *pending = NULL;
    size_t used = 0;
    out[0] = '\0';
    for (const mpt_config_word_t *word = row->words; word->word; word++) {
        if (built_only && !word->built)
            continue;
        if (pending && used < capacity)
            used += (size_t)snprintf(out + used, capacity - used, "%s%s", used ? ", " : "",
                                     pending->word);
        pending = word;
    }
    if (pending && used < capacity)
        snprintf(out + used, capacity - used, "%s%s", used ? " or " : "", pending->word);
}

/* "0.5", "4096", "2^40". */
static const char *limit(double value, char out[32])
{
    int exponent;
    frexp(value, &exponent);
    if (mpt_config_is_power_of_two(value) && (value > 65536 || value < 0x1p-10))
        snprintf(out, 32, "2^%d", exponent - 1);
    else
        snprintf(out, 32, "%.10g", value);
    return out;
}

/* "a number above 0 and at most 1". */
static void describe_number(const mpt_config_row_t *row, char *out, size_t capacity)
{
    char min[32], max[32];
    int above = row->flags & MPT_CONFIG_ABOVE_MIN, below = row->flags & MPT_CONFIG_BELOW_MAX;
    const char *what = row->flags & MPT_CONFIG_POWER_OF_TWO ? "a power of two"
                       : row->type == MPT_CONFIG_INT        ? "a whole number"
                                                            : "a number";
    const char *high = above ? (below ? "and below" : "and at most") : (below ? "to below" : "to");
    snprintf(out, capacity, "%s %s %s %s %s", what, above ? "above" : "from", limit(row->min, min),
             high, limit(row->max, max));
}

void mpt_config_describe(const mpt_config_row_t *row, char *out, size_t capacity)
{
    int written;
    switch (row->type) {
    case MPT_CONFIG_INT:
    case MPT_CONFIG_FLOAT:
        describe_number(row, out, capacity);
        break;
    case MPT_CONFIG_SEED:
        snprintf(out, capacity, "a whole number from 0 to 2^64 - 1");
        break;
    case MPT_CONFIG_TEXT:
        snprintf(out, capacity, "%stext of at most %zu bytes",
                 row->flags & MPT_CONFIG_REQUIRED ? "non-empty " : "", row->bytes - 1);
        break;
    case MPT_CONFIG_WORD:
        list_words(row, 0, out, capacity);
        break;
    case MPT_CONFIG_BOOL:
        snprintf(out, capacity, "true or false");
        break;
    case MPT_CONFIG_SCALE:
        written = snprintf(out, capacity, "auto, dynamic or ");
        describe_number(row, out + written, capacity - (size_t)written);
        break;
    }
}

int mpt_config_is_default(const mpt_config_row_t *row, const mpt_config_t *config)
{
    mpt_config_t defaults;
    memset(&defaults, 0, sizeof defaults);
    mpt_config_store(row, row->text, &defaults);
    return memcmp((const char *)config + row->offset, (const char *)&defaults + row->offset, row->bytes) == 0;
}

int mpt_config_built(const mpt_config_row_t *row, const mpt_config_t *config, char *use,
                     size_t capacity)
{
    if (row->flags & MPT_CONFIG_DEFAULT_ONLY) {
        snprintf(use, capacity, "%s", row->text);
        return mpt_config_is_default(row, config);
    }
    if (row->type != MPT_CONFIG_WORD || row->bytes != sizeof(int))
        return 1;
    list_words(row, 1, use, capacity);
    const int *field = (const int *)(const void *)((const char *)config + row->offset);
    const mpt_config_word_t *word = row->words;
    while (word->word && word->value != *field)
        word++;
    return !word->word || word->built;
}
