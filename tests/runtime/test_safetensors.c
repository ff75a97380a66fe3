#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include "numeric.h"
#include "safetensors.h"
#include "scratch.h"

/* A file of this header and `bytes` bytes of payload, which count 0, 1, 2 ... */
static const char *by_hand(const scratch_t *s, const char *json, size_t bytes)
{
    const char *path = scratch_path(s, "hand.safetensors");
    size_t length = strlen(json);
    unsigned char *file = calloc(1, 8 + length + bytes);
    assert_non_null(file);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(file + 8, json, length);
    for (size_t i = 0; i < bytes; i++)
        file[8 + length + i] = (unsigned char)i;
    scratch_write(path, file, 8 + length + bytes);
    free(file);
    return path;
}

static mpt_safetensors_t *open_good(scratch_t *s, const char *path)
{
    mpt_safetensors_t *file = NULL;
    if (mpt_safetensors_open(path, &s->log, &file) != MPT_OK)
        fail_msg("%s", s->said);
    return file;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static void a_file_made_by_hand_is_read(void **state)
{
    scratch_t *s = *state;
    mpt_safetensors_t *file = open_good(
        s, by_hand(s,
                   "{\"late\":{\"shape\":[2],\"dtype\":\"F32\",\"data_offsets\":[8,16]},\n"
                   " \"__metadata__\":{\"a\":\"one\",\"\\u00e9\":\"\"},"
                   " \"narrow\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[4,8]},"
                   " \"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,2]},"
                   " \"half\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[2,4]}}    ",
                   16));
    float values[2];
    uint32_t bits[2] = {0x0b0a0908u, 0x0f0e0d0cu};
    assert_int_equal(mpt_safetensors_count(file), 4);
    int late = mpt_safetensors_find(file, "late"), narrow = mpt_safetensors_find(file, "narrow");
    assert_int_equal(mpt_safetensors_find(file, "Late"), -1);
    assert_int_equal(mpt_safetensors_find(file, "__metadata__"), -1);
    assert_int_equal(mpt_safetensors_read(file, late, 0, 2, values), MPT_OK);
    assert_memory_equal(values, bits, sizeof bits);
    assert_int_equal(mpt_safetensors_read(file, late, 1, 1, values), MPT_OK);
    assert_memory_equal(values, &bits[1], sizeof bits[1]);
    assert_int_equal(mpt_safetensors_read(file, narrow, 0, 2, values), MPT_OK);
    assert_int_equal(mpt_f32_bits(values[0]), 0x05040000u);
    assert_int_equal(mpt_f32_bits(values[1]), 0x07060000u);
    assert_int_equal(mpt_safetensors_at(file, narrow)->dims, 2);
    assert_int_equal(mpt_safetensors_at(file, narrow)->shape[1], 2);
    int scalar = mpt_safetensors_find(file, "scalar");
    assert_int_equal(mpt_safetensors_at(file, scalar)->dims, 0);
    assert_int_equal(mpt_safetensors_read(file, scalar, 0, 1, values), MPT_OK);
    assert_int_equal(mpt_f32_bits(values[0]), mpt_f32_bits(mpt_f16_to_f32(0x0100)));
    assert_string_equal(mpt_safetensors_text(file, "a"), "one");
    assert_string_equal(mpt_safetensors_text(file, "\xc3\xa9"), "");
    assert_null(mpt_safetensors_text(file, "b"));
    mpt_safetensors_close(file);
    assert_int_equal(s->lines, 0);
}

static void a_file_without_metadata_or_tensors_is_read(void **state)
{
    scratch_t *s = *state;
    mpt_safetensors_t *file = open_good(s, by_hand(s, "{}", 0));
    assert_int_equal(mpt_safetensors_count(file), 0);
    assert_int_equal(mpt_safetensors_find(file, "x"), -1);
    assert_null(mpt_safetensors_text(file, "x"));
    mpt_safetensors_close(file);
    mpt_safetensors_close(NULL);
}

/* ---- what is refused ------------------------------------------------------------------------------------------- */

static void assert_refused(scratch_t *s, const char *path, const char *why)
{
    mpt_safetensors_t *file = NULL;
    scratch_forget(s);
    if (mpt_safetensors_open(path, &s->log, &file) != MPT_ERR_CHECKPOINT)
        fail_msg("was not refused, though %s", why);
    assert_null(file);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, path));
    if (strstr(s->said, why) == NULL)
        fail_msg("'%s' does not say '%s'", s->said, why);
}

#define ONE "\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}"
#define TWO "\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}"
#define PART(dtype, shape, offsets)                                                                \
    "{\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void headers_that_contradict_themselves_are_refused(void **state)
{
    scratch_t *s = *state;
    static const struct {
        const char *json;
        size_t payload;
        const char *why;
    } faults[] = {
        {"", 0, "no JSON object"},
        {"[]", 0, "no JSON object"},
        {" {}", 0, "no JSON object"},
        {"{}}", 0, "no JSON object"},
        {"{} x", 0, "no JSON object"},
        {"{}\n", 0, "no JSON object"},
        {"{" ONE ",}", 4, "no JSON object"},
        {"{" ONE, 4, "no JSON object"},
        {"{\"x\":1}", 0, "must have dtype"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "must have dtype"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 4,
         "must have dtype"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1]}}", 4, "data_offsets"},
        {PART("\"F64\"", "[1]", "[0,8]"), 8, "dtype"},
        {PART("\"I32\"", "[1]", "[0,4]"), 4, "dtype"},
        {PART("\"f32\"", "[1]", "[0,4]"), 4, "dtype"},
        {PART("4", "[1]", "[0,4]"), 4, "dtype"},
        {PART("\"F32\"", "1", "[0,4]"), 4, "shape"},
        {PART("\"F32\"", "[1,1,1]", "[0,4]"), 4, "shape"},
        {PART("\"F32\"", "[0]", "[0,0]"), 0, "shape"},
        {PART("\"F32\"", "[-1]", "[0,4]"), 4, "shape"},
        {PART("\"F32\"", "[1.5]", "[0,6]"), 6, "shape"},
        {PART("\"F32\"", "[1e300]", "[0,4]"), 4, "shape"},
        {PART("\"F32\"", "[4611686018427387905]", "[0,4]"), 4, "shape"},
        {PART("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "shape"},
        {PART("\"F32\"", "[\"1\"]", "[0,4]"), 4, "shape"},
        {PART("\"F32\"", "[1]", "[0]"), 4, "data_offsets"},
        {PART("\"F32\"", "[1]", "[0,2,4]"), 4, "data_offsets"},
        {PART("\"F32\"", "[1]", "[4,0]"), 4, "data_offsets"},
        {PART("\"F32\"", "[1]", "[-4,0]"), 4, "data_offsets"},
        {PART("\"F32\"", "[1]", "[0,null]"), 4, "data_offsets"},
        {PART("\"F32\"", "[1]", "[0,3]"), 3, "do not fit"},
        {PART("\"F32\"", "[1]", "[0,8]"), 8, "do not fit"},
        {PART("\"BF16\"", "[2,2]", "[0,16]"), 16, "do not fit"},
        {PART("\"F32\"", "[1]", "[0,4]"), 3, "beyond the end"},
        {PART("\"F32\"", "[1]", "[9007199254740984,9007199254740988]"), 4, "beyond the end"},
        {PART("\"F32\"", "[1]", "[4,8]"), 8, "gap"},
        {PART("\"F32\"", "[1]", "[0,4]"), 5, "behind the last"},
        {"{}", 1, "behind the last"},
        {"{" ONE "," ONE "}", 4, "overlaps"},
        {"{" ONE ",\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6, "overlaps"},
        {"{" ONE ",\"y\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "overlaps"},
        {"{" ONE ",\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
         "comes twice"},
        {"{" ONE ",\"\\u0078\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
         "comes twice"},
        {"{" ONE ",\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12, "gap"},
        {"{\"__metadata__\":[]}", 0, "no object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "no text"},
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "two __metadata__"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        assert_refused(s, by_hand(s, faults[i].json, faults[i].payload), faults[i].why);
    mpt_safetensors_close(open_good(s, by_hand(s, "{" TWO "," ONE "}", 8)));
}

static void header_lengths_that_cannot_be_are_refused(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "length");
    const uint64_t lengths[] = {
        1, 8, 1 << 20, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        scratch_write(path, &lengths[i], sizeof lengths[i]);
        assert_refused(s, path, "longer than the file");
    }
    for (size_t bytes = 0; bytes < 8; bytes++) {
        scratch_write(path, lengths, bytes);
        assert_refused(s, path, "too short");
    }
    const uint64_t large = 100000001;
    scratch_write(path, &large, sizeof large);
    assert_int_equal(truncate(path, 100000001 + 8), 0);
    assert_refused(s, path, "longer than 100 MB");
    assert_refused(s, scratch_path(s, "nothing"), "No such file");
    assert_refused(s, s->folder, "");
}

static void too_many_keys_of_metadata_are_refused(void **state)
{
    scratch_t *s = *state;
    char *json = calloc(1, 100000), *at = json;
    assert_non_null(json);
    at += sprintf(at, "{\"__metadata__\":{\"0\":\"\"");
    for (int i = 1; i <= 4096; i++)
        at += sprintf(at, ",\"%d\":\"\"", i);
    sprintf(at, "}}");
    assert_refused(s, by_hand(s, json, 0), "4096");
    free(json);
}

static void no_part_of_a_file_is_taken_for_a_whole_one(void **state)
{
    scratch_t *s = *state;
    size_t bytes;
    char *file = scratch_read(by_hand(s, "{" ONE "," TWO "}", 8), &bytes);
    for (size_t n = 0; n < bytes; n++) {
        scratch_write(scratch_path(s, "cut"), file, n);
        assert_refused(s, scratch_path(s, "cut"), "");
    }
    free(file);
}

/* Whatever a byte of the header becomes: the file is read or refused with one line, and what is read stays inside. */
static void a_changed_byte_never_does_harm(void **state)
{
    scratch_t *s = *state;
    size_t bytes, refused = 0, read = 0;
    static const unsigned char values[] = {0,   ' ', '"', '0',  '9',  '-',
                                           '[', '{', '}', '\\', 0x7f, 0xff};
    char *file =
        scratch_read(by_hand(s, "{\"__metadata__\":{\"k\":\"v\"}," ONE "," TWO "}", 8), &bytes);
    for (size_t i = 0; i < bytes - 8; i++)
        for (size_t v = 0; v < sizeof values; v++) {
            mpt_safetensors_t *opened = NULL;
            float value;
            char was = file[i];
            file[i] = (char)values[v];
            scratch_write(scratch_path(s, "changed"), file, bytes);
            file[i] = was;
            scratch_forget(s);
            mpt_status_t status =
                mpt_safetensors_open(scratch_path(s, "changed"), &s->log, &opened);
            assert_true(status == MPT_OK || status == MPT_ERR_CHECKPOINT);
            assert_int_equal(s->lines, status != MPT_OK);
            for (int t = 0; status == MPT_OK && t < mpt_safetensors_count(opened); t++)
                assert_int_equal(mpt_safetensors_read(opened, t, 0, 1, &value), MPT_OK);
            mpt_safetensors_close(opened);
            read += status == MPT_OK;
            refused += status != MPT_OK;
        }
    assert_true(refused > read && read > 0); /* names and texts may be others */
    free(file);
}

static void a_file_that_shrinks_while_it_is_open_is_an_error(void **state)
{
    scratch_t *s = *state;
    const char *path = by_hand(s, "{" ONE "}", 4);
    mpt_safetensors_t *file = open_good(s, path);
    float value;
    assert_int_equal(truncate(path, 10), 0);
    assert_int_equal(mpt_safetensors_read(file, 0, 0, 1, &value), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "\"x\""));
    mpt_safetensors_close(file);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static mpt_safetensors_writer_t *begin(scratch_t *s, const char *path, mpt_dtype_t dtype, int force)
{
    mpt_safetensors_writer_t *writer;
    const mpt_safetensor_t a = {.name = "a", .dtype = dtype, .dims = 2, .shape = {3, 5}};
    const mpt_safetensor_t b = {.name = "b\n\"", .dtype = MPT_F32, .dims = 1, .shape = {2}};
    assert_int_equal(mpt_safetensors_new(&writer), MPT_OK);
    assert_int_equal(mpt_safetensors_set(writer, "step", "7"), MPT_OK);
    assert_int_equal(mpt_safetensors_add(writer, &a), MPT_OK);
    assert_int_equal(mpt_safetensors_add(writer, &b), MPT_OK);
    mpt_status_t status = mpt_safetensors_begin(writer, path, force, &s->log);
    if (status == MPT_OK)
        return writer;
    mpt_safetensors_drop(writer);
    return NULL;
}

static void the_bytes_are_the_formats(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "out"),
               *json = "{\"__metadata__\":{\"step\":\"7\"},"
                       "\"a\":{\"dtype\":\"F32\",\"shape\":[3,5],\"data_offsets\":[0,60]},"
                       "\"b\\n\\\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[60,68]}}";
    size_t length = (strlen(json) + 7) / 8 * 8, bytes;
    int64_t said;
    float b[2] = {1.0f, -0.0f};
    mpt_safetensors_writer_t *writer = begin(s, path, MPT_F32, 0);
    assert_non_null(writer);
    assert_int_equal(mpt_safetensors_put(writer, 1, 0, 2, b), MPT_OK);
    assert_false(scratch_exists(path));
    assert_int_equal(mpt_safetensors_commit(writer, &said), MPT_OK);
    mpt_safetensors_drop(writer);
    unsigned char *file = (unsigned char *)scratch_read(path, &bytes);
    assert_int_equal(bytes, 8 + length + 68);
    assert_int_equal(said, bytes);
    assert_int_equal(file[0] | file[1] << 8, length);
    assert_memory_equal(file + 8, json, strlen(json));
    for (size_t i = strlen(json); i < length; i++)
        assert_int_equal(file[8 + i], ' ');
    assert_memory_equal(file + 8 + length + 60, b, sizeof b);
    for (int i = 0; i < 60; i++) /* never put: zero */
        assert_int_equal(file[8 + length + i], 0);
    free(file);
}

static void pieces_in_any_order_read_back_bit_for_bit(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "out");
    float a[15], got[15];
    int64_t bytes;
    for (int i = 0; i < 15; i++)
        a[i] = mpt_f32_from_bits(0x7f800001u +
                                 0x01234567u * (uint32_t)i); /* NaNs with payloads among them */
    mpt_safetensors_writer_t *writer = begin(s, path, MPT_F32, 0);
    assert_int_equal(mpt_safetensors_put(writer, 0, 10, 5, a + 10), MPT_OK);
    assert_int_equal(mpt_safetensors_put(writer, 0, 0, 4, a), MPT_OK);
    assert_int_equal(mpt_safetensors_put(writer, 0, 4, 6, a + 4), MPT_OK);
    assert_int_equal(mpt_safetensors_commit(writer, &bytes), MPT_OK);
    mpt_safetensors_drop(writer);
    mpt_safetensors_t *file = open_good(s, path);
    assert_int_equal(mpt_safetensors_read(file, mpt_safetensors_find(file, "a"), 0, 15, got),
                     MPT_OK);
    assert_memory_equal(got, a, sizeof a);
    assert_true(mpt_safetensors_find(file, "b\n\"") >= 0);
    assert_string_equal(mpt_safetensors_text(file, "step"), "7");
    mpt_safetensors_close(file);
}

/* More elements than are converted at once. */
static void sixteen_bits_round_to_nearest(void **state)
{
    enum { N = 10000 };
    scratch_t *s = *state;
    const mpt_safetensor_t tensor = {.name = "x", .dtype = MPT_BF16, .dims = 1, .shape = {N}};
    static float values[N], got[N];
    mpt_safetensors_writer_t *writer;
    int64_t bytes;
    for (int i = 0; i < N; i++)
        values[i] = (float)sin(i) * 1e3f;
    values[0] = mpt_f32_from_bits(0x3f808000u); /* halfway: to the even one below */
    assert_int_equal(mpt_safetensors_new(&writer), MPT_OK);
    assert_int_equal(mpt_safetensors_add(writer, &tensor), MPT_OK);
    assert_int_equal(mpt_safetensors_begin(writer, scratch_path(s, "out"), 0, &s->log), MPT_OK);
    assert_int_equal(mpt_safetensors_put(writer, 0, 0, N, values), MPT_OK);
    assert_int_equal(mpt_safetensors_commit(writer, &bytes), MPT_OK);
    mpt_safetensors_drop(writer);
    mpt_safetensors_t *file = open_good(s, scratch_path(s, "out"));
    assert_int_equal(mpt_safetensors_read(file, 0, 0, N, got), MPT_OK);
    for (int i = 0; i < N; i++)
        assert_int_equal(mpt_f32_bits(got[i]),
                         mpt_f32_bits(mpt_bf16_to_f32(mpt_f32_to_bf16(values[i]))));
    assert_int_equal(mpt_f32_bits(got[0]), 0x3f800000u);
    assert_int_equal(mpt_safetensors_read(file, 0, 4095, 3, got), MPT_OK);
    assert_int_equal(mpt_f32_bits(got[2]),
                     mpt_f32_bits(mpt_bf16_to_f32(mpt_f32_to_bf16(values[4097]))));
    mpt_safetensors_close(file);
}

static void a_file_that_exists_is_replaced_only_when_asked(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "out");
    int64_t bytes;
    char *file;
    scratch_write(path, "old", 3);
    assert_null(begin(s, path, MPT_F32, 0));
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "--force"));
    assert_false(scratch_exists(scratch_path(s, "out.partial")));
    mpt_safetensors_writer_t *writer = begin(s, path, MPT_F32, 1);
    assert_non_null(writer);
    file = scratch_read(path, NULL);
    assert_string_equal(file, "old"); /* until the end */
    free(file);
    assert_int_equal(mpt_safetensors_commit(writer, &bytes), MPT_OK);
    mpt_safetensors_drop(writer);
    mpt_safetensors_close(open_good(s, path));
}

static void a_file_that_appears_meanwhile_is_not_replaced(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "out");
    int64_t bytes;
    mpt_safetensors_writer_t *writer = begin(s, path, MPT_F32, 0);
    scratch_write(path, "new", 3);
    assert_int_equal(mpt_safetensors_commit(writer, &bytes), MPT_ERR_CONFIG);
    mpt_safetensors_drop(writer);
    char *file = scratch_read(path, NULL);
    assert_string_equal(file, "new");
    free(file);
    assert_false(scratch_exists(scratch_path(s, "out.partial")));
}

static void what_is_given_up_leaves_nothing(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "out");
    mpt_safetensors_drop(begin(s, path, MPT_F32, 0));
    assert_false(scratch_exists(path));
    assert_false(scratch_exists(scratch_path(s, "out.partial")));
    assert_null(begin(s, scratch_path(s, "no/such/folder"), MPT_F32, 0));
    assert_int_equal(s->lines, 1);
    mpt_safetensors_drop(NULL);
}

static void a_full_disk_is_said_once_and_leaves_nothing(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "out");
    struct rlimit before, limit;
    static float values[100000];
    const mpt_safetensor_t tensor = {.name = "x", .dtype = MPT_F32, .dims = 1, .shape = {100000}};
    mpt_safetensors_writer_t *writer;
    assert_int_equal(mpt_safetensors_new(&writer), MPT_OK);
    assert_int_equal(mpt_safetensors_add(writer, &tensor), MPT_OK);
    assert_int_equal(mpt_safetensors_begin(writer, path, 0, &s->log), MPT_OK);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 2000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    mpt_status_t status = mpt_safetensors_put(writer, 0, 0, 100000, values);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, MPT_ERR_IO);
    mpt_safetensors_drop(writer);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, path));
    assert_false(scratch_exists(path));
    assert_false(scratch_exists(scratch_path(s, "out.partial")));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_made_by_hand_is_read),
        TEST(a_file_without_metadata_or_tensors_is_read),
        TEST(headers_that_contradict_themselves_are_refused),
        TEST(header_lengths_that_cannot_be_are_refused),
        TEST(too_many_keys_of_metadata_are_refused),
        TEST(no_part_of_a_file_is_taken_for_a_whole_one),
        TEST(a_changed_byte_never_does_harm),
        TEST(a_file_that_shrinks_while_it_is_open_is_an_error),
        TEST(the_bytes_are_the_formats),
        TEST(pieces_in_any_order_read_back_bit_for_bit),
        TEST(sixteen_bits_round_to_nearest),
        TEST(a_file_that_exists_is_replaced_only_when_asked),
        TEST(a_file_that_appears_meanwhile_is_not_replaced),
        TEST(what_is_given_up_leaves_nothing),
        TEST(a_full_disk_is_said_once_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
