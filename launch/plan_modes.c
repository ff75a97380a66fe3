#include "plan_show.h"
#include <string.h>

#define MODE_WIDTH 13
#define MAX_USES 24

/* Rows in the order that people look for them; uses that are not here follow. */
static const char *const known_uses[] = {"weights",      "packed",    "masters",   "moments",     "ema",
                                         "accumulators", "gradients", "activations", "scratch",
                                         "comm",         "communicators", "snapshot", "data"};

static void add_use(const char **uses, int *count_p, const char *use)
{
    for (int i = 0; i < *count_p; i++)
        if (strcmp(uses[i], use) == 0)
            return;
    if (*count_p < MAX_USES)
        uses[(*count_p)++] = use;
}

static int collect_uses(const mpt_plan_report_t *report, const char **uses)
{
    int count = 0;
    for (size_t i = 0; i < sizeof(known_uses) / sizeof(known_uses[0]); i++)
        add_use(uses, &count, known_uses[i]);
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        for (int i = 0; report->modes[m].planned && i < report->modes[m].plan.memory_rows; i++)
            add_use(uses, &count, report->modes[m].plan.memory[i].use);
    return count;
}

static mpt_text_t mode_title(const mpt_plan_mode_t *mode, int share)
{
    mpt_text_t text;
    if (strcmp(mode->shard, "hsdp") == 0 && share > 0)
        snprintf(text.s, sizeof(text.s), "%s k=%d", mode->shard, share);
    else
        snprintf(text.s, sizeof(text.s), "%s", mode->shard);
    return text;
}

static void print_uses(const mpt_plan_report_t *report)
{
    const char *uses[MAX_USES];
    int count = collect_uses(report, uses);
    for (int i = 0; i < count; i++) {
        int64_t bytes[MPT_PLAN_MODES] = {0}, any = 0;
        for (int m = 0; m < MPT_PLAN_MODES; m++)
            if (report->modes[m].planned)
                any |= bytes[m] = mpt_plan_use(&report->modes[m].plan, uses[i]);
        if (!any)
            continue;
        printf("  %-24s", uses[i]);
        for (int m = 0; m < MPT_PLAN_MODES; m++)
            if (report->modes[m].planned)
                printf(" %*s", MODE_WIDTH - 1, mpt_format_bytes((double)bytes[m]).s);
        putchar('\n');
    }
}

static mpt_text_t total_bytes(const mpt_plan_t *plan)
{
    return mpt_format_bytes((double)plan->bytes);
}

static mpt_text_t state_per_parameter(const mpt_plan_t *plan)
{
    mpt_text_t text;
    snprintf(text.s, sizeof(text.s), "%.2f B",
             (double)mpt_plan_state(plan) / (double)plan->parameters);
    return text;
}

static mpt_text_t wire_elements(const mpt_plan_t *plan)
{
    return mpt_format_si((double)mpt_plan_wire(plan));
}

static void print_sum(const mpt_plan_report_t *report, const char *name,
                      mpt_text_t (*value)(const mpt_plan_t *plan))
{
    printf("  %-24s", name);
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        if (report->modes[m].planned)
            printf(" %*s", MODE_WIDTH - 1, value(&report->modes[m].plan).s);
    putchar('\n');
}

/* What refuses every mode, as a batch that the ranks do not divide, is said once. */
static void print_refused(const mpt_plan_report_t *report)
{
    const mpt_plan_mode_t *first = NULL;
    for (int m = 0; m < MPT_PLAN_MODES; m++) {
        const mpt_plan_mode_t *mode = &report->modes[m];
        if (mode->planned || (first && strcmp(first->reason, mode->reason) == 0))
            continue;
        printf("  not planned: %s\n", mode->reason);
        first = first ? first : mode;
    }
}

void mpt_plan_modes_print(const mpt_plan_report_t *report)
{
    char title[48];
    int planned = 0;
    snprintf(title, sizeof(title), "a rank of %d, by mode", report->ranks);
    printf("\n%-26s", title);
    for (int m = 0; m < MPT_PLAN_MODES; m++) {
        const mpt_plan_mode_t *mode = &report->modes[m];
        planned += mode->planned;
        if (mode->planned)
            printf(" %*s", MODE_WIDTH - 1, mode_title(mode, mode->plan.shard_ranks).s);
    }
    putchar('\n');
    if (planned) {
        print_uses(report);
        print_sum(report, "total", total_bytes);
        print_sum(report, "state per parameter", state_per_parameter);
        print_sum(report, "wire elements per step", wire_elements);
    }
    print_refused(report);
}

/* ---- the textbook ---------------------------------------------------------------------------------- */

/* Bytes a parameter of mixed-precision Adam; from which mode on the ranks share them. */
static const struct {
    const char *name;
    double bytes;
    int shared_from;
} textbook[] = {{"weights, 16 bits", 2, 3},
                {"gradients, 16 bits", 2, 2},
                {"master weights", 4, 1},
                {"moment m", 4, 1},
                {"moment v", 4, 1}};

/* Ranks that share what mode `m` shares; 0: no such mode. */
static int textbook_share(const mpt_plan_report_t *report, int m)
{
    if (m < MPT_PLAN_MODES - 1)
        return report->ranks;
    return report->modes[m].planned ? report->modes[m].plan.shard_ranks
                                    : mpt_plan_hsdp_ranks(report->ranks);
}

static double textbook_bytes(int row, int m, int share)
{
    return textbook[row].bytes / (m >= textbook[row].shared_from ? share : 1);
}

/* Rows `first` to `last` together. */
static void print_textbook(const mpt_plan_report_t *report, const char *name, int first, int last)
{
    printf("  %-24s", name);
    for (int m = 0; m < MPT_PLAN_MODES; m++) {
        int share = textbook_share(report, m);
        double bytes = 0;
        for (int row = first; row <= last && share; row++)
            bytes += textbook_bytes(row, m, share);
        if (share)
            printf(" %*.2f B", MODE_WIDTH - 3, bytes);
        else
            printf(" %*s", MODE_WIDTH - 1, "-");
    }
    putchar('\n');
}

static void print_held(const mpt_plan_report_t *report)
{
    printf("  %-24s", "state held here");
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        printf(" %*s", MODE_WIDTH - 1,
               report->modes[m].planned ? state_per_parameter(&report->modes[m].plan).s : "-");
    putchar('\n');
}

void mpt_plan_textbook_print(const mpt_plan_report_t *report)
{
    static const char *const formulas[MPT_PLAN_MODES] = {"16", "4 + 12/P", "2 + 14/P", "16/P",
                                                         "16/k"};
    const int rows = sizeof(textbook) / sizeof(textbook[0]);
    char title[48];
    snprintf(title, sizeof(title), "bytes per parameter, P = %d", report->ranks);
    printf("\n%-26s", title);
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        printf(" %*s", MODE_WIDTH - 1, mode_title(&report->modes[m], textbook_share(report, m)).s);
    putchar('\n');
    for (int row = 0; row < rows; row++)
        print_textbook(report, textbook[row].name, row, row);
    print_textbook(report, "textbook", 0, rows - 1);
    printf("  %-24s", "textbook, as a formula");
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        printf(" %*s", MODE_WIDTH - 1, formulas[m]);
    putchar('\n');
    print_held(report);
    printf(
        "  The textbook is ZeRO's mixed-precision Adam (Rajbhandari et al. 2020). Here gradients "
        "also add"
        " up\n  in FP32, 4 bytes more: 20 where nothing is shared, and padding. Over several "
        "micro-steps"
        " that\n  accumulator stays whole in every mode, unless parallel.reduce_every = micro.\n");
}

/* ---- JSON ------------------------------------------------------------------------------------------ */

void mpt_plan_memory_write(mpt_json_t *json, const mpt_plan_t *plan)
{
    mpt_json_open(json, "memory", '[');
    for (int i = 0; i < plan->memory_rows; i++) {
        mpt_json_open(json, NULL, '{');
        mpt_json_text(json, "use", plan->memory[i].use);
        mpt_json_int(json, "bytes", plan->memory[i].bytes);
        mpt_json_close(json, '}');
    }
    mpt_json_close(json, ']');
}

static void write_mode(mpt_json_t *json, const mpt_plan_report_t *report, int m)
{
    const mpt_plan_mode_t *mode = &report->modes[m];
    mpt_json_open(json, NULL, '{');
    mpt_json_text(json, "shard", mode->shard);
    mpt_json_int(json, "ranks", report->ranks);
    if (mode->planned) {
        mpt_json_int(json, "shard_ranks", mode->plan.shard_ranks);
        mpt_json_int(json, "bytes", mode->plan.bytes);
        mpt_plan_memory_write(json, &mode->plan);
        mpt_json_int(json, "wire_elements", mpt_plan_wire(&mode->plan));
    }
    mpt_json_text(json, "reason", mode->planned ? NULL : mode->reason);
    if (mode->planned && report->memory > 0)
        mpt_plan_largest_write(json, report, m);
    mpt_json_close(json, '}');
}

void mpt_plan_modes_write(mpt_json_t *json, const mpt_plan_report_t *report)
{
    for (int m = 0; m < MPT_PLAN_MODES; m++)
        write_mode(json, report, m);
}
