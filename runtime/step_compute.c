/*
 * The computing part of a step: this rank's lanes one after the other, each its micro-steps in order, every unit's gradients
 * on their way as soon as the backward that completes them has passed.
 */
#include <math.h>
#include <string.h>

#include "step.h"

/* ---- data ---------------------------------------------------------------------------------------- */

/* Micro-batch `micro` of this rank: lanes (or ranks) take turns, so that the samples of a step are the same ones, in
 * the same places of the sums, however many ranks there are. */
static int64_t first_sample(const mpt_session_t *s, int64_t micro)
{
    int64_t lanes = mpt_memory_lanes(&s->config, s->boot->ranks);
    int64_t lane_steps = mpt_memory_micro_steps(&s->config, s->boot->ranks) / lanes;
    int64_t lane = s->boot->rank * lanes + micro / lane_steps;
    int64_t turn = micro % lane_steps * lanes * s->boot->ranks + lane;
    return s->progress.position + turn * s->config.train.micro_batch;
}

void mpt_step_read_ahead(mpt_session_t *s)
{
    int64_t batch = s->config.train.micro_batch, tokens = batch * s->config.data.sequence;
    int64_t micro_steps = mpt_memory_micro_steps(&s->config, s->boot->ranks);
    s->data_status = MPT_OK;
    for (int64_t j = 0; j < micro_steps && s->data_status == MPT_OK; j++)
        s->data_status = mpt_data_read(s->train, first_sample(s, j), batch, s->memory.inputs[s->slot] + j * tokens,
                                       s->memory.targets[s->slot] + j * tokens);
}

/* ---- around each unit's use -------------------------------------------------------------------------- */

static mpt_status_t forward_need(void *ctx, int unit, int next, int backward)
{
    mpt_session_t *s = ctx;
    (void)backward;
    return mpt_gather_need(&s->gather, unit, next);
}

mpt_gpt2_hooks_t mpt_step_forward_hooks(mpt_session_t *session)
{
    return (mpt_gpt2_hooks_t){.need = forward_need, .ctx = session};
}

/* A place of the window holds what another unit left, maybe still to be reduced; unit 0 is needed by the head and again at the end. */
static mpt_status_t clear_window(mpt_step_t *step, int unit)
{
    mpt_session_t *s = step->session;
    const mpt_layout_t *layout = &s->memory.layout;
    const mpt_held_t *accumulator = mpt_reducer_accumulator(&s->reducer, step->lane);
    if (accumulator->hold != MPT_HOLD_WINDOW || (unit == 0 && step->zeroed))
        return MPT_OK;
    step->zeroed |= unit == 0;
    mpt_status_t status = mpt_reducer_claim(&s->reducer, unit);
    if (status != MPT_OK)
        return status;
    return s->device->ops->fill_zero(s->device, mpt_held_unit(layout, accumulator, unit),
                                     (size_t)layout->units[unit].padded * sizeof(float), s->stream);
}

static mpt_status_t need(void *ctx, int unit, int next, int backward)
{
    mpt_step_t *step = ctx;
    mpt_status_t status = mpt_gather_need(&step->session->gather, unit, next);
    return status == MPT_OK && backward ? clear_window(step, unit) : status;
}

static void inject_overflow(mpt_step_t *step, int unit)
{
    mpt_session_t *s = step->session;
    const mpt_inject_t *inject = &s->inject;
    const mpt_layout_t *layout = &s->memory.layout;
    if (inject->kind != MPT_INJECT_OVERFLOW || inject->rank != s->boot->rank ||
        inject->step != step->number || inject->micro != step->micro ||
        layout->tensors[inject->tensor].unit != unit)
        return;
    float *gradients = mpt_held_unit(layout, mpt_reducer_accumulator(&s->reducer, step->lane), unit);
    gradients[layout->offset[inject->tensor] + inject->element] = INFINITY;
    step->bad_micro = step->bad_micro < 0 ? step->micro : step->bad_micro;
}

/* A unit's gradients of this micro-step are complete; with those of the last one, or under reduce_every = micro of
 * each one, they go to the wire. */
static mpt_status_t ready(void *ctx, int unit)
{
    mpt_step_t *step = ctx;
    mpt_session_t *s = step->session;
    int last = step->micro == step->micro_steps - 1;
    mpt_status_t status = MPT_OK;
    inject_overflow(step, unit);
    if ((step->micro + 1) % step->lane_steps == 0)
        status = mpt_reducer_merge(&s->reducer, unit, step->lane);
    if (status == MPT_OK && (last || s->memory.state.params.reduce_micro))
        status = mpt_reducer_unit(&s->reducer, unit, (int)step->micro);
    return status;
}

/* ---- forward and backward -------------------------------------------------------------------------- */

/* Whether this micro-step stayed finite: what reaches the embedding has passed through every layer. */
static mpt_status_t check_micro_step(mpt_step_t *step, double *loss_sum_p)
{
    mpt_session_t *s = step->session;
    mpt_gpt2_t *model = &s->memory.model;
    mpt_status_t status =
        mpt_grad_scan(&s->kernels,
                      &(mpt_grad_scan_t){.dtype = model->compute,
                                         .count = model->shape.batch * model->shape.seq * model->shape.dim,
                                         .grad = model->dres,
                                         .sumsq = s->memory.micro_sumsq,
                                         .bad = s->memory.micro_bad},
                      s->stream);
    if (status == MPT_OK)
        status = s->device->ops->stream_synchronize(s->device, s->stream);
    if (status != MPT_OK)
        return status;
    *loss_sum_p += *model->loss_sum;
    if (step->bad_micro < 0 && (s->memory.micro_bad->count > 0 || !isfinite(*model->loss_sum)))
        step->bad_micro = step->micro;
    return MPT_OK;
}

static mpt_status_t micro_step(mpt_step_t *step, float seed, double *loss_sum_p)
{
    mpt_session_t *s = step->session;
    mpt_gpt2_t *model = &s->memory.model;
    int64_t tokens = model->shape.batch * model->shape.seq;
    const uint32_t *inputs = s->memory.inputs[s->slot] + step->micro * tokens;
    const uint32_t *targets = s->memory.targets[s->slot] + step->micro * tokens;
    step->zeroed = 0;
    mpt_status_t status = mpt_gpt2_forward(model, inputs);
    if (status == MPT_OK)
        status = mpt_gpt2_loss(model, targets, seed, 1);
    if (status == MPT_OK)
        status = mpt_gpt2_backward(model, inputs);
    if (status == MPT_OK)
        status = check_micro_step(step, loss_sum_p);
    return status;
}

/* Loss sums of lanes add up in the same tree as their gradients. */
static void merge_loss(mpt_step_t *step, double loss_sum)
{
    int top = __builtin_popcount((unsigned)step->lane), carries = __builtin_ctz((unsigned)step->lane + 1);
    step->losses[top] = loss_sum;
    for (int i = 0; i < carries; i++, top--)
        step->losses[top - 1] += step->losses[top];
}

static mpt_status_t one_lane(mpt_step_t *step, float seed)
{
    mpt_session_t *s = step->session;
    mpt_held_t *accumulator = mpt_reducer_accumulator(&s->reducer, step->lane);
    size_t bytes = (size_t)s->memory.layout.total * sizeof(float);
    double loss_sum = 0.0;
    mpt_status_t status = MPT_OK;
    mpt_memory_point(&s->memory, accumulator);
    if (accumulator->hold == MPT_HOLD_ALL)
        status = s->device->ops->fill_zero(s->device, accumulator->data, bytes, s->stream);
    for (int64_t j = 0; j < step->lane_steps && status == MPT_OK; j++) {
        step->micro = step->lane * step->lane_steps + j;
        status = micro_step(step, seed, &loss_sum);
    }
    merge_loss(step, loss_sum);
    return status;
}

mpt_status_t mpt_step_compute(mpt_step_t *step)
{
    mpt_session_t *s = step->session;
    mpt_gpt2_t *model = &s->memory.model;
    int lanes = (int)(step->micro_steps / step->lane_steps);
    float seed = (float)(s->progress.scale.scale / (double)(model->shape.batch * model->shape.seq));
    mpt_status_t status = mpt_reducer_begin(&s->reducer);
    model->hooks = (mpt_gpt2_hooks_t){.need = need, .ready = ready, .ctx = step};
    for (step->lane = 0; step->lane < lanes && status == MPT_OK; step->lane++)
        status = one_lane(step, seed);
    model->hooks = mpt_step_forward_hooks(s);
    return status;
}
