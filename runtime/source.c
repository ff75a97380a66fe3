#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

#define CONFIG_MAX_BYTES ((size_t)1 << 20)

static char *read_file(const char *path, const mpt_log_t *log)
{
    FILE *file = fopen(path, "rb");
    char *text = malloc(CONFIG_MAX_BYTES + 1);
    size_t n = 0;
    if (file != NULL && text != NULL)
        n = fread(text, 1, CONFIG_MAX_BYTES + 1, file);
    int failed = file == NULL || text == NULL || ferror(file) || n > CONFIG_MAX_BYTES;
    if (failed)
        mpt_log_error(log, "cannot read config %s: %s", path,
                      n > CONFIG_MAX_BYTES ? "larger than 1 MiB" : strerror(errno));
    if (file != NULL)
        fclose(file);
    if (failed) {
        free(text);
        return NULL;
    }
    text[n] = '\0';
    return text;
}

char *mpt_session_source_text(const mpt_config_source_t *source, const mpt_log_t *log)
{
    if (source->text == NULL)
        return source->path != NULL ? read_file(source->path, log) : NULL;
    return strdup(source->text);
}
