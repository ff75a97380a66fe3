/*
 * Copies of memory, as a limit for passes over it: medians, and of the ways to copy the faster one.
 */
#include <math.h>
#include "bench.h"
#include "launch.h"

#define COPY_RUNS 7
#define ALL_BYTES 1e18 /* as many as the bench's arrays hold */

double mpt_bench_copy_time(mpt_bench_ops_t *ops, int way, double bytes)
{
    double start = mpt_bench_now();
    double moved = mpt_bench_ops_copy(ops, way, bytes);
    return moved / (mpt_bench_now() - start);
}

double mpt_bench_copy_best(double (*copy)[MPT_BENCH_MAX_RUNS], int runs)
{
    double best = 0;
    for (int w = 0; w < MPT_BENCH_COPY_WAYS; w++)
        best = fmax(best, mpt_bench_median(copy[w], runs));
    return best;
}

double mpt_bench_copy_rate(mpt_bench_ops_t *ops)
{
    double copy[MPT_BENCH_COPY_WAYS][MPT_BENCH_MAX_RUNS];
    for (int i = -1; i < COPY_RUNS; i++) /* the first touches the memory */
        for (int w = 0; w < MPT_BENCH_COPY_WAYS; w++)
            copy[w][i < 0 ? 0 : i] = mpt_bench_copy_time(ops, w, ALL_BYTES);
    return mpt_bench_copy_best(copy, COPY_RUNS);
}

double mpt_bench_copy_measure(int threads)
{
    mpt_bench_ops_t *ops;
    const mpt_bench_ops_params_t params = {.compute = "bf16",
                                           .threads = threads,
                                           .batch = MPT_BENCH_MICRO_BATCH,
                                           .seq = MPT_BENCH_CONTEXT,
                                           .dim = MPT_BENCH_DIM,
                                           .heads = MPT_BENCH_HEADS,
                                           .vocab = MPT_BENCH_VOCAB,
                                           .log = mpt_log_quiet};
    if (mpt_bench_ops_open(&params, &ops) != MPT_OK)
        return NAN;
    double rate = mpt_bench_copy_rate(ops);
    mpt_bench_ops_close(ops);
    return rate;
}
