/*
 * Text from a model: the whole window forward for each token, the last row's logits, one draw.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "export.h"
#include "llmc.h"
#include "numeric.h"
#include "philox.h"
#include "session.h"
#include "text.h"

typedef struct sampler {
    mpt_gpt2_t *model;
    const mpt_text_ops_t *text;
    const mpt_sample_params_t *params;
    const mpt_log_t *log;
    uint32_t *window; /* [seq]: the last tokens */
    int64_t length;
    double *weights;  /* [vocab] */
} sampler_t;

/* The k-th largest of the logits, so that lower ones can be dropped; -inf where all count. */
static float cutoff(const float *logits, int64_t vocab, int64_t k, double *scratch)
{
    if (k <= 0 || k >= vocab)
        return -INFINITY;
    for (int64_t v = 0; v < vocab; v++)
        scratch[v] = logits[v];
    for (int64_t i = 0; i < k; i++) { /* partial selection: k is small */
        int64_t best = i;
        for (int64_t v = i + 1; v < vocab; v++)
            if (scratch[v] > scratch[best])
                best = v;
        double swap = scratch[i];
        scratch[i] = scratch[best];
        scratch[best] = swap;
    }
    return (float)scratch[k - 1];
}

static uint32_t likeliest(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t v = 1; v < vocab; v++)
        if (logits[v] > logits[best])
            best = v;
    return (uint32_t)best;
}

static uint32_t draw(const sampler_t *sampler, const float *logits, int64_t position)
{
    int64_t vocab = sampler->model->shape.vocab;
    double temperature = sampler->params->temperature, sum = 0.0, running = 0.0;
    uint32_t best = likeliest(logits, vocab);
    if (temperature <= 0.0)
        return best;
    float lowest = cutoff(logits, vocab, sampler->params->top_k, sampler->weights);
    for (int64_t v = 0; v < vocab; v++) {
        double w = logits[v] < lowest ? 0.0 : exp((logits[v] - logits[best]) / temperature);
        sampler->weights[v] = w;
        sum += w;
    }
    mpt_philox_t bits = mpt_philox(sampler->params->seed, MPT_PURPOSE_SAMPLE, (uint64_t)position, 0);
    double target = mpt_uniform(bits.word[0]) * sum;
    for (int64_t v = 0; v < vocab; v++) {
        running += sampler->weights[v];
        if (running > target)
            return (uint32_t)v;
    }
    return best;
}

static void push(sampler_t *sampler, int64_t capacity, uint32_t token)
{
    if (sampler->length == capacity) {
        memmove(sampler->window, sampler->window + 1, (size_t)(capacity - 1) * sizeof token);
        sampler->length--;
    }
    sampler->window[sampler->length++] = token;
}

static mpt_status_t generate(sampler_t *sampler, int64_t capacity)
{
    mpt_gpt2_t *model = sampler->model;
    const mpt_sample_params_t *params = sampler->params;
    mpt_device_t *device = model->kernels->device;
    for (int64_t i = 0; i < params->tokens; i++) {
        char piece[16];
        model->shape.batch = 1;
        model->shape.seq = sampler->length;
        mpt_status_t status = mpt_gpt2_forward(model, sampler->window);
        if (status == MPT_OK)
            status = mpt_gpt2_logits(model, sampler->length - 1);
        if (status == MPT_OK)
            status = device->ops->stream_synchronize(device, model->stream);
        if (status != MPT_OK)
            return status;
        uint32_t token = draw(sampler, model->logits, i);
        int64_t bytes = sampler->text->decode(&token, 1, piece, sizeof piece);
        if (bytes > 0)
            params->emit(params->ctx, piece, (size_t)bytes);
        push(sampler, capacity, token);
    }
    return MPT_OK;
}

static mpt_status_t start(sampler_t *sampler, int64_t capacity)
{
    const char *prompt = sampler->params->prompt;
    if (prompt == NULL || prompt[0] == '\0')
        prompt = "\n";
    size_t bytes = strlen(prompt);
    uint32_t *tokens = calloc(bytes, sizeof *tokens);
    if (tokens == NULL)
        return mpt_log_no_memory(sampler->log, bytes * sizeof *tokens, "the prompt");
    int64_t count = sampler->text->encode(prompt, bytes, tokens, (int64_t)bytes);
    for (int64_t i = 0; i < count; i++)
        push(sampler, capacity, tokens[i]);
    free(tokens);
    return MPT_OK;
}

static mpt_status_t sample_from(mpt_gpt2_t *model, const mpt_sample_params_t *params, const mpt_log_t *log)
{
    const mpt_gpt2_shape_t shape = model->shape;
    sampler_t sampler = {.model = model, .params = params, .text = mpt_text_for_vocab(shape.vocab), .log = log};
    if (sampler.text == NULL) {
        mpt_log_error(log,
                      "cannot turn tokens of a vocabulary of %lld into text; only bytes (a vocabulary of 256) are built",
                      (long long)shape.vocab);
        return MPT_ERR_CONFIG;
    }
    sampler.window = calloc((size_t)shape.seq, sizeof *sampler.window);
    sampler.weights = calloc((size_t)shape.vocab, sizeof *sampler.weights);
    mpt_status_t status = MPT_OK;
    if (sampler.window == NULL || sampler.weights == NULL)
        status = mpt_log_no_memory(log, (size_t)(shape.seq * 4 + shape.vocab * 8), "sampling");
    if (status == MPT_OK)
        status = start(&sampler, shape.seq);
    if (status == MPT_OK)
        status = generate(&sampler, shape.seq);
    model->shape = shape;
    free(sampler.window);
    free(sampler.weights);
    return status;
}

mpt_status_t mpt_session_sample(mpt_session_t *s, const mpt_sample_params_t *params)
{
    if (params->ema) {
        mpt_log_error(&s->log, "a session samples from its working weights; the EMA is sampled from a checkpoint");
        return MPT_ERR_CONFIG;
    }
    return sample_from(&s->memory.model, params, &s->log);
}

/* ---- from a file ----------------------------------------------------------------------------------------- */

/* A model alone: its working weights and one sequence's activations. */
typedef struct reader {
    mpt_log_t log;
    mpt_config_t config;
    mpt_checkpoint_meta_t meta;
    int is_checkpoint;
    mpt_place_t place;
    mpt_isa_t isa;
    mpt_boot_t *boot;
    mpt_pool_t *pool;
    mpt_device_t *device;
    mpt_stream_t *stream;
    mpt_layout_t layout;
    mpt_gpt2_t model;
    mpt_kernels_t kernels;
    mpt_arena_t arena;
    void *working, *scratch;
    size_t scratch_bytes;
} reader_t;

static mpt_status_t read_shape(reader_t *r, const char *path)
{
    mpt_gpt2_shape_t shape;
    int64_t step;
    struct stat info;
    char meta_path[MPT_CHECKPOINT_PATH_MAX];
    mpt_config_defaults(&r->config);
    snprintf(meta_path, sizeof meta_path, "%s/meta", path);
    FILE *file = fopen(meta_path, "rb");
    r->is_checkpoint = file != NULL || mpt_checkpoint_list(path, &step, 1) > 0;
    if (file != NULL)
        fclose(file);
    if (r->is_checkpoint) {
        mpt_status_t status = mpt_restore_find(path, &r->log, &r->meta);
        return status == MPT_OK ? mpt_restore_model_config(&r->meta, &r->log, &r->config) : status;
    }
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        mpt_log_error(&r->log, "%s: is a folder without a checkpoint", path);
        return MPT_ERR_CHECKPOINT;
    }
    mpt_status_t status = mpt_llmc_shape(path, &r->log, &shape);
    if (status != MPT_OK)
        return status;
    r->config.model.layers = shape.layers;
    r->config.model.heads = shape.heads;
    r->config.model.dim = shape.dim;
    r->config.model.context = r->config.data.sequence = shape.context;
    r->config.model.vocab = shape.vocab;
    r->config.precision.compute = MPT_F32;
    return MPT_OK;
}

static mpt_status_t open_device(reader_t *r)
{
    mpt_environment_t environment;
    mpt_environment_read(&environment);
    mpt_status_t status = mpt_session_isa(&environment, &r->log, &r->isa);
    if (status == MPT_OK)
        status = mpt_boot_self_create(&r->boot);
    if (status == MPT_ERR_NO_MEMORY)
        return mpt_log_no_memory(&r->log, sizeof *r->boot, "a boot");
    if (status == MPT_OK)
        status = mpt_place_choose(r->boot, 0, &r->log, &r->place);
    if (status == MPT_OK)
        status = mpt_pool_create(&(mpt_pool_params_t){.threads = r->place.threads, .log = &r->log}, &r->pool);
    if (status == MPT_OK)
        status = mpt_device_cpu_create(r->pool, &r->log, &r->device);
    if (status == MPT_OK)
        status = r->device->ops->stream_create(r->device, &r->stream);
    return status;
}

/* Cut the model's memory; called on a counting arena, then on the real one. */
static void cut_reader(reader_t *r, mpt_arena_t *arena)
{
    mpt_kernels_limits_t limits;
    mpt_gpt2_limits(&r->model.shape, r->model.math, &limits);
    r->scratch_bytes =
        mpt_kernels_scratch_bytes(mpt_kernels_find("cpu"), r->isa, r->place.threads, &limits);
    mpt_gpt2_cut(&r->model, arena);
    mpt_gpt2_cut_packs(&r->model, &(mpt_gpt2_packing_t){.ops = mpt_kernels_find("cpu"), .isa = r->isa}, arena);
    r->scratch = mpt_arena_cut(arena, MPT_USE_SCRATCH, r->scratch_bytes);
    r->working =
        mpt_arena_cut(arena, MPT_USE_WEIGHTS, (size_t)r->layout.total * mpt_dtype_bytes(r->model.compute));
}

static mpt_status_t open_memory(reader_t *r)
{
    mpt_gpt2_shape_t shape = mpt_memory_shape(&r->config);
    mpt_kernels_limits_t limits;
    mpt_arena_t counting;
    shape.batch = 1;
    mpt_status_t status = mpt_export_layout(&shape, &r->log, &r->layout);
    if (status != MPT_OK)
        return status;
    status = mpt_gpt2_create(&r->model, &shape, r->config.precision.compute, MPT_GPT2_KEEP);
    if (status == MPT_ERR_NO_MEMORY)
        mpt_log_error(&r->log, "out of memory for the table of %d tensors", r->layout.tensor_count);
    if (status != MPT_OK)
        return status;
    mpt_arena_init_counting(&counting);
    cut_reader(r, &counting);
    status = mpt_arena_init(&r->arena, r->device, MPT_MEM_PRIVATE, counting.used);
    if (status != MPT_OK)
        return status;
    cut_reader(r, &r->arena);
    mpt_gpt2_limits(&shape, r->model.math, &limits);
    r->model.kernels = &r->kernels;
    r->model.stream = r->stream;
    for (int t = 0; t < r->layout.tensor_count; t++)
        r->model.params[t] = mpt_state_at(r->working, r->model.compute, mpt_layout_at(&r->layout, t));
    return mpt_kernels_init(&r->kernels, mpt_kernels_find("cpu"), r->device, &r->log, r->isa, r->scratch,
                            r->scratch_bytes, &limits);
}

/* Round to nearest into the working weights: what a run's own are, but for stochastic rounding. */
static mpt_status_t put_weights(void *ctx, mpt_checkpoint_kind_t kind, int tensor, int64_t first, int64_t count,
                                const float *values)
{
    reader_t *r = ctx;
    (void)kind;
    mpt_convert(mpt_state_at(r->model.params[tensor], r->model.compute, first), r->model.compute, values,
                MPT_F32, count);
    return MPT_OK;
}

static mpt_status_t read_checkpoint(reader_t *r, int ema)
{
    const mpt_checkpoint_sink_t sink = {.put = put_weights, .ctx = r};
    unsigned kinds = 1u << (ema ? MPT_KIND_EMA : MPT_KIND_MASTER);
    if ((mpt_checkpoint_kinds(&r->meta) & kinds) == 0) {
        mpt_log_error(&r->log, "%s holds no EMA; it was trained with train.ema = 0", r->meta.path);
        return MPT_ERR_CHECKPOINT;
    }
    return mpt_checkpoint_load(&r->meta, &r->layout, kinds, &sink, &r->log);
}

/* Pieces of this many elements, so that a copy in FP32 of all is not needed. */
#define PIECE ((int64_t)1 << 18)

static mpt_status_t read_llmc_tensors(reader_t *r, const mpt_llmc_t *file, float *piece)
{
    mpt_status_t status = MPT_OK;
    for (int t = 0; t < r->layout.tensor_count; t++) {
        int64_t count = mpt_tensor_count(&r->layout.tensors[t]);
        for (int64_t first = 0; first < count && status == MPT_OK; first += PIECE) {
            int64_t n = count - first < PIECE ? count - first : PIECE;
            status = mpt_llmc_read(file, t, first, n, piece);
            if (status == MPT_OK)
                status = put_weights(r, MPT_KIND_MASTER, t, first, n, piece);
        }
    }
    return status;
}

static mpt_status_t read_llmc(reader_t *r, const char *path, int ema)
{
    mpt_llmc_t *file;
    if (ema) {
        mpt_log_error(&r->log, "%s holds no EMA beside its weights; a checkpoint may", path);
        return MPT_ERR_CHECKPOINT;
    }
    mpt_status_t status = mpt_llmc_open(path, &r->model.shape, &r->log, &file);
    if (status != MPT_OK)
        return status;
    float *piece = malloc(PIECE * sizeof *piece);
    status = piece != NULL ? read_llmc_tensors(r, file, piece)
                           : mpt_log_no_memory(&r->log, PIECE * sizeof *piece, "reading a model file");
    free(piece);
    mpt_llmc_close(file);
    return status;
}

static void close_reader(reader_t *r)
{
    mpt_arena_release(&r->arena);
    mpt_gpt2_release(&r->model);
    mpt_layout_release(&r->layout);
    if (r->stream != NULL)
        r->device->ops->stream_destroy(r->device, r->stream);
    mpt_device_destroy(r->device);
    mpt_pool_destroy(r->pool);
    mpt_boot_destroy(r->boot);
    free(r);
}

mpt_status_t mpt_sample(const char *checkpoint, const mpt_sample_params_t *params,
                        void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx)
{
    mpt_log_target_t target = {.log = log, .ctx = log_ctx};
    reader_t *r = calloc(1, sizeof *r);
    mpt_log_t own_log = {
        .level = MPT_LOG_INFO, .rank = -1, .sink = log != NULL ? mpt_session_log_sink : NULL, .ctx = &target};
    if (r == NULL)
        return mpt_log_no_memory(&own_log, sizeof *r, "a model");
    r->log = own_log;
    mpt_status_t status = read_shape(r, checkpoint);
    if (status == MPT_OK)
        status = open_device(r);
    if (status == MPT_OK)
        status = open_memory(r);
    if (status == MPT_OK)
        status = r->is_checkpoint ? read_checkpoint(r, params->ema) : read_llmc(r, checkpoint, params->ema);
    if (status == MPT_OK)
        status = sample_from(&r->model, params, &r->log);
    close_reader(r);
    return status;
}
