/*
 * A folder and a log for one test: the folder is new and goes with the test, the log keeps what was said.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "log.h"

typedef struct scratch {
    char folder[64];
    char said[8192]; /* every line since the last scratch_forget */
    int lines;
    pthread_mutex_t lock; /* lines come from any thread */
    mpt_log_t log;
} scratch_t;

static inline void scratch_hear(void *ctx, mpt_log_level_t level, const char *line)
{
    scratch_t *scratch = ctx;
    (void)level;
    pthread_mutex_lock(&scratch->lock);
    size_t used = strlen(scratch->said);
    snprintf(scratch->said + used, sizeof scratch->said - used, "%s\n", line);
    scratch->lines++;
    pthread_mutex_unlock(&scratch->lock);
}

static inline void scratch_forget(scratch_t *scratch)
{
    scratch->said[0] = '\0';
    scratch->lines = 0;
}

static inline int scratch_set_up(void **state)
{
    scratch_t *scratch = calloc(1, sizeof *scratch);
    if (scratch == NULL)
        return -1;
    pthread_mutex_init(&scratch->lock, NULL);
    strcpy(scratch->folder, "/tmp/mpt_test.XXXXXX");
    scratch->log =
        (mpt_log_t){.level = MPT_LOG_DEBUG, .rank = -1, .sink = scratch_hear, .ctx = scratch};
    *state = scratch;
    return mkdtemp(scratch->folder) != NULL ? 0 : -1;
}

static inline int scratch_remove_one(const char *path, const struct stat *info, int kind,
                                     struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static inline int scratch_tear_down(void **state)
{
    scratch_t *scratch = *state;
    pthread_mutex_destroy(&scratch->lock);
    int result = nftw(scratch->folder, scratch_remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(scratch);
    return result;
}

/* A path in the test's folder; good until the fourth call from then. */
static inline const char *scratch_path(const scratch_t *scratch, const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", scratch->folder, name);
    return path;
}

static inline void scratch_write(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes, 1, count, file) != count || fclose(file) != 0)
        abort();
}

/* A file's bytes and a NUL behind them, to be freed; NULL where there is none. */
static inline char *scratch_read(const char *path, size_t *count_p)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (count_p != NULL)
        *count_p = 0;
    if (file == NULL)
        return NULL;
    if (fstat(fileno(file), &info) != 0)
        abort();
    char *bytes = malloc((size_t)info.st_size + 1);
    if (bytes == NULL || fread(bytes, 1, (size_t)info.st_size, file) != (size_t)info.st_size)
        abort();
    fclose(file);
    bytes[info.st_size] = '\0';
    if (count_p != NULL)
        *count_p = (size_t)info.st_size;
    return bytes;
}

static inline int scratch_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

#endif
