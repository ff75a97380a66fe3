#include <math.h>
#include <stdio.h>
#include "format.h"
#include "kernels.h"

static int is_linear(const mpt_bench_kernel_t *row)
{
    return row->group[0] == 'l';
}

void mpt_bench_linear_sum(const mpt_bench_kernels_type_t *type, mpt_bench_linear_total_t *total_p)
{
    mpt_bench_linear_total_t total = {0};
    for (int i = 0; i < type->row_count; i++) {
        const mpt_bench_kernel_t *row = &type->rows[i];
        if (!is_linear(row))
            continue;
        total.shapes++;
        total.seconds += row->seconds;
        total.flops += row->op.flops;
        total.rival_s += row->rival_s;
    }
    *total_p = total;
}

double mpt_bench_kernel_share(const mpt_bench_kernels_type_t *type, const mpt_bench_kernel_t *row)
{
    return row->op.flops > 0 ? row->op.flops / row->seconds / type->peak_flops
                             : row->op.bytes / row->seconds / row->copy_bytes_per_s;
}

/* ---- for people ------------------------------------------------------------------------------------------- */

static const char *percent(double share, char *text, size_t bytes)
{
    if (isfinite(share))
        snprintf(text, bytes, "%.1f%%", 100 * share);
    else
        snprintf(text, bytes, "-");
    return text;
}

static const char *milliseconds(double seconds, char *text, size_t bytes)
{
    if (isfinite(seconds))
        snprintf(text, bytes, "%.3f ms", 1e3 * seconds);
    else
        snprintf(text, bytes, "-");
    return text;
}

static const char *ratio(double value, char *text, size_t bytes)
{
    if (isfinite(value))
        snprintf(text, bytes, "%.2f", value);
    else
        snprintf(text, bytes, "-");
    return text;
}

static void print_line(const char *name, double seconds, double rate, const char *unit, double share, double rival_s,
                       const char *path)
{
    char own[24], of_limit[24], rival[24], over[24], rate_text[48];
    snprintf(rate_text, sizeof(rate_text), "%s %s", mpt_format_si(rate).s, unit);
    printf("%-24s %12s %14s %9s %12s %8s  %s\n", name, milliseconds(seconds, own, sizeof(own)), rate_text,
           percent(share, of_limit, sizeof(of_limit)), milliseconds(rival_s, rival, sizeof(rival)),
           ratio(rival_s / seconds, over, sizeof(over)), path);
}

static void print_row(const mpt_bench_kernels_type_t *type, const mpt_bench_kernel_t *row)
{
    int multiplies = row->op.flops > 0;
    print_line(row->name, row->seconds, (multiplies ? row->op.flops : row->op.bytes) / row->seconds,
               multiplies ? "FLOP/s" : "B/s", mpt_bench_kernel_share(type, row), row->rival_s, row->rival_path);
}

static void print_total(const mpt_bench_kernels_type_t *type)
{
    char name[40];
    mpt_bench_linear_total_t total;
    mpt_bench_linear_sum(type, &total);
    if (total.shapes < 2)
        return;
    snprintf(name, sizeof(name), "these %d together", total.shapes);
    print_line(name, total.seconds, total.flops / total.seconds, "FLOP/s",
               total.flops / total.seconds / type->peak_flops, total.rival_s, "");
}

static void print_type(const mpt_bench_kernels_type_t *type)
{
    printf("\n%s, %s, %d thread%s: peak fed from L1 %s FLOP/s, %s a core; copy %s B/s read and written\n",
           type->compute, type->isa, type->threads, type->threads > 1 ? "s" : "", mpt_format_si(type->peak_flops).s,
           mpt_format_si(type->peak_flops / type->threads).s, mpt_format_si(type->copy_bytes_per_s).s);
    printf("%-24s %12s %14s %9s %12s %8s  %s\n", "operation", "time", "rate", "of limit", "oneDNN", "over it",
           "oneDNN's way");
    for (int i = 0; i < type->row_count; i++) {
        print_row(type, &type->rows[i]);
        if (is_linear(&type->rows[i]) && (i + 1 == type->row_count || !is_linear(&type->rows[i + 1])))
            print_total(type);
    }
}

void mpt_bench_kernels_print(const mpt_bench_kernels_report_t *report)
{
    printf("GPT-2 of width %lld, %lld x %lld rows, vocabulary %lld; oneDNN %s\n", (long long)report->dim,
           (long long)report->batch, (long long)report->seq, (long long)report->vocab, report->rival_version);
    for (int i = 0; i < MPT_BENCH_TYPES; i++)
        if (report->types[i].measured)
            print_type(&report->types[i]);
    if (report->rival_notes[0])
        printf("\n%s.\n", report->rival_notes);
}

/* ---- for programs ------------------------------------------------------------------------------------------ */

static void write_row(mpt_json_t *json, const mpt_bench_kernels_type_t *type, const mpt_bench_kernel_t *row)
{
    const mpt_bench_product_t *p = &row->op.product;
    int multiplies = row->op.flops > 0;
    mpt_json_open(json, NULL, '{');
    mpt_json_text(json, "op", row->name);
    mpt_json_text(json, "group", row->group);
    if (p->m > 0) {
        mpt_json_int(json, "m", p->m);
        mpt_json_int(json, "n", p->n);
        mpt_json_int(json, "k", p->k);
    }
    mpt_json_int(json, "runs", row->runs);
    mpt_json_number(json, "seconds", row->seconds);
    mpt_json_number(json, "flops", row->op.flops);
    mpt_json_number(json, "operations", row->op.operations);
    mpt_json_number(json, "bytes", row->op.bytes);
    mpt_json_number(json, "flops_per_s", row->op.flops / row->seconds);
    mpt_json_number(json, "bytes_per_s", row->op.bytes / row->seconds);
    mpt_json_text(json, "limit", multiplies ? "matrix peak" : "copy");
    mpt_json_number(json, "limit_per_s", multiplies ? type->peak_flops : row->copy_bytes_per_s);
    mpt_json_number(json, "share_of_limit", mpt_bench_kernel_share(type, row));
    mpt_json_number(json, "onednn_seconds", row->rival_s);
    mpt_json_number(json, "over_onednn", row->rival_s / row->seconds);
    mpt_json_text(json, "onednn_path", row->rival_path[0] ? row->rival_path : NULL);
    mpt_json_close(json, '}');
}

static void write_total(mpt_json_t *json, const mpt_bench_kernels_type_t *type)
{
    mpt_bench_linear_total_t total;
    mpt_bench_linear_sum(type, &total);
    mpt_json_open(json, "linear", '{');
    mpt_json_int(json, "shapes", total.shapes);
    mpt_json_number(json, "seconds", total.shapes > 0 ? total.seconds : NAN);
    mpt_json_number(json, "flops_per_s", total.flops / total.seconds);
    mpt_json_number(json, "share_of_peak", total.flops / total.seconds / type->peak_flops);
    mpt_json_number(json, "onednn_seconds", total.shapes > 0 ? total.rival_s : NAN);
    mpt_json_number(json, "over_onednn", total.rival_s / total.seconds);
    mpt_json_close(json, '}');
}

static void write_type(mpt_json_t *json, const mpt_bench_kernels_type_t *type)
{
    mpt_json_open(json, type->compute, '{');
    mpt_json_text(json, "kernels", type->kernels);
    mpt_json_text(json, "isa", type->isa);
    mpt_json_int(json, "threads", type->threads);
    mpt_json_number(json, "peak_flops_per_s", type->peak_flops);
    mpt_json_number(json, "copy_bytes_per_s", type->copy_bytes_per_s);
    write_total(json, type);
    mpt_json_open(json, "operations", '[');
    for (int i = 0; i < type->row_count; i++)
        write_row(json, type, &type->rows[i]);
    mpt_json_close(json, ']');
    mpt_json_close(json, '}');
}

void mpt_bench_kernels_print_json(const mpt_bench_kernels_report_t *report)
{
    mpt_json_t json = {.out = stdout};
    mpt_json_open(&json, NULL, '{');
    mpt_json_int(&json, "micro_batch", report->batch);
    mpt_json_int(&json, "context", report->seq);
    mpt_json_int(&json, "dim", report->dim);
    mpt_json_int(&json, "heads", report->heads);
    mpt_json_int(&json, "vocab", report->vocab);
    mpt_json_text(&json, "onednn_version", report->rival_version);
    mpt_json_text(&json, "onednn_notes", report->rival_notes);
    mpt_json_open(&json, "types", '{');
    for (int i = 0; i < MPT_BENCH_TYPES; i++)
        if (report->types[i].measured)
            write_type(&json, &report->types[i]);
    mpt_json_close(&json, '}');
    mpt_json_close(&json, '}');
}
