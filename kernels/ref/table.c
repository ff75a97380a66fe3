#include "backends.h"
#include "ref.h"

static size_t scratch_bytes(mpt_isa_t isa, int threads, const mpt_kernels_limits_t *limits)
{
    (void)isa;
    (void)threads;
    (void)limits;
    return 0;
}

const mpt_kernels_ops_t mpt_kernels_ref = {
    .name = "ref",
    .scratch_bytes = scratch_bytes,
    .embed_forward = ref_embed_forward,
    .embed_backward = ref_embed_backward,
    .layernorm_forward = ref_layernorm_forward,
    .layernorm_backward = ref_layernorm_backward,
    .linear_forward = ref_linear_forward,
    .linear_backward_input = ref_linear_backward_input,
    .linear_backward_weight = ref_linear_backward_weight,
    .attention_forward = ref_attention_forward,
    .attention_backward = ref_attention_backward,
    .loss = ref_loss,
    .to_wire = ref_to_wire,
    .grad_scan = ref_grad_scan,
    .adamw = ref_adamw,
    .cast = ref_cast,
    .add = ref_add,
    .hash = ref_hash,
};
