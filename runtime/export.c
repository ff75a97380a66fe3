#include "export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llmc.h"
#include "safetensors.h"
#include "session.h"

/* ---- shared with import ---------------------------------------------------------------------------------- */

const char *mpt_export_prefix(mpt_checkpoint_kind_t kind)
{
    static const char *const prefixes[MPT_KIND_COUNT] = {[MPT_KIND_MASTER] = "",
                                                         [MPT_KIND_M] = "optimizer.m.",
                                                         [MPT_KIND_V] = "optimizer.v.",
                                                         [MPT_KIND_EMA] = "ema."};
    return prefixes[kind];
}

void mpt_export_kinds(unsigned kinds, char *out)
{
    out[0] = '\0';
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        if (kinds >> k & 1u)
            sprintf(out + strlen(out), "%s%s", out[0] != '\0' ? ", " : "",
                    mpt_checkpoint_kind_name((mpt_checkpoint_kind_t)k));
}

mpt_status_t mpt_export_layout(const mpt_gpt2_shape_t *shape, const mpt_log_t *log, mpt_layout_t *layout_p)
{
    int count = mpt_gpt2_tensor_count(shape);
    mpt_tensor_t *tensors = calloc((size_t)count, sizeof *tensors);
    mpt_status_t status = MPT_ERR_NO_MEMORY;
    if (tensors != NULL) {
        mpt_gpt2_tensors(shape, tensors);
        status = mpt_layout_build(tensors, count, &(mpt_layout_cut_t){.ranks = 1}, layout_p);
    }
    free(tensors);
    if (status == MPT_ERR_NO_MEMORY)
        mpt_log_error(log, "out of memory for the table of %d tensors", count);
    return status;
}

/* ---- what is asked for ----------------------------------------------------------------------------------- */

typedef struct request {
    int safetensors;
    int version; /* llm.c */
    mpt_dtype_t dtype;
    int weights; /* a kind; -1: everything there is */
} request_t;

static mpt_status_t refuse(const mpt_log_t *log, const char *what, const char *value, const char *advice)
{
    mpt_log_error(log, "cannot export: %s \"%s\"; %s", what, value, advice);
    return MPT_ERR_CONFIG;
}

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

static mpt_status_t read_format(const mpt_checkpoint_export_params_t *params, const mpt_log_t *log,
                                request_t *request)
{
    const char *format = params->format;
    if (format == NULL && ends_with(params->out, ".bin"))
        format = "llmc";
    if (format == NULL && ends_with(params->out, ".safetensors"))
        format = "safetensors";
    if (format == NULL)
        return refuse(log, "no format is known by the name", params->out,
                      "name it .bin (llm.c) or .safetensors, or say which with --format");
    request->safetensors = strcmp(format, "safetensors") == 0;
    if (!request->safetensors && strcmp(format, "llmc") != 0)
        return refuse(log, "unknown format", format, "llmc or safetensors");
    return MPT_OK;
}

static mpt_status_t read_weights(const mpt_checkpoint_export_params_t *params, const mpt_log_t *log,
                                 request_t *request)
{
    int whole = request->safetensors && request->dtype == MPT_F32;
    request->weights = whole ? -1 : MPT_KIND_MASTER;
    if (params->weights == NULL)
        return MPT_OK;
    request->weights = strcmp(params->weights, "ema") == 0 ? MPT_KIND_EMA : MPT_KIND_MASTER;
    if (request->weights == MPT_KIND_MASTER && strcmp(params->weights, "master") != 0)
        return refuse(log, "unknown weights", params->weights, "master or ema");
    return MPT_OK;
}

static mpt_status_t read_type(const mpt_checkpoint_export_params_t *params, const mpt_log_t *log,
                              request_t *request)
{
    const char *dtype = params->dtype;
    int version = params->version;
    char text[16];
    snprintf(text, sizeof text, "%d", version);
    if (version != 0 && request->safetensors)
        return refuse(log, "safetensors has no version", text, "versions are llm.c's");
    if (version != 0 && version != MPT_LLMC_FP32 && version != MPT_LLMC_BF16)
        return refuse(log, "unknown version", text, "llm.c's are 3 (fp32) and 5 (bf16)");
    if (dtype == NULL)
        dtype = version == MPT_LLMC_BF16 ? "bf16" : "fp32";
    request->dtype = strcmp(dtype, "bf16") == 0 ? MPT_BF16 : MPT_F32;
    if (request->dtype == MPT_F32 && strcmp(dtype, "fp32") != 0)
        return refuse(log, "unknown dtype", dtype, "fp32 or bf16");
    request->version = request->dtype == MPT_F32 ? MPT_LLMC_FP32 : MPT_LLMC_BF16;
    if (version != 0 && version != request->version)
        return refuse(log, "dtype and version contradict each other: version", text,
                      "llm.c's version 3 is fp32, 5 is bf16");
    return MPT_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

typedef struct export {
    request_t request;
    mpt_checkpoint_meta_t meta;
    const mpt_checkpoint_export_params_t *params;
    const mpt_log_t *log;
    unsigned kinds; /* to write */
    mpt_gpt2_shape_t shape;
    mpt_layout_t layout;
    mpt_llmc_t *llmc;
    mpt_safetensors_writer_t *writer;
    int first[MPT_KIND_COUNT]; /* number of each kind's first tensor in the safetensors file */
} export_t;

static mpt_status_t choose_kinds(export_t *e)
{
    unsigned held = mpt_checkpoint_kinds(&e->meta);
    e->kinds = e->request.weights < 0 ? held : 1u << e->request.weights;
    if ((e->kinds & ~held) == 0)
        return MPT_OK;
    mpt_log_error(e->log, "%s holds no %s; it was trained with train.ema = 0", e->meta.path,
                  mpt_checkpoint_kind_name((mpt_checkpoint_kind_t)e->request.weights));
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t open_layout(export_t *e)
{
    mpt_config_t config;
    mpt_config_defaults(&config);
    mpt_status_t status = mpt_restore_model_config(&e->meta, e->log, &config);
    if (status != MPT_OK)
        return status;
    e->shape = mpt_memory_shape(&config);
    return mpt_export_layout(&e->shape, e->log, &e->layout);
}

/* Every line of the meta as metadata; "pt" tells other programs that matrices lie as PyTorch's Linear has them. */
static mpt_status_t write_metadata(export_t *e)
{
    char text[MPT_CHECKPOINT_META_MAX], *save = NULL;
    mpt_status_t status = mpt_safetensors_set(e->writer, "format", "pt");
    snprintf(text, sizeof text, "%s", e->meta.text);
    for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        char *equals = strstr(line, " = ");
        if (equals == NULL || status != MPT_OK)
            continue;
        *equals = '\0';
        status = mpt_safetensors_set(e->writer, line, equals + 3);
    }
    return status;
}

static mpt_status_t add_tensors(export_t *e, mpt_checkpoint_kind_t kind, int *number)
{
    char name[MPT_EXPORT_NAME_MAX];
    mpt_status_t status = MPT_OK;
    const char *prefix = e->request.weights < 0 ? mpt_export_prefix(kind) : "";
    e->first[kind] = *number;
    for (int t = 0; t < e->layout.tensor_count && status == MPT_OK; t++) {
        const mpt_tensor_t *tensor = &e->layout.tensors[t];
        mpt_safetensor_t row = {.name = name, .dtype = e->request.dtype, .dims = tensor->dims};
        snprintf(name, sizeof name, "%s%s", prefix, tensor->name);
        memcpy(row.shape, tensor->shape, sizeof row.shape);
        status = mpt_safetensors_add(e->writer, &row);
        ++*number;
    }
    return status;
}

static mpt_status_t begin_safetensors(export_t *e)
{
    int number = 0;
    mpt_status_t status = mpt_safetensors_new(&e->writer);
    if (status == MPT_OK)
        status = write_metadata(e);
    for (int k = 0; k < MPT_KIND_COUNT && status == MPT_OK; k++)
        if (e->kinds >> k & 1u)
            status = add_tensors(e, (mpt_checkpoint_kind_t)k, &number);
    if (status == MPT_ERR_NO_MEMORY)
        mpt_log_error(e->log, "out of memory for the header of %s", e->params->out);
    if (status == MPT_OK)
        status = mpt_safetensors_begin(e->writer, e->params->out, e->params->force, e->log);
    return status;
}

static mpt_status_t put(void *ctx, mpt_checkpoint_kind_t kind, int tensor, int64_t first, int64_t count,
                        const float *values)
{
    export_t *e = ctx;
    if (e->llmc != NULL)
        return mpt_llmc_put(e->llmc, tensor, first, count, values);
    return mpt_safetensors_put(e->writer, e->first[kind] + tensor, first, count, values);
}

static mpt_status_t write_file(export_t *e, int64_t *bytes_p)
{
    const mpt_checkpoint_sink_t sink = {.put = put, .ctx = e};
    mpt_status_t status = e->request.safetensors
                              ? begin_safetensors(e)
                              : mpt_llmc_create(e->params->out, &e->shape, e->request.version,
                                                e->params->force, e->log, &e->llmc);
    if (status == MPT_OK)
        status = mpt_checkpoint_load(&e->meta, &e->layout, e->kinds, &sink, e->log);
    if (status == MPT_OK)
        status = e->request.safetensors ? mpt_safetensors_commit(e->writer, bytes_p)
                                        : mpt_llmc_commit(e->llmc, bytes_p);
    return status;
}

static mpt_status_t export(export_t *e, int64_t *bytes_p)
{
    mpt_status_t status = read_format(e->params, e->log, &e->request);
    if (status == MPT_OK)
        status = read_type(e->params, e->log, &e->request);
    if (status == MPT_OK)
        status = read_weights(e->params, e->log, &e->request);
    if (status == MPT_OK)
        status = mpt_restore_find(e->params->checkpoint, e->log, &e->meta);
    if (status == MPT_OK)
        status = choose_kinds(e);
    if (status == MPT_OK)
        status = open_layout(e);
    if (status == MPT_OK)
        status = write_file(e, bytes_p);
    mpt_llmc_close(e->llmc);
    mpt_safetensors_drop(e->writer);
    mpt_layout_release(&e->layout);
    return status;
}

mpt_status_t mpt_export_run(const mpt_checkpoint_export_params_t *params, const mpt_log_t *log,
                            mpt_checkpoint_export_result_t *result_p)
{
    export_t e = {.params = params, .log = log};
    int64_t bytes;
    mpt_status_t status = export(&e, &bytes);
    if (status != MPT_OK)
        return status;
    *result_p = (mpt_checkpoint_export_result_t){.format = e.request.safetensors ? "safetensors" : "llmc",
                                                 .dtype = mpt_dtype_name(e.request.dtype),
                                                 .step = e.meta.step,
                                                 .bytes = bytes,
                                                 .exact = e.request.dtype == MPT_F32};
    mpt_export_kinds(e.kinds, result_p->kinds);
    return MPT_OK;
}
