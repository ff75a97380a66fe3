#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <time.h>
#include "fixture.h"

enum { WEIGHTS, MASTERS, M, V, EMA, ARRAYS };
static const char *const array_names[ARRAYS] = {"weights", "masters", "m", "v", "ema"};

static mpt_held_t *array_of(mpt_state_t *state, int array)
{
    mpt_held_t *const arrays[ARRAYS] = {&state->working, &state->master, &state->m, &state->v,
                                        &state->ema};
    return arrays[array];
}

/* The same state on every rank, as far as it is held; each array its own numbers, `alike` or not. */
static void fill_state(fixture_rank_t *rank, int alike)
{
    for (int a = 0; a < ARRAYS; a++) {
        mpt_held_t *held = array_of(&rank->state, a);
        float *flat = fixture_flat(rank->layout, alike ? 1 : 1 + (uint64_t)a, 4, 1.0f);
        if (held->data != NULL)
            fixture_fill(rank, held, flat);
        free(flat);
    }
}

/* ---- the hash ----------------------------------------------------------------------------------------------- */

/* Of all elements of array `array`, from the definition. */
static uint64_t defined_hash(const mpt_layout_t *layout, int array, mpt_dtype_t dtype)
{
    float *flat = fixture_flat(layout, 1 + (uint64_t)array, 4, 1.0f);
    uint64_t sum = 0;
    for (int t = 0; t < layout->tensor_count; t++)
        for (int64_t i = 0; i < mpt_tensor_count(&layout->tensors[t]); i++) {
            float value = flat[mpt_layout_at(layout, t) + i];
            uint32_t bits = dtype == MPT_BF16  ? mpt_f32_to_bf16(value)
                            : dtype == MPT_F16 ? mpt_f32_to_f16(value)
                                               : mpt_f32_bits(value);
            sum +=
                mpt_hash_mix((uint64_t)(layout->tensors[t].first + i), bits, (uint64_t)array + 1);
        }
    free(flat);
    return sum;
}

static uint64_t hash_of_rank(const fixture_t *fixture, int number)
{
    fixture_rank_t rank;
    uint64_t hash = 99;
    fixture_open(&rank, fixture, number);
    fill_state(&rank, 0);
    assert_int_equal(mpt_replica_hash(&rank.state, &rank.kernels, rank.stream, &hash), MPT_OK);
    fixture_close(&rank);
    return hash;
}

static uint64_t hash_of(int ranks, int group, int lanes, mpt_shard_t shard, int number)
{
    mpt_layout_t layout = fixture_layout(ranks, group, lanes);
    const fixture_t fixture = {
        .layout = &layout, .shard = shard, .compute = MPT_BF16, .wire = MPT_BF16, .with_ema = 1};
    uint64_t hash = hash_of_rank(&fixture, number);
    mpt_layout_release(&layout);
    return hash;
}

static uint64_t defined_whole(int only_weights)
{
    mpt_layout_t layout = fixture_layout(1, 0, 0);
    uint64_t sum = 0;
    for (int a = 0; a < (only_weights ? 1 : ARRAYS); a++)
        sum += defined_hash(&layout, a, a == WEIGHTS ? MPT_BF16 : MPT_F32);
    mpt_layout_release(&layout);
    return sum;
}

static void equal_state_has_equal_hashes_for_any_cut(void **state)
{
    (void)state;
    static const struct {
        int ranks, lanes;
    } cuts[] = {{2, 0}, {3, 0}, {4, 0}, {7, 0}, {8, 0}, {2, 8}, {4, 16}};
    uint64_t all = defined_whole(0), weights = defined_whole(1);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        for (int r = 0; r < cuts[i].ranks; r += cuts[i].ranks - 1) {
            int ranks = cuts[i].ranks, lanes = cuts[i].lanes;
            assert_true(hash_of(ranks, 0, lanes, MPT_SHARD_DDP, r) == all);
            assert_true(hash_of(ranks, 0, lanes, MPT_SHARD_ZERO1, r) == weights);
            assert_true(hash_of(ranks, 0, lanes, MPT_SHARD_ZERO2, r) == weights);
        }
}

/* A sum modulo 2^64: slices' hashes add up to that of all. */
static void hashes_of_slices_add_up_to_the_whole(void **state)
{
    (void)state;
    for (int k = 1; k <= 4; k *= 2) {
        uint64_t sum = 0;
        for (int r = 0; r < k; r++) {
            sum += hash_of(8, k, 0, MPT_SHARD_HSDP, r);
            assert_true(hash_of(8, k, 0, MPT_SHARD_HSDP, r) ==
                        hash_of(8, k, 0, MPT_SHARD_HSDP, r + k));
        }
        assert_true(sum == defined_whole(0));
    }
}

static void where_nothing_is_replicated_the_hash_is_zero(void **state)
{
    (void)state;
    for (int r = 0; r < 4; r++) {
        assert_true(hash_of(4, 0, 0, MPT_SHARD_ZERO3, r) == 0);
        assert_true(hash_of(4, 4, 0, MPT_SHARD_HSDP, r) == 0);
    }
    for (int shard = MPT_SHARD_DDP; shard <= MPT_SHARD_HSDP; shard++)
        assert_true(hash_of(1, 0, 0, (mpt_shard_t)shard, 0) == 0);
}

static mpt_status_t hash_nothing(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)a;
    (void)s;
    return MPT_OK;
}

/* 0 says that nothing is replicated: a sum that happens to be 0 must not. */
static void a_sum_of_zero_is_not_taken_for_nothing(void **state)
{
    (void)state;
    mpt_layout_t layout = fixture_layout(2, 0, 0);
    const fixture_t fixture = {
        .layout = &layout, .shard = MPT_SHARD_DDP, .compute = MPT_F32, .wire = MPT_F32};
    fixture_rank_t rank;
    uint64_t hash;
    fixture_open(&rank, &fixture, 0);
    mpt_kernels_ops_t ops = *rank.kernels.ops;
    ops.hash = hash_nothing;
    rank.kernels.ops = &ops;
    assert_int_equal(mpt_replica_hash(&rank.state, &rank.kernels, rank.stream, &hash), MPT_OK);
    assert_true(hash == 1);
    fixture_close(&rank);
    mpt_layout_release(&layout);
}

static void ranks_that_hold_the_same_are_known_by_the_mode(void **state)
{
    (void)state;
    mpt_layout_t layout = fixture_layout(8, 2, 0);
    assert_int_equal(mpt_replica_sets(&layout, MPT_SHARD_HSDP), 2);
    mpt_layout_release(&layout);
    layout = fixture_layout(8, 0, 0);
    for (int shard = MPT_SHARD_DDP; shard <= MPT_SHARD_ZERO2; shard++)
        assert_int_equal(mpt_replica_sets(&layout, (mpt_shard_t)shard), 1);
    assert_int_equal(mpt_replica_sets(&layout, MPT_SHARD_ZERO3), 8);
    mpt_layout_release(&layout);
}

/* Hashes are for elements: what lies in padding and in the window is nobody's state. */
static void padding_does_not_count(void **state)
{
    (void)state;
    mpt_layout_t layout = fixture_layout(2, 0, 0);
    const fixture_t fixture = {
        .layout = &layout, .shard = MPT_SHARD_DDP, .compute = MPT_F16, .wire = MPT_F16};
    fixture_rank_t rank;
    uint64_t before, after;
    fixture_open(&rank, &fixture, 0);
    fill_state(&rank, 0);
    assert_int_equal(mpt_replica_hash(&rank.state, &rank.kernels, rank.stream, &before), MPT_OK);
    for (int u = 0; u < FIXTURE_UNITS; u++)
        ((float *)mpt_held_unit(&layout, &rank.state.m, u))[layout.units[u].padded - 1] = 1.0f;
    assert_int_equal(mpt_replica_hash(&rank.state, &rank.kernels, rank.stream, &after), MPT_OK);
    assert_true(before == after && before != 0);
    fixture_close(&rank);
    mpt_layout_release(&layout);
}

/* ---- a flipped bit ---------------------------------------------------------------------------------------------- */

typedef struct flip {
    int array, tensor, bit;
    int64_t element;
} flip_t;

/* 1 if this rank holds the element. */
static int flip(fixture_rank_t *rank, const flip_t *f)
{
    const mpt_layout_t *layout = rank->layout;
    mpt_held_t *held = array_of(&rank->state, f->array);
    mpt_extent_t e;
    int whole = held->hold == MPT_HOLD_ALL;
    if (held->data == NULL ||
        !mpt_layout_extent(layout, whole ? 1 : layout->group,
                           whole ? 0 : mpt_layout_slice_of(layout, rank->rank), f->tensor, &e) ||
        f->element < e.first || f->element >= e.first + e.count)
        return 0;
    uint8_t *at = mpt_held_at(&rank->state, held, e.at + f->element - e.first);
    at[f->bit / 8] ^= (uint8_t)(1u << f->bit % 8);
    return 1;
}

/* First and last element of every tensor, and the lowest and highest bit. */
static int list_flips(const mpt_layout_t *layout, flip_t *flips)
{
    int n = 0;
    for (int a = 0; a < ARRAYS; a++)
        for (int t = 0; t < layout->tensor_count; t++)
            for (int last = 0; last <= 1; last++)
                flips[n++] =
                    (flip_t){.array = a,
                             .tensor = t,
                             .element = last ? mpt_tensor_count(&layout->tensors[t]) - 1 : 0,
                             .bit = !last          ? 0
                                    : a == WEIGHTS ? 15
                                                   : 31};
    return n;
}

/* Is what `flip` names on a rank held alike by others? */
static int is_replicated(const fixture_rank_t *rank, int array)
{
    mpt_shard_t shard = rank->fixture->shard;
    if (shard == MPT_SHARD_DDP)
        return 1;
    if (shard == MPT_SHARD_HSDP)
        return rank->layout->group < rank->layout->ranks;
    return shard != MPT_SHARD_ZERO3 && array == WEIGHTS;
}

/* The rank that must be named: of two that differ from each other the second, else the one that was changed. */
static int culprit(const fixture_rank_t *rank, int victim)
{
    int group = rank->layout->group;
    int two = rank->fixture->shard == MPT_SHARD_HSDP && rank->layout->ranks / group == 2;
    return two ? victim % group + group : victim;
}

static int names(const fixture_rank_t *rank, const flip_t *f, int victim,
                 const mpt_replica_finding_t *found)
{
    char list[16];
    snprintf(list, sizeof list, "%d", culprit(rank, victim));
    return found->rank == culprit(rank, victim) && found->ranks == 1 &&
           strcmp(found->list, list) == 0 && found->tensor == f->tensor &&
           found->unit == rank->layout->tensors[f->tensor].unit &&
           strcmp(found->what, array_names[f->array]) == 0;
}

/* Hash, tell each other, and look; every rank does so whether or not it was changed. */
static int look(fixture_rank_t *rank, const flip_t *f, int victim)
{
    int held = rank->rank == victim ? flip(rank, f) : 0, sets, differ = 0, flipped[16] = {0};
    uint64_t own, all[FIXTURE_MAX_RANKS];
    mpt_replica_finding_t found;
    if (mpt_replica_hash(&rank->state, &rank->kernels, rank->stream, &own) != MPT_OK ||
        mpt_comm_all_gather(rank->comm, &own, all, sizeof own, NULL) != MPT_OK ||
        mpt_comm_all_gather(rank->comm, &held, flipped, sizeof held, NULL) != MPT_OK ||
        mpt_replica_find(&rank->state, &rank->kernels, rank->comm, rank->stream, &found) != MPT_OK)
        return 1;
    if (held)
        flip(rank, f);
    sets = mpt_replica_sets(rank->layout, rank->fixture->shard);
    for (int r = sets; r < rank->layout->ranks; r++)
        differ |= all[r] != all[r % sets];
    int expected = flipped[victim] && is_replicated(rank, f->array);
    if (differ != expected)
        return 2;
    if (!expected)
        return found.rank == -1 && found.ranks == 0 && found.unit == -1 ? 0 : 3;
    return names(rank, f, victim, &found) ? 0 : 4;
}

static int flip_body(fixture_rank_t *rank)
{
    flip_t flips[ARRAYS * FIXTURE_TENSORS * 2];
    int count = list_flips(rank->layout, flips), step = rank->layout->ranks > 4 ? 7 : 1;
    fill_state(rank, 0);
    for (int i = 0; i < count; i += step)
        for (int victim = 0; victim < rank->layout->ranks; victim++) {
            int result = look(rank, &flips[i], victim);
            if (result != 0) {
                fprintf(stderr, "rank %d: bit %d of element %lld of tensor %d of the %s on %d\n",
                        rank->rank, flips[i].bit, (long long)flips[i].element, flips[i].tensor,
                        array_names[flips[i].array], victim);
                return result;
            }
        }
    return 0;
}

static void a_flipped_bit_is_found_on_any_rank_in_any_array_of_any_mode(void **state)
{
    (void)state;
    static const struct {
        mpt_shard_t shard;
        int ranks, group;
    } modes[] = {{MPT_SHARD_DDP, 4, 0},   {MPT_SHARD_ZERO1, 4, 0}, {MPT_SHARD_ZERO2, 4, 0},
                 {MPT_SHARD_ZERO3, 4, 0}, {MPT_SHARD_HSDP, 4, 1},  {MPT_SHARD_HSDP, 4, 2},
                 {MPT_SHARD_HSDP, 4, 4},  {MPT_SHARD_HSDP, 8, 2},  {MPT_SHARD_DDP, 3, 0}};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        mpt_layout_t layout = fixture_layout(modes[i].ranks, modes[i].group, 0);
        const fixture_t fixture = {.layout = &layout,
                                   .shard = modes[i].shard,
                                   .compute = MPT_BF16,
                                   .wire = MPT_BF16,
                                   .with_ema = 1,
                                   .body = flip_body};
        int result = fixture_run(&fixture);
        if (result != 0)
            fail_msg("shard %d, %d of %d ranks: %d", (int)modes[i].shard, layout.group,
                     layout.ranks, result);
        mpt_layout_release(&layout);
    }
}

/* Without masters and EMA, and arrays that hold the same numbers changing places. */
static int swap_body(fixture_rank_t *rank)
{
    mpt_state_t *state = &rank->state;
    mpt_replica_finding_t found;
    fill_state(rank, 1);
    uint64_t before, after;
    if (mpt_replica_hash(state, &rank->kernels, rank->stream, &before) != MPT_OK)
        return 1;
    float *m = mpt_held_at(state, &state->m, 7), *v = mpt_held_at(state, &state->v, 7);
    if (rank->rank == 2) { /* a carry from one array into the other, element for element */
        *m += 1.0f;
        *v -= 1.0f;
    }
    if (mpt_replica_hash(state, &rank->kernels, rank->stream, &after) != MPT_OK ||
        mpt_replica_find(state, &rank->kernels, rank->comm, rank->stream, &found) != MPT_OK)
        return 2;
    if ((before != after) != (rank->rank == 2))
        return 3;
    return found.rank == 2 && strcmp(found.what, "m") == 0 && found.tensor == 0 ? 0 : 4;
}

static void arrays_do_not_stand_in_for_each_other(void **state)
{
    (void)state;
    mpt_layout_t layout = fixture_layout(4, 0, 0);
    const fixture_t fixture = {.layout = &layout,
                               .shard = MPT_SHARD_DDP,
                               .compute = MPT_BF16,
                               .wire = MPT_BF16,
                               .without_master = 1,
                               .body = swap_body};
    assert_int_equal(fixture_run(&fixture), 0);
    mpt_layout_release(&layout);
}

/* Three ranks of eight, in different places: all are named, with the first place. */
static int three_body(fixture_rank_t *rank)
{
    mpt_replica_finding_t found;
    fill_state(rank, 0);
    if (rank->rank == 0)
        flip(rank, &(flip_t){.array = EMA, .tensor = 7, .element = 300, .bit = 9});
    if (rank->rank == 3)
        flip(rank, &(flip_t){.array = V, .tensor = 3, .element = 8000, .bit = 30});
    if (rank->rank == 5)
        flip(rank, &(flip_t){.array = M, .tensor = 8, .element = 64, .bit = 1});
    if (mpt_replica_find(&rank->state, &rank->kernels, rank->comm, rank->stream, &found) != MPT_OK)
        return 1;
    if (found.rank != 0 || found.ranks != 3 || strcmp(found.list, "0, 3, 5") != 0)
        return 2;
    return found.unit == 1 && found.tensor == 3 && strcmp(found.what, "v") == 0 ? 0 : 3;
}

static void several_ranks_are_all_named_with_the_first_place(void **state)
{
    (void)state;
    mpt_layout_t layout = fixture_layout(8, 0, 0);
    const fixture_t fixture = {.layout = &layout,
                               .shard = MPT_SHARD_DDP,
                               .compute = MPT_BF16,
                               .wire = MPT_BF16,
                               .with_ema = 1,
                               .body = three_body};
    assert_int_equal(fixture_run(&fixture), 0);
    mpt_layout_release(&layout);
}

/* ---- many ranks, which a communicator of this test's own makes up ------------------------------------------------- */

/* The first ranks, as many as the communicator's own number says, differ each in its own way. */
static mpt_status_t made_up_gather(mpt_comm_t *comm, const void *send, void *recv, size_t bytes,
                                   mpt_stream_t *stream)
{
    (void)stream;
    for (int r = 0; r < comm->ranks; r++) {
        char *row = (char *)recv + (size_t)r * bytes;
        uint64_t word; /* which rows of bytes need not align */
        memcpy(row, send, bytes);
        memcpy(&word, row + 3 * sizeof word, sizeof word);
        word += r < *(const int *)comm->impl ? 1 + (uint64_t)r : 0;
        memcpy(row + 3 * sizeof word, &word, sizeof word);
    }
    return MPT_OK;
}

static mpt_replica_finding_t find_among(int ranks, int odd)
{
    static const mpt_comm_ops_t ops = {.name = "made up", .all_gather = made_up_gather};
    mpt_layout_t layout = fixture_layout(ranks, 0, 0);
    const fixture_t fixture = {
        .layout = &layout, .shard = MPT_SHARD_DDP, .compute = MPT_BF16, .wire = MPT_BF16};
    mpt_comm_t comm = {.ops = &ops, .ranks = ranks, .impl = &odd};
    mpt_replica_finding_t found;
    fixture_rank_t rank;
    fixture_open(&rank, &fixture, 0);
    assert_int_equal(mpt_replica_find(&rank.state, &rank.kernels, &comm, rank.stream, &found),
                     MPT_OK);
    fixture_close(&rank);
    mpt_layout_release(&layout);
    return found;
}

static void a_long_list_is_cut_off_with_dots(void **state)
{
    (void)state;
    mpt_replica_finding_t found = find_among(300, 140);
    assert_int_equal(found.rank, 0);
    assert_int_equal(found.ranks, 140);
    assert_int_equal(strncmp(found.list, "0, 1, 2, ", 9), 0);
    size_t length = strlen(found.list);
    assert_true(length > 100 && length < sizeof found.list);
    assert_string_equal(found.list + length - 4, ", ..");
    found = find_among(300, 9);
    assert_string_equal(found.list, "0, 1, 2, 3, 4, 5, 6, 7, 8");
    found = find_among(300, 0);
    assert_int_equal(found.rank, -1);
    assert_string_equal(found.list, "");
}

static double seconds_among(int ranks)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    assert_int_equal(find_among(ranks, 1).ranks, 1);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

/* The others wait meanwhile: comparing every rank with every other would take minutes. */
static void two_thousand_ranks_are_compared_in_a_moment(void **state)
{
    (void)state;
    assert_true(seconds_among(2048) <= 5.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_state_has_equal_hashes_for_any_cut),
        cmocka_unit_test(hashes_of_slices_add_up_to_the_whole),
        cmocka_unit_test(where_nothing_is_replicated_the_hash_is_zero),
        cmocka_unit_test(a_sum_of_zero_is_not_taken_for_nothing),
        cmocka_unit_test(ranks_that_hold_the_same_are_known_by_the_mode),
        cmocka_unit_test(padding_does_not_count),
        cmocka_unit_test(a_flipped_bit_is_found_on_any_rank_in_any_array_of_any_mode),
        cmocka_unit_test(arrays_do_not_stand_in_for_each_other),
        cmocka_unit_test(several_ranks_are_all_named_with_the_first_place),
        cmocka_unit_test(a_long_list_is_cut_off_with_dots),
        cmocka_unit_test(two_thousand_ranks_are_compared_in_a_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
