#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "checkpoint.h"
#include "records.h"

#define MAX_RANKS 16

static void fill(mpt_record_t *records, int ranks)
{
    memset(records, 0, (size_t)ranks * sizeof *records);
    for (int r = 0; r < ranks; r++)
        records[r] = (mpt_record_t){.tokens = 100, .scale = 1024.0f, .step = 7};
}

static mpt_verdict_t fold_as(const mpt_record_t *records, mpt_record_fold_t how)
{
    double scratch[MAX_RANKS];
    mpt_verdict_t verdict;
    memset(&verdict, 0xa5, sizeof verdict);
    mpt_record_fold(records, &how, scratch, &verdict);
    return verdict;
}

/* One group, and no two ranks hold the same. */
static mpt_verdict_t fold(const mpt_record_t *records, int ranks)
{
    return fold_as(records, (mpt_record_fold_t){ranks, ranks, ranks});
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
        assert_int_equal(v.status_rank, 0);
        assert_int_equal(v.wire, 0);
        assert_int_equal(v.saves_ended, 0);
        assert_int_equal(v.save_failed, 0);
        assert_int_equal(v.replica_rank, -1);
        assert_int_equal(v.replica_of, -1);
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
    records[0].step = 6; /* whoever is right: rank 0 is what the others are held against */
    assert_int_equal(fold(records, 5).disagree_rank, 1);
}

/* ---- sums of squares in the order of parts ----------------------------------------------------------- */

/* Group g's rank j holds slice j and looks after its g-th part, which is part j * groups + g of all. */
static void squares_fold_in_the_order_of_parts_and_losses_in_that_of_ranks(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++)
        for (int group = 1; group <= ranks; group++) {
            if (ranks % group != 0)
                continue;
            mpt_record_t records[MAX_RANKS];
            double squares[MAX_RANKS], losses[MAX_RANKS];
            int groups = ranks / group;
            fill(records, ranks);
            for (int g = 0; g < groups; g++)
                for (int j = 0; j < group; j++) {
                    int rank = g * group + j;
                    losses[rank] = ldexp(1.0 + 0.3 * rank, (rank * 29) % 54);
                    squares[j * groups + g] = losses[rank];
                    records[rank].sumsq = records[rank].loss_sum = losses[rank];
                }
            mpt_verdict_t v = fold_as(records, (mpt_record_fold_t){ranks, group, ranks});
            assert_true(v.sumsq == tree(squares, 0, 16, ranks));
            assert_true(v.loss_sum == tree(losses, 0, 16, ranks));
        }
}

/* 2^53 + 1 is lost and 1 + 1 is not: in rank order the ones of ranks 2 and 3 meet, in that of parts they do not. */
static void the_order_of_parts_is_not_that_of_ranks(void **state)
{
    (void)state;
    mpt_record_t records[4];
    fill(records, 4);
    records[0].sumsq = 0x1p53;
    records[2].sumsq = records[3].sumsq = 1;
    assert_true(fold_as(records, (mpt_record_fold_t){4, 4, 4}).sumsq == 0x1p53 + 2);
    assert_true(fold_as(records, (mpt_record_fold_t){4, 2, 4}).sumsq == 0x1p53);
}

/* A NaN's payload and sign would tell in which order a processor met two of them. */
static void every_sum_that_is_nan_is_the_same_nan(void **state)
{
    (void)state;
    double one = NAN, sum;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        mpt_record_t records[MAX_RANKS];
        fill(records, ranks);
        for (int r = 0; r < ranks; r++) {
            uint64_t bits = 0xfff8000000000001u + (uint64_t)r;
            memcpy(&records[r].sumsq, &bits, sizeof bits);
        }
        records[0].loss_sum = INFINITY;
        records[ranks - 1].loss_sum -= INFINITY;
        sum = fold(records, ranks).sumsq;
        assert_memory_equal(&sum, &one, sizeof sum);
        sum = fold(records, ranks).loss_sum;
        if (ranks > 1)
            assert_memory_equal(&sum, &one, sizeof sum);
    }
}

/* ---- saves ------------------------------------------------------------------------------------------- */

static void a_save_ends_when_every_rank_has_synced_or_failed(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++)
        for (int late = 0; late < ranks; late++) {
            mpt_record_t records[MAX_RANKS];
            fill(records, ranks);
            for (int r = 0; r < ranks; r++)
                records[r].save = MPT_SAVE_SYNCED;
            assert_int_equal(fold(records, ranks).saves_ended, 1);
            assert_int_equal(fold(records, ranks).save_failed, 0);
            records[late].save = MPT_SAVE_WRITING;
            assert_int_equal(fold(records, ranks).saves_ended, 0);
            records[late].save = MPT_SAVE_IDLE;
            assert_int_equal(fold(records, ranks).saves_ended, 0);
            records[late].save = MPT_SAVE_FAILED;
            assert_int_equal(fold(records, ranks).saves_ended, 1);
            assert_int_equal(fold(records, ranks).save_failed, 1);
        }
}

static void a_failed_save_is_known_before_the_others_have_ended(void **state)
{
    (void)state;
    mpt_record_t records[3];
    fill(records, 3);
    records[0].save = MPT_SAVE_WRITING;
    records[1].save = MPT_SAVE_FAILED;
    records[2].save = MPT_SAVE_SYNCED;
    assert_int_equal(fold(records, 3).saves_ended, 0);
    assert_int_equal(fold(records, 3).save_failed, 1);
}

/* ---- replicas ---------------------------------------------------------------------------------------- */

static void hash_by_class(mpt_record_t *records, int ranks, int replicas)
{
    fill(records, ranks);
    for (int r = 0; r < ranks; r++)
        records[r].hash = 1000 + (uint64_t)(r % replicas);
}

static void replicas_are_compared_within_their_class(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++)
        for (int replicas = 1; replicas <= ranks; replicas++)
            for (int odd = 0; odd < ranks; odd++) {
                mpt_record_fold_t how = {ranks, ranks, replicas};
                mpt_record_t records[MAX_RANKS];
                hash_by_class(records, ranks, replicas);
                assert_int_equal(fold_as(records, how).replica_rank, -1);
                records[odd].hash ^= (uint64_t)1 << 63;
                /* The first of a class is what the others are held against: if it is the odd one, the second is named. */
                int named = odd < replicas ? odd + replicas : odd;
                mpt_verdict_t v = fold_as(records, how);
                assert_int_equal(v.replica_rank, named < ranks ? named : -1);
                assert_int_equal(v.replica_of, named < ranks ? odd % replicas : -1);
            }
}

static void the_first_rank_that_differs_is_named(void **state)
{
    (void)state;
    mpt_record_t records[8];
    hash_by_class(records, 8, 2);
    records[7].hash = records[4].hash = 5;
    mpt_verdict_t v = fold_as(records, (mpt_record_fold_t){8, 2, 2});
    assert_int_equal(v.replica_rank, 4);
    assert_int_equal(v.replica_of, 0);
    hash_by_class(records, 8, 1);
    records[7].hash = records[5].hash = 5;
    v = fold_as(records, (mpt_record_fold_t){8, 8, 1});
    assert_int_equal(v.replica_rank, 5);
    assert_int_equal(v.replica_of, 0);
}

static void a_hash_is_not_due_where_it_is_zero_on_all_ranks(void **state)
{
    (void)state;
    mpt_record_t records[4];
    fill(records, 4);
    assert_int_equal(fold_as(records, (mpt_record_fold_t){4, 4, 1}).replica_rank, -1);
    records[2].hash = 1; /* due on one alone: ranks are at odds about that as well */
    assert_int_equal(fold_as(records, (mpt_record_fold_t){4, 4, 1}).replica_rank, 2);
    assert_int_equal(fold_as(records, (mpt_record_fold_t){4, 2, 2}).replica_rank, 2);
    assert_int_equal(fold_as(records, (mpt_record_fold_t){4, 4, 4}).replica_rank, -1);
}

/* ---- in steps ---------------------------------------------------------------------------------------- */

static mpt_verdict_t fold_in_steps(const mpt_record_t *records, const mpt_record_fold_t *how,
                                   int span)
{
    mpt_record_partial_t partials[MAX_RANKS], all;
    double scratch[MAX_RANKS];
    mpt_verdict_t verdict;
    int count = 0;
    for (int r = 0; r < how->ranks; r += span) {
        int ranks = how->ranks - r < span ? how->ranks - r : span;
        mpt_record_summarize(records + r, r, ranks, scratch, &partials[count++]);
    }
    mpt_record_merge(partials, count, scratch, &all);
    mpt_record_conclude(&all, how, &verdict);
    return verdict;
}

static void folding_in_steps_gives_the_bits_of_folding_at_once(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int round = 0; round < 4000; round++) {
        int ranks = 1 + round % MAX_RANKS;
        mpt_record_t records[MAX_RANKS];
        records_randomize(records, ranks, &seed);
        for (int span = 1; span <= 16; span *= 2)
            for (int alone = 0; alone < 2; alone++) {
                mpt_record_fold_t how = {ranks, ranks, alone ? ranks : 1};
                mpt_verdict_t at_once = fold_as(records, how),
                              in_steps = fold_in_steps(records, &how, span);
                assert_true(verdicts_same(&at_once, &in_steps));
            }
    }
}

/* The verdict, written once more: each field by a look at all records, as its comment says. */
static void random_records_fold_as_documented(void **state)
{
    (void)state;
    uint64_t seed = 11;
    for (int round = 0; round < 4000; round++) {
        int ranks = 1 + round % MAX_RANKS, status = 0, kind = 0, first = -1, pending = 0,
            failed = 0;
        uint64_t tokens = 0, bad_count = 0;
        mpt_record_t r[MAX_RANKS];
        records_randomize(r, ranks, &seed);
        for (int i = 0; i < ranks; i++) {
            status = r[i].status > status ? r[i].status : status;
            tokens += r[i].tokens;
            pending |= r[i].save < MPT_SAVE_SYNCED;
            failed |= r[i].save == MPT_SAVE_FAILED;
            kind = r[i].flags & MPT_RECORD_BAD_WIRE                 ? MPT_RECORD_BAD_WIRE
                   : kind == 0 && (r[i].flags & MPT_RECORD_BAD_SUM) ? MPT_RECORD_BAD_SUM
                                                                    : kind;
        }
        for (int i = 0; i < ranks; i++) {
            if (!(r[i].flags & kind))
                continue;
            bad_count += r[i].bad_count;
            uint64_t at = (uint64_t)r[i].micro_step * 1000 + r[i].bad_element;
            if (first < 0 || at < (uint64_t)r[first].micro_step * 1000 + r[first].bad_element)
                first = i;
        }
        mpt_verdict_t v = fold(r, ranks);
        assert_int_equal(v.status, status);
        assert_true(v.tokens == tokens && v.bad_count == bad_count);
        assert_int_equal(v.saves_ended, !pending);
        assert_int_equal(v.save_failed, failed);
        assert_int_equal(v.bad_rank, first);
        assert_int_equal(v.overflow, kind != 0);
        assert_int_equal(v.wire, kind == MPT_RECORD_BAD_WIRE);
        if (first >= 0)
            assert_int_equal(v.bad_bits, r[first].bad_bits);
    }
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
        cmocka_unit_test(squares_fold_in_the_order_of_parts_and_losses_in_that_of_ranks),
        cmocka_unit_test(the_order_of_parts_is_not_that_of_ranks),
        cmocka_unit_test(every_sum_that_is_nan_is_the_same_nan),
        cmocka_unit_test(a_save_ends_when_every_rank_has_synced_or_failed),
        cmocka_unit_test(a_failed_save_is_known_before_the_others_have_ended),
        cmocka_unit_test(replicas_are_compared_within_their_class),
        cmocka_unit_test(the_first_rank_that_differs_is_named),
        cmocka_unit_test(a_hash_is_not_due_where_it_is_zero_on_all_ranks),
        cmocka_unit_test(folding_in_steps_gives_the_bits_of_folding_at_once),
        cmocka_unit_test(random_records_fold_as_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
