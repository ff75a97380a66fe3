/*
 * Finishing tiles of C: an FP32 tile that a micro-kernel has left becomes part of the output, row by row, so
 * that a micro-kernel can interleave the rows of one tile with the products of the next.
 */
#ifndef MPT_CPU_GEMM_STORE_H
#define MPT_CPU_GEMM_STORE_H

#include "gemm.h"

#define gemm_store_row_function MPT_LEVEL_NAME(mpt_cpu_gemm_store_row_function)

/* Finish `columns` values of one row: tile row `c` belongs at output row `row`, from column `column` on. */
typedef void (*gemm_store_row_t)(const gemm_output_t *out, const float *c, int64_t row,
                                 int64_t column, int columns);

typedef struct gemm_store {
    const gemm_output_t *out;
    gemm_store_row_t store_row;
    const float *tile; /* row-major, `pitch` apart */
    int pitch;
    int rows, columns; /* within the output */
    int next;          /* first row that is not stored yet */
    int64_t row, column;
} gemm_store_t;

/** The function that finishes rows of this output. */
gemm_store_row_t gemm_store_row_function(const gemm_output_t *out);

/** Store up to `count` more rows. */
static inline void gemm_store_some(gemm_store_t *s, int count)
{
    int end = s->next + count < s->rows ? s->next + count : s->rows;
    for (int i = s->next; i < end; i++)
        s->store_row(s->out, s->tile + (int64_t)i * s->pitch, s->row + i, s->column, s->columns);
    s->next = end;
}

#endif
