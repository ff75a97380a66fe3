#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include "bench.h"
#include "launch.h"
#include "options.h"

#define DEFAULT_THREADS 2
#define MICRO_STEPS 4
#define SEQUENCES (MPT_BENCH_MICRO_BATCH * MICRO_STEPS)
#define PADDED_VOCAB 50304
#define TOKENS (8 * SEQUENCES * MPT_BENCH_CONTEXT + 1)

typedef struct mpt_bench_run {
    const char *config_path; /* NULL: GPT-2 124M */
    mpt_option_list_t overrides;
    const char *shards; /* NULL: one rank, type by type */
    const char *types;  /* NULL: all, or the config's own */
    int64_t steps;      /* 0: as many as suit the type */
    int64_t threads;    /* 0: the config's */
    int all_types, as_json;
    mpt_bench_place_t place;
    cpu_set_t cores; /* allowed to this process when it started */
    char config[MPT_BENCH_CONFIG_BYTES];
} mpt_bench_run_t;

/* Steps worth timing: fp32 and fp16 take several times as long. */
static int steps_for(const mpt_bench_run_t *run, const char *type)
{
    if (run->steps > 0)
        return (int)run->steps;
    return type && strcmp(type, "bf16") != 0 ? 1 : 2;
}

/* The rival right before each of our steps and after the last, since a machine's speed drifts within minutes. */
typedef struct rival_times {
    const mpt_bench_run_t *run;
    double inverse_rates; /* added up: the mean of the times counts */
    int count, failed;
} rival_times_t;

static void time_rival(void *ctx, int threads)
{
    const int64_t rows = MPT_BENCH_MICRO_BATCH * MPT_BENCH_CONTEXT;
    const mpt_bench_linear_t gpt2[] = {
        {rows, 768, 2304, 12}, {rows, 768, 768, 12},         {rows, 768, 3072, 12},
        {rows, 3072, 768, 12}, {rows, 768, PADDED_VOCAB, 1},
    };
    rival_times_t *times = ctx;
    cpu_set_t ours;
    sched_getaffinity(0, sizeof(ours), &ours);
    sched_setaffinity(0, sizeof(times->run->cores), &times->run->cores);
    fprintf(stderr, "fp32: the same products by oneDNN\n");
    double rate = mpt_bench_onednn_fp32(gpt2, sizeof(gpt2) / sizeof(gpt2[0]), threads);
    sched_setaffinity(0, sizeof(ours), &ours);
    times->failed |= !(rate > 0);
    times->inverse_rates += 1 / rate;
    times->count++;
}

/* The session has taken the peak when it opened; on a machine that others use the better of two counts. */
static void raise_peak(mpt_bench_result_t *result)
{
    const char *isa;
    double peak = mpt_measure_peak(result->compute, result->threads, &isa);
    if (peak > result->peak_flops)
        result->peak_flops = peak;
}

/* type NULL: the config's own. The result goes to the slot of the type that the session says it ran. */
static mpt_status_t measure_type(const mpt_bench_run_t *run, const char *type, mpt_bench_aside_t aside,
                                 mpt_bench_report_t *report)
{
    mpt_bench_overrides_t overrides;
    mpt_bench_overrides_begin(&overrides, run->place.dir, type, run->threads);
    if (!run->config_path)
        mpt_bench_overrides_add(&overrides, "parallel.shard=ddp");
    for (int i = 0; i < run->overrides.count; i++)
        mpt_bench_overrides_borrow(&overrides, run->overrides.items[i]);
    mpt_bench_overrides_add(&overrides, "log.dir=%s", run->place.dir);
    const mpt_config_source_t config =
        mpt_bench_config_source(run->config_path, run->config, &overrides);
    mpt_bench_result_t result;
    mpt_status_t status = mpt_bench_measure(&config, steps_for(run, type), aside, &result);
    /* A session may have bound this thread to its cores. */
    sched_setaffinity(0, sizeof(run->cores), &run->cores);
    if (status != MPT_OK)
        return status;
    raise_peak(&result);
    for (int i = 0; i < MPT_BENCH_TYPES; i++)
        if (strcmp(mpt_bench_type_name(i), result.compute) == 0)
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

/* Taken again before each type and after the last, and the best counts: what two cores copy together changes with where the host
 * runs them. */
static void measure_copy(mpt_bench_report_t *report)
{
    double rate = mpt_bench_copy_measure(report->threads);
    if (isfinite(rate) && !(report->copy_bytes_per_s >= rate))
        report->copy_bytes_per_s = rate;
}

static mpt_status_t measure_fp32(const mpt_bench_run_t *run, mpt_bench_report_t *report)
{
    rival_times_t times = {.run = run};
    mpt_status_t status =
        measure_type(run, mpt_bench_type_name(MPT_BENCH_FP32), (mpt_bench_aside_t){time_rival, &times}, report);
    if (status == MPT_OK && !times.failed)
        report->onednn_flops = times.count / times.inverse_rates;
    return status;
}

static mpt_status_t measure_all(const mpt_bench_run_t *run, mpt_bench_report_t *report)
{
    const mpt_bench_aside_t none = {0};
    for (int i = 0; i < MPT_BENCH_TYPES; i++) {
        if (!mpt_bench_types_have(run->types, i))
            continue;
        if (!run->config_path)
            measure_copy(report);
        mpt_status_t status = i == MPT_BENCH_FP32 && !run->config_path
                                  ? measure_fp32(run, report)
                                  : measure_type(run, mpt_bench_type_name(i), none, report);
        if (status != MPT_OK)
            return status;
    }
    if (!run->config_path)
        measure_copy(report);
    return MPT_OK;
}

static int bench(mpt_bench_run_t *run)
{
    mpt_bench_report_t report = {.model = run->config_path ? run->config_path : "GPT-2 124M",
                                 .threads = run->threads > 0 ? (int)run->threads : 1,
                                 .copy_bytes_per_s = NAN};
    mpt_status_t status =
        mpt_bench_place_create(&run->place, run->config_path ? 2 : TOKENS, MPT_BENCH_VOCAB);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    mpt_bench_config_write(&run->place, SEQUENCES, run->config);
    sched_getaffinity(0, sizeof(run->cores), &run->cores);
    if (!run->config_path) {
        measure_peak(&report);
    }
    status = run->config_path && !run->types ? measure_type(run, NULL, (mpt_bench_aside_t){0}, &report)
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

/* What the option table cannot check. */
static mpt_parsed_t check_words(const mpt_bench_run_t *run, char *message)
{
    static const char command[] = "mpt-ddp bench step";
    int types = run->types ? mpt_bench_types_count(run->types) : 1;
    if (run->types && *run->types && types == 0)
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: --compute %s: of bf16, fp32, fp16, tf32, with commas",
                 command, run->types);
    else if (run->shards && !mpt_bench_shards_known(run->shards))
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "%s: --shard %s: of ddp, zero1, zero2, zero3, hsdp, each once, with commas",
                 command, run->shards);
    else if (run->shards && (types != 1 || run->all_types))
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "%s: --shard compares modes in one type; name it with --compute", command);
    else
        return MPT_PARSED_RUN;
    return MPT_PARSED_ERROR;
}

/* Returns -1: go on; else the exit code. */
static int parse_words(mpt_bench_run_t *run, int argc, char **argv)
{
    const mpt_option_t options[] = {
        {"--shard", "MODES", "compare these, on every rank: ddp,zero1,zero2,zero3,hsdp",
         MPT_OPTION_TEXT, &run->shards, 0, 0},
        {"--steps", "K",
         "timed steps of each type, after a warm-up (bf16 2, others 1), or mode (4)",
         MPT_OPTION_INT, &run->steps, 1, MPT_BENCH_MAX_STEPS},
        {"--threads", "N", "threads of a rank (2; with a config or --shard, the config's)",
         MPT_OPTION_INT, &run->threads, 1, 4096},
        {"--compute", "TYPES", "measure these: bf16,fp32,fp16,tf32 (all but tf32); with --shard one of them",
         MPT_OPTION_TEXT, &run->types, 0, 0},
        {"--all", NULL, "with a config: all three types, not only its own", MPT_OPTION_FLAG,
         &run->all_types, 0, 0},
        {"--set", "section.key=value", "change one key of the config, not log.dir; may be given again",
         MPT_OPTION_LIST, &run->overrides, 0, 0},
        {"--json", NULL, "one JSON object instead of tables", MPT_OPTION_FLAG, &run->as_json, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp bench step",
        .arguments = "[model.cfg]",
        .about =
            "Time whole training steps on one rank and compare them with the matrix peak "
            "measured in the\nsame run. Without a config: GPT-2 124M, micro-batch 4 x 1024 "
            "tokens, 4 micro-steps and the\noptimizer, on made-up tokens, in bf16, fp32 and "
            "fp16.\n\n"
            "With --shard, alone or under mpirun: time the same steps in each shard mode, the "
            "modes in turn, and\ncount what they send. Without a config: GPT-2 124M in bf16, "
            "micro-batch 4 x 1024 tokens, 2\nmicro-steps a rank. Sessions stay open from turn to "
            "turn where all of them fit into half of the\nfree memory; else each turn opens one, "
            "warms it up and times 2 steps. \"over ddp\" is the median, over\nsteps, of a step's "
            "time over that of ddp's step of the same round. hsdp shares one copy among half\nof "
            "the ranks, unless --set parallel.shard_ranks=K says otherwise. Modes that the config "
            "or the\nmemory refuses are named and left out.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 0,
        .max_arguments = 1,
    };
    char message[MPT_OPTIONS_MESSAGE];
    int count = 0;
    mpt_parsed_t parsed = mpt_options_parse(&usage, argc, argv, &count, message);
    if (parsed == MPT_PARSED_RUN)
        parsed = check_words(run, message);
    run->config_path = count > 0 ? argv[0] : NULL;
    return parsed == MPT_PARSED_RUN ? -1 : mpt_bench_answer(&usage, parsed, message);
}

static int bench_shards(const mpt_bench_run_t *run)
{
    return mpt_bench_shards(&(mpt_bench_shards_params_t){.config_path = run->config_path,
                                                         .modes = run->shards,
                                                         .compute = run->types,
                                                         .overrides = &run->overrides,
                                                         .steps = run->steps,
                                                         .threads = run->threads,
                                                         .as_json = run->as_json});
}

int mpt_bench_step(int argc, char **argv)
{
    mpt_bench_run_t run = {.steps = 0};
    int code = parse_words(&run, argc, argv);
    if (code >= 0)
        return code;
    if (run.shards)
        return bench_shards(&run);
    if (!run.config_path && run.threads == 0)
        run.threads = DEFAULT_THREADS;
    if (run.all_types && !run.types)
        run.types = "bf16,fp32,fp16";
    return bench(&run);
}
