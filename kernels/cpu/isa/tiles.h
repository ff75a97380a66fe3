/*
 * AMX tiles in the one shape that products use: eight tiles of 16 rows of 64 bytes. A thread's tiles are its own; between
 * tiles_begin and tiles_end it runs nothing else that has tiles. For sources of the amx level.
 */
#ifndef MPT_CPU_TILES_H
#define MPT_CPU_TILES_H

#include <immintrin.h>
#include <stdint.h>

/* As LDTILECFG reads it. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config_t;

static inline void tiles_begin(void)
{
    /* The compiler sees only the first eight bytes of what _tile_loadconfig reads: a constant, or it drops the rest. */
    static const tile_config_t config __attribute__((aligned(64))) = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _tile_loadconfig(&config);
}

static inline void tiles_end(void)
{
    _tile_release();
}

#endif
