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

static mpt_layout_t build(int ranks)
{
    mpt_tensor_t table[TABLE];
    mpt_layout_t layout;
    fill_table(table);
    assert_int_equal(mpt_layout_build(table, TABLE, ranks, &layout), MPT_OK);
    return layout;
}

static void every_element_lies_in_one_slice(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        mpt_layout_t layout = build(ranks);
        unsigned char *seen = calloc((size_t)layout.total, 1);
        int64_t covered = 0;
        for (int rank = 0; rank < ranks; rank++) {
            mpt_extent_t extents[TABLE];
            int count = mpt_layout_extents(&layout, rank, extents);
            int64_t owned = 0;
            for (int i = 0; i < count; i++) {
                const mpt_extent_t *e = &extents[i];
                const mpt_unit_t *unit = &layout.units[layout.tensors[e->tensor].unit];
                int64_t slice = mpt_layout_slice(&layout, layout.tensors[e->tensor].unit);
                assert_true(e->count > 0 && e->first >= 0);
                assert_true(e->first + e->count <= table_counts[e->tensor]);
                assert_int_equal(e->at, mpt_layout_at(&layout, e->tensor) + e->first);
                assert_true(e->at >= unit->first + slice * rank);
                assert_true(e->at + e->count <= unit->first + slice * (rank + 1));
                assert_true(i == 0 || extents[i - 1].tensor < e->tensor);
                for (int64_t j = 0; j < e->count; j++)
                    assert_int_equal(seen[e->at + j]++, 0);
                owned += e->count;
            }
            assert_int_equal(owned, mpt_layout_owned(&layout, rank));
            covered += owned;
        }
        assert_int_equal(covered, layout.parameters);
        free(seen);
        mpt_layout_release(&layout);
    }
}

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
    assert_int_equal(mpt_layout_build(&one, 1, MAX_RANKS, &layout), MPT_OK);
    assert_int_equal(layout.total, MPT_LAYOUT_ALIGN * MAX_RANKS);
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        mpt_extent_t extent;
        assert_int_equal(mpt_layout_owned(&layout, rank), rank == 0);
        assert_int_equal(mpt_layout_extents(&layout, rank, &extent), rank == 0);
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
        owned += mpt_layout_owned(&layout, rank);
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

static void assert_refused(const mpt_tensor_t *table, int count, int ranks)
{
    mpt_layout_t layout = {.ranks = 77};
    assert_int_equal(mpt_layout_build(table, count, ranks, &layout), MPT_ERR_INVALID_ARG);
    assert_int_equal(layout.ranks, 77);
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
        cmocka_unit_test(every_element_lies_in_one_slice),
        cmocka_unit_test(units_lie_end_to_end_and_are_padded_for_all_ranks),
        cmocka_unit_test(a_unit_smaller_than_the_ranks_gives_some_of_them_nothing),
        cmocka_unit_test(tensors_start_on_cache_lines_and_do_not_overlap),
        cmocka_unit_test(decayed_tensors_come_first_in_their_unit),
        cmocka_unit_test(a_reserve_is_part_of_no_count),
        cmocka_unit_test(locate_is_the_inverse_of_the_offsets),
        cmocka_unit_test(locate_global_is_the_inverse_of_first),
        cmocka_unit_test(tensors_are_found_by_their_whole_name),
        cmocka_unit_test(building_twice_gives_the_same_layout),
        cmocka_unit_test(unsound_tables_are_refused),
        cmocka_unit_test(releasing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
