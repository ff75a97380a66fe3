/*
 * The intrinsics in software, against scalar code that owes them nothing: the conversions of numeric.h, fmaf, the
 * manual's text lane by lane, and pages without access.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "kernels.h"

#if defined(__AVX2__) /* as the levels in software are compiled, where they are */

#include "soft512.h"
#include <float.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "numeric.h"
#include "tile_emulator.h"
#include "tile_fixture.h"

#define ROUNDS 4000

/* ---- values --------------------------------------------------------------------------------------------- */

/* Any bits at all, or those that rounding is about: halfway cases, denormals, the ends, NaNs. */
static uint32_t any_bits(uint64_t *state)
{
    static const uint32_t notable[] = {0,          0x80000000, 0x00000001, 0x807fffff, 0x00800000, 0x3f800000,
                                       0x3f808000, 0x3f818000, 0x7f7fffff, 0x7f7f8000, 0x7f800000, 0xff800000,
                                       0x7fc00000, 0x7f800001, 0xffbfffff, 0x33000000, 0x477ff000, 0x387fe000};
    const uint32_t r = tile_random(state);
    const uint32_t kind = tile_random(state) % 4;
    if (kind == 0)
        return notable[r % (sizeof notable / sizeof *notable)];
    if (kind == 1)
        return (r & 0xffff8000) | 0x8000; /* halfway between two of BF16 */
    return kind == 2 ? r : tile_random_bits(state, 20);
}

static soft512_t any_register(uint64_t *state)
{
    soft512_t x;
    for (int i = 0; i < 16; i++)
        x.u32[i] = any_bits(state);
    return x;
}

static void check_same(uint32_t got, uint32_t want, const char *what, int lane)
{
    if (!tile_same(got, want))
        fail_msg("%s, lane %d: %08x, not %08x", what, lane, got, want);
}

static float flush(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0, x) : x;
}

/* ---- arithmetic ----------------------------------------------------------------------------------------- */

static void multiply_adds_round_once(void **state)
{
    uint64_t seed = 1;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t a = any_register(&seed), b = any_register(&seed), c = any_register(&seed);
        const soft512_t got = {.f = _mm512_fmadd_ps(a.f, b.f, c.f)};
        for (int i = 0; i < 16; i++)
            check_same(got.u32[i], mpt_f32_bits(fmaf(a.f32[i], b.f32[i], c.f32[i])), "fmadd", i);
    }
}

static void additions_round_once_wherever_they_come_from_and_go(void **state)
{
    uint64_t seed = 17;
    float from[17], to[18];
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t a = any_register(&seed), b = any_register(&seed);
        memcpy(from + 1, a.f32, 64); /* no address of a register's */
        memset(to, 0x5a, sizeof to);
        _mm512_storeu_ps(to + 1, _mm512_add_ps(_mm512_loadu_ps(from + 1), b.f));
        for (int i = 0; i < 16; i++)
            check_same(mpt_f32_bits(to[i + 1]), mpt_f32_bits(a.f32[i] + b.f32[i]), "add", i);
        assert_int_equal(mpt_f32_bits(to[0]), 0x5a5a5a5a);
        assert_int_equal(mpt_f32_bits(to[17]), 0x5a5a5a5a);
    }
}

static void the_second_operand_is_the_larger_one_beside_a_nan(void **state)
{
    uint64_t seed = 2;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t a = any_register(&seed), b = any_register(&seed);
        const soft512_t most = {.f = _mm512_max_ps(a.f, b.f)}, least = {.f = _mm512_min_ps(a.f, b.f)};
        for (int i = 0; i < 16; i++) {
            assert_int_equal(most.u32[i], a.f32[i] > b.f32[i] ? a.u32[i] : b.u32[i]);
            assert_int_equal(least.u32[i], a.f32[i] < b.f32[i] ? a.u32[i] : b.u32[i]);
        }
    }
}

/* Of numbers: what is special about infinities and NaNs has a test of its own. */
static void scaling_by_a_power_rounds_once_even_to_denormals(void **state)
{
    uint64_t seed = 3;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        soft512_t a = any_register(&seed), b;
        for (int i = 0; i < 16; i++)
            b.f32[i] = (float)(tile_random(&seed) % 400) / 1.25f - 160;
        const soft512_t got = {.f = _mm512_scalef_ps(a.f, b.f)};
        for (int i = 0; i < 16; i++)
            check_same(got.u32[i], mpt_f32_bits(scalbnf(a.f32[i], (int)floorf(b.f32[i]))), "scalef", i);
    }
}

static void scaling_by_infinities_is_as_the_manuals_table_says(void **state)
{
    (void)state;
    const float inf = INFINITY;
    const soft512_t a = {.f32 = {2, -2, 0, inf, -inf, 2, -2, 0, inf, -inf, NAN, 1}};
    const soft512_t b = {.f32 = {inf, inf, inf, inf, inf, -inf, -inf, -inf, -inf, -inf, 1, NAN}};
    const soft512_t want = {.f32 = {inf, -inf, NAN, inf, -inf, 0, -0.0f, 0, NAN, NAN, NAN, NAN}};
    const soft512_t got = {.f = _mm512_scalef_ps(a.f, b.f)};
    for (int i = 0; i < 12; i++)
        check_same(got.u32[i], want.u32[i], "scalef", i);
}

static void reciprocals_are_as_coarse_as_their_bound_and_no_coarser(void **state)
{
    double worst = 0;
    (void)state;
    for (uint32_t bits = 0x3f800000; bits < 0x40800000; bits += 16 * 97) {
        soft512_t x;
        for (uint32_t i = 0; i < 16; i++)
            x.u32[i] = bits + 97 * i;
        const soft512_t got = {.f = _mm512_rcp14_ps(x.f)};
        for (int i = 0; i < 16; i++)
            worst = fmax(worst, fabs((double)got.f32[i] * (double)x.f32[i] - 1));
    }
    assert_true(worst <= 0x1p-14 && worst > 0x1p-15);
    const soft512_t ends = {.f32 = {0, -0.0f, INFINITY, NAN, 0x1p-125f, 0x1p125f}};
    const soft512_t got = {.f = _mm512_rcp14_ps(ends.f)};
    assert_true(got.f32[0] == INFINITY && got.f32[1] == -INFINITY && got.f32[2] == 0 && isnan(got.f32[3]));
    assert_true(got.f32[4] == 0x1p125f && got.f32[5] == 0x1p-125f);
}

static void dot_products_add_the_odd_product_first_and_flush_between(void **state)
{
    uint64_t seed = 4;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t sum = any_register(&seed), x = any_register(&seed), y = any_register(&seed);
        const soft512_t got = {.f = _mm512_dpbf16_ps(sum.f, (__m512bh)x.i, (__m512bh)y.i)};
        for (int i = 0; i < 16; i++) {
            float want = flush(sum.f32[i]);
            for (int odd = 1; odd >= 0; odd--)
                want = flush(fmaf(flush(mpt_bf16_to_f32(x.u16[2 * i + odd])),
                                  flush(mpt_bf16_to_f32(y.u16[2 * i + odd])), want));
            check_same(got.u32[i], mpt_f32_bits(want), "dpbf16", i);
        }
    }
}

static void dot_products_do_not_ask_for_the_rounding_mode_of_the_thread(void **state)
{
    uint64_t seed = 5;
    (void)state;
    soft512_t sum = {.u32 = {0}}, x, y;
    for (int i = 0; i < 16; i++) {
        x.u32[i] = tile_random_bits(&seed, 3);
        y.u32[i] = tile_random_bits(&seed, 3);
    }
    const unsigned before = _mm_getcsr();
    const soft512_t nearest = {.f = _mm512_dpbf16_ps(sum.f, (__m512bh)x.i, (__m512bh)y.i)};
    _mm_setcsr(before | 0x6000);
    const soft512_t toward_zero = {.f = _mm512_dpbf16_ps(sum.f, (__m512bh)x.i, (__m512bh)y.i)};
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    assert_int_equal(after, before | 0x6000);
    assert_memory_equal(&nearest, &toward_zero, sizeof nearest);
}

/* ---- conversions ---------------------------------------------------------------------------------------- */

static void rounding_to_bf16_is_numerics_but_for_denormals(void **state)
{
    uint64_t seed = 6;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t low = any_register(&seed), high = any_register(&seed);
        const soft512_t pair = {.i = (__m512i)_mm512_cvtne2ps_pbh(high.f, low.f)};
        const __m256i one = (__m256i)_mm512_cvtneps_pbh(low.f);
        assert_memory_equal(&one, &pair, sizeof one);
        for (int i = 0; i < 16; i++) {
            assert_int_equal(pair.u16[i], mpt_f32_to_bf16(flush(low.f32[i])));
            assert_int_equal(pair.u16[16 + i], mpt_f32_to_bf16(flush(high.f32[i])));
        }
    }
}

static void fp16_converts_as_numeric_does(void **state)
{
    uint64_t seed = 7;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t x = any_register(&seed);
        const soft512_t narrow = {.i8 = {_mm512_cvtps_ph(x.f, _MM_FROUND_TO_NEAREST_INT)}};
        const soft512_t wide = {.f = _mm512_cvtph_ps(x.i8[0])};
        for (int i = 0; i < 16; i++) {
            assert_int_equal(narrow.u16[i], mpt_f32_to_f16(x.f32[i]));
            assert_int_equal(wide.u32[i], mpt_f32_bits(mpt_f16_to_f32(x.u16[i])));
        }
    }
}

static void whole_numbers_widen_and_narrow_in_order(void **state)
{
    uint64_t seed = 8;
    (void)state;
    const soft512_t x = any_register(&seed);
    const soft512_t wide = {.i = _mm512_cvtepu16_epi32(x.i8[0])}, bf16 = {.f = _mm512_cvtpbh_ps((__m256bh)x.i8[0])};
    const soft512_t narrow = {.i8 = {_mm512_cvtepi32_epi16(x.i)}};
    const soft512_t doubles = {.d = _mm512_cvtps_pd(_mm512_castps512_ps256(x.f))};
    for (int i = 0; i < 16; i++) {
        assert_int_equal(wide.u32[i], x.u16[i]);
        assert_int_equal(bf16.u32[i], (uint32_t)x.u16[i] << 16);
        assert_int_equal(narrow.u16[i], x.u32[i] & 0xffff);
    }
    for (int i = 0; i < 8; i++)
        assert_true(isnan(x.f32[i]) ? isnan(doubles.d[i]) : doubles.d[i] == (double)x.f32[i]);
}

static void nans_are_fixed_up_quiet_and_nothing_else_is(void **state)
{
    uint64_t seed = 9;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t a = any_register(&seed), b = any_register(&seed);
        const soft512_t got = {.f = _mm512_fixupimm_ps(a.f, b.f, _mm512_set1_epi32(0x22), 0)};
        for (int i = 0; i < 16; i++)
            assert_int_equal(got.u32[i], isnan(b.f32[i]) ? b.u32[i] | 0x00400000 : a.u32[i]);
    }
}

/* ---- permutations and masks ----------------------------------------------------------------------------- */

static void words_go_where_their_index_says(void **state)
{
    uint64_t seed = 10;
    (void)state;
    const soft512_t index = any_register(&seed), x = any_register(&seed);
    const soft512_t all = {.i = _mm512_permutexvar_epi16(index.i, x.i)};
    const soft512_t some = {.i = _mm512_maskz_permutexvar_epi16(0xaaaa5555, index.i, x.i)};
    const soft512_t counted = {.i = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15,
                                                     14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)};
    for (int i = 0; i < 32; i++) {
        assert_int_equal(all.u16[i], x.u16[index.u16[i] % 32]);
        assert_int_equal(some.u16[i], 0xaaaa5555 >> i & 1 ? all.u16[i] : 0);
        assert_int_equal(counted.u16[i], i);
    }
}

static void words_interleave_within_quarters(void **state)
{
    uint64_t seed = 11;
    (void)state;
    const soft512_t a = any_register(&seed), b = any_register(&seed);
    const soft512_t low = {.i = _mm512_unpacklo_epi16(a.i, b.i)}, high = {.i = _mm512_unpackhi_epi16(a.i, b.i)};
    for (int i = 0; i < 32; i++) {
        const int from = i / 8 * 8 + i % 8 / 2;
        assert_int_equal(low.u16[i], i % 2 ? b.u16[from] : a.u16[from]);
        assert_int_equal(high.u16[i], i % 2 ? b.u16[from + 4] : a.u16[from + 4]);
    }
}

static void masks_have_a_bit_for_each_lane(void **state)
{
    uint64_t seed = 12;
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        const soft512_t a = any_register(&seed), b = any_register(&seed);
        const __mmask16 mask = (__mmask16)tile_random(&seed);
        const __mmask16 tested = _mm512_test_epi32_mask(a.i, b.i), ordered = _mm512_cmp_ps_mask(a.f, b.f, _CMP_ORD_Q);
        const __mmask16 unordered = _mm512_cmp_ps_mask(a.f, b.f, _CMP_UNORD_Q);
        const __m256i mixed = _mm256_blendv_epi8(a.i8[0], b.i8[0], a.i8[1]);
        const soft512_t same = {.i8 = {mixed}};
        const __mmask16 equal = _mm256_cmpeq_epi16_mask(a.i8[0], mixed);
        const soft512_t kept = {.f = _mm512_maskz_mov_ps(mask, a.f)};
        const soft512_t either = {.f = _mm512_mask_mov_ps(b.f, mask, a.f)};
        const soft512_t words = {.i8 = {_mm256_maskz_mov_epi16(mask, a.i8[0])}};
        const soft512_t added = {.i = _mm512_mask_add_epi32(a.i, mask, a.i, b.i)};
        assert_int_equal(_mm256_cmpneq_epi16_mask(a.i8[0], mixed), (__mmask16)~equal);
        for (int i = 0; i < 16; i++) {
            assert_int_equal(tested >> i & 1, (a.u32[i] & b.u32[i]) != 0);
            assert_int_equal(ordered >> i & 1, !isnan(a.f32[i]) && !isnan(b.f32[i]));
            assert_int_equal(unordered >> i & 1, isnan(a.f32[i]) || isnan(b.f32[i]));
            assert_int_equal(either.u32[i], mask >> i & 1 ? a.u32[i] : b.u32[i]);
            assert_int_equal(equal >> i & 1, a.u16[i] == same.u16[i]);
            assert_int_equal(kept.u32[i], mask >> i & 1 ? a.u32[i] : 0);
            assert_int_equal(words.u16[i], mask >> i & 1 ? a.u16[i] : 0);
            assert_int_equal(added.u32[i], a.u32[i] + (mask >> i & 1 ? b.u32[i] : 0));
        }
    }
}

static void halves_are_taken_and_put_where_they_belong(void **state)
{
    uint64_t seed = 13;
    (void)state;
    const soft512_t a = any_register(&seed), b = any_register(&seed);
    const __m256i high = _mm512_extracti64x4_epi64(a.i, 1), low = _mm512_castsi512_si256(a.i);
    const __m256 upper = _mm512_extractf32x8_ps(a.f, 1);
    const soft512_t joined = {.i = _mm512_inserti64x4(_mm512_castsi256_si512(low), b.i8[1], 1)};
    assert_memory_equal(&high, &a.i8[1], 32);
    assert_memory_equal(&upper, &a.i8[1], 32);
    assert_memory_equal(&joined, &a, 32);
    assert_memory_equal(&joined.i8[1], &b.i8[1], 32);
}

static void integers_wrap_and_shift(void **state)
{
    uint64_t seed = 14;
    (void)state;
    const soft512_t a = any_register(&seed), b = any_register(&seed);
    const soft512_t sum = {.i = _mm512_add_epi32(a.i, b.i)}, product = {.i = _mm512_mullo_epi32(a.i, b.i)};
    const soft512_t most = {.i = _mm512_max_epi32(a.i, b.i)}, shifted = {.i = _mm512_slli_epi32(a.i, 16)};
    const soft512_t lowered = {.i = _mm512_srli_epi32(a.i, 9)}, shared = {.i = _mm512_and_si512(a.i, b.i)};
    const soft512_t both = {.i = _mm512_or_si512(a.i, b.i)}, wide = {.i = _mm512_mul_epu32(a.i, b.i)};
    const soft512_t one = {.i = _mm512_set1_epi64(0x0123456789abcdef)}, two = {.i = _mm512_set1_epi32(-5)};
    for (int i = 0; i < 16; i++) {
        const uint64_t full = (uint64_t)a.u32[i & ~1] * b.u32[i & ~1];
        assert_int_equal(sum.u32[i], a.u32[i] + b.u32[i]);
        assert_int_equal(product.u32[i], a.u32[i] * b.u32[i]);
        assert_int_equal(most.u32[i], (int32_t)a.u32[i] > (int32_t)b.u32[i] ? a.u32[i] : b.u32[i]);
        assert_int_equal(shifted.u32[i], a.u32[i] << 16);
        assert_int_equal(lowered.u32[i], a.u32[i] >> 9);
        assert_int_equal(shared.u32[i], a.u32[i] & b.u32[i]);
        assert_int_equal(both.u32[i], a.u32[i] | b.u32[i]);
        assert_int_equal(wide.u32[i], (uint32_t)(full >> (i & 1) * 32));
        assert_int_equal(one.u32[i], i & 1 ? 0x01234567 : 0x89abcdef);
        assert_int_equal(two.u32[i], (uint32_t)-5);
    }
}

/* ---- memory --------------------------------------------------------------------------------------------- */

/* A page that ends where one without access begins. */
static unsigned char *page_end(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
    return pages + page;
}

static void masked_loads_stop_at_the_end_of_a_page(void **state)
{
    unsigned char *end = page_end();
    (void)state;
    for (unsigned char i = 0; i < 64; i++)
        end[i - 64] = i + 1;
    for (int count = 0; count <= 16; count++) {
        const soft512_t words = {.f = _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), end - 4 * count)};
        const soft512_t half = {.i8 = {_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), end - 2 * count)}};
        assert_memory_equal(&words, end - 4 * count, (size_t)(4 * count));
        assert_memory_equal(&half, end - 2 * count, (size_t)(2 * count));
        for (int i = count; i < 16; i++)
            assert_int_equal(words.u32[i] | half.u16[i], 0);
    }
    for (int count = 0; count < 32; count++) {
        const soft512_t pairs = {.i = _mm512_maskz_loadu_epi16((1u << count) - 1, end - 2 * count)};
        assert_memory_equal(&pairs, end - 2 * count, (size_t)(2 * count));
        for (int i = count; i < 32; i++)
            assert_int_equal(pairs.u16[i], 0);
    }
}

static void masked_stores_write_their_elements_alone(void **state)
{
    unsigned char *end = page_end();
    uint64_t seed = 15;
    (void)state;
    const soft512_t x = any_register(&seed);
    for (int count = 0; count <= 16; count++) {
        const __mmask16 mask = (__mmask16)((1u << count) - 1);
        memset(end - 64, 0x5a, 64);
        _mm512_mask_storeu_ps(end - 4 * count, mask, x.f);
        assert_memory_equal(end - 4 * count, &x, (size_t)(4 * count));
        memset(end - 64, 0x5a, 64);
        _mm256_mask_storeu_epi16(end - 2 * count, mask, x.i8[0]);
        assert_memory_equal(end - 2 * count, &x, (size_t)(2 * count));
        for (int i = 2 * count + 1; i <= 64; i++)
            assert_int_equal(*(end - i), 0x5a);
    }
    uint32_t to[16] = {0};
    _mm512_mask_storeu_ps(to, 0x8421, x.f);
    for (int i = 0; i < 16; i++)
        assert_int_equal(to[i], 0x8421 >> i & 1 ? x.u32[i] : 0);
}

/* ---- what a processor would refuse ---------------------------------------------------------------------- */

static char crooked[192] __attribute__((aligned(64)));

static void store_crooked(void)
{
    _mm512_store_si512(crooked + 32, _mm512_set1_epi32(1));
}

static void stream_crooked(void)
{
    _mm512_stream_ps(crooked + 4, (__m512)_mm512_set1_epi32(1));
}

static void load_crooked(void)
{
    const __m512i x = _mm512_load_si512(crooked + 1);
    memcpy(crooked, &x, sizeof x);
}

static void fix_up_by_another_table(void)
{
    const soft512_t zero = {.u32 = {0}};
    const __m512 x = _mm512_fixupimm_ps(zero.f, zero.f, _mm512_set1_epi32(0x21), 0);
    memcpy(crooked, &x, sizeof x);
}

static void use_tiles_unconfigured(void)
{
    fclose(stderr);
    _tile_release();
    _tile_zero(0);
}

static void what_a_processor_would_refuse_ends_the_process(void **state)
{
    void (*const bodies[])(void) = {store_crooked, stream_crooked, load_crooked, fix_up_by_another_table,
                                    use_tiles_unconfigured};
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        int status = 0;
        const pid_t child = fork();
        if (child == 0) {
            signal(SIGILL, SIG_DFL);
            signal(SIGABRT, SIG_DFL);
            bodies[i]();
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
    }
}

/* ---- tiles ---------------------------------------------------------------------------------------------- */

static void tiles_are_those_that_the_emulator_has(void **state)
{
    uint32_t a[256], b[256], c[256], got[256];
    uint64_t seed = 16;
    (void)state;
    const tile_config_t config = tile_config_of(tile_shapes[0]);
    tile_fill(a, 1, 9, &seed);
    tile_fill(b, 1, 9, &seed);
    tile_fill(c, 0, 9, &seed);
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_loadd(0, c, 64);
    _tile_stream_loadd(1, a, 64);
    _tile_loadd(2, b, 64);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, got, 64);
    static tile_file_t own;
    assert_null(tile_configure(&own, &config));
    assert_null(tile_load(&own, 0, c, 64));
    assert_null(tile_load(&own, 1, a, 64));
    assert_null(tile_load(&own, 2, b, 64));
    assert_null(tile_multiply(&own, 0, 1, 2));
    assert_memory_equal(got, own.data[0], sizeof got);
    assert_memory_equal(tile_emulator_tiles(), &own, sizeof own);
    _tile_release();
    assert_int_equal(tile_emulator_tiles()->config.palette, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(multiply_adds_round_once),
        cmocka_unit_test(additions_round_once_wherever_they_come_from_and_go),
        cmocka_unit_test(the_second_operand_is_the_larger_one_beside_a_nan),
        cmocka_unit_test(scaling_by_a_power_rounds_once_even_to_denormals),
        cmocka_unit_test(scaling_by_infinities_is_as_the_manuals_table_says),
        cmocka_unit_test(reciprocals_are_as_coarse_as_their_bound_and_no_coarser),
        cmocka_unit_test(dot_products_add_the_odd_product_first_and_flush_between),
        cmocka_unit_test(dot_products_do_not_ask_for_the_rounding_mode_of_the_thread),
        cmocka_unit_test(rounding_to_bf16_is_numerics_but_for_denormals),
        cmocka_unit_test(fp16_converts_as_numeric_does),
        cmocka_unit_test(whole_numbers_widen_and_narrow_in_order),
        cmocka_unit_test(nans_are_fixed_up_quiet_and_nothing_else_is),
        cmocka_unit_test(words_go_where_their_index_says),
        cmocka_unit_test(words_interleave_within_quarters),
        cmocka_unit_test(masks_have_a_bit_for_each_lane),
        cmocka_unit_test(halves_are_taken_and_put_where_they_belong),
        cmocka_unit_test(integers_wrap_and_shift),
        cmocka_unit_test(masked_loads_stop_at_the_end_of_a_page),
        cmocka_unit_test(masked_stores_write_their_elements_alone),
        cmocka_unit_test(what_a_processor_would_refuse_ends_the_process),
        cmocka_unit_test(tiles_are_those_that_the_emulator_has),
    };
    return mpt_isa_detect() < MPT_ISA_AVX2 ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    return 77;
}

#endif
