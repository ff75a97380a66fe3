#include "plan_show.h"
#include <stdlib.h>
#include <string.h>

#define CONFIGURED_WIDTH 20
#define LARGEST_WIDTH 22

/* ---- the table -------------------------------------------------------------------------------------- */

/* "train.recompute=block" as people read it: "recompute = block". */
static mpt_text_t variant_title(int variant)
{
    mpt_text_t text;
    const char *change = mpt_plan_variant(variant);
    if (!change)
        return (mpt_text_t){"largest micro_batch"};
    const char *key = strchr(change, '.') + 1, *equals = strchr(key, '=');
    snprintf(text.s, sizeof(text.s), "%.*s = %s", (int)(equals - key), key, equals + 1);
    return text;
}

static void print_cell(const mpt_plan_fit_t *fit)
{
    char cell[64] = "none";
    if (fit->fits)
        snprintf(cell, sizeof(cell), "%lld in %s", (long long)fit->plan.micro_batch,
                 mpt_format_bytes((double)fit->plan.bytes).s);
    printf(" %*s", LARGEST_WIDTH - 1, cell);
}

static void print_mode(const mpt_plan_report_t *report, int m)
{
    const mpt_plan_t *plan = &report->modes[m].plan;
    char cell[64];
    printf("  %-10s", report->modes[m].shard);
    snprintf(cell, sizeof(cell), "%s %s", mpt_format_bytes((double)plan->bytes).s,
             plan->bytes <= report->memory ? "fits" : "does not");
    printf(" %*s", CONFIGURED_WIDTH - 1, cell);
    for (int v = 0; v < MPT_PLAN_COLUMNS; v++)
        if (report->offered[v])
            print_cell(&report->fits[m][v]);
    putchar('\n');
}

static void print_table(const mpt_plan_report_t *report)
{
    char title[64];
    int64_t micro_batch = 0;
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        if (report->modes[m].planned)
            micro_batch = report->modes[m].plan.micro_batch;
    snprintf(title, sizeof(title), "micro_batch = %lld", (long long)micro_batch);
    printf("\n%s a rank of %d\n", mpt_format_bytes((double)report->memory).s, report->ranks);
    printf("  %-10s %*s", "", CONFIGURED_WIDTH - 1, title);
    for (int v = 0; v < MPT_PLAN_COLUMNS; v++)
        if (report->offered[v])
            printf(" %*s", LARGEST_WIDTH - 1, variant_title(v).s);
    putchar('\n');
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        if (report->modes[m].planned)
            print_mode(report, m);
}

/* ---- where nothing fits ----------------------------------------------------------------------------- */

typedef struct share {
    const char *name, *advice; /* what makes it smaller */
    int64_t bytes;
} share_t;

static int more_bytes(const void *a, const void *b)
{
    int64_t left = ((const share_t *)a)->bytes, right = ((const share_t *)b)->bytes;
    return (left < right) - (left > right);
}

static void print_levers(const mpt_plan_t *plan)
{
    share_t shares[] = {
        {"state", "lower model.layers or model.dim, or share it among more ranks",
         mpt_plan_state(plan)},
        {"activations", "lower data.sequence, model.layers or model.dim", 0},
        {"scratch", "lower threads, model.vocab or data.sequence", 0},
        {"packed", "none with train.pack_weights = off", 0},
        {"snapshot", "none with checkpoint.async = false", 0},
        {"comm", "lower train.val_batches, or take fewer ranks", 0},
        {"communicators", "none for one rank alone", 0},
        {"data", "lower train.global_batch", 0},
    };
    const int count = sizeof(shares) / sizeof(shares[0]);
    for (int i = 1; i < count; i++)
        shares[i].bytes = mpt_plan_use(plan, shares[i].name);
    qsort(shares, (size_t)count, sizeof(shares[0]), more_bytes);
    for (int i = 0; i < 3 && shares[i].bytes > 0; i++)
        printf("  %-13s %12s   %s\n", shares[i].name, mpt_format_bytes((double)shares[i].bytes).s,
               shares[i].advice);
}

static void print_changes(const mpt_plan_fit_t *fit)
{
    for (int i = 0; i < fit->changes.count; i++)
        printf(" --set %s", fit->changes.set[i]);
    putchar('\n');
}

static void print_failure(const mpt_plan_report_t *report)
{
    const mpt_plan_t *plan = &report->chosen->plan;
    printf("nothing fits; closest:");
    print_changes(report->chosen);
    printf("  %s a rank, %s too much\n", mpt_format_bytes((double)plan->bytes).s,
           mpt_format_bytes((double)(plan->bytes - report->memory)).s);
    print_levers(plan);
}

/* ---- the suggestion --------------------------------------------------------------------------------- */

void mpt_plan_suggest_print(const mpt_plan_report_t *report)
{
    const mpt_plan_fit_t *chosen = report->chosen;
    if (!chosen)
        return;
    print_table(report);
    if (!chosen->fits) {
        print_failure(report);
        return;
    }
    printf("suggestion:");
    print_changes(chosen);
    printf("  %s a rank, %s elements on the wire a step\n",
           mpt_format_bytes((double)chosen->plan.bytes).s,
           mpt_format_si((double)mpt_plan_wire(&chosen->plan)).s);
}

void mpt_plan_suggest_write(mpt_json_t *json, const mpt_plan_report_t *reports, int count)
{
    const mpt_plan_report_t *report = reports;
    for (int i = count - 1; i >= 0; i--)
        if (reports[i].chosen && reports[i].chosen->fits)
            report = &reports[i];
    const mpt_plan_fit_t *chosen = report->chosen;
    if (!chosen) {
        mpt_json_text(json, "suggestion", NULL);
        return;
    }
    mpt_json_open(json, "suggestion", '{');
    mpt_json_int(json, "memory", report->memory);
    mpt_json_bool(json, "fits", chosen->fits);
    mpt_json_text(json, "shard", chosen->plan.shard);
    mpt_json_int(json, "ranks", report->ranks);
    mpt_json_int(json, "shard_ranks", chosen->plan.shard_ranks);
    mpt_json_int(json, "micro_batch", chosen->plan.micro_batch);
    mpt_json_int(json, "bytes", chosen->plan.bytes);
    mpt_json_int(json, "short_by", chosen->fits ? 0 : chosen->plan.bytes - report->memory);
    mpt_json_int(json, "wire_elements", mpt_plan_wire(&chosen->plan));
    mpt_json_open(json, "set", '[');
    for (int i = 0; i < chosen->changes.count; i++)
        mpt_json_text(json, NULL, chosen->changes.set[i]);
    mpt_json_close(json, ']');
    mpt_json_close(json, '}');
}

void mpt_plan_largest_write(mpt_json_t *json, const mpt_plan_report_t *report, int mode)
{
    mpt_json_open(json, "largest", '[');
    for (int v = 0; v < MPT_PLAN_VARIANTS; v++) {
        const mpt_plan_fit_t *fit = &report->fits[mode][v];
        if (!report->offered[v])
            continue;
        mpt_json_open(json, NULL, '{');
        mpt_json_text(json, "set", mpt_plan_variant(v));
        mpt_json_int(json, "micro_batch", fit->fits ? fit->plan.micro_batch : 0);
        if (fit->fits)
            mpt_json_int(json, "bytes", fit->plan.bytes);
        mpt_json_close(json, '}');
    }
    mpt_json_close(json, ']');
}
