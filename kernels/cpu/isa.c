#include "kernels.h"

static const char *const isa_names[MPT_ISA_COUNT] = {
    [MPT_ISA_PORTABLE] = "portable",       [MPT_ISA_AVX2] = "avx2", [MPT_ISA_AVX512] = "avx512",
    [MPT_ISA_AVX512_BF16] = "avx512_bf16", [MPT_ISA_AMX] = "amx",
};

const char *mpt_isa_name(mpt_isa_t isa)
{
    return isa_names[isa];
}

#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* Register states the system saves at a context switch (XCR0): an instruction set is of use only if its registers survive one. */
#define STATE_AVX 0x6u       /* XMM, YMM */
#define STATE_AVX512 0xe0u   /* mask registers, ZMM */
#define STATE_TILES 0x60000u /* tile configuration, tile data */

typedef struct features {
    unsigned leaf1_ecx, leaf7_ebx, leaf7_edx, leaf7_1_eax;
    uint64_t states;
} features_t;

static uint64_t read_states(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static features_t read_features(void)
{
    features_t f = {0};
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d))
        f.leaf1_ecx = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        f.leaf7_ebx = b;
        f.leaf7_edx = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            f.leaf7_1_eax = a;
    }
    if (f.leaf1_ecx & bit_OSXSAVE)
        f.states = read_states();
    return f;
}

static int has_all(uint64_t value, uint64_t bits)
{
    return (value & bits) == bits;
}

static int has_avx2(const features_t *f)
{
    return has_all(f->states, STATE_AVX) && has_all(f->leaf1_ecx, bit_AVX | bit_FMA | bit_F16C) &&
           has_all(f->leaf7_ebx, bit_AVX2);
}

static int has_avx512(const features_t *f)
{
    return has_all(f->states, STATE_AVX512) &&
           has_all(f->leaf7_ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
}

static int has_avx512_bf16(const features_t *f)
{
    return has_all(f->leaf7_1_eax, 1u << 5);
}

/* Tiles also need the system's word: their state is large, so a process asks for it (Linux 5.16 on). */
static int has_amx(const features_t *f)
{
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    return has_all(f->states, STATE_TILES) && has_all(f->leaf7_edx, amx_bf16 | amx_tile) &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

mpt_isa_t mpt_isa_detect(void)
{
    features_t f = read_features();
    if (!has_avx2(&f))
        return MPT_ISA_PORTABLE;
    if (!has_avx512(&f))
        return MPT_ISA_AVX2;
    if (!has_avx512_bf16(&f))
        return MPT_ISA_AVX512;
    return has_amx(&f) ? MPT_ISA_AMX : MPT_ISA_AVX512_BF16;
}

#else

mpt_isa_t mpt_isa_detect(void)
{
    return MPT_ISA_PORTABLE;
}

#endif
