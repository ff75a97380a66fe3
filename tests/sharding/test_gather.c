#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "fixture.h"

#define MAX_UNITS 7
#define MAX_NEEDS (3 * MAX_UNITS)
#define MAX_STEPS 4

/* ---- what the model needs ------------------------------------------------------------------------------------ */

typedef struct need {
    int unit, next, backward;
} need_t;

/* One micro-step: forward 0, 1 .. units-1, the loss 0 (the tied head), backward units-1 .. 1, 0. */
static int list_needs(int units, need_t *needs)
{
    int n = 0;
    for (int u = 0; u < units; u++)
        needs[n++] = (need_t){u, u + 1 < units ? u + 1 : 0, 0};
    needs[n++] = (need_t){0, units - 1, 1};
    for (int u = units - 1; u > 0; u--)
        needs[n++] = (need_t){u, u - 1, 1};
    needs[n++] = (need_t){0, -1, 1};
    return n;
}

/* Units of odd sizes. */
static mpt_layout_t layout_of(int units, int ranks, int group)
{
    mpt_tensor_t table[2 * MAX_UNITS];
    mpt_layout_t layout;
    const mpt_layout_cut_t cut = {.ranks = ranks, .group = group};
    for (int u = 0; u < units; u++) {
        table[2 * u] =
            (mpt_tensor_t){.dims = 2, .shape = {5 + 40 * u % 97, 7}, .unit = u, .decay = 1};
        table[2 * u + 1] = (mpt_tensor_t){.dims = 1, .shape = {1 + u}, .unit = u};
    }
    fixture_require(mpt_layout_build(table, 2 * units, &cut, &layout) == MPT_OK);
    return layout;
}

/* ---- a run of passes over weights that change ------------------------------------------------------------------ */

typedef struct passage {
    mpt_layout_t layout;
    mpt_shard_t shard;
    int steps, micro_steps;
    int skipped; /* this step changes no weights, -1: none */
    int only_forward;
    int unregistered;
    int threaded;
    float *weights[MAX_STEPS]; /* after how many updates */
    uint64_t calls[FIXTURE_MAX_RANKS][MAX_STEPS];
} passage_t;

static passage_t open_passage(int units, int ranks, int group, mpt_shard_t shard)
{
    passage_t p = {.layout = layout_of(units, ranks, group),
                   .shard = shard,
                   .steps = 2,
                   .micro_steps = 1,
                   .skipped = -1};
    for (int i = 0; i < MAX_STEPS; i++)
        p.weights[i] = fixture_flat(&p.layout, 7 + (uint64_t)i, 3, 1.0f);
    return p;
}

static void close_passage(passage_t *p)
{
    for (int i = 0; i < MAX_STEPS; i++)
        free(p->weights[i]);
    mpt_layout_release(&p->layout);
}

/* As an optimizer leaves them: this rank's slices alone. */
static void write_slices(fixture_rank_t *rank, const float *weights)
{
    const mpt_layout_t *layout = rank->layout;
    for (int u = 0; u < layout->unit_count; u++) {
        int64_t slice = mpt_layout_slice(layout, u);
        int64_t first = layout->units[u].first + slice * mpt_layout_slice_of(layout, rank->rank);
        mpt_convert(mpt_held_slice(&rank->state, &rank->state.working, u),
                    rank->state.working.dtype, weights + first, MPT_F32, slice);
    }
}

static int is_readable(const fixture_rank_t *rank, int unit, const float *weights)
{
    const mpt_layout_t *layout = rank->layout;
    const mpt_state_t *state = &rank->state;
    const void *at = mpt_held_unit(layout, &state->gathered, unit);
    const float *expected = weights + layout->units[unit].first;
    for (int64_t i = 0; i < layout->units[unit].padded; i++)
        if (mpt_load(at, state->gathered.dtype, i) !=
            (double)fixture_round(state->gathered.dtype, expected[i]))
            return 0;
    return 1;
}

/* Unit, unit 0, which keeps its place, and where gathers complete in the caller the one that follows. */
static int one_micro_step(fixture_rank_t *rank, const float *weights)
{
    const passage_t *p = rank->ctx;
    need_t needs[MAX_NEEDS];
    int count = list_needs(p->layout.unit_count, needs);
    if (p->only_forward)
        count = p->layout.unit_count + 1;
    for (int i = 0; i < count; i++) {
        int next = p->only_forward && i == count - 1 ? -1 : needs[i].next;
        if (mpt_gather_need(&rank->gather, needs[i].unit, next) != MPT_OK)
            return 1;
        if (!is_readable(rank, needs[i].unit, weights) || !is_readable(rank, 0, weights) ||
            (next >= 0 && !p->threaded && !is_readable(rank, next, weights)))
            return 10 + i;
    }
    return 0;
}

static int passage_body(fixture_rank_t *rank)
{
    passage_t *p = rank->ctx;
    int result = 0;
    memset(rank->state.working.data, 0x5a,
           (size_t)mpt_held_count(rank->layout, rank->state.working.hold) *
               mpt_dtype_bytes(rank->state.working.dtype));
    for (int s = 0, updates = -1; s < p->steps && result == 0; s++) {
        uint64_t before = rank->group->stats.calls;
        if (s != p->skipped) {
            write_slices(rank, p->weights[++updates]);
            if (mpt_gather_all_updated(&rank->gather) != MPT_OK)
                return 2;
        }
        for (int m = 0; m < p->micro_steps && result == 0; m++)
            result = one_micro_step(rank, p->weights[updates]);
        if (mpt_worker_drain(rank->worker) != MPT_OK)
            return 3;
        p->calls[rank->rank][s] = rank->group->stats.calls - before;
    }
    return result;
}

/* Threaded: gathers run on a helper. */
static void pass_one(passage_t *p, int threaded)
{
    const fixture_t fixture = {.layout = &p->layout,
                               .shard = p->shard,
                               .compute = MPT_BF16,
                               .wire = MPT_BF16,
                               .unregistered = p->unregistered,
                               .threaded = threaded,
                               .body = passage_body,
                               .ctx = p};
    p->threaded = threaded;
    int result = fixture_run(&fixture);
    if (result != 0)
        fail_msg("%d units, shard %d: %d of %d, threaded %d: %d", p->layout.unit_count, (int)p->shard,
                 p->layout.group, p->layout.ranks, threaded, result);
}

/* In the caller, then on a helper, which makes the same calls. */
static void pass(passage_t *p)
{
    uint64_t calls[FIXTURE_MAX_RANKS][MAX_STEPS];
    pass_one(p, 0);
    memcpy(calls, p->calls, sizeof calls);
    pass_one(p, 1);
    assert_memory_equal(p->calls, calls, sizeof calls);
}

static void assert_calls(const passage_t *p, int step, int64_t expected)
{
    for (int r = 0; r < p->layout.ranks; r++)
        assert_int_equal(p->calls[r][step], expected);
}

/* ---- weights that all ranks hold --------------------------------------------------------------------------------- */

static void zero1_and_zero2_gather_every_unit_in_place_once_an_update(void **state)
{
    (void)state;
    for (int shard = MPT_SHARD_ZERO1; shard <= MPT_SHARD_ZERO2; shard++)
        for (int ranks = 1; ranks <= 8; ranks++) {
            passage_t p = open_passage(4, ranks, 0, (mpt_shard_t)shard);
            p.micro_steps = 2;
            p.steps = 3;
            p.skipped = 1;
            p.unregistered = ranks == 3;
            pass(&p);
            assert_calls(&p, 0, 4);
            assert_calls(&p, 1, 0);
            assert_calls(&p, 2, 4);
            close_passage(&p);
        }
}

static void in_ddp_weights_are_where_the_optimizer_left_them(void **state)
{
    (void)state;
    mpt_layout_t layout = layout_of(3, 1, 0);
    const fixture_t fixture = {
        .layout = &layout, .shard = MPT_SHARD_DDP, .compute = MPT_F32, .wire = MPT_F32};
    fixture_rank_t rank;
    mpt_gather_t gather;
    fixture_open(&rank, &fixture, 0);
    assert_ptr_equal(rank.state.gathered.data, rank.state.working.data);
    mpt_gather_init(&gather, &rank.state, rank.worker, NULL, rank.stream); /* nobody to ask, and nothing to */
    assert_int_equal(mpt_gather_all_updated(&gather), MPT_OK);
    assert_int_equal(mpt_gather_need(&gather, 2, 1), MPT_OK);
    fixture_close(&rank);
    mpt_layout_release(&layout);
}

/* ---- weights that pass through a window --------------------------------------------------------------------------- */

/* zero3 on `ranks`, hsdp on twice as many in two groups of a power of two. */
static passage_t open_windowed(int units, int ranks, int hsdp)
{
    return open_passage(units, hsdp ? 2 * ranks : ranks, ranks,
                        hsdp ? MPT_SHARD_HSDP : MPT_SHARD_ZERO3);
}

static void every_unit_is_whole_and_current_when_it_is_needed(void **state)
{
    (void)state;
    for (int hsdp = 0; hsdp <= 1; hsdp++)
        for (int ranks = 1; ranks <= (hsdp ? 4 : 8); ranks += hsdp ? ranks : 1) {
            passage_t p = open_windowed(6, ranks, hsdp);
            p.micro_steps = 2;
            p.steps = 4;
            p.skipped = 2;
            p.unregistered = ranks == 4;
            pass(&p);
            close_passage(&p);
        }
}

/*
 * After an update the first forward gathers every unit. Each backward finds unit 0 and the last two, and gathers the
 * units - 3 others; each later forward finds unit 0 and the first two.
 */
static void a_unit_is_gathered_again_only_if_others_took_its_place(void **state)
{
    (void)state;
    for (int hsdp = 0; hsdp <= 1; hsdp++)
        for (int units = 1; units <= MAX_UNITS; units++)
            for (int micro_steps = 1; micro_steps <= 3; micro_steps++) {
                int64_t others = units > 3 ? units - 3 : 0;
                passage_t p = open_windowed(units, 2, hsdp);
                p.micro_steps = micro_steps;
                p.steps = 4;
                p.skipped = 2;
                pass(&p);
                assert_calls(&p, 0, units + (2 * micro_steps - 1) * others);
                assert_calls(&p, 1, units + (2 * micro_steps - 1) * others);
                assert_calls(&p, 2, 2 * micro_steps * others);
                assert_calls(&p, 3, units + (2 * micro_steps - 1) * others);
                assert_true(p.calls[0][0] <= (uint64_t)(2 * micro_steps * units));
                close_passage(&p);
            }
}

/* Validation runs forward and the loss alone, with the same weights as the step before and the one after. */
static void a_pass_without_backward_gathers_what_has_left_the_window(void **state)
{
    (void)state;
    passage_t p = open_windowed(6, 2, 0);
    p.only_forward = 1;
    p.micro_steps = 3;
    p.steps = 1;
    pass(&p);
    assert_calls(&p, 0, 6 + 5 + 5); /* from the end to the beginning all but unit 0 */
    close_passage(&p);
}

static void a_window_has_two_units_in_turn_and_unit_0_apart(void **state)
{
    (void)state;
    mpt_layout_t layout = layout_of(MAX_UNITS, 2, 0);
    const fixture_t fixture = {
        .layout = &layout, .shard = MPT_SHARD_ZERO3, .compute = MPT_BF16, .wire = MPT_BF16};
    fixture_rank_t rank;
    fixture_open(&rank, &fixture, 1);
    const mpt_held_t *held = &rank.state.gathered;
    char *begin = held->data;
    assert_int_equal(held->hold, MPT_HOLD_WINDOW);
    for (int u = 0; u < MAX_UNITS; u++) {
        char *at = mpt_held_unit(&layout, held, u), *end = at + 2 * layout.units[u].padded;
        assert_true(at >= begin && end <= begin + 2 * mpt_held_count(&layout, held->hold));
        if (u > 0) /* its neighbour is in use beside it */
            assert_true(at >= (char *)mpt_held_unit(&layout, held, u - 1) +
                                  2 * layout.units[u - 1].padded ||
                        end <= (char *)mpt_held_unit(&layout, held, u - 1));
        if (u > 2)
            assert_ptr_equal(at, mpt_held_unit(&layout, held, u - 2));
        if (u > 0)
            assert_true(at >= begin + 2 * layout.units[0].padded);
    }
    fixture_close(&rank);
    mpt_layout_release(&layout);
}

/* ---- failure --------------------------------------------------------------------------------------------------------- */

static int failing_body(fixture_rank_t *rank)
{
    write_slices(rank, ((passage_t *)rank->ctx)->weights[0]);
    if (mpt_gather_need(&rank->gather, 0, 1) != MPT_OK)
        return 1;
    mpt_comm_abort(rank->group, "a test");
    if (mpt_gather_need(&rank->gather, 1, 0) != MPT_OK) /* both are there */
        return 2;
    if (mpt_gather_need(&rank->gather, 1, 2) != MPT_ERR_COMM ||
        mpt_gather_need(&rank->gather, 2, -1) != MPT_ERR_COMM ||
        mpt_gather_need(&rank->gather, 2, -1) != MPT_ERR_COMM)
        return 3;
    return rank->group->what == NULL ? 0 : 4;
}

static void a_failed_gather_is_not_taken_for_done(void **state)
{
    (void)state;
    passage_t p = open_windowed(4, 1, 0);
    const fixture_t fixture = {.layout = &p.layout,
                               .shard = MPT_SHARD_ZERO3,
                               .compute = MPT_BF16,
                               .wire = MPT_BF16,
                               .body = failing_body,
                               .ctx = &p};
    assert_int_equal(fixture_run(&fixture), 0);
    close_passage(&p);
}

/* ---- whole steps -------------------------------------------------------------------------------------------------------- */

/* Gradients reduced, weights updated and gathered, in the order in which a model asks for it. */
typedef struct course {
    mpt_shard_t shard;
    int group, ranks, micro_steps, reduce_micro, threaded;
    float *gradients[FIXTURE_MAX_RANKS];
    float *weights[FIXTURE_MAX_RANKS]; /* as every rank's model reads them at the end */
    uint64_t calls[FIXTURE_MAX_RANKS], bytes[FIXTURE_MAX_RANKS]; /* of the last step */
} course_t;

static const mpt_optimizer_params_t params = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};

/* A unit's gradients of one micro-step, each adding the same; the first finds zeros. */
static void add_gradients(fixture_rank_t *rank, int unit, int micro)
{
    const course_t *c = rank->ctx;
    const mpt_held_t *held = mpt_reducer_accumulator(&rank->reducer, 0);
    const mpt_unit_t *u = &rank->layout->units[unit];
    float *to = mpt_held_unit(rank->layout, held, unit);
    int first = micro == 0 || c->reduce_micro;
    for (int64_t i = 0; i < u->padded; i++)
        to[i] = (first ? 0.0f : to[i]) + c->gradients[rank->rank][u->first + i];
}

static mpt_status_t course_micro_step(fixture_rank_t *rank, int micro)
{
    const course_t *c = rank->ctx;
    need_t needs[MAX_NEEDS];
    int count = list_needs(rank->layout->unit_count, needs), last = micro == c->micro_steps - 1;
    mpt_status_t status = MPT_OK;
    for (int i = 0; i < count && status == MPT_OK; i++) {
        int unit = needs[i].unit;
        status = mpt_gather_need(&rank->gather, unit, needs[i].next);
        if (status != MPT_OK || !needs[i].backward || (unit == 0 && i < count - 1))
            continue;
        status = mpt_reducer_claim(&rank->reducer, unit);
        add_gradients(rank, unit, micro);
        if (status == MPT_OK)
            status = mpt_reducer_merge(&rank->reducer, unit, 0);
        if (status == MPT_OK && (last || c->reduce_micro))
            status = mpt_reducer_unit(&rank->reducer, unit, micro);
    }
    return status;
}

static mpt_status_t course_step(fixture_rank_t *rank, int number)
{
    const course_t *c = rank->ctx;
    const mpt_unscale_t unscale = {.divisor = rank->reducer.divisor,
                                   .scale = 1,
                                   .micro_steps = c->micro_steps,
                                   .ranks = c->ranks};
    const mpt_update_t update = {.params = &params,
                                 .unscale = &unscale,
                                 .clip_factor = 1,
                                 .lr = 0.05,
                                 .t = number + 1,
                                 .step = number + 1};
    mpt_status_t status = mpt_reducer_begin(&rank->reducer);
    for (int m = 0; m < c->micro_steps && status == MPT_OK; m++)
        status = course_micro_step(rank, m);
    if (status == MPT_OK)
        status = mpt_reducer_finish(&rank->reducer);
    for (int u = 0; u < rank->state.layout->unit_count && status == MPT_OK; u++)
        status = mpt_optimizer_unit(&rank->state, &rank->kernels, &update, u, rank->stream);
    return status == MPT_OK ? mpt_gather_all_updated(&rank->gather) : status;
}

static mpt_comm_stats_t traffic(const fixture_rank_t *rank)
{
    mpt_comm_stats_t stats = rank->group->stats;
    if (rank->across != NULL) {
        stats.calls += rank->across->stats.calls;
        stats.bytes_sent += rank->across->stats.bytes_sent;
    }
    return stats;
}

static int course_body(fixture_rank_t *rank)
{
    course_t *c = rank->ctx;
    const mpt_state_t *state = &rank->state;
    float *start = fixture_flat(rank->layout, 3, 2, 1.0f);
    mpt_comm_stats_t before = {0};
    fixture_fill(rank, &rank->state.master, start);
    free(start);
    if (mpt_state_refresh(&rank->state, &state->master, NULL, &rank->kernels, rank->stream) !=
            MPT_OK ||
        mpt_gather_all_updated(&rank->gather) != MPT_OK)
        return 1;
    for (int i = 0; i < 3; i++) {
        if (mpt_worker_drain(rank->worker) != MPT_OK)
            return 4;
        before = traffic(rank);
        if (course_step(rank, i) != MPT_OK)
            return 2;
    }
    if (mpt_worker_drain(rank->worker) != MPT_OK)
        return 5;
    mpt_comm_stats_t after = traffic(rank);
    c->calls[rank->rank] = after.calls - before.calls;
    c->bytes[rank->rank] = after.bytes_sent - before.bytes_sent;
    for (int u = 0; u < rank->layout->unit_count; u++) {
        if (mpt_gather_need(&rank->gather, u, -1) != MPT_OK)
            return 3;
        mpt_convert(c->weights[rank->rank] + rank->layout->units[u].first, MPT_F32,
                    mpt_held_unit(rank->layout, &state->gathered, u), state->gathered.dtype,
                    rank->layout->units[u].padded);
    }
    return 0;
}

static void run_course(course_t *c)
{
    mpt_layout_t layout = fixture_layout(c->ranks, c->group, 0);
    const fixture_t fixture = {.layout = &layout,
                               .shard = c->shard,
                               .compute = MPT_BF16,
                               .wire = MPT_BF16,
                               .micro_steps = c->micro_steps,
                               .reduce_micro = c->reduce_micro,
                               .threaded = c->threaded,
                               .body = course_body,
                               .ctx = c};
    for (int r = 0; r < c->ranks; r++) {
        c->gradients[r] = fixture_flat(&layout, 50 + (uint64_t)r, 2, 1.0f);
        c->weights[r] = calloc((size_t)layout.total, sizeof(float));
    }
    assert_int_equal(fixture_run(&fixture), 0);
    for (int r = 1; r < c->ranks; r++)
        assert_memory_equal(c->weights[r], c->weights[0], (size_t)layout.total * sizeof(float));
    mpt_layout_release(&layout);
}

static void close_course(course_t *c)
{
    for (int r = 0; r < c->ranks; r++) {
        free(c->gradients[r]);
        free(c->weights[r]);
    }
}

/* Design section 5, in elements of N (padded) and collectives of one step. */
static void assert_within_the_table(const course_t *c, int64_t total)
{
    uint64_t units = FIXTURE_UNITS, m = (uint64_t)c->micro_steps, p = (uint64_t)c->ranks,
             k = c->group > 0 ? (uint64_t)c->group : p;
    uint64_t share = (uint64_t)total / k * (k - 1); /* what one pass over N sends, a rank */
    uint64_t reductions = c->reduce_micro ? m : 1;
    for (int r = 0; r < c->ranks; r++) {
        if (c->shard <= MPT_SHARD_ZERO2) {
            uint64_t wide = c->reduce_micro && c->shard == MPT_SHARD_DDP; /* gathers FP32 */
            assert_int_equal(c->calls[r], units * (reductions + 1));
            assert_int_equal(c->bytes[r], 2 * share * (reductions + 1 + wide));
            continue;
        }
        uint64_t across = c->shard == MPT_SHARD_HSDP ? reductions : 0, groups = p / k;
        assert_true(c->calls[r] <= (2 * m + reductions + across) * units);
        assert_true(c->bytes[r] <= 2 * share * (2 * m + reductions) + across * 4 * 2 *
                                                                          (uint64_t)total / k *
                                                                          (groups - 1) / groups);
    }
}

static void steps_of_every_mode_leave_the_same_weights_within_the_promised_traffic(void **state)
{
    (void)state;
    static const struct {
        mpt_shard_t shard;
        int group;
    } modes[] = {{MPT_SHARD_DDP, 0},   {MPT_SHARD_ZERO1, 0}, {MPT_SHARD_ZERO2, 0},
                 {MPT_SHARD_ZERO3, 0}, {MPT_SHARD_HSDP, 1},  {MPT_SHARD_HSDP, 2},
                 {MPT_SHARD_HSDP, 4}};
    mpt_layout_t layout = fixture_layout(4, 0, 0);
    for (int i = 0; i < 5; i++) { /* micro-steps 1, 2, 3, and 2, 3 reduced at once */
        course_t first = {0};
        for (int m = 0; m < 14; m++) { /* each mode in the caller, then on a helper */
            course_t c = {.shard = modes[m / 2].shard,
                          .group = modes[m / 2].group,
                          .threaded = m % 2,
                          .ranks = 4,
                          .micro_steps = i < 3 ? i + 1 : i - 1,
                          .reduce_micro = i >= 3};
            run_course(&c);
            assert_within_the_table(&c, layout.total);
            if (m == 0) {
                first = c;
                continue;
            }
            assert_memory_equal(first.weights[0], c.weights[0],
                                (size_t)layout.total * sizeof(float));
            close_course(&c);
        }
        close_course(&first);
    }
    mpt_layout_release(&layout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zero1_and_zero2_gather_every_unit_in_place_once_an_update),
        cmocka_unit_test(in_ddp_weights_are_where_the_optimizer_left_them),
        cmocka_unit_test(every_unit_is_whole_and_current_when_it_is_needed),
        cmocka_unit_test(a_unit_is_gathered_again_only_if_others_took_its_place),
        cmocka_unit_test(a_pass_without_backward_gathers_what_has_left_the_window),
        cmocka_unit_test(a_window_has_two_units_in_turn_and_unit_0_apart),
        cmocka_unit_test(a_failed_gather_is_not_taken_for_done),
        cmocka_unit_test(steps_of_every_mode_leave_the_same_weights_within_the_promised_traffic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
