#include <stdio.h>
#include <string.h>
#include "launch.h"
#include "options.h"

#define MAX_PATH_BYTES 1024

/* "texts/kjv.txt" and "train" give "kjv_train.bin", in the working directory. */
static void default_path(const char *text_path, const char *part, char *path)
{
    const char *slash = strrchr(text_path, '/');
    const char *name = slash ? slash + 1 : text_path;
    const char *dot = strrchr(name, '.');
    size_t length = dot && dot != name ? (size_t)(dot - name) : strlen(name);
    snprintf(path, MAX_PATH_BYTES, "%.*s_%s.bin", (int)length, name, part);
}

static int tokenize(const mpt_tokenize_params_t *params)
{
    int64_t train_tokens = 0, val_tokens = 0;
    mpt_status_t status = mpt_tokenize(params, &train_tokens, &val_tokens);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    printf("%s: %lld tokens\n", params->train_path, (long long)train_tokens);
    if (params->val_path)
        printf("%s: %lld tokens\n", params->val_path, (long long)val_tokens);
    return 0;
}

int mpt_cmd_data(int argc, char **argv)
{
    const char *train = NULL, *val = NULL, *tokenizer = "bytes";
    double fraction = 0.05;
    int count, code, force = 0;
    char train_default[MAX_PATH_BYTES], val_default[MAX_PATH_BYTES];
    const mpt_option_t options[] = {
        {"--train", "FILE", "training tokens (NAME_train.bin)", MPT_OPTION_TEXT, &train, 0, 0},
        {"--val", "FILE", "validation tokens (NAME_val.bin)", MPT_OPTION_TEXT, &val, 0, 0},
        {"--val-fraction", "F", "of the text's end, for validation; 0: none (0.05)",
         MPT_OPTION_REAL, &fraction, 0, 0.95},
        {"--tokenizer", "NAME", "bytes: a token a byte, vocabulary 256 (bytes)", MPT_OPTION_TEXT,
         &tokenizer, 0, 0},
        {"--force", NULL, "replace token files that exist", MPT_OPTION_FLAG, &force, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp data",
        .arguments = "NAME.txt",
        .about = "Turn a text file into token files in llm.c's format, one to train on and one to "
                 "validate on.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 1,
        .max_arguments = 1,
    };
    code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    if (val && fraction == 0) {
        fprintf(stderr, "mpt-ddp data: --val %s: nothing to write with --val-fraction 0; drop one of them\n", val);
        return 2;
    }
    default_path(argv[0], "train", train_default);
    default_path(argv[0], "val", val_default);
    const mpt_tokenize_params_t params = {
        .text_path = argv[0],
        .train_path = train ? train : train_default,
        .val_path = fraction > 0 ? (val ? val : val_default) : NULL,
        .val_fraction = fraction,
        .tokenizer = tokenizer,
        .force = force,
        .log = mpt_log_quiet,
    };
    return tokenize(&params);
}
