/*
 * Element types and the table of tensors that the model hands to sharding. Pure values, no memory.
 */
#ifndef MPT_TENSOR_H
#define MPT_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mpt_dtype {
    MPT_F32 = 0,
    MPT_BF16 = 1, /* 1 sign, 8 exponent, 7 fraction bits */
    MPT_F16 = 2,  /* IEEE 754 binary16 */
    MPT_F64 = 3,  /* the oracle's own type; no run uses it */
    MPT_DTYPE_COUNT = 4, /* the types of memory end here */
    MPT_TF32 = 5         /* a compute type only: FP32 in memory, rounded to 8 exponent and 10 fraction bits where linear layers multiply */
} mpt_dtype_t;

/** Bytes of one element: 4, 2, 2, 8; of MPT_TF32 those of FP32. Inline: loops over vectors ask with a constant. */
static inline size_t mpt_dtype_bytes(mpt_dtype_t dtype)
{
    return dtype == MPT_F64 ? 8 : dtype == MPT_BF16 || dtype == MPT_F16 ? 2 : 4;
}
/** "fp32", "bf16", "fp16", "fp64", "tf32": the config's names. */
const char *mpt_dtype_name(mpt_dtype_t dtype);
/** The type of this name; MPT_DTYPE_COUNT where there is none. */
mpt_dtype_t mpt_dtype_named(const char *name);
/** The type that arrays have in memory under compute type `dtype`: MPT_F32 under MPT_TF32, else itself. */
mpt_dtype_t mpt_dtype_memory(mpt_dtype_t dtype);
/** The type that statistics, accumulators and gradients have beside compute type `dtype`:
 *  MPT_F64 beside MPT_F64 (the oracle run wholly in FP64), else MPT_F32. "wide" in the kernels' contracts. */
mpt_dtype_t mpt_dtype_wide(mpt_dtype_t dtype);

#define MPT_TENSOR_MAX_DIMS 2
#define MPT_TENSOR_MAX_NAME 48

/** One parameter tensor of a model, unpadded and unsharded. */
typedef struct mpt_tensor {
    char name[MPT_TENSOR_MAX_NAME]; /* "h.3.mlp.c_fc.weight" */
    int dims;
    int64_t shape[MPT_TENSOR_MAX_DIMS]; /* row-major */
    int unit;                           /* 0-based: embedding, one per block, head */
    int decay;                          /* 1: weight decay applies (matrices) */
    int64_t first; /* global element index of its first element: tensors end to end in table order */
    int64_t reserve; /* elements kept zero behind it in its unit's buffer, part of no table, file or
                        count: the vocabulary's padding rows, which are never predicted */
} mpt_tensor_t;

/** Product of the shape. */
int64_t mpt_tensor_count(const mpt_tensor_t *tensor);

#ifdef __cplusplus
}
#endif
#endif
