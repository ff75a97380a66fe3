#include <assert.h>
#include "kernels.h"

/* A column's type, before the compute type is known. */
typedef enum column {
    COMPUTE, /* the compute type's in memory */
    MATH,    /* the compute type itself: TF32 is one of products */
    WIDE     /* mpt_dtype_wide of it */
} column_t;

typedef struct precision_row {
    const char *name;
    column_t input, math, accumulate, output, gradient;
} precision_row_t;

/* Operations without parameters repeat `output` under `gradient`, except the two that handle
 * gradients themselves: there it is the type in which they are added up. */
static const precision_row_t precision_table[MPT_OP_COUNT] = {
    /* name, then input, math, accumulate, output, gradient */
    [MPT_OP_EMBED] = {"embed", COMPUTE, WIDE, WIDE, COMPUTE, WIDE},
    [MPT_OP_LAYERNORM] = {"layernorm", COMPUTE, WIDE, WIDE, COMPUTE, WIDE},
    [MPT_OP_LINEAR] = {"linear", COMPUTE, MATH, WIDE, COMPUTE, WIDE},
    [MPT_OP_ATTENTION] = {"attention", COMPUTE, COMPUTE, WIDE, COMPUTE, COMPUTE},
    [MPT_OP_GELU] = {"gelu", COMPUTE, WIDE, WIDE, COMPUTE, COMPUTE},
    [MPT_OP_LOSS] = {"loss", WIDE, WIDE, WIDE, COMPUTE, COMPUTE},
    [MPT_OP_REDUCE] = {"reduce", COMPUTE, WIDE, WIDE, COMPUTE, WIDE},
    [MPT_OP_OPTIMIZER] = {"optimizer", COMPUTE, WIDE, WIDE, COMPUTE, WIDE},
};

static mpt_dtype_t resolve(column_t column, mpt_dtype_t compute)
{
    if (column == MATH)
        return compute;
    return column == COMPUTE ? mpt_dtype_memory(compute) : mpt_dtype_wide(compute);
}

const char *mpt_op_name(mpt_op_t op)
{
    assert((unsigned)op < MPT_OP_COUNT);
    return precision_table[op].name;
}

mpt_op_precision_t mpt_op_precision(mpt_op_t op, mpt_dtype_t compute)
{
    assert((unsigned)op < MPT_OP_COUNT);
    assert((unsigned)compute < MPT_DTYPE_COUNT || compute == MPT_TF32);
    const precision_row_t *row = &precision_table[op];
    return (mpt_op_precision_t){
        .input = resolve(row->input, compute),
        .math = resolve(row->math, compute),
        .accumulate = resolve(row->accumulate, compute),
        .output = resolve(row->output, compute),
        .gradient = resolve(row->gradient, compute),
    };
}
