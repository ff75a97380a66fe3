#include "data_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int write_all(int fd, const void *bytes, size_t count)
{
    const char *next = bytes;
    while (count > 0) {
        ssize_t written = write(fd, next, count < ((size_t)1 << 30) ? count : (size_t)1 << 30);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return 0;
        next += written;
        count -= (size_t)written;
    }
    return 1;
}

static int write_tokens(int fd, const uint16_t *tokens, int64_t count)
{
    int32_t header[MPT_DATA_HEADER_BYTES / 4] = {MPT_DATA_MAGIC, MPT_DATA_VERSION, (int32_t)count};
    return write_all(fd, header, sizeof header) &&
           write_all(fd, tokens, (size_t)count * sizeof *tokens) && fsync(fd) == 0;
}

/* The folder is synced too, or a crash could take the new name back. */
static int sync_folder(const char *path)
{
    char *folder = strdup(path);
    if (!folder)
        return 0;
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0'; /* "/" stays */
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int synced = fd >= 0 && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    free(folder);
    errno = error;
    return synced;
}

/* Write to `aside` and rename. Nothing is left aside on failure. */
static int write_aside(const char *path, const char *aside, const uint16_t *tokens, int64_t count)
{
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return 0;
    int written = write_tokens(fd, tokens, count);
    int error = errno;
    if (close(fd) != 0 && written) {
        written = 0;
        error = errno;
    }
    if (written && rename(aside, path) == 0)
        return sync_folder(path);
    if (written)
        error = errno;
    unlink(aside);
    errno = error;
    return 0;
}

mpt_status_t mpt_data_write(const char *path, const uint16_t *tokens, int64_t count,
                            const mpt_log_t *log)
{
    char *aside = NULL;
    if (count < 0 || count > INT32_MAX) {
        mpt_log_error(log,
                      "%s: %lld tokens are more than a token file can hold; split them over several"
                      " files, which a glob reads as one",
                      path, (long long)count);
        return MPT_ERR_IO;
    }
    if (asprintf(&aside, "%s.tmp.%ld", path, (long)getpid()) < 0) {
        mpt_log_error(log, "%s: no memory to write it", path);
        return MPT_ERR_NO_MEMORY;
    }
    int written = write_aside(path, aside, tokens, count);
    mpt_status_t status = written ? MPT_OK : errno == ENOMEM ? MPT_ERR_NO_MEMORY : MPT_ERR_IO;
    if (!written)
        mpt_log_error(log, "%s: cannot be written: %s; check the folder and its free space", path,
                      strerror(errno));
    free(aside);
    return status;
}
