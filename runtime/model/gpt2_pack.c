/*
 * Weights as the backend's products read them, laid out again the first time a product needs them after they changed: once
 * a step, however many micro-steps and chunks of the head read them.
 */
#include "gpt2_ops.h"

/* A linear layer's place in the table, and its shape. */
typedef struct matrix {
    int tensor;
    int64_t in, out;
} matrix_t;

#define BLOCK_MATRICES 4

static void block_matrices(const mpt_gpt2_shape_t *shape, int64_t layer, matrix_t matrices[BLOCK_MATRICES])
{
    const int64_t c = shape->dim;
    matrices[0] = (matrix_t){mpt_gpt2_block(layer, MPT_GPT2_QKV_W), c, 3 * c};
    matrices[1] = (matrix_t){mpt_gpt2_block(layer, MPT_GPT2_PROJ_W), c, c};
    matrices[2] = (matrix_t){mpt_gpt2_block(layer, MPT_GPT2_FC_W), c, 4 * c};
    matrices[3] = (matrix_t){mpt_gpt2_block(layer, MPT_GPT2_FCPROJ_W), 4 * c, c};
}

static void cut_matrix(mpt_gpt2_t *model, const mpt_gpt2_packing_t *packing, const matrix_t *matrix, mpt_arena_t *arena)
{
    mpt_gpt2_pack_t *pack = &model->packs[matrix->tensor];
    const size_t forward = mpt_linear_pack_bytes(packing->ops, packing->isa, model->math, matrix->out, matrix->in);
    const size_t backward = mpt_linear_pack_bytes(packing->ops, packing->isa, model->math, matrix->in, matrix->out);
    if (forward > 0)
        pack->forward = mpt_arena_cut(arena, MPT_USE_PACKED, forward);
    if (backward > 0 && packing->backward)
        pack->backward = mpt_arena_cut(arena, MPT_USE_PACKED, backward);
}

void mpt_gpt2_cut_packs(mpt_gpt2_t *model, const mpt_gpt2_packing_t *packing, mpt_arena_t *arena)
{
    const mpt_gpt2_shape_t *shape = &model->shape;
    const matrix_t head = {MPT_GPT2_WTE, shape->dim, mpt_gpt2_vocab_padded(shape)};
    cut_matrix(model, packing, &head, arena);
    for (int64_t l = 0; l < shape->layers; l++) {
        matrix_t matrices[BLOCK_MATRICES];
        block_matrices(shape, l, matrices);
        for (int i = 0; i < BLOCK_MATRICES; i++)
            cut_matrix(model, packing, &matrices[i], arena);
    }
}

void mpt_gpt2_weights_changed(mpt_gpt2_t *model)
{
    const int count = mpt_gpt2_tensor_count(&model->shape);
    for (int t = 0; t < count; t++)
        model->packs[t].fresh = 0;
}

mpt_status_t mpt_gpt2_pack(mpt_gpt2_t *model, int tensor, int64_t in, int64_t out)
{
    mpt_gpt2_pack_t *pack = &model->packs[tensor];
    if (pack->fresh || (pack->forward == NULL && pack->backward == NULL))
        return MPT_OK;
    const mpt_linear_pack_t call = {.compute = model->math,
                                    .in = in,
                                    .out = out,
                                    .w = model->params[tensor],
                                    .forward = pack->forward,
                                    .backward = pack->backward};
    mpt_status_t status = mpt_linear_pack(model->kernels, &call, model->stream);
    pack->fresh = status == MPT_OK;
    return status;
}
