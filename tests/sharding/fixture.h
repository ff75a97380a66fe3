/*
 * What one rank holds of sharding (device, arenas, state, kernels), alone or as one of several threads that share
 * communicators, and the numbers to fill it with. Flat arrays of the tests run over the layout's offsets, as FP32; values
 * depend on the global element, so that layouts of different cuts hold the same.
 *
 * The body of a rank must not use cmocka's assertions: it returns 0 or a number that says what failed.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "boot.h"
#include "gather.h"
#include "numeric.h"
#include "optimizer.h"
#include "pool.h"
#include "reducer.h"
#include "replica.h"

#define FIXTURE_MAX_RANKS 8

typedef struct fixture_rank fixture_rank_t;

typedef struct fixture {
    const mpt_layout_t *layout;
    mpt_shard_t shard;
    mpt_dtype_t compute, wire;
    int64_t micro_steps; /* 0: one a lane */
    int reduce_micro, without_master, with_ema;
    int threads;         /* of each rank's pool; 0: one */
    int unregistered;    /* 1: communicators are not told about the peer arena */
    int threaded;        /* 1: reductions and gathers run on a helper thread */
    const char *kernels; /* NULL: "cpu" */
    int (*body)(fixture_rank_t *rank);
    void *ctx;
} fixture_t;

struct fixture_rank {
    const fixture_t *fixture;
    const mpt_layout_t *layout;
    int rank;
    mpt_pool_t *pool;
    mpt_device_t *device;
    mpt_stream_t *stream;
    mpt_arena_t private_arena, peer_arena;
    mpt_state_t state;
    mpt_kernels_t kernels;
    void *kernels_scratch;
    mpt_worker_t *worker; /* with what its jobs use */
    mpt_pool_t *worker_pool;
    mpt_device_t *worker_device;
    mpt_stream_t *worker_stream;
    mpt_kernels_t worker_kernels;
    void *worker_scratch;
    /* only where ranks run together */
    mpt_comm_t *comm, *group, *across;
    mpt_reducer_t reducer;
    mpt_gather_t gather;
    void *ctx;
};

/* ---- one rank alone ------------------------------------------------------------------------------------ */

static inline void fixture_require(int holds)
{
    if (!holds)
        abort();
}

static inline void fixture_cut(fixture_rank_t *rank)
{
    const fixture_t *f = rank->fixture;
    int lanes = f->layout->lanes / f->layout->ranks;
    mpt_state_params_t params = {.layout = f->layout,
                                 .rank = rank->rank,
                                 .shard = f->shard,
                                 .compute = f->compute,
                                 .wire = f->wire,
                                 .micro_steps = f->micro_steps > 0 ? f->micro_steps : lanes,
                                 .lanes = lanes,
                                 .reduce_micro = f->reduce_micro,
                                 .with_master = !f->without_master,
                                 .with_ema = f->with_ema};
    mpt_arena_t private_count, peer_count;
    mpt_arena_init_counting(&private_count);
    mpt_arena_init_counting(&peer_count);
    mpt_state_cut(&rank->state, &params, &private_count, &peer_count);
    fixture_require(mpt_arena_init(&rank->private_arena, rank->device, MPT_MEM_PRIVATE,
                                   private_count.used) == MPT_OK);
    fixture_require(
        mpt_arena_init(&rank->peer_arena, rank->device, MPT_MEM_PEER, peer_count.used) == MPT_OK);
    mpt_state_cut(&rank->state, &params, &rank->private_arena, &rank->peer_arena);
}

static inline void *fixture_kernels(const fixture_t *fixture, mpt_pool_t *pool, mpt_device_t *device,
                                    mpt_kernels_t *kernels)
{
    const char *name = fixture->kernels != NULL ? fixture->kernels : "cpu";
    const mpt_kernels_limits_t limits = {.compute = fixture->compute};
    const mpt_kernels_ops_t *ops = mpt_kernels_find(name);
    mpt_isa_t isa = mpt_isa_detect();
    size_t bytes = mpt_kernels_scratch_bytes(ops, isa, mpt_pool_threads(pool), &limits);
    void *scratch = bytes > 0 ? aligned_alloc(4096, (bytes + 4095) / 4096 * 4096) : NULL;
    fixture_require(mpt_kernels_init(kernels, ops, device, NULL, isa, scratch, bytes, &limits) == MPT_OK);
    return scratch;
}

static inline void fixture_device(int threads, mpt_pool_t **pool_p, mpt_device_t **device_p, mpt_stream_t **stream_p)
{
    fixture_require(mpt_pool_create(&(mpt_pool_params_t){.threads = threads, .yield = 1}, pool_p) == MPT_OK);
    fixture_require(mpt_device_cpu_create(*pool_p, NULL, device_p) == MPT_OK);
    fixture_require((*device_p)->ops->stream_create(*device_p, stream_p) == MPT_OK);
}

/** What `rank` of `fixture` holds, zeroed, and kernels to work on it. */
static inline void fixture_open(fixture_rank_t *rank, const fixture_t *fixture, int number)
{
    *rank = (fixture_rank_t){
        .fixture = fixture, .layout = fixture->layout, .rank = number, .ctx = fixture->ctx};
    fixture_device(fixture->threads > 0 ? fixture->threads : 1, &rank->pool, &rank->device, &rank->stream);
    fixture_device(1, &rank->worker_pool, &rank->worker_device, &rank->worker_stream);
    fixture_cut(rank);
    rank->kernels_scratch = fixture_kernels(fixture, rank->pool, rank->device, &rank->kernels);
    rank->worker_scratch =
        fixture_kernels(fixture, rank->worker_pool, rank->worker_device, &rank->worker_kernels);
    fixture_require(mpt_worker_create(&(mpt_worker_params_t){.threaded = fixture->threaded, .capacity = 3},
                                      &rank->worker) == MPT_OK);
}

static inline void fixture_close(fixture_rank_t *rank)
{
    mpt_worker_destroy(rank->worker);
    free(rank->worker_scratch);
    free(rank->kernels_scratch);
    mpt_arena_release(&rank->peer_arena);
    mpt_arena_release(&rank->private_arena);
    rank->worker_device->ops->stream_destroy(rank->worker_device, rank->worker_stream);
    mpt_device_destroy(rank->worker_device);
    mpt_pool_destroy(rank->worker_pool);
    rank->device->ops->stream_destroy(rank->device, rank->stream);
    mpt_device_destroy(rank->device);
    mpt_pool_destroy(rank->pool);
}

/* ---- ranks together -------------------------------------------------------------------------------------- */

typedef struct fixture_seat {
    const fixture_t *fixture;
    mpt_boot_t *boot;
    int result;
} fixture_seat_t;

/* The group and those across, as a session splits them; one rank alone has none across. */
static inline void fixture_split(fixture_rank_t *rank)
{
    int k = rank->layout->group;
    rank->group = rank->comm;
    if (rank->fixture->shard != MPT_SHARD_HSDP || rank->layout->ranks == 1)
        return;
    fixture_require(mpt_comm_split(rank->comm, rank->rank / k, rank->rank, &rank->group) == MPT_OK);
    fixture_require(mpt_comm_split(rank->comm, rank->rank % k, rank->rank, &rank->across) ==
                    MPT_OK);
}

static inline int fixture_act(fixture_rank_t *rank)
{
    const mpt_state_params_t *p = &rank->state.params;
    int64_t contributed = p->reduce_micro ? 1 : p->micro_steps;
    rank->reducer =
        (mpt_reducer_t){.state = &rank->state,
                        .kernels = &rank->kernels,
                        .stream = rank->stream,
                        .worker = rank->worker,
                        .worker_kernels = &rank->worker_kernels,
                        .worker_stream = rank->worker_stream,
                        .group = rank->group,
                        .across = rank->across,
                        .divisor = mpt_reducer_divisor(p->wire, contributed, rank->layout->ranks)};
    mpt_gather_init(&rank->gather, &rank->state, rank->worker, rank->group, rank->worker_stream);
    int result = rank->fixture->body(rank);
    (void)mpt_worker_drain(rank->worker); /* peers may wait in what is under way */
    return result;
}

/* Register what peers read with every communicator, act, and leave. */
static inline int fixture_join(fixture_rank_t *rank)
{
    mpt_comm_t *comms[] = {rank->comm, rank->group != rank->comm ? rank->group : NULL,
                           rank->across};
    void *handles[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3 && !rank->fixture->unregistered; i++)
        fixture_require(comms[i] == NULL ||
                        mpt_comm_register(comms[i], &rank->peer_arena.mem, &handles[i]) == MPT_OK);
    int result = fixture_act(rank);
    for (int i = 2; i >= 0; i--) {
        if (handles[i] != NULL)
            mpt_comm_deregister(comms[i], handles[i]);
        mpt_comm_destroy(i > 0 ? comms[i] : NULL);
    }
    return result;
}

static inline void *fixture_sit(void *argument)
{
    fixture_seat_t *seat = argument;
    fixture_rank_t rank;
    fixture_open(&rank, seat->fixture, seat->boot->rank);
    const char *backend = seat->boot->ranks == 1 ? "self" : "shm";
    size_t bytes = mpt_comm_scratch_bytes(backend, seat->boot->ranks);
    void *scratch = bytes > 0 ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    mpt_comm_params_t params = {.backend = backend,
                                .boot = seat->boot,
                                .device = rank.worker_device,
                                .timeout_s = 60,
                                .yield = 1,
                                .scratch = scratch};
    fixture_require(mpt_comm_create(&params, &rank.comm) == MPT_OK);
    fixture_split(&rank);
    seat->result = fixture_join(&rank);
    mpt_comm_destroy(rank.comm);
    free(scratch);
    fixture_close(&rank);
    mpt_boot_destroy(seat->boot);
    return NULL;
}

/** Run the body on every rank of the layout; 0 if all returned 0, else the first other result. */
static inline int fixture_run(const fixture_t *fixture)
{
    int ranks = fixture->layout->ranks, result = 0;
    mpt_boot_t *boots[FIXTURE_MAX_RANKS];
    pthread_t threads[FIXTURE_MAX_RANKS];
    fixture_seat_t seats[FIXTURE_MAX_RANKS];
    fixture_require(mpt_boot_threads_create(ranks, boots) == MPT_OK);
    for (int r = 0; r < ranks; r++) {
        seats[r] = (fixture_seat_t){.fixture = fixture, .boot = boots[r], .result = -1};
        fixture_require(pthread_create(&threads[r], NULL, fixture_sit, &seats[r]) == 0);
    }
    for (int r = 0; r < ranks; r++) {
        pthread_join(threads[r], NULL);
        if (result == 0)
            result = seats[r].result;
    }
    return result;
}

/* ---- layouts --------------------------------------------------------------------------------------------- */

enum { FIXTURE_TENSORS = 10, FIXTURE_UNITS = 5 };

/**
 * Odd sizes; tensors with and without decay in turn, as a transformer's table has them; a reserve; units of three
 * elements and of one, fewer than the ranks; slices that end inside tensors.
 */
static inline mpt_layout_t fixture_layout(int ranks, int group, int lanes)
{
    const mpt_tensor_t table[FIXTURE_TENSORS] = {
        {.name = "embed", .dims = 2, .shape = {37, 11}, .unit = 0, .decay = 1, .reserve = 22},
        {.name = "place", .dims = 2, .shape = {9, 11}, .unit = 0, .decay = 1},
        {.name = "1.gain", .dims = 1, .shape = {67}, .unit = 1},
        {.name = "1.square", .dims = 2, .shape = {131, 67}, .unit = 1, .decay = 1},
        {.name = "1.bias", .dims = 1, .shape = {131}, .unit = 1},
        {.name = "2.one", .dims = 1, .shape = {1}, .unit = 2},
        {.name = "2.two", .dims = 1, .shape = {2}, .unit = 2, .decay = 1},
        {.name = "3.line", .dims = 2, .shape = {1, 517}, .unit = 3, .decay = 1},
        {.name = "3.bias", .dims = 1, .shape = {65}, .unit = 3},
        {.name = "last", .dims = 1, .shape = {1}, .unit = 4},
    };
    mpt_layout_t layout;
    const mpt_layout_cut_t cut = {.ranks = ranks, .group = group, .lanes = lanes};
    fixture_require(mpt_layout_build(table, FIXTURE_TENSORS, &cut, &layout) == MPT_OK);
    return layout;
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

/* Reproducible bits for (seed, i). */
static inline uint64_t fixture_bits(uint64_t seed, uint64_t i)
{
    uint64_t x = (seed * 0x9e3779b97f4a7c15u) ^ (i + 0x632be59bd9b4e019u);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* A value of either sign whose size spreads over 2^-spread to 2^spread. */
static inline float fixture_value(uint64_t seed, int64_t i, int spread)
{
    uint64_t bits = fixture_bits(seed, (uint64_t)i);
    float fraction = 1.0f + (float)(bits & 0x7fffff) * 0x1p-23f;
    int exponent = spread == 0 ? 0 : (int)((bits >> 32) % (uint64_t)(2 * spread)) - spread;
    float value = exponent < 0 ? fraction / (float)((int64_t)1 << -exponent)
                               : fraction * (float)((int64_t)1 << exponent);
    return bits >> 63 ? -value : value;
}

/** A new flat array with values at every element of every tensor and zero elsewhere; the caller frees it. */
static inline float *fixture_flat(const mpt_layout_t *layout, uint64_t seed, int spread,
                                  float factor)
{
    float *flat = calloc((size_t)layout->total, sizeof *flat);
    fixture_require(flat != NULL);
    for (int t = 0; t < layout->tensor_count; t++)
        for (int64_t i = 0; i < mpt_tensor_count(&layout->tensors[t]); i++)
            flat[mpt_layout_at(layout, t) + i] =
                fixture_value(seed, layout->tensors[t].first + i, spread) * factor;
    return flat;
}

/** Where an array that holds `held` of unit `unit` begins in the flat one. */
static inline int64_t fixture_begin(const fixture_rank_t *rank, const mpt_held_t *held, int unit)
{
    int64_t first = rank->layout->units[unit].first;
    if (held->hold != MPT_HOLD_SLICE)
        return first;
    return first +
           mpt_layout_slice(rank->layout, unit) * mpt_layout_slice_of(rank->layout, rank->rank);
}

/** Fill what is held (all or slice) from a flat array, rounded to its type. */
static inline void fixture_fill(fixture_rank_t *rank, const mpt_held_t *held, const float *flat)
{
    for (int u = 0; u < rank->layout->unit_count; u++)
        mpt_convert(mpt_held_unit(rank->layout, held, u), held->dtype,
                    flat + fixture_begin(rank, held, u), MPT_F32,
                    mpt_held_unit_count(rank->layout, held, u));
}

/** The bits of element `at` of an array. */
static inline uint32_t fixture_bits_at(const void *array, mpt_dtype_t dtype, int64_t at)
{
    return dtype == MPT_F32 ? ((const uint32_t *)array)[at] : ((const uint16_t *)array)[at];
}

/** `value`, rounded once to `dtype`. */
static inline float fixture_round(mpt_dtype_t dtype, float value)
{
    if (dtype == MPT_BF16)
        return mpt_bf16_to_f32(mpt_f32_to_bf16(value));
    return dtype == MPT_F16 ? mpt_f16_to_f32(mpt_f32_to_f16(value)) : value;
}

#endif
