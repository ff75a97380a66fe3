#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "fixture.h"

#define STEPS 3

/* A short training on given reduced gradients, no ranks running: each rank's update is its own. */
typedef struct training {
    fixture_t fixture; /* layout, shard, types, master, EMA */
    mpt_optimizer_params_t params;
    mpt_unscale_t unscale;
    double clip_factor;
    float grad_factor; /* of the gradients that are made up */
    int64_t first_step;
    mpt_layout_t layout;
    /* by global element, from whoever owns it */
    uint32_t *master, *m, *v, *ema, *working;
} training_t;

static const mpt_optimizer_params_t usual_params = {
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .ema = 0.75, .seed = 77};
static const double learning_rate = 1e-2;

static uint32_t *new_elements(const mpt_layout_t *layout)
{
    uint32_t *elements = calloc((size_t)layout->parameters, sizeof *elements);
    assert_non_null(elements);
    return elements;
}

static training_t open_training(int ranks, int group, mpt_shard_t shard, mpt_dtype_t compute,
                                mpt_dtype_t wire)
{
    training_t t = {.fixture = {.shard = shard, .compute = compute, .wire = wire, .with_ema = 1},
                    .params = usual_params,
                    .unscale = {.divisor = 2, .scale = 16, .micro_steps = 4, .ranks = 2},
                    .clip_factor = 0.5,
                    .grad_factor = 1.0f,
                    .layout = fixture_layout(ranks, group, 0)};
    t.master = new_elements(&t.layout);
    t.m = new_elements(&t.layout);
    t.v = new_elements(&t.layout);
    t.ema = new_elements(&t.layout);
    t.working = new_elements(&t.layout);
    return t;
}

static void close_training(training_t *t)
{
    free(t->master);
    free(t->m);
    free(t->v);
    free(t->ema);
    free(t->working);
    mpt_layout_release(&t->layout);
}

static mpt_stochastic_t rounding_of(const training_t *t, int64_t step)
{
    return (mpt_stochastic_t){.seed = t->params.seed, .step = (uint64_t)step};
}

/* Weights as a run begins with them; without masters the working weights are all there is. */
static void begin(const training_t *t, fixture_rank_t *rank)
{
    float *weights = fixture_flat(&t->layout, 3, 2, 1.0f);
    mpt_state_t *state = &rank->state;
    mpt_stochastic_t rounding = rounding_of(t, 0);
    if (state->master.data != NULL) {
        fixture_fill(rank, &state->master, weights);
        assert_int_equal(mpt_state_refresh(state, &state->master,
                                           t->params.stochastic ? &rounding : NULL, &rank->kernels,
                                           rank->stream),
                         MPT_OK);
    } else
        fixture_fill(rank, &state->working, weights);
    if (state->ema.data != NULL)
        fixture_fill(rank, &state->ema, weights);
    free(weights);
}

static void step(const training_t *t, fixture_rank_t *rank, int number)
{
    float *gradients = fixture_flat(&t->layout, 1000 + (uint64_t)number, 2, t->grad_factor);
    const mpt_update_t update = {.params = &t->params,
                                 .unscale = &t->unscale,
                                 .clip_factor = t->clip_factor,
                                 .lr = learning_rate,
                                 .t = number + 1,
                                 .step = t->first_step + number + 1};
    fixture_fill(rank, &rank->state.reduced, gradients);
    for (int u = 0; u < t->layout.unit_count; u++)
        assert_int_equal(mpt_optimizer_unit(&rank->state, &rank->kernels, &update, u, rank->stream),
                         MPT_OK);
    free(gradients);
}

/* What this rank owns of an array, by global element. */
static void keep(const fixture_rank_t *rank, const mpt_held_t *held, uint32_t *elements)
{
    const mpt_layout_t *layout = rank->layout;
    int pieces, index;
    mpt_state_owned(&rank->state, &pieces, &index);
    for (int t = 0; t < layout->tensor_count && held->data != NULL; t++) {
        mpt_extent_t e;
        if (!mpt_layout_extent(layout, pieces, index, t, &e))
            continue;
        const void *at = mpt_held_at(&rank->state, held, e.at);
        for (int64_t i = 0; i < e.count; i++)
            elements[layout->tensors[t].first + e.first + i] = fixture_bits_at(at, held->dtype, i);
    }
}

static void keep_all(training_t *t, const fixture_rank_t *rank)
{
    keep(rank, &rank->state.master, t->master);
    keep(rank, &rank->state.m, t->m);
    keep(rank, &rank->state.v, t->v);
    keep(rank, &rank->state.ema, t->ema);
    keep(rank, &rank->state.working, t->working);
}

static void train(training_t *t)
{
    t->fixture.layout = &t->layout;
    for (int r = 0; r < t->layout.ranks; r++) {
        fixture_rank_t rank;
        fixture_open(&rank, &t->fixture, r);
        begin(t, &rank);
        for (int i = 0; i < STEPS; i++)
            step(t, &rank, i);
        keep_all(t, &rank);
        fixture_close(&rank);
    }
}

static void assert_same_bits(const training_t *a, const training_t *b)
{
    size_t bytes = (size_t)a->layout.parameters * sizeof *a->master;
    assert_int_equal(a->layout.parameters, b->layout.parameters);
    assert_memory_equal(a->master, b->master, bytes);
    assert_memory_equal(a->m, b->m, bytes);
    assert_memory_equal(a->v, b->v, bytes);
    assert_memory_equal(a->ema, b->ema, bytes);
    assert_memory_equal(a->working, b->working, bytes);
}

/* ---- slices ------------------------------------------------------------------------------------------------ */

typedef struct kind {
    mpt_dtype_t compute, wire;
    int without_master, with_ema, stochastic;
} kind_t;

static const kind_t kinds[] = {
    {MPT_F32, MPT_F32, 0, 1, 0},  {MPT_BF16, MPT_BF16, 0, 1, 0}, {MPT_BF16, MPT_F32, 0, 0, 1},
    {MPT_F16, MPT_F16, 0, 1, 1},  {MPT_BF16, MPT_BF16, 1, 1, 1}, {MPT_F16, MPT_F32, 1, 0, 1},
    {MPT_BF16, MPT_F32, 1, 0, 0},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static training_t train_kind(const kind_t *kind, int ranks, int group, mpt_shard_t shard)
{
    training_t t = open_training(ranks, group, shard, kind->compute, kind->wire);
    t.fixture.without_master = kind->without_master;
    t.fixture.with_ema = kind->with_ema;
    t.params.stochastic = kind->stochastic;
    train(&t);
    return t;
}

/* One rank's update of everything is what all others must come to, element by element. */
static void every_slice_of_every_mode_equals_the_whole_update_bit_for_bit(void **state)
{
    (void)state;
    static const int rank_counts[] = {1, 2, 3, 4, 8};
    for (int i = 0; i < KINDS; i++) {
        training_t whole = train_kind(&kinds[i], 1, 0, MPT_SHARD_DDP);
        for (int p = 0; p < 5; p++)
            for (int shard = MPT_SHARD_DDP; shard <= MPT_SHARD_HSDP; shard++)
                for (int k = 1; rank_counts[p] % k == 0; k *= 2) {
                    int hsdp = shard == MPT_SHARD_HSDP;
                    if (!hsdp && k > 1)
                        break;
                    training_t t =
                        train_kind(&kinds[i], rank_counts[p], hsdp ? k : 0, (mpt_shard_t)shard);
                    assert_same_bits(&whole, &t);
                    close_training(&t);
                }
        close_training(&whole);
    }
}

static void the_kinds_above_differ_where_they_should(void **state)
{
    (void)state;
    size_t bytes = 0;
    training_t nearest = train_kind(&(kind_t){MPT_BF16, MPT_F32, 0, 0, 0}, 2, 0, MPT_SHARD_ZERO1),
               chance = train_kind(&(kind_t){MPT_BF16, MPT_F32, 0, 0, 1}, 2, 0, MPT_SHARD_ZERO1);
    bytes = (size_t)nearest.layout.parameters * sizeof *nearest.master;
    assert_memory_equal(nearest.master, chance.master, bytes);
    assert_memory_not_equal(nearest.working, chance.working, bytes);
    close_training(&nearest);
    close_training(&chance);
}

static void stochastic_rounding_is_keyed_by_the_seed_and_the_data_step(void **state)
{
    (void)state;
    training_t runs[4];
    for (int i = 0; i < 4; i++) {
        runs[i] = open_training(3, 0, MPT_SHARD_ZERO3, MPT_BF16, MPT_F32);
        runs[i].params.stochastic = 1;
        runs[i].params.seed += i == 1;
        runs[i].first_step = i == 2 ? 5 : 0;
        train(&runs[i]);
    }
    size_t bytes = (size_t)runs[0].layout.parameters * sizeof *runs[0].master;
    assert_same_bits(&runs[0], &runs[3]);
    for (int i = 1; i < 3; i++) {
        assert_memory_equal(runs[0].master, runs[i].master, bytes);
        assert_memory_not_equal(runs[0].working, runs[i].working, bytes);
    }
    for (int i = 0; i < 4; i++)
        close_training(&runs[i]);
}

/* Working weights are the masters rounded by the bits of (seed, global element, step), whoever holds them. */
static void stochastic_working_weights_are_those_of_the_global_element(void **state)
{
    (void)state;
    static const mpt_dtype_t types[] = {MPT_BF16, MPT_F16};
    for (int i = 0; i < 2; i++) {
        training_t t = open_training(4, 2, MPT_SHARD_HSDP, types[i], MPT_F32);
        t.params.stochastic = 1;
        t.first_step = 40;
        train(&t);
        for (int64_t e = 0; e < t.layout.parameters; e++) {
            uint16_t random = mpt_rounding_bits(t.params.seed, (uint64_t)e, 40 + STEPS);
            assert_int_equal(t.working[e], mpt_round_stochastic(mpt_f32_from_bits(t.master[e]),
                                                                types[i], random));
        }
        close_training(&t);
    }
}

/* What stands where this rank owns nothing stays: gathering will bring it. */
static void other_ranks_working_weights_are_not_touched(void **state)
{
    (void)state;
    for (int shard = MPT_SHARD_ZERO1; shard <= MPT_SHARD_ZERO2; shard++) {
        training_t t = open_training(3, 0, (mpt_shard_t)shard, MPT_BF16, MPT_BF16);
        fixture_rank_t rank;
        t.fixture.layout = &t.layout;
        fixture_open(&rank, &t.fixture, 1);
        begin(&t, &rank);
        for (int u = 0; u < FIXTURE_UNITS; u++) {
            uint16_t *unit = mpt_held_unit(&t.layout, &rank.state.working, u);
            int64_t slice = mpt_layout_slice(&t.layout, u);
            memset(unit, 0x5a, (size_t)slice * sizeof *unit);
            memset(unit + 2 * slice, 0x5a, (size_t)slice * sizeof *unit);
        }
        step(&t, &rank, 0);
        for (int u = 0; u < FIXTURE_UNITS; u++) {
            const uint16_t *unit = mpt_held_unit(&t.layout, &rank.state.working, u);
            int64_t slice = mpt_layout_slice(&t.layout, u);
            for (int64_t i = 0; i < 3 * slice; i++)
                assert_int_equal(unit[i] == 0x5a5a, i < slice || i >= 2 * slice);
        }
        fixture_close(&rank);
        close_training(&t);
    }
}

/* ---- decay ------------------------------------------------------------------------------------------------- */

/* With gradients of zero only decay moves a weight: w - lr * decay * w. */
static void decay_ends_inside_a_slice_where_the_decayed_tensors_do(void **state)
{
    (void)state;
    int inside = 0;
    for (int ranks = 1; ranks <= 8; ranks++) {
        training_t t = open_training(ranks, 0, MPT_SHARD_ZERO3, MPT_F32, MPT_F32);
        float *start = fixture_flat(&t.layout, 3, 2, 1.0f);
        t.grad_factor = 0.0f;
        train(&t);
        for (int u = 0; u < FIXTURE_UNITS; u++)
            inside += t.layout.units[u].decay_count % mpt_layout_slice(&t.layout, u) != 0;
        for (int n = 0; n < FIXTURE_TENSORS; n++)
            for (int64_t i = 0; i < mpt_tensor_count(&t.layout.tensors[n]); i++) {
                int decay = t.layout.tensors[n].decay;
                double from = start[mpt_layout_at(&t.layout, n) + i];
                double shrunk = from * pow(1 - learning_rate * usual_params.decay, STEPS);
                float to = mpt_f32_from_bits(t.master[t.layout.tensors[n].first + i]);
                assert_true(decay ? fabs(to - shrunk) <= 1e-6 * fabs(from) : to == from);
            }
        free(start);
        close_training(&t);
    }
    assert_true(inside > 0);
}

static void padding_stays_zero(void **state)
{
    (void)state;
    for (int shard = MPT_SHARD_DDP; shard <= MPT_SHARD_ZERO3; shard++) {
        training_t t = open_training(2, 0, (mpt_shard_t)shard, MPT_BF16, MPT_BF16);
        fixture_rank_t rank;
        t.params.stochastic = 1;
        t.fixture.layout = &t.layout;
        fixture_open(&rank, &t.fixture, 1);
        begin(&t, &rank);
        step(&t, &rank, 0);
        const mpt_held_t *const held[] = {&rank.state.master, &rank.state.m, &rank.state.v,
                                          &rank.state.ema, &rank.state.working};
        for (int i = 0; i < 5; i++)
            for (int u = 0; u < FIXTURE_UNITS; u++) {
                int64_t at = fixture_begin(&rank, held[i], u) - t.layout.units[u].first;
                const void *unit = mpt_held_unit(&t.layout, held[i], u);
                int tensor;
                int64_t element, count = mpt_held_unit_count(&t.layout, held[i], u);
                for (int64_t j = 0; j < count; j++)
                    if (!mpt_layout_locate(&t.layout, u, at + j, &tensor, &element))
                        assert_int_equal(fixture_bits_at(unit, held[i]->dtype, j), 0);
            }
        fixture_close(&rank);
        close_training(&t);
    }
}

/* ---- against AdamW in double ----------------------------------------------------------------------------------- */

typedef struct reference {
    double w, m, v, ema;
} reference_t;

static void adamw(reference_t *w, double g, int t, int decay)
{
    const mpt_optimizer_params_t *p = &usual_params;
    w->m = p->beta1 * w->m + (1 - p->beta1) * g;
    w->v = p->beta2 * w->v + (1 - p->beta2) * g * g;
    double m = w->m / (1 - pow(p->beta1, t)), v = w->v / (1 - pow(p->beta2, t));
    w->w -= learning_rate * (m / (sqrt(v) + p->eps) + (decay ? p->decay * w->w : 0));
    w->ema = p->ema * w->ema + (1 - p->ema) * w->w;
}

/* All of the training once more; gradients are unscaled, averaged and clipped here by hand. */
static reference_t *train_reference(const training_t *t)
{
    const mpt_layout_t *layout = &t->layout;
    reference_t *weights = calloc((size_t)layout->parameters, sizeof *weights);
    float *start = fixture_flat(layout, 3, 2, 1.0f);
    for (int i = 0; i < STEPS; i++) {
        float *gradients = fixture_flat(layout, 1000 + (uint64_t)i, 2, t->grad_factor);
        for (int n = 0; n < layout->tensor_count; n++)
            for (int64_t e = 0; e < mpt_tensor_count(&layout->tensors[n]); e++) {
                reference_t *w = &weights[layout->tensors[n].first + e];
                int64_t at = mpt_layout_at(layout, n) + e;
                if (i == 0)
                    w->w = w->ema = start[at];
                /* 2 (D) / (16 (S) * 4 (micro-steps) * 2 (ranks)), and the clip */
                adamw(w, gradients[at] / 64.0 * 0.5, i + 1, layout->tensors[n].decay);
            }
        free(gradients);
    }
    free(start);
    return weights;
}

static int near(uint32_t bits, double expected)
{
    return fabs(mpt_f32_from_bits(bits) - expected) <= 1e-5 * fmax(1, fabs(expected));
}

static void the_update_is_adamw_of_the_clipped_mean_gradient(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 3; ranks++) {
        training_t t = open_training(ranks, 0, MPT_SHARD_ZERO1, MPT_F32, MPT_F32);
        train(&t);
        reference_t *weights = train_reference(&t);
        for (int64_t i = 0; i < t.layout.parameters; i++) {
            if (!near(t.master[i], weights[i].w))
                fail_msg("%d ranks, element %lld: %.9g, AdamW gives %.9g", ranks, (long long)i,
                         (double)mpt_f32_from_bits(t.master[i]), weights[i].w);
            assert_true(near(t.m[i], weights[i].m));
            assert_true(near(t.v[i], weights[i].v));
            assert_true(near(t.ema[i], weights[i].ema));
        }
        free(weights);
        close_training(&t);
    }
}

static void working_weights_are_the_rounded_masters(void **state)
{
    (void)state;
    static const mpt_dtype_t types[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (int c = 0; c < 3; c++) {
        training_t t = open_training(2, 0, MPT_SHARD_ZERO2, types[c], types[c]);
        train(&t);
        for (int64_t i = 0; i < t.layout.parameters; i++) {
            float master = mpt_f32_from_bits(t.master[i]);
            float working = (float)mpt_load(&t.working[i], types[c], 0);
            assert_true(working == fixture_round(types[c], master));
        }
        close_training(&t);
    }
}

/* A power of two only moves exponents: no bit of the training may depend on it. */
static void a_loss_scale_leaves_no_trace(void **state)
{
    (void)state;
    static const mpt_dtype_t wires[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (int w = 0; w < 3; w++) {
        training_t plain = open_training(3, 0, MPT_SHARD_ZERO1, MPT_BF16, wires[w]),
                   scaled = open_training(3, 0, MPT_SHARD_ZERO1, MPT_BF16, wires[w]);
        scaled.unscale.scale *= 32;
        scaled.grad_factor *= 32;
        train(&plain);
        train(&scaled);
        assert_same_bits(&plain, &scaled);
        close_training(&plain);
        close_training(&scaled);
    }
}

/* ---- the formulas --------------------------------------------------------------------------------------------------- */

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
        cmocka_unit_test(every_slice_of_every_mode_equals_the_whole_update_bit_for_bit),
        cmocka_unit_test(the_kinds_above_differ_where_they_should),
        cmocka_unit_test(stochastic_rounding_is_keyed_by_the_seed_and_the_data_step),
        cmocka_unit_test(stochastic_working_weights_are_those_of_the_global_element),
        cmocka_unit_test(other_ranks_working_weights_are_not_touched),
        cmocka_unit_test(decay_ends_inside_a_slice_where_the_decayed_tensors_do),
        cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(the_update_is_adamw_of_the_clipped_mean_gradient),
        cmocka_unit_test(working_weights_are_the_rounded_masters),
        cmocka_unit_test(a_loss_scale_leaves_no_trace),
        cmocka_unit_test(the_norm_takes_off_scale_micro_steps_and_ranks_and_gives_the_divisor_back),
        cmocka_unit_test(the_clip_is_torchs_formula),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
