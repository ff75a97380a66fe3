#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "text.h"

static void tokenizers_are_found_by_name_and_vocabulary(void **state)
{
    (void)state;
    const mpt_text_ops_t *bytes = mpt_text_find("bytes");
    assert_non_null(bytes);
    assert_string_equal(bytes->name, "bytes");
    assert_int_equal(bytes->vocab, 256);
    assert_ptr_equal(mpt_text_for_vocab(256), bytes);
    assert_null(mpt_text_find("gpt2"));
    assert_null(mpt_text_find(""));
    assert_null(mpt_text_for_vocab(255));
    assert_null(mpt_text_for_vocab(50257));
}

static void every_byte_survives_the_way_there_and_back(void **state)
{
    const mpt_text_ops_t *bytes = mpt_text_find("bytes");
    char text[256], back[256];
    uint32_t tokens[256];
    (void)state;
    for (int i = 0; i < 256; i++)
        text[i] = (char)i;
    assert_int_equal(bytes->encode(text, sizeof text, tokens, 256), 256);
    for (int i = 0; i < 256; i++)
        assert_int_equal(tokens[i], i);
    assert_int_equal(bytes->decode(tokens, 256, back, sizeof back), 256);
    assert_memory_equal(text, back, sizeof text);
    assert_int_equal(bytes->encode(text, 0, NULL, 0), 0);
    assert_int_equal(bytes->decode(NULL, 0, NULL, 0), 0);
}

static void too_little_room_is_refused_and_nothing_written_past_it(void **state)
{
    const mpt_text_ops_t *bytes = mpt_text_find("bytes");
    uint32_t tokens[3] = {7, 7, 7};
    char text[3] = {'x', 'x', 'x'};
    (void)state;
    assert_int_equal(bytes->encode("abc", 3, tokens, 2), -1);
    assert_int_equal(tokens[2], 7);
    assert_int_equal(bytes->encode("abc", 2, tokens, 2), 2);
    assert_int_equal(tokens[2], 7);
    assert_int_equal(bytes->encode("abc", 3, tokens, -1), -1);
    assert_int_equal(bytes->decode(tokens, 3, text, 2), -1);
    assert_int_equal(bytes->decode(tokens, 2, text, 2), 2);
    assert_int_equal(text[2], 'x');
    assert_int_equal(bytes->decode(tokens, -1, text, 2), -1);
}

static void tokens_outside_the_vocabulary_become_question_marks(void **state)
{
    const mpt_text_ops_t *bytes = mpt_text_find("bytes");
    const uint32_t tokens[] = {'a', 256, 50257, UINT32_MAX, 255};
    char text[5];
    (void)state;
    assert_int_equal(bytes->decode(tokens, 5, text, sizeof text), 5);
    assert_memory_equal(text, "a???\xff", 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizers_are_found_by_name_and_vocabulary),
        cmocka_unit_test(every_byte_survives_the_way_there_and_back),
        cmocka_unit_test(too_little_room_is_refused_and_nothing_written_past_it),
        cmocka_unit_test(tokens_outside_the_vocabulary_become_question_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
