#include "gemm_store.h"
#include "gelu.h"

/* One vector of a row: `at` is its element index in the output, `column` its column. */
VEC_INLINE void store_vector(const gemm_output_t *out, const float *c, int64_t at, int64_t column,
                             int lanes, gemm_finish_t finish, mpt_dtype_t compute,
                             mpt_dtype_t dtype)
{
    vec_t v = vec_load_f32(c, VEC_LANES);
    if (finish == GEMM_ADD)
        v += vec_load(out->data, MPT_F32, at, lanes);
    if (finish == GEMM_GELU_SLOPE)
        v *= gelu_slope(vec_load(out->slope_at, compute, at, lanes));
    if (out->bias && (finish == GEMM_STORE || finish == GEMM_GELU))
        v += vec_load(out->bias, compute, column, lanes);
    if (finish == GEMM_GELU) {
        vec_store(out->pre, compute, at, lanes, v);
        v = gelu_value(vec_round(v, compute));
    }
    vec_store(out->data, dtype, at, lanes, v);
}

VEC_INLINE void store_row(const gemm_output_t *out, const float *c, int64_t row, int64_t column,
                          int columns, gemm_finish_t finish, mpt_dtype_t compute, mpt_dtype_t dtype)
{
    const int64_t at = row * out->ld + column;
    int j = 0;
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
