#include "elementwise_fixture.h"

#define MAX_VOCAB 50304

typedef struct shape {
    int64_t rows, vocab, vocab_padded;
} shape_t;

static const shape_t shapes[] = {
    {1, 1, 1},      {3, 1, 128},     {5, 15, 16},          {4, 65, 128},
    {64, 256, 256}, {2, 2051, 2176}, {2, 50257, MAX_VOCAB}};
#define SHAPES (int)(sizeof shapes / sizeof shapes[0])

typedef struct sample {
    mpt_loss_t args;
    float *logits, *losses;
    uint32_t *targets;
    void *dlogits;
    double *loss_sum;
} sample_t;

/* Columns from vocab on hold NaN: they must not be looked at. */
static sample_t sample_make(mpt_dtype_t dtype, shape_t shape, double scale)
{
    sample_t x = {
        .logits = random_array(shape.rows * shape.vocab_padded, MPT_F32, 0.0, scale, 21),
        .losses = guarded_of(shape.rows, MPT_F32),
        .targets = guarded(shape.rows, sizeof(uint32_t)),
        .dlogits = guarded_of(shape.rows * shape.vocab_padded, dtype),
        .loss_sum = guarded(1, sizeof(double)),
    };
    uint64_t seed = 5;
    for (int64_t row = 0; row < shape.rows; row++) {
        x.targets[row] = (uint32_t)(random_bits(&seed) % (uint64_t)shape.vocab);
        for (int64_t v = shape.vocab; v < shape.vocab_padded; v++)
            x.logits[row * shape.vocab_padded + v] = NAN;
    }
    x.targets[0] = (uint32_t)shape.vocab - 1;
    *x.loss_sum = 0.25;
    x.args = (mpt_loss_t){dtype,     shape.rows, shape.vocab, shape.vocab_padded, x.logits,
                          x.targets, 1024.0f,    x.dlogits,   x.losses,           x.loss_sum};
    return x;
}

static void sample_free(sample_t *x)
{
    release(x->logits);
    release(x->losses);
    release(x->targets);
    release(x->dlogits);
    release(x->loss_sum);
}

static double log_sum_exp(const float *logits, int64_t vocab)
{
    double max = -INFINITY, sum = 0.0;
    for (int64_t v = 0; v < vocab; v++)
        max = fmax(max, (double)logits[v]);
    for (int64_t v = 0; v < vocab; v++)
        sum += exp((double)logits[v] - max);
    return max + log(sum);
}

/* FP32 rounds x - max, so a probability is known to |x - max| / 2^24 relative, and to FP32's
 * smallest step. */
static void check_row_gradient(const sample_t *x, int64_t row, double lse)
{
    const mpt_loss_t *a = &x->args;
    for (int64_t v = 0; v < a->vocab_padded; v++) {
        const int64_t at = row * a->vocab_padded + v;
        const double got = mpt_load(x->dlogits, a->compute, at);
        if (v >= a->vocab) {
            assert_true(got == 0.0 && !signbit(got));
            continue;
        }
        const double p = exp((double)x->logits[at] - lse);
        const double want = (p - (v == (int64_t)x->targets[row])) * (double)a->seed;
        assert_close(got, want, a->compute,
                     (double)a->seed *
                         (4e-6 * p + (v == (int64_t)x->targets[row]) * 1e-7 + 0x1p-149));
    }
}

static void check_sample(rig_t *rig, mpt_dtype_t dtype, shape_t shape, double scale)
{
    sample_t x = sample_make(dtype, shape, scale);
    assert_int_equal(mpt_loss(&rig->k, &x.args, NULL), MPT_OK);
    double sum = 0.25;
    for (int64_t row = 0; row < shape.rows; row++) {
        const float *logits = x.logits + row * shape.vocab_padded;
        const double lse = log_sum_exp(logits, shape.vocab);
        assert_close((double)x.losses[row], lse - (double)logits[x.targets[row]], MPT_F32, 1e-6);
        check_row_gradient(&x, row, lse);
        sum += (double)x.losses[row];
    }
    assert_true(*x.loss_sum == sum);
    sample_free(&x);
}

static void for_all(void (*check)(rig_t *rig, mpt_dtype_t dtype), int threads)
{
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int d = 0; d < RUN_DTYPES; d++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, threads, run_dtypes[d], 1, MAX_VOCAB);
            check(&rig, run_dtypes[d]);
            rig_close(&rig);
        }
}

static void check_all_shapes(rig_t *rig, mpt_dtype_t dtype)
{
    for (int i = 0; i < SHAPES; i++)
        check_sample(rig, dtype, shapes[i], 4.0);
    check_sample(rig, dtype, (shape_t){9, 300, 320}, 0.0);
    check_sample(rig, dtype, (shape_t){9, 300, 320}, 60.0);
    check_sample(rig, dtype, (shape_t){9, 300, 320}, 3000.0);
}

static void losses_and_gradients_follow_the_formula(void **state)
{
    (void)state;
    for_all(check_all_shapes, 2);
}

static void check_loss_only(rig_t *rig, mpt_dtype_t dtype)
{
    sample_t x = sample_make(dtype, (shape_t){3, 100, 128}, 4.0);
    sample_t only = sample_make(dtype, (shape_t){3, 100, 128}, 4.0);
    only.args.dlogits = NULL;
    assert_int_equal(mpt_loss(&rig->k, &x.args, NULL), MPT_OK);
    assert_int_equal(mpt_loss(&rig->k, &only.args, NULL), MPT_OK);
    assert_memory_equal(only.losses, x.losses, 3 * sizeof(float));
    for (int64_t i = 0; i < 3 * 128; i++)
        assert_true(isnan(mpt_load(only.dlogits, dtype, i)));
    sample_free(&x);
    sample_free(&only);
}

static void without_dlogits_the_loss_alone_is_written(void **state)
{
    (void)state;
    for_all(check_loss_only, 1);
}

/* Row 1 of three holds `value` at column `at`; the others must stay finite. */
static void check_poisoned(rig_t *rig, mpt_dtype_t dtype, float value, int64_t at)
{
    sample_t x = sample_make(dtype, (shape_t){3, 5000, 5120}, 4.0);
    x.logits[5120 + at] = value;
    assert_int_equal(mpt_loss(&rig->k, &x.args, NULL), MPT_OK);
    assert_true(isfinite(x.losses[0]) && isfinite(x.losses[2]));
    assert_false(isfinite(x.losses[1]));
    assert_false(isfinite(*x.loss_sum));
    assert_true(isnan(mpt_load(x.dlogits, dtype, 5120 + at)));
    sample_free(&x);
}

static void check_non_finite(rig_t *rig, mpt_dtype_t dtype)
{
    const int64_t places[] = {0, 17, 2047, 2048, 4097, 4999};
    for (int i = 0; i < 6; i++) {
        check_poisoned(rig, dtype, NAN, places[i]);
        check_poisoned(rig, dtype, INFINITY, places[i]);
    }
}

static void non_finite_logits_make_their_row_non_finite(void **state)
{
    (void)state;
    for_all(check_non_finite, 2);
}

/* -inf is a probability of zero, be it a whole block of the row; as target it is an infinite
 * loss. */
static void check_minus_infinity(rig_t *rig, mpt_dtype_t dtype)
{
    sample_t x = sample_make(dtype, (shape_t){2, 5000, 5120}, 4.0);
    for (int64_t v = 0; v < 4100; v++)
        x.logits[v] = x.logits[5120 + v] = -INFINITY;
    x.targets[0] = 4999;
    x.targets[1] = 3;
    assert_int_equal(mpt_loss(&rig->k, &x.args, NULL), MPT_OK);
    const double want = log_sum_exp(x.logits, 5000) - (double)x.logits[4999];
    assert_close((double)x.losses[0], want, MPT_F32, 1e-6);
    assert_true(isinf(x.losses[1]) && x.losses[1] > 0.0f);
    for (int64_t v = 0; v < 4100; v++)
        assert_true(mpt_load(x.dlogits, dtype, v) == 0.0);
    sample_free(&x);
}

static void minus_infinity_is_a_probability_of_zero(void **state)
{
    (void)state;
    for_all(check_minus_infinity, 2);
}

/* The maximum rises from block to block, so that every block rescales the sum so far. */
static void check_rising(rig_t *rig, mpt_dtype_t dtype)
{
    sample_t x = sample_make(dtype, (shape_t){1, 20000, 20096}, 1.0);
    for (int64_t v = 0; v < 20000; v++)
        x.logits[v] += (float)v * 1e-3f;
    assert_int_equal(mpt_loss(&rig->k, &x.args, NULL), MPT_OK);
    const double lse = log_sum_exp(x.logits, 20000);
    assert_close((double)x.losses[0], lse - (double)x.logits[x.targets[0]], MPT_F32, 1e-6);
    check_row_gradient(&x, 0, lse);
    sample_free(&x);
}

static void a_rising_maximum_rescales_the_sum(void **state)
{
    (void)state;
    for_all(check_rising, 1);
}

static void results_do_not_depend_on_threads_or_cuts(void **state)
{
    (void)state;
    const shape_t shape = {60, 1000, 1024};
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        sample_t first = sample_make(MPT_BF16, shape, 4.0);
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_BF16, 1, MAX_VOCAB);
            sample_t x = sample_make(MPT_BF16, shape, 4.0);
            if (t == 0)
                assert_int_equal(mpt_loss(&rig.k, &first.args, NULL), MPT_OK);
            x.args.rows = 23;
            assert_int_equal(mpt_loss(&rig.k, &x.args, NULL), MPT_OK);
            x.args.rows = 60 - 23;
            x.args.logits = x.logits + 23 * 1024;
            x.args.targets = x.targets + 23;
            x.args.dlogits = (uint16_t *)x.dlogits + 23 * 1024;
            x.args.losses = x.losses + 23;
            assert_int_equal(mpt_loss(&rig.k, &x.args, NULL), MPT_OK);
            assert_memory_equal(x.losses, first.losses, 60 * sizeof(float));
            assert_memory_equal(x.dlogits, first.dlogits, 60 * 1024 * sizeof(uint16_t));
            assert_memory_equal(x.loss_sum, first.loss_sum, sizeof(double));
            sample_free(&x);
            rig_close(&rig);
        }
        sample_free(&first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_and_gradients_follow_the_formula),
        cmocka_unit_test(without_dlogits_the_loss_alone_is_written),
        cmocka_unit_test(non_finite_logits_make_their_row_non_finite),
        cmocka_unit_test(minus_infinity_is_a_probability_of_zero),
        cmocka_unit_test(a_rising_maximum_rescales_the_sum),
        cmocka_unit_test(results_do_not_depend_on_threads_or_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
