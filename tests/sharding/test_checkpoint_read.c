#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <xxhash.h>
#include "checkpoint_fleet.h"
#include "checkpoint_format.h"

static void saved_by_any_number_of_ranks_loads_under_any_other(void **state)
{
    scratch_t *s = *state;
    for (int saved = 1; saved <= MAX_RANKS; saved++)
        for (int asynchronous = 0; asynchronous < 2; asynchronous++) {
            fleet_t f;
            char path[512];
            int64_t step = 10 * saved + asynchronous;
            open_fleet(&f, s->folder, saved, 100, asynchronous, &s->log);
            save(&f, step, (uint64_t)step);
            close_fleet(&f);
            mpt_checkpoint_path(s->folder, step, path, sizeof path);
            for (int loading = 1; loading <= MAX_RANKS; loading++)
                assert_holds(s, path, loading, (uint64_t)step);
        }
    assert_string_equal(s->said, "");
}

static void meta_reads_back_what_was_given(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_meta_t meta;
    char value[32], tiny[3];
    const char *path = save_one(s, 3, 123456789, 1);
    assert_non_null(strstr(path, "/step-123456789"));
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    assert_int_equal(meta.step, 123456789);
    assert_int_equal(meta.ranks, 3);
    assert_string_equal(meta.path, path);
    assert_int_equal(mpt_checkpoint_get(meta.text, "applied", value, sizeof value), 1);
    assert_string_equal(value, "41");
    assert_int_equal(mpt_checkpoint_get(meta.text, "scale", value, sizeof value), 1);
    assert_string_equal(value, "0x1p+16");
    assert_int_equal(mpt_checkpoint_get(meta.text, "scal", value, sizeof value), 0);
    assert_int_equal(mpt_checkpoint_get(meta.text, "cale", value, sizeof value), 0);
    assert_int_equal(mpt_checkpoint_get(meta.text, "xxh3", value, sizeof value), 0);
    assert_int_equal(mpt_checkpoint_get(meta.text, "scale", tiny, sizeof tiny), 0);
}

static void a_skipped_array_is_verified_all_the_same(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 2, 4, 9);
    mpt_layout_t layout = build(3, "embed", 11);
    arrays_t expected = make_arrays(&layout), got = make_arrays(&layout);
    float *const masters_only[MPT_KIND_COUNT] = {got.kind[0], NULL, NULL};
    mpt_checkpoint_meta_t meta;
    fill(&layout, &expected, 9);
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    assert_int_equal(mpt_checkpoint_load(&meta, &layout, masters_only, &s->log), MPT_OK);
    assert_memory_equal(got.kind[0], expected.kind[0], (size_t)layout.total * sizeof(float));
    size_t bytes;
    char *file = scratch_read(scratch_path(s, "step-00000004/rank-00001.bin"), &bytes);
    file[bytes - 1] ^= 1; /* in v */
    scratch_write(scratch_path(s, "step-00000004/rank-00001.bin"), file, bytes);
    free(file);
    assert_int_equal(mpt_checkpoint_load(&meta, &layout, masters_only, &s->log),
                     MPT_ERR_CHECKPOINT);
    free_arrays(&expected);
    free_arrays(&got);
    mpt_layout_release(&layout);
}

static void verifying_reads_every_byte(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_meta_t meta;
    int64_t bytes = -1, on_disk = 0;
    const char *path = save_one(s, 4, 2, 3);
    static const char *const files[] = {"meta", "rank-00000.bin", "rank-00001.bin",
                                        "rank-00002.bin", "rank-00003.bin"};
    for (int i = 0; i < 5; i++) {
        char name[64];
        size_t count;
        snprintf(name, sizeof name, "step-00000002/%s", files[i]);
        free(scratch_read(scratch_path(s, name), &count));
        on_disk += (int64_t)count;
    }
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    assert_int_equal(mpt_checkpoint_verify(&meta, &s->log, &bytes), MPT_OK);
    assert_int_equal(mpt_checkpoint_bytes(&meta), on_disk);
    assert_true(bytes > 0 && bytes <= on_disk);
    assert_int_equal(s->lines, 0);
}

/* ---- the list ------------------------------------------------------------------------------------ */

static void the_list_ignores_everything_but_committed_folders(void **state)
{
    scratch_t *s = *state;
    static const char *const others[] = {"step-00000500.partial",
                                         "step-00000600.replaced",
                                         "step-7",
                                         "step-",
                                         "step-00000x08",
                                         "step--0000009",
                                         "step-+0000010",
                                         "step- 00000011",
                                         "notes",
                                         "xstep-00000012"};
    int64_t steps[3];
    assert_int_equal(mpt_checkpoint_list(scratch_path(s, "nowhere"), steps, 3), 0);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(mkdir(scratch_path(s, others[i]), 0777), 0);
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 3), 0);
    save_one(s, 1, 30, 1);
    assert_list(s, 1, (const int64_t[]){30});
}

static void a_short_list_holds_the_newest(void **state)
{
    scratch_t *s = *state;
    int64_t steps[3];
    for (int step = 0; step < 40; step++) {
        char name[32];
        snprintf(name, sizeof name, "step-%08d", (step * 7) % 40);
        assert_int_equal(mkdir(scratch_path(s, name), 0777), 0);
    }
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 3), 3);
    assert_int_equal(steps[0], 39);
    assert_int_equal(steps[1], 38);
    assert_int_equal(steps[2], 37);
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 1), 1);
    assert_int_equal(steps[0], 39);
}

/* ---- damage -------------------------------------------------------------------------------------- */

/* Loading and verifying both fail, and the log names `file`. */
static void assert_damaged(scratch_t *s, const char *path, const char *file)
{
    mpt_layout_t layout = build(2, "embed", 11);
    arrays_t a = make_arrays(&layout);
    mpt_checkpoint_meta_t meta;
    scratch_forget(s);
    assert_int_equal(try_load(path, &layout, &a, &s->log), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    if (strstr(s->said, file) == NULL)
        fail_msg("'%s' does not name %s", s->said, file);
    if (mpt_checkpoint_read_meta(path, NULL, &meta) == MPT_OK) {
        scratch_forget(s);
        assert_int_equal(mpt_checkpoint_verify(&meta, &s->log, NULL), MPT_ERR_CHECKPOINT);
        assert_non_null(strstr(s->said, file));
    }
    free_arrays(&a);
    mpt_layout_release(&layout);
}

static void any_damaged_byte_of_meta_is_found(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 2, 3, 1);
    const char *file = scratch_path(s, "step-00000003/meta");
    char name[512];
    size_t bytes;
    snprintf(name, sizeof name, "%s", file);
    char *good = scratch_read(name, &bytes);
    for (size_t i = 0; i < bytes; i++)
        for (int flip = 0; flip < 3; flip++) {
            static const char masks[] = {1, 0x20, (char)0xff};
            char *bad = malloc(bytes);
            memcpy(bad, good, bytes);
            bad[i] ^= masks[flip];
            scratch_write(name, bad, bytes);
            free(bad);
            assert_damaged(s, path, name);
        }
    scratch_write(name, good, bytes - 1);
    assert_damaged(s, path, name);
    scratch_write(name, "", 0);
    assert_damaged(s, path, name);
    good[bytes] = 'x'; /* the NUL behind it */
    scratch_write(name, good, bytes + 1);
    assert_damaged(s, path, name);
    free(good);
    assert_int_equal(unlink(name), 0);
    assert_damaged(s, path, name);
}

static void any_damaged_byte_of_a_ranks_file_is_found(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 3, 3, 1);
    char name[512];
    size_t bytes;
    snprintf(name, sizeof name, "%s", scratch_path(s, "step-00000003/rank-00001.bin"));
    char *file = scratch_read(name, &bytes);
    assert_true(bytes < 4096);
    for (size_t i = 0; i < bytes; i++) {
        file[i] ^= (char)(1 << (i % 8));
        scratch_write(name, file, bytes);
        assert_damaged(s, path, name);
        file[i] ^= (char)(1 << (i % 8));
    }
    scratch_write(name, file, bytes);
    assert_holds(s, path, 2, 1);
    free(file);
}

static void a_file_of_another_length_is_found(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 3, 3, 1);
    char name[512];
    size_t bytes;
    snprintf(name, sizeof name, "%s", scratch_path(s, "step-00000003/rank-00002.bin"));
    char *file = scratch_read(name, &bytes);
    const size_t lengths[] = {0,
                              1,
                              sizeof(checkpoint_header_t) - 1,
                              sizeof(checkpoint_header_t),
                              100,
                              bytes / 2,
                              bytes - 1,
                              bytes + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        scratch_write(name, file, lengths[i]);
        assert_damaged(s, path, name);
    }
    free(file);
    assert_int_equal(unlink(name), 0);
    assert_damaged(s, path, name);
}

static void files_that_changed_places_are_found(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 2, 3, 1);
    char a[512], b[512];
    size_t a_bytes, b_bytes;
    snprintf(a, sizeof a, "%s", scratch_path(s, "step-00000003/rank-00000.bin"));
    snprintf(b, sizeof b, "%s", scratch_path(s, "step-00000003/rank-00001.bin"));
    char *first = scratch_read(a, &a_bytes), *second = scratch_read(b, &b_bytes);
    scratch_write(a, second, b_bytes);
    scratch_write(b, first, a_bytes);
    assert_damaged(s, path, a);
    free(first);
    free(second);
}

static void a_file_of_another_step_or_rank_count_is_found(void **state)
{
    scratch_t *s = *state;
    size_t bytes;
    save_one(s, 2, 4, 1);
    save_one(s, 3, 5, 1);
    const char *path = save_one(s, 2, 3, 1);
    static const char *const foreign[] = {"step-00000004/rank-00001.bin",
                                          "step-00000005/rank-00001.bin"};
    for (int i = 0; i < 2; i++) {
        char *file = scratch_read(scratch_path(s, foreign[i]), &bytes);
        scratch_write(scratch_path(s, "step-00000003/rank-00001.bin"), file, bytes);
        assert_damaged(s, path, scratch_path(s, "step-00000003/rank-00001.bin"));
        free(file);
    }
}

static void another_models_checkpoint_is_refused(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 2, 3, 1);
    static const struct {
        const char *name;
        int64_t rows;
    } others[] = {{"embedding", 11}, {"embed", 12}, {"embed", 10}};
    for (int i = 0; i < 3; i++) {
        mpt_layout_t layout = build(2, others[i].name, others[i].rows);
        arrays_t a = make_arrays(&layout);
        scratch_forget(s);
        assert_int_equal(try_load(path, &layout, &a, &s->log), MPT_ERR_CHECKPOINT);
        assert_non_null(strstr(s->said, "step-00000003/rank-00000.bin"));
        assert_non_null(strstr(s->said, "another model"));
        free_arrays(&a);
        mpt_layout_release(&layout);
    }
}

/* Change a rank's file and make its header's checksum right again: damage that no checksum shows. */
static void forge(const char *name,
                  void (*change)(checkpoint_header_t *header, checkpoint_extent_t *table))
{
    size_t bytes;
    char *file = scratch_read(name, &bytes);
    checkpoint_header_t *header = (checkpoint_header_t *)(void *)file;
    checkpoint_extent_t *table = (checkpoint_extent_t *)(void *)(header + 1);
    change(header, table);
    header->checksum =
        XXH3_64bits_withSeed(table, header->extent_count * sizeof *table,
                             XXH3_64bits(header, offsetof(checkpoint_header_t, checksum)));
    scratch_write(name, file, bytes);
    free(file);
}

static void drop_an_extent(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)table;
    header->extent_count--;
}

static void leave_the_tensor(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)header;
    table[0].first++;
}

static void name_no_tensor(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)header;
    table[1].tensor = TABLE;
}

static void name_no_kind(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)header;
    table[1].kind = MPT_KIND_COUNT;
}

static void tables_that_do_not_fit_the_model_are_refused(void **state)
{
    scratch_t *s = *state;
    static const struct {
        void (*change)(checkpoint_header_t *header, checkpoint_extent_t *table);
        const char *why;
    } cases[] = {{drop_an_extent, "elements"},
                 {leave_the_tensor, "outside"},
                 {name_no_tensor, "outside"},
                 {name_no_kind, "outside"}};
    for (int i = 0; i < 4; i++) {
        mpt_layout_t layout = build(3, "embed", 11);
        arrays_t a = make_arrays(&layout);
        const char *path = save_one(s, 1, i, 1);
        char name[600];
        snprintf(name, sizeof name, "%s/rank-00000.bin", path);
        forge(name, cases[i].change);
        scratch_forget(s);
        assert_int_equal(try_load(path, &layout, &a, &s->log), MPT_ERR_CHECKPOINT);
        if (strstr(s->said, cases[i].why) == NULL)
            fail_msg("'%s' does not say '%s'", s->said, cases[i].why);
        free_arrays(&a);
        mpt_layout_release(&layout);
    }
}

/* A meta that is whole but of a version to come. */
static void a_newer_version_says_so(void **state)
{
    scratch_t *s = *state;
    char text[256];
    mpt_checkpoint_meta_t meta;
    save_one(s, 1, 3, 1);
    int n = snprintf(text, sizeof text, "mpt-ddp checkpoint = 2\nstep = 3\nranks = 1\n");
    n += snprintf(text + n, sizeof text - (size_t)n, "xxh3 = %016llx\n",
                  (unsigned long long)XXH3_64bits(text, (size_t)n));
    scratch_write(scratch_path(s, "step-00000003/meta"), text, (size_t)n);
    assert_int_equal(mpt_checkpoint_read_meta(scratch_path(s, "step-00000003"), &s->log, &meta),
                     MPT_ERR_CHECKPOINT);
    assert_non_null(strstr(s->said, "version 2"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(saved_by_any_number_of_ranks_loads_under_any_other),
        TEST(meta_reads_back_what_was_given),
        TEST(a_skipped_array_is_verified_all_the_same),
        TEST(verifying_reads_every_byte),
        TEST(the_list_ignores_everything_but_committed_folders),
        TEST(a_short_list_holds_the_newest),
        TEST(any_damaged_byte_of_meta_is_found),
        TEST(any_damaged_byte_of_a_ranks_file_is_found),
        TEST(a_file_of_another_length_is_found),
        TEST(files_that_changed_places_are_found),
        TEST(a_file_of_another_step_or_rank_count_is_found),
        TEST(another_models_checkpoint_is_refused),
        TEST(tables_that_do_not_fit_the_model_are_refused),
        TEST(a_newer_version_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
