#include "llmc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "numeric.h"

#define LLMC_MAGIC 20240326
#define LLMC_HEADER_WORDS 256
#define CHUNK 4096

enum { WORD_MAGIC, WORD_VERSION, WORD_CONTEXT, WORD_VOCAB, WORD_LAYERS, WORD_HEADS, WORD_DIM, WORD_VOCAB_PADDED };

struct mpt_llmc {
    char path[MPT_ASIDE_PATH_MAX];
    int fd; /* reading; -1: writing */
    mpt_aside_t aside;
    mpt_gpt2_shape_t shape;
    int64_t vocab_padded; /* rows of wte in the file */
    mpt_dtype_t dtype;
    uint64_t *offsets; /* [tensors] bytes from the start of the file */
    uint64_t bytes;    /* of the whole file */
    const mpt_log_t *log;
};

/* The file's order of a block's tensors. */
static const mpt_gpt2_block_tensor_t file_order[MPT_GPT2_BLOCK_TENSORS] = {
    MPT_GPT2_LN1_W, MPT_GPT2_LN1_B, MPT_GPT2_QKV_W, MPT_GPT2_QKV_B, MPT_GPT2_PROJ_W, MPT_GPT2_PROJ_B,
    MPT_GPT2_LN2_W, MPT_GPT2_LN2_B, MPT_GPT2_FC_W,  MPT_GPT2_FC_B,  MPT_GPT2_FCPROJ_W, MPT_GPT2_FCPROJ_B};

/* Tensor index of the file's i-th tensor. */
static int file_tensor(const mpt_gpt2_shape_t *shape, int i)
{
    int blocks = (int)shape->layers * MPT_GPT2_BLOCK_TENSORS;
    if (i < MPT_GPT2_EMBED_TENSORS)
        return i;
    i -= MPT_GPT2_EMBED_TENSORS;
    if (i >= blocks)
        return mpt_gpt2_lnf(shape) + i - blocks;
    return mpt_gpt2_block(i % shape->layers, file_order[i / shape->layers]);
}

/* Fill in offsets and bytes. */
static mpt_status_t place_tensors(mpt_llmc_t *file)
{
    int count = mpt_gpt2_tensor_count(&file->shape);
    mpt_tensor_t *tensors = calloc((size_t)count, sizeof *tensors);
    file->offsets = calloc((size_t)count, sizeof *file->offsets);
    if (tensors == NULL || file->offsets == NULL) {
        free(tensors);
        return mpt_log_no_memory(file->log, (size_t)count * (sizeof *tensors + sizeof *file->offsets),
                                 "the table of tensors");
    }
    mpt_gpt2_tensors(&file->shape, tensors);
    file->bytes = LLMC_HEADER_WORDS * sizeof(int32_t);
    for (int i = 0; i < count; i++) {
        int t = file_tensor(&file->shape, i);
        int64_t elements = t == MPT_GPT2_WTE ? file->vocab_padded * file->shape.dim : mpt_tensor_count(&tensors[t]);
        file->offsets[t] = file->bytes;
        file->bytes += (uint64_t)elements * mpt_dtype_bytes(file->dtype);
    }
    free(tensors);
    return MPT_OK;
}

void mpt_llmc_close(mpt_llmc_t *file)
{
    if (file == NULL)
        return;
    if (file->fd >= 0)
        close(file->fd);
    mpt_aside_drop(&file->aside);
    free(file->offsets);
    free(file);
}

/* ---- reading --------------------------------------------------------------------------------------------- */

static mpt_status_t bad_file(const mpt_llmc_t *file, const char *what)
{
    mpt_log_error(file->log, "%s: %s; expected an llm.c model file (magic %d, version %d or %d)", file->path,
                  what, LLMC_MAGIC, MPT_LLMC_FP32, MPT_LLMC_BF16);
    return MPT_ERR_CHECKPOINT;
}

const char *mpt_llmc_shape_fault(const mpt_gpt2_shape_t *shape)
{
    if (shape->layers <= 0 || shape->heads <= 0 || shape->dim <= 0 || shape->context <= 0 || shape->vocab <= 0)
        return "a size is not positive";
    if (shape->layers > 4096 || shape->heads > 65536 || shape->dim > 1 << 18 || shape->context > 1 << 24 ||
        shape->vocab > UINT32_MAX)
        return "a size is larger than this program's limits";
    if (shape->dim % shape->heads != 0)
        return "its sizes contradict each other";
    return NULL;
}

/* The header, as far as it can be judged alone. */
static mpt_status_t read_header(mpt_llmc_t *file)
{
    int32_t words[LLMC_HEADER_WORDS];
    if (mpt_file_read_at(file->fd, words, sizeof words, 0) != 0)
        return bad_file(file, "too short for a header");
    if (words[WORD_MAGIC] != LLMC_MAGIC)
        return bad_file(file, "wrong magic");
    if (words[WORD_VERSION] != MPT_LLMC_FP32 && words[WORD_VERSION] != MPT_LLMC_BF16)
        return bad_file(file, "unknown version");
    file->dtype = words[WORD_VERSION] == MPT_LLMC_FP32 ? MPT_F32 : MPT_BF16;
    file->vocab_padded = words[WORD_VOCAB_PADDED];
    file->shape = (mpt_gpt2_shape_t){.layers = words[WORD_LAYERS],
                                     .heads = words[WORD_HEADS],
                                     .dim = words[WORD_DIM],
                                     .context = words[WORD_CONTEXT],
                                     .vocab = words[WORD_VOCAB]};
    const char *fault = mpt_llmc_shape_fault(&file->shape);
    if (fault == NULL && file->vocab_padded <= 0)
        fault = "a size is not positive";
    if (fault == NULL && file->vocab_padded < file->shape.vocab)
        fault = "its sizes contradict each other";
    return fault == NULL ? MPT_OK : bad_file(file, fault);
}

static mpt_status_t check_shape(const mpt_llmc_t *file, const mpt_gpt2_shape_t *shape)
{
    const mpt_gpt2_shape_t *own = &file->shape;
    if (own->layers == shape->layers && own->heads == shape->heads && own->dim == shape->dim &&
        own->context == shape->context && own->vocab == shape->vocab)
        return MPT_OK;
    mpt_log_error(file->log,
                  "%s: is of another model: layers %" PRId64 ", heads %" PRId64 ", dim %" PRId64
                  ", context %" PRId64 ", vocab %" PRId64 "; the config has %" PRId64 ", %" PRId64
                  ", %" PRId64 ", %" PRId64 ", %" PRId64,
                  file->path, own->layers, own->heads, own->dim, own->context, own->vocab, shape->layers,
                  shape->heads, shape->dim, shape->context, shape->vocab);
    return MPT_ERR_CHECKPOINT;
}

/* shape NULL: any. On failure *file_p, where not NULL, is for mpt_llmc_close. */
static mpt_status_t open_file(const char *path, const mpt_gpt2_shape_t *shape, const mpt_log_t *log,
                              mpt_llmc_t **file_p)
{
    mpt_llmc_t *file = calloc(1, sizeof *file);
    struct stat info;
    if (file == NULL)
        return mpt_log_no_memory(log, sizeof *file, "reading a model file");
    *file_p = file;
    snprintf(file->path, sizeof file->path, "%s", path);
    file->log = log;
    file->aside.fd = -1;
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0) {
        mpt_log_error(log, "%s: %s", path, strerror(errno));
        return MPT_ERR_CHECKPOINT;
    }
    mpt_status_t status = read_header(file);
    if (status == MPT_OK && shape != NULL)
        status = check_shape(file, shape);
    if (status == MPT_OK)
        status = place_tensors(file);
    if (status == MPT_OK && (fstat(file->fd, &info) != 0 || (uint64_t)info.st_size != file->bytes))
        status = bad_file(file, "its size is not what its header says");
    return status;
}

int mpt_llmc_begins(const char *path)
{
    int32_t magic = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    int read = mpt_file_read_at(fd, &magic, sizeof magic, 0) == 0;
    close(fd);
    return read && magic == LLMC_MAGIC;
}

mpt_status_t mpt_llmc_shape(const char *path, const mpt_log_t *log, mpt_gpt2_shape_t *shape_p)
{
    mpt_llmc_t *file = NULL;
    mpt_status_t status = open_file(path, NULL, log, &file);
    if (status == MPT_OK)
        *shape_p = file->shape;
    mpt_llmc_close(file);
    return status;
}

mpt_status_t mpt_llmc_open(const char *path, const mpt_gpt2_shape_t *shape, const mpt_log_t *log,
                           mpt_llmc_t **file_p)
{
    mpt_llmc_t *file = NULL;
    mpt_status_t status = open_file(path, shape, log, &file);
    if (status != MPT_OK) {
        mpt_llmc_close(file);
        return status;
    }
    *file_p = file;
    return MPT_OK;
}

mpt_dtype_t mpt_llmc_dtype(const mpt_llmc_t *file)
{
    return file->dtype;
}

static uint64_t offset_of(const mpt_llmc_t *file, int tensor, int64_t first)
{
    return file->offsets[tensor] + (uint64_t)first * mpt_dtype_bytes(file->dtype);
}

mpt_status_t mpt_llmc_read(const mpt_llmc_t *file, int tensor, int64_t first, int64_t count, float *out)
{
    uint16_t narrow[CHUNK];
    uint64_t offset = offset_of(file, tensor, first);
    int failed = 0;
    if (file->dtype == MPT_F32)
        failed = mpt_file_read_at(file->fd, out, (size_t)count * sizeof *out, offset) != 0;
    for (int64_t done = 0; file->dtype != MPT_F32 && done < count && !failed; done += CHUNK) {
        int64_t n = count - done < CHUNK ? count - done : CHUNK;
        failed = mpt_file_read_at(file->fd, narrow, (size_t)n * sizeof *narrow,
                                  offset + (uint64_t)done * sizeof *narrow) != 0;
        if (!failed)
            mpt_convert(out + done, MPT_F32, narrow, file->dtype, n);
    }
    return failed ? bad_file(file, "cannot be read") : MPT_OK;
}

/* ---- writing --------------------------------------------------------------------------------------------- */

static mpt_status_t write_header(mpt_llmc_t *file, int version)
{
    const int32_t words[LLMC_HEADER_WORDS] = {
        [WORD_MAGIC] = LLMC_MAGIC,
        [WORD_VERSION] = version,
        [WORD_CONTEXT] = (int32_t)file->shape.context,
        [WORD_VOCAB] = (int32_t)file->shape.vocab,
        [WORD_LAYERS] = (int32_t)file->shape.layers,
        [WORD_HEADS] = (int32_t)file->shape.heads,
        [WORD_DIM] = (int32_t)file->shape.dim,
        [WORD_VOCAB_PADDED] = (int32_t)file->vocab_padded};
    return mpt_aside_put(&file->aside, words, sizeof words, 0);
}

mpt_status_t mpt_llmc_create(const char *path, const mpt_gpt2_shape_t *shape, int version, int force,
                             const mpt_log_t *log, mpt_llmc_t **file_p)
{
    if (version != MPT_LLMC_FP32 && version != MPT_LLMC_BF16) {
        mpt_log_error(log, "cannot write %s: version %d; llm.c's are %d (fp32) and %d (bf16)", path, version,
                      MPT_LLMC_FP32, MPT_LLMC_BF16);
        return MPT_ERR_CONFIG;
    }
    if (mpt_gpt2_vocab_padded(shape) > INT32_MAX) {
        mpt_log_error(log, "cannot write %s: llm.c's header has no room for a vocabulary of %" PRId64, path,
                      shape->vocab);
        return MPT_ERR_CONFIG;
    }
    mpt_llmc_t *file = calloc(1, sizeof *file);
    if (file == NULL)
        return mpt_log_no_memory(log, sizeof *file, "writing a model file");
    *file = (mpt_llmc_t){.fd = -1,
                         .aside = {.fd = -1},
                         .shape = *shape,
                         .vocab_padded = mpt_gpt2_vocab_padded(shape),
                         .dtype = version == MPT_LLMC_FP32 ? MPT_F32 : MPT_BF16,
                         .log = log};
    mpt_status_t status = place_tensors(file);
    if (status == MPT_OK)
        status = mpt_aside_open(&file->aside, path, force, log);
    if (status == MPT_OK)
        status = write_header(file, version);
    if (status != MPT_OK) {
        mpt_llmc_close(file);
        return status;
    }
    *file_p = file;
    return MPT_OK;
}

mpt_status_t mpt_llmc_put(mpt_llmc_t *file, int tensor, int64_t first, int64_t count, const float *values)
{
    return mpt_aside_put_floats(&file->aside, file->dtype, values, count, offset_of(file, tensor, first));
}

mpt_status_t mpt_llmc_commit(mpt_llmc_t *file, int64_t *bytes_p)
{
    mpt_status_t status = mpt_aside_commit(&file->aside, file->bytes);
    if (status == MPT_OK)
        *bytes_p = (int64_t)file->bytes;
    return status;
}
