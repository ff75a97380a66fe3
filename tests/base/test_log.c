#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

typedef struct capture {
    int lines;
    mpt_log_level_t level;
    char text[4096];
} capture_t;

static void capture_line(void *ctx, mpt_log_level_t level, const char *line)
{
    capture_t *capture = ctx;
    capture->lines++;
    capture->level = level;
    snprintf(capture->text, sizeof capture->text, "%s", line);
    errno = EDOM; /* a sink may do this; the caller must not see it */
}

static void a_line_names_its_rank(void **state)
{
    (void)state;
    capture_t capture = {0};
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = 3, .sink = capture_line, .ctx = &capture};
    mpt_log_warn(&log, "bucket %d: %zu bytes", 7, (size_t)1048576);
    assert_int_equal(capture.lines, 1);
    assert_int_equal(capture.level, MPT_LOG_WARN);
    assert_string_equal(capture.text, "rank 3: bucket 7: 1048576 bytes");
}

static void a_negative_rank_gives_no_prefix(void **state)
{
    (void)state;
    capture_t capture = {0};
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = -1, .sink = capture_line, .ctx = &capture};
    mpt_log_info(&log, "plain");
    assert_string_equal(capture.text, "plain");
}

static void lines_above_the_level_are_dropped(void **state)
{
    (void)state;
    for (int limit = MPT_LOG_ERROR; limit <= MPT_LOG_DEBUG; limit++) {
        capture_t capture = {0};
        mpt_log_t log = {
            .level = (mpt_log_level_t)limit, .rank = 0, .sink = capture_line, .ctx = &capture};
        mpt_log_error(&log, "e");
        mpt_log_warn(&log, "w");
        mpt_log_info(&log, "i");
        mpt_log_debug(&log, "d");
        assert_int_equal(capture.lines, limit + 1);
        assert_int_equal((int)capture.level, limit);
    }
}

static void no_log_is_silent(void **state)
{
    (void)state;
    mpt_log_error(NULL, "nobody hears %d", 1);
}

static void long_lines_are_cut_at_one_kibibyte(void **state)
{
    (void)state;
    capture_t capture = {0};
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = 12, .sink = capture_line, .ctx = &capture};
    char text[3000];
    for (size_t length = 1000; length < sizeof text; length += length < 1040 ? 1 : 400) {
        memset(text, 'x', sizeof text);
        text[length] = '\0';
        mpt_log_info(&log, "%s", text);
        size_t whole = strlen("rank 12: ") + length;
        assert_int_equal(strlen(capture.text), whole < 1024 ? whole : 1024);
        assert_memory_equal(capture.text, "rank 12: xxx", 12);
    }
}

static void a_newline_in_the_text_does_not_make_a_second_line(void **state)
{
    (void)state;
    capture_t capture = {0};
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = 0, .sink = capture_line, .ctx = &capture};
    mpt_log_error(&log, "cannot open %s", "a\nrank 1: b\r\n");
    assert_string_equal(capture.text, "rank 0: cannot open a rank 1: b  ");
}

static void errno_survives(void **state)
{
    (void)state;
    capture_t capture = {0};
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = 0, .sink = capture_line, .ctx = &capture};
    errno = ENOSPC;
    mpt_log_error(&log, "disk full");
    assert_int_equal(errno, ENOSPC);
}

#define THREADS 4
#define LINES 100

typedef struct writer {
    const mpt_log_t *log;
    char letter;
} writer_t;

static void *write_lines(void *arg)
{
    const writer_t *writer = arg;
    char text[101];
    memset(text, writer->letter, 100);
    text[100] = '\0';
    for (int i = 0; i < LINES; i++)
        mpt_log_info(writer->log, "%s", text);
    return NULL;
}

/* Runs the writers with standard error on a pipe that holds all they write; returns what came
 * through. */
static size_t gather_from_stderr(char *buffer, size_t room)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = 5};
    writer_t writers[THREADS];
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++) {
        writers[t] = (writer_t){&log, (char)('a' + t)};
        assert_int_equal(pthread_create(&threads[t], NULL, write_lines, &writers[t]), 0);
    }
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    size_t used = 0;
    ssize_t got;
    while ((got = read(ends[0], buffer + used, room - used)) > 0)
        used += (size_t)got;
    close(ends[0]);
    return used;
}

static void lines_of_several_threads_on_stderr_stay_whole(void **state)
{
    (void)state;
    static char buffer[1 << 17];
    size_t line_bytes = strlen("rank 5: ") + 100 + 1;
    size_t used = gather_from_stderr(buffer, sizeof buffer);
    assert_int_equal(used, THREADS * LINES * line_bytes);
    int seen[THREADS] = {0};
    for (size_t at = 0; at < used; at += line_bytes) {
        const char *line = buffer + at;
        assert_memory_equal(line, "rank 5: ", 8);
        for (int i = 8; i < 108; i++)
            assert_int_equal(line[i], line[8]);
        assert_int_equal(line[108], '\n');
        seen[line[8] - 'a']++;
    }
    for (int t = 0; t < THREADS; t++)
        assert_int_equal(seen[t], LINES);
}

static void a_closed_stderr_is_survived(void **state)
{
    (void)state;
    int saved = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    mpt_log_t log = {.level = MPT_LOG_INFO, .rank = 0};
    errno = 0;
    mpt_log_error(&log, "lost");
    int after = errno;
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_int_equal(after, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_names_its_rank),
        cmocka_unit_test(a_negative_rank_gives_no_prefix),
        cmocka_unit_test(lines_above_the_level_are_dropped),
        cmocka_unit_test(no_log_is_silent),
        cmocka_unit_test(long_lines_are_cut_at_one_kibibyte),
        cmocka_unit_test(a_newline_in_the_text_does_not_make_a_second_line),
        cmocka_unit_test(errno_survives),
        cmocka_unit_test(lines_of_several_threads_on_stderr_stay_whole),
        cmocka_unit_test(a_closed_stderr_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
