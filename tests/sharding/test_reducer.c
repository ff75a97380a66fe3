#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "crew.h"
#include "numeric.h"

/* What goes into one reduction and what came out, for the test to look at. */
typedef struct exchange {
    mpt_layout_t layout;
    mpt_dtype_t wire;
    float *accumulators[CREW_MAX_RANKS]; /* [total] each */
    void *gradients[CREW_MAX_RANKS];     /* [total] of wire, after it */
    mpt_record_t records[CREW_MAX_RANKS];
    mpt_verdict_t verdicts[CREW_MAX_RANKS];
    int touched[CREW_MAX_RANKS]; /* 1: something changed that a reduction must leave alone */
    int micro_step;
    int repeats; /* reductions after the first, of clean gradients */
} exchange_t;

static exchange_t *open_exchange(int ranks, mpt_dtype_t wire)
{
    exchange_t *x = calloc(1, sizeof *x);
    assert_non_null(x);
    x->layout = crew_layout(ranks);
    x->wire = wire;
    for (int r = 0; r < ranks; r++) {
        x->accumulators[r] = calloc((size_t)x->layout.total, sizeof(float));
        x->gradients[r] = calloc((size_t)x->layout.total, sizeof(float));
    }
    return x;
}

static void close_exchange(exchange_t *x)
{
    for (int r = 0; r < CREW_MAX_RANKS; r++) {
        free(x->accumulators[r]);
        free(x->gradients[r]);
    }
    mpt_layout_release(&x->layout);
    free(x);
}

/* Masters, moments and working weights of recognisable bytes. */
static void paint(crew_rank_t *rank)
{
    size_t total = (size_t)rank->layout->total;
    memset(rank->state.master, 0x11, total * sizeof(float));
    memset(rank->state.m, 0x22, total * sizeof(float));
    memset(rank->state.v, 0x33, total * sizeof(float));
    memset(rank->state.working, 0x44, total * mpt_dtype_bytes(rank->state.compute));
}

static int all_are(const void *array, unsigned char byte, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const unsigned char *)array)[i] != byte)
            return 0;
    return 1;
}

static int is_painted(const crew_rank_t *rank)
{
    size_t total = (size_t)rank->layout->total;
    return all_are(rank->state.master, 0x11, total * sizeof(float)) &&
           all_are(rank->state.m, 0x22, total * sizeof(float)) &&
           all_are(rank->state.v, 0x33, total * sizeof(float)) &&
           all_are(rank->state.working, 0x44, total * mpt_dtype_bytes(rank->state.compute));
}

static int reduce_body(crew_rank_t *rank)
{
    exchange_t *x = rank->ctx;
    size_t total = (size_t)x->layout.total;
    paint(rank);
    memcpy(rank->state.accumulator, x->accumulators[rank->rank], total * sizeof(float));
    if (crew_reduce(rank) != MPT_OK)
        return 1;
    mpt_reducer_report(&rank->reducer, x->micro_step, &x->records[rank->rank]);
    if (crew_agree(rank, x->micro_step, &x->verdicts[rank->rank]) != MPT_OK)
        return 2;
    for (int i = 0; i < x->repeats; i++) {
        memset(rank->state.accumulator, 0, total * sizeof(float));
        crew_fill(rank->layout, rank->state.accumulator, 5, 4, 1.0f);
        if (crew_reduce(rank) != MPT_OK || crew_agree(rank, 0, &x->verdicts[rank->rank]) != MPT_OK)
            return 3;
    }
    memcpy(x->gradients[rank->rank], rank->state.gradient, total * mpt_dtype_bytes(x->wire));
    x->touched[rank->rank] = !is_painted(rank);
    return 0;
}

static void run(exchange_t *x, crew_t crew)
{
    crew.ranks = x->layout.ranks;
    crew.layout = &x->layout;
    crew.wire = x->wire;
    crew.compute = x->wire;
    crew.micro_steps = crew.micro_steps > 0 ? crew.micro_steps : 1;
    crew.body = reduce_body;
    crew.ctx = x;
    assert_int_equal(crew_run(&crew), 0);
    for (int r = 0; r < crew.ranks; r++)
        assert_int_equal(x->touched[r], 0);
}

/* ---- the sum -------------------------------------------------------------------------------------------- */

static float round_once(mpt_dtype_t wire, float value)
{
    if (wire == MPT_BF16)
        return mpt_bf16_to_f32(mpt_f32_to_bf16(value));
    return wire == MPT_F16 ? mpt_f16_to_f32(mpt_f32_to_f16(value)) : value;
}

static float tree(const float *values, int first, int span, int count)
{
    if (span == 1)
        return values[first];
    float left = tree(values, first, span / 2, count);
    return first + span / 2 < count ? left + tree(values, first + span / 2, span / 2, count) : left;
}

/* Element `at` by the definition, and by two orders that are not it. */
typedef struct sums {
    float tree, left, narrow;
} sums_t;

static sums_t define(const exchange_t *x, double divisor, int64_t at)
{
    float contributions[CREW_MAX_RANKS] = {0};
    sums_t s = {0};
    int ranks = x->layout.ranks;
    for (int r = 0; r < ranks; r++)
        contributions[r] = round_once(x->wire, (float)((double)x->accumulators[r][at] / divisor));
    for (int r = 0; r < ranks; r++) {
        s.left = r == 0 ? contributions[0] : s.left + contributions[r];
        s.narrow = r == 0 ? contributions[0] : round_once(x->wire, s.narrow + contributions[r]);
    }
    s.tree = round_once(x->wire, tree(contributions, 0, 16, ranks));
    s.left = round_once(x->wire, s.left);
    return s;
}

static void check_against_definition(const exchange_t *x, double divisor)
{
    int64_t left_differs = 0, narrow_differs = 0;
    int ranks = x->layout.ranks;
    for (int64_t at = 0; at < x->layout.total; at++) {
        sums_t s = define(x, divisor, at);
        for (int r = 0; r < ranks; r++) {
            float got = (float)mpt_load(x->gradients[r], x->wire, at);
            if (mpt_f32_bits(got) != mpt_f32_bits(s.tree))
                fail_msg("%s, %d ranks: rank %d, element %lld: %.9g, the definition gives %.9g",
                         mpt_dtype_name(x->wire), ranks, r, (long long)at, (double)got,
                         (double)s.tree);
        }
        left_differs += s.left != s.tree;
        narrow_differs += s.narrow != s.tree;
    }
    if (ranks >= 4 && x->wire == MPT_F32) /* the inputs tell the orders apart */
        assert_true(left_differs > 0);
    if (ranks >= 4 && x->wire != MPT_F32)
        assert_true(narrow_differs > 0);
}

static const mpt_dtype_t wires[3] = {MPT_F32, MPT_BF16, MPT_F16};

static void the_reduced_gradient_is_the_tree_of_contributions_rounded_once(void **state)
{
    (void)state;
    static const char *const kernels[] = {"cpu", "ref"};
    for (int w = 0; w < 3; w++)
        for (int ranks = 1; ranks <= CREW_MAX_RANKS; ranks++)
            for (int k = 0; k < 2; k++) {
                exchange_t *x = open_exchange(ranks, wires[w]);
                for (int r = 0; r < ranks; r++)
                    crew_fill(&x->layout, x->accumulators[r], 100 + (uint64_t)r, 6, 1.0f);
                run(x, (crew_t){.kernels = kernels[k], .micro_steps = 3});
                check_against_definition(x, mpt_reducer_divisor(wires[w], 3, ranks));
                close_exchange(x);
            }
}

static void threads_and_registration_change_no_bit(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++) {
        exchange_t *x = open_exchange(3, wires[w]);
        for (int r = 0; r < 3; r++)
            crew_fill(&x->layout, x->accumulators[r], 7 + (uint64_t)r, 8, 1.0f);
        run(x, (crew_t){.threads = 3, .unregistered = 1});
        check_against_definition(x, mpt_reducer_divisor(wires[w], 1, 3));
        close_exchange(x);
    }
}

static void fp16_subnormals_survive_the_wire(void **state)
{
    (void)state;
    exchange_t *x = open_exchange(4, MPT_F16);
    for (int r = 0; r < 4; r++)
        crew_fill(&x->layout, x->accumulators[r], 40 + (uint64_t)r, 4,
                  r == 0 ? 0x1p-10f : 0x1p-20f);
    run(x, (crew_t){0});
    check_against_definition(x, 2);
    close_exchange(x);
}

/* ---- D and the norm --------------------------------------------------------------------------------------- */

/* 2^ceil(log2(m sqrt(ranks))), worked out by hand: the least 2^k with 4^k >= m^2 ranks. */
static const int fp16_divisors[8][8] = {
    /* m:          1  2  3   4   5   6   7   8 */
    /* 1 rank  */ {1, 2, 4, 4, 8, 8, 8, 8},
    /* 2 ranks */ {2, 4, 8, 8, 8, 16, 16, 16},
    /* 3 */ {2, 4, 8, 8, 16, 16, 16, 16},
    /* 4 */ {2, 4, 8, 8, 16, 16, 16, 16},
    /* 5 */ {4, 8, 8, 16, 16, 16, 16, 32},
    /* 6 */ {4, 8, 8, 16, 16, 16, 32, 32},
    /* 7 */ {4, 8, 8, 16, 16, 16, 32, 32},
    /* 8 */ {4, 8, 16, 16, 16, 32, 32, 32},
};

static void only_fp16_divides_and_by_the_documented_power_of_two(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 8; ranks++)
        for (int m = 1; m <= 8; m++) {
            assert_true(mpt_reducer_divisor(MPT_F16, m, ranks) == fp16_divisors[ranks - 1][m - 1]);
            assert_true(mpt_reducer_divisor(MPT_F32, m, ranks) == 1);
            assert_true(mpt_reducer_divisor(MPT_BF16, m, ranks) == 1);
        }
    assert_true(mpt_reducer_divisor(MPT_F16, 1024, 4096) == 65536);
}

static void the_sum_of_squares_is_of_the_reduced_gradient(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++)
        for (int ranks = 1; ranks <= CREW_MAX_RANKS; ranks += 2) {
            exchange_t *x = open_exchange(ranks, wires[w]);
            for (int r = 0; r < ranks; r++)
                crew_fill(&x->layout, x->accumulators[r], 60 + (uint64_t)r, 3, 1.0f);
            run(x, (crew_t){0});
            double whole = 0, by_rank[CREW_MAX_RANKS] = {0};
            for (int u = 0; u < x->layout.unit_count; u++)
                for (int64_t i = 0; i < x->layout.units[u].padded; i++) {
                    double g = mpt_load(x->gradients[0], x->wire, x->layout.units[u].first + i);
                    by_rank[i / mpt_layout_slice(&x->layout, u)] += g * g;
                    whole += g * g;
                }
            for (int r = 0; r < ranks; r++) {
                assert_true(fabs(x->records[r].sumsq - by_rank[r]) <= 1e-12 * by_rank[r]);
                assert_true(fabs(x->verdicts[r].sumsq - whole) <= 1e-12 * whole);
                assert_memory_equal(&x->verdicts[r], &x->verdicts[0], sizeof x->verdicts[0]);
            }
            close_exchange(x);
        }
}

/* The norm of the mean gradient, computed apart in double from what was accumulated. */
static void the_norm_is_of_the_mean_gradient_without_the_scale(void **state)
{
    (void)state;
    static const double tolerance[3] = {1e-6, 4e-3, 1e-3};
    for (int w = 0; w < 3; w++) {
        const int ranks = 3, micro_steps = 5;
        const double scale = 256;
        exchange_t *x = open_exchange(ranks, wires[w]);
        double sumsq = 0;
        for (int r = 0; r < ranks; r++)
            crew_fill(&x->layout, x->accumulators[r], 80 + (uint64_t)r, 2, (float)scale);
        for (int64_t at = 0; at < x->layout.total; at++) {
            double mean = 0;
            for (int r = 0; r < ranks; r++)
                mean += x->accumulators[r][at] / (scale * micro_steps * ranks);
            sumsq += mean * mean;
        }
        run(x, (crew_t){.micro_steps = micro_steps});
        mpt_unscale_t unscale = {.divisor = mpt_reducer_divisor(wires[w], micro_steps, ranks),
                                 .scale = scale,
                                 .micro_steps = micro_steps,
                                 .ranks = ranks};
        double norm = mpt_optimizer_norm(x->verdicts[0].sumsq, &unscale);
        assert_true(fabs(norm - sqrt(sumsq)) <= tolerance[w] * sqrt(sumsq));
        close_exchange(x);
    }
}

/* ---- what is not finite --------------------------------------------------------------------------------------- */

static void spoil(exchange_t *x, int rank, int tensor, int64_t element, float value)
{
    x->accumulators[rank][mpt_layout_at(&x->layout, tensor) + element] = value;
}

static void fill_all(exchange_t *x)
{
    for (int r = 0; r < x->layout.ranks; r++)
        crew_fill(&x->layout, x->accumulators[r], 20 + (uint64_t)r, 3, 1.0f);
}

static void an_infinity_on_one_rank_is_named_as_bad_on_its_wire(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++)
        for (int ranks = 1; ranks <= CREW_MAX_RANKS; ranks += 2)
            for (int t = 0; t < CREW_TENSORS; t++) {
                exchange_t *x = open_exchange(ranks, wires[w]);
                int victim = t % ranks;
                int64_t element = mpt_tensor_count(&x->layout.tensors[t]) - 1;
                fill_all(x);
                x->micro_step = 6;
                spoil(x, victim, t, element, -INFINITY);
                run(x, (crew_t){.micro_steps = 7});
                for (int r = 0; r < ranks; r++) {
                    const mpt_verdict_t *v = &x->verdicts[r];
                    assert_int_equal(v->overflow, 1);
                    assert_int_equal(v->wire, 1);
                    assert_int_equal(v->bad_rank, victim);
                    assert_int_equal(v->bad_element, x->layout.tensors[t].first + element);
                    assert_int_equal(v->bad_bits, 0xff800000u);
                    assert_int_equal(v->bad_count, 1);
                    assert_int_equal(v->bad_micro_step, 6);
                    assert_int_equal(!!(x->records[r].flags & MPT_RECORD_BAD_WIRE), r == victim);
                }
                close_exchange(x);
            }
}

static void the_lowest_element_of_all_units_is_named_and_all_are_counted(void **state)
{
    (void)state;
    exchange_t *x = open_exchange(4, MPT_BF16);
    fill_all(x);
    spoil(x, 2, 6, 1, NAN);
    spoil(x, 2, 3, 70, INFINITY);
    spoil(x, 2, 2, 4000, NAN);
    spoil(x, 2, 1, 98, -INFINITY);
    run(x, (crew_t){0});
    const mpt_verdict_t *v = &x->verdicts[1];
    assert_int_equal(v->bad_rank, 2);
    assert_int_equal(v->bad_element, x->layout.tensors[1].first + 98);
    assert_int_equal(v->bad_bits, 0xff800000u);
    assert_int_equal(v->bad_count, 4);
    close_exchange(x);
}

/* Too large for FP16 by itself: rounding to the wire makes the infinity. */
static void what_overflows_when_rounded_is_bad_on_the_wire(void **state)
{
    (void)state;
    exchange_t *x = open_exchange(2, MPT_F16);
    fill_all(x);
    spoil(x, 1, 2, 7, 131040.0f); /* halved by D it is 65520, the least that rounds to infinity */
    run(x, (crew_t){0});
    assert_int_equal(x->verdicts[0].wire, 1);
    assert_int_equal(x->verdicts[0].bad_rank, 1);
    assert_int_equal(x->verdicts[0].bad_bits, 0x7f800000u);
    spoil(x, 1, 2, 7, 131039.0f);
    spoil(x, 0, 2, 7, -131039.0f);
    run(x, (crew_t){0});
    assert_int_equal(x->verdicts[0].overflow, 0);
    close_exchange(x);
}

static void two_finite_contributions_may_overflow_only_in_the_sum(void **state)
{
    (void)state;
    static const float large[3] = {3e38f, 3e38f, 120000.0f};
    for (int w = 0; w < 3; w++)
        for (int t = 0; t < CREW_TENSORS; t++) {
            exchange_t *x = open_exchange(2, wires[w]);
            int64_t element = mpt_tensor_count(&x->layout.tensors[t]) / 2;
            int tensor, owner = -1;
            fill_all(x);
            spoil(x, 0, t, element, large[w]);
            spoil(x, 1, t, element, large[w]);
            run(x, (crew_t){0});
            const mpt_verdict_t *v = &x->verdicts[0];
            for (int r = 0; r < 2; r++)
                if (x->records[r].flags & MPT_RECORD_BAD_SUM)
                    owner = r;
            assert_int_equal(v->overflow, 1);
            assert_int_equal(v->wire, 0);
            assert_int_equal(v->bad_rank, owner);
            assert_int_equal(v->bad_count, 1);
            assert_int_equal(v->bad_element, x->layout.tensors[t].first + element);
            assert_int_equal(v->bad_bits, 0x7f800000u);
            assert_int_equal(
                mpt_layout_locate_global(&x->layout, (int64_t)v->bad_element, &tensor, &element),
                1);
            assert_int_equal(tensor, t);
            close_exchange(x);
        }
}

static void after_an_overflow_the_next_reduction_is_clean(void **state)
{
    (void)state;
    exchange_t *x = open_exchange(3, MPT_F16);
    fill_all(x);
    spoil(x, 0, 0, 0, NAN);
    x->repeats = 1;
    run(x, (crew_t){0});
    assert_int_equal(x->records[0].flags, MPT_RECORD_BAD_WIRE);
    assert_int_equal(x->verdicts[0].overflow, 0);
    assert_int_equal(x->verdicts[0].bad_count, 0);
    close_exchange(x);
}

static void counts_saturate_in_the_record(void **state)
{
    (void)state;
    mpt_layout_t layout = crew_layout(1);
    mpt_offender_t wire[3] = {{.count = UINT32_MAX, .first = 5}, {.count = 7, .first = 1}, {0}},
                   sum[3] = {{0}};
    double sumsq[3] = {1, 2, 4};
    mpt_state_t held = {.layout = &layout, .bad_wire = wire, .bad_sum = sum, .sumsq = sumsq};
    mpt_comm_t comm = {.ranks = 1};
    mpt_reducer_t reducer = {.state = &held, .comm = &comm};
    mpt_record_t record = {.flags = MPT_RECORD_STOP};
    mpt_reducer_report(&reducer, 3, &record);
    assert_true(record.bad_count == UINT32_MAX);
    assert_true(record.sumsq == 7);
    assert_int_equal(record.flags, MPT_RECORD_STOP | MPT_RECORD_BAD_WIRE);
    wire[0].count = wire[1].count = 0;
    record = (mpt_record_t){0};
    mpt_reducer_report(&reducer, 3, &record);
    assert_int_equal(record.bad_count, 0);
    assert_int_equal(record.flags, 0);
    mpt_layout_release(&layout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reduced_gradient_is_the_tree_of_contributions_rounded_once),
        cmocka_unit_test(threads_and_registration_change_no_bit),
        cmocka_unit_test(fp16_subnormals_survive_the_wire),
        cmocka_unit_test(only_fp16_divides_and_by_the_documented_power_of_two),
        cmocka_unit_test(the_sum_of_squares_is_of_the_reduced_gradient),
        cmocka_unit_test(the_norm_is_of_the_mean_gradient_without_the_scale),
        cmocka_unit_test(an_infinity_on_one_rank_is_named_as_bad_on_its_wire),
        cmocka_unit_test(the_lowest_element_of_all_units_is_named_and_all_are_counted),
        cmocka_unit_test(what_overflows_when_rounded_is_bad_on_the_wire),
        cmocka_unit_test(two_finite_contributions_may_overflow_only_in_the_sum),
        cmocka_unit_test(after_an_overflow_the_next_reduction_is_clean),
        cmocka_unit_test(counts_saturate_in_the_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
