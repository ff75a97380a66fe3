#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/resource.h>
#include <xxhash.h>
#include "checkpoint.h"
#include "checkpoint_format.h"
#include "scratch.h"

#define MAX_RANKS 5
#define META "applied = 41\nscale = 0x1p+16\n"

enum { TABLE = 6 };

/* Small, so that every byte of its files can be damaged in turn; slices cut through tensors. */
static mpt_layout_t build(int ranks, const char *first_name, int64_t first_rows)
{
    mpt_tensor_t table[TABLE] = {
        {.dims = 2, .shape = {first_rows, 7}, .unit = 0, .decay = 1, .reserve = 21},
        {.name = "place", .dims = 2, .shape = {3, 7}, .unit = 0, .decay = 1},
        {.name = "square", .dims = 2, .shape = {13, 11}, .unit = 1, .decay = 1},
        {.name = "gain", .dims = 1, .shape = {13}, .unit = 1},
        {.name = "one", .dims = 1, .shape = {1}, .unit = 2},
        {.name = "two", .dims = 1, .shape = {2}, .unit = 2},
    };
    mpt_layout_t layout;
    snprintf(table[0].name, sizeof table[0].name, "%s", first_name);
    assert_int_equal(mpt_layout_build(table, TABLE, ranks, &layout), MPT_OK);
    return layout;
}

/* Bits of element `i` (global) of an array; every pattern that a float has, NaNs with payloads among them. */
static uint32_t pattern(uint64_t salt, int kind, int64_t i)
{
    uint64_t x =
        (salt + 1) * 0x9e3779b97f4a7c15u + (uint64_t)(kind + 1) * 0x632be59bd9b4e019u + (uint64_t)i;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    static const uint32_t special[] = {0x7fc01234u, 0x80000000u, 0x00000001u, 0x7f800000u,
                                       0xffbadbadu};
    return x % 16 < 5 ? special[x % 16] : (uint32_t)(x >> 20);
}

typedef struct arrays {
    float *kind[MPT_KIND_COUNT]; /* [total] each */
} arrays_t;

static arrays_t make_arrays(const mpt_layout_t *layout)
{
    arrays_t a;
    for (int k = 0; k < MPT_KIND_COUNT; k++) {
        a.kind[k] = calloc((size_t)layout->total, sizeof(float));
        assert_non_null(a.kind[k]);
    }
    return a;
}

static void free_arrays(arrays_t *a)
{
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        free(a->kind[k]);
}

static void fill(const mpt_layout_t *layout, arrays_t *a, uint64_t salt)
{
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        for (int t = 0; t < layout->tensor_count; t++)
            for (int64_t i = 0; i < mpt_tensor_count(&layout->tensors[t]); i++) {
                uint32_t bits = pattern(salt, k, layout->tensors[t].first + i);
                memcpy(a->kind[k] + mpt_layout_at(layout, t) + i, &bits, sizeof bits);
            }
}

/* ---- saving by all ranks, one after the other in this thread -------------------------------------------- */

typedef struct fleet {
    mpt_layout_t layout;
    arrays_t arrays;
    mpt_state_t state;
    mpt_checkpoint_t *savers[MAX_RANKS];
    float *snapshots[MAX_RANKS];
} fleet_t;

static void open_fleet(fleet_t *f, const char *dir, int ranks, int64_t keep, int asynchronous,
                       const mpt_log_t *log)
{
    *f = (fleet_t){.layout = build(ranks, "embed", 11)};
    f->arrays = make_arrays(&f->layout);
    f->state = (mpt_state_t){.layout = &f->layout,
                             .master = f->arrays.kind[0],
                             .m = f->arrays.kind[1],
                             .v = f->arrays.kind[2]};
    for (int r = 0; r < ranks; r++) {
        size_t floats = 3 * (size_t)mpt_layout_owned(&f->layout, r);
        if (asynchronous) /* at least one byte: NULL would mean synchronous */
            f->snapshots[r] = malloc(floats * sizeof(float) + 1);
        mpt_checkpoint_params_t params = {.dir = dir,
                                          .keep = keep,
                                          .layout = &f->layout,
                                          .log = log,
                                          .rank = r,
                                          .snapshot = f->snapshots[r]};
        assert_int_equal(mpt_checkpoint_create(&params, &f->savers[r]), MPT_OK);
        assert_int_equal(mpt_checkpoint_progress(f->savers[r]), MPT_SAVE_IDLE);
        assert_int_equal(mpt_checkpoint_step(f->savers[r]), -1);
    }
}

static void close_fleet(fleet_t *f)
{
    for (int r = 0; r < f->layout.ranks; r++) {
        mpt_checkpoint_destroy(f->savers[r]);
        free(f->snapshots[r]);
    }
    free_arrays(&f->arrays);
    mpt_layout_release(&f->layout);
}

/* Begin, wait; returns how many ranks failed. */
static int begin_all(fleet_t *f, int64_t step)
{
    int failed = 0;
    for (int r = 0; r < f->layout.ranks; r++)
        mpt_checkpoint_begin(f->savers[r], &f->state, step, META);
    for (int r = 0; r < f->layout.ranks; r++) {
        assert_int_equal(mpt_checkpoint_step(f->savers[r]), step);
        mpt_checkpoint_wait(f->savers[r]);
        mpt_save_progress_t progress = mpt_checkpoint_progress(f->savers[r]);
        assert_true(progress == MPT_SAVE_SYNCED || progress == MPT_SAVE_FAILED);
        failed += progress == MPT_SAVE_FAILED;
    }
    return failed;
}

static mpt_status_t finish_all(fleet_t *f, int commit)
{
    mpt_status_t status = MPT_OK;
    for (int r = f->layout.ranks - 1; r >= 0; r--) {
        status = mpt_checkpoint_finish(f->savers[r], commit);
        assert_int_equal(mpt_checkpoint_step(f->savers[r]), -1);
        assert_int_equal(mpt_checkpoint_progress(f->savers[r]), MPT_SAVE_IDLE);
        if (r > 0)
            assert_int_equal(status, MPT_OK);
    }
    return status;
}

static void save(fleet_t *f, int64_t step, uint64_t salt)
{
    fill(&f->layout, &f->arrays, salt);
    assert_int_equal(begin_all(f, step), 0);
    assert_int_equal(finish_all(f, 1), MPT_OK);
}

/* A committed checkpoint of `ranks` ranks in the test's folder, and its path. */
static const char *save_one(scratch_t *s, int ranks, int64_t step, uint64_t salt)
{
    static char path[512];
    fleet_t f;
    open_fleet(&f, s->folder, ranks, 100, 0, &s->log);
    save(&f, step, salt);
    close_fleet(&f);
    mpt_checkpoint_path(s->folder, step, path, sizeof path);
    return path;
}

/* ---- loading ------------------------------------------------------------------------------------------------ */

static mpt_status_t try_load(const char *path, const mpt_layout_t *layout, arrays_t *a,
                             const mpt_log_t *log)
{
    mpt_checkpoint_meta_t meta;
    mpt_status_t status = mpt_checkpoint_read_meta(path, log, &meta);
    if (status != MPT_OK)
        return status;
    return mpt_checkpoint_load(&meta, layout, a->kind, log);
}

static void assert_holds(scratch_t *s, const char *path, int ranks, uint64_t salt)
{
    mpt_layout_t layout = build(ranks, "embed", 11);
    arrays_t got = make_arrays(&layout), expected = make_arrays(&layout);
    fill(&layout, &expected, salt);
    scratch_forget(s);
    if (try_load(path, &layout, &got, &s->log) != MPT_OK)
        fail_msg("%s", s->said);
    for (int k = 0; k < MPT_KIND_COUNT; k++) /* padding and reserve too: they stayed zero */
        assert_memory_equal(got.kind[k], expected.kind[k], (size_t)layout.total * sizeof(float));
    free_arrays(&got);
    free_arrays(&expected);
    mpt_layout_release(&layout);
}

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

static void an_asynchronous_save_is_of_the_state_at_its_beginning(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 3, 3, 1, &s->log);
    fill(&f.layout, &f.arrays, 1);
    for (int r = 0; r < 3; r++)
        mpt_checkpoint_begin(f.savers[r], &f.state, 8, META);
    fill(&f.layout, &f.arrays, 2); /* training goes on */
    assert_int_equal(finish_all(&f, 1), MPT_OK);
    close_fleet(&f);
    assert_holds(s, scratch_path(s, "step-00000008"), 2, 1);
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

/* ---- keeping ------------------------------------------------------------------------------------------------- */

static void assert_list(const scratch_t *s, int count, const int64_t *expected)
{
    int64_t steps[16];
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 16), count);
    for (int i = 0; i < count; i++)
        assert_int_equal(steps[i], expected[i]);
}

static void the_newest_few_are_kept(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 3, 1, &s->log);
    for (int64_t step = 1; step <= 7; step++)
        save(&f, 50 * step, (uint64_t)step);
    close_fleet(&f);
    assert_list(s, 3, (const int64_t[]){350, 300, 250});
    assert_holds(s, scratch_path(s, "step-00000250"), 1, 5);
}

/* A run that fell back behind damaged checkpoints must not lose the one that it has just written. */
static void later_checkpoints_of_a_lost_run_do_not_count(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 2, 0, &s->log);
    save(&f, 300, 3);
    save(&f, 400, 4);
    save(&f, 120, 1);
    assert_list(s, 3, (const int64_t[]){400, 300, 120});
    save(&f, 140, 2);
    save(&f, 160, 2);
    assert_list(s, 4, (const int64_t[]){400, 300, 160, 140});
    save(&f, 300, 5);
    assert_list(s, 3, (const int64_t[]){400, 300, 160});
    close_fleet(&f);
    assert_holds(s, scratch_path(s, "step-00000300"), 1, 5);
}

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

static void an_existing_folder_of_the_step_is_replaced(void **state)
{
    scratch_t *s = *state;
    save_one(s, 5, 70, 1); /* by more ranks than the second time: its files must not stay behind */
    const char *path = save_one(s, 2, 70, 2);
    assert_holds(s, path, 3, 2);
    assert_false(scratch_exists(scratch_path(s, "step-00000070/rank-00004.bin")));
    assert_false(scratch_exists(scratch_path(s, "step-00000070.replaced")));
    assert_false(scratch_exists(scratch_path(s, "step-00000070.partial")));
}

static void what_a_crash_left_behind_is_overwritten(void **state)
{
    scratch_t *s = *state;
    static const char junk[] =
        "what another run had begun to write before it was killed, of any length";
    assert_int_equal(mkdir(scratch_path(s, "step-00000070.partial"), 0777), 0);
    scratch_write(scratch_path(s, "step-00000070.partial/meta"), junk, sizeof junk);
    scratch_write(scratch_path(s, "step-00000070.partial/rank-00000.bin"), junk, sizeof junk);
    assert_holds(s, save_one(s, 2, 70, 6), 1, 6);
}

/* ---- failing saves --------------------------------------------------------------------------------------------- */

/* A disk that is full after `bytes` of each file. */
static void limit_files(rlim_t bytes, struct rlimit *before)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, before), 0);
    limit = *before;
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_full_disk_leaves_the_old_checkpoint_whole(void **state)
{
    scratch_t *s = *state;
    static const rlim_t limits[] = {0, 63, 64, 200, 700};
    for (int i = 0; i < 10; i++) {
        struct rlimit before;
        fleet_t f;
        char partial[512], old[512], own[600];
        int64_t step = 100 * (i + 1);
        mpt_checkpoint_path(s->folder, step, old, sizeof old);
        mpt_checkpoint_path(s->folder, step + 1, partial, sizeof partial);
        strcat(partial, ".partial");
        snprintf(own, sizeof own, "%s/rank-00001.bin", partial);
        open_fleet(&f, s->folder, 2, 1, i % 2, &s->log);
        save(&f, step, 1);
        scratch_forget(s);
        fill(&f.layout, &f.arrays, 2);
        limit_files(limits[i / 2], &before);
        int failed = begin_all(&f, step + 1);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(failed, 2);
        assert_non_null(strstr(s->said, own));
        assert_false(scratch_exists(own));
        assert_int_equal(finish_all(&f, 0), MPT_OK);
        assert_false(scratch_exists(partial));
        assert_list(s, 1, &step);
        assert_holds(s, old, 1, 1);
        close_fleet(&f);
    }
}

static void after_a_failed_save_the_next_one_succeeds(void **state)
{
    scratch_t *s = *state;
    struct rlimit before;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 1, 1, &s->log);
    limit_files(100, &before);
    assert_int_equal(begin_all(&f, 1), 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(finish_all(&f, 0), MPT_OK);
    save(&f, 2, 7);
    close_fleet(&f);
    assert_holds(s, scratch_path(s, "step-00000002"), 3, 7);
}

static void a_disk_that_fills_at_the_commit_fails_the_save_alone(void **state)
{
    scratch_t *s = *state;
    struct rlimit before;
    fleet_t f;
    open_fleet(&f, s->folder, 3, 1, 1, &s->log);
    save(&f, 10, 1);
    assert_int_equal(begin_all(&f, 20), 0);
    limit_files(8, &before);
    mpt_status_t status = finish_all(&f, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, MPT_ERR_IO);
    assert_non_null(strstr(s->said, "step-00000020"));
    assert_false(scratch_exists(scratch_path(s, "step-00000020.partial")));
    assert_list(s, 1, (const int64_t[]){10});
    assert_holds(s, scratch_path(s, "step-00000010"), 2, 1);
    close_fleet(&f);
}

static void a_refused_commit_removes_the_partial_folder(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 3, 0, &s->log);
    assert_int_equal(begin_all(&f, 5), 0);
    assert_true(scratch_exists(scratch_path(s, "step-00000005.partial")));
    assert_int_equal(finish_all(&f, 0), MPT_OK); /* another rank's part had failed */
    assert_false(scratch_exists(scratch_path(s, "step-00000005.partial")));
    assert_list(s, 0, NULL);
    close_fleet(&f);
}

static void a_folder_that_cannot_be_made_is_an_error_at_once(void **state)
{
    scratch_t *s = *state;
    mpt_layout_t layout = build(1, "embed", 11);
    mpt_checkpoint_t *saver = NULL;
    char dir[600];
    scratch_write(scratch_path(s, "file"), "x", 1);
    snprintf(dir, sizeof dir, "%s/below", scratch_path(s, "file"));
    mpt_checkpoint_params_t params = {.dir = dir, .keep = 1, .layout = &layout, .log = &s->log};
    assert_int_equal(mpt_checkpoint_create(&params, &saver), MPT_ERR_IO);
    assert_non_null(strstr(s->said, dir));
    assert_null(saver);
    mpt_checkpoint_destroy(NULL);
    mpt_layout_release(&layout);
}

/* A session that ends between writing and committing loses that save and nothing else. */
static void destroying_with_a_save_in_flight_leaves_it_partial(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 3, 1, &s->log);
    for (int r = 0; r < 2; r++)
        mpt_checkpoint_begin(f.savers[r], &f.state, 5, META);
    close_fleet(&f);
    assert_list(s, 0, NULL);
    assert_true(scratch_exists(scratch_path(s, "step-00000005.partial/rank-00001.bin")));
}

/* ---- damage ---------------------------------------------------------------------------------------------------- */

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
        TEST(an_asynchronous_save_is_of_the_state_at_its_beginning),
        TEST(meta_reads_back_what_was_given),
        TEST(a_skipped_array_is_verified_all_the_same),
        TEST(verifying_reads_every_byte),
        TEST(the_newest_few_are_kept),
        TEST(later_checkpoints_of_a_lost_run_do_not_count),
        TEST(the_list_ignores_everything_but_committed_folders),
        TEST(a_short_list_holds_the_newest),
        TEST(an_existing_folder_of_the_step_is_replaced),
        TEST(what_a_crash_left_behind_is_overwritten),
        TEST(a_full_disk_leaves_the_old_checkpoint_whole),
        TEST(after_a_failed_save_the_next_one_succeeds),
        TEST(a_disk_that_fills_at_the_commit_fails_the_save_alone),
        TEST(a_refused_commit_removes_the_partial_folder),
        TEST(a_folder_that_cannot_be_made_is_an_error_at_once),
        TEST(destroying_with_a_save_in_flight_leaves_it_partial),
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
