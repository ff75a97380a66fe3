/*
 * One step's reduction of random gradients on every rank of any mode, beside what the definition says must come out,
 * computed apart from the code. A run fails the test where the two differ in a bit.
 */
#ifndef REDUCTION_H
#define REDUCTION_H

#include "fixture.h"

#define MAX_INPUTS 16
#define MAX_LANES 16
#define MAX_MODES 8

/* One step's reduction: what goes in, what must come out by the definition, and what was reported. */
typedef struct reduction {
    int ranks, lanes; /* lanes of all ranks */
    int rounds;       /* a rank's: its lanes, or its micro-steps under reduce_every = micro */
    int reduce_micro;
    int64_t micro_steps;
    mpt_dtype_t wire;
    mpt_layout_t layout;       /* for one group; other groups move nothing */
    float *inputs[MAX_INPUTS]; /* [ranks][rounds] flat: what backward leaves in the accumulator */
    float *expected;           /* flat; NULL: not looked at */
    double lane_sumsq[MAX_LANES];
    int micro_step; /* told to the report */
    int clean_step_follows;
    const char *kernels;
    int threads, unregistered;
    mpt_record_t records[FIXTURE_MAX_RANKS];
    mpt_verdict_t verdicts[FIXTURE_MAX_RANKS];
    mpt_comm_stats_t group[FIXTURE_MAX_RANKS], across[FIXTURE_MAX_RANKS];
} reduction_t;

typedef struct sharding_mode {
    mpt_shard_t shard;
    int group; /* hsdp */
} sharding_mode_t;

static const mpt_dtype_t wires[3] = {MPT_F32, MPT_BF16, MPT_F16};

/* Every mode, hsdp with every power of two that divides the ranks. */
static inline int list_modes(int ranks, sharding_mode_t *modes)
{
    int count = 0;
    for (int shard = MPT_SHARD_DDP; shard <= MPT_SHARD_ZERO3; shard++)
        modes[count++] = (sharding_mode_t){.shard = (mpt_shard_t)shard, .group = ranks};
    for (int k = 1; ranks % k == 0; k *= 2)
        modes[count++] = (sharding_mode_t){.shard = MPT_SHARD_HSDP, .group = k};
    return count;
}

/* ---- the definition, apart from the code ------------------------------------------------------------------ */

static inline float tree(const float *values, int first, int span, int count)
{
    if (span == 1)
        return values[first];
    float left = tree(values, first, span / 2, count);
    return first + span / 2 < count ? left + tree(values, first + span / 2, span / 2, count) : left;
}

static inline double tree_f64(const double *values, int first, int span, int count)
{
    if (span == 1)
        return values[first];
    double left = tree_f64(values, first, span / 2, count);
    return first + span / 2 < count ? left + tree_f64(values, first + span / 2, span / 2, count)
                                    : left;
}

static inline double divisor_of(const reduction_t *x)
{
    return mpt_reducer_divisor(x->wire, x->reduce_micro ? 1 : x->micro_steps, x->ranks);
}

/* The sum over ranks of what they give in `round`; ranks' lanes are summed together with the ranks. */
static inline float sum_of_round(const reduction_t *x, int round, int64_t at)
{
    float given[MAX_INPUTS] = {0.0f};
    int lanes = x->lanes / x->ranks;
    if (lanes > 1) {
        for (int i = 0; i < x->lanes; i++)
            given[i] = x->inputs[i][at];
        return tree(given, 0, MAX_LANES, x->lanes);
    }
    for (int r = 0; r < x->ranks; r++)
        given[r] =
            fixture_round(x->wire, (float)(x->inputs[r * x->rounds + round][at] / divisor_of(x)));
    return tree(given, 0, MAX_LANES, x->ranks);
}

static inline float defined_at(const reduction_t *x, int64_t at)
{
    float sum = 0.0f;
    if (!x->reduce_micro)
        return fixture_round(x->wire, sum_of_round(x, 0, at));
    for (int i = 0; i < x->rounds; i++)
        sum += sum_of_round(x, i, at);
    return sum;
}

/* By the book of mpt_grad_scan. */
static inline double squares(const float *values, int64_t count)
{
    double total = 0.0;
    for (int64_t from = 0; from < count; from += MPT_SCAN_SEGMENT) {
        double lane[8] = {0.0};
        int64_t to = from + MPT_SCAN_SEGMENT < count ? from + MPT_SCAN_SEGMENT : count;
        for (int64_t i = from; i < to; i++)
            lane[(i - from) % 8] += (double)values[i] * values[i];
        total += tree_f64(lane, 0, 8, 8);
    }
    return total;
}

static inline void define(reduction_t *x)
{
    const mpt_layout_t *layout = &x->layout;
    free(x->expected);
    x->expected = calloc((size_t)layout->total, sizeof(float));
    assert_non_null(x->expected);
    for (int64_t at = 0; at < layout->total; at++)
        x->expected[at] = defined_at(x, at);
    for (int l = 0; l < x->lanes; l++) {
        x->lane_sumsq[l] = 0.0;
        for (int u = 0; u < layout->unit_count; u++) {
            int64_t count = layout->units[u].padded / x->lanes;
            x->lane_sumsq[l] += squares(x->expected + layout->units[u].first + l * count, count);
        }
    }
}

/* ---- a rank's step ------------------------------------------------------------------------------------------ */

static inline void feed(fixture_rank_t *rank, int unit, int lane, const float *input)
{
    const mpt_held_t *accumulator = mpt_reducer_accumulator(&rank->reducer, lane);
    const mpt_unit_t *u = &rank->layout->units[unit];
    memcpy(mpt_held_unit(rank->layout, accumulator, unit), input + u->first,
           (size_t)u->padded * sizeof(float));
}

/* Units as backward ends them; the tied head adds to unit 0 before all others. */
static inline mpt_status_t one_round(fixture_rank_t *rank, int round, const float *input)
{
    reduction_t *x = rank->ctx;
    int last = round == x->rounds - 1, lane = x->reduce_micro ? 0 : round;
    int micro_step = last ? (int)rank->state.params.micro_steps - 1 : round;
    mpt_status_t status = mpt_reducer_claim(&rank->reducer, 0);
    feed(rank, 0, lane, input);
    for (int u = rank->layout->unit_count - 1; u >= 0 && status == MPT_OK; u--) {
        if (u > 0)
            status = mpt_reducer_claim(&rank->reducer, u);
        if (u > 0)
            feed(rank, u, lane, input);
        if (status == MPT_OK)
            status = mpt_reducer_merge(&rank->reducer, u, lane);
        if (status == MPT_OK && (last || x->reduce_micro))
            status = mpt_reducer_unit(&rank->reducer, u, micro_step);
    }
    return status;
}

static inline mpt_status_t one_step(fixture_rank_t *rank, float *const *inputs)
{
    reduction_t *x = rank->ctx;
    mpt_record_t own = {.scale = 1.0f}, all[FIXTURE_MAX_RANKS];
    double scratch[FIXTURE_MAX_RANKS];
    const mpt_record_fold_t fold = {
        .ranks = x->ranks, .group = rank->layout->group, .replicas = x->ranks};
    mpt_status_t status = mpt_reducer_begin(&rank->reducer);
    for (int i = 0; i < x->rounds && status == MPT_OK; i++)
        status = one_round(rank, i, inputs[rank->rank * x->rounds + i]);
    if (status == MPT_OK)
        status = mpt_reducer_finish(&rank->reducer);
    x->group[rank->rank] = rank->group->stats;
    if (rank->across != NULL)
        x->across[rank->rank] = rank->across->stats;
    mpt_reducer_report(&rank->reducer, x->micro_step, &own);
    x->records[rank->rank] = own;
    if (status == MPT_OK)
        status = mpt_comm_all_gather(rank->comm, &own, all, sizeof own, rank->worker_stream);
    if (status == MPT_OK)
        mpt_record_fold(all, &fold, scratch, &x->verdicts[rank->rank]);
    return status;
}

/* All that the mode promises of the reduced gradient: ddp every unit whole, else this rank's slice. */
static inline int differs(const fixture_rank_t *rank)
{
    const reduction_t *x = rank->ctx;
    const mpt_state_t *state = &rank->state;
    for (int u = 0; u < rank->layout->unit_count; u++) {
        int64_t count = rank->layout->units[u].padded, first = rank->layout->units[u].first;
        const void *got = mpt_held_slice(state, &state->reduced, u);
        if (state->params.shard == MPT_SHARD_DDP)
            got = mpt_held_unit(rank->layout, &state->reduced, u);
        else {
            count = mpt_layout_slice(rank->layout, u);
            first += count * mpt_layout_slice_of(rank->layout, rank->rank);
        }
        for (int64_t i = 0; i < count; i++) {
            float value = (float)mpt_load(got, state->reduced.dtype, i);
            if (mpt_f32_bits(value) == mpt_f32_bits(x->expected[first + i]))
                continue;
            fprintf(stderr, "rank %d, unit %d, element %lld: %.9g, the definition gives %.9g\n",
                    rank->rank, u, (long long)i, (double)value, (double)x->expected[first + i]);
            return 1;
        }
    }
    return 0;
}

static inline int step_body(fixture_rank_t *rank)
{
    reduction_t *x = rank->ctx;
    if (one_step(rank, x->inputs) != MPT_OK)
        return 1;
    if (x->expected != NULL && differs(rank))
        return 2;
    if (!x->clean_step_follows)
        return 0;
    float *clean = fixture_flat(rank->layout, 5, 4, 1.0f), *inputs[MAX_INPUTS];
    for (int i = 0; i < MAX_INPUTS; i++)
        inputs[i] = clean;
    int result = one_step(rank, inputs) == MPT_OK ? 0 : 3;
    free(clean);
    return result;
}

/* ---- all ranks ------------------------------------------------------------------------------------------------ */

/* Random gradients for `ranks` ranks of `rounds` rounds each. */
static inline reduction_t open_reduction(int ranks, int lanes, int rounds, mpt_dtype_t wire)
{
    reduction_t x = {
        .ranks = ranks, .lanes = lanes, .rounds = rounds, .wire = wire, .micro_steps = rounds};
    x.layout = fixture_layout(ranks, 0, lanes);
    for (int i = 0; i < ranks * rounds; i++)
        x.inputs[i] = fixture_flat(&x.layout, 100 + (uint64_t)i, 6, 1.0f);
    return x;
}

static inline void close_reduction(reduction_t *x)
{
    for (int i = 0; i < MAX_INPUTS; i++)
        free(x->inputs[i]);
    free(x->expected);
    mpt_layout_release(&x->layout);
}

static inline void run_one(reduction_t *x, sharding_mode_t mode, int threaded)
{
    mpt_layout_t layout = fixture_layout(x->ranks, mode.group, x->lanes);
    const fixture_t fixture = {.layout = &layout,
                               .shard = mode.shard,
                               .compute = x->wire,
                               .wire = x->wire,
                               .micro_steps = x->micro_steps,
                               .reduce_micro = x->reduce_micro,
                               .threads = x->threads,
                               .unregistered = x->unregistered,
                               .threaded = threaded,
                               .kernels = x->kernels,
                               .body = step_body,
                               .ctx = x};
    int result = fixture_run(&fixture);
    if (result != 0)
        fail_msg("%s, %d ranks, %d lanes, shard %d of %d, %s: %d", mpt_dtype_name(x->wire), x->ranks,
                 x->lanes, (int)mode.shard, mode.group, threaded ? "on a helper" : "in the caller", result);
    for (int r = 1; r < x->ranks; r++)
        assert_memory_equal(&x->verdicts[r], &x->verdicts[0], sizeof x->verdicts[0]);
    mpt_layout_release(&layout);
}

/* In the caller, then on a helper thread, whose verdict must be the same and stays. */
static inline void run(reduction_t *x, sharding_mode_t mode)
{
    run_one(x, mode, 0);
    mpt_verdict_t inline_verdict = x->verdicts[0];
    run_one(x, mode, 1);
    assert_memory_equal(&x->verdicts[0], &inline_verdict, sizeof inline_verdict);
}

static inline int same_double(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* Every rank reports its part's squares, and they fold to the tree over all parts. */
static inline void assert_sums_of_squares(const reduction_t *x, sharding_mode_t mode)
{
    int groups = x->ranks / mode.group, own = x->lanes / x->ranks;
    for (int r = 0; r < x->ranks; r++) {
        int part = r % mode.group * groups + r / mode.group;
        double sumsq = tree_f64(x->lane_sumsq + part * own, 0, MAX_LANES, own);
        assert_true(same_double(x->records[r].sumsq, sumsq));
        assert_int_equal(x->records[r].flags, 0);
        assert_int_equal(x->records[r].bad_count, 0);
    }
    assert_true(same_double(x->verdicts[0].sumsq, tree_f64(x->lane_sumsq, 0, MAX_LANES, x->lanes)));
    assert_int_equal(x->verdicts[0].overflow, 0);
}

static inline void run_every_mode(reduction_t *x)
{
    sharding_mode_t modes[MAX_MODES];
    int count = list_modes(x->ranks, modes);
    define(x);
    for (int i = 0; i < count; i++) {
        run(x, modes[i]);
        assert_sums_of_squares(x, modes[i]);
    }
}

#endif
