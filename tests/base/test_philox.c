#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "philox.h"

/* The known answers published with the paper's Random123 library. */
static void philox_gives_the_published_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mpt_philox_t bits = mpt_philox4x32(rows[i].counter, rows[i].key);
        assert_memory_equal(bits.word, rows[i].answer, sizeof bits.word);
    }
}

static void a_draw_is_laid_out_as_documented(void **state)
{
    (void)state;
    uint64_t seed = UINT64_C(0x0123456789abcdef), element = UINT64_C(0x1122334455667788),
             step = UINT64_C(0x99aabbccddeeff00);
    uint32_t counter[4] = {0x55667788, 0x11223344, 0xddeeff00, 0x99aabbcc};
    uint32_t key[2] = {0x89abcdef, 0x01234567 ^ 0x03000000};
    mpt_philox_t expected = mpt_philox4x32(counter, key);
    mpt_philox_t bits = mpt_philox(seed, MPT_PURPOSE_ROUNDING, element, step);
    assert_memory_equal(bits.word, expected.word, sizeof bits.word);
}

static void every_argument_changes_the_draw(void **state)
{
    (void)state;
    mpt_philox_t base = mpt_philox(1, MPT_PURPOSE_INIT, 2, 3);
    mpt_philox_t others[] = {
        mpt_philox(2, MPT_PURPOSE_INIT, 2, 3),
        mpt_philox(1 + (UINT64_C(1) << 40), MPT_PURPOSE_INIT, 2, 3),
        mpt_philox(1, MPT_PURPOSE_DROPOUT, 2, 3),
        mpt_philox(1, MPT_PURPOSE_INIT, 3, 3),
        mpt_philox(1, MPT_PURPOSE_INIT, 2 + (UINT64_C(1) << 33), 3),
        mpt_philox(1, MPT_PURPOSE_INIT, 2, 4),
        mpt_philox(1, MPT_PURPOSE_INIT, 2, 3 + (UINT64_C(1) << 50)),
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_memory_not_equal(others[i].word, base.word, sizeof base.word);
}

static void uniforms_stay_below_one(void **state)
{
    (void)state;
    assert_true(mpt_uniform(0) == 0.0f);
    assert_true(mpt_uniform(0xff) == 0.0f);
    assert_true(mpt_uniform(0x80000000u) == 0.5f);
    assert_true(mpt_uniform(UINT32_MAX) == 1.0f - 0x1p-24f);
}

static void normals_have_the_moments_of_a_normal(void **state)
{
    (void)state;
    int count = 200000, beyond_two = 0;
    double sum = 0, squares = 0, fourths = 0;
    for (int i = 0; i < count; i++) {
        double x = mpt_normal(mpt_philox(42, MPT_PURPOSE_INIT, (uint64_t)i, 0));
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
        fourths += x * x * x * x;
        beyond_two += fabs(x) > 2.0;
    }
    assert_true(fabs(sum / count) < 0.01);
    assert_true(fabs(squares / count - 1.0) < 0.02);
    assert_true(fabs(fourths / count - 3.0) < 0.15);
    assert_true(fabs((double)beyond_two / count - 0.0455) < 0.003);
}

static void normals_are_finite_at_the_ends_of_the_range(void **state)
{
    (void)state;
    static const uint32_t ends[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff};
    for (size_t a = 0; a < 5; a++) {
        for (size_t b = 0; b < 5; b++) {
            mpt_philox_t bits = {{ends[a], ends[b], 0, 0}};
            double x = mpt_normal(bits);
            assert_true(fabs(x) < 6.7); /* sqrt(2 ln 2^32) = 6.66 */
        }
    }
}

static void permuting_is_a_bijection_for_every_small_count(void **state)
{
    (void)state;
    uint8_t seen[600];
    for (uint64_t count = 1; count <= 600; count++) {
        memset(seen, 0, sizeof seen);
        for (uint64_t position = 0; position < count; position++) {
            uint64_t sample = mpt_permute(7, count % 3, count, position);
            assert_true(sample < count);
            assert_int_equal(seen[sample], 0);
            seen[sample] = 1;
        }
    }
}

static void permuting_is_a_bijection_around_powers_of_four(void **state)
{
    (void)state;
    static const uint64_t counts[] = {4095, 4096, 4097, 65535, 65536, 65537, 100003};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        uint8_t *seen = calloc(counts[c], 1);
        assert_non_null(seen);
        for (uint64_t position = 0; position < counts[c]; position++) {
            uint64_t sample = mpt_permute(3, 1, counts[c], position);
            assert_true(sample < counts[c]);
            assert_int_equal(seen[sample], 0);
            seen[sample] = 1;
        }
        free(seen);
    }
}

/* Of a random permutation: about one fixed point, rank correlation near 0, about one neighbour
 * kept. */
static void a_permutation_looks_shuffled(void **state)
{
    (void)state;
    uint64_t count = 50000;
    for (uint64_t epoch = 0; epoch < 4; epoch++) {
        int fixed = 0, neighbours = 0;
        double correlation = 0, middle = (double)(count - 1) / 2;
        uint64_t before = 0;
        for (uint64_t position = 0; position < count; position++) {
            uint64_t sample = mpt_permute(1234, epoch, count, position);
            fixed += sample == position;
            neighbours += position > 0 && sample == before + 1;
            correlation += ((double)sample - middle) * ((double)position - middle);
            before = sample;
        }
        correlation /= (double)count * ((double)count * (double)count - 1) / 12;
        assert_true(fixed < 10);
        assert_true(neighbours < 10);
        assert_true(fabs(correlation) < 0.02); /* standard deviation 0.0045 */
    }
}

static void seeds_and_epochs_give_other_orders(void **state)
{
    (void)state;
    uint64_t count = 10000;
    int same_epoch = 0, same_seed = 0;
    for (uint64_t position = 0; position < count; position++) {
        uint64_t sample = mpt_permute(5, 0, count, position);
        same_epoch += sample == mpt_permute(5, 1, count, position);
        same_seed += sample == mpt_permute(6, 0, count, position);
    }
    assert_true(same_epoch < 10);
    assert_true(same_seed < 10);
}

static void all_orders_of_three_occur(void **state)
{
    (void)state;
    int seen[27] = {0};
    for (uint64_t epoch = 0; epoch < 600; epoch++) {
        uint64_t code = 0;
        for (uint64_t position = 0; position < 3; position++)
            code = code * 3 + mpt_permute(11, epoch, 3, position);
        seen[code]++;
    }
    int orders = 0;
    for (int code = 0; code < 27; code++)
        orders += seen[code] >= 30; /* 100 expected of each */
    assert_int_equal(orders, 6);
}

static void the_largest_counts_work(void **state)
{
    (void)state;
    uint64_t counts[] = {UINT64_C(1) << 62, (UINT64_C(1) << 62) - 1, (UINT64_C(1) << 60) + 1,
                         UINT64_C(1) << 32};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        uint64_t a = mpt_permute(1, 2, counts[c], 0),
                 b = mpt_permute(1, 2, counts[c], counts[c] - 1);
        assert_true(a < counts[c] && b < counts[c] && a != b);
    }
    assert_int_equal(mpt_permute(9, 9, 1, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(a_draw_is_laid_out_as_documented),
        cmocka_unit_test(every_argument_changes_the_draw),
        cmocka_unit_test(uniforms_stay_below_one),
        cmocka_unit_test(normals_have_the_moments_of_a_normal),
        cmocka_unit_test(normals_are_finite_at_the_ends_of_the_range),
        cmocka_unit_test(permuting_is_a_bijection_for_every_small_count),
        cmocka_unit_test(permuting_is_a_bijection_around_powers_of_four),
        cmocka_unit_test(a_permutation_looks_shuffled),
        cmocka_unit_test(seeds_and_epochs_give_other_orders),
        cmocka_unit_test(all_orders_of_three_occur),
        cmocka_unit_test(the_largest_counts_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
