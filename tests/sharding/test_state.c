#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "state.h"

enum { TABLE = 8 };

/* Odd sizes, a reserve, units of one and two elements, a last unit larger than the first. */
static mpt_layout_t build(int ranks, int group, int lanes)
{
    mpt_tensor_t table[TABLE] = {
        {.name = "embed", .dims = 2, .shape = {11, 7}, .unit = 0, .decay = 1, .reserve = 21},
        {.name = "place", .dims = 2, .shape = {3, 7}, .unit = 0, .decay = 1},
        {.name = "bias", .dims = 1, .shape = {13}, .unit = 1},
        {.name = "square", .dims = 2, .shape = {13, 11}, .unit = 1, .decay = 1},
        {.name = "one", .dims = 1, .shape = {1}, .unit = 2},
        {.name = "two", .dims = 1, .shape = {2}, .unit = 3, .decay = 1},
        {.name = "gain", .dims = 1, .shape = {129}, .unit = 4},
        {.name = "wide", .dims = 2, .shape = {41, 43}, .unit = 4, .decay = 1},
    };
    mpt_layout_t layout;
    mpt_layout_cut_t cut = {.ranks = ranks, .group = group, .lanes = lanes};
    assert_int_equal(mpt_layout_build(table, TABLE, &cut, &layout), MPT_OK);
    return layout;
}

/* One rank's state in real memory. */
typedef struct box {
    mpt_device_t *device;
    mpt_arena_t private_arena, peer_arena;
    mpt_state_t state;
} box_t;

static void open_box(box_t *box, const mpt_state_params_t *params)
{
    mpt_arena_t counted_private, counted_peer;
    mpt_arena_init_counting(&counted_private);
    mpt_arena_init_counting(&counted_peer);
    mpt_state_cut(&box->state, params, &counted_private, &counted_peer);
    assert_int_equal(mpt_device_cpu_create(NULL, NULL, &box->device), MPT_OK);
    assert_int_equal(
        mpt_arena_init(&box->private_arena, box->device, MPT_MEM_PRIVATE, counted_private.used),
        MPT_OK);
    assert_int_equal(mpt_arena_init(&box->peer_arena, box->device, MPT_MEM_PEER, counted_peer.used),
                     MPT_OK);
    mpt_state_cut(&box->state, params, &box->private_arena, &box->peer_arena);
    assert_int_equal(box->private_arena.used, counted_private.used);
    assert_int_equal(box->peer_arena.used, counted_peer.used);
}

static void close_box(box_t *box)
{
    mpt_arena_release(&box->private_arena);
    mpt_arena_release(&box->peer_arena);
    mpt_device_destroy(box->device);
}

/* ---- what is held -------------------------------------------------------------------------------- */

static void counts_are_all_a_slice_or_a_window(void **state)
{
    (void)state;
    mpt_layout_t layout = build(8, 2, 0);
    int64_t slices = 0;
    for (int u = 0; u < layout.unit_count; u++)
        slices += mpt_layout_slice(&layout, u);
    assert_int_equal(mpt_held_count(&layout, MPT_HOLD_ALL), layout.total);
    assert_int_equal(mpt_held_count(&layout, MPT_HOLD_SLICE), slices);
    assert_int_equal(mpt_held_count(&layout, MPT_HOLD_SLICE), layout.total / 2);
    assert_int_equal(mpt_held_count(&layout, MPT_HOLD_WINDOW),
                     layout.units[0].padded + 2 * layout.units[4].padded);
    mpt_layout_release(&layout);
}

static void assert_held(const mpt_held_t *held, mpt_hold_t hold, mpt_dtype_t dtype)
{
    assert_non_null(held->data);
    assert_int_equal(held->hold, hold);
    assert_int_equal(held->dtype, dtype);
}

/* state.h's table. */
static void assert_table(const mpt_state_t *state)
{
    const mpt_state_params_t *p = &state->params;
    int ddp = p->shard == MPT_SHARD_DDP, sliced = p->shard >= MPT_SHARD_ZERO3;
    int scatters = p->shard >= MPT_SHARD_ZERO2;
    int window = p->reduce_micro || (scatters && p->micro_steps == 1);
    mpt_hold_t owned = ddp ? MPT_HOLD_ALL : MPT_HOLD_SLICE;
    assert_held(&state->working, sliced ? MPT_HOLD_SLICE : MPT_HOLD_ALL, p->compute);
    assert_held(&state->gathered, sliced ? MPT_HOLD_WINDOW : MPT_HOLD_ALL, p->compute);
    assert_int_equal(state->gathered.data == state->working.data, !sliced);
    int stack = 1;
    while (1 << (stack - 1) < p->lanes)
        stack++;
    assert_int_equal(state->accumulators, stack);
    for (int i = 0; i < stack; i++)
        assert_held(&state->accumulator[i], window ? MPT_HOLD_WINDOW : MPT_HOLD_ALL, MPT_F32);
    assert_int_equal(state->contribution.data == state->accumulator[0].data, p->wire == MPT_F32);
    if (p->wire != MPT_F32)
        assert_held(&state->contribution,
                    scatters || p->reduce_micro ? MPT_HOLD_WINDOW : MPT_HOLD_ALL, p->wire);
    int adds_up = p->reduce_micro || (scatters && (window || p->wire != MPT_F32));
    assert_int_equal(state->reduced.data == state->contribution.data, !adds_up);
    if (adds_up)
        assert_held(&state->reduced, owned, p->reduce_micro ? MPT_F32 : p->wire);
    assert_held(&state->m, owned, MPT_F32);
    assert_held(&state->v, owned, MPT_F32);
    assert_int_equal(state->master.data != NULL, p->with_master);
    assert_int_equal(state->ema.data != NULL, p->with_ema);
    if (p->with_master)
        assert_held(&state->master, owned, MPT_F32);
    if (p->with_ema)
        assert_held(&state->ema, owned, MPT_F32);
    assert_int_equal(state->partial != NULL, p->shard == MPT_SHARD_HSDP);
}

/* Bytes of an array, and where they are. */
typedef struct region {
    const char *begin;
    size_t bytes;
    int peer; /* which arena: 1 peer, 0 private, -1 either */
} region_t;

static void add_held(region_t *regions, int *count, const mpt_layout_t *layout,
                     const mpt_held_t *held, int peer)
{
    for (int i = 0; i < *count; i++)
        if (held->data == NULL || regions[i].begin == held->data)
            return; /* none, or another name of one */
    regions[(*count)++] =
        (region_t){held->data,
                   (size_t)mpt_held_count(layout, held->hold) * mpt_dtype_bytes(held->dtype), peer};
}

static int list_regions(const mpt_state_t *s, region_t *regions)
{
    const mpt_layout_t *layout = s->layout;
    size_t units = (size_t)layout->unit_count, lanes = (size_t)(layout->lanes / layout->ranks);
    int64_t largest = mpt_layout_largest(layout);
    int count = 0, in_place = s->params.wire == MPT_F32;
    int sent = s->params.shard == MPT_SHARD_DDP;
    add_held(regions, &count, layout, &s->working, 1);
    add_held(regions, &count, layout, &s->gathered, 0);
    for (int i = 0; i < s->accumulators; i++)
        add_held(regions, &count, layout, &s->accumulator[i], in_place ? (i == 0 ? 1 : -1) : 0);
    add_held(regions, &count, layout, &s->contribution, 1);
    add_held(regions, &count, layout, &s->reduced, sent);
    add_held(regions, &count, layout, &s->master, 0);
    add_held(regions, &count, layout, &s->m, 0);
    add_held(regions, &count, layout, &s->v, 0);
    add_held(regions, &count, layout, &s->ema, 0);
    if (s->partial != NULL)
        regions[count++] =
            (region_t){(char *)s->partial, (size_t)(largest / layout->group) * sizeof(float), 1};
    regions[count++] = (region_t){(char *)s->bad_kept, units * sizeof(mpt_offender_t), 0};
    regions[count++] = (region_t){(char *)s->runs, TABLE * sizeof(mpt_run_t), 0};
    regions[count++] = (region_t){(char *)s->run_first, (units + 1) * sizeof(int), 0};
    regions[count++] = (region_t){(char *)s->bad_wire, units * sizeof(mpt_offender_t), 0};
    regions[count++] = (region_t){(char *)s->bad_sum, units * lanes * sizeof(mpt_offender_t), 0};
    regions[count++] = (region_t){(char *)s->sumsq, units * lanes * sizeof(double), 0};
    regions[count++] = (region_t){(char *)s->hash, sizeof(uint64_t), 0};
    return count;
}

static int inside(const region_t *region, const mpt_arena_t *arena)
{
    const char *begin = arena->mem.ptr;
    return region->begin >= begin && region->begin + region->bytes <= begin + arena->used;
}

static void assert_apart(const box_t *box)
{
    region_t regions[64];
    int count = list_regions(&box->state, regions);
    for (int i = 0; i < count; i++) {
        int peer = inside(&regions[i], &box->peer_arena);
        assert_true(peer || inside(&regions[i], &box->private_arena));
        if (regions[i].peer >= 0)
            assert_int_equal(peer, regions[i].peer);
        assert_int_equal((uintptr_t)regions[i].begin % MPT_ARENA_ALIGN, 0);
        for (int j = 0; j < i; j++)
            assert_true(regions[j].begin + regions[j].bytes <= regions[i].begin ||
                        regions[i].begin + regions[i].bytes <= regions[j].begin);
    }
}

static void every_mode_holds_what_the_table_says(void **state)
{
    (void)state;
    static const mpt_dtype_t wires[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (int bits = 0; bits < 5 * 64; bits++) {
        mpt_shard_t shard = (mpt_shard_t)(bits / 64);
        int lanes = bits & 1 ? 4 : 1, several = lanes > 1 || bits & 2;
        mpt_layout_t layout = build(4, shard == MPT_SHARD_HSDP ? 2 : 0, 4 * lanes);
        for (int w = 0; w < 3; w++) {
            mpt_state_params_t params = {.layout = &layout,
                                         .rank = bits % 4,
                                         .shard = shard,
                                         .compute = bits & 4 ? MPT_BF16 : MPT_F32,
                                         .wire = wires[w],
                                         .micro_steps = several ? 4 : 1,
                                         .lanes = lanes,
                                         .reduce_micro = bits & 8 && several && lanes == 1,
                                         .with_master = !!(bits & 16),
                                         .with_ema = !!(bits & 32)};
            box_t box;
            open_box(&box, &params);
            assert_table(&box.state);
            assert_apart(&box);
            close_box(&box);
        }
        mpt_layout_release(&layout);
    }
}

/* ---- addresses ----------------------------------------------------------------------------------- */

typedef void (*check_t)(const mpt_state_t *state);

/* For every rank of every mode, with units smaller than the rank count. */
static void for_every_rank(check_t check)
{
    static const int cuts[][3] = {{1, 1, 1}, {3, 3, 3}, {4, 2, 4},  {8, 2, 8},
                                  {8, 8, 8}, {2, 2, 8}, {12, 4, 12}};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        for (int shard = MPT_SHARD_DDP; shard <= MPT_SHARD_HSDP; shard++) {
            if ((shard == MPT_SHARD_HSDP) != (cuts[i][1] < cuts[i][0]))
                continue;
            mpt_layout_t layout = build(cuts[i][0], cuts[i][1], cuts[i][2]);
            for (int rank = 0; rank < layout.ranks; rank++) {
                mpt_state_params_t params = {.layout = &layout,
                                             .rank = rank,
                                             .shard = (mpt_shard_t)shard,
                                             .compute = MPT_BF16,
                                             .wire = MPT_F16,
                                             .micro_steps = 1,
                                             .lanes = layout.lanes / layout.ranks,
                                             .with_master = 1,
                                             .with_ema = 1};
                box_t box;
                open_box(&box, &params);
                check(&box.state);
                close_box(&box);
            }
            mpt_layout_release(&layout);
        }
}

/* The addresses of a unit, of its slice and of a flat offset are one another's, and lie in the array. */
static void check_addresses(const mpt_state_t *state, const mpt_held_t *held)
{
    const mpt_layout_t *layout = state->layout;
    int index = mpt_layout_slice_of(layout, state->params.rank);
    size_t element = mpt_dtype_bytes(held->dtype);
    const char *end = (char *)held->data + (size_t)mpt_held_count(layout, held->hold) * element;
    for (int u = 0; u < layout->unit_count; u++) {
        int64_t slice = mpt_layout_slice(layout, u), first = layout->units[u].first;
        char *unit = mpt_held_unit(layout, held, u), *own = mpt_held_slice(state, held, u);
        int64_t count = mpt_held_unit_count(layout, held, u);
        int whole = held->hold != MPT_HOLD_SLICE;
        assert_int_equal(count, whole ? layout->units[u].padded : slice);
        assert_true(unit >= (char *)held->data && unit + (size_t)count * element <= end);
        assert_ptr_equal(own, unit + (whole ? (size_t)(slice * index) * element : 0));
        for (int64_t i = 0; held->hold != MPT_HOLD_WINDOW && i < slice; i += 17)
            assert_ptr_equal(mpt_held_at(state, held, first + slice * index + i),
                             own + (size_t)i * element);
        for (int64_t i = 0; held->hold == MPT_HOLD_ALL && i < count; i += 31)
            assert_ptr_equal(mpt_held_at(state, held, first + i), unit + (size_t)i * element);
    }
}

static void check_all_addresses(const mpt_state_t *state)
{
    check_addresses(state, &state->working);
    check_addresses(state, &state->gathered);
    check_addresses(state, &state->contribution);
    check_addresses(state, &state->reduced);
    check_addresses(state, &state->master);
    check_addresses(state, &state->ema);
}

static void addresses_of_units_slices_and_offsets_agree(void **state)
{
    (void)state;
    for_every_rank(check_all_addresses);
}

/* Two units that follow each other are in the window at once, and the first always. */
static void neighbours_do_not_overlap_in_the_window(void **state)
{
    (void)state;
    mpt_layout_t layout = build(4, 0, 0);
    char *array = malloc((size_t)mpt_held_count(&layout, MPT_HOLD_WINDOW) * sizeof(float));
    mpt_held_t held = {.data = array, .dtype = MPT_F32, .hold = MPT_HOLD_WINDOW};
    for (int u = 0; u < layout.unit_count; u++)
        for (int other = 0; other < u; other++) {
            if (other > 0 && other < u - 1)
                continue;
            char *a = mpt_held_unit(&layout, &held, u), *b = mpt_held_unit(&layout, &held, other);
            assert_true(a + layout.units[u].padded * 4 <= b ||
                        b + layout.units[other].padded * 4 <= a);
        }
    free(array);
    mpt_layout_release(&layout);
}

/* ---- runs ---------------------------------------------------------------------------------------- */

/* Every place of this rank's slice (in ddp: of the unit) is either in one run, as the element that lies there, or padding. */
static void check_runs(const mpt_state_t *state)
{
    const mpt_layout_t *layout = state->layout;
    int pieces, index;
    int64_t covered = 0;
    mpt_state_owned(state, &pieces, &index);
    assert_int_equal(pieces, state->params.shard == MPT_SHARD_DDP ? 1 : layout->group);
    for (int u = 0; u < layout->unit_count; u++) {
        int64_t count = layout->units[u].padded / pieces;
        int run = state->run_first[u], end = state->run_first[u + 1];
        for (int64_t i = 0; i < count; i++) {
            int tensor;
            int64_t element;
            while (run < end && i >= state->runs[run].at + state->runs[run].count)
                run++;
            int in_run = run < end && i >= state->runs[run].at;
            assert_int_equal(mpt_layout_locate(layout, u, count * index + i, &tensor, &element),
                             in_run);
            if (!in_run)
                continue;
            assert_int_equal(state->runs[run].element + i - state->runs[run].at,
                             layout->tensors[tensor].first + element);
            covered++;
        }
        for (int r = state->run_first[u] + 1; r < end; r++)
            assert_true(state->runs[r - 1].at + state->runs[r - 1].count <= state->runs[r].at);
    }
    assert_int_equal(covered, mpt_layout_owned(layout, pieces, index));
    assert_true(state->run_first[0] == 0 && state->run_first[layout->unit_count] <= TABLE);
}

static void runs_name_every_owned_element(void **state)
{
    (void)state;
    for_every_rank(check_runs);
}

/* ---- refreshing ---------------------------------------------------------------------------------- */

/* Cuts off what does not fit; where it is to round stochastically, the element's number and the seed show. */
static mpt_status_t cut_off(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    assert_int_equal(a->dst_dtype, MPT_BF16);
    assert_int_equal(a->src_dtype, MPT_F32);
    for (int64_t i = 0; i < a->count; i++)
        memcpy((uint16_t *)a->dst + i, (const char *)a->src + 4 * i + 2, 2);
    for (int r = 0; a->stochastic != NULL && r < a->stochastic->run_count; r++)
        for (int64_t i = 0; i < a->stochastic->runs[r].count; i++)
            ((uint16_t *)a->dst)[a->stochastic->runs[r].at + i] =
                (uint16_t)(a->stochastic->runs[r].element + i + (int64_t)a->stochastic->seed);
    return MPT_OK;
}

/* After refreshing what this rank owns has changed and nothing else. */
static void check_refresh(const mpt_state_t *const_state)
{
    static const mpt_kernels_ops_t ops = {.name = "test", .cast = cut_off};
    mpt_kernels_t kernels = {.ops = &ops};
    mpt_state_t state = *const_state;
    const mpt_layout_t *layout = state.layout;
    mpt_stochastic_t rounding = {.seed = 7};
    int64_t masters = mpt_held_count(layout, state.master.hold);
    size_t bytes = (size_t)mpt_held_count(layout, state.working.hold) * 2;
    for (int64_t i = 0; i < masters; i++)
        ((uint32_t *)state.master.data)[i] = 0x77770000u;
    for (int stochastic = 0; stochastic < 2; stochastic++) {
        int64_t changed = 0, left = 0;
        int pieces, index;
        mpt_state_owned(&state, &pieces, &index);
        memset(state.working.data, 0x11, bytes);
        assert_int_equal(
            mpt_state_refresh(&state, &state.master, stochastic ? &rounding : NULL, &kernels, NULL),
            MPT_OK);
        for (int t = 0; t < TABLE; t++) {
            mpt_extent_t own;
            if (!mpt_layout_extent(layout, pieces, index, t, &own))
                continue;
            for (int64_t i = 0; i < own.count; i++) {
                int64_t element = layout->tensors[t].first + own.first + i;
                assert_int_equal(*(uint16_t *)mpt_held_at(&state, &state.working, own.at + i),
                                 stochastic ? element + 7 : 0x7777);
            }
        }
        for (size_t i = 0; i < bytes / 2; i++)
            left += ((uint16_t *)state.working.data)[i] == 0x1111;
        changed = (int64_t)(bytes / 2) - left;
        assert_int_equal(changed, masters);
    }
}

static void refreshing_rounds_what_the_rank_owns_alone(void **state)
{
    (void)state;
    for_every_rank(check_refresh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_all_a_slice_or_a_window),
        cmocka_unit_test(every_mode_holds_what_the_table_says),
        cmocka_unit_test(addresses_of_units_slices_and_offsets_agree),
        cmocka_unit_test(neighbours_do_not_overlap_in_the_window),
        cmocka_unit_test(runs_name_every_owned_element),
        cmocka_unit_test(refreshing_rounds_what_the_rank_owns_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
