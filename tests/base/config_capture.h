/*
 * For tests of the configuration: parse a text and keep what it logs. Include after cmocka.h.
 */
#ifndef CONFIG_CAPTURE_H
#define CONFIG_CAPTURE_H

#include <stdio.h>
#include <string.h>

#include "config.h"

/* What a call logged. */
typedef struct capture {
    char last[2048];
    int lines;
} capture_t;

static inline void keep_line(void *ctx, mpt_log_level_t level, const char *line)
{
    capture_t *capture = ctx;
    (void)level;
    snprintf(capture->last, sizeof capture->last, "%s", line);
    capture->lines++;
}

static inline mpt_status_t parse_with(const char *text, const char *const *overrides, int count,
                                      capture_t *capture, mpt_config_t *config)
{
    memset(capture, 0, sizeof *capture);
    mpt_log_t log = {.level = MPT_LOG_DEBUG, .rank = -1, .sink = keep_line, .ctx = capture};
    return mpt_config_parse(text, "model.cfg", overrides, count, &log, config);
}

/* Parses, and returns the config, which has to be right. */
static inline mpt_config_t parse_good(const char *text)
{
    capture_t capture;
    mpt_config_t config;
    mpt_status_t status = parse_with(text, NULL, 0, &capture, &config);
    if (status != MPT_OK)
        print_message("%s\n", capture.last);
    assert_int_equal(status, MPT_OK);
    assert_int_equal(capture.lines, 0);
    return config;
}

/* One line, exactly that one, and the config stays as it was. */
static inline void expect_line(const char *text, const char *const *overrides, int count, const char *line)
{
    capture_t capture;
    mpt_config_t config, untouched;
    memset(&config, 0x5a, sizeof config);
    memset(&untouched, 0x5a, sizeof untouched);
    assert_int_equal(parse_with(text, overrides, count, &capture, &config), MPT_ERR_CONFIG);
    assert_string_equal(capture.last, line);
    assert_int_equal(capture.lines, 1);
    assert_memory_equal(&config, &untouched, sizeof config);
}

static inline void expect_error(const char *text, const char *line)
{
    expect_line(text, NULL, 0, line);
}

static inline void expect_set_error(const char *setting, const char *line)
{
    expect_line("data { train = x }", &setting, 1, line);
}

#endif
