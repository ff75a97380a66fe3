#include "progress.h"
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include "format.h"

#define REDRAW_S 0.1
#define MIN_BAR 10
#define MAX_BAR 40
#define MAX_COLUMNS 500
#define MAX_FIELDS 6
#define MAX_NOTE 1400

struct mpt_progress {
    int quiet, live;
    pthread_mutex_t lock; /* guards standard output and what follows */
    int64_t steps;
    int64_t every; /* of log.every */
    mpt_step_result_t last;
    double val_loss;   /* NaN: none yet */
    double drawn_at;   /* seconds, monotonic; 0: never */
    int drawn_columns; /* width of the live line on the screen; 0: none is there */
};

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Columns of the terminal on standard output; 0: no terminal, or one that does not know. */
static int terminal_columns(void)
{
    struct winsize size = {0};
    if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
        return 0;
    return size.ws_col < MAX_COLUMNS ? size.ws_col : MAX_COLUMNS;
}

mpt_status_t mpt_progress_create(int quiet, mpt_progress_t **progress_p)
{
    mpt_progress_t *progress = calloc(1, sizeof(*progress));
    if (!progress)
        return MPT_ERR_NO_MEMORY;
    progress->quiet = quiet;
    progress->live = !quiet && terminal_columns() > 0;
    progress->val_loss = NAN;
    pthread_mutex_init(&progress->lock, NULL);
    *progress_p = progress;
    return MPT_OK;
}

void mpt_progress_destroy(mpt_progress_t *progress)
{
    if (!progress)
        return;
    mpt_progress_end(progress);
    pthread_mutex_destroy(&progress->lock);
    free(progress);
}

void mpt_progress_set_steps(mpt_progress_t *progress, int64_t steps, int64_t every)
{
    progress->steps = steps;
    progress->every = every;
}

/* ---- the live line ------------------------------------------------------------------------------ */

/* The live line's words, the most wanted first; returns how many. */
static int live_fields(const mpt_progress_t *p, char fields[MAX_FIELDS][48])
{
    int count = 0;
    const mpt_step_result_t *r = &p->last;
    snprintf(fields[count++], 48, "%lld/%lld", (long long)r->step, (long long)p->steps);
    snprintf(fields[count++], 48, "loss %.4f", r->loss);
    snprintf(fields[count++], 48, "%s tokens/s", mpt_format_si(r->tokens_per_s).s);
    if (r->seconds_left >= 0)
        snprintf(fields[count++], 48, "%s left", mpt_format_duration(r->seconds_left).s);
    snprintf(fields[count++], 48, "MFU %.1f%%", 100 * r->mfu);
    if (isfinite(p->val_loss))
        snprintf(fields[count++], 48, "val %.4f", p->val_loss);
    return count;
}

/* "[====>     ] " of `width` columns in all; nothing where it would be too short. */
static int draw_bar(char *out, int width, double done)
{
    int inside = (width > MAX_BAR ? MAX_BAR : width) - 3;
    if (inside < MIN_BAR - 3)
        return 0;
    int filled = (int)(done * inside + 0.5);
    filled = filled < 0 ? 0 : filled > inside ? inside : filled;
    out[0] = '[';
    memset(out + 1, '=', (size_t)filled);
    memset(out + 1 + filled, ' ', (size_t)(inside - filled));
    if (filled > 0 && filled < inside)
        out[filled] = '>';
    out[inside + 1] = ']';
    out[inside + 2] = ' ';
    return inside + 3;
}

/* Compose the line for `columns` columns, its last one left free; returns its length. */
static int compose_live(const mpt_progress_t *p, int columns, char *out)
{
    char fields[MAX_FIELDS][48];
    int count = live_fields(p, fields), shown = 0, width = 0, length;
    for (; shown < count; shown++) {
        int wider = width + (shown ? 2 : 0) + (int)strlen(fields[shown]);
        if (wider > columns - 1)
            break;
        width = wider;
    }
    double done = p->steps > 0 ? (double)p->last.step / (double)p->steps : 0;
    length = draw_bar(out, columns - 1 - width, done);
    for (int i = 0; i < shown; i++)
        length += sprintf(out + length, "%s%s", i ? "  " : "", fields[i]);
    return length;
}

/* With the lock held. Blanks wipe what an earlier, longer line left; no terminal codes are needed. */
static void draw_live(mpt_progress_t *p)
{
    char line[MAX_COLUMNS + 64];
    int columns = terminal_columns();
    int length = compose_live(p, columns > 0 ? columns : 80, line);
    int blanks = p->drawn_columns > length ? p->drawn_columns - length : 0;
    if (length + blanks > columns - 1)
        blanks = columns - 1 - length; /* the window shrank */
    printf("\r%.*s%*s", length, line, blanks > 0 ? blanks : 0, "");
    fflush(stdout);
    p->drawn_columns = length;
    p->drawn_at = seconds_now();
}

/* With the lock held. */
static void wipe_live(mpt_progress_t *p)
{
    if (p->drawn_columns > 0)
        printf("\r%*s\r", p->drawn_columns, "");
    p->drawn_columns = 0;
    fflush(stdout);
}

/* ---- what callers show ---------------------------------------------------------------------------- */

static void print_step_line(const mpt_progress_t *p, const mpt_step_result_t *r)
{
    char scale[40] = "";
    if (r->loss_scale != 1)
        snprintf(scale, sizeof(scale), "  scale %g", r->loss_scale);
    printf(
        "step %lld/%lld  loss %.4f  lr %.3e  norm %.3f%s  %s tokens/s  MFU %.1f%%  %.1f ms%s%s\n",
        (long long)r->step, (long long)p->steps, r->loss, r->lr, r->grad_norm, scale,
        mpt_format_si(r->tokens_per_s).s, 100 * r->mfu, r->step_ms, r->clipped ? "  clipped" : "",
        r->skipped ? "  skipped" : "");
    fflush(stdout);
}

static int is_due(const mpt_progress_t *p, int64_t step)
{
    if (p->live)
        return step >= p->steps || seconds_now() - p->drawn_at >= REDRAW_S;
    return step % p->every == 0;
}

void mpt_progress_step(mpt_progress_t *p, const mpt_step_result_t *result)
{
    if (p->quiet || p->every == 0)
        return;
    pthread_mutex_lock(&p->lock);
    p->last = *result;
    if (is_due(p, result->step)) {
        if (p->live)
            draw_live(p);
        else
            print_step_line(p, result);
    }
    pthread_mutex_unlock(&p->lock);
}

void mpt_progress_validation(mpt_progress_t *p, double val_loss)
{
    pthread_mutex_lock(&p->lock);
    p->val_loss = val_loss;
    pthread_mutex_unlock(&p->lock);
}

/* A line of its own on `out`, the live line drawn again below it. */
static void print_above(mpt_progress_t *p, FILE *out, const char *line)
{
    pthread_mutex_lock(&p->lock);
    int was_drawn = p->drawn_columns > 0;
    if (was_drawn)
        wipe_live(p);
    fprintf(out, "%s\n", line);
    fflush(out);
    if (was_drawn)
        draw_live(p);
    pthread_mutex_unlock(&p->lock);
}

void mpt_progress_note(mpt_progress_t *p, const char *format, ...)
{
    char line[MAX_NOTE];
    va_list arguments;
    if (p->quiet)
        return;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    print_above(p, stdout, line);
}

void mpt_progress_end(mpt_progress_t *p)
{
    pthread_mutex_lock(&p->lock);
    if (p->drawn_columns > 0) {
        draw_live(p);
        printf("\n");
        fflush(stdout);
    }
    p->drawn_columns = 0;
    pthread_mutex_unlock(&p->lock);
}

void mpt_progress_log(void *ctx, mpt_log_severity_t severity, const char *line)
{
    mpt_progress_t *p = ctx;
    if (severity == MPT_SEVERITY_INFO)
        mpt_progress_note(p, "%s", line);
    else
        print_above(p, stderr, line);
}
