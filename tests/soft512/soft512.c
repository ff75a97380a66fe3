#include "soft512.h"

#include <stdio.h>
#include <stdlib.h>
#include "tile_emulator.h"
#include "tile_machine.h"

#define MXCSR_OF_PRODUCTS 0x9fc0u /* no exceptions, to nearest even, denormals are zero, flush to zero */

/* ---- dot products --------------------------------------------------------------------------------------- */

static inline __m256 odd_of(__m256i pairs)
{
    return (__m256)_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000));
}

static inline __m256 even_of(__m256i pairs)
{
    return (__m256)_mm256_slli_epi32(pairs, 16);
}

/* Not inlined: nothing of it may move out from between the changes of MXCSR. */
__attribute__((noinline)) static void add_dot_products(soft512_t *sum, const soft512_t *x, const soft512_t *y)
{
    for (int half = 0; half < 2; half++) {
        const __m256 odd = _mm256_fmadd_ps(odd_of(x->i8[half]), odd_of(y->i8[half]), sum->f8[half]);
        sum->f8[half] = _mm256_fmadd_ps(even_of(x->i8[half]), even_of(y->i8[half]), odd);
    }
}

void soft_add_dot_products(soft512_t *sum, const soft512_t *x, const soft512_t *y)
{
    const unsigned during = MXCSR_OF_PRODUCTS;
    unsigned before;
    __asm__ volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(before) : "m"(during) : "memory");
    add_dot_products(sum, x, y);
    __asm__ volatile("ldmxcsr %0" : : "m"(before) : "memory");
}

/* ---- tiles ---------------------------------------------------------------------------------------------- */

static void check(const char *instruction, const char *refusal)
{
    if (!refusal)
        return;
    fprintf(stderr, "%s: %s\n", instruction, refusal);
    abort();
}

void soft_tile_loadconfig(const void *config)
{
    check("ldtilecfg", tile_configure(tile_emulator_tiles(), config));
}

void soft_tile_release(void)
{
    tile_release(tile_emulator_tiles());
}

void soft_tile_zero(unsigned tile)
{
    check("tilezero", tile_zero(tile_emulator_tiles(), tile));
}

void soft_tile_loadd(unsigned tile, const void *from, int64_t stride)
{
    check("tileloadd", tile_load(tile_emulator_tiles(), tile, from, stride));
}

void soft_tile_stored(unsigned tile, void *to, int64_t stride)
{
    check("tilestored", tile_store(tile_emulator_tiles(), tile, to, stride));
}

void soft_tile_dpbf16ps(unsigned sum, unsigned a, unsigned b)
{
    check("tdpbf16ps", tile_multiply(tile_emulator_tiles(), sum, a, b));
}
