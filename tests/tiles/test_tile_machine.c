/*
 * The emulated instructions by themselves, against the manual's text in scalar code.
 */
#include "tile_fixture.h"
#include "kernels.h"

#if defined(__x86_64__)

#include <float.h>
#include <immintrin.h>

/* ---- products ------------------------------------------------------------------------------------------- */

static float as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static uint32_t as_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float flush(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0, x) : x;
}

static float element(uint32_t pair, int odd)
{
    return flush(as_float(odd ? pair & 0xffff0000 : pair << 16));
}

/* One element of C, of a row of A and a column of B: `k` pairs. */
static float product_of(float c, const uint32_t *a, const uint32_t *b, int k)
{
    float chain[2] = {0, 0};
    for (int i = 0; i < k; i++)
        for (int odd = 0; odd < 2; odd++)
            chain[odd] = flush(fmaf(element(a[i], odd), element(b[16 * i], odd), chain[odd]));
    return flush(flush(c) + flush(chain[0] + chain[1]));
}

typedef struct product {
    uint32_t a[256], b[256], c[256];
} product_t;

static product_t random_product(unsigned spread, uint64_t seed)
{
    product_t p;
    tile_fill(p.a, 1, spread, &seed);
    tile_fill(p.b, 1, spread, &seed);
    tile_fill(p.c, 0, spread, &seed);
    return p;
}

/* The tiles after the instruction; `out` has C's 16 rows of 16, whatever its shape. */
static void multiply(const product_t *p, tile_shape_t shape, uint32_t *out)
{
    static tile_file_t file;
    const tile_config_t config = tile_config_of(shape);
    assert_null(tile_configure(&file, &config));
    assert_null(tile_load(&file, 0, p->c, 64));
    assert_null(tile_load(&file, 1, p->a, 64));
    assert_null(tile_load(&file, 2, p->b, 64));
    assert_null(tile_multiply(&file, 0, 1, 2));
    memcpy(out, file.data[0], sizeof file.data[0]);
}

static void check_product(const product_t *p, tile_shape_t shape)
{
    uint32_t got[256];
    multiply(p, shape, got);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            const int inside = m < shape.m && n < shape.n;
            const float want = inside ? product_of(as_float(p->c[16 * m + n]), p->a + 16 * m, p->b + n, shape.k) : 0;
            if (!tile_same(got[16 * m + n], as_bits(want)))
                fail_msg("%dx%dx%d [%d,%d]: %a, not %a", shape.m, shape.k, shape.n, m, n,
                         (double)as_float(got[16 * m + n]), (double)want);
        }
}

static void products_are_two_chains_of_multiply_adds_and_their_sum(void **state)
{
    (void)state;
    static const unsigned spreads[] = {1, 12, 70}; /* the last one: denormal results, and infinite ones */
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < TILE_SHAPE_COUNT; i++) {
            const product_t p = random_product(spreads[s], (uint64_t)(10 * s + i));
            check_product(&p, tile_shapes[i]);
        }
}

/* 2^24 + 1 is rounded before -2^24 is added to it: a sum that took the products one by one would be 1. */
static void the_sum_joins_the_products_last(void **state)
{
    (void)state;
    uint32_t got[256];
    const product_t p = {.a = {0x3f804b80}, .b = {0x3f803f80}, .c = {0xcb800000}};
    multiply(&p, (tile_shape_t){1, 1, 1}, got);
    assert_int_equal(got[0], 0);
}

static void denormals_are_zero_going_in_and_coming_out(void **state)
{
    (void)state;
    uint32_t got[256];
    const product_t in = {.a = {0x0000007f}, .b = {0x00007f00}, .c = {0x007fffff}}; /* denormal times huge */
    const product_t out = {.a = {0x00001f80}, .b = {0x00001f80}, .c = {0}};         /* 2^-64 squared */
    multiply(&in, (tile_shape_t){1, 1, 1}, got);
    assert_int_equal(got[0], 0);
    multiply(&out, (tile_shape_t){1, 1, 1}, got);
    assert_int_equal(got[0], 0);
}

static void infinities_and_nans_are_those_of_ieee(void **state)
{
    (void)state;
    static const uint32_t values[] = {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0, 0x3f80, 0xbf80};
    for (int a = 0; a < 7; a++)
        for (int b = 0; b < 7; b++)
            for (int c = 0; c < 7; c++) {
                const product_t p = {.a = {values[a] | values[b] << 16}, .b = {0x3f803f80}, .c = {values[c] << 16}};
                const product_t q = {.a = {values[a]}, .b = {values[b]}, .c = {values[c] << 16}};
                check_product(&p, (tile_shape_t){1, 1, 1});
                check_product(&q, (tile_shape_t){1, 1, 1});
            }
}

static void products_leave_the_rounding_mode_of_the_thread_alone(void **state)
{
    (void)state;
    uint32_t toward_zero[256], nearest[256];
    const product_t p = random_product(3, 1);
    const unsigned before = _mm_getcsr();
    multiply(&p, tile_shapes[0], nearest);
    _mm_setcsr(before | 0x6000);
    multiply(&p, tile_shapes[0], toward_zero);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    assert_int_equal(after, before | 0x6000);
    assert_memory_equal(toward_zero, nearest, sizeof nearest);
}

/* ---- moving --------------------------------------------------------------------------------------------- */

static tile_file_t configured(tile_config_t config)
{
    tile_file_t file = {.config = {0}};
    memset(file.data, 0xff, sizeof file.data);
    assert_null(tile_configure(&file, &config));
    return file;
}

static void loads_and_zeros_clear_what_is_past_rows_and_columns(void **state)
{
    (void)state;
    uint32_t words[256], back[256];
    uint64_t seed = 3;
    tile_fill(words, 0, 9, &seed);
    tile_file_t file = configured(tile_config_of((tile_shape_t){3, 5, 7}));
    memset(file.data, 0xff, sizeof file.data);
    assert_null(tile_load(&file, 0, words, 64));
    for (int i = 0; i < 256; i++)
        assert_int_equal(((uint32_t *)file.data[0])[i], i / 16 < 3 && i % 16 < 7 ? words[i] : 0);
    assert_null(tile_zero(&file, 2));
    memset(back, 0, sizeof back);
    assert_memory_equal(file.data[2], back, sizeof back);
}

static void stores_touch_the_tiles_rows_and_columns_alone(void **state)
{
    (void)state;
    uint32_t words[256], to[3 * 32 + 16];
    uint64_t seed = 4;
    tile_fill(words, 0, 9, &seed);
    tile_file_t file = configured(tile_config_of((tile_shape_t){3, 5, 7}));
    assert_null(tile_load(&file, 0, words, 64));
    memset(to, 0xa5, sizeof to);
    assert_null(tile_store(&file, 0, to, 128));
    for (int i = 0; i < 3 * 32 + 16; i++)
        assert_int_equal(to[i], i / 32 < 3 && i % 32 < 7 ? words[i / 32 * 16 + i % 32] : 0xa5a5a5a5);
}

static void configuring_clears_every_tile_and_releasing_forgets(void **state)
{
    (void)state;
    const tile_config_t config = tile_config_of(tile_shapes[0]), none = {0};
    tile_config_t stored;
    uint32_t zeros[256] = {0};
    tile_file_t file = configured(config);
    assert_memory_equal(file.data[1], zeros, sizeof zeros);
    tile_store_config(&file, &stored);
    assert_memory_equal(&stored, &config, sizeof stored);
    tile_release(&file);
    tile_store_config(&file, &stored);
    assert_memory_equal(&stored, &none, sizeof stored);
    assert_non_null(tile_zero(&file, 0));
}

/* ---- refusals ------------------------------------------------------------------------------------------- */

static void configurations_that_a_processor_refuses_are_refused(void **state)
{
    (void)state;
    const tile_config_t sound = tile_config_of(tile_shapes[0]);
    tile_config_t bad[8];
    for (int i = 0; i < 8; i++)
        bad[i] = sound;
    bad[0].palette = 2;
    bad[1].reserved[13] = 1;
    bad[2].row_bytes[8] = 64;
    bad[3].rows[15] = 1;
    bad[4].row_bytes[0] = 68;
    bad[5].rows[7] = 17;
    bad[6].rows[0] = 0;
    bad[7].row_bytes[1] = 0;
    for (int i = 0; i < 8; i++) {
        tile_file_t file = configured(sound);
        assert_non_null(tile_configure(&file, &bad[i]));
        assert_memory_equal(&file.config, &sound, sizeof sound); /* the old one stands */
    }
}

static void tiles_that_are_not_configured_are_refused(void **state)
{
    (void)state;
    char memory[1024];
    tile_config_t config = tile_config_of(tile_shapes[0]);
    tile_file_t none = {.config = {0}}, some = configured(config);
    config.row_bytes[0] = 6;
    tile_file_t odd = configured(config);
    config.start_row = 1;
    tile_file_t started = configured(config);
    assert_non_null(tile_zero(&none, 0));
    assert_non_null(tile_zero(&some, 3));
    assert_non_null(tile_load(&some, 8, memory, 64));
    assert_non_null(tile_load(&odd, 0, memory, 64));
    assert_non_null(tile_store(&started, 1, memory, 64));
    assert_non_null(tile_multiply(&none, 0, 1, 2));
}

static void products_of_tiles_that_do_not_match_are_refused(void **state)
{
    (void)state;
    const tile_config_t config = {.palette = 1, .row_bytes = {64, 64, 64, 32, 64, 64}, .rows = {16, 16, 16, 16, 8, 16}};
    tile_file_t file = configured(config);
    assert_null(tile_multiply(&file, 0, 1, 2));
    assert_non_null(tile_multiply(&file, 0, 0, 2));
    assert_non_null(tile_multiply(&file, 0, 1, 0));
    assert_non_null(tile_multiply(&file, 0, 1, 1));
    assert_non_null(tile_multiply(&file, 0, 1, 3)); /* columns of C and B */
    assert_non_null(tile_multiply(&file, 4, 1, 2)); /* rows of C and A */
    assert_non_null(tile_multiply(&file, 0, 3, 2)); /* columns of A, rows of B */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_two_chains_of_multiply_adds_and_their_sum),
        cmocka_unit_test(the_sum_joins_the_products_last),
        cmocka_unit_test(denormals_are_zero_going_in_and_coming_out),
        cmocka_unit_test(infinities_and_nans_are_those_of_ieee),
        cmocka_unit_test(products_leave_the_rounding_mode_of_the_thread_alone),
        cmocka_unit_test(loads_and_zeros_clear_what_is_past_rows_and_columns),
        cmocka_unit_test(stores_touch_the_tiles_rows_and_columns_alone),
        cmocka_unit_test(configuring_clears_every_tile_and_releasing_forgets),
        cmocka_unit_test(configurations_that_a_processor_refuses_are_refused),
        cmocka_unit_test(tiles_that_are_not_configured_are_refused),
        cmocka_unit_test(products_of_tiles_that_do_not_match_are_refused),
    };
    return mpt_isa_detect() < MPT_ISA_AVX2 ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    return 77;
}

#endif
