/*
 * One training step, top to bottom: forward and backward of every micro-step, the gradients reduced unit by
 * unit as the last backward finishes them, one consensus record, the verdict, the optimizer, the scale.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "schedule.h"
#include "step.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- faults asked for ------------------------------------------------------------------------------ */

static void flip_bit(mpt_session_t *s)
{
    mpt_state_t *state = &s->memory.state;
    const mpt_inject_t *inject = &s->inject;
    const struct {
        const char *name;
        const mpt_held_t *held;
    } arrays[] = {{"working", &state->working}, {"master", &state->master}, {"m", &state->m},
                  {"v", &state->v},             {"ema", &state->ema}};
    const mpt_layout_t *layout = &s->memory.layout;
    mpt_extent_t extent;
    int flipped = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        const mpt_held_t *held = arrays[i].held;
        int whole = held->hold == MPT_HOLD_ALL;
        if (strcmp(inject->array, arrays[i].name) != 0 || held->data == NULL ||
            !mpt_layout_extent(layout, whole ? 1 : layout->group,
                               whole ? 0 : mpt_layout_slice_of(layout, s->boot->rank), inject->tensor, &extent) ||
            inject->element < extent.first || inject->element >= extent.first + extent.count)
            continue;
        uint8_t *at = mpt_held_at(state, held, extent.at + inject->element - extent.first);
        at[inject->bit / 8 % (int64_t)mpt_dtype_bytes(held->dtype)] ^= (uint8_t)(1u << inject->bit % 8);
        flipped = 1;
    }
    mpt_gpt2_weights_changed(&s->memory.model);
    if (!flipped)
        mpt_log_warn(&s->log, "MPT_INJECT: nothing flipped: this rank does not hold element %" PRId64 " of %s's %s",
                     inject->element, layout->tensors[inject->tensor].name, inject->array);
}

static void inject_before(mpt_step_t *step)
{
    mpt_session_t *s = step->session;
    const mpt_inject_t *inject = &s->inject;
    if (inject->kind == MPT_INJECT_NONE || inject->rank != s->boot->rank || inject->step != step->number)
        return;
    if (inject->kind == MPT_INJECT_FLIP && mpt_worker_drain(s->overlap.worker) == MPT_OK) /* here alone, not sent on */
        flip_bit(s);
    if (inject->kind == MPT_INJECT_SLOW)
        nanosleep(&(struct timespec){.tv_sec = inject->ms / 1000, .tv_nsec = inject->ms % 1000 * 1000000}, NULL);
}

/* ---- consensus ------------------------------------------------------------------------------------- */

static mpt_record_t own_record(const mpt_step_t *step)
{
    mpt_session_t *s = step->session;
    const mpt_gpt2_shape_t *shape = &s->memory.model.shape;
    int64_t micro = step->bad_micro >= 0 ? step->bad_micro : step->micro_steps - 1;
    mpt_record_t record = {.status = (uint8_t)s->data_status,
                           .tokens = (uint32_t)(step->micro_steps * shape->batch * shape->seq),
                           .loss_sum = step->losses[0],
                           .scale = (float)s->progress.scale.scale,
                           .save = (uint32_t)mpt_checkpoint_progress(s->saver),
                           .step = (uint64_t)step->number};
    if (atomic_load(&s->stop_requested))
        record.flags |= MPT_RECORD_STOP;
    mpt_reducer_report(&s->reducer, (int)micro, &record);
    return record;
}

/* Say where replicas differ, and go no further: what they hold can be trusted no more. All ranks know. */
static mpt_status_t report_replicas(mpt_session_t *s, int64_t number, const mpt_replica_finding_t *f)
{
    char fields[512];
    const char *tensor = f->tensor >= 0 ? s->memory.layout.tensors[f->tensor].name : "";
    int copies = s->boot->ranks / mpt_replica_sets(&s->memory.layout, s->memory.state.params.shard);
    if (s->boot->rank == 0)
        mpt_log_error(&s->log,
                      "step %" PRId64 ": ranks that must hold the same do not: rank %s differs%s, first in the %s of unit "
                      "%d, %s: faulty memory or processor? Look at the machine and go on from the last checkpoint with "
                      "--resume auto",
                      number, f->list, copies > 2 ? "" : " from its only replica, of which either may be wrong", f->what,
                      f->unit, tensor);
    snprintf(fields, sizeof fields, "\"cause\":\"replicas\",\"ranks\":\"%s\",\"unit\":%d,\"tensor\":\"%s\",\"array\":\"%s\"",
             f->list, f->unit, tensor, f->what);
    mpt_metrics_event(s->metrics, number, "stop", fields);
    s->failed = 1;
    return MPT_ERR_DEVICE;
}

static mpt_status_t find_difference(mpt_session_t *s, mpt_replica_finding_t *finding_p)
{
    mpt_status_t status = mpt_worker_drain(s->overlap.worker);
    if (status != MPT_OK)
        return status;
    s->comm->what = "comparing replicas";
    status = mpt_replica_find(&s->memory.state, &s->kernels, s->comm, s->stream, finding_p);
    s->comm->what = NULL;
    return status;
}

mpt_status_t mpt_step_check_replicas(mpt_session_t *s)
{
    mpt_replica_finding_t finding;
    if (s->config.train.check_every == 0)
        return MPT_OK;
    mpt_status_t status = find_difference(s, &finding);
    if (status != MPT_OK) {
        s->failed = 1;
        mpt_session_abort(s, mpt_status_string(status));
        return status;
    }
    return finding.rank < 0 ? MPT_OK : report_replicas(s, s->progress.step, &finding);
}

static mpt_status_t check_verdict(mpt_step_t *step, const mpt_verdict_t *verdict)
{
    mpt_session_t *s = step->session;
    mpt_replica_finding_t finding;
    if (verdict->disagree_rank >= 0) {
        if (s->boot->rank == 0)
            mpt_log_error(&s->log, "rank %d is at another step or loss scale than rank 0: the run is inconsistent",
                          verdict->disagree_rank);
        return MPT_ERR_COMM;
    }
    if (verdict->replica_rank < 0)
        return MPT_OK;
    mpt_status_t status = find_difference(s, &finding);
    return status == MPT_OK ? report_replicas(s, step->number, &finding) : status;
}

/* By the config, and in the step after a save began: what was saved is compared before it counts as a checkpoint. */
static int check_due(const mpt_step_t *step)
{
    const mpt_session_t *s = step->session;
    int64_t every = s->config.train.check_every;
    return every > 0 && (step->number % every == 0 || mpt_checkpoint_step(s->saver) == s->progress.step);
}

typedef struct exchange {
    mpt_session_t *session;
    mpt_record_t own;
    mpt_verdict_t *verdict;
} exchange_t;

static mpt_status_t exchange_records(void *ctx, int a, int b)
{
    exchange_t *exchange = ctx;
    mpt_session_t *s = exchange->session;
    (void)a;
    (void)b;
    return mpt_consensus_agree(s->consensus, &exchange->own, s->overlap.stream, exchange->verdict);
}

static mpt_status_t agree(mpt_step_t *step, mpt_verdict_t *verdict_p)
{
    mpt_session_t *s = step->session;
    mpt_status_t status = mpt_reducer_finish(&s->reducer);
    if (status != MPT_OK)
        return status;
    exchange_t exchange = {.session = s, .own = own_record(step), .verdict = verdict_p};
    if (check_due(step))
        status = mpt_replica_hash(&s->memory.state, &s->kernels, s->stream, &exchange.own.hash);
    if (status == MPT_OK)
        status = mpt_worker_call(s->overlap.worker, exchange_records, &exchange, 0, 0);
    return status == MPT_OK ? check_verdict(step, verdict_p) : status;
}

/* ---- acting on the verdict --------------------------------------------------------------------------- */

/* Each unit is on its way to the others while the next is updated. */
static mpt_status_t update_weights(mpt_session_t *s, const mpt_update_t *update)
{
    mpt_status_t status = MPT_OK;
    mpt_gpt2_weights_changed(&s->memory.model);
    for (int u = 0; u < s->memory.layout.unit_count && status == MPT_OK; u++) {
        status = mpt_optimizer_unit(&s->memory.state, &s->kernels, update, u, s->stream);
        if (status == MPT_OK)
            status = mpt_gather_updated(&s->gather, u);
    }
    return status;
}

static mpt_status_t act(mpt_step_t *step, const mpt_verdict_t *verdict, mpt_step_result_t *result)
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
                                     .decay = config->train.weight_decay,
                                     .ema = config->train.ema,
                                     .stochastic = config->precision.rounding == MPT_ROUNDING_STOCHASTIC,
                                     .seed = config->train.seed};
    int64_t t = s->progress.applied + 1;
    mpt_update_t update = {.params = &params, .unscale = &unscale, .t = t, .step = step->number};
    result->lr = mpt_schedule_lr(config, t);
    result->loss = verdict->loss_sum / (double)verdict->tokens;
    result->loss_scale = s->progress.scale.scale;
    result->grad_norm = mpt_optimizer_norm(verdict->sumsq, &unscale);
    result->skipped = verdict->overflow;
    if (verdict->overflow)
        return MPT_OK;
    update.lr = result->lr;
    update.clip_factor = mpt_optimizer_clip(result->grad_norm, config->train.clip);
    result->clipped = update.clip_factor < 1.0;
    s->progress.applied = t;
    s->progress.rounded = step->number;
    return update_weights(s, &update);
}

/* A record cannot hold every way to be non-finite: a loss alone counts as well. */
static void judge(mpt_verdict_t *verdict)
{
    if (!isfinite(verdict->loss_sum) || !isfinite(verdict->sumsq))
        verdict->overflow = 1;
}

static void measure(mpt_step_t *step, mpt_step_result_t *result)
{
    mpt_session_t *s = step->session;
    double seconds = now_s() - step->start_s;
    double tokens = (double)s->config.train.global_batch * (double)s->config.data.sequence;
    result->step_ms = 1e3 * seconds;
    mpt_worker_times_t comm = mpt_worker_times(s->overlap.worker);
    result->comm_ms = 1e3 * (comm.busy - s->comm_counted_s);
    result->exposed_comm_ms = fmin(1e3 * (comm.waited - step->waited_s), result->comm_ms); /* of which it is a part, but for rounding */
    s->comm_counted_s = comm.busy;
    result->compute_ms = result->step_ms - result->exposed_comm_ms;
    result->tokens_per_s = tokens / seconds;
    result->flops_6nd_per_s = s->flops_6nd * result->tokens_per_s;
    result->flops_model_per_s = s->flops_palm * result->tokens_per_s;
    result->flops_causal_per_s = s->flops_causal * result->tokens_per_s;
    result->mfu = s->peak_flops > 0.0 ? result->flops_model_per_s / s->peak_flops : 0.0;
    result->mem_bytes = mpt_session_held_bytes(s);
    s->pace_ms = s->pace_ms > 0.0 ? 0.9 * s->pace_ms + 0.1 * result->step_ms : result->step_ms;
    result->seconds_left = 1e-3 * s->pace_ms * (double)(s->config.train.steps - step->number);
}

static void advance(mpt_step_t *step, const mpt_verdict_t *verdict)
{
    mpt_session_t *s = step->session;
    s->progress.step = step->number;
    s->progress.tokens += (int64_t)verdict->tokens;
    s->slot ^= 1;
}

/* No step follows in whose time the last gathers could be counted. */
static int is_last(const mpt_step_t *step, const mpt_verdict_t *verdict)
{
    return verdict->stop || step->number == step->session->config.train.steps;
}

mpt_status_t mpt_step_run(mpt_session_t *s, mpt_step_report_t *report_p)
{
    mpt_step_report_t report = {.result.step = s->progress.step + 1, .verdict.replica_rank = -1};
    mpt_step_t step = {.session = s,
                       .number = s->progress.step + 1,
                       .micro_steps = mpt_memory_micro_steps(&s->config, s->boot->ranks),
                       .bad_micro = -1,
                       .start_s = now_s(),
                       .waited_s = mpt_worker_times(s->overlap.worker).waited};
    step.lane_steps = step.micro_steps / mpt_memory_lanes(&s->config, s->boot->ranks);
    inject_before(&step);
    mpt_status_t status = mpt_step_compute(&step);
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
    if (status == MPT_OK && is_last(&step, &report.verdict))
        status = mpt_worker_drain(s->overlap.worker);
    if (status != MPT_OK) {
        if (!s->failed) /* else all ranks know */
            mpt_session_abort(s, mpt_status_string(status));
        s->failed = 1;
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
