/*
 * Tiles of C that are complete are stored by gemm_store_rows. Where the micro-kernel can store while it multiplies they
 * wait in a queue, in the order in which they were completed: some rows of the first are handed to each later call. A
 * queue belongs to one task.
 */
#ifndef MPT_CPU_GEMM_STORE_H
#define MPT_CPU_GEMM_STORE_H

#include "gemm.h"
#include "vec.h"

#define gemm_fetch_operands MPT_LEVEL_NAME(mpt_cpu_gemm_fetch_operands)
#define gemm_store_rows MPT_LEVEL_NAME(mpt_cpu_gemm_store_rows)

/* Rows of a complete tile, `pitch` floats apart, and the place of the first in the output. */
typedef struct gemm_rows {
    const gemm_output_t *out;
    const float *tile;
    int pitch;
    int count, columns; /* within the output */
    int64_t row, column;
} gemm_rows_t;

/* Memory to bring into the second-level cache. */
typedef struct gemm_fetch {
    const char *at;
    int64_t bytes;
} gemm_fetch_t;

static inline void gemm_fetch(const gemm_fetch_t *f)
{
    vec_fetch(f->at, f->bytes);
}

/* What a micro-kernel does while it waits for its products. */
typedef struct gemm_aside {
    gemm_rows_t rows; /* to store: full-width rows; count 0: none */
    gemm_fetch_t fetch;
    const float *next_sums; /* the tile that the next product adds to; NULL: it starts from zero */
    int64_t fetch_a_step, sums_a_step; /* bytes of both to bring near at each step; multiples of a cache line */
} gemm_aside_t;

/** Bring near what finishing and storing these rows will read. */
void gemm_fetch_operands(const gemm_rows_t *rows);

/** Finish and store these rows. */
void gemm_store_rows(const gemm_rows_t *rows);

#define GEMM_QUEUE_TILES 128

typedef struct gemm_queue {
    int first, count; /* of a ring */
    gemm_rows_t tiles[GEMM_QUEUE_TILES];
} gemm_queue_t;

/** Take up to `count` rows off the first tile: they are the caller's to store. None are left: count 0. */
static inline gemm_rows_t gemm_queue_take(gemm_queue_t *q, int count)
{
    if (q->count == 0)
        return (gemm_rows_t){0};
    gemm_rows_t *first = &q->tiles[q->first], taken = *first;
    taken.count = count < first->count ? count : first->count;
    first->tile += (int64_t)taken.count * first->pitch;
    first->row += taken.count;
    first->count -= taken.count;
    if (first->count == 0) {
        q->first = (q->first + 1) % GEMM_QUEUE_TILES;
        q->count--;
    }
    return taken;
}

/** Store the oldest tiles until at most `left` wait. */
static inline void gemm_queue_shorten(gemm_queue_t *q, int left)
{
    while (q->count > left) {
        gemm_rows_t rows = gemm_queue_take(q, q->tiles[q->first].count);
        gemm_store_rows(&rows);
    }
}

/** Add a tile; its memory must stay as it is until it is stored. Makes room by storing the oldest. */
static inline void gemm_queue_push(gemm_queue_t *q, const gemm_rows_t *tile)
{
    gemm_queue_shorten(q, GEMM_QUEUE_TILES - 1);
    q->tiles[(q->first + q->count++) % GEMM_QUEUE_TILES] = *tile;
}

#endif
