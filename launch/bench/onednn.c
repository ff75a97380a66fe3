#include "onednn.h"
#include <math.h>
#include "bench.h"

#define REPEATS 2

typedef int (*product_run_t)(const mpt_onednn_t *dnn, const void *what);

static int run_matmul(const mpt_onednn_t *dnn, const void *matmul)
{
    return mpt_matmul_run(dnn, matmul);
}

static int run_sgemm(const mpt_onednn_t *dnn, const void *product)
{
    return mpt_onednn_sgemm(dnn, product);
}

/* Mean seconds of REPEATS runs after one that is not counted, since a step's products are a mean too; infinite
 * where it fails. */
static double time_runs(const mpt_onednn_t *dnn, product_run_t run, const void *what)
{
    double start = 0;
    int failed = 0;
    for (int i = 0; i <= REPEATS && !failed; i++) {
        start = i == 1 ? mpt_bench_now() : start;
        failed = run(dnn, what);
    }
    return failed ? INFINITY : (mpt_bench_now() - start) / REPEATS;
}

static double time_product(const mpt_onednn_t *dnn, const mpt_bench_product_t *product)
{
    mpt_matmul_t matmul;
    double seconds = INFINITY;
    const mpt_matmul_params_t params = {.product = *product, .type = "fp32"};
    if (mpt_matmul_create(dnn, &params, &matmul) == 0) {
        seconds = time_runs(dnn, run_matmul, &matmul);
        mpt_matmul_destroy(&matmul);
    }
    return fmin(seconds, time_runs(dnn, run_sgemm, product));
}

/* Weights are [outputs, inputs], as a transformer stores them. */
static double time_layer(const mpt_onednn_t *dnn, const mpt_bench_linear_t *l)
{
    const mpt_bench_product_t forward = {.m = l->rows, .n = l->outputs, .k = l->inputs, .transposed_b = 1};
    const mpt_bench_product_t input_gradient = {.m = l->rows, .n = l->inputs, .k = l->outputs};
    const mpt_bench_product_t weight_gradient = {
        .m = l->outputs, .n = l->inputs, .k = l->rows, .transposed_a = 1};
    return time_product(dnn, &forward) + time_product(dnn, &input_gradient) +
           time_product(dnn, &weight_gradient);
}

static int64_t max3(int64_t a, int64_t b, int64_t c)
{
    int64_t high = a > b ? a : b;
    return high > c ? high : c;
}

/* Of the largest operand. */
static size_t operand_bytes(const mpt_bench_linear_t *layers, int layer_count)
{
    int64_t count = 0;
    for (int i = 0; i < layer_count; i++) {
        const mpt_bench_linear_t *l = &layers[i];
        count = max3(count, l->rows * (l->inputs > l->outputs ? l->inputs : l->outputs),
                     l->inputs * l->outputs);
    }
    return (size_t)count * sizeof(float);
}

double mpt_bench_onednn_fp32(const mpt_bench_linear_t *layers, int layer_count, int threads)
{
    mpt_onednn_t dnn;
    double seconds = 0, flops = 0;
    if (mpt_onednn_set_threads(threads) != 0 ||
        mpt_onednn_create(operand_bytes(layers, layer_count), &dnn) != 0)
        return 0;
    for (int i = 0; i < layer_count; i++) {
        const mpt_bench_linear_t *l = &layers[i];
        seconds += (double)l->count * time_layer(&dnn, l);
        flops += 6.0 * (double)l->count * (double)l->rows * (double)l->inputs * (double)l->outputs;
    }
    mpt_onednn_destroy(&dnn);
    return isfinite(seconds) ? flops / seconds : 0;
}
