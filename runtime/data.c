#include "data_file.h"

#include <assert.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "philox.h"

#define HASH_PIECES 64
#define HASH_PIECE 1024 /* tokens */

typedef struct data_source {
    mpt_data_file_t file;
    int64_t first; /* sample of the epoch that is its first */
} data_source_t;

struct mpt_data {
    mpt_data_params_t params;
    data_source_t *sources;
    int source_count;
    int64_t samples;
    int64_t tokens;
    uint64_t hash;
};

/* For qsort over the names that glob found. */
static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static mpt_status_t add_source(mpt_data_t *data, const char *path)
{
    const mpt_data_params_t *params = &data->params;
    data_source_t *source = &data->sources[data->source_count];
    mpt_status_t status = mpt_data_file_open(path, params->log, &source->file);
    if (status != MPT_OK)
        return status;
    data->source_count++;
    if (source->file.count <= params->sequence) {
        mpt_log_error(params->log,
                      "%s: %lld tokens are too few for one sample of %lld and its last target;"
                      " lower data.sequence, or use more text",
                      path, (long long)source->file.count, (long long)params->sequence);
        return MPT_ERR_DATA;
    }
    source->first = data->samples;
    data->samples += (source->file.count - 1) / params->sequence;
    data->tokens += source->file.count;
    return MPT_OK;
}

static mpt_status_t add_sources(mpt_data_t *data, const char *const *paths, size_t count)
{
    data->sources = calloc(count, sizeof *data->sources);
    if (!data->sources) {
        mpt_log_error(data->params.log, "%s: no memory to open it", data->params.pattern);
        return MPT_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        mpt_status_t status = add_source(data, paths[i]);
        if (status != MPT_OK)
            return status;
    }
    return MPT_OK;
}

/* Open what a glob matches, sorted by bytes: glob's own order follows the locale. */
static mpt_status_t add_matches(mpt_data_t *data, const char *pattern)
{
    glob_t found = {0};
    mpt_status_t status = MPT_ERR_NO_MEMORY;
    int result = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (result == 0) {
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_name);
        status = add_sources(data, (const char *const *)found.gl_pathv, found.gl_pathc);
    } else if (result == GLOB_NOSPACE) {
        mpt_log_error(data->params.log, "%s: no memory to look for files", pattern);
    } else {
        mpt_log_error(data->params.log,
                      "%s: matches no file; check data.train, data.val and the working"
                      " directory",
                      pattern);
        status = MPT_ERR_DATA;
    }
    globfree(&found);
    return status;
}

/* Where the k-th of HASH_PIECES pieces begins, in all tokens. */
static int64_t spread(const mpt_data_t *data, int64_t k)
{
    return data->tokens / HASH_PIECES * k + data->tokens % HASH_PIECES * k / HASH_PIECES;
}

/* Up to HASH_PIECE tokens of a file from `first` on, as 32 bits each. */
static uint64_t hash_piece(const mpt_data_file_t *file, int64_t first, uint64_t hash)
{
    uint32_t piece[HASH_PIECE];
    int64_t count = file->count - first < HASH_PIECE ? file->count - first : HASH_PIECE;
    for (int64_t i = 0; i < count; i++)
        piece[i] = mpt_data_file_token(file, first + i);
    return XXH3_64bits_withSeed(piece, (size_t)count * sizeof *piece, hash);
}

/* Single pages are read: asked for in order, each would bring some megabytes along. */
static void advise(const mpt_data_t *data, int advice)
{
    for (int s = 0; s < data->source_count; s++)
        madvise(data->sources[s].file.map, data->sources[s].file.bytes, advice);
}

static uint64_t hash_tokens(const mpt_data_t *data)
{
    uint64_t hash = (uint64_t)data->tokens;
    int64_t before = 0;
    int next = 0;
    advise(data, MADV_RANDOM);
    for (int s = 0; s < data->source_count; s++) {
        const mpt_data_file_t *file = &data->sources[s].file;
        hash = hash_piece(file, 0, hash ^ (uint64_t)file->count);
        for (; next < HASH_PIECES && spread(data, next) < before + file->count; next++)
            hash = hash_piece(file, spread(data, next) - before, hash);
        hash = hash_piece(file, file->count > HASH_PIECE ? file->count - HASH_PIECE : 0, hash);
        before += file->count;
    }
    advise(data, MADV_NORMAL);
    return hash;
}

/* A file of exactly that name comes before what the name would match as a glob. */
static int is_glob(const char *pattern)
{
    return strpbrk(pattern, "*?[") && access(pattern, F_OK) != 0;
}

mpt_status_t mpt_data_open(const mpt_data_params_t *params, mpt_data_t **data_p)
{
    assert(params->sequence > 0 && params->vocab > 0);
    mpt_data_t *data = calloc(1, sizeof *data);
    if (!data) {
        mpt_log_error(params->log, "%s: no memory to open it", params->pattern);
        return MPT_ERR_NO_MEMORY;
    }
    data->params = *params;
    mpt_status_t status = is_glob(params->pattern) ? add_matches(data, params->pattern)
                                                   : add_sources(data, &params->pattern, 1);
    if (status != MPT_OK) {
        mpt_data_close(data);
        return status;
    }
    data->hash = hash_tokens(data);
    data->params.pattern = NULL; /* borrowed for this call only */
    *data_p = data;
    return MPT_OK;
}

void mpt_data_close(mpt_data_t *data)
{
    if (!data)
        return;
    for (int i = 0; i < data->source_count; i++)
        mpt_data_file_close(&data->sources[i].file);
    free(data->sources);
    free(data);
}

int64_t mpt_data_samples(const mpt_data_t *data)
{
    return data->samples;
}

int64_t mpt_data_tokens(const mpt_data_t *data)
{
    return data->tokens;
}

uint64_t mpt_data_hash(const mpt_data_t *data)
{
    return data->hash;
}

/* Where the sample at a position of the endless order lies: its file and the index of its first
 * token there. */
static const mpt_data_file_t *locate(const mpt_data_t *data, int64_t position, int64_t *token_p)
{
    int64_t epoch = position / data->samples, sample = position % data->samples;
    if (data->params.shuffled)
        sample = (int64_t)mpt_permute(data->params.seed, (uint64_t)epoch, (uint64_t)data->samples,
                                      (uint64_t)sample);
    int low = 0, high = data->source_count;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (data->sources[middle].first <= sample)
            low = middle;
        else
            high = middle;
    }
    *token_p = (sample - data->sources[low].first) * data->params.sequence;
    return &data->sources[low].file;
}

static mpt_status_t refuse_token(const mpt_data_t *data, const mpt_data_file_t *file, int64_t index)
{
    mpt_log_error(data->params.log,
                  "%s: token %lld is %u, but the vocabulary ends at %lld; train with the"
                  " model.vocab of the tokenizer that made the file",
                  file->path, (long long)index, mpt_data_file_token(file, index),
                  (long long)data->params.vocab);
    return MPT_ERR_DATA;
}

static mpt_status_t read_sample(const mpt_data_t *data, int64_t position, uint32_t *inputs,
                                uint32_t *targets)
{
    int64_t first, length = data->params.sequence;
    const mpt_data_file_t *file = locate(data, position, &first);
    for (int64_t i = 0; i <= length; i++) {
        uint32_t token = mpt_data_file_token(file, first + i);
        if ((int64_t)token >= data->params.vocab)
            return refuse_token(data, file, first + i);
        if (i < length)
            inputs[i] = token;
        if (i > 0)
            targets[i - 1] = token;
    }
    return MPT_OK;
}

mpt_status_t mpt_data_read(mpt_data_t *data, int64_t first, int64_t count, uint32_t *inputs,
                           uint32_t *targets)
{
    assert(first >= 0 && count >= 0);
    for (int64_t i = 0; i < count; i++) {
        int64_t offset = i * data->params.sequence;
        mpt_status_t status = read_sample(data, first + i, inputs + offset, targets + offset);
        if (status != MPT_OK)
            return status;
    }
    return MPT_OK;
}

void mpt_data_prefetch(mpt_data_t *data, int64_t first, int64_t count)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int64_t i = 0; i < count; i++) {
        int64_t token;
        const mpt_data_file_t *file = locate(data, first + i, &token);
        const unsigned char *start = file->tokens + token * file->token_bytes;
        size_t bytes = (size_t)(data->params.sequence + 1) * (size_t)file->token_bytes;
        size_t before = (uintptr_t)start % page;
        madvise((void *)(uintptr_t)(start - before), bytes + before, MADV_WILLNEED);
    }
}
