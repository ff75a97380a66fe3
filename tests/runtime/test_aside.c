#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "aside.h"
#include "scratch.h"

static mpt_status_t write_word(scratch_t *s, const char *name, const char *word, int force)
{
    mpt_aside_t file;
    mpt_status_t status = mpt_aside_open(&file, scratch_path(s, name), force, &s->log);
    if (status == MPT_OK)
        status = mpt_aside_put(&file, word, strlen(word), 0);
    return status == MPT_OK ? mpt_aside_commit(&file, strlen(word)) : status;
}

static void assert_holds(scratch_t *s, const char *name, const char *word)
{
    char *text = scratch_read(scratch_path(s, name), NULL);
    assert_non_null(text);
    assert_string_equal(text, word);
    free(text);
}

static void a_file_that_exists_is_replaced_only_when_asked(void **state)
{
    scratch_t *s = *state;
    assert_int_equal(write_word(s, "out", "first", 0), MPT_OK);
    assert_int_equal(write_word(s, "out", "second", 0), MPT_ERR_CONFIG);
    assert_non_null(strstr(s->said, "--force"));
    assert_holds(s, "out", "first");
    assert_int_equal(write_word(s, "out", "third", 1), MPT_OK);
    assert_holds(s, "out", "third");
    assert_false(scratch_exists(scratch_path(s, "out.partial")));
}

static void what_is_no_regular_file_is_never_replaced(void **state)
{
    scratch_t *s = *state;
    struct stat info;
    scratch_write(scratch_path(s, "kept"), "kept", 4);
    assert_int_equal(mkdir(scratch_path(s, "folder"), 0755), 0);
    assert_int_equal(mkfifo(scratch_path(s, "pipe"), 0600), 0);
    assert_int_equal(symlink(scratch_path(s, "kept"), scratch_path(s, "link")), 0);
    assert_int_equal(symlink(scratch_path(s, "none"), scratch_path(s, "dangling")), 0);
    static const char *const names[] = {"folder", "pipe", "link", "dangling"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int force = 0; force < 2; force++) {
            scratch_forget(s);
            assert_int_equal(write_word(s, names[i], "new", force), MPT_ERR_CONFIG);
            assert_non_null(strstr(s->said, "not a regular file"));
            assert_int_equal(s->lines, 1);
            assert_int_equal(lstat(scratch_path(s, names[i]), &info), 0);
            assert_false(S_ISREG(info.st_mode));
        }
    assert_holds(s, "kept", "kept");
    assert_false(scratch_exists(scratch_path(s, "none")));
}

static void a_link_in_the_place_of_the_partial_file_is_not_followed(void **state)
{
    scratch_t *s = *state;
    scratch_write(scratch_path(s, "kept"), "kept", 4);
    assert_int_equal(symlink(scratch_path(s, "kept"), scratch_path(s, "out.partial")), 0);
    assert_int_equal(write_word(s, "out", "new", 1), MPT_ERR_IO);
    assert_holds(s, "kept", "kept");
    assert_false(scratch_exists(scratch_path(s, "out")));
}

static void a_finished_file_stays_aside_until_it_is_placed(void **state)
{
    scratch_t *s = *state;
    mpt_aside_t file;
    assert_int_equal(mpt_aside_open(&file, scratch_path(s, "out"), 0, &s->log), MPT_OK);
    assert_int_equal(mpt_aside_put(&file, "word", 4, 0), MPT_OK);
    assert_int_equal(mpt_aside_finish(&file, 4), MPT_OK);
    assert_false(scratch_exists(scratch_path(s, "out")));
    scratch_write(scratch_path(s, "out"), "meanwhile", 9);
    assert_int_equal(mpt_aside_place(&file), MPT_ERR_CONFIG);
    assert_holds(s, "out", "meanwhile");
    assert_false(scratch_exists(scratch_path(s, "out.partial")));
    mpt_aside_drop(&file);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_that_exists_is_replaced_only_when_asked),
        TEST(what_is_no_regular_file_is_never_replaced),
        TEST(a_link_in_the_place_of_the_partial_file_is_not_followed),
        TEST(a_finished_file_stays_aside_until_it_is_placed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
