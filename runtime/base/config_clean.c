#include "config_reading.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef struct cleaner {
    const char *in;
    char *out;
    int line;
    const char *name;
    const mpt_log_t *log;
    int depth;
    int wants_value;                     /* the last token was a key's '=' */
    char word[MPT_CONFIG_MAX_NAME];      /* the last word where a key or section may stand */
    int word_line;                       /* where it stands */
    char section[MPT_CONFIG_MAX_NAME];   /* the open section */
    int section_line;                    /* where it was opened */
    int first_line[MPT_CONFIG_MAX_ROWS]; /* where each section was opened first; 0: not yet */
} cleaner_t;

__attribute__((format(printf, 3, 4))) static mpt_status_t refuse(const cleaner_t *c, int line,
                                                                 const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    mpt_log_error(c->log, "%s:%d: %s", c->name, line, message);
    return MPT_ERR_CONFIG;
}

/* "train." within a section, to put before a key. */
static const char *prefix(const cleaner_t *c, char *out)
{
    snprintf(out, MPT_CONFIG_MAX_NAME + 1, "%s%s", c->section, c->depth > 0 ? "." : "");
    return out;
}

static mpt_status_t refuse_value(const cleaner_t *c, const char *what)
{
    char section[MPT_CONFIG_MAX_NAME + 1];
    return refuse(c, c->word_line, "%s%s: %s; write %s = value", prefix(c, section), c->word, what,
                  c->word);
}

/* libConfuse's single-quoted strings know two escapes and no variables. */
static void put_quoted(cleaner_t *c, char letter)
{
    if (letter == '\'' || letter == '\\')
        *c->out++ = '\\';
    *c->out++ = letter;
}

static int is_control(char letter)
{
    return ((unsigned char)letter < 0x20 && letter != '\t') || letter == 0x7f;
}

/* A quoted value, up to and with its closing quote. */
static mpt_status_t clean_quoted(cleaner_t *c)
{
    char quote = *c->in++;
    if (!c->wants_value)
        return refuse(c, c->line, "a quoted text where a key is expected; only values take quotes");
    *c->out++ = '\'';
    for (; *c->in != quote; c->in++) {
        if (*c->in == '\0' || *c->in == '\n')
            return refuse_value(c, "the text is not closed with a quote in its line");
        if (is_control(*c->in))
            return refuse_value(c, "the text holds a control character");
        if (quote == '"' && c->in[0] == '$' && c->in[1] == '{')
            return refuse_value(c, "variables (${...}) are not replaced");
        if (*c->in == '\\') {
            if (c->in[1] != '\\' && c->in[1] != quote)
                return refuse_value(c, "a backslash must be doubled, or stand before a quote");
            c->in++;
        }
        put_quoted(c, *c->in);
    }
    c->in++;
    *c->out++ = '\'';
    c->wants_value = 0;
    return MPT_OK;
}

static int ends_word(const char *in)
{
    return strchr(" \t\r\n={}(),;\"'#", *in) || (in[0] == '+' && in[1] == '=');
}

/* Refuse a word that libConfuse would read as something else than it looks like. c->in is past it.
 */
static mpt_status_t check_word(const cleaner_t *c, const char *start, int length)
{
    int shown = length < 40 ? length : 40;
    if (strncmp(start, "//", 2) == 0 || strncmp(start, "/*", 2) == 0)
        return refuse(c, c->line, "'%.2s' starts no comment here; use '#', or quotes for a path",
                      start);
    if (*c->in == '#')
        return refuse(c, c->line, "'%.*s#': put a blank before a comment, or quotes round a text",
                      shown, start);
    if (start[length - 1] == '$' && *c->in == '{')
        return refuse(c, c->line, "variables (${...}) are not replaced; write the value itself");
    for (int i = 0; i < length; i++)
        if (is_control(start[i]))
            return refuse(c, c->line, "control character 0x%02x", (unsigned char)start[i]);
    return MPT_OK;
}

/* A key or a section: libConfuse would take train|lr for the key lr of the section train. */
static mpt_status_t keep_name(cleaner_t *c, const char *start, int length)
{
    char nearest[MPT_CONFIG_MAX_NAME];
    snprintf(c->word, sizeof c->word, "%.*s", length, start);
    c->word_line = c->line;
    if (memchr(start, '|', (size_t)length))
        return refuse(c, c->line, "unknown key '%s'; did you mean '%s'?", c->word,
                      mpt_config_nearest(c->word, nearest));
    return MPT_OK;
}

/* A word without quotes: a key, a section or a value. */
static mpt_status_t clean_word(cleaner_t *c)
{
    const char *start = c->in;
    while (*c->in && !ends_word(c->in))
        c->in++;
    int length = (int)(c->in - start);
    mpt_status_t status = check_word(c, start, length);
    if (status == MPT_OK && !c->wants_value)
        status = keep_name(c, start, length);
    if (status != MPT_OK)
        return status;
    *c->out++ = '\'';
    for (int i = 0; i < length; i++)
        put_quoted(c, start[i]);
    *c->out++ = '\'';
    c->wants_value = 0;
    return MPT_OK;
}

static mpt_status_t open_section(cleaner_t *c)
{
    if (c->depth++ > 0)
        return MPT_OK; /* there is no such key: libConfuse says so */
    memcpy(c->section, c->word, sizeof c->section);
    c->section_line = c->line;
    int index = mpt_config_find_section(c->section);
    if (index < 0)
        return MPT_OK; /* unknown: libConfuse says so */
    if (c->first_line[index])
        return refuse(c, c->line, "section '%s' comes twice, first in line %d; join them",
                      c->section, c->first_line[index]);
    c->first_line[index] = c->line;
    return MPT_OK;
}

static mpt_status_t clean_mark(cleaner_t *c)
{
    char mark = *c->in;
    if (c->wants_value)
        return refuse_value(c, mark == '{'   ? "a list where one value is expected"
                               : mark == '=' ? "'=' twice"
                                             : "no value");
    *c->out++ = mark;
    c->in++;
    if (mark == '{')
        return open_section(c);
    if (mark == '=')
        c->wants_value = 1;
    else if (c->depth > 0)
        c->depth--;
    return MPT_OK;
}

static mpt_status_t clean_token(cleaner_t *c)
{
    switch (*c->in) {
    case '\n':
        c->line++;
        *c->out++ = *c->in++;
        return MPT_OK;
    case ' ':
    case '\t':
    case '\r':
        *c->out++ = ' ';
        c->in++;
        return MPT_OK;
    case '#':
        c->in += strcspn(c->in, "\n");
        return MPT_OK;
    case '"':
    case '\'':
        return clean_quoted(c);
    case '{':
    case '}':
    case '=':
        return clean_mark(c);
    case '(':
    case ')':
    case ',':
    case ';':
        return refuse(c, c->line,
                      "unexpected '%c' after '%s'; pairs key = value need only blanks"
                      " between them, a text that holds it needs quotes",
                      *c->in, c->word);
    default:
        if (c->in[0] == '+' && c->in[1] == '=')
            return refuse_value(c, "'+=' does not append here");
        return clean_word(c);
    }
}

static mpt_status_t clean_all(cleaner_t *c)
{
    if (strncmp(c->in, "\xef\xbb\xbf", 3) == 0)
        c->in += 3; /* the byte-order mark that some editors write */
    while (*c->in) {
        mpt_status_t status = clean_token(c);
        if (status != MPT_OK)
            return status;
    }
    *c->out = '\0';
    if (c->wants_value)
        return refuse_value(c, "no value");
    if (c->depth > 0)
        return refuse(c, c->section_line, "section '%s' is not closed; end it with '}'",
                      c->section);
    return MPT_OK;
}

mpt_status_t mpt_config_clean(const char *text, const char *name, const mpt_log_t *log,
                              char **clean_p)
{
    /* The worst is a lone backslash: two quotes and two backslashes for one byte. */
    char *clean = malloc(4 * strlen(text) + 1);
    if (!clean) {
        mpt_log_error(log, "%s: no memory to read it", name);
        return MPT_ERR_NO_MEMORY;
    }
    cleaner_t cleaner = {.in = text, .out = clean, .line = 1, .name = name, .log = log};
    mpt_status_t status = clean_all(&cleaner);
    if (status != MPT_OK) {
        free(clean);
        return status;
    }
    *clean_p = clean;
    return MPT_OK;
}
