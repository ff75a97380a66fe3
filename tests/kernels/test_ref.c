/*
 * The oracle against figures worked out by hand: what each operation means, and where it rounds.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "kernels.h"
#include "numeric.h"

static mpt_kernels_t oracle(mpt_dtype_t compute)
{
    return (mpt_kernels_t){.ops = mpt_kernels_find("ref"),
                           .limits = {.compute = compute,
                                      .batch = 8,
                                      .seq = 8,
                                      .heads = 8,
                                      .head_dim = 8,
                                      .rows = 64,
                                      .dim = 64,
                                      .hidden = 64,
                                      .vocab_padded = 64,
                                      .loss_rows = 64}};
}

/* `count` numbers in `dtype`. */
static void put(void *array, mpt_dtype_t dtype, const double *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        mpt_store(array, dtype, i, from[i]);
}

static void expect_values(const void *array, mpt_dtype_t dtype, const double *want, int64_t count,
                          double tolerance)
{
    for (int64_t i = 0; i < count; i++) {
        double got = mpt_load(array, dtype, i);
        if (!(fabs(got - want[i]) <= tolerance))
            fail_msg("element %lld is %.12g, not %.12g", (long long)i, got, want[i]);
    }
}

/* ---- embedding --------------------------------------------------------------------------------------- */

static void embed_adds_token_and_position_and_rounds_once(void **state)
{
    (void)state;
    uint16_t wte[3 * 2], wpe[2 * 2], out[4 * 2];
    static const uint32_t tokens[4] = {2, 0, 1, 2};
    put(wte, MPT_BF16, (const double[]){1, 2, 3, 4, 256, 6}, 6);
    put(wpe, MPT_BF16, (const double[]){1, 20, 0.5, 40}, 4);
    mpt_kernels_t k = oracle(MPT_BF16);
    mpt_embed_forward_t a = {.compute = MPT_BF16,
                             .batch = 2,
                             .seq = 2,
                             .dim = 2,
                             .tokens = tokens,
                             .wte = wte,
                             .wpe = wpe,
                             .out = out};
    assert_int_equal(mpt_embed_forward(&k, &a, NULL), MPT_OK);
    /* 257 lies between 256 and 258, and goes to the even one. */
    expect_values(out, MPT_BF16, (const double[]){256, 26, 1.5, 42, 4, 24, 256, 46}, 8, 0);
}

static void embed_backward_adds_rows_to_what_is_there(void **state)
{
    (void)state;
    static const uint32_t tokens[4] = {1, 0, 1, 1};
    uint16_t dout[4];
    float dwte[2] = {100, 200}, dwpe[2] = {1000, 2000};
    put(dout, MPT_F16, (const double[]){1, 2, 3, 4}, 4);
    mpt_kernels_t k = oracle(MPT_F16);
    mpt_embed_backward_t a = {.compute = MPT_F16,
                              .batch = 2,
                              .seq = 2,
                              .dim = 1,
                              .tokens = tokens,
                              .dout = dout,
                              .dwte = dwte,
                              .dwpe = dwpe};
    assert_int_equal(mpt_embed_backward(&k, &a, NULL), MPT_OK);
    expect_values(dwte, MPT_F32, (const double[]){102, 208}, 2, 0);
    expect_values(dwpe, MPT_F32, (const double[]){1004, 2006}, 2, 0);
}

/* ---- layer norm -------------------------------------------------------------------------------------- */

static void layernorm_uses_the_biased_variance(void **state)
{
    (void)state;
    const float x[4] = {1, 3, 5, 5}, gamma[2] = {2, 3}, beta[2] = {10, 20};
    float y[4], mean[2], rstd[2];
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_layernorm_forward_t a = {.compute = MPT_F32,
                                 .rows = 2,
                                 .dim = 2,
                                 .x = x,
                                 .gamma = gamma,
                                 .beta = beta,
                                 .y = y,
                                 .mean = mean,
                                 .rstd = rstd};
    assert_int_equal(mpt_layernorm_forward(&k, &a, NULL), MPT_OK);
    const double r = 1 / sqrt(1 + 1e-5);
    expect_values(mean, MPT_F32, (const double[]){2, 5}, 2, 0);
    expect_values(rstd, MPT_F32, (const double[]){r, 1 / sqrt(1e-5)}, 2,
                  2e-5); /* half a unit in 316 */
    expect_values(y, MPT_F32, (const double[]){10 - 2 * r, 20 + 3 * r, 10, 20}, 4, 1e-6);
}

static void layernorm_takes_statistics_of_the_rounded_sum(void **state)
{
    (void)state;
    uint16_t x[2], delta[2], sum[2], one[2], zero[2], y[2];
    float mean[1], rstd[1];
    put(x, MPT_BF16, (const double[]){256, 0}, 2);
    put(delta, MPT_BF16, (const double[]){1, 0}, 2);
    put(one, MPT_BF16, (const double[]){1, 1}, 2);
    put(zero, MPT_BF16, (const double[]){0, 0}, 2);
    mpt_kernels_t k = oracle(MPT_BF16);
    mpt_layernorm_forward_t a = {.compute = MPT_BF16,
                                 .rows = 1,
                                 .dim = 2,
                                 .x = x,
                                 .delta = delta,
                                 .sum = sum,
                                 .gamma = one,
                                 .beta = zero,
                                 .y = y,
                                 .mean = mean,
                                 .rstd = rstd};
    assert_int_equal(mpt_layernorm_forward(&k, &a, NULL), MPT_OK);
    expect_values(sum, MPT_BF16, (const double[]){256, 0}, 2, 0);
    assert_true(mean[0] == 128); /* 128.5 before the rounding */
}

/* ---- linear ------------------------------------------------------------------------------------------ */

static void linear_multiplies_by_the_transpose_and_adds_the_bias(void **state)
{
    (void)state;
    const float x[6] = {1, 2, 3, 4, 5, 6}, w[6] = {1, 0, -1, 2, 1, 0}, bias[2] = {10, 20};
    float y[4];
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_linear_forward_t a = {.compute = MPT_F32,
                              .rows = 2,
                              .in = 3,
                              .out = 2,
                              .x = x,
                              .w = w,
                              .bias = bias,
                              .y = y,
                              .y_dtype = MPT_F32};
    assert_int_equal(mpt_linear_forward(&k, &a, NULL), MPT_OK);
    expect_values(y, MPT_F32, (const double[]){8, 24, 8, 33}, 4, 0);
    a.bias = NULL;
    assert_int_equal(mpt_linear_forward(&k, &a, NULL), MPT_OK);
    expect_values(y, MPT_F32, (const double[]){-2, 4, -2, 13}, 4, 0);
}

static void linear_takes_the_gelu_of_the_rounded_sum(void **state)
{
    (void)state;
    uint16_t x, w, bias, pre, y;
    put(&x, MPT_BF16, (const double[]){1}, 1);
    put(&w, MPT_BF16, (const double[]){1}, 1);
    put(&bias, MPT_BF16, (const double[]){0x1p-8}, 1);
    mpt_kernels_t k = oracle(MPT_BF16);
    mpt_linear_forward_t a = {.compute = MPT_BF16,
                              .rows = 1,
                              .in = 1,
                              .out = 1,
                              .x = &x,
                              .w = &w,
                              .bias = &bias,
                              .pre = &pre,
                              .y = &y,
                              .y_dtype = MPT_BF16};
    assert_int_equal(mpt_linear_forward(&k, &a, NULL), MPT_OK);
    assert_true(mpt_load(&pre, MPT_BF16, 0) == 1); /* 1 + 2^-8 is a tie */
    /* gelu(1) = 0.8412 = 215.3 / 256; gelu(1 + 2^-8) would be 216.4 / 256. */
    assert_true(mpt_load(&y, MPT_BF16, 0) == 215.0 / 256);
}

static void linear_writes_logits_in_the_wide_type(void **state)
{
    (void)state;
    uint16_t x[2], w[2];
    float y;
    put(x, MPT_BF16, (const double[]){1, 0x1p-12}, 2);
    put(w, MPT_BF16, (const double[]){1, 1}, 2);
    mpt_kernels_t k = oracle(MPT_BF16);
    mpt_linear_forward_t a = {.compute = MPT_BF16,
                              .rows = 1,
                              .in = 2,
                              .out = 1,
                              .x = x,
                              .w = w,
                              .y = &y,
                              .y_dtype = MPT_F32};
    assert_int_equal(mpt_linear_forward(&k, &a, NULL), MPT_OK);
    assert_true(y == 1 + 0x1p-12f);
}

static void gelu_has_the_published_values(void **state)
{
    (void)state;
    const double x[5] = {0, 1, -1, 3, -8}, one = 1;
    double pre[5], y[5];
    mpt_kernels_t k = oracle(MPT_F64);
    mpt_linear_forward_t a = {.compute = MPT_F64,
                              .rows = 5,
                              .in = 1,
                              .out = 1,
                              .x = x,
                              .w = &one,
                              .pre = pre,
                              .y = y,
                              .y_dtype = MPT_F64};
    assert_int_equal(mpt_linear_forward(&k, &a, NULL), MPT_OK);
    expect_values(y, MPT_F64, (const double[]){0, 0.8411919906, -0.1588080094, 2.9963627, 0}, 5,
                  1e-7);
}

static void linear_backward_has_both_products(void **state)
{
    (void)state;
    const float dy[4] = {1, 2, 3, 4}, x[2] = {5, 6}, w[2] = {7, 8};
    float dx[2], dw[2] = {100, 200}, dbias[2] = {1000, 2000};
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_linear_backward_input_t in = {
        .compute = MPT_F32, .rows = 2, .in = 1, .out = 2, .dy = dy, .w = w, .dx = dx};
    mpt_linear_backward_weight_t weight = {.compute = MPT_F32,
                                           .rows = 2,
                                           .in = 1,
                                           .out = 2,
                                           .dy = dy,
                                           .x = x,
                                           .dw = dw,
                                           .dbias = dbias};
    assert_int_equal(mpt_linear_backward_input(&k, &in, NULL), MPT_OK);
    assert_int_equal(mpt_linear_backward_weight(&k, &weight, NULL), MPT_OK);
    expect_values(dx, MPT_F32, (const double[]){1 * 7 + 2 * 8, 3 * 7 + 4 * 8}, 2, 0);
    expect_values(dw, MPT_F32, (const double[]){100 + 1 * 5 + 3 * 6, 200 + 2 * 5 + 4 * 6}, 2, 0);
    expect_values(dbias, MPT_F32, (const double[]){1004, 2006}, 2, 0);
}

/* ---- attention --------------------------------------------------------------------------------------- */

/* One head of size 1: rows of (q, k, v). */
static void attend(mpt_dtype_t compute, const double *rows, int64_t seq, void *out, void *lse)
{
    double qkv[24];
    put(qkv, compute, rows, seq * 3);
    mpt_kernels_t k = oracle(compute);
    mpt_attention_forward_t a = {.compute = compute,
                                 .batch = 1,
                                 .seq = seq,
                                 .heads = 1,
                                 .head_dim = 1,
                                 .qkv = qkv,
                                 .out = out,
                                 .lse = lse};
    assert_int_equal(mpt_attention_forward(&k, &a, NULL), MPT_OK);
}

static void attention_averages_what_came_before(void **state)
{
    (void)state;
    double out[3], lse[3];
    /* Second query: scores 0 and log 3, so weights 1/4 and 3/4. Third: all alike. */
    attend(MPT_F64, (const double[]){5, 0, 8, 1, log(3), 4, 0, 7, 6}, 3, out, lse);
    expect_values(out, MPT_F64, (const double[]){8, 5, 6}, 3, 1e-14);
    expect_values(lse, MPT_F64, (const double[]){0, log(4), log(3)}, 3, 1e-14);
}

static void attention_scales_by_the_root_of_the_head(void **state)
{
    (void)state;
    const double qkv[12] = {3, 1, 2, 2, 2, 5, 1, 0, 0, 0, 0, 9};
    double out[4], lse;
    mpt_kernels_t k = oracle(MPT_F64);
    mpt_attention_forward_t a = {.compute = MPT_F64,
                                 .batch = 1,
                                 .seq = 1,
                                 .heads = 1,
                                 .head_dim = 4,
                                 .qkv = qkv,
                                 .out = out,
                                 .lse = &lse};
    assert_int_equal(mpt_attention_forward(&k, &a, NULL), MPT_OK);
    expect_values(out, MPT_F64, qkv + 8, 4, 0);
    assert_true(lse == (3 * 2 + 1 * 5 + 2 * 1 + 0) / 2.0);
}

static void attention_rounds_the_probabilities_that_meet_values(void **state)
{
    (void)state;
    uint16_t out[5];
    float lse[5];
    attend(MPT_BF16, (const double[]){0, 0, 129, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 5, out, lse);
    /* bf16(1/5) = 0.2001953125; times 129 is 25.825, which rounds to 25.875. 129/5 itself would give 25.75. */
    assert_true(mpt_load(out, MPT_BF16, 4) == 25.875);
}

static void attention_does_not_look_ahead(void **state)
{
    (void)state;
    float first[2], second[3], lse[3];
    attend(MPT_F32, (const double[]){1, 2, 3, 4, 5, 6}, 2, first, lse);
    attend(MPT_F32, (const double[]){1, 2, 3, 4, 5, 6, NAN, NAN, INFINITY}, 3, second, lse);
    assert_memory_equal(first, second, sizeof first);
    assert_true(isnan(second[2]));
}

/* ---- loss -------------------------------------------------------------------------------------------- */

static void loss_is_the_log_of_the_targets_probability(void **state)
{
    (void)state;
    const float logits[8] = {0, 0, 99, 99, 1000, 1000 + logf(3), NAN, 0};
    static const uint32_t targets[2] = {1, 0};
    float dlogits[8], losses[2];
    double sum = 10;
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_loss_t a = {.compute = MPT_F32,
                    .rows = 2,
                    .vocab = 2,
                    .vocab_padded = 4,
                    .logits = logits,
                    .targets = targets,
                    .seed = 8,
                    .dlogits = dlogits,
                    .losses = losses,
                    .loss_sum = &sum};
    assert_int_equal(mpt_loss(&k, &a, NULL), MPT_OK);
    expect_values(losses, MPT_F32, (const double[]){log(2), log(4)}, 2, 1e-4);
    expect_values(dlogits, MPT_F32, (const double[]){4, -4, 0, 0, -6, 6, 0, 0}, 8, 1e-3);
    assert_true(sum == 10 + ((double)losses[0] + (double)losses[1]));
}

/* ---- flat passes ------------------------------------------------------------------------------------- */

static void to_wire_reports_the_first_value_that_does_not_fit(void **state)
{
    (void)state;
    const float acc[5] = {1, 2 * 65519.f, 2 * 65520.f, -INFINITY, 2 + 0x1p-9f};
    uint16_t wire[5];
    mpt_offender_t bad;
    mpt_kernels_t k = oracle(MPT_F16);
    mpt_to_wire_t a = {
        .wire_dtype = MPT_F16, .count = 5, .acc = acc, .wire = wire, .scale = 0.5f, .bad = &bad};
    assert_int_equal(mpt_to_wire(&k, &a, NULL), MPT_OK);
    assert_true(mpt_load(wire, MPT_F16, 0) == 0.5);
    assert_true(mpt_load(wire, MPT_F16, 1) == 65504);
    assert_true(mpt_load(wire, MPT_F16, 4) == 1 + 0x1p-10);
    assert_int_equal(bad.count, 2);
    assert_int_equal(bad.first, 2);
    assert_int_equal(bad.bits, 0x7f800000u);
}

static void grad_scan_sums_in_the_defined_order(void **state)
{
    (void)state;
    static float grad[MPT_SCAN_SEGMENT + 2];
    double sumsq;
    mpt_offender_t bad;
    grad[0] = 0x1p27f; /* its square is 2^54, whose neighbours are 4 apart */
    for (int i = 1; i <= 8; i++)
        grad[i] = 1;
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_grad_scan_t a = {
        .dtype = MPT_F32, .count = MPT_SCAN_SEGMENT, .grad = grad, .sumsq = &sumsq, .bad = &bad};
    assert_int_equal(mpt_grad_scan(&k, &a, NULL), MPT_OK);
    /* Lanes 4 to 7 add up to 4 before they meet the large one; one chain would lose every 1. */
    assert_true(sumsq == 0x1p54 + 4);
    grad[MPT_SCAN_SEGMENT] = grad[MPT_SCAN_SEGMENT + 1] = 1;
    a.count += 2;
    assert_int_equal(mpt_grad_scan(&k, &a, NULL), MPT_OK);
    assert_true(sumsq ==
                0x1p54 + 8); /* the second segment's 2 is a tie, which goes to the even one */
    assert_int_equal(bad.count, 0);
}

static void grad_scan_counts_what_is_not_finite(void **state)
{
    (void)state;
    uint16_t grad[40] = {0};
    double sumsq;
    mpt_offender_t bad;
    mpt_store(grad, MPT_BF16, 33, -INFINITY);
    mpt_store(grad, MPT_BF16, 35, NAN);
    mpt_kernels_t k = oracle(MPT_BF16);
    mpt_grad_scan_t a = {
        .dtype = MPT_BF16, .count = 40, .grad = grad, .sumsq = &sumsq, .bad = &bad};
    assert_int_equal(mpt_grad_scan(&k, &a, NULL), MPT_OK);
    assert_false(isfinite(sumsq));
    assert_int_equal(bad.count, 2);
    assert_int_equal(bad.first, 33);
    assert_int_equal(bad.bits, 0xff800000u);
    a.count = 0;
    assert_int_equal(mpt_grad_scan(&k, &a, NULL), MPT_OK);
    assert_true(sumsq == 0 && bad.count == 0);
}

static void adamw_takes_its_first_step_against_the_sign(void **state)
{
    (void)state;
    float master[2] = {1, 1}, m[2] = {0}, v[2] = {0};
    const float grad[2] = {8, -8};
    uint16_t working[2];
    mpt_kernels_t k = oracle(MPT_BF16);
    mpt_adamw_t a = {.compute = MPT_BF16,
                     .grad_dtype = MPT_F32,
                     .count = 2,
                     .decay_count = 1,
                     .master = master,
                     .m = m,
                     .v = v,
                     .working = working,
                     .grad = grad,
                     .factor = 0.5f,
                     .lr = 0.125f,
                     .beta1 = 0.75f,
                     .beta2 = 0.875f,
                     .eps = 0,
                     .decay = 2,
                     .correction1 = 0.25f,
                     .correction2 = 0.125f};
    assert_int_equal(mpt_adamw(&k, &a, NULL), MPT_OK);
    expect_values(m, MPT_F32, (const double[]){1, -1}, 2, 0);
    expect_values(v, MPT_F32, (const double[]){2, 2}, 2, 0);
    /* Step 1 against the gradient's sign; the first element decays by 0.125 * 2 of itself as well. */
    expect_values(master, MPT_F32, (const double[]){0.625, 1.125}, 2, 0);
    expect_values(working, MPT_BF16, (const double[]){0.625, 1.125}, 2, 0);
}

static void adamw_averages_and_goes_without_masters(void **state)
{
    (void)state;
    float m[1] = {0}, v[1] = {0}, ema[1] = {1};
    const float grad[1] = {8};
    uint16_t working[1];
    mpt_kernels_t k = oracle(MPT_BF16);
    mpt_adamw_t a = {.compute = MPT_BF16,
                     .grad_dtype = MPT_F32,
                     .count = 1,
                     .m = m,
                     .v = v,
                     .ema = ema,
                     .working = working,
                     .grad = grad,
                     .factor = 0.5f,
                     .lr = 0.125f + 0x1p-10f,
                     .beta1 = 0.75f,
                     .beta2 = 0.875f,
                     .correction1 = 0.25f,
                     .correction2 = 0.125f,
                     .ema_decay = 0.75f};
    mpt_store(working, MPT_BF16, 0, 1);
    assert_int_equal(mpt_adamw(&k, &a, NULL), MPT_OK);
    expect_values(working, MPT_BF16, (const double[]){0.875}, 1, 0);
    /* A quarter of the way to the weight before it was rounded. */
    expect_values(ema, MPT_F32, (const double[]){0.96875 - 0x1p-12}, 1, 0);
}

static void rounding_up_is_as_likely_as_the_distance(void **state)
{
    (void)state;
    enum { COUNT = 4000 };
    static float source[COUNT];
    static uint16_t rounded[COUNT];
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_run_t runs[2] = {{100, 1500, 7}, {1600, COUNT - 1700, 123456}};
    mpt_stochastic_t how = {.seed = 3, .step = 4, .runs = runs, .run_count = 2};
    mpt_cast_t a = {.dst_dtype = MPT_BF16,
                    .src_dtype = MPT_F32,
                    .count = COUNT,
                    .dst = rounded,
                    .src = source,
                    .stochastic = &how};
    for (int i = 0; i < COUNT; i++)
        source[i] = 1 + 0x1p-9f; /* a quarter of the way from 1 to the next */
    assert_int_equal(mpt_cast(&k, &a, NULL), MPT_OK);
    int up = 0;
    for (int i = 0; i < COUNT; i++) {
        assert_true(rounded[i] == 0x3f80 || rounded[i] == 0x3f81);
        assert_true(rounded[i] == 0x3f80 || (i >= 100 && i < COUNT - 100));
        up += rounded[i] == 0x3f81;
    }
    assert_true(up > 950 - 110 && up < 950 + 110); /* four standard deviations of 3800 draws */
}

static void a_sum_of_nans_is_the_one_quiet_nan(void **state)
{
    (void)state;
    float acc[3] = {1, mpt_f32_from_bits(0xffc12345u), INFINITY};
    const float x[3] = {0x1p-25f, 1, -INFINITY};
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_add_t a = {.dtype = MPT_F32, .count = 3, .acc = acc, .x = x};
    assert_int_equal(mpt_add(&k, &a, NULL), MPT_OK);
    assert_true(acc[0] == 1);
    assert_int_equal(mpt_f32_bits(acc[1]), 0x7fc00000u);
    assert_int_equal(mpt_f32_bits(acc[2]), 0x7fc00000u);
}

static void a_hash_adds_to_what_is_there(void **state)
{
    (void)state;
    const uint16_t data[2] = {0x1234, 0xffff};
    uint64_t sum = 5;
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_hash_t a = {
        .dtype = MPT_BF16, .count = 2, .data = data, .element = 9, .salt = 2, .sum = &sum};
    assert_int_equal(mpt_hash(&k, &a, NULL), MPT_OK);
    assert_true(sum == 5 + mpt_hash_mix(9, 0x1234, 2) + mpt_hash_mix(10, 0xffff, 2));
}

static void cast_rounds_once(void **state)
{
    (void)state;
    const double source[2] = {1 + 0x1p-11 + 0x1p-40,
                              1 + 3 * 0x1p-11 - 0x1p-40}; /* ties to FP16 after FP32 */
    uint16_t half[2];
    double back[2];
    mpt_kernels_t k = oracle(MPT_F32);
    mpt_cast_t down = {
        .dst_dtype = MPT_F16, .src_dtype = MPT_F64, .count = 2, .dst = half, .src = source};
    mpt_cast_t up = {
        .dst_dtype = MPT_F64, .src_dtype = MPT_F16, .count = 2, .dst = back, .src = half};
    assert_int_equal(mpt_cast(&k, &down, NULL), MPT_OK);
    assert_int_equal(mpt_cast(&k, &up, NULL), MPT_OK);
    assert_true(back[0] == 1 + 0x1p-10);
    assert_true(back[1] == 1 + 0x1p-10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_adds_token_and_position_and_rounds_once),
        cmocka_unit_test(embed_backward_adds_rows_to_what_is_there),
        cmocka_unit_test(layernorm_uses_the_biased_variance),
        cmocka_unit_test(layernorm_takes_statistics_of_the_rounded_sum),
        cmocka_unit_test(linear_multiplies_by_the_transpose_and_adds_the_bias),
        cmocka_unit_test(linear_takes_the_gelu_of_the_rounded_sum),
        cmocka_unit_test(linear_writes_logits_in_the_wide_type),
        cmocka_unit_test(gelu_has_the_published_values),
        cmocka_unit_test(linear_backward_has_both_products),
        cmocka_unit_test(attention_averages_what_came_before),
        cmocka_unit_test(attention_scales_by_the_root_of_the_head),
        cmocka_unit_test(attention_rounds_the_probabilities_that_meet_values),
        cmocka_unit_test(attention_does_not_look_ahead),
        cmocka_unit_test(loss_is_the_log_of_the_targets_probability),
        cmocka_unit_test(to_wire_reports_the_first_value_that_does_not_fit),
        cmocka_unit_test(grad_scan_sums_in_the_defined_order),
        cmocka_unit_test(grad_scan_counts_what_is_not_finite),
        cmocka_unit_test(adamw_takes_its_first_step_against_the_sign),
        cmocka_unit_test(adamw_averages_and_goes_without_masters),
        cmocka_unit_test(rounding_up_is_as_likely_as_the_distance),
        cmocka_unit_test(a_sum_of_nans_is_the_one_quiet_nan),
        cmocka_unit_test(a_hash_adds_to_what_is_there),
        cmocka_unit_test(cast_rounds_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
