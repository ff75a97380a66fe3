/*
 * Weak scaling: the same work a rank, done by one rank alone, by the first two, four and so on, and by all, in rounds. A rank
 * that others' turn leaves out sleeps: a lone rank is to be alone on its host.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "launch.h"
#include "memory.h"
#include "mpt_mpi.h"
#include "scaling.h"
#include "world.h"

#define DEFAULT_STEPS 4
#define VISIT_STEPS 2 /* of a session that is opened for them */
#define MICRO_STEPS 4
#define NAP_NS 5000000

/* What every rank must know of the config before a session tells it. */
typedef struct scaling_work {
    int64_t micro_batch, micro_steps; /* of a rank */
    int64_t group_ranks;              /* hsdp: ranks that share one copy; else 0 */
} scaling_work_t;

typedef struct scaling_run {
    const char *config_path; /* NULL: GPT-2 124M */
    const char *compute;     /* NULL: the config's own */
    mpt_option_list_t overrides;
    int64_t steps, threads; /* 0: a few; the config's */
    int as_json;
    mpt_world_t world;
    mpt_bench_place_t place; /* every rank has its own: hosts need not share files */
    char config[MPT_BENCH_CONFIG_BYTES];
    scaling_work_t work;
    const char *shard; /* rank 0 only */
    int kept_open;
    mpt_bench_point_t points[MPT_BENCH_MAX_POINTS];
    MPI_Comm comms[MPT_BENCH_MAX_POINTS];     /* of points between one rank and all: theirs */
    mpt_boot_t *boots[MPT_BENCH_MAX_POINTS];  /* NULL: one rank alone, or not among them */
    int point_count;
    double waited_s, busy_s; /* for others' turns; processor time meanwhile */
} scaling_run_t;

static mpt_bench_point_t *all_ranks(scaling_run_t *run)
{
    return &run->points[run->point_count - 1];
}

static int takes_part(const scaling_run_t *run, const mpt_bench_point_t *point)
{
    return run->world.rank < point->ranks;
}

/* ---- points ------------------------------------------------------------------------------------------------ */

static void add_point(scaling_run_t *run, int ranks)
{
    mpt_bench_point_t *point = &run->points[run->point_count];
    run->comms[run->point_count++] = MPI_COMM_NULL;
    point->ranks = ranks;
    snprintf(point->name, sizeof(point->name), "%d rank%s", ranks, ranks > 1 ? "s" : "");
    point->mode.name = point->name;
    point->mode.is_first_rank = run->world.rank == 0;
    sched_getaffinity(0, sizeof(point->mode.allowed), &point->mode.allowed);
}

static void list_points(scaling_run_t *run)
{
    for (int ranks = 1; ranks < run->world.ranks && run->point_count < MPT_BENCH_MAX_POINTS - 1; ranks *= 2)
        add_point(run, ranks);
    add_point(run, run->world.ranks);
}

/* A point's ranks get a communicator, and a boot over it: all of them the world's, one alone none. */
static mpt_status_t connect_points(scaling_run_t *run)
{
    mpt_status_t status = MPT_OK;
    run->boots[run->point_count - 1] = run->world.boot;
    for (int i = 1; i < run->point_count - 1 && status == MPT_OK; i++) {
        int part = takes_part(run, &run->points[i]);
        if (MPI_Comm_split(MPI_COMM_WORLD, part ? 0 : MPI_UNDEFINED, 0, &run->comms[i]) != MPI_SUCCESS)
            return MPT_ERR_COMM;
        if (part)
            status = mpt_boot_mpi(run->comms[i], &run->boots[i]);
        status = mpt_world_agree(&run->world, status);
    }
    return status;
}

static void disconnect_points(scaling_run_t *run)
{
    for (int i = 1; i < run->point_count - 1; i++) {
        mpt_boot_destroy(run->boots[i]);
        if (run->comms[i] != MPI_COMM_NULL)
            MPI_Comm_free(&run->comms[i]);
    }
}

/* ---- what a point's session is asked to be ------------------------------------------------------------------- */

static void list_overrides(const scaling_run_t *run, mpt_bench_overrides_t *overrides)
{
    int64_t threads = run->threads > 0 || run->config_path ? run->threads : 1;
    mpt_bench_overrides_begin(overrides, run->place.dir, run->compute, threads);
    if (!run->config_path)
        mpt_bench_overrides_add(overrides, "data.train=%s", run->place.tokens);
    for (int i = 0; i < run->overrides.count; i++)
        mpt_bench_overrides_borrow(overrides, run->overrides.items[i]);
}

/* Fewer ranks have as much work each, and as many threads as each has when all run: all are opened first. Each session has metrics of its
 * own, all being open at once. */
static void list_point_overrides(scaling_run_t *run, const mpt_bench_point_t *point,
                                 mpt_bench_overrides_t *overrides)
{
    const scaling_work_t *work = &run->work;
    int threads = all_ranks(run)->mode.info.threads;
    list_overrides(run, overrides);
    mpt_bench_overrides_add(overrides, "log.dir=%s/%d-ranks", run->place.dir, point->ranks);
    mpt_bench_overrides_add(overrides, "train.global_batch=%lld",
                            (long long)(work->micro_batch * work->micro_steps * point->ranks));
    if (threads > 0)
        mpt_bench_overrides_add(overrides, "threads=%d", threads);
    if (point != all_ranks(run) && point->ranks <= work->group_ranks) {
        /* One group of hsdp is zero3. */
        mpt_bench_overrides_add(overrides, "parallel.shard=zero3");
        mpt_bench_overrides_add(overrides, "parallel.shard_ranks=0");
    }
}

/* Rank 0 plans all ranks' session aloud, since nothing can be measured without it. */
static mpt_status_t plan_work(scaling_run_t *run)
{
    mpt_plan_t plan;
    mpt_bench_overrides_t overrides;
    list_overrides(run, &overrides);
    mpt_config_source_t config = mpt_bench_config_source(run->config_path, run->config, &overrides);
    mpt_status_t status = mpt_plan(&config, run->world.ranks, &plan, mpt_log_quiet, NULL);
    if (status != MPT_OK)
        return status;
    run->shard = plan.shard;
    run->work = (scaling_work_t){.micro_batch = plan.micro_batch,
                                 .micro_steps = plan.micro_steps,
                                 .group_ranks = strcmp(plan.shard, "hsdp") == 0 ? plan.shard_ranks : 0};
    return MPT_OK;
}

/* 1 where all sessions of all ranks fit into half of what is free on one host. */
static int all_fit(scaling_run_t *run)
{
    double bytes = 0;
    for (int i = 0; i < run->point_count; i++) {
        mpt_plan_t plan;
        mpt_bench_overrides_t overrides;
        list_point_overrides(run, &run->points[i], &overrides);
        mpt_config_source_t config = mpt_bench_config_source(run->config_path, run->config, &overrides);
        bytes += mpt_bench_plan(&config, run->points[i].ranks, &plan);
    }
    return bytes <= mpt_memory_free() / 2;
}

/* ---- turns --------------------------------------------------------------------------------------------------------- */

static double processor_seconds(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

/* All ranks meet here after a turn, asleep until the last one comes: MPI's own waits use a core. The worst of both statuses
 * reaches every rank. */
static mpt_status_t meet(scaling_run_t *run, mpt_status_t status, mpt_status_t *left_out)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    int own[2] = {(int)status, (int)*left_out}, worst[2], met = 0;
    double start = mpt_bench_now(), used = processor_seconds();
    MPI_Request request;
    int code = MPI_Iallreduce(own, worst, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD, &request);
    while (code == MPI_SUCCESS && !met) {
        code = MPI_Test(&request, &met, MPI_STATUS_IGNORE);
        if (!met)
            nanosleep(&nap, NULL);
    }
    run->waited_s += mpt_bench_now() - start;
    run->busy_s += processor_seconds() - used;
    if (code != MPI_SUCCESS)
        return MPT_ERR_COMM;
    *left_out = (mpt_status_t)worst[1];
    return (mpt_status_t)worst[0];
}

/* Its ranks have slept, each as long as it liked: they start together. */
static mpt_status_t visit(scaling_run_t *run, int index, int steps)
{
    mpt_bench_point_t *point = &run->points[index];
    MPI_Comm comm = point == all_ranks(run) ? MPI_COMM_WORLD : run->comms[index];
    mpt_bench_overrides_t overrides;
    list_point_overrides(run, point, &overrides);
    const mpt_session_params_t params = {
        .boot = run->boots[index],
        .config = mpt_bench_config_source(run->config_path, run->config, &overrides),
        .fresh_over = 1};
    if (point->ranks > 1 && MPI_Barrier(comm) != MPI_SUCCESS)
        return MPT_ERR_COMM;
    return mpt_bench_mode_visit(&point->mode, &params, steps, run->kept_open);
}

/* Without all ranks, there is nothing to compare the others with. */
static mpt_status_t check_all_ranks(scaling_run_t *run)
{
    const mpt_bench_mode_t *mode = &all_ranks(run)->mode;
    if (mode->status != MPT_OK && run->world.rank == 0)
        fprintf(stderr, "%s\n", mode->refusal);
    return mode->status;
}

static mpt_status_t take_turns(scaling_run_t *run, int steps)
{
    mpt_status_t status = MPT_OK;
    for (int i = run->point_count - 1; i >= 0 && status == MPT_OK; i--) {
        mpt_bench_point_t *point = &run->points[i];
        if (point->mode.status == MPT_OK && takes_part(run, point))
            status = visit(run, i, steps);
        status = meet(run, status, &point->mode.status);
        if (status == MPT_OK)
            status = check_all_ranks(run);
    }
    return status;
}

static int steps_asked(const scaling_run_t *run)
{
    return run->steps > 0 ? (int)run->steps : DEFAULT_STEPS;
}

static mpt_status_t run_rounds(scaling_run_t *run)
{
    mpt_status_t status = MPT_OK;
    int left = steps_asked(run), most = run->kept_open ? 1 : VISIT_STEPS;
    for (; left > 0 && status == MPT_OK; left -= most)
        status = take_turns(run, left < most ? left : most);
    for (int i = 0; i < run->point_count; i++)
        mpt_bench_mode_close(&run->points[i].mode);
    return status;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

/* The worst status of all ranks, and what rank 0 knows of the work, reach every rank. */
static mpt_status_t agree_on_work(scaling_run_t *run, mpt_status_t status)
{
    int64_t known[4] = {run->work.micro_batch, run->work.micro_steps, run->work.group_ranks, run->kept_open};
    if (MPI_Bcast(known, 4, MPI_INT64_T, 0, MPI_COMM_WORLD) != MPI_SUCCESS)
        return MPT_ERR_COMM;
    run->work = (scaling_work_t){known[0], known[1], known[2]};
    run->kept_open = (int)known[3];
    return mpt_world_agree(&run->world, status);
}

/* Each rank makes its folder, rank 0 plans. */
static mpt_status_t prepare(scaling_run_t *run, int *has_place_p)
{
    int sequences = MPT_BENCH_MICRO_BATCH * MICRO_STEPS * run->world.ranks;
    int64_t tokens = run->config_path ? 2 : INT64_C(8) * sequences * MPT_BENCH_CONTEXT + 1;
    mpt_status_t status = mpt_bench_place_create(&run->place, tokens, MPT_BENCH_VOCAB);
    *has_place_p = status == MPT_OK;
    list_points(run);
    if (status == MPT_OK)
        mpt_bench_config_write(&run->place, sequences, run->config);
    if (status == MPT_OK && run->world.rank == 0)
        status = plan_work(run);
    run->kept_open = status == MPT_OK && run->world.rank == 0 && all_fit(run);
    status = agree_on_work(run, status);
    return status == MPT_OK ? connect_points(run) : status;
}

/* Rank 0 learns what a point's ranks spent in collectives. */
static mpt_status_t gather_comm(scaling_run_t *run, mpt_bench_point_t *point)
{
    const mpt_bench_mode_t *mode = &point->mode;
    int has = takes_part(run, point) && mode->status == MPT_OK;
    double comm = has ? mpt_bench_median_of(mode->comm_s, mode->steps) : 0;
    double sums[2] = {comm, has ? mpt_bench_median_of(mode->exposed_s, mode->steps) : 0};
    double least = has ? comm : INFINITY;
    mpt_world_sum(&run->world, sums, 2);
    point->comm_s = sums[0] / point->ranks;
    point->exposed_s = sums[1] / point->ranks;
    if (MPI_Reduce(&least, &point->least_comm_s, 1, MPI_DOUBLE, MPI_MIN, 0, MPI_COMM_WORLD) != MPI_SUCCESS)
        return MPT_ERR_COMM;
    return MPT_OK;
}

static void report(scaling_run_t *run)
{
    double waits[2] = {run->waited_s, run->busy_s};
    mpt_world_sum(&run->world, waits, 2);
    const mpt_bench_scaling_t shown = {.model = run->config_path ? run->config_path : "GPT-2 124M",
                                       .shard = run->shard,
                                       .micro_batch = run->work.micro_batch,
                                       .micro_steps = run->work.micro_steps,
                                       .steps = steps_asked(run),
                                       .kept_open = run->kept_open,
                                       .waiters_busy = waits[1] / waits[0],
                                       .points = run->points,
                                       .point_count = run->point_count};
    if (run->world.rank != 0)
        return;
    if (run->as_json)
        mpt_bench_scaling_print_json(&shown);
    else
        mpt_bench_scaling_print(&shown);
    fflush(stdout);
}

static mpt_status_t measure(scaling_run_t *run)
{
    int has_place;
    mpt_status_t status = prepare(run, &has_place);
    if (status == MPT_OK)
        status = run_rounds(run);
    for (int i = 0; i < run->point_count && status == MPT_OK; i++)
        status = gather_comm(run, &run->points[i]);
    if (has_place)
        mpt_bench_place_destroy(&run->place);
    if (status == MPT_OK)
        report(run);
    if (status != MPT_ERR_COMM)
        disconnect_points(run);
    return status;
}

static int bench(scaling_run_t *run)
{
    int alone = 0;
    mpt_status_t status = mpt_world_open(&run->world);
    if (status == MPT_OK)
        alone = run->world.ranks == 1;
    if (alone)
        fprintf(stderr, "mpt-ddp bench scaling: one rank has none to be compared with; "
                        "start it as mpirun -np 2 mpt-ddp bench scaling\n");
    else if (status == MPT_OK)
        status = measure(run);
    mpt_world_close(&run->world, status);
    return alone ? MPT_EXIT_USAGE : mpt_status_exit_code(status);
}

/* ---- words ------------------------------------------------------------------------------------------------------------- */

/* Returns -1: go on; else the exit code. */
static int parse_words(scaling_run_t *run, int argc, char **argv)
{
    const mpt_option_t options[] = {
        {"--threads", "N", "threads of a rank (1; with a config, the config's)", MPT_OPTION_INT, &run->threads, 1, 4096},
        {"--compute", "TYPE", "compute in it: bf16, fp16, tf32 or fp32 (bf16; with a config, the config's)",
         MPT_OPTION_TEXT, &run->compute, 0, 0},
        {"--steps", "K", "timed steps of each number of ranks, after a warm-up (4)", MPT_OPTION_INT, &run->steps, 1,
         MPT_BENCH_MAX_STEPS},
        {"--set", "section.key=value", "change one key of the config, not log.dir; may be given again", MPT_OPTION_LIST,
         &run->overrides, 0, 0},
        {"--json", NULL, "one JSON object instead of a table", MPT_OPTION_FLAG, &run->as_json, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp bench scaling",
        .arguments = "[model.cfg]",
        .about =
            "Weak scaling, under mpirun with 2 ranks or more: time the same work a rank, micro-batches and micro-steps,\n"
            "by one rank alone, by the first 2, 4 and so on, and by all of them, in turns. Whoever is not in a turn\n"
            "sleeps. Each number of ranks has a session of its own, in the config's shard mode, and each rank as many\n"
            "threads, bound to cores, as it has when all run; the first rank alone keeps its cores. The config's batch\n"
            "is that of all ranks. Without a config: GPT-2 124M in bf16, micro-batch 4 x 1024 tokens, 4 micro-steps a\n"
            "rank, on made-up tokens. Sessions stay open from turn to turn where all of them fit into half of the free\n"
            "memory; else each turn opens one, warms it up and times 2 steps.\n\n"
            "Efficiency is tokens/s a rank over tokens/s of one rank alone. What the config or the memory refuses to\n"
            "fewer ranks is named and left out. One rank has none to be compared with: exit code 2 (see bench step).",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .max_arguments = 1,
    };
    char message[MPT_OPTIONS_MESSAGE];
    int count = 0;
    mpt_parsed_t parsed = mpt_options_parse(&usage, argc, argv, &count, message);
    run->config_path = count > 0 ? argv[0] : NULL;
    return parsed == MPT_PARSED_RUN ? -1 : mpt_bench_answer(&usage, parsed, message);
}

int mpt_bench_scaling(int argc, char **argv)
{
    scaling_run_t *run = calloc(1, sizeof(*run));
    if (!run)
        return mpt_status_exit_code(MPT_ERR_NO_MEMORY);
    int code = parse_words(run, argc, argv);
    if (code < 0)
        code = bench(run);
    free(run);
    return code;
}
