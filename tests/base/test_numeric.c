#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "numeric_oracle.h"
#include "soft_numeric.h"

/* ---- single values ------------------------------------------------------------------- */

static void all_16_bit_values_widen_exactly(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        for (uint32_t bits = 0; bits < 65536; bits++) {
            float wide = widen_scalar(formats[k], (uint16_t)bits);
            double exact = decode(formats[k], (uint16_t)bits);
            if (isnan(exact))
                assert_true(isnan(wide));
            else
                assert_int_equal(mpt_f32_bits(wide), mpt_f32_bits((float)exact));
            assert_true((double)wide == exact || isnan(exact));
        }
    }
}

static void nans_keep_sign_and_payload_and_become_quiet(void **state)
{
    (void)state;
    for (uint32_t payload = 1; payload < 1024; payload++) {
        for (uint32_t sign = 0; sign < 2; sign++) {
            uint16_t half = (uint16_t)(sign << 15 | 0x7c00 | payload);
            uint32_t wide = mpt_f32_bits(mpt_f16_to_f32(half));
            assert_int_equal(wide, sign << 31 | 0x7fc00000u | payload << 13);
            float loud = mpt_f32_from_bits(sign << 31 | 0x7f800000u | payload << 13 | 5);
            assert_int_equal(mpt_f32_to_f16(loud), sign << 15 | 0x7e00 | payload);
            assert_int_equal(mpt_f32_to_bf16(loud), sign << 15 | 0x7fc0 | payload >> 3);
        }
    }
    assert_int_equal(mpt_f32_to_f16(mpt_f32_from_bits(0x7f800001u)), 0x7e00); /* not infinity */
    assert_int_equal(mpt_f32_to_bf16(mpt_f32_from_bits(0x7f800001u)), 0x7fc0);
    assert_int_equal(mpt_f32_to_bf16(mpt_f32_from_bits(0xffffffffu)), 0xffff);
}

static void every_value_survives_the_way_out_and_back(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        uint16_t quiet = (uint16_t)(1 << (formats[k]->fraction_bits - 1));
        for (uint32_t bits = 0; bits < 65536; bits++) {
            int nan = isnan(decode(formats[k], (uint16_t)bits));
            uint16_t expected = (uint16_t)(nan ? bits | quiet : bits);
            assert_int_equal(narrow_scalar(formats[k], widen_scalar(formats[k], (uint16_t)bits)),
                             expected);
        }
    }
}

/* A list of FP32 values that hold every rounding case of a format: values, halfway points, their
 * neighbours. */
#define NEIGHBOURS 5
#define HARD_COUNT (65536 * NEIGHBOURS)

static float *hard_values(const format_t *f)
{
    float *values = malloc(HARD_COUNT * sizeof *values);
    assert_non_null(values);
    uint64_t seed = 99;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float *v = values + bits * NEIGHBOURS;
        float here = widen_scalar(f, (uint16_t)bits);
        float next = widen_scalar(f, (uint16_t)(bits + 1));
        float half = (float)((double)here / 2 + (double)next / 2);
        v[0] = here;
        v[1] = half;
        v[2] = mpt_f32_from_bits(mpt_f32_bits(half) - 1);
        v[3] = mpt_f32_from_bits(mpt_f32_bits(half) + 1);
        v[4] = mpt_f32_from_bits(xorshift(&seed));
    }
    return values;
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        float *values = hard_values(formats[k]);
        for (int i = 0; i < HARD_COUNT; i++)
            if (!isnan(values[i]))
                assert_int_equal(narrow_scalar(formats[k], values[i]),
                                 encode(formats[k], (double)values[i]));
        free(values);
    }
}

static void overflow_begins_halfway_past_the_largest_value(void **state)
{
    (void)state;
    assert_int_equal(mpt_f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(mpt_f32_to_f16(nextafterf(65520.0f, 0.0f)), 0x7bff);
    assert_int_equal(mpt_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(mpt_f32_to_f16(-65520.0f), 0xfc00);
    assert_int_equal(mpt_f32_to_f16(3e38f), 0x7c00);
    assert_int_equal(mpt_f32_to_bf16(mpt_f32_from_bits(0x7f7f7fffu)), 0x7f7f);
    assert_int_equal(mpt_f32_to_bf16(mpt_f32_from_bits(0x7f7f8000u)), 0x7f80);
    assert_int_equal(mpt_f32_to_f16(0x1p-24f), 1);
    assert_int_equal(mpt_f32_to_f16(0x1p-25f), 0); /* a tie, to even */
    assert_int_equal(mpt_f32_to_f16(nextafterf(0x1p-25f, 1.0f)), 1);
    assert_int_equal(mpt_f32_to_f16(-0x1p-149f), 0x8000);
}

/* Doubles that an FP32 step between would move across or onto a halfway point. */
static void a_double_is_rounded_once(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        int twice_differs = 0;
        for (uint32_t bits = 0; bits < 65535; bits++) {
            double here = decode(formats[k], (uint16_t)bits),
                   next = decode(formats[k], (uint16_t)(bits + 1));
            if (!isfinite(here) || !isfinite(next))
                continue;
            double half = here / 2 + next / 2;
            double tries[] = {half, half + half * 0x1p-40, half - half * 0x1p-40,
                              nextafter(half, INFINITY), nextafter(half, -INFINITY)};
            for (int t = 0; t < 5; t++) {
                uint16_t stored[3] = {0x1234, 0x1234, 0x1234};
                mpt_store(stored, formats[k]->dtype, 1, tries[t]);
                assert_int_equal(stored[0], 0x1234);
                assert_int_equal(stored[2], 0x1234);
                assert_int_equal(stored[1], encode(formats[k], tries[t]));
                twice_differs += stored[1] != narrow_scalar(formats[k], (float)tries[t]);
            }
        }
        assert_true(twice_differs > 10000);
    }
}

static void doubles_at_the_ends_of_the_range_are_stored_right(void **state)
{
    (void)state;
    static const double ends[] = {0.0,
                                  -0.0,
                                  INFINITY,
                                  -INFINITY,
                                  1e308,
                                  -1e308,
                                  1e-320,
                                  -1e-320,
                                  3.5e38,
                                  -3.5e38,
                                  65519.999,
                                  65520.0,
                                  0x1p-25,
                                  0x1.00001p-25,
                                  0x1p-134,
                                  0x1.0000000001p-134,
                                  0x1.fffffffp127,
                                  0x1.fep127,
                                  0x1.ffp127,
                                  0x1.feffffffffp127};
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
            uint16_t stored;
            mpt_store(&stored, formats[k]->dtype, 0, ends[i]);
            assert_int_equal(stored, encode(formats[k], ends[i]));
        }
        uint16_t nan;
        mpt_store(&nan, formats[k]->dtype, 0, NAN);
        assert_true(isnan(decode(formats[k], nan)));
        mpt_store(&nan, formats[k]->dtype, 0, -NAN);
        assert_true(isnan(decode(formats[k], nan)));
    }
}

static void wide_types_load_and_store_as_they_are(void **state)
{
    (void)state;
    float singles[2] = {1.5f, 0};
    double doubles[2] = {0.1, 0};
    mpt_store(singles, MPT_F32, 1, 0.1);
    mpt_store(doubles, MPT_F64, 1, 0.3);
    assert_true(singles[1] == 0.1f && doubles[1] == 0.3);
    assert_true(mpt_load(singles, MPT_F32, 0) == 1.5 &&
                mpt_load(singles, MPT_F32, 1) == (double)0.1f);
    assert_true(mpt_load(doubles, MPT_F64, 0) == 0.1);
}

/* ---- arrays, on every level that this processor runs --------------------------------- */

static void compare_all(const void *got, const void *expected, size_t bytes, const char *what)
{
    const unsigned char *a = got, *b = expected;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %zu is %02x, not %02x", what, i, a[i], b[i]);
}

static void every_level_narrows_alike(void **state)
{
    (void)state;
    uint16_t *expected = malloc(HARD_COUNT * 2), *got = malloc(HARD_COUNT * 2);
    assert_true(expected && got);
    for (int k = 0; k < 2; k++) {
        float *values = hard_values(formats[k]);
        for (int i = 0; i < HARD_COUNT; i++)
            expected[i] = narrow_scalar(formats[k], values[i]);
        const mpt_numeric_level_t *level;
        for (int l = 0; (level = numeric_level(l)); l++) {
            memset(got, 0x77, HARD_COUNT * 2);
            level->convert(got, formats[k]->dtype, values, MPT_F32, HARD_COUNT);
            compare_all(got, expected, HARD_COUNT * 2, level->name);
        }
        free(values);
    }
    free(expected);
    free(got);
}

static void every_level_widens_alike(void **state)
{
    (void)state;
    uint16_t *all = malloc(65536 * 2);
    float *expected = malloc(65536 * 4), *got = malloc(65536 * 4);
    assert_true(all && expected && got);
    for (int k = 0; k < 2; k++) {
        for (uint32_t bits = 0; bits < 65536; bits++) {
            all[bits] = (uint16_t)bits;
            expected[bits] = widen_scalar(formats[k], (uint16_t)bits);
        }
        const mpt_numeric_level_t *level;
        for (int l = 0; (level = numeric_level(l)); l++) {
            level->convert(got, MPT_F32, all, formats[k]->dtype, 65536);
            compare_all(got, expected, 65536 * 4, level->name);
        }
    }
    free(all);
    free(expected);
    free(got);
}

#define ROOM 1600
#define GUARD 8

/* Finite values of all sizes, and some special ones; no NaN, whose payload differs by the way it
 * took. */
static double some_value(uint64_t *seed)
{
    static const double special[] = {0.0,   -0.0, INFINITY, -INFINITY, 65504,
                                     65520, 1e-7, -6e-8,    1e-40,     3.4e38};
    uint32_t bits = xorshift(seed);
    if (bits % 16 == 0)
        return special[bits / 16 % 10];
    return ldexp((double)xorshift(seed) / 4294967296.0 - 0.5, (int)(bits >> 8) % 40 - 26);
}

static void check_conversion(const mpt_numeric_level_t *level, mpt_dtype_t to, mpt_dtype_t from,
                             int64_t count)
{
    double src[ROOM], dst[ROOM], expected[ROOM];
    uint64_t seed = 7 + (uint64_t)count;
    for (int64_t i = 0; i < count; i++)
        mpt_store(src, from, i + 1, some_value(&seed)); /* from element 1: not aligned */
    memset(dst, 0x3c, sizeof dst);
    memcpy(expected, dst, sizeof dst);
    for (int64_t i = 0; i < count; i++)
        mpt_store(expected, to, i + 3, mpt_load(src, from, i + 1));
    level->convert((char *)dst + 3 * mpt_dtype_bytes(to), to, (char *)src + mpt_dtype_bytes(from),
                   from, count);
    compare_all(dst, expected, sizeof dst, level->name);
}

static void every_pair_of_types_converts(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 2, 7, 15, 16, 17, 511, 512, 513, 1024, 1581};
    const mpt_numeric_level_t *level;
    for (int l = 0; (level = numeric_level(l)); l++)
        for (int to = 0; to < MPT_DTYPE_COUNT; to++)
            for (int from = 0; from < MPT_DTYPE_COUNT; from++)
                for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
                    check_conversion(level, (mpt_dtype_t)to, (mpt_dtype_t)from, counts[c]);
}

static void types_of_one_size_convert_in_place(void **state)
{
    (void)state;
    const mpt_numeric_level_t *level;
    for (int l = 0; (level = numeric_level(l)); l++) {
        uint16_t apart[1000], here[1000];
        uint64_t seed = 5;
        for (int i = 0; i < 1000; i++)
            mpt_store(here, MPT_BF16, i, some_value(&seed));
        level->convert(apart, MPT_F16, here, MPT_BF16, 1000);
        level->convert(here, MPT_F16, here, MPT_BF16, 1000);
        compare_all(here, apart, sizeof here, level->name);
        level->convert(here, MPT_F16, here, MPT_F16, 1000);
        compare_all(here, apart, sizeof here, level->name);
    }
}

static void the_public_conversion_is_the_fastest_level(void **state)
{
    (void)state;
    float src[100];
    uint16_t got[100], expected[100];
    uint64_t seed = 3;
    for (int i = 0; i < 100; i++)
        src[i] = (float)some_value(&seed);
    mpt_numeric_level(0)->convert(expected, MPT_F16, src, MPT_F32, 100);
    mpt_convert(got, MPT_F16, src, MPT_F32, 100);
    compare_all(got, expected, sizeof got, "mpt_convert");
}

/* ---- the tree sum -------------------------------------------------------------------- */

/* Level by level as the contract says: (0,1) (2,3) ..., an odd last one passing up unchanged. */
static float tree_oracle(const float *leaves, int ranks)
{
    static float level[4096], above[4096];
    memcpy(level, leaves, (size_t)ranks * sizeof *leaves);
    int width = ranks;
    while (width > 1) {
        int next = 0;
        for (int i = 0; i + 1 < width; i += 2)
            above[next++] = level[i] + level[i + 1];
        if (width % 2 == 1)
            above[next++] = level[width - 1];
        memcpy(level, above, (size_t)next * sizeof *level);
        width = next;
    }
    return level[0];
}

static float left_to_right(const float *leaves, int ranks)
{
    float sum = leaves[0];
    for (int r = 1; r < ranks; r++)
        sum += leaves[r];
    return sum;
}

/* A running sum kept in the wire type, as a reduction that rounds at every hop gives it. */
static float running_narrow(const format_t *f, const float *leaves, int ranks)
{
    float sum = leaves[0];
    for (int r = 1; r < ranks; r++)
        sum = widen_scalar(f, narrow_scalar(f, sum + leaves[r]));
    return sum;
}

typedef struct sums {
    int ranks;
    int64_t count;
    mpt_dtype_t wire;
    void *sources[4096];
    float *trees; /* the oracle's FP32 sums */
    int left_to_right_differs, running_narrow_differs;
} sums_t;

/* Values so far apart (2^26) that FP32 sums of 16-bit ones round, in every order in its own way. */
static void fill_sums(sums_t *sums, mpt_dtype_t wire, int ranks, int64_t count)
{
    uint64_t seed = 1000 + (uint64_t)ranks * 3 + wire;
    memset(sums, 0, sizeof *sums);
    sums->ranks = ranks;
    sums->count = count;
    sums->wire = wire;
    sums->trees = malloc((size_t)count * sizeof(float));
    assert_non_null(sums->trees);
    for (int r = 0; r < ranks; r++) {
        sums->sources[r] = malloc((size_t)count * mpt_dtype_bytes(wire));
        assert_non_null(sums->sources[r]);
        for (int64_t i = 0; i < count; i++) {
            double scale = ldexp(1.0, (int)(xorshift(&seed) % 27) - 18);
            mpt_store(sums->sources[r], wire, i,
                      ((double)xorshift(&seed) / 4294967296.0 - 0.3) * scale);
        }
    }
    static float leaves[4096];
    for (int64_t i = 0; i < count; i++) {
        for (int r = 0; r < ranks; r++)
            leaves[r] = (float)mpt_load(sums->sources[r], wire, i);
        sums->trees[i] = tree_oracle(leaves, ranks);
        sums->left_to_right_differs += left_to_right(leaves, ranks) != sums->trees[i];
        if (wire != MPT_F32)
            sums->running_narrow_differs +=
                running_narrow(wire == MPT_F16 ? &f16 : &bf16, leaves, ranks) !=
                (float)decode(wire == MPT_F16 ? &f16 : &bf16,
                              encode(wire == MPT_F16 ? &f16 : &bf16, (double)sums->trees[i]));
    }
}

static void free_sums(sums_t *sums)
{
    for (int r = 0; r < sums->ranks; r++)
        free(sums->sources[r]);
    free(sums->trees);
}

/* The oracle's sums rounded once to `dtype`. */
static void expected_sums(const sums_t *sums, mpt_dtype_t dtype, void *out)
{
    for (int64_t i = 0; i < sums->count; i++) {
        if (dtype == MPT_F32)
            ((float *)out)[i] = sums->trees[i];
        else
            ((uint16_t *)out)[i] = encode(dtype == MPT_F16 ? &f16 : &bf16, (double)sums->trees[i]);
    }
}

/* Also in place over each source in turn, where the types allow it. */
static void check_sums(const mpt_numeric_level_t *level, const sums_t *sums, mpt_dtype_t out_dtype)
{
    size_t bytes = (size_t)sums->count * mpt_dtype_bytes(out_dtype);
    char *expected = malloc(bytes), *out = malloc(bytes + GUARD);
    assert_true(expected && out);
    expected_sums(sums, out_dtype, expected);
    memset(out, 0x6b, bytes + GUARD);
    level->tree_sum(out, out_dtype, (const void *const *)sums->sources, sums->ranks, sums->wire,
                    sums->count);
    compare_all(out, expected, bytes, level->name);
    for (size_t i = 0; i < GUARD; i++)
        assert_int_equal(out[bytes + i], 0x6b);
    for (int r = 0; r < sums->ranks && r < 10 && out_dtype == sums->wire; r++) {
        const void *sources[4096];
        memcpy(sources, sums->sources, sizeof sources);
        memcpy(out, sums->sources[r], bytes);
        sources[r] = out;
        level->tree_sum(out, out_dtype, sources, sums->ranks, sums->wire, sums->count);
        compare_all(out, expected, bytes, level->name);
    }
    free(expected);
    free(out);
}

static void check_ranks(int ranks, int64_t count)
{
    static sums_t sums;
    static const mpt_dtype_t wires[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (int w = 0; w < 3; w++) {
        fill_sums(&sums, wires[w], ranks, count);
        /* Up to three ranks the tree is the left-to-right sum; two are rounded once either way. */
        assert_true(ranks <= 3 || sums.left_to_right_differs > 0);
        assert_true(ranks <= 2 || wires[w] == MPT_F32 || sums.running_narrow_differs > 0);
        const mpt_numeric_level_t *level;
        for (int l = 0; (level = numeric_level(l)); l++) {
            check_sums(level, &sums, wires[w]);
            check_sums(level, &sums, MPT_F32);
        }
        free_sums(&sums);
    }
}

static void the_sum_is_the_tree_over_neighbours(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 9; ranks++)
        check_ranks(ranks, 2500);
    static const int more[] = {10, 11, 12, 13, 14, 15, 16, 17, 33, 63, 64, 100};
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
        check_ranks(more[i], 700);
    check_ranks(1023, 77);
    check_ranks(4095, 17);
    check_ranks(4096, 17);
}

static void short_arrays_sum_too(void **state)
{
    (void)state;
    static const int64_t counts[] = {15, 16, 17, 31, 511, 512, 513, 1025};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
        check_ranks(7, counts[c]);
    const void *none[2] = {NULL, NULL};
    mpt_tree_sum(NULL, MPT_F32, none, 2, MPT_F32, 0);
    mpt_tree_sum(NULL, MPT_BF16, none, 1, MPT_BF16, 0);
}

static void the_bits_do_not_depend_on_how_a_caller_cuts(void **state)
{
    (void)state;
    static sums_t sums;
    fill_sums(&sums, MPT_BF16, 5, 3000);
    uint16_t whole[3000], pieces[3000];
    mpt_tree_sum(whole, MPT_BF16, (const void *const *)sums.sources, 5, MPT_BF16, 3000);
    for (int64_t step = 1; step < 1200; step = step * 3 + 2) {
        memset(pieces, 0, sizeof pieces);
        for (int64_t first = 0; first < 3000; first += step) {
            const void *sources[5];
            for (int r = 0; r < 5; r++)
                sources[r] = (uint16_t *)sums.sources[r] + first;
            mpt_tree_sum(pieces + first, MPT_BF16, sources, 5, MPT_BF16,
                         step < 3000 - first ? step : 3000 - first);
        }
        compare_all(pieces, whole, sizeof whole, "pieces");
    }
    free_sums(&sums);
}

/* Non-finite values reach every rank alike: infinities stay, any NaN is the one quiet NaN. */
static void sums_that_are_not_finite_have_fixed_bits(void **state)
{
    (void)state;
    float a[4] = {INFINITY, INFINITY, mpt_f32_from_bits(0xffc12345u), 3e38f};
    float b[4] = {1.0f, -INFINITY, mpt_f32_from_bits(0x7fa54321u), 3e38f};
    float c[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    const void *sources[] = {a, b, c};
    const mpt_numeric_level_t *level;
    for (int l = 0; (level = numeric_level(l)); l++) {
        for (int ranks = 2; ranks <= 3; ranks++) {
            float out[4];
            level->tree_sum(out, MPT_F32, sources, ranks, MPT_F32, 4);
            assert_int_equal(mpt_f32_bits(out[0]), 0x7f800000u);
            assert_int_equal(mpt_f32_bits(out[1]), 0x7fc00000u);
            assert_int_equal(mpt_f32_bits(out[2]), 0x7fc00000u);
            assert_int_equal(mpt_f32_bits(out[3]), 0x7f800000u);
        }
    }
}

/* Any bits at all: NaNs of either kind, infinities, subnormals, zeros of either sign. */
static void fill_any_bits(void *array, mpt_dtype_t dtype, int64_t count, uint64_t *seed)
{
    static const uint32_t rare[] = {0x00000001u, 0x807fffffu, 0x7f800000u, 0xff800000u, 0x7fa00001u,
                                    0xffc00000u, 0x80000000u, 0x00800000u, 0x7f7fffffu};
    static const uint16_t rare_half[] = {0x0001, 0x83ff, 0x7c00, 0xfc00, 0x7c01, 0xfe00, 0x8000, 0x7f80, 0xff81, 0x7bff};
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = xorshift(seed), pick = xorshift(seed) % 30;
        if (dtype == MPT_F32)
            ((uint32_t *)array)[i] = pick < 9 ? rare[pick] : bits;
        else
            ((uint16_t *)array)[i] = pick < 10 ? rare_half[pick] : (uint16_t)(bits >> 16);
    }
}

static void check_any_bits(const mpt_numeric_level_t *level, const void *const *sources, int ranks,
                           mpt_dtype_t wire, mpt_dtype_t out_dtype, int64_t count)
{
    unsigned char out[300 * 4];
    level->tree_sum(out, out_dtype, sources, ranks, wire, count);
    for (int64_t i = 0; i < count; i++) {
        float leaves[9];
        for (int r = 0; r < ranks; r++)
            leaves[r] = (float)mpt_load(sources[r], wire, i);
        float sum = tree_oracle(leaves, ranks);
        uint32_t bits = isnan(sum) ? 0x7fc00000u : mpt_f32_bits(sum), got = 0;
        sum = mpt_f32_from_bits(bits);
        size_t width = out_dtype == MPT_F32 ? 4 : 2;
        memcpy(&got, out + (size_t)i * width, width);
        uint32_t expected = out_dtype == MPT_F32    ? bits
                            : out_dtype == MPT_BF16 ? mpt_f32_to_bf16(sum)
                                                    : mpt_f32_to_f16(sum);
        if (got != expected)
            fail_msg("%s: %d ranks, element %d: %x, not %x", level->name, ranks, (int)i, (unsigned)got,
                     (unsigned)expected);
    }
}

static void every_level_sums_any_bits_alike(void **state)
{
    (void)state;
    static const mpt_dtype_t types[][2] = {{MPT_F32, MPT_F32}, {MPT_F32, MPT_BF16}, {MPT_F32, MPT_F16},
                                           {MPT_BF16, MPT_BF16}, {MPT_BF16, MPT_F32}, {MPT_F16, MPT_F16},
                                           {MPT_F16, MPT_F32}};
    static uint32_t arrays[9][301];
    uint64_t seed = 77;
    const mpt_numeric_level_t *level;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int ranks = 2; ranks <= 9; ranks++) {
            const void *sources[9]; /* each starts at its own place within a vector */
            for (int r = 0; r < ranks; r++) {
                sources[r] = (char *)arrays[r] + mpt_dtype_bytes(types[t][0]) * (size_t)(r % 2);
                fill_any_bits((void *)(uintptr_t)sources[r], types[t][0], 300, &seed);
            }
            for (int l = 0; (level = numeric_level(l)); l++)
                for (int64_t count = 283; count <= 300; count++)
                    check_any_bits(level, sources, ranks, types[t][0], types[t][1], count);
        }
}

static void a_sum_beyond_fp16_is_infinite_in_fp16_alone(void **state)
{
    (void)state;
    uint16_t a = 0x7bff, b = 0x7bff, half;
    const void *sources[] = {&a, &b};
    float wide;
    mpt_tree_sum(&half, MPT_F16, sources, 2, MPT_F16, 1);
    mpt_tree_sum(&wide, MPT_F32, sources, 2, MPT_F16, 1);
    assert_int_equal(half, 0x7c00);
    assert_true(wide == 131008.0f);
}

static double tree_f64_by_recursion(const double *values, int width, int total)
{
    if (width == 1)
        return values[0];
    int left = width / 2; /* `width` is a power of two, the subtree's full width; ranks past `total`
                             are not there */
    if (total <= left)
        return tree_f64_by_recursion(values, left, total);
    return tree_f64_by_recursion(values, left, left) +
           tree_f64_by_recursion(values + left, left, total - left);
}

static void doubles_fold_in_the_same_tree(void **state)
{
    (void)state;
    int differs = 0;
    for (int ranks = 1; ranks <= 70; ranks++) {
        double values[70], straight = 0;
        uint64_t seed = 17 + (uint64_t)ranks;
        for (int r = 0; r < ranks; r++) {
            values[r] = ldexp((double)xorshift(&seed) / 3.0, (int)(xorshift(&seed) % 30));
            straight += values[r];
        }
        double expected = tree_f64_by_recursion(values, 128, ranks);
        assert_true(mpt_tree_sum_f64(values, ranks) == expected);
        differs += expected != straight;
    }
    assert_true(differs > 30);
}

static void the_portable_level_is_always_there(void **state)
{
    (void)state;
    int count = 0;
    while (numeric_level(count))
        count++;
    assert_true(count >= 1);
    assert_string_equal(numeric_level(count - 1)->name, "portable");
    print_message("levels tested: %d, fastest %s%s\n", count, numeric_level(0)->name,
                  soft_numeric_is_used() ? " in software" : "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_16_bit_values_widen_exactly),
        cmocka_unit_test(nans_keep_sign_and_payload_and_become_quiet),
        cmocka_unit_test(every_value_survives_the_way_out_and_back),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(overflow_begins_halfway_past_the_largest_value),
        cmocka_unit_test(a_double_is_rounded_once),
        cmocka_unit_test(doubles_at_the_ends_of_the_range_are_stored_right),
        cmocka_unit_test(wide_types_load_and_store_as_they_are),
        cmocka_unit_test(every_level_narrows_alike),
        cmocka_unit_test(every_level_widens_alike),
        cmocka_unit_test(every_pair_of_types_converts),
        cmocka_unit_test(types_of_one_size_convert_in_place),
        cmocka_unit_test(the_public_conversion_is_the_fastest_level),
        cmocka_unit_test(the_sum_is_the_tree_over_neighbours),
        cmocka_unit_test(short_arrays_sum_too),
        cmocka_unit_test(the_bits_do_not_depend_on_how_a_caller_cuts),
        cmocka_unit_test(sums_that_are_not_finite_have_fixed_bits),
        cmocka_unit_test(every_level_sums_any_bits_alike),
        cmocka_unit_test(a_sum_beyond_fp16_is_infinite_in_fp16_alone),
        cmocka_unit_test(doubles_fold_in_the_same_tree),
        cmocka_unit_test(the_portable_level_is_always_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
