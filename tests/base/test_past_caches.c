#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "past_caches.h"

#define LONGEST 400
#define GUARD 64

static void check_copy(size_t dst_at, size_t src_at, size_t bytes)
{
    _Alignas(64) unsigned char src[LONGEST + 64], dst[GUARD + 64 + LONGEST + GUARD];
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (unsigned char)(i * 37 + (i >> 8) + 1);
    memset(dst, 0xa5, sizeof dst);
    unsigned char *to = dst + GUARD + dst_at;
    mpt_copy_past_caches(to, src + src_at, bytes);
    mpt_past_caches_end();
    assert_memory_equal(to, src + src_at, bytes);
    for (unsigned char *p = dst; p < dst + sizeof dst; p++)
        if (p < to || p >= to + bytes)
            assert_int_equal(*p, 0xa5);
}

static void every_start_and_length_is_copied_and_nothing_else(void **state)
{
    (void)state;
    for (size_t dst_at = 0; dst_at < 64; dst_at += dst_at < 4 ? 1 : 7)
        for (size_t src_at = 0; src_at < 64; src_at += src_at < 4 ? 1 : 13)
            for (size_t bytes = 0; bytes <= LONGEST; bytes += bytes < 200 ? 1 : 23)
                check_copy(dst_at, src_at, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_start_and_length_is_copied_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
