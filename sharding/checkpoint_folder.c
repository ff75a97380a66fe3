#include "checkpoint_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_format.h"
#include "file.h"

#define META_OWN                                                                                   \
    256 /* bytes that the lines of write_meta take at most, the checksum's among them */
#define BATCH 256 /* checkpoints that are listed at once, of any number */

/* ---- making ---------------------------------------------------------------------------------------------- */

void mpt_checkpoint_clean(const char *dir)
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

/* Make the entries of the folders above durable, as far as they can be opened. */
static void sync_parents(const char *dir)
{
    char path[MPT_CHECKPOINT_PATH_MAX];
    snprintf(path, sizeof path, "%s", dir);
    for (char *slash = strrchr(path, '/'); slash != NULL && slash != path;
         slash = strrchr(path, '/')) {
        *slash = '\0';
        mpt_file_sync_dir(path);
    }
    mpt_file_sync_dir(dir[0] == '/' ? "/" : ".");
}

mpt_status_t checkpoint_folder_make(checkpoint_folder_t *folder, const char *dir, int sync)
{
    int n = snprintf(folder->dir, sizeof folder->dir, "%s", dir);
    if (n >= (int)sizeof folder->dir)
        errno = ENAMETOOLONG;
    if (n >= (int)sizeof folder->dir || mpt_file_make_dirs(dir) != 0) {
        mpt_log_error(folder->log, "cannot make checkpoint.dir %s: %s", dir, strerror(errno));
        return MPT_ERR_IO;
    }
    if (sync)
        sync_parents(dir);
    return MPT_OK;
}

void checkpoint_folder_partial(const checkpoint_folder_t *folder, int64_t step, char *out,
                               size_t bytes)
{
    snprintf(out, bytes, "%s/step-%08" PRId64 ".partial", folder->dir, step);
}

void checkpoint_folder_drop(const checkpoint_folder_t *folder, int64_t step)
{
    char partial[MPT_CHECKPOINT_PATH_MAX];
    checkpoint_folder_partial(folder, step, partial, sizeof partial);
    mpt_file_remove_dir(partial);
}

/* ---- setting aside --------------------------------------------------------------------------------------- */

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

static int set_one_aside(const char *dir, int64_t step, const mpt_log_t *log)
{
    char path[MPT_CHECKPOINT_PATH_MAX];
    mpt_checkpoint_path(dir, step, path, sizeof path);
    if (rename_to_lost(path) == 0) {
        mpt_log_warn(log, "%s is later than where this run starts: set aside as %s.lost-N", path,
                     path);
        return 1;
    }
    mpt_log_warn(log, "cannot set %s aside: %s; --resume auto may take it for this run's", path,
                 strerror(errno));
    return 0;
}

int mpt_checkpoint_set_aside(const char *dir, int64_t step, const mpt_log_t *log)
{
    int64_t steps[BATCH], found, last = step;
    int count, moved = 0;
    while ((count = checkpoint_list_oldest(dir, last, INT64_MAX, steps, BATCH, &found)) > 0) {
        for (int i = 0; i < count; i++)
            moved += set_one_aside(dir, steps[i], log);
        last = steps[count - 1];
    }
    if (count < 0)
        mpt_log_warn(log, "cannot see which checkpoints in %s are later than step %" PRId64 ": %s",
                     dir, step, strerror(errno));
    return moved;
}

/* ---- committing ------------------------------------------------------------------------------------------ */

int checkpoint_folder_has_room(const char *meta)
{
    return strlen(meta) < MPT_CHECKPOINT_META_MAX - META_OWN;
}

/* What the others have synced must lie here, or this folder is not theirs: a meta would make it pass for whole. */
static int has_all_files(const checkpoint_folder_t *folder, const char *partial)
{
    char path[MPT_CHECKPOINT_PATH_MAX + 32];
    for (int rank = 0; rank < folder->ranks; rank++) {
        snprintf(path, sizeof path, "%s/rank-%05d.bin", partial, rank);
        if (access(path, F_OK) == 0)
            continue;
        mpt_log_warn(folder->log,
                     "cannot commit %s: what rank %d has written is not there: %s; checkpoint.dir must be "
                     "one folder that all ranks see; the run goes on with older checkpoints",
                     partial, rank, strerror(errno));
        return 0;
    }
    return 1;
}

static int write_meta(const checkpoint_folder_t *folder, int64_t step, const char *meta,
                      const char *dir)
{
    char path[MPT_CHECKPOINT_PATH_MAX + 32], text[MPT_CHECKPOINT_META_MAX], kinds[64] = "";
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        if (folder->kinds >> k & 1)
            strcat(strcat(kinds, " "), mpt_checkpoint_kind_name((mpt_checkpoint_kind_t)k));
    int n = snprintf(text, sizeof text,
                     "mpt-ddp checkpoint = %d\nstep = %" PRId64 "\nranks = %d\nrun = %016" PRIx64
                     "\nkinds =%s\n%s",
                     CHECKPOINT_VERSION, step, folder->ranks, folder->run, kinds, meta);
    n += snprintf(text + n, sizeof text - (size_t)n, "xxh3 = %016" PRIx64 "\n",
                  (uint64_t)XXH3_64bits(text, (size_t)n));
    snprintf(path, sizeof path, "%s/meta", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return -1;
    int failed = mpt_file_write_all(fd, text, (size_t)n) != 0 || fsync(fd) != 0;
    return close(fd) != 0 || failed ? -1 : 0;
}

/* Where a file system cannot exchange two names at once: for a moment the old folder is `aside` alone. */
static int rename_by_way_of(const char *from, const char *to, const char *aside)
{
    if (mpt_file_remove_dir(aside) != 0 || rename(to, aside) != 0)
        return -1;
    if (rename(from, to) != 0) {
        int error = errno;
        rename(aside, to); /* the old one stays */
        errno = error;
        return -1;
    }
    return 0;
}

/* A folder of this step may stand from a run that was resumed before it; the new one takes its place, at once
 * where possible, so that a crash leaves one of the two. The old one is `from` or `aside` then. */
static int rename_over(const char *from, const char *to, const char *aside)
{
    if (rename(from, to) == 0)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -1;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0)
        return 0;
    return rename_by_way_of(from, to, aside);
}

static void remove_one(const checkpoint_folder_t *folder, int64_t step)
{
    char path[MPT_CHECKPOINT_PATH_MAX];
    mpt_checkpoint_path(folder->dir, step, path, sizeof path);
    if (mpt_file_remove_dir(path) != 0)
        mpt_log_warn(folder->log, "cannot remove old checkpoint %s: %s", path, strerror(errno));
}

/* Keep the newest up to this step. Later ones were left by a run that this one started behind: they do not
 * count, or a damaged one would cost the checkpoint that has just been written. */
static void remove_older(const checkpoint_folder_t *folder, int64_t step)
{
    int64_t steps[BATCH], found;
    int count = checkpoint_list_oldest(folder->dir, -1, step, steps, BATCH, &found);
    int64_t excess = count > 0 ? found - folder->keep : 0;
    while (count > 0 && excess > 0) {
        for (int i = 0; i < count && excess > 0; i++, excess--)
            remove_one(folder, steps[i]);
        if (excess > 0)
            count = checkpoint_list_oldest(folder->dir, steps[count - 1], step, steps, BATCH, &found);
    }
    if (count < 0)
        mpt_log_warn(folder->log, "cannot see which checkpoints in %s are too old: %s", folder->dir,
                     strerror(errno));
}

mpt_status_t checkpoint_folder_commit(const checkpoint_folder_t *folder, int64_t step,
                                      const char *meta)
{
    char partial[MPT_CHECKPOINT_PATH_MAX], final[MPT_CHECKPOINT_PATH_MAX],
        aside[MPT_CHECKPOINT_PATH_MAX + 16];
    checkpoint_folder_partial(folder, step, partial, sizeof partial);
    mpt_checkpoint_path(folder->dir, step, final, sizeof final);
    snprintf(aside, sizeof aside, "%s.replaced", final);
    if (!has_all_files(folder, partial)) {
        mpt_file_remove_dir(partial);
        return MPT_ERR_IO;
    }
    if (write_meta(folder, step, meta, partial) != 0 || mpt_file_sync_dir(partial) != 0 ||
        rename_over(partial, final, aside) != 0 || mpt_file_sync_dir(folder->dir) != 0) {
        mpt_log_warn(folder->log, "cannot commit %s: %s; the run goes on with older checkpoints",
                     final, strerror(errno));
        mpt_file_remove_dir(partial);
        return MPT_ERR_IO;
    }
    mpt_file_remove_dir(partial); /* the one that was replaced, now that its successor is durable */
    mpt_file_remove_dir(aside);
    remove_older(folder, step);
    return MPT_OK;
}
