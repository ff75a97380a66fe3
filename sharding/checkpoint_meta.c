#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_format.h"

static const char *const kind_names[MPT_KIND_COUNT] = {"master", "m", "v", "ema"};

const char *mpt_checkpoint_kind_name(mpt_checkpoint_kind_t kind)
{
    return (unsigned)kind < MPT_KIND_COUNT ? kind_names[kind] : "unknown";
}

uint64_t mpt_checkpoint_fingerprint(const mpt_tensor_t *tensors, int count)
{
    uint64_t hash = 0;
    for (int t = 0; t < count; t++) {
        hash = XXH3_64bits_withSeed(tensors[t].name, strlen(tensors[t].name), hash);
        hash =
            XXH3_64bits_withSeed(tensors[t].shape, (size_t)tensors[t].dims * sizeof(int64_t), hash);
    }
    return hash;
}

void mpt_checkpoint_path(const char *dir, int64_t step, char *out, size_t bytes)
{
    snprintf(out, bytes, "%s/step-%08" PRId64, dir, step);
}

int mpt_checkpoint_get(const char *text, const char *key, char *out, size_t bytes)
{
    size_t n = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, n) != 0 || strncmp(line + n, " = ", 3) != 0)
            continue;
        const char *value = line + n + 3;
        size_t length = strcspn(value, "\n");
        if (length >= bytes)
            return 0;
        memcpy(out, value, length);
        out[length] = '\0';
        return 1;
    }
    return 0;
}

/* Checks meta's last line, which is the checksum of all before it, to the last byte, and cuts it off. */
static int meta_is_whole(char *text, size_t bytes)
{
    char expected[32];
    char *last = strstr(text, "xxh3 = ");
    if (last == NULL)
        return 0;
    snprintf(expected, sizeof expected, "xxh3 = %016" PRIx64 "\n",
             (uint64_t)XXH3_64bits(text, (size_t)(last - text)));
    if (strcmp(last, expected) != 0 || (size_t)(last - text) + strlen(expected) != bytes)
        return 0;
    *last = '\0';
    return 1;
}

static ssize_t read_text(const char *path, char *out, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, out, bytes - 1);
    close(fd);
    if (n >= 0)
        out[n] = '\0';
    return n;
}

static int64_t get_number(const char *text, const char *key, int base, int64_t missing)
{
    char value[32];
    if (!mpt_checkpoint_get(text, key, value, sizeof value))
        return missing;
    return (int64_t)strtoull(value, NULL, base);
}

/* What the first lines say; 0 where one is missing. */
static int read_numbers(mpt_checkpoint_meta_t *meta)
{
    char run[32];
    meta->step = get_number(meta->text, "step", 10, -1);
    meta->ranks = (int)get_number(meta->text, "ranks", 10, 0);
    meta->run = (uint64_t)get_number(meta->text, "run", 16, 0);
    int has_run = mpt_checkpoint_get(meta->text, "run", run, sizeof run);
    return meta->step >= 0 && meta->ranks >= 1 && has_run == (meta->version > 1);
}

mpt_status_t mpt_checkpoint_read_meta(const char *path, const mpt_log_t *log,
                                      mpt_checkpoint_meta_t *meta_p)
{
    mpt_checkpoint_meta_t meta;
    char file[MPT_CHECKPOINT_PATH_MAX + 16];
    snprintf(meta.path, sizeof meta.path, "%s", path);
    snprintf(file, sizeof file, "%s/meta", path);
    ssize_t bytes = read_text(file, meta.text, sizeof meta.text);
    if (bytes < 0) {
        mpt_log_error(log, "%s: %s; not a checkpoint folder, or its save was never finished", file,
                      strerror(errno));
        return MPT_ERR_CHECKPOINT;
    }
    if (!meta_is_whole(meta.text, (size_t)bytes)) {
        mpt_log_error(log, "%s: checksum mismatch; the file is damaged", file);
        return MPT_ERR_CHECKPOINT;
    }
    meta.version = (int)get_number(meta.text, "mpt-ddp checkpoint", 10, 0);
    if (meta.version < CHECKPOINT_OLDEST || meta.version > CHECKPOINT_VERSION) {
        mpt_log_error(log, "%s: version %d; this program reads versions %d to %d", file,
                      meta.version, CHECKPOINT_OLDEST, CHECKPOINT_VERSION);
        return MPT_ERR_CHECKPOINT;
    }
    if (!read_numbers(&meta)) {
        mpt_log_error(log, "%s: no step, ranks or run; the file is damaged", file);
        return MPT_ERR_CHECKPOINT;
    }
    *meta_p = meta;
    return MPT_OK;
}

unsigned mpt_checkpoint_kinds(const mpt_checkpoint_meta_t *meta)
{
    char value[64], *rest = NULL;
    unsigned kinds = 0;
    if (!mpt_checkpoint_get(meta->text, "kinds", value, sizeof value))
        return 1u << MPT_KIND_MASTER | 1u << MPT_KIND_M | 1u << MPT_KIND_V;
    for (char *name = strtok_r(value, " ", &rest); name != NULL; name = strtok_r(NULL, " ", &rest))
        for (int k = 0; k < MPT_KIND_COUNT; k++)
            kinds |= (unsigned)(strcmp(name, kind_names[k]) == 0) << k;
    return kinds;
}

int64_t mpt_checkpoint_bytes(const mpt_checkpoint_meta_t *meta)
{
    char path[MPT_CHECKPOINT_PATH_MAX + 32];
    struct stat info;
    int64_t bytes = 0;
    snprintf(path, sizeof path, "%s/meta", meta->path);
    bytes += stat(path, &info) == 0 ? (int64_t)info.st_size : 0;
    for (int rank = 0; rank < meta->ranks; rank++) {
        snprintf(path, sizeof path, "%s/rank-%05d.bin", meta->path, rank);
        bytes += stat(path, &info) == 0 ? (int64_t)info.st_size : 0;
    }
    return bytes;
}
