#include <stdio.h>
#include <stdlib.h>
#include "format.h"
#include "launch.h"
#include "options.h"
#include "plan_show.h"

static void print_memory(const mpt_plan_t *plan)
{
    printf("\n%-34s %16s %12s %7s\n", "memory of a rank", "bytes", "", "share");
    for (int i = 0; i < plan->memory_rows; i++)
        printf("  %-32s %16lld %12s %6.1f%%\n", plan->memory[i].use,
               (long long)plan->memory[i].bytes, mpt_format_bytes((double)plan->memory[i].bytes).s,
               plan->bytes > 0 ? 100.0 * (double)plan->memory[i].bytes / (double)plan->bytes : 0.0);
    printf("  %-32s %16lld %12s\n", "total", (long long)plan->bytes,
           mpt_format_bytes((double)plan->bytes).s);
    if (plan->ranks > 1)
        printf("  %-32s %16lld %12s\n", "all ranks", (long long)plan->bytes * plan->ranks,
               mpt_format_bytes((double)plan->bytes * plan->ranks).s);
}

static void print_flops(const mpt_plan_t *plan)
{
    const double per_token[] = {plan->flops_6nd_per_token, plan->flops_model_per_token,
                                plan->flops_causal_per_token};
    static const char *const names[] = {"6ND (Chinchilla)", "PaLM (6N + 12LHQT)", "causal"};
    printf("\n%-34s %16s %16s\n", "FLOPs, forward and backward", "a token", "a step");
    for (int i = 0; i < 3; i++)
        printf("  %-32s %16s %16s\n", names[i], mpt_format_si(per_token[i]).s,
               mpt_format_si(per_token[i] * (double)plan->tokens_per_step).s);
}

static void print_precisions(const mpt_plan_t *plan)
{
    printf("\n%-20s %-10s %-10s %-12s %-10s %-10s\n", "operation", "input", "math", "accumulate",
           "output", "gradient");
    for (int i = 0; i < plan->precision_rows; i++)
        printf("  %-18s %-10s %-10s %-12s %-10s %-10s\n", plan->precision[i].op,
               plan->precision[i].input, plan->precision[i].math, plan->precision[i].accumulate,
               plan->precision[i].output, plan->precision[i].gradient);
}

/* What the bytes depend on that the config does not say. */
static void print_assumed(const mpt_plan_t *plan)
{
    if (plan->ranks == 1)
        return;
    if (plan->hosts == 0)
        printf("assumed: communication by %s, on any number of hosts\n", plan->comm);
    else if (plan->hosts == 1)
        printf("assumed: one host, communication by %s; MPT_COMM=hier or mpi plans for several\n", plan->comm);
    else
        printf("assumed: %d hosts of %d ranks, communication by %s\n", plan->hosts, plan->ranks / plan->hosts,
               plan->comm);
}

static void print_tables(const mpt_plan_t *plan)
{
    printf("%s parameters (%lld; padded %lld), %s, gradients on the wire %s\n",
           mpt_format_si((double)plan->parameters).s, (long long)plan->parameters,
           (long long)plan->padded_parameters, plan->compute, plan->reduce);
    printf("%d rank%s x %d thread%s (%s), shard %s, %lld tokens a step in %lld micro-step%s\n",
           plan->ranks, plan->ranks > 1 ? "s" : "", plan->threads, plan->threads > 1 ? "s" : "",
           plan->isa, plan->shard, (long long)plan->tokens_per_step, (long long)plan->micro_steps,
           plan->micro_steps > 1 ? "s" : "");
    print_assumed(plan);
    printf("compute-optimal training: %s tokens (20 a parameter, Hoffmann et al. 2022), %s steps\n",
           mpt_format_si(plan->chinchilla_tokens).s,
           mpt_format_si(plan->chinchilla_tokens / (double)plan->tokens_per_step).s);
    print_memory(plan);
    print_flops(plan);
    print_precisions(plan);
}

static void write_precisions(mpt_json_t *json, const mpt_plan_t *plan)
{
    mpt_json_open(json, "precision", '[');
    for (int i = 0; i < plan->precision_rows; i++) {
        mpt_json_open(json, NULL, '{');
        mpt_json_text(json, "op", plan->precision[i].op);
        mpt_json_text(json, "input", plan->precision[i].input);
        mpt_json_text(json, "math", plan->precision[i].math);
        mpt_json_text(json, "accumulate", plan->precision[i].accumulate);
        mpt_json_text(json, "output", plan->precision[i].output);
        mpt_json_text(json, "gradient", plan->precision[i].gradient);
        mpt_json_close(json, '}');
    }
    mpt_json_close(json, ']');
}

/* What one command line asks for. */
typedef struct wanted {
    mpt_option_ints_t ranks; /* of the first: the config's own plan */
    int64_t memory;          /* 0: no suggestions */
    int as_json;
} wanted_t;

static void write_reports(mpt_json_t *json, const wanted_t *wanted,
                          const mpt_plan_report_t *reports)
{
    mpt_json_open(json, "modes", '[');
    for (int i = 0; i < wanted->ranks.count; i++)
        mpt_plan_modes_write(json, &reports[i]);
    mpt_json_close(json, ']');
    if (wanted->memory > 0)
        mpt_plan_suggest_write(json, reports, wanted->ranks.count);
}

static void print_reports(const wanted_t *wanted, const mpt_plan_report_t *reports)
{
    for (int i = 0; i < wanted->ranks.count; i++)
        mpt_plan_modes_print(&reports[i]);
    mpt_plan_textbook_print(&reports[0]);
    for (int i = 0; i < wanted->ranks.count && wanted->memory > 0; i++)
        mpt_plan_suggest_print(&reports[i]);
}

static void print_json(const mpt_plan_t *plan, const wanted_t *wanted,
                       const mpt_plan_report_t *reports)
{
    mpt_json_t json = {.out = stdout};
    mpt_json_open(&json, NULL, '{');
    mpt_json_int(&json, "parameters", plan->parameters);
    mpt_json_int(&json, "padded_parameters", plan->padded_parameters);
    mpt_json_int(&json, "ranks", plan->ranks);
    mpt_json_int(&json, "threads", plan->threads);
    mpt_json_text(&json, "isa", plan->isa);
    mpt_json_text(&json, "comm", plan->comm);
    mpt_json_int(&json, "hosts", plan->hosts);
    mpt_json_text(&json, "compute", plan->compute);
    mpt_json_text(&json, "reduce", plan->reduce);
    mpt_json_text(&json, "shard", plan->shard);
    mpt_json_int(&json, "tokens_per_step", plan->tokens_per_step);
    mpt_json_int(&json, "micro_steps", plan->micro_steps);
    mpt_json_int(&json, "bytes", plan->bytes);
    mpt_json_number(&json, "flops_6nd_per_token", plan->flops_6nd_per_token);
    mpt_json_number(&json, "flops_model_per_token", plan->flops_model_per_token);
    mpt_json_number(&json, "flops_causal_per_token", plan->flops_causal_per_token);
    mpt_json_number(&json, "chinchilla_tokens", plan->chinchilla_tokens);
    mpt_plan_memory_write(&json, plan);
    write_precisions(&json, plan);
    write_reports(&json, wanted, reports);
    mpt_json_close(&json, '}');
}

static int show(mpt_plan_query_t *query, const wanted_t *wanted)
{
    mpt_plan_t plan;
    mpt_status_t status =
        mpt_plan(&query->config, (int)wanted->ranks.items[0], &plan, mpt_log_quiet, NULL);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    mpt_plan_report_t *reports = calloc((size_t)wanted->ranks.count, sizeof(*reports));
    for (int i = 0; i < wanted->ranks.count && reports; i++) {
        mpt_plan_ask_modes(query, (int)wanted->ranks.items[i], &reports[i]);
        if (wanted->memory > 0)
            mpt_plan_fit(query, wanted->memory, &reports[i]);
    }
    if (!reports || query->out_of_memory) {
        fprintf(stderr, "mpt-ddp plan: out of memory\n");
        free(reports);
        return mpt_status_exit_code(MPT_ERR_NO_MEMORY);
    }
    if (wanted->as_json) {
        print_json(&plan, wanted, reports);
    } else {
        print_tables(&plan);
        print_reports(wanted, reports);
    }
    free(reports);
    return 0;
}

int mpt_cmd_plan(int argc, char **argv)
{
    wanted_t wanted = {.ranks = {.items = {1}, .count = 1}};
    mpt_option_list_t overrides = {.count = 0};
    const mpt_option_t options[] = {
        {"--ranks", "N[,N..]", "ranks of the run (1); several: a table of modes each",
         MPT_OPTION_INTS, &wanted.ranks, 1, 65536},
        {"--memory", "BYTES", "a rank's memory, 16G: suggest a mode and a micro-batch that fit",
         MPT_OPTION_SIZE, &wanted.memory, 1, 0x1p60},
        {"--set", "section.key=value", "change one key of the config; may be given again",
         MPT_OPTION_LIST, &overrides, 0, 0},
        {"--json", NULL, "one JSON object instead of tables", MPT_OPTION_FLAG, &wanted.as_json, 0,
         0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp plan",
        .arguments = "model.cfg",
        .about =
            "Compute every byte a rank will hold, under each shard mode, the FLOPs of a step and "
            "the precision\nof each operation, before any run. A run holds exactly these bytes where "
            "its machine has the same\ninstruction level (MPT_ISA caps it) and a rank as many threads "
            "(--set threads=N), as both set what\nkernels need beside the model.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 1,
        .max_arguments = 1,
    };
    mpt_plan_query_t query;
    int count, code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    mpt_status_t status = mpt_plan_query_open(&query, argv[0], &overrides);
    if (status != MPT_OK)
        return mpt_status_exit_code(status);
    code = show(&query, &wanted);
    mpt_plan_query_close(&query);
    return code;
}
