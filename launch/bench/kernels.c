/*
 * `mpt-ddp bench kernels`: every operation alone, in rounds: ours, the rival's, a copy, so that what the machine does
 * meanwhile meets all of them alike.
 */
#include "kernels.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include "launch.h"
#include "onednn.h"
#include "plot.h"

#define DEFAULT_THREADS 2
#define MIN_RUNS 5
#define MOST_RUNS 31     /* unless --runs asks for more */
#define ROW_S 1.5        /* that an operation's rounds may take together, but for MIN_RUNS of them */
#define HEAD_DIM 64

typedef struct kernels_run {
    const char *types; /* NULL: all */
    const char *only;  /* NULL: every operation */
    const char *svg;   /* NULL: no picture */
    int64_t threads, runs; /* 0: by default */
    int as_json;
    mpt_rival_t rival;
    mpt_bench_kernels_report_t report;
} kernels_run_t;

/* ---- one operation -------------------------------------------------------------------------------------------- */

typedef struct samples {
    double own[MPT_BENCH_MAX_RUNS], rival[MPT_BENCH_MAX_RUNS];
    double copy[MPT_BENCH_COPY_WAYS][MPT_BENCH_MAX_RUNS]; /* bytes/s */
} samples_t;

static mpt_status_t time_own(mpt_bench_ops_t *ops, double *seconds_p)
{
    double start = mpt_bench_now();
    mpt_status_t status = mpt_bench_ops_run(ops);
    *seconds_p = mpt_bench_now() - start;
    return status;
}

/* Not finite where one run failed. */
static double median_rival(double *seconds, int runs)
{
    for (int i = 0; i < runs; i++)
        if (!isfinite(seconds[i]))
            return NAN;
    return mpt_bench_median(seconds, runs);
}

static int runs_for(const kernels_run_t *run, double round_s)
{
    double fitting = ROW_S / round_s;
    if (run->runs > 0)
        return (int)run->runs;
    return fitting < MIN_RUNS ? MIN_RUNS : fitting > MOST_RUNS ? MOST_RUNS : (int)fitting;
}

static mpt_status_t run_round(kernels_run_t *run, mpt_bench_ops_t *ops, const mpt_bench_kernel_t *row, int has_rival,
                              int i, samples_t *s)
{
    mpt_status_t status = time_own(ops, &s->own[i]);
    if (has_rival)
        s->rival[i] = mpt_rival_run(&run->rival);
    for (int w = 0; w < MPT_BENCH_COPY_WAYS && row->op.flops == 0; w++)
        s->copy[w][i] = mpt_bench_copy_time(ops, w, row->op.bytes);
    return status;
}

/* One round warms up, a second says how long rounds take. */
static mpt_status_t run_rounds(kernels_run_t *run, mpt_bench_ops_t *ops, mpt_bench_kernel_t *row, int has_rival,
                               samples_t *s)
{
    double start = 0;
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < 2 && status == MPT_OK; i++) {
        start = mpt_bench_now();
        status = run_round(run, ops, row, has_rival, 0, s);
    }
    row->runs = runs_for(run, mpt_bench_now() - start);
    for (int i = 0; i < row->runs && status == MPT_OK; i++)
        status = run_round(run, ops, row, has_rival, i, s);
    return status;
}

static mpt_status_t measure_row(kernels_run_t *run, mpt_bench_ops_t *ops, int index, const char *compute,
                                mpt_bench_kernel_t *row)
{
    samples_t s;
    int has_rival = row->op.product.m > 0 && mpt_rival_prepare(&run->rival, &row->op.product, compute);
    mpt_status_t status = mpt_bench_ops_prepare(ops, index);
    if (status == MPT_OK)
        status = run_rounds(run, ops, row, has_rival, &s);
    if (status != MPT_OK)
        return status;
    row->seconds = mpt_bench_median(s.own, row->runs);
    row->rival_s = has_rival ? median_rival(s.rival, row->runs) : NAN;
    row->copy_bytes_per_s = row->op.flops == 0 ? mpt_bench_copy_best(s.copy, row->runs) : NAN;
    if (has_rival)
        snprintf(row->rival_path, sizeof(row->rival_path), "%s", run->rival.path);
    fprintf(stderr, "%s: %s: %.3f ms\n", compute, row->name, 1e3 * row->seconds);
    return MPT_OK;
}

/* ---- one compute type ----------------------------------------------------------------------------------------- */

static mpt_status_t open_ops(const kernels_run_t *run, const char *compute, mpt_bench_ops_t **ops_p)
{
    const mpt_bench_kernels_report_t *r = &run->report;
    return mpt_bench_ops_open(&(mpt_bench_ops_params_t){.compute = compute,
                                                        .threads = (int)run->threads,
                                                        .batch = r->batch,
                                                        .seq = r->seq,
                                                        .dim = r->dim,
                                                        .heads = r->heads,
                                                        .vocab = r->vocab,
                                                        .log = mpt_log_quiet},
                              ops_p);
}

static void begin_row(const mpt_bench_op_t *op, mpt_bench_kernel_t *row)
{
    *row = (mpt_bench_kernel_t){.op = *op};
    snprintf(row->name, sizeof(row->name), "%s", op->name);
    snprintf(row->group, sizeof(row->group), "%s", op->group);
}

/* The peak is taken again before each operation that it limits: processors change their clocks. */
static mpt_status_t measure_rows(kernels_run_t *run, mpt_bench_ops_t *ops, mpt_bench_kernels_type_t *type)
{
    double peaks[MPT_BENCH_MAX_ROWS + 1] = {mpt_bench_ops_peak(ops)};
    int peak_count = 1, count = mpt_bench_ops_count(ops);
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < count && status == MPT_OK; i++) {
        mpt_bench_op_t op;
        mpt_bench_ops_describe(ops, i, &op);
        if (!mpt_bench_fits(op.name, run->only))
            continue;
        begin_row(&op, &type->rows[type->row_count]);
        if (op.flops > 0)
            peaks[peak_count++] = mpt_bench_ops_peak(ops);
        status = measure_row(run, ops, i, type->compute, &type->rows[type->row_count++]);
    }
    type->peak_flops = mpt_bench_median(peaks, peak_count);
    return status;
}

static mpt_status_t measure_type(kernels_run_t *run, int index)
{
    mpt_bench_ops_t *ops;
    mpt_bench_ops_info_t info;
    mpt_bench_kernels_type_t *type = &run->report.types[index];
    snprintf(type->compute, sizeof(type->compute), "%s", mpt_bench_type_name(index));
    mpt_status_t status = open_ops(run, type->compute, &ops);
    if (status != MPT_OK)
        return status;
    mpt_bench_ops_info(ops, &info);
    snprintf(type->kernels, sizeof(type->kernels), "%s", info.kernels);
    snprintf(type->isa, sizeof(type->isa), "%s", info.isa);
    type->threads = info.threads;
    type->copy_bytes_per_s = mpt_bench_copy_rate(ops);
    status = measure_rows(run, ops, type);
    type->measured = status == MPT_OK;
    mpt_bench_ops_close(ops);
    return status;
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* The list is the same in every type; FP32 has the largest operands. *count_p: operations that --only leaves. */
static mpt_status_t look_through(const kernels_run_t *run, int *count_p, size_t *operand_bytes_p)
{
    mpt_bench_ops_t *ops;
    double most = 0;
    mpt_status_t status = open_ops(run, "fp32", &ops);
    if (status != MPT_OK)
        return status;
    *count_p = 0;
    for (int i = 0; i < mpt_bench_ops_count(ops); i++) {
        mpt_bench_op_t op;
        mpt_bench_ops_describe(ops, i, &op);
        const mpt_bench_product_t *p = &op.product;
        if (!mpt_bench_fits(op.name, run->only))
            continue;
        *count_p += 1;
        most = larger(most, larger((double)p->m * (double)p->n, (double)p->k * (double)(p->m > p->n ? p->m : p->n)));
    }
    mpt_bench_ops_close(ops);
    *operand_bytes_p = (size_t)most * sizeof(float);
    return MPT_OK;
}

static mpt_status_t measure(kernels_run_t *run, size_t operand_bytes)
{
    const dnnl_version_t *version = dnnl_version();
    mpt_status_t status = MPT_OK;
    snprintf(run->report.rival_version, sizeof(run->report.rival_version), "%d.%d.%d", version->major,
             version->minor, version->patch);
    if (operand_bytes > 0)
        mpt_rival_open(&run->rival, (int)run->threads, operand_bytes);
    for (int i = 0; i < MPT_BENCH_TYPES && status == MPT_OK; i++)
        if (mpt_bench_types_have(run->types, i))
            status = measure_type(run, i);
    mpt_rival_close(&run->rival);
    memcpy(run->report.rival_notes, run->rival.notes, sizeof(run->report.rival_notes));
    return status;
}

static mpt_status_t show(const kernels_run_t *run)
{
    if (run->as_json)
        mpt_bench_kernels_print_json(&run->report);
    else
        mpt_bench_kernels_print(&run->report);
    fflush(stdout);
    return run->svg ? mpt_bench_kernels_plot(&run->report, run->svg) : MPT_OK;
}

static mpt_status_t bench(kernels_run_t *run)
{
    int count = 0;
    size_t operand_bytes = 0;
    mpt_status_t status = look_through(run, &count, &operand_bytes);
    if (status == MPT_OK && count == 0) {
        fprintf(stderr, "mpt-ddp bench kernels: --only %s: no such operation\n", run->only);
        status = MPT_ERR_CONFIG;
    }
    if (status == MPT_OK && run->svg)
        status = mpt_plot_check("mpt-ddp bench kernels", run->svg);
    if (status == MPT_OK)
        status = measure(run, operand_bytes);
    return status == MPT_OK ? show(run) : status;
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

static mpt_parsed_t check_words(kernels_run_t *run, char *message)
{
    cpu_set_t cores;
    int types = run->types ? mpt_bench_types_count(run->types) : MPT_BENCH_TYPES;
    if (types == 0) {
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "mpt-ddp bench kernels: --compute %s: of bf16, fp32, fp16, tf32, with commas", run->types);
        return MPT_PARSED_ERROR;
    }
    if (run->report.dim % HEAD_DIM != 0) {
        snprintf(message, MPT_OPTIONS_MESSAGE, "mpt-ddp bench kernels: --dim %lld: not a multiple of %d",
                 (long long)run->report.dim, HEAD_DIM);
        return MPT_PARSED_ERROR;
    }
    run->report.heads = run->report.dim / HEAD_DIM;
    if (run->threads == 0)
        run->threads = sched_getaffinity(0, sizeof(cores), &cores) == 0 && CPU_COUNT(&cores) < DEFAULT_THREADS
                           ? 1
                           : DEFAULT_THREADS;
    return MPT_PARSED_RUN;
}

/* Returns -1: go on; else the exit code. */
static int parse_words(kernels_run_t *run, int argc, char **argv)
{
    mpt_bench_kernels_report_t *r = &run->report;
    const mpt_option_t options[] = {
        {"--threads", "N", "threads of ours and of oneDNN (2, or the cores)", MPT_OPTION_INT, &run->threads, 1, 256},
        {"--compute", "TYPES", "in these: bf16,fp32,fp16,tf32 (all but tf32)", MPT_OPTION_TEXT, &run->types, 0, 0},
        {"--only", "PATTERN", "operations whose name has this in it, or matches it: 'qkv*'", MPT_OPTION_TEXT,
         &run->only, 0, 0},
        {"--runs", "K", "timed runs of each (5 to 31, by their length)", MPT_OPTION_INT, &run->runs, 1,
         MPT_BENCH_MAX_RUNS},
        {"--micro-batch", "B", "sequences (4)", MPT_OPTION_INT, &r->batch, 1, 65536},
        {"--context", "T", "tokens of a sequence (1024)", MPT_OPTION_INT, &r->seq, 1, 65536},
        {"--dim", "C", "the model's width, a multiple of 64 (768)", MPT_OPTION_INT, &r->dim, 64, 16384},
        {"--vocab", "V", "its vocabulary (50257)", MPT_OPTION_INT, &r->vocab, 1, 1 << 20},
        {"--svg", "FILE", "also draw a roofline (needs gnuplot)", MPT_OPTION_TEXT, &run->svg, 0, 0},
        {"--json", NULL, "one JSON object instead of tables", MPT_OPTION_FLAG, &run->as_json, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp bench kernels",
        .arguments = "",
        .about =
            "Time each operation of a training step alone, at the shapes and with the fusions of GPT-2 124M:\n"
            "products, attention, norms, loss, optimizer and the passes over gradients. Run it without mpirun.\n\n"
            "Each is compared with its limit: matrix products with the peak of products fed from L1, everything\n"
            "else with a copy of as many bytes, read and written. Products are compared with oneDNN's, in turn, on\n"
            "as many threads: bare ones, without the bias, GELU, slope or accumulation that ours include, and the\n"
            "fastest of what oneDNN has. It runs in a process of its own; where an implementation dies (those for\n"
            "tiles raise SIGILL on some virtual machines) the next one runs, and the table says so. Times are\n"
            "medians over rounds in which all take turns; \"over it\" above 1 means faster than oneDNN.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    char message[MPT_OPTIONS_MESSAGE];
    int count = 0;
    mpt_parsed_t parsed = mpt_options_parse(&usage, argc, argv, &count, message);
    if (parsed == MPT_PARSED_RUN)
        parsed = check_words(run, message);
    return parsed == MPT_PARSED_RUN ? -1 : mpt_bench_answer(&usage, parsed, message);
}

int mpt_bench_kernels(int argc, char **argv)
{
    kernels_run_t *run = calloc(1, sizeof(*run));
    if (!run)
        return mpt_status_exit_code(MPT_ERR_NO_MEMORY);
    run->report = (mpt_bench_kernels_report_t){.batch = MPT_BENCH_MICRO_BATCH,
                                               .seq = MPT_BENCH_CONTEXT,
                                               .dim = MPT_BENCH_DIM,
                                               .vocab = MPT_BENCH_VOCAB};
    int code = parse_words(run, argc, argv);
    if (code < 0)
        code = mpt_status_exit_code(bench(run));
    free(run);
    return code;
}
