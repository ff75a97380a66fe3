/*
 * The tile instructions of AMX that the kernels use, in C: a thread's tile registers and what each instruction does to
 * them, as Intel's manual defines it (SDM volume 2, operation and exception classes AMX-E1 to AMX-E6).
 *
 * Each function returns NULL, or why a processor would refuse the instruction; the registers are then as before. A
 * start row other than zero, meant for restarts after a page fault, is refused as well.
 * Needs AVX2 and FMA; x86-64 only. A file belongs to one thread.
 */
#ifndef TILE_MACHINE_H
#define TILE_MACHINE_H

#include <stdint.h>

#define TILE_COUNT 8
#define TILE_ROWS 16
#define TILE_ROW_BYTES 64

/* As LDTILECFG reads it; all zeros: not configured. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config_t;

typedef struct tile_file {
    uint32_t data[TILE_COUNT][TILE_ROWS][TILE_ROW_BYTES / 4] __attribute__((aligned(64)));
    tile_config_t config;
} tile_file_t;

/** LDTILECFG: every tile becomes zero. */
const char *tile_configure(tile_file_t *file, const void *config);
/** TILERELEASE: back to not configured. */
void tile_release(tile_file_t *file);
/** STTILECFG. */
void tile_store_config(const tile_file_t *file, void *config);
/** TILEZERO. */
const char *tile_zero(tile_file_t *file, unsigned tile);
/** TILELOADD, TILELOADDT1: rows `stride` bytes apart; what is past the tile's rows and columns becomes zero. */
const char *tile_load(tile_file_t *file, unsigned tile, const void *from, int64_t stride);
/** TILESTORED. */
const char *tile_store(const tile_file_t *file, unsigned tile, void *to, int64_t stride);
/**
 * TDPBF16PS: sum[m][n] += the products of row m of a and column n of b. Even and odd elements of the pairs are two
 * chains of FP32 fused multiply-adds from zero, in order of k; the two are added, and then added to the sum. Rounds to
 * nearest even, denormals are zero going in and coming out. Which NaN comes of several is the choice of the processor
 * that this runs on.
 */
const char *tile_multiply(tile_file_t *file, unsigned sum, unsigned a, unsigned b);

#endif
