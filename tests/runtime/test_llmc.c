#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include "layout.h"
#include "llmc.h"
#include "numeric.h"
#include "scratch.h"

#define HEADER_BYTES 1024
#define VOCAB 131 /* padded to 256 by us */

static const mpt_gpt2_shape_t shape = {
    .layers = 3, .heads = 2, .dim = 6, .context = 5, .vocab = VOCAB, .batch = 2, .seq = 4};

static mpt_layout_t build(const mpt_gpt2_shape_t *of, int ranks)
{
    mpt_tensor_t table[64];
    mpt_layout_t layout;
    assert_true(mpt_gpt2_tensor_count(of) <= 64);
    mpt_gpt2_tensors(of, table);
    assert_int_equal(mpt_layout_build(table, mpt_gpt2_tensor_count(of),
                                      &(mpt_layout_cut_t){.ranks = ranks}, &layout),
                     MPT_OK);
    return layout;
}

static float *zeros(const mpt_layout_t *layout)
{
    float *array = calloc((size_t)layout->total, sizeof *array);
    assert_non_null(array);
    return array;
}

/* Any bits but NaNs: a NaN's payload need not survive a type. */
static float *random_masters(const mpt_layout_t *layout)
{
    float *master = zeros(layout);
    uint64_t x = 42;
    for (int t = 0; t < layout->tensor_count; t++)
        for (int64_t i = 0; i < mpt_tensor_count(&layout->tensors[t]); i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            float value = mpt_f32_from_bits((uint32_t)(x >> 32));
            master[mpt_layout_at(layout, t) + i] = isnan(value) ? -0.0f : value;
        }
    return master;
}

/* Write a whole model, in pieces of 7 elements, the last tensor first. */
static mpt_status_t write_model(const char *path, const mpt_layout_t *layout, const mpt_log_t *log,
                                int version, const float *master)
{
    mpt_llmc_t *file = NULL;
    int64_t bytes;
    mpt_status_t status = mpt_llmc_create(path, &shape, version, 1, log, &file);
    for (int t = layout->tensor_count - 1; t >= 0 && status == MPT_OK; t--) {
        int64_t count = mpt_tensor_count(&layout->tensors[t]);
        for (int64_t i = 0; i < count && status == MPT_OK; i += 7)
            status = mpt_llmc_put(file, t, i, count - i < 7 ? count - i : 7,
                                  master + mpt_layout_at(layout, t) + i);
    }
    if (status == MPT_OK)
        status = mpt_llmc_commit(file, &bytes);
    mpt_llmc_close(file);
    return status;
}

/* Read a whole model, in pieces of 5 elements. */
static mpt_status_t read_model(const char *path, const mpt_layout_t *layout, const mpt_log_t *log,
                               float *master)
{
    mpt_llmc_t *file;
    mpt_status_t status = mpt_llmc_open(path, &shape, log, &file);
    if (status != MPT_OK)
        return status;
    for (int t = 0; t < layout->tensor_count && status == MPT_OK; t++) {
        int64_t count = mpt_tensor_count(&layout->tensors[t]);
        for (int64_t i = 0; i < count && status == MPT_OK; i += 5)
            status = mpt_llmc_read(file, t, i, count - i < 5 ? count - i : 5,
                                   master + mpt_layout_at(layout, t) + i);
    }
    mpt_llmc_close(file);
    return status;
}

static void version_3_reads_back_bit_for_bit(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "model.bin");
    mpt_layout_t one = build(&shape, 1), four = build(&shape, 4);
    float *written = random_masters(&one), *read = zeros(&four);
    assert_int_equal(write_model(path, &one, &s->log, 3, written), MPT_OK);
    assert_int_equal(read_model(path, &four, &s->log, read), MPT_OK);
    for (int t = 0; t < one.tensor_count; t++)
        assert_memory_equal(read + mpt_layout_at(&four, t), written + mpt_layout_at(&one, t),
                            (size_t)mpt_tensor_count(&one.tensors[t]) * sizeof(float));
    for (int64_t i = 0; i < one.tensors[0].reserve; i++) /* the padding stays zero */
        assert_int_equal(mpt_f32_bits(read[mpt_layout_at(&four, 0) + VOCAB * shape.dim + i]), 0);
    assert_false(scratch_exists(scratch_path(s, "model.bin.partial")));
    assert_int_equal(s->lines, 0);
    free(written);
    free(read);
    mpt_layout_release(&one);
    mpt_layout_release(&four);
}

static void version_5_rounds_to_bf16_once_and_to_nearest(void **state)
{
    scratch_t *s = *state;
    const char *path = scratch_path(s, "model.bin");
    mpt_layout_t layout = build(&shape, 2);
    float *written = random_masters(&layout), *read = zeros(&layout);
    written[0] = mpt_f32_from_bits(0x3f808000u); /* halfway: to the even one below */
    written[1] = mpt_f32_from_bits(0x3f818000u); /* halfway: to the even one above */
    assert_int_equal(write_model(path, &layout, &s->log, 5, written), MPT_OK);
    assert_int_equal(read_model(path, &layout, &s->log, read), MPT_OK);
    for (int64_t i = 0; i < layout.total; i++)
        assert_int_equal(mpt_f32_bits(read[i]),
                         mpt_f32_bits(mpt_bf16_to_f32(mpt_f32_to_bf16(written[i]))));
    assert_int_equal(mpt_f32_bits(read[0]), 0x3f800000u);
    assert_int_equal(mpt_f32_bits(read[1]), 0x3f820000u);
    free(written);
    free(read);
    mpt_layout_release(&layout);
}

static void the_shape_reads_back(void **state)
{
    scratch_t *s = *state;
    mpt_gpt2_shape_t read = {0};
    mpt_layout_t layout = build(&shape, 1);
    float *master = zeros(&layout);
    size_t bytes;
    assert_int_equal(write_model(scratch_path(s, "m"), &layout, &s->log, 3, master), MPT_OK);
    assert_int_equal(mpt_llmc_shape(scratch_path(s, "m"), &s->log, &read), MPT_OK);
    assert_int_equal(read.layers, shape.layers);
    assert_int_equal(read.heads, shape.heads);
    assert_int_equal(read.dim, shape.dim);
    assert_int_equal(read.context, shape.context);
    assert_int_equal(read.vocab, shape.vocab);
    assert_int_equal(read.batch, 0);
    assert_int_equal(read.seq, 0);
    char *file = scratch_read(scratch_path(s, "m"), &bytes);
    const int32_t expected[8] = {20240326, 3, 5, VOCAB, 3, 2, 6, 256};
    assert_memory_equal(file, expected, sizeof expected);
    assert_int_equal(bytes, HEADER_BYTES + 4 * (layout.parameters + (256 - VOCAB) * 6));
    free(file);
    free(master);
    mpt_layout_release(&layout);
}

/* ---- a file made by hand -------------------------------------------------------------------------------------- */

/* The documented order, sizes written out: name and elements per layer. */
typedef struct part {
    const char *name;
    int64_t count;
    int per_layer;
} part_t;

static const part_t parts[16] = {
    {"wte.weight", VOCAB * 6, 0},
    {"wpe.weight", 5 * 6, 0},
    {"ln_1.weight", 6, 1},
    {"ln_1.bias", 6, 1},
    {"attn.c_attn.weight", 18 * 6, 1},
    {"attn.c_attn.bias", 18, 1},
    {"attn.c_proj.weight", 6 * 6, 1},
    {"attn.c_proj.bias", 6, 1},
    {"ln_2.weight", 6, 1},
    {"ln_2.bias", 6, 1},
    {"mlp.c_fc.weight", 24 * 6, 1},
    {"mlp.c_fc.bias", 24, 1},
    {"mlp.c_proj.weight", 6 * 24, 1},
    {"mlp.c_proj.bias", 6, 1},
    {"ln_f.weight", 6, 0},
    {"ln_f.bias", 6, 0},
};

static void put_header(FILE *file, const int32_t words[8])
{
    int32_t header[256] = {0};
    memcpy(header, words, 8 * sizeof *words);
    assert_int_equal(fwrite(header, sizeof *header, 256, file), 256);
}

static const int32_t good_header[8] = {20240326, 3, 5, VOCAB, 3, 2, 6, 135};

/* A file padded to 135 rows (as another program may pad), whose k-th element is the number k. */
static void write_by_hand(const char *path, const int32_t words[8])
{
    FILE *file = fopen(path, "wb");
    float index = 0;
    assert_non_null(file);
    put_header(file, words);
    for (int p = 0; p < 16; p++) {
        int64_t count =
            parts[p].count * (parts[p].per_layer ? 3 : 1) + (p == 0 ? (135 - VOCAB) * 6 : 0);
        for (int64_t i = 0; i < count; i++, index++)
            assert_int_equal(fwrite(&index, sizeof index, 1, file), 1);
    }
    assert_int_equal(fclose(file), 0);
}

static void assert_counts_up(const mpt_layout_t *layout, const float *master, const char *name,
                             int64_t first)
{
    int t = mpt_layout_find(layout, name);
    assert_true(t >= 0);
    for (int64_t i = 0; i < mpt_tensor_count(&layout->tensors[t]); i++)
        if (master[mpt_layout_at(layout, t) + i] != (float)(first + i))
            fail_msg("%s[%lld] is %g, not element %lld of the file", name, (long long)i,
                     (double)master[mpt_layout_at(layout, t) + i], (long long)(first + i));
}

static void a_file_made_by_hand_lands_in_the_right_tensors(void **state)
{
    scratch_t *s = *state;
    mpt_layout_t layout = build(&shape, 3);
    float *master = zeros(&layout);
    int64_t first = 0;
    write_by_hand(scratch_path(s, "hand"), good_header);
    assert_int_equal(read_model(scratch_path(s, "hand"), &layout, &s->log, master), MPT_OK);
    for (int p = 0; p < 16; p++)
        for (int layer = 0; layer < (parts[p].per_layer ? 3 : 1); layer++) {
            char name[64];
            snprintf(name, sizeof name, parts[p].per_layer ? "h.%d.%s" : "%.0d%s", layer,
                     parts[p].name);
            assert_counts_up(&layout, master, name, first);
            first += parts[p].count + (p == 0 ? (135 - VOCAB) * 6 : 0);
        }
    for (int64_t i = 0; i < layout.tensors[0].reserve;
         i++) /* the file's padding rows are left out */
        assert_true(master[mpt_layout_at(&layout, 0) + VOCAB * 6 + i] == 0);
    free(master);
    mpt_layout_release(&layout);
}

/* ---- what is refused -------------------------------------------------------------------------------------------- */

static void assert_refused(scratch_t *s, const char *path, const char *why)
{
    mpt_layout_t layout = build(&shape, 1);
    float *master = zeros(&layout);
    scratch_forget(s);
    assert_int_equal(read_model(path, &layout, &s->log, master), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, path));
    if (strstr(s->said, why) == NULL)
        fail_msg("'%s' does not say '%s'", s->said, why);
    free(master);
    mpt_layout_release(&layout);
}

static void malformed_headers_are_refused(void **state)
{
    scratch_t *s = *state;
    static const struct {
        int word;
        int32_t value;
        const char *why;
    } faults[] = {
        {0, 20240325, "magic"},   {0, 0x46134001, "magic"}, {1, 1, "version"},
        {1, 4, "version"},        {2, 0, "not positive"},   {2, -5, "not positive"},
        {3, 0, "not positive"},   {4, -1, "not positive"},  {5, 0, "not positive"},
        {6, 0, "not positive"},   {7, 0, "not positive"},   {7, VOCAB - 1, "contradict"},
        {5, 4, "contradict"},     {4, 4097, "limits"},      {6, (1 << 18) + 2, "limits"},
        {2, INT32_MAX, "limits"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        int32_t words[8];
        mpt_gpt2_shape_t untouched = {.layers = 77};
        memcpy(words, good_header, sizeof words);
        words[faults[i].word] = faults[i].value;
        write_by_hand(scratch_path(s, "bad"), words);
        assert_refused(s, scratch_path(s, "bad"), faults[i].why);
        assert_int_equal(mpt_llmc_shape(scratch_path(s, "bad"), &s->log, &untouched),
                         MPT_ERR_CHECKPOINT);
        assert_int_equal(untouched.layers, 77);
    }
}

static void another_models_file_is_refused(void **state)
{
    scratch_t *s = *state;
    static const struct {
        int word;
        int32_t value;
    } others[] = {{2, 6}, {3, VOCAB - 1}, {4, 2}, {5, 3}, {6, 12}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        int32_t words[8];
        memcpy(words, good_header, sizeof words);
        words[others[i].word] = others[i].value;
        write_by_hand(scratch_path(s, "other"), words);
        assert_refused(s, scratch_path(s, "other"), "another model");
    }
}

static void files_of_another_length_are_refused(void **state)
{
    scratch_t *s = *state;
    size_t bytes;
    write_by_hand(scratch_path(s, "good"), good_header);
    char *file = scratch_read(scratch_path(s, "good"), &bytes);
    const size_t lengths[] = {0, 3, HEADER_BYTES - 1};
    for (size_t i = 0; i < 3; i++) {
        scratch_write(scratch_path(s, "cut"), file, lengths[i]);
        assert_refused(s, scratch_path(s, "cut"), "too short");
    }
    const size_t more[] = {HEADER_BYTES, bytes / 2, bytes - 4, bytes - 1, bytes + 1};
    for (size_t i = 0; i < 5; i++) {
        scratch_write(scratch_path(s, "cut"), file, more[i]);
        assert_refused(s, scratch_path(s, "cut"), "size");
    }
    free(file);
}

static void a_missing_file_is_named(void **state)
{
    scratch_t *s = *state;
    mpt_gpt2_shape_t untouched = {.layers = 77};
    assert_refused(s, scratch_path(s, "nothing"), "No such file");
    assert_int_equal(mpt_llmc_shape(scratch_path(s, "nothing"), &s->log, &untouched),
                     MPT_ERR_CHECKPOINT);
    assert_int_equal(untouched.layers, 77);
}

static void a_write_that_fails_leaves_the_old_file_and_nothing_else(void **state)
{
    scratch_t *s = *state;
    struct rlimit before, limit;
    size_t bytes;
    mpt_layout_t layout = build(&shape, 1);
    float *master = random_masters(&layout);
    const char *path = scratch_path(s, "model");
    scratch_write(path, "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 2000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    mpt_status_t status = write_model(path, &layout, &s->log, 3, master);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, MPT_ERR_IO);
    assert_non_null(strstr(s->said, path));
    assert_false(scratch_exists(scratch_path(s, "model.partial")));
    char *file = scratch_read(path, &bytes);
    assert_string_equal(file, "old");
    free(file);
    scratch_forget(s);
    assert_int_equal(write_model(scratch_path(s, "no/such/folder"), &layout, &s->log, 3, master),
                     MPT_ERR_IO);
    assert_int_equal(s->lines, 1);
    free(master);
    mpt_layout_release(&layout);
}

static void an_existing_file_is_replaced_only_when_asked(void **state)
{
    scratch_t *s = *state;
    mpt_llmc_t *file = NULL;
    const char *path = scratch_path(s, "model");
    scratch_write(path, "old", 3);
    assert_int_equal(mpt_llmc_create(path, &shape, 3, 0, &s->log, &file), MPT_ERR_CONFIG);
    assert_null(file);
    assert_int_equal(s->lines, 1);
    assert_int_equal(mpt_llmc_create(path, &shape, 3, 1, &s->log, &file), MPT_OK);
    mpt_llmc_close(file); /* given up: the old one stays */
    char *old = scratch_read(path, NULL);
    assert_string_equal(old, "old");
    free(old);
    assert_false(scratch_exists(scratch_path(s, "model.partial")));
    mpt_llmc_close(NULL);
}

static void the_magic_tells_llmc_files_from_others(void **state)
{
    scratch_t *s = *state;
    write_by_hand(scratch_path(s, "good"), good_header);
    scratch_write(scratch_path(s, "short"), good_header, 3);
    scratch_write(scratch_path(s, "other"), "{\"x\":1}", 7);
    assert_true(mpt_llmc_begins(scratch_path(s, "good")));
    assert_false(mpt_llmc_begins(scratch_path(s, "short")));
    assert_false(mpt_llmc_begins(scratch_path(s, "other")));
    assert_false(mpt_llmc_begins(scratch_path(s, "nothing")));
}

static void a_file_that_shrinks_while_it_is_open_is_an_error(void **state)
{
    scratch_t *s = *state;
    mpt_llmc_t *file;
    float value;
    write_by_hand(scratch_path(s, "good"), good_header);
    assert_int_equal(mpt_llmc_open(scratch_path(s, "good"), &shape, &s->log, &file), MPT_OK);
    assert_int_equal(mpt_llmc_dtype(file), MPT_F32);
    assert_int_equal(truncate(scratch_path(s, "good"), 2000), 0);
    assert_int_equal(mpt_llmc_read(file, mpt_gpt2_lnf(&shape), 0, 1, &value), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    mpt_llmc_close(file);
}

static void only_versions_3_and_5_are_written(void **state)
{
    scratch_t *s = *state;
    mpt_layout_t layout = build(&shape, 1);
    float *master = zeros(&layout);
    static const int versions[] = {0, 1, 2, 4, 6};
    for (int i = 0; i < 5; i++)
        assert_int_equal(write_model(scratch_path(s, "m"), &layout, &s->log, versions[i], master),
                         MPT_ERR_CONFIG);
    assert_false(scratch_exists(scratch_path(s, "m")));
    assert_int_equal(s->lines, 5);
    free(master);
    mpt_layout_release(&layout);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(version_3_reads_back_bit_for_bit),
        TEST(version_5_rounds_to_bf16_once_and_to_nearest),
        TEST(the_shape_reads_back),
        TEST(a_file_made_by_hand_lands_in_the_right_tensors),
        TEST(malformed_headers_are_refused),
        TEST(another_models_file_is_refused),
        TEST(files_of_another_length_are_refused),
        TEST(a_missing_file_is_named),
        TEST(an_existing_file_is_replaced_only_when_asked),
        TEST(the_magic_tells_llmc_files_from_others),
        TEST(a_file_that_shrinks_while_it_is_open_is_an_error),
        TEST(only_versions_3_and_5_are_written),
        TEST(a_write_that_fails_leaves_the_old_file_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
