/*
 * What mpt_isa_detect is in programs linked with --wrap=mpt_isa_detect: amx too where only the tiles are missing, which
 * are then emulated, or where the levels from avx512 or avx512_bf16 on are there in software. Where the processor has
 * tiles, or not even AVX2, what it says stands.
 */
#include "kernels.h"
#include "soft_levels.h"
#include "tile_emulator.h"

mpt_isa_t __real_mpt_isa_detect(void);
mpt_isa_t __wrap_mpt_isa_detect(void);

mpt_isa_t __wrap_mpt_isa_detect(void)
{
    const mpt_isa_t detected = __real_mpt_isa_detect();
    const int complete = detected == MPT_ISA_AVX512_BF16 || soft_levels_first() < MPT_ISA_COUNT;
    return complete && tile_emulator_install() ? MPT_ISA_AMX : detected;
}
