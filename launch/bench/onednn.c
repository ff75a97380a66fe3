#include <dlfcn.h>
#include <math.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include "bench.h"

#define REPEATS 2

/* c [m,n] = a [m,k] x b [k,n], row-major; a or b may be stored transposed. */
typedef struct mpt_product {
    int64_t m, n, k;
    int transpose_a, transpose_b;
} mpt_product_t;

typedef struct mpt_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    float *a, *b, *c; /* as large as the largest product wants */
} mpt_onednn_t;

typedef struct mpt_matmul {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
} mpt_matmul_t;

/* ---- the two interfaces, version 2 and version 3 --------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3

static int make_memory(dnnl_engine_t engine, int64_t rows, int64_t columns, int transposed,
                       float *data, dnnl_memory_t *memory_p)
{
    const dnnl_dims_t dims = {rows, columns};
    dnnl_memory_desc_t desc;
    if (dnnl_memory_desc_create_with_tag(&desc, 2, dims, dnnl_f32,
                                         transposed ? dnnl_ba : dnnl_ab) != dnnl_success)
        return -1;
    dnnl_status_t status = dnnl_memory_create(memory_p, desc, engine, data);
    dnnl_memory_desc_destroy(desc);
    return status == dnnl_success ? 0 : -1;
}

static int make_primitive(dnnl_engine_t engine, mpt_matmul_t *matmul)
{
    const_dnnl_memory_desc_t a, b, c;
    dnnl_primitive_desc_t desc;
    dnnl_memory_get_memory_desc(matmul->a, &a);
    dnnl_memory_get_memory_desc(matmul->b, &b);
    dnnl_memory_get_memory_desc(matmul->c, &c);
    if (dnnl_matmul_primitive_desc_create(&desc, engine, a, b, NULL, c, NULL) != dnnl_success)
        return -1;
    dnnl_status_t status = dnnl_primitive_create(&matmul->primitive, desc);
    dnnl_primitive_desc_destroy(desc);
    return status == dnnl_success ? 0 : -1;
}

#else

static int make_memory(dnnl_engine_t engine, int64_t rows, int64_t columns, int transposed,
                       float *data, dnnl_memory_t *memory_p)
{
    const dnnl_dims_t dims = {rows, columns};
    dnnl_memory_desc_t desc;
    if (dnnl_memory_desc_init_by_tag(&desc, 2, dims, dnnl_f32, transposed ? dnnl_ba : dnnl_ab) !=
        dnnl_success)
        return -1;
    return dnnl_memory_create(memory_p, &desc, engine, data) == dnnl_success ? 0 : -1;
}

static int make_primitive(dnnl_engine_t engine, mpt_matmul_t *matmul)
{
    const dnnl_memory_desc_t *a, *b, *c;
    dnnl_matmul_desc_t what;
    dnnl_primitive_desc_t desc;
    dnnl_memory_get_memory_desc(matmul->a, &a);
    dnnl_memory_get_memory_desc(matmul->b, &b);
    dnnl_memory_get_memory_desc(matmul->c, &c);
    if (dnnl_matmul_desc_init(&what, a, b, NULL, c) != dnnl_success ||
        dnnl_primitive_desc_create(&desc, &what, NULL, engine, NULL) != dnnl_success)
        return -1;
    dnnl_status_t status = dnnl_primitive_create(&matmul->primitive, desc);
    dnnl_primitive_desc_destroy(desc);
    return status == dnnl_success ? 0 : -1;
}

#endif

/* ---- one product ------------------------------------------------------------------------------------- */

static int matmul_create(const mpt_onednn_t *dnn, const mpt_product_t *p, mpt_matmul_t *matmul)
{
    *matmul = (mpt_matmul_t){0};
    if (make_memory(dnn->engine, p->m, p->k, p->transpose_a, dnn->a, &matmul->a) != 0 ||
        make_memory(dnn->engine, p->k, p->n, p->transpose_b, dnn->b, &matmul->b) != 0 ||
        make_memory(dnn->engine, p->m, p->n, 0, dnn->c, &matmul->c) != 0)
        return -1;
    return make_primitive(dnn->engine, matmul);
}

static void matmul_destroy(mpt_matmul_t *matmul)
{
    if (matmul->primitive)
        dnnl_primitive_destroy(matmul->primitive);
    if (matmul->a)
        dnnl_memory_destroy(matmul->a);
    if (matmul->b)
        dnnl_memory_destroy(matmul->b);
    if (matmul->c)
        dnnl_memory_destroy(matmul->c);
}

/* Mean seconds of REPEATS runs after one that is not counted, since a step's products are a mean too; infinite
 * where it fails. */
static double time_matmul(const mpt_onednn_t *dnn, const mpt_product_t *p)
{
    mpt_matmul_t matmul;
    double start = 0, seconds = INFINITY;
    if (matmul_create(dnn, p, &matmul) == 0) {
        const dnnl_exec_arg_t args[] = {
            {DNNL_ARG_SRC, matmul.a}, {DNNL_ARG_WEIGHTS, matmul.b}, {DNNL_ARG_DST, matmul.c}};
        dnnl_status_t status = dnnl_success;
        for (int i = 0; i <= REPEATS && status == dnnl_success; i++) {
            start = i == 1 ? mpt_bench_now() : start;
            status = dnnl_primitive_execute(matmul.primitive, dnn->stream, 3, args);
            dnnl_stream_wait(dnn->stream);
        }
        seconds = status == dnnl_success ? (mpt_bench_now() - start) / REPEATS : INFINITY;
    }
    matmul_destroy(&matmul);
    return seconds;
}

static double time_sgemm(const mpt_onednn_t *dnn, const mpt_product_t *p)
{
    double start = 0;
    dnnl_status_t status = dnnl_success;
    for (int i = 0; i <= REPEATS && status == dnnl_success; i++) {
        start = i == 1 ? mpt_bench_now() : start;
        status = dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->m, p->n,
                            p->k, 1, dnn->a, p->transpose_a ? p->m : p->k, dnn->b,
                            p->transpose_b ? p->k : p->n, 0, dnn->c, p->n);
    }
    return status == dnnl_success ? (mpt_bench_now() - start) / REPEATS : INFINITY;
}

static double time_product(const mpt_onednn_t *dnn, const mpt_product_t *p)
{
    return fmin(time_matmul(dnn, p), time_sgemm(dnn, p));
}

/* ---- a model's products ------------------------------------------------------------------------------ */

/* Weights are [outputs, inputs], as a transformer stores them. */
static double time_layer(const mpt_onednn_t *dnn, const mpt_bench_linear_t *l)
{
    const mpt_product_t forward = {l->rows, l->outputs, l->inputs, 0, 1};
    const mpt_product_t input_gradient = {l->rows, l->inputs, l->outputs, 0, 0};
    const mpt_product_t weight_gradient = {l->outputs, l->inputs, l->rows, 1, 0};
    return time_product(dnn, &forward) + time_product(dnn, &input_gradient) +
           time_product(dnn, &weight_gradient);
}

static int64_t max3(int64_t a, int64_t b, int64_t c)
{
    int64_t high = a > b ? a : b;
    return high > c ? high : c;
}

static int buffers_create(const mpt_bench_linear_t *layers, int layer_count, mpt_onednn_t *dnn)
{
    int64_t count = 0;
    for (int i = 0; i < layer_count; i++) {
        const mpt_bench_linear_t *l = &layers[i];
        count = max3(count, l->rows * (l->inputs > l->outputs ? l->inputs : l->outputs),
                     l->inputs * l->outputs);
    }
    size_t bytes = ((size_t)count * sizeof(float) + 4095) & ~(size_t)4095;
    dnn->a = aligned_alloc(4096, bytes);
    dnn->b = aligned_alloc(4096, bytes);
    dnn->c = aligned_alloc(4096, bytes);
    if (!dnn->a || !dnn->b || !dnn->c)
        return -1;
    for (int64_t i = 0; i < count; i++) {
        dnn->a[i] = (float)(i % 7 - 3);
        dnn->b[i] = (float)(i % 5 - 2);
        dnn->c[i] = 0;
    }
    return 0;
}

static void onednn_destroy(mpt_onednn_t *dnn)
{
    if (dnn->stream)
        dnnl_stream_destroy(dnn->stream);
    if (dnn->engine)
        dnnl_engine_destroy(dnn->engine);
    free(dnn->a);
    free(dnn->b);
    free(dnn->c);
}

static int onednn_create(const mpt_bench_linear_t *layers, int layer_count, mpt_onednn_t *dnn)
{
    *dnn = (mpt_onednn_t){0};
    if (dnnl_engine_create(&dnn->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&dnn->stream, dnn->engine, dnnl_stream_default_flags) != dnnl_success ||
        buffers_create(layers, layer_count, dnn) != 0) {
        fprintf(stderr, "mpt-ddp bench: oneDNN could not be set up\n");
        onednn_destroy(dnn);
        return -1;
    }
    return 0;
}

/* Looked up by name: only an OpenMP build of oneDNN brings it, and this program has no OpenMP of its own. */
static int set_threads(int threads)
{
    void (*set)(int);
    *(void **)&set = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (!set)
        return -1;
    set(threads);
    return 0;
}

double mpt_bench_onednn_fp32(const mpt_bench_linear_t *layers, int layer_count, int threads)
{
    mpt_onednn_t dnn;
    double seconds = 0, flops = 0;
    if (set_threads(threads) != 0 || onednn_create(layers, layer_count, &dnn) != 0)
        return 0;
    for (int i = 0; i < layer_count; i++) {
        const mpt_bench_linear_t *l = &layers[i];
        seconds += (double)l->count * time_layer(&dnn, l);
        flops += 6.0 * (double)l->count * (double)l->rows * (double)l->inputs * (double)l->outputs;
    }
    onednn_destroy(&dnn);
    return isfinite(seconds) ? flops / seconds : 0;
}
