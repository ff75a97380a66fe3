#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bench.h"
#include "format.h"

/* One mode's figures, as both outputs show them. */
typedef struct mpt_bench_line {
    const mpt_bench_mode_t *mode;
    double step_s, comm_s, exposed_s, over_ddp, tokens_per_s; /* medians */
    double collectives, bytes_sent;                           /* a step */
    mpt_bench_traffic_t traffic;
} mpt_bench_line_t;

/* Step by step: the i-th steps of all modes were run in the same round. */
static double median_ratio(const mpt_bench_mode_t *mode, const mpt_bench_mode_t *ddp)
{
    double ratios[MPT_BENCH_MAX_STEPS];
    if (!ddp || mode->steps != ddp->steps)
        return NAN;
    for (int i = 0; i < mode->steps; i++)
        ratios[i] = mode->step_s[i] / ddp->step_s[i];
    return mpt_bench_median(ratios, mode->steps);
}

static const mpt_bench_mode_t *find_measured(const mpt_bench_side_by_side_t *report,
                                             const char *name)
{
    for (int i = 0; i < report->mode_count; i++)
        if (report->modes[i].status == MPT_OK &&
            (!name || strcmp(report->modes[i].name, name) == 0))
            return &report->modes[i];
    return NULL;
}

static mpt_bench_line_t line_of(const mpt_bench_side_by_side_t *report, int index)
{
    const mpt_bench_mode_t *mode = &report->modes[index];
    const mpt_plan_t *plan = &report->plans[index];
    mpt_bench_line_t line = {.mode = mode,
                             .step_s = mpt_bench_median_of(mode->step_s, mode->steps),
                             .comm_s = mpt_bench_median_of(mode->comm_s, mode->steps),
                             .exposed_s = mpt_bench_median_of(mode->exposed_s, mode->steps),
                             .over_ddp = median_ratio(mode, find_measured(report, "ddp")),
                             .collectives = (double)mode->collectives / mode->steps,
                             .bytes_sent = (double)mode->bytes_sent / mode->steps};
    line.tokens_per_s = (double)mode->info.tokens_per_step / line.step_s;
    mpt_bench_traffic(&(mpt_bench_traffic_params_t){.mode = mode->name,
                                                    .ranks = mode->info.ranks,
                                                    .shard_ranks = mode->shard_ranks,
                                                    .micro_steps = plan->micro_steps,
                                                    .padded = plan->padded_parameters,
                                                    .compute = mode->compute,
                                                    .reduce = mode->reduce},
                      &line.traffic);
    return line;
}

static int64_t micro_steps(const mpt_bench_side_by_side_t *report, const mpt_bench_mode_t *mode)
{
    return report->plans[mode - report->modes].micro_steps;
}

/* ---- for people ------------------------------------------------------------------------------------------ */

static void print_head(const mpt_bench_side_by_side_t *report)
{
    const mpt_bench_mode_t *mode = find_measured(report, NULL);
    const mpt_session_info_t *info = &mode->info;
    long long micros = (long long)micro_steps(report, mode);
    printf("%s: N = %s parameters, %lld tokens a step in %lld micro-step%s\n", report->model,
           mpt_format_si((double)info->parameters).s, (long long)info->tokens_per_step, micros,
           micros > 1 ? "s" : "");
    printf("%d rank%s x %d thread%s, %s (%s), gradients on the wire %s, comm %s\n", info->ranks,
           info->ranks > 1 ? "s" : "", info->threads, info->threads > 1 ? "s" : "", mode->compute,
           mode->isa, mode->reduce, mode->comm);
    printf("%d timed step%s of each mode, the modes in turn, sessions %s\n\n", report->steps,
           report->steps > 1 ? "s" : "", report->kept_open ? "kept open" : "opened for each turn");
}

static void print_line(const mpt_bench_line_t *line)
{
    const mpt_bench_traffic_t *traffic = &line->traffic;
    char ratio[16] = "-";
    if (isfinite(line->over_ddp))
        snprintf(ratio, sizeof(ratio), "%.3f", line->over_ddp);
    printf("%-6s %10.1f %9s %9s %9.1f %9.1f %11s %6.4g %11s  %s for %s%s\n", line->mode->name,
           1000 * line->step_s, ratio, mpt_format_si(line->tokens_per_s).s, 1000 * line->comm_s,
           1000 * line->exposed_s, mpt_format_bytes((double)line->mode->info.planned_bytes).s, line->collectives,
           mpt_format_bytes(line->bytes_sent).s, mpt_format_bytes(traffic->bytes).s,
           traffic->is_bound ? "at most " : "", traffic->elements);
    if (line->mode->skipped > 0)
        printf("       %d of %d timed steps were skipped: not finite\n", line->mode->skipped,
               line->mode->steps);
}

void mpt_bench_shards_print(const mpt_bench_side_by_side_t *report)
{
    print_head(report);
    printf("%-6s %10s %9s %9s %9s %9s %11s %6s %11s  %s\n", "mode", "step ms", "over ddp", "tokens/s",
           "comm ms", "exposed", "planned", "calls", "sent", "by the formula");
    for (int i = 0; i < report->mode_count; i++) {
        if (report->modes[i].status != MPT_OK) {
            printf("%-6s left out: %s\n", report->modes[i].name, report->modes[i].refusal);
            continue;
        }
        mpt_bench_line_t line = line_of(report, i);
        print_line(&line);
    }
    printf(
        "\nexposed: of comm ms, what did not run beside compute; planned: memory of a rank; calls and sent: collectives and bytes of a rank a step, "
        "counted.\nby the formula: bytes a rank should send for so many elements and its record, "
        "reducing once a step.\n");
}

/* ---- for programs ------------------------------------------------------------------------------------------ */

static void write_mode(mpt_json_t *json, const mpt_bench_line_t *line)
{
    const mpt_bench_mode_t *mode = line->mode;
    mpt_json_number(json, "step_s", line->step_s);
    mpt_json_number(json, "over_ddp", line->over_ddp);
    mpt_json_number(json, "tokens_per_s", line->tokens_per_s);
    mpt_json_number(json, "comm_s", line->comm_s);
    mpt_json_number(json, "exposed_comm_s", line->exposed_s);
    mpt_json_int(json, "steps", mode->steps);
    mpt_json_int(json, "skipped", mode->skipped);
    mpt_json_int(json, "planned_bytes", mode->info.planned_bytes);
    mpt_json_number(json, "collectives_per_step", line->collectives);
    mpt_json_number(json, "bytes_sent_per_step", line->bytes_sent);
    mpt_json_number(json, "formula_bytes", line->traffic.bytes);
    mpt_json_text(json, "formula_elements", line->traffic.elements);
    mpt_json_int(json, "formula_is_bound", line->traffic.is_bound);
    if (mode->shard_ranks > 0)
        mpt_json_int(json, "shard_ranks", mode->shard_ranks);
}

static void write_modes(mpt_json_t *json, const mpt_bench_side_by_side_t *report)
{
    mpt_json_open(json, "modes", '{');
    for (int i = 0; i < report->mode_count; i++) {
        const mpt_bench_mode_t *mode = &report->modes[i];
        mpt_json_open(json, mode->name, '{');
        if (mode->status == MPT_OK) {
            mpt_bench_line_t line = line_of(report, i);
            write_mode(json, &line);
        } else {
            mpt_json_text(json, "left_out", mode->refusal);
        }
        mpt_json_close(json, '}');
    }
    mpt_json_close(json, '}');
}

static void write_ratios(mpt_json_t *json, const mpt_bench_side_by_side_t *report)
{
    const mpt_bench_mode_t *ddp = find_measured(report, "ddp");
    for (int i = 0; i < report->mode_count; i++) {
        const mpt_bench_mode_t *mode = &report->modes[i];
        char key[32];
        snprintf(key, sizeof(key), "%s_over_ddp", mode->name);
        if (strcmp(mode->name, "ddp") != 0)
            mpt_json_number(json, key, mode->status == MPT_OK ? median_ratio(mode, ddp) : NAN);
    }
}

void mpt_bench_shards_print_json(const mpt_bench_side_by_side_t *report)
{
    mpt_json_t json = {.out = stdout};
    const mpt_bench_mode_t *mode = find_measured(report, NULL);
    const mpt_session_info_t *info = &mode->info;
    mpt_json_open(&json, NULL, '{');
    write_ratios(&json, report);
    mpt_json_text(&json, "model", report->model);
    mpt_json_int(&json, "ranks", info->ranks);
    mpt_json_int(&json, "threads", info->threads);
    mpt_json_text(&json, "isa", mode->isa);
    mpt_json_text(&json, "compute", mode->compute);
    mpt_json_text(&json, "reduce", mode->reduce);
    mpt_json_text(&json, "comm", mode->comm);
    mpt_json_int(&json, "parameters", info->parameters);
    mpt_json_int(&json, "tokens_per_step", info->tokens_per_step);
    mpt_json_int(&json, "micro_steps", micro_steps(report, mode));
    mpt_json_int(&json, "kept_open", report->kept_open);
    write_modes(&json, report);
    mpt_json_close(&json, '}');
}
