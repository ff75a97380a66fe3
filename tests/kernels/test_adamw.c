#include "elementwise_fixture.h"

typedef struct sample {
    mpt_adamw_t args;
    float *master, *m, *v;
    void *working, *grad;
    double *w64, *m64, *v64; /* the oracle's */
} sample_t;

static sample_t sample_make(mpt_dtype_t compute, mpt_dtype_t grad_dtype, int64_t count)
{
    sample_t x = {
        .master = random_array(count, MPT_F32, 0.0, 1.0, 61),
        .m = random_array(count, MPT_F32, 0.0, 0.01, 62),
        .v = random_array(count, MPT_F32, 1e-3, 0.9e-3, 63),
        .working = guarded_of(count, compute),
        .grad = random_array(count, grad_dtype, 0.0, 8.0, 64),
        .w64 = guarded_of(count, MPT_F64),
        .m64 = guarded_of(count, MPT_F64),
        .v64 = guarded_of(count, MPT_F64),
    };
    for (int64_t i = 0; i < count; i++) {
        x.w64[i] = (double)x.master[i];
        x.m64[i] = (double)x.m[i];
        x.v64[i] = (double)x.v[i];
    }
    x.args = (mpt_adamw_t){compute, grad_dtype, count,  count / 2, x.master, x.m,
                           x.v,     x.working,  x.grad, 0.015625f, 3e-3f,    0.9f,
                           0.95f,   1e-8f,      0.1f,   0.271f,    0.142625f};
    return x;
}

static void sample_free(sample_t *x)
{
    void *arrays[] = {x->master, x->m, x->v, x->working, x->grad, x->w64, x->m64, x->v64};
    for (int i = 0; i < 8; i++)
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

static void check_one_step(rig_t *rig, mpt_dtype_t compute, mpt_dtype_t grad_dtype, int64_t count)
{
    sample_t x = sample_make(compute, grad_dtype, count);
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
                for (int i = 0; i < 10; i++)
                    check_one_step(&rig, run_dtypes[c], run_dtypes[g], counts[i]);
        rig_close(&rig);
    }
}

/* From zero moments, with the corrections of each step, and other gradients in each. */
static void check_sequence(rig_t *rig, sample_t *x)
{
    uint64_t seed = 71;
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
        cmocka_unit_test(results_do_not_depend_on_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
