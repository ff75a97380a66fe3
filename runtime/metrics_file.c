#include "metrics_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

#define PATH_BYTES 1300
#define CHUNK 65536

mpt_status_t mpt_metrics_file_fail(const char *path, const mpt_log_t *log)
{
    const int no_memory = errno == ENOMEM;
    mpt_log_error(log, "cannot write %s: %s%s", path, strerror(errno), no_memory ? "" : "; choose another log.dir");
    return no_memory ? MPT_ERR_NO_MEMORY : MPT_ERR_IO;
}

/* ---- whose it is ----------------------------------------------------------------------------------------- */

static mpt_status_t lock(int fd, const char *path, const mpt_log_t *log)
{
    if (mpt_file_lock(fd) == 0)
        return MPT_OK;
    if (errno == EWOULDBLOCK) {
        mpt_log_error(log, "%s is being written by another run: wait for its end, stop it, or choose another log.dir", path);
        return MPT_ERR_CONFIG;
    }
    if (!mpt_file_has_no_locks(errno))
        return mpt_metrics_file_fail(path, log);
    mpt_log_warn(log, "%s: no locks on this file system (%s): see that no other run writes it", path, strerror(errno));
    return MPT_OK;
}

static mpt_status_t check_kind(int fd, const char *path, const mpt_log_t *log)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return mpt_metrics_file_fail(path, log);
    if (S_ISREG(info.st_mode))
        return MPT_OK;
    mpt_log_error(log, "cannot write %s: it is no regular file; choose another log.dir", path);
    return MPT_ERR_IO;
}

mpt_status_t mpt_metrics_file_open(const char *path, const mpt_log_t *log, int *fd_p)
{
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        return mpt_metrics_file_fail(path, log);
    mpt_status_t status = check_kind(fd, path, log);
    if (status == MPT_OK)
        status = lock(fd, path, log);
    if (status != MPT_OK) {
        close(fd);
        return status;
    }
    *fd_p = fd;
    return MPT_OK;
}

/* ---- lines of steps that were lost ------------------------------------------------------------------- */

/* A line's step; lines that do not parse belong to no step. */
static int64_t line_step(const char *line)
{
    const char *at = strstr(line, "\"step\":");
    return at == NULL ? 0 : strtoll(at + 7, NULL, 10);
}

/* Where the first line that has to move begins, or the end of the file. */
static int find_cut(FILE *file, int64_t last_step, off_t *cut_p)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t count;
    off_t at = 0;
    while ((count = getline(&line, &capacity, file)) > 0 && line[count - 1] == '\n' && line_step(line) <= last_step)
        at += count;
    free(line);
    *cut_p = at;
    return ferror(file) || (count < 0 && !feof(file)) ? -1 : 0;
}

static int open_lost(const char *path, char *lost)
{
    for (int n = 1; n < 10000; n++) {
        snprintf(lost, PATH_BYTES, "%s.lost-%d", path, n);
        int fd = open(lost, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

static int copy_rest(int from, off_t at, off_t end, int to)
{
    char chunk[CHUNK];
    for (size_t here; at < end; at += (off_t)here) {
        here = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
        if (mpt_file_read_at(from, chunk, here, (uint64_t)at) != 0 || mpt_file_write_all(to, chunk, here) != 0)
            return -1;
    }
    return 0;
}

static int sync_folder_of(const char *path)
{
    char folder[PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = '\0';
    return mpt_file_sync_dir(folder);
}

/* Bytes [at, end) of the file go to one of their own, and off this one once they are on disk. */
static int move_rest(int fd, const char *path, off_t at, off_t end)
{
    char lost[PATH_BYTES];
    int to = open_lost(path, lost);
    if (to < 0)
        return -1;
    int failed = copy_rest(fd, at, end, to) != 0 || fsync(to) != 0 || sync_folder_of(path) != 0 || ftruncate(fd, at) != 0;
    int error = errno;
    close(to);
    if (!failed)
        return 0;
    unlink(lost);
    errno = error;
    return -1;
}

/* A stream of its own over the open file, from its start. */
static FILE *read_again(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    FILE *file = copy >= 0 && lseek(copy, 0, SEEK_SET) == 0 ? fdopen(copy, "r") : NULL;
    int error = errno;
    if (file == NULL && copy >= 0)
        close(copy);
    errno = error;
    return file;
}

static int cut(int fd, const char *path, int64_t last_step, off_t *bytes_p)
{
    off_t at;
    FILE *file = read_again(fd);
    if (file == NULL)
        return -1;
    int failed = find_cut(file, last_step, &at) != 0, error = errno;
    fclose(file);
    errno = error;
    off_t end = lseek(fd, 0, SEEK_END);
    if (failed || end < 0 || (at < end && move_rest(fd, path, at, end) != 0))
        return -1;
    *bytes_p = at;
    return 0;
}

mpt_status_t mpt_metrics_file_cut(int fd, const char *path, int64_t last_step, const mpt_log_t *log, off_t *bytes_p)
{
    return cut(fd, path, last_step, bytes_p) == 0 ? MPT_OK : mpt_metrics_file_fail(path, log);
}
