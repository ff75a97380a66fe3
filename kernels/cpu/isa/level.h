/*
 * What one instruction level provides. Every file in this folder is compiled once for each level, with
 * MPT_LEVEL set to the level's enum value, MPT_LEVEL_SUFFIX to its name with an underscore before it, and exactly one of MPT_LEVEL_PORTABLE, _AVX2, _AVX512,
 * _AVX512_BF16, _AMX defined; a function that leaves its file is named through MPT_LEVEL_NAME.
 */
#ifndef MPT_CPU_LEVEL_H
#define MPT_CPU_LEVEL_H

#include "kernels.h"

#ifndef MPT_LEVEL_NAME
#define MPT_LEVEL_JOIN2(name, suffix) name##suffix
#define MPT_LEVEL_JOIN(name, suffix) MPT_LEVEL_JOIN2(name, suffix)
#define MPT_LEVEL_NAME(name) MPT_LEVEL_JOIN(name, MPT_LEVEL_SUFFIX)
#endif

#define cpu_linear_pack_bytes MPT_LEVEL_NAME(mpt_cpu_linear_pack_bytes)
#define cpu_linear_pack MPT_LEVEL_NAME(mpt_cpu_linear_pack)
#define cpu_linear_forward MPT_LEVEL_NAME(mpt_cpu_linear_forward)
#define cpu_linear_backward_input MPT_LEVEL_NAME(mpt_cpu_linear_backward_input)
#define cpu_linear_backward_weight MPT_LEVEL_NAME(mpt_cpu_linear_backward_weight)
#define cpu_linear_scratch_bytes MPT_LEVEL_NAME(mpt_cpu_linear_scratch_bytes)
#define cpu_attention_forward MPT_LEVEL_NAME(mpt_cpu_attention_forward)
#define cpu_attention_backward MPT_LEVEL_NAME(mpt_cpu_attention_backward)
#define cpu_attention_scratch_bytes MPT_LEVEL_NAME(mpt_cpu_attention_scratch_bytes)
#define cpu_embed_forward MPT_LEVEL_NAME(mpt_cpu_embed_forward)
#define cpu_embed_backward MPT_LEVEL_NAME(mpt_cpu_embed_backward)
#define cpu_layernorm_forward MPT_LEVEL_NAME(mpt_cpu_layernorm_forward)
#define cpu_layernorm_backward MPT_LEVEL_NAME(mpt_cpu_layernorm_backward)
#define cpu_loss MPT_LEVEL_NAME(mpt_cpu_loss)
#define cpu_to_wire MPT_LEVEL_NAME(mpt_cpu_to_wire)
#define cpu_grad_scan MPT_LEVEL_NAME(mpt_cpu_grad_scan)
#define cpu_adamw MPT_LEVEL_NAME(mpt_cpu_adamw)
#define cpu_cast MPT_LEVEL_NAME(mpt_cpu_cast)
#define cpu_add MPT_LEVEL_NAME(mpt_cpu_add)
#define cpu_hash MPT_LEVEL_NAME(mpt_cpu_hash)
#define cpu_elementwise_scratch_bytes MPT_LEVEL_NAME(mpt_cpu_elementwise_scratch_bytes)
#define cpu_level_table MPT_LEVEL_NAME(mpt_cpu_level_table)

/* linear.c */
size_t cpu_linear_pack_bytes(mpt_isa_t isa, mpt_dtype_t compute, int64_t columns, int64_t depth);
mpt_status_t cpu_linear_pack(mpt_kernels_t *k, const mpt_linear_pack_t *a, mpt_stream_t *s);
mpt_status_t cpu_linear_forward(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s);
mpt_status_t cpu_linear_backward_input(mpt_kernels_t *k, const mpt_linear_backward_input_t *a, mpt_stream_t *s);
mpt_status_t cpu_linear_backward_weight(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a, mpt_stream_t *s);
size_t cpu_linear_scratch_bytes(int threads, const mpt_kernels_limits_t *limits);
/* attention.c */
mpt_status_t cpu_attention_forward(mpt_kernels_t *k, const mpt_attention_forward_t *a, mpt_stream_t *s);
mpt_status_t cpu_attention_backward(mpt_kernels_t *k, const mpt_attention_backward_t *a, mpt_stream_t *s);
size_t cpu_attention_scratch_bytes(int threads, const mpt_kernels_limits_t *limits);
/* embed.c, layernorm.c, loss.c, wire.c, adamw.c, cast.c, add.c, hash.c */
mpt_status_t cpu_embed_forward(mpt_kernels_t *k, const mpt_embed_forward_t *a, mpt_stream_t *s);
mpt_status_t cpu_embed_backward(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s);
mpt_status_t cpu_layernorm_forward(mpt_kernels_t *k, const mpt_layernorm_forward_t *a, mpt_stream_t *s);
mpt_status_t cpu_layernorm_backward(mpt_kernels_t *k, const mpt_layernorm_backward_t *a, mpt_stream_t *s);
mpt_status_t cpu_loss(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s);
mpt_status_t cpu_to_wire(mpt_kernels_t *k, const mpt_to_wire_t *a, mpt_stream_t *s);
mpt_status_t cpu_grad_scan(mpt_kernels_t *k, const mpt_grad_scan_t *a, mpt_stream_t *s);
mpt_status_t cpu_adamw(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s);
mpt_status_t cpu_cast(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s);
mpt_status_t cpu_add(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s);
mpt_status_t cpu_hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s);
size_t cpu_elementwise_scratch_bytes(int threads, const mpt_kernels_limits_t *limits);

/* table.c: the level's whole table; scratch_bytes there is the largest of the three above (the ops
 * share scratch: each starts at k->scratch, and none keeps anything there between calls). */
extern const mpt_kernels_ops_t cpu_level_table;

#endif
