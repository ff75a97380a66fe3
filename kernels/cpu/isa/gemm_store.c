#include "gemm_store.h"
#include "gemm_finish.h"

VEC_INLINE void store_vector(const gemm_output_t *out, const float *c, int64_t at, int64_t column,
                             int lanes, int stream, gemm_variant_t variant, mpt_dtype_t compute)
{
    const vec_t bias = gemm_bias(out, column, lanes, compute);
    vec_t v = vec_load_f32(c, VEC_LANES);
    v = gemm_finish_vector(out, v, bias, at, lanes, variant, compute);
    if (variant == GEMM_VARIANT_GELU)
        v = gelu_value(gemm_round_store(out->pre, compute, at, lanes, stream, v));
    gemm_round_store(out->data, gemm_out_dtype(variant, compute), at, lanes, stream, v);
}

VEC_INLINE void store_rows(const gemm_rows_t *rows, gemm_variant_t variant, mpt_dtype_t compute)
{
    const gemm_output_t out = *rows->out;
    const int stream = gemm_streams(&out, rows->column);
    for (int i = 0; i < rows->count; i++) {
        const float *c = rows->tile + (int64_t)i * rows->pitch;
        const int64_t at = (rows->row + i) * out.ld + rows->column;
        int j = 0;
        for (; j + VEC_LANES <= rows->columns; j += VEC_LANES)
            store_vector(&out, c + j, at + j, rows->column + j, VEC_LANES, stream, variant,
                         compute);
        if (j < rows->columns)
            store_vector(&out, c + j, at + j, rows->column + j, rows->columns - j, 0, variant,
                         compute);
    }
}

VEC_INLINE void store_typed(const gemm_rows_t *rows, mpt_dtype_t compute)
{
    switch (gemm_variant(rows->out)) {
    case GEMM_VARIANT_STORE:
        store_rows(rows, GEMM_VARIANT_STORE, compute);
        return;
    case GEMM_VARIANT_WIDEN:
        store_rows(rows, GEMM_VARIANT_WIDEN, compute);
        return;
    case GEMM_VARIANT_GELU:
        store_rows(rows, GEMM_VARIANT_GELU, compute);
        return;
    case GEMM_VARIANT_SLOPE:
        store_rows(rows, GEMM_VARIANT_SLOPE, compute);
        return;
    default:
        store_rows(rows, GEMM_VARIANT_ADD, compute);
    }
}

void gemm_store_rows(const gemm_rows_t *rows)
{
    switch (rows->out->compute) {
    case MPT_BF16:
        store_typed(rows, MPT_BF16);
        return;
    case MPT_F16:
        store_typed(rows, MPT_F16);
        return;
    default:
        store_typed(rows, MPT_F32);
    }
}

static void fetch_matrix(const gemm_rows_t *rows, const void *matrix, mpt_dtype_t dtype)
{
    const int64_t element = (int64_t)mpt_dtype_bytes(dtype), bytes = rows->columns * element;
    const char *row = (const char *)matrix + (rows->row * rows->out->ld + rows->column) * element;
    for (int i = 0; i < rows->count; i++, row += rows->out->ld * element) {
        const gemm_fetch_t part = {.at = row, .bytes = bytes};
        gemm_fetch(&part);
        __builtin_prefetch(row + bytes - 1, 0, 2); /* rows need not start where a line does */
    }
}

/* Stores that go through the caches read their lines first. */
void gemm_fetch_operands(const gemm_rows_t *rows)
{
    const gemm_output_t *out = rows->out;
    if (out->finish == GEMM_GELU_SLOPE)
        fetch_matrix(rows, out->slope_at, out->compute);
    if (gemm_streams(out, rows->column))
        return;
    fetch_matrix(rows, out->data, out->dtype);
    if (out->finish == GEMM_GELU)
        fetch_matrix(rows, out->pre, out->compute);
}
