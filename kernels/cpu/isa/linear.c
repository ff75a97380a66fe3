#include "gemm.h"

/* w [out,in] as the operand B of forward: columns out, contraction in. */
static gemm_operand_t forward_operand(const void *w, mpt_dtype_t compute, int64_t in, int64_t out)
{
    return (gemm_operand_t){
        .data = w, .dtype = mpt_dtype_memory(compute), .count = out, .ld = in, .k_contiguous = 1};
}

/* And of the input gradient: columns in, contraction out. */
static gemm_operand_t backward_operand(const void *w, mpt_dtype_t compute, int64_t in)
{
    return (gemm_operand_t){
        .data = w, .dtype = mpt_dtype_memory(compute), .count = in, .ld = in, .k_contiguous = 0};
}

size_t cpu_linear_pack_bytes(mpt_isa_t isa, mpt_dtype_t compute, int64_t columns, int64_t depth)
{
    (void)isa;
    return gemm_packed_bytes(compute, columns, depth);
}

mpt_status_t cpu_linear_pack(mpt_kernels_t *k, const mpt_linear_pack_t *a, mpt_stream_t *s)
{
    (void)s;
    const gemm_operand_t forward = forward_operand(a->w, a->compute, a->in, a->out);
    const gemm_operand_t backward = backward_operand(a->w, a->compute, a->in);
    if (a->forward)
        gemm_pack(k->device->pool, a->compute, &forward, a->in, a->forward);
    if (a->backward)
        gemm_pack(k->device->pool, a->compute, &backward, a->out, a->backward);
    return MPT_OK;
}

mpt_status_t cpu_linear_forward(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s)
{
    (void)s;
    const gemm_t g = {
        .math = a->compute,
        .k = a->in,
        .a = {.data = a->x, .dtype = mpt_dtype_memory(a->compute), .count = a->rows, .ld = a->in, .k_contiguous = 1},
        .b = forward_operand(a->w, a->compute, a->in, a->out),
        .packed_b = a->packed,
        .out = {.finish = a->pre ? GEMM_GELU : GEMM_STORE,
                .compute = mpt_dtype_memory(a->compute),
                .dtype = a->y_dtype,
                .ld = a->out,
                .data = a->y,
                .bias = a->bias,
                .pre = a->pre},
    };
    return gemm_run(k, &g);
}

mpt_status_t cpu_linear_backward_input(mpt_kernels_t *k, const mpt_linear_backward_input_t *a,
                                       mpt_stream_t *s)
{
    (void)s;
    const gemm_t g = {
        .math = a->compute,
        .k = a->out,
        .a =
            {.data = a->dy, .dtype = mpt_dtype_memory(a->compute), .count = a->rows, .ld = a->out, .k_contiguous = 1},
        .b = backward_operand(a->w, a->compute, a->in),
        .packed_b = a->packed,
        .out = {.finish = a->pre ? GEMM_GELU_SLOPE : GEMM_STORE,
                .compute = mpt_dtype_memory(a->compute),
                .dtype = mpt_dtype_memory(a->compute),
                .ld = a->in,
                .data = a->dx,
                .slope_at = a->pre},
    };
    return gemm_run(k, &g);
}

mpt_status_t cpu_linear_backward_weight(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a,
                                        mpt_stream_t *s)
{
    (void)s;
    const gemm_t g = {
        .math = a->compute,
        .k = a->rows,
        .a = {.data = a->dy, .dtype = mpt_dtype_memory(a->compute), .count = a->out, .ld = a->out, .k_contiguous = 0},
        .b = {.data = a->x, .dtype = mpt_dtype_memory(a->compute), .count = a->in, .ld = a->in, .k_contiguous = 0},
        .out = {.finish = GEMM_ADD,
                .compute = mpt_dtype_memory(a->compute),
                .dtype = MPT_F32,
                .ld = a->in,
                .data = a->dw},
        .row_sums = a->dbias,
    };
    return gemm_run(k, &g);
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The three products of a layer rows x in -> out. */
static size_t layer_bytes(mpt_dtype_t compute, int threads, int64_t rows, int64_t in, int64_t out)
{
    size_t bytes = gemm_scratch_bytes(compute, threads, rows, out, in, 0);
    bytes = max_size(bytes, gemm_scratch_bytes(compute, threads, rows, in, out, 0));
    return max_size(bytes, gemm_scratch_bytes(compute, threads, out, in, rows, 1));
}

size_t cpu_linear_scratch_bytes(int threads, const mpt_kernels_limits_t *l)
{
    int64_t wide = 3 * l->dim > l->hidden ? 3 * l->dim : l->hidden;
    size_t bytes = 0;
    if (l->rows > 0 && wide > 0)
        bytes = max_size(layer_bytes(l->compute, threads, l->rows, l->dim, wide),
                         layer_bytes(l->compute, threads, l->rows, wide, l->dim));
    if (l->loss_rows > 0 && l->vocab_padded > 0)
        bytes = max_size(bytes,
                         layer_bytes(l->compute, threads, l->loss_rows, l->dim, l->vocab_padded));
    return bytes;
}
