/*
 * What the end-to-end tests of sharded runs share: the shard modes, jobs put together from lists of overrides, and
 * comparing two runs to the bit. Header-only.
 */
#ifndef SHARD_FIXTURE_H
#define SHARD_FIXTURE_H

#include "session_fixture.h"

typedef struct shard_mode {
    const char *name;
    const char *set[3]; /* up to a NULL */
} shard_mode_t;

enum { SHARD_DDP, SHARD_ZERO1, SHARD_ZERO2, SHARD_ZERO3, SHARD_HSDP1, SHARD_HSDP2, SHARD_HSDP4, SHARD_MODES };

static const shard_mode_t shard_modes[SHARD_MODES] = {
    {"ddp", {"parallel.shard=ddp"}},
    {"zero1", {"parallel.shard=zero1"}},
    {"zero2", {"parallel.shard=zero2"}},
    {"zero3", {"parallel.shard=zero3"}},
    {"hsdp 1", {"parallel.shard=hsdp", "parallel.shard_ranks=1"}},
    {"hsdp 2", {"parallel.shard=hsdp", "parallel.shard_ranks=2"}},
    {"hsdp 4", {"parallel.shard=hsdp", "parallel.shard_ranks=4"}}};

/* Append overrides, up to a NULL, to a job's. */
static inline void shard_add(fixture_job_t *job, const char *const *set)
{
    int count = 0;
    while (job->set[count] != NULL)
        count++;
    for (int i = 0; set[i] != NULL; i++)
        job->set[count++] = set[i];
}

/* A job of so many ranks in a mode, with these overrides. */
static inline fixture_job_t shard_job(int ranks, int mode, const char *folder, const char *const *set)
{
    fixture_job_t job = {.ranks = ranks, .folder = folder};
    shard_add(&job, set);
    shard_add(&job, shard_modes[mode].set);
    return job;
}

/* The last steps of `whole`, from the first that `run` made, are `run`'s to the bit; and so is the state at the end. */
static inline void shard_expect_same(const fixture_run_t *whole, const fixture_run_t *run, const char *what)
{
    int64_t skip = whole->steps - run->steps;
    assert_true(skip >= 0 && run->steps > 0);
    for (int64_t i = 0; i < run->steps; i++) {
        const mpt_step_result_t *a = &whole->step[skip + i], *b = &run->step[i];
        if (a->step != b->step || memcmp(&a->loss, &b->loss, sizeof a->loss) != 0 ||
            memcmp(&a->grad_norm, &b->grad_norm, sizeof a->grad_norm) != 0 || a->loss_scale != b->loss_scale ||
            a->skipped != b->skipped)
            fail_msg("%s: step %d: loss %.17g, %.17g, norm %.17g, %.17g, scale %g, %g", what, (int)b->step, a->loss,
                     b->loss, a->grad_norm, b->grad_norm, a->loss_scale, b->loss_scale);
    }
    if (memcmp(&whole->progress, &run->progress, sizeof run->progress) != 0)
        fail_msg("%s: other progress", what);
    if (!fixture_same_state(whole, 0, run, 0))
        fail_msg("%s: other masters, moments, weights or average", what);
}

/* Copy a folder of files and folders of files. */
static inline void shard_copy(const char *from, const char *to)
{
    char command[2 * FIXTURE_PATH + 16];
    snprintf(command, sizeof command, "cp -R %s %s", from, to);
    fixture_remove(to);
    assert_int_equal(system(command), 0);
}

#endif
