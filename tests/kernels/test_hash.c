#include "elementwise_fixture.h"

static const int64_t counts[] = {0, 1, 7, 8, 9, 63, 64, 65, 1001, 32767, 32768, 32769, 100003};
#define COUNTS (int)(sizeof counts / sizeof counts[0])

/* The definition. */
static uint64_t plain_sum(const void *data, mpt_dtype_t dtype, int64_t count, uint64_t element,
                          uint64_t salt)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += mpt_hash_mix(
            element + (uint64_t)i,
            dtype == MPT_F32 ? ((const uint32_t *)data)[i] : ((const uint16_t *)data)[i], salt);
    return sum;
}

static uint64_t hash_of(rig_t *rig, const void *data, mpt_dtype_t dtype, int64_t count,
                        uint64_t element, uint64_t salt)
{
    uint64_t sum = 0;
    const mpt_hash_t args = {dtype, count, data, element, salt, &sum};
    assert_int_equal(mpt_hash(&rig->k, &args, NULL), MPT_OK);
    return sum;
}

static void *random_words(int64_t count, mpt_dtype_t dtype, uint64_t seed)
{
    unsigned char *data = guarded_of(count, dtype);
    for (size_t i = 0; i < (size_t)count * mpt_dtype_bytes(dtype); i++)
        data[i] = (unsigned char)random_bits(&seed);
    return data;
}

static void a_hash_is_the_sum_over_elements(void **state)
{
    (void)state;
    const uint64_t elements[] = {0, 12345, (UINT64_C(1) << 32) - 17, UINT64_MAX - 40};
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++) {
            rig_t rig;
            rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], MPT_F32, 1, 1);
            for (int d = 0; d < RUN_DTYPES; d++)
                for (int i = 0; i < COUNTS; i++) {
                    const uint64_t element = elements[i % 4], salt = (uint64_t)i * 7;
                    void *data = random_words(counts[i], run_dtypes[d], 11);
                    assert_true(hash_of(&rig, data, run_dtypes[d], counts[i], element, salt) ==
                                plain_sum(data, run_dtypes[d], counts[i], element, salt));
                    release(data);
                }
            rig_close(&rig);
        }
}

/* Slices in any order, added into one sum. */
static void a_hash_is_the_same_for_any_cut(void **state)
{
    (void)state;
    const int64_t count = 40001, ends[] = {0, 1, 9, 1000, 1017, 33000, 40001};
    uint32_t *data = random_words(count, MPT_F32, 12);
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        uint64_t sum = 0;
        for (int i = 5; i >= 0; i--) {
            const mpt_hash_t args = {
                MPT_F32, ends[i + 1] - ends[i], data + ends[i], 500 + (uint64_t)ends[i], 3, &sum};
            assert_int_equal(mpt_hash(&rig.k, &args, NULL), MPT_OK);
        }
        assert_true(sum == hash_of(&rig, data, MPT_F32, count, 500, 3));
        rig_close(&rig);
    }
    release(data);
}

/* What the replica check is there to find: any one bit, two elements that changed places, another array. */
static void a_hash_shows_what_replicas_can_differ_in(void **state)
{
    (void)state;
    const int64_t count = 999;
    rig_t rig;
    rig_open(&rig, mpt_isa_detect(), 2, MPT_F32, 1, 1);
    uint32_t *data = random_words(count, MPT_F32, 13);
    const uint64_t whole = hash_of(&rig, data, MPT_F32, count, 0, 1);
    for (int64_t i = 0; i < count; i += 97)
        for (int bit = 0; bit < 32; bit++) {
            data[i] ^= 1u << bit;
            assert_true(hash_of(&rig, data, MPT_F32, count, 0, 1) != whole);
            data[i] ^= 1u << bit;
        }
    const uint32_t first = data[0];
    data[0] = data[500];
    data[500] = first;
    assert_true(hash_of(&rig, data, MPT_F32, count, 0, 1) != whole);
    data[500] = data[0];
    data[0] = first;
    assert_true(hash_of(&rig, data, MPT_F32, count, 0, 1) == whole);
    assert_true(hash_of(&rig, data, MPT_F32, count, 0, 2) != whole);
    assert_true(hash_of(&rig, data, MPT_F32, count, 1, 1) != whole);
    assert_true(hash_of(&rig, data, MPT_F32, count - 1, 0, 1) != whole);
    release(data);
    rig_close(&rig);
}

/* -0 and 0 compare equal, NaNs do not: the hash is of bits. */
static void a_hash_is_of_bits_not_of_values(void **state)
{
    (void)state;
    rig_t rig;
    rig_open(&rig, mpt_isa_detect(), 1, MPT_F32, 1, 1);
    const float zeros[2] = {0.0f, -0.0f}, nan = NAN, same_nan = NAN;
    assert_true(hash_of(&rig, &zeros[0], MPT_F32, 1, 4, 0) !=
                hash_of(&rig, &zeros[1], MPT_F32, 1, 4, 0));
    assert_true(hash_of(&rig, &nan, MPT_F32, 1, 4, 0) ==
                hash_of(&rig, &same_nan, MPT_F32, 1, 4, 0));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hash_is_the_sum_over_elements),
        cmocka_unit_test(a_hash_is_the_same_for_any_cut),
        cmocka_unit_test(a_hash_shows_what_replicas_can_differ_in),
        cmocka_unit_test(a_hash_is_of_bits_not_of_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
