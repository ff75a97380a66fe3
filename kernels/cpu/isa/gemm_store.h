/*
 * Finishing tiles of C. Tiles that are complete wait in a drain, in the order in which they were completed; rows
 * of them become output while micro-kernels multiply later tiles, so that the vector units work in the
 * shade of the tile unit. A drain belongs to one task.
 */
#ifndef MPT_CPU_GEMM_STORE_H
#define MPT_CPU_GEMM_STORE_H

#include "gemm.h"

#define gemm_store_row_function MPT_LEVEL_NAME(mpt_cpu_gemm_store_row_function)
#define gemm_drain_rows MPT_LEVEL_NAME(mpt_cpu_gemm_drain_rows)
#define gemm_drain_push MPT_LEVEL_NAME(mpt_cpu_gemm_drain_push)

#define GEMM_DRAIN_TILES 128 /* at most in a drain: two rows of tiles of a block */

/* Finish `columns` values of one row: tile row `c` belongs at output row `row`, from column `column` on. */
typedef void (*gemm_store_row_t)(const gemm_output_t *out, const float *c, int64_t row,
                                 int64_t column, int columns);

/* A complete tile, row-major, and the part of the output it covers. */
typedef struct gemm_done {
    const float *tile;
    int rows, columns;
    int64_t row, column;
} gemm_done_t;

typedef struct gemm_drain {
    const gemm_output_t *out;
    gemm_store_row_t store_row;
    int pitch;      /* floats from row to row of a tile */
    int first, count; /* tiles waiting, a ring */
    int next;       /* first row of the first tile that is not stored yet */
    int keep;       /* newest tiles to leave alone while multiplying: their last products may be under way */
    int rows_a_call; /* rows that a micro-kernel is asked to store while it computes a tile */
    gemm_done_t tiles[GEMM_DRAIN_TILES];
} gemm_drain_t;

/** The function that finishes rows of this output. */
gemm_store_row_t gemm_store_row_function(const gemm_output_t *out);

/** Add a tile; its memory must stay until it is stored. Stores the first one if there is no room. */
void gemm_drain_push(gemm_drain_t *d, const gemm_done_t *done);

/** Store up to `count` rows, leaving the newest `keep` tiles alone. */
void gemm_drain_rows(gemm_drain_t *d, int count, int keep);

#endif
