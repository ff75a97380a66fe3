#include <time.h>
#include "isa/peak_level.h"
#include "pool.h"

#define RUNS 9
#define RUN_SECONDS 3e-3
#define MAX_THREADS 1024

typedef struct peak_run {
    mpt_peak_loop_t loop;
    mpt_dtype_t compute;
    int64_t rounds;
    struct {
        double start, end, flops;
    } tasks[MAX_THREADS];
} peak_run_t;

static const mpt_peak_loop_t loops[MPT_ISA_COUNT] = {
    [MPT_ISA_PORTABLE] = mpt_cpu_peak_loop_portable,
#ifdef MPT_HAS_LEVEL_AVX2
    [MPT_ISA_AVX2] = mpt_cpu_peak_loop_avx2,
#endif
#ifdef MPT_HAS_LEVEL_AVX512
    [MPT_ISA_AVX512] = mpt_cpu_peak_loop_avx512,
#endif
#ifdef MPT_HAS_LEVEL_AVX512_BF16
    [MPT_ISA_AVX512_BF16] = mpt_cpu_peak_loop_avx512_bf16,
#endif
#ifdef MPT_HAS_LEVEL_AMX
    [MPT_ISA_AMX] = mpt_cpu_peak_loop_amx,
#endif
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void peak_task(void *ctx, int task, int worker)
{
    (void)worker;
    peak_run_t *run = ctx;
    run->tasks[task].start = seconds();
    run->tasks[task].flops = run->loop(run->compute, run->rounds);
    run->tasks[task].end = seconds();
}

/* Enough rounds that a task takes about RUN_SECONDS; warms the processor up on the way. */
static int64_t calibrate(const peak_run_t *run)
{
    int64_t rounds = 64;
    double taken = 0;
    while (!(taken >= RUN_SECONDS / 2) && rounds < INT64_C(1) << 40) {
        rounds *= 2;
        double start = seconds();
        run->loop(run->compute, rounds);
        taken = seconds() - start;
    }
    return (int64_t)((double)rounds * RUN_SECONDS / taken) + 1;
}

/* From the first start to the last end: where two tasks had to share a thread, the rate says so. */
static double rate(const peak_run_t *run, int tasks)
{
    double start = run->tasks[0].start, end = run->tasks[0].end, flops = 0;
    for (int t = 0; t < tasks; t++) {
        start = run->tasks[t].start < start ? run->tasks[t].start : start;
        end = run->tasks[t].end > end ? run->tasks[t].end : end;
        flops += run->tasks[t].flops;
    }
    return flops / (end - start);
}

double mpt_peak_flops(mpt_device_t *device, mpt_isa_t isa, mpt_dtype_t compute)
{
    int threads = mpt_pool_threads(device->pool);
    int tasks = threads < MAX_THREADS ? threads : MAX_THREADS;
    int level = (int)isa;
    while (!loops[level])
        level--;
    peak_run_t run = {.loop = loops[level], .compute = compute};
    run.rounds = calibrate(&run);
    double best = 0;
    for (int r = 0; r < RUNS; r++) {
        mpt_pool_run(device->pool, peak_task, &run, tasks);
        double now = rate(&run, tasks);
        best = now > best ? now : best;
    }
    return best;
}
