#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "checkpoint.h"
#include "file.h"

#define LOCK_NAME "mpt-ddp.lock"

/* Who has the lock, "key = value" lines as meta has them, filled up with line breaks: always as long, so that it is written without
 * cutting the file first. */
typedef struct owner {
    char text[256];
} owner_t;

static int lock_path(const char *dir, char *out, size_t bytes)
{
    if (snprintf(out, bytes, "%s/" LOCK_NAME, dir) < (int)bytes)
        return 0;
    errno = ENAMETOOLONG;
    return -1;
}

static owner_t describe(uint64_t run)
{
    owner_t owner;
    char host[65] = "";
    gethostname(host, sizeof host - 1);
    int n = snprintf(owner.text, sizeof owner.text,
                     "run = %016" PRIx64 "\nprocess = %ld\nhost = %s\n", run, (long)getpid(), host);
    memset(owner.text + n, '\n', sizeof owner.text - (size_t)n);
    return owner;
}

/* The value of `key` in the file; "?" where it does not say. */
static void read_owner(int fd, const char *key, char *out, size_t bytes)
{
    char text[sizeof(owner_t) + 1];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    if (!mpt_checkpoint_get(text, key, out, bytes))
        snprintf(out, bytes, "?");
}

static mpt_status_t refuse(int fd, const char *dir, const mpt_log_t *log)
{
    char process[32], host[80];
    read_owner(fd, "process", process, sizeof process);
    read_owner(fd, "host", host, sizeof host);
    mpt_log_error(log,
                  "%s is in use by another run (process %s on %s): wait for its end, stop it, or "
                  "choose another folder",
                  dir, process, host);
    return MPT_ERR_CONFIG;
}

static mpt_status_t fail(const char *dir, const mpt_log_t *log)
{
    mpt_log_error(log, "cannot use the folder of checkpoints %s: " LOCK_NAME ": %s", dir,
                  strerror(errno));
    return MPT_ERR_IO;
}

static mpt_status_t take_and_sign(int fd, const char *dir, uint64_t run, const mpt_log_t *log)
{
    owner_t owner = describe(run);
    int taken = mpt_file_lock(fd) == 0;
    if (!taken && errno == EWOULDBLOCK)
        return refuse(fd, dir, log);
    if (!taken && !mpt_file_has_no_locks(errno))
        return fail(dir, log);
    if (!taken)
        mpt_log_warn(log,
                     "%s: no locks on this file system (%s): see that no other run uses the folder",
                     dir, strerror(errno));
    if (mpt_file_write_all(fd, &owner, sizeof owner) != 0 || fsync(fd) != 0)
        return fail(dir, log);
    return MPT_OK;
}

mpt_status_t mpt_checkpoint_lock(const char *dir, uint64_t run, const mpt_log_t *log, int *lock_p)
{
    char path[MPT_CHECKPOINT_PATH_MAX];
    if (lock_path(dir, path, sizeof path) != 0 || mpt_file_make_dirs(dir) != 0) {
        mpt_log_error(log, "cannot make checkpoint.dir %s: %s", dir, strerror(errno));
        return MPT_ERR_IO;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail(dir, log);
    mpt_status_t status = take_and_sign(fd, dir, run, log);
    if (status != MPT_OK) {
        mpt_checkpoint_unlock(fd);
        return status;
    }
    *lock_p = fd;
    return MPT_OK;
}

/* Where a relative path begins, and on which host: what may differ from rank 0's. */
static mpt_status_t refuse_other(const char *dir, const mpt_log_t *log)
{
    char host[65] = "", from[1024] = "?";
    gethostname(host, sizeof host - 1);
    if (getcwd(from, sizeof from) == NULL)
        snprintf(from, sizeof from, "?");
    mpt_log_error(log,
                  "checkpoint.dir %s, seen from %s on %s, is not the folder that rank 0 saves in: "
                  "all ranks need one folder "
                  "that they share; start them in one working directory, or give an absolute path "
                  "on a shared file system",
                  dir, from, host);
    return MPT_ERR_CONFIG;
}

mpt_status_t mpt_checkpoint_same_folder(const char *dir, uint64_t run, const mpt_log_t *log)
{
    char path[MPT_CHECKPOINT_PATH_MAX], own[32], found[32];
    if (lock_path(dir, path, sizeof path) != 0)
        return fail(dir, log);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
        return fail(dir, log);
    if (fd < 0)
        return refuse_other(dir, log);
    read_owner(fd, "run", found, sizeof found);
    close(fd);
    snprintf(own, sizeof own, "%016" PRIx64, run);
    return strcmp(own, found) == 0 ? MPT_OK : refuse_other(dir, log);
}

void mpt_checkpoint_unlock(int lock)
{
    if (lock < 0)
        return;
    flock(lock, LOCK_UN); /* also where a child process still has the descriptor */
    close(lock);
}
