#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "crew.h"
#include "numeric.h"

#define STEPS 4

/* A short training of random gradients, the same on every run but for what the test varies. */
typedef struct training {
    mpt_layout_t layout;
    double scale;
    int64_t micro_steps;
    double clip;
    double norms[STEPS], clips[STEPS]; /* rank 0's */
    float *master[CREW_MAX_RANKS], *m[CREW_MAX_RANKS], *v[CREW_MAX_RANKS];
    void *working[CREW_MAX_RANKS];
} training_t;

static const mpt_optimizer_params_t params = {
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1};
static const double learning_rate = 1e-2;

static training_t *open_training(int ranks, double scale, double clip)
{
    training_t *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->layout = crew_layout(ranks);
    t->scale = scale;
    t->micro_steps = 2;
    t->clip = clip;
    for (int r = 0; r < ranks; r++) {
        t->master[r] = calloc((size_t)t->layout.total, sizeof(float));
        t->m[r] = calloc((size_t)t->layout.total, sizeof(float));
        t->v[r] = calloc((size_t)t->layout.total, sizeof(float));
        t->working[r] = calloc((size_t)t->layout.total, sizeof(float));
    }
    return t;
}

static void close_training(training_t *t)
{
    for (int r = 0; r < CREW_MAX_RANKS; r++) {
        free(t->master[r]);
        free(t->m[r]);
        free(t->v[r]);
        free(t->working[r]);
    }
    mpt_layout_release(&t->layout);
    free(t);
}

/* A rank's accumulated gradient of one step, before the scale. */
static void gradient_of(const mpt_layout_t *layout, int rank, int step, float factor, float *out)
{
    crew_fill(layout, out, 1000 + (uint64_t)(16 * step + rank), 2, factor);
}

static int train_body(crew_rank_t *rank)
{
    training_t *t = rank->ctx;
    size_t total = (size_t)rank->layout->total;
    mpt_unscale_t unscale = {.divisor = rank->reducer.divisor,
                             .scale = t->scale,
                             .micro_steps = t->micro_steps,
                             .ranks = rank->ranks};
    crew_fill(rank->layout, rank->state.master, 3, 2, 1.0f);
    if (mpt_state_refresh(&rank->state, &rank->kernels, rank->stream) != MPT_OK)
        return 1;
    for (int step = 0; step < STEPS; step++) {
        mpt_verdict_t verdict;
        memset(rank->state.accumulator, 0, total * sizeof(float));
        gradient_of(rank->layout, rank->rank, step, (float)t->scale, rank->state.accumulator);
        if (crew_reduce(rank) != MPT_OK || crew_agree(rank, 0, &verdict) != MPT_OK ||
            verdict.overflow)
            return 2;
        double norm = mpt_optimizer_norm(verdict.sumsq, &unscale),
               clip = mpt_optimizer_clip(norm, t->clip);
        if (rank->rank == 0) {
            t->norms[step] = norm;
            t->clips[step] = clip;
        }
        if (mpt_optimizer_apply(&rank->state, &rank->kernels, &params, &unscale, clip,
                                learning_rate, step + 1, rank->stream) != MPT_OK)
            return 3;
    }
    memcpy(t->master[rank->rank], rank->state.master, total * sizeof(float));
    memcpy(t->m[rank->rank], rank->state.m, total * sizeof(float));
    memcpy(t->v[rank->rank], rank->state.v, total * sizeof(float));
    memcpy(t->working[rank->rank], rank->state.working,
           total * mpt_dtype_bytes(rank->state.compute));
    return 0;
}

static void train(training_t *t, mpt_dtype_t compute, mpt_dtype_t wire)
{
    crew_t crew = {.ranks = t->layout.ranks,
                   .layout = &t->layout,
                   .compute = compute,
                   .wire = wire,
                   .micro_steps = t->micro_steps,
                   .body = train_body,
                   .ctx = t};
    assert_int_equal(crew_run(&crew), 0);
}

static void assert_same_bits(const training_t *a, const training_t *b)
{
    size_t bytes = (size_t)a->layout.total * sizeof(float);
    assert_memory_equal(a->master[0], b->master[0], bytes);
    assert_memory_equal(a->m[0], b->m[0], bytes);
    assert_memory_equal(a->v[0], b->v[0], bytes);
    assert_memory_equal(a->norms, b->norms, sizeof a->norms);
    assert_memory_equal(a->clips, b->clips, sizeof a->clips);
}

/* A power of two only moves exponents: no bit of the training may depend on it. */
static void a_loss_scale_leaves_no_trace_in_the_masters(void **state)
{
    (void)state;
    static const double clips[] = {0, 0.5, 1e9};
    for (int ranks = 1; ranks <= 4; ranks++)
        for (int c = 0; c < 3; c++) {
            training_t *plain = open_training(ranks, 1, clips[c]),
                       *scaled = open_training(ranks, 65536, clips[c]);
            train(plain, MPT_BF16, MPT_F32);
            train(scaled, MPT_BF16, MPT_F32);
            assert_same_bits(plain, scaled);
            assert_int_equal(plain->clips[0] < 1, clips[c] == 0.5);
            close_training(plain);
            close_training(scaled);
        }
}

/* Nor with BF16, whose exponents reach as far; with FP16 between scales that neither under- nor overflow. */
static void a_loss_scale_leaves_no_trace_through_a_short_wire_either(void **state)
{
    (void)state;
    static const struct {
        mpt_dtype_t wire;
        double a, b;
    } cases[] = {{MPT_BF16, 1, 65536}, {MPT_F16, 32, 2048}};
    for (int i = 0; i < 2; i++) {
        training_t *a = open_training(3, cases[i].a, 0.5), *b = open_training(3, cases[i].b, 0.5);
        train(a, MPT_F16, cases[i].wire);
        train(b, MPT_F16, cases[i].wire);
        assert_same_bits(a, b);
        close_training(a);
        close_training(b);
    }
}

static void all_ranks_end_with_the_same_bits(void **state)
{
    (void)state;
    static const mpt_dtype_t wires[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (int w = 0; w < 3; w++) {
        training_t *t = open_training(5, 16, 1);
        size_t bytes = (size_t)t->layout.total * sizeof(float);
        train(t, MPT_F32, wires[w]);
        for (int r = 1; r < 5; r++) {
            assert_memory_equal(t->master[r], t->master[0], bytes);
            assert_memory_equal(t->m[r], t->m[0], bytes);
            assert_memory_equal(t->v[r], t->v[0], bytes);
            assert_memory_equal(t->working[r], t->working[0], bytes);
        }
        close_training(t);
    }
}

/* ---- against AdamW in double ------------------------------------------------------------------------------ */

typedef struct reference {
    double w, m, v;
} reference_t;

static double mean_gradient(const training_t *t, float *const *gradients, int64_t at)
{
    double sum = 0;
    for (int r = 0; r < t->layout.ranks; r++)
        sum += gradients[r][at];
    return sum / (double)(t->micro_steps * t->layout.ranks);
}

static void adamw(reference_t *w, double g, int t, int decay)
{
    w->m = params.beta1 * w->m + (1 - params.beta1) * g;
    w->v = params.beta2 * w->v + (1 - params.beta2) * g * g;
    double m = w->m / (1 - pow(params.beta1, t)), v = w->v / (1 - pow(params.beta2, t));
    w->w -= learning_rate * (m / (sqrt(v) + params.eps) + (decay ? params.decay * w->w : 0));
}

/* All of the training once more in double, from the unscaled gradients. */
static void train_reference(const training_t *t, reference_t *weights)
{
    const mpt_layout_t *layout = &t->layout;
    float *start = calloc((size_t)layout->total, sizeof *start), *gradients[CREW_MAX_RANKS];
    crew_fill(layout, start, 3, 2, 1.0f);
    for (int64_t i = 0; i < layout->total; i++)
        weights[i] = (reference_t){.w = start[i]};
    for (int r = 0; r < layout->ranks; r++)
        gradients[r] = calloc((size_t)layout->total, sizeof(float));
    for (int step = 0; step < STEPS; step++) {
        double sumsq = 0;
        for (int r = 0; r < layout->ranks; r++)
            gradient_of(layout, r, step, 1.0f, gradients[r]);
        for (int64_t i = 0; i < layout->total; i++)
            sumsq += pow(mean_gradient(t, gradients, i), 2);
        double clip = t->clip > 0 ? fmin(1, t->clip / (sqrt(sumsq) + 1e-6)) : 1;
        assert_true(fabs(t->norms[step] - sqrt(sumsq)) <= 1e-6 * sqrt(sumsq));
        assert_true(fabs(t->clips[step] - clip) <= 1e-6);
        for (int n = 0; n < layout->tensor_count; n++)
            for (int64_t i = 0; i < mpt_tensor_count(&layout->tensors[n]); i++) {
                int64_t at = mpt_layout_at(layout, n) + i;
                adamw(&weights[at], clip * mean_gradient(t, gradients, at), step + 1,
                      layout->tensors[n].decay);
            }
    }
    for (int r = 0; r < layout->ranks; r++)
        free(gradients[r]);
    free(start);
}

static void the_update_is_adamw_of_the_clipped_mean_gradient(void **state)
{
    (void)state;
    static const double clips[] = {0, 0.25};
    for (int ranks = 1; ranks <= 3; ranks++)
        for (int c = 0; c < 2; c++) {
            training_t *t = open_training(ranks, 1024, clips[c]);
            reference_t *weights = calloc((size_t)t->layout.total, sizeof *weights);
            train(t, MPT_F32, MPT_F32);
            train_reference(t, weights);
            for (int64_t i = 0; i < t->layout.total; i++) {
                if (!(fabs(t->master[0][i] - weights[i].w) <= 1e-5 * fmax(1, fabs(weights[i].w))))
                    fail_msg("%d ranks, clip %g, element %lld: %.9g, AdamW gives %.9g", ranks,
                             clips[c], (long long)i, (double)t->master[0][i], weights[i].w);
                assert_true(fabs(t->m[0][i] - weights[i].m) <= 1e-5);
                assert_true(fabs(t->v[0][i] - weights[i].v) <= 1e-5);
            }
            free(weights);
            close_training(t);
        }
}

static void working_weights_are_the_rounded_masters_and_padding_stays_zero(void **state)
{
    (void)state;
    static const mpt_dtype_t types[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (int c = 0; c < 3; c++) {
        training_t *t = open_training(2, 1, 1);
        unsigned char *used = calloc((size_t)t->layout.total, 1);
        train(t, types[c], types[c]);
        for (int n = 0; n < t->layout.tensor_count; n++)
            memset(used + mpt_layout_at(&t->layout, n), 1,
                   (size_t)mpt_tensor_count(&t->layout.tensors[n]));
        for (int64_t i = 0; i < t->layout.total; i++) {
            float rounded;
            mpt_store(&rounded, MPT_F32, 0, t->master[0][i]);
            if (types[c] != MPT_F32) {
                uint16_t half =
                    types[c] == MPT_BF16 ? mpt_f32_to_bf16(rounded) : mpt_f32_to_f16(rounded);
                rounded = types[c] == MPT_BF16 ? mpt_bf16_to_f32(half) : mpt_f16_to_f32(half);
            }
            assert_true(mpt_load(t->working[0], types[c], i) == (double)rounded);
            if (!used[i]) {
                assert_int_equal(mpt_f32_bits(t->master[0][i]) & 0x7fffffffu, 0);
                assert_int_equal(mpt_f32_bits(t->v[0][i]), 0);
            }
        }
        free(used);
        close_training(t);
    }
}

/* ---- the formulas ------------------------------------------------------------------------------------------- */

static void the_norm_takes_off_scale_micro_steps_and_ranks_and_gives_the_divisor_back(void **state)
{
    (void)state;
    mpt_unscale_t unscale = {.divisor = 8, .scale = 1024, .micro_steps = 4, .ranks = 2};
    assert_true(mpt_optimizer_norm(1024.0 * 1024.0, &unscale) == 1.0);
    assert_true(mpt_optimizer_norm(0.0, &unscale) == 0.0);
    assert_true(isinf(mpt_optimizer_norm(INFINITY, &unscale)));
}

static void the_clip_is_torchs_formula(void **state)
{
    (void)state;
    assert_true(mpt_optimizer_clip(123.0, 0) == 1.0);
    assert_true(mpt_optimizer_clip(0.5, 1.0) == 1.0);
    assert_true(mpt_optimizer_clip(0.0, 1.0) == 1.0);
    assert_true(mpt_optimizer_clip(4.0, 1.0) == 1.0 / (4.0 + 1e-6));
    assert_true(mpt_optimizer_clip(1.0, 1.0) == 1.0 / (1.0 + 1e-6)); /* below 1 by the 1e-6 */
    assert_true(mpt_optimizer_clip(1e-3, 1e-4) == 1e-4 / (1e-3 + 1e-6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loss_scale_leaves_no_trace_in_the_masters),
        cmocka_unit_test(a_loss_scale_leaves_no_trace_through_a_short_wire_either),
        cmocka_unit_test(all_ranks_end_with_the_same_bits),
        cmocka_unit_test(the_update_is_adamw_of_the_clipped_mean_gradient),
        cmocka_unit_test(working_weights_are_the_rounded_masters_and_padding_stays_zero),
        cmocka_unit_test(the_norm_takes_off_scale_micro_steps_and_ranks_and_gives_the_divisor_back),
        cmocka_unit_test(the_clip_is_torchs_formula),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
