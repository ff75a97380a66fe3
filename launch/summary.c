#include "summary.h"
#include <stdio.h>
#include <string.h>
#include "format.h"

void mpt_summary_open(mpt_summary_t *s, const mpt_session_info_t *info)
{
    *s = (mpt_summary_t){
        .ranks = info->ranks,
        .threads = info->threads,
        .steps = info->steps,
        .tokens_per_step = info->tokens_per_step,
        .flops_6nd_per_token = info->flops_6nd_per_token,
        .flops_model_per_token = info->flops_model_per_token,
        .flops_causal_per_token = info->flops_causal_per_token,
        .peak_flops = info->peak_flops,
        .planned_bytes = (double)info->planned_bytes,
        .first_step = info->first_step,
        .last_step = info->first_step - 1,
    };
    snprintf(s->compute, sizeof(s->compute), "%s", info->compute);
    snprintf(s->isa, sizeof(s->isa), "%s", info->isa);
    snprintf(s->comm, sizeof(s->comm), "%s", info->comm);
    snprintf(s->checkpoint_dir, sizeof(s->checkpoint_dir), "%s", info->checkpoint_dir);
    snprintf(s->metrics_path, sizeof(s->metrics_path), "%s", info->metrics_path);
}

void mpt_summary_step(mpt_summary_t *s, const mpt_step_result_t *result)
{
    s->last_step = result->step;
    s->tokens = result->tokens;
    s->loss = result->loss;
    s->steps_run++;
    s->step_seconds += result->step_ms / 1000;
    s->skips += result->skipped;
    s->clips += result->clipped;
}

void mpt_summary_notice(mpt_summary_t *s, const mpt_notice_t *notice)
{
    if (strcmp(notice->kind, "validation") == 0) {
        s->val_loss = notice->val_loss;
        s->val_step = notice->step;
    }
    s->scale_changes += strcmp(notice->kind, "scale") == 0;
    s->failed_saves += strcmp(notice->kind, "checkpoint_failed") == 0;
}

void mpt_summary_gather(mpt_summary_t *s, const mpt_world_t *world, int64_t used_bytes)
{
    double sums[3] = {s->planned_bytes, used_bytes >= 0 ? (double)used_bytes : 0, used_bytes >= 0};
    mpt_world_sum(world, sums, 3);
    s->planned_bytes = sums[0];
    s->used_bytes = sums[1];
    s->used_known = sums[2];
}

static void print_outcome(const mpt_summary_t *s, mpt_status_t status)
{
    const char *outcome = status == MPT_OK        ? "finished"
                          : status == MPT_STOPPED ? "stopped on request"
                                                  : mpt_status_string(status);
    printf("  %-12s %s at step %lld of %lld", "run", outcome, (long long)s->last_step,
           (long long)s->steps);
    if (s->steps_run > 0)
        printf(", %s tokens", mpt_format_si((double)s->tokens).s);
    printf("\n");
    printf("  %-12s %d, %d thread%s each, %s (%s), comm %s\n", "ranks", s->ranks, s->threads,
           s->threads > 1 ? "s" : "", s->compute, s->isa, s->comm);
}

static void print_losses(const mpt_summary_t *s)
{
    printf("  %-12s %.4f nats a token\n", "loss", s->loss);
    if (s->val_step > 0)
        printf("  %-12s %.4f nats a token, at step %lld\n", "val loss", s->val_loss,
               (long long)s->val_step);
}

static void print_speed(const mpt_summary_t *s)
{
    double tokens_per_s = (double)(s->steps_run * s->tokens_per_step) / s->step_seconds;
    double model = tokens_per_s * s->flops_model_per_token;
    printf("  %-12s %s a second, %s in steps\n", "tokens", mpt_format_si(tokens_per_s).s,
           mpt_format_duration(s->step_seconds).s);
    printf("  %-12s 6ND %s, PaLM %s, causal %s\n", "FLOP/s",
           mpt_format_si(tokens_per_s * s->flops_6nd_per_token).s, mpt_format_si(model).s,
           mpt_format_si(tokens_per_s * s->flops_causal_per_token).s);
    if (s->peak_flops > 0)
        printf("  %-12s %.1f%% of %s FLOP/s measured\n", "MFU", 100 * model / s->peak_flops,
               mpt_format_si(s->peak_flops).s);
}

static void print_memory(const mpt_summary_t *s)
{
    printf("  %-12s planned %s", "memory", mpt_format_bytes(s->planned_bytes).s);
    if (s->used_known == s->ranks && s->planned_bytes > 0)
        printf(", used %s (%+.1f%%)", mpt_format_bytes(s->used_bytes).s,
               100 * (s->used_bytes / s->planned_bytes - 1));
    printf("%s\n", s->ranks > 1 ? ", all ranks together" : "");
}

static void print_events(const mpt_summary_t *s)
{
    printf("  %-12s %lld skipped, %lld clipped; loss scale changed %lld times\n", "steps",
           (long long)s->skips, (long long)s->clips, (long long)s->scale_changes);
    if (s->failed_saves > 0)
        printf("  %-12s %lld failed; older ones are whole\n", "saves", (long long)s->failed_saves);
}

/* A run without a checkpoint is no error here. */
static void drop_line(void *ctx, mpt_log_severity_t severity, const char *line)
{
    (void)ctx;
    (void)severity;
    (void)line;
}

static void print_places(const mpt_summary_t *s)
{
    mpt_checkpoint_info_t info;
    if (mpt_checkpoint_info(s->checkpoint_dir, &info, drop_line, NULL) == MPT_OK)
        printf("  %-12s %s (step %lld, %s)\n", "checkpoint", info.path, (long long)info.step,
               mpt_format_bytes((double)info.bytes).s);
    else
        printf("  %-12s none\n", "checkpoint");
    printf("  %-12s %s\n", "metrics", s->metrics_path);
}

void mpt_summary_print(const mpt_summary_t *s, mpt_status_t status)
{
    printf("\n");
    print_outcome(s, status);
    if (s->steps_run > 0) {
        print_losses(s);
        print_speed(s);
        print_memory(s);
        print_events(s);
    }
    print_places(s);
    fflush(stdout);
}
