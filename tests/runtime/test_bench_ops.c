#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "bench_ops.h"

/* Untouched memory is one page of zeros: a copy of it would read a cache and set a limit that nothing can reach. */
static void the_copy_that_sets_the_limit_reads_memory_that_was_written(void **state)
{
    mpt_bench_ops_t *ops;
    (void)state;
    assert_int_equal(mpt_bench_ops_open(&(mpt_bench_ops_params_t){.compute = "fp32",
                                                                  .threads = 1,
                                                                  .batch = 1,
                                                                  .seq = 64,
                                                                  .dim = 64,
                                                                  .heads = 1,
                                                                  .vocab = 8192},
                                        &ops),
                     MPT_OK);
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; i < ops->copy[side].bytes; i += 4096)
            assert_int_not_equal(((const char *)ops->copy[side].ptr)[i], 0);
    mpt_bench_ops_close(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_copy_that_sets_the_limit_reads_memory_that_was_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
