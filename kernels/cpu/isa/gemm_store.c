#include "gemm_store.h"
#include "gelu.h"

/*
 * Rounding to BF16 by the processor's instruction where there is one: it takes denormals as zero, as the
 * products before it did, and saves most of the time that storing takes.
 */
VEC_INLINE vec_u16_t to_bf16(vec_t v)
{
#if defined(MPT_LEVEL_AVX512_BF16) || defined(MPT_LEVEL_AMX)
    return (vec_u16_t)_mm512_cvtneps_pbh((__m512)v);
#else
    return vec_to_bf16(v);
#endif
}

VEC_INLINE void store_as(void *array, mpt_dtype_t dtype, int64_t first, int lanes, vec_t v)
{
    if (dtype == MPT_BF16)
        vec_store_u16((uint16_t *)array + first, lanes, to_bf16(v));
    else
        vec_store(array, dtype, first, lanes, v);
}

VEC_INLINE vec_t round_to(vec_t v, mpt_dtype_t dtype)
{
    return dtype == MPT_BF16 ? vec_from_bf16(to_bf16(v)) : vec_round(v, dtype);
}

/* Two full vectors, side by side: a cache line of BF16 in one store. */
VEC_INLINE void store_two(void *array, mpt_dtype_t dtype, int64_t first, vec_t left, vec_t right)
{
#if defined(MPT_LEVEL_AVX512_BF16) || defined(MPT_LEVEL_AMX)
    if (dtype == MPT_BF16) {
        const __m512bh both = _mm512_cvtne2ps_pbh((__m512)right, (__m512)left);
        memcpy((uint16_t *)array + first, &both, sizeof both);
        return;
    }
#endif
    store_as(array, dtype, first, VEC_LANES, left);
    store_as(array, dtype, first + VEC_LANES, VEC_LANES, right);
}

/* Everything before the last rounding; `at` is the vector's element index in the output. */
VEC_INLINE vec_t finish_vector(const gemm_output_t *out, vec_t v, int64_t at, int64_t column,
                               int lanes, gemm_finish_t finish, mpt_dtype_t compute)
{
    if (finish == GEMM_ADD)
        return v + vec_load(out->data, MPT_F32, at, lanes);
    if (finish == GEMM_GELU_SLOPE)
        return v * gelu_slope(vec_load(out->slope_at, compute, at, lanes));
    if (out->bias)
        v += vec_load(out->bias, compute, column, lanes);
    return v;
}

VEC_INLINE void store_vector(const gemm_output_t *out, const float *c, int64_t at, int64_t column,
                             int lanes, gemm_finish_t finish, mpt_dtype_t compute, mpt_dtype_t dtype)
{
    vec_t v = finish_vector(out, vec_load_f32(c, VEC_LANES), at, column, lanes, finish, compute);
    if (finish == GEMM_GELU) {
        v = round_to(v, compute);
        store_as(out->pre, compute, at, lanes, v);
        v = gelu_value(v);
    }
    store_as(out->data, dtype, at, lanes, v);
}

VEC_INLINE void store_vectors(const gemm_output_t *out, const float *c, int64_t at, int64_t column,
                              gemm_finish_t finish, mpt_dtype_t compute, mpt_dtype_t dtype)
{
    const int n = VEC_LANES;
    vec_t left = finish_vector(out, vec_load_f32(c, n), at, column, n, finish, compute);
    vec_t right = finish_vector(out, vec_load_f32(c + n, n), at + n, column + n, n, finish, compute);
    if (finish == GEMM_GELU) {
        left = round_to(left, compute);
        right = round_to(right, compute);
        store_two(out->pre, compute, at, left, right);
        left = gelu_value(left);
        right = gelu_value(right);
    }
    store_two(out->data, dtype, at, left, right);
}

VEC_INLINE void store_row(const gemm_output_t *out, const float *c, int64_t row, int64_t column,
                          int columns, gemm_finish_t finish, mpt_dtype_t compute, mpt_dtype_t dtype)
{
    const int64_t at = row * out->ld + column;
    int j = 0;
    for (; j + 2 * VEC_LANES <= columns; j += 2 * VEC_LANES)
        store_vectors(out, c + j, at + j, column + j, finish, compute, dtype);
    for (; j + VEC_LANES <= columns; j += VEC_LANES)
        store_vector(out, c + j, at + j, column + j, VEC_LANES, finish, compute, dtype);
    if (j < columns)
        store_vector(out, c + j, at + j, column + j, columns - j, finish, compute, dtype);
}

#define DEFINE_STORE_ROW(name, finish, compute, dtype)                                             \
    static void name(const gemm_output_t *out, const float *c, int64_t row, int64_t column,        \
                     int columns)                                                                  \
    {                                                                                              \
        store_row(out, c, row, column, columns, finish, compute, dtype);                           \
    }

DEFINE_STORE_ROW(store_f32, GEMM_STORE, MPT_F32, MPT_F32)
DEFINE_STORE_ROW(store_bf16, GEMM_STORE, MPT_BF16, MPT_BF16)
DEFINE_STORE_ROW(store_f16, GEMM_STORE, MPT_F16, MPT_F16)
DEFINE_STORE_ROW(widen_bf16, GEMM_STORE, MPT_BF16, MPT_F32)
DEFINE_STORE_ROW(widen_f16, GEMM_STORE, MPT_F16, MPT_F32)
DEFINE_STORE_ROW(gelu_f32, GEMM_GELU, MPT_F32, MPT_F32)
DEFINE_STORE_ROW(gelu_bf16, GEMM_GELU, MPT_BF16, MPT_BF16)
DEFINE_STORE_ROW(gelu_f16, GEMM_GELU, MPT_F16, MPT_F16)
DEFINE_STORE_ROW(slope_f32, GEMM_GELU_SLOPE, MPT_F32, MPT_F32)
DEFINE_STORE_ROW(slope_bf16, GEMM_GELU_SLOPE, MPT_BF16, MPT_BF16)
DEFINE_STORE_ROW(slope_f16, GEMM_GELU_SLOPE, MPT_F16, MPT_F16)
DEFINE_STORE_ROW(add_f32, GEMM_ADD, MPT_F32, MPT_F32)

gemm_store_row_t gemm_store_row_function(const gemm_output_t *out)
{
    static const gemm_store_row_t same_type[][3] = {
        [GEMM_STORE] = {[MPT_F32] = store_f32, [MPT_BF16] = store_bf16, [MPT_F16] = store_f16},
        [GEMM_GELU] = {[MPT_F32] = gelu_f32, [MPT_BF16] = gelu_bf16, [MPT_F16] = gelu_f16},
        [GEMM_GELU_SLOPE] = {[MPT_F32] = slope_f32, [MPT_BF16] = slope_bf16, [MPT_F16] = slope_f16},
    };
    if (out->finish == GEMM_ADD)
        return add_f32;
    if (out->dtype != out->compute)
        return out->compute == MPT_BF16 ? widen_bf16 : widen_f16;
    return same_type[out->finish][out->compute];
}

void gemm_drain_rows(gemm_drain_t *d, int count, int keep)
{
    while (count > 0 && d->count > keep) {
        const gemm_done_t *t = &d->tiles[d->first];
        const int left = t->rows - d->next;
        const int end = d->next + (count < left ? count : left);
        count -= end - d->next;
        for (; d->next < end; d->next++)
            d->store_row(d->out, t->tile + (int64_t)d->next * d->pitch, t->row + d->next, t->column,
                         t->columns);
        if (d->next < t->rows)
            return;
        d->next = 0;
        d->first = (d->first + 1) % GEMM_DRAIN_TILES;
        d->count--;
    }
}

void gemm_drain_push(gemm_drain_t *d, const gemm_done_t *done)
{
    if (d->count == GEMM_DRAIN_TILES)
        gemm_drain_rows(d, d->tiles[d->first].rows - d->next, 0);
    d->tiles[(d->first + d->count++) % GEMM_DRAIN_TILES] = *done;
}
