#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

#define CONFIG_MAX_BYTES ((size_t)1 << 20)

/* What follows a NUL byte would be lost: the parser's texts end there. */
static int is_text(const char *path, const char *bytes, size_t count, const mpt_log_t *log)
{
    const char *nul = memchr(bytes, '\0', count);
    int line = 1;
    if (nul == NULL)
        return 1;
    for (const char *at = bytes; at < nul; at++)
        line += *at == '\n';
    mpt_log_error(log, "%s:%d: a NUL byte; a config is text", path, line);
    return 0;
}

static mpt_status_t read_file(const char *path, const mpt_log_t *log, char **text_p)
{
    char *text = malloc(CONFIG_MAX_BYTES + 1);
    if (text == NULL)
        return mpt_log_no_memory(log, CONFIG_MAX_BYTES + 1, "the config's text");
    FILE *file = fopen(path, "rb");
    size_t n = file != NULL ? fread(text, 1, CONFIG_MAX_BYTES + 1, file) : 0;
    int failed = file == NULL || ferror(file) || n > CONFIG_MAX_BYTES;
    if (failed)
        mpt_log_error(log, "cannot read config %s: %s", path,
                      n > CONFIG_MAX_BYTES ? "larger than 1 MiB" : strerror(errno));
    if (file != NULL)
        fclose(file);
    if (failed || !is_text(path, text, n, log)) {
        free(text);
        return MPT_ERR_CONFIG;
    }
    text[n] = '\0';
    *text_p = text;
    return MPT_OK;
}

mpt_status_t mpt_session_source_text(const mpt_config_source_t *source, const mpt_log_t *log, char **text_p)
{
    if (source->text == NULL)
        return source->path != NULL ? read_file(source->path, log, text_p) : MPT_ERR_CONFIG;
    char *text = strdup(source->text);
    if (text == NULL)
        return mpt_log_no_memory(log, strlen(source->text) + 1, "the config's text");
    *text_p = text;
    return MPT_OK;
}

mpt_status_t mpt_config_read(const char *path, char **text_p,
                             void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx)
{
    mpt_log_target_t target = {.log = log, .ctx = log_ctx};
    const mpt_log_t own = {.level = MPT_LOG_INFO,
                           .rank = -1,
                           .sink = log != NULL ? mpt_session_log_sink : NULL,
                           .ctx = &target};
    return read_file(path, &own, text_p);
}
