#include "elementwise_fixture.h"

static const int64_t counts[] = {0, 1, 3, 4, 5, 15, 16, 17, 33, 1001, 32767, 32768, 32769, 70001};
#define COUNTS (int)(sizeof counts / sizeof counts[0])

/* One FP32 addition; a NaN is the one that mpt_tree_sum gives. */
static uint32_t sum_bits(float acc, float x)
{
    const float sum = acc + x;
    return isnan(sum) ? 0x7fc00000u : mpt_f32_bits(sum);
}

static void check_add(rig_t *rig, float *acc, const void *x, mpt_dtype_t dtype, int64_t count)
{
    float *before = duplicate(acc);
    const mpt_add_t args = {dtype, count, acc, x};
    assert_int_equal(mpt_add(&rig->k, &args, NULL), MPT_OK);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(mpt_f32_bits(acc[i]), sum_bits(before[i], (float)mpt_load(x, dtype, i)));
    release(before);
}

static void sums_are_single_additions(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_F32, 1, 1);
            for (int d = 0; d < RUN_DTYPES; d++)
                for (int i = 0; i < COUNTS; i++) {
                    float *acc = random_array(counts[i], MPT_F32, 0.0, 1.0, 21);
                    void *x = random_array(counts[i], run_dtypes[d], 0.0, 300.0, 22);
                    check_add(&rig, acc, x, run_dtypes[d], counts[i]);
                    check_add(&rig, acc, x, run_dtypes[d], counts[i]);
                    release(acc);
                    release(x);
                }
            rig_close(&rig);
        }
}

/* Every 16-bit pattern, and as many FP32 ones: NaNs, infinities and subnormals on both sides. */
static void any_bits_add_up(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int d = 0; d < RUN_DTYPES; d++) {
            rig_t rig;
            uint64_t seed = 23;
            rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
            float *acc = guarded_of(65536, MPT_F32), *x = guarded_of(65536, MPT_F32);
            for (uint32_t i = 0; i < 65536; i++) {
                acc[i] = mpt_f32_from_bits((uint32_t)random_bits(&seed));
                x[i] = mpt_f32_from_bits((uint32_t)random_bits(&seed));
                if (i % 7 == 0)
                    acc[i] = NAN;
                if (run_dtypes[d] != MPT_F32)
                    ((uint16_t *)x)[i] = (uint16_t)i;
            }
            check_add(&rig, acc, x, run_dtypes[d], 65536);
            release(acc);
            release(x);
            rig_close(&rig);
        }
}

/* Lanes are combined by it: what mpt_tree_sum makes of two must be what one added to the other makes. */
static void a_sum_of_two_is_the_tree_sum(void **state)
{
    (void)state;
    const int64_t count = 5001;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        float *acc = random_array(count, MPT_F32, 0.0, 1.0, 24);
        float *x = random_array(count, MPT_F32, 0.0, 1.0, 25), *tree = guarded_of(count, MPT_F32);
        acc[7] = -NAN;
        x[9] = mpt_f32_from_bits(0xff812345u);
        acc[11] = INFINITY;
        x[11] = -INFINITY;
        const void *sources[2] = {acc, x};
        mpt_tree_sum(tree, MPT_F32, sources, 2, MPT_F32, count);
        const mpt_add_t args = {MPT_F32, count, acc, x};
        assert_int_equal(mpt_add(&rig.k, &args, NULL), MPT_OK);
        assert_memory_equal(acc, tree, (size_t)count * sizeof *acc);
        release(acc);
        release(x);
        release(tree);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_single_additions),
        cmocka_unit_test(any_bits_add_up),
        cmocka_unit_test(a_sum_of_two_is_the_tree_sum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
