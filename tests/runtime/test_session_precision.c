/*
 * Mixed precision against FP32: 16-bit runs learn as well; FP16 without a loss scale loses gradients to underflow, with one
 * it does not. docs/mixed-precision.md tells the story, with figures of larger runs.
 */
#include "session_fixture.h"

/* ---- runs that track each other -------------------------------------------------------------------------- */

static double final_loss(const char *compute, int *skips_p)
{
    char set[40];
    snprintf(set, sizeof set, "precision.compute=%s", compute);
    fixture_remove("run");
    fixture_run_t *run =
        fixture_expect((fixture_job_t){.ranks = 2,
                                       .set = {set, "train.steps=300", "train.global_batch=8",
                                               "train.val_every=300", "train.val_batches=16", "train.warmup=20",
                                               "precision.growth_interval=40"}},
                       MPT_OK);
    assert_int_equal(run->steps, 300);
    assert_int_equal(run->validations, 1);
    double loss = run->val_loss;
    *skips_p = run->skips;
    fixture_free(run);
    return loss;
}

static void narrower_runs_track_the_fp32_run(void **state)
{
    int skips;
    double fp32 = final_loss("fp32", &skips);
    (void)state;
    assert_int_equal(skips, 0);
    assert_true(fp32 < 3.0); /* from 5.5: it has learnt something to lose */
    static const char *const computes[] = {"bf16", "fp16", "tf32"};
    for (int i = 0; i < 3; i++) {
        double loss = final_loss(computes[i], &skips);
        print_message("validation loss after 300 steps: fp32 %.4f, %s %.4f (%+.2f %%), %d skips\n", fp32,
                      computes[i], loss, 100.0 * (loss / fp32 - 1.0), skips);
        assert_true(fabs(loss / fp32 - 1.0) <= 0.01);
    }
}

/* ---- gradients that underflow ----------------------------------------------------------------------------- */

/* GPT-2's vocabulary over a model that is small otherwise: a token that is not the target has a probability of about
 * 1/50257, which the seed 1/1024 takes below FP16's smallest number, 2^-24. */
static const char *const vocabulary_set[] = {"model.vocab=50257", "model.context=256",     "train.global_batch=4",
                                             "train.micro_batch=4", "data.train=words.bin", "data.order=sequential",
                                             "train.lr=0",        "train.min_lr=0",        NULL};
#define WORDS 50257

typedef struct gradient {
    float *mean;   /* unscaled, every tensor */
    int64_t count, wte_count;
    double scale;
} gradient_t;

/* One step that is not skipped; the file holds one batch, so that each step sees the same one. */
static mpt_status_t take_gradient(mpt_session_t *session, int rank, void *ctx)
{
    gradient_t *g = ctx;
    const mpt_layout_t *layout = &session->memory.layout;
    mpt_step_result_t result = {.skipped = 1};
    (void)rank;
    for (int tries = 0; tries < 20 && result.skipped; tries++) {
        mpt_status_t status = mpt_session_step(session, &result);
        if (status != MPT_OK)
            return status;
    }
    g->mean = malloc((size_t)layout->parameters * sizeof *g->mean);
    g->scale = result.loss_scale;
    for (int t = 0; t < layout->tensor_count; t++)
        g->count += mpt_session_tensor(session, layout->tensors[t].name, "grad", g->mean + g->count,
                                       layout->parameters - g->count);
    for (int64_t i = 0; i < g->count; i++)
        g->mean[i] = (float)((double)g->mean[i] / g->scale);
    g->wte_count = mpt_tensor_count(&layout->tensors[0]);
    return MPT_OK;
}

static gradient_t gradient_of(const char *compute, const char *scale)
{
    gradient_t g = {.count = 0};
    fixture_job_t job = {.ranks = 1, .threads = 2, .body = take_gradient, .ctx = &g};
    char set[2][40];
    int n = 0;
    for (; vocabulary_set[n] != NULL; n++)
        job.set[n] = vocabulary_set[n];
    snprintf(set[0], sizeof set[0], "precision.compute=%s", compute);
    snprintf(set[1], sizeof set[1], "precision.loss_scale=%s", scale);
    job.set[n++] = set[0];
    job.set[n] = set[1];
    fixture_remove("run");
    fixture_free(fixture_expect(job, MPT_OK));
    return g;
}

/* Share of the elements below `count` that FP32 has and `g` has lost to zero. */
static double lost(const gradient_t *g, const gradient_t *fp32, int64_t count)
{
    int64_t there = 0, zeros = 0;
    for (int64_t i = 0; i < count; i++) {
        there += fp32->mean[i] != 0.0f;
        zeros += fp32->mean[i] != 0.0f && g->mean[i] == 0.0f;
    }
    assert_true(there > count * 9 / 10);
    return (double)zeros / (double)there;
}

/* |g - fp32| / |fp32| over the embedding. */
static double error(const gradient_t *g, const gradient_t *fp32)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < fp32->wte_count; i++) {
        difference += pow((double)g->mean[i] - (double)fp32->mean[i], 2.0);
        norm += pow((double)fp32->mean[i], 2.0);
    }
    return sqrt(difference / norm);
}

static void report(const char *name, const gradient_t *g, const gradient_t *fp32)
{
    print_message("%-22s lost %6.3f %% of wte's gradients, %6.3f %% of all; wte's error %.1e\n", name,
                  100.0 * lost(g, fp32, fp32->wte_count), 100.0 * lost(g, fp32, fp32->count), error(g, fp32));
}

static void write_words(void)
{
    uint16_t tokens[1025];
    uint64_t seed = 99;
    for (int i = 0; i < 1025; i++) { /* frequent words are frequent, as in a text */
        double u = (double)(fixture_random(&seed) >> 11) * 0x1p-53;
        tokens[i] = (uint16_t)(pow((double)WORDS, u) - 1.0);
    }
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){"words.bin", tokens, 1025}, 1, 1, NULL), MPT_OK);
}

static void fp16_loses_gradients_without_a_scale_and_none_with_one(void **state)
{
    (void)state;
    write_words();
    gradient_t fp32 = gradient_of("fp32", "auto"), bf16 = gradient_of("bf16", "auto");
    gradient_t bare = gradient_of("fp16", "1"), scaled = gradient_of("fp16", "dynamic");
    report("bf16, S = 1:", &bf16, &fp32);
    report("fp16, S = 1:", &bare, &fp32);
    report("fp16, dynamic S:", &scaled, &fp32);
    assert_true(scaled.scale >= 4096.0);
    assert_true(lost(&bare, &fp32, fp32.wte_count) >= 0.9);
    assert_true(lost(&scaled, &fp32, fp32.wte_count) <= 1e-4);
    assert_true(lost(&scaled, &fp32, fp32.count) <= 1e-4);
    assert_true(lost(&bf16, &fp32, fp32.count) <= 1e-4);
    assert_true(error(&bare, &fp32) >= 5.0 * error(&scaled, &fp32));
    free(fp32.mean);
    free(bf16.mean);
    free(bare.mean);
    free(scaled.mean);
}

/* The wire's own divisor D makes room for the sum over micro-steps and ranks; the scale has to make up for it. */
static void more_micro_steps_do_not_cost_scaled_gradients_their_bits(void **state)
{
    gradient_t g[2] = {{.count = 0}, {.count = 0}};
    (void)state;
    for (int i = 0; i < 2; i++) {
        fixture_job_t job = {.ranks = 1,
                             .body = take_gradient,
                             .ctx = &g[i],
                             .set = {"train.global_batch=64", "train.lr=0", "train.min_lr=0",
                                     i == 0 ? "precision.compute=fp32" : "precision.compute=fp16"}};
        fixture_remove("run");
        fixture_free(fixture_expect(job, MPT_OK));
    }
    /* 32 micro-steps: the FP32 gradient is a sum over them, FP16's has been divided by D = 32 for the wire. */
    for (int64_t i = 0; i < g[0].count; i++)
        g[0].mean[i] /= 32.0f;
    assert_true(lost(&g[1], &g[0], g[0].count) <= 1e-3);
    assert_true(error(&g[1], &g[0]) <= 1e-2);
    free(g[0].mean);
    free(g[1].mean);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(narrower_runs_track_the_fp32_run),
        cmocka_unit_test(fp16_loses_gradients_without_a_scale_and_none_with_one),
        cmocka_unit_test(more_micro_steps_do_not_cost_scaled_gradients_their_bits),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
