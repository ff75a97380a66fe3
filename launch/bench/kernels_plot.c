#include <math.h>
#include "format.h"
#include "kernels.h"
#include "plot.h"

/* Two panels, passes over memory and matrix products, an order of magnitude of everything apart. */
#define PANELS 2

/* What a panel shows: the least and the most. */
typedef struct span {
    double left, right, low, high;
} span_t;

static int panel_of(const mpt_bench_kernel_t *row)
{
    return row->op.flops > 0;
}

static double intensity(const mpt_bench_kernel_t *row)
{
    return row->op.operations / row->op.bytes;
}

static double roof(const mpt_bench_kernels_type_t *type, double x)
{
    return fmin(type->peak_flops, x * type->copy_bytes_per_s);
}

static void widen(span_t *span, double x, double y)
{
    if (!isfinite(y))
        return;
    span->left = fmin(span->left, x);
    span->right = fmax(span->right, x);
    span->low = fmin(span->low, y);
    span->high = fmax(span->high, y);
}

/* Every point of a panel, its roof above it, and with products the point from which on the peak is the roof. */
static span_t span_of(const mpt_bench_kernels_report_t *report, int panel)
{
    span_t span = {INFINITY, 0, INFINITY, 0};
    for (int t = 0; t < MPT_BENCH_TYPES; t++) {
        const mpt_bench_kernels_type_t *type = &report->types[t];
        for (int i = 0; i < type->row_count; i++) {
            const mpt_bench_kernel_t *row = &type->rows[i];
            if (panel_of(row) != panel)
                continue;
            widen(&span, intensity(row), row->op.operations / row->seconds);
            widen(&span, intensity(row), row->op.operations / row->rival_s);
            widen(&span, intensity(row), roof(type, intensity(row)));
        }
    }
    return span;
}

/* ---- data --------------------------------------------------------------------------------------------------------- */

static void write_points(FILE *plot, const mpt_bench_kernels_type_t *type, int panel, int rival)
{
    for (int i = 0; i < type->row_count; i++) {
        const mpt_bench_kernel_t *row = &type->rows[i];
        double seconds = rival ? row->rival_s : row->seconds;
        if (panel_of(row) == panel && isfinite(seconds))
            fprintf(plot, "%g %g %d\n", intensity(row), row->op.operations / seconds, i + 1);
    }
}

static void write_roof(FILE *plot, const mpt_bench_kernels_type_t *type, const span_t *span)
{
    double ridge = type->peak_flops / type->copy_bytes_per_s;
    double left = span->left / 4, right = span->right * 4;
    fprintf(plot, "%g %g\n", left, roof(type, left));
    if (ridge > left && ridge < right)
        fprintf(plot, "%g %g\n", ridge, type->peak_flops);
    fprintf(plot, "%g %g\n", right, roof(type, right));
}

/* Blocks $own, $rival and $roof, by type and panel. A point that is none in front: gnuplot warns of empty blocks. */
static void write_data(FILE *plot, const mpt_bench_kernels_type_t *type, int t, int panel, const span_t *span)
{
    fprintf(plot, "$own%d%d << EOD\nNaN NaN 0\n", t, panel);
    write_points(plot, type, panel, 0);
    fprintf(plot, "EOD\n$rival%d%d << EOD\nNaN NaN 0\n", t, panel);
    write_points(plot, type, panel, 1);
    fprintf(plot, "EOD\n$roof%d%d << EOD\n", t, panel);
    write_roof(plot, type, span);
    fprintf(plot, "EOD\n");
}

/* ---- the picture -------------------------------------------------------------------------------------------------- */

static void write_frame(FILE *plot, const mpt_bench_kernels_report_t *report)
{
    fprintf(plot,
            "set termoption noenhanced\n"
            "set multiplot title 'Roofline: GPT-2 of width %lld, %lld × %lld rows'\n"
            "set logscale xy\nset clip two\nset format x '%%g'\nset format y '%%.0s%%c'\n"
            "set xtics add (0.2, 0.5, 2, 5, 20, 50, 200, 500)\n"
            "set xlabel 'operations a byte read or written'\nset tmargin screen 0.90\nset bmargin screen 0.24\n",
            (long long)report->dim, (long long)report->batch, (long long)report->seq);
}

/* The numbers' names, at the right. */
static void write_names(FILE *plot, const mpt_bench_kernels_type_t *type)
{
    for (int i = 0; i < type->row_count; i++)
        fprintf(plot, "set label %d '%2d  %s' at screen 0.835,%g left font ',11'\n", i + 1, i + 1, type->rows[i].name,
                0.89 - 0.0285 * i);
}

static int has_rival(const mpt_bench_kernels_type_t *type)
{
    int found = 0;
    for (int i = 0; i < type->row_count; i++)
        found |= isfinite(type->rows[i].rival_s);
    return found;
}

/* Numbers beside the points of the first type: the others' lie in the same order. */
static void write_curves(FILE *plot, const mpt_bench_kernels_report_t *report, int panel)
{
    const char *separator = "plot ";
    int numbered = 0;
    for (int t = 0; t < MPT_BENCH_TYPES; t++) {
        const mpt_bench_kernels_type_t *type = &report->types[t];
        const char *colour = mpt_plot_colour(t);
        if (!type->measured)
            continue;
        fprintf(plot, "%s$roof%d%d with lines lw 2 lc rgb '%s' title '%s: roof %s'", separator, t, panel, colour,
                type->compute,
                panel ? mpt_format_si(type->peak_flops).s : mpt_format_si(type->copy_bytes_per_s).s);
        fprintf(plot, ", $own%d%d with points pt 7 ps 0.8 lc rgb '%s' title '%s: mpt-ddp'", t, panel, colour,
                type->compute);
        if (panel && has_rival(type))
            fprintf(plot, ", $rival%d%d with points pt 8 ps 0.9 lc rgb '%s' title '%s: oneDNN'", t, panel, colour,
                    type->compute);
        if (!numbered)
            fprintf(plot, ", $own%d%d using 1:2:3 with labels left offset 0.6,0.2 font ',11' notitle", t, panel);
        numbered = 1;
        separator = ", ";
    }
    fprintf(plot, "\n");
}

static void write_panel(FILE *plot, const mpt_bench_kernels_report_t *report, int panel)
{
    static const struct {
        double left, right;
        const char *title, *unit;
    } panels[PANELS] = {{0.07, 0.41, "passes over memory", "roofs: copies, B/s"},
                        {0.47, 0.81, "matrix products", "roofs: peaks, FLOP/s"}};
    span_t span = span_of(report, panel);
    if (span.right <= 0)
        return;
    for (int t = 0; t < MPT_BENCH_TYPES; t++)
        if (report->types[t].measured)
            write_data(plot, &report->types[t], t, panel, &span);
    fprintf(plot,
            "set lmargin screen %g\nset rmargin screen %g\nset title '%s'\nset ylabel '%s' offset 1,0\n"
            "set xrange [%g:%g]\nset yrange [%g:%g]\n"
            "set key at screen %g,0.14 left top horizontal Left reverse samplen 1.5 width -1 maxcols 3 title '%s' font ',11'\n",
            panels[panel].left, panels[panel].right, panels[panel].title, panel ? "" : "operations a second",
            span.left / 1.6, span.right * 1.6, span.low / 1.5, span.high * 1.5, panels[panel].left - 0.02,
            panels[panel].unit);
    write_curves(plot, report, panel);
    fprintf(plot, "unset for [i=1:%d] label i\n", MPT_BENCH_MAX_ROWS);
}

mpt_status_t mpt_bench_kernels_plot(const mpt_bench_kernels_report_t *report, const char *path)
{
    int first = 0;
    FILE *plot = mpt_plot_open(path, 1300, 760);
    if (!plot)
        return MPT_ERR_IO;
    while (first < MPT_BENCH_TYPES - 1 && !report->types[first].measured)
        first++;
    write_frame(plot, report);
    write_names(plot, &report->types[first]);
    for (int panel = 0; panel < PANELS; panel++)
        write_panel(plot, report, panel);
    fprintf(plot, "unset multiplot\n");
    return mpt_plot_close(plot, path);
}
