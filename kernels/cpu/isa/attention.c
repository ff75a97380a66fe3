#include "attention.h"

static int64_t round_up(int64_t x, int64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

attention_shape_t attention_shape_init(mpt_dtype_t compute, int64_t batch, int64_t seq,
                                       int64_t heads, int64_t head_dim, int backward)
{
    attention_shape_t shape = {.compute = compute,
                               .planes = 1,
                               .batch = batch,
                               .seq = seq,
                               .heads = heads,
                               .head_dim = head_dim,
                               .rows = round_up(seq, ATTENTION_STEP),
                               .width = round_up(head_dim, VEC_LANES),
                               .depth = head_dim,
                               .queries = 64,
                               .keys = 64,
                               .columns = 64};
    (void)backward; /* only tiles differ */
#ifdef ATTENTION_HAS_TILES
    if (compute == MPT_BF16 || (compute == MPT_F16 && ATTENTION_MULTIPLIES_TILES)) {
        shape.tiles = 1;
        shape.planes = compute == MPT_F16 ? 2 : 1;
        shape.width = shape.depth = round_up(head_dim, 32);
        shape.queries = shape.keys = backward ? 96 : 32;
        shape.columns = 32;
    }
#endif
    return shape;
}

size_t attention_operand_bytes(const attention_shape_t *shape, int64_t rows)
{
    const int64_t element = shape->tiles ? 2 * shape->planes : 4;
    return (size_t)(rows * shape->width * element);
}

attention_operand_t attention_operand_over_rows(const attention_shape_t *shape, int64_t rows,
                                                int64_t width, void *data)
{
    if (!shape->tiles)
        return (attention_operand_t){.data = data, .outer = 4, .inner = width * 4};
    return (attention_operand_t){
        .data = data, .outer = 1024, .inner = width / 16 * 1024, .plane = rows * width * 2};
}

attention_operand_t attention_operand_init(const attention_shape_t *shape, attention_form_t form,
                                           int64_t rows, void *data)
{
    const int64_t width = shape->width;
    if (form == ATTENTION_LEFT_ROWS || form == ATTENTION_RIGHT_ROWS)
        return attention_operand_over_rows(shape, rows, width, data);
    if (shape->tiles)
        return (attention_operand_t){
            .data = data, .outer = width / 32 * 1024, .inner = 1024, .plane = rows * width * 2};
    if (form == ATTENTION_LEFT_WIDE)
        return (attention_operand_t){.data = data, .outer = width * 4, .inner = 4};
    return (attention_operand_t){.data = data, .outer = 4, .inner = rows * 4};
}

/*
 * Nine lines lie between one cut and the next: buffers whose sizes are powers of two would else lie
 * at the same places of their pages, and a load that follows a store to the same place of another
 * page waits for it.
 */
void *attention_scratch_cut(char *base, size_t *used, size_t bytes)
{
    void *cut = base ? base + *used : NULL;
    *used += (bytes + 63) / 64 * 64 + 9 * 64;
    return cut;
}

int attention_scratch_fits(const mpt_kernels_t *k, size_t bytes, const char *op)
{
    const size_t needed = (size_t)attention_threads(k) * bytes;
    if (needed <= k->scratch_bytes)
        return 1;
    mpt_log_error(k->log, "%s: needs %zu bytes of scratch, has %zu", op, needed, k->scratch_bytes);
    return 0;
}

int64_t attention_threads(const mpt_kernels_t *k)
{
    return k->device->pool ? mpt_pool_threads(k->device->pool) : 1;
}

void attention_run(mpt_kernels_t *k, mpt_task_t task, void *ctx, int64_t tasks)
{
    if (k->device->pool) {
        mpt_pool_run(k->device->pool, task, ctx, (int)tasks);
        return;
    }
    for (int i = 0; i < (int)tasks; i++)
        task(ctx, i, 0);
}

/* Which query a zipped column holds: of each 32, two tiles take alternate groups of four. */
static int64_t zipped_row(int64_t column)
{
    const int64_t tile = column / 16 % 2, place = column % 16;
    return column / 32 * 32 + place / 4 * 8 + tile * 4 + place % 4;
}

static void store_square(const attention_shape_t *shape, vec_t square[VEC_LANES], int64_t column,
                         int64_t d, int zipped, char *to, int64_t stride, int64_t rows)
{
    const int64_t left = shape->head_dim - d;
    const int lanes = left < VEC_LANES ? (int)left : VEC_LANES;
    attention_transpose(square);
    for (int i = 0; i < VEC_LANES; i++) {
        const int64_t row = zipped ? zipped_row(column + i) : column + i;
        if (row < rows)
            vec_store(to + row * stride, shape->compute, d, lanes, square[i]);
    }
}

void attention_store_transposed(const attention_shape_t *shape, const float *from, int64_t ld,
                                const float *factor, int zipped, char *to, int64_t stride,
                                int64_t rows)
{
    const int64_t columns = round_up(rows, ATTENTION_STEP);
    for (int64_t column = 0; column < columns; column += VEC_LANES) {
        const vec_t by = factor ? vec_load_f32(factor + column, VEC_LANES) : vec_set(1);
        for (int64_t d = 0; d < shape->head_dim; d += VEC_LANES) {
            vec_t square[VEC_LANES];
            for (int i = 0; i < VEC_LANES; i++)
                square[i] = vec_load_f32(from + (d + i) * ld + column, VEC_LANES) * by;
            store_square(shape, square, column, d, zipped, to, stride, rows);
        }
    }
}

size_t cpu_attention_scratch_bytes(int threads, const mpt_kernels_limits_t *limits)
{
    size_t bytes[2];
    for (int backward = 0; backward < 2; backward++) {
        const attention_shape_t shape = attention_shape_init(
            mpt_dtype_memory(limits->compute), limits->batch, limits->seq, limits->heads, limits->head_dim, backward);
        bytes[backward] =
            backward ? attention_backward_scratch(&shape) : attention_forward_scratch(&shape);
    }
    return (size_t)threads * (bytes[0] > bytes[1] ? bytes[0] : bytes[1]);
}
