/*
 * The model's hooks: which unit is needed when, when its gradients are ready, and that nothing of a unit is touched
 * outside of that, by an owner who moves every unit at each need and destroys what was left behind.
 */
#include "model_rig.h"

/* ---- the order --------------------------------------------------------------------------------------- */

typedef struct event {
    char hook; /* 'n' need, 'r' ready */
    int unit, next, backward;
} event_t;

typedef struct tape {
    event_t events[64];
    int count;
    int fail_at; /* the call that fails, -1: none */
} tape_t;

static mpt_status_t record(tape_t *tape, event_t event)
{
    assert_true(tape->count < 64);
    tape->events[tape->count++] = event;
    return tape->count - 1 == tape->fail_at ? MPT_ERR_COMM : MPT_OK;
}

static mpt_status_t record_need(void *ctx, int unit, int next, int backward)
{
    return record(ctx, (event_t){'n', unit, next, backward});
}

static mpt_status_t record_ready(void *ctx, int unit)
{
    return record(ctx, (event_t){'r', unit, 0, 0});
}

static void expect_tape(const tape_t *tape, const event_t *expected, int count)
{
    for (int i = 0; i < count && i < tape->count; i++) {
        const event_t *got = &tape->events[i], *want = &expected[i];
        if (got->hook != want->hook || got->unit != want->unit || got->next != want->next ||
            got->backward != want->backward)
            fail_msg("call %d: %c(%d, %d, %d), expected %c(%d, %d, %d)", i, got->hook, got->unit,
                     got->next, got->backward, want->hook, want->unit, want->next, want->backward);
    }
    assert_int_equal(tape->count, count);
}

static void tape_model(rig_t *rig, tape_t *tape, int fail_at)
{
    *tape = (tape_t){.fail_at = fail_at};
    rig->model.hooks = (mpt_gpt2_hooks_t){record_need, record_ready, tape};
}

static void units_are_needed_and_ready_in_the_documented_order(void **state)
{
    (void)state;
    static const event_t expected[] = {
        {'n', 0, 1, 0}, {'n', 1, 2, 0},  {'n', 2, 3, 0}, {'n', 3, 0, 0}, /* forward */
        {'n', 0, 3, 1},                                                  /* loss */
        {'n', 3, 2, 1}, {'r', 3, 0, 0},  {'n', 2, 1, 1}, {'r', 2, 0, 0},
        {'n', 1, 0, 1}, /* backward */
        {'r', 1, 0, 0}, {'n', 0, -1, 1}, {'r', 0, 0, 0},
    };
    for (int mode = MPT_GPT2_KEEP; mode <= MPT_GPT2_RECOMPUTE_BLOCK; mode++) {
        rig_t rig;
        tape_t tape;
        open_variant(&rig, &small, &(variant_t){"ref", MPT_F64, MPT_ISA_PORTABLE}, 1,
                     (mpt_gpt2_recompute_t)mode);
        tape_model(&rig, &tape, -1);
        backward(&rig, SEED);
        expect_tape(&tape, expected, (int)(sizeof expected / sizeof expected[0]));
        close_rig(&rig);
    }
}

static void nothing_follows_a_loss_alone_or_logits(void **state)
{
    (void)state;
    static const event_t expected[] = {
        {'n', 0, 1, 0}, {'n', 1, 2, 0}, {'n', 2, 0, 0}, {'n', 0, -1, 0}, {'n', 0, -1, 0}};
    rig_t rig;
    tape_t tape;
    open_oracle(&rig, &chunked); /* the head in chunks asks once */
    tape_model(&rig, &tape, -1);
    loss_of(&rig);
    assert_int_equal(mpt_gpt2_logits(&rig.model, 0), MPT_OK);
    expect_tape(&tape, expected, 5);
    close_rig(&rig);
}

/* ---- failures ---------------------------------------------------------------------------------------- */

/* One micro-step, and what ends it. */
static mpt_status_t try_passes(rig_t *rig)
{
    mpt_status_t status = mpt_gpt2_forward(&rig->model, rig->tokens);
    if (status == MPT_OK)
        status = mpt_gpt2_loss(&rig->model, rig->targets, SEED, 1);
    if (status == MPT_OK)
        status = mpt_gpt2_backward(&rig->model, rig->tokens);
    return status;
}

static int has_gradients(const rig_t *rig, int unit)
{
    for (int t = 0; t < rig->tensors; t++)
        if (rig->table[t].unit == unit && largest_gradient(rig, t) != 0)
            return 1;
    return 0;
}

/* A unit that could not be had, and all after it in backward, are left alone; one that failed when ready is done. */
static void check_untouched(const rig_t *rig, const tape_t *tape)
{
    const event_t *last = &tape->events[tape->count - 1];
    int done = last->hook == 'r' ? last->unit : last->unit + 1; /* the lowest unit with gradients */
    for (int unit = 1; unit <= (int)rig->shape.layers + 1; unit++)
        assert_int_equal(has_gradients(rig, unit),
                         (last->hook == 'r' || last->backward) && tape->count > 5 && unit >= done);
}

static void any_failing_hook_ends_the_pass_with_its_status(void **state)
{
    (void)state;
    for (int fail_at = 0; fail_at <= 13; fail_at++) {
        rig_t rig;
        tape_t tape;
        open_oracle(&rig, &small);
        tape_model(&rig, &tape, fail_at);
        assert_int_equal(try_passes(&rig), fail_at < 13 ? MPT_ERR_COMM : MPT_OK);
        assert_int_equal(tape.count, fail_at < 13 ? fail_at + 1 : 13);
        check_untouched(&rig, &tape);
        close_rig(&rig);
    }
}

static void a_failing_need_ends_logits_with_its_status(void **state)
{
    (void)state;
    rig_t rig;
    tape_t tape;
    open_oracle(&rig, &small);
    tape_model(&rig, &tape, 4);
    assert_int_equal(mpt_gpt2_forward(&rig.model, rig.tokens), MPT_OK);
    assert_int_equal(mpt_gpt2_logits(&rig.model, 0), MPT_ERR_COMM);
    close_rig(&rig);
}

/* ---- readiness --------------------------------------------------------------------------------------- */

/* What was announced as ready is not written to afterwards: it may be on the wire. */
typedef struct frozen {
    rig_t *rig;
    double *copies[64];
    int early; /* whether a block had gradients before a unit that comes before it was ready */
} frozen_t;

static mpt_status_t freeze(void *ctx, int unit)
{
    frozen_t *frozen = ctx;
    for (int lower = 1; lower < unit; lower++)
        frozen->early |= has_gradients(frozen->rig, lower);
    for (int t = 0; t < frozen->rig->tensors; t++) {
        if (frozen->rig->table[t].unit != unit)
            continue;
        size_t bytes = (size_t)room(frozen->rig, t) * sizeof(double);
        frozen->copies[t] = malloc(bytes);
        memcpy(frozen->copies[t], frozen->rig->model.grads[t], bytes);
    }
    return MPT_OK;
}

static void a_ready_units_gradients_are_final(void **state)
{
    (void)state;
    rig_t rig;
    open_oracle(&rig, &small);
    frozen_t frozen = {.rig = &rig};
    rig.model.hooks = (mpt_gpt2_hooks_t){.ready = freeze, .ctx = &frozen}; /* need may be NULL */
    backward(&rig, SEED);
    for (int t = 0; t < rig.tensors; t++) {
        assert_memory_equal(frozen.copies[t], rig.model.grads[t],
                            (size_t)room(&rig, t) * sizeof(double));
        free(frozen.copies[t]);
    }
    assert_int_equal(frozen.early, 0);
    close_rig(&rig);
}

/* ---- a window ---------------------------------------------------------------------------------------- */

/*
 * An owner who has one unit at hand: at each need the unit comes to memory of its own, fresh every time, and the one
 * before is given up: gradients go home, parameters are overwritten with NaNs and freed, and the model's pointers to
 * it are cleared. In forward there are no gradients at all.
 */
typedef struct window {
    rig_t *rig;
    void **params, **grads; /* home */
    int unit;               /* at hand, -1: none */
} window_t;

static size_t param_bytes(const rig_t *rig, int t)
{
    return (size_t)room(rig, t) * mpt_dtype_bytes(rig->compute);
}

static size_t grad_bytes(const rig_t *rig, int t)
{
    return (size_t)room(rig, t) * mpt_dtype_bytes(rig->wide);
}

static void *moved(const void *from, size_t bytes)
{
    void *to = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(to);
    memcpy(to, from, bytes);
    return to;
}

static void destroy(void **array, size_t bytes)
{
    memset(*array, 0xff, bytes);
    free(*array);
    *array = NULL;
}

static void give_up(window_t *window)
{
    rig_t *rig = window->rig;
    for (int t = 0; t < rig->tensors; t++) {
        if (rig->table[t].unit != window->unit)
            continue;
        destroy(&rig->model.params[t], param_bytes(rig, t));
        if (rig->model.grads[t] == NULL)
            continue;
        memcpy(window->grads[t], rig->model.grads[t], grad_bytes(rig, t));
        destroy(&rig->model.grads[t], grad_bytes(rig, t));
    }
    window->unit = -1;
}

static mpt_status_t move_in(void *ctx, int unit, int next, int backward)
{
    window_t *window = ctx;
    rig_t *rig = window->rig;
    (void)next;
    give_up(window);
    for (int t = 0; t < rig->tensors; t++) {
        if (rig->table[t].unit != unit)
            continue;
        rig->model.params[t] = moved(window->params[t], param_bytes(rig, t));
        if (backward)
            rig->model.grads[t] = moved(window->grads[t], grad_bytes(rig, t));
    }
    window->unit = unit;
    return MPT_OK;
}

static mpt_status_t still_at_hand(void *ctx, int unit)
{
    const window_t *window = ctx;
    assert_int_equal(unit, window->unit);
    return MPT_OK;
}

static void open_window(window_t *window, rig_t *rig)
{
    size_t tensors = (size_t)rig->tensors;
    *window = (window_t){.rig = rig, .unit = -1};
    window->params = calloc(tensors, sizeof *window->params);
    window->grads = calloc(tensors, sizeof *window->grads);
    memcpy(window->params, rig->model.params, tensors * sizeof *window->params);
    memcpy(window->grads, rig->model.grads, tensors * sizeof *window->grads);
    memset(rig->model.params, 0, tensors * sizeof *window->params);
    memset(rig->model.grads, 0, tensors * sizeof *window->grads);
    rig->model.hooks = (mpt_gpt2_hooks_t){move_in, still_at_hand, window};
}

static void close_window(window_t *window)
{
    rig_t *rig = window->rig;
    give_up(window);
    memcpy(rig->model.params, window->params, (size_t)rig->tensors * sizeof *window->params);
    memcpy(rig->model.grads, window->grads, (size_t)rig->tensors * sizeof *window->grads);
    free(window->params);
    free(window->grads);
}

static void check_window(const mpt_gpt2_shape_t *shape, const variant_t *variant,
                         mpt_gpt2_recompute_t recompute)
{
    rig_t still, moving;
    window_t window;
    open_variant(&still, shape, variant, 1, MPT_GPT2_KEEP);
    open_variant(&moving, shape, variant, 1, recompute);
    open_window(&window, &moving);
    for (int micro = 0; micro < 2; micro++) {
        double expected = backward(&still, SEED), loss = backward(&moving, SEED);
        assert_memory_equal(&loss, &expected, sizeof loss);
        expected = loss_of(&still);
        loss = loss_of(&moving);
        assert_memory_equal(&loss, &expected, sizeof loss);
    }
    assert_int_equal(mpt_gpt2_logits(&still.model, 3), MPT_OK);
    assert_int_equal(mpt_gpt2_logits(&moving.model, 3), MPT_OK);
    assert_memory_equal(moving.model.logits, still.model.logits,
                        (size_t)shape->vocab * mpt_dtype_bytes(still.wide));
    close_window(&window);
    expect_same_gradients(&moving, &still, name_of(variant));
    close_rig(&still);
    close_rig(&moving);
}

static void units_that_move_between_uses_change_no_bit(void **state)
{
    (void)state;
    mpt_gpt2_shape_t deep = small;
    deep.layers = 3;
    variant_t variants[MAX_VARIANTS];
    int count = list_variants(variants);
    for (int i = 0; i < count; i++) {
        for (int mode = MPT_GPT2_KEEP; mode <= MPT_GPT2_RECOMPUTE_BLOCK; mode++)
            check_window(&deep, &variants[i], (mpt_gpt2_recompute_t)mode);
        check_window(&chunked, &variants[i], MPT_GPT2_KEEP);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_are_needed_and_ready_in_the_documented_order),
        cmocka_unit_test(nothing_follows_a_loss_alone_or_logits),
        cmocka_unit_test(any_failing_hook_ends_the_pass_with_its_status),
        cmocka_unit_test(a_failing_need_ends_logits_with_its_status),
        cmocka_unit_test(a_ready_units_gradients_are_final),
        cmocka_unit_test(units_that_move_between_uses_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
