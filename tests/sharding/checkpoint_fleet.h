/*
 * Checkpoints for the tests: a small model whose state has bits of every kind, held in any shard mode, and a run's
 * ranks, which save and load one after the other in the test's own thread.
 */
#ifndef CHECKPOINT_FLEET_H
#define CHECKPOINT_FLEET_H

#include "checkpoint.h"
#include "numeric.h"
#include "scratch.h"

#define MAX_RANKS 8
#define META "applied = 41\nscale = 0x1p+16\n"
#define BASIC (1u << MPT_KIND_MASTER | 1u << MPT_KIND_M | 1u << MPT_KIND_V)

enum { TABLE = 6 };

/* How a run keeps its state. */
typedef struct setup {
    int ranks, group, lanes;
    mpt_shard_t shard;
    int masterless, with_ema;
    mpt_dtype_t compute;
    int64_t rows; /* of the first tensor; 0: 11 */
} setup_t;

static inline setup_t plain(int ranks)
{
    return (setup_t){.ranks = ranks, .shard = MPT_SHARD_DDP};
}

/* Small, so that every byte of its files can be damaged in turn; slices cut through tensors. */
static inline mpt_layout_t build_cut(const mpt_layout_cut_t *cut, const char *first_name,
                                     int64_t first_rows)
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
    assert_int_equal(mpt_layout_build(table, TABLE, cut, &layout), MPT_OK);
    return layout;
}

static inline mpt_layout_t build(int ranks, const char *first_name, int64_t first_rows)
{
    return build_cut(&(mpt_layout_cut_t){.ranks = ranks}, first_name, first_rows);
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

/* What a run kept as `setup` says holds there, in FP32. */
static inline float value_of(const setup_t *setup, uint64_t salt, int kind, int64_t i)
{
    float value = mpt_f32_from_bits(pattern(salt, kind, i));
    uint16_t rounded;
    if (kind != MPT_KIND_MASTER || !setup->masterless || setup->compute == MPT_F32)
        return value;
    mpt_convert(&rounded, setup->compute, &value, MPT_F32, 1);
    mpt_convert(&value, MPT_F32, &rounded, setup->compute, 1);
    return value;
}

/* ---- states ------------------------------------------------------------------------------------------------- */

typedef struct fleet {
    setup_t setup;
    mpt_layout_t layout;
    mpt_device_t *device;
    mpt_arena_t private_arenas[MAX_RANKS], peer_arenas[MAX_RANKS];
    mpt_state_t states[MAX_RANKS];
    mpt_checkpoint_t *savers[MAX_RANKS]; /* NULL: it only loads */
    float *snapshots[MAX_RANKS];
    mpt_pool_t *pool; /* borrowed */
} fleet_t;

static inline mpt_state_params_t state_params(const fleet_t *f, int rank)
{
    return (mpt_state_params_t){.layout = &f->layout,
                                .rank = rank,
                                .shard = f->setup.shard,
                                .compute = f->setup.compute,
                                .wire = MPT_F32,
                                .micro_steps = 1,
                                .lanes = f->layout.lanes / f->layout.ranks,
                                .with_master = !f->setup.masterless,
                                .with_ema = f->setup.with_ema};
}

static inline void open_states(fleet_t *f, const setup_t *setup, const mpt_log_t *log)
{
    mpt_layout_cut_t cut = {.ranks = setup->ranks, .group = setup->group, .lanes = setup->lanes};
    *f = (fleet_t){.setup = *setup,
                   .layout = build_cut(&cut, "embed", setup->rows > 0 ? setup->rows : 11)};
    assert_int_equal(mpt_device_cpu_create(NULL, log, &f->device), MPT_OK);
    for (int r = 0; r < setup->ranks; r++) {
        mpt_state_params_t params = state_params(f, r);
        mpt_arena_t counted[2];
        mpt_arena_init_counting(&counted[0]);
        mpt_arena_init_counting(&counted[1]);
        mpt_state_cut(&f->states[r], &params, &counted[0], &counted[1]);
        assert_int_equal(
            mpt_arena_init(&f->private_arenas[r], f->device, MPT_MEM_PRIVATE, counted[0].used),
            MPT_OK);
        assert_int_equal(
            mpt_arena_init(&f->peer_arenas[r], f->device, MPT_MEM_PRIVATE, counted[1].used),
            MPT_OK);
        mpt_state_cut(&f->states[r], &params, &f->private_arenas[r], &f->peer_arenas[r]);
    }
}

static inline size_t held_bytes(const mpt_layout_t *layout, const mpt_held_t *held)
{
    return (size_t)mpt_held_count(layout, held->hold) * mpt_dtype_bytes(held->dtype);
}

/* What this rank owns of one kind. */
static inline void fill_owned(mpt_state_t *state, const mpt_held_t *held, int kind,
                              const setup_t *origin, uint64_t salt)
{
    mpt_extent_t own[TABLE];
    int pieces, index;
    mpt_state_owned(state, &pieces, &index);
    int count = mpt_layout_extents(state->layout, pieces, index, own);
    for (int e = 0; e < count; e++)
        for (int64_t i = 0; i < own[e].count; i++) {
            int64_t global = state->layout->tensors[own[e].tensor].first + own[e].first + i;
            float value = value_of(origin, salt, kind, global);
            void *at = mpt_held_at(state, held, own[e].at + i);
            if (held->dtype == MPT_F32)
                memcpy(at, &value, sizeof value);
            else
                mpt_convert(at, held->dtype, &value, MPT_F32, 1);
        }
}

/* Fill in what every rank looks after, as a run kept like `origin` had it; `junk` goes everywhere else. */
static inline void fill(fleet_t *f, const setup_t *origin, uint64_t salt, unsigned kinds, int junk)
{
    for (int r = 0; r < f->layout.ranks; r++)
        for (int k = 0; k < MPT_KIND_COUNT; k++) {
            const mpt_held_t *held = mpt_checkpoint_held(&f->states[r], (mpt_checkpoint_kind_t)k);
            if (held->data == NULL || !(kinds >> k & 1))
                continue;
            memset(held->data, junk, held_bytes(&f->layout, held));
            fill_owned(&f->states[r], held, k, origin, salt);
        }
}

/* ---- saving by all ranks, one after the other in this thread -------------------------------------------- */

static inline void open_savers(fleet_t *f, const char *dir, int64_t keep, int asynchronous,
                               const mpt_log_t *log)
{
    static uint64_t runs = 0xfedcba9876540000u;
    runs++;
    for (int r = 0; r < f->layout.ranks; r++) {
        mpt_state_params_t params = state_params(f, r);
        if (asynchronous)
            f->snapshots[r] = malloc(mpt_checkpoint_snapshot_bytes(&params));
        mpt_checkpoint_params_t saver = {.dir = dir,
                                         .keep = keep,
                                         .state = &f->states[r],
                                         .pool = f->pool,
                                         .log = log,
                                         .rank = r,
                                         .run = runs,
                                         .snapshot = f->snapshots[r]};
        assert_int_equal(mpt_checkpoint_create(&saver, &f->savers[r]), MPT_OK);
        assert_int_equal(mpt_checkpoint_progress(f->savers[r]), MPT_SAVE_IDLE);
        assert_int_equal(mpt_checkpoint_step(f->savers[r]), -1);
    }
    mpt_checkpoint_clean(dir);
}

static inline void open_fleet(fleet_t *f, const char *dir, int ranks, int64_t keep,
                              int asynchronous, const mpt_log_t *log)
{
    setup_t setup = plain(ranks);
    open_states(f, &setup, log);
    open_savers(f, dir, keep, asynchronous, log);
}

static inline void close_fleet(fleet_t *f)
{
    for (int r = 0; r < f->layout.ranks; r++) {
        mpt_checkpoint_destroy(f->savers[r]);
        free(f->snapshots[r]);
        mpt_arena_release(&f->private_arenas[r]);
        mpt_arena_release(&f->peer_arenas[r]);
    }
    mpt_device_destroy(f->device);
    mpt_layout_release(&f->layout);
}

/* Begin, wait; returns how many ranks failed. */
static inline int begin_all(fleet_t *f, int64_t step)
{
    int failed = 0;
    for (int r = 0; r < f->layout.ranks; r++)
        mpt_checkpoint_begin(f->savers[r], step, META);
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
    fill(f, &f->setup, salt, ~0u, 0x5a);
    assert_int_equal(begin_all(f, step), 0);
    assert_int_equal(finish_all(f, 1), MPT_OK);
}

/* A committed checkpoint of such a run in the test's folder, and its path. */
static inline const char *save_setup(scratch_t *s, const setup_t *setup, int asynchronous,
                                     int64_t step, uint64_t salt)
{
    static char path[512];
    fleet_t f;
    open_states(&f, setup, &s->log);
    open_savers(&f, s->folder, 1000, asynchronous, &s->log);
    save(&f, step, salt);
    close_fleet(&f);
    mpt_checkpoint_path(s->folder, step, path, sizeof path);
    return path;
}

static inline const char *save_one(scratch_t *s, int ranks, int64_t step, uint64_t salt)
{
    setup_t setup = plain(ranks);
    return save_setup(s, &setup, 0, step, salt);
}

/* ---- loading ------------------------------------------------------------------------------------------------ */

static inline mpt_status_t drop(void *ctx, mpt_checkpoint_kind_t kind, int tensor, int64_t first,
                                int64_t count, const float *values)
{
    (void)ctx;
    (void)kind;
    (void)tensor;
    (void)first;
    (void)count;
    (void)values;
    return MPT_OK;
}

/* Read it all and keep nothing. */
static inline mpt_status_t try_load(const char *path, const mpt_layout_t *layout, unsigned kinds,
                                    const mpt_log_t *log)
{
    mpt_checkpoint_meta_t meta;
    mpt_checkpoint_sink_t sink = {.put = drop};
    mpt_status_t status = mpt_checkpoint_read_meta(path, log, &meta);
    return status == MPT_OK ? mpt_checkpoint_load(&meta, layout, kinds, &sink, log) : status;
}

static inline void assert_same_states(const fleet_t *got, const fleet_t *expected)
{
    for (int r = 0; r < got->layout.ranks; r++)
        for (int k = 0; k < MPT_KIND_COUNT; k++) {
            const mpt_held_t *a = mpt_checkpoint_held(&got->states[r], (mpt_checkpoint_kind_t)k);
            const mpt_held_t *b =
                mpt_checkpoint_held(&expected->states[r], (mpt_checkpoint_kind_t)k);
            if (a->data != NULL) /* padding and reserve too: they stayed zero */
                assert_memory_equal(a->data, b->data, held_bytes(&got->layout, a));
        }
}

/* What a run kept like `saved` wrote is what a run kept like `loading` gets. */
static inline void assert_loads(scratch_t *s, const char *path, const setup_t *saved, uint64_t salt,
                                const setup_t *loading)
{
    fleet_t got, expected;
    mpt_checkpoint_meta_t meta;
    open_states(&got, loading, &s->log);
    open_states(&expected, loading, &s->log);
    scratch_forget(s);
    if (mpt_checkpoint_read_meta(path, &s->log, &meta) != MPT_OK)
        fail_msg("%s", s->said);
    unsigned kinds = mpt_checkpoint_kinds(&meta);
    fill(&expected, saved, salt, kinds, 0);
    for (int r = 0; r < loading->ranks; r++) {
        mpt_checkpoint_sink_t sink = mpt_checkpoint_state_sink(&got.states[r]);
        if (mpt_checkpoint_load(&meta, &got.layout, kinds, &sink, &s->log) != MPT_OK)
            fail_msg("%s", s->said);
    }
    assert_same_states(&got, &expected);
    close_fleet(&got);
    close_fleet(&expected);
}

static inline void assert_holds(scratch_t *s, const char *path, int ranks, uint64_t salt)
{
    setup_t loading = plain(ranks), saved = plain(1);
    assert_loads(s, path, &saved, salt, &loading);
}

static inline void assert_list(const scratch_t *s, int count, const int64_t *expected)
{
    int64_t steps[16];
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 16), count);
    for (int i = 0; i < count; i++)
        assert_int_equal(steps[i], expected[i]);
}

#endif
