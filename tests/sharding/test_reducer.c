#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "reduction.h"

/* ---- the sum -------------------------------------------------------------------------------------------------- */

static const int rank_counts[] = {1, 2, 3, 4, 8};
enum { RANK_COUNTS = sizeof rank_counts / sizeof *rank_counts };

/* The inputs tell the tree from the same sum in order, or rounded on the way. */
static void assert_inputs_tell_orders_apart(const reduction_t *x)
{
    int64_t others = 0;
    for (int64_t at = 0; at < x->layout.total; at++) {
        float left = 0.0f;
        for (int r = 0; r < x->ranks; r++) {
            float given = fixture_round(x->wire, (float)(x->inputs[r][at] / divisor_of(x)));
            left = r == 0 ? given : fixture_round(x->wire, left + given);
        }
        others += left != x->expected[at];
    }
    assert_true(others > 0);
}

static void every_mode_reduces_to_the_tree_of_contributions_rounded_once(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++)
        for (int i = 0; i < RANK_COUNTS; i++) {
            reduction_t x = open_reduction(rank_counts[i], rank_counts[i], 1, wires[w]);
            run_every_mode(&x);
            if (x.ranks >= 4)
                assert_inputs_tell_orders_apart(&x);
            close_reduction(&x);
        }
}

/* Several micro-steps in one contribution: whole accumulators, and a larger divisor. */
static void accumulated_micro_steps_reduce_the_same_in_every_mode(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++)
        for (int ranks = 2; ranks <= 4; ranks++) {
            reduction_t x = open_reduction(ranks, ranks, 1, wires[w]);
            x.micro_steps = 3;
            run_every_mode(&x);
            close_reduction(&x);
        }
}

static void micro_steps_reduced_at_once_add_up_in_fp32_the_same_in_every_mode(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++)
        for (int i = 0; i < RANK_COUNTS; i++) {
            int rounds = rank_counts[i] < 8 ? 3 : 2;
            reduction_t x = open_reduction(rank_counts[i], rank_counts[i], rounds, wires[w]);
            x.reduce_micro = 1;
            run_every_mode(&x);
            close_reduction(&x);
        }
}

static void lanes_give_the_same_bits_on_any_number_of_ranks(void **state)
{
    (void)state;
    for (int lanes = 2; lanes <= MAX_LANES; lanes *= 2) {
        float *expected = NULL;
        for (int ranks = 1; ranks <= lanes && ranks <= FIXTURE_MAX_RANKS; ranks *= 2) {
            reduction_t x = open_reduction(ranks, lanes, lanes / ranks, MPT_F32);
            run_every_mode(&x);
            if (expected == NULL) {
                expected = x.expected;
                x.expected = NULL;
            } else
                assert_memory_equal(expected, x.expected,
                                    (size_t)x.layout.total * sizeof *expected);
            close_reduction(&x);
        }
        free(expected);
    }
}

static void kernels_threads_and_registration_change_no_bit(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++) {
        reduction_t x = open_reduction(4, 4, 2, wires[w]);
        x.reduce_micro = 1;
        x.threads = 2;
        x.unregistered = 1;
        run_every_mode(&x);
        x.threads = 1;
        x.kernels = "ref";
        run_every_mode(&x);
        close_reduction(&x);
    }
}

static void fp16_subnormals_survive_the_wire(void **state)
{
    (void)state;
    reduction_t x = open_reduction(4, 4, 1, MPT_F16);
    for (int r = 0; r < 4; r++) {
        free(x.inputs[r]);
        x.inputs[r] = fixture_flat(&x.layout, 40 + (uint64_t)r, 4, r == 0 ? 0x1p-10f : 0x1p-20f);
    }
    run_every_mode(&x);
    close_reduction(&x);
}

/* What the tests above reduce in windows has been through regions that an earlier unit used. */
static void units_take_turns_in_the_regions_of_a_window(void **state)
{
    (void)state;
    mpt_layout_t layout = fixture_layout(2, 0, 0);
    const fixture_t fixture = {
        .layout = &layout, .shard = MPT_SHARD_ZERO2, .compute = MPT_BF16, .wire = MPT_BF16};
    fixture_rank_t rank;
    fixture_open(&rank, &fixture, 0);
    const mpt_held_t *held[] = {&rank.state.accumulator[0], &rank.state.contribution};
    for (int i = 0; i < 2; i++) {
        void *units[FIXTURE_UNITS];
        assert_int_equal(held[i]->hold, MPT_HOLD_WINDOW);
        for (int u = 0; u < FIXTURE_UNITS; u++)
            units[u] = mpt_held_unit(&layout, held[i], u);
        assert_ptr_equal(units[1], units[3]);
        assert_ptr_equal(units[2], units[4]);
        assert_ptr_not_equal(units[1], units[2]);
        assert_ptr_not_equal(units[0], units[1]);
        assert_ptr_not_equal(units[0], units[2]);
    }
    fixture_close(&rank);
    mpt_layout_release(&layout);
}

/* ---- D ---------------------------------------------------------------------------------------------------------- */

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

/* ---- traffic -------------------------------------------------------------------------------------------------------- */

/* Design: ddp 2N, zero1 to zero3 N here (the other N are weights), hsdp as zero3 within k and 2N/k in FP32 across. */
static void assert_traffic(const reduction_t *x, sharding_mode_t mode)
{
    int k = mode.group, groups = x->ranks / k;
    uint64_t units = (uint64_t)x->layout.unit_count, reductions = (uint64_t)x->rounds;
    uint64_t slice = (uint64_t)x->layout.total / (uint64_t)k, wire = mpt_dtype_bytes(x->wire);
    uint64_t reduced = x->reduce_micro ? sizeof(float) : wire;
    uint64_t gathers = mode.shard == MPT_SHARD_DDP, others = (uint64_t)k - 1;
    for (int r = 0; r < x->ranks; r++) {
        assert_int_equal(x->group[r].calls, units * (reductions + gathers));
        assert_int_equal(x->group[r].bytes_sent,
                         others * slice * (reductions * wire + gathers * reduced));
        if (mode.shard != MPT_SHARD_HSDP || x->ranks == 1)
            continue;
        assert_int_equal(x->across[r].calls, units * reductions);
        uint64_t sent = 0; /* a call's volume is cut to whole bytes */
        for (int u = 0; u < x->layout.unit_count; u++)
            sent += reductions * 2 * (uint64_t)(groups - 1) * sizeof(float) *
                    (uint64_t)(x->layout.units[u].padded / k) / (uint64_t)groups;
        assert_int_equal(x->across[r].bytes_sent, sent);
    }
}

static void a_unit_takes_one_collective_and_in_ddp_and_hsdp_one_more(void **state)
{
    (void)state;
    for (int micro = 0; micro <= 1; micro++)
        for (int ranks = 1; ranks <= 4; ranks *= 2) {
            reduction_t x = open_reduction(ranks, ranks, micro ? 3 : 1, MPT_BF16);
            sharding_mode_t modes[MAX_MODES];
            int count = list_modes(ranks, modes);
            x.reduce_micro = micro;
            for (int i = 0; i < count; i++) {
                run(&x, modes[i]);
                assert_traffic(&x, modes[i]);
            }
            close_reduction(&x);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mode_reduces_to_the_tree_of_contributions_rounded_once),
        cmocka_unit_test(accumulated_micro_steps_reduce_the_same_in_every_mode),
        cmocka_unit_test(micro_steps_reduced_at_once_add_up_in_fp32_the_same_in_every_mode),
        cmocka_unit_test(lanes_give_the_same_bits_on_any_number_of_ranks),
        cmocka_unit_test(kernels_threads_and_registration_change_no_bit),
        cmocka_unit_test(fp16_subnormals_survive_the_wire),
        cmocka_unit_test(units_take_turns_in_the_regions_of_a_window),
        cmocka_unit_test(only_fp16_divides_and_by_the_documented_power_of_two),
        cmocka_unit_test(a_unit_takes_one_collective_and_in_ddp_and_hsdp_one_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
