#include <stdio.h>
#include <string.h>
#include "format.h"
#include "launch.h"
#include "options.h"

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
    printf("  %-10s %s, FP32 each\n", "holds", info->kinds);
    printf("  %-10s %s, loss scale %g (%s)\n", "run", info->compute, info->loss_scale,
           info->dynamic_scale ? "dynamic" : "fixed");
    printf("  %-10s %d rank%s%s%s\n", "saved by", info->saved_ranks,
           info->saved_ranks == 1 ? "" : "s", info->shard[0] ? ", " : "", info->shard);
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

static int export_model(const mpt_checkpoint_export_params_t *params)
{
    mpt_checkpoint_export_result_t result;
    mpt_status_t status = mpt_checkpoint_export(params, &result);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    printf("%s: %s of step %lld as %s, %s, %s\n", params->out, result.kinds, (long long)result.step,
           result.format, result.dtype, mpt_format_bytes((double)result.bytes).s);
    if (!result.exact)
        printf("rounded to %s: what is read back is not exactly what was trained\n", result.dtype);
    return 0;
}

static int cmd_export(int argc, char **argv)
{
    mpt_checkpoint_export_params_t params = {.log = mpt_log_quiet};
    int64_t version = 0;
    const mpt_option_t options[] = {
        {"--format", "NAME", "llmc or safetensors (by OUT's name: .bin, .safetensors)",
         MPT_OPTION_TEXT, &params.format, 0, 0},
        {"--weights", "NAME", "only these: master, or ema, their moving average", MPT_OPTION_TEXT,
         &params.weights, 0, 0},
        {"--dtype", "NAME", "fp32, or bf16: only weights, rounded (fp32)", MPT_OPTION_TEXT,
         &params.dtype, 0, 0},
        {"--version", "V", "of llm.c's files: 3 is fp32, 5 bf16 (by --dtype)", MPT_OPTION_INT,
         &version, 3, 5},
        {"--force", NULL, "replace OUT where it exists", MPT_OPTION_FLAG, &params.force, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp ckpt export",
        .arguments = "PATH OUT",
        .about =
            "Write a model file from a checkpoint, or from the newest one in a run's folder: the\n"
            "weights for llm.c, or all that the checkpoint holds as safetensors. Values keep "
            "their\n"
            "bits unless --dtype bf16 rounds them.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 2,
        .max_arguments = 2,
    };
    int count, code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    params.checkpoint = argv[0];
    params.out = argv[1];
    params.version = (int)version;
    return export_model(&params);
}

static int import_model(const mpt_checkpoint_import_params_t *params)
{
    mpt_checkpoint_import_result_t result;
    mpt_status_t status = mpt_checkpoint_import(params, &result);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    printf("%s: %s of %s parameters from %s\n", result.path, result.kinds,
           mpt_format_si((double)result.parameters).s, params->file);
    if (result.fresh)
        printf("the file holds no moments: they are zero, and the run starts at its first step\n");
    return 0;
}

static int cmd_import(int argc, char **argv)
{
    mpt_checkpoint_import_params_t params = {.log = mpt_log_quiet};
    const mpt_option_t options[] = {
        {"--force", NULL, "also where DIR holds checkpoints; later ones are set aside",
         MPT_OPTION_FLAG, &params.force, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp ckpt import",
        .arguments = "FILE DIR",
        .about =
            "Make a checkpoint in the folder DIR, for --resume DIR, of a model file: llm.c's, or\n"
            "safetensors as ckpt export writes them.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 2,
        .max_arguments = 2,
    };
    int count, code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    params.file = argv[0];
    params.dir = argv[1];
    return import_model(&params);
}

int mpt_cmd_ckpt(int argc, char **argv)
{
    static const mpt_verb_t verbs[] = {
        {"info", cmd_info, "describe a checkpoint"},
        {"fsck", cmd_fsck, "verify every byte of a checkpoint"},
        {"export", cmd_export, "write a model file from a checkpoint"},
        {"import", cmd_import, "write a checkpoint from a model file"},
    };
    int verb_count = sizeof(verbs) / sizeof(verbs[0]);
    if (argc > 0 && strcmp(argv[0], "--help") != 0 && strcmp(argv[0], "-h") != 0)
        return mpt_verb_run("mpt-ddp ckpt", verbs, verb_count, argc, argv);
    return mpt_verb_help("mpt-ddp ckpt", verbs, verb_count, argc);
}
