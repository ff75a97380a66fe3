/*
 * Checkpoints for the tests: a small model whose state has bits of every kind, and a run's ranks, which save one
 * after the other in the test's own thread.
 */
#ifndef CHECKPOINT_FLEET_H
#define CHECKPOINT_FLEET_H

#include "checkpoint.h"
#include "scratch.h"

#define MAX_RANKS 5
#define META "applied = 41\nscale = 0x1p+16\n"

enum { TABLE = 6 };

/* Small, so that every byte of its files can be damaged in turn; slices cut through tensors. */
static inline mpt_layout_t build(int ranks, const char *first_name, int64_t first_rows)
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
static inline uint32_t pattern(uint64_t salt, int kind, int64_t i)
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

static inline arrays_t make_arrays(const mpt_layout_t *layout)
{
    arrays_t a;
    for (int k = 0; k < MPT_KIND_COUNT; k++) {
        a.kind[k] = calloc((size_t)layout->total, sizeof(float));
        assert_non_null(a.kind[k]);
    }
    return a;
}

static inline void free_arrays(arrays_t *a)
{
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        free(a->kind[k]);
}

static inline void fill(const mpt_layout_t *layout, arrays_t *a, uint64_t salt)
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

static inline void open_fleet(fleet_t *f, const char *dir, int ranks, int64_t keep,
                              int asynchronous, const mpt_log_t *log)
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

static inline void close_fleet(fleet_t *f)
{
    for (int r = 0; r < f->layout.ranks; r++) {
        mpt_checkpoint_destroy(f->savers[r]);
        free(f->snapshots[r]);
    }
    free_arrays(&f->arrays);
    mpt_layout_release(&f->layout);
}

/* Begin, wait; returns how many ranks failed. */
static inline int begin_all(fleet_t *f, int64_t step)
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

static inline mpt_status_t finish_all(fleet_t *f, int commit)
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

static inline void save(fleet_t *f, int64_t step, uint64_t salt)
{
    fill(&f->layout, &f->arrays, salt);
    assert_int_equal(begin_all(f, step), 0);
    assert_int_equal(finish_all(f, 1), MPT_OK);
}

/* A committed checkpoint of `ranks` ranks in the test's folder, and its path. */
static inline const char *save_one(scratch_t *s, int ranks, int64_t step, uint64_t salt)
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

static inline mpt_status_t try_load(const char *path, const mpt_layout_t *layout, arrays_t *a,
                                    const mpt_log_t *log)
{
    mpt_checkpoint_meta_t meta;
    mpt_status_t status = mpt_checkpoint_read_meta(path, log, &meta);
    if (status != MPT_OK)
        return status;
    return mpt_checkpoint_load(&meta, layout, a->kind, log);
}

static inline void assert_holds(scratch_t *s, const char *path, int ranks, uint64_t salt)
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

static inline void assert_list(const scratch_t *s, int count, const int64_t *expected)
{
    int64_t steps[16];
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 16), count);
    for (int i = 0; i < count; i++)
        assert_int_equal(steps[i], expected[i]);
}

#endif
