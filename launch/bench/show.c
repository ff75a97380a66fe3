#include <math.h>
#include <stdio.h>
#include "bench.h"
#include "format.h"

/* Below this share of oneDNN's fp32 a speed-up over fp32 would flatter the 16-bit types. */
#define FAIR_FP32 0.95

static double share_of_peak(const mpt_bench_report_t *report, const mpt_bench_result_t *result)
{
    return result->measured && report->peak_flops > 0
               ? result->flops_model_per_s / report->peak_flops
               : NAN;
}

static double over_fp32(const mpt_bench_report_t *report, int type)
{
    const mpt_bench_result_t *fp32 = &report->types[MPT_BENCH_FP32];
    const mpt_bench_result_t *result = &report->types[type];
    return result->measured && fp32->measured ? result->tokens_per_s / fp32->tokens_per_s : NAN;
}

static double linear_over_onednn(const mpt_bench_report_t *report)
{
    const mpt_bench_result_t *fp32 = &report->types[MPT_BENCH_FP32];
    return fp32->measured && report->onednn_flops > 0
               ? mpt_bench_row_rate(fp32, "linear") / report->onednn_flops
               : NAN;
}

static int ratios_count(const mpt_bench_report_t *report)
{
    return linear_over_onednn(report) >= FAIR_FP32;
}

static double tokens_per_s(const mpt_bench_result_t *result)
{
    return result->measured ? result->tokens_per_s : NAN;
}

/* ---- for people -------------------------------------------------------------------------------------- */

static void print_head(const mpt_bench_report_t *report)
{
    for (int i = 0; i < MPT_BENCH_TYPES; i++) {
        const mpt_bench_result_t *r = &report->types[i];
        if (!r->measured)
            continue;
        printf("%s: %s parameters, %lld tokens a step, 1 rank x %d threads, %s\n", report->model,
               mpt_format_si((double)r->parameters).s, (long long)r->tokens_per_step, r->threads,
               r->isa);
        break;
    }
    printf("matrix peak, bf16 fed from L1: %.3f TFLOP/s, %.3f a core (%s)\n",
           report->peak_flops / 1e12, report->peak_flops / report->threads / 1e12,
           report->peak_isa);
    if (isfinite(report->copy_bytes_per_s))
        printf("a copy of memory: %s B/s read and written\n", mpt_format_si(report->copy_bytes_per_s).s);
    printf("\n");
}

static void print_types(const mpt_bench_report_t *report)
{
    printf("%-6s %9s %9s %9s %9s %9s %9s %12s %12s\n", "type", "tokens/s", "step", "6ND", "PaLM",
           "causal", "of peak", "planned", "used");
    for (int i = 0; i < MPT_BENCH_TYPES; i++) {
        const mpt_bench_result_t *r = &report->types[i];
        if (!r->measured)
            continue;
        printf("%-6s %9s %9s %9s %9s %9s %8.1f%% %12s %12s\n", r->compute,
               mpt_format_si(r->tokens_per_s).s, mpt_format_duration(r->step_s).s,
               mpt_format_si(r->flops_6nd_per_s).s, mpt_format_si(r->flops_model_per_s).s,
               mpt_format_si(r->flops_causal_per_s).s, 100 * share_of_peak(report, r),
               mpt_format_bytes((double)r->planned_bytes).s,
               mpt_format_bytes(r->used_bytes >= 0 ? (double)r->used_bytes : NAN).s);
    }
}

static void print_ratios(const mpt_bench_report_t *report)
{
    double linear = linear_over_onednn(report);
    if (report->types[MPT_BENCH_FP32].measured)
        printf("\n");
    if (isfinite(over_fp32(report, MPT_BENCH_BF16)))
        printf("bf16 over fp32: %.2f\n", over_fp32(report, MPT_BENCH_BF16));
    if (isfinite(over_fp32(report, MPT_BENCH_FP16)))
        printf("fp16 over fp32: %.2f\n", over_fp32(report, MPT_BENCH_FP16));
    if (isfinite(linear))
        printf("fp32 linear products over oneDNN's: %.3f (%s FLOP/s)%s\n", linear,
               mpt_format_si(report->onednn_flops).s,
               ratios_count(report) ? "" : "; below 0.95, so the ratios to fp32 do not count");
}

/* Of what limits a row, the share that it reaches: the matrix peak of its compute type, or a copy of memory. Not finite: not known. */
static double share_of_limit(const mpt_bench_report_t *report, const mpt_bench_result_t *r, const mpt_bench_row_t *row)
{
    double limit = row->flops > 0 ? r->peak_flops : report->copy_bytes_per_s;
    return row->seconds > 0 && limit > 0 ? (row->flops > 0 ? row->flops : row->bytes) / row->seconds / limit : NAN;
}

static void print_rate(const mpt_bench_report_t *report, const mpt_bench_result_t *r, const mpt_bench_row_t *row)
{
    double share = share_of_limit(report, r, row);
    if (row->seconds > 0)
        printf("  %7s %-6s", mpt_format_si((row->flops > 0 ? row->flops : row->bytes) / row->seconds).s,
               row->flops > 0 ? "FLOP/s" : "B/s");
    if (isfinite(share))
        printf("  %5.1f%% of %s", 100 * share, row->flops > 0 ? "its matrix peak" : "a copy");
}

static void print_profile(const mpt_bench_report_t *report, const mpt_bench_result_t *r)
{
    double total = 0;
    for (int i = 0; i < r->row_count; i++)
        total += r->rows[i].seconds;
    printf("\n%s: where a step's time goes\n", r->compute);
    for (int i = 0; i < r->row_count; i++) {
        const mpt_bench_row_t *row = &r->rows[i];
        printf("  %-24s %9.1f ms %6.1f%%  %8lld calls", row->op, 1000 * row->seconds / r->steps,
               total > 0 ? 100 * row->seconds / total : 0.0, (long long)row->calls / r->steps);
        print_rate(report, r, row);
        printf("\n");
    }
    if (r->skipped > 0)
        printf("  %d of %d timed steps were skipped: not finite\n", r->skipped, r->steps);
}

void mpt_bench_print(const mpt_bench_report_t *report)
{
    print_head(report);
    print_types(report);
    print_ratios(report);
    for (int i = 0; i < MPT_BENCH_TYPES; i++)
        if (report->types[i].measured)
            print_profile(report, &report->types[i]);
}

/* ---- for programs ------------------------------------------------------------------------------------ */

static void write_profile(mpt_json_t *json, const mpt_bench_report_t *report, const mpt_bench_result_t *r)
{
    mpt_json_open(json, "profile", '[');
    for (int i = 0; i < r->row_count; i++) {
        mpt_json_open(json, NULL, '{');
        mpt_json_text(json, "op", r->rows[i].op);
        mpt_json_number(json, "seconds_per_step", r->rows[i].seconds / r->steps);
        mpt_json_number(json, "flops_per_step", r->rows[i].flops / r->steps);
        mpt_json_number(json, "bytes_per_step", r->rows[i].bytes / r->steps);
        mpt_json_number(json, "share_of_limit", share_of_limit(report, r, &r->rows[i]));
        mpt_json_int(json, "calls", r->rows[i].calls);
        mpt_json_close(json, '}');
    }
    mpt_json_close(json, ']');
}

static void write_type(mpt_json_t *json, const mpt_bench_report_t *report,
                       const mpt_bench_result_t *r)
{
    mpt_json_open(json, r->compute, '{');
    mpt_json_text(json, "isa", r->isa);
    mpt_json_int(json, "steps", r->steps);
    mpt_json_int(json, "skipped", r->skipped);
    mpt_json_number(json, "step_s", r->step_s);
    mpt_json_number(json, "tokens_per_s", r->tokens_per_s);
    mpt_json_number(json, "flops_6nd_per_s", r->flops_6nd_per_s);
    mpt_json_number(json, "flops_model_per_s", r->flops_model_per_s);
    mpt_json_number(json, "flops_causal_per_s", r->flops_causal_per_s);
    mpt_json_number(json, "share_of_bf16_peak", share_of_peak(report, r));
    mpt_json_number(json, "peak_flops", r->peak_flops);
    mpt_json_int(json, "parameters", r->parameters);
    mpt_json_int(json, "planned_bytes", r->planned_bytes);
    mpt_json_number(json, "used_bytes", r->used_bytes >= 0 ? (double)r->used_bytes : NAN);
    mpt_json_number(json, "loss", r->loss);
    write_profile(json, report, r);
    mpt_json_close(json, '}');
}

void mpt_bench_print_json(const mpt_bench_report_t *report)
{
    mpt_json_t json = {.out = stdout};
    const mpt_bench_result_t *types = report->types;
    double bf16_ratio = over_fp32(report, MPT_BENCH_BF16);
    double fp16_ratio = over_fp32(report, MPT_BENCH_FP16);
    int fair = ratios_count(report);
    mpt_json_open(&json, NULL, '{');
    mpt_json_number(&json, "bf16_share_of_peak", share_of_peak(report, &types[MPT_BENCH_BF16]));
    mpt_json_number(&json, "bf16_over_fp32", fair ? bf16_ratio : NAN);
    mpt_json_number(&json, "fp16_over_fp32", fair ? fp16_ratio : NAN);
    mpt_json_number(&json, "bf16_tokens_per_s", tokens_per_s(&types[MPT_BENCH_BF16]));
    mpt_json_number(&json, "fp32_tokens_per_s", tokens_per_s(&types[MPT_BENCH_FP32]));
    mpt_json_number(&json, "peak_tflops_per_core", report->peak_flops / report->threads / 1e12);
    mpt_json_number(&json, "fp32_linear_over_onednn", linear_over_onednn(report));
    mpt_json_number(&json, "bf16_over_fp32_measured", bf16_ratio);
    mpt_json_number(&json, "fp16_over_fp32_measured", fp16_ratio);
    mpt_json_number(&json, "onednn_fp32_flops_per_s",
                    report->onednn_flops > 0 ? report->onednn_flops : NAN);
    mpt_json_text(&json, "model", report->model);
    mpt_json_text(&json, "isa", report->peak_isa);
    mpt_json_int(&json, "threads", report->threads);
    mpt_json_open(&json, "types", '{');
    for (int i = 0; i < MPT_BENCH_TYPES; i++)
        if (types[i].measured)
            write_type(&json, report, &types[i]);
    mpt_json_close(&json, '}');
    mpt_json_close(&json, '}');
}
