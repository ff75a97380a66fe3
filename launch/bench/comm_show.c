#include <math.h>
#include <stdio.h>
#include <string.h>
#include "comm.h"
#include "format.h"

const char *mpt_bench_collective_name(mpt_bench_collective_t what)
{
    static const char *const names[MPT_BENCH_COLLECTIVES] = {"all_reduce", "reduce_scatter", "all_gather",
                                                             "broadcast"};
    return names[what];
}

/* Summed over the ranks every input byte is read once and every output byte written once; all_gather's own share and
 * broadcast's root have theirs already. */
double mpt_bench_bound_bytes(mpt_bench_collective_t what, int ranks, double bytes)
{
    double share = bytes / ranks;
    switch (what) {
    case MPT_BENCH_ALL_REDUCE:
        return bytes + bytes;
    case MPT_BENCH_REDUCE_SCATTER:
        return bytes + share;
    case MPT_BENCH_ALL_GATHER:
    default:
        return ranks > 1 ? share + (bytes - share) : 0;
    }
}

double mpt_bench_bus_bytes(mpt_bench_collective_t what, int ranks, double bytes)
{
    double others = (double)(ranks - 1) / ranks;
    switch (what) {
    case MPT_BENCH_ALL_REDUCE:
        return 2 * others * bytes;
    case MPT_BENCH_BROADCAST:
        return ranks > 1 ? bytes : 0;
    default:
        return others * bytes;
    }
}

/* Not finite where nothing travels. */
static double bus_rate(const mpt_bench_comm_report_t *report, const mpt_bench_transfer_t *row)
{
    double bytes = mpt_bench_bus_bytes(row->what, report->info.ranks, (double)row->bytes);
    return bytes > 0 ? bytes / row->seconds : NAN;
}

/* ---- for people ------------------------------------------------------------------------------------------------- */

typedef struct mpt_cell {
    char s[24];
} mpt_cell_t;

static mpt_cell_t time_cell(double seconds)
{
    mpt_cell_t cell = {"-"};
    if (isfinite(seconds))
        snprintf(cell.s, sizeof(cell.s), seconds < 1e-3 ? "%.2f us" : "%.2f ms", seconds * (seconds < 1e-3 ? 1e6 : 1e3));
    return cell;
}

static mpt_cell_t number_cell(double value, const char *unit)
{
    mpt_cell_t cell = {"-"};
    if (isfinite(value))
        snprintf(cell.s, sizeof(cell.s), "%.2f%s", value, unit);
    return cell;
}

static void print_row(const mpt_bench_comm_report_t *report, const mpt_bench_transfer_t *row)
{
    printf("%-15s %-6s %12zu %11s %11s %11s %9s %11s %9s\n", mpt_bench_collective_name(row->what), row->type,
           row->bytes, time_cell(row->seconds).s, number_cell(bus_rate(report, row) / 1e9, " GB/s").s,
           time_cell(row->bound_s).s, number_cell(100 * row->bound_s / row->seconds, "%").s, time_cell(row->mpi_s).s,
           number_cell(row->mpi_s / row->seconds, "").s);
}

void mpt_bench_comm_print(const mpt_bench_comm_report_t *report)
{
    const mpt_bench_comm_info_t *info = &report->info;
    printf("%d rank%s x %d thread%s, comm %s, %s; %s%s\n\n", info->ranks, info->ranks > 1 ? "s" : "", info->threads,
           info->threads > 1 ? "s" : "", report->comm, report->isa, report->mpi[0] ? report->mpi : "without MPI",
           info->shares_cores ? "; more threads than cores" : "");
    printf("%-15s %-6s %12s %11s %11s %11s %9s %11s %9s\n", "collective", "type", "bytes", "time", "bus", "bound",
           "of bound", "MPI", "over MPI");
    for (int i = 0; i < report->row_count; i++) {
        if (i > 0 && (report->rows[i].what != report->rows[i - 1].what ||
                      strcmp(report->rows[i].type, report->rows[i - 1].type) != 0))
            printf("\n");
        print_row(report, &report->rows[i]);
    }
}

/* ---- for programs ------------------------------------------------------------------------------------------------ */

static void write_row(mpt_json_t *json, const mpt_bench_comm_report_t *report, const mpt_bench_transfer_t *row)
{
    int ranks = report->info.ranks;
    double least = mpt_bench_bound_bytes(row->what, ranks, (double)row->bytes);
    mpt_json_open(json, NULL, '{');
    mpt_json_text(json, "collective", mpt_bench_collective_name(row->what));
    mpt_json_text(json, "type", row->type);
    mpt_json_int(json, "bytes", (int64_t)row->bytes);
    mpt_json_int(json, "rounds", row->rounds);
    mpt_json_int(json, "calls_per_round", row->calls);
    mpt_json_number(json, "seconds", row->seconds);
    mpt_json_number(json, "bus_bytes_per_s", bus_rate(report, row));
    mpt_json_number(json, "bound_bytes_per_rank", least);
    mpt_json_number(json, "copy_bytes_per_s", least * ranks / row->bound_s);
    mpt_json_number(json, "bound_seconds", row->bound_s);
    mpt_json_number(json, "share_of_bound", row->bound_s / row->seconds);
    mpt_json_number(json, "mpi_seconds", row->mpi_s);
    mpt_json_number(json, "over_mpi", row->mpi_s / row->seconds);
    mpt_json_close(json, '}');
}

void mpt_bench_comm_print_json(const mpt_bench_comm_report_t *report)
{
    mpt_json_t json = {.out = stdout};
    mpt_json_open(&json, NULL, '{');
    mpt_json_int(&json, "ranks", report->info.ranks);
    mpt_json_int(&json, "threads", report->info.threads);
    mpt_json_bool(&json, "shares_cores", report->info.shares_cores);
    mpt_json_text(&json, "comm", report->comm);
    mpt_json_text(&json, "isa", report->isa);
    mpt_json_text(&json, "mpi", report->mpi[0] ? report->mpi : NULL);
    mpt_json_open(&json, "collectives", '[');
    for (int i = 0; i < report->row_count; i++)
        write_row(&json, report, &report->rows[i]);
    mpt_json_close(&json, ']');
    mpt_json_close(&json, '}');
}
