#include <assert.h>
#include "kernels.h"

/* A column's type, before the compute type is known. */
typedef enum column {
    COMPUTE, /* the compute type's in memory */
    MATH,    /* the compute type itself: TF32 is one of products */
    WIDE,    /* mpt_dtype_wide of it */
    WIRE,    /* what gradients cross to other ranks in */
    SUM,     /* what their sum is left in */
    NONE
} column_t;

typedef struct precision_row {
    const char *name;
    column_t input, math, accumulate, output, gradient;
} precision_row_t;

/* Gradients are those of parameters. docs/numerics.md prints this table; tests/runtime/test_plan.c compares the two. */
static const precision_row_t precision_table[MPT_OP_COUNT] = {
    /* name, then input, math, accumulate, output, gradient */
    [MPT_OP_EMBED] = {"embed", COMPUTE, WIDE, WIDE, COMPUTE, WIDE},
    [MPT_OP_LAYERNORM] = {"layernorm", COMPUTE, WIDE, WIDE, COMPUTE, WIDE},
    [MPT_OP_LINEAR] = {"linear", COMPUTE, MATH, WIDE, COMPUTE, WIDE},
    [MPT_OP_ATTENTION] = {"attention", COMPUTE, COMPUTE, WIDE, COMPUTE, NONE},
    [MPT_OP_GELU] = {"gelu", COMPUTE, WIDE, WIDE, COMPUTE, NONE},
    [MPT_OP_LOSS] = {"loss", WIDE, WIDE, WIDE, COMPUTE, NONE},
    [MPT_OP_REDUCE] = {"reduce", WIRE, WIDE, WIDE, SUM, NONE},
    [MPT_OP_OPTIMIZER] = {"optimizer", SUM, WIDE, WIDE, COMPUTE, NONE},
};

/* What the columns stand for in one run. */
typedef struct run_types {
    mpt_dtype_t compute, wire, sum;
} run_types_t;

static mpt_dtype_t resolve(column_t column, const run_types_t *run)
{
    switch (column) {
    case MATH:
        return run->compute;
    case WIDE:
        return mpt_dtype_wide(run->compute);
    case WIRE:
        return run->wire;
    case SUM:
        return run->sum;
    case NONE:
        return MPT_DTYPE_COUNT;
    default:
        return mpt_dtype_memory(run->compute);
    }
}

const char *mpt_op_name(mpt_op_t op)
{
    assert((unsigned)op < MPT_OP_COUNT);
    return precision_table[op].name;
}

mpt_op_precision_t mpt_run_precision(mpt_op_t op, mpt_dtype_t compute, mpt_dtype_t wire, mpt_dtype_t sum)
{
    assert((unsigned)op < MPT_OP_COUNT);
    assert((unsigned)compute < MPT_DTYPE_COUNT || compute == MPT_TF32);
    const precision_row_t *row = &precision_table[op];
    const run_types_t run = {compute, wire, sum};
    return (mpt_op_precision_t){
        .input = resolve(row->input, &run),
        .math = resolve(row->math, &run),
        .accumulate = resolve(row->accumulate, &run),
        .output = resolve(row->output, &run),
        .gradient = resolve(row->gradient, &run),
    };
}

mpt_op_precision_t mpt_op_precision(mpt_op_t op, mpt_dtype_t compute)
{
    return mpt_run_precision(op, compute, mpt_dtype_memory(compute), mpt_dtype_memory(compute));
}
