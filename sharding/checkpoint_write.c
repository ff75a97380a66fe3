#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_format.h"
#include "file.h"

struct mpt_checkpoint {
    mpt_checkpoint_params_t params;
    char dir[1024];
    char meta[MPT_CHECKPOINT_META_MAX];
    int64_t step; /* of the save in flight, or -1 */
    atomic_int progress;
    pthread_t thread;
    int thread_running;
    mpt_extent_t *extents; /* of this rank's slices */
    int extent_count;
    checkpoint_extent_t *table; /* extent_count * MPT_KIND_COUNT */
    const float **sources;      /* where each table row's payload is, one per row */
};

/* Folders of saves that a crash cut off. */
static void remove_stale(const char *dir)
{
    char path[MPT_CHECKPOINT_PATH_MAX];
    struct dirent *entry;
    DIR *folder = opendir(dir);
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        size_t n = strlen(entry->d_name);
        if (strncmp(entry->d_name, "step-", 5) != 0 || n < 8 ||
            strcmp(entry->d_name + n - 8, ".partial") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        mpt_file_remove_dir(path);
    }
    if (folder != NULL)
        closedir(folder);
}

static int rename_to_lost(const char *path)
{
    char lost[MPT_CHECKPOINT_PATH_MAX + 16];
    for (int n = 1; n < 10000; n++) {
        snprintf(lost, sizeof lost, "%s.lost-%d", path, n);
        if (access(lost, F_OK) != 0)
            return rename(path, lost);
    }
    errno = EEXIST;
    return -1;
}

int mpt_checkpoint_set_aside(const char *dir, int64_t step, const mpt_log_t *log)
{
    int64_t steps[256];
    char path[MPT_CHECKPOINT_PATH_MAX];
    int moved = 0, count = mpt_checkpoint_list(dir, steps, 256);
    for (int i = 0; i < count && steps[i] > step; i++) {
        mpt_checkpoint_path(dir, steps[i], path, sizeof path);
        if (rename_to_lost(path) == 0) {
            mpt_log_warn(log, "%s is later than where this run starts: set aside as %s.lost-N", path, path);
            moved++;
        } else {
            mpt_log_warn(log, "cannot set %s aside: %s; --resume auto may take it for this run's", path,
                         strerror(errno));
        }
    }
    return moved;
}

mpt_status_t mpt_checkpoint_create(const mpt_checkpoint_params_t *params, mpt_checkpoint_t **saver_p)
{
    size_t tensors = (size_t)params->layout->tensor_count;
    if (mpt_file_make_dirs(params->dir) != 0) {
        mpt_log_error(params->log, "cannot make checkpoint.dir %s: %s", params->dir, strerror(errno));
        return MPT_ERR_IO;
    }
    mpt_checkpoint_t *saver = calloc(1, sizeof *saver);
    if (saver == NULL)
        return MPT_ERR_NO_MEMORY;
    saver->params = *params;
    saver->step = -1;
    atomic_init(&saver->progress, MPT_SAVE_IDLE);
    snprintf(saver->dir, sizeof saver->dir, "%s", params->dir);
    saver->extents = calloc(tensors, sizeof *saver->extents);
    saver->table = calloc(tensors * MPT_KIND_COUNT, sizeof *saver->table);
    saver->sources = calloc(tensors * MPT_KIND_COUNT, sizeof *saver->sources);
    if (saver->extents == NULL || saver->table == NULL || saver->sources == NULL) {
        mpt_checkpoint_destroy(saver);
        return MPT_ERR_NO_MEMORY;
    }
    saver->extent_count = mpt_layout_extents(params->layout, params->rank, saver->extents);
    if (params->rank == 0)
        remove_stale(saver->dir);
    *saver_p = saver;
    return MPT_OK;
}

void mpt_checkpoint_destroy(mpt_checkpoint_t *saver)
{
    if (saver == NULL)
        return;
    mpt_checkpoint_wait(saver);
    free(saver->extents);
    free(saver->table);
    free(saver->sources);
    free(saver);
}

void mpt_checkpoint_path(const char *dir, int64_t step, char *out, size_t bytes)
{
    snprintf(out, bytes, "%s/step-%08" PRId64, dir, step);
}

static void partial_path(const mpt_checkpoint_t *saver, char *out, size_t bytes)
{
    snprintf(out, bytes, "%s/step-%08" PRId64 ".partial", saver->dir, saver->step);
}

/* Fill in the table: for each kind, each extent; payloads follow the table in this order. */
static checkpoint_header_t describe(mpt_checkpoint_t *saver)
{
    const mpt_layout_t *layout = saver->params.layout;
    int rows = saver->extent_count * MPT_KIND_COUNT;
    uint64_t offset = sizeof(checkpoint_header_t) + (uint64_t)rows * sizeof(checkpoint_extent_t);
    for (int i = 0; i < rows; i++) {
        const mpt_extent_t *extent = &saver->extents[i % saver->extent_count];
        size_t bytes = (size_t)extent->count * sizeof(float);
        saver->table[i] = (checkpoint_extent_t){.tensor = (uint32_t)extent->tensor,
                                                .kind = (uint32_t)(i / saver->extent_count),
                                                .first = (uint64_t)extent->first,
                                                .count = (uint64_t)extent->count,
                                                .offset = offset,
                                                .checksum = XXH3_64bits(saver->sources[i], bytes)};
        offset += bytes;
    }
    return (checkpoint_header_t){
        .magic = {'M', 'P', 'T', 'C', 'K', 'P', 'T', '1'},
        .version = CHECKPOINT_VERSION,
        .rank = (uint32_t)saver->params.rank,
        .ranks = (uint32_t)layout->ranks,
        .extent_count = (uint32_t)rows,
        .step = (uint64_t)saver->step,
        .fingerprint = mpt_checkpoint_fingerprint(layout->tensors, layout->tensor_count),
        .file_bytes = offset};
}

static uint64_t header_checksum(const checkpoint_header_t *header, const checkpoint_extent_t *table)
{
    uint64_t first = XXH3_64bits(header, offsetof(checkpoint_header_t, checksum));
    return XXH3_64bits_withSeed(table, header->extent_count * sizeof *table, first);
}

static int write_payload(mpt_checkpoint_t *saver, int fd)
{
    checkpoint_header_t header = describe(saver);
    header.checksum = header_checksum(&header, saver->table);
    if (mpt_file_write_all(fd, &header, sizeof header) != 0 ||
        mpt_file_write_all(fd, saver->table, header.extent_count * sizeof *saver->table) != 0)
        return -1;
    for (uint32_t i = 0; i < header.extent_count; i++)
        if (mpt_file_write_all(fd, saver->sources[i], saver->table[i].count * sizeof(float)) != 0)
            return -1;
    return fsync(fd);
}

/* Write this rank's file; the save's progress says how it went. */
static void write_file(mpt_checkpoint_t *saver)
{
    char dir[MPT_CHECKPOINT_PATH_MAX], path[MPT_CHECKPOINT_PATH_MAX + 32];
    partial_path(saver, dir, sizeof dir);
    snprintf(path, sizeof path, "%s/rank-%05d.bin", dir, saver->params.rank);
    int progress = MPT_SAVE_FAILED, fd = -1;
    if (mpt_file_make_dirs(dir) == 0)
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0 && write_payload(saver, fd) == 0)
        progress = MPT_SAVE_SYNCED;
    if (progress == MPT_SAVE_FAILED)
        mpt_log_warn(saver->params.log, "cannot save %s: %s; the run goes on with older checkpoints",
                     path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (progress == MPT_SAVE_FAILED)
        unlink(path); /* a full disk gets its space back at once */
    atomic_store(&saver->progress, progress);
}

static void *write_thread(void *arg)
{
    write_file(arg);
    return NULL;
}

/* Point the table's rows at the state, or at a copy of it that the next step cannot change. */
static void take_sources(mpt_checkpoint_t *saver, const mpt_state_t *state)
{
    const float *arrays[MPT_KIND_COUNT] = {state->master, state->m, state->v};
    float *copy = saver->params.snapshot;
    for (int i = 0; i < saver->extent_count * MPT_KIND_COUNT; i++) {
        const mpt_extent_t *extent = &saver->extents[i % saver->extent_count];
        saver->sources[i] = arrays[i / saver->extent_count] + extent->at;
        if (copy == NULL)
            continue;
        memcpy(copy, saver->sources[i], (size_t)extent->count * sizeof *copy);
        saver->sources[i] = copy;
        copy += extent->count;
    }
}

void mpt_checkpoint_begin(mpt_checkpoint_t *saver, const mpt_state_t *state, int64_t step, const char *meta)
{
    saver->step = step;
    snprintf(saver->meta, sizeof saver->meta, "%s", meta);
    take_sources(saver, state);
    atomic_store(&saver->progress, MPT_SAVE_WRITING);
    if (saver->params.snapshot != NULL)
        saver->thread_running = pthread_create(&saver->thread, NULL, write_thread, saver) == 0;
    if (!saver->thread_running)
        write_file(saver);
}

mpt_save_progress_t mpt_checkpoint_progress(mpt_checkpoint_t *saver)
{
    return (mpt_save_progress_t)atomic_load(&saver->progress);
}

void mpt_checkpoint_wait(mpt_checkpoint_t *saver)
{
    if (saver->thread_running)
        pthread_join(saver->thread, NULL);
    saver->thread_running = 0;
}

int64_t mpt_checkpoint_step(const mpt_checkpoint_t *saver)
{
    return saver->step;
}

static int write_meta(const mpt_checkpoint_t *saver, const char *dir)
{
    char path[MPT_CHECKPOINT_PATH_MAX + 32], text[MPT_CHECKPOINT_META_MAX + 256];
    int n = snprintf(text, sizeof text, "mpt-ddp checkpoint = %d\nstep = %" PRId64 "\nranks = %d\n%s",
                     CHECKPOINT_VERSION, saver->step, saver->params.layout->ranks, saver->meta);
    n += snprintf(text + n, sizeof text - (size_t)n, "xxh3 = %016" PRIx64 "\n",
                  (uint64_t)XXH3_64bits(text, (size_t)n));
    snprintf(path, sizeof path, "%s/meta", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return -1;
    int failed = mpt_file_write_all(fd, text, (size_t)n) != 0 || fsync(fd) != 0;
    return close(fd) != 0 || failed ? -1 : 0;
}

/* Where a file system cannot exchange two names at once: for a moment the old folder is `to`.replaced. */
static int rename_by_way_of(const char *from, const char *to)
{
    char aside[MPT_CHECKPOINT_PATH_MAX + 16];
    snprintf(aside, sizeof aside, "%s.replaced", to);
    if (mpt_file_remove_dir(aside) != 0 || rename(to, aside) != 0)
        return -1;
    if (rename(from, to) != 0) {
        int error = errno;
        rename(aside, to); /* the old one stays */
        errno = error;
        return -1;
    }
    mpt_file_remove_dir(aside);
    return 0;
}

/* A folder of this step may stand from a run that was resumed before it; the new one takes its place, at once
 * where possible, so that a crash leaves one of the two. */
static int rename_over(const char *from, const char *to)
{
    if (rename(from, to) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -1;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) != 0)
        return rename_by_way_of(from, to);
    mpt_file_remove_dir(from);
    return 0;
}

/* Keep the newest up to this step. Later ones were left by a run that this one started behind: they do not
 * count, or a damaged one would cost the checkpoint that has just been written. */
static void remove_older(const mpt_checkpoint_t *saver)
{
    int64_t steps[256], kept = 0;
    char path[MPT_CHECKPOINT_PATH_MAX];
    int count = mpt_checkpoint_list(saver->dir, steps, 256);
    for (int i = 0; i < count; i++) {
        if (steps[i] > saver->step || kept++ < saver->params.keep)
            continue;
        mpt_checkpoint_path(saver->dir, steps[i], path, sizeof path);
        if (mpt_file_remove_dir(path) != 0)
            mpt_log_warn(saver->params.log, "cannot remove old checkpoint %s: %s", path,
                         strerror(errno));
    }
}

static mpt_status_t commit_folder(mpt_checkpoint_t *saver, const char *partial)
{
    char final[MPT_CHECKPOINT_PATH_MAX];
    mpt_checkpoint_path(saver->dir, saver->step, final, sizeof final);
    if (write_meta(saver, partial) != 0 || mpt_file_sync_dir(partial) != 0 ||
        rename_over(partial, final) != 0 || mpt_file_sync_dir(saver->dir) != 0) {
        mpt_log_warn(saver->params.log, "cannot commit %s: %s; the run goes on with older checkpoints",
                     final, strerror(errno));
        mpt_file_remove_dir(partial);
        return MPT_ERR_IO;
    }
    remove_older(saver);
    return MPT_OK;
}

mpt_status_t mpt_checkpoint_finish(mpt_checkpoint_t *saver, int commit)
{
    char partial[MPT_CHECKPOINT_PATH_MAX];
    mpt_status_t status = MPT_OK;
    mpt_checkpoint_wait(saver);
    partial_path(saver, partial, sizeof partial);
    if (saver->params.rank == 0 && commit)
        status = commit_folder(saver, partial);
    else if (saver->params.rank == 0)
        mpt_file_remove_dir(partial);
    saver->step = -1;
    atomic_store(&saver->progress, MPT_SAVE_IDLE);
    return status;
}
