/*
 * From a sum to the output: what happens to one vector of C. Inline, with the kind of output and its types as
 * constants, so that micro-kernels can carry it inside their loops.
 */
#ifndef MPT_CPU_GEMM_FINISH_H
#define MPT_CPU_GEMM_FINISH_H

#include "gelu.h"
#include "gemm.h"

/* The kinds of output, one code path each, for compute type T. */
typedef enum gemm_variant {
    GEMM_VARIANT_STORE, /* GEMM_STORE in T */
    GEMM_VARIANT_WIDEN, /* GEMM_STORE in F32 where T is not */
    GEMM_VARIANT_GELU,
    GEMM_VARIANT_SLOPE,
    GEMM_VARIANT_ADD,
    GEMM_VARIANTS
} gemm_variant_t;

static inline gemm_variant_t gemm_variant(const gemm_output_t *out)
{
    if (out->finish == GEMM_ADD)
        return GEMM_VARIANT_ADD;
    if (out->finish == GEMM_GELU)
        return GEMM_VARIANT_GELU;
    if (out->finish == GEMM_GELU_SLOPE)
        return GEMM_VARIANT_SLOPE;
    return out->dtype == out->compute ? GEMM_VARIANT_STORE : GEMM_VARIANT_WIDEN;
}

/** Type of the output. */
VEC_INLINE mpt_dtype_t gemm_out_dtype(gemm_variant_t variant, mpt_dtype_t compute)
{
    return variant == GEMM_VARIANT_ADD || variant == GEMM_VARIANT_WIDEN ? MPT_F32 : compute;
}

/*
 * Rounding to BF16 by the processor's instruction where there is one: it takes denormals as zero, as the
 * products before it did, and the integer arithmetic of vec.h would take longer than the products.
 */
VEC_INLINE vec_u16_t gemm_to_bf16(vec_t v)
{
#if defined(MPT_LEVEL_AVX512_BF16) || defined(MPT_LEVEL_AMX)
    return (vec_u16_t)_mm512_cvtneps_pbh((__m512)v);
#else
    return vec_to_bf16(v);
#endif
}

/*
 * Outputs are larger than the caches, and read by a later call: whole cache lines go past the caches. Storing through
 * them would read every line first, which takes twice the time. Tasks end with gemm_stream_end.
 */
static inline int gemm_streams(const gemm_output_t *out, int64_t column)
{
#if defined(VEC_AVX512)
    const int64_t bytes = (int64_t)mpt_dtype_bytes(out->dtype);
    const uintptr_t starts = (uintptr_t)out->data | (uintptr_t)out->pre |
                             (uintptr_t)(column * bytes) | (uintptr_t)(out->ld * bytes);
    return out->finish != GEMM_ADD && starts % 64 == 0;
#else
    (void)out;
    (void)column;
    return 0;
#endif
}

static inline void gemm_stream_end(void)
{
#if defined(VEC_AVX512)
    _mm_sfence();
#endif
}

/** Store a full vector of FP32. */
VEC_INLINE void gemm_store_f32(float *to, vec_t v, int stream)
{
#if defined(VEC_AVX512)
    if (stream) {
        _mm512_stream_ps(to, (__m512)v);
        return;
    }
#endif
    (void)stream;
    vec_store_f32(to, VEC_LANES, v);
}

/** Round to `dtype`, store; past the caches if `stream` and the vector is a cache line. @return the rounded values. */
VEC_INLINE vec_t gemm_round_store(void *array, mpt_dtype_t dtype, int64_t at, int lanes, int stream,
                                  vec_t v)
{
    if (dtype == MPT_F32) {
        if (lanes == VEC_LANES)
            gemm_store_f32((float *)array + at, v, stream);
        else
            vec_store_f32((float *)array + at, lanes, v);
        return v;
    }
    const vec_u16_t bits = dtype == MPT_BF16 ? gemm_to_bf16(v) : vec_to_f16(v);
    vec_store_u16((uint16_t *)array + at, lanes, bits);
    return dtype == MPT_BF16 ? vec_from_bf16(bits) : vec_from_f16(bits);
}

/** Everything before the last rounding but for the GELU, of `lanes` sums that belong at element `at`. */
VEC_INLINE vec_t gemm_finish_vector(const gemm_output_t *out, vec_t v, vec_t bias, int64_t at,
                                    int lanes, gemm_variant_t variant, mpt_dtype_t compute)
{
    if (variant == GEMM_VARIANT_ADD)
        return v + vec_load(out->data, MPT_F32, at, lanes);
    if (variant == GEMM_VARIANT_SLOPE)
        return v * gelu_slope(vec_load(out->slope_at, compute, at, lanes));
    return v + bias;
}

VEC_INLINE vec_t gemm_bias(const gemm_output_t *out, int64_t column, int lanes, mpt_dtype_t compute)
{
    return out->bias ? vec_load(out->bias, compute, column, lanes) : (vec_t){0};
}

#endif
