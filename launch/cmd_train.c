#include <stdio.h>
#include <string.h>
#include "format.h"
#include "launch.h"
#include "memory.h"
#include "options.h"
#include "progress.h"
#include "signals.h"
#include "summary.h"
#include "world.h"

/* One run on this rank, from the command line to the closing table. */
typedef struct mpt_train_run {
    mpt_world_t world;
    mpt_signals_t *signals;
    mpt_progress_t *progress;
    mpt_session_t *session;
    mpt_summary_t summary;
    int64_t base_bytes, used_bytes; /* memory after MPI_Init; at the end of training, less that */
    const char *config_path, *resume;
    mpt_option_list_t overrides;
} mpt_train_run_t;

static void on_step(void *ctx, const mpt_step_result_t *result)
{
    mpt_train_run_t *run = ctx;
    mpt_summary_step(&run->summary, result);
    mpt_progress_step(run->progress, result);
}

static void on_notice(void *ctx, const mpt_notice_t *notice)
{
    mpt_train_run_t *run = ctx;
    mpt_summary_notice(&run->summary, notice);
    if (strcmp(notice->kind, "validation") == 0)
        mpt_progress_validation(run->progress, notice->val_loss);
    if (strncmp(notice->text, "step ", 5) == 0)
        mpt_progress_note(run->progress, "%s", notice->text);
    else
        mpt_progress_note(run->progress, "step %lld: %s", (long long)notice->step, notice->text);
}

static void on_signal(void *ctx, const char *signal_name)
{
    mpt_train_run_t *run = ctx;
    mpt_progress_note(run->progress, "%s: saving and stopping after this step", signal_name);
}

/* Parse this rank's words; rank 0 alone answers help and mistakes. Returns -1: go on; else the exit code. */
static int parse_words(mpt_train_run_t *run, int argc, char **argv)
{
    const mpt_option_t options[] = {
        {"--set", "section.key=value", "change one key of the config; may be given again",
         MPT_OPTION_LIST, &run->overrides, 0, 0},
        {"--resume", "PATH|auto", "go on from a checkpoint; auto: the newest, or afresh",
         MPT_OPTION_TEXT, &run->resume, 0, 0},
    };
    const mpt_usage_t usage = {
        .command = "mpt-ddp",
        .arguments = "model.cfg",
        .about = "Train as the config says, on this process alone or on every rank that mpirun "
                 "started.\nSIGINT, SIGTERM and SIGUSR1 save a checkpoint and stop the run "
                 "(exit code 75).",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .min_arguments = 1,
        .max_arguments = 1,
    };
    char message[MPT_OPTIONS_MESSAGE];
    int count, first = run->world.rank == 0;
    mpt_parsed_t parsed = mpt_options_parse(&usage, argc, argv, &count, message);
    if (parsed == MPT_PARSED_RUN && run->resume && !run->resume[0]) {
        snprintf(message, sizeof(message), "mpt-ddp: --resume: must be a checkpoint, a run's folder, or auto");
        parsed = MPT_PARSED_ERROR;
    }
    if (parsed == MPT_PARSED_HELP && first)
        mpt_options_help(&usage);
    if (parsed == MPT_PARSED_ERROR && first)
        fprintf(stderr, "%s\n", message);
    run->config_path = argv[0];
    return parsed == MPT_PARSED_RUN ? -1 : parsed == MPT_PARSED_HELP ? 0 : MPT_EXIT_USAGE;
}

static mpt_status_t open_session(mpt_train_run_t *run, mpt_session_info_t *info_p)
{
    const mpt_session_params_t params = {
        .boot = run->world.boot,
        .config = {.path = run->config_path,
                   .overrides = run->overrides.items,
                   .override_count = run->overrides.count},
        .resume = run->resume,
        .log = mpt_progress_log,
        .log_ctx = run->progress,
    };
    mpt_status_t status = mpt_session_open(&params, &run->session);
    if (status != MPT_OK)
        return status;
    mpt_session_info(run->session, info_p);
    mpt_summary_open(&run->summary, info_p);
    mpt_progress_set_steps(run->progress, info_p->steps, info_p->log_every);
    return MPT_OK;
}

static void announce(const mpt_train_run_t *run, const mpt_session_info_t *info)
{
    char steps[64] = "";
    if (info->first_step <= info->steps)
        snprintf(steps, sizeof(steps), ", steps %lld to %lld", (long long)info->first_step,
                 (long long)info->steps);
    mpt_progress_note(run->progress,
                      "%s parameters, %s on %s (%s), %d rank%s x %d thread%s%s, %lld tokens a step%s",
                      mpt_format_si((double)info->parameters).s, info->compute, info->device,
                      info->isa, info->ranks, info->ranks > 1 ? "s" : "", info->threads,
                      info->threads > 1 ? "s" : "", info->overlap ? ", communication beside compute" : "",
                      (long long)info->tokens_per_step, steps);
}

static void measure_memory(mpt_train_run_t *run)
{
    int64_t now = mpt_memory_used();
    run->used_bytes = now >= 0 && run->base_bytes >= 0 ? now - run->base_bytes : -1;
}

/* Open, train and close; afterwards only the summary is left of the session. */
static mpt_status_t train(mpt_train_run_t *run)
{
    const mpt_train_hooks_t hooks = {.ctx = run, .on_step = on_step, .on_notice = on_notice};
    mpt_session_info_t info;
    mpt_status_t status = open_session(run, &info);
    if (status != MPT_OK)
        return status;
    announce(run, &info);
    mpt_signals_attach(run->signals, run->session, on_signal, run);
    status = mpt_session_train(run->session, &hooks);
    mpt_signals_attach(run->signals, NULL, NULL, NULL);
    mpt_progress_end(run->progress);
    measure_memory(run);
    mpt_session_close(run->session);
    if (status == MPT_ERR_COMM)
        return status; /* the others may be gone: nothing collective any more */
    mpt_summary_gather(&run->summary, &run->world, run->used_bytes);
    if (run->world.rank == 0)
        mpt_summary_print(&run->summary, status);
    return status;
}

/* What a rank needs before it can take part in a session: all ranks go on, or none. */
static mpt_status_t prepare(mpt_train_run_t *run, mpt_status_t so_far)
{
    if (so_far == MPT_OK)
        so_far = mpt_progress_create(run->world.rank != 0, &run->progress);
    if (so_far != MPT_OK)
        fprintf(stderr, "rank %d: %s before the run began\n", run->world.rank, mpt_status_string(so_far));
    return mpt_world_agree(&run->world, so_far);
}

int mpt_cmd_train(int argc, char **argv)
{
    mpt_train_run_t run = {0};
    int code = MPT_EXIT_USAGE;
    mpt_status_t caught = mpt_signals_create(&run.signals); /* before MPI's threads, which inherit the mask */
    mpt_status_t status = mpt_world_open(&run.world);
    if (status == MPT_OK)
        status = prepare(&run, caught);
    if (status == MPT_OK)
        code = parse_words(&run, argc, argv);
    if (status == MPT_OK && code < 0) {
        run.base_bytes = mpt_memory_used();
        status = train(&run);
    }
    mpt_world_close(&run.world, status);
    mpt_progress_destroy(run.progress);
    mpt_signals_destroy(run.signals);
    return status == MPT_OK && code >= 0 ? code : mpt_status_exit_code(status);
}
