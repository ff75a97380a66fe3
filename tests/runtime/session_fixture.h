/*
 * Fixture of the end-to-end tests: token files that a small model can learn, a config of two layers, and runs of N sessions on N
 * threads of this process as N ranks. Everything lies in a folder of its own under TMPDIR, which is the
 * working directory from fixture_open to fixture_close. Header-only: one program a test file.
 */
#ifndef SESSION_FIXTURE_H
#define SESSION_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <assert.h>
#include <ftw.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session.h"

#define FIXTURE_RANKS 8
#define FIXTURE_STEPS 400
#define FIXTURE_SETS 40
#define FIXTURE_LOG 16384
#define FIXTURE_PATH 512

/* ---- folder and token files --------------------------------------------------------------------- */

static inline uint64_t fixture_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Half of the tokens follow from the one before, the others are one of three: what a model can learn of it shows soon. */
static inline void fixture_tokens(const char *path, int64_t count, uint64_t seed)
{
    uint16_t *tokens = malloc((size_t)count * sizeof *tokens);
    assert_non_null(tokens);
    uint32_t token = 1;
    for (int64_t i = 0; i < count; i++) {
        uint32_t choice = (uint32_t)(fixture_random(&seed) >> 32) % 6;
        token = (token * 5 + 17 + (choice < 3 ? 0 : 7 * choice)) % 61 + 32;
        tokens[i] = (uint16_t)token;
    }
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){path, tokens, count}, 1, 1, NULL), MPT_OK);
    free(tokens);
}

static inline int fixture_open(void **state)
{
    static char folder[FIXTURE_PATH];
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/mpt-session-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(folder) == NULL || chdir(folder) != 0)
        return -1;
    fixture_tokens("train.bin", 40000, 11);
    fixture_tokens("val.bin", 6000, 12);
    *state = folder;
    return 0;
}

static inline int fixture_remove_one(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    return remove(path);
}

static inline void fixture_remove(const char *path)
{
    nftw(path, fixture_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline int fixture_close(void **state)
{
    if (chdir("/") != 0)
        return -1;
    fixture_remove(*state);
    return 0;
}

static inline int fixture_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* ---- configs ---------------------------------------------------------------------------------------- */

static const char fixture_config[] = "threads = 1\n"
                                     "model { layers = 2 heads = 2 dim = 32 context = 32 vocab = 256 }\n"
                                     "data { train = train.bin val = val.bin }\n"
                                     "train { steps = 20 global_batch = 16 micro_batch = 2 seed = 7 lr = 3e-3\n"
                                     "        warmup = 2 min_lr = 3e-4 val_every = 0 val_batches = 2 }\n"
                                     "precision { compute = fp32 }\n"
                                     "checkpoint { dir = run every = 0 }\n"
                                     "log { dir = run }\n";

/* One run: what to change of the config, and what to do with the sessions. */
typedef struct fixture_job {
    int ranks;
    int threads;               /* 0: 1 */
    const char *folder;        /* of checkpoints and metrics; NULL: "run" */
    const char *resume;
    const char *set[FIXTURE_SETS]; /* overrides, up to a NULL */
    int64_t stop_at;           /* the step after which the run stops, because `stop_rank` asked; 0: none */
    int stop_rank;
    /* In place of mpt_session_train where given; every rank's thread calls it. */
    mpt_status_t (*body)(mpt_session_t *session, int rank, void *ctx);
    void *ctx;
} fixture_job_t;

/* What came of it. Freed with fixture_free. */
typedef struct fixture_run {
    mpt_status_t opened[FIXTURE_RANKS], trained[FIXTURE_RANKS];
    int64_t steps; /* reported */
    mpt_step_result_t step[FIXTURE_STEPS]; /* rank 0's */
    int validations, skips, checkpoints, failures; /* notices of rank 0 */
    double val_loss;                               /* the last one */
    char notice[1024];                             /* the last one of rank 0 */
    mpt_progress_t progress; /* rank 0's at the end */
    int64_t planned_bytes[FIXTURE_RANKS], held_bytes[FIXTURE_RANKS];
    char isa[24];
    float *state[FIXTURE_RANKS]; /* masters, m, v, working weights, EMA of every tensor */
    int64_t state_count;
    pthread_mutex_t lock; /* guards what follows */
    char log[FIXTURE_LOG]; /* every rank's lines */
    size_t log_bytes;
    int errors; /* lines of severity error */
} fixture_run_t;

typedef struct fixture_rank {
    const fixture_job_t *job;
    fixture_run_t *run;
    mpt_boot_t *boot;
    mpt_session_t *session;
    int rank;
    pthread_t thread;
} fixture_rank_t;

/* ---- state ------------------------------------------------------------------------------------------ */

#define FIXTURE_KINDS 5
static const char *const fixture_kinds[FIXTURE_KINDS] = {"master", "m", "v", "working", "ema"};

/* Every tensor of every kind, one after the other; *count_p: floats. Collective. A kind that the run does not hold is all zeros. */
static inline float *fixture_state(mpt_session_t *s, int64_t *count_p)
{
    const mpt_layout_t *layout = &s->memory.layout;
    int64_t total = layout->parameters * FIXTURE_KINDS, at = 0;
    float *out = calloc((size_t)total, sizeof *out);
    assert(out != NULL); /* cmocka's own asserts work in the main thread alone */
    for (int k = 0; k < FIXTURE_KINDS; k++)
        for (int t = 0; t < layout->tensor_count; t++) {
            mpt_session_tensor(s, layout->tensors[t].name, fixture_kinds[k], out + at, total - at);
            at += mpt_tensor_count(&layout->tensors[t]);
        }
    assert(at == total);
    *count_p = total;
    return out;
}

static inline int fixture_same_state(const fixture_run_t *a, int a_rank, const fixture_run_t *b, int b_rank)
{
    return a->state_count == b->state_count && a->state_count > 0 &&
           memcmp(a->state[a_rank], b->state[b_rank], (size_t)a->state_count * sizeof(float)) == 0;
}

/* ---- running ---------------------------------------------------------------------------------------- */

static inline void fixture_log(void *ctx, mpt_log_severity_t severity, const char *line)
{
    fixture_run_t *run = ((fixture_rank_t *)ctx)->run;
    pthread_mutex_lock(&run->lock);
    run->errors += severity == MPT_SEVERITY_ERROR;
    size_t room = sizeof run->log - run->log_bytes;
    int n = snprintf(run->log + run->log_bytes, room, "%s\n", line);
    run->log_bytes += (size_t)n < room ? (size_t)n : room - 1;
    pthread_mutex_unlock(&run->lock);
}

static inline void fixture_on_step(void *ctx, const mpt_step_result_t *result)
{
    fixture_rank_t *rank = ctx;
    const fixture_job_t *job = rank->job;
    if (rank->rank == 0 && rank->run->steps < FIXTURE_STEPS)
        rank->run->step[rank->run->steps++] = *result;
    if (job->stop_at > 0 && result->step == job->stop_at - 1 && rank->rank == job->stop_rank)
        mpt_session_request_stop(rank->session); /* rides the next step's record */
}

static inline void fixture_on_notice(void *ctx, const mpt_notice_t *notice)
{
    fixture_rank_t *rank = ctx;
    fixture_run_t *run = rank->run;
    if (rank->rank != 0)
        return;
    if (strcmp(notice->kind, "validation") == 0)
        run->val_loss = notice->val_loss;
    run->validations += strcmp(notice->kind, "validation") == 0;
    run->skips += strcmp(notice->kind, "skip") == 0;
    run->checkpoints += strcmp(notice->kind, "checkpoint") == 0;
    run->failures += strcmp(notice->kind, "checkpoint_failed") == 0;
    snprintf(run->notice, sizeof run->notice, "%s: %s", notice->kind, notice->text);
}

static inline mpt_status_t fixture_open_session(fixture_rank_t *rank)
{
    const fixture_job_t *job = rank->job;
    char dirs[3][FIXTURE_PATH];
    const char *set[FIXTURE_SETS + 3];
    const char *folder = job->folder != NULL ? job->folder : "run";
    int count = 0;
    snprintf(dirs[0], sizeof dirs[0], "checkpoint.dir=%s", folder);
    snprintf(dirs[1], sizeof dirs[1], "log.dir=%s", folder);
    snprintf(dirs[2], sizeof dirs[2], "threads=%d", job->threads > 0 ? job->threads : 1);
    for (; count < 3; count++)
        set[count] = dirs[count];
    for (int i = 0; i < FIXTURE_SETS && job->set[i] != NULL; i++)
        set[count++] = job->set[i];
    return mpt_session_open(&(mpt_session_params_t){.boot = rank->boot,
                                                    .config = {.text = fixture_config,
                                                               .path = "test.cfg",
                                                               .overrides = set,
                                                               .override_count = count},
                                                    .resume = job->resume,
                                                    .log = fixture_log,
                                                    .log_ctx = rank},
                            &rank->session);
}

static inline void fixture_collect(fixture_rank_t *rank)
{
    fixture_run_t *run = rank->run;
    mpt_session_info_t info;
    int64_t count;
    mpt_session_info(rank->session, &info);
    run->planned_bytes[rank->rank] = info.planned_bytes;
    run->held_bytes[rank->rank] = info.held_bytes;
    run->state[rank->rank] = fixture_state(rank->session, &count);
    if (rank->rank != 0)
        return;
    run->state_count = count;
    run->progress = rank->session->progress;
    snprintf(run->isa, sizeof run->isa, "%s", info.isa);
}

static inline void *fixture_rank_main(void *arg)
{
    fixture_rank_t *rank = arg;
    fixture_run_t *run = rank->run;
    const mpt_train_hooks_t hooks = {rank, fixture_on_step, fixture_on_notice};
    const fixture_job_t *job = rank->job;
    run->opened[rank->rank] = fixture_open_session(rank);
    run->trained[rank->rank] = run->opened[rank->rank];
    if (run->opened[rank->rank] == MPT_OK) {
        if (job->stop_at == 1 && job->stop_rank == rank->rank)
            mpt_session_request_stop(rank->session);
        run->trained[rank->rank] = job->body != NULL ? job->body(rank->session, rank->rank, job->ctx)
                                                     : mpt_session_train(rank->session, &hooks);
        if (!rank->session->failed)
            fixture_collect(rank);
        mpt_session_close(rank->session);
    }
    mpt_boot_destroy(rank->boot);
    return NULL;
}

/* Run a job to its end. */
static inline fixture_run_t *fixture_run(fixture_job_t job)
{
    fixture_rank_t ranks[FIXTURE_RANKS];
    mpt_boot_t *boots[FIXTURE_RANKS];
    fixture_run_t *run = calloc(1, sizeof *run);
    assert_non_null(run);
    pthread_mutex_init(&run->lock, NULL);
    assert_int_equal(mpt_boot_threads_create(job.ranks, boots), MPT_OK);
    for (int r = 0; r < job.ranks; r++) {
        ranks[r] = (fixture_rank_t){.job = &job, .run = run, .boot = boots[r], .rank = r};
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, fixture_rank_main, &ranks[r]), 0);
    }
    for (int r = 0; r < job.ranks; r++)
        pthread_join(ranks[r].thread, NULL);
    return run;
}

static inline void fixture_free(fixture_run_t *run)
{
    if (run == NULL)
        return;
    for (int r = 0; r < FIXTURE_RANKS; r++)
        free(run->state[r]);
    pthread_mutex_destroy(&run->lock);
    free(run);
}

/* A run in which every rank ends with `status`; says why where not. */
static inline fixture_run_t *fixture_expect(fixture_job_t job, mpt_status_t status)
{
    fixture_run_t *run = fixture_run(job);
    for (int r = 0; r < job.ranks; r++) {
        if (run->trained[r] != status)
            print_error("rank %d: %s\n%s", r, mpt_status_string(run->trained[r]), run->log);
        assert_int_equal(run->trained[r], status);
    }
    return run;
}

/* ---- metrics ----------------------------------------------------------------------------------------- */

static inline char *fixture_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    if (file != NULL) {
        assert_true(fread(text, 1, (1 << 20) - 1, file) < (1 << 20) - 1);
        fclose(file);
    }
    return text;
}

/* The lines of a metrics file without what timing and saving change: no rates, no checkpoint, stop or resume events. To be freed. */
static inline char *fixture_metrics(const char *folder)
{
    char path[FIXTURE_PATH];
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    char *text = fixture_read(path), *out = calloc(1, strlen(text) + 1), *save = NULL;
    assert_non_null(out);
    for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        char *rates = strstr(line, ",\"tokens_per_s\"");
        if (strstr(line, "\"event\":\"checkpoint") != NULL || strstr(line, "\"event\":\"stop") != NULL)
            continue;
        if (rates != NULL)
            *rates = '\0';
        strcat(strcat(out, line), "\n");
    }
    free(text);
    return out;
}

static inline int fixture_count(const char *text, const char *what)
{
    int count = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what))
        count++;
    return count;
}

#endif
