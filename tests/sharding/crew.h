/*
 * Ranks as threads of one process, each with the whole of sharding: device, arenas, state, kernels,
 * communicator, reducer. A body must not use cmocka's assertions: it returns 0 or a number that says what failed,
 * and leaves results in the crew's `ctx` for the test to look at.
 */
#ifndef CREW_H
#define CREW_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "boot.h"
#include "optimizer.h"
#include "pool.h"
#include "reducer.h"

#define CREW_MAX_RANKS 9

typedef struct crew_rank {
    int rank, ranks;
    const mpt_layout_t *layout;
    mpt_device_t *device;
    mpt_stream_t *stream;
    mpt_state_t state;
    mpt_kernels_t kernels;
    mpt_comm_t *comm;
    mpt_reducer_t reducer;
    void *ctx;
} crew_rank_t;

typedef struct crew {
    int ranks;
    const mpt_layout_t *layout; /* for `ranks` */
    mpt_dtype_t compute, wire;
    int64_t micro_steps;
    const char *kernels; /* NULL: "cpu" */
    int threads;         /* of each rank's pool; 0: one */
    int unregistered;    /* 1: the communicator is not told about the peer arena */
    int (*body)(crew_rank_t *rank);
    void *ctx;
} crew_t;

typedef struct crew_seat {
    const crew_t *crew;
    mpt_boot_t *boot;
    int result;
} crew_seat_t;

static inline mpt_status_t crew_kernels(crew_rank_t *rank, const crew_t *crew, void **scratch_p)
{
    const mpt_kernels_limits_t limits = {.compute = crew->compute};
    const mpt_kernels_ops_t *ops = mpt_kernels_find(crew->kernels != NULL ? crew->kernels : "cpu");
    mpt_isa_t isa = mpt_isa_detect();
    size_t bytes =
        mpt_kernels_scratch_bytes(ops, isa, mpt_pool_threads(rank->device->pool), &limits);
    *scratch_p = bytes > 0 ? aligned_alloc(4096, (bytes + 4095) / 4096 * 4096) : NULL;
    return mpt_kernels_init(&rank->kernels, ops, rank->device, NULL, isa, *scratch_p, bytes,
                            &limits);
}

static inline int crew_with_comm(crew_rank_t *rank, const crew_t *crew, const mpt_mem_t *peer)
{
    void *registration = NULL, *scratch = NULL;
    int result = -3;
    if (crew_kernels(rank, crew, &scratch) == MPT_OK &&
        (crew->unregistered || mpt_comm_register(rank->comm, peer, &registration) == MPT_OK)) {
        rank->reducer = (mpt_reducer_t){
            .state = &rank->state,
            .kernels = &rank->kernels,
            .comm = rank->comm,
            .stream = rank->stream,
            .divisor = mpt_reducer_divisor(crew->wire, crew->micro_steps, crew->ranks)};
        result = crew->body(rank);
        if (registration != NULL)
            mpt_comm_deregister(rank->comm, registration);
    }
    free(scratch);
    return result;
}

static inline int crew_with_memory(crew_rank_t *rank, const crew_t *crew, mpt_boot_t *boot)
{
    mpt_arena_t private_arena, peer_arena;
    mpt_arena_init_counting(&private_arena);
    mpt_arena_init_counting(&peer_arena);
    mpt_state_cut(&rank->state, crew->layout, crew->compute, crew->wire, &private_arena,
                  &peer_arena);
    size_t private_bytes = private_arena.used, peer_bytes = peer_arena.used;
    int result = -2;
    if (mpt_arena_init(&private_arena, rank->device, MPT_MEM_PRIVATE, private_bytes) != MPT_OK ||
        mpt_arena_init(&peer_arena, rank->device, MPT_MEM_PEER, peer_bytes) != MPT_OK)
        abort();
    mpt_state_cut(&rank->state, crew->layout, crew->compute, crew->wire, &private_arena,
                  &peer_arena);
    const char *backend = crew->ranks == 1 ? "self" : "shm";
    size_t scratch_bytes = mpt_comm_scratch_bytes(backend, crew->ranks);
    void *scratch = scratch_bytes > 0 ? aligned_alloc(64, scratch_bytes) : NULL;
    mpt_comm_params_t params = {.backend = backend,
                                .boot = boot,
                                .device = rank->device,
                                .timeout_s = 60,
                                .yield = 1,
                                .scratch = scratch};
    if (mpt_comm_create(&params, &rank->comm) == MPT_OK) {
        result = crew_with_comm(rank, crew, &peer_arena.mem);
        mpt_comm_destroy(rank->comm);
    }
    free(scratch);
    mpt_arena_release(&peer_arena);
    mpt_arena_release(&private_arena);
    return result;
}

static inline void *crew_sit(void *argument)
{
    crew_seat_t *seat = argument;
    const crew_t *crew = seat->crew;
    mpt_pool_t *pool = NULL;
    crew_rank_t rank = {
        .rank = seat->boot->rank, .ranks = crew->ranks, .layout = crew->layout, .ctx = crew->ctx};
    mpt_pool_params_t pool_params = {.threads = crew->threads > 0 ? crew->threads : 1, .yield = 1};
    if (mpt_pool_create(&pool_params, &pool) != MPT_OK ||
        mpt_device_cpu_create(pool, NULL, &rank.device) != MPT_OK ||
        rank.device->ops->stream_create(rank.device, &rank.stream) != MPT_OK)
        abort();
    seat->result = crew_with_memory(&rank, crew, seat->boot);
    rank.device->ops->stream_destroy(rank.device, rank.stream);
    mpt_device_destroy(rank.device);
    mpt_pool_destroy(pool);
    mpt_boot_destroy(seat->boot);
    return NULL;
}

/* Run the body on every rank; 0 if all returned 0, else the first rank's number that was not. */
static inline int crew_run(const crew_t *crew)
{
    mpt_boot_t *boots[CREW_MAX_RANKS];
    pthread_t threads[CREW_MAX_RANKS];
    crew_seat_t seats[CREW_MAX_RANKS];
    int result = 0;
    if (mpt_boot_threads_create(crew->ranks, boots) != MPT_OK)
        abort();
    for (int r = 0; r < crew->ranks; r++) {
        seats[r] = (crew_seat_t){.crew = crew, .boot = boots[r], .result = -1};
        if (pthread_create(&threads[r], NULL, crew_sit, &seats[r]) != 0)
            abort();
    }
    for (int r = 0; r < crew->ranks; r++) {
        pthread_join(threads[r], NULL);
        if (result == 0)
            result = seats[r].result;
    }
    return result;
}

/* The records of all ranks, folded, as a step does it. */
static inline mpt_status_t crew_agree(crew_rank_t *rank, int micro_step, mpt_verdict_t *verdict_p)
{
    mpt_record_t own = {.scale = 1.0f}, all[CREW_MAX_RANKS];
    double scratch[CREW_MAX_RANKS];
    mpt_reducer_report(&rank->reducer, micro_step, &own);
    mpt_status_t status = mpt_comm_all_gather(rank->comm, &own, all, sizeof own, rank->stream);
    if (status == MPT_OK)
        mpt_record_fold(all, rank->ranks, scratch, verdict_p);
    return status;
}

/* Reduce every unit in the order in which backward ends them. */
static inline mpt_status_t crew_reduce(crew_rank_t *rank)
{
    mpt_status_t status = MPT_OK;
    for (int u = rank->layout->unit_count - 1; u >= 0 && status == MPT_OK; u--)
        status = mpt_reducer_unit(&rank->reducer, u);
    return status;
}

/* A small model: odd sizes, several units, a reserve, one unit smaller than the ranks. */
enum { CREW_TENSORS = 7 };

static inline mpt_layout_t crew_layout(int ranks)
{
    mpt_tensor_t table[CREW_TENSORS] = {
        {.name = "embed", .dims = 2, .shape = {37, 11}, .unit = 0, .decay = 1, .reserve = 22},
        {.name = "place", .dims = 2, .shape = {9, 11}, .unit = 0, .decay = 1},
        {.name = "square", .dims = 2, .shape = {71, 67}, .unit = 1, .decay = 1},
        {.name = "gain", .dims = 1, .shape = {71}, .unit = 1},
        {.name = "bias", .dims = 1, .shape = {67}, .unit = 1},
        {.name = "one", .dims = 1, .shape = {1}, .unit = 2},
        {.name = "two", .dims = 1, .shape = {2}, .unit = 2},
    };
    mpt_layout_t layout;
    if (mpt_layout_build(table, CREW_TENSORS, ranks, &layout) != MPT_OK)
        abort();
    return layout;
}

/* Reproducible bits for (seed, i). */
static inline uint64_t crew_bits(uint64_t seed, uint64_t i)
{
    uint64_t x = (seed * 0x9e3779b97f4a7c15u) ^ (i + 0x632be59bd9b4e019u);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* A value of either sign whose size spreads over 2^-spread to 2^spread. */
static inline float crew_value(uint64_t seed, int64_t i, int spread)
{
    uint64_t bits = crew_bits(seed, (uint64_t)i);
    float fraction = 1.0f + (float)(bits & 0x7fffff) * 0x1p-23f;
    int exponent = spread == 0 ? 0 : (int)((bits >> 32) % (uint64_t)(2 * spread)) - spread;
    float value = exponent < 0 ? fraction / (float)((int64_t)1 << -exponent)
                               : fraction * (float)((int64_t)1 << exponent);
    return bits >> 63 ? -value : value;
}

/* Values at every element of every tensor of a flat array; padding and reserve stay as they are. */
static inline void crew_fill(const mpt_layout_t *layout, float *array, uint64_t seed, int spread,
                             float factor)
{
    for (int t = 0; t < layout->tensor_count; t++)
        for (int64_t i = 0; i < mpt_tensor_count(&layout->tensors[t]); i++)
            array[mpt_layout_at(layout, t) + i] =
                crew_value(seed, layout->tensors[t].first + i, spread) * factor;
}

#endif
