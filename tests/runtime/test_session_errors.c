/*
 * Bad input, over several ranks: every rank ends with the same status, one rank says why in one line, and nothing hangs.
 */
#include <fcntl.h>
#include <time.h>
#include <xxhash.h>

#include "session_fixture.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All ranks end with `status` within seconds; the one error line holds `words`. */
static fixture_run_t *expect_error(fixture_job_t job, mpt_status_t status, const char *words)
{
    double start = now_s();
    fixture_run_t *run = fixture_expect(job, status);
    if (run->errors != 1 || strstr(run->log, words) == NULL)
        print_error("%d errors; wanted \"%s\":\n%s", run->errors, words, run->log);
    assert_int_equal(run->errors, 1);
    assert_non_null(strstr(run->log, words));
    assert_true(now_s() - start < 10.0);
    return run;
}

static void expect_refusal(const char *set, mpt_status_t status, const char *words)
{
    fixture_remove("run");
    fixture_free(expect_error((fixture_job_t){.ranks = 4, .set = {set}}, status, words));
}

static void expect_refusal_of(int ranks, const char *first, const char *second, const char *words)
{
    fixture_remove("run");
    fixture_free(expect_error((fixture_job_t){.ranks = ranks, .set = {first, second}}, MPT_ERR_CONFIG, words));
}

/* ---- config ------------------------------------------------------------------------------------------- */

static void mistakes_in_the_config_are_one_line_from_one_rank(void **state)
{
    (void)state;
    expect_refusal("train.stepz=5", MPT_ERR_CONFIG, "train.steps");
    expect_refusal("train.steps=many", MPT_ERR_CONFIG, "train.steps");
    expect_refusal("train.lr=-1", MPT_ERR_CONFIG, "train.lr");
    expect_refusal("train.global_batch=18", MPT_ERR_CONFIG, "global_batch");
    expect_refusal("precision.compute=fp8", MPT_ERR_CONFIG, "not built");
    expect_refusal("device=cuda", MPT_ERR_CONFIG, "no CUDA backend");
    expect_refusal("model.heads=5", MPT_ERR_CONFIG, "model.heads");
}

static void cuts_that_the_ranks_do_not_serve_are_refused(void **state)
{
    (void)state;
    expect_refusal("parallel.shard=hsdp", MPT_ERR_CONFIG, "needs parallel.shard_ranks");
    expect_refusal("parallel.shard_ranks=2", MPT_ERR_CONFIG, "parallel.shard = hsdp");
    expect_refusal_of(4, "parallel.shard=hsdp", "parallel.shard_ranks=3", "is no power of two");
    expect_refusal_of(4, "parallel.shard=hsdp", "parallel.shard_ranks=8", "does not divide the 4 ranks");
    expect_refusal_of(6, "parallel.shard=hsdp", "parallel.shard_ranks=4", "does not divide the 6 ranks");
    expect_refusal_of(3, "train.reproducible=world", NULL, "does not serve 3 ranks");
    expect_refusal_of(4, "train.reproducible=world", "train.lanes=2", "does not serve 4 ranks");
    expect_refusal_of(2, "train.reproducible=world", "train.lanes=16", "train.global_batch = 16");
    expect_refusal_of(2, "train.reproducible=world", "parallel.reduce_every=micro", "use step");
    expect_refusal("train.lanes=4", MPT_ERR_CONFIG, "train.reproducible = world");
    expect_refusal("precision.rounding=stochastic", MPT_ERR_CONFIG, "use nearest"); /* the config computes in FP32 */
    expect_refusal_of(2, "precision.compute=bf16", "precision.master=none", "rounding = stochastic");
}

static mpt_status_t open_text(const char *text, const char *path, fixture_run_t *run)
{
    fixture_rank_t rank = {.run = run};
    mpt_session_t *session = NULL;
    mpt_status_t status = mpt_session_open(&(mpt_session_params_t){.config = {.text = text, .path = path},
                                                                   .log = fixture_log,
                                                                   .log_ctx = &rank},
                                           &session);
    assert_true(status != MPT_OK && session == NULL);
    return status;
}

static void messages_name_file_and_line_of_the_config(void **state)
{
    fixture_run_t *run = calloc(1, sizeof *run);
    (void)state;
    assert_non_null(run);
    pthread_mutex_init(&run->lock, NULL);
    assert_int_equal(open_text("data { train = train.bin }\n\nmodel { layerz = 2 }\n", "my.cfg", run), MPT_ERR_CONFIG);
    assert_non_null(strstr(run->log, "my.cfg:3:"));
    assert_non_null(strstr(run->log, "layers"));
    assert_int_equal(open_text(NULL, "not-there.cfg", run), MPT_ERR_CONFIG);
    assert_non_null(strstr(run->log, "cannot read config not-there.cfg: No such file or directory"));
    assert_int_equal(run->errors, 2);
    fixture_free(run);
}

static void an_unknown_instruction_level_or_backend_is_refused(void **state)
{
    static const char *const variables[] = {"MPT_ISA", "MPT_KERNELS"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        setenv(variables[i], "fastest", 1);
        expect_refusal("train.steps=5", MPT_ERR_CONFIG, variables[i]);
        unsetenv(variables[i]);
    }
}

static void a_fault_that_cannot_be_is_refused(void **state)
{
    static const char *const faults[] = {"overflow:rank=4,step=1,micro=0,tensor=wte.weight,element=5",
                                         "flip:rank=1,step=1,tensor=wte.weight,element=5,kind=gradient,bit=3",
                                         "slow:rank=1,step=1"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        setenv("MPT_INJECT", faults[i], 1);
        expect_refusal("train.steps=5", MPT_ERR_CONFIG, faults[i]);
        unsetenv("MPT_INJECT");
    }
}

/* The plan's bytes are enough, and one less is not. */
static void a_run_that_does_not_fit_its_memory_does_not_start(void **state)
{
    static const char *const wrong[] = {"lots", "1X", "0", "-1G", "1G2", "G"};
    char bytes[32];
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("MPT_MEMORY", wrong[i], 1);
        expect_refusal("train.steps=5", MPT_ERR_CONFIG, wrong[i]);
    }
    setenv("MPT_MEMORY", "1G", 1);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 4, .set = {"train.steps=2"}}, MPT_OK);
    snprintf(bytes, sizeof bytes, "%" PRId64, run->planned_bytes[0]);
    setenv("MPT_MEMORY", bytes, 1);
    fixture_remove("run");
    fixture_free(fixture_expect((fixture_job_t){.ranks = 4, .set = {"train.steps=2"}}, MPT_OK));
    snprintf(bytes, sizeof bytes, "%" PRId64, run->planned_bytes[0] - 1);
    setenv("MPT_MEMORY", bytes, 1);
    expect_refusal("train.steps=2", MPT_ERR_NO_MEMORY, "mpt-ddp plan --ranks 4 --memory");
    unsetenv("MPT_MEMORY");
    fixture_free(run);
}

/* ---- data ------------------------------------------------------------------------------------------------ */

static void write_bytes(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

static void unusable_token_files_are_refused(void **state)
{
    static const char foreign[] = "This is a text, not a file of tokens!\n";
    uint16_t high[200];
    (void)state;
    fixture_tokens("short.bin", 2000, 5);
    assert_int_equal(truncate("short.bin", 3000), 0);
    fixture_tokens("tiny.bin", 20, 5);
    write_bytes("foreign.bin", foreign, sizeof foreign - 1);
    write_bytes("empty.bin", "", 0);
    for (int i = 0; i < 200; i++)
        high[i] = 40000;
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){"high.bin", high, 200}, 1, 1, NULL), MPT_OK);
    expect_refusal("data.train=missing.bin", MPT_ERR_DATA, "missing.bin");
    expect_refusal("data.train=\"missing*.bin\"", MPT_ERR_DATA, "missing*.bin");
    expect_refusal("data.train=short.bin", MPT_ERR_DATA, "short.bin");
    expect_refusal("data.train=tiny.bin", MPT_ERR_DATA, "tiny.bin");
    expect_refusal("data.train=foreign.bin", MPT_ERR_DATA, "foreign.bin");
    expect_refusal("data.train=empty.bin", MPT_ERR_DATA, "empty.bin");
    expect_refusal("data.train=high.bin", MPT_ERR_DATA, "40000");
}

static void a_missing_validation_file_is_refused_where_it_would_be_read(void **state)
{
    (void)state;
    fixture_remove("run");
    fixture_free(expect_error((fixture_job_t){.ranks = 2, .set = {"data.val=none.bin", "train.val_every=5"}},
                              MPT_ERR_DATA, "none.bin"));
    fixture_remove("run");
    fixture_free(fixture_expect((fixture_job_t){.ranks = 2, .set = {"data.val=none.bin", "train.steps=2"}}, MPT_OK));
}

/* The bad token stands in a sample that one rank alone reads, in the fifth step. */
static void a_token_beyond_the_vocabulary_stops_all_ranks_together(void **state)
{
    uint16_t tokens[4000] = {0};
    fixture_run_t *run;
    (void)state;
    tokens[(4 * 8 + 2 * 2) * 32 + 17] = 999; /* step 5, micro-batch of rank 2 */
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){"bad.bin", tokens, 4000}, 1, 1, NULL), MPT_OK);
    fixture_remove("run");
    run = expect_error((fixture_job_t){.ranks = 4,
                                       .set = {"data.train=bad.bin", "data.order=sequential",
                                               "train.global_batch=8", "checkpoint.every=3"}},
                       MPT_ERR_DATA, "rank 2: ");
    assert_non_null(strstr(run->log, "999"));
    assert_int_equal(run->steps, 4); /* the step before is whole, and was reported */
    assert_true(fixture_same_state(run, 0, run, 3));
    assert_true(fixture_exists("run/step-00000003/meta")); /* the save in flight was not thrown away */
    fixture_free(run);
}

/* Ends in bad data, and step `step` is saved whole, as is said; a run with good data goes on from there. */
static void expect_saved_before(fixture_job_t job, int64_t step)
{
    char path[FIXTURE_PATH];
    fixture_remove("run");
    fixture_run_t *run = expect_error(job, MPT_ERR_DATA, "bad.bin");
    assert_int_equal(run->steps, step);
    assert_int_equal(run->checkpoints, 1);
    fixture_free(run);
    mpt_checkpoint_path("run", step, path, sizeof path);
    assert_int_equal(mpt_checkpoint_fsck(path, NULL, NULL), MPT_OK);
    job.resume = "auto";
    job.set[0] = "train.steps=6";
    job.set[1] = NULL;
    run = fixture_expect(job, MPT_OK);
    assert_int_equal(run->steps, 6 - step);
    fixture_free(run);
}

/* Every rank knows of it with a state that is whole: what is due to be saved is. */
static void what_is_due_to_be_saved_where_data_turn_out_bad_is_saved(void **state)
{
    static const char *const saves[] = {"checkpoint.async=true", "checkpoint.async=false"};
    uint16_t tokens[4000] = {0};
    (void)state;
    tokens[(3 * 8 + 2) * 32 + 17] = 999; /* of step 4 in file order */
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){"bad.bin", tokens, 4000}, 1, 1, NULL), MPT_OK);
    for (int i = 0; i < 2; i++)
        expect_saved_before((fixture_job_t){.ranks = 2,
                                            .set = {"data.train=bad.bin", "data.order=sequential", saves[i],
                                                    "train.global_batch=8", "checkpoint.every=3"}},
                            3);
}

static void a_bad_token_in_the_validation_file_stops_all_ranks_too(void **state)
{
    uint16_t tokens[4000] = {0};
    (void)state;
    tokens[(1 * 2) * 32 + 5] = 777; /* second micro-batch: rank 1's */
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){"bad.bin", tokens, 4000}, 1, 1, NULL), MPT_OK);
    fixture_remove("run");
    fixture_free(expect_error((fixture_job_t){.ranks = 2, .set = {"data.val=bad.bin", "train.val_every=3"}},
                              MPT_ERR_DATA, "rank 1: "));
    expect_saved_before((fixture_job_t){.ranks = 2,
                                        .set = {"data.val=bad.bin", "train.val_every=3", "checkpoint.every=3"}},
                        3);
    expect_saved_before((fixture_job_t){.ranks = 2,
                                        .set = {"data.val=bad.bin", "train.val_every=5", "train.steps=5",
                                                "checkpoint.every=10"}}, /* the last step */
                        5);
}

/* ---- checkpoints -------------------------------------------------------------------------------------------- */

/* Checkpoints of steps 4 and 8. */
static void make_checkpoints(void)
{
    fixture_remove("saved");
    fixture_free(fixture_expect((fixture_job_t){.ranks = 2,
                                                .folder = "saved",
                                                .set = {"train.steps=8", "checkpoint.every=4"}},
                                MPT_OK));
}

static void flip_byte(const char *path, off_t offset)
{
    unsigned char byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    close(fd);
}

/* A line of a checkpoint's meta becomes `line`, or goes where that is NULL; its checksum fits. */
static void change_meta(const char *path, const char *key, const char *line)
{
    char *text = fixture_read(path), out[MPT_CHECKPOINT_META_MAX] = "", *rest = NULL;
    size_t length = strlen(key);
    int changed = 0;
    for (char *old = strtok_r(text, "\n", &rest); old != NULL; old = strtok_r(NULL, "\n", &rest)) {
        int hit = strncmp(old, key, length) == 0 && strncmp(old + length, " = ", 3) == 0;
        const char *kept = hit ? line : old;
        changed += hit;
        if (kept != NULL && strncmp(old, "xxh3 = ", 7) != 0)
            snprintf(out + strlen(out), sizeof out - strlen(out), "%s\n", kept);
    }
    assert_int_equal(changed, 1);
    snprintf(out + strlen(out), sizeof out - strlen(out), "xxh3 = %016" PRIx64 "\n",
             (uint64_t)XXH3_64bits(out, strlen(out)));
    write_bytes(path, out, strlen(out));
    free(text);
}

static fixture_job_t resume_job(const char *resume)
{
    return (fixture_job_t){.ranks = 4,
                           .folder = "saved",
                           .resume = resume,
                           .set = {"train.steps=10", "checkpoint.every=4"}};
}

static void a_checkpoint_of_another_model_is_refused(void **state)
{
    (void)state;
    make_checkpoints();
    fixture_job_t job = resume_job("auto");
    job.set[2] = "model.layers=3";
    fixture_free(expect_error(job, MPT_ERR_CHECKPOINT, "is of another model"));
    job.set[2] = "model.vocab=200";
    fixture_free(expect_error(job, MPT_ERR_CHECKPOINT, "is of another model"));
}

static void a_checkpoint_of_a_model_that_cannot_be_is_damaged(void **state)
{
    (void)state;
    make_checkpoints();
    change_meta("saved/step-00000008/meta", "heads", "heads = 0");
    fixture_run_t *run = expect_error(resume_job("auto"), MPT_OK, "saved/step-00000008/meta: a size is not positive");
    assert_non_null(strstr(run->log, "trying the checkpoint before it"));
    fixture_free(run);
}

static int warns_of_data(fixture_job_t job, const char *words)
{
    fixture_run_t *run = fixture_expect(job, MPT_OK);
    int warned = strstr(run->log, "in data.train") != NULL;
    assert_int_equal(strstr(run->log, words) != NULL, warned);
    fixture_free(run);
    return warned;
}

/* Older checkpoints do not say what they were trained on. */
static void a_resume_with_other_data_is_said(void **state)
{
    (void)state;
    fixture_tokens("longer.bin", 50000, 11);
    fixture_job_t job = resume_job("saved/step-00000008");
    const char *words = "in data.train, which has 1562 of 50000 now";
    make_checkpoints();
    assert_false(warns_of_data(job, words));
    make_checkpoints();
    job.set[2] = "data.train=longer.bin";
    assert_true(warns_of_data(job, words));
    make_checkpoints();
    change_meta("saved/step-00000008/meta", "samples", NULL);
    change_meta("saved/step-00000008/meta", "data_tokens", NULL);
    assert_false(warns_of_data(job, words));
    fixture_tokens("other.bin", 40000, 12);
    job.set[2] = "data.train=other.bin";
    make_checkpoints();
    assert_true(warns_of_data(job, "saved/step-00000008 was saved with as many tokens in data.train, but others, or cut into other files"));
    make_checkpoints();
    change_meta("saved/step-00000008/meta", "data_hash", NULL);
    assert_false(warns_of_data(job, words));
    make_checkpoints();
    job.set[2] = "data.sequence=16"; /* other samples of the same tokens: said of the sequence */
    assert_false(warns_of_data(job, words));
}

static void a_damaged_checkpoint_is_passed_over_and_said_so(void **state)
{
    (void)state;
    make_checkpoints();
    flip_byte("saved/step-00000008/rank-00001.bin", 5000);
    fixture_run_t *run = expect_error(resume_job("auto"), MPT_OK, "saved/step-00000008/rank-00001.bin");
    assert_non_null(strstr(run->log, "trying the checkpoint before it"));
    assert_int_equal(run->step[0].step, 5);
    assert_int_equal(run->steps, 6);
    fixture_free(run);
    /* The run has saved step 8 anew, and it is whole. */
    assert_int_equal(mpt_checkpoint_fsck("saved/step-00000008", NULL, NULL), MPT_OK);
}

static void where_every_checkpoint_is_damaged_the_run_does_not_start(void **state)
{
    (void)state;
    make_checkpoints();
    flip_byte("saved/step-00000004/meta", 40);
    flip_byte("saved/step-00000008/meta", 40);
    fixture_run_t *run = fixture_expect(resume_job("auto"), MPT_ERR_CHECKPOINT);
    assert_int_equal(run->errors, 2);
    assert_non_null(strstr(run->log, "saved/step-00000004/meta"));
    assert_int_equal(mpt_status_exit_code(MPT_ERR_CHECKPOINT), 3);
    fixture_free(run);
}

/* Files whose checksums fit and whose values no run can have: from another program, or by hand. */
static void progress_that_cannot_be_is_refused(void **state)
{
    static const struct {
        const char *key, *line;
    } faults[] = {{"step", "step = 9223372036854775807"},
                  {"applied", "applied = 9223372036854775807"},
                  {"position", "position = 9223372036854775807"},
                  {"tokens", "tokens = -1"},
                  {"rounded", "rounded = 7x"},
                  {"scale", "scale = nan"},
                  {"scale", "scale = 0x1.8p+0"},
                  {"scale", "scale = 0x1p+100"},
                  {"scale_dynamic", "scale_dynamic = 7"},
                  {"position", NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        make_checkpoints();
        change_meta("saved/step-00000008/meta", faults[i].key, faults[i].line);
        fixture_run_t *run = expect_error(resume_job("saved/step-00000008"), MPT_ERR_CHECKPOINT,
                                          faults[i].line != NULL ? faults[i].line : "lacks \"position\"");
        assert_non_null(strstr(run->log, "saved/step-00000008/meta: "));
        fixture_free(run);
    }
    assert_int_equal(mpt_status_exit_code(MPT_ERR_CHECKPOINT), 3);
}

static void a_named_checkpoint_that_is_not_there_is_refused(void **state)
{
    (void)state;
    make_checkpoints();
    fixture_free(expect_error(resume_job("saved/step-00000005"), MPT_ERR_CHECKPOINT, "step-00000005"));
    fixture_run_t *run = fixture_expect(resume_job("saved/step-00000004"), MPT_OK);
    assert_int_equal(run->step[0].step, 5);
    fixture_free(run);
}

/* Files can be made in the folder, but what it holds cannot be seen. */
static void auto_does_not_start_afresh_where_the_folder_cannot_be_listed(void **state)
{
    static const char *const resumes[] = {"auto", NULL, "blind"};
    int is_root = geteuid() == 0;
    (void)state;
    fixture_remove("blind");
    assert_int_equal(mkdir("blind", 0777), 0);
    assert_int_equal(chmod("blind", 0333), 0);
    assert_int_equal(chmod(".", 0777), 0);
    if (is_root) /* who may list it all the same */
        assert_int_equal(seteuid(65534), 0);
    fixture_run_t *runs[3];
    for (int i = 0; i < 3; i++)
        runs[i] = fixture_run((fixture_job_t){
            .ranks = 2, .folder = "blind", .resume = resumes[i], .set = {"checkpoint.every=4"}});
    if (is_root)
        assert_int_equal(seteuid(0), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(runs[i]->trained[0], MPT_ERR_IO);
        assert_int_equal(runs[i]->trained[1], MPT_ERR_IO);
        assert_int_equal(runs[i]->errors, 1);
        assert_non_null(strstr(runs[i]->log, "cannot list the checkpoints in blind: Permission denied"));
        fixture_free(runs[i]);
    }
    assert_false(fixture_exists("blind/metrics.jsonl"));
    assert_int_equal(chmod("blind", 0777), 0);
}

/* Retention would thin out checkpoints that are another run's. */
static void resuming_elsewhere_over_checkpoints_is_refused(void **state)
{
    static const char *const elsewhere[] = {"saved", "saved/step-00000004", "saved/../saved/step-00000004/"};
    static const char *const inside[] = {"own", "own/step-00000008", "./own//step-00000008/", "link/step-00000008",
                                         "own/step-00000008/."};
    int64_t steps[8];
    (void)state;
    make_checkpoints();
    fixture_remove("own");
    fixture_remove("link");
    fixture_job_t job = resume_job("saved/step-00000004");
    job.folder = "own";
    fixture_free(fixture_expect(job, MPT_OK)); /* where there are none yet */
    for (int i = 0; i < 3; i++) {
        job.resume = elsewhere[i];
        fixture_free(expect_error(job, MPT_ERR_CONFIG, "rank 0: checkpoint.dir own holds checkpoints, and saved"));
    }
    assert_int_equal(mpt_checkpoint_list("own", steps, 8), 2);
    assert_int_equal(symlink("own", "link"), 0);
    for (int i = 0; i < 5; i++) {
        job.resume = inside[i];
        fixture_free(fixture_expect(job, MPT_OK));
    }
}

static void a_missing_file_of_one_rank_is_found(void **state)
{
    (void)state;
    make_checkpoints();
    assert_int_equal(unlink("saved/step-00000008/rank-00001.bin"), 0);
    fixture_run_t *run = expect_error(resume_job("auto"), MPT_OK, "rank-00001.bin: No such file");
    assert_int_equal(run->step[0].step, 5);
    fixture_free(run);
}

/* A session of one rank on "shared", in this thread. */
static mpt_session_t *open_on_shared(const char *every)
{
    const char *const set[] = {"checkpoint.dir=shared", "log.dir=elsewhere", every};
    mpt_session_t *session;
    assert_int_equal(mpt_session_open(&(mpt_session_params_t){.config = {.text = fixture_config,
                                                                         .path = "test.cfg",
                                                                         .overrides = set,
                                                                         .override_count = 3}},
                                      &session),
                     MPT_OK);
    return session;
}

static fixture_job_t shared_job(const char *resume, const char *every)
{
    return (fixture_job_t){.ranks = 2, .folder = "shared", .resume = resume, .set = {every, "train.steps=8"}};
}

/* A save that the first run has begun stands for all that must not be touched. */
static void two_runs_do_not_share_a_folder(void **state)
{
    (void)state;
    fixture_remove("shared");
    mpt_session_t *first = open_on_shared("checkpoint.every=4");
    assert_int_equal(mkdir("shared/step-00000007.partial", 0777), 0);
    const fixture_job_t jobs[] = {shared_job(NULL, "checkpoint.every=4"), shared_job("auto", "checkpoint.every=4"),
                                  shared_job("shared", "checkpoint.every=0")};
    for (int i = 0; i < 3; i++) {
        fixture_run_t *run = expect_error(jobs[i], MPT_ERR_CONFIG, "rank 0: shared is in use by another run (process ");
        assert_false(fixture_exists("shared/metrics.jsonl"));
        fixture_free(run);
    }
    assert_true(fixture_exists("shared/step-00000007.partial"));
    mpt_session_close(first);
    fixture_free(fixture_expect(jobs[0], MPT_OK));
    fixture_free(fixture_expect(jobs[1], MPT_OK));
    assert_false(fixture_exists("shared/step-00000007.partial"));
}

static mpt_status_t save_now(mpt_session_t *session, int rank, void *ctx)
{
    (void)rank;
    (void)ctx;
    return mpt_session_save(session);
}

/* Without checkpoint.every it leaves the folder alone, until it is asked to save. */
static void a_run_that_saves_nothing_does_not_need_the_folder(void **state)
{
    (void)state;
    fixture_remove("shared");
    mpt_session_t *first = open_on_shared("checkpoint.every=4");
    assert_int_equal(mkdir("shared/step-00000000.partial", 0777), 0);
    fixture_job_t job = shared_job(NULL, "checkpoint.every=0");
    fixture_free(fixture_expect(job, MPT_OK));
    job.body = save_now;
    fixture_free(expect_error(job, MPT_ERR_IO, "rank 0: shared is in use by another run (process "));
    assert_true(fixture_exists("shared/step-00000000.partial"));
    assert_false(fixture_exists("shared/step-00000000.partial/rank-00001.bin"));
    mpt_session_close(first);
    fixture_free(fixture_expect(job, MPT_OK));
    assert_int_equal(mpt_checkpoint_fsck("shared/step-00000000", NULL, NULL), MPT_OK);
}

static void what_another_run_saved_meanwhile_is_not_thinned_out(void **state)
{
    int64_t steps[4];
    (void)state;
    fixture_remove("shared");
    mpt_session_t *first = open_on_shared("checkpoint.every=0");
    fixture_free(fixture_expect(shared_job(NULL, "checkpoint.every=4"), MPT_OK));
    assert_int_equal(mpt_session_save(first), MPT_ERR_IO);
    mpt_session_close(first);
    assert_int_equal(mpt_checkpoint_list("shared", steps, 4), 2);
}

/* ---- output --------------------------------------------------------------------------------------------------- */

static void unwritable_folders_are_refused(void **state)
{
    (void)state;
    write_bytes("plain", "x", 1);
    expect_refusal("log.dir=plain/log", MPT_ERR_IO, "plain/log");
    expect_refusal("checkpoint.dir=plain/checkpoints", MPT_ERR_IO, "plain/checkpoints");
    expect_refusal("log.dir=plain", MPT_ERR_IO, "log.dir");
}

/* A folder that goes away under the run: each save fails, the run goes on; without its last save it may not look done. */
static void a_save_that_fails_does_not_stop_the_run(void **state)
{
    (void)state;
    make_checkpoints();
    write_bytes("saved/step-00000010.partial", "x", 1); /* in the way of the next folder */
    fixture_job_t job = resume_job("auto");
    job.set[0] = "train.steps=15";
    job.set[1] = "checkpoint.every=5";
    fixture_run_t *run = fixture_expect(job, MPT_OK);
    assert_int_equal(run->failures, 1);
    assert_int_equal(run->checkpoints, 1);
    assert_int_equal(run->steps, 7);
    assert_int_equal(mpt_checkpoint_fsck("saved/step-00000008", NULL, NULL), MPT_OK);
    char *metrics = fixture_read("saved/metrics.jsonl");
    assert_non_null(strstr(metrics, "\"event\":\"checkpoint_failed\",\"saved_step\":10"));
    assert_non_null(strstr(metrics, "\"event\":\"checkpoint\",\"saved_step\":15"));
    free(metrics);
    fixture_free(run);
}

static void a_last_save_that_fails_is_an_error(void **state)
{
    (void)state;
    make_checkpoints();
    write_bytes("saved/step-00000010.partial", "x", 1);
    fixture_run_t *run = expect_error(resume_job("auto"), MPT_ERR_IO, "step 10 is not saved");
    assert_int_equal(run->failures, 1);
    assert_int_equal(mpt_checkpoint_fsck("saved", NULL, NULL), MPT_OK);
    fixture_free(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_in_the_config_are_one_line_from_one_rank),
        cmocka_unit_test(cuts_that_the_ranks_do_not_serve_are_refused),
        cmocka_unit_test(messages_name_file_and_line_of_the_config),
        cmocka_unit_test(an_unknown_instruction_level_or_backend_is_refused),
        cmocka_unit_test(a_fault_that_cannot_be_is_refused),
        cmocka_unit_test(a_run_that_does_not_fit_its_memory_does_not_start),
        cmocka_unit_test(unusable_token_files_are_refused),
        cmocka_unit_test(a_missing_validation_file_is_refused_where_it_would_be_read),
        cmocka_unit_test(a_token_beyond_the_vocabulary_stops_all_ranks_together),
        cmocka_unit_test(a_bad_token_in_the_validation_file_stops_all_ranks_too),
        cmocka_unit_test(what_is_due_to_be_saved_where_data_turn_out_bad_is_saved),
        cmocka_unit_test(a_checkpoint_of_another_model_is_refused),
        cmocka_unit_test(a_checkpoint_of_a_model_that_cannot_be_is_damaged),
        cmocka_unit_test(a_resume_with_other_data_is_said),
        cmocka_unit_test(a_damaged_checkpoint_is_passed_over_and_said_so),
        cmocka_unit_test(where_every_checkpoint_is_damaged_the_run_does_not_start),
        cmocka_unit_test(progress_that_cannot_be_is_refused),
        cmocka_unit_test(a_named_checkpoint_that_is_not_there_is_refused),
        cmocka_unit_test(auto_does_not_start_afresh_where_the_folder_cannot_be_listed),
        cmocka_unit_test(resuming_elsewhere_over_checkpoints_is_refused),
        cmocka_unit_test(a_missing_file_of_one_rank_is_found),
        cmocka_unit_test(two_runs_do_not_share_a_folder),
        cmocka_unit_test(a_run_that_saves_nothing_does_not_need_the_folder),
        cmocka_unit_test(what_another_run_saved_meanwhile_is_not_thinned_out),
        cmocka_unit_test(unwritable_folders_are_refused),
        cmocka_unit_test(a_save_that_fails_does_not_stop_the_run),
        cmocka_unit_test(a_last_save_that_fails_is_an_error),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
