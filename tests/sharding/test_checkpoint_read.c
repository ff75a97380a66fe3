#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <xxhash.h>
#include "checkpoint_fleet.h"
#include "checkpoint_format.h"

/* Every shard mode, by one to eight ranks; groups, lanes, EMA, and no masters in every type. */
static const setup_t setups[] = {
    {.ranks = 1, .shard = MPT_SHARD_DDP},
    {.ranks = 2, .shard = MPT_SHARD_DDP, .with_ema = 1},
    {.ranks = 3, .shard = MPT_SHARD_DDP, .compute = MPT_BF16},
    {.ranks = 8, .shard = MPT_SHARD_DDP, .masterless = 1, .compute = MPT_BF16},
    {.ranks = 1, .shard = MPT_SHARD_ZERO1, .with_ema = 1},
    {.ranks = 4, .shard = MPT_SHARD_ZERO1, .compute = MPT_F16, .with_ema = 1},
    {.ranks = 3, .shard = MPT_SHARD_ZERO1, .masterless = 1, .compute = MPT_BF16},
    {.ranks = 2, .shard = MPT_SHARD_ZERO2, .compute = MPT_BF16},
    {.ranks = 8, .shard = MPT_SHARD_ZERO2, .with_ema = 1},
    {.ranks = 4, .shard = MPT_SHARD_ZERO2, .masterless = 1, .compute = MPT_F16, .with_ema = 1},
    {.ranks = 2, .shard = MPT_SHARD_ZERO3, .with_ema = 1},
    {.ranks = 3, .shard = MPT_SHARD_ZERO3, .compute = MPT_BF16},
    {.ranks = 8, .shard = MPT_SHARD_ZERO3, .compute = MPT_F16},
    {.ranks = 4, .shard = MPT_SHARD_ZERO3, .masterless = 1, .compute = MPT_BF16},
    {.ranks = 2, .shard = MPT_SHARD_ZERO3, .masterless = 1, .compute = MPT_F32},
    {.ranks = 4, .group = 2, .shard = MPT_SHARD_HSDP, .with_ema = 1},
    {.ranks = 8, .group = 2, .shard = MPT_SHARD_HSDP, .compute = MPT_BF16},
    {.ranks = 8,
     .group = 4,
     .shard = MPT_SHARD_HSDP,
     .masterless = 1,
     .compute = MPT_BF16,
     .with_ema = 1},
    {.ranks = 4, .group = 1, .shard = MPT_SHARD_HSDP},
    {.ranks = 2, .lanes = 8, .shard = MPT_SHARD_ZERO2, .with_ema = 1},
    {.ranks = 2, .lanes = 8, .shard = MPT_SHARD_DDP, .compute = MPT_BF16},
    {.ranks = 4, .group = 2, .lanes = 8, .shard = MPT_SHARD_HSDP, .compute = MPT_F16},
};
enum { SETUPS = sizeof setups / sizeof *setups };

static void saved_in_any_mode_loads_in_any_other(void **state)
{
    scratch_t *s = *state;
    for (int saved = 0; saved < SETUPS; saved++) {
        const char *path = save_setup(s, &setups[saved], saved % 2, saved, (uint64_t)saved);
        for (int loading = 0; loading < SETUPS; loading++)
            assert_loads(s, path, &setups[saved], (uint64_t)saved, &setups[loading]);
        assert_string_equal(s->said, "");
    }
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

static void meta_names_run_and_kinds(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_meta_t meta;
    const setup_t with_ema = {.ranks = 2, .shard = MPT_SHARD_ZERO1, .with_ema = 1};
    const char *path = save_setup(s, &with_ema, 0, 1, 1);
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    assert_int_equal(meta.version, 2);
    assert_int_equal(meta.run >> 16, 0xfedcba987654);
    assert_non_null(strstr(meta.text, "kinds = master m v ema\n"));
    assert_int_equal(mpt_checkpoint_kinds(&meta), BASIC | 1u << MPT_KIND_EMA);
    uint64_t run = meta.run;
    path = save_one(s, 2, 2, 1);
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    assert_true(meta.run != run);
    assert_non_null(strstr(meta.text, "kinds = master m v\n"));
    assert_int_equal(mpt_checkpoint_kinds(&meta), BASIC);
    assert_string_equal(mpt_checkpoint_kind_name(MPT_KIND_EMA), "ema");
}

/* ---- kinds and chunks ---------------------------------------------------------------------------- */

static void kinds_that_are_not_asked_for_are_not_read(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 2, 4, 9);
    mpt_layout_t layout = build(3, "embed", 11);
    mpt_checkpoint_meta_t meta;
    size_t bytes;
    char *file = scratch_read(scratch_path(s, "step-00000004/rank-00001.bin"), &bytes);
    file[bytes - 1] ^= 1; /* in v */
    scratch_write(scratch_path(s, "step-00000004/rank-00001.bin"), file, bytes);
    free(file);
    assert_int_equal(try_load(path, &layout, 1u << MPT_KIND_MASTER | 1u << MPT_KIND_M, &s->log),
                     MPT_OK);
    assert_int_equal(try_load(path, &layout, 1u << MPT_KIND_V, &s->log), MPT_ERR_CHECKPOINT);
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    assert_int_equal(mpt_checkpoint_verify(&meta, &s->log, NULL), MPT_ERR_CHECKPOINT);
    mpt_layout_release(&layout);
}

static void a_kind_that_was_not_saved_is_refused(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 2, 4, 9);
    mpt_layout_t layout = build(3, "embed", 11);
    assert_int_equal(try_load(path, &layout, BASIC | 1u << MPT_KIND_EMA, &s->log),
                     MPT_ERR_CHECKPOINT);
    assert_non_null(strstr(s->said, "step-00000004: holds no ema"));
    mpt_layout_release(&layout);
}

/* Counts how often each element came; fails from chunk `fail_at` on. */
typedef struct tally {
    const mpt_layout_t *layout;
    unsigned char *seen[MPT_KIND_COUNT];
    int64_t largest;
    int chunks, fail_at;
} tally_t;

static mpt_status_t count(void *ctx, mpt_checkpoint_kind_t kind, int tensor, int64_t first,
                          int64_t n, const float *values)
{
    tally_t *tally = ctx;
    tally->largest = n > tally->largest ? n : tally->largest;
    assert_true(first >= 0 && n > 0 &&
                first + n <= mpt_tensor_count(&tally->layout->tensors[tensor]));
    for (int64_t i = 0; i < n; i++) {
        int64_t global = tally->layout->tensors[tensor].first + first + i;
        uint32_t bits = pattern(3, (int)kind, global);
        if (memcmp(&values[i], &bits, sizeof bits) != 0)
            fail_msg("element %lld differs", (long long)global);
        tally->seen[kind][global]++;
    }
    return ++tally->chunks < tally->fail_at ? MPT_OK : MPT_ERR_DIVERGED;
}

static void every_element_comes_once_in_chunks_of_a_mebibyte(void **state)
{
    scratch_t *s = *state;
    setup_t setup = plain(2);
    setup.rows = 90001;
    const char *path = save_setup(s, &setup, 1, 1, 3);
    mpt_layout_t layout = build(1, "embed", 90001);
    mpt_checkpoint_meta_t meta;
    tally_t tally = {.layout = &layout, .fail_at = 1000};
    mpt_checkpoint_sink_t sink = {.put = count, .ctx = &tally};
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        tally.seen[k] = calloc((size_t)layout.parameters, 1);
    assert_int_equal(
        mpt_checkpoint_load(&meta, &layout, 1u << MPT_KIND_M | 1u << MPT_KIND_V, &sink, &s->log),
        MPT_OK);
    assert_int_equal(tally.largest * (int64_t)sizeof(float), 1 << 20);
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        for (int64_t i = 0; i < layout.parameters; i++)
            if (tally.seen[k][i] != (k == MPT_KIND_M || k == MPT_KIND_V))
                fail_msg("kind %d, element %lld came %d times", k, (long long)i, tally.seen[k][i]);
    tally.chunks = 0;
    tally.fail_at = 3;
    assert_int_equal(mpt_checkpoint_load(&meta, &layout, 1u << MPT_KIND_M, &sink, &s->log),
                     MPT_ERR_DIVERGED);
    assert_int_equal(tally.chunks, 3);
    assert_int_equal(s->lines, 0);
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        free(tally.seen[k]);
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

/* What lies there is not known then: a run must not start as if it were nothing. */
static void a_folder_that_cannot_be_listed_is_no_empty_one(void **state)
{
    scratch_t *s = *state;
    int64_t steps[3];
    int count = 7;
    const char *file = scratch_path(s, "file"), *loop = scratch_path(s, "loop");
    scratch_write(file, "x", 1);
    assert_int_equal(mpt_checkpoint_list(file, steps, 3), -1);
    assert_int_equal(errno, ENOTDIR);
    assert_int_equal(symlink(loop, loop), 0);
    assert_int_equal(mpt_checkpoint_list(loop, steps, 3), -1);
    assert_int_equal(errno, ELOOP);
    assert_int_equal(mpt_checkpoint_look(loop, steps, 3, &s->log, &count), MPT_ERR_IO);
    assert_int_equal(count, 7);
    assert_non_null(strstr(s->said, loop));
    assert_non_null(strstr(s->said, strerror(ELOOP)));
    assert_int_equal(mpt_checkpoint_look(scratch_path(s, "nowhere"), steps, 3, &s->log, &count), MPT_OK);
    assert_int_equal(count, 0);
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
    mpt_checkpoint_meta_t meta;
    scratch_forget(s);
    assert_int_equal(try_load(path, &layout, BASIC, &s->log), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    if (strstr(s->said, file) == NULL)
        fail_msg("'%s' does not name %s", s->said, file);
    if (mpt_checkpoint_read_meta(path, NULL, &meta) == MPT_OK) {
        scratch_forget(s);
        assert_int_equal(mpt_checkpoint_verify(&meta, &s->log, NULL), MPT_ERR_CHECKPOINT);
        assert_non_null(strstr(s->said, file));
    }
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

/* The same step saved by two runs: only the run id tells their files apart. */
static void files_of_two_saves_are_refused(void **state)
{
    scratch_t *s = *state;
    char path[512], name[600];
    size_t bytes;
    snprintf(path, sizeof path, "%s", save_one(s, 2, 3, 1));
    snprintf(name, sizeof name, "%s/rank-00001.bin", path);
    char *first = scratch_read(name, &bytes);
    save_one(s, 2, 3, 2);
    assert_holds(s, path, 2, 2);
    scratch_write(name, first, bytes);
    free(first);
    assert_damaged(s, path, name);
    assert_non_null(strstr(s->said, "belongs to another save"));
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
        scratch_forget(s);
        assert_int_equal(try_load(path, &layout, BASIC, &s->log), MPT_ERR_CHECKPOINT);
        assert_non_null(strstr(s->said, "step-00000003/rank-00000.bin"));
        assert_non_null(strstr(s->said, "another model"));
        mpt_layout_release(&layout);
    }
}

/* Make a header's checksum right again: damage that no checksum shows. */
static void seal(checkpoint_header_t *header)
{
    const checkpoint_extent_t *table = (const checkpoint_extent_t *)(const void *)(header + 1);
    header->checksum =
        XXH3_64bits_withSeed(table, header->extent_count * sizeof *table,
                             XXH3_64bits(header, offsetof(checkpoint_header_t, checksum)));
}

static void forge(const char *name,
                  void (*change)(checkpoint_header_t *header, checkpoint_extent_t *table))
{
    size_t bytes;
    char *file = scratch_read(name, &bytes);
    checkpoint_header_t *header = (checkpoint_header_t *)(void *)file;
    change(header, (checkpoint_extent_t *)(void *)(header + 1));
    seal(header);
    scratch_write(name, file, bytes);
    free(file);
}

/* Write the file anew with `count` rows, row i being the old file's row rows[i], payload and all. */
static void rebuild(const char *name, const uint32_t *rows, uint32_t count_of_rows)
{
    size_t bytes;
    char *old = scratch_read(name, &bytes), *new = calloc(bytes, 2);
    const checkpoint_extent_t *from = (const void *)(old + sizeof(checkpoint_header_t));
    checkpoint_header_t *header = (checkpoint_header_t *)(void *)new;
    checkpoint_extent_t *table = (checkpoint_extent_t *)(void *)(header + 1);
    uint64_t at = sizeof *header + count_of_rows * sizeof *table;
    memcpy(header, old, sizeof *header);
    for (uint32_t i = 0; i < count_of_rows; i++) {
        table[i] = from[rows[i]];
        table[i].offset = at;
        memcpy(new + at, old + from[rows[i]].offset, table[i].count * sizeof(float));
        at += table[i].count * sizeof(float);
    }
    header->extent_count = count_of_rows;
    header->file_bytes = at;
    seal(header);
    scratch_write(name, new, at);
    free(old);
    free(new);
}

/* A file of one rank has six tensors of three kinds: rows 0 to 17, kind after kind. */
static void an_element_too_many_or_too_few_is_found(void **state)
{
    scratch_t *s = *state;
    static const struct {
        int row, twice; /* row dropped, or held twice */
        const char *why;
    } cases[] = {{0, 0, "master: tensor 0 embed: element 0 is missing"},
                 {7, 0, "m: tensor 1 place: element 0 is missing"},
                 {17, 0, "v: tensor 5 two: element 0 is missing"},
                 {6, 1, "m: tensor 0 embed: element 0 comes twice"},
                 {16, 1, "v: tensor 4 one: element 0 comes twice"}};
    for (int i = 0; i < 5; i++) {
        mpt_layout_t layout = build(3, "embed", 11);
        mpt_checkpoint_meta_t meta;
        uint32_t rows[19], n = 0;
        const char *path = save_one(s, 1, i, 1);
        char name[600];
        snprintf(name, sizeof name, "%s/rank-00000.bin", path);
        for (int row = 0; row < 18; row++)
            for (int times = row == cases[i].row ? 2 * cases[i].twice : 1; times > 0; times--)
                rows[n++] = (uint32_t)row;
        rebuild(name, rows, n);
        scratch_forget(s);
        assert_int_equal(try_load(path, &layout, BASIC, &s->log), MPT_ERR_CHECKPOINT);
        if (strstr(s->said, cases[i].why) == NULL)
            fail_msg("'%s' does not say '%s'", s->said, cases[i].why);
        assert_int_equal(try_load(path, &layout, 0, &s->log), MPT_ERR_CHECKPOINT);
        assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
        assert_int_equal(mpt_checkpoint_verify(&meta, &s->log, NULL), MPT_ERR_CHECKPOINT);
        mpt_layout_release(&layout);
    }
}

static void be_of_another_step(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)table;
    header->step++;
}

/* One run's files of two steps: their run id is the same. */
static void files_of_one_runs_two_steps_are_refused(void **state)
{
    scratch_t *s = *state;
    const char *path = save_one(s, 2, 3, 1);
    char name[600];
    snprintf(name, sizeof name, "%s/rank-00001.bin", path);
    forge(name, be_of_another_step);
    assert_damaged(s, path, name);
    assert_non_null(strstr(s->said, "belongs to another save"));
}

/* The order of rows is the writer's; a reader needs none. */
static void rows_in_another_order_load_as_well(void **state)
{
    scratch_t *s = *state;
    uint32_t rows[18];
    const char *path = save_one(s, 1, 3, 4);
    for (uint32_t row = 0; row < 18; row++)
        rows[row] = (row * 7 + 5) % 18;
    rebuild(scratch_path(s, "step-00000003/rank-00000.bin"), rows, 18);
    assert_holds(s, path, 3, 4);
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

static void wrap_around(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)header;
    table[0].first = UINT64_MAX - 1;
}

static void claim_too_much(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)header;
    table[17].count = UINT64_MAX / sizeof(float);
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

static void name_a_kind_that_is_not_held(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)header;
    table[1].kind = MPT_KIND_EMA;
}

static void read_the_same_bytes_twice(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)header;
    table[5].offset = table[4].offset;
}

/* A table that runs on behind the end of the file, whose checksum cannot be known. */
static void have_no_end(const char *name)
{
    size_t bytes;
    char *file = scratch_read(name, &bytes);
    ((checkpoint_header_t *)(void *)file)->extent_count = UINT32_MAX;
    scratch_write(name, file, bytes);
    free(file);
}

static void tables_that_do_not_fit_the_model_are_refused(void **state)
{
    scratch_t *s = *state;
    static const struct {
        void (*change)(checkpoint_header_t *header, checkpoint_extent_t *table);
        const char *why;
    } cases[] = {{drop_an_extent, "not where"},
                 {leave_the_tensor, "outside"},
                 {wrap_around, "outside"},
                 {claim_too_much, "outside"},
                 {name_no_tensor, "outside"},
                 {name_no_kind, "outside"},
                 {name_a_kind_that_is_not_held, "outside"},
                 {read_the_same_bytes_twice, "not where"},
                 {NULL, "table of extents"}};
    for (int i = 0; i < 9; i++) {
        mpt_layout_t layout = build(3, "embed", 11);
        mpt_checkpoint_meta_t meta;
        const char *path = save_one(s, 1, i, 1);
        char name[600];
        snprintf(name, sizeof name, "%s/rank-00000.bin", path);
        if (cases[i].change != NULL)
            forge(name, cases[i].change);
        else
            have_no_end(name);
        scratch_forget(s);
        assert_int_equal(try_load(path, &layout, BASIC, &s->log), MPT_ERR_CHECKPOINT);
        if (strstr(s->said, cases[i].why) == NULL)
            fail_msg("'%s' does not say '%s'", s->said, cases[i].why);
        assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
        assert_int_equal(mpt_checkpoint_verify(&meta, &s->log, NULL), MPT_ERR_CHECKPOINT);
        mpt_layout_release(&layout);
    }
}

/* ---- versions ------------------------------------------------------------------------------------ */

/* Meta as an older program wrote it: neither run nor kinds. */
static void write_old_meta(const char *name, int step, int ranks)
{
    char text[256];
    int n = snprintf(text, sizeof text, "mpt-ddp checkpoint = 1\nstep = %d\nranks = %d\n" META,
                     step, ranks);
    n += snprintf(text + n, sizeof text - (size_t)n, "xxh3 = %016llx\n",
                  (unsigned long long)XXH3_64bits(text, (size_t)n));
    scratch_write(name, text, (size_t)n);
}

static void make_old(checkpoint_header_t *header, checkpoint_extent_t *table)
{
    (void)table;
    header->version = 1;
    header->run = 0;
}

static void version_one_is_still_read(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_meta_t meta;
    const char *path = save_one(s, 2, 3, 8);
    char name[2][512];
    for (int r = 0; r < 2; r++) {
        snprintf(name[r], sizeof name[r], "%s/step-00000003/rank-%05d.bin", s->folder, r);
        forge(name[r], make_old);
    }
    assert_damaged(s, path, name[0]); /* meta is newer than they are */
    write_old_meta(scratch_path(s, "step-00000003/meta"), 3, 2);
    assert_holds(s, path, 3, 8);
    assert_int_equal(mpt_checkpoint_read_meta(path, &s->log, &meta), MPT_OK);
    assert_int_equal(meta.version, 1);
    assert_int_equal(meta.run, 0);
    assert_int_equal(mpt_checkpoint_kinds(&meta), BASIC);
    assert_int_equal(mpt_checkpoint_verify(&meta, &s->log, NULL), MPT_OK);
    save_one(s, 2, 3, 9);
    write_old_meta(scratch_path(s, "step-00000003/meta"), 3, 2);
    assert_damaged(s, path, name[0]); /* meta is older */
}

/* A meta that is whole but of a version to come. */
static void a_newer_version_says_so(void **state)
{
    scratch_t *s = *state;
    char text[256];
    mpt_checkpoint_meta_t meta;
    save_one(s, 1, 3, 1);
    int n = snprintf(text, sizeof text, "mpt-ddp checkpoint = 3\nstep = 3\nranks = 1\n");
    n += snprintf(text + n, sizeof text - (size_t)n, "xxh3 = %016llx\n",
                  (unsigned long long)XXH3_64bits(text, (size_t)n));
    scratch_write(scratch_path(s, "step-00000003/meta"), text, (size_t)n);
    assert_int_equal(mpt_checkpoint_read_meta(scratch_path(s, "step-00000003"), &s->log, &meta),
                     MPT_ERR_CHECKPOINT);
    assert_non_null(strstr(s->said, "version 3"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(saved_in_any_mode_loads_in_any_other),
        TEST(meta_reads_back_what_was_given),
        TEST(meta_names_run_and_kinds),
        TEST(kinds_that_are_not_asked_for_are_not_read),
        TEST(a_kind_that_was_not_saved_is_refused),
        TEST(every_element_comes_once_in_chunks_of_a_mebibyte),
        TEST(verifying_reads_every_byte),
        TEST(the_list_ignores_everything_but_committed_folders),
        TEST(a_folder_that_cannot_be_listed_is_no_empty_one),
        TEST(a_short_list_holds_the_newest),
        TEST(any_damaged_byte_of_meta_is_found),
        TEST(any_damaged_byte_of_a_ranks_file_is_found),
        TEST(a_file_of_another_length_is_found),
        TEST(files_that_changed_places_are_found),
        TEST(a_file_of_another_step_or_rank_count_is_found),
        TEST(files_of_two_saves_are_refused),
        TEST(another_models_checkpoint_is_refused),
        TEST(tables_that_do_not_fit_the_model_are_refused),
        TEST(an_element_too_many_or_too_few_is_found),
        TEST(files_of_one_runs_two_steps_are_refused),
        TEST(rows_in_another_order_load_as_well),
        TEST(version_one_is_still_read),
        TEST(a_newer_version_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
