/*
 * The whole suite: one row per operation.
 */
#ifndef TEST_CONFORMANCE_SUITE_H
#define TEST_CONFORMANCE_SUITE_H

#include "conformance_adamw.h"
#include "conformance_attention.h"
#include "conformance_flat.h"
#include "conformance_linear.h"
#include "conformance_loss.h"
#include "conformance_rows.h"

typedef struct conform_op {
    const char *name;
    /* All cases of the operation in one compute type, each on every target. */
    void (*run)(conform_context_t *x, const conform_target_t *targets, int count,
                mpt_dtype_t compute);
    int multiplies; /* 1: in TF32 too, which is a type of products alone */
} conform_op_t;

static const conform_op_t conform_ops[] = {
    {"embed_forward", conform_embed_forward, 0},
    {"embed_backward", conform_embed_backward, 0},
    {"layernorm_forward", conform_norm_forward, 0},
    {"layernorm_backward", conform_norm_backward, 0},
    {"linear_forward", conform_linear_forward, 1},
    {"linear_backward_input", conform_linear_input, 1},
    {"linear_backward_weight", conform_linear_weight, 1},
    {"attention_forward", conform_attention_forward, 0},
    {"attention_backward", conform_attention_backward, 0},
    {"loss", conform_loss, 0},
    {"to_wire", conform_to_wire, 0},
    {"grad_scan", conform_grad_scan, 0},
    {"adamw", conform_adamw, 0},
    {"cast", conform_cast, 0},
    {"add", conform_add_up, 0},
    {"hash", conform_hash, 0},
};
#define CONFORM_OP_COUNT ((int)(sizeof conform_ops / sizeof conform_ops[0]))

static const mpt_dtype_t conform_computes[] = {MPT_F32, MPT_BF16, MPT_F16, MPT_TF32};

/* How many of these an operation has, from the first on. */
static inline int conform_compute_count(const conform_op_t *op)
{
    return op->multiplies ? 4 : 3;
}

#endif
