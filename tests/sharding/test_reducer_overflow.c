#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "reduction.h"

/* ---- what is not finite -------------------------------------------------------------------------------------------- */

static void spoil(reduction_t *x, int rank, int round, int tensor, int64_t element, float value)
{
    x->inputs[rank * x->rounds + round][mpt_layout_at(&x->layout, tensor) + element] = value;
}

static uint64_t global_of(const reduction_t *x, int tensor, int64_t element)
{
    return (uint64_t)(x->layout.tensors[tensor].first + element);
}

/* In every mode the same verdict, but for the rank that saw a bad sum. */
static void assert_offender(reduction_t *x, mpt_verdict_t expected)
{
    sharding_mode_t modes[MAX_MODES];
    int count = list_modes(x->ranks, modes);
    for (int i = 0; i < count; i++) {
        run(x, modes[i]);
        const mpt_verdict_t *v = &x->verdicts[0];
        assert_int_equal(v->overflow, 1);
        assert_int_equal(v->wire, expected.wire);
        assert_int_equal(v->bad_element, expected.bad_element);
        assert_int_equal(v->bad_bits, expected.bad_bits);
        assert_int_equal(v->bad_count, expected.bad_count);
        assert_int_equal(v->bad_micro_step, expected.bad_micro_step);
        if (expected.wire)
            assert_int_equal(v->bad_rank, expected.bad_rank);
    }
}

static void an_infinity_on_one_rank_is_named_as_bad_on_its_wire(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++)
        for (int t = 0; t < FIXTURE_TENSORS; t++) {
            reduction_t x = open_reduction(4, 4, 1, wires[w]);
            int64_t element = mpt_tensor_count(&x.layout.tensors[t]) - 1;
            x.micro_step = 6;
            spoil(&x, t % 4, 0, t, element, -INFINITY);
            assert_offender(&x, (mpt_verdict_t){.wire = 1,
                                                .bad_rank = t % 4,
                                                .bad_element = global_of(&x, t, element),
                                                .bad_bits = 0xff800000u,
                                                .bad_count = 1,
                                                .bad_micro_step = 6});
            for (int r = 0; r < 4; r++)
                assert_int_equal(!!(x.records[r].flags & MPT_RECORD_BAD_WIRE), r == t % 4);
            close_reduction(&x);
        }
}

static void the_lowest_element_of_all_units_is_named_and_all_are_counted(void **state)
{
    (void)state;
    reduction_t x = open_reduction(4, 4, 1, MPT_BF16);
    spoil(&x, 2, 0, 9, 0, NAN);
    spoil(&x, 2, 0, 3, 130 * 67, INFINITY);
    spoil(&x, 2, 0, 3, 70, NAN);
    spoil(&x, 2, 0, 1, 98, INFINITY);
    spoil(&x, 2, 0, 1, 97, -INFINITY);
    assert_offender(&x, (mpt_verdict_t){.wire = 1,
                                        .bad_rank = 2,
                                        .bad_element = global_of(&x, 1, 97),
                                        .bad_bits = 0xff800000u,
                                        .bad_count = 5});
    close_reduction(&x);
}

static void the_earliest_micro_step_is_named_before_lower_elements_of_later_ones(void **state)
{
    (void)state;
    for (int w = 0; w < 3; w++) {
        reduction_t x = open_reduction(4, 4, 4, wires[w]);
        x.reduce_micro = 1;
        x.micro_step = 3;
        spoil(&x, 1, 2, 0, 0, NAN);         /* a lower element of a lower unit, later */
        spoil(&x, 3, 2, 0, 1, NAN);         /* and so here, on the rank to be named */
        spoil(&x, 3, 2, 7, 3, NAN);         /* a lower element of the same unit, later */
        spoil(&x, 3, 1, 7, 400, -INFINITY); /* the first */
        spoil(&x, 3, 1, 7, 401, INFINITY);  /* next to it */
        spoil(&x, 0, 1, 8, 0, INFINITY);    /* the same micro-step on a rank before, but higher */
        spoil(&x, 3, 3, 7, 0, INFINITY);
        assert_offender(&x, (mpt_verdict_t){.wire = 1,
                                            .bad_rank = 3,
                                            .bad_element = global_of(&x, 7, 400),
                                            .bad_bits = 0xff800000u,
                                            .bad_count = 7,
                                            .bad_micro_step = 1});
        assert_int_equal(x.records[1].micro_step, 2);
        assert_int_equal(x.records[1].bad_element, 0);
        close_reduction(&x);
    }
}

/* Too large for FP16 by itself: rounding to the wire makes the infinity. */
static void what_overflows_when_rounded_is_bad_on_the_wire(void **state)
{
    (void)state;
    reduction_t x = open_reduction(2, 2, 1, MPT_F16);
    spoil(&x, 1, 0, 3, 7,
          131040.0f); /* halved by D it is 65520, the least that rounds to infinity */
    assert_offender(&x, (mpt_verdict_t){.wire = 1,
                                        .bad_rank = 1,
                                        .bad_element = global_of(&x, 3, 7),
                                        .bad_bits = 0x7f800000u,
                                        .bad_count = 1});
    spoil(&x, 1, 0, 3, 7, 131039.0f);
    spoil(&x, 0, 0, 3, 7, -131039.0f);
    run_every_mode(&x);
    close_reduction(&x);
}

/* Only the rank that looks after the element's part says so. */
static void assert_bad_sum(reduction_t *x, sharding_mode_t mode, int tensor, int64_t element)
{
    const mpt_verdict_t *v = &x->verdicts[0];
    int unit = x->layout.tensors[tensor].unit, groups = x->ranks / mode.group;
    int64_t part = (x->layout.offset[tensor] + element) / mpt_layout_part(&x->layout, unit);
    int owner = (int)(part % groups * mode.group + part / groups);
    for (int r = 0; r < x->ranks; r++)
        assert_int_equal(x->records[r].flags, r == owner ? MPT_RECORD_BAD_SUM : 0);
    assert_int_equal(v->overflow, 1);
    assert_int_equal(v->wire, 0);
    assert_int_equal(v->bad_rank, owner);
    assert_int_equal(v->bad_element, global_of(x, tensor, element));
    assert_int_equal(v->bad_bits, 0x7f800000u);
    assert_int_equal(v->bad_count, 1);
    assert_int_equal(v->bad_micro_step, 2);
}

static void an_overflow_that_only_the_sum_made_is_named_as_such(void **state)
{
    (void)state;
    static const float large[3] = {3e38f, 3e38f, 120000.0f};
    for (int w = 0; w < 3; w++)
        for (int t = 0; t < FIXTURE_TENSORS; t += w + 1) {
            reduction_t x = open_reduction(4, 4, 1, wires[w]);
            sharding_mode_t modes[MAX_MODES];
            int count = list_modes(4, modes);
            int64_t element = mpt_tensor_count(&x.layout.tensors[t]) / 2;
            x.micro_step = 2;
            spoil(&x, 1, 0, t, element, large[w]);
            spoil(&x, 2, 0, t, element, large[w]);
            for (int i = 0; i < count; i++) {
                run(&x, modes[i]);
                assert_bad_sum(&x, modes[i], t, element);
            }
            close_reduction(&x);
        }
}

/* Contributions of several micro-steps, each finite, whose sum is not. */
static void a_sum_over_micro_steps_may_overflow_by_itself(void **state)
{
    (void)state;
    reduction_t x = open_reduction(2, 2, 3, MPT_BF16);
    x.reduce_micro = 1;
    x.micro_step = 2;
    for (int i = 0; i < 3; i += 2)
        spoil(&x, 1, i, 8, 5, 3e38f);
    assert_offender(&x, (mpt_verdict_t){.bad_element = global_of(&x, 8, 5),
                                        .bad_bits = 0x7f800000u,
                                        .bad_count = 1,
                                        .bad_micro_step = 2});
    close_reduction(&x);
}

/* The lanes of a rank overflow when they merge, or ranks' sums do: nobody steps either way, and the element is the same. */
static void an_overflow_between_lanes_names_the_same_element_on_any_number_of_ranks(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        reduction_t x = open_reduction(ranks, 8, 8 / ranks, MPT_F32);
        x.micro_step = 4;
        for (int lane = 2; lane < 4; lane++)
            x.inputs[lane][mpt_layout_at(&x.layout, 3) + 4000] = 3e38f;
        assert_offender(&x, (mpt_verdict_t){.wire = ranks <= 4,
                                            .bad_rank = ranks == 4 ? 1 : 0,
                                            .bad_element = global_of(&x, 3, 4000),
                                            .bad_bits = 0x7f800000u,
                                            .bad_count = 1,
                                            .bad_micro_step = 4});
        close_reduction(&x);
    }
}

/* Lanes are looked at one by one: the one that lies first in the unit holds the later element of the table. */
static void of_several_bad_lanes_the_lowest_element_is_named(void **state)
{
    (void)state;
    reduction_t x = open_reduction(2, 8, 4, MPT_F32);
    int64_t square = mpt_layout_at(&x.layout, 3) + 5000, gain = mpt_layout_at(&x.layout, 2) + 3;
    int64_t lane = x.layout.units[1].padded / 8, first = x.layout.units[1].first;
    assert_true(square < gain);
    assert_int_equal((square - first) / lane / 4, 1); /* both are rank 1's, in lanes apart */
    assert_true((square - first) / lane < (gain - first) / lane);
    for (int i = 0; i < 8; i += 4)
        x.inputs[i][square] = x.inputs[i][gain] = -3e38f;
    assert_offender(&x, (mpt_verdict_t){.bad_element = global_of(&x, 2, 3),
                                        .bad_bits = 0xff800000u,
                                        .bad_count = 2});
    close_reduction(&x);
}

/* No kernel writes there; if memory goes bad, nobody steps, and no element is blamed for it. */
static void padding_is_never_named(void **state)
{
    (void)state;
    reduction_t x = open_reduction(2, 2, 1, MPT_BF16);
    const mpt_layout_t *layout = &x.layout;
    x.inputs[0][layout->units[1].first + layout->units[1].padded - 1] = NAN;
    x.inputs[0][mpt_layout_at(layout, 0) + 37 * 11 + 21] = NAN; /* the reserve */
    assert_offender(&x, (mpt_verdict_t){.wire = 1,
                                        .bad_element = UINT64_MAX,
                                        .bad_count = 2,
                                        .bad_micro_step = UINT16_MAX});
    spoil(&x, 1, 0, 9, 0, INFINITY);
    assert_offender(&x, (mpt_verdict_t){.wire = 1,
                                        .bad_rank = 1,
                                        .bad_element = global_of(&x, 9, 0),
                                        .bad_bits = 0x7f800000u,
                                        .bad_count = 3});
    close_reduction(&x);
}

static void after_an_overflow_the_next_step_is_clean(void **state)
{
    (void)state;
    for (int micro = 0; micro <= 1; micro++) {
        reduction_t x = open_reduction(4, 4, micro ? 2 : 1, MPT_F16);
        sharding_mode_t modes[MAX_MODES];
        int count = list_modes(4, modes);
        x.reduce_micro = micro;
        x.clean_step_follows = 1;
        spoil(&x, 0, 0, 0, 0, NAN);
        spoil(&x, 3, 0, 3, 5, INFINITY);
        for (int i = 0; i < count; i++) {
            run(&x, modes[i]);
            assert_int_equal(x.verdicts[0].overflow, 0);
            assert_int_equal(x.verdicts[0].bad_count, 0);
            assert_true(isfinite(x.verdicts[0].sumsq));
        }
        close_reduction(&x);
    }
}

/* ---- the record's narrow fields ------------------------------------------------------------------------------------ */

typedef struct findings {
    mpt_layout_t layout;
    mpt_offender_t wire[FIXTURE_UNITS], kept[FIXTURE_UNITS], sum[FIXTURE_UNITS];
    double sumsq[FIXTURE_UNITS];
    mpt_state_t state;
    mpt_reducer_t reducer;
} findings_t;

static void open_findings(findings_t *f)
{
    *f = (findings_t){.layout = fixture_layout(1, 0, 0)};
    f->state = (mpt_state_t){.layout = &f->layout,
                             .bad_wire = f->wire,
                             .bad_kept = f->kept,
                             .bad_sum = f->sum,
                             .sumsq = f->sumsq};
    f->reducer = (mpt_reducer_t){.state = &f->state};
}

static void note_all(findings_t *f, int micro_step)
{
    for (int u = 0; u < f->layout.unit_count; u++)
        mpt_reducer_note(&f->reducer, u, micro_step);
}

static void counts_saturate_in_the_record(void **state)
{
    (void)state;
    findings_t f;
    mpt_record_t record = {.flags = MPT_RECORD_STOP};
    open_findings(&f);
    f.wire[0] = (mpt_offender_t){.count = UINT32_MAX, .first = 5};
    f.wire[1] = (mpt_offender_t){.count = 7, .first = 1};
    f.sumsq[0] = 1;
    f.sumsq[1] = 2;
    f.sumsq[4] = 4;
    note_all(&f, 0);
    mpt_reducer_report(&f.reducer, 3, &record);
    assert_true(record.bad_count == UINT32_MAX);
    assert_true(record.sumsq == 7);
    assert_int_equal(record.flags, MPT_RECORD_STOP | MPT_RECORD_BAD_WIRE);
    assert_int_equal(record.micro_step, 3);
    mpt_layout_release(&f.layout);
}

static void a_clean_step_reports_nothing(void **state)
{
    (void)state;
    findings_t f;
    mpt_record_t record = {0};
    open_findings(&f);
    note_all(&f, 0);
    mpt_reducer_report(&f.reducer, 3, &record);
    assert_memory_equal(&record, &(mpt_record_t){0}, sizeof record);
    mpt_layout_release(&f.layout);
}

/* The record has 16 bits for it: later micro-steps are named as the last of those, and their element still is. */
static void micro_steps_beyond_the_record_saturate(void **state)
{
    (void)state;
    for (int micro = 0; micro <= 1; micro++) {
        findings_t f;
        mpt_record_t record = {0};
        open_findings(&f);
        f.state.params.reduce_micro = micro;
        f.wire[3] = (mpt_offender_t){.count = 1, .first = 4, .bits = 0x7f800000u};
        note_all(&f, 70000);
        mpt_reducer_report(&f.reducer, 70000, &record);
        assert_int_equal(record.micro_step, UINT16_MAX);
        assert_int_equal(record.bad_element, f.layout.tensors[7].first + 4);
        assert_int_equal(record.bad_bits, 0x7f800000u);
        mpt_layout_release(&f.layout);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_infinity_on_one_rank_is_named_as_bad_on_its_wire),
        cmocka_unit_test(the_lowest_element_of_all_units_is_named_and_all_are_counted),
        cmocka_unit_test(the_earliest_micro_step_is_named_before_lower_elements_of_later_ones),
        cmocka_unit_test(what_overflows_when_rounded_is_bad_on_the_wire),
        cmocka_unit_test(an_overflow_that_only_the_sum_made_is_named_as_such),
        cmocka_unit_test(a_sum_over_micro_steps_may_overflow_by_itself),
        cmocka_unit_test(an_overflow_between_lanes_names_the_same_element_on_any_number_of_ranks),
        cmocka_unit_test(of_several_bad_lanes_the_lowest_element_is_named),
        cmocka_unit_test(padding_is_never_named),
        cmocka_unit_test(after_an_overflow_the_next_step_is_clean),
        cmocka_unit_test(counts_saturate_in_the_record),
        cmocka_unit_test(a_clean_step_reports_nothing),
        cmocka_unit_test(micro_steps_beyond_the_record_saturate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
