/*
 * What `mpt-ddp bench scaling` measures and shows. Plain data; all on the calling thread.
 */
#ifndef MPT_BENCH_SCALING_H
#define MPT_BENCH_SCALING_H

#include "bench.h"

#define MPT_BENCH_MAX_POINTS 16 /* powers of two, then all ranks */

/* The first ranks of the run, so many of them, in a session of their own. */
typedef struct mpt_bench_point {
    int ranks;
    char name[24]; /* "4 ranks" */
    mpt_bench_mode_t mode;
    /* A step's seconds, medians over steps; rank 0 alone has them. Exposed: of what is in collectives, what nothing ran beside. */
    double comm_s, exposed_s; /* mean over the ranks */
    double least_comm_s;      /* of the rank that spent the least: the others wait for it as well */
} mpt_bench_point_t;

/* What rank 0 knows after the run. */
typedef struct mpt_bench_scaling {
    const char *model, *shard;
    int64_t micro_batch, micro_steps; /* of each rank, whatever their number */
    int steps, kept_open; /* timed steps of each point; sessions stayed open from round to round */
    double waiters_busy;  /* of the time that ranks waited for others' turns, the share that they computed */
    mpt_bench_point_t *points; /* one rank first, all ranks last */
    int point_count;
} mpt_bench_scaling_t;

/* ---- bench/scaling_show.c ---------------------------------------------------------------------------- */

void mpt_bench_scaling_print(const mpt_bench_scaling_t *report);
void mpt_bench_scaling_print_json(const mpt_bench_scaling_t *report);

#endif
