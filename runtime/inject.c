#include "inject.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIND "overflow:"

enum { KEY_RANK, KEY_STEP, KEY_MICRO, KEY_TENSOR, KEY_ELEMENT, KEY_COUNT };
static const char *const keys[KEY_COUNT] = {"rank", "step", "micro", "tensor", "element"};

static mpt_status_t bad(const mpt_log_t *log, const char *text)
{
    mpt_log_error(log,
                  "MPT_INJECT: '%s' is not overflow:rank=R,step=S,tensor=NAME,element=E,micro=M with a "
                  "rank of this run and a tensor and element of this model",
                  text);
    return MPT_ERR_CONFIG;
}

/* Split "key=value,key=value" in place; 1 where every key is there once. */
static int split(char *text, char *values[KEY_COUNT])
{
    int found = 0;
    char *rest = NULL;
    for (char *part = strtok_r(text, ",", &rest); part != NULL; part = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(part, '=');
        int key = 0;
        if (equals == NULL)
            return 0;
        *equals = '\0';
        while (key < KEY_COUNT && strcmp(part, keys[key]) != 0)
            key++;
        if (key == KEY_COUNT || values[key] != NULL)
            return 0;
        values[key] = equals + 1;
        found++;
    }
    return found == KEY_COUNT;
}

/* A whole number in [low, high). */
static int read_number(const char *text, int64_t low, int64_t high, int64_t *value_p)
{
    char *end;
    errno = 0;
    *value_p = strtoll(text, &end, 10);
    return end != text && *end == '\0' && errno == 0 && *value_p >= low && *value_p < high;
}

mpt_status_t mpt_inject_parse(const char *text, const mpt_layout_t *layout, const mpt_log_t *log,
                              mpt_inject_t *inject_p)
{
    mpt_inject_t inject = {.active = 1};
    char copy[256], *values[KEY_COUNT] = {NULL};
    int64_t rank;
    *inject_p = (mpt_inject_t){0};
    if (text[0] == '\0')
        return MPT_OK;
    if (strncmp(text, KIND, strlen(KIND)) != 0 || strlen(text) >= sizeof copy)
        return bad(log, text);
    snprintf(copy, sizeof copy, "%s", text + strlen(KIND));
    if (!split(copy, values))
        return bad(log, text);
    inject.tensor = mpt_layout_find(layout, values[KEY_TENSOR]);
    if (inject.tensor < 0 || !read_number(values[KEY_RANK], 0, layout->ranks, &rank) ||
        !read_number(values[KEY_STEP], 1, INT64_MAX, &inject.step) ||
        !read_number(values[KEY_MICRO], 0, INT64_MAX, &inject.micro) ||
        !read_number(values[KEY_ELEMENT], 0, mpt_tensor_count(&layout->tensors[inject.tensor]),
                     &inject.element))
        return bad(log, text);
    inject.rank = (int)rank;
    *inject_p = inject;
    return MPT_OK;
}
