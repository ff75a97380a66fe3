#include <sched.h>
#include <stdio.h>
#include <string.h>
#include "bench.h"
#include "launch.h"
#include "options.h"

#define DEFAULT_THREADS 2
#define MAX_CONFIG 2048
#define MAX_OVERRIDES (MPT_OPTION_LIST_MAX + 8)

/* GPT-2 124M, as everybody measures it. */
#define MICRO_BATCH 4
#define MICRO_STEPS 4
#define CONTEXT 1024
#define VOCAB 50257
#define PADDED_VOCAB 50304
#define TOKENS (8 * MICRO_BATCH * MICRO_STEPS * CONTEXT + 1)

static const char *const type_names[MPT_BENCH_TYPES] = {"bf16", "fp32", "fp16"};

typedef struct mpt_bench_run {
    const char *config_path; /* NULL: GPT-2 124M */
    mpt_option_list_t overrides;
    const char *types; /* NULL: all, or the config's own */
    int64_t steps;     /* 0: as many as suit the type */
    int64_t threads;   /* 0: the config's */
    int as_json;
    mpt_bench_place_t place;
    cpu_set_t cores; /* allowed to this process when it started */
    char config[MAX_CONFIG];
} mpt_bench_run_t;

static void write_config(mpt_bench_run_t *run)
{
    snprintf(run->config, sizeof(run->config),
             "model {\n layers = 12\n heads = 12\n dim = 768\n context = %d\n vocab = %d\n}\n"
             "data {\n train = \"%s\"\n}\n"
             "train {\n steps = 100000\n global_batch = %d\n micro_batch = %d\n}\n"
             "parallel {\n shard = ddp\n}\n",
             CONTEXT, VOCAB, run->place.tokens, MICRO_BATCH * MICRO_STEPS, MICRO_BATCH);
}

/* What every measured session changes in its config; `words` holds the text. Returns how many. */
static int list_overrides(const mpt_bench_run_t *run, const char *type, char words[5][96],
                          const char **list)
{
    int count = 0;
    list[count++] = "checkpoint.every=0";
    list[count++] = "train.val_every=0";
    snprintf(words[0], sizeof(words[0]), "checkpoint.dir=%s", run->place.dir);
    snprintf(words[1], sizeof(words[1]), "log.dir=%s", run->place.dir);
    list[count++] = words[0];
    list[count++] = words[1];
    if (type) {
        snprintf(words[2], sizeof(words[2]), "precision.compute=%s", type);
        list[count++] = words[2];
    }
    if (run->threads > 0) {
        snprintf(words[3], sizeof(words[3]), "threads=%lld", (long long)run->threads);
        list[count++] = words[3];
    }
    for (int i = 0; i < run->overrides.count; i++)
        list[count++] = run->overrides.items[i];
    return count;
}

/* Steps worth timing: fp32 and fp16 take several times as long. */
static int steps_for(const mpt_bench_run_t *run, const char *type)
{
    if (run->steps > 0)
        return (int)run->steps;
    return type && strcmp(type, "bf16") != 0 ? 1 : 2;
}

/* type NULL: the config's own. The result goes to the slot of the type that the session says it ran. */
static mpt_status_t measure_type(const mpt_bench_run_t *run, const char *type,
                                 mpt_bench_report_t *report)
{
    char words[5][96];
    const char *overrides[MAX_OVERRIDES];
    int count = list_overrides(run, type, words, overrides);
    const mpt_config_source_t config = {
        .text = run->config_path ? NULL : run->config,
        .path = run->config_path ? run->config_path : "bench",
        .overrides = overrides,
        .override_count = count,
    };
    mpt_bench_result_t result;
    mpt_status_t status = mpt_bench_measure(&config, steps_for(run, type), &result);
    /* A session may have bound this thread to its cores. */
    sched_setaffinity(0, sizeof(run->cores), &run->cores);
    if (status != MPT_OK)
        return status;
    for (int i = 0; i < MPT_BENCH_TYPES; i++)
        if (strcmp(type_names[i], result.compute) == 0)
            report->types[i] = result;
    report->threads = result.threads;
    return MPT_OK;
}

static void measure_peak(mpt_bench_report_t *report)
{
    const char *isa = "";
    double peak = mpt_measure_peak("bf16", report->threads, &isa);
    if (peak > report->peak_flops)
        report->peak_flops = peak;
    snprintf(report->peak_isa, sizeof(report->peak_isa), "%s", isa);
}

static void measure_onednn(mpt_bench_report_t *report)
{
    static const mpt_bench_linear_t gpt2[] = {
        {MICRO_BATCH * CONTEXT, 768, 2304, 12},        {MICRO_BATCH * CONTEXT, 768, 768, 12},
        {MICRO_BATCH * CONTEXT, 768, 3072, 12},        {MICRO_BATCH * CONTEXT, 3072, 768, 12},
        {MICRO_BATCH * CONTEXT, 768, PADDED_VOCAB, 1},
    };
    fprintf(stderr, "fp32: the same products by oneDNN\n");
    report->onednn_flops =
        mpt_bench_onednn_fp32(gpt2, sizeof(gpt2) / sizeof(gpt2[0]), report->threads);
}

static int is_wanted(const mpt_bench_run_t *run, const char *type)
{
    return !run->types || strstr(run->types, type) != NULL;
}

static mpt_status_t measure_all(const mpt_bench_run_t *run, mpt_bench_report_t *report)
{
    for (int i = 0; i < MPT_BENCH_TYPES; i++) {
        if (!is_wanted(run, type_names[i]))
            continue;
        mpt_status_t status = measure_type(run, type_names[i], report);
        if (status != MPT_OK)
            return status;
        if (i == MPT_BENCH_FP32 && !run->config_path)
            measure_onednn(report);
    }
    return MPT_OK;
}

static int bench(mpt_bench_run_t *run)
{
    mpt_bench_report_t report = {.model = run->config_path ? run->config_path : "GPT-2 124M",
                                 .threads = run->threads > 0 ? (int)run->threads : 1};
    mpt_status_t status = mpt_bench_place_create(&run->place, run->config_path ? 2 : TOKENS, VOCAB);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    write_config(run);
    sched_getaffinity(0, sizeof(run->cores), &run->cores);
    if (!run->config_path)
        measure_peak(&report);
    status = run->config_path && !run->types ? measure_type(run, NULL, &report)
                                             : measure_all(run, &report);
    mpt_bench_place_destroy(&run->place);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    measure_peak(&report);
    if (run->as_json)
        mpt_bench_print_json(&report);
    else
        mpt_bench_print(&report);
    return 0;
}

/* Returns -1: fine; else the exit code. */
static int check_types(const char *types)
{
    static const char separators[] = ",";
    for (const char *word = types; word && *word;) {
        size_t length = strcspn(word, separators);
        int known = 0;
        for (int i = 0; i < MPT_BENCH_TYPES; i++)
            known |= length == 4 && strncmp(word, type_names[i], 4) == 0;
        if (!known) {
            fprintf(stderr, "mpt-ddp bench step: --compute %s: of bf16, fp32, fp16, with commas\n",
                    types);
            return MPT_EXIT_USAGE;
        }
        word += length;
        word += strspn(word, separators);
    }
    return -1;
}

int mpt_bench_step(int argc, char **argv)
{
    mpt_bench_run_t run = {.steps = 0};
    int all = 0, count, code;
    const mpt_option_t options[] = {
        {"--steps", "K", "timed steps of each type, after a warm-up (bf16 2, others 1)",
         MPT_OPTION_INT, &run.steps, 1, 1000},
        {"--threads", "N", "threads (2; with a config, the config's)", MPT_OPTION_INT, &run.threads,
         1, 4096},
        {"--compute", "TYPES", "measure these: bf16,fp32,fp16", MPT_OPTION_TEXT, &run.types, 0, 0},
        {"--all", NULL, "with a config: all three types, not only its own", MPT_OPTION_FLAG, &all,
         0, 0},
        {"--set", "section.key=value", "change one key of the config; may be given again",
         MPT_OPTION_LIST, &run.overrides, 0, 0},
        {"--json", NULL, "one JSON object instead of tables", MPT_OPTION_FLAG, &run.as_json, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp bench step",
        .arguments = "[model.cfg]",
        .about = "Time whole training steps on one rank and compare them with the matrix peak "
                 "measured in the\nsame run. Without a config: GPT-2 124M, micro-batch 4 x 1024 "
                 "tokens, 4 micro-steps and the\noptimizer, on made-up tokens, in bf16, fp32 and "
                 "fp16.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 0,
        .max_arguments = 1,
    };
    code = mpt_options_begin(&usage, argc, argv, &count);
    if (code < 0)
        code = check_types(run.types);
    if (code >= 0)
        return code;
    run.config_path = count > 0 ? argv[0] : NULL;
    if (!run.config_path && run.threads == 0)
        run.threads = DEFAULT_THREADS;
    if (all && !run.types)
        run.types = "bf16,fp32,fp16";
    return bench(&run);
}
