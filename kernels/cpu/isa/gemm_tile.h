/*
 * The operands of products by tiles: one step of a panel is 32 indices of the contraction for 32 lines, two tiles of 1 KiB. A tile
 * of A holds 16 rows of 16 pairs, a tile of B 16 pairs of 16 columns. In two terms (FP16, TF32) the two tiles of the low terms follow
 * those of the high ones. Private to gemm_tile*.c; amx.
 */
#ifndef MPT_CPU_GEMM_TILE_H
#define MPT_CPU_GEMM_TILE_H

#include "gemm.h"

#define MR 32
#define NR 32
#define TILE_BYTES 1024
#define STEP_BYTES (2 * TILE_BYTES)

#define gemm_tile_pack_a_bf16 MPT_LEVEL_NAME(mpt_cpu_gemm_tile_pack_a_bf16)
#define gemm_tile_pack_b_bf16 MPT_LEVEL_NAME(mpt_cpu_gemm_tile_pack_b_bf16)
#define gemm_tile_pack_a_f16 MPT_LEVEL_NAME(mpt_cpu_gemm_tile_pack_a_f16)
#define gemm_tile_pack_b_f16 MPT_LEVEL_NAME(mpt_cpu_gemm_tile_pack_b_f16)
#define gemm_tile_pack_a_tf32 MPT_LEVEL_NAME(mpt_cpu_gemm_tile_pack_a_tf32)
#define gemm_tile_pack_b_tf32 MPT_LEVEL_NAME(mpt_cpu_gemm_tile_pack_b_tf32)

/* As gemm_pack_t says, of elements in the type that the name ends with. */
void gemm_tile_pack_a_bf16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel);
void gemm_tile_pack_b_bf16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel);
void gemm_tile_pack_a_f16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel);
void gemm_tile_pack_b_f16(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel);
void gemm_tile_pack_a_tf32(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel);
void gemm_tile_pack_b_tf32(const gemm_operand_t *op, int64_t first, int64_t k0, int64_t count, void *panel);

#endif
