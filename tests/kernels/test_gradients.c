/*
 * Every operation's backward against finite differences of the oracle's forward, wholly in FP64. The
 * objective is a fixed weighted sum of everything that forward puts out; differences are central with
 * five points, so that what is left of both errors lies far below the tolerance.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kernels.h"

#define STEP 1e-3
#define TOLERANCE 1e-8

/* ---- arrays and differences -------------------------------------------------------------------------- */

/* Reproducible values in (-1, 1); `seed` tells arrays apart. */
static double *values(int64_t count, uint64_t seed)
{
    double *array = test_malloc((size_t)count * sizeof *array);
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        array[i] = (double)(int64_t)(state >> 11) * 0x1p-52 - 1;
    }
    return array;
}

static double *zeros(int64_t count)
{
    return test_calloc((size_t)count, sizeof(double));
}

static double weighted(const double *array, const double *weights, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += array[i] * weights[i];
    return sum;
}

static mpt_kernels_t oracle(void)
{
    static const mpt_kernels_limits_t limits = {.compute = MPT_F64,
                                                .batch = 8,
                                                .seq = 64,
                                                .heads = 8,
                                                .head_dim = 256,
                                                .rows = 64,
                                                .dim = 64,
                                                .hidden = 64,
                                                .vocab_padded = 64,
                                                .loss_rows = 64};
    mpt_device_t device = {0};
    mpt_kernels_t k;
    assert_int_equal(mpt_kernels_init(&k, mpt_kernels_find("ref"), &device, NULL, MPT_ISA_PORTABLE,
                                      NULL, 0, &limits),
                     MPT_OK);
    k.device = NULL;
    return k;
}

typedef double (*objective_t)(void *problem);

static double difference(objective_t objective, void *problem, double *x)
{
    const double at = *x;
    double f[4];
    static const double offset[4] = {-2, -1, 1, 2};
    for (int i = 0; i < 4; i++) {
        *x = at + offset[i] * STEP;
        f[i] = objective(problem);
    }
    *x = at;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * STEP);
}

/* d objective / d x[i] is gradient[i] - before[i] for every element; `before`: what was added to, or NULL. */
static void check(const char *name, objective_t objective, void *problem, double *x,
                  const double *gradient, const double *before, int64_t count)
{
    double largest = 1e-3;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(gradient[i] - (before ? before[i] : 0)));
    for (int64_t i = 0; i < count; i++) {
        double got = gradient[i] - (before ? before[i] : 0),
               want = difference(objective, problem, &x[i]);
        if (!(fabs(got - want) <= TOLERANCE * largest))
            fail_msg("%s[%lld]: gradient %.12g, difference %.12g", name, (long long)i, got, want);
    }
}

static double *copy(const double *array, int64_t count)
{
    double *other = test_malloc((size_t)count * sizeof *other);
    memcpy(other, array, (size_t)count * sizeof *other);
    return other;
}

static void release(double *const *arrays, size_t count)
{
    for (size_t i = 0; i < count; i++)
        test_free(arrays[i]);
}
#define RELEASE(...)                                                                               \
    release((double *const[]){__VA_ARGS__},                                                        \
            sizeof((double *const[]){__VA_ARGS__}) / sizeof(double *))

/* ---- embedding --------------------------------------------------------------------------------------- */

enum { EMBED_BATCH = 2, EMBED_SEQ = 5, EMBED_DIM = 3, EMBED_VOCAB = 4 };

typedef struct embed_problem {
    double *wte, *wpe, *out, *weights;
    const uint32_t *tokens;
} embed_problem_t;

static double embed_objective(void *problem)
{
    embed_problem_t *e = problem;
    mpt_kernels_t k = oracle();
    mpt_embed_forward_t a = {.compute = MPT_F64,
                             .batch = EMBED_BATCH,
                             .seq = EMBED_SEQ,
                             .dim = EMBED_DIM,
                             .tokens = e->tokens,
                             .wte = e->wte,
                             .wpe = e->wpe,
                             .out = e->out};
    assert_int_equal(mpt_embed_forward(&k, &a, NULL), MPT_OK);
    return weighted(e->out, e->weights, EMBED_BATCH * EMBED_SEQ * EMBED_DIM);
}

static void embed_gradients_match_differences(void **state)
{
    (void)state;
    static const uint32_t tokens[EMBED_BATCH * EMBED_SEQ] = {0, 3, 3, 1, 0, 2, 3, 0, 0, 1};
    const int64_t wte = EMBED_VOCAB * EMBED_DIM, wpe = EMBED_SEQ * EMBED_DIM,
                  out = EMBED_BATCH * wpe;
    embed_problem_t e = {values(wte, 1), values(wpe, 2), zeros(out), values(out, 3), tokens};
    double *dwte = values(wte, 4), *dwpe = values(wpe, 5), *dwte0 = copy(dwte, wte),
           *dwpe0 = copy(dwpe, wpe);
    mpt_kernels_t k = oracle();
    mpt_embed_backward_t a = {.compute = MPT_F64,
                              .batch = EMBED_BATCH,
                              .seq = EMBED_SEQ,
                              .dim = EMBED_DIM,
                              .tokens = tokens,
                              .dout = e.weights,
                              .dwte = dwte,
                              .dwpe = dwpe};
    assert_int_equal(mpt_embed_backward(&k, &a, NULL), MPT_OK);
    check("wte", embed_objective, &e, e.wte, dwte, dwte0, wte);
    check("wpe", embed_objective, &e, e.wpe, dwpe, dwpe0, wpe);
    RELEASE(e.wte, e.wpe, e.out, e.weights, dwte, dwpe, dwte0, dwpe0);
}

/* ---- layer norm -------------------------------------------------------------------------------------- */

enum { NORM_ROWS = 3, NORM_DIM = 7, NORM_COUNT = NORM_ROWS * NORM_DIM };

typedef struct norm_problem {
    double *x, *delta, *gamma, *beta, *sum, *y, *mean, *rstd;
    double *y_weights, *sum_weights; /* sum_weights NULL: the sum goes nowhere else */
} norm_problem_t;

static double norm_objective(void *problem)
{
    norm_problem_t *n = problem;
    mpt_kernels_t k = oracle();
    mpt_layernorm_forward_t a = {.compute = MPT_F64,
                                 .rows = NORM_ROWS,
                                 .dim = NORM_DIM,
                                 .x = n->x,
                                 .delta = n->delta,
                                 .sum = n->delta ? n->sum : NULL,
                                 .gamma = n->gamma,
                                 .beta = n->beta,
                                 .y = n->y,
                                 .mean = n->mean,
                                 .rstd = n->rstd};
    assert_int_equal(mpt_layernorm_forward(&k, &a, NULL), MPT_OK);
    double past =
        n->sum_weights ? weighted(n->delta ? n->sum : n->x, n->sum_weights, NORM_COUNT) : 0;
    return weighted(n->y, n->y_weights, NORM_COUNT) + past;
}

static void check_norm(int with_delta, int with_residual)
{
    norm_problem_t n = {values(NORM_COUNT, 1), with_delta ? values(NORM_COUNT, 2) : NULL,
                        values(NORM_DIM, 3),   values(NORM_DIM, 4),
                        zeros(NORM_COUNT),     zeros(NORM_COUNT),
                        zeros(NORM_ROWS),      zeros(NORM_ROWS),
                        values(NORM_COUNT, 5), with_residual ? values(NORM_COUNT, 6) : NULL};
    double *dx = zeros(NORM_COUNT), *dgamma = values(NORM_DIM, 7), *dbeta = values(NORM_DIM, 8);
    double *dgamma0 = copy(dgamma, NORM_DIM), *dbeta0 = copy(dbeta, NORM_DIM);
    norm_objective(&n);
    mpt_kernels_t k = oracle();
    mpt_layernorm_backward_t a = {.compute = MPT_F64,
                                  .rows = NORM_ROWS,
                                  .dim = NORM_DIM,
                                  .dy = n.y_weights,
                                  .x = with_delta ? n.sum : n.x,
                                  .gamma = n.gamma,
                                  .mean = n.mean,
                                  .rstd = n.rstd,
                                  .dres = n.sum_weights,
                                  .dx = dx,
                                  .dgamma = dgamma,
                                  .dbeta = dbeta};
    assert_int_equal(mpt_layernorm_backward(&k, &a, NULL), MPT_OK);
    check("x", norm_objective, &n, n.x, dx, NULL, NORM_COUNT);
    if (with_delta)
        check("delta", norm_objective, &n, n.delta, dx, NULL, NORM_COUNT);
    check("gamma", norm_objective, &n, n.gamma, dgamma, dgamma0, NORM_DIM);
    check("beta", norm_objective, &n, n.beta, dbeta, dbeta0, NORM_DIM);
    RELEASE(n.x, n.gamma, n.beta, n.sum, n.y, n.mean, n.rstd, n.y_weights, dx, dgamma, dbeta,
            dgamma0, dbeta0);
    if (with_delta)
        RELEASE(n.delta);
    if (with_residual)
        RELEASE(n.sum_weights);
}

static void layernorm_gradients_match_differences(void **state)
{
    (void)state;
    check_norm(0, 0);
    check_norm(0, 1);
    check_norm(1, 0);
    check_norm(1, 1);
}

/* dx in the place of dres, and of dy, gives what it gives elsewhere. */
static void layernorm_backward_in_place_changes_nothing(void **state)
{
    (void)state;
    double *x = values(NORM_COUNT, 1), *gamma = values(NORM_DIM, 3), *mean = values(NORM_ROWS, 4),
           *rstd = values(NORM_ROWS, 5);
    double *dy = values(NORM_COUNT, 6), *dres = values(NORM_COUNT, 7), *dx = zeros(NORM_COUNT);
    double *dgamma = zeros(NORM_DIM), *dbeta = zeros(NORM_DIM);
    mpt_kernels_t k = oracle();
    mpt_layernorm_backward_t a = {.compute = MPT_F64,
                                  .rows = NORM_ROWS,
                                  .dim = NORM_DIM,
                                  .dy = dy,
                                  .x = x,
                                  .gamma = gamma,
                                  .mean = mean,
                                  .rstd = rstd,
                                  .dres = dres,
                                  .dx = dx,
                                  .dgamma = dgamma,
                                  .dbeta = dbeta};
    assert_int_equal(mpt_layernorm_backward(&k, &a, NULL), MPT_OK);
    double *onto_dres = copy(dres, NORM_COUNT), *onto_dy = copy(dy, NORM_COUNT);
    a.dres = a.dx = onto_dres;
    assert_int_equal(mpt_layernorm_backward(&k, &a, NULL), MPT_OK);
    a.dres = dres;
    a.dy = a.dx = onto_dy;
    assert_int_equal(mpt_layernorm_backward(&k, &a, NULL), MPT_OK);
    assert_memory_equal(onto_dres, dx, NORM_COUNT * sizeof *dx);
    assert_memory_equal(onto_dy, dx, NORM_COUNT * sizeof *dx);
    RELEASE(x, gamma, mean, rstd, dy, dres, dx, dgamma, dbeta, onto_dres, onto_dy);
}

/* ---- linear ------------------------------------------------------------------------------------------ */

/* Two layers as in a block's MLP: h = gelu(pre), pre = x w1^T + b1; y = h w2^T [+ b2]. */
enum { MLP_ROWS = 5, MLP_IN = 3, MLP_HIDDEN = 7, MLP_OUT = 4 };

typedef struct mlp_problem {
    double *x, *w1, *b1, *w2, *b2; /* b2 NULL: no bias */
    double *pre, *h, *y, *weights;
} mlp_problem_t;

static double mlp_objective(void *problem)
{
    mlp_problem_t *m = problem;
    mpt_kernels_t k = oracle();
    mpt_linear_forward_t first = {.compute = MPT_F64,
                                  .rows = MLP_ROWS,
                                  .in = MLP_IN,
                                  .out = MLP_HIDDEN,
                                  .x = m->x,
                                  .w = m->w1,
                                  .bias = m->b1,
                                  .pre = m->pre,
                                  .y = m->h,
                                  .y_dtype = MPT_F64};
    mpt_linear_forward_t second = {.compute = MPT_F64,
                                   .rows = MLP_ROWS,
                                   .in = MLP_HIDDEN,
                                   .out = MLP_OUT,
                                   .x = m->h,
                                   .w = m->w2,
                                   .bias = m->b2,
                                   .y = m->y,
                                   .y_dtype = MPT_F64};
    assert_int_equal(mpt_linear_forward(&k, &first, NULL), MPT_OK);
    assert_int_equal(mpt_linear_forward(&k, &second, NULL), MPT_OK);
    return weighted(m->y, m->weights, MLP_ROWS * MLP_OUT);
}

typedef struct mlp_gradients {
    double *dx, *dpre, *dw1, *db1, *dw2, *db2;
} mlp_gradients_t;

static void mlp_backward(const mlp_problem_t *m, const mlp_gradients_t *g)
{
    mpt_kernels_t k = oracle();
    mpt_linear_backward_weight_t w2 = {.compute = MPT_F64,
                                       .rows = MLP_ROWS,
                                       .in = MLP_HIDDEN,
                                       .out = MLP_OUT,
                                       .dy = m->weights,
                                       .x = m->h,
                                       .dw = g->dw2,
                                       .dbias = m->b2 ? g->db2 : NULL};
    mpt_linear_backward_input_t pre = {.compute = MPT_F64,
                                       .rows = MLP_ROWS,
                                       .in = MLP_HIDDEN,
                                       .out = MLP_OUT,
                                       .dy = m->weights,
                                       .w = m->w2,
                                       .pre = m->pre,
                                       .dx = g->dpre};
    mpt_linear_backward_weight_t w1 = {.compute = MPT_F64,
                                       .rows = MLP_ROWS,
                                       .in = MLP_IN,
                                       .out = MLP_HIDDEN,
                                       .dy = g->dpre,
                                       .x = m->x,
                                       .dw = g->dw1,
                                       .dbias = g->db1};
    mpt_linear_backward_input_t x = {.compute = MPT_F64,
                                     .rows = MLP_ROWS,
                                     .in = MLP_IN,
                                     .out = MLP_HIDDEN,
                                     .dy = g->dpre,
                                     .w = m->w1,
                                     .dx = g->dx};
    assert_int_equal(mpt_linear_backward_weight(&k, &w2, NULL), MPT_OK);
    assert_int_equal(mpt_linear_backward_input(&k, &pre, NULL), MPT_OK);
    assert_int_equal(mpt_linear_backward_weight(&k, &w1, NULL), MPT_OK);
    assert_int_equal(mpt_linear_backward_input(&k, &x, NULL), MPT_OK);
}

static void check_mlp(int with_bias)
{
    const int64_t x = MLP_ROWS * MLP_IN, h = MLP_ROWS * MLP_HIDDEN, y = MLP_ROWS * MLP_OUT;
    const int64_t w1 = MLP_HIDDEN * MLP_IN, w2 = MLP_OUT * MLP_HIDDEN;
    mlp_problem_t m = {values(x, 1),
                       values(w1, 2),
                       values(MLP_HIDDEN, 3),
                       values(w2, 4),
                       with_bias ? values(MLP_OUT, 5) : NULL,
                       zeros(h),
                       zeros(h),
                       zeros(y),
                       values(y, 6)};
    mlp_gradients_t g = {zeros(x),      zeros(h),           values(w1, 7), values(MLP_HIDDEN, 8),
                         values(w2, 9), values(MLP_OUT, 10)};
    double *dw1 = copy(g.dw1, w1), *db1 = copy(g.db1, MLP_HIDDEN), *dw2 = copy(g.dw2, w2),
           *db2 = copy(g.db2, MLP_OUT);
    mlp_objective(&m);
    mlp_backward(&m, &g);
    check("x", mlp_objective, &m, m.x, g.dx, NULL, x);
    check("w1", mlp_objective, &m, m.w1, g.dw1, dw1, w1);
    check("b1", mlp_objective, &m, m.b1, g.db1, db1, MLP_HIDDEN);
    check("w2", mlp_objective, &m, m.w2, g.dw2, dw2, w2);
    if (with_bias)
        check("b2", mlp_objective, &m, m.b2, g.db2, db2, MLP_OUT);
    else
        assert_memory_equal(g.db2, db2, MLP_OUT * sizeof *db2);
    RELEASE(m.x, m.w1, m.b1, m.w2, m.pre, m.h, m.y, m.weights, g.dx, g.dpre, g.dw1, g.db1, g.dw2,
            g.db2, dw1, db1, dw2, db2);
    if (with_bias)
        RELEASE(m.b2);
}

static void linear_gradients_match_differences(void **state)
{
    (void)state;
    check_mlp(0);
    check_mlp(1);
}

/* ---- attention --------------------------------------------------------------------------------------- */

typedef struct attention_problem {
    int64_t batch, seq, heads, head_dim;
    double *qkv, *out, *lse, *weights;
} attention_problem_t;

static double attention_objective(void *problem)
{
    attention_problem_t *p = problem;
    mpt_kernels_t k = oracle();
    mpt_attention_forward_t a = {.compute = MPT_F64,
                                 .batch = p->batch,
                                 .seq = p->seq,
                                 .heads = p->heads,
                                 .head_dim = p->head_dim,
                                 .qkv = p->qkv,
                                 .out = p->out,
                                 .lse = p->lse};
    assert_int_equal(mpt_attention_forward(&k, &a, NULL), MPT_OK);
    return weighted(p->out, p->weights, p->batch * p->seq * p->heads * p->head_dim);
}

static void check_attention(int64_t batch, int64_t seq, int64_t heads, int64_t head_dim)
{
    const int64_t count = batch * seq * heads * head_dim;
    attention_problem_t p = {batch,
                             seq,
                             heads,
                             head_dim,
                             values(3 * count, 1),
                             zeros(count),
                             zeros(batch * heads * seq),
                             values(count, 2)};
    double *dqkv = zeros(3 * count);
    attention_objective(&p);
    mpt_kernels_t k = oracle();
    mpt_attention_backward_t a = {.compute = MPT_F64,
                                  .batch = batch,
                                  .seq = seq,
                                  .heads = heads,
                                  .head_dim = head_dim,
                                  .qkv = p.qkv,
                                  .out = p.out,
                                  .dout = p.weights,
                                  .lse = p.lse,
                                  .dqkv = dqkv};
    assert_int_equal(mpt_attention_backward(&k, &a, NULL), MPT_OK);
    check("qkv", attention_objective, &p, p.qkv, dqkv, NULL, 3 * count);
    RELEASE(p.qkv, p.out, p.lse, p.weights, dqkv);
}

static void attention_gradients_match_differences(void **state)
{
    (void)state;
    check_attention(1, 1, 1, 1);
    check_attention(2, 7, 3, 5);
    check_attention(1, 5, 1, 1);
    check_attention(1, 3, 1, 133); /* more than one block of a head */
}

/* ---- loss -------------------------------------------------------------------------------------------- */

enum { LOSS_ROWS = 5, LOSS_VOCAB = 7, LOSS_PADDED = 9 };
static const float loss_seed = 0.75f;

typedef struct loss_problem {
    double *logits, *dlogits, *losses, sum;
    const uint32_t *targets;
} loss_problem_t;

static double loss_objective(void *problem)
{
    loss_problem_t *l = problem;
    mpt_kernels_t k = oracle();
    l->sum = 0;
    mpt_loss_t a = {.compute = MPT_F64,
                    .rows = LOSS_ROWS,
                    .vocab = LOSS_VOCAB,
                    .vocab_padded = LOSS_PADDED,
                    .logits = l->logits,
                    .targets = l->targets,
                    .seed = loss_seed,
                    .dlogits = l->dlogits,
                    .losses = l->losses,
                    .loss_sum = &l->sum};
    assert_int_equal(mpt_loss(&k, &a, NULL), MPT_OK);
    return l->sum * (double)loss_seed;
}

static void loss_gradients_match_differences(void **state)
{
    (void)state;
    static const uint32_t targets[LOSS_ROWS] = {0, 6, 3, 3, 1};
    loss_problem_t l = {values(LOSS_ROWS * LOSS_PADDED, 1), zeros(LOSS_ROWS * LOSS_PADDED),
                        zeros(LOSS_ROWS), 0, targets};
    loss_objective(&l);
    double *gradient = l.dlogits;
    l.dlogits = NULL;
    check("logits", loss_objective, &l, l.logits, gradient, NULL, LOSS_ROWS * LOSS_PADDED);
    for (int row = 0; row < LOSS_ROWS; row++)
        for (int v = LOSS_VOCAB; v < LOSS_PADDED; v++)
            assert_true(gradient[row * LOSS_PADDED + v] == 0);
    RELEASE(l.logits, gradient, l.losses);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_gradients_match_differences),
        cmocka_unit_test(layernorm_gradients_match_differences),
        cmocka_unit_test(layernorm_backward_in_place_changes_nothing),
        cmocka_unit_test(linear_gradients_match_differences),
        cmocka_unit_test(attention_gradients_match_differences),
        cmocka_unit_test(loss_gradients_match_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
