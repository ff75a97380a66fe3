#include <math.h>
#include <stdio.h>
#include "format.h"
#include "scaling.h"

/* One point's figures, as both outputs show them; what was not measured is not finite. */
typedef struct scaling_line {
    double step_s, tokens_per_s, efficiency;
    double flops_6nd_per_s, flops_model_per_s, peak_flops, share_of_peak;
    double compute_s; /* a step less what of its communication is exposed */
} scaling_line_t;

static double tokens_per_s(const mpt_bench_point_t *point)
{
    const mpt_bench_mode_t *mode = &point->mode;
    return mode->status == MPT_OK
               ? (double)mode->info.tokens_per_step / mpt_bench_median_of(mode->step_s, mode->steps)
               : NAN;
}

static scaling_line_t line_of(const mpt_bench_scaling_t *report, const mpt_bench_point_t *point)
{
    const mpt_session_info_t *info = &point->mode.info;
    double rate = tokens_per_s(point);
    scaling_line_t line = {.tokens_per_s = rate,
                           .step_s = (double)info->tokens_per_step / rate,
                           .efficiency = rate / point->ranks / tokens_per_s(report->points),
                           .flops_6nd_per_s = rate * info->flops_6nd_per_token,
                           .flops_model_per_s = rate * info->flops_model_per_token,
                           .peak_flops = isfinite(rate) ? info->peak_flops : NAN};
    line.share_of_peak = line.flops_model_per_s / line.peak_flops;
    line.compute_s = line.step_s - point->exposed_s;
    return line;
}

static const mpt_bench_point_t *all_ranks(const mpt_bench_scaling_t *report)
{
    return &report->points[report->point_count - 1];
}

/* The efficiency of all ranks by the i-th steps alone, which were run in the same round: the least and the most. */
static void efficiency_range(const mpt_bench_scaling_t *report, double *least_p, double *most_p)
{
    const mpt_bench_mode_t *alone = &report->points[0].mode, *all = &all_ranks(report)->mode;
    *least_p = *most_p = NAN;
    for (int i = 0; i < all->steps && alone->status == MPT_OK; i++) {
        *least_p = fmin(*least_p, alone->step_s[i] / all->step_s[i]);
        *most_p = fmax(*most_p, alone->step_s[i] / all->step_s[i]);
    }
}

/* ---- for people ------------------------------------------------------------------------------------------ */

static void print_head(const mpt_bench_scaling_t *report)
{
    const mpt_bench_mode_t *all = &all_ranks(report)->mode;
    const mpt_session_info_t *info = &all->info;
    printf("%s: N = %s parameters, %lld tokens a rank and step: %lld micro-step%s of %lld sequence%s\n",
           report->model, mpt_format_si((double)info->parameters).s,
           (long long)(info->tokens_per_step / info->ranks), (long long)report->micro_steps,
           report->micro_steps > 1 ? "s" : "", (long long)report->micro_batch, report->micro_batch > 1 ? "s" : "");
    printf("%d ranks x %d thread%s, %s, %s (%s), gradients on the wire %s, comm %s\n", info->ranks,
           info->threads, info->threads > 1 ? "s" : "", report->shard, all->compute, all->isa,
           all->reduce, all->comm);
    printf("%d timed step%s of each, in turn, sessions %s; ranks that waited used %.1f %% of a core\n\n",
           report->steps, report->steps > 1 ? "s" : "",
           report->kept_open ? "kept open" : "opened for each turn", 100 * report->waiters_busy);
}

static void print_point(const mpt_bench_scaling_t *report, const mpt_bench_point_t *point)
{
    if (point->mode.status != MPT_OK) {
        printf("%5d left out: %s\n", point->ranks, point->mode.refusal);
        return;
    }
    scaling_line_t line = line_of(report, point);
    char efficiency[16] = "-";
    if (isfinite(line.efficiency))
        snprintf(efficiency, sizeof(efficiency), "%.1f%%", 100 * line.efficiency);
    printf("%5d %10.1f %9s %10s %8s %8s %8s %7.1f%% %9.1f %9.1f %9.1f\n", point->ranks, 1000 * line.step_s,
           mpt_format_si(line.tokens_per_s).s, efficiency, mpt_format_si(line.flops_6nd_per_s).s,
           mpt_format_si(line.flops_model_per_s).s, mpt_format_si(line.peak_flops).s,
           100 * line.share_of_peak, 1000 * point->comm_s, 1000 * point->exposed_s,
           1000 * point->least_comm_s);
    if (point->mode.skipped > 0)
        printf("      %d of %d timed steps were skipped: not finite\n", point->mode.skipped,
               point->mode.steps);
}

/* Where the time between the first row and the last goes. */
static void print_loss(const mpt_bench_scaling_t *report)
{
    const mpt_bench_point_t *one = report->points, *all = all_ranks(report);
    scaling_line_t alone = line_of(report, one), together = line_of(report, all);
    double least, most;
    if (!isfinite(together.efficiency))
        return;
    efficiency_range(report, &least, &most);
    printf("\nweak-scaling efficiency of %d ranks: %.1f %% (%.1f to %.1f, step by step)\n", all->ranks,
           100 * together.efficiency, 100 * least, 100 * most);
    printf("a step, against one rank alone: %+.1f %% in computing, %+.1f %% in exposed communication\n",
           100 * (together.compute_s - alone.compute_s) / alone.step_s,
           100 * (all->exposed_s - one->exposed_s) / alone.step_s);
}

void mpt_bench_scaling_print(const mpt_bench_scaling_t *report)
{
    print_head(report);
    printf("%5s %10s %9s %10s %8s %8s %8s %8s %9s %9s %9s\n", "ranks", "step ms", "tokens/s",
           "efficiency", "6ND", "PaLM", "peak", "of peak", "comm ms", "exposed", "least");
    for (int i = 0; i < report->point_count; i++)
        print_point(report, &report->points[i]);
    print_loss(report);
    printf(
        "\nefficiency: tokens/s a rank over tokens/s of one rank alone. Times are medians over steps.\n"
        "6ND, PaLM: FLOP/s of all ranks, of the parameters alone (Chinchilla) and with attention (PaLM).\n"
        "peak: matrix peak of these ranks together, in this compute type, as their sessions opened; of peak: PaLM's.\n"
        "comm: a rank's time in collectives, waiting for slower ranks included, mean over ranks; exposed: what of it\n"
        "no computing hides; least: comm of the rank that spent least, waiting least: what is above it is waiting.\n");
}

/* ---- for programs ------------------------------------------------------------------------------------------ */

static double measured(const mpt_bench_point_t *point, double value)
{
    return point->mode.status == MPT_OK ? value : NAN;
}

static void write_point(mpt_json_t *json, const mpt_bench_scaling_t *report,
                        const mpt_bench_point_t *point)
{
    const mpt_bench_mode_t *mode = &point->mode;
    scaling_line_t line = line_of(report, point);
    mpt_json_open(json, NULL, '{');
    mpt_json_int(json, "ranks", point->ranks);
    mpt_json_text(json, "left_out", mode->status == MPT_OK ? NULL : mode->refusal);
    mpt_json_number(json, "threads", measured(point, mode->info.threads));
    mpt_json_number(json, "tokens_per_step", measured(point, (double)mode->info.tokens_per_step));
    mpt_json_number(json, "step_s", line.step_s);
    mpt_json_number(json, "tokens_per_s", line.tokens_per_s);
    mpt_json_number(json, "efficiency", line.efficiency);
    mpt_json_number(json, "flops_6nd_per_s", line.flops_6nd_per_s);
    mpt_json_number(json, "flops_model_per_s", line.flops_model_per_s);
    mpt_json_number(json, "peak_flops", line.peak_flops);
    mpt_json_number(json, "share_of_peak", line.share_of_peak);
    mpt_json_number(json, "compute_s", line.compute_s);
    mpt_json_number(json, "comm_s", measured(point, point->comm_s));
    mpt_json_number(json, "exposed_comm_s", measured(point, point->exposed_s));
    mpt_json_number(json, "least_comm_s", point->least_comm_s);
    mpt_json_number(json, "bytes_sent_per_step", (double)mode->bytes_sent / mode->steps);
    mpt_json_number(json, "planned_bytes", measured(point, (double)mode->info.planned_bytes));
    mpt_json_int(json, "steps", mode->steps);
    mpt_json_int(json, "skipped", mode->skipped);
    mpt_json_close(json, '}');
}

static void write_efficiency(mpt_json_t *json, const mpt_bench_scaling_t *report)
{
    const mpt_bench_point_t *all = all_ranks(report);
    double least, most;
    efficiency_range(report, &least, &most);
    mpt_json_number(json, "efficiency", line_of(report, all).efficiency);
    mpt_json_number(json, "efficiency_least", least);
    mpt_json_number(json, "efficiency_most", most);
    mpt_json_number(json, "tokens_per_s", tokens_per_s(all));
    mpt_json_number(json, "tokens_per_s_alone", tokens_per_s(report->points));
}

void mpt_bench_scaling_print_json(const mpt_bench_scaling_t *report)
{
    mpt_json_t json = {.out = stdout};
    const mpt_bench_mode_t *all = &all_ranks(report)->mode;
    mpt_json_open(&json, NULL, '{');
    write_efficiency(&json, report);
    mpt_json_text(&json, "model", report->model);
    mpt_json_int(&json, "ranks", all->info.ranks);
    mpt_json_int(&json, "threads", all->info.threads);
    mpt_json_text(&json, "shard", report->shard);
    mpt_json_text(&json, "isa", all->isa);
    mpt_json_text(&json, "compute", all->compute);
    mpt_json_text(&json, "reduce", all->reduce);
    mpt_json_text(&json, "comm", all->comm);
    mpt_json_int(&json, "parameters", all->info.parameters);
    mpt_json_int(&json, "micro_batch", report->micro_batch);
    mpt_json_int(&json, "micro_steps", report->micro_steps);
    mpt_json_int(&json, "kept_open", report->kept_open);
    mpt_json_number(&json, "waiters_busy", report->waiters_busy);
    mpt_json_open(&json, "points", '[');
    for (int i = 0; i < report->point_count; i++)
        write_point(&json, report, &report->points[i]);
    mpt_json_close(&json, ']');
    mpt_json_close(&json, '}');
}
