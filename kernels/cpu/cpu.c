#include "backends.h"
#include "levels.h"

/* Levels that the architecture lacks are NULL. */
static const mpt_kernels_ops_t *const levels[MPT_ISA_COUNT] = {
    [MPT_ISA_PORTABLE] = &mpt_cpu_level_table_portable,
#ifdef MPT_HAS_LEVEL_AVX2
    [MPT_ISA_AVX2] = &mpt_cpu_level_table_avx2,
#endif
#ifdef MPT_HAS_LEVEL_AVX512
    [MPT_ISA_AVX512] = &mpt_cpu_level_table_avx512,
#endif
#ifdef MPT_HAS_LEVEL_AVX512_BF16
    [MPT_ISA_AVX512_BF16] = &mpt_cpu_level_table_avx512_bf16,
#endif
#ifdef MPT_HAS_LEVEL_AMX
    [MPT_ISA_AMX] = &mpt_cpu_level_table_amx,
#endif
};

/* The highest level up to `isa` that this build holds. */
static const mpt_kernels_ops_t *level_of(mpt_isa_t isa)
{
    int level = (int)isa;
    while (!levels[level])
        level--;
    return levels[level];
}

static size_t scratch_bytes(mpt_isa_t isa, int threads, const mpt_kernels_limits_t *limits)
{
    return level_of(isa)->scratch_bytes(isa, threads, limits);
}

static mpt_status_t embed_forward(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->embed_forward(k, a, s);
}

static mpt_status_t embed_backward(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->embed_backward(k, a, s);
}

static mpt_status_t layernorm_forward(mpt_kernels_t *k, const mpt_layernorm_forward_t *a,
                                      mpt_stream_t *s)
{
    return level_of(k->isa)->layernorm_forward(k, a, s);
}

static mpt_status_t layernorm_backward(mpt_kernels_t *k, const mpt_layernorm_backward_t *a,
                                       mpt_stream_t *s)
{
    return level_of(k->isa)->layernorm_backward(k, a, s);
}

static size_t linear_pack_bytes(mpt_isa_t isa, mpt_dtype_t compute, int64_t columns, int64_t depth)
{
    return level_of(isa)->linear_pack_bytes(isa, compute, columns, depth);
}

static mpt_status_t linear_pack(mpt_kernels_t *k, const mpt_linear_pack_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->linear_pack(k, a, s);
}

static mpt_status_t linear_forward(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->linear_forward(k, a, s);
}

static mpt_status_t linear_backward_input(mpt_kernels_t *k, const mpt_linear_backward_input_t *a,
                                          mpt_stream_t *s)
{
    return level_of(k->isa)->linear_backward_input(k, a, s);
}

static mpt_status_t linear_backward_weight(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a,
                                           mpt_stream_t *s)
{
    return level_of(k->isa)->linear_backward_weight(k, a, s);
}

static mpt_status_t attention_forward(mpt_kernels_t *k, const mpt_attention_forward_t *a,
                                      mpt_stream_t *s)
{
    return level_of(k->isa)->attention_forward(k, a, s);
}

static mpt_status_t attention_backward(mpt_kernels_t *k, const mpt_attention_backward_t *a,
                                       mpt_stream_t *s)
{
    return level_of(k->isa)->attention_backward(k, a, s);
}

static mpt_status_t loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->loss(k, a, s);
}

static mpt_status_t to_wire(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->to_wire(k, a, s);
}

static mpt_status_t grad_scan(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->grad_scan(k, a, s);
}

static mpt_status_t adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->adamw(k, a, s);
}

static mpt_status_t cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->cast(k, a, s);
}

static mpt_status_t add(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->add(k, a, s);
}

static mpt_status_t hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s)
{
    return level_of(k->isa)->hash(k, a, s);
}

const mpt_kernels_ops_t mpt_kernels_cpu = {
    .name = "cpu",
    .scratch_bytes = scratch_bytes,
    .embed_forward = embed_forward,
    .embed_backward = embed_backward,
    .layernorm_forward = layernorm_forward,
    .layernorm_backward = layernorm_backward,
    .linear_pack_bytes = linear_pack_bytes,
    .linear_pack = linear_pack,
    .linear_forward = linear_forward,
    .linear_backward_input = linear_backward_input,
    .linear_backward_weight = linear_backward_weight,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .loss = loss,
    .to_wire = to_wire,
    .grad_scan = grad_scan,
    .adamw = adamw,
    .cast = cast,
    .add = add,
    .hash = hash,
};
