#include <stdio.h>
#include <string.h>
#include "format.h"
#include "launch.h"
#include "options.h"

#define LLMC_FP32 3
#define LLMC_BF16 5

static void print_info(const mpt_checkpoint_info_t *info)
{
    printf("  %-10s %s, %s\n", "folder", info->path, mpt_format_bytes((double)info->bytes).s);
    printf("  %-10s %lld (%lld applied), %lld tokens seen\n", "step", (long long)info->step,
           (long long)info->applied_steps, (long long)info->tokens);
    printf("  %-10s %lld layers, %lld heads, dim %lld, context %lld, vocabulary %lld: %s "
           "parameters\n",
           "model", (long long)info->layers, (long long)info->heads, (long long)info->dim,
           (long long)info->context, (long long)info->vocab,
           mpt_format_si((double)info->parameters).s);
    printf("  %-10s %s, loss scale %g, saved by %d ranks\n", "run", info->compute, info->loss_scale,
           info->saved_ranks);
}

static int cmd_info(int argc, char **argv)
{
    static const mpt_usage_t usage = {
        .command = "mpt-ddp ckpt info",
        .arguments = "PATH",
        .about = "Describe a checkpoint folder, or the newest one in a run's folder.",
        .min_arguments = 1,
        .max_arguments = 1,
    };
    mpt_checkpoint_info_t info;
    int count, code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    mpt_status_t status = mpt_checkpoint_info(argv[0], &info, mpt_log_quiet, NULL);
    if (status == MPT_OK)
        print_info(&info);
    return mpt_status_exit_code(status);
}

static int cmd_fsck(int argc, char **argv)
{
    static const mpt_usage_t usage = {
        .command = "mpt-ddp ckpt fsck",
        .arguments = "PATH",
        .about = "Read a checkpoint, or the newest one in a run's folder, and verify every byte.",
        .min_arguments = 1,
        .max_arguments = 1,
    };
    int count, code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    mpt_status_t status = mpt_checkpoint_fsck(argv[0], mpt_log_quiet, NULL);
    if (status == MPT_OK)
        printf("%s: every byte is as it was saved\n", argv[0]);
    return mpt_status_exit_code(status);
}

static int export_version(const char *format)
{
    return strcmp(format, "llmc-fp32") == 0   ? LLMC_FP32
           : strcmp(format, "llmc-bf16") == 0 ? LLMC_BF16
                                              : 0;
}

static int export_model(const char *path, const char *out, const char *format)
{
    int version = export_version(format);
    if (!out || !version) {
        if (!out)
            fprintf(stderr, "mpt-ddp ckpt export: --out FILE says where to write the model\n");
        else
            fprintf(stderr, "mpt-ddp ckpt export: unknown format \"%s\"; llmc-fp32 or llmc-bf16\n",
                    format);
        return MPT_EXIT_USAGE;
    }
    mpt_status_t status = mpt_checkpoint_export(path, out, version, mpt_log_quiet, NULL);
    if (status == MPT_OK)
        printf("%s: the weights of %s as %s\n", out, path, format);
    return mpt_status_exit_code(status);
}

static int cmd_export(int argc, char **argv)
{
    const char *out = NULL, *format = "llmc-fp32";
    const mpt_option_t options[] = {
        {"--out", "FILE", "model file to write", MPT_OPTION_TEXT, &out, 0, 0},
        {"--format", "NAME", "llmc-fp32 or llmc-bf16 (llmc-fp32)", MPT_OPTION_TEXT, &format, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp ckpt export",
        .arguments = "PATH --out FILE",
        .about = "Write a checkpoint's FP32 master weights as a model file of llm.c.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 1,
        .max_arguments = 1,
    };
    int count, code = mpt_options_begin(&usage, argc, argv, &count);
    return code >= 0 ? code : export_model(argv[0], out, format);
}

int mpt_cmd_ckpt(int argc, char **argv)
{
    static const mpt_verb_t verbs[] = {
        {"info", cmd_info, "describe a checkpoint"},
        {"fsck", cmd_fsck, "verify every byte of a checkpoint"},
        {"export", cmd_export, "write a model file from a checkpoint"},
        {"import", NULL, "write a checkpoint from a model file"},
    };
    int verb_count = sizeof(verbs) / sizeof(verbs[0]);
    if (argc > 0 && strcmp(argv[0], "--help") != 0 && strcmp(argv[0], "-h") != 0)
        return mpt_verb_run("mpt-ddp ckpt", verbs, verb_count, argc, argv);
    return mpt_verb_help("mpt-ddp ckpt", verbs, verb_count, argc);
}
