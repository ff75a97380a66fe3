#include "format.h"
#include <math.h>
#include <stdlib.h>

static mpt_text_t dash(void)
{
    return (mpt_text_t){"-"};
}

mpt_text_t mpt_format_si(double value)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    mpt_text_t text;
    int prefix = 0;
    if (!isfinite(value))
        return dash();
    /* 999.5 would print as 1000 with three digits. */
    while (fabs(value) >= 999.5 && prefix < 6) {
        value /= 1000;
        prefix++;
    }
    int decimals = fabs(value) < 9.995 ? 2 : fabs(value) < 99.95 ? 1 : 0;
    if (prefix == 0 && value == floor(value))
        decimals = 0;
    snprintf(text.s, sizeof(text.s), "%.*f%s", decimals, value, prefixes[prefix]);
    return text;
}

mpt_text_t mpt_format_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    mpt_text_t text;
    int unit = 0;
    if (!isfinite(bytes))
        return dash();
    while (fabs(bytes) >= 1023.995 && unit < 5) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text.s, sizeof(text.s), "%.*f %s", unit ? 2 : 0, bytes, units[unit]);
    return text;
}

mpt_text_t mpt_format_duration(double seconds)
{
    mpt_text_t text;
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e9)
        return dash();
    long whole = lround(seconds);
    if (seconds < 59.95)
        snprintf(text.s, sizeof(text.s), "%.1f s", seconds);
    else if (whole < 3600)
        snprintf(text.s, sizeof(text.s), "%ldm %02lds", whole / 60, whole % 60);
    else
        snprintf(text.s, sizeof(text.s), "%ldh %02ldm", whole / 3600, whole / 60 % 60);
    return text;
}

static void write_escaped(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < 0x20)
            fprintf(out, "\\u%04x", *c);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

static void start_value(mpt_json_t *json, const char *key)
{
    if (json->depth > 0 && !json->empty)
        fputs(", ", json->out);
    json->empty = 0;
    if (key) {
        write_escaped(json->out, key);
        fputs(": ", json->out);
    }
}

void mpt_json_open(mpt_json_t *json, const char *key, char bracket)
{
    start_value(json, key);
    fputc(bracket, json->out);
    json->depth++;
    json->empty = 1;
}

void mpt_json_close(mpt_json_t *json, char bracket)
{
    json->depth--;
    json->empty = 0;
    fputc(bracket, json->out);
    if (json->depth == 0)
        fputc('\n', json->out);
}

void mpt_json_number(mpt_json_t *json, const char *key, double value)
{
    char digits[40];
    start_value(json, key);
    if (!isfinite(value)) {
        fputs("null", json->out);
        return;
    }
    snprintf(digits, sizeof(digits), "%.15g", value);
    if (strtod(digits, NULL) != value)
        snprintf(digits, sizeof(digits), "%.17g", value);
    fputs(digits, json->out);
}

void mpt_json_int(mpt_json_t *json, const char *key, int64_t value)
{
    start_value(json, key);
    fprintf(json->out, "%lld", (long long)value);
}

void mpt_json_bool(mpt_json_t *json, const char *key, int value)
{
    start_value(json, key);
    fputs(value ? "true" : "false", json->out);
}

void mpt_json_text(mpt_json_t *json, const char *key, const char *value)
{
    start_value(json, key);
    if (value)
        write_escaped(json->out, value);
    else
        fputs("null", json->out);
}
