#include "elementwise_fixture.h"
#include <sys/mman.h>

/* Around a vector, a segment, a task. */
static const int64_t counts[] = {0,    1,    7,     16,    33,    4095,  4096,
                                 4097, 8200, 32767, 32768, 32769, 100003};
#define COUNTS (int)(sizeof counts / sizeof counts[0])

static void for_all(void (*check)(rig_t *rig, mpt_dtype_t dtype))
{
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_F32, 1, 1);
            for (int d = 0; d < RUN_DTYPES; d++)
                check(&rig, run_dtypes[d]);
            rig_close(&rig);
        }
}

static uint32_t widened(const void *array, mpt_dtype_t dtype, int64_t i)
{
    return mpt_f32_bits((float)mpt_load(array, dtype, i));
}

/* The plain loop over the array. */
static mpt_offender_t count_offenders(const void *array, mpt_dtype_t dtype, int64_t count)
{
    mpt_offender_t bad = {0};
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(mpt_load(array, dtype, i)) && bad.count++ == 0) {
            bad.first = (uint64_t)i;
            bad.bits = widened(array, dtype, i);
        }
    return bad;
}

static void assert_offenders(const mpt_offender_t *got, const mpt_offender_t *want)
{
    assert_int_equal(got->count, want->count);
    if (want->count == 0)
        return;
    assert_int_equal(got->first, want->first);
    assert_int_equal(got->bits, want->bits);
}

/* ---- to the wire
 * ------------------------------------------------------------------------------- */

static void check_to_wire(rig_t *rig, mpt_dtype_t dtype, const float *acc, int64_t count,
                          float scale)
{
    void *wire = guarded_of(count, dtype), *want = guarded_of(count, dtype);
    mpt_offender_t bad;
    memset(&bad, 0xff, sizeof bad);
    const mpt_to_wire_t args = {dtype, count, acc, wire, scale, &bad};
    assert_int_equal(mpt_to_wire(&rig->k, &args, NULL), MPT_OK);
    for (int64_t i = 0; i < count; i++)
        mpt_store(want, dtype, i, (double)acc[i] * (double)scale);
    assert_memory_equal(wire, want, (size_t)count * mpt_dtype_bytes(dtype));
    const mpt_offender_t bad_want = count_offenders(want, dtype, count);
    assert_offenders(&bad, &bad_want);
    release(wire);
    release(want);
}

/* Every pattern of the wire type, and from each the halfway to the next and what lies beside it. */
static void check_patterns(rig_t *rig, mpt_dtype_t dtype)
{
    if (dtype == MPT_F32)
        return;
    float *acc = guarded_of(65536 * 4, MPT_F32);
    for (uint32_t pattern = 0; pattern < 65536; pattern++) {
        const uint16_t both[2] = {(uint16_t)pattern, (uint16_t)(pattern + 1)};
        const double low = mpt_load(both, dtype, 0), high = mpt_load(both, dtype, 1);
        const float halfway = (float)(low / 2.0 + high / 2.0);
        acc[4 * pattern] = (float)low;
        acc[4 * pattern + 1] = halfway;
        acc[4 * pattern + 2] = nextafterf(halfway, -INFINITY);
        acc[4 * pattern + 3] = nextafterf(halfway, INFINITY);
    }
    check_to_wire(rig, dtype, acc, 65536 * 4, 1.0f);
    for (uint32_t pattern = 0; pattern < 65536; pattern++) {
        uint16_t back;
        mpt_offender_t bad;
        if (pattern % 37 != 0 || isnan(acc[4 * pattern]))
            continue;
        const mpt_to_wire_t args = {dtype, 1, acc + 4 * pattern, &back, 1.0f, &bad};
        assert_int_equal(mpt_to_wire(&rig->k, &args, NULL), MPT_OK);
        assert_int_equal(back, pattern);
    }
    release(acc);
}

static void to_wire_rounds_every_pattern_exactly(void **state)
{
    (void)state;
    for_all(check_patterns);
}

/* Random FP32 bit patterns: every exponent, denormals, infinities and NaNs among them. */
static float *any_floats(int64_t count, uint64_t seed)
{
    float *acc = guarded_of(count, MPT_F32);
    for (int64_t i = 0; i < count; i++) {
        acc[i] = mpt_f32_from_bits((uint32_t)random_bits(&seed));
        if (isnan(acc[i]))
            acc[i] = mpt_f32_from_bits(mpt_f32_bits(acc[i]) | 0x00400000u);
    }
    return acc;
}

/* 2^-20 takes many values below FP32's normal range, where rounding twice would show. */
static void check_scales(rig_t *rig, mpt_dtype_t dtype)
{
    const float scales[] = {1.0f, 0.25f, 0x1p-20f, 4.0f, 0x1p20f};
    float *acc = any_floats(20000, 31);
    for (int i = 0; i < 5; i++)
        check_to_wire(rig, dtype, acc, 20000, scales[i]);
    release(acc);
}

static void to_wire_scales_and_rounds_once(void **state)
{
    (void)state;
    for_all(check_scales);
}

static void check_counts(rig_t *rig, mpt_dtype_t dtype)
{
    for (int i = 0; i < COUNTS; i++) {
        float *acc = random_array(counts[i], MPT_F32, 0.0, 1.0, 32);
        check_to_wire(rig, dtype, acc, counts[i], 0.5f);
        if (counts[i] > 0) {
            acc[counts[i] - 1] = NAN;
            check_to_wire(rig, dtype, acc, counts[i], 0.5f);
            acc[counts[i] / 2] = -3e38f;
            check_to_wire(rig, dtype, acc, counts[i], 4.0f);
            acc[0] = INFINITY;
            check_to_wire(rig, dtype, acc, counts[i], 1.0f);
        }
        release(acc);
    }
}

static void to_wire_counts_offenders_and_finds_the_first(void **state)
{
    (void)state;
    for_all(check_counts);
}

static void to_wire_in_place_scales_fp32(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        float *acc = random_array(40001, MPT_F32, 0.0, 1.0, 33), *before = duplicate(acc);
        mpt_offender_t bad;
        const mpt_to_wire_t args = {MPT_F32, 40001, acc, acc, 0.125f, &bad};
        assert_int_equal(mpt_to_wire(&rig.k, &args, NULL), MPT_OK);
        for (int64_t i = 0; i < 40001; i++)
            assert_true(acc[i] == before[i] * 0.125f);
        release(acc);
        release(before);
        rig_close(&rig);
    }
}

static void to_wire_in_place_without_scale_writes_nothing(void **state)
{
    (void)state;
    const size_t bytes = 1 << 18;
    float *acc = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(acc != MAP_FAILED);
    acc[40000] = INFINITY;
    assert_int_equal(mprotect(acc, bytes, PROT_READ), 0);
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        mpt_offender_t bad;
        const mpt_to_wire_t args = {MPT_F32, bytes / 4, acc, acc, 1.0f, &bad};
        assert_int_equal(mpt_to_wire(&rig.k, &args, NULL), MPT_OK);
        assert_int_equal(bad.count, 1);
        assert_int_equal(bad.first, 40000);
        assert_int_equal(bad.bits, 0x7f800000);
        rig_close(&rig);
    }
    munmap(acc, bytes);
}

/* ---- the scan
 * ---------------------------------------------------------------------------------- */

/* The order that the contract defines, written out. */
static double sum_of_squares(const void *grad, mpt_dtype_t dtype, int64_t count)
{
    double total = 0.0;
    for (int64_t begin = 0; begin < count; begin += MPT_SCAN_SEGMENT) {
        double lane[8] = {0};
        for (int64_t i = begin; i < count && i < begin + MPT_SCAN_SEGMENT; i++) {
            const double g = mpt_load(grad, dtype, i);
            lane[i % 8] += g * g;
        }
        total += ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
                 ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
    return total;
}

static void check_scan(rig_t *rig, mpt_dtype_t dtype, const void *grad, int64_t count)
{
    double sumsq = -1.0;
    mpt_offender_t bad;
    memset(&bad, 0xff, sizeof bad);
    const mpt_grad_scan_t args = {dtype, count, grad, &sumsq, &bad};
    assert_int_equal(mpt_grad_scan(&rig->k, &args, NULL), MPT_OK);
    const double want = sum_of_squares(grad, dtype, count);
    if (isfinite(want))
        assert_memory_equal(&sumsq, &want, sizeof want);
    else
        assert_int_equal(isnan(sumsq) != 0, isnan(want) != 0);
    const mpt_offender_t bad_want = count_offenders(grad, dtype, count);
    assert_offenders(&bad, &bad_want);
}

static void check_scan_counts(rig_t *rig, mpt_dtype_t dtype)
{
    for (int i = 0; i < COUNTS; i++) {
        void *grad = random_array(counts[i], dtype, 0.0, 3.0, 41);
        check_scan(rig, dtype, grad, counts[i]);
        if (counts[i] > 0) {
            mpt_store(grad, dtype, counts[i] - 1, -INFINITY);
            check_scan(rig, dtype, grad, counts[i]);
            mpt_store(grad, dtype, counts[i] / 3, NAN);
            check_scan(rig, dtype, grad, counts[i]);
        }
        release(grad);
    }
}

static void scan_sums_in_the_defined_order(void **state)
{
    (void)state;
    for_all(check_scan_counts);
}

/* The largest and smallest magnitudes that the types have. */
static void check_scan_extremes(rig_t *rig, mpt_dtype_t dtype)
{
    void *grad = guarded_of(5000, dtype);
    for (int64_t i = 0; i < 5000; i++)
        mpt_store(grad, dtype, i, dtype == MPT_F16 ? 65504.0 : 0x1.fep127);
    check_scan(rig, dtype, grad, 5000);
    for (int64_t i = 0; i < 5000; i++)
        mpt_store(grad, dtype, i, dtype == MPT_F16 ? 0x1p-24 : 0x1p-133);
    check_scan(rig, dtype, grad, 5000);
    release(grad);
}

static void scan_neither_overflows_nor_underflows(void **state)
{
    (void)state;
    for_all(check_scan_extremes);
}

/* More than what scratch holds partial results for; an offender on each side of the cut. */
static void long_arrays_are_done_in_several_spans(void **state)
{
    (void)state;
    const int64_t count = (INT64_C(1) << 24) + 5001;
    uint16_t *grad = guarded_of(count, MPT_BF16);
    for (int64_t i = 0; i < count; i++)
        grad[i] = (uint16_t)(0x3f00 + (i * 7919) % 251);
    rig_t rig;
    rig_open(&rig, mpt_isa_detect(), 2, MPT_F32, 1, 1);
    check_scan(&rig, MPT_BF16, grad, count);
    grad[count - 1] = grad[(1 << 24) - 1] = 0x7f80;
    check_scan(&rig, MPT_BF16, grad, count);
    release(grad);
    float *acc = guarded_of(count, MPT_F32);
    memset(acc, 0, (size_t)count * sizeof *acc);
    acc[count - 1] = acc[1 << 24] = INFINITY;
    mpt_offender_t bad;
    const mpt_to_wire_t args = {MPT_F32, count, acc, acc, 1.0f, &bad};
    assert_int_equal(mpt_to_wire(&rig.k, &args, NULL), MPT_OK);
    assert_int_equal(bad.count, 2);
    assert_int_equal(bad.first, 1 << 24);
    release(acc);
    rig_close(&rig);
}

/* ---- casts
 * ------------------------------------------------------------------------------------- */

/* A value in FP64 that FP32 would first round to a halfway point of BF16 (and FP16). */
static void fill_source(void *src, mpt_dtype_t dtype, int64_t count)
{
    uint64_t seed = 51;
    for (int64_t i = 0; i < count; i++)
        mpt_store(src, dtype, i, ldexp(random_unit(&seed), (int)(random_bits(&seed) % 60) - 30));
    mpt_store(src, dtype, 0, 1.0 + 0x1p-8 + 0x1p-40);
    mpt_store(src, dtype, count - 1, 1.0 + 0x1p-11 + 0x1p-40);
}

static void check_cast(rig_t *rig, mpt_dtype_t dst_dtype)
{
    for (int s = 0; s < MPT_DTYPE_COUNT; s++) {
        const mpt_dtype_t src_dtype = (mpt_dtype_t)s;
        const int64_t count = 33001;
        void *src = guarded_of(count, src_dtype), *dst = guarded_of(count, dst_dtype);
        void *want = guarded_of(count, dst_dtype);
        fill_source(src, src_dtype, count);
        for (int64_t i = 0; i < count; i++)
            mpt_store(want, dst_dtype, i, mpt_load(src, src_dtype, i));
        const mpt_cast_t args = {dst_dtype, src_dtype, count, dst, src, NULL};
        assert_int_equal(mpt_cast(&rig->k, &args, NULL), MPT_OK);
        assert_memory_equal(dst, want, (size_t)count * mpt_dtype_bytes(dst_dtype));
        release(src);
        release(dst);
        release(want);
    }
}

static void casts_round_once_between_all_types(void **state)
{
    (void)state;
    for_all(check_cast);
    rig_t rig;
    rig_open(&rig, mpt_isa_detect(), 2, MPT_F32, 1, 1);
    check_cast(&rig, MPT_F64);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(to_wire_rounds_every_pattern_exactly),
        cmocka_unit_test(to_wire_scales_and_rounds_once),
        cmocka_unit_test(to_wire_counts_offenders_and_finds_the_first),
        cmocka_unit_test(to_wire_in_place_scales_fp32),
        cmocka_unit_test(to_wire_in_place_without_scale_writes_nothing),
        cmocka_unit_test(scan_sums_in_the_defined_order),
        cmocka_unit_test(scan_neither_overflows_nor_underflows),
        cmocka_unit_test(long_arrays_are_done_in_several_spans),
        cmocka_unit_test(casts_round_once_between_all_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
