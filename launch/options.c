#include "options.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "launch.h"

#define MAX_WORD 48
#define MAX_OPTIONS 24

static int min3(int a, int b, int c)
{
    int low = a < b ? a : b;
    return low < c ? low : c;
}

/* Levenshtein's distance over one rolling row. */
static int edit_distance(const char *a, const char *b)
{
    int row[MAX_WORD + 1];
    int columns = (int)strlen(b);
    for (int j = 0; j <= columns; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= columns; j++) {
            int above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[columns];
}

const char *mpt_options_nearest(const char *word, const char *const *names, int count)
{
    const char *nearest = NULL;
    size_t length = strlen(word);
    if (length > MAX_WORD)
        return NULL;
    int best = length < 4 ? 2 : 3; /* exclusive: one slip in a short word, two in a longer one */
    for (int i = 0; i < count; i++) {
        int distance = edit_distance(word, names[i]);
        if (distance < best) {
            best = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

static const mpt_option_t *find_option(const mpt_usage_t *usage, const char *word, size_t length)
{
    for (int i = 0; i < usage->option_count; i++) {
        const char *name = usage->options[i].name;
        if (strlen(name) == length && memcmp(name, word, length) == 0)
            return &usage->options[i];
    }
    return NULL;
}

static mpt_parsed_t unknown_option(const mpt_usage_t *usage, const char *word, size_t length,
                                   char *message)
{
    const char *names[MAX_OPTIONS + 1] = {"--help"};
    char name[MAX_WORD + 2];
    int count = 1;
    for (int i = 0; i < usage->option_count && count <= MAX_OPTIONS; i++)
        names[count++] = usage->options[i].name;
    snprintf(name, sizeof(name), "%.*s", (int)length, word);
    const char *nearest = mpt_options_nearest(name, names, count);
    if (nearest)
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: unknown option \"%s\"; did you mean \"%s\"?",
                 usage->command, name, nearest);
    else
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: unknown option \"%s\"; %s --help lists them",
                 usage->command, name, usage->command);
    return MPT_PARSED_ERROR;
}

static mpt_parsed_t bad_value(const mpt_usage_t *usage, const mpt_option_t *option,
                              const char *value, char *message)
{
    const char *kind = option->kind == MPT_OPTION_INT ? "a whole number" : "a number";
    if (option->kind == MPT_OPTION_SIZE)
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "%s: %s %s: must be a size in bytes, as 800M, 16G or 1.5T", usage->command,
                 option->name, value);
    else if (option->kind == MPT_OPTION_INTS)
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "%s: %s %s: must be a whole number from %g to %g, or up to %d with commas between",
                 usage->command, option->name, value, option->min, option->max,
                 MPT_OPTION_INTS_MAX);
    else if (option->max < 1e15)
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: %s %s: must be %s from %g to %g",
                 usage->command, option->name, value, kind, option->min, option->max);
    else
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: %s %s: must be %s, at least %g", usage->command,
                 option->name, value, kind, option->min);
    return MPT_PARSED_ERROR;
}

/* A number at the start of `value`; *end_p is what follows it. */
static int parse_int_part(const mpt_option_t *option, const char *value, char **end_p,
                          int64_t *number_p)
{
    errno = 0;
    long long number = strtoll(value, end_p, 10);
    if (errno || *end_p == value)
        return -1;
    if (!((double)number >= option->min && (double)number <= option->max))
        return -1;
    *number_p = number;
    return 0;
}

static int parse_int(const mpt_option_t *option, const char *value)
{
    char *end;
    int64_t number;
    if (parse_int_part(option, value, &end, &number) || *end)
        return -1;
    *(int64_t *)option->target_p = number;
    return 0;
}

static int parse_ints(const mpt_option_t *option, const char *value)
{
    mpt_option_ints_t ints = {.count = 0};
    char *end;
    for (;; value = end + 1) {
        if (ints.count == MPT_OPTION_INTS_MAX ||
            parse_int_part(option, value, &end, &ints.items[ints.count]))
            return -1;
        ints.count++;
        if (!*end)
            break;
        if (*end != ',')
            return -1;
    }
    *(mpt_option_ints_t *)option->target_p = ints;
    return 0;
}

/* The factor of a unit, in either case and with "iB" or without; 0: no unit. */
static double unit_factor(const char *unit)
{
    static const char letters[] = "KMGT";
    const char *letter = *unit ? strchr(letters, toupper((unsigned char)*unit)) : NULL;
    if (!*unit)
        return 1;
    if (!letter || (unit[1] && strcmp(unit + 1, "iB") != 0))
        return 0;
    return (double)((int64_t)1 << 10 * (letter - letters + 1));
}

static int parse_size(const mpt_option_t *option, const char *value)
{
    /* Digits and one point alone: strtod would take signs, exponents, hexadecimals and infinity. */
    size_t digits = strspn(value, "0123456789"), length = digits;
    if (value[length] == '.')
        length += 1 + strspn(value + length + 1, "0123456789");
    double bytes = floor(strtod(value, NULL) * unit_factor(value + length));
    if (digits == 0 || !(bytes >= option->min && bytes <= option->max))
        return -1;
    *(int64_t *)option->target_p = (int64_t)bytes;
    return 0;
}

static int parse_real(const mpt_option_t *option, const char *value)
{
    char *end;
    errno = 0;
    double number = strtod(value, &end);
    if (errno || end == value || *end || !isfinite(number))
        return -1;
    if (!(number >= option->min && number <= option->max))
        return -1;
    *(double *)option->target_p = number;
    return 0;
}

static mpt_parsed_t add_to_list(const mpt_usage_t *usage, const mpt_option_t *option,
                                const char *value, char *message)
{
    mpt_option_list_t *list = option->target_p;
    if (list->count == MPT_OPTION_LIST_MAX) {
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: %s may be given %d times at most",
                 usage->command, option->name, MPT_OPTION_LIST_MAX);
        return MPT_PARSED_ERROR;
    }
    list->items[list->count++] = value;
    return MPT_PARSED_RUN;
}

static mpt_parsed_t store_value(const mpt_usage_t *usage, const mpt_option_t *option,
                                const char *value, char *message)
{
    switch (option->kind) {
    case MPT_OPTION_INT:
        return parse_int(option, value) ? bad_value(usage, option, value, message) : MPT_PARSED_RUN;
    case MPT_OPTION_INTS:
        return parse_ints(option, value) ? bad_value(usage, option, value, message)
                                         : MPT_PARSED_RUN;
    case MPT_OPTION_SIZE:
        return parse_size(option, value) ? bad_value(usage, option, value, message)
                                         : MPT_PARSED_RUN;
    case MPT_OPTION_REAL:
        return parse_real(option, value) ? bad_value(usage, option, value, message)
                                         : MPT_PARSED_RUN;
    case MPT_OPTION_LIST:
        return add_to_list(usage, option, value, message);
    default:
        *(const char **)option->target_p = value;
        return MPT_PARSED_RUN;
    }
}

/* One option word at argv[*i_p]; *i_p moves on to its value where that is a word of its own. */
static mpt_parsed_t parse_option(const mpt_usage_t *usage, int argc, char **argv, int *i_p,
                                 char *message)
{
    const char *word = argv[*i_p];
    const char *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    const mpt_option_t *option = find_option(usage, word, length);
    if (!option)
        return unknown_option(usage, word, length, message);
    if (option->kind == MPT_OPTION_FLAG && !equals) {
        *(int *)option->target_p = 1;
        return MPT_PARSED_RUN;
    }
    if (option->kind == MPT_OPTION_FLAG) {
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: %s takes no value", usage->command,
                 option->name);
        return MPT_PARSED_ERROR;
    }
    if (!equals && *i_p + 1 >= argc) {
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: %s needs a value: %s %s", usage->command,
                 option->name, option->name, option->value);
        return MPT_PARSED_ERROR;
    }
    return store_value(usage, option, equals ? equals + 1 : argv[++*i_p], message);
}

static mpt_parsed_t check_argument_count(const mpt_usage_t *usage, int count, char **argv,
                                         char *message)
{
    if (count >= usage->min_arguments && count <= usage->max_arguments)
        return MPT_PARSED_RUN;
    if (count < usage->min_arguments)
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "%s: missing argument; usage: %s %s (--help tells more)", usage->command,
                 usage->command, usage->arguments);
    else
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "%s: unexpected argument \"%s\"; usage: %s%s%s (--help tells more)", usage->command,
                 argv[usage->max_arguments], usage->command, usage->arguments[0] ? " " : "", usage->arguments);
    return MPT_PARSED_ERROR;
}

mpt_parsed_t mpt_options_parse(const mpt_usage_t *usage, int argc, char **argv,
                               int *argument_count_p, char *message)
{
    int count = 0, options_end = 0;
    for (int i = 0; i < argc; i++) {
        char *word = argv[i];
        if (options_end || word[0] != '-' || word[1] == '\0') {
            argv[count++] = word;
        } else if (strcmp(word, "--") == 0) {
            options_end = 1;
        } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            return MPT_PARSED_HELP;
        } else {
            mpt_parsed_t parsed = parse_option(usage, argc, argv, &i, message);
            if (parsed != MPT_PARSED_RUN)
                return parsed;
        }
    }
    *argument_count_p = count;
    return check_argument_count(usage, count, argv, message);
}

void mpt_options_help(const mpt_usage_t *usage)
{
    printf("usage: %s%s%s%s\n\n%s\n", usage->command, usage->arguments[0] ? " " : "", usage->arguments,
           usage->option_count ? " [options]" : "", usage->about);
    if (usage->option_count)
        printf("\noptions:\n");
    for (int i = 0; i < usage->option_count; i++) {
        const mpt_option_t *option = &usage->options[i];
        char left[MAX_WORD];
        snprintf(left, sizeof(left), "%s %s", option->name, option->value ? option->value : "");
        printf("  %-26s %s\n", left, option->help);
    }
}

int mpt_options_begin(const mpt_usage_t *usage, int argc, char **argv, int *argument_count_p)
{
    char message[MPT_OPTIONS_MESSAGE];
    switch (mpt_options_parse(usage, argc, argv, argument_count_p, message)) {
    case MPT_PARSED_HELP:
        mpt_options_help(usage);
        return 0;
    case MPT_PARSED_ERROR:
        fprintf(stderr, "%s\n", message);
        return MPT_EXIT_USAGE;
    default:
        return -1;
    }
}
