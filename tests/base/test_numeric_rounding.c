#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "numeric_oracle.h"
#include "philox.h"

/* ---- stochastic rounding --------------------------------------------------------------- */

/* The number whose magnitude's bits follow those of `bits`: the next one away from zero. */
static double decode_next(const format_t *f, uint16_t bits)
{
    return decode(f, (uint16_t)(bits + 1));
}

/* How many of the 65536 random values round `value` up; the others must cut it off. */
static int count_ups(const format_t *f, float value, uint16_t cut)
{
    int ups = 0;
    for (uint32_t random = 0; random < 65536; random++) {
        uint16_t got = mpt_round_stochastic(value, f->dtype, (uint16_t)random);
        if (got != cut)
            assert_int_equal(got, cut + 1);
        ups += got != cut;
    }
    return ups;
}

static void exact_values_round_to_themselves_whatever_is_drawn(void **state)
{
    (void)state;
    static const uint16_t draws[] = {0, 1, 0x7fff, 0x8000, 0xfff8, 0xffff};
    for (int k = 0; k < 2; k++)
        for (uint32_t bits = 0; bits < 65536; bits++)
            for (int d = 0; d < 6; d++) {
                float value = widen_scalar(formats[k], (uint16_t)bits);
                uint16_t got = mpt_round_stochastic(value, formats[k]->dtype, draws[d]);
                assert_int_equal(got, narrow_scalar(formats[k], value));
            }
}

/* In units of 2^-16 of the step; what is below such a unit is dropped. */
static void values_round_up_as_often_as_they_are_far(void **state)
{
    (void)state;
    uint64_t seed = 5;
    for (int k = 0; k < 2; k++) {
        const uint16_t infinity = encode(formats[k], INFINITY);
        const uint32_t stride = infinity / 40;
        for (uint32_t bits = 0; bits < infinity; bits += 1 + xorshift(&seed) % stride) {
            uint16_t sign = xorshift(&seed) % 2 ? 0x8000 : 0;
            double low = decode(formats[k], (uint16_t)bits),
                   step = decode_next(formats[k], (uint16_t)bits) - low;
            if (bits + 1u == infinity)
                step = low - decode(formats[k], (uint16_t)(bits - 1));
            float value = (float)(low + step * (xorshift(&seed) % 65536) / 65536.0);
            int up = (int)(((double)value - low) / step * 65536.0);
            assert_int_equal(count_ups(formats[k], sign ? -value : value, (uint16_t)(sign | bits)),
                             up);
        }
    }
}

static void fp16_subnormals_round_up_as_often_as_they_are_far(void **state)
{
    (void)state;
    static const float values[] = {0x1p-25f,        0x1.8p-25f,      0x1p-40f,
                                   0x1.fffffep-41f, 0x1p-149f,       0x1.234p-24f,
                                   0x1.fffffep-15f, 0x1.000002p-14f, 0x1.555p-19f};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        double steps = ldexp((double)values[i], 24); /* of a subnormal's last place */
        int up = (int)((steps - floor(steps)) * 65536.0);
        assert_int_equal(count_ups(&f16, values[i], (uint16_t)steps), up);
        assert_int_equal(count_ups(&f16, -values[i], (uint16_t)(0x8000 | (uint16_t)steps)), up);
    }
}

static void carries_past_the_largest_number_are_infinite(void **state)
{
    (void)state;
    static const float beyond_f16[] = {65536.0f, 65537.0f, 1e9f, 3.4e38f};
    assert_int_equal(count_ups(&f16, 65520.0f, 0x7bff), 32768);
    assert_int_equal(mpt_round_stochastic(65520.0f, MPT_F16, 0xffff), 0x7c00);
    assert_int_equal(mpt_round_stochastic(-65535.996f, MPT_F16, 0x8000), 0xfc00);
    assert_int_equal(mpt_round_stochastic(-65535.996f, MPT_F16, 0), 0xfbff);
    for (int i = 0; i < 4; i++)
        for (uint32_t random = 0; random < 65536; random += 4369)
            assert_int_equal(mpt_round_stochastic(-beyond_f16[i], MPT_F16, (uint16_t)random),
                             0xfc00);
    float largest = mpt_f32_from_bits(0x7f7fffffu);
    assert_int_equal(count_ups(&bf16, largest, 0x7f7f), 65535);
    assert_int_equal(mpt_round_stochastic(largest, MPT_BF16, 1), 0x7f80);
}

static void what_is_not_finite_stays_so(void **state)
{
    (void)state;
    for (uint32_t random = 0; random < 65536; random += 257)
        for (int k = 0; k < 2; k++) {
            mpt_dtype_t dtype = formats[k]->dtype;
            for (uint32_t sign = 0; sign < 2; sign++) {
                float loud = mpt_f32_from_bits(sign << 31 | 0x7f800001u);
                float full = mpt_f32_from_bits(sign << 31 | 0x7fffffffu);
                float infinity = mpt_f32_from_bits(sign << 31 | 0x7f800000u);
                assert_int_equal(mpt_round_stochastic(loud, dtype, (uint16_t)random),
                                 narrow_scalar(formats[k], loud));
                assert_int_equal(mpt_round_stochastic(full, dtype, (uint16_t)random),
                                 narrow_scalar(formats[k], full));
                assert_int_equal(mpt_round_stochastic(infinity, dtype, (uint16_t)random),
                                 narrow_scalar(formats[k], infinity));
            }
        }
}

/* Rounding to nearest would be off by the whole distance, 0.3 of a step, every time. */
static void the_mean_is_unbiased(void **state)
{
    (void)state;
    const uint64_t count = 200000;
    for (int k = 0; k < 2; k++) {
        double step = ldexp(1.0, -formats[k]->fraction_bits), error = 0;
        float value = (float)(1.0 + 0.3 * step);
        for (uint64_t element = 0; element < count; element++) {
            uint16_t random = mpt_rounding_bits(1234, element, element / 1000);
            uint16_t bits = mpt_round_stochastic(value, formats[k]->dtype, random);
            error += decode(formats[k], bits) - (double)value;
        }
        assert_true(fabs(error / (double)count) < 0.005 * step); /* standard deviation 0.001 */
    }
}

static void eight_elements_share_a_block_of_random_bits(void **state)
{
    (void)state;
    uint64_t seed = UINT64_C(0xfedcba9876543210), step = (UINT64_C(7) << 32) + 3;
    const uint64_t blocks[] = {0, 1, UINT64_C(0xffffffff), UINT64_C(1) << 32, UINT64_MAX / 8};
    for (int b = 0; b < 5; b++) {
        mpt_philox_t bits = mpt_philox(seed, MPT_PURPOSE_ROUNDING, blocks[b], step);
        for (uint64_t i = 0; i < 8; i++) {
            uint16_t half = (uint16_t)(i % 2 ? bits.word[i / 2] >> 16 : bits.word[i / 2]);
            assert_int_equal(mpt_rounding_bits(seed, 8 * blocks[b] + i, step), half);
        }
    }
}

/* ---- the replica hash -------------------------------------------------------------------- */

static void a_hash_sum_has_no_order(void **state)
{
    (void)state;
    uint64_t forward = 0, backward = 0, in_halves = 0, seed = 8;
    uint32_t data[1001];
    for (int i = 0; i < 1001; i++)
        data[i] = xorshift(&seed);
    for (uint64_t i = 0; i < 1001; i++) {
        forward += mpt_hash_mix(i + 70, data[i], 3);
        backward += mpt_hash_mix(1000 - i + 70, data[1000 - i], 3);
        uint64_t j = i < 500 ? 2 * i + 1 : 2 * (i - 500);
        in_halves += mpt_hash_mix(j + 70, data[j], 3);
    }
    assert_true(forward == backward && forward == in_halves);
}

/* Any one bit changes the mix, and about half of its bits. */
static void one_bit_changes_half_of_the_mix(void **state)
{
    (void)state;
    uint64_t seed = 9, changed = 0, trials = 0;
    for (uint64_t element = 0; element < 200; element++) {
        uint32_t bits = element % 5 ? xorshift(&seed) : 0;
        uint64_t mix = mpt_hash_mix(element, bits, 1);
        for (int bit = 0; bit < 32; bit++) {
            uint64_t other = mpt_hash_mix(element, bits ^ 1u << bit, 1);
            assert_true(other != mix);
            changed += (uint64_t)__builtin_popcountll(other ^ mix);
            trials++;
        }
        assert_true(mpt_hash_mix(element + 1, bits, 1) != mix);
        assert_true(mpt_hash_mix(element, bits, 2) != mix);
    }
    assert_true(fabs((double)changed / (double)trials - 32.0) < 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_values_round_to_themselves_whatever_is_drawn),
        cmocka_unit_test(values_round_up_as_often_as_they_are_far),
        cmocka_unit_test(fp16_subnormals_round_up_as_often_as_they_are_far),
        cmocka_unit_test(carries_past_the_largest_number_are_infinite),
        cmocka_unit_test(what_is_not_finite_stays_so),
        cmocka_unit_test(the_mean_is_unbiased),
        cmocka_unit_test(eight_elements_share_a_block_of_random_bits),
        cmocka_unit_test(a_hash_sum_has_no_order),
        cmocka_unit_test(one_bit_changes_half_of_the_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
