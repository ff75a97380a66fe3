#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <errno.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "metrics.h"
#include "scratch.h"

/* ---- in libc's place ---------------------------------------------------------------------------------------- */

static int flock_error; /* what the file system answers; 0: as it is */
static int getline_fails, fsync_fails, ftruncate_fails;

int flock(int fd, int operation)
{
    errno = flock_error;
    return flock_error != 0 ? -1 : (int)syscall(SYS_flock, fd, operation);
}

/* What an optimising compiler makes of getline. */
ssize_t __getdelim(char **line, size_t *capacity, int end, FILE *file)
{
    errno = ENOMEM;
    return getline_fails && ftell(file) > 0 ? -1 : getdelim(line, capacity, end, file);
}

ssize_t getline(char **line, size_t *capacity, FILE *file)
{
    return __getdelim(line, capacity, '\n', file);
}

int fsync(int fd)
{
    errno = EIO;
    return fsync_fails ? -1 : (int)syscall(SYS_fsync, fd);
}

int ftruncate(int fd, off_t bytes)
{
    errno = EPERM;
    return ftruncate_fails ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

/* ---- a file ----------------------------------------------------------------------------------------------------- */

static mpt_metrics_t *open_metrics(scratch_t *s, int64_t last_step)
{
    mpt_metrics_t *metrics = NULL;
    assert_int_equal(mpt_metrics_open(s->folder, &s->log, &metrics), MPT_OK);
    assert_int_equal(mpt_metrics_go_on(metrics, last_step), MPT_OK);
    assert_string_equal(mpt_metrics_path(metrics), scratch_path(s, "metrics.jsonl"));
    return metrics;
}

static char *lines_of(scratch_t *s, const char *name)
{
    char *text = scratch_read(scratch_path(s, name), NULL);
    assert_non_null(text);
    return text;
}

/* The value of a field in a line, as it is written; NULL where there is none. */
static const char *field(const char *line, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = strstr(line, key);
    return at == NULL ? NULL : at + strlen(key);
}

static double number(const char *line, const char *name)
{
    const char *at = field(line, name);
    if (at == NULL)
        fail_msg("no field %s in %s", name, line);
    return strtod(at, NULL);
}

/* ---- numbers ------------------------------------------------------------------------------------------------ */

static void assert_reads_back(double value)
{
    char text[40], *end;
    assert_ptr_equal(mpt_metrics_number(value, text, sizeof text), text);
    double back = strtod(text, &end);
    assert_int_equal(*end, '\0');
    assert_memory_equal(&back, &value, sizeof value);
    const char *p = text + (*text == '-'); /* what JSON's grammar allows */
    assert_true(*p >= '0' && *p <= '9');
    assert_true(p[0] != '0' || p[1] == '\0' || p[1] == '.' || p[1] == 'e');
}

static void numbers_read_back_exactly(void **state)
{
    (void)state;
    static const double values[] = {
        0,       -0.0,        1,         0.1,        1.0 / 3,   65536,
        1e-8,    6e-4,        123456789, 1e22,       1e300,     DBL_MIN,
        DBL_MAX, DBL_EPSILON, 5e-324,    16777216.5, -2.5e-310, 3.141592653589793};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        assert_reads_back(values[i]);
        assert_reads_back(-values[i]);
        assert_reads_back(nextafter(values[i], 1e308));
    }
    uint64_t x = 1;
    for (int i = 0; i < 20000; i++) {
        double value;
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t bits = x ^ (x >> 29);
        memcpy(&value, &bits, sizeof value);
        if (isfinite(value))
            assert_reads_back(value);
    }
}

static void simple_numbers_are_short(void **state)
{
    (void)state;
    char text[40];
    assert_string_equal(mpt_metrics_number(65536, text, sizeof text), "65536");
    assert_string_equal(mpt_metrics_number(0.1, text, sizeof text), "0.1");
    assert_string_equal(mpt_metrics_number(-6e-4, text, sizeof text), "-0.0006");
}

static void non_finite_numbers_are_strings(void **state)
{
    (void)state;
    char text[40];
    assert_string_equal(mpt_metrics_number(INFINITY, text, sizeof text), "\"inf\"");
    assert_string_equal(mpt_metrics_number(-INFINITY, text, sizeof text), "\"-inf\"");
    assert_string_equal(mpt_metrics_number(NAN, text, sizeof text), "\"nan\"");
    assert_string_equal(mpt_metrics_number(-NAN, text, sizeof text), "\"nan\"");
}

/* ---- lines --------------------------------------------------------------------------------------------------- */

static const mpt_step_result_t sample = {.step = 17,
                                         .loss = 2.0 / 3,
                                         .lr = 6e-4 / 7,
                                         .grad_norm = 1.25,
                                         .clipped = 1,
                                         .skipped = 0,
                                         .loss_scale = 32768,
                                         .tokens = 123456789012345,
                                         .tokens_per_s = 1e5 / 3,
                                         .step_ms = 1.1,
                                         .compute_ms = 1.2,
                                         .comm_ms = 1.3,
                                         .exposed_comm_ms = 1.4,
                                         .flops_6nd_per_s = 1e12 / 3,
                                         .flops_model_per_s = 1e12 / 7,
                                         .flops_causal_per_s = 1e12 / 9,
                                         .mfu = 0.25,
                                         .mem_bytes = 987654321};

static void a_steps_line_has_every_field_exactly(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    mpt_metrics_step(metrics, &sample);
    char *line = lines_of(s, "metrics.jsonl"); /* flushed: the file is still open */
    assert_int_equal(strncmp(line, "{\"step\":17,", 11), 0);
    assert_string_equal(line + strlen(line) - 2, "}\n");
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    const struct {
        const char *name;
        double value;
    } fields[] = {{"step", 17},
                  {"loss", sample.loss},
                  {"lr", sample.lr},
                  {"grad_norm", sample.grad_norm},
                  {"clipped", 1},
                  {"skipped", 0},
                  {"loss_scale", sample.loss_scale},
                  {"tokens", (double)sample.tokens},
                  {"tokens_per_s", sample.tokens_per_s},
                  {"step_ms", sample.step_ms},
                  {"compute_ms", sample.compute_ms},
                  {"comm_ms", sample.comm_ms},
                  {"exposed_comm_ms", sample.exposed_comm_ms},
                  {"flops_6nd_per_s", sample.flops_6nd_per_s},
                  {"flops_model_per_s", sample.flops_model_per_s},
                  {"mfu", sample.mfu},
                  {"mem_bytes", (double)sample.mem_bytes}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        assert_true(number(line, fields[i].name) == fields[i].value);
    assert_null(field(line, "event"));
    free(line);
    mpt_metrics_close(metrics);
}

static void a_skipped_steps_line_has_strings_for_what_is_not_finite(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    mpt_step_result_t result = sample;
    result.loss = NAN;
    result.grad_norm = INFINITY;
    result.skipped = 1;
    mpt_metrics_step(metrics, &result);
    char *line = lines_of(s, "metrics.jsonl");
    assert_int_equal(strncmp(field(line, "loss"), "\"nan\",", 6), 0);
    assert_int_equal(strncmp(field(line, "grad_norm"), "\"inf\",", 6), 0);
    free(line);
    mpt_metrics_close(metrics);
}

static void the_longest_line_is_whole(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    const double wide = -2.2250738585072011e-308;
    mpt_step_result_t r = {INT64_MAX, wide, wide, wide, 1,    1,    wide, INT64_MAX, wide, wide,
                           wide,      wide, wide, wide, wide, wide, wide, INT64_MAX, 0,    0};
    mpt_metrics_step(metrics, &r);
    char *line = lines_of(s, "metrics.jsonl");
    assert_string_equal(line + strlen(line) - 2, "}\n");
    assert_true(number(line, "mem_bytes") == (double)INT64_MAX);
    free(line);
    mpt_metrics_close(metrics);
}

static void a_validation_tells_the_averages_loss_where_there_is_one(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    const double average = 1.0 / 7, lost = NAN;
    mpt_metrics_validation(metrics, 5, 1.0 / 3, &average);
    mpt_metrics_validation(metrics, 6, INFINITY, &lost);
    mpt_metrics_validation(metrics, INT64_MAX, -2.2250738585072011e-308, &(double){-2.2250738585072011e-308});
    char *text = lines_of(s, "metrics.jsonl");
    assert_string_equal(text,
                        "{\"step\":5,\"event\":\"validation\",\"val_loss\":0.3333333333333333,"
                        "\"val_loss_ema\":0.14285714285714285}\n"
                        "{\"step\":6,\"event\":\"validation\",\"val_loss\":\"inf\",\"val_loss_ema\":\"nan\"}\n"
                        "{\"step\":9223372036854775807,\"event\":\"validation\",\"val_loss\":-2.225073858507201e-308,"
                        "\"val_loss_ema\":-2.225073858507201e-308}\n");
    free(text);
    mpt_metrics_close(metrics);
}

static void events_and_validations_are_lines_of_their_own(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    mpt_metrics_event(metrics, 3, "scale", "\"from\":2,\"to\":1");
    mpt_metrics_event(metrics, 4, "stop", "");
    mpt_metrics_validation(metrics, 5, 1.0 / 3, NULL);
    char *text = lines_of(s, "metrics.jsonl");
    assert_string_equal(text,
                        "{\"step\":3,\"event\":\"scale\",\"from\":2,\"to\":1}\n"
                        "{\"step\":4,\"event\":\"stop\"}\n"
                        "{\"step\":5,\"event\":\"validation\",\"val_loss\":0.3333333333333333}\n");
    free(text);
    mpt_metrics_close(metrics);
}

/* Ranks other than 0 have no metrics. */
static void no_metrics_takes_every_call(void **state)
{
    (void)state;
    mpt_metrics_step(NULL, &sample);
    mpt_metrics_validation(NULL, 1, 1.0, NULL);
    mpt_metrics_validation(NULL, 1, 1.0, &(double){1.0});
    mpt_metrics_event(NULL, 1, "stop", "");
    mpt_metrics_close(NULL);
}

/* ---- resuming -------------------------------------------------------------------------------------------------- */

static void write_steps(scratch_t *s, int64_t last_step, int64_t first, int64_t end)
{
    mpt_metrics_t *metrics = open_metrics(s, last_step);
    mpt_step_result_t result = sample;
    for (result.step = first; result.step < end; result.step++) {
        mpt_metrics_step(metrics, &result);
        if (result.step % 2 == 0)
            mpt_metrics_validation(metrics, result.step, 1.5, NULL);
    }
    mpt_metrics_close(metrics);
}

static void lines_after_the_resumed_step_are_set_aside(void **state)
{
    scratch_t *s = *state;
    write_steps(s, 0, 1, 7); /* the run that was lost, saved at step 4 */
    char *before = lines_of(s, "metrics.jsonl");
    write_steps(s, 4, 5, 6);
    char *after = lines_of(s, "metrics.jsonl"), *lost = lines_of(s, "metrics.jsonl.lost-1");
    size_t kept = (size_t)(strstr(before, "{\"step\":5,") - before);
    assert_int_equal(strncmp(after, before, kept), 0);
    assert_string_equal(lost, before + kept); /* nothing is gone, order included */
    assert_int_equal(strncmp(after + kept, "{\"step\":5,", 10), 0);
    assert_null(strstr(after + kept + 8, "\"step\""));
    free(before);
    free(after);
    free(lost);
}

static void a_second_loss_gets_a_file_of_its_own(void **state)
{
    scratch_t *s = *state;
    write_steps(s, 0, 1, 4);
    write_steps(s, 1, 2, 4);
    char *first = lines_of(s, "metrics.jsonl.lost-1");
    write_steps(s, 2, 3, 4);
    char *again = lines_of(s, "metrics.jsonl.lost-1"),
         *second = lines_of(s, "metrics.jsonl.lost-2");
    assert_string_equal(again, first);
    assert_non_null(strstr(second, "\"step\":3"));
    assert_null(strstr(second, "\"step\":2"));
    assert_false(scratch_exists(scratch_path(s, "metrics.jsonl.lost-3")));
    free(first);
    free(again);
    free(second);
}

static void resuming_at_the_last_line_sets_nothing_aside(void **state)
{
    scratch_t *s = *state;
    write_steps(s, 0, 1, 5);
    char *before = lines_of(s, "metrics.jsonl");
    mpt_metrics_close(open_metrics(s, 4));
    char *after = lines_of(s, "metrics.jsonl");
    assert_string_equal(after, before);
    assert_false(scratch_exists(scratch_path(s, "metrics.jsonl.lost-1")));
    free(before);
    free(after);
}

/* A run that was killed while it wrote: the half line must not run into the next one. */
static void a_partial_last_line_is_set_aside(void **state)
{
    scratch_t *s = *state;
    static const char text[] = "{\"step\":1,\"loss\":2}\n{\"step\":2,\"lo";
    scratch_write(scratch_path(s, "metrics.jsonl"), text, strlen(text));
    write_steps(s, 2, 3, 4);
    char *after = lines_of(s, "metrics.jsonl"), *lost = lines_of(s, "metrics.jsonl.lost-1");
    assert_int_equal(strncmp(after, "{\"step\":1,\"loss\":2}\n{\"step\":3,", 30), 0);
    assert_string_equal(lost, "{\"step\":2,\"lo");
    free(after);
    free(lost);
}

static void a_fresh_run_sets_all_steps_aside(void **state)
{
    scratch_t *s = *state;
    write_steps(s, 0, 1, 4);
    write_steps(s, 0, 1, 2);
    char *after = lines_of(s, "metrics.jsonl"), *lost = lines_of(s, "metrics.jsonl.lost-1");
    assert_non_null(strstr(lost, "{\"step\":3,"));
    assert_null(strstr(after, "{\"step\":2,"));
    free(after);
    free(lost);
}

static void a_file_is_one_runs_until_it_is_closed(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = open_metrics(s, 0), *other = NULL;
    mpt_metrics_step(metrics, &sample);
    assert_int_equal(mpt_metrics_open(s->folder, &s->log, &other), MPT_ERR_CONFIG);
    assert_null(other);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "metrics.jsonl is being written by another run"));
    mpt_metrics_step(metrics, &sample);
    char *text = lines_of(s, "metrics.jsonl");
    assert_int_equal(number(strchr(text, '\n') + 1, "step"), 17);
    free(text);
    mpt_metrics_close(metrics);
    mpt_metrics_close(open_metrics(s, 17));
    assert_false(scratch_exists(scratch_path(s, "metrics.jsonl.lost-1")));
}

/* In a process of its own: opens the file, says how that went, and keeps it. */
static pid_t start_run(scratch_t *s, const int *said)
{
    pid_t run = fork();
    if (run != 0)
        return run;
    mpt_metrics_t *metrics;
    close(said[0]);
    mpt_status_t status = mpt_metrics_open(s->folder, NULL, &metrics);
    if (status == MPT_OK)
        status = mpt_metrics_go_on(metrics, 4);
    char result = status == MPT_OK ? 'y' : status == MPT_ERR_CONFIG ? 'n' : '?';
    if (write(said[1], &result, 1) == 1)
        sleep(60);
    _exit(1);
}

/* Over the lines of one that was lost. */
static void of_many_runs_that_start_at_once_one_gets_the_file(void **state)
{
    enum { RUNS = 8 };
    scratch_t *s = *state;
    int said[2], got = 0, refused = 0;
    pid_t runs[RUNS];
    char result;
    write_steps(s, 0, 1, 7);
    assert_int_equal(pipe(said), 0);
    for (int i = 0; i < RUNS; i++)
        runs[i] = start_run(s, said);
    close(said[1]);
    for (int i = 0; i < RUNS && read(said[0], &result, 1) == 1; i++) {
        got += result == 'y';
        refused += result == 'n';
    }
    close(said[0]);
    for (int i = 0; i < RUNS; i++) {
        kill(runs[i], SIGKILL);
        waitpid(runs[i], NULL, 0);
    }
    assert_int_equal(got, 1);
    assert_int_equal(refused, RUNS - 1);
    assert_true(scratch_exists(scratch_path(s, "metrics.jsonl.lost-1")));
    assert_false(scratch_exists(scratch_path(s, "metrics.jsonl.lost-2")));
    mpt_metrics_close(open_metrics(s, 4)); /* whoever had it is gone */
}

/* As one that MPI or a library forks: it has the descriptor too, until it ends. */
static void a_child_that_outlives_the_session_does_not_keep_the_file(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    pid_t child = fork();
    if (child == 0) {
        sleep(60);
        _exit(0);
    }
    mpt_metrics_close(metrics);
    mpt_metrics_close(open_metrics(s, 0));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void without_locks_the_run_goes_on_with_a_warning(void **state)
{
    scratch_t *s = *state;
    flock_error = ENOLCK;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    mpt_metrics_close(metrics);
    flock_error = 0;
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, strerror(ENOLCK)));
}

/* The file stays what it is, also where its name is a link: others may have it open, or look at it through another name. */
static void cutting_keeps_the_file_and_its_name(void **state)
{
    scratch_t *s = *state;
    char other[512];
    struct stat before, after;
    snprintf(other, sizeof other, "%s", scratch_path(s, "elsewhere.jsonl"));
    assert_int_equal(symlink(other, scratch_path(s, "metrics.jsonl")), 0);
    write_steps(s, 0, 1, 7);
    assert_int_equal(chmod(other, 0600), 0);
    assert_int_equal(stat(other, &before), 0);
    write_steps(s, 4, 5, 6);
    assert_int_equal(lstat(other, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(after.st_mode & 0777, 0600);
    assert_int_equal(lstat(scratch_path(s, "metrics.jsonl"), &after), 0);
    assert_true(S_ISLNK(after.st_mode));
    assert_true(scratch_exists(scratch_path(s, "metrics.jsonl.lost-1")));
}

static void assert_cut_fails_and_changes_nothing(scratch_t *s, mpt_metrics_t *metrics, mpt_status_t status, const char *before)
{
    scratch_forget(s);
    assert_int_equal(mpt_metrics_go_on(metrics, 4), status);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "metrics.jsonl"));
    char *after = lines_of(s, "metrics.jsonl");
    assert_string_equal(before, after);
    assert_false(scratch_exists(scratch_path(s, "metrics.jsonl.lost-1")));
    free(after);
}

static void lines_that_cannot_be_moved_stay(void **state)
{
    scratch_t *s = *state;
    struct rlimit before, limit;
    mpt_metrics_t *metrics = NULL;
    write_steps(s, 0, 1, 7);
    char *text = lines_of(s, "metrics.jsonl");
    assert_int_equal(mpt_metrics_open(s->folder, &s->log, &metrics), MPT_OK);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 100; /* the disk is full */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_cut_fails_and_changes_nothing(s, metrics, MPT_ERR_IO, text);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    getline_fails = 1;
    assert_cut_fails_and_changes_nothing(s, metrics, MPT_ERR_NO_MEMORY, text);
    getline_fails = 0;
    fsync_fails = 1;
    assert_cut_fails_and_changes_nothing(s, metrics, MPT_ERR_IO, text);
    fsync_fails = 0;
    ftruncate_fails = 1;
    assert_cut_fails_and_changes_nothing(s, metrics, MPT_ERR_IO, text);
    ftruncate_fails = 0;
    assert_int_equal(mpt_metrics_go_on(metrics, 4), MPT_OK);
    assert_true(scratch_exists(scratch_path(s, "metrics.jsonl.lost-1")));
    mpt_metrics_close(metrics);
    free(text);
}

static void what_is_no_regular_file_is_refused_at_once(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = NULL;
    assert_int_equal(mkfifo(scratch_path(s, "metrics.jsonl"), 0666), 0);
    assert_int_equal(mpt_metrics_open(s->folder, &s->log, &metrics), MPT_ERR_IO);
    assert_non_null(strstr(s->said, "metrics.jsonl: it is no regular file; choose another log.dir"));
    assert_int_equal(unlink(scratch_path(s, "metrics.jsonl")), 0);
    assert_int_equal(symlink("/dev/null", scratch_path(s, "metrics.jsonl")), 0);
    assert_int_equal(mpt_metrics_open(s->folder, &s->log, &metrics), MPT_ERR_IO);
    assert_null(metrics);
}

static void very_long_lines_survive(void **state)
{
    scratch_t *s = *state;
    const size_t bytes = 300000;
    char *text = malloc(bytes + 1);
    memset(text, 'x', bytes);
    memcpy(text, "{\"step\":1,\"note\":\"", 18);
    memcpy(text + bytes - 3, "\"}\n", 4);
    scratch_write(scratch_path(s, "metrics.jsonl"), text, bytes);
    mpt_metrics_close(open_metrics(s, 1));
    char *after = lines_of(s, "metrics.jsonl");
    assert_string_equal(after, text);
    free(after);
    free(text);
}

/* ---- folders and disks ------------------------------------------------------------------------------------------- */

static void the_folder_is_made(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics;
    assert_int_equal(mpt_metrics_open(scratch_path(s, "a/b/c"), &s->log, &metrics), MPT_OK);
    mpt_metrics_close(metrics);
    assert_true(scratch_exists(scratch_path(s, "a/b/c/metrics.jsonl")));
}

static void a_folder_that_cannot_be_written_is_an_error(void **state)
{
    scratch_t *s = *state;
    mpt_metrics_t *metrics = NULL;
    scratch_write(scratch_path(s, "file"), "x", 1);
    assert_int_equal(mpt_metrics_open(scratch_path(s, "file/below"), &s->log, &metrics),
                     MPT_ERR_IO);
    assert_non_null(strstr(s->said, "file/below/metrics.jsonl"));
    assert_int_equal(mkdir(scratch_path(s, "d"), 0777), 0);
    assert_int_equal(mkdir(scratch_path(s, "d/metrics.jsonl"), 0777), 0);
    assert_int_equal(mpt_metrics_open(scratch_path(s, "d"), &s->log, &metrics), MPT_ERR_IO);
    assert_int_equal(s->lines, 2);
    assert_null(metrics);
}

static void a_full_disk_is_one_warning(void **state)
{
    scratch_t *s = *state;
    struct rlimit before, limit;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (int i = 0; i < 20; i++)
        mpt_metrics_step(metrics, &sample);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "metrics.jsonl"));
    mpt_metrics_close(metrics);
}

/* A line that the disk took only a part of must not swallow those that follow when there is room again. */
static void lines_after_a_full_disk_are_whole(void **state)
{
    scratch_t *s = *state;
    struct rlimit before, limit;
    mpt_metrics_t *metrics = open_metrics(s, 0);
    mpt_step_result_t result = sample;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 1000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (result.step = 1; result.step <= 40; result.step++)
        mpt_metrics_step(metrics, &result);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    for (; result.step <= 43; result.step++)
        mpt_metrics_step(metrics, &result);
    mpt_metrics_close(metrics);
    char *text = lines_of(s, "metrics.jsonl");
    for (int step = 41; step <= 43; step++) {
        char start[32];
        snprintf(start, sizeof start, "\n{\"step\":%d,", step);
        const char *line = strstr(text, start);
        if (line == NULL)
            fail_msg("step %d does not begin a line:\n%s", step, text);
        assert_true(number(line, "mem_bytes") == (double)sample.mem_bytes);
        assert_true(strstr(line, "}\n") == strchr(line + 1, '\n') - 1);
    }
    free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_read_back_exactly),
        cmocka_unit_test(simple_numbers_are_short),
        cmocka_unit_test(non_finite_numbers_are_strings),
        TEST(a_steps_line_has_every_field_exactly),
        TEST(a_skipped_steps_line_has_strings_for_what_is_not_finite),
        TEST(the_longest_line_is_whole),
        TEST(a_validation_tells_the_averages_loss_where_there_is_one),
        TEST(events_and_validations_are_lines_of_their_own),
        cmocka_unit_test(no_metrics_takes_every_call),
        TEST(lines_after_the_resumed_step_are_set_aside),
        TEST(a_second_loss_gets_a_file_of_its_own),
        TEST(resuming_at_the_last_line_sets_nothing_aside),
        TEST(a_partial_last_line_is_set_aside),
        TEST(a_fresh_run_sets_all_steps_aside),
        TEST(a_file_is_one_runs_until_it_is_closed),
        TEST(of_many_runs_that_start_at_once_one_gets_the_file),
        TEST(a_child_that_outlives_the_session_does_not_keep_the_file),
        TEST(without_locks_the_run_goes_on_with_a_warning),
        TEST(cutting_keeps_the_file_and_its_name),
        TEST(lines_that_cannot_be_moved_stay),
        TEST(what_is_no_regular_file_is_refused_at_once),
        TEST(very_long_lines_survive),
        TEST(the_folder_is_made),
        TEST(a_folder_that_cannot_be_written_is_an_error),
        TEST(a_full_disk_is_one_warning),
        TEST(lines_after_a_full_disk_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
