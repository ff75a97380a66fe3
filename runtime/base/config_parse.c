#include "config_reading.h"

#include <confuse.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* libConfuse's scanner keeps its state in globals of its own, so one text is parsed at a time,
 * whichever session it is for. */
static pthread_mutex_t confuse_lock = PTHREAD_MUTEX_INITIALIZER;

static mpt_status_t no_memory(const char *name, const mpt_log_t *log)
{
    mpt_log_error(log, "%s: no memory to read it", name);
    return MPT_ERR_NO_MEMORY;
}

static const char *where(const mpt_config_slot_t *slot, char *out, size_t capacity)
{
    if (slot->overridden)
        snprintf(out, capacity, "--set");
    else if (slot->line)
        snprintf(out, capacity, "%s:%d", slot->reading->name, slot->line);
    else
        snprintf(out, capacity, "%s", slot->reading->name);
    return out;
}

mpt_status_t mpt_config_refuse(mpt_config_slot_t *slot, const char *format, ...)
{
    char place[256], key[MPT_CONFIG_MAX_NAME], message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    const char *text = slot->text ? slot->text : slot->row->text;
    mpt_log_error(slot->reading->log, "%s: %s = %.80s: %s", where(slot, place, sizeof place),
                  mpt_config_row_name(slot->row, key), text[0] ? text : "\"\"", message);
    slot->reading->logged = 1;
    return MPT_ERR_CONFIG;
}

/* Check one text and store its value. */
static mpt_status_t take(mpt_config_slot_t *slot, const char *text)
{
    char right[512];
    if (mpt_config_store(slot->row, text, &slot->reading->config))
        return MPT_OK;
    mpt_config_describe(slot->row, right, sizeof right);
    mpt_config_slot_t given = *slot;
    given.text = (char *)text;
    return mpt_config_refuse(&given, "must be %s", right);
}

/* libConfuse's name for a pointer that it stores a text through; the slot starts with it. */
static mpt_config_slot_t *slot_of(const cfg_opt_t *option)
{
    return (mpt_config_slot_t *)(void *)option->simple_value.string;
}

/* Called by libConfuse for each value; it reads every type as text, so that none of its conversions
 * apply. */
static int on_value(cfg_t *cfg, cfg_opt_t *option, const char *value, void *result)
{
    mpt_config_slot_t *slot = slot_of(option);
    char key[MPT_CONFIG_MAX_NAME];
    if (slot->line) {
        mpt_log_error(slot->reading->log, "%s:%d: %s is set twice, first in line %d; keep one",
                      slot->reading->name, cfg->line, mpt_config_row_name(slot->row, key),
                      slot->line);
        slot->reading->logged = 1;
        return -1;
    }
    slot->line = cfg->line;
    *(const char **)result = value;
    return take(slot, value) == MPT_OK ? 0 : -1;
}

static void report_unknown(const mpt_config_slot_t *first, int line, const char *key)
{
    char name[2 * MPT_CONFIG_MAX_NAME], nearest[MPT_CONFIG_MAX_NAME];
    const char *section = first->row->section;
    snprintf(name, sizeof name, "%s%s%.80s", section, section[0] ? "." : "", key);
    mpt_log_error(first->reading->log, "%s:%d: unknown key '%s'; did you mean '%s'?",
                  first->reading->name, line, name, mpt_config_nearest(name, nearest));
}

/* Called by libConfuse with an error of its own; its context is what a section's first option
 * points to. */
static void on_error(cfg_t *cfg, const char *format, va_list args)
{
    static const char unknown[] = "no such option '";
    mpt_config_slot_t *first = slot_of(&cfg->opts[0]);
    char message[512];
    vsnprintf(message, sizeof message, format, args);
    if (strncmp(message, unknown, sizeof unknown - 1) == 0) {
        char *key = message + sizeof unknown - 1;
        key[strcspn(key, "'")] = '\0';
        report_unknown(first, cfg->line, key);
    } else {
        const char *section = first->row->section;
        mpt_log_error(first->reading->log, "%s:%d: %s%s%s", first->reading->name, cfg->line,
                      section, section[0] ? ": " : "", message);
    }
    first->reading->logged = 1;
}

/* libConfuse's options, from the table: top-level keys and then, per section, its keys in `keys`.
 */
static void build_options(mpt_config_reading_t *reading, cfg_opt_t *root, cfg_opt_t *keys)
{
    const cfg_opt_t end = CFG_END();
    const char *section = "";
    for (int i = 0; i < mpt_config_row_count(); i++) {
        mpt_config_slot_t *slot = &reading->slots[i];
        cfg_opt_t option = CFG_SIMPLE_STR(slot->row->key, &slot->text);
        option.parsecb = on_value;
        if (!slot->row->section[0]) {
            *root++ = option;
            continue;
        }
        if (strcmp(section, slot->row->section) != 0) {
            if (section[0])
                *keys++ = end;
            section = slot->row->section;
            cfg_opt_t opening = CFG_SEC(section, keys, CFGF_NONE);
            *root++ = opening;
        }
        *keys++ = option;
    }
    *keys = end;
    *root = end;
}

/* Needs the lock. */
static mpt_status_t parse_clean(mpt_config_reading_t *reading, const char *clean)
{
    cfg_opt_t root[MPT_CONFIG_MAX_ROWS], keys[2 * MPT_CONFIG_MAX_ROWS];
    build_options(reading, root, keys);
    cfg_t *cfg = cfg_init(root, CFGF_NONE);
    if (!cfg)
        return no_memory(reading->name, reading->log);
    cfg_set_error_function(cfg, on_error);
    int result = cfg_parse_buf(cfg, clean);
    if (result != CFG_SUCCESS && !reading->logged)
        mpt_log_error(reading->log, "%s:%d: not a configuration", reading->name, cfg->line);
    cfg_free(cfg);
    return result == CFG_SUCCESS ? MPT_OK : MPT_ERR_CONFIG;
}

/* Cut the blanks round a word, in place. */
static char *trim(char *word)
{
    word += strspn(word, " \t");
    size_t length = strlen(word);
    while (length > 0 && (word[length - 1] == ' ' || word[length - 1] == '\t'))
        word[--length] = '\0';
    return word;
}

static mpt_status_t refuse_key(const mpt_config_reading_t *reading, const char *key)
{
    char name[MPT_CONFIG_MAX_NAME];
    const mpt_config_row_t *row = mpt_config_section_row(key);
    if (row)
        mpt_log_error(reading->log, "--set: '%s' is a section; write a key of it, as %s=VALUE", key,
                      mpt_config_row_name(row, name));
    else
        mpt_log_error(reading->log, "--set: unknown key '%.80s'; did you mean '%s'?", key,
                      mpt_config_nearest(key, name));
    return MPT_ERR_CONFIG;
}

/* `setting` is a copy of one override, to cut in pieces. */
static mpt_status_t apply_override(mpt_config_reading_t *reading, char *setting)
{
    char *equals = strchr(setting, '=');
    if (!equals) {
        mpt_log_error(reading->log, "--set %.80s: no value; write section.key=value", setting);
        return MPT_ERR_CONFIG;
    }
    *equals = '\0';
    const char *key = trim(setting);
    int index = mpt_config_find(key);
    if (index < 0)
        return refuse_key(reading, key);
    mpt_config_slot_t *slot = &reading->slots[index];
    char *text = strdup(trim(equals + 1));
    if (!text)
        return no_memory(reading->name, reading->log);
    free(slot->text);
    slot->text = text;
    slot->overridden = 1;
    return take(slot, text);
}

static mpt_status_t apply_overrides(mpt_config_reading_t *reading, const char *const *overrides,
                                    int count)
{
    for (int i = 0; i < count; i++) {
        char *setting = strdup(overrides[i]);
        if (!setting)
            return no_memory(reading->name, reading->log);
        mpt_status_t status = apply_override(reading, setting);
        free(setting);
        if (status != MPT_OK)
            return status;
    }
    return MPT_OK;
}

static mpt_config_reading_t *reading_create(const char *name, const mpt_log_t *log)
{
    mpt_config_reading_t *reading = calloc(1, sizeof *reading);
    if (!reading)
        return NULL;
    reading->name = name;
    reading->log = log;
    mpt_config_fill(&reading->config);
    for (int i = 0; i < mpt_config_row_count(); i++) {
        reading->slots[i].row = mpt_config_row(i);
        reading->slots[i].reading = reading;
    }
    return reading;
}

static void reading_destroy(mpt_config_reading_t *reading)
{
    for (int i = 0; reading && i < mpt_config_row_count(); i++)
        free(reading->slots[i].text);
    free(reading);
}

/* Needs the C locale. */
static mpt_status_t read_all(mpt_config_reading_t *reading, const char *clean,
                             const char *const *overrides, int override_count)
{
    pthread_mutex_lock(&confuse_lock);
    mpt_status_t status = parse_clean(reading, clean);
    pthread_mutex_unlock(&confuse_lock);
    if (status == MPT_OK)
        status = apply_overrides(reading, overrides, override_count);
    if (status == MPT_OK)
        status = mpt_config_check(reading);
    return status;
}

mpt_status_t mpt_config_parse(const char *text, const char *name, const char *const *overrides,
                              int override_count, const mpt_log_t *log, mpt_config_t *config_p)
{
    char *clean = NULL;
    locale_t before = mpt_config_enter_c_locale();
    mpt_config_reading_t *reading = reading_create(name, log);
    mpt_status_t status =
        reading ? mpt_config_clean(text, name, log, &clean) : no_memory(name, log);
    if (status == MPT_OK)
        status = read_all(reading, clean, overrides, override_count);
    if (status == MPT_OK)
        *config_p = reading->config;
    free(clean);
    reading_destroy(reading);
    mpt_config_leave_c_locale(before);
    return status;
}
