#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "record.h"

#define MAX_RANKS 9

static void fill(mpt_record_t *records, int ranks)
{
    memset(records, 0, (size_t)ranks * sizeof *records);
    for (int r = 0; r < ranks; r++)
        records[r] = (mpt_record_t){.tokens = 100, .scale = 1024.0f, .step = 7};
}

static mpt_verdict_t fold(const mpt_record_t *records, int ranks)
{
    double scratch[MAX_RANKS];
    mpt_verdict_t verdict;
    mpt_record_fold(records, ranks, scratch, &verdict);
    return verdict;
}

static void mark(mpt_record_t *record, uint8_t flag, uint16_t micro_step, uint64_t element,
                 uint32_t count)
{
    record->flags |= flag;
    record->micro_step = micro_step;
    record->bad_element = element;
    record->bad_count = count;
    record->bad_bits = 0x7f800000u + (uint32_t)element;
}

static void the_record_is_sixty_four_bytes_in_the_documented_order(void **state)
{
    (void)state;
    assert_int_equal(sizeof(mpt_record_t), 64);
    assert_int_equal(offsetof(mpt_record_t, sumsq), 8);
    assert_int_equal(offsetof(mpt_record_t, loss_sum), 16);
    assert_int_equal(offsetof(mpt_record_t, bad_count), 24);
    assert_int_equal(offsetof(mpt_record_t, bad_element), 32);
    assert_int_equal(offsetof(mpt_record_t, scale), 40);
    assert_int_equal(offsetof(mpt_record_t, hash), 48);
    assert_int_equal(offsetof(mpt_record_t, step), 56);
}

static void a_clean_step_folds_to_a_clean_verdict(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        mpt_record_t records[MAX_RANKS];
        fill(records, ranks);
        mpt_verdict_t v = fold(records, ranks);
        assert_int_equal(v.status, MPT_OK);
        assert_int_equal(v.stop, 0);
        assert_int_equal(v.overflow, 0);
        assert_int_equal(v.bad_rank, -1);
        assert_int_equal(v.bad_count, 0);
        assert_int_equal(v.disagree_rank, -1);
        assert_int_equal(v.tokens, 100 * ranks);
    }
}

/* The tree, written once more and differently: recursively over the next power of two. */
static double tree(const double *values, int first, int span, int count)
{
    if (span == 1)
        return values[first];
    double left = tree(values, first, span / 2, count);
    return first + span / 2 < count ? left + tree(values, first + span / 2, span / 2, count) : left;
}

/* Sums that differ with their order: 1 is lost beside 2^53, pairs of 1 are not. */
static void sums_fold_in_the_tree_and_not_from_left_to_right(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        mpt_record_t records[MAX_RANKS];
        double values[MAX_RANKS], left_to_right = 0;
        fill(records, ranks);
        for (int r = 0; r < ranks; r++) {
            values[r] = r == 0 ? 0x1p53 : 1.0;
            records[r].sumsq = values[r];
            records[r].loss_sum = -values[r];
            left_to_right += values[r];
        }
        mpt_verdict_t v = fold(records, ranks);
        double expected = tree(values, 0, 16, ranks);
        assert_true(v.sumsq == expected);
        assert_true(v.loss_sum == -expected);
        if (ranks >= 4)
            assert_true(v.sumsq != left_to_right);
    }
}

static void sums_carry_infinities_and_nans(void **state)
{
    (void)state;
    mpt_record_t records[3];
    fill(records, 3);
    records[1].sumsq = INFINITY;
    records[2].loss_sum = NAN;
    mpt_verdict_t v = fold(records, 3);
    assert_true(isinf(v.sumsq));
    assert_true(isnan(v.loss_sum));
}

static void the_worst_status_wins_with_its_first_rank(void **state)
{
    (void)state;
    mpt_record_t records[MAX_RANKS];
    fill(records, MAX_RANKS);
    records[2].status = MPT_ERR_DATA;
    records[4].status = MPT_ERR_IO;
    records[5].status = MPT_ERR_DATA;
    records[8].status = MPT_ERR_IO;
    mpt_verdict_t v = fold(records, MAX_RANKS);
    assert_int_equal(v.status, MPT_ERR_IO);
    assert_int_equal(v.status_rank, 4);
    records[0].status = MPT_ERR_COMM;
    v = fold(records, MAX_RANKS);
    assert_int_equal(v.status, MPT_ERR_COMM);
    assert_int_equal(v.status_rank, 0);
}

static void one_rank_that_stops_stops_all(void **state)
{
    (void)state;
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        mpt_record_t records[MAX_RANKS];
        fill(records, MAX_RANKS);
        records[rank].flags = MPT_RECORD_STOP;
        mpt_verdict_t v = fold(records, MAX_RANKS);
        assert_int_equal(!!v.stop, 1);
        assert_int_equal(v.overflow, 0);
    }
}

static void one_bad_value_anywhere_is_an_overflow_for_all(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++)
        for (int rank = 0; rank < ranks; rank++) {
            mpt_record_t records[MAX_RANKS];
            fill(records, ranks);
            mark(&records[rank], MPT_RECORD_BAD_WIRE, 3, 41, 1);
            mpt_verdict_t v = fold(records, ranks);
            assert_int_equal(v.overflow, 1);
            assert_int_equal(v.wire, 1);
            assert_int_equal(v.bad_rank, rank);
            assert_int_equal(v.bad_micro_step, 3);
            assert_int_equal(v.bad_element, 41);
            assert_int_equal(v.bad_bits, 0x7f800000u + 41);
            assert_int_equal(v.bad_count, 1);
        }
}

static void an_offender_on_the_wire_comes_before_one_in_the_sum(void **state)
{
    (void)state;
    mpt_record_t records[3];
    fill(records, 3);
    mark(&records[0], MPT_RECORD_BAD_SUM, 0, 1, 1);
    mark(&records[2], MPT_RECORD_BAD_WIRE, 9, 500, 1);
    mpt_verdict_t v = fold(records, 3);
    assert_int_equal(v.wire, 1);
    assert_int_equal(v.bad_rank, 2);
    assert_int_equal(v.bad_element, 500);
    assert_int_equal(v.bad_micro_step, 9);
}

static void among_equals_the_earliest_micro_step_then_element_then_rank_is_named(void **state)
{
    (void)state;
    mpt_record_t records[4];
    fill(records, 4);
    mark(&records[0], MPT_RECORD_BAD_WIRE, 2, 1, 1);
    mark(&records[1], MPT_RECORD_BAD_WIRE, 1, 9, 1);
    mark(&records[2], MPT_RECORD_BAD_WIRE, 1, 8, 1);
    mark(&records[3], MPT_RECORD_BAD_WIRE, 1, 8, 1);
    assert_int_equal(fold(records, 4).bad_rank, 2);
    records[2].bad_element = 9; /* now rank 3 has the lowest element */
    assert_int_equal(fold(records, 4).bad_rank, 3);
    records[3].bad_element = 9;
    assert_int_equal(fold(records, 4).bad_rank, 1);
    for (int r = 0; r < 4; r++)
        records[r].flags = MPT_RECORD_BAD_SUM; /* the same order among sums */
    assert_int_equal(fold(records, 4).bad_rank, 1);
    assert_int_equal(fold(records, 4).wire, 0);
}

/* What is bad on the wire makes the sum bad too; it is not counted twice. */
static void counts_are_of_the_offenders_kind(void **state)
{
    (void)state;
    mpt_record_t records[4];
    fill(records, 4);
    mark(&records[0], MPT_RECORD_BAD_SUM, 0, 4, 3);
    mark(&records[1], MPT_RECORD_BAD_WIRE, 0, 4, 2);
    mark(&records[3], MPT_RECORD_BAD_WIRE, 0, 6, 1);
    assert_int_equal(fold(records, 4).bad_count, 3);
    records[1].flags = records[3].flags = 0;
    assert_int_equal(fold(records, 4).bad_count, 3);
    assert_int_equal(fold(records, 4).wire, 0);
}

static void saturated_counts_do_not_wrap(void **state)
{
    (void)state;
    mpt_record_t records[MAX_RANKS];
    fill(records, MAX_RANKS);
    for (int r = 0; r < MAX_RANKS; r++)
        mark(&records[r], MPT_RECORD_BAD_WIRE, 0, (uint64_t)r, UINT32_MAX);
    assert_true(fold(records, MAX_RANKS).bad_count == (uint64_t)MAX_RANKS * UINT32_MAX);
}

static void tokens_do_not_wrap(void **state)
{
    (void)state;
    mpt_record_t records[MAX_RANKS];
    fill(records, MAX_RANKS);
    for (int r = 0; r < MAX_RANKS; r++)
        records[r].tokens = UINT32_MAX;
    assert_true(fold(records, MAX_RANKS).tokens == (uint64_t)MAX_RANKS * UINT32_MAX);
}

static void a_rank_at_another_step_or_scale_is_named(void **state)
{
    (void)state;
    mpt_record_t records[5];
    fill(records, 5);
    records[3].step = 8;
    assert_int_equal(fold(records, 5).disagree_rank, 3);
    records[2].scale = 512.0f;
    assert_int_equal(fold(records, 5).disagree_rank, 2);
    records[2].scale = 1024.0f;
    records[3].step = 7;
    assert_int_equal(fold(records, 5).disagree_rank, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_record_is_sixty_four_bytes_in_the_documented_order),
        cmocka_unit_test(a_clean_step_folds_to_a_clean_verdict),
        cmocka_unit_test(sums_fold_in_the_tree_and_not_from_left_to_right),
        cmocka_unit_test(sums_carry_infinities_and_nans),
        cmocka_unit_test(the_worst_status_wins_with_its_first_rank),
        cmocka_unit_test(one_rank_that_stops_stops_all),
        cmocka_unit_test(one_bad_value_anywhere_is_an_overflow_for_all),
        cmocka_unit_test(an_offender_on_the_wire_comes_before_one_in_the_sum),
        cmocka_unit_test(among_equals_the_earliest_micro_step_then_element_then_rank_is_named),
        cmocka_unit_test(counts_are_of_the_offenders_kind),
        cmocka_unit_test(saturated_counts_do_not_wrap),
        cmocka_unit_test(tokens_do_not_wrap),
        cmocka_unit_test(a_rank_at_another_step_or_scale_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
