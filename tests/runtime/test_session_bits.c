/*
 * The same bits whatever the number of threads, from run to run and on every instruction level; the same losses
 * whatever the number of ranks.
 */
#include "session_fixture.h"

/* Races do not depend on the instruction level, and ThreadSanitizer takes its time. */
#ifdef __SANITIZE_THREAD__
#define LOWEST_LEVEL mpt_isa_detect()
#else
#define LOWEST_LEVEL MPT_ISA_PORTABLE
#endif

static int same_bits(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void expect_same(const fixture_run_t *a, const fixture_run_t *b, const char *what)
{
    int same = a->steps == b->steps && same_bits(a->val_loss, b->val_loss) && fixture_same_state(a, 0, b, 0);
    for (int64_t i = 0; i < a->steps && same; i++)
        same = same_bits(a->step[i].loss, b->step[i].loss) &&
               same_bits(a->step[i].grad_norm, b->step[i].grad_norm);
    if (!same)
        fail_msg("%s: the bits differ; first losses %.17g and %.17g", what, a->step[0].loss, b->step[0].loss);
}

static fixture_run_t *run_threads(const char *compute, int threads)
{
    char set[32];
    snprintf(set, sizeof set, "precision.compute=%s", compute);
    fixture_remove("run");
    return fixture_expect((fixture_job_t){.ranks = 1,
                                          .threads = threads,
                                          .set = {set, "train.steps=12", "train.val_every=12"}},
                          MPT_OK);
}

/* 1, 2 and 4 threads, and 1 again. */
static void check_compute(const char *compute)
{
    fixture_run_t *first = run_threads(compute, 1);
    assert_true(isfinite(first->val_loss) && first->val_loss > 0.0);
    static const int threads[] = {2, 4, 1};
    for (int i = 0; i < 3; i++) {
        char what[64];
        fixture_run_t *other = run_threads(compute, threads[i]);
        snprintf(what, sizeof what, "%s on %s, %d threads", compute, first->isa, threads[i]);
        expect_same(first, other, what);
        fixture_free(other);
    }
    fixture_free(first);
}

static void same_bits_from_any_threads_and_run_to_run_on_every_level(void **state)
{
    static const char *const computes[] = {"fp32", "bf16", "fp16", "tf32"};
    (void)state;
    for (int isa = (int)LOWEST_LEVEL; isa <= (int)mpt_isa_detect(); isa++) {
        setenv("MPT_ISA", mpt_isa_name((mpt_isa_t)isa), 1);
        for (int c = 0; c < 4; c++)
            check_compute(computes[c]);
    }
    unsetenv("MPT_ISA");
}

static void a_cap_on_the_level_is_obeyed(void **state)
{
    (void)state;
    setenv("MPT_ISA", "portable", 1);
    fixture_run_t *run = run_threads("bf16", 1);
    assert_string_equal(run->isa, "portable");
    fixture_free(run);
    unsetenv("MPT_ISA");
}

/* Every rank holds the same weights, and ranks x threads change nothing but the rounding of the sum. */
static fixture_run_t *run_ranks(int ranks, const char *compute, const char *scale)
{
    char set[2][40];
    snprintf(set[0], sizeof set[0], "precision.compute=%s", compute);
    snprintf(set[1], sizeof set[1], "precision.loss_scale=%s", scale);
    fixture_remove("run");
    fixture_run_t *run =
        fixture_expect((fixture_job_t){.ranks = ranks, .set = {set[0], set[1], "train.val_every=20"}}, MPT_OK);
    assert_int_equal(run->steps, 20);
    for (int r = 1; r < ranks; r++)
        assert_true(fixture_same_state(run, 0, run, r));
    return run;
}

static double relative(double a, double b)
{
    return fabs(a - b) / fabs(b);
}

static double largest_difference(const fixture_run_t *a, const fixture_run_t *b)
{
    double worst = relative(a->val_loss, b->val_loss);
    for (int64_t i = 0; i < a->steps; i++)
        worst = fmax(worst, relative(a->step[i].loss, b->step[i].loss));
    return worst;
}

static void any_number_of_ranks_gives_the_same_losses(void **state)
{
    static const struct {
        const char *compute, *scale;
        double bound;
    } rows[] = {{"fp32", "auto", 1e-5}, {"bf16", "auto", 1e-2}, {"fp16", "1024", 2e-3}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        fixture_run_t *one = run_ranks(1, rows[i].compute, rows[i].scale);
        assert_true(one->step[19].loss < one->step[0].loss - 0.5); /* it learns */
        for (int ranks = 2; ranks <= 4; ranks *= 2) {
            fixture_run_t *many = run_ranks(ranks, rows[i].compute, rows[i].scale);
            double worst = largest_difference(many, one);
            print_message("%s: %d ranks: losses within %.1e of one rank's\n", rows[i].compute, ranks, worst);
            assert_true(worst <= rows[i].bound);
            fixture_free(many);
        }
        fixture_free(one);
    }
}

static void ranks_and_threads_together_give_the_same_bits(void **state)
{
    (void)state;
    fixture_run_t *runs[3];
    for (int i = 0; i < 3; i++) {
        fixture_remove("run");
        runs[i] = fixture_expect((fixture_job_t){.ranks = 2,
                                                 .threads = i == 1 ? 2 : 1,
                                                 .set = {"precision.compute=bf16", "train.steps=10"}},
                                 MPT_OK);
    }
    expect_same(runs[0], runs[1], "2 ranks, 2 threads");
    expect_same(runs[0], runs[2], "2 ranks, again");
    for (int i = 0; i < 3; i++)
        fixture_free(runs[i]);
}

/* What changes weights, each followed by steps that must see the change: updates, weights put back in their place after an
 * average (with masters and without), a gather after the update, a flipped bit right after a validation has packed them. What an
 * average's validation reads is in test_session_ema. */
static void packed_weights_follow_every_change(void **state)
{
    static const struct {
        int ranks;
        const char *set[4];
    } rows[] = {{1, {"precision.compute=bf16", "train.ema=0.5"}},
                {1, {"precision.compute=fp32", "train.ema=0.5", "precision.master=none"}},
                {2, {"precision.compute=fp16", "parallel.shard=zero1", "train.ema=0.9"}},
                {2, {"precision.compute=bf16", "parallel.shard=zero2"}}};
    (void)state;
    setenv("MPT_INJECT", "flip:rank=0,step=3,tensor=h.0.mlp.c_fc.weight,element=5,kind=working,bit=12", 1);
    for (int i = 0; i < (int)(sizeof rows / sizeof *rows); i++) {
        fixture_run_t *runs[2];
        for (int off = 0; off < 2; off++) {
            fixture_job_t job = {.ranks = rows[i].ranks,
                                 .set = {"train.steps=9", "train.val_every=2",
                                         off ? "train.pack_weights=off" : "train.pack_weights=auto"}};
            for (int j = 0; rows[i].set[j] != NULL; j++)
                job.set[3 + j] = rows[i].set[j];
            fixture_remove("run");
            runs[off] = fixture_expect(job, MPT_OK);
        }
        expect_same(runs[0], runs[1], "packed weights against none");
        fixture_free(runs[0]);
        fixture_free(runs[1]);
    }
    unsetenv("MPT_INJECT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_weights_follow_every_change),
        cmocka_unit_test(same_bits_from_any_threads_and_run_to_run_on_every_level),
        cmocka_unit_test(a_cap_on_the_level_is_obeyed),
        cmocka_unit_test(any_number_of_ranks_gives_the_same_losses),
        cmocka_unit_test(ranks_and_threads_together_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
