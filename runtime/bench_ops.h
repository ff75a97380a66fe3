/*
 * The operations that a bench can run alone, private to bench_*.c: each lays its arrays out in one block of memory, which the
 * next may use in turn, and is then called as the model calls it.
 */
#ifndef MPT_BENCH_OPS_H
#define MPT_BENCH_OPS_H

#include "bench_host.h"
#include "gpt2.h"

#define MPT_BENCH_MAX_CASES 32

typedef struct mpt_bench_case mpt_bench_case_t;

/* One operation at one shape. */
struct mpt_bench_case {
    mpt_bench_op_t op;
    char name[40];
    int64_t rows, in, out; /* linear layers */
    int fused;             /* of them: GELU, or its slope */
    int head;              /* of them: the head */
    /* Set the arguments' arrays, and count op.bytes; see mpt_bench_lay. */
    void (*lay)(mpt_bench_ops_t *ops, mpt_bench_case_t *own);
    mpt_status_t (*run)(mpt_bench_ops_t *ops, const mpt_bench_case_t *own);
    union {
        mpt_embed_forward_t embed_forward;
        mpt_embed_backward_t embed_backward;
        mpt_layernorm_forward_t layernorm_forward;
        mpt_layernorm_backward_t layernorm_backward;
        mpt_linear_forward_t linear_forward;
        mpt_linear_backward_input_t linear_backward_input;
        mpt_linear_backward_weight_t linear_backward_weight;
        struct {
            mpt_attention_forward_t forward;
            mpt_attention_backward_t backward;
        } attention;
        mpt_loss_t loss;
        mpt_adamw_t adamw;
        mpt_to_wire_t to_wire;
        mpt_grad_scan_t grad_scan;
        mpt_add_t add;
        mpt_cast_t cast;
    } args;
};

struct mpt_bench_ops {
    mpt_bench_host_t host;
    mpt_boot_t *boot;
    mpt_dtype_t compute; /* of memory */
    mpt_dtype_t math;    /* of linear layers: MPT_TF32, or the same */
    mpt_gpt2_shape_t shape;
    const mpt_kernels_ops_t *backend;
    mpt_kernels_t kernels;
    mpt_mem_t scratch, operands, copy[2];
    size_t used;     /* of operands, by the case that is laying */
    float *pattern;  /* what operands are filled with */
    int prepared;    /* index; -1: none */
    mpt_status_t failed; /* of a call while laying */
    int count;
    mpt_bench_case_t cases[MPT_BENCH_MAX_CASES];
};

/** Elements of the passes that know no rows. */
int64_t mpt_bench_flat_count(const mpt_bench_ops_t *ops);

typedef enum mpt_bench_use {
    MPT_BENCH_READ,
    MPT_BENCH_WRITTEN,
    MPT_BENCH_ADDED, /* read and written */
    MPT_BENCH_ASIDE  /* not counted */
} mpt_bench_use_t;

/** The next `count` elements of the operands' memory, filled (what is read with the pattern, the rest with zeros), their bytes counted
 *  in own->op. Before there is memory: counts, and returns NULL. */
void *mpt_bench_lay(mpt_bench_ops_t *ops, mpt_bench_case_t *own, mpt_bench_use_t use, mpt_dtype_t dtype,
                    int64_t count);
/** The same with `count` tokens below the vocabulary. */
uint32_t *mpt_bench_lay_tokens(mpt_bench_ops_t *ops, mpt_bench_case_t *own, int64_t count);

/** Append every case to ops->cases (bench_cases.c). */
void mpt_bench_list_cases(mpt_bench_ops_t *ops);

#endif
