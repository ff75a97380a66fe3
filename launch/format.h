/*
 * Numbers as people read them, and the program's JSON. Formatters return their text by value, so that it
 * can stand in a printf's arguments; a value that is not finite reads "-".
 */
#ifndef MPT_FORMAT_H
#define MPT_FORMAT_H

#include <stdint.h>
#include <stdio.h>

typedef struct mpt_text {
    char s[32];
} mpt_text_t;

/** Three significant digits and a decimal prefix: 12.3k, 1.42T. */
mpt_text_t mpt_format_si(double value);
/** 512 B, 1.50 KiB, 4.87 GiB. */
mpt_text_t mpt_format_bytes(double bytes);
/** 4.2 s, 1m 23s, 2h 05m; negative: "-". */
mpt_text_t mpt_format_duration(double seconds);

/*
 * A JSON object or array being written, one value after the other. Keys are plain words; text is escaped.
 * Inside an array the key is NULL.
 */
typedef struct mpt_json {
    FILE *out;
    int depth;
    int empty; /* nothing written yet since the last opening bracket */
} mpt_json_t;

/** bracket: '{' or '['. */
void mpt_json_open(mpt_json_t *json, const char *key, char bracket);
void mpt_json_close(mpt_json_t *json, char bracket);
/** Reads back exactly; not finite: null. */
void mpt_json_number(mpt_json_t *json, const char *key, double value);
void mpt_json_int(mpt_json_t *json, const char *key, int64_t value);
/** true or false. */
void mpt_json_bool(mpt_json_t *json, const char *key, int value);
/** NULL: null. */
void mpt_json_text(mpt_json_t *json, const char *key, const char *value);

#endif
