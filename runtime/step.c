/*
 * One training step, top to bottom: forward and backward of every micro-step, the gradients reduced unit by
 * unit as the last backward finishes them, one consensus record, the verdict, the optimizer, the scale.
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "schedule.h"
#include "session.h"

typedef struct step {
    mpt_session_t *session;
    int64_t number;    /* from 1 */
    int64_t micro;     /* micro-step under way */
    int64_t micro_steps;
    int64_t bad_micro; /* first whose activation gradients were not finite, or -1 */
    double loss_sum;   /* this rank's */
    double start_s, comm_start_s;
} step_t;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- data ---------------------------------------------------------------------------------------- */

void mpt_step_read_ahead(mpt_session_t *s)
{
    const mpt_config_t *config = &s->config;
    int64_t batch = config->train.micro_batch, tokens = batch * config->data.sequence;
    int64_t ranks = s->boot->ranks, micro_steps = mpt_memory_micro_steps(config, s->boot->ranks);
    s->data_status = MPT_OK;
    for (int64_t j = 0; j < micro_steps && s->data_status == MPT_OK; j++) {
        int64_t first = s->progress.position + (j * ranks + s->boot->rank) * batch;
        s->data_status = mpt_data_read(s->train, first, batch, s->memory.inputs[s->slot] + j * tokens,
                                       s->memory.targets[s->slot] + j * tokens);
    }
}

/* ---- forward and backward -------------------------------------------------------------------------- */

static void inject_overflow(step_t *step, int unit)
{
    mpt_session_t *s = step->session;
    const mpt_inject_t *inject = &s->inject;
    const mpt_layout_t *layout = &s->memory.layout;
    if (!inject->active || inject->rank != s->boot->rank || inject->step != step->number ||
        inject->micro != step->micro || layout->tensors[inject->tensor].unit != unit)
        return;
    s->memory.state.accumulator[mpt_layout_at(layout, inject->tensor) + inject->element] = INFINITY;
    step->bad_micro = step->bad_micro < 0 ? step->micro : step->bad_micro;
}

/* A unit's gradients of this micro-step are complete; after the last one they go to the wire. */
static mpt_status_t unit_ready(void *ctx, int unit)
{
    step_t *step = ctx;
    inject_overflow(step, unit);
    if (step->micro < step->micro_steps - 1)
        return MPT_OK;
    return mpt_reducer_unit(&step->session->reducer, unit);
}

/* Whether this micro-step stayed finite: what reaches the embedding has passed through every layer. */
static mpt_status_t check_micro_step(step_t *step)
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
    step->loss_sum += *model->loss_sum;
    if (step->bad_micro < 0 && (s->memory.micro_bad->count > 0 || !isfinite(*model->loss_sum)))
        step->bad_micro = step->micro;
    return MPT_OK;
}

static mpt_status_t micro_step(step_t *step, float seed)
{
    mpt_session_t *s = step->session;
    mpt_gpt2_t *model = &s->memory.model;
    int64_t tokens = model->shape.batch * model->shape.seq;
    const uint32_t *inputs = s->memory.inputs[s->slot] + step->micro * tokens;
    const uint32_t *targets = s->memory.targets[s->slot] + step->micro * tokens;
    mpt_status_t status = mpt_gpt2_forward(model, inputs);
    if (status == MPT_OK)
        status = mpt_gpt2_loss(model, targets, seed, 1);
    if (status == MPT_OK)
        status = mpt_gpt2_backward(model, inputs, unit_ready, step);
    if (status == MPT_OK)
        status = check_micro_step(step);
    return status;
}

static mpt_status_t compute(step_t *step)
{
    mpt_session_t *s = step->session;
    const mpt_gpt2_shape_t *shape = &s->memory.model.shape;
    float seed = (float)(s->progress.scale.scale / (double)(shape->batch * shape->seq));
    mpt_status_t status = s->device->ops->fill_zero(
        s->device, s->memory.state.accumulator,
        (size_t)s->memory.layout.total * sizeof *s->memory.state.accumulator, s->stream);
    for (step->micro = 0; step->micro < step->micro_steps && status == MPT_OK; step->micro++)
        status = micro_step(step, seed);
    return status;
}

/* ---- consensus ------------------------------------------------------------------------------------- */

static mpt_record_t own_record(const step_t *step)
{
    mpt_session_t *s = step->session;
    const mpt_gpt2_shape_t *shape = &s->memory.model.shape;
    int64_t micro = step->bad_micro >= 0 ? step->bad_micro : step->micro_steps - 1;
    mpt_record_t record = {.status = (uint8_t)s->data_status,
                           .tokens = (uint32_t)(step->micro_steps * shape->batch * shape->seq),
                           .loss_sum = step->loss_sum,
                           .scale = (float)s->progress.scale.scale,
                           .save = (uint32_t)mpt_checkpoint_progress(s->saver),
                           .step = (uint64_t)step->number};
    if (atomic_load(&s->stop_requested))
        record.flags |= MPT_RECORD_STOP;
    mpt_reducer_report(&s->reducer, (int)micro, &record);
    return record;
}

static mpt_status_t agree(step_t *step, mpt_verdict_t *verdict_p)
{
    mpt_session_t *s = step->session;
    mpt_record_t own = own_record(step), *all = s->memory.records;
    s->comm->what = "consensus record";
    mpt_status_t status = mpt_comm_all_gather(s->comm, &own, all, sizeof own, s->stream);
    s->comm->what = NULL;
    if (status == MPT_OK)
        status = s->device->ops->stream_synchronize(s->device, s->stream);
    if (status != MPT_OK)
        return status;
    mpt_record_fold(all, s->boot->ranks, s->memory.fold, verdict_p);
    if (verdict_p->disagree_rank < 0)
        return MPT_OK;
    mpt_log_error(&s->log, "rank %d is at another step or loss scale than rank 0: the run is inconsistent",
                  verdict_p->disagree_rank);
    return MPT_ERR_COMM;
}

/* ---- acting on the verdict --------------------------------------------------------------------------- */

static mpt_status_t act(step_t *step, const mpt_verdict_t *verdict, mpt_step_result_t *result)
{
    mpt_session_t *s = step->session;
    const mpt_config_t *config = &s->config;
    mpt_unscale_t unscale = {.divisor = s->reducer.divisor,
                             .scale = s->progress.scale.scale,
                             .micro_steps = step->micro_steps,
                             .ranks = s->boot->ranks};
    mpt_optimizer_params_t params = {.beta1 = config->train.beta1,
                                     .beta2 = config->train.beta2,
                                     .eps = config->train.eps,
                                     .decay = config->train.weight_decay};
    int64_t t = s->progress.applied + 1;
    double clip;
    result->lr = mpt_schedule_lr(config, t);
    result->loss = verdict->loss_sum / (double)verdict->tokens;
    result->loss_scale = s->progress.scale.scale;
    result->grad_norm = mpt_optimizer_norm(verdict->sumsq, &unscale);
    result->skipped = verdict->overflow;
    if (verdict->overflow)
        return MPT_OK;
    clip = mpt_optimizer_clip(result->grad_norm, config->train.clip);
    result->clipped = clip < 1.0;
    s->progress.applied = t;
    return mpt_optimizer_apply(&s->memory.state, &s->kernels, &params, &unscale, clip, result->lr, t,
                               s->stream);
}

/* A record cannot hold every way to be non-finite: a loss alone counts as well. */
static void judge(mpt_verdict_t *verdict)
{
    if (!isfinite(verdict->loss_sum) || !isfinite(verdict->sumsq))
        verdict->overflow = 1;
}

static void measure(step_t *step, mpt_step_result_t *result)
{
    mpt_session_t *s = step->session;
    double seconds = now_s() - step->start_s;
    double tokens = (double)s->config.train.global_batch * (double)s->config.data.sequence;
    result->step_ms = 1e3 * seconds;
    result->comm_ms = 1e3 * (s->comm->stats.seconds - step->comm_start_s);
    result->exposed_comm_ms = result->comm_ms; /* nothing overlaps: calls complete inline */
    result->compute_ms = result->step_ms - result->exposed_comm_ms;
    result->tokens_per_s = tokens / seconds;
    result->flops_6nd_per_s = s->flops_6nd * result->tokens_per_s;
    result->flops_model_per_s = s->flops_palm * result->tokens_per_s;
    result->flops_causal_per_s = s->flops_causal * result->tokens_per_s;
    result->mfu = s->peak_flops > 0.0 ? result->flops_model_per_s / s->peak_flops : 0.0;
    result->mem_bytes = (int64_t)(s->private_arena.mem.bytes + s->peer_arena.mem.bytes);
    s->pace_ms = s->pace_ms > 0.0 ? 0.9 * s->pace_ms + 0.1 * result->step_ms : result->step_ms;
    result->seconds_left = 1e-3 * s->pace_ms * (double)(s->config.train.steps - step->number);
}

static void advance(step_t *step, const mpt_verdict_t *verdict)
{
    mpt_session_t *s = step->session;
    s->progress.step = step->number;
    s->progress.tokens += (int64_t)verdict->tokens;
    s->slot ^= 1;
}

mpt_status_t mpt_step_run(mpt_session_t *s, mpt_step_report_t *report_p)
{
    mpt_step_report_t report = {.result.step = s->progress.step + 1};
    step_t step = {.session = s,
                   .number = s->progress.step + 1,
                   .micro_steps = mpt_memory_micro_steps(&s->config, s->boot->ranks),
                   .bad_micro = -1,
                   .start_s = now_s(),
                   .comm_start_s = s->comm->stats.seconds};
    mpt_status_t status = compute(&step);
    if (status == MPT_OK) {
        s->progress.position += s->config.train.global_batch;
        s->slot ^= 1;
        if (step.number < s->config.train.steps)
            mpt_step_read_ahead(s);
        s->slot ^= 1;
        status = agree(&step, &report.verdict);
    }
    if (status == MPT_OK) {
        judge(&report.verdict);
        status = act(&step, &report.verdict, &report.result);
    }
    if (status != MPT_OK) {
        s->failed = 1;
        mpt_comm_abort(s->comm, mpt_status_string(status));
        return status;
    }
    report.scale_change =
        mpt_loss_scale_update(&s->progress.scale, &s->scale_rule, report.verdict.overflow);
    report.scale_after = s->progress.scale.scale;
    advance(&step, &report.verdict);
    report.result.tokens = s->progress.tokens;
    report.result.applied_steps = s->progress.applied;
    measure(&step, &report.result);
    *report_p = report;
    return report.verdict.status;
}

mpt_status_t mpt_session_step(mpt_session_t *session, mpt_step_result_t *result_p)
{
    mpt_step_report_t report;
    if (session->failed)
        return MPT_ERR_COMM;
    mpt_status_t status = mpt_step_run(session, &report);
    if (status == MPT_OK)
        *result_p = report.result;
    return status;
}
