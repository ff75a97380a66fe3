/*
 * Shard modes side by side: the same steps in each mode, in rounds, so that what the machine does meanwhile meets
 * all of them alike.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bench.h"
#include "launch.h"
#include "memory.h"
#include "mpt_mpi.h"
#include "world.h"

#define DEFAULT_STEPS 4
#define VISIT_STEPS 2 /* of a session that is opened for them */
#define MICRO_STEPS 2
#define SHARD_RANKS_KEY "parallel.shard_ranks="

static const char *const mode_names[MPT_BENCH_MODES] = {"ddp", "zero1", "zero2", "zero3", "hsdp"};

typedef struct shards_run {
    const mpt_bench_shards_params_t *params;
    mpt_world_t world;
    mpt_bench_place_t place; /* every rank has its own: hosts need not share files */
    char config[MPT_BENCH_CONFIG_BYTES];
    int kept_open;
    mpt_bench_mode_t modes[MPT_BENCH_MODES];
    mpt_plan_t plans[MPT_BENCH_MODES]; /* rank 0 only */
    int mode_count;
} shards_run_t;

/* ---- which modes ------------------------------------------------------------------------------------------ */

/* The mode named by the first word of *list_p, which moves on behind it; -1: there is no such mode. */
static int next_mode(const char **list_p)
{
    size_t length = strcspn(*list_p, ",");
    int found = -1;
    for (int i = 0; i < MPT_BENCH_MODES; i++)
        if (strlen(mode_names[i]) == length && strncmp(*list_p, mode_names[i], length) == 0)
            found = i;
    *list_p += length;
    *list_p += **list_p == ',' && (*list_p)[1];
    return found;
}

int mpt_bench_shards_known(const char *modes)
{
    unsigned seen = 0;
    do {
        int mode = next_mode(&modes);
        if (mode < 0 || seen >> mode & 1)
            return 0;
        seen |= 1u << mode;
    } while (*modes);
    return 1;
}

/* The last of the caller's overrides for hsdp's ranks; 0: none. */
static int64_t asked_shard_ranks(const mpt_option_list_t *overrides)
{
    int64_t asked = 0;
    for (int i = 0; i < overrides->count; i++)
        if (strncmp(overrides->items[i], SHARD_RANKS_KEY, strlen(SHARD_RANKS_KEY)) == 0)
            asked = strtoll(overrides->items[i] + strlen(SHARD_RANKS_KEY), NULL, 10);
    return asked;
}

/* The largest power of two that divides the ranks and leaves two groups or more; 1 where none does. */
static int64_t half_the_ranks(int ranks)
{
    int64_t k = 1;
    while (k * 2 < ranks && ranks % (k * 2) == 0)
        k *= 2;
    return k;
}

static void list_modes(shards_run_t *run)
{
    const char *list = run->params->modes;
    int64_t asked = asked_shard_ranks(run->params->overrides);
    while (*list) {
        mpt_bench_mode_t *mode = &run->modes[run->mode_count++];
        mode->name = mode_names[next_mode(&list)];
        mode->is_first_rank = run->world.rank == 0;
        sched_getaffinity(0, sizeof(mode->allowed), &mode->allowed);
        if (strcmp(mode->name, "hsdp") == 0)
            mode->shard_ranks = asked > 0 ? asked : half_the_ranks(run->world.ranks);
    }
}

/* ---- what a mode's session is asked to be ------------------------------------------------------------------ */

/* Shard ranks are for hsdp alone: other modes would refuse them. */
static void list_overrides(const shards_run_t *run, const mpt_bench_mode_t *mode,
                           mpt_bench_overrides_t *overrides)
{
    const mpt_bench_shards_params_t *params = run->params;
    char dir[96];
    snprintf(dir, sizeof(dir), "%s/%s", run->place.dir, mode->name);
    mpt_bench_overrides_begin(overrides, dir, params->compute, params->threads);
    if (!params->config_path)
        mpt_bench_overrides_add(overrides, "data.train=%s", run->place.tokens);
    for (int i = 0; i < params->overrides->count; i++)
        if (strncmp(params->overrides->items[i], SHARD_RANKS_KEY, strlen(SHARD_RANKS_KEY)) != 0)
            mpt_bench_overrides_borrow(overrides, params->overrides->items[i]);
    mpt_bench_overrides_add(overrides, "log.dir=%s", dir); /* all modes may be open at once */
    mpt_bench_overrides_add(overrides, "parallel.shard=%s", mode->name);
    mpt_bench_overrides_add(overrides, SHARD_RANKS_KEY "%lld", (long long)mode->shard_ranks);
}

static mpt_config_source_t config_source(const shards_run_t *run,
                                         const mpt_bench_overrides_t *overrides)
{
    return mpt_bench_config_source(run->params->config_path, run->config, overrides);
}

/* ---- what fits -------------------------------------------------------------------------------------------------- */

/* Rank 0 plans every mode. Returns 1 where all sessions of all ranks fit into half of what is free on one host. */
static int plan_modes(shards_run_t *run)
{
    double bytes = 0;
    for (int i = 0; i < run->mode_count; i++) {
        mpt_bench_overrides_t overrides;
        list_overrides(run, &run->modes[i], &overrides);
        mpt_config_source_t config = config_source(run, &overrides);
        bytes += mpt_bench_plan(&config, run->world.ranks, &run->plans[i]);
    }
    return bytes <= mpt_memory_free() / 2;
}

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

static mpt_status_t visit(shards_run_t *run, mpt_bench_mode_t *mode, int steps)
{
    mpt_bench_overrides_t overrides;
    list_overrides(run, mode, &overrides);
    const mpt_session_params_t params = {
        .boot = run->world.boot, .config = config_source(run, &overrides), .fresh_over = 1};
    return mpt_bench_mode_visit(mode, &params, steps, run->kept_open);
}

static int steps_asked(const shards_run_t *run)
{
    return run->params->steps > 0 ? (int)run->params->steps : DEFAULT_STEPS;
}

static mpt_status_t run_rounds(shards_run_t *run)
{
    mpt_status_t status = MPT_OK;
    int left = steps_asked(run), most = run->kept_open ? 1 : VISIT_STEPS;
    for (; left > 0 && status == MPT_OK; left -= most)
        for (int i = 0; i < run->mode_count && status == MPT_OK; i++)
            status = visit(run, &run->modes[i], left < most ? left : most);
    for (int i = 0; i < run->mode_count; i++)
        mpt_bench_mode_close(&run->modes[i]);
    return status;
}

/* ---- all of it ----------------------------------------------------------------------------------------------------- */

/* Each rank makes its folder; rank 0 decides what stays open. The worst status, and that decision, reach every rank. */
static mpt_status_t prepare(shards_run_t *run, int *has_place_p)
{
    const char *path = run->params->config_path;
    int sequences = MPT_BENCH_MICRO_BATCH * MICRO_STEPS * run->world.ranks;
    int64_t tokens = path ? 2 : INT64_C(8) * sequences * MPT_BENCH_CONTEXT + 1;
    mpt_status_t status = mpt_bench_place_create(&run->place, tokens, MPT_BENCH_VOCAB);
    *has_place_p = status == MPT_OK;
    list_modes(run);
    if (status == MPT_OK)
        mpt_bench_config_write(&run->place, sequences, run->config);
    int agreed[2] = {(int)status, status == MPT_OK && run->world.rank == 0 && plan_modes(run)};
    if (run->world.mpi &&
        MPI_Allreduce(MPI_IN_PLACE, agreed, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD) != MPI_SUCCESS)
        return MPT_ERR_COMM;
    run->kept_open = agreed[1];
    return (mpt_status_t)agreed[0];
}

/* Where every mode was refused there is nothing to show but why, once. */
static mpt_status_t check_any(const shards_run_t *run)
{
    for (int i = 0; i < run->mode_count; i++)
        if (run->modes[i].status == MPT_OK)
            return MPT_OK;
    for (int i = 0; i < run->mode_count && run->world.rank == 0; i++)
        if (i == 0 || strcmp(run->modes[i].refusal, run->modes[i - 1].refusal) != 0)
            fprintf(stderr, "%s\n", run->modes[i].refusal);
    return run->modes[0].status;
}

static void report(shards_run_t *run)
{
    const char *path = run->params->config_path;
    const mpt_bench_side_by_side_t shown = {.model = path ? path : "GPT-2 124M",
                                            .steps = steps_asked(run),
                                            .kept_open = run->kept_open,
                                            .modes = run->modes,
                                            .plans = run->plans,
                                            .mode_count = run->mode_count};
    if (run->world.rank != 0)
        return;
    if (run->params->as_json)
        mpt_bench_shards_print_json(&shown);
    else
        mpt_bench_shards_print(&shown);
    fflush(stdout);
}

static mpt_status_t measure(shards_run_t *run)
{
    int has_place;
    mpt_status_t status = prepare(run, &has_place);
    if (status == MPT_OK)
        status = run_rounds(run);
    if (status == MPT_OK)
        status = check_any(run);
    if (has_place)
        mpt_bench_place_destroy(&run->place);
    if (status == MPT_OK)
        report(run);
    return status;
}

int mpt_bench_shards(const mpt_bench_shards_params_t *params)
{
    shards_run_t *run = calloc(1, sizeof(*run));
    if (!run)
        return mpt_status_exit_code(MPT_ERR_NO_MEMORY);
    run->params = params;
    mpt_status_t status = mpt_world_open(&run->world);
    if (status == MPT_OK)
        status = measure(run);
    mpt_world_close(&run->world, status);
    free(run);
    return mpt_status_exit_code(status);
}
