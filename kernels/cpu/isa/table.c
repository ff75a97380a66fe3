/* The level's table, and what its operations need of scratch. */
#include "elementwise.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t cpu_elementwise_scratch_bytes(int threads, const mpt_kernels_limits_t *limits)
{
    const size_t loss = cpu_loss_scratch_bytes(threads, limits->vocab_padded);
    return larger(loss, larger(cpu_wire_scratch_bytes(), cpu_layernorm_scratch_bytes(limits->dim)));
}

/* The operations share scratch: none keeps anything there between calls. */
static size_t scratch_bytes(mpt_isa_t isa, int threads, const mpt_kernels_limits_t *limits)
{
    (void)isa;
    const size_t products = larger(cpu_linear_scratch_bytes(threads, limits),
                                   cpu_attention_scratch_bytes(threads, limits));
    return larger(products, cpu_elementwise_scratch_bytes(threads, limits));
}

const mpt_kernels_ops_t cpu_level_table = {
    .name = "cpu",
    .scratch_bytes = scratch_bytes,
    .embed_forward = cpu_embed_forward,
    .embed_backward = cpu_embed_backward,
    .layernorm_forward = cpu_layernorm_forward,
    .layernorm_backward = cpu_layernorm_backward,
    .linear_pack_bytes = cpu_linear_pack_bytes,
    .linear_pack = cpu_linear_pack,
    .linear_forward = cpu_linear_forward,
    .linear_backward_input = cpu_linear_backward_input,
    .linear_backward_weight = cpu_linear_backward_weight,
    .attention_forward = cpu_attention_forward,
    .attention_backward = cpu_attention_backward,
    .loss = cpu_loss,
    .to_wire = cpu_to_wire,
    .grad_scan = cpu_grad_scan,
    .adamw = cpu_adamw,
    .cast = cpu_cast,
    .add = cpu_add,
    .hash = cpu_hash,
};
