#include "llmc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "numeric.h"

#define LLMC_MAGIC 20240326
#define LLMC_FP32 3
#define LLMC_BF16 5
#define LLMC_HEADER_WORDS 256

enum { WORD_MAGIC, WORD_VERSION, WORD_CONTEXT, WORD_VOCAB, WORD_LAYERS, WORD_HEADS, WORD_DIM, WORD_VOCAB_PADDED };

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

static mpt_status_t bad_file(const mpt_log_t *log, const char *path, const char *what)
{
    mpt_log_error(log, "%s: %s; expected an llm.c model file (magic %d, version %d or %d)", path, what,
                  LLMC_MAGIC, LLMC_FP32, LLMC_BF16);
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t read_header(FILE *file, const char *path, const mpt_log_t *log, int32_t *words)
{
    if (fread(words, sizeof *words, LLMC_HEADER_WORDS, file) != LLMC_HEADER_WORDS)
        return bad_file(log, path, "too short for a header");
    if (words[WORD_MAGIC] != LLMC_MAGIC)
        return bad_file(log, path, "wrong magic");
    if (words[WORD_VERSION] != LLMC_FP32 && words[WORD_VERSION] != LLMC_BF16)
        return bad_file(log, path, "unknown version");
    for (int w = WORD_CONTEXT; w <= WORD_VOCAB_PADDED; w++)
        if (words[w] <= 0)
            return bad_file(log, path, "a size in the header is not positive");
    if (words[WORD_DIM] % words[WORD_HEADS] != 0 || words[WORD_VOCAB_PADDED] < words[WORD_VOCAB])
        return bad_file(log, path, "sizes in the header contradict each other");
    return MPT_OK;
}

mpt_status_t mpt_llmc_shape(const char *path, const mpt_log_t *log, mpt_gpt2_shape_t *shape_p)
{
    int32_t words[LLMC_HEADER_WORDS];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        mpt_log_error(log, "%s: %s", path, strerror(errno));
        return MPT_ERR_CHECKPOINT;
    }
    mpt_status_t status = read_header(file, path, log, words);
    fclose(file);
    if (status == MPT_OK)
        *shape_p = (mpt_gpt2_shape_t){.layers = words[WORD_LAYERS],
                                      .heads = words[WORD_HEADS],
                                      .dim = words[WORD_DIM],
                                      .context = words[WORD_CONTEXT],
                                      .vocab = words[WORD_VOCAB]};
    return status;
}

static mpt_status_t check_shape(const int32_t *words, const mpt_gpt2_shape_t *shape, const char *path,
                                const mpt_log_t *log)
{
    if (words[WORD_LAYERS] == shape->layers && words[WORD_HEADS] == shape->heads &&
        words[WORD_DIM] == shape->dim && words[WORD_CONTEXT] == shape->context &&
        words[WORD_VOCAB] == shape->vocab)
        return MPT_OK;
    mpt_log_error(log,
                  "%s: is of another model: layers %d, heads %d, dim %d, context %d, vocab %d; the config "
                  "has %" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64,
                  path, words[WORD_LAYERS], words[WORD_HEADS], words[WORD_DIM], words[WORD_CONTEXT],
                  words[WORD_VOCAB], shape->layers, shape->heads, shape->dim, shape->context, shape->vocab);
    return MPT_ERR_CHECKPOINT;
}

static int64_t parameter_count(const mpt_gpt2_shape_t *shape, const mpt_layout_t *layout, int64_t vocab_padded)
{
    return layout->parameters + (vocab_padded - shape->vocab) * shape->dim;
}

static int read_tensor(FILE *file, mpt_dtype_t dtype, int64_t count, float *out)
{
    uint16_t buffer[4096];
    if (dtype == MPT_F32)
        return fread(out, sizeof *out, (size_t)count, file) == (size_t)count ? 0 : -1;
    while (count > 0) {
        size_t n = count < 4096 ? (size_t)count : 4096;
        if (fread(buffer, sizeof *buffer, n, file) != n)
            return -1;
        mpt_convert(out, MPT_F32, buffer, MPT_BF16, (int64_t)n);
        out += n;
        count -= (int64_t)n;
    }
    return 0;
}

static mpt_status_t read_parameters(FILE *file, const char *path, const mpt_gpt2_shape_t *shape,
                                    const mpt_layout_t *layout, const mpt_log_t *log,
                                    const int32_t *words, float *master)
{
    mpt_dtype_t dtype = words[WORD_VERSION] == LLMC_FP32 ? MPT_F32 : MPT_BF16;
    int64_t element = (int64_t)mpt_dtype_bytes(dtype);
    struct stat info;
    int64_t expected = LLMC_HEADER_WORDS * 4 +
                       element * parameter_count(shape, layout, words[WORD_VOCAB_PADDED]);
    if (fstat(fileno(file), &info) != 0 || (int64_t)info.st_size != expected)
        return bad_file(log, path, "its size is not what its header says");
    for (int i = 0; i < layout->tensor_count; i++) {
        int t = file_tensor(shape, i);
        if (read_tensor(file, dtype, mpt_tensor_count(&layout->tensors[t]),
                        master + mpt_layout_at(layout, t)) != 0)
            return bad_file(log, path, "cannot be read");
        int64_t padding = t == MPT_GPT2_WTE ? (words[WORD_VOCAB_PADDED] - shape->vocab) * shape->dim : 0;
        if (padding > 0 && fseek(file, (long)(padding * element), SEEK_CUR) != 0)
            return bad_file(log, path, "cannot be read");
    }
    return MPT_OK;
}

mpt_status_t mpt_llmc_read(const char *path, const mpt_gpt2_shape_t *shape, const mpt_layout_t *layout,
                           const mpt_log_t *log, float *master)
{
    int32_t words[LLMC_HEADER_WORDS];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        mpt_log_error(log, "%s: %s", path, strerror(errno));
        return MPT_ERR_CHECKPOINT;
    }
    mpt_status_t status = read_header(file, path, log, words);
    if (status == MPT_OK)
        status = check_shape(words, shape, path, log);
    if (status == MPT_OK)
        status = read_parameters(file, path, shape, layout, log, words, master);
    fclose(file);
    return status;
}

static int write_tensor(FILE *file, mpt_dtype_t dtype, int64_t count, const float *in)
{
    uint16_t buffer[4096];
    if (dtype == MPT_F32)
        return fwrite(in, sizeof *in, (size_t)count, file) == (size_t)count ? 0 : -1;
    while (count > 0) {
        size_t n = count < 4096 ? (size_t)count : 4096;
        mpt_convert(buffer, MPT_BF16, in, MPT_F32, (int64_t)n);
        if (fwrite(buffer, sizeof *buffer, n, file) != n)
            return -1;
        in += n;
        count -= (int64_t)n;
    }
    return 0;
}

static int write_padding(FILE *file, int64_t bytes)
{
    static const char zeros[4096];
    while (bytes > 0) {
        size_t n = bytes < (int64_t)sizeof zeros ? (size_t)bytes : sizeof zeros;
        if (fwrite(zeros, 1, n, file) != n)
            return -1;
        bytes -= (int64_t)n;
    }
    return 0;
}

static int write_all(FILE *file, const mpt_gpt2_shape_t *shape, const mpt_layout_t *layout, int version,
                     const float *master)
{
    mpt_dtype_t dtype = version == LLMC_FP32 ? MPT_F32 : MPT_BF16;
    int64_t padded = mpt_gpt2_vocab_padded(shape);
    int32_t words[LLMC_HEADER_WORDS] = {
        [WORD_MAGIC] = LLMC_MAGIC,         [WORD_VERSION] = version,
        [WORD_CONTEXT] = (int32_t)shape->context, [WORD_VOCAB] = (int32_t)shape->vocab,
        [WORD_LAYERS] = (int32_t)shape->layers,   [WORD_HEADS] = (int32_t)shape->heads,
        [WORD_DIM] = (int32_t)shape->dim,         [WORD_VOCAB_PADDED] = (int32_t)padded};
    if (fwrite(words, sizeof *words, LLMC_HEADER_WORDS, file) != LLMC_HEADER_WORDS)
        return -1;
    for (int i = 0; i < layout->tensor_count; i++) {
        int t = file_tensor(shape, i);
        if (write_tensor(file, dtype, mpt_tensor_count(&layout->tensors[t]),
                         master + mpt_layout_at(layout, t)) != 0)
            return -1;
        int64_t padding = (padded - shape->vocab) * shape->dim * (int64_t)mpt_dtype_bytes(dtype);
        if (t == MPT_GPT2_WTE && write_padding(file, padding) != 0)
            return -1;
    }
    return fflush(file) != 0 || fsync(fileno(file)) != 0 ? -1 : 0;
}

mpt_status_t mpt_llmc_write(const char *path, const mpt_gpt2_shape_t *shape, const mpt_layout_t *layout,
                            const mpt_log_t *log, int version, const float *master)
{
    char aside[4096];
    if (version != LLMC_FP32 && version != LLMC_BF16) {
        mpt_log_error(log, "cannot write %s: version %d; llm.c's are %d (fp32) and %d (bf16)", path, version,
                      LLMC_FP32, LLMC_BF16);
        return MPT_ERR_INVALID_ARG;
    }
    snprintf(aside, sizeof aside, "%s.partial", path);
    FILE *file = fopen(aside, "wb");
    int failed = file == NULL || write_all(file, shape, layout, version, master) != 0;
    if (file != NULL && fclose(file) != 0)
        failed = 1;
    if (!failed && rename(aside, path) == 0)
        return MPT_OK;
    mpt_log_error(log, "cannot write %s: %s", path, strerror(errno));
    unlink(aside);
    return MPT_ERR_IO;
}
