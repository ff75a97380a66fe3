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

#define AVX2 __attribute__((target("avx2,fma")))
#define HALF 8 /* columns of a register */

/* The elements of BF16 pairs, as FP32: 0 the even ones. */
AVX2 static inline __m256 elements_of(__m256i pairs, int odd)
{
    return (__m256)(odd ? _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(pairs, 16));
}

/* One half of rows m and m + 1; what is past the tile's last row or column is computed on zeros and not kept. */
AVX2 static inline void multiply_rows(tile_file_t *file, unsigned sum, unsigned a, const __m256 b[PAIRS][2][2], int m,
                                      int half)
{
    const int depth = file->config.row_bytes[a] / 4, columns = file->config.row_bytes[sum] / 4 - HALF * half;
    const __m256i kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256 chain[2][2] = {{{0}}};
    for (int k = 0; k < depth; k++)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++)
#pragma GCC unroll 2
            for (int odd = 0; odd < 2; odd++)
                chain[i][odd] = _mm256_fmadd_ps(elements_of(_mm256_set1_epi32((int)file->data[a][m + i][k]), odd),
                                                b[k][half][odd], chain[i][odd]);
    for (int i = 0; i < 2 && m + i < file->config.rows[sum]; i++) {
        float *row = (float *)file->data[sum][m + i] + HALF * half;
        const __m256 after = _mm256_add_ps(_mm256_load_ps(row), _mm256_add_ps(chain[i][0], chain[i][1]));
        _mm256_store_ps(row, _mm256_and_ps((__m256)kept, after));
    }
}

/* Not inlined: nothing of it may move out from between the changes of MXCSR. */
AVX2 __attribute__((noinline)) static void multiply(tile_file_t *file, unsigned sum, unsigned a, unsigned b)
{
    __m256 elements[PAIRS][2][2];
    for (int k = 0; k < file->config.rows[b]; k++)
        for (int half = 0; half < 2; half++)
            for (int odd = 0; odd < 2; odd++)
                elements[k][half][odd] =
                    elements_of(_mm256_load_si256((const __m256i *)file->data[b][k] + half), odd);
    for (int m = 0; m < file->config.rows[sum]; m += 2)
        for (int half = 0; half < 2; half++)
            multiply_rows(file, sum, a, (const __m256(*)[2][2])elements, m, half);
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
