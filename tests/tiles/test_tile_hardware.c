/*
 * Where the processor has tiles: the emulated instructions against the real ones, bit for bit.
 */
#include "tile_fixture.h"
#include "kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define ROUNDS 200

typedef struct product {
    uint32_t a[256], b[256], c[256];
} product_t;

__attribute__((target("amx-tile,amx-bf16"))) static void multiply_real(const tile_config_t *config, product_t *p)
{
    _tile_loadconfig(config);
    __asm__ volatile("" ::: "memory"); /* the compiler does not know that tile loads read memory */
    _tile_loadd(0, p->c, 64);
    _tile_loadd(1, p->a, 64);
    _tile_loadd(2, p->b, 64);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, p->c, 64);
    __asm__ volatile("" ::: "memory");
    _tile_release();
}

static void multiply_emulated(const tile_config_t *config, product_t *p)
{
    static tile_file_t file;
    assert_null(tile_configure(&file, config));
    assert_null(tile_load(&file, 0, p->c, 64));
    assert_null(tile_load(&file, 1, p->a, 64));
    assert_null(tile_load(&file, 2, p->b, 64));
    assert_null(tile_multiply(&file, 0, 1, 2));
    assert_null(tile_store(&file, 0, p->c, 64));
}

/* Some values of the kinds that random bits seldom are. */
static void sprinkle(uint32_t *words, uint64_t *state)
{
    static const uint32_t values[] = {0,          0x80000000, 0x00010001, 0x7f807f80,
                                      0xff80ff80, 0x7fc07fc0, 0x00800080, 0x7f7f7f7f};
    for (int i = 0; i < 4; i++)
        words[tile_random(state) % 256] = values[tile_random(state) % 8];
}

static void compare(tile_shape_t shape, unsigned spread, int special, uint64_t seed)
{
    product_t real, emulated;
    const tile_config_t config = tile_config_of(shape);
    tile_fill(real.a, 1, spread, &seed);
    tile_fill(real.b, 1, spread, &seed);
    tile_fill(real.c, 0, spread, &seed);
    if (special) {
        sprinkle(real.a, &seed);
        sprinkle(real.b, &seed);
        sprinkle(real.c, &seed);
    }
    emulated = real;
    multiply_real(&config, &real);
    multiply_emulated(&config, &emulated);
    for (int i = 0; i < 256; i++)
        if (!tile_same(real.c[i], emulated.c[i]))
            fail_msg("%dx%dx%d [%d,%d]: the processor's %08x, emulated %08x", shape.m, shape.k, shape.n, i / 16, i % 16,
                     real.c[i], emulated.c[i]);
}

static void products_have_the_processors_bits(void **state)
{
    (void)state;
    static const unsigned spreads[] = {0, 3, 20, 65}; /* the last one: denormal results, and infinite ones */
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < TILE_SHAPE_COUNT; i++)
            for (uint64_t round = 0; round < ROUNDS; round++)
                compare(tile_shapes[i], spreads[s], 0, round);
}

static void special_values_have_the_processors_bits(void **state)
{
    (void)state;
    for (int i = 0; i < TILE_SHAPE_COUNT; i++)
        for (uint64_t round = 0; round < ROUNDS; round++)
            compare(tile_shapes[i], 20, 1, round);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_have_the_processors_bits),
        cmocka_unit_test(special_values_have_the_processors_bits),
    };
    return mpt_isa_detect() < MPT_ISA_AMX ? 77 : cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    return 77;
}

#endif
