/*
 * What the tests of tile instructions share: configurations, and tiles' contents from a small generator.
 */
#ifndef TILE_FIXTURE_H
#define TILE_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "tile_machine.h"

/* A product's shape: C[m,n] += A[m,k pairs] B[k pairs,n], in tiles 0, 1 and 2. */
typedef struct tile_shape {
    uint8_t m, k, n;
} tile_shape_t;

static const tile_shape_t tile_shapes[] = {{16, 16, 16}, {1, 1, 1},  {3, 5, 7}, {16, 1, 16},
                                           {5, 16, 2},   {4, 8, 15}, {9, 3, 16}};
#define TILE_SHAPE_COUNT ((int)(sizeof tile_shapes / sizeof tile_shapes[0]))

static inline tile_config_t tile_config_of(tile_shape_t shape)
{
    return (tile_config_t){.palette = 1,
                           .row_bytes = {(uint16_t)(4 * shape.n), (uint16_t)(4 * shape.k), (uint16_t)(4 * shape.n)},
                           .rows = {shape.m, shape.m, shape.k}};
}

static inline uint32_t tile_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* FP32 bits with an exponent within `spread` of 1's. */
static inline uint32_t tile_random_bits(uint64_t *state, unsigned spread)
{
    const uint32_t r = tile_random(state), exponent = 127 - spread + tile_random(state) % (2 * spread + 1);
    return (r & 0x807fffff) | exponent << 23;
}

/* A whole tile's words: FP32, or pairs of BF16. */
static inline void tile_fill(uint32_t *words, int pairs, unsigned spread, uint64_t *state)
{
    for (int i = 0; i < TILE_ROWS * TILE_ROW_BYTES / 4; i++) {
        const uint32_t high = tile_random_bits(state, spread), low = tile_random_bits(state, spread);
        words[i] = pairs ? (high & 0xffff0000) | low >> 16 : high;
    }
}

/* Bits, any NaN being equal to any. */
static inline int tile_same(uint32_t a, uint32_t b)
{
    float x, y;
    memcpy(&x, &a, 4);
    memcpy(&y, &b, 4);
    return a == b || (isnan(x) && isnan(y));
}

#endif
