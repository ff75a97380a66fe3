#include "aside.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "numeric.h"

#define CHUNK 4096

typedef char partial_t[MPT_ASIDE_PATH_MAX + sizeof MPT_ASIDE_SUFFIX];

static void partial_path(const mpt_aside_t *file, partial_t out)
{
    snprintf(out, sizeof(partial_t), "%s" MPT_ASIDE_SUFFIX, file->path);
}

static mpt_status_t fail(const mpt_aside_t *file)
{
    mpt_log_error(file->log, "cannot write %s: %s", file->path, strerror(errno));
    return MPT_ERR_IO;
}

static mpt_status_t refuse_existing(const mpt_aside_t *file)
{
    mpt_log_error(file->log, "%s exists already; choose another name, or --force to replace it",
                  file->path);
    return MPT_ERR_CONFIG;
}

/* A link is not followed: a rename would take its own place, not that of what it points to. */
static mpt_status_t check_target(const mpt_aside_t *file)
{
    struct stat info;
    if (lstat(file->path, &info) != 0)
        return errno == ENOENT ? MPT_OK : fail(file);
    if (S_ISREG(info.st_mode))
        return file->force ? MPT_OK : refuse_existing(file);
    mpt_log_error(file->log, "%s exists and is not a regular file, which nothing replaces; choose another name",
                  file->path);
    return MPT_ERR_CONFIG;
}

mpt_status_t mpt_aside_open(mpt_aside_t *file, const char *path, int force, const mpt_log_t *log)
{
    partial_t partial;
    *file = (mpt_aside_t){.fd = -1, .force = force, .log = log};
    if (snprintf(file->path, sizeof file->path, "%s", path) >= (int)sizeof file->path) {
        errno = ENAMETOOLONG;
        return fail(file);
    }
    mpt_status_t status = check_target(file);
    if (status != MPT_OK)
        return status;
    partial_path(file, partial);
    file->fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    return file->fd >= 0 ? MPT_OK : fail(file);
}

mpt_status_t mpt_aside_put(mpt_aside_t *file, const void *bytes, size_t count, uint64_t offset)
{
    const char *at = bytes;
    while (count > 0) {
        ssize_t n = pwrite(file->fd, at, count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(file);
        at += n;
        offset += (uint64_t)n;
        count -= (size_t)n;
    }
    return MPT_OK;
}

mpt_status_t mpt_aside_put_floats(mpt_aside_t *file, mpt_dtype_t dtype, const float *values, int64_t count,
                                  uint64_t offset)
{
    uint16_t rounded[CHUNK];
    if (dtype == MPT_F32)
        return mpt_aside_put(file, values, (size_t)count * sizeof *values, offset);
    for (int64_t done = 0; done < count; done += CHUNK) {
        int64_t n = count - done < CHUNK ? count - done : CHUNK;
        mpt_convert(rounded, dtype, values + done, MPT_F32, n);
        mpt_status_t status = mpt_aside_put(file, rounded, (size_t)n * sizeof *rounded,
                                            offset + (uint64_t)done * sizeof *rounded);
        if (status != MPT_OK)
            return status;
    }
    return MPT_OK;
}

/* Without `force` a file that has appeared meanwhile stays; some file systems cannot promise that in one step. */
static int rename_to_place(const mpt_aside_t *file, const char *partial)
{
    if (file->force)
        return rename(partial, file->path);
    if (renameat2(AT_FDCWD, partial, AT_FDCWD, file->path, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    return rename(partial, file->path);
}

static int sync_folder(const mpt_aside_t *file)
{
    char copy[MPT_ASIDE_PATH_MAX];
    memcpy(copy, file->path, sizeof copy);
    return mpt_file_sync_dir(dirname(copy));
}

mpt_status_t mpt_aside_finish(mpt_aside_t *file, uint64_t bytes)
{
    if (ftruncate(file->fd, (off_t)bytes) == 0 && fsync(file->fd) == 0)
        return MPT_OK;
    mpt_status_t status = fail(file);
    mpt_aside_drop(file);
    return status;
}

mpt_status_t mpt_aside_place(mpt_aside_t *file)
{
    partial_t partial;
    partial_path(file, partial);
    if (rename_to_place(file, partial) != 0) {
        mpt_status_t status = errno == EEXIST ? refuse_existing(file) : fail(file);
        mpt_aside_drop(file);
        return status;
    }
    close(file->fd);
    file->fd = -1;
    return sync_folder(file) == 0 ? MPT_OK : fail(file);
}

mpt_status_t mpt_aside_commit(mpt_aside_t *file, uint64_t bytes)
{
    mpt_status_t status = mpt_aside_finish(file, bytes);
    return status == MPT_OK ? mpt_aside_place(file) : status;
}

void mpt_aside_drop(mpt_aside_t *file)
{
    partial_t partial;
    if (file->fd < 0)
        return;
    close(file->fd);
    file->fd = -1;
    partial_path(file, partial);
    unlink(partial);
}
