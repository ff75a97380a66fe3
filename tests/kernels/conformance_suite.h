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
} conform_op_t;

static const conform_op_t conform_ops[] = {
    {"embed_forward", conform_embed_forward},
    {"embed_backward", conform_embed_backward},
    {"layernorm_forward", conform_norm_forward},
    {"layernorm_backward", conform_norm_backward},
    {"linear_forward", conform_linear_forward},
    {"linear_backward_input", conform_linear_input},
    {"linear_backward_weight", conform_linear_weight},
    {"attention_forward", conform_attention_forward},
    {"attention_backward", conform_attention_backward},
    {"loss", conform_loss},
    {"to_wire", conform_to_wire},
    {"grad_scan", conform_grad_scan},
    {"adamw", conform_adamw},
    {"cast", conform_cast},
    {"add", conform_add_up},
    {"hash", conform_hash},
};
#define CONFORM_OP_COUNT ((int)(sizeof conform_ops / sizeof conform_ops[0]))

static const mpt_dtype_t conform_computes[] = {MPT_F32, MPT_BF16, MPT_F16};
#define CONFORM_COMPUTE_COUNT 3

#endif
