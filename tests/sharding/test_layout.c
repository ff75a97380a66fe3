#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "layout.h"

#define MAX_RANKS 9

static mpt_tensor_t tensor(const char *name, int unit, int decay, int64_t rows, int64_t columns,
                           int64_t reserve)
{
    mpt_tensor_t t = {.dims = columns > 0 ? 2 : 1,
                      .shape = {rows, columns},
                      .unit = unit,
                      .decay = decay,
                      .reserve = reserve};
    snprintf(t.name, sizeof t.name, "%s", name);
    return t;
}

/* Odd sizes, a unit of one element, units out of table order, decayed behind not decayed, reserves. */
enum { TABLE = 9 };

static void fill_table(mpt_tensor_t table[TABLE])
{
    table[0] = tensor("embed", 0, 1, 11, 7, 60);
    table[1] = tensor("place", 0, 1, 5, 7, 0);
    table[2] = tensor("bias", 2, 0, 3, 0, 0);
    table[3] = tensor("square", 2, 1, 13, 17, 0);
    table[4] = tensor("one", 1, 1, 1, 0, 0);
    table[5] = tensor("gain", 2, 0, 129, 0, 2);
    table[6] = tensor("line", 2, 1, 1, 64, 0);
    table[7] = tensor("head", 3, 0, 1, 0, 0);
    table[8] = tensor("tail", 3, 0, 63, 0, 0);
}

static const int64_t table_counts[TABLE] = {77, 35, 3, 221, 1, 129, 64, 1, 63};

static mpt_layout_t build_cut(int ranks, int group, int lanes)
{
    mpt_tensor_t table[TABLE];
    mpt_layout_t layout;
    mpt_layout_cut_t cut = {.ranks = ranks, .group = group, .lanes = lanes};
    fill_table(table);
    assert_int_equal(mpt_layout_build(table, TABLE, &cut, &layout), MPT_OK);
    return layout;
}

static mpt_layout_t build(int ranks)
{
    return build_cut(ranks, 0, 0);
}

/* ranks, group, lanes: one group, several, groups of one, lanes finer than parts, sizes that are no powers of two. */
static const int cuts[][3] = {{1, 1, 1},  {4, 2, 4}, {8, 2, 8}, {8, 4, 8}, {4, 1, 4}, {6, 3, 6},
                              {6, 2, 12}, {2, 2, 8}, {4, 2, 8}, {1, 1, 8}, {9, 3, 9}, {5, 5, 5}};
enum { CUTS = sizeof cuts / sizeof *cuts };

/* Cut into `pieces` equal ones, each element is in one of them, where its address says. */
static void assert_covered_once(const mpt_layout_t *layout, int pieces)
{
    unsigned char *seen = calloc((size_t)layout->total, 1);
    int64_t covered = 0;
    for (int index = 0; index < pieces; index++) {
        mpt_extent_t extents[TABLE];
        int count = mpt_layout_extents(layout, pieces, index, extents);
        int64_t owned = 0;
        for (int i = 0; i < count; i++) {
            const mpt_extent_t *e = &extents[i];
            const mpt_unit_t *unit = &layout->units[layout->tensors[e->tensor].unit];
            int64_t piece = unit->padded / pieces;
            assert_true(e->count > 0 && e->first >= 0);
            assert_true(e->first + e->count <= table_counts[e->tensor]);
            assert_int_equal(e->at, mpt_layout_at(layout, e->tensor) + e->first);
            assert_true(e->at >= unit->first + piece * index);
            assert_true(e->at + e->count <= unit->first + piece * (index + 1));
            assert_true(i == 0 || extents[i - 1].tensor < e->tensor);
            for (int64_t j = 0; j < e->count; j++)
                assert_int_equal(seen[e->at + j]++, 0);
            owned += e->count;
        }
        assert_int_equal(owned, mpt_layout_owned(layout, pieces, index));
        covered += owned;
    }
    assert_int_equal(covered, layout->parameters);
    free(seen);
}

static void every_element_lies_in_one_piece(void **state)
{
    (void)state;
    for (int i = 0; i < CUTS; i++) {
        mpt_layout_t layout = build_cut(cuts[i][0], cuts[i][1], cuts[i][2]);
        assert_covered_once(&layout, 1);
        assert_covered_once(&layout, layout.group);
        assert_covered_once(&layout, layout.ranks);
        assert_covered_once(&layout, layout.lanes);
        mpt_layout_release(&layout);
    }
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        mpt_layout_t layout = build(ranks);
        assert_covered_once(&layout, ranks);
        mpt_layout_release(&layout);
    }
}

static void an_extent_of_a_tensor_is_that_of_its_list(void **state)
{
    (void)state;
    mpt_layout_t layout = build_cut(4, 2, 8);
    static const int pieces[] = {1, 2, 4, 8};
    for (int p = 0; p < 4; p++)
        for (int index = 0; index < pieces[p]; index++) {
            mpt_extent_t extents[TABLE], extent;
            int count = mpt_layout_extents(&layout, pieces[p], index, extents), at = 0;
            for (int t = 0; t < TABLE; t++) {
                int lies = at < count && extents[at].tensor == t;
                assert_int_equal(mpt_layout_extent(&layout, pieces[p], index, t, &extent), lies);
                if (!lies)
                    continue;
                assert_int_equal(extent.first, extents[at].first);
                assert_int_equal(extent.count, extents[at].count);
                assert_int_equal(extent.at, extents[at].at);
                at++;
            }
            assert_int_equal(at, count);
        }
    mpt_layout_release(&layout);
}

/* ---- cuts ---------------------------------------------------------------------------------------- */

/* A slice is its holders' parts end to end, group by group: rank g*k+j looks after the g-th part of slice j. */
static void parts_lie_in_their_ranks_slices(void **state)
{
    (void)state;
    for (int i = 0; i < CUTS; i++) {
        mpt_layout_t layout = build_cut(cuts[i][0], cuts[i][1], cuts[i][2]);
        int groups = layout.ranks / layout.group;
        for (int rank = 0; rank < layout.ranks; rank++) {
            int slice = mpt_layout_slice_of(&layout, rank),
                part = mpt_layout_part_of(&layout, rank);
            assert_int_equal(slice, rank % layout.group);
            for (int u = 0; u < layout.unit_count; u++)
                assert_int_equal(mpt_layout_part(&layout, u) * part,
                                 mpt_layout_slice(&layout, u) * slice +
                                     mpt_layout_part(&layout, u) * (rank / layout.group));
        }
        for (int u = 0; u < layout.unit_count; u++) {
            assert_int_equal(mpt_layout_part(&layout, u) * groups, mpt_layout_slice(&layout, u));
            assert_int_equal(mpt_layout_slice(&layout, u) * layout.group, layout.units[u].padded);
            assert_int_equal(layout.units[u].padded % (MPT_LAYOUT_ALIGN * layout.lanes), 0);
        }
        mpt_layout_release(&layout);
    }
}

static void every_part_has_one_rank(void **state)
{
    (void)state;
    for (int i = 0; i < CUTS; i++) {
        mpt_layout_t layout = build_cut(cuts[i][0], cuts[i][1], cuts[i][2]);
        unsigned seen = 0;
        for (int rank = 0; rank < layout.ranks; rank++) {
            int part = mpt_layout_part_of(&layout, rank);
            assert_true(part >= 0 && part < layout.ranks);
            assert_int_equal(mpt_layout_rank_of(&layout, part), rank);
            assert_int_equal(mpt_layout_part_of(&layout, mpt_layout_rank_of(&layout, rank)), rank);
            seen |= 1u << part;
        }
        assert_int_equal(seen, (1u << layout.ranks) - 1);
        mpt_layout_release(&layout);
    }
}

static void without_groups_a_rank_has_the_slice_and_part_of_its_number(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        mpt_layout_t layout = build(ranks);
        assert_int_equal(layout.group, ranks);
        assert_int_equal(layout.lanes, ranks);
        for (int rank = 0; rank < ranks; rank++) {
            assert_int_equal(mpt_layout_slice_of(&layout, rank), rank);
            assert_int_equal(mpt_layout_part_of(&layout, rank), rank);
        }
        mpt_layout_release(&layout);
    }
}

/* Groups share what lanes and ranks have cut: elements lie in the same places. */
static void offsets_depend_on_lanes_alone(void **state)
{
    (void)state;
    static const int same[][3] = {{8, 8, 8}, {8, 2, 8}, {8, 4, 8}, {4, 2, 8}, {2, 2, 8}, {1, 1, 8}};
    mpt_layout_t first = build_cut(8, 8, 8);
    for (int i = 1; i < 6; i++) {
        mpt_layout_t layout = build_cut(same[i][0], same[i][1], same[i][2]);
        assert_int_equal(layout.total, first.total);
        assert_memory_equal(layout.offset, first.offset, TABLE * sizeof *first.offset);
        assert_memory_equal(layout.units, first.units,
                            (size_t)first.unit_count * sizeof *first.units);
        mpt_layout_release(&layout);
    }
    mpt_layout_release(&first);
}

static void the_largest_unit_is_sought_behind_the_first(void **state)
{
    (void)state;
    mpt_layout_t layout = build(2);
    assert_int_equal(mpt_layout_largest(&layout), layout.units[2].padded);
    mpt_layout_release(&layout);
    mpt_tensor_t only = tensor("only", 0, 1, 1000, 0, 0);
    mpt_layout_cut_t cut = {.ranks = 2};
    assert_int_equal(mpt_layout_build(&only, 1, &cut, &layout), MPT_OK);
    assert_int_equal(mpt_layout_largest(&layout), 0);
    mpt_layout_release(&layout);
}

/* ---- places -------------------------------------------------------------------------------------- */

static void units_lie_end_to_end_and_are_padded_for_all_ranks(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        mpt_layout_t layout = build(ranks);
        int64_t at = 0;
        assert_int_equal(layout.unit_count, 4);
        for (int u = 0; u < layout.unit_count; u++) {
            const mpt_unit_t *unit = &layout.units[u];
            assert_int_equal(unit->first, at);
            assert_int_equal(unit->padded % (MPT_LAYOUT_ALIGN * ranks), 0);
            assert_true(unit->padded - unit->used < MPT_LAYOUT_ALIGN * ranks);
            assert_true(unit->used <= unit->padded && unit->decay_count <= unit->used);
            assert_int_equal(mpt_layout_slice(&layout, u) * ranks, unit->padded);
            assert_int_equal(mpt_layout_slice(&layout, u) % MPT_LAYOUT_ALIGN, 0);
            at += unit->padded;
        }
        assert_int_equal(layout.total, at);
        mpt_layout_release(&layout);
    }
}

static void a_unit_smaller_than_the_ranks_gives_some_of_them_nothing(void **state)
{
    (void)state;
    mpt_tensor_t one = tensor("one", 0, 1, 1, 0, 0);
    mpt_layout_t layout;
    mpt_layout_cut_t cut = {.ranks = MAX_RANKS};
    assert_int_equal(mpt_layout_build(&one, 1, &cut, &layout), MPT_OK);
    assert_int_equal(layout.total, MPT_LAYOUT_ALIGN * MAX_RANKS);
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        mpt_extent_t extent;
        assert_int_equal(mpt_layout_owned(&layout, layout.ranks, rank), rank == 0);
        assert_int_equal(mpt_layout_extents(&layout, MAX_RANKS, rank, &extent), rank == 0);
    }
    mpt_layout_release(&layout);
}

static void tensors_start_on_cache_lines_and_do_not_overlap(void **state)
{
    (void)state;
    mpt_layout_t layout = build(3);
    unsigned char *taken = calloc((size_t)layout.total, 1);
    for (int t = 0; t < TABLE; t++) {
        int64_t at = mpt_layout_at(&layout, t);
        assert_int_equal(at % MPT_LAYOUT_ALIGN, 0);
        for (int64_t i = 0; i < table_counts[t] + layout.tensors[t].reserve; i++)
            assert_int_equal(taken[at + i]++, 0);
    }
    free(taken);
    mpt_layout_release(&layout);
}

static void decayed_tensors_come_first_in_their_unit(void **state)
{
    (void)state;
    mpt_layout_t layout = build(2);
    for (int t = 0; t < TABLE; t++) {
        const mpt_unit_t *unit = &layout.units[layout.tensors[t].unit];
        int64_t end = layout.offset[t] + table_counts[t] + layout.tensors[t].reserve;
        if (layout.tensors[t].decay)
            assert_true(end <= unit->decay_count);
        else
            assert_true(layout.offset[t] >= unit->decay_count);
        assert_true(end <= unit->used);
    }
    assert_int_equal(layout.units[3].decay_count, 0);
    mpt_layout_release(&layout);
}

static void a_reserve_is_part_of_no_count(void **state)
{
    (void)state;
    mpt_layout_t layout = build(4);
    int64_t parameters = 0, owned = 0;
    int tensor_index;
    int64_t element;
    for (int t = 0; t < TABLE; t++) {
        assert_int_equal(layout.tensors[t].first, parameters);
        parameters += table_counts[t];
    }
    assert_int_equal(layout.parameters, parameters);
    for (int rank = 0; rank < 4; rank++)
        owned += mpt_layout_owned(&layout, layout.ranks, rank);
    assert_int_equal(owned, parameters);
    for (int64_t i = 0; i < 60; i++)
        assert_int_equal(
            mpt_layout_locate(&layout, 0, layout.offset[0] + 77 + i, &tensor_index, &element), 0);
    mpt_layout_release(&layout);
}

/* Every offset of every unit is either an element, found back by its address, or padding. */
static void locate_is_the_inverse_of_the_offsets(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks += 4) {
        mpt_layout_t layout = build(ranks);
        int64_t found = 0;
        for (int u = 0; u < layout.unit_count; u++)
            for (int64_t offset = 0; offset < layout.units[u].padded; offset++) {
                int t = 99;
                int64_t element = -1;
                if (!mpt_layout_locate(&layout, u, offset, &t, &element)) {
                    assert_int_equal(t, -1);
                    continue;
                }
                assert_int_equal(layout.tensors[t].unit, u);
                assert_int_equal(mpt_layout_at(&layout, t) + element,
                                 layout.units[u].first + offset);
                assert_true(element >= 0 && element < table_counts[t]);
                found++;
            }
        assert_int_equal(found, layout.parameters);
        mpt_layout_release(&layout);
    }
}

static void locate_global_is_the_inverse_of_first(void **state)
{
    (void)state;
    mpt_layout_t layout = build(5);
    int t;
    int64_t element, global = 0;
    for (int expected = 0; expected < TABLE; expected++)
        for (int64_t i = 0; i < table_counts[expected]; i++, global++) {
            assert_int_equal(mpt_layout_locate_global(&layout, global, &t, &element), 1);
            assert_int_equal(t, expected);
            assert_int_equal(element, i);
        }
    assert_int_equal(mpt_layout_locate_global(&layout, global, &t, &element), 0);
    assert_int_equal(t, -1);
    assert_int_equal(mpt_layout_locate_global(&layout, -1, &t, &element), 0);
    mpt_layout_release(&layout);
}

static void tensors_are_found_by_their_whole_name(void **state)
{
    (void)state;
    mpt_layout_t layout = build(2);
    assert_int_equal(mpt_layout_find(&layout, "embed"), 0);
    assert_int_equal(mpt_layout_find(&layout, "tail"), 8);
    assert_int_equal(mpt_layout_find(&layout, "tai"), -1);
    assert_int_equal(mpt_layout_find(&layout, "tails"), -1);
    assert_int_equal(mpt_layout_find(&layout, ""), -1);
    mpt_layout_release(&layout);
}

/* What each rank owns depends on the table and the number of ranks alone. */
static void building_twice_gives_the_same_layout(void **state)
{
    (void)state;
    mpt_layout_t a = build(6), b = build(6);
    assert_memory_equal(a.offset, b.offset, TABLE * sizeof *a.offset);
    assert_memory_equal(a.units, b.units, (size_t)a.unit_count * sizeof *a.units);
    assert_memory_equal(a.tensors, b.tensors, TABLE * sizeof *a.tensors);
    mpt_layout_release(&a);
    mpt_layout_release(&b);
}

static void assert_cut_refused(const mpt_tensor_t *table, int count, const mpt_layout_cut_t *cut)
{
    mpt_layout_t layout = {.ranks = 77};
    assert_int_equal(mpt_layout_build(table, count, cut, &layout), MPT_ERR_INVALID_ARG);
    assert_int_equal(layout.ranks, 77);
}

static void assert_refused(const mpt_tensor_t *table, int count, int ranks)
{
    assert_cut_refused(table, count, &(mpt_layout_cut_t){.ranks = ranks});
}

static void cuts_that_do_not_refine_each_other_are_refused(void **state)
{
    (void)state;
    static const mpt_layout_cut_t unsound[] = {{.ranks = 4, .group = 3},  {.ranks = 4, .group = 8},
                                               {.ranks = 4, .group = -2}, {.ranks = 4, .lanes = 2},
                                               {.ranks = 3, .lanes = 8},  {.ranks = 4, .lanes = -4},
                                               {.ranks = 0, .lanes = 8},  {.ranks = 0, .group = 2}};
    mpt_tensor_t table[TABLE];
    fill_table(table);
    for (size_t i = 0; i < sizeof unsound / sizeof *unsound; i++)
        assert_cut_refused(table, TABLE, &unsound[i]);
}

static void unsound_tables_are_refused(void **state)
{
    (void)state;
    mpt_tensor_t table[TABLE];
    fill_table(table);
    assert_refused(table, 0, 1);
    assert_refused(table, TABLE, 0);
    assert_refused(table, TABLE, -1);
    table[4].unit = -1; /* belongs nowhere */
    assert_refused(table, TABLE, 2);
    table[4].unit = 2; /* unit 1 has no tensor */
    assert_refused(table, TABLE, 2);
    fill_table(table);
    table[3].shape[1] = 0;
    assert_refused(table, TABLE, 2);
    fill_table(table);
    table[0].reserve = -1;
    assert_refused(table, TABLE, 2);
}

static void releasing_nothing_is_fine(void **state)
{
    (void)state;
    mpt_layout_t layout = {0};
    mpt_layout_release(&layout);
    layout = build(1);
    mpt_layout_release(&layout);
    mpt_layout_release(&layout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_lies_in_one_piece),
        cmocka_unit_test(an_extent_of_a_tensor_is_that_of_its_list),
        cmocka_unit_test(parts_lie_in_their_ranks_slices),
        cmocka_unit_test(every_part_has_one_rank),
        cmocka_unit_test(without_groups_a_rank_has_the_slice_and_part_of_its_number),
        cmocka_unit_test(offsets_depend_on_lanes_alone),
        cmocka_unit_test(the_largest_unit_is_sought_behind_the_first),
        cmocka_unit_test(units_lie_end_to_end_and_are_padded_for_all_ranks),
        cmocka_unit_test(a_unit_smaller_than_the_ranks_gives_some_of_them_nothing),
        cmocka_unit_test(tensors_start_on_cache_lines_and_do_not_overlap),
        cmocka_unit_test(decayed_tensors_come_first_in_their_unit),
        cmocka_unit_test(a_reserve_is_part_of_no_count),
        cmocka_unit_test(locate_is_the_inverse_of_the_offsets),
        cmocka_unit_test(locate_global_is_the_inverse_of_first),
        cmocka_unit_test(tensors_are_found_by_their_whole_name),
        cmocka_unit_test(building_twice_gives_the_same_layout),
        cmocka_unit_test(cuts_that_do_not_refine_each_other_are_refused),
        cmocka_unit_test(unsound_tables_are_refused),
        cmocka_unit_test(releasing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
