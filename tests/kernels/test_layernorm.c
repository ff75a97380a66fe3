#include "elementwise_fixture.h"

typedef struct shape {
    int64_t rows, dim;
} shape_t;

static const shape_t shapes[] = {{1, 1},  {3, 5},    {2, 16},  {5, 17},  {63, 31}, {64, 33},
                                 {65, 8}, {130, 70}, {7, 257}, {1, 768}, {200, 96}};
#define SHAPES (int)(sizeof shapes / sizeof shapes[0])
#define MAX_DIM 768

/* ---- double oracles
 * ---------------------------------------------------------------------------- */

typedef struct statistics {
    double mean, rstd;
} statistics_t;

static statistics_t row_statistics(const void *x, mpt_dtype_t dtype, int64_t row, int64_t dim)
{
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < dim; i++)
        sum += mpt_load(x, dtype, row * dim + i);
    const double mean = sum / (double)dim;
    for (int64_t i = 0; i < dim; i++)
        squares += pow(mpt_load(x, dtype, row * dim + i) - mean, 2.0);
    return (statistics_t){mean, 1.0 / sqrt(squares / (double)dim + 1e-5)};
}

/* ---- forward
 * ----------------------------------------------------------------------------------- */

typedef struct forward {
    mpt_layernorm_forward_t args;
    void *gamma, *beta, *x, *delta, *sum, *y;
    float *mean, *rstd;
} forward_t;

static forward_t forward_make(mpt_dtype_t dtype, shape_t shape, int with_delta)
{
    const int64_t count = shape.rows * shape.dim;
    forward_t f = {
        .gamma = random_array(shape.dim, dtype, 1.0, 0.5, 1),
        .beta = random_array(shape.dim, dtype, 0.0, 0.5, 2),
        .x = random_array(count, dtype, 0.3, 1.0, 3),
        .delta = with_delta ? random_array(count, dtype, 0.0, 0.4, 4) : NULL,
        .sum = guarded_of(count, dtype),
        .y = guarded_of(count, dtype),
        .mean = guarded_of(shape.rows, MPT_F32),
        .rstd = guarded_of(shape.rows, MPT_F32),
    };
    f.args = (mpt_layernorm_forward_t){dtype,   shape.rows, shape.dim, f.x,    f.delta, f.sum,
                                       f.gamma, f.beta,     f.y,       f.mean, f.rstd};
    return f;
}

static void forward_free(forward_t *f)
{
    void *arrays[] = {f->gamma, f->beta, f->x, f->delta, f->sum, f->y, f->mean, f->rstd};
    for (int i = 0; i < 8; i++)
        if (arrays[i])
            release(arrays[i]);
}

/* y and the statistics follow from `sum` as it was stored, in FP32 arithmetic. */
static void check_normalised(const forward_t *f, const void *sum)
{
    const mpt_layernorm_forward_t *a = &f->args;
    for (int64_t row = 0; row < a->rows; row++) {
        const statistics_t want = row_statistics(sum, a->compute, row, a->dim);
        assert_close((double)f->mean[row], want.mean, MPT_F32, 1e-6);
        assert_close((double)f->rstd[row], want.rstd, MPT_F32, 1e-5 * want.rstd);
        for (int64_t i = 0; i < a->dim; i++) {
            const double xhat =
                (mpt_load(sum, a->compute, row * a->dim + i) - want.mean) * want.rstd;
            const double y =
                mpt_load(f->gamma, a->compute, i) * xhat + mpt_load(f->beta, a->compute, i);
            assert_close(mpt_load(f->y, a->compute, row * a->dim + i), y, a->compute,
                         2e-5 * (1.0 + fabs(xhat)));
        }
    }
}

static void check_forward(rig_t *rig, mpt_dtype_t dtype, shape_t shape)
{
    forward_t f = forward_make(dtype, shape, 1);
    const int64_t count = shape.rows * shape.dim;
    const size_t bytes = (size_t)count * mpt_dtype_bytes(dtype);
    void *want = guarded_of(count, dtype);
    for (int64_t i = 0; i < count; i++)
        mpt_store(want, dtype, i, mpt_load(f.x, dtype, i) + mpt_load(f.delta, dtype, i));
    assert_int_equal(mpt_layernorm_forward(&rig->k, &f.args, NULL), MPT_OK);
    assert_memory_equal(f.sum, want, bytes);
    check_normalised(&f, want);
    void *y = duplicate(f.y);
    /* In place of either input. */
    for (int place = 0; place < 2; place++) {
        forward_t again = forward_make(dtype, shape, 1);
        again.args.sum = place == 0 ? again.x : again.delta;
        assert_int_equal(mpt_layernorm_forward(&rig->k, &again.args, NULL), MPT_OK);
        assert_memory_equal(again.args.sum, want, bytes);
        assert_memory_equal(again.y, y, bytes);
        forward_free(&again);
    }
    release(y);
    release(want);
    forward_free(&f);
}

static void for_all(void (*check)(rig_t *rig, mpt_dtype_t dtype, shape_t shape))
{
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++)
            for (int d = 0; d < RUN_DTYPES; d++) {
                rig_t rig;
                rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], run_dtypes[d], MAX_DIM, 1);
                for (int i = 0; i < SHAPES; i++)
                    check(&rig, run_dtypes[d], shapes[i]);
                rig_close(&rig);
            }
}

static void forward_normalises_the_rounded_residual_sum(void **state)
{
    (void)state;
    for_all(check_forward);
}

static void check_plain(rig_t *rig, mpt_dtype_t dtype, shape_t shape)
{
    forward_t f = forward_make(dtype, shape, 0);
    void *untouched = duplicate(f.sum);
    assert_int_equal(mpt_layernorm_forward(&rig->k, &f.args, NULL), MPT_OK);
    assert_memory_equal(f.sum, untouched,
                        (size_t)(shape.rows * shape.dim) * mpt_dtype_bytes(dtype));
    check_normalised(&f, f.x);
    f.args.sum = NULL;
    assert_int_equal(mpt_layernorm_forward(&rig->k, &f.args, NULL), MPT_OK);
    release(untouched);
    forward_free(&f);
}

static void forward_without_delta_writes_no_sum(void **state)
{
    (void)state;
    for_all(check_plain);
}

/* E[x^2] - E[x]^2 in FP32 would have no digit left here. */
static void forward_keeps_the_variance_beside_a_large_mean(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, MPT_F32, MAX_DIM, 1);
        forward_t f = forward_make(MPT_F32, (shape_t){4, 300}, 0);
        release(f.x);
        f.args.x = f.x = random_array(4 * 300, MPT_F32, 8192.0, 1.0, 9);
        assert_int_equal(mpt_layernorm_forward(&rig.k, &f.args, NULL), MPT_OK);
        for (int64_t row = 0; row < 4; row++) {
            const statistics_t want = row_statistics(f.x, MPT_F32, row, 300);
            assert_true(fabs((double)f.rstd[row] / want.rstd - 1.0) <= 1e-5);
        }
        forward_free(&f);
        rig_close(&rig);
    }
}

/* One NaN makes its own row NaN and no other. */
static void forward_keeps_nan_within_its_row(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int d = 0; d < RUN_DTYPES; d++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, 1, run_dtypes[d], MAX_DIM, 1);
            forward_t f = forward_make(run_dtypes[d], (shape_t){3, 37}, 1);
            mpt_store(f.x, run_dtypes[d], 37 + 36, NAN);
            assert_int_equal(mpt_layernorm_forward(&rig.k, &f.args, NULL), MPT_OK);
            for (int64_t i = 0; i < 3 * 37; i++)
                assert_int_equal(isnan(mpt_load(f.y, run_dtypes[d], i)) != 0, i / 37 == 1);
            forward_free(&f);
            rig_close(&rig);
        }
}

/* ---- backward
 * ---------------------------------------------------------------------------------- */

typedef struct backward {
    mpt_layernorm_backward_t args;
    void *dy, *x, *gamma, *dres, *dx;
    float *mean, *rstd, *dgamma, *dbeta;
} backward_t;

static backward_t backward_make(mpt_dtype_t dtype, shape_t shape)
{
    const int64_t count = shape.rows * shape.dim;
    backward_t b = {
        .dy = random_array(count, dtype, 0.0, 1.0, 11),
        .x = random_array(count, dtype, 0.3, 1.0, 12),
        .gamma = random_array(shape.dim, dtype, 1.0, 0.5, 13),
        .dres = random_array(count, dtype, 0.0, 1.0, 14),
        .dx = guarded_of(count, dtype),
        .mean = guarded_of(shape.rows, MPT_F32),
        .rstd = guarded_of(shape.rows, MPT_F32),
        .dgamma = random_array(shape.dim, MPT_F32, 0.0, 1.0, 15),
        .dbeta = random_array(shape.dim, MPT_F32, 0.0, 1.0, 16),
    };
    for (int64_t row = 0; row < shape.rows; row++) {
        const statistics_t s = row_statistics(b.x, dtype, row, shape.dim);
        b.mean[row] = (float)s.mean;
        b.rstd[row] = (float)s.rstd;
    }
    b.args = (mpt_layernorm_backward_t){dtype,  shape.rows, shape.dim, b.dy, b.x,      b.gamma,
                                        b.mean, b.rstd,     b.dres,    b.dx, b.dgamma, b.dbeta};
    return b;
}

static void backward_free(backward_t *b)
{
    void *arrays[] = {b->dy, b->x, b->gamma, b->dres, b->dx, b->mean, b->rstd, b->dgamma, b->dbeta};
    for (int i = 0; i < 9; i++)
        release(arrays[i]);
}

static double xhat_at(const backward_t *b, int64_t row, int64_t i)
{
    const double x = mpt_load(b->x, b->args.compute, row * b->args.dim + i);
    return (x - (double)b->mean[row]) * (double)b->rstd[row];
}

/* dx = dres + rstd (g - mean(g) - xhat mean(g xhat)), g = dy gamma. */
static void check_dx(const backward_t *b, const void *dx, int with_dres)
{
    const mpt_layernorm_backward_t *a = &b->args;
    for (int64_t row = 0; row < a->rows; row++) {
        const double rstd = (double)b->rstd[row];
        double mean_g = 0.0, mean_gx = 0.0;
        for (int64_t i = 0; i < a->dim; i++) {
            const double g =
                mpt_load(b->dy, a->compute, row * a->dim + i) * mpt_load(b->gamma, a->compute, i);
            mean_g += g / (double)a->dim;
            mean_gx += g * xhat_at(b, row, i) / (double)a->dim;
        }
        for (int64_t i = 0; i < a->dim; i++) {
            const int64_t at = row * a->dim + i;
            const double g = mpt_load(b->dy, a->compute, at) * mpt_load(b->gamma, a->compute, i);
            double want = rstd * (g - mean_g - xhat_at(b, row, i) * mean_gx);
            want += with_dres ? mpt_load(b->dres, a->compute, at) : 0.0;
            assert_close(mpt_load(dx, a->compute, at), want, a->compute, 2e-6 * (4.0 + 4.0 * rstd));
        }
    }
}

static void check_parameter_gradients(const backward_t *b, const float *dgamma, const float *dbeta)
{
    const mpt_layernorm_backward_t *a = &b->args;
    for (int64_t i = 0; i < a->dim; i++) {
        double want_gamma = (double)dgamma[i], want_beta = (double)dbeta[i], size = 1.0;
        for (int64_t row = 0; row < a->rows; row++) {
            const double dy = mpt_load(b->dy, a->compute, row * a->dim + i);
            want_gamma += dy * xhat_at(b, row, i);
            want_beta += dy;
            size += 2.0 * fabs(dy);
        }
        assert_close((double)b->dgamma[i], want_gamma, MPT_F32, 1e-6 * size);
        assert_close((double)b->dbeta[i], want_beta, MPT_F32, 1e-6 * size);
    }
}

static void check_backward(rig_t *rig, mpt_dtype_t dtype, shape_t shape)
{
    const size_t bytes = (size_t)(shape.rows * shape.dim) * mpt_dtype_bytes(dtype);
    backward_t b = backward_make(dtype, shape);
    float *dgamma = duplicate(b.dgamma), *dbeta = duplicate(b.dbeta);
    assert_int_equal(mpt_layernorm_backward(&rig->k, &b.args, NULL), MPT_OK);
    check_dx(&b, b.dx, 1);
    check_parameter_gradients(&b, dgamma, dbeta);
    /* In place of dres, and of dy. */
    for (int place = 0; place < 2; place++) {
        backward_t again = backward_make(dtype, shape);
        again.args.dx = place == 0 ? again.dres : again.dy;
        assert_int_equal(mpt_layernorm_backward(&rig->k, &again.args, NULL), MPT_OK);
        assert_memory_equal(again.args.dx, b.dx, bytes);
        assert_memory_equal(again.dgamma, b.dgamma, (size_t)shape.dim * sizeof(float));
        backward_free(&again);
    }
    b.args.dres = NULL;
    assert_int_equal(mpt_layernorm_backward(&rig->k, &b.args, NULL), MPT_OK);
    check_dx(&b, b.dx, 0);
    release(dgamma);
    release(dbeta);
    backward_free(&b);
}

static void backward_gives_input_and_parameter_gradients(void **state)
{
    (void)state;
    for_all(check_backward);
}

static void results_do_not_depend_on_threads(void **state)
{
    (void)state;
    const shape_t shape = {333, 129};
    const size_t bytes = (size_t)(shape.rows * shape.dim) * sizeof(float);
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        backward_t first = backward_make(MPT_F32, shape);
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_F32, MAX_DIM, 1);
            backward_t b = backward_make(MPT_F32, shape);
            backward_t *into = t == 0 ? &first : &b;
            assert_int_equal(mpt_layernorm_backward(&rig.k, &into->args, NULL), MPT_OK);
            if (t > 0) {
                assert_memory_equal(b.dx, first.dx, bytes);
                assert_memory_equal(b.dgamma, first.dgamma, (size_t)shape.dim * sizeof(float));
                assert_memory_equal(b.dbeta, first.dbeta, (size_t)shape.dim * sizeof(float));
            }
            backward_free(&b);
            rig_close(&rig);
        }
        backward_free(&first);
    }
}

static void backward_refuses_scratch_that_is_too_small(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, MPT_ISA_PORTABLE, 1, MPT_F32, MAX_DIM, 1);
    backward_t b = backward_make(MPT_F32, (shape_t){2, 96});
    rig.k.scratch_bytes = 64;
    assert_int_equal(rig.k.ops->layernorm_backward(&rig.k, &b.args, NULL), MPT_ERR_INVALID_ARG);
    backward_free(&b);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_normalises_the_rounded_residual_sum),
        cmocka_unit_test(forward_without_delta_writes_no_sum),
        cmocka_unit_test(forward_keeps_the_variance_beside_a_large_mean),
        cmocka_unit_test(forward_keeps_nan_within_its_row),
        cmocka_unit_test(backward_gives_input_and_parameter_gradients),
        cmocka_unit_test(results_do_not_depend_on_threads),
        cmocka_unit_test(backward_refuses_scratch_that_is_too_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
