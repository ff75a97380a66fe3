#include <math.h>
#include <string.h>
#include "comm.h"
#include "plot.h"

typedef enum line { LINE_OWN, LINE_MPI, LINE_BOUND } line_t;

static double seconds_of(const mpt_bench_transfer_t *row, line_t line)
{
    return line == LINE_OWN ? row->seconds : line == LINE_MPI ? row->mpi_s : row->bound_s;
}

/* Bus bandwidth in GB/s; not finite where there is none. Alone nothing travels: then the buffer's bytes a second. */
static double rate_of(const mpt_bench_comm_report_t *report, const mpt_bench_transfer_t *row, line_t line)
{
    double bytes = mpt_bench_bus_bytes(row->what, report->info.ranks, (double)row->bytes);
    return (bytes > 0 ? bytes : (double)row->bytes) / seconds_of(row, line) / 1e9;
}

/* A block of data for the rows of one collective in one type, NaN in front: gnuplot warns of empty blocks. */
static void write_block(FILE *plot, const mpt_bench_comm_report_t *report, int first, line_t line)
{
    const mpt_bench_transfer_t *head = &report->rows[first];
    fprintf(plot, "$d%d_%d << EOD\nNaN NaN\n", first, (int)line);
    for (int i = first; i < report->row_count; i++) {
        const mpt_bench_transfer_t *row = &report->rows[i];
        if (row->what == head->what && strcmp(row->type, head->type) == 0 && isfinite(seconds_of(row, line)))
            fprintf(plot, "%zu %g\n", row->bytes, rate_of(report, row, line));
    }
    fprintf(plot, "EOD\n");
}

/* Index of the first row of the collective's next type from `from` on; -1: no more. */
static int next_type(const mpt_bench_comm_report_t *report, mpt_bench_collective_t what, int from)
{
    for (int i = from; i < report->row_count; i++)
        if (report->rows[i].what == what && (i == 0 || report->rows[i - 1].what != what ||
                                             strcmp(report->rows[i - 1].type, report->rows[i].type) != 0))
            return i;
    return -1;
}

static void write_panel(FILE *plot, const mpt_bench_comm_report_t *report, mpt_bench_collective_t what)
{
    int index = 0, first = next_type(report, what, 0);
    fprintf(plot, "set title '%s' noenhanced\nplot ", mpt_bench_collective_name(what));
    for (int i = first; i >= 0; i = next_type(report, what, i + 1), index++) {
        const char *colour = mpt_plot_colour(index), *type = report->rows[i].type;
        fprintf(plot, "%s$d%d_0 with linespoints pt 7 ps 0.6 lw 2 lc rgb '%s' title '%s: mpt-ddp'", index ? ", " : "",
                i, colour, type);
        if (report->mpi[0])
            fprintf(plot, ", $d%d_1 with linespoints dt 2 pt 8 ps 0.7 lw 1.5 lc rgb '%s' title '%s: MPI'", i, colour,
                    type);
    }
    fprintf(plot, ", $d%d_2 with lines dt 3 lw 2 lc rgb '#888888' title 'bound: copies'\n", first);
}

static void write_all(FILE *plot, const mpt_bench_comm_report_t *report)
{
    for (int what = 0; what < MPT_BENCH_COLLECTIVES; what++)
        for (int i = next_type(report, what, 0); i >= 0; i = next_type(report, what, i + 1))
            for (int line = LINE_OWN; line <= LINE_BOUND; line++)
                write_block(plot, report, i, line);
    fprintf(plot,
            "set multiplot layout 2,2 title '%d ranks × %d thread%s, comm %s; %s'\n"
            "set logscale xy\nset format x '%%.0b%%B'\nset format y '%%g'\n"
            "set xtics 64,8 rotate by -40\nset mxtics 1\nset xlabel 'bytes' offset 0,0.7\nset ylabel '%s, GB/s'\n"
            "set key below horizontal center maxcols 3 samplen 3\n",
            report->info.ranks, report->info.threads, report->info.threads > 1 ? "s" : "", report->comm, report->mpi[0] ? report->mpi : "without MPI",
            report->info.ranks > 1 ? "bus bandwidth" : "buffer");
    for (int what = 0; what < MPT_BENCH_COLLECTIVES; what++)
        if (next_type(report, what, 0) >= 0)
            write_panel(plot, report, what);
    fprintf(plot, "unset multiplot\n");
}

mpt_status_t mpt_bench_comm_plot(const mpt_bench_comm_report_t *report, const char *path)
{
    FILE *plot = mpt_plot_open(path, 1200, 900);
    if (!plot)
        return MPT_ERR_IO;
    write_all(plot, report);
    return mpt_plot_close(plot, path);
}
