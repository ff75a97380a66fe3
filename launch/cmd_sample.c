#include <stdio.h>
#include "launch.h"
#include "options.h"

/* Shown before the first text that follows it: not at all where sampling fails. */
typedef struct mpt_prompt {
    const char *text;
    int shown;
} mpt_prompt_t;

static void print_text(void *ctx, const char *text, size_t bytes)
{
    mpt_prompt_t *prompt = ctx;
    if (prompt->text && !prompt->shown)
        fputs(prompt->text, stdout);
    prompt->shown = 1;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

int mpt_cmd_sample(int argc, char **argv)
{
    mpt_prompt_t prompt = {.text = NULL};
    mpt_sample_params_t params = {
        .tokens = 256, .temperature = 0.8, .emit = print_text, .ctx = &prompt};
    int64_t seed = 1;
    int count, code;
    const mpt_option_t options[] = {
        {"--prompt", "TEXT", "what to go on from (a line break)", MPT_OPTION_TEXT, &params.prompt,
         0, 0},
        {"--tokens", "N", "tokens to generate (256)", MPT_OPTION_INT, &params.tokens, 1, 1e9},
        {"--temperature", "T", "0: always the likeliest token (0.8)", MPT_OPTION_REAL,
         &params.temperature, 0, 100},
        {"--top-k", "K", "draw from the K likeliest tokens; 0: from all (0)", MPT_OPTION_INT,
         &params.top_k, 0, 1e9},
        {"--ema", NULL, "from the weights' moving average, which the checkpoint must hold",
         MPT_OPTION_FLAG, &params.ema, 0, 0},
        {"--seed", "S", "the same seed gives the same text (1)", MPT_OPTION_INT, &seed, 0, 9e15},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp sample",
        .arguments = "CHECKPOINT|model.bin",
        .about = "Generate text from a checkpoint folder, the newest checkpoint of a run's folder, "
                 "or an\nllm.c model file. Of a vocabulary of bytes (model.vocab = 256): other "
                 "tokens cannot be\n"
                 "turned into text.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 1,
        .max_arguments = 1,
    };
    code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    params.seed = (uint64_t)seed;
    prompt.text = params.prompt;
    mpt_status_t status = mpt_sample(argv[0], &params, mpt_log_quiet, NULL);
    if (status == MPT_OK)
        printf("\n");
    return mpt_status_exit_code(status);
}
