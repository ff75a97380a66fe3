#include "bench_ops.h"

#include <stdlib.h>
#include <string.h>

#include "numeric.h"

#define PATTERN_COUNT ((int64_t)1 << 16)
#define COPY_BYTES ((size_t)256 << 20) /* read; as many are written */
#define MAX_ROWS ((int64_t)1 << 20)
#define MAX_DIM ((int64_t)1 << 16)

/* ---- operands ---------------------------------------------------------------------------------------- */

static size_t lines(size_t bytes)
{
    return (bytes + MPT_ARENA_ALIGN - 1) / MPT_ARENA_ALIGN * MPT_ARENA_ALIGN;
}

/* Values in [-1, 1): Knuth's MMIX constants. Any will do, as long as they are no special case. */
static float *make_pattern(void)
{
    uint64_t state = 1;
    float *pattern = malloc((size_t)PATTERN_COUNT * sizeof *pattern);
    for (int64_t i = 0; i < PATTERN_COUNT && pattern != NULL; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        pattern[i] = (float)(int32_t)(state >> 32) * 0x1p-31f;
    }
    return pattern;
}

static void fill(const mpt_bench_ops_t *ops, void *array, mpt_dtype_t dtype, int64_t count)
{
    size_t element = mpt_dtype_bytes(dtype);
    int64_t first = count < PATTERN_COUNT ? count : PATTERN_COUNT;
    mpt_convert(array, dtype, ops->pattern, MPT_F32, first);
    for (int64_t at = first; at < count; at += first) {
        int64_t part = count - at < first ? count - at : first;
        memcpy((char *)array + (size_t)at * element, array, (size_t)part * element);
    }
}

static void *take(mpt_bench_ops_t *ops, size_t bytes)
{
    char *base = ops->operands.ptr;
    void *array = base != NULL ? base + ops->used : NULL;
    ops->used += lines(bytes);
    return array;
}

void *mpt_bench_lay(mpt_bench_ops_t *ops, mpt_bench_case_t *own, mpt_bench_use_t use, mpt_dtype_t dtype,
                    int64_t count)
{
    static const double crossings[] = {
        [MPT_BENCH_READ] = 1, [MPT_BENCH_WRITTEN] = 1, [MPT_BENCH_ADDED] = 2, [MPT_BENCH_ASIDE] = 0};
    size_t bytes = (size_t)count * mpt_dtype_bytes(dtype);
    void *array = take(ops, bytes);
    own->op.bytes += crossings[use] * (double)bytes;
    if (array != NULL && use == MPT_BENCH_READ)
        fill(ops, array, dtype, count);
    else if (array != NULL)
        memset(array, 0, bytes);
    return array;
}

uint32_t *mpt_bench_lay_tokens(mpt_bench_ops_t *ops, mpt_bench_case_t *own, int64_t count)
{
    uint32_t *tokens = take(ops, (size_t)count * sizeof *tokens);
    own->op.bytes += (double)count * sizeof *tokens;
    for (int64_t i = 0; i < count && tokens != NULL; i++)
        tokens[i] = (uint32_t)(mpt_hash_mix((uint64_t)i, 0, 1) % (uint64_t)ops->shape.vocab);
    return tokens;
}

static void lay(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    ops->used = 0;
    own->op.bytes = 0;
    own->lay(ops, own);
}

int64_t mpt_bench_flat_count(const mpt_bench_ops_t *ops)
{
    return (mpt_gpt2_vocab_padded(&ops->shape) + ops->shape.context) * ops->shape.dim;
}

/* ---- open and close ------------------------------------------------------------------------------------ */

static mpt_status_t check_params(mpt_bench_ops_t *ops, const mpt_bench_ops_params_t *params)
{
    static const mpt_dtype_t types[] = {MPT_BF16, MPT_F16, MPT_F32, MPT_TF32};
    const mpt_log_t *log = &ops->host.log;
    const char *name = ops->host.environment.kernels;
    int known = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(mpt_dtype_name(types[i]), params->compute) == 0) {
            ops->compute = mpt_dtype_memory(types[i]);
            ops->math = types[i];
            known = 1;
        }
    ops->backend = mpt_kernels_find(name[0] != '\0' ? name : "cpu");
    if (!known)
        mpt_log_error(log, "%s: not one of bf16, fp16, fp32, tf32", params->compute);
    else if (ops->backend == NULL)
        mpt_log_error(log, "MPT_KERNELS=%s: not one of cpu, ref", name);
    else if (params->batch < 1 || params->seq < 1 || params->batch > MAX_ROWS / params->seq ||
             params->dim < 1 || params->dim > MAX_DIM || params->heads < 1 ||
             params->dim % params->heads != 0 || params->vocab < 1 || params->vocab > MAX_ROWS)
        mpt_log_error(log, "no shape: batch %lld, seq %lld, dim %lld, heads %lld, vocab %lld",
                      (long long)params->batch, (long long)params->seq, (long long)params->dim,
                      (long long)params->heads, (long long)params->vocab);
    else
        return MPT_OK;
    return MPT_ERR_CONFIG;
}

static mpt_status_t open_kernels(mpt_bench_ops_t *ops)
{
    mpt_kernels_limits_t limits;
    mpt_device_t *device = ops->host.device;
    mpt_gpt2_limits(&ops->shape, ops->math, &limits);
    size_t bytes =
        mpt_kernels_scratch_bytes(ops->backend, ops->host.isa, ops->host.place.threads, &limits);
    mpt_status_t status = device->ops->mem_alloc(device, MPT_MEM_PRIVATE, bytes, &ops->scratch);
    if (status != MPT_OK)
        return status;
    return mpt_kernels_init(&ops->kernels, ops->backend, device, &ops->host.log, ops->host.isa,
                            ops->scratch.ptr, bytes, &limits);
}

/* Memory that was never written is one page of zeros, and to read that is to read a cache. */
static void write_copy(mpt_bench_ops_t *ops)
{
    for (int side = 0; side < 2; side++)
        memset(ops->copy[side].ptr, 1, ops->copy[side].bytes);
}

/* The list, and memory for the largest of it. */
static mpt_status_t open_cases(mpt_bench_ops_t *ops)
{
    mpt_device_t *device = ops->host.device;
    size_t most = 0, copied = 0;
    mpt_bench_list_cases(ops);
    for (int i = 0; i < ops->count; i++) {
        mpt_bench_case_t *own = &ops->cases[i];
        lay(ops, own);
        own->op.name = own->name;
        most = ops->used > most ? ops->used : most;
        copied = own->op.bytes / 2 > (double)copied ? lines((size_t)(own->op.bytes / 2)) : copied;
    }
    copied = copied < COPY_BYTES ? copied : COPY_BYTES;
    ops->pattern = make_pattern();
    if (ops->pattern == NULL)
        return MPT_ERR_NO_MEMORY;
    mpt_status_t status = device->ops->mem_alloc(device, MPT_MEM_PRIVATE, copied, &ops->copy[0]);
    if (status == MPT_OK)
        status = device->ops->mem_alloc(device, MPT_MEM_PRIVATE, copied, &ops->copy[1]);
    if (status == MPT_OK)
        status = device->ops->mem_alloc(device, MPT_MEM_PRIVATE, most, &ops->operands);
    if (status == MPT_OK)
        write_copy(ops);
    return status;
}

static mpt_status_t open_all(mpt_bench_ops_t *ops, const mpt_bench_ops_params_t *params)
{
    mpt_status_t status = mpt_boot_self_create(&ops->boot);
    if (status != MPT_OK)
        return status;
    status = mpt_bench_host_open(&ops->host, &(mpt_bench_host_params_t){.boot = ops->boot,
                                                                        .threads = params->threads,
                                                                        .log = params->log,
                                                                        .log_ctx = params->log_ctx});
    if (status == MPT_OK)
        status = check_params(ops, params);
    if (status != MPT_OK)
        return status;
    ops->shape = (mpt_gpt2_shape_t){.layers = 1,
                                    .heads = params->heads,
                                    .dim = params->dim,
                                    .context = params->seq,
                                    .vocab = params->vocab,
                                    .batch = params->batch,
                                    .seq = params->seq};
    status = open_kernels(ops);
    return status == MPT_OK ? open_cases(ops) : status;
}

mpt_status_t mpt_bench_ops_open(const mpt_bench_ops_params_t *params, mpt_bench_ops_t **ops_p)
{
    mpt_bench_ops_t *ops = calloc(1, sizeof *ops);
    if (ops == NULL)
        return MPT_ERR_NO_MEMORY;
    ops->prepared = -1;
    mpt_status_t status = open_all(ops, params);
    if (status != MPT_OK) {
        mpt_bench_ops_close(ops);
        return status;
    }
    *ops_p = ops;
    return MPT_OK;
}

void mpt_bench_ops_close(mpt_bench_ops_t *ops)
{
    if (ops == NULL)
        return;
    mpt_device_t *device = ops->host.device;
    mpt_mem_t *held[] = {&ops->operands, &ops->copy[1], &ops->copy[0], &ops->scratch};
    for (size_t i = 0; i < sizeof held / sizeof *held && device != NULL; i++)
        if (held[i]->ptr != NULL)
            device->ops->mem_free(device, held[i]);
    free(ops->pattern);
    mpt_bench_host_close(&ops->host);
    mpt_boot_destroy(ops->boot);
    free(ops);
}

/* ---- use --------------------------------------------------------------------------------------------------- */

void mpt_bench_ops_info(const mpt_bench_ops_t *ops, mpt_bench_ops_info_t *info_p)
{
    *info_p = (mpt_bench_ops_info_t){.kernels = ops->backend->name,
                                     .isa = mpt_isa_name(ops->host.isa),
                                     .threads = ops->host.place.threads,
                                     .flat_count = mpt_bench_flat_count(ops)};
}

int mpt_bench_ops_count(const mpt_bench_ops_t *ops)
{
    return ops->count;
}

void mpt_bench_ops_describe(const mpt_bench_ops_t *ops, int index, mpt_bench_op_t *op_p)
{
    *op_p = ops->cases[index].op;
}

mpt_status_t mpt_bench_ops_prepare(mpt_bench_ops_t *ops, int index)
{
    ops->failed = MPT_OK;
    lay(ops, &ops->cases[index]);
    ops->prepared = ops->failed == MPT_OK ? index : -1;
    return ops->failed;
}

mpt_status_t mpt_bench_ops_run(mpt_bench_ops_t *ops)
{
    mpt_device_t *device = ops->host.device;
    if (ops->prepared < 0)
        return MPT_ERR_INVALID_ARG;
    const mpt_bench_case_t *own = &ops->cases[ops->prepared];
    mpt_status_t status = own->run(ops, own);
    return status == MPT_OK ? device->ops->stream_synchronize(device, ops->host.stream) : status;
}

double mpt_bench_ops_peak(mpt_bench_ops_t *ops)
{
    return mpt_peak_flops(ops->host.device, ops->host.isa, ops->math);
}

double mpt_bench_ops_copy(mpt_bench_ops_t *ops, int way, double bytes)
{
    size_t half = ops->copy[0].bytes;
    if (bytes / 2 < (double)half)
        half = lines((size_t)(bytes / 2));
    mpt_bench_host_copy(&ops->host, way, ops->copy[0].ptr, ops->copy[1].ptr, half);
    return 2.0 * (double)half;
}
