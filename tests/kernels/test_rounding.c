#include "elementwise_fixture.h"

/* The casts are where stochastic rounding shows by itself: each of them against mpt_round_stochastic. */

static void for_all(void (*check)(rig_t *rig, mpt_dtype_t dtype))
{
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_F32, 1, 1);
            check(&rig, MPT_BF16);
            check(&rig, MPT_F16);
            rig_close(&rig);
        }
}

/* Element `i` as the contract has it. */
static uint16_t rounded(float value, mpt_dtype_t dtype, const mpt_stochastic_t *how, int64_t i)
{
    uint16_t nearest;
    for (int r = 0; r < how->run_count; r++) {
        const mpt_run_t *run = &how->runs[r];
        if (i < run->at || i >= run->at + run->count)
            continue;
        const uint64_t element = (uint64_t)(run->element + i - run->at);
        return mpt_round_stochastic(value, dtype, mpt_rounding_bits(how->seed, element, how->step));
    }
    mpt_store(&nearest, dtype, 0, (double)value);
    return nearest;
}

static void check_cast(rig_t *rig, mpt_dtype_t dtype, const float *src, int64_t count,
                       const mpt_stochastic_t *how)
{
    uint16_t *dst = guarded_of(count, dtype);
    const mpt_cast_t args = {dtype, MPT_F32, count, dst, src, how};
    assert_int_equal(mpt_cast(&rig->k, &args, NULL), MPT_OK);
    for (int64_t i = 0; i < count; i++) {
        const uint16_t want = rounded(src[i], dtype, how, i);
        if (dst[i] != want)
            fail_msg("element %lld, %a, is %04x, not %04x", (long long)i, (double)src[i], dst[i],
                     want);
    }
    release(dst);
}

/* Any FP32 bits half of the time: NaNs, infinities, subnormals. Else what FP16 can hold or nearly so. */
static float *any_floats(int64_t count, uint64_t seed)
{
    float *values = guarded_of(count, MPT_F32);
    for (int64_t i = 0; i < count; i++) {
        const uint64_t bits = random_bits(&seed);
        values[i] = mpt_f32_from_bits((uint32_t)bits);
        if (bits >> 63)
            values[i] = ldexpf((float)random_unit(&seed), (int)(bits >> 32) % 46 - 28);
    }
    return values;
}

static void check_values(rig_t *rig, mpt_dtype_t dtype)
{
    const mpt_run_t run = {0, 70001, 13};
    const mpt_stochastic_t how = {
        .seed = UINT64_MAX - 5, .step = UINT64_MAX, .runs = &run, .run_count = 1};
    float *src = any_floats(70001, 91);
    const float notable[] = {0.0f,     -0.0f,    INFINITY,  -INFINITY, NAN,       65504.0f,
                             65519.0f, 65535.9f, -65535.9f, 65536.0f,  0x1p-14f,  0x1.fffffep-15f,
                             0x1p-24f, 0x1p-25f, 0x1p-40f,  0x1p-149f, 3.4028e38f};
    memcpy(src + 500, notable, sizeof notable);
    check_cast(rig, dtype, src, 70001, &how);
    release(src);
}

static void every_kind_of_value_rounds_as_defined(void **state)
{
    (void)state;
    for_all(check_values);
}

/* Empty ones, single elements, neighbours, one over the edge of a task, one past the array's end. */
static void check_runs(rig_t *rig, mpt_dtype_t dtype)
{
    const mpt_run_t runs[] = {{0, 0, 3},
                              {0, 1, 8},
                              {1, 2, 100},
                              {7, 1, 7},
                              {8, 9, INT64_C(1) << 40},
                              {100, 511, 5},
                              {700, 512, 6},
                              {1300, 513, 9},
                              {2000, 0, 9},
                              {2001, 33000, (INT64_C(1) << 35) - 9001},
                              {39990, 20, 2}};
    const mpt_stochastic_t how = {.seed = 17, .step = 3, .runs = runs, .run_count = 11};
    const int64_t counts[] = {0, 1, 2, 8, 17, 1000, 32769, 40000};
    float *src = random_array(40000, MPT_F32, 0.0, 1.0, 92);
    for (int i = 0; i < 8; i++)
        check_cast(rig, dtype, src, counts[i], &how);
    release(src);
}

static void runs_may_lie_anywhere(void **state)
{
    (void)state;
    for_all(check_runs);
}

/* Where elements lie in a slice, and how slices are cut, is not seen in their bits. */
static void check_cut(rig_t *rig, mpt_dtype_t compute, int64_t cut)
{
    const mpt_run_t whole[1] = {{0, 3000, 77}};
    const mpt_run_t low[1] = {{0, cut, 77}}, high[1] = {{0, 3000 - cut, 77 + cut}};
    const mpt_stochastic_t how[3] = {{.step = 3, .runs = whole, .run_count = 1},
                                     {.step = 3, .runs = low, .run_count = 1},
                                     {.step = 3, .runs = high, .run_count = 1}};
    float *src = random_array(3000, MPT_F32, 0.0, 1.0, 81);
    uint16_t *want = guarded_of(3000, compute), *got = guarded_of(3000, compute);
    const mpt_cast_t calls[3] = {{compute, MPT_F32, 3000, want, src, &how[0]},
                                 {compute, MPT_F32, cut, got, src, &how[1]},
                                 {compute, MPT_F32, 3000 - cut, got + cut, src + cut, &how[2]}};
    for (int i = 0; i < 3; i++)
        assert_int_equal(mpt_cast(&rig->k, &calls[i], NULL), MPT_OK);
    assert_memory_equal(got, want, 3000 * sizeof *got);
    release(src);
    release(want);
    release(got);
}

static void rounding_does_not_depend_on_the_cut(void **state)
{
    (void)state;
    const int64_t cuts[] = {1, 3, 8, 63, 512, 513, 1500, 2999};
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 1, MPT_F32, 1, 1);
        for (int i = 0; i < 8; i++) {
            check_cut(&rig, MPT_BF16, cuts[i]);
            check_cut(&rig, MPT_F16, cuts[i]);
        }
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value_rounds_as_defined),
        cmocka_unit_test(runs_may_lie_anywhere),
        cmocka_unit_test(rounding_does_not_depend_on_the_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
