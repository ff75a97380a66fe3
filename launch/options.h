/*
 * Command-line words into typed variables: one table row an option, so that parsing, the help text and the
 * "did you mean" hints never disagree. Long options only, as "--name value" or "--name=value"; "--" ends
 * them. Stateless; targets belong to the caller and borrow from argv.
 */
#ifndef MPT_OPTIONS_H
#define MPT_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

typedef enum mpt_option_kind {
    MPT_OPTION_FLAG, /* int, set to 1 */
    MPT_OPTION_TEXT, /* const char * */
    MPT_OPTION_INT,  /* int64_t in min..max */
    MPT_OPTION_INTS, /* mpt_option_ints_t: one or several in min..max, commas between */
    MPT_OPTION_REAL, /* double in min..max */
    MPT_OPTION_SIZE, /* int64_t bytes, min..max: 512M, 1.5G; K, M, G and T are powers of 1024, as are KiB and so on */
    MPT_OPTION_LIST  /* mpt_option_list_t, may be given again */
} mpt_option_kind_t;

#define MPT_OPTION_LIST_MAX 128
#define MPT_OPTION_INTS_MAX 16

typedef struct mpt_option_list {
    const char *items[MPT_OPTION_LIST_MAX];
    int count;
} mpt_option_list_t;

typedef struct mpt_option_ints {
    int64_t items[MPT_OPTION_INTS_MAX];
    int count;
} mpt_option_ints_t;

typedef struct mpt_option {
    const char *name;  /* "--ranks" */
    const char *value; /* what the help calls its value, "N"; NULL for a flag */
    const char *help;
    mpt_option_kind_t kind;
    void *target_p;  /* keeps its value, the default, where the option is not given */
    double min, max; /* numbers only */
} mpt_option_t;

typedef struct mpt_usage {
    const char *command;   /* "mpt-ddp plan" */
    const char *arguments; /* "model.cfg" */
    const char *about;     /* what it does, a few lines */
    const mpt_option_t *options;
    int option_count;
    int min_arguments, max_arguments;
} mpt_usage_t;

typedef enum mpt_parsed { MPT_PARSED_RUN, MPT_PARSED_HELP, MPT_PARSED_ERROR } mpt_parsed_t;

#define MPT_OPTIONS_MESSAGE 512

/**
 * Parse the words after the command's name. Arguments that are no options move to argv[0] ..
 * argv[*argument_count_p - 1].
 * @return MPT_PARSED_RUN; MPT_PARSED_HELP: "--help" was among them; MPT_PARSED_ERROR: message holds one
 *         line without its newline (MPT_OPTIONS_MESSAGE bytes), targets are undefined.
 */
mpt_parsed_t mpt_options_parse(const mpt_usage_t *usage, int argc, char **argv,
                               int *argument_count_p, char *message);
/** The help text, on standard output. */
void mpt_options_help(const mpt_usage_t *usage);
/**
 * Parse, and answer help and mistakes on the spot.
 * @return -1: go on; else the exit code to return.
 */
int mpt_options_begin(const mpt_usage_t *usage, int argc, char **argv, int *argument_count_p);
/** The name that `word` was probably meant to be, or NULL. */
const char *mpt_options_nearest(const char *word, const char *const *names, int count);

#endif
