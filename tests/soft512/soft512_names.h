/*
 * The names of the intrinsics, given to their software. Some are macros of the compiler's already. Private to soft512.h.
 */
#ifndef SOFT512_NAMES_H
#define SOFT512_NAMES_H

#undef _mm512_fmadd_ps
#undef _mm512_fmadd_pd
#undef _mm512_add_ps
#undef _mm512_sub_ps
#undef _mm512_max_ps
#undef _mm512_min_ps
#undef _mm512_sqrt_ps
#undef _mm512_add_epi32
#undef _mm512_max_epi32
#undef _mm512_mullo_epi32
#undef _mm512_mul_epu32
#undef _mm512_and_si512
#undef _mm512_or_si512
#undef _mm512_unpacklo_epi16
#undef _mm512_unpackhi_epi16
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32
#undef _mm512_scalef_ps
#undef _mm512_rcp14_ps
#undef _mm512_set1_epi32
#undef _mm512_set1_epi64
#undef _mm512_extractf32x8_ps
#undef _mm512_extracti64x4_epi64
#undef _mm512_inserti64x4
#undef _mm512_castsi256_si512
#undef _mm512_permutexvar_epi16
#undef _mm512_maskz_mov_ps
#undef _mm512_mask_mov_ps
#undef _mm512_mask_add_epi32
#undef _mm512_test_epi32_mask
#undef _mm512_cmp_ps_mask
#undef _mm512_maskz_permutexvar_epi16
#undef _mm512_loadu_si512
#undef _mm512_storeu_si512
#undef _mm512_loadu_ps
#undef _mm512_storeu_ps
#undef _mm512_load_si512
#undef _mm512_store_si512
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_cvtps_pd
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtneps_pbh
#undef _mm512_cvtne2ps_pbh
#undef _mm512_cvtpbh_ps
#undef _mm512_fixupimm_ps
#undef _mm512_dpbf16_ps
#undef _mm512_castps512_ps256
#undef _mm512_castsi512_ps
#undef _mm512_castps_si512
#undef _mm512_castsi512_si256
#undef _mm512_set_epi16
#undef _mm512_stream_ps
#undef _mm512_stream_si512
#undef _mm512_maskz_loadu_epi16
#undef _mm256_maskz_loadu_epi16
#undef _mm256_mask_storeu_epi16
#undef _mm256_maskz_mov_epi16
#undef _mm256_cmpeq_epi16_mask
#undef _mm256_cmpneq_epi16_mask
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_stream_loadd

#define _mm512_fmadd_ps soft_fmadd_ps
#define _mm512_fmadd_pd soft_fmadd_pd
#define _mm512_add_ps soft_add_ps
#define _mm512_sub_ps soft_sub_ps
#define _mm512_max_ps soft_max_ps
#define _mm512_min_ps soft_min_ps
#define _mm512_sqrt_ps soft_sqrt_ps
#define _mm512_add_epi32 soft_add_epi32
#define _mm512_max_epi32 soft_max_epi32
#define _mm512_mullo_epi32 soft_mullo_epi32
#define _mm512_mul_epu32 soft_mul_epu32
#define _mm512_and_si512 soft_and_si512
#define _mm512_or_si512 soft_or_si512
#define _mm512_unpacklo_epi16 soft_unpacklo_epi16
#define _mm512_unpackhi_epi16 soft_unpackhi_epi16
#define _mm512_slli_epi32 soft_slli_epi32
#define _mm512_srli_epi32 soft_srli_epi32
#define _mm512_scalef_ps soft_scalef_ps
#define _mm512_rcp14_ps soft_rcp14_ps
#define _mm512_set1_epi32 soft_set1_epi32
#define _mm512_set1_epi64 soft_set1_epi64
#define _mm512_extractf32x8_ps soft_extractf32x8_ps
#define _mm512_extracti64x4_epi64 soft_extracti64x4_epi64
#define _mm512_inserti64x4 soft_inserti64x4
#define _mm512_castsi256_si512 soft_castsi256_si512
#define _mm512_permutexvar_epi16 soft_permutexvar_epi16
#define _mm512_maskz_mov_ps soft_maskz_mov_ps
#define _mm512_mask_mov_ps soft_mask_mov_ps
#define _mm512_mask_add_epi32 soft_mask_add_epi32
#define _mm512_test_epi32_mask soft_test_epi32_mask
#define _mm512_cmp_ps_mask soft_cmp_ps_mask
#define _mm512_maskz_permutexvar_epi16 soft_maskz_permutexvar_epi16
#define _mm512_loadu_si512 soft_loadu_si512
#define _mm512_storeu_si512 soft_storeu_si512
#define _mm512_loadu_ps soft_loadu_ps
#define _mm512_storeu_ps soft_storeu_ps
#define _mm512_load_si512 soft_load_si512
#define _mm512_store_si512 soft_store_si512
#define _mm512_maskz_loadu_ps soft_maskz_loadu_ps
#define _mm512_mask_storeu_ps soft_mask_storeu_ps
#define _mm512_cvtps_pd soft_cvtps_pd
#define _mm512_cvtepu16_epi32 soft_cvtepu16_epi32
#define _mm512_cvtepi32_epi16 soft_cvtepi32_epi16
#define _mm512_cvtph_ps soft_cvtph_ps
#define _mm512_cvtps_ph soft_cvtps_ph
#define _mm512_cvtneps_pbh soft_cvtneps_pbh
#define _mm512_cvtne2ps_pbh soft_cvtne2ps_pbh
#define _mm512_cvtpbh_ps soft_cvtpbh_ps
#define _mm512_fixupimm_ps soft_fixupimm_ps
#define _mm512_dpbf16_ps soft_dpbf16_ps
#define _mm512_castps_si512(a) ((__m512i)(a))
#define _mm512_castsi512_ps(a) ((__m512)(a))
#define _mm512_castps512_ps256(a) soft_extractf32x8_ps(a, 0)
#define _mm512_castsi512_si256(a) soft_extracti64x4_epi64(a, 0)
#define _mm512_set_epi16(...) soft_reverse_epi16((soft_i16_t){__VA_ARGS__})
#define _mm512_stream_ps soft_store_ps
#define _mm512_stream_si512 soft_store_si512
#define _mm512_maskz_loadu_epi16 soft_maskz_loadu_32_epi16
#define _mm256_maskz_loadu_epi16 soft_maskz_loadu_16_epi16
#define _mm256_mask_storeu_epi16 soft_mask_storeu_epi16
#define _mm256_maskz_mov_epi16 soft_maskz_mov_epi16
#define _mm256_cmpeq_epi16_mask soft_cmpeq_epi16_mask
#define _mm256_cmpneq_epi16_mask soft_cmpneq_epi16_mask
#define _tile_loadconfig soft_tile_loadconfig
#define _tile_release soft_tile_release
#define _tile_zero soft_tile_zero
#define _tile_loadd soft_tile_loadd
#define _tile_stored soft_tile_stored
#define _tile_dpbf16ps soft_tile_dpbf16ps
#define _tile_stream_loadd soft_tile_loadd

#endif
