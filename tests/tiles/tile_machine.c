#include "tile_machine.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define PAIRS (TILE_ROW_BYTES / 4)
#define MXCSR_OF_TILES 0x9fc0u /* no exceptions, to nearest even, denormals are zero, flush to zero */

/* ---- configuration ---------------------------------------------------------------------------------- */

static int any_set(const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    for (size_t i = 0; i < count; i++)
        if (at[i] != 0)
            return 1;
    return 0;
}

static const char *refuse_config(const tile_config_t *config)
{
    if (config->palette > 1)
        return "no such palette";
    if (any_set(config->reserved, sizeof config->reserved) ||
        any_set(config->row_bytes + TILE_COUNT, sizeof config->row_bytes / 2) ||
        any_set(config->rows + TILE_COUNT, sizeof config->rows / 2))
        return "a reserved byte of the configuration is set";
    for (int tile = 0; tile < TILE_COUNT; tile++) {
        if (config->row_bytes[tile] > TILE_ROW_BYTES || config->rows[tile] > TILE_ROWS)
            return "a tile is configured larger than 16 rows of 64 bytes";
        if ((config->row_bytes[tile] == 0) != (config->rows[tile] == 0))
            return "a tile is configured with rows or columns alone";
    }
    return NULL;
}

const char *tile_configure(tile_file_t *file, const void *config)
{
    tile_config_t asked;
    memcpy(&asked, config, sizeof asked);
    if (asked.palette == 0) {
        tile_release(file);
        return NULL;
    }
    const char *refusal = refuse_config(&asked);
    if (refusal)
        return refusal;
    tile_release(file);
    file->config = asked;
    return NULL;
}

void tile_release(tile_file_t *file)
{
    memset(file, 0, sizeof *file);
}

void tile_store_config(const tile_file_t *file, void *config)
{
    memcpy(config, &file->config, sizeof file->config);
}

static const char *refuse_tile(const tile_file_t *file, unsigned tile)
{
    if (file->config.palette == 0)
        return "tiles are not configured";
    if (file->config.start_row != 0)
        return "a start row is set";
    if (tile >= TILE_COUNT || file->config.rows[tile] == 0)
        return "the tile is not configured";
    if (file->config.row_bytes[tile] % 4 != 0)
        return "the tile's rows are not whole words";
    return NULL;
}

/* ---- moving ----------------------------------------------------------------------------------------- */

const char *tile_zero(tile_file_t *file, unsigned tile)
{
    const char *refusal = refuse_tile(file, tile);
    if (!refusal)
        memset(file->data[tile], 0, sizeof file->data[tile]);
    return refusal;
}

const char *tile_load(tile_file_t *file, unsigned tile, const void *from, int64_t stride)
{
    const char *refusal = tile_zero(file, tile);
    for (int row = 0; !refusal && row < file->config.rows[tile]; row++)
        memcpy(file->data[tile][row], (const char *)from + row * stride, file->config.row_bytes[tile]);
    return refusal;
}

const char *tile_store(const tile_file_t *file, unsigned tile, void *to, int64_t stride)
{
    const char *refusal = refuse_tile(file, tile);
    for (int row = 0; !refusal && row < file->config.rows[tile]; row++)
        memcpy((char *)to + row * stride, file->data[tile][row], file->config.row_bytes[tile]);
    return refusal;
}

/* ---- products --------------------------------------------------------------------------------------- */

static const char *refuse_product(const tile_file_t *file, unsigned sum, unsigned a, unsigned b)
{
    const unsigned tiles[3] = {sum, a, b};
    for (int i = 0; i < 3; i++) {
        const char *refusal = refuse_tile(file, tiles[i]);
        if (refusal)
            return refusal;
    }
    if (sum == a || sum == b || a == b)
        return "the three tiles are not three";
    const tile_config_t *c = &file->config;
    if (c->rows[sum] != c->rows[a] || c->row_bytes[sum] != c->row_bytes[b] || c->row_bytes[a] / 4 != c->rows[b])
        return "the shapes of the three tiles do not match";
    return NULL;
}

#define AVX512 __attribute__((target("avx512f")))

/* The halves of BF16 pairs, as FP32: 0 the even elements. */
AVX512 static inline __m512 half_of(__m512i pairs, int odd)
{
    return (__m512)(odd ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(pairs, 16));
}

/* Rows m .. m+3; those past the tile's last are computed on zeros and not kept. */
AVX512 static inline void multiply_rows(tile_file_t *file, unsigned sum, unsigned a, int depth,
                                        const __m512 b[PAIRS][2], int m)
{
    __m512 chain[4][2] = {{{0}}};
    for (int k = 0; k < depth; k++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
#pragma GCC unroll 2
            for (int odd = 0; odd < 2; odd++)
                chain[i][odd] = _mm512_fmadd_ps(half_of(_mm512_set1_epi32((int)file->data[a][m + i][k]), odd),
                                                b[k][odd], chain[i][odd]);
    const __mmask16 columns = (__mmask16)((1u << file->config.row_bytes[sum] / 4) - 1);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (m + i >= file->config.rows[sum])
            return;
        const __m512 before = _mm512_load_ps(file->data[sum][m + i]);
        const __m512 after = _mm512_add_ps(before, _mm512_add_ps(chain[i][0], chain[i][1]));
        _mm512_store_ps(file->data[sum][m + i], _mm512_maskz_mov_ps(columns, after));
    }
}

/* Not inlined: nothing of it may move out from between the changes of MXCSR. */
AVX512 __attribute__((noinline)) static void multiply(tile_file_t *file, unsigned sum, unsigned a, unsigned b)
{
    const int depth = file->config.rows[b];
    __m512 halves[PAIRS][2];
    for (int k = 0; k < depth; k++)
        for (int odd = 0; odd < 2; odd++)
            halves[k][odd] = half_of(_mm512_load_si512(file->data[b][k]), odd);
    for (int m = 0; m < file->config.rows[sum]; m += 4)
        multiply_rows(file, sum, a, depth, (const __m512(*)[2])halves, m);
}

const char *tile_multiply(tile_file_t *file, unsigned sum, unsigned a, unsigned b)
{
    const char *refusal = refuse_product(file, sum, a, b);
    if (refusal)
        return refusal;
    const unsigned during = MXCSR_OF_TILES;
    unsigned before;
    __asm__ volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(before) : "m"(during) : "memory");
    multiply(file, sum, a, b);
    __asm__ volatile("ldmxcsr %0" : : "m"(before) : "memory");
    return NULL;
}

#endif
