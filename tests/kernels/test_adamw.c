#include "elementwise_fixture.h"

typedef struct sample {
    mpt_adamw_t args;
    float *master, *m, *v, *ema;
    void *working, *grad;
    double *w64, *m64, *v64, *ema64; /* the oracle's */
} sample_t;

static sample_t sample_make(mpt_dtype_t compute, mpt_dtype_t grad_dtype, int64_t count)
{
    sample_t x = {
        .master = random_array(count, MPT_F32, 0.0, 1.0, 61),
        .m = random_array(count, MPT_F32, 0.0, 0.01, 62),
        .v = random_array(count, MPT_F32, 1e-3, 0.9e-3, 63),
        .ema = random_array(count, MPT_F32, 0.0, 1.0, 65),
        .working = guarded_of(count, compute),
        .grad = random_array(count, grad_dtype, 0.0, 8.0, 64),
        .w64 = guarded_of(count, MPT_F64),
        .m64 = guarded_of(count, MPT_F64),
        .v64 = guarded_of(count, MPT_F64),
        .ema64 = guarded_of(count, MPT_F64),
    };
    for (int64_t i = 0; i < count; i++) {
        x.w64[i] = (double)x.master[i];
        x.m64[i] = (double)x.m[i];
        x.v64[i] = (double)x.v[i];
        x.ema64[i] = (double)x.ema[i];
    }
    x.args = (mpt_adamw_t){.compute = compute,
                           .grad_dtype = grad_dtype,
                           .count = count,
                           .decay_count = count / 2,
                           .master = x.master,
                           .m = x.m,
                           .v = x.v,
                           .working = x.working,
                           .grad = x.grad,
                           .factor = 0.015625f,
                           .lr = 3e-3f,
                           .beta1 = 0.9f,
                           .beta2 = 0.95f,
                           .eps = 1e-8f,
                           .decay = 0.1f,
                           .correction1 = 0.271f,
                           .correction2 = 0.142625f,
                           .ema_decay = 0.9f};
    return x;
}

static void sample_free(sample_t *x)
{
    void *arrays[] = {x->master, x->m,   x->v,   x->ema, x->working,
                      x->grad,   x->w64, x->m64, x->v64, x->ema64};
    for (int i = 0; i < 10; i++)
        release(arrays[i]);
}

/* The formula in FP64, on the FP32 constants. */
static void oracle_step(sample_t *x)
{
    const mpt_adamw_t *a = &x->args;
    for (int64_t i = 0; i < a->count; i++) {
        const double g = mpt_load(x->grad, a->grad_dtype, i) * (double)a->factor;
        x->m64[i] += (1.0 - (double)a->beta1) * (g - x->m64[i]);
        x->v64[i] += (1.0 - (double)a->beta2) * (g * g - x->v64[i]);
        const double ratio = (x->m64[i] / (double)a->correction1) /
                             (sqrt(x->v64[i] / (double)a->correction2) + (double)a->eps);
        const double decay = i < a->decay_count ? (double)a->decay : 0.0;
        x->w64[i] -= (double)a->lr * (ratio + decay * x->w64[i]);
        if (a->ema)
            x->ema64[i] += (1.0 - (double)a->ema_decay) * (x->w64[i] - x->ema64[i]);
    }
}

/* Within `tolerance` of the size of what went into each value. */
static void check_state(const sample_t *x, double tolerance)
{
    const mpt_adamw_t *a = &x->args;
    for (int64_t i = 0; i < a->count; i++) {
        const double size_m = fabs(x->m64[i]) + 0.125, size_v = fabs(x->v64[i]) + 0.0156;
        assert_true(fabs((double)x->m[i] - x->m64[i]) <= tolerance * size_m);
        assert_true(fabs((double)x->v[i] - x->v64[i]) <= tolerance * size_v);
        assert_true(fabs((double)x->master[i] - x->w64[i]) <= tolerance * (fabs(x->w64[i]) + 0.1));
        assert_true(fabs((double)x->ema[i] - x->ema64[i]) <= tolerance * (fabs(x->ema64[i]) + 0.1));
    }
}

static void check_working(const sample_t *x)
{
    const mpt_adamw_t *a = &x->args;
    void *want = guarded_of(a->count, a->compute);
    for (int64_t i = 0; i < a->count; i++)
        mpt_store(want, a->compute, i, (double)x->master[i]);
    assert_memory_equal(x->working, want, (size_t)a->count * mpt_dtype_bytes(a->compute));
    release(want);
}

static void check_one_step(rig_t *rig, mpt_dtype_t compute, mpt_dtype_t grad_dtype, int64_t count,
                           int average)
{
    sample_t x = sample_make(compute, grad_dtype, count);
    x.args.ema = average ? x.ema : NULL;
    assert_int_equal(mpt_adamw(&rig->k, &x.args, NULL), MPT_OK);
    oracle_step(&x);
    check_state(&x, 1e-6);
    check_working(&x);
    sample_free(&x);
}

static void one_step_follows_the_formula(void **state)
{
    (void)state;
    const int64_t counts[] = {0, 1, 2, 15, 16, 17, 33, 1001, 32768, 70001};
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        for (int c = 0; c < RUN_DTYPES; c++)
            for (int g = 0; g < RUN_DTYPES; g++)
                for (int i = 0; i < 10; i++) {
                    check_one_step(&rig, run_dtypes[c], run_dtypes[g], counts[i], 0);
                    check_one_step(&rig, run_dtypes[c], run_dtypes[g], counts[i], 1);
                }
        rig_close(&rig);
    }
}

/* From zero moments, with the corrections of each step, and other gradients in each. */
static void check_sequence(rig_t *rig, sample_t *x)
{
    uint64_t seed = 71;
    x->args.ema = x->ema;
    memset(x->m, 0, (size_t)x->args.count * sizeof(float));
    memset(x->v, 0, (size_t)x->args.count * sizeof(float));
    memset(x->m64, 0, (size_t)x->args.count * sizeof(double));
    memset(x->v64, 0, (size_t)x->args.count * sizeof(double));
    for (int t = 1; t <= 40; t++) {
        for (int64_t i = 0; i < x->args.count; i++)
            mpt_store(x->grad, x->args.grad_dtype, i, 8.0 * random_unit(&seed) + 0.5);
        x->args.correction1 = (float)(1.0 - pow((double)x->args.beta1, t));
        x->args.correction2 = (float)(1.0 - pow((double)x->args.beta2, t));
        assert_int_equal(mpt_adamw(&rig->k, &x->args, NULL), MPT_OK);
        oracle_step(x);
        check_state(x, 3e-6);
    }
    check_working(x);
}

static void forty_steps_stay_with_the_formula(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int g = 0; g < RUN_DTYPES; g++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, 1, MPT_F32, 1, 1);
            sample_t x = sample_make(MPT_BF16, run_dtypes[g], 601);
            check_sequence(&rig, &x);
            sample_free(&x);
            rig_close(&rig);
        }
}

/* The cut may fall anywhere: in a vector, at a task's edge, at either end, beyond the end. */
static void decay_ends_at_decay_count(void **state)
{
    (void)state;
    const int64_t count = 40000, cuts[] = {0, 1, 19, 32767, 32768, 32770, 39999, 40000, 50000};
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        for (int c = 0; c < 9; c++) {
            sample_t x = sample_make(MPT_F32, MPT_F32, count);
            memset(x.grad, 0, (size_t)count * sizeof(float));
            memset(x.m, 0, (size_t)count * sizeof(float));
            x.args.decay_count = cuts[c];
            float *before = duplicate(x.master);
            assert_int_equal(mpt_adamw(&rig.k, &x.args, NULL), MPT_OK);
            for (int64_t i = 0; i < count; i++)
                assert_int_equal(x.master[i] != before[i], i < cuts[c]);
            release(before);
            sample_free(&x);
        }
        rig_close(&rig);
    }
}

/* Whether to step is decided before: the pass itself skips nothing and hides nothing. */
static void non_finite_gradients_pass_through(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, MPT_F32, 1, 1);
        sample_t x = sample_make(MPT_F16, MPT_BF16, 100);
        mpt_store(x.grad, MPT_BF16, 3, INFINITY);
        mpt_store(x.grad, MPT_BF16, 99, NAN);
        assert_int_equal(mpt_adamw(&rig.k, &x.args, NULL), MPT_OK);
        for (int64_t i = 0; i < 100; i++) {
            const int poisoned = i == 3 || i == 99;
            assert_int_equal(!isfinite(x.m[i]), poisoned);
            assert_int_equal(!isfinite(x.master[i]), poisoned);
            assert_int_equal(!isfinite(mpt_load(x.working, MPT_F16, i)), poisoned);
        }
        sample_free(&x);
        rig_close(&rig);
    }
}

/* ---- forms of the step ------------------------------------------------------------------------------------ */

/* All forms share one arithmetic: with an average or without, masters and moments get the same bits. */
static void check_average(rig_t *rig)
{
    const int64_t count = 33001;
    const size_t bytes = (size_t)count * sizeof(float);
    sample_t plain = sample_make(MPT_BF16, MPT_F16, count);
    sample_t averaged = sample_make(MPT_BF16, MPT_F16, count);
    averaged.args.ema = averaged.ema;
    assert_int_equal(mpt_adamw(&rig->k, &plain.args, NULL), MPT_OK);
    assert_int_equal(mpt_adamw(&rig->k, &averaged.args, NULL), MPT_OK);
    assert_memory_equal(averaged.master, plain.master, bytes);
    assert_memory_equal(averaged.m, plain.m, bytes);
    assert_memory_equal(averaged.v, plain.v, bytes);
    assert_memory_equal(averaged.working, plain.working, bytes / 2);
    sample_free(&plain);
    sample_free(&averaged);
}

static void an_average_changes_nothing_else(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        check_average(&rig);
        rig_close(&rig);
    }
}

/* Three tensors behind one another, padded; the first begins in the middle of a block of random numbers. */
static const mpt_run_t tensors[3] = {{0, 9001, 1003}, {9001, 24000, 500009}, {33024, 17, 70}};

/* The random bits of element `i`; 0 where it is padding. */
static int random_of(const mpt_stochastic_t *how, int64_t i, uint16_t *random_p)
{
    for (int r = 0; r < how->run_count; r++) {
        const mpt_run_t *run = &how->runs[r];
        if (i < run->at || i >= run->at + run->count)
            continue;
        *random_p = mpt_rounding_bits(how->seed, (uint64_t)(run->element + i - run->at), how->step);
        return 1;
    }
    return 0;
}

static void check_stochastic(rig_t *rig, mpt_dtype_t compute, const mpt_stochastic_t *how)
{
    sample_t x = sample_make(compute, MPT_F32, 33064);
    x.args.stochastic = how;
    assert_int_equal(mpt_adamw(&rig->k, &x.args, NULL), MPT_OK);
    int differ = 0;
    for (int64_t i = 0; i < x.args.count; i++) {
        uint16_t nearest, random;
        mpt_store(&nearest, compute, 0, (double)x.master[i]);
        const uint16_t got = ((uint16_t *)x.working)[i];
        if (random_of(how, i, &random))
            assert_int_equal(got, mpt_round_stochastic(x.master[i], compute, random));
        else
            assert_int_equal(got, nearest);
        differ += got != nearest;
    }
    assert_true(how->run_count == 0 ? differ == 0 : differ > 7000 && differ < 9500);
    sample_free(&x);
}

static void working_weights_are_rounded_by_their_global_element(void **state)
{
    (void)state;
    const mpt_stochastic_t how = {.seed = 99, .step = 12, .runs = tensors, .run_count = 3};
    const mpt_stochastic_t padding = {.seed = 99};
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_F32, 1, 1);
            check_stochastic(&rig, MPT_BF16, &how);
            check_stochastic(&rig, MPT_F16, &how);
            check_stochastic(&rig, MPT_BF16, &padding);
            rig_close(&rig);
        }
}

/*
 * Updates far below half a unit in the last place: rounding to nearest loses every one of them,
 * stochastic rounding keeps their sum on average.
 */
static double mean_after_small_steps(rig_t *rig, const mpt_stochastic_t *rounding)
{
    const int64_t count = 5000;
    sample_t x = sample_make(MPT_BF16, MPT_F32, count);
    mpt_stochastic_t how = rounding ? *rounding : (mpt_stochastic_t){0};
    x.args.master = NULL;
    x.args.decay = 0;
    x.args.lr = 0x1p-14f;
    x.args.stochastic = rounding ? &how : NULL;
    for (int64_t i = 0; i < count; i++)
        mpt_store(x.working, MPT_BF16, i, 1.5);
    for (int t = 1; t <= 100; t++, how.step++) {
        for (int64_t i = 0; i < count; i++) {
            x.m[i] = x.v[i] = 0.0f; /* every step is one of lr against the gradient's sign */
            mpt_store(x.grad, MPT_F32, i, 64.0);
        }
        x.args.correction1 = 1.0f - x.args.beta1;
        x.args.correction2 = 1.0f - x.args.beta2;
        assert_int_equal(mpt_adamw(&rig->k, &x.args, NULL), MPT_OK);
    }
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += mpt_load(x.working, MPT_BF16, i);
    sample_free(&x);
    return sum / (double)count;
}

static void small_steps_add_up_without_masters(void **state)
{
    (void)state;
    const mpt_run_t run = {0, 5000, 11};
    const mpt_stochastic_t how = {.seed = 5, .runs = &run, .run_count = 1};
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, MPT_F32, 1, 1);
        assert_true(mean_after_small_steps(&rig, NULL) == 1.5);
        const double mean = mean_after_small_steps(&rig, &how);
        assert_true(fabs(mean - (1.5 - 100 * 0x1p-14)) < 5e-4); /* standard deviation 1e-4 */
        rig_close(&rig);
    }
}

static void results_do_not_depend_on_threads(void **state)
{
    (void)state;
    const int64_t count = 100003;
    const size_t bytes = (size_t)count * sizeof(float);
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        sample_t first = sample_make(MPT_BF16, MPT_F32, count);
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_F32, 1, 1);
            sample_t x = sample_make(MPT_BF16, MPT_F32, count);
            assert_int_equal(mpt_adamw(&rig.k, t == 0 ? &first.args : &x.args, NULL), MPT_OK);
            if (t > 0) {
                assert_memory_equal(x.master, first.master, bytes);
                assert_memory_equal(x.m, first.m, bytes);
                assert_memory_equal(x.v, first.v, bytes);
            }
            sample_free(&x);
            rig_close(&rig);
        }
        sample_free(&first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_step_follows_the_formula),
        cmocka_unit_test(forty_steps_stay_with_the_formula),
        cmocka_unit_test(decay_ends_at_decay_count),
        cmocka_unit_test(non_finite_gradients_pass_through),
        cmocka_unit_test(an_average_changes_nothing_else),
        cmocka_unit_test(working_weights_are_rounded_by_their_global_element),
        cmocka_unit_test(small_steps_add_up_without_masters),
        cmocka_unit_test(results_do_not_depend_on_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
