#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint_folder.h"

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

/* What a walk through a folder collects. */
typedef struct steps {
    int64_t above, last; /* of steps in (above, last] */
    int oldest_first;
    int64_t *steps;
    int capacity, count; /* the first `capacity` of them in that order */
    int64_t found;       /* of all */
} steps_t;

/* Put `step` into its place; where the list is full the last one falls out. */
static void insert_step(steps_t *s, int64_t step)
{
    int at = s->count;
    while (at > 0 && (s->oldest_first ? s->steps[at - 1] > step : s->steps[at - 1] < step))
        at--;
    if (at == s->capacity)
        return;
    s->count += s->count < s->capacity;
    memmove(&s->steps[at + 1], &s->steps[at], (size_t)(s->count - 1 - at) * sizeof *s->steps);
    s->steps[at] = step;
}

/* The next entry, or NULL: at the end with errno 0, else with what went wrong. */
static struct dirent *next_entry(DIR *folder)
{
    errno = 0;
    return readdir(folder);
}

/* @return 0; -1 with errno. A folder that does not exist has none. */
static int walk(const char *dir, steps_t *s)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    if (folder == NULL)
        return errno == ENOENT ? 0 : -1;
    while ((entry = next_entry(folder)) != NULL) {
        int64_t step = step_of_name(entry->d_name);
        if (step <= s->above || step > s->last)
            continue;
        s->found++;
        insert_step(s, step);
    }
    int error = errno;
    closedir(folder);
    errno = error;
    return error == 0 ? 0 : -1;
}

int mpt_checkpoint_list(const char *dir, int64_t *steps, int capacity)
{
    steps_t newest = {.above = -1, .last = INT64_MAX, .steps = steps, .capacity = capacity};
    return walk(dir, &newest) == 0 ? newest.count : -1;
}

mpt_status_t mpt_checkpoint_look(const char *dir, int64_t *steps, int capacity,
                                 const mpt_log_t *log, int *count_p)
{
    int count = mpt_checkpoint_list(dir, steps, capacity);
    if (count < 0) {
        int error = errno;
        mpt_log_error(log, "cannot list the checkpoints in %s: %s", dir, strerror(error));
        return error == ENOMEM ? MPT_ERR_NO_MEMORY : MPT_ERR_IO;
    }
    *count_p = count;
    return MPT_OK;
}

int checkpoint_list_oldest(const char *dir, int64_t above, int64_t last, int64_t *steps,
                           int capacity, int64_t *found_p)
{
    steps_t oldest = {
        .above = above, .last = last, .oldest_first = 1, .steps = steps, .capacity = capacity};
    if (walk(dir, &oldest) != 0)
        return -1;
    *found_p = oldest.found;
    return oldest.count;
}
