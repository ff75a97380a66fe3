/*
 * The training loop around the step: metrics, events, validation, checkpoints, stopping.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "numeric.h"
#include "session.h"
#include "step.h"

typedef struct train {
    mpt_session_t *session;
    const mpt_train_hooks_t *hooks;
} train_t;

static void notice(train_t *train, int64_t step, const char *kind, const char *text, double val_loss)
{
    if (train->hooks != NULL && train->hooks->on_notice != NULL)
        train->hooks->on_notice(train->hooks->ctx, &(mpt_notice_t){.step = step,
                                                                   .kind = kind,
                                                                   .text = text,
                                                                   .val_loss = val_loss});
}

/* ---- events ---------------------------------------------------------------------------------------- */

/* The tensor of the verdict's offender, "" where only the loss is not finite; *element_p: within it. */
static const char *offender(const mpt_session_t *s, const mpt_verdict_t *v, int64_t *element_p)
{
    int tensor;
    *element_p = 0;
    if (v->bad_rank < 0 ||
        !mpt_layout_locate_global(&s->memory.layout, (int64_t)v->bad_element, &tensor, element_p))
        return "";
    return s->memory.layout.tensors[tensor].name;
}

static const char *skip_cause(const mpt_verdict_t *v)
{
    return v->bad_rank < 0 ? "loss" : v->wire ? "gradient" : "sum over ranks";
}

/* Why and where a step was skipped, for a person. */
static void describe_skip(const mpt_session_t *s, const mpt_step_report_t *report, char *text, size_t bytes)
{
    const mpt_verdict_t *v = &report->verdict;
    char value[40];
    int64_t element;
    const char *name = offender(s, v, &element);
    mpt_metrics_number((double)mpt_f32_from_bits(v->bad_bits), value, sizeof value);
    if (v->bad_rank < 0)
        snprintf(text, bytes, "step %" PRId64 " skipped: the loss is not finite", report->result.step);
    else
        snprintf(text, bytes,
                 "step %" PRId64 " skipped: non-finite %s, rank %d, %s[%" PRId64 "] = %s, micro-step %d, "
                 "%" PRIu64 " such values, loss scale %g",
                 report->result.step, skip_cause(v), v->bad_rank, name, element, value, v->bad_micro_step,
                 v->bad_count, report->result.loss_scale);
}

static void report_skip(train_t *train, const mpt_step_report_t *report)
{
    mpt_session_t *s = train->session;
    const mpt_verdict_t *v = &report->verdict;
    char fields[512], text[512], value[40];
    int64_t element;
    const char *name = offender(s, v, &element);
    mpt_metrics_number((double)mpt_f32_from_bits(v->bad_bits), value, sizeof value);
    snprintf(fields, sizeof fields,
             "\"cause\":\"%s\",\"rank\":%d,\"tensor\":\"%s\",\"element\":%" PRId64
             ",\"micro_step\":%d,\"value\":%s,\"count\":%" PRIu64 ",\"loss_scale\":%.17g",
             skip_cause(v), v->bad_rank, name, element, v->bad_micro_step, value, v->bad_count,
             report->result.loss_scale);
    mpt_metrics_event(s->metrics, report->result.step, "skip", fields);
    describe_skip(s, report, text, sizeof text);
    notice(train, report->result.step, "skip", text, 0.0);
}

static void report_scale(train_t *train, const mpt_step_report_t *report)
{
    char fields[128], text[160];
    double before = report->result.loss_scale, after = report->scale_after;
    if (before == after)
        return;
    snprintf(fields, sizeof fields, "\"from\":%.17g,\"to\":%.17g", before, after);
    snprintf(text, sizeof text, "loss scale %g -> %g", before, after);
    mpt_metrics_event(train->session->metrics, report->result.step, "scale", fields);
    notice(train, report->result.step, "scale", text, 0.0);
}

/* A save has ended; `step` is the state's. */
static void report_save(train_t *train, int outcome, int64_t step)
{
    mpt_session_t *s = train->session;
    char fields[1200], text[1200], path[1100];
    const char *kind = outcome > 0 ? "checkpoint" : "checkpoint_failed";
    if (outcome == 0)
        return;
    mpt_checkpoint_path(s->config.checkpoint.dir, step, path, sizeof path);
    snprintf(fields, sizeof fields, "\"saved_step\":%" PRId64, step);
    snprintf(text, sizeof text, outcome > 0 ? "saved %s" : "could not save %s; older checkpoints are whole",
             path);
    mpt_metrics_event(s->metrics, s->progress.step, kind, fields);
    notice(train, s->progress.step, kind, text, 0.0);
}

/* ---- what follows a step ------------------------------------------------------------------------------ */

static mpt_status_t settle(train_t *train)
{
    int outcome;
    int64_t step;
    mpt_status_t status = mpt_save_settle(train->session, &outcome, &step);
    if (status == MPT_OK)
        report_save(train, outcome, step);
    return status;
}

/* A rank cannot go on, and all know: what is being saved is still worth having. */
static mpt_status_t settle_before(train_t *train, mpt_status_t ending)
{
    mpt_status_t status = settle(train);
    return status == MPT_OK ? ending : status;
}

/* The save that ends a run: where it fails, the run must not look as if it were saved. */
static mpt_status_t settle_last(train_t *train)
{
    mpt_session_t *s = train->session;
    int outcome;
    int64_t step;
    mpt_status_t status = mpt_save_settle(s, &outcome, &step);
    if (status != MPT_OK)
        return status;
    report_save(train, outcome, step);
    if (outcome > 0)
        return MPT_OK;
    if (s->boot->rank == 0)
        mpt_log_error(&s->log, "step %" PRId64 " is not saved: the run ends at an older checkpoint", step);
    return MPT_ERR_IO;
}

/* Save if due; wait for it where the run ends here, and where it is not written in the background: ranks whose disks are quicker
 * wait in the vote, which has the patience for it, and not in the next step. */
static mpt_status_t save_if_due(train_t *train, int last)
{
    mpt_session_t *s = train->session;
    int64_t every = s->config.checkpoint.every, step = s->progress.step;
    int outcome, waits = last || s->memory.snapshot == NULL;
    int64_t saved;
    if (!last && (every == 0 || step % every != 0))
        return MPT_OK;
    mpt_status_t status = mpt_save_settle(s, &outcome, &saved);
    if (status != MPT_OK)
        return status;
    report_save(train, outcome, saved);
    if (waits) /* no step compares what is saved before it counts */
        status = mpt_step_check_replicas(s);
    if (status == MPT_OK)
        status = mpt_save_begin(s);
    if (status != MPT_OK || !waits)
        return status;
    return last ? settle_last(train) : settle(train);
}

/* Bad data, which all know of, ends the run where it would have gone on: the state is whole, and saved as in a run that does. */
static mpt_status_t bad_data(train_t *train, int last)
{
    mpt_status_t status = save_if_due(train, last);
    return train->session->failed ? status : settle_before(train, MPT_ERR_DATA);
}

static mpt_status_t validate_if_due(train_t *train, int last)
{
    mpt_session_t *s = train->session;
    int64_t every = s->config.train.val_every, step = s->progress.step;
    char text[80];
    double loss, ema_loss = NAN;
    int with_ema = s->memory.state.ema.data != NULL;
    if (s->val == NULL || (!last && step % every != 0))
        return MPT_OK;
    mpt_status_t status = mpt_session_validate(s, &loss);
    if (status == MPT_OK && with_ema)
        status = mpt_validate_ema(s, &ema_loss);
    if (status != MPT_OK)
        return status;
    mpt_metrics_validation(s->metrics, step, loss, with_ema ? &ema_loss : NULL);
    snprintf(text, sizeof text, with_ema ? "validation loss %.4f, of the average %.4f" : "validation loss %.4f", loss,
             ema_loss);
    notice(train, step, "validation", text, loss);
    return MPT_OK;
}

static void report_step(train_t *train, const mpt_step_report_t *report)
{
    mpt_session_t *s = train->session;
    mpt_metrics_step(s->metrics, &report->result);
    if (train->hooks != NULL && train->hooks->on_step != NULL)
        train->hooks->on_step(train->hooks->ctx, &report->result);
    if (report->verdict.overflow)
        report_skip(train, report);
    report_scale(train, report);
}

static mpt_status_t diverged(train_t *train, const mpt_step_report_t *report)
{
    mpt_session_t *s = train->session;
    char text[512];
    mpt_metrics_event(s->metrics, report->result.step, "stop", "\"cause\":\"diverged\"");
    describe_skip(s, report, text, sizeof text);
    if (s->boot->rank == 0)
        mpt_log_error(&s->log,
                      "diverged: %" PRId64 " steps in a row were skipped and the loss scale cannot fall "
                      "below %g; %s. Lower train.lr, or look at the data",
                      s->progress.scale.consecutive_skips, report->scale_after, text);
    mpt_status_t status = settle(train);
    return status == MPT_OK ? MPT_ERR_DIVERGED : status;
}

static mpt_status_t stopped(train_t *train)
{
    mpt_session_t *s = train->session;
    mpt_metrics_event(s->metrics, s->progress.step, "stop", "\"cause\":\"request\"");
    notice(train, s->progress.step, "stop", "stopped on request; run again with --resume auto to go on",
           0.0);
    return MPT_STOPPED;
}

/* One step and all that hangs on it. *stop_p: every rank is to stop here. */
static mpt_status_t one_step(train_t *train, int *stop_p)
{
    mpt_session_t *s = train->session;
    mpt_step_report_t report;
    int64_t saved = -1;
    mpt_status_t status = mpt_step_run(s, &report);
    if (status != MPT_OK && s->failed)
        return status;
    report_step(train, &report);
    int ended = mpt_save_poll(s, &report.verdict, &saved);
    report_save(train, ended, saved);
    int diverges = report.scale_change == MPT_SCALE_STUCK;
    if (status == MPT_ERR_DATA && !diverges) /* the next step's */
        return bad_data(train, report.verdict.stop);
    if (status != MPT_OK)
        return settle_before(train, status);
    if (diverges)
        return diverged(train, &report);
    int last = s->progress.step == s->config.train.steps;
    int save_last = last && s->config.checkpoint.every > 0;
    *stop_p = report.verdict.stop && !last;
    if (!*stop_p)
        status = validate_if_due(train, last);
    if (status == MPT_ERR_DATA)
        return bad_data(train, save_last);
    if (status == MPT_OK)
        status = save_if_due(train, *stop_p || save_last);
    if (status == MPT_OK && *stop_p) /* after the save: whoever asked to stop may not wait for long */
        status = validate_if_due(train, 0);
    return status == MPT_OK || s->failed ? status : settle_before(train, status);
}

mpt_status_t mpt_session_train(mpt_session_t *s, const mpt_train_hooks_t *hooks)
{
    train_t train = {.session = s, .hooks = hooks};
    int stop = 0;
    if (s->failed)
        return MPT_ERR_COMM;
    if (s->first_step > 1) {
        char text[128];
        int finished = s->progress.step >= s->config.train.steps;
        snprintf(text, sizeof text, finished ? "finished already at step %" PRId64 "; nothing to do"
                                             : "resumed after step %" PRId64,
                 s->progress.step);
        notice(&train, s->progress.step, "resume", text, 0.0);
    }
    while (s->progress.step < s->config.train.steps) {
        mpt_status_t status = one_step(&train, &stop);
        if (status != MPT_OK)
            return status;
        if (stop)
            return stopped(&train);
    }
    return MPT_OK;
}
