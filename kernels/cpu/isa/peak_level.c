#include "level.h"

#if !defined(MPT_LEVEL_PORTABLE)
#include <immintrin.h>
#endif

#define peak_loop MPT_LEVEL_NAME(mpt_cpu_peak_loop)

double peak_loop(mpt_dtype_t compute, int64_t rounds);

#define STEPS 16 /* products along the operands before they are read from the start again */

/* ---- fused multiply-add ------------------------------------------------------------------------ */

#if defined(MPT_LEVEL_PORTABLE)
#define LANES 4
#define ROWS 4
#elif defined(MPT_LEVEL_AVX2)
#define LANES 8
#define ROWS 4
#else
#define LANES 16
#define ROWS 8
#endif
#define COLUMNS 3 /* vectors */

typedef float lanes_t __attribute__((vector_size(4 * LANES)));

static inline lanes_t multiply_add(lanes_t a, lanes_t b, lanes_t c)
{
#if defined(MPT_LEVEL_PORTABLE)
    return a * b + c;
#elif defined(MPT_LEVEL_AVX2)
    return (lanes_t)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return (lanes_t)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
}

/* The compiler must believe that the sums are wanted. Only their total: what has an address would be stored every round. */
static inline void keep(lanes_t total)
{
    __asm__ volatile("" : : "m"(total));
}

/* ROWS broadcast values by COLUMNS vectors, both from memory. */
static double fma_loop(int64_t rounds)
{
    lanes_t sum[ROWS][COLUMNS] = {{{0}}};
    lanes_t b[STEPS][COLUMNS] = {{{0}}};
    float a[STEPS][ROWS] = {{0}};
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
        for (int s = 0; s < STEPS; s++)
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 3
                for (int j = 0; j < COLUMNS; j++)
                    sum[i][j] = multiply_add(a[s][i] - (lanes_t){0}, b[s][j], sum[i][j]);
    }
    lanes_t total = {0};
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
        total += (lanes_t)sum[i][0] + (lanes_t)sum[i][1] + (lanes_t)sum[i][2];
    keep(total);
    return 2.0 * LANES * ROWS * COLUMNS * STEPS * (double)rounds;
}

/* ---- dot products of BF16 pairs ---------------------------------------------------------------- */

#if defined(MPT_LEVEL_AVX512_BF16)
static double dot_loop(int64_t rounds)
{
    __m512 sum[ROWS][COLUMNS] = {{{0}}};
    __m512i b[STEPS][COLUMNS] = {{{0}}};
    int a[STEPS][ROWS] = {{0}};
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
        for (int s = 0; s < STEPS; s++)
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 3
                for (int j = 0; j < COLUMNS; j++)
                    sum[i][j] = _mm512_dpbf16_ps(sum[i][j], (__m512bh)_mm512_set1_epi32(a[s][i]),
                                                 (__m512bh)b[s][j]);
    }
    lanes_t total = {0};
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
        total += (lanes_t)sum[i][0] + (lanes_t)sum[i][1] + (lanes_t)sum[i][2];
    keep(total);
    return 4.0 * LANES * ROWS * COLUMNS * STEPS * (double)rounds;
}
#endif

/* ---- tiles of BF16 ----------------------------------------------------------------------------- */

#if defined(MPT_LEVEL_AMX)
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tiles = {.palette = 1,
           .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
           .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* A block of two by two tiles of sums: four loads for four products, 8 KiB of each operand. */
static double tile_loop(int64_t rounds)
{
    char a[4][2048] __attribute__((aligned(64))) = {{0}};
    char b[4][2048] __attribute__((aligned(64))) = {{0}};
    _tile_loadconfig(&tiles);
    for (int64_t r = 0; r < rounds; r++) {
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
        for (int s = 0; s < 4; s++) {
            _tile_loadd(4, a[s], 64);
            _tile_loadd(5, a[s] + 1024, 64);
            _tile_loadd(6, b[s], 64);
            _tile_loadd(7, b[s] + 1024, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_release();
    return 2.0 * 16 * 16 * 32 * 16 * (double)rounds;
}
#endif

double peak_loop(mpt_dtype_t compute, int64_t rounds)
{
#if defined(MPT_LEVEL_AMX)
    if (compute == MPT_BF16)
        return tile_loop(rounds);
    if (compute == MPT_F16 || compute == MPT_TF32)
        return tile_loop(rounds) / 3;
#elif defined(MPT_LEVEL_AVX512_BF16)
    if (compute == MPT_BF16)
        return dot_loop(rounds);
#endif
    (void)compute;
    return fma_loop(rounds);
}
