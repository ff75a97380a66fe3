/*
 * `mpt-ddp bench comm`: every collective over a range of sizes, in rounds: ours, MPI's on the same buffers, copies on
 * all ranks at once, so that what the machine does meanwhile meets all of them alike.
 */
#include "comm.h"
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "launch.h"
#include "plot.h"
#include "world.h"

#define LEAST_BYTES 64
#define SIZE_STEP 8
#define DEFAULT_MOST 496000000 /* FP32 gradients of 124 million parameters */
#define BOUND_FROM (256 << 10) /* bytes; below it calls wait for each other more than they copy */
#define MIN_ROUNDS 3
#define MOST_ROUNDS 25
#define ROW_S 1.0 /* that a size's rounds may take, but for MIN_ROUNDS of them */
#define ROUND_S 2e-3 /* small calls are repeated until a round of them takes so long */
#define MOST_CALLS 1000
#define MPI_WORD ((size_t)4) /* MPI sums FP32 whatever our type: it has no 16-bit ones */

/* What takes turns in a round. */
enum { TURN_OWN, TURN_MPI, TURN_COPY, TURNS = TURN_COPY + MPT_BENCH_COPY_WAYS };

typedef struct comm_run {
    const char *types, *only, *svg; /* NULL: all, all, no picture */
    int64_t most, threads, rounds;  /* rounds 0: by default */
    int as_json;
    mpt_world_t world;
    mpt_bench_comm_t *comm;
    mpt_bench_comm_report_t report;
    double samples[TURNS][MPT_BENCH_MAX_STEPS];
} comm_run_t;

/* ---- turns ------------------------------------------------------------------------------------------------------- */

static int run_mpi(const comm_run_t *run, const mpt_bench_transfer_t *row)
{
    const mpt_bench_comm_info_t *info = &run->report.info;
    int count = (int)(row->bytes / MPI_WORD), share = count / info->ranks;
    switch (row->what) {
    case MPT_BENCH_ALL_REDUCE:
        return MPI_Allreduce(info->send, info->receive, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    case MPT_BENCH_REDUCE_SCATTER:
        return MPI_Reduce_scatter_block(info->send, info->receive, share, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    case MPT_BENCH_ALL_GATHER:
        return MPI_Allgather(MPI_IN_PLACE, 0, MPI_FLOAT, info->receive, share, MPI_FLOAT, MPI_COMM_WORLD);
    default:
        return MPI_Bcast(info->receive, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
    }
}

/* One call of a turn. */
static mpt_status_t call(comm_run_t *run, const mpt_bench_transfer_t *row, int turn)
{
    if (turn == TURN_OWN)
        return mpt_bench_comm_run(run->comm, row->what, strcmp(row->type, "bytes") == 0 ? "fp32" : row->type, row->bytes);
    if (turn == TURN_MPI)
        return run_mpi(run, row) == MPI_SUCCESS ? MPT_OK : MPT_ERR_COMM;
    mpt_bench_comm_copy(run->comm, turn - TURN_COPY, row->bytes);
    return MPT_OK;
}

static int has_turn(const comm_run_t *run, const mpt_bench_transfer_t *row, int turn)
{
    if (turn == TURN_OWN)
        return 1;
    return turn == TURN_MPI ? run->world.mpi : row->bytes >= BOUND_FROM;
}

/* All ranks start together; the mean of `calls` in a row. */
static mpt_status_t take_turn(comm_run_t *run, const mpt_bench_transfer_t *row, int turn, int calls, double *seconds_p)
{
    mpt_status_t status = MPT_OK;
    if (run->world.mpi)
        MPI_Barrier(MPI_COMM_WORLD);
    double start = mpt_bench_now();
    for (int i = 0; i < calls && status == MPT_OK; i++)
        status = call(run, row, turn);
    *seconds_p = (mpt_bench_now() - start) / calls;
    return status;
}

static mpt_status_t run_round(comm_run_t *run, const mpt_bench_transfer_t *row, int i)
{
    mpt_status_t status = MPT_OK;
    for (int turn = 0; turn < TURNS && status == MPT_OK; turn++)
        if (has_turn(run, row, turn))
            status = take_turn(run, row, turn, row->calls, &run->samples[turn][i]);
    return status;
}

/* The slowest rank's time is a round's. */
static mpt_status_t slowest(const comm_run_t *run, double *values, int count)
{
    if (run->world.mpi &&
        MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD) != MPI_SUCCESS)
        return MPT_ERR_COMM;
    return MPT_OK;
}

/* ---- one size ----------------------------------------------------------------------------------------------------- */

static int clamp(double value, int low, int high)
{
    return value < low ? low : value > high ? high : (int)value;
}

/* Two rounds of one call warm up and say how long a round takes; every rank decides the same. */
static mpt_status_t decide_rounds(comm_run_t *run, mpt_bench_transfer_t *row)
{
    double took[2] = {0, 0}; /* a call of ours; a round */
    mpt_status_t status = MPT_OK;
    row->calls = 1;
    for (int i = 0; i < 2 && status == MPT_OK; i++) {
        double start = mpt_bench_now();
        status = run_round(run, row, 0);
        took[1] = mpt_bench_now() - start;
    }
    took[0] = run->samples[TURN_OWN][0];
    if (status == MPT_OK)
        status = slowest(run, took, 2);
    row->calls = clamp(ROUND_S / took[0], 1, MOST_CALLS);
    row->rounds = run->rounds > 0 ? (int)run->rounds
                                  : clamp(ROW_S / (took[1] * row->calls), MIN_ROUNDS, MOST_ROUNDS);
    return status;
}

/* What the copies say: all ranks read and write 2 S bytes each in the faster of the ways. */
static double bound(comm_run_t *run, const mpt_bench_transfer_t *row)
{
    double copy_s = INFINITY, bytes = (double)row->bytes;
    double least = mpt_bench_bound_bytes(row->what, run->world.ranks, bytes);
    if (row->bytes < BOUND_FROM || least <= 0)
        return NAN;
    for (int w = 0; w < MPT_BENCH_COPY_WAYS; w++)
        copy_s = fmin(copy_s, mpt_bench_median(run->samples[TURN_COPY + w], row->rounds));
    return copy_s * least / (2 * bytes);
}

static mpt_status_t measure_row(comm_run_t *run, mpt_bench_transfer_t *row)
{
    mpt_status_t status = decide_rounds(run, row);
    for (int i = 0; i < row->rounds && status == MPT_OK; i++)
        status = run_round(run, row, i);
    for (int turn = 0; turn < TURNS && status == MPT_OK; turn++)
        if (has_turn(run, row, turn))
            status = slowest(run, run->samples[turn], row->rounds);
    if (status != MPT_OK)
        return status;
    row->seconds = mpt_bench_median(run->samples[TURN_OWN], row->rounds);
    row->mpi_s = run->world.mpi ? mpt_bench_median(run->samples[TURN_MPI], row->rounds) : NAN;
    row->bound_s = bound(run, row);
    if (run->world.rank == 0)
        fprintf(stderr, "%s: %s: %zu bytes: %.3f ms\n", mpt_bench_collective_name(row->what), row->type, row->bytes,
                1e3 * row->seconds);
    return MPT_OK;
}

/* ---- the list ------------------------------------------------------------------------------------------------------ */

/* Whole words, equal shares for the ranks. */
static size_t rounded(const comm_run_t *run, double bytes)
{
    size_t unit = MPI_WORD * (size_t)run->world.ranks;
    return (size_t)ceil(bytes / (double)unit) * unit;
}

static void list_sizes(comm_run_t *run, mpt_bench_collective_t what, const char *type)
{
    mpt_bench_comm_report_t *report = &run->report;
    double most = (double)run->most;
    for (double bytes = LEAST_BYTES; bytes < most; bytes *= SIZE_STEP)
        report->rows[report->row_count++] =
            (mpt_bench_transfer_t){.what = what, .type = type, .bytes = rounded(run, bytes)};
    report->rows[report->row_count++] =
        (mpt_bench_transfer_t){.what = what, .type = type, .bytes = rounded(run, most)};
}

static void list_rows(comm_run_t *run)
{
    for (int what = 0; what < MPT_BENCH_COLLECTIVES; what++) {
        int sums = what == MPT_BENCH_ALL_REDUCE || what == MPT_BENCH_REDUCE_SCATTER;
        if (!mpt_bench_fits(mpt_bench_collective_name(what), run->only))
            continue;
        for (int t = 0; t < MPT_BENCH_TF32 && sums; t++)
            if (mpt_bench_types_have(run->types, t))
                list_sizes(run, what, mpt_bench_type_name(t));
        if (!sums)
            list_sizes(run, what, "bytes");
    }
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

static mpt_status_t open_comm(comm_run_t *run)
{
    mpt_bench_comm_report_t *report = &run->report;
    mpt_status_t status = mpt_bench_comm_open(&(mpt_bench_comm_params_t){.boot = run->world.boot,
                                                                         .threads = (int)run->threads,
                                                                         .bytes = rounded(run, (double)run->most),
                                                                         .log = mpt_log_quiet},
                                              &run->comm);
    if (status != MPT_OK)
        return status;
    mpt_bench_comm_info(run->comm, &report->info);
    snprintf(report->comm, sizeof(report->comm), "%s", report->info.comm);
    snprintf(report->isa, sizeof(report->isa), "%s", report->info.isa);
    return MPT_OK;
}

/* "Open MPI v4.1.4, package: ..." up to the comma. */
static void name_mpi(comm_run_t *run)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length;
    if (!run->world.mpi || MPI_Get_library_version(text, &length) != MPI_SUCCESS)
        return;
    text[strcspn(text, ",\n")] = '\0';
    snprintf(run->report.mpi, sizeof(run->report.mpi), "%.60s", text);
}

/* Rank 0 looks; all learn. */
static mpt_status_t check_svg(const comm_run_t *run)
{
    int status = MPT_OK;
    if (run->svg && run->world.rank == 0)
        status = (int)mpt_plot_check("mpt-ddp bench comm", run->svg);
    if (run->world.mpi && MPI_Bcast(&status, 1, MPI_INT, 0, MPI_COMM_WORLD) != MPI_SUCCESS)
        return MPT_ERR_COMM;
    return (mpt_status_t)status;
}

static mpt_status_t measure(comm_run_t *run)
{
    mpt_status_t status = check_svg(run);
    if (status == MPT_OK)
        status = open_comm(run);
    if (status != MPT_OK)
        return status;
    name_mpi(run);
    for (int i = 0; i < run->report.row_count && status == MPT_OK; i++)
        status = measure_row(run, &run->report.rows[i]);
    mpt_bench_comm_close(run->comm);
    return status;
}

static mpt_status_t show(const comm_run_t *run)
{
    if (run->world.rank != 0)
        return MPT_OK;
    if (run->as_json)
        mpt_bench_comm_print_json(&run->report);
    else
        mpt_bench_comm_print(&run->report);
    fflush(stdout);
    return run->svg ? mpt_bench_comm_plot(&run->report, run->svg) : MPT_OK;
}

static int bench(comm_run_t *run)
{
    mpt_status_t status = mpt_world_open(&run->world);
    list_rows(run);
    if (status == MPT_OK)
        status = measure(run);
    if (status == MPT_OK)
        status = show(run);
    mpt_world_close(&run->world, status);
    return mpt_status_exit_code(status);
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

static mpt_parsed_t check_words(const comm_run_t *run, char *message)
{
    static const char command[] = "mpt-ddp bench comm";
    int types = run->types ? mpt_bench_types_count(run->types) : MPT_BENCH_TYPES, count = 0;
    if (run->types && mpt_bench_types_have(run->types, MPT_BENCH_TF32))
        types = 0;
    for (int what = 0; what < MPT_BENCH_COLLECTIVES; what++)
        count += mpt_bench_fits(mpt_bench_collective_name(what), run->only);
    if (types > 0 && count > 0)
        return MPT_PARSED_RUN;
    if (types == 0)
        snprintf(message, MPT_OPTIONS_MESSAGE, "%s: --types %s: of bf16, fp32, fp16, with commas", command, run->types);
    else
        snprintf(message, MPT_OPTIONS_MESSAGE,
                 "%s: --only %s: none of all_reduce, reduce_scatter, all_gather, broadcast", command, run->only);
    return MPT_PARSED_ERROR;
}

/* Returns -1: go on; else the exit code. */
static int parse_words(comm_run_t *run, int argc, char **argv)
{
    const mpt_option_t options[] = {
        {"--max", "BYTES", "largest buffer, from 64 bytes up in steps of 8 (496000000)", MPT_OPTION_SIZE, &run->most,
         LEAST_BYTES, 2e9},
        {"--types", "TYPES", "sum in these: bf16,fp32,fp16 (all)", MPT_OPTION_TEXT, &run->types, 0, 0},
        {"--only", "PATTERN", "collectives whose name has this in it, or matches it: 'all_*'", MPT_OPTION_TEXT,
         &run->only, 0, 0},
        {"--threads", "N", "threads of a rank (its share of the cores)", MPT_OPTION_INT, &run->threads, 1, 256},
        {"--rounds", "K", "rounds of each size (3 to 25, by their length)", MPT_OPTION_INT, &run->rounds, 1,
         MPT_BENCH_MAX_STEPS},
        {"--svg", "FILE", "also draw bus bandwidth over size (needs gnuplot)", MPT_OPTION_TEXT, &run->svg, 0, 0},
        {"--json", NULL, "one JSON object instead of a table", MPT_OPTION_FLAG, &run->as_json, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp bench comm",
        .arguments = "",
        .about =
            "Time each collective alone, over a range of sizes, on the ranks that mpirun started (or on this one, which\n"
            "has nobody to talk to). Data starts and ends in memory that all ranks of a host reach, as gradients and\n"
            "weights do in training. Sizes are those of the whole buffer, of which reduce_scatter leaves, and\n"
            "all_gather takes, one share from each rank.\n\n"
            "Bus bandwidth is what a link would carry in each direction: 2 (n-1)/n of the bytes for all_reduce,\n"
            "(n-1)/n for reduce_scatter and all_gather, all of them for broadcast. The bound is the time that the\n"
            "bytes which must be read and written take at the speed at which all ranks at once copy as many. MPI's own\n"
            "collectives run in turn on the same buffers; sums are FP32 there, of as many bytes, since MPI has no\n"
            "16-bit types. Times are medians over rounds, the slowest rank's; \"over MPI\" above 1 means faster than it.",
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

int mpt_bench_collectives(int argc, char **argv)
{
    comm_run_t *run = calloc(1, sizeof(*run));
    if (!run)
        return mpt_status_exit_code(MPT_ERR_NO_MEMORY);
    run->most = DEFAULT_MOST;
    int code = parse_words(run, argc, argv);
    if (code < 0)
        code = bench(run);
    free(run);
    return code;
}
