#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "mpt_status.h"

static void every_status_has_a_phrase_of_its_own(void **state)
{
    (void)state;
    for (int a = 0; a < MPT_STATUS_COUNT; a++) {
        const char *text = mpt_status_string((mpt_status_t)a);
        assert_non_null(text);
        assert_true(strlen(text) > 0);
        for (const char *c = text; *c; c++)
            assert_false(*c >= 'A' && *c <= 'Z');
        for (int b = 0; b < a; b++)
            assert_string_not_equal(text, mpt_status_string((mpt_status_t)b));
    }
}

static void statuses_out_of_range_are_unknown(void **state)
{
    (void)state;
    assert_string_equal(mpt_status_string((mpt_status_t)MPT_STATUS_COUNT), "unknown status");
    assert_string_equal(mpt_status_string((mpt_status_t)-1), "unknown status");
    assert_int_equal(mpt_status_exit_code((mpt_status_t)MPT_STATUS_COUNT), 4);
    assert_int_equal(mpt_status_exit_code((mpt_status_t)-1), 4);
}

static void exit_codes_are_the_documented_ones(void **state)
{
    (void)state;
    static const struct {
        mpt_status_t status;
        int exit_code;
    } rows[] = {
        {MPT_OK, 0},       {MPT_ERR_INVALID_ARG, 4}, {MPT_ERR_CONFIG, 2}, {MPT_ERR_NO_MEMORY, 4},
        {MPT_ERR_DATA, 3}, {MPT_ERR_CHECKPOINT, 3},  {MPT_ERR_IO, 3},     {MPT_ERR_DEVICE, 4},
        {MPT_ERR_COMM, 4}, {MPT_ERR_DIVERGED, 5},    {MPT_STOPPED, 75},
    };
    assert_int_equal(sizeof rows / sizeof rows[0], MPT_STATUS_COUNT);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(mpt_status_exit_code(rows[i].status), rows[i].exit_code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_phrase_of_its_own),
        cmocka_unit_test(statuses_out_of_range_are_unknown),
        cmocka_unit_test(exit_codes_are_the_documented_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
