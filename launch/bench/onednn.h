/*
 * oneDNN's matrix products, the rival of our own: one that is made once and run often. Versions 2 and 3. oneDNN
 * keeps threads and caches for the process, whoever calls it; one thread at a time.
 */
#ifndef MPT_BENCH_ONEDNN_H
#define MPT_BENCH_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>
#include <stddef.h>
#include "mpt.h"

/* Where the operands of every product lie. */
typedef struct mpt_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    void *a, *b, *c;
    size_t bytes; /* of each */
} mpt_onednn_t;

/** Engine, and three operands of `bytes`, filled with small FP32 numbers. @return 0; -1 (nothing left). */
int mpt_onednn_create(size_t bytes, mpt_onednn_t *dnn);
void mpt_onednn_destroy(mpt_onednn_t *dnn);
/** Fill A and B with small numbers of a type: "fp32", "bf16", "fp16". */
void mpt_onednn_fill(mpt_onednn_t *dnn, const char *type);
/** How many threads its products use. @return 0; -1: this oneDNN does not run on OpenMP threads. */
int mpt_onednn_set_threads(int threads);

/* What is asked for. */
typedef struct mpt_matmul_params {
    mpt_bench_product_t product;
    const char *type; /* of A and B, and of C unless product.wide_c */
    int packed;       /* B in the layout that oneDNN likes best, put there once, when the primitive is made */
    /* 1: this implementation must not be used; NULL: any may. */
    int (*refuses)(void *ctx, const char *implementation);
    void *ctx;
} mpt_matmul_params_t;

typedef struct mpt_matmul {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
    char implementation[64]; /* as oneDNN calls it */
} mpt_matmul_t;

/** Make the first of oneDNN's implementations, in its own order, that is not refused. @return 0; -1: there is none, or `packed` and
 *  its layout is the plain one. */
int mpt_matmul_create(const mpt_onednn_t *dnn, const mpt_matmul_params_t *params, mpt_matmul_t *matmul_p);
/** Safe on a zeroed one. */
void mpt_matmul_destroy(mpt_matmul_t *matmul);
/** Run it once and wait. @return 0; -1. */
int mpt_matmul_run(const mpt_onednn_t *dnn, const mpt_matmul_t *matmul);
/** The product by dnnl_sgemm, FP32. @return 0; -1. */
int mpt_onednn_sgemm(const mpt_onednn_t *dnn, const mpt_bench_product_t *product);

#endif
