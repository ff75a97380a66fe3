#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

/* The plan as compiled for the level that every machine has. */
#define MPT_LEVEL MPT_ISA_PORTABLE
#define MPT_LEVEL_PORTABLE 1
#define MPT_LEVEL_SUFFIX _portable
#include "../../kernels/cpu/isa/gemm_plan.h"

#define TILE 32

/* Sizes of the tile engine's, of which panels and slices are known here. */
static const gemm_kernel_t kernel = {.mr = TILE, .nr = TILE, .k_step = 32, .unit_bytes = 64, .kc = 640};
/* And of an FP32 kernel's, whose panels are narrow and long. */
static const gemm_kernel_t narrow = {.mr = 4, .nr = 24, .k_step = 1, .unit_bytes = 4, .kc = 768};

static const int64_t shapes[][3] = {
    {4096, 2304, 768}, {4096, 768, 2304}, {2304, 768, 4096}, {4096, 768, 768}, {768, 768, 4096}, {4096, 3072, 768},
    {4096, 768, 3072}, {3072, 768, 4096}, {768, 3072, 4096}, {1024, 50304, 768}, {50304, 768, 1024}, {1000, 700, 500},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static gemm_plan_t plan_of(const gemm_kernel_t *k, const int64_t shape[3], int threads)
{
    gemm_plan_t plan;
    gemm_plan_build(k, threads, shape[0], shape[1], shape[2], 0, &plan);
    return plan;
}

static int64_t tasks(const gemm_plan_t *plan, int64_t m)
{
    return gemm_ceil(m, plan->mc) * gemm_ceil(plan->ns, plan->nc);
}

/* Of equal tasks, no thread is without one for more than 7 % of the time. */
static void check_shares(const gemm_kernel_t *k, const int64_t shape[3], int threads)
{
    const gemm_plan_t plan = plan_of(k, shape, threads);
    const int64_t count = tasks(&plan, shape[0]), missing = gemm_ceil(count, threads) * threads - count;
    assert_true(missing * 100 <= count * 7);
}

static void no_thread_waits_long_for_the_others(void **state)
{
    (void)state;
    for (int threads = 2; threads <= 8; threads *= 2)
        for (size_t i = 0; i < SHAPES; i++) {
            check_shares(&kernel, shapes[i], threads);
            check_shares(&narrow, shapes[i], threads);
        }
}

static void no_plan_needs_more_than_its_bound(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 9; threads++)
        for (size_t i = 0; i < SHAPES; i++)
            for (int adds = 0; adds < 2; adds++) {
                gemm_plan_t plan;
                const int64_t *s = shapes[i];
                gemm_plan_build(&narrow, threads, s[0], s[1], s[2], adds, &plan);
                assert_true(plan.bytes <= gemm_plan_bound(&narrow, threads, s[0], s[1], s[2], adds));
            }
}

static void slices_and_rounds_do_not_depend_on_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHAPES; i++) {
        const gemm_plan_t alone = plan_of(&kernel, shapes[i], 1);
        for (int threads = 2; threads <= 9; threads++) {
            const gemm_plan_t shared = plan_of(&kernel, shapes[i], threads);
            assert_int_equal(shared.kc, alone.kc);
            assert_int_equal(shared.ks, alone.ks);
            assert_int_equal(shared.ns, alone.ns);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_thread_waits_long_for_the_others),
        cmocka_unit_test(no_plan_needs_more_than_its_bound),
        cmocka_unit_test(slices_and_rounds_do_not_depend_on_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
