#include "inject.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK = 1, STEP = 2, MICRO = 4, TENSOR = 8, ELEMENT = 16, ARRAY = 32, BIT = 64, MS = 128 };
#define KEYS 8
static const char *const keys[KEYS] = {"rank", "step", "micro", "tensor", "element", "kind", "bit", "ms"};

/* A fault's name and the keys that it takes. */
static const struct {
    const char *name;
    mpt_inject_kind_t kind;
    unsigned keys;
} faults[] = {{"overflow", MPT_INJECT_OVERFLOW, RANK | STEP | MICRO | TENSOR | ELEMENT},
              {"flip", MPT_INJECT_FLIP, RANK | STEP | TENSOR | ELEMENT | ARRAY | BIT},
              {"slow", MPT_INJECT_SLOW, RANK | STEP | MS}};

static mpt_status_t bad(const mpt_log_t *log, const char *text)
{
    mpt_log_error(log,
                  "MPT_INJECT: '%s' is not overflow:rank=R,step=S,tensor=NAME,element=E,micro=M or "
                  "flip:rank=R,step=S,tensor=NAME,element=E,kind=K,bit=B or slow:rank=R,step=S,ms=T with a "
                  "rank of this run and a tensor and element of this model",
                  text);
    return MPT_ERR_CONFIG;
}

/* Split "key=value,key=value" in place; the keys found, 0 where one is unknown or there twice. */
static unsigned split(char *text, char *values[KEYS])
{
    unsigned found = 0;
    char *rest = NULL;
    for (char *part = strtok_r(text, ",", &rest); part != NULL; part = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(part, '=');
        int key = 0;
        if (equals == NULL)
            return 0;
        *equals = '\0';
        while (key < KEYS && strcmp(part, keys[key]) != 0)
            key++;
        if (key == KEYS || values[key] != NULL)
            return 0;
        values[key] = equals + 1;
        found |= 1u << key;
    }
    return found;
}

/* A whole number in [low, high); a key that is not there is fine. */
static int read_number(const char *text, int64_t low, int64_t high, int64_t *value_p)
{
    char *end;
    if (text == NULL)
        return 1;
    errno = 0;
    *value_p = strtoll(text, &end, 10);
    return end != text && *end == '\0' && errno == 0 && *value_p >= low && *value_p < high;
}

static int read_array(const char *text, mpt_inject_t *inject)
{
    static const char *const arrays[] = {"working", "master", "m", "v", "ema"};
    if (text == NULL)
        return 1;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (strcmp(text, arrays[i]) == 0)
            return snprintf(inject->array, sizeof inject->array, "%s", text) > 0;
    return 0;
}

static int read_values(char *const values[KEYS], const mpt_layout_t *layout, mpt_inject_t *inject)
{
    int64_t rank = 0, elements = INT64_MAX;
    if (values[3] != NULL) {
        inject->tensor = mpt_layout_find(layout, values[3]);
        if (inject->tensor < 0)
            return 0;
        elements = mpt_tensor_count(&layout->tensors[inject->tensor]);
    }
    if (!read_number(values[0], 0, layout->ranks, &rank))
        return 0;
    inject->rank = (int)rank;
    return read_number(values[1], 1, INT64_MAX, &inject->step) &&
           read_number(values[2], 0, INT64_MAX, &inject->micro) &&
           read_number(values[4], 0, elements, &inject->element) && read_array(values[5], inject) &&
           read_number(values[6], 0, 32, &inject->bit) && read_number(values[7], 0, 3600000, &inject->ms);
}

mpt_status_t mpt_inject_parse(const char *text, const mpt_layout_t *layout, const mpt_log_t *log,
                              mpt_inject_t *inject_p)
{
    mpt_inject_t inject = {.kind = MPT_INJECT_NONE};
    char copy[256], *values[KEYS] = {NULL};
    size_t fault = 0, count = sizeof faults / sizeof *faults, name = strcspn(text, ":");
    *inject_p = inject;
    if (text[0] == '\0')
        return MPT_OK;
    while (fault < count &&
           (strlen(faults[fault].name) != name || strncmp(text, faults[fault].name, name) != 0))
        fault++;
    if (fault == count || text[name] == '\0' || strlen(text) >= sizeof copy)
        return bad(log, text);
    snprintf(copy, sizeof copy, "%s", text + name + 1);
    inject.kind = faults[fault].kind;
    if (split(copy, values) != faults[fault].keys || !read_values(values, layout, &inject))
        return bad(log, text);
    *inject_p = inject;
    return MPT_OK;
}
