#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "aside.h"
#include "session.h"
#include "text.h"

typedef struct tokenized {
    uint16_t *tokens;
    int64_t count;
} tokenized_t;

static mpt_status_t read_bytes(const char *path, const mpt_log_t *log, char **text_p, size_t *bytes_p)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode)) {
        mpt_log_error(log, "cannot read %s: %s", path, file == NULL ? strerror(errno) : "not a plain file");
        if (file != NULL)
            fclose(file);
        return MPT_ERR_DATA;
    }
    char *text = malloc((size_t)info.st_size + 1);
    size_t n = text != NULL ? fread(text, 1, (size_t)info.st_size, file) : 0;
    fclose(file);
    if (text == NULL || n != (size_t)info.st_size || n == 0) {
        mpt_log_error(log, "%s: %s", path, text == NULL ? "out of memory" : n == 0 ? "is empty" : "read error");
        free(text);
        return text == NULL ? MPT_ERR_NO_MEMORY : MPT_ERR_DATA;
    }
    *text_p = text;
    *bytes_p = n;
    return MPT_OK;
}

static mpt_status_t encode(const mpt_text_ops_t *ops, const char *text, size_t bytes, const mpt_log_t *log,
                           tokenized_t *out)
{
    uint32_t *wide = malloc(bytes * sizeof *wide);
    out->tokens = malloc(bytes * sizeof *out->tokens);
    out->count = wide != NULL && out->tokens != NULL ? ops->encode(text, bytes, wide, (int64_t)bytes) : -1;
    for (int64_t i = 0; i < out->count; i++)
        out->tokens[i] = (uint16_t)wide[i];
    free(wide);
    return out->count >= 0 ? MPT_OK : mpt_log_no_memory(log, bytes * (sizeof *wide + sizeof *out->tokens), "tokens");
}

static mpt_status_t write_split(const mpt_tokenize_params_t *params, const tokenized_t *all,
                                const mpt_log_t *log, int64_t *train_p, int64_t *val_p)
{
    int64_t val = params->val_path != NULL ? (int64_t)((double)all->count * params->val_fraction) : 0;
    int64_t train = all->count - val;
    if (train == 0 || (params->val_path != NULL && val == 0)) {
        mpt_log_error(log, "%s: %lld tokens cannot be split with a validation fraction of %g",
                      params->text_path, (long long)all->count, params->val_fraction);
        return MPT_ERR_DATA;
    }
    const mpt_data_part_t parts[] = {{params->train_path, all->tokens, train},
                                     {params->val_path, all->tokens + train, val}};
    mpt_status_t status = mpt_data_write(parts, val > 0 ? 2 : 1, params->force, log);
    if (status == MPT_OK) {
        *train_p = train;
        *val_p = val;
    }
    return status;
}

/* The folder of `path`, in `folder`, and its last part. */
static const char *split_path(const char *path, char *folder, size_t capacity)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        snprintf(folder, capacity, ".");
    else
        snprintf(folder, capacity, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    return slash != NULL ? slash + 1 : path;
}

static int same_node(const char *a, const char *b)
{
    struct stat of_a, of_b;
    return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

/* Whether or not they exist yet. */
static int same_file(const char *a, const char *b)
{
    char folder_a[MPT_ASIDE_PATH_MAX], folder_b[MPT_ASIDE_PATH_MAX];
    const char *name_a = split_path(a, folder_a, sizeof folder_a);
    const char *name_b = split_path(b, folder_b, sizeof folder_b);
    return strcmp(a, b) == 0 || same_node(a, b) || (strcmp(name_a, name_b) == 0 && same_node(folder_a, folder_b));
}

/* Would writing `out`, or what is aside of it meanwhile, take the other's place? */
static int takes(const char *out, const char *other)
{
    char partial[MPT_ASIDE_PATH_MAX + sizeof MPT_ASIDE_SUFFIX];
    snprintf(partial, sizeof partial, "%s" MPT_ASIDE_SUFFIX, out);
    return same_file(out, other) || same_file(partial, other);
}

/* No file may take another's place. */
static mpt_status_t check_paths(const mpt_tokenize_params_t *params, const mpt_log_t *log)
{
    const char *text = params->text_path, *train = params->train_path, *val = params->val_path;
    if (!takes(train, text) && (val == NULL || (!takes(val, text) && !takes(train, val) && !takes(val, train))))
        return MPT_OK;
    mpt_log_error(log, "%s, %s%s%s: text, training tokens and validation tokens need a file each", text, train,
                  val != NULL ? ", " : "", val != NULL ? val : "");
    return MPT_ERR_CONFIG;
}

mpt_status_t mpt_tokenize(const mpt_tokenize_params_t *params, int64_t *train_tokens_p, int64_t *val_tokens_p)
{
    mpt_log_target_t target = {.log = params->log, .ctx = params->log_ctx};
    mpt_log_t log = {.level = MPT_LOG_INFO,
                     .rank = -1,
                     .sink = params->log != NULL ? mpt_session_log_sink : NULL,
                     .ctx = &target};
    const mpt_text_ops_t *ops = mpt_text_find(params->tokenizer);
    char *text = NULL;
    size_t bytes = 0;
    tokenized_t all = {0};
    if (ops == NULL) {
        mpt_log_error(&log, "tokenizer '%s' is not built; 'bytes' is", params->tokenizer);
        return MPT_ERR_CONFIG;
    }
    if (params->val_path != NULL && !(params->val_fraction > 0.0 && params->val_fraction < 1.0)) {
        mpt_log_error(&log, "a validation fraction of %g is not between 0 and 1", params->val_fraction);
        return MPT_ERR_CONFIG;
    }
    mpt_status_t status = check_paths(params, &log);
    if (status == MPT_OK)
        status = read_bytes(params->text_path, &log, &text, &bytes);
    if (status == MPT_OK)
        status = encode(ops, text, bytes, &log, &all);
    if (status == MPT_OK)
        status = write_split(params, &all, &log, train_tokens_p, val_tokens_p);
    free(text);
    free(all.tokens);
    return status;
}
