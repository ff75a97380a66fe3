/*
 * What mpt_isa_detect is in programs linked with --wrap=mpt_isa_detect: amx too where only the tiles are missing, which
 * are then emulated. Where the processor has tiles, or lacks more than those, what it says stands.
 */
#include "kernels.h"
#include "tile_emulator.h"

mpt_isa_t __real_mpt_isa_detect(void);
mpt_isa_t __wrap_mpt_isa_detect(void);

mpt_isa_t __wrap_mpt_isa_detect(void)
{
    const mpt_isa_t detected = __real_mpt_isa_detect();
    return detected == MPT_ISA_AVX512_BF16 && tile_emulator_install() ? MPT_ISA_AMX : detected;
}
