#include "replica.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKING, MASTER, M, V, EMA, ARRAYS };
static const char *const array_names[ARRAYS] = {"weights", "masters", "m", "v", "ema"};

int mpt_replica_sets(const mpt_layout_t *layout, mpt_shard_t shard)
{
    return shard <= MPT_SHARD_ZERO2 ? 1 : shard == MPT_SHARD_ZERO3 ? layout->ranks : layout->group;
}

/* The array if other ranks hold the same of it, else NULL. */
static const mpt_held_t *replicated(const mpt_state_t *state, int array)
{
    const mpt_held_t *const all[ARRAYS] = {&state->working, &state->master, &state->m, &state->v, &state->ema};
    const mpt_held_t *held = all[array];
    mpt_shard_t shard = state->params.shard;
    int shared = shard == MPT_SHARD_HSDP || (shard != MPT_SHARD_ZERO3 && held->hold == MPT_HOLD_ALL);
    return shared && held->data != NULL ? held : NULL;
}

/* Add what is held of tensor `tensor` to *state->hash. */
static mpt_status_t hash_tensor(mpt_state_t *state, mpt_kernels_t *kernels, mpt_stream_t *stream, int array,
                                int tensor)
{
    const mpt_layout_t *layout = state->layout;
    const mpt_held_t *held = replicated(state, array);
    mpt_extent_t extent;
    int whole = held != NULL && held->hold == MPT_HOLD_ALL;
    int pieces = whole ? 1 : layout->group;
    int index = whole ? 0 : mpt_layout_slice_of(layout, state->params.rank);
    if (held == NULL || !mpt_layout_extent(layout, pieces, index, tensor, &extent))
        return MPT_OK;
    return mpt_hash(kernels,
                    &(mpt_hash_t){.dtype = held->dtype,
                                  .count = extent.count,
                                  .data = mpt_held_at(state, held, extent.at),
                                  .element = (uint64_t)(layout->tensors[tensor].first + extent.first),
                                  .salt = (uint64_t)array + 1,
                                  .sum = state->hash},
                    stream);
}

static mpt_status_t hash_cells(mpt_state_t *state, mpt_kernels_t *kernels, mpt_stream_t *stream, int first,
                               int count, uint64_t *hash_p)
{
    mpt_device_t *device = kernels->device;
    mpt_status_t status = device->ops->fill_zero(device, state->hash, sizeof *state->hash, stream);
    for (int i = first; i < first + count && status == MPT_OK; i++)
        status = hash_tensor(state, kernels, stream, i % ARRAYS, i / ARRAYS);
    if (status == MPT_OK)
        status = device->ops->stream_synchronize(device, stream);
    if (status == MPT_OK)
        *hash_p = *state->hash;
    return status;
}

mpt_status_t mpt_replica_hash(mpt_state_t *state, mpt_kernels_t *kernels, mpt_stream_t *stream, uint64_t *hash_p)
{
    *hash_p = 0;
    if (mpt_replica_sets(state->layout, state->params.shard) == state->layout->ranks)
        return MPT_OK;
    mpt_status_t status =
        hash_cells(state, kernels, stream, 0, state->layout->tensor_count * ARRAYS, hash_p);
    if (status == MPT_OK && *hash_p == 0)
        *hash_p = 1;
    return status;
}

/* ---- where ---------------------------------------------------------------------------------------- */

typedef struct table {
    const uint64_t *all; /* [ranks][cells] */
    uint64_t *usual;     /* [sets][cells]: what most of a set's ranks hold */
    int ranks, sets, cells;
} table_t;

static uint64_t value_of(const table_t *t, int rank, int cell)
{
    return t->all[(size_t)rank * (size_t)t->cells + (size_t)cell];
}

/* The value of `cell` that most ranks of set `set` hold, the first of equally many. Where a value has more than half of them,
 * as nearly always the first one has, no other can have more. */
static uint64_t usual(const table_t *t, int set, int cell)
{
    uint64_t best = 0;
    int most = 0, replicas = t->ranks / t->sets;
    for (int r = set; r < t->ranks && 2 * most <= replicas; r += t->sets) {
        uint64_t value = value_of(t, r, cell);
        int votes = 0;
        for (int q = set; q < t->ranks; q += t->sets)
            votes += value_of(t, q, cell) == value;
        if (votes > most) {
            most = votes;
            best = value;
        }
    }
    return best;
}

static void vote(const table_t *t)
{
    for (int s = 0; s < t->sets; s++)
        for (int c = 0; c < t->cells; c++)
            t->usual[(size_t)s * (size_t)t->cells + (size_t)c] = usual(t, s, c);
}

/* The first cell in which `rank` differs, or -1. */
static int first_difference(const table_t *t, int rank)
{
    const uint64_t *expected = t->usual + (size_t)(rank % t->sets) * (size_t)t->cells;
    for (int c = 0; c < t->cells; c++)
        if (value_of(t, rank, c) != expected[c])
            return c;
    return -1;
}

static void add_to_list(mpt_replica_finding_t *f, int rank)
{
    size_t n = strlen(f->list);
    if (f->ranks == 1)
        f->rank = rank;
    if (n + 16 < sizeof f->list)
        snprintf(f->list + n, sizeof f->list - n, "%s%d", f->ranks > 1 ? ", " : "", rank);
    else if (strcmp(f->list + n - 2, "..") != 0)
        snprintf(f->list + n, sizeof f->list - n, ", ..");
}

/* Tensors stand in the order of their units. */
static void find(const mpt_layout_t *layout, const table_t *t, mpt_replica_finding_t *finding_p)
{
    mpt_replica_finding_t f = {.rank = -1, .unit = -1, .tensor = -1, .what = ""};
    int first = t->cells;
    vote(t);
    for (int r = 0; r < t->ranks; r++) {
        int cell = first_difference(t, r);
        if (cell < 0)
            continue;
        f.ranks++;
        add_to_list(&f, r);
        first = cell < first ? cell : first;
    }
    if (f.ranks > 0) {
        f.tensor = first / ARRAYS;
        f.unit = layout->tensors[f.tensor].unit;
        f.what = array_names[first % ARRAYS];
    }
    *finding_p = f;
}

mpt_status_t mpt_replica_find(mpt_state_t *state, mpt_kernels_t *kernels, mpt_comm_t *comm, mpt_stream_t *stream,
                              mpt_replica_finding_t *finding_p)
{
    const mpt_layout_t *layout = state->layout;
    table_t table = {.ranks = layout->ranks,
                     .sets = mpt_replica_sets(layout, state->params.shard),
                     .cells = layout->tensor_count * ARRAYS};
    size_t cells = (size_t)table.cells;
    uint64_t *own = calloc(cells, sizeof *own), *all = calloc(cells * (size_t)layout->ranks, sizeof *all);
    table.usual = calloc(cells * (size_t)table.sets, sizeof *table.usual);
    mpt_status_t status = MPT_OK;
    if (own == NULL || all == NULL || table.usual == NULL)
        status = mpt_log_no_memory(comm->log, cells * (size_t)(layout->ranks + 1 + table.sets) * sizeof *own,
                                   "replicas' hashes");
    for (int c = 0; c < table.cells && status == MPT_OK; c++)
        status = hash_cells(state, kernels, stream, c, 1, &own[c]);
    status = mpt_comm_agree(comm, status);
    if (status == MPT_OK)
        status = mpt_comm_all_gather(comm, own, all, cells * sizeof *own, stream);
    if (status == MPT_OK)
        status = kernels->device->ops->stream_synchronize(kernels->device, stream);
    table.all = all;
    if (status == MPT_OK)
        find(layout, &table, finding_p);
    free(table.usual);
    free(all);
    free(own);
    return status;
}
