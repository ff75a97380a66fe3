#include "metrics_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

#define FLAGS (O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC)

mpt_status_t mpt_metrics_file_fail(const char *path, const mpt_log_t *log)
{
    mpt_log_error(log, "cannot write %s: %s; choose another log.dir", path, strerror(errno));
    return MPT_ERR_IO;
}

/* ---- lines of steps that were lost ------------------------------------------------------------------- */

/* A line's step; lines that do not parse belong to no step and stay. */
static int64_t line_step(const char *line)
{
    const char *at = strstr(line, "\"step\":");
    return at == NULL ? 0 : strtoll(at + 7, NULL, 10);
}

static int open_lost(const char *path)
{
    char lost[1300];
    for (int n = 1; n < 10000; n++) {
        snprintf(lost, sizeof lost, "%s.lost-%d", path, n);
        if (access(lost, F_OK) != 0)
            return open(lost, FLAGS | O_EXCL, 0666);
    }
    errno = EEXIST;
    return -1;
}

/* Copy lines up to last_step to `kept`, later ones to a lost file; returns 0, or -1 with errno. */
static int split_lines(const char *path, FILE *old, int kept, int64_t last_step)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t count;
    int lost = -1, failed = 0;
    while (!failed && (count = getline(&line, &capacity, old)) > 0) {
        int to = kept;
        if (line_step(line) > last_step || line[count - 1] != '\n')
            to = lost = lost >= 0 ? lost : open_lost(path);
        failed = to < 0 || mpt_file_write_all(to, line, (size_t)count) != 0;
    }
    free(line);
    if (lost >= 0 && close(lost) != 0)
        failed = 1;
    return failed || ferror(old) ? -1 : 0;
}

static int copy_kept(const char *path, int kept, int64_t last_step)
{
    FILE *old = fopen(path, "r");
    if (old == NULL)
        return -1;
    int failed = split_lines(path, old, kept, last_step) != 0 || fsync(kept) != 0;
    fclose(old);
    return failed ? -1 : 0;
}

/* What a resumed run shares with the lost one, in a new file that is locked before it takes the old one's place; or -1 with errno. */
static int set_aside(const char *path, int64_t last_step)
{
    char kept_path[1300];
    snprintf(kept_path, sizeof kept_path, "%s.kept", path);
    int kept = open(kept_path, FLAGS | O_TRUNC, 0666);
    if (kept < 0)
        return -1;
    int locked = mpt_file_lock(kept) == 0 || mpt_file_has_no_locks(errno);
    if (locked && copy_kept(path, kept, last_step) == 0 && rename(kept_path, path) == 0)
        return kept;
    int error = errno;
    close(kept);
    errno = error;
    return -1;
}

/* ---- whose it is ----------------------------------------------------------------------------------------- */

/* A run that has set lines aside has put another file in this one's place. */
static int is_current(int fd, const char *path)
{
    struct stat own, now;
    return fstat(fd, &own) == 0 && stat(path, &now) == 0 && own.st_ino == now.st_ino && own.st_dev == now.st_dev;
}

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

mpt_status_t mpt_metrics_file_open(const char *path, int64_t last_step, const mpt_log_t *log, int *fd_p)
{
    int old = -1, current = 0;
    mpt_status_t status = MPT_OK;
    while (status == MPT_OK && !current) {
        if (old >= 0)
            close(old);
        old = open(path, FLAGS, 0666);
        if (old < 0)
            return mpt_metrics_file_fail(path, log);
        status = lock(old, path, log);
        current = is_current(old, path);
    }
    if (status == MPT_OK) {
        *fd_p = set_aside(path, last_step);
        status = *fd_p >= 0 ? MPT_OK : mpt_metrics_file_fail(path, log);
    }
    close(old);
    return status;
}
