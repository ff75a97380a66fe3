#include "plan_show.h"
#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

mpt_status_t mpt_plan_query_open(mpt_plan_query_t *query, const char *path,
                                 const mpt_option_list_t *overrides)
{
    char *text;
    mpt_status_t status = mpt_config_read(path, &text, mpt_log_quiet, NULL);
    if (status != MPT_OK)
        return status;
    *query = (mpt_plan_query_t){.text = text,
                                .config = {.text = text,
                                           .path = path,
                                           .overrides = overrides->items,
                                           .override_count = overrides->count}};
    return MPT_OK;
}

void mpt_plan_query_close(mpt_plan_query_t *query)
{
    free(query->text);
    query->text = NULL;
}

void mpt_plan_change(mpt_plan_changes_t *changes, const char *format, ...)
{
    va_list arguments;
    assert(changes->count < MPT_PLAN_CHANGES);
    va_start(arguments, format);
    vsnprintf(changes->set[changes->count++], sizeof(changes->set[0]), format, arguments);
    va_end(arguments);
}

typedef struct heard {
    char *line;
    size_t bytes;
} heard_t;

/* The error's line; where a change of ours was the mistake, "--set" would be news to the reader. */
static void hear_error(void *ctx, mpt_log_severity_t severity, const char *line)
{
    static const char prefix[] = "--set: ";
    heard_t *heard = ctx;
    if (severity != MPT_SEVERITY_ERROR)
        return;
    if (strncmp(line, prefix, sizeof(prefix) - 1) == 0)
        line += sizeof(prefix) - 1;
    snprintf(heard->line, heard->bytes, "%s", line);
}

mpt_status_t mpt_plan_ask(mpt_plan_query_t *query, int ranks,
                          const mpt_plan_changes_t *changes, mpt_plan_t *plan_p, char *reason,
                          size_t reason_bytes)
{
    const char *overrides[MPT_OPTION_LIST_MAX + MPT_PLAN_CHANGES];
    mpt_config_source_t config = query->config;
    heard_t heard = {reason, reason_bytes};
    int count = config.override_count;
    for (int i = 0; i < count; i++)
        overrides[i] = config.overrides[i];
    for (int i = 0; i < changes->count; i++)
        overrides[count++] = changes->set[i];
    config.overrides = overrides;
    config.override_count = count;
    snprintf(reason, reason_bytes, "refused");
    mpt_status_t status = mpt_plan(&config, ranks, plan_p, hear_error, &heard);
    query->out_of_memory |= status == MPT_ERR_NO_MEMORY;
    return status;
}

static int ask_mode(mpt_plan_query_t *query, int ranks, mpt_plan_mode_t *mode)
{
    mpt_status_t status =
        mpt_plan_ask(query, ranks, &mode->changes, &mode->plan, mode->reason, sizeof(mode->reason));
    mode->planned = status == MPT_OK;
    return mode->planned;
}

void mpt_plan_ask_modes(mpt_plan_query_t *query, int ranks, mpt_plan_report_t *report)
{
    static const char *const shards[MPT_PLAN_MODES] = {"ddp", "zero1", "zero2", "zero3", "hsdp"};
    report->ranks = ranks;
    for (int m = 0; m < MPT_PLAN_MODES; m++) {
        mpt_plan_mode_t *mode = &report->modes[m];
        *mode = (mpt_plan_mode_t){.shard = shards[m]};
        mpt_plan_change(&mode->changes, "parallel.shard=%s", mode->shard);
        if (ask_mode(query, ranks, mode))
            continue;
        /* Perhaps it is the config's shard_ranks, meant for another mode or number of ranks. */
        int hsdp = strcmp(mode->shard, "hsdp") == 0;
        int share = hsdp ? mpt_plan_hsdp_ranks(ranks) : 0;
        mpt_plan_change(&mode->changes, "parallel.shard_ranks=%d", share);
        if (hsdp && share == 0)
            snprintf(mode->reason, sizeof(mode->reason),
                     "parallel.shard = hsdp: %d rank%s cannot be cut into several equal groups of"
                     " 2, 4, 8 .. ranks",
                     ranks, ranks > 1 ? "s" : "");
        else
            ask_mode(query, ranks, mode);
    }
}

int mpt_plan_hsdp_ranks(int ranks)
{
    int64_t share = 1;
    while (2 * share < ranks && ranks % (2 * share) == 0)
        share *= 2;
    return share > 1 ? (int)share : 0;
}

int64_t mpt_plan_wire(const mpt_plan_t *plan)
{
    int64_t n = plan->parameters, reduced = plan->reductions * n;
    int64_t gathered = 2 * plan->micro_steps * n;
    if (plan->ranks == 1)
        return 0;
    if (strcmp(plan->shard, "zero3") == 0)
        return gathered + reduced;
    if (strcmp(plan->shard, "hsdp") != 0)
        return reduced + n;
    int share = plan->shard_ranks > 0 ? plan->shard_ranks : plan->ranks;
    return (share > 1 ? gathered + reduced : 0) + (share < plan->ranks ? 2 * reduced / share : 0);
}

int64_t mpt_plan_use(const mpt_plan_t *plan, const char *use)
{
    for (int i = 0; i < plan->memory_rows; i++)
        if (strcmp(plan->memory[i].use, use) == 0)
            return plan->memory[i].bytes;
    return 0;
}

int64_t mpt_plan_state(const mpt_plan_t *plan)
{
    static const char *const uses[] = {"weights", "masters",      "moments",
                                       "ema",     "accumulators", "gradients"};
    int64_t bytes = 0;
    for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++)
        bytes += mpt_plan_use(plan, uses[i]);
    return bytes;
}
