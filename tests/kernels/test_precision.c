#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "kernels.h"

#define NONE MPT_DTYPE_COUNT

static void check_row(mpt_op_t op, mpt_dtype_t compute, mpt_op_precision_t want)
{
    mpt_op_precision_t got = mpt_op_precision(op, compute);
    assert_int_equal(got.input, want.input);
    assert_int_equal(got.math, want.math);
    assert_int_equal(got.accumulate, want.accumulate);
    assert_int_equal(got.output, want.output);
    assert_int_equal(got.gradient, want.gradient);
}

static void operations_have_distinct_names(void **state)
{
    (void)state;
    static const char *const names[MPT_OP_COUNT] = {"embed", "layernorm", "linear", "attention",
                                                    "gelu",  "loss",      "reduce", "optimizer"};
    for (int op = 0; op < MPT_OP_COUNT; op++)
        assert_string_equal(mpt_op_name((mpt_op_t)op), names[op]);
}

/* Written out once, so that a change of the table is a decision. */
static void sixteen_bits_multiply_and_fp32_adds(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        mpt_dtype_t c = i ? MPT_F16 : MPT_BF16;
        check_row(MPT_OP_EMBED, c, (mpt_op_precision_t){c, MPT_F32, MPT_F32, c, MPT_F32});
        check_row(MPT_OP_LAYERNORM, c, (mpt_op_precision_t){c, MPT_F32, MPT_F32, c, MPT_F32});
        check_row(MPT_OP_LINEAR, c, (mpt_op_precision_t){c, c, MPT_F32, c, MPT_F32});
        check_row(MPT_OP_ATTENTION, c, (mpt_op_precision_t){c, c, MPT_F32, c, NONE});
        check_row(MPT_OP_GELU, c, (mpt_op_precision_t){c, MPT_F32, MPT_F32, c, NONE});
        check_row(MPT_OP_LOSS, c, (mpt_op_precision_t){MPT_F32, MPT_F32, MPT_F32, c, NONE});
        check_row(MPT_OP_REDUCE, c, (mpt_op_precision_t){c, MPT_F32, MPT_F32, c, NONE});
        check_row(MPT_OP_OPTIMIZER, c, (mpt_op_precision_t){c, MPT_F32, MPT_F32, c, NONE});
    }
}

/* Embeddings, norms and linear layers have parameters. */
static mpt_dtype_t gradient_of(int op, mpt_dtype_t type)
{
    return op <= MPT_OP_LINEAR ? type : NONE;
}

static void fp32_and_fp64_compute_in_themselves(void **state)
{
    (void)state;
    for (int op = 0; op < MPT_OP_COUNT; op++) {
        check_row((mpt_op_t)op, MPT_F32,
                  (mpt_op_precision_t){MPT_F32, MPT_F32, MPT_F32, MPT_F32, gradient_of(op, MPT_F32)});
        check_row((mpt_op_t)op, MPT_F64,
                  (mpt_op_precision_t){MPT_F64, MPT_F64, MPT_F64, MPT_F64, gradient_of(op, MPT_F64)});
    }
}

/* What one operation writes the next one reads. */
static void gradients_cross_and_are_left_in_types_of_their_own(void **state)
{
    (void)state;
    mpt_op_precision_t reduce = mpt_run_precision(MPT_OP_REDUCE, MPT_BF16, MPT_F16, MPT_F32);
    assert_int_equal(reduce.input, MPT_F16);
    assert_int_equal(reduce.output, MPT_F32);
    mpt_op_precision_t optimizer = mpt_run_precision(MPT_OP_OPTIMIZER, MPT_BF16, MPT_F16, MPT_F32);
    assert_int_equal(optimizer.input, MPT_F32);
    assert_int_equal(optimizer.output, MPT_BF16);
}

/* What linear layers multiply is TF32; all else is FP32, in memory as well. */
static void tf32_is_of_products_alone(void **state)
{
    (void)state;
    for (int op = 0; op < MPT_OP_COUNT; op++)
        check_row((mpt_op_t)op, MPT_TF32,
                  (mpt_op_precision_t){MPT_F32, op == MPT_OP_LINEAR ? MPT_TF32 : MPT_F32, MPT_F32, MPT_F32,
                                       gradient_of(op, MPT_F32)});
}

/* Nothing that is summed, and no parameter's gradient, is narrower than FP32. */
static void no_sum_is_narrower_than_fp32(void **state)
{
    (void)state;
    for (int op = 0; op < MPT_OP_COUNT; op++)
        for (int c = 0; c < MPT_DTYPE_COUNT; c++)
            assert_true(
                mpt_dtype_bytes(mpt_op_precision((mpt_op_t)op, (mpt_dtype_t)c).accumulate) >= 4);
    assert_int_equal(mpt_op_precision(MPT_OP_LINEAR, MPT_F16).gradient, MPT_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_have_distinct_names),
        cmocka_unit_test(sixteen_bits_multiply_and_fp32_adds),
        cmocka_unit_test(fp32_and_fp64_compute_in_themselves),
        cmocka_unit_test(gradients_cross_and_are_left_in_types_of_their_own),
        cmocka_unit_test(tf32_is_of_products_alone),
        cmocka_unit_test(no_sum_is_narrower_than_fp32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
