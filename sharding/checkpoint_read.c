#include "checkpoint.h"

#include <dirent.h>
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
#include "file.h"

#define VERIFY_CHUNK ((size_t)1 << 20)

uint64_t mpt_checkpoint_fingerprint(const mpt_tensor_t *tensors, int count)
{
    uint64_t hash = 0;
    for (int t = 0; t < count; t++) {
        hash = XXH3_64bits_withSeed(tensors[t].name, strlen(tensors[t].name), hash);
        hash = XXH3_64bits_withSeed(tensors[t].shape, (size_t)tensors[t].dims * sizeof(int64_t), hash);
    }
    return hash;
}

/* The step that a folder's name stands for, written as mpt_checkpoint_path writes it; else -1. */
static int64_t step_of_name(const char *name)
{
    char canonical[32];
    int64_t step;
    if (sscanf(name, "step-%" SCNd64, &step) != 1 || step < 0)
        return -1;
    snprintf(canonical, sizeof canonical, "step-%08" PRId64, step);
    return strcmp(name, canonical) == 0 ? step : -1;
}

/* Put `step` into a list that is newest first; where it is full the oldest falls out. */
static int insert_step(int64_t *steps, int count, int capacity, int64_t step)
{
    int at = count;
    while (at > 0 && steps[at - 1] < step)
        at--;
    if (at == capacity)
        return count;
    count += count < capacity;
    memmove(&steps[at + 1], &steps[at], (size_t)(count - 1 - at) * sizeof *steps);
    steps[at] = step;
    return count;
}

int mpt_checkpoint_list(const char *dir, int64_t *steps, int capacity)
{
    DIR *folder = opendir(dir);
    int count = 0;
    if (folder == NULL)
        return 0;
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        int64_t step = step_of_name(entry->d_name);
        if (step >= 0)
            count = insert_step(steps, count, capacity, step);
    }
    closedir(folder);
    return count;
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

mpt_status_t mpt_checkpoint_read_meta(const char *path, const mpt_log_t *log, mpt_checkpoint_meta_t *meta_p)
{
    mpt_checkpoint_meta_t meta;
    char file[MPT_CHECKPOINT_PATH_MAX + 16], value[32];
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
    int version = mpt_checkpoint_get(meta.text, "mpt-ddp checkpoint", value, sizeof value) ? atoi(value) : 0;
    if (version != CHECKPOINT_VERSION) {
        mpt_log_error(log, "%s: version %d; this program reads version %d", file, version,
                      CHECKPOINT_VERSION);
        return MPT_ERR_CHECKPOINT;
    }
    meta.step = mpt_checkpoint_get(meta.text, "step", value, sizeof value) ? atoll(value) : -1;
    meta.ranks = mpt_checkpoint_get(meta.text, "ranks", value, sizeof value) ? atoi(value) : 0;
    if (meta.step < 0 || meta.ranks < 1) {
        mpt_log_error(log, "%s: no step or ranks; the file is damaged", file);
        return MPT_ERR_CHECKPOINT;
    }
    *meta_p = meta;
    return MPT_OK;
}

/* One rank's file, open and with its header and table checked. */
typedef struct reader {
    char path[MPT_CHECKPOINT_PATH_MAX + 32];
    int fd;
    checkpoint_header_t header;
    checkpoint_extent_t *table; /* owned */
    const mpt_log_t *log;
} reader_t;

static mpt_status_t damaged(const reader_t *reader, uint64_t offset, const char *what)
{
    mpt_log_error(reader->log, "%s: offset %" PRIu64 ": %s; the file is damaged", reader->path, offset,
                  what);
    return MPT_ERR_CHECKPOINT;
}

static void close_reader(reader_t *reader)
{
    if (reader->fd >= 0)
        close(reader->fd);
    free(reader->table);
}

static mpt_status_t read_header(reader_t *reader, const mpt_checkpoint_meta_t *meta, int rank)
{
    checkpoint_header_t *header = &reader->header;
    struct stat info;
    if (mpt_file_read_at(reader->fd, header, sizeof *header, 0) != 0)
        return damaged(reader, 0, "too short for a header");
    if (memcmp(header->magic, CHECKPOINT_MAGIC, 8) != 0 || header->version != CHECKPOINT_VERSION)
        return damaged(reader, 0, "wrong magic or version");
    if (header->rank != (uint32_t)rank || header->ranks != (uint32_t)meta->ranks ||
        header->step != (uint64_t)meta->step)
        return damaged(reader, 0, "belongs to another rank, rank count or step");
    if (fstat(reader->fd, &info) != 0 || (uint64_t)info.st_size != header->file_bytes)
        return damaged(reader, header->file_bytes, "file size differs from the header's");
    return MPT_OK;
}

static mpt_status_t read_table(reader_t *reader)
{
    checkpoint_header_t *header = &reader->header;
    size_t bytes = (size_t)header->extent_count * sizeof *reader->table;
    if (sizeof *header + bytes > header->file_bytes)
        return damaged(reader, sizeof *header, "table of extents runs past the end");
    reader->table = malloc(bytes + 1);
    if (reader->table == NULL)
        return MPT_ERR_NO_MEMORY;
    if (mpt_file_read_at(reader->fd, reader->table, bytes, sizeof *header) != 0)
        return damaged(reader, sizeof *header, strerror(errno));
    uint64_t checksum = XXH3_64bits_withSeed(
        reader->table, bytes, XXH3_64bits(header, offsetof(checkpoint_header_t, checksum)));
    return checksum == header->checksum ? MPT_OK : damaged(reader, 0, "header checksum mismatch");
}

static mpt_status_t open_reader(reader_t *reader, const mpt_checkpoint_meta_t *meta, int rank,
                                const mpt_log_t *log)
{
    memset(reader, 0, sizeof *reader);
    reader->log = log;
    snprintf(reader->path, sizeof reader->path, "%s/rank-%05d.bin", meta->path, rank);
    reader->fd = open(reader->path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0) {
        mpt_log_error(log, "%s: %s", reader->path, strerror(errno));
        return MPT_ERR_CHECKPOINT;
    }
    mpt_status_t status = read_header(reader, meta, rank);
    if (status == MPT_OK)
        status = read_table(reader);
    if (status != MPT_OK)
        close_reader(reader);
    return status;
}

/* Check an extent's payload in pieces, without a place to keep it. */
static mpt_status_t verify_extent(reader_t *reader, const checkpoint_extent_t *extent, void *buffer)
{
    XXH3_state_t *hash = XXH3_createState();
    uint64_t bytes = extent->count * sizeof(float), done = 0;
    if (hash == NULL)
        return MPT_ERR_NO_MEMORY;
    XXH3_64bits_reset(hash);
    mpt_status_t status = MPT_OK;
    while (done < bytes && status == MPT_OK) {
        size_t n = bytes - done < VERIFY_CHUNK ? (size_t)(bytes - done) : VERIFY_CHUNK;
        if (mpt_file_read_at(reader->fd, buffer, n, extent->offset + done) != 0)
            status = damaged(reader, extent->offset + done, "cannot be read");
        else
            XXH3_64bits_update(hash, buffer, n);
        done += n;
    }
    if (status == MPT_OK && XXH3_64bits_digest(hash) != extent->checksum)
        status = damaged(reader, extent->offset, "checksum mismatch");
    XXH3_freeState(hash);
    return status;
}

static mpt_status_t load_extent(reader_t *reader, const checkpoint_extent_t *extent,
                                const mpt_layout_t *layout, float *array)
{
    size_t bytes = (size_t)extent->count * sizeof(float);
    float *out = array + mpt_layout_at(layout, (int)extent->tensor) + extent->first;
    if (mpt_file_read_at(reader->fd, out, bytes, extent->offset) != 0)
        return damaged(reader, extent->offset, "cannot be read");
    if (XXH3_64bits(out, bytes) != extent->checksum)
        return damaged(reader, extent->offset, "checksum mismatch");
    return MPT_OK;
}

static int extent_fits(const checkpoint_extent_t *extent, const mpt_layout_t *layout)
{
    if (extent->kind >= MPT_KIND_COUNT || extent->tensor >= (uint32_t)layout->tensor_count)
        return 0;
    uint64_t count = (uint64_t)mpt_tensor_count(&layout->tensors[extent->tensor]);
    return extent->first <= count && extent->count <= count - extent->first;
}

static mpt_status_t load_file(reader_t *reader, const mpt_layout_t *layout,
                              float *const arrays[MPT_KIND_COUNT], void *buffer, int64_t *elements)
{
    if (reader->header.fingerprint !=
        mpt_checkpoint_fingerprint(layout->tensors, layout->tensor_count)) {
        mpt_log_error(reader->log, "%s: is of another model: its tensors differ from this config's",
                      reader->path);
        return MPT_ERR_CHECKPOINT;
    }
    for (uint32_t i = 0; i < reader->header.extent_count; i++) {
        const checkpoint_extent_t *extent = &reader->table[i];
        if (!extent_fits(extent, layout))
            return damaged(reader, sizeof reader->header, "an extent lies outside its tensor");
        float *array = arrays[extent->kind];
        mpt_status_t status = array != NULL ? load_extent(reader, extent, layout, array)
                                            : verify_extent(reader, extent, buffer);
        if (status != MPT_OK)
            return status;
        *elements += (int64_t)extent->count;
    }
    return MPT_OK;
}

mpt_status_t mpt_checkpoint_load(const mpt_checkpoint_meta_t *meta, const mpt_layout_t *layout,
                                 float *const arrays[MPT_KIND_COUNT], const mpt_log_t *log)
{
    mpt_status_t status = MPT_OK;
    int64_t elements = 0;
    void *buffer = malloc(VERIFY_CHUNK);
    if (buffer == NULL)
        return MPT_ERR_NO_MEMORY;
    for (int rank = 0; rank < meta->ranks && status == MPT_OK; rank++) {
        reader_t reader;
        status = open_reader(&reader, meta, rank, log);
        if (status != MPT_OK)
            break;
        status = load_file(&reader, layout, arrays, buffer, &elements);
        close_reader(&reader);
    }
    /* Slices of one layout cannot overlap, so that the right total means each element once. */
    if (status == MPT_OK && elements != layout->parameters * MPT_KIND_COUNT) {
        mpt_log_error(log, "%s: holds %" PRId64 " of %" PRId64 " elements", meta->path, elements,
                      layout->parameters * MPT_KIND_COUNT);
        status = MPT_ERR_CHECKPOINT;
    }
    free(buffer);
    return status;
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

mpt_status_t mpt_checkpoint_verify(const mpt_checkpoint_meta_t *meta, const mpt_log_t *log, int64_t *bytes_p)
{
    mpt_status_t status = MPT_OK;
    int64_t bytes = (int64_t)strlen(meta->text);
    void *buffer = malloc(VERIFY_CHUNK);
    if (buffer == NULL)
        return MPT_ERR_NO_MEMORY;
    for (int rank = 0; rank < meta->ranks && status == MPT_OK; rank++) {
        reader_t reader;
        status = open_reader(&reader, meta, rank, log);
        if (status != MPT_OK)
            break;
        for (uint32_t i = 0; i < reader.header.extent_count && status == MPT_OK; i++)
            status = verify_extent(&reader, &reader.table[i], buffer);
        bytes += (int64_t)reader.header.file_bytes;
        close_reader(&reader);
    }
    free(buffer);
    if (status == MPT_OK && bytes_p != NULL)
        *bytes_p = bytes;
    return status;
}
