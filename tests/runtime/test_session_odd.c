/*
 * Sizes and numbers that divide nothing: three groups, seven ranks, tensors of odd sizes and units smaller than the ranks'
 * alignment, other numbers of lanes. Every mode gives the same bits there too, and text sampled between steps is the same on every rank and
 * leaves no trace.
 */
#include "shard_fixture.h"

/* The modes up to `last` on so many ranks end alike. */
static void compare(int ranks, int last, const char *const *set)
{
    fixture_run_t *first = NULL;
    for (int mode = 0; mode <= last; mode++) {
        fixture_remove("run");
        fixture_run_t *run = fixture_expect(shard_job(ranks, mode, "run", set), MPT_OK);
        for (int r = 1; r < ranks; r++)
            assert_true(fixture_same_state(run, 0, run, r));
        if (first == NULL) {
            first = run;
            continue;
        }
        shard_expect_same(first, run, shard_modes[mode].name);
        assert_true(memcmp(&first->val_loss, &run->val_loss, sizeof run->val_loss) == 0);
        fixture_free(run);
    }
    fixture_free(first);
}

static void six_ranks_are_three_groups(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "train.steps=5",        "train.global_batch=24", "train.ema=0.9",
                                      "train.check_every=1",    "train.val_every=2",    NULL};
    (void)state;
    compare(6, SHARD_HSDP2, set);
}

static void seven_ranks_share_a_model_of_odd_sizes(void **state)
{
    static const char *const set[] = {"precision.compute=fp16", "train.steps=5",     "train.global_batch=14",
                                      "train.micro_batch=1",    "model.dim=6",       "model.heads=3",
                                      "model.vocab=131",        "model.context=7",   "data.train=odd.bin",
                                      "train.check_every=1",    "train.ema=0.9",     NULL};
    static const char *const micro[] = {"precision.compute=bf16", "train.steps=3",     "train.global_batch=14",
                                        "train.micro_batch=1",    "model.dim=6",       "model.heads=3",
                                        "model.vocab=131",        "model.context=7",   "data.train=odd.bin",
                                        "model.layers=1",         "parallel.reduce_every=micro", NULL};
    uint16_t tokens[5000];
    (void)state;
    for (int i = 0; i < 5000; i++)
        tokens[i] = (uint16_t)(i * 7 % 131);
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){"odd.bin", tokens, 5000}, 1, 1, NULL), MPT_OK);
    compare(7, SHARD_HSDP1, set);
    compare(7, SHARD_HSDP1, micro);
}

static void one_two_and_many_lanes_do_as_well_as_eight(void **state)
{
    static const struct {
        const char *set;
        int ranks;
    } lanes[] = {{"train.lanes=1", 1}, {"train.lanes=2", 2}, {"train.lanes=32", 8}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        const char *const set[] = {"precision.compute=fp16", "train.steps=4", "train.global_batch=32", "train.micro_batch=1",
                                   "train.reproducible=world", "train.clip=0.1", "precision.init_scale=64", lanes[i].set, NULL};
        fixture_remove("run");
        fixture_run_t *one = fixture_expect(shard_job(1, SHARD_DDP, "run", set), MPT_OK);
        for (int ranks = 1; ranks <= lanes[i].ranks; ranks *= 2)
            for (int mode = SHARD_ZERO2; mode <= SHARD_HSDP1; mode++) {
                fixture_remove("run");
                fixture_run_t *run = fixture_expect(shard_job(ranks, mode, "run", set), MPT_OK);
                shard_expect_same(one, run, lanes[i].set);
                fixture_free(run);
            }
        fixture_free(one);
    }
}

/* ---- text between steps ---------------------------------------------------------------------------------- */

typedef struct texts {
    char text[FIXTURE_RANKS][256];
    int sampling;
} texts_t;

static void append(void *ctx, const char *text, size_t bytes)
{
    size_t used = strlen(ctx);
    if (used + bytes < 256)
        memcpy((char *)ctx + used, text, bytes);
}

static mpt_status_t step_and_sample(mpt_session_t *s, int rank, void *ctx)
{
    texts_t *t = ctx;
    const mpt_sample_params_t sample = {
        .tokens = 20, .temperature = 0.8, .seed = 3, .prompt = "In the", .emit = append, .ctx = t->text[rank]};
    mpt_status_t status = MPT_OK;
    for (int step = 0; step < 3 && status == MPT_OK; step++) {
        mpt_step_result_t result;
        status = mpt_session_step(s, &result);
        if (status == MPT_OK && t->sampling)
            status = mpt_session_sample(s, &sample);
    }
    return status;
}

static fixture_run_t *run_texts(int mode, texts_t *texts)
{
    static const char *const set[] = {"precision.compute=bf16", "train.recompute=block", NULL};
    fixture_job_t job = shard_job(4, mode, "run", set);
    job.body = step_and_sample;
    job.ctx = texts;
    fixture_remove("run");
    return fixture_expect(job, MPT_OK);
}

static void text_is_the_same_in_every_mode_and_leaves_no_trace(void **state)
{
    texts_t first = {.sampling = 1};
    (void)state;
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        texts_t texts = {.sampling = 1}, silent = {.sampling = 0};
        fixture_run_t *with = run_texts(mode, &texts), *without = run_texts(mode, &silent);
        for (int r = 1; r < 4; r++)
            assert_string_equal(texts.text[0], texts.text[r]);
        if (mode == 0)
            first = texts;
        assert_true(strlen(texts.text[0]) >= 40);
        assert_string_equal(first.text[0], texts.text[0]);
        assert_true(fixture_same_state(with, 0, without, 0));
        fixture_free(with);
        fixture_free(without);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_ranks_are_three_groups),
        cmocka_unit_test(seven_ranks_share_a_model_of_odd_sizes),
        cmocka_unit_test(one_two_and_many_lanes_do_as_well_as_eight),
        cmocka_unit_test(text_is_the_same_in_every_mode_and_leaves_no_trace),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
