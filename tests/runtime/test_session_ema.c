/*
 * The average of the weights: it is the recursion that its definition says, a skipped step leaves it alone, validation
 * with it is validation of the weights that a checkpoint's average makes, and leaves no trace in the weights.
 */
#include "shard_fixture.h"

#define DECAY 0.875 /* 1 - DECAY is exact */
#define OVERFLOW "overflow:rank=1,step=3,micro=0,tensor=h.0.attn.c_attn.weight,element=9"

/* ---- the recursion ------------------------------------------------------------------------------------ */

/* One rank's look at masters (or working weights) and average after each step, and what the average should be. */
typedef struct watch {
    const char *weights; /* the kind that the average follows */
    int64_t count;
    float *ema32; /* by the formula in FP32 */
    double *ema64;
    float *seen, *before;
    float worst;   /* |average - ema64| */
    float bound;   /* of it, where weights are seen rounded */
    int64_t wrong; /* elements that are not ema32's to the bit, all steps together */
    int64_t moved; /* elements that a skipped step changed */
    int skips;
} watch_t;

/* All tensors of a kind, end to end. Collective. */
static void look(mpt_session_t *s, const char *kind, float *out)
{
    const mpt_layout_t *layout = &s->memory.layout;
    int64_t at = 0;
    for (int t = 0; t < layout->tensor_count; t++)
        at += mpt_session_tensor(s, layout->tensors[t].name, kind, out + at, layout->parameters - at);
    assert(at == layout->parameters);
}

static void allocate(watch_t *w, int64_t count)
{
    w->count = count;
    w->ema32 = calloc((size_t)count, sizeof *w->ema32);
    w->ema64 = calloc((size_t)count, sizeof *w->ema64);
    w->seen = calloc((size_t)count, sizeof *w->seen);
    w->before = calloc((size_t)count, sizeof *w->before);
}

static void release(watch_t *w)
{
    free(w->ema32);
    free(w->ema64);
    free(w->seen);
    free(w->before);
}

/* The average starts where the weights do. */
static void start(watch_t *w, mpt_session_t *s)
{
    allocate(w, s->memory.layout.parameters);
    look(s, w->weights, w->ema32);
    look(s, "ema", w->before);
    for (int64_t i = 0; i < w->count; i++) {
        w->ema64[i] = w->ema32[i];
        w->wrong += w->before[i] != w->ema32[i];
    }
}

/* Rounding to BF16 moves a weight by at most 2^-7 of its size (stochastically, by a unit), of which 1 - DECAY reaches the average,
 * and DECAY of what was off before. */
static void follow(watch_t *w, mpt_session_t *s)
{
    float largest = 0.0f;
    look(s, w->weights, w->seen);
    for (int64_t i = 0; i < w->count; i++) {
        w->ema32[i] = fmaf(1.0f - (float)DECAY, w->seen[i] - w->ema32[i], w->ema32[i]);
        w->ema64[i] += (1.0 - DECAY) * ((double)w->seen[i] - w->ema64[i]);
        largest = fabsf(w->seen[i]) > largest ? fabsf(w->seen[i]) : largest;
    }
    w->bound = (float)DECAY * w->bound + (1.0f - (float)DECAY) * 0x1p-7f * largest;
}

static void compare(watch_t *w, mpt_session_t *s)
{
    look(s, "ema", w->seen);
    for (int64_t i = 0; i < w->count; i++) {
        float off = fabsf(w->seen[i] - (float)w->ema64[i]);
        w->worst = !(off <= w->worst) ? off : w->worst;
        w->wrong += memcmp(&w->seen[i], &w->ema32[i], sizeof(float)) != 0;
    }
}

static mpt_status_t watch_steps(mpt_session_t *s, int rank, void *ctx)
{
    watch_t *all = ctx, *w = &all[rank];
    start(w, s);
    for (int step = 0; step < 6; step++) {
        mpt_step_result_t result;
        look(s, "ema", w->before);
        mpt_status_t status = mpt_session_step(s, &result);
        if (status != MPT_OK)
            return status;
        w->skips += result.skipped;
        if (!result.skipped)
            follow(w, s);
        compare(w, s);
        for (int64_t i = 0; i < w->count && result.skipped; i++)
            w->moved += memcmp(&w->seen[i], &w->before[i], sizeof(float)) != 0;
    }
    return MPT_OK;
}

static void watch_mode(int mode, const char *weights, const char *const *set, watch_t *watches)
{
    const char *const more[] = {"train.ema=0.875", "precision.init_scale=1024", NULL};
    fixture_job_t job = shard_job(4, mode, "run", set);
    shard_add(&job, more);
    job.body = watch_steps;
    job.ctx = watches;
    for (int r = 0; r < 4; r++)
        watches[r] = (watch_t){.weights = weights};
    fixture_remove("run");
    fixture_free(fixture_expect(job, MPT_OK));
}

static void the_average_is_the_recursion_over_masters_to_the_bit_and_skips_leave_it(void **state)
{
    static const char *const sets[][4] = {
        {"precision.compute=fp32", NULL},
        {"precision.compute=bf16", "precision.rounding=stochastic", NULL},
        {"precision.compute=fp16", "parallel.reduce_every=micro", NULL},
        {"precision.compute=bf16", "train.reproducible=world", "train.global_batch=16", NULL}};
    (void)state;
    setenv("MPT_INJECT", OVERFLOW, 1);
    for (size_t c = 0; c < sizeof sets / sizeof *sets; c++)
        for (int mode = 0; mode < SHARD_MODES; mode++) {
            watch_t w[4];
            watch_mode(mode, "master", sets[c], w);
            for (int r = 0; r < 4; r++) {
                if (w[r].wrong != 0 || w[r].moved != 0 || w[r].skips != 1 || !(w[r].worst <= 1e-6f))
                    fail_msg("%s, %s, rank %d: %d values wrong, %d moved in %d skips, off by %g", sets[c][0],
                             shard_modes[mode].name, r, (int)w[r].wrong, (int)w[r].moved, w[r].skips,
                             (double)w[r].worst);
                release(&w[r]);
            }
        }
    unsetenv("MPT_INJECT");
}

/* There the average takes the weights before they are rounded, which nobody sees: it is near that of the rounded ones. */
static void without_masters_the_average_follows_the_weights_as_they_are_before_rounding(void **state)
{
    static const char *const set[] = {"precision.compute=bf16", "precision.rounding=stochastic",
                                      "precision.master=none", NULL};
    (void)state;
    setenv("MPT_INJECT", OVERFLOW, 1);
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        watch_t w[4];
        watch_mode(mode, "working", set, w);
        for (int r = 0; r < 4; r++) {
            if (w[r].moved != 0 || w[r].skips != 1 || !(w[r].worst <= w[r].bound) || w[r].wrong == 0)
                fail_msg("%s, rank %d: %d moved in %d skips, off by %g, at most %g", shard_modes[mode].name, r,
                         (int)w[r].moved, w[r].skips, (double)w[r].worst, (double)w[r].bound);
            release(&w[r]);
        }
    }
    unsetenv("MPT_INJECT");
}

/* ---- validation ------------------------------------------------------------------------------------------ */

/* The last val_loss_ema in a folder's metrics. */
static double metrics_ema_loss(const char *folder)
{
    char path[FIXTURE_PATH];
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    char *text = fixture_read(path), *last = NULL;
    for (char *at = text; (at = strstr(at, "\"val_loss_ema\":")) != NULL; at++)
        last = at;
    assert_non_null(last);
    double loss = strtod(last + strlen("\"val_loss_ema\":"), NULL);
    free(text);
    return loss;
}

static mpt_status_t validate(mpt_session_t *s, int rank, void *ctx)
{
    double loss;
    mpt_status_t status = mpt_session_validate(s, &loss);
    if (rank == 0)
        *(double *)ctx = loss;
    return status;
}

/* The validation loss of a model file on another number of ranks in another mode. */
static double loss_of_file(const char *compute)
{
    double loss = NAN;
    const char *const set[] = {compute, "train.val_every=5", "model.init=average.bin", NULL};
    fixture_job_t job = shard_job(2, SHARD_ZERO3, "other", set);
    job.body = validate;
    job.ctx = &loss;
    fixture_remove("other");
    fixture_free(fixture_expect(job, MPT_OK));
    return loss;
}

static void export_average(void)
{
    remove("average.bin");
    assert_int_equal(mpt_checkpoint_export(&(mpt_checkpoint_export_params_t){.checkpoint = "run",
                                                                             .out = "average.bin",
                                                                             .weights = "ema"},
                                           NULL),
                     MPT_OK);
}

static void the_average_s_validation_loss_is_that_of_the_weights_a_checkpoint_s_average_makes(void **state)
{
    static const char *const more[] = {"train.ema=0.9", "train.val_every=5", "train.steps=10",
                                       "checkpoint.every=10", NULL};
    static const char *const sets[][4] = {{"precision.compute=fp32"},
                                          {"precision.compute=bf16"},
                                          {"precision.compute=bf16", "precision.rounding=stochastic",
                                           "precision.master=none"}};
    (void)state;
    for (int c = 0; c < 3; c++)
        for (int mode = c; mode < SHARD_MODES; mode += 2) {
            fixture_job_t job = shard_job(4, mode, "run", more);
            shard_add(&job, sets[c]);
            fixture_remove("run");
            fixture_run_t *run = fixture_expect(job, MPT_OK);
            assert_int_equal(run->validations, 2);
            export_average();
            double average = metrics_ema_loss("run"), loss = loss_of_file(sets[c][0]);
            if (average != loss || average == run->val_loss)
                fail_msg("%s, %s: %.17g in the metrics, %.17g of the file, %.17g of the weights", sets[c][0],
                         shard_modes[mode].name, average, loss, run->val_loss);
            fixture_free(run);
        }
}

/* ---- what validation leaves ------------------------------------------------------------------------------ */

typedef struct trace {
    int64_t differing[FIXTURE_RANKS]; /* floats of the state that validation changed */
} trace_t;

static mpt_status_t validate_between_steps(mpt_session_t *s, int rank, void *ctx)
{
    trace_t *trace = ctx;
    mpt_status_t status = MPT_OK;
    for (int step = 0; step < 4 && status == MPT_OK; step++) {
        mpt_step_result_t result;
        double loss;
        int64_t count;
        float *before = fixture_state(s, &count), *after;
        status = mpt_session_validate(s, &loss);
        if (status == MPT_OK)
            status = mpt_validate_ema(s, &loss);
        after = fixture_state(s, &count);
        for (int64_t i = 0; i < count; i++)
            trace->differing[rank] += memcmp(&before[i], &after[i], sizeof *before) != 0;
        free(before);
        free(after);
        if (status == MPT_OK)
            status = mpt_session_step(s, &result);
    }
    return status;
}

static mpt_status_t only_steps(mpt_session_t *s, int rank, void *ctx)
{
    mpt_status_t status = MPT_OK;
    (void)rank;
    (void)ctx;
    for (int step = 0; step < 4 && status == MPT_OK; step++) {
        mpt_step_result_t result;
        status = mpt_session_step(s, &result);
    }
    return status;
}

static void validation_with_the_average_leaves_every_bit_as_it_was(void **state)
{
    static const char *const more[] = {"train.ema=0.9", "train.val_every=5", "train.val_batches=1", NULL};
    static const char *const sets[][5] = {
        {"precision.compute=bf16"},
        {"precision.compute=bf16", "precision.rounding=stochastic"},
        {"precision.compute=bf16", "precision.rounding=stochastic", "precision.master=none"},
        {"precision.compute=fp16", "precision.rounding=stochastic", "precision.master=none",
         "parallel.reduce_every=micro"},
        {"precision.compute=bf16", "precision.rounding=stochastic", "precision.master=none",
         "train.global_batch=8"},
        {"precision.compute=fp32", "precision.master=none"},
        {"precision.compute=fp32", "precision.reduce=bf16"}};
    (void)state;
    for (size_t c = 0; c < sizeof sets / sizeof *sets; c++) {
        fixture_job_t plain = shard_job(4, SHARD_DDP, "run", more);
        shard_add(&plain, sets[c]);
        plain.body = only_steps;
        fixture_remove("run");
        fixture_run_t *without = fixture_expect(plain, MPT_OK);
        for (int mode = 0; mode < SHARD_HSDP4; mode++) {
            trace_t trace = {{0}};
            fixture_job_t job = shard_job(4, mode, "run", more);
            shard_add(&job, sets[c]);
            job.body = validate_between_steps;
            job.ctx = &trace;
            fixture_remove("run");
            fixture_run_t *with = fixture_expect(job, MPT_OK);
            for (int r = 0; r < 4; r++)
                if (trace.differing[r] != 0 || !fixture_same_state(with, r, without, 0))
                    fail_msg("set %d, %s, rank %d: %d floats changed, or later steps did", (int)c,
                             shard_modes[mode].name, r, (int)trace.differing[r]);
            fixture_free(with);
        }
        fixture_free(without);
    }
}

/* Saved in the middle of a run and gone on with, the average goes on too; where a checkpoint has none, it starts there. */
static void a_checkpoint_without_an_average_starts_one_and_says_so(void **state)
{
    static const char *const without[] = {"train.steps=6", "checkpoint.every=3", "precision.compute=bf16", NULL};
    static const char *const with[] = {"train.steps=6", "train.ema=0.9", "precision.compute=bf16", NULL};
    (void)state;
    fixture_remove("run");
    fixture_free(fixture_expect(shard_job(4, SHARD_ZERO2, "run", without), MPT_OK));
    for (int mode = 0; mode < SHARD_MODES; mode++) {
        fixture_job_t job = shard_job(4, mode, "other", with);
        fixture_remove("other");
        job.resume = "run/step-00000003";
        fixture_run_t *run = fixture_expect(job, MPT_OK);
        assert_int_equal(fixture_count(run->log, "holds no average of the weights"), 1);
        assert_int_equal(run->steps, 3);
        fixture_free(run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_average_is_the_recursion_over_masters_to_the_bit_and_skips_leave_it),
        cmocka_unit_test(without_masters_the_average_follows_the_weights_as_they_are_before_rounding),
        cmocka_unit_test(the_average_s_validation_loss_is_that_of_the_weights_a_checkpoint_s_average_makes),
        cmocka_unit_test(validation_with_the_average_leaves_every_bit_as_it_was),
        cmocka_unit_test(a_checkpoint_without_an_average_starts_one_and_says_so),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
