/*
 * What a session says of itself, how much it takes and how often it talks; several of them in one process, one after
 * the other and at the same time.
 */
#include "session_fixture.h"

/* wte, wpe, two blocks of 12 C^2 + 13 C, the last norm; C = 32. */
#define PARAMETERS (256 * 32 + 32 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32)

/* ---- memory ---------------------------------------------------------------------------------------- */

static mpt_status_t nothing(mpt_session_t *session, int rank, void *ctx)
{
    (void)session;
    (void)rank;
    (void)ctx;
    return MPT_OK;
}

static int64_t check_bytes(int ranks, int threads, const char *const *set)
{
    fixture_job_t job = {.ranks = ranks, .threads = threads, .body = nothing};
    const char *overrides[FIXTURE_SETS];
    char threads_set[32];
    int count = 0;
    mpt_plan_t plan;
    for (; set[count] != NULL; count++)
        job.set[count] = overrides[count] = set[count];
    snprintf(threads_set, sizeof threads_set, "threads=%d", threads);
    overrides[count++] = threads_set;
    fixture_remove("run");
    fixture_run_t *run = fixture_expect(job, MPT_OK);
    assert_int_equal(mpt_plan(&(mpt_config_source_t){.text = fixture_config,
                                                     .overrides = overrides,
                                                     .override_count = count},
                              ranks, &plan, NULL, NULL),
                     MPT_OK);
    for (int r = 0; r < ranks; r++) {
        assert_int_equal(run->held_bytes[r], plan.bytes);
        assert_int_equal(run->planned_bytes[r], plan.bytes);
    }
    int64_t sum = 0;
    for (int row = 0; row < plan.memory_rows; row++)
        sum += plan.memory[row].bytes;
    assert_int_equal(sum, plan.bytes);
    fixture_free(run);
    return plan.bytes;
}

static void a_session_holds_exactly_what_plan_says(void **state)
{
    static const char *const computes[] = {"precision.compute=fp32", "precision.compute=bf16",
                                           "precision.compute=fp16"};
    static const char *const shard_ranks[] = {"parallel.shard_ranks=1", "parallel.shard_ranks=2", "parallel.shard_ranks=4"};
    (void)state;
    for (int c = 0; c < 3; c++) {
        for (int ranks = 1; ranks <= 4; ranks *= 2)
            check_bytes(ranks, ranks, (const char *const[]){computes[c], NULL});
        int64_t bare = check_bytes(2, 1, (const char *const[]){computes[c], NULL});
        int64_t validating = check_bytes(2, 1, (const char *const[]){computes[c], "train.val_every=1", NULL});
        int64_t saving = check_bytes(2, 3, (const char *const[]){computes[c], "checkpoint.every=5", NULL});
        assert_true(validating > bare && saving > bare);
    }
    check_bytes(3, 1, (const char *const[]){"model.vocab=300", "model.dim=36", "model.heads=3", "model.layers=3",
                                            "data.sequence=19", "train.global_batch=9", "train.micro_batch=3",
                                            "precision.reduce=fp16", NULL});
    for (int k = 0; k < 3; k++) /* three communicators */
        check_bytes(4, 1, (const char *const[]){"parallel.shard=hsdp", shard_ranks[k], NULL});
}

static int64_t bytes_of(const mpt_plan_t *plan, const char *use)
{
    for (int row = 0; row < plan->memory_rows; row++)
        if (strcmp(plan->memory[row].use, use) == 0)
            return plan->memory[row].bytes;
    fail_msg("plan has no row %s", use);
    return 0;
}

static void sixteen_bit_activations_take_half_of_fp32s_bytes(void **state)
{
    static const char *const sets[3][1] = {{"precision.compute=fp32"}, {"precision.compute=bf16"},
                                           {"precision.compute=fp16"}};
    mpt_plan_t plan[3];
    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(mpt_plan(&(mpt_config_source_t){.text = fixture_config,
                                                         .overrides = sets[i],
                                                         .override_count = 1},
                                  1, &plan[i], NULL, NULL),
                         MPT_OK);
    for (int i = 1; i < 3; i++) {
        assert_int_equal(2 * bytes_of(&plan[i], "weights"), bytes_of(&plan[0], "weights"));
        /* Row statistics and losses stay FP32 in all: a few per cent of such narrow rows. */
        double ratio = (double)bytes_of(&plan[i], "activations") / (double)bytes_of(&plan[0], "activations");
        assert_true(ratio >= 0.5 && ratio <= 0.53);
    }
}

/* ---- talk ------------------------------------------------------------------------------------------- */

typedef struct talk {
    uint64_t calls[FIXTURE_RANKS][4]; /* after each step */
    int units;
} talk_t;

static mpt_status_t count_calls(mpt_session_t *session, int rank, void *ctx)
{
    talk_t *talk = ctx;
    if (rank == 0)
        talk->units = session->memory.layout.unit_count;
    for (int step = 0; step < 4; step++) {
        mpt_step_result_t result;
        mpt_status_t status = mpt_session_step(session, &result);
        if (status != MPT_OK)
            return status;
        talk->calls[rank][step] = session->comm->stats.calls;
    }
    return MPT_OK;
}

/* Two collectives a unit and one record, however many micro-steps. */
static void a_step_makes_two_collectives_a_unit_and_one(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 4; ranks *= 2) {
        talk_t talk = {.units = 0};
        fixture_remove("run");
        fixture_free(fixture_expect((fixture_job_t){.ranks = ranks, .body = count_calls, .ctx = &talk}, MPT_OK));
        assert_int_equal(talk.units, 4); /* embedding, two blocks, head */
        for (int r = 0; r < ranks; r++)
            for (int step = 1; step < 4; step++)
                assert_int_equal(talk.calls[r][step] - talk.calls[r][step - 1], 2 * talk.units + 1);
    }
}

/* ---- sessions in one process ---------------------------------------------------------------------------- */

static void sessions_open_close_and_open_again(void **state)
{
    (void)state;
    fixture_run_t *first = NULL;
    for (int i = 0; i < 3; i++) {
        fixture_remove("run");
        fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 4, .set = {"train.steps=4"}}, MPT_OK);
        if (first != NULL)
            assert_true(fixture_same_state(first, 0, run, 0));
        fixture_free(first == NULL ? NULL : run);
        first = first == NULL ? run : first;
    }
    fixture_free(first);
}

static void *run_two_ranks(void *folder)
{
    return fixture_run((fixture_job_t){.ranks = 2, .folder = folder, .set = {"train.steps=6"}});
}

/* No process globals: two runs of two ranks at the same time do not disturb each other. */
static void two_runs_at_once_do_not_disturb_each_other(void **state)
{
    pthread_t threads[2];
    void *runs[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        char *folder = i == 0 ? "left" : "right";
        fixture_remove(folder);
        assert_int_equal(pthread_create(&threads[i], NULL, run_two_ranks, folder), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], &runs[i]);
    fixture_run_t *left = runs[0], *right = runs[1];
    assert_int_equal(left->trained[0], MPT_OK);
    assert_int_equal(right->trained[1], MPT_OK);
    assert_true(fixture_same_state(left, 0, right, 0));
    fixture_free(left);
    fixture_free(right);
}

/* ---- what it says of itself ------------------------------------------------------------------------------- */

static mpt_status_t check_info(mpt_session_t *session, int rank, void *ctx)
{
    mpt_session_info_t info;
    mpt_session_info(session, &info);
    int *sound = ctx;
    sound[rank] = info.rank == rank && info.ranks == 2 && info.threads == 1 && info.steps == 20 &&
                  info.first_step == 1 && info.tokens_per_step == 16 * 32 && info.parameters == PARAMETERS &&
                  strcmp(info.compute, "bf16") == 0 && strcmp(info.reduce, "fp32") == 0 &&
                  strcmp(info.comm, "shm") == 0 && strcmp(info.device, "cpu") == 0 && info.peak_flops > 0.0 &&
                  info.flops_6nd_per_token == 6.0 * PARAMETERS &&
                  info.flops_model_per_token == 6.0 * PARAMETERS + 12.0 * 2 * 32 * 32 &&
                  (rank == 0) == (strcmp(info.metrics_path, "run/metrics.jsonl") == 0);
    return MPT_OK;
}

static void info_is_what_was_asked_for(void **state)
{
    int sound[2] = {0};
    (void)state;
    fixture_remove("run");
    fixture_free(fixture_expect((fixture_job_t){.ranks = 2,
                                                .body = check_info,
                                                .ctx = sound,
                                                .set = {"precision.compute=bf16", "precision.reduce=fp32"}},
                                MPT_OK));
    assert_true(sound[0] && sound[1]);
}

static mpt_status_t check_profile(mpt_session_t *session, int rank, void *ctx)
{
    mpt_profile_row_t rows[16];
    mpt_step_result_t result;
    int *found = ctx;
    (void)rank;
    mpt_session_profile(session, rows, 16, 1);
    mpt_status_t status = mpt_session_step(session, &result);
    int count = mpt_session_profile(session, rows, 16, 1);
    for (int i = 0; i < count; i++)
        *found += strcmp(rows[i].op, "linear") == 0 && rows[i].calls > 0 && rows[i].flops > 0.0;
    *found += count > 4 && mpt_session_profile(session, rows, 16, 0) == 0;
    return status;
}

static void the_profile_counts_and_starts_again(void **state)
{
    int found = 0;
    (void)state;
    fixture_remove("run");
    fixture_free(fixture_expect((fixture_job_t){.ranks = 1, .body = check_profile, .ctx = &found}, MPT_OK));
    assert_int_equal(found, 2);
}

static mpt_status_t ask_for_tensors(mpt_session_t *session, int rank, void *ctx)
{
    float *values = ctx;
    (void)rank;
    values[31] = -7.0f;
    int sound = mpt_session_tensor(session, "ln_f.weight", "master", values, 31) == 32 && values[0] == 1.0f &&
                values[30] == 1.0f && values[31] == -7.0f &&
                mpt_session_tensor(session, "ln_f.weight", "none", values, 32) == -1 &&
                mpt_session_tensor(session, "ln_g.weight", "master", values, 32) == -1;
    return sound ? MPT_OK : MPT_ERR_INVALID_ARG;
}

static void tensors_are_copied_no_further_than_asked(void **state)
{
    float values[32];
    (void)state;
    fixture_remove("run");
    fixture_free(fixture_expect((fixture_job_t){.ranks = 1, .body = ask_for_tensors, .ctx = values}, MPT_OK));
}

/* ---- saving on request ------------------------------------------------------------------------------------- */

static mpt_status_t step_and_save(mpt_session_t *session, int rank, void *ctx)
{
    mpt_step_result_t result;
    (void)rank;
    (void)ctx;
    mpt_status_t status = mpt_session_step(session, &result);
    return status == MPT_OK ? mpt_session_save(session) : status;
}

static void a_session_saves_when_asked(void **state)
{
    mpt_checkpoint_info_t info;
    (void)state;
    fixture_remove("run");
    fixture_free(fixture_expect((fixture_job_t){.ranks = 2, .body = step_and_save}, MPT_OK));
    assert_int_equal(mpt_checkpoint_info("run", &info, NULL, NULL), MPT_OK);
    assert_int_equal(info.step, 1);
    assert_int_equal(info.saved_ranks, 2);
    assert_int_equal(info.parameters, PARAMETERS);
    assert_int_equal(mpt_checkpoint_fsck("run", NULL, NULL), MPT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_holds_exactly_what_plan_says),
        cmocka_unit_test(sixteen_bit_activations_take_half_of_fp32s_bytes),
        cmocka_unit_test(a_step_makes_two_collectives_a_unit_and_one),
        cmocka_unit_test(sessions_open_close_and_open_again),
        cmocka_unit_test(two_runs_at_once_do_not_disturb_each_other),
        cmocka_unit_test(info_is_what_was_asked_for),
        cmocka_unit_test(the_profile_counts_and_starts_again),
        cmocka_unit_test(tensors_are_copied_no_further_than_asked),
        cmocka_unit_test(a_session_saves_when_asked),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
