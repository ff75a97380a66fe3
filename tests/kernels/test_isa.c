#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include "device.h"
#include "kernels.h"
#include "pool.h"
#include "soft_levels.h"
#include "tile_emulator.h"

static mpt_pool_t *open_pool(int threads)
{
    mpt_pool_params_t params = {.threads = threads};
    mpt_pool_t *pool = NULL;
    assert_int_equal(mpt_pool_create(&params, &pool), MPT_OK);
    return pool;
}

static double peak(int threads, mpt_isa_t isa, mpt_dtype_t compute)
{
    mpt_pool_t *pool = open_pool(threads);
    mpt_device_t device = {.pool = pool};
    double flops = mpt_peak_flops(&device, isa, compute);
    mpt_pool_destroy(pool);
    return flops;
}

static void levels_have_the_names_that_users_type(void **state)
{
    (void)state;
    assert_string_equal(mpt_isa_name(MPT_ISA_PORTABLE), "portable");
    assert_string_equal(mpt_isa_name(MPT_ISA_AVX2), "avx2");
    assert_string_equal(mpt_isa_name(MPT_ISA_AVX512), "avx512");
    assert_string_equal(mpt_isa_name(MPT_ISA_AVX512_BF16), "avx512_bf16");
    assert_string_equal(mpt_isa_name(MPT_ISA_AMX), "amx");
}

static void detection_gives_the_same_level_again(void **state)
{
    (void)state;
    mpt_isa_t isa = mpt_isa_detect();
    assert_in_range(isa, MPT_ISA_PORTABLE, MPT_ISA_AMX);
    for (int i = 0; i < 3; i++)
        assert_int_equal(mpt_isa_detect(), isa);
}

/* The compiler's runtime asks the processor by itself, and the system about saved registers. */
static void detection_agrees_with_the_compilers_runtime(void **state)
{
    (void)state;
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    assert_int_equal(mpt_isa_detect() >= MPT_ISA_AVX2, avx2);
    const int soft = soft_levels_first() < MPT_ISA_COUNT; /* then mpt_isa_detect says amx */
    assert_int_equal(mpt_isa_detect() >= MPT_ISA_AVX512, avx512 || soft);
    assert_int_equal(soft_levels_first() <= MPT_ISA_AVX512, soft && !avx512);
#else
    assert_int_equal(mpt_isa_detect(), MPT_ISA_PORTABLE);
#endif
}

/* Runs the widest instructions of each level: a level that the system does not support would end the process. */
static void every_level_up_to_the_detected_one_runs(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int compute = MPT_F32; compute <= MPT_F16; compute++) {
            double flops = peak(1, (mpt_isa_t)isa, (mpt_dtype_t)compute);
            print_message("%s %s: %.3g FLOP/s\n", mpt_isa_name((mpt_isa_t)isa),
                          mpt_dtype_name((mpt_dtype_t)compute), flops);
            assert_true(flops > 1e8 && flops < 1e14);
        }
}

static void tiles_are_detected_only_where_they_beat_vectors(void **state)
{
    (void)state;
    if (mpt_isa_detect() < MPT_ISA_AMX || tile_emulator_installed())
        skip();
    double tiles = peak(1, MPT_ISA_AMX, MPT_BF16), vectors = peak(1, MPT_ISA_AMX, MPT_F32);
    assert_true(tiles > 3 * vectors);
}

/* Two BF16 terms a number, three products of them. */
static void fp16_on_tiles_counts_a_third_of_bf16(void **state)
{
    (void)state;
    if (mpt_isa_detect() < MPT_ISA_AMX)
        skip();
    double ratio = peak(1, MPT_ISA_AMX, MPT_F16) / peak(1, MPT_ISA_AMX, MPT_BF16);
    assert_true(ratio > 0.15 && ratio < 0.7);
}

static void the_peak_is_measured_on_every_thread_of_the_pool(void **state)
{
    (void)state;
    assert_true(peak(4, MPT_ISA_PORTABLE, MPT_F32) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_have_the_names_that_users_type),
        cmocka_unit_test(detection_gives_the_same_level_again),
        cmocka_unit_test(detection_agrees_with_the_compilers_runtime),
        cmocka_unit_test(every_level_up_to_the_detected_one_runs),
        cmocka_unit_test(tiles_are_detected_only_where_they_beat_vectors),
        cmocka_unit_test(fp16_on_tiles_counts_a_third_of_bf16),
        cmocka_unit_test(the_peak_is_measured_on_every_thread_of_the_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
