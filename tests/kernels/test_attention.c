#include "elementwise_fixture.h"

/* One problem: inputs, and what the exact attention of these inputs is. */
typedef struct problem {
    mpt_dtype_t compute;
    int64_t batch, seq, heads, head_dim, elements; /* elements of out */
    void *qkv, *dout;
    double *out, *lse, *dqkv;                   /* exact, from the rounded inputs */
    double *out_scale, *dqkv_scale, *lse_scale; /* what errors are in proportion to */
} problem_t;

/* What one run left. */
typedef struct result {
    void *out, *dqkv;
    float *lse;
} result_t;

/* ---- the oracle ------------------------------------------------------------------------------ */

static int64_t row_at(const problem_t *p, int64_t b, int64_t t, int64_t h)
{
    return ((b * p->seq + t) * p->heads + h) * p->head_dim;
}

static int64_t part_at(const problem_t *p, int64_t b, int64_t t, int part, int64_t h)
{
    return (((b * p->seq + t) * 3 + part) * p->heads + h) * p->head_dim;
}

/* Doubles of part 0 (q), 1 (k) or 2 (v) of one head, or of dout (-1). */
static double *head_of(const problem_t *p, int64_t b, int64_t h, int part)
{
    double *x = malloc((size_t)(p->seq * p->head_dim) * sizeof *x);
    assert_non_null(x);
    for (int64_t t = 0; t < p->seq; t++)
        for (int64_t d = 0; d < p->head_dim; d++)
            x[t * p->head_dim + d] =
                part < 0 ? mpt_load(p->dout, p->compute, row_at(p, b, t, h) + d)
                         : mpt_load(p->qkv, p->compute, part_at(p, b, t, part, h) + d);
    return x;
}

static double dot(const double *x, const double *y, int64_t count)
{
    double sum = 0;
    for (int64_t d = 0; d < count; d++)
        sum += x[d] * y[d];
    return sum;
}

/* y += a x, and scale += |a x|. */
static void add(double *y, double *scale, double a, const double *x, int64_t count)
{
    for (int64_t d = 0; d < count; d++) {
        y[d] += a * x[d];
        scale[d] += fabs(a * x[d]);
    }
}

/* Row i of forward and what it gives back, with all probabilities of the row at hand. */
static void exact_row(problem_t *p, int64_t b, int64_t h, int64_t i, double *const x[4],
                      double *prob)
{
    const int64_t n = p->head_dim, at = row_at(p, b, i, h),
                  lse_at = (b * p->heads + h) * p->seq + i;
    const double *q = x[0] + i * n, *dout = x[3] + i * n, scale = 1 / sqrt((double)n);
    double top = -INFINITY, sum = 0, largest = 0, average, dp_size = 0;
    for (int64_t j = 0; j <= i; j++) {
        prob[j] = scale * dot(q, x[1] + j * n, n);
        top = fmax(top, prob[j]);
        largest = fmax(largest, fabs(prob[j]));
    }
    for (int64_t j = 0; j <= i; j++)
        sum += exp(prob[j] - top);
    p->lse[lse_at] = top + log(sum);
    p->lse_scale[lse_at] = largest + 1;
    for (int64_t j = 0; j <= i; j++) {
        prob[j] = exp(prob[j] - p->lse[lse_at]);
        add(p->out + at, p->out_scale + at, prob[j], x[2] + j * n, n);
    }
    average = dot(dout, p->out + at, n);
    for (int64_t d = 0; d < n; d++) /* dP - D cancels: its error is in proportion to what went in */
        dp_size += fabs(dout[d]) * (p->out_scale[at + d] + 1);
    for (int64_t j = 0; j <= i; j++) {
        const double ds = prob[j] * (dot(dout, x[2] + j * n, n) - average) * scale;
        const int64_t dq = part_at(p, b, i, 0, h), dk = part_at(p, b, j, 1, h);
        const int64_t dv = part_at(p, b, j, 2, h);
        add(p->dqkv + dv, p->dqkv_scale + dv, prob[j], dout, n);
        for (int64_t d = 0; d < n; d++) {
            p->dqkv[dq + d] += ds * x[1][j * n + d];
            p->dqkv[dk + d] += ds * q[d];
            p->dqkv_scale[dq + d] += prob[j] * dp_size * scale * fabs(x[1][j * n + d]);
            p->dqkv_scale[dk + d] += prob[j] * dp_size * scale * fabs(q[d]);
        }
    }
}

static double *zeros(int64_t count)
{
    double *x = calloc((size_t)count, sizeof *x);
    assert_non_null(x);
    return x;
}

static void solve(problem_t *p)
{
    double *prob = zeros(p->seq);
    p->out = zeros(p->elements);
    p->out_scale = zeros(p->elements);
    p->dqkv = zeros(3 * p->elements);
    p->dqkv_scale = zeros(3 * p->elements);
    p->lse = zeros(p->elements / p->head_dim);
    p->lse_scale = zeros(p->elements / p->head_dim);
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t h = 0; h < p->heads; h++) {
            double *const x[4] = {head_of(p, b, h, 0), head_of(p, b, h, 1), head_of(p, b, h, 2),
                                  head_of(p, b, h, -1)};
            for (int64_t i = 0; i < p->seq; i++)
                exact_row(p, b, h, i, x, prob);
            for (int part = 0; part < 4; part++)
                free(x[part]);
        }
    free(prob);
}

/* ---- problems and runs ----------------------------------------------------------------------- */

static problem_t problem_open(mpt_dtype_t compute, const int64_t n[4], double spread, uint64_t seed)
{
    problem_t p = {.compute = compute,
                   .batch = n[0],
                   .seq = n[1],
                   .heads = n[2],
                   .head_dim = n[3],
                   .elements = n[0] * n[1] * n[2] * n[3]};
    p.qkv = random_array(3 * p.elements, compute, 0, spread, seed);
    p.dout = random_array(p.elements, compute, 0, 1, seed + 1);
    return p;
}

static void problem_close(problem_t *p)
{
    release(p->qkv);
    release(p->dout);
    free(p->out);
    free(p->out_scale);
    free(p->lse);
    free(p->lse_scale);
    free(p->dqkv);
    free(p->dqkv_scale);
}

static void set(problem_t *p, int64_t t, int part, int64_t h, int64_t d, double value)
{
    mpt_store(p->qkv, p->compute, part_at(p, 0, t, part, h) + d, value);
}

static mpt_kernels_limits_t limits_of(const problem_t *p)
{
    return (mpt_kernels_limits_t){.compute = p->compute,
                                  .batch = p->batch,
                                  .seq = p->seq,
                                  .heads = p->heads,
                                  .head_dim = p->head_dim,
                                  .rows = 1,
                                  .dim = 1,
                                  .hidden = 1,
                                  .vocab_padded = 1,
                                  .loss_rows = 1};
}

/* The scratch is between guards and starts as NaN. */
static void attention_rig_open(rig_t *rig, const problem_t *p, mpt_isa_t isa, int threads)
{
    const mpt_kernels_limits_t limits = limits_of(p);
    const mpt_pool_params_t params = {.threads = threads, .yield = 1};
    const mpt_kernels_ops_t *ops = mpt_kernels_find("cpu");
    const size_t bytes = mpt_kernels_scratch_bytes(ops, isa, threads, &limits);
    assert_int_equal(mpt_pool_create(&params, &rig->pool), MPT_OK);
    assert_int_equal(mpt_device_cpu_create(rig->pool, NULL, &rig->device), MPT_OK);
    rig->scratch = guarded((int64_t)bytes, 1);
    assert_int_equal(
        mpt_kernels_init(&rig->k, ops, rig->device, NULL, isa, rig->scratch, bytes, &limits),
        MPT_OK);
}

static void attention_rig_close(rig_t *rig)
{
    release(rig->scratch);
    mpt_device_destroy(rig->device);
    mpt_pool_destroy(rig->pool);
}

static mpt_status_t forward(rig_t *rig, const problem_t *p, const result_t *r)
{
    const mpt_attention_forward_t a = {p->compute,  p->batch, p->seq, p->heads,
                                       p->head_dim, p->qkv,   r->out, r->lse};
    return mpt_attention_forward(&rig->k, &a, NULL);
}

static mpt_status_t backward(rig_t *rig, const problem_t *p, const result_t *r)
{
    const mpt_attention_backward_t a = {p->compute, p->batch, p->seq,  p->heads, p->head_dim,
                                        p->qkv,     r->out,   p->dout, r->lse,   r->dqkv};
    return mpt_attention_backward(&rig->k, &a, NULL);
}

/* Forward and backward; the caller releases what they left. */
static result_t run(const problem_t *p, mpt_isa_t isa, int threads)
{
    rig_t rig;
    const result_t r = {.out = guarded_of(p->elements, p->compute),
                        .dqkv = guarded_of(3 * p->elements, p->compute),
                        .lse = guarded_of(p->elements / p->head_dim, MPT_F32)};
    attention_rig_open(&rig, p, isa, threads);
    assert_int_equal(forward(&rig, p, &r), MPT_OK);
    assert_int_equal(backward(&rig, p, &r), MPT_OK);
    attention_rig_close(&rig);
    return r;
}

static void result_close(result_t *r)
{
    release(r->out);
    release(r->dqkv);
    release(r->lse);
}

/* `share` of scale, rounding of the result, and products that 16-bit types round to nothing. */
static void check_array(const problem_t *p, const char *name, mpt_isa_t isa, const void *got,
                        mpt_dtype_t dtype, const double *want, const double *scale, double share,
                        int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const double x = mpt_load(got, dtype, i);
        const double slack = share * scale[i] + unit_of(dtype) * fabs(want[i]) +
                             4 * step_of(p->compute) * (double)p->seq;
        if (!(fabs(x - want[i]) <= slack))
            fail_msg("%s %s %s [%lld] of %lldx%lldx%lldx%lld: got %.9g, want %.9g, slack %.3g",
                     mpt_isa_name(isa), mpt_dtype_name(p->compute), name, (long long)i,
                     (long long)p->batch, (long long)p->seq, (long long)p->heads,
                     (long long)p->head_dim, x, want[i], slack);
    }
}

/* P and dS carry a rounding to compute each, scores the FP32 error of a sum of their own size. */
static void check(const problem_t *p, mpt_isa_t isa, const result_t *r)
{
    double largest = 0;
    for (int64_t i = 0; i < p->elements / p->head_dim; i++)
        largest = fmax(largest, p->lse_scale[i]);
    const double fp32 = 4e-7 * (16 + largest) + (p->compute == MPT_F16 ? 0x1p-18 * largest : 0);
    const double share = 3 * unit_of(p->compute) + fp32;
    check_array(p, "lse", isa, r->lse, MPT_F32, p->lse, p->lse_scale, fp32,
                p->elements / p->head_dim);
    check_array(p, "out", isa, r->out, p->compute, p->out, p->out_scale, share, p->elements);
    check_array(p, "dqkv", isa, r->dqkv, p->compute, p->dqkv, p->dqkv_scale, share,
                3 * p->elements);
}

static void check_every_level(problem_t *p)
{
    solve(p);
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++) {
        result_t r = run(p, (mpt_isa_t)isa, 2);
        check(p, (mpt_isa_t)isa, &r);
        result_close(&r);
    }
}

/* ---- against the oracle ---------------------------------------------------------------------- */

/* Fewer and more rows than blocks have, and than a vector or a tile; widths that fill neither. */
static const int64_t shapes[][4] = {
    {1, 1, 1, 1},    {1, 2, 1, 5},    {2, 7, 3, 5},    {1, 33, 1, 33},  {1, 64, 2, 64},
    {2, 130, 2, 80}, {1, 97, 1, 128}, {1, 129, 1, 16}, {1, 70, 1, 200}, {1, 1000, 1, 64}};
#define SHAPES (sizeof shapes / sizeof shapes[0])

static void forward_and_backward_match_a_double_oracle(void **state)
{
    (void)state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int t = 0; t < RUN_DTYPES; t++) {
            problem_t p = problem_open(run_dtypes[t], shapes[s], 1.5, 100 + s);
            check_every_level(&p);
            problem_close(&p);
        }
}

/* Scores from -80 to 80 and back again along the keys: exp of them overflows, and the running
 * maximum rises far within a block, from block to block, and not at all for long. */
static void scores_of_eighty_neither_overflow_nor_vanish(void **state)
{
    static const int64_t n[4] = {1, 300, 1, 4};
    (void)state;
    for (int t = 0; t < RUN_DTYPES; t++) {
        problem_t p = problem_open(run_dtypes[t], n, 1, 7);
        for (int64_t i = 0; i < n[1]; i++) {
            const double wave = i < 200 ? (double)i / 100 - 1 : 3 - (double)i / 100;
            for (int64_t d = 0; d < n[3]; d++) {
                set(&p, i, 0, 0, d, i % 3 == 2 ? -8 : 8);
                set(&p, i, 1, 0, d, 5 * wave + (double)d / 16);
            }
        }
        check_every_level(&p);
        problem_close(&p);
    }
}

/* ---- against itself -------------------------------------------------------------------------- */

static void assert_same(const problem_t *p, const result_t *a, const result_t *b)
{
    const size_t element = mpt_dtype_bytes(p->compute), count = (size_t)p->elements;
    assert_memory_equal(a->out, b->out, count * element);
    assert_memory_equal(a->dqkv, b->dqkv, 3 * count * element);
    assert_memory_equal(a->lse, b->lse, count / (size_t)p->head_dim * sizeof(float));
}

/* One head and few heads: then tasks are parts of heads, and which parts follows the threads. */
static void bits_do_not_depend_on_threads(void **state)
{
    static const int64_t n[][4] = {{1, 300, 1, 40}, {1, 450, 3, 8}, {2, 40, 4, 16}};
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (size_t s = 0; s < sizeof n / sizeof n[0]; s++)
            for (int t = 0; t < RUN_DTYPES; t++) {
                problem_t p = problem_open(run_dtypes[t], n[s], 2, 11);
                result_t one = run(&p, (mpt_isa_t)isa, 1);
                for (int threads = 2; threads <= 4; threads++) {
                    result_t more = run(&p, (mpt_isa_t)isa, threads);
                    assert_same(&p, &one, &more);
                    result_close(&more);
                }
                result_close(&one);
                problem_close(&p);
            }
}

/* Rows [first, last) of one part (of out: -1) are the same in two results with one head. */
static void assert_same_rows(const problem_t *p, const result_t *a, const result_t *b, int part,
                             int64_t first, int64_t last)
{
    const size_t element = mpt_dtype_bytes(p->compute), row = (size_t)p->head_dim * element;
    for (int64_t t = first; t < last; t++) {
        const size_t at =
            (size_t)(part < 0 ? row_at(p, 0, t, 0) : part_at(p, 0, t, part, 0)) * element;
        const char *x = part < 0 ? a->out : a->dqkv, *y = part < 0 ? b->out : b->dqkv;
        assert_memory_equal(x + at, y + at, row);
    }
}

/* All of row t of a part (of out: -1) are not finite. */
static void assert_bad_row(const problem_t *p, const result_t *r, int part, int64_t t)
{
    for (int64_t d = 0; d < p->head_dim; d++) {
        const double x = part < 0 ? mpt_load(r->out, p->compute, row_at(p, 0, t, 0) + d)
                                  : mpt_load(r->dqkv, p->compute, part_at(p, 0, t, part, 0) + d);
        assert_false(isfinite(x));
    }
}

/* Change everything of one token, to `value`. */
static void change_token(problem_t *p, int64_t t, double value)
{
    for (int64_t d = 0; d < p->head_dim; d++) {
        for (int part = 0; part < 3; part++)
            set(p, t, part, 0, d, value);
        mpt_store(p->dout, p->compute, row_at(p, 0, t, 0) + d, value);
    }
}

/* Forward and dQ look back only, dK and dV ahead only: bit for bit, whatever the token becomes. */
static void a_token_reaches_later_outputs_and_earlier_gradients_only(void **state)
{
    static const int64_t n[4] = {1, 260, 1, 24};
    static const double values[] = {3, NAN, INFINITY, -INFINITY};
    static const int64_t tokens[] = {0, 1, 40, 129, 259};
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (int dtype = 0; dtype < RUN_DTYPES; dtype++) {
            problem_t p = problem_open(run_dtypes[dtype], n, 1.5, 13);
            result_t before = run(&p, (mpt_isa_t)isa, 1);
            for (size_t v = 0; v < sizeof values / sizeof values[0]; v++)
                for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
                    const int64_t t = tokens[i];
                    problem_t changed = p;
                    changed.qkv = duplicate(p.qkv);
                    changed.dout = duplicate(p.dout);
                    change_token(&changed, t, values[v]);
                    result_t after = run(&changed, (mpt_isa_t)isa, 1);
                    assert_same_rows(&p, &before, &after, -1, 0, t);
                    assert_memory_equal(before.lse, after.lse, (size_t)t * sizeof(float));
                    assert_same_rows(&p, &before, &after, 0, 0, t);
                    result_close(&after);
                    release(changed.qkv);
                    release(changed.dout);
                }
            result_close(&before);
            problem_close(&p);
        }
}

/* dK and dV of tokens after i do not see query i, even where its gradient is NaN. */
static void a_query_reaches_gradients_of_earlier_keys_only(void **state)
{
    static const int64_t n[4] = {1, 200, 1, 24}, token = 70;
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (int dtype = 0; dtype < RUN_DTYPES; dtype++) {
            problem_t p = problem_open(run_dtypes[dtype], n, 1.5, 17);
            result_t before = run(&p, (mpt_isa_t)isa, 1);
            mpt_store(p.dout, p.compute, row_at(&p, 0, token, 0) + 3, NAN);
            set(&p, token, 0, 0, 5, INFINITY);
            result_t after = run(&p, (mpt_isa_t)isa, 1);
            assert_same_rows(&p, &before, &after, 1, token + 1, n[1]);
            assert_same_rows(&p, &before, &after, 2, token + 1, n[1]);
            assert_same_rows(&p, &before, &after, 0, token + 1, n[1]);
            for (int64_t i = 0; i <= token; i++)
                assert_bad_row(&p, &after, 1, i);
            result_close(&before);
            result_close(&after);
            problem_close(&p);
        }
}

/* ---- non-finite values ----------------------------------------------------------------------- */

static void a_bad_query_shows_in_its_row(void **state)
{
    static const int64_t n[4] = {1, 150, 1, 20}, token = 100;
    static const double values[] = {NAN, INFINITY, -INFINITY};
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (int dtype = 0; dtype < RUN_DTYPES; dtype++)
            for (int v = 0; v < 3; v++) {
                problem_t p = problem_open(run_dtypes[dtype], n, 1.5, 19);
                set(&p, token, 0, 0, 7, values[v]);
                result_t r = run(&p, (mpt_isa_t)isa, 1);
                assert_bad_row(&p, &r, -1, token);
                assert_false(isfinite(r.lse[token]));
                assert_bad_row(&p, &r, 0, token);
                assert_bad_row(&p, &r, 1, 0);
                result_close(&r);
                problem_close(&p);
            }
}

/* A NaN key is seen by each later query; a bad value in its own column only. */
static void a_bad_key_or_value_shows_in_every_later_row(void **state)
{
    static const int64_t n[4] = {1, 150, 1, 20}, token = 70, column = 9;
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (int dtype = 0; dtype < RUN_DTYPES; dtype++) {
            problem_t p = problem_open(run_dtypes[dtype], n, 1.5, 23);
            set(&p, token, 2, 0, column, -INFINITY);
            result_t r = run(&p, (mpt_isa_t)isa, 1);
            for (int64_t t = token; t < n[1]; t++)
                for (int64_t d = 0; d < n[3]; d++) {
                    const double x = mpt_load(r.out, p.compute, row_at(&p, 0, t, 0) + d);
                    assert_int_equal(isfinite(x), d != column);
                }
            result_close(&r);
            set(&p, token, 1, 0, column, NAN);
            r = run(&p, (mpt_isa_t)isa, 1);
            for (int64_t t = token; t < n[1]; t++) {
                assert_bad_row(&p, &r, -1, t);
                assert_bad_row(&p, &r, 0, t);
            }
            result_close(&r);
            problem_close(&p);
        }
}

/* A bad output gradient shows in its column of dV, for each key that its query sees. */
static void a_bad_output_gradient_shows_in_every_earlier_key(void **state)
{
    static const int64_t n[4] = {1, 150, 1, 20}, token = 70, column = 9;
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (int dtype = 0; dtype < RUN_DTYPES; dtype++) {
            problem_t p = problem_open(run_dtypes[dtype], n, 1.5, 31);
            mpt_store(p.dout, p.compute, row_at(&p, 0, token, 0) + column, INFINITY);
            result_t r = run(&p, (mpt_isa_t)isa, 1);
            assert_bad_row(&p, &r, 0, token);
            for (int64_t t = 0; t < n[1]; t++)
                for (int64_t d = 0; d < n[3]; d++) {
                    const double x = mpt_load(r.dqkv, p.compute, part_at(&p, 0, t, 2, 0) + d);
                    assert_int_equal(isfinite(x), t > token || d != column);
                }
            result_close(&r);
            problem_close(&p);
        }
}

/* An infinite key that every query scores at -inf has no weight; but 0 times it is NaN in dQ. (FP16
 * products on tiles make NaN of such scores.) */
static void an_infinite_key_without_weight_shows_in_the_gradient_alone(void **state)
{
    static const int64_t n[4] = {1, 150, 1, 20}, token = 70, column = 9;
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (int dtype = 0; dtype < 2; dtype++) {
            problem_t p = problem_open(run_dtypes[dtype], n, 1.5, 37);
            for (int64_t t = 0; t < n[1]; t++)
                set(&p, t, 0, 0, column, -1);
            set(&p, token, 1, 0, column, INFINITY);
            result_t r = run(&p, (mpt_isa_t)isa, 1);
            for (int64_t t = 0; t < n[1]; t++) {
                assert_true(isfinite(r.lse[t]));
                for (int64_t d = 0; d < n[3]; d++) {
                    const double dq = mpt_load(r.dqkv, p.compute, part_at(&p, 0, t, 0, 0) + d);
                    const double out = mpt_load(r.out, p.compute, row_at(&p, 0, t, 0) + d);
                    assert_true(isfinite(out));
                    assert_int_equal(isfinite(dq), t < token || d != column);
                }
            }
            result_close(&r);
            problem_close(&p);
        }
}

/* ---- gradients, scratch ---------------------------------------------------------------------- */

/* Sum of out * dout. */
static double loss_of(const problem_t *p, rig_t *rig, const result_t *r)
{
    assert_int_equal(forward(rig, p, r), MPT_OK);
    double sum = 0;
    for (int64_t i = 0; i < p->elements; i++)
        sum += mpt_load(r->out, MPT_F32, i) * mpt_load(p->dout, MPT_F32, i);
    return sum;
}

static void gradients_match_finite_differences(void **state)
{
    static const int64_t n[4] = {1, 40, 2, 6};
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++) {
        problem_t p = problem_open(MPT_F32, n, 1.5, 29);
        result_t r = run(&p, (mpt_isa_t)isa, 1);
        rig_t rig;
        attention_rig_open(&rig, &p, (mpt_isa_t)isa, 1);
        for (int64_t i = 0; i < 3 * p.elements; i += 7) {
            const double x = mpt_load(p.qkv, MPT_F32, i), step = 0x1p-6;
            mpt_store(p.qkv, MPT_F32, i, x + step);
            const double above = loss_of(&p, &rig, &r);
            mpt_store(p.qkv, MPT_F32, i, x - step);
            const double below = loss_of(&p, &rig, &r);
            mpt_store(p.qkv, MPT_F32, i, x);
            const double difference = (above - below) / (2 * step);
            const double gradient = mpt_load(r.dqkv, MPT_F32, i);
            assert_true(fabs(difference - gradient) <= 2e-3 * (1 + fabs(gradient)));
        }
        attention_rig_close(&rig);
        result_close(&r);
        problem_close(&p);
    }
}

/* An upper bound for every smaller shape, linear in the threads, and not quadratic in seq. */
static void scratch_grows_with_the_limits(void **state)
{
    const mpt_kernels_ops_t *ops = mpt_kernels_find("cpu");
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < RUN_DTYPES; t++) {
            static const int64_t n[4] = {1, 4096, 1, 128};
            problem_t p = {.compute = run_dtypes[t], .batch = n[0], .heads = n[2]};
            size_t last = 0;
            for (p.seq = 1; p.seq <= n[1]; p.seq += 37)
                for (p.head_dim = p.seq % 2 ? 1 : 64; p.head_dim <= n[3]; p.head_dim += 64) {
                    const mpt_kernels_limits_t limits = limits_of(&p);
                    const size_t bytes = mpt_kernels_scratch_bytes(ops, (mpt_isa_t)isa, 1, &limits);
                    assert_true(mpt_kernels_scratch_bytes(ops, (mpt_isa_t)isa, 4, &limits) >=
                                bytes);
                    last = bytes > last ? bytes : last;
                }
            p.seq = n[1];
            p.head_dim = n[3];
            const mpt_kernels_limits_t limits = limits_of(&p);
            const size_t most = mpt_kernels_scratch_bytes(ops, (mpt_isa_t)isa, 1, &limits);
            assert_true(most >= last);
            assert_true(most < (size_t)(n[1] * n[1]));
        }
}

static void too_little_scratch_is_refused(void **state)
{
    static const int64_t n[4] = {1, 40, 2, 6};
    (void)state;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect(); isa++) {
        problem_t p = problem_open(MPT_F32, n, 1.5, 29);
        result_t r = run(&p, (mpt_isa_t)isa, 1);
        rig_t rig;
        attention_rig_open(&rig, &p, (mpt_isa_t)isa, 1);
        rig.k.scratch_bytes = 100;
        assert_int_equal(forward(&rig, &p, &r), MPT_ERR_INVALID_ARG);
        assert_int_equal(backward(&rig, &p, &r), MPT_ERR_INVALID_ARG);
        attention_rig_close(&rig);
        result_close(&r);
        problem_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_and_backward_match_a_double_oracle),
        cmocka_unit_test(scores_of_eighty_neither_overflow_nor_vanish),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(a_token_reaches_later_outputs_and_earlier_gradients_only),
        cmocka_unit_test(a_query_reaches_gradients_of_earlier_keys_only),
        cmocka_unit_test(a_bad_query_shows_in_its_row),
        cmocka_unit_test(a_bad_key_or_value_shows_in_every_later_row),
        cmocka_unit_test(a_bad_output_gradient_shows_in_every_earlier_key),
        cmocka_unit_test(an_infinite_key_without_weight_shows_in_the_gradient_alone),
        cmocka_unit_test(gradients_match_finite_differences),
        cmocka_unit_test(scratch_grows_with_the_limits),
        cmocka_unit_test(too_little_scratch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
