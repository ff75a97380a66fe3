/*
 * The option table: one row a key, the only place that knows a key's type, default, range and help.
 * It drives libConfuse's options, the defaults, the checks of single values, --set and
 * docs/config.md. Internal to config; tests walk it, so that a new key is covered without a new
 * test. Constant data, thread-safe.
 */
#ifndef MPT_CONFIG_TABLE_H
#define MPT_CONFIG_TABLE_H

#include <locale.h>
#include "config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mpt_config_type {
    MPT_CONFIG_INT,   /* int64_t or int, by the field's size */
    MPT_CONFIG_SEED,  /* uint64_t, every value */
    MPT_CONFIG_FLOAT, /* double, finite */
    MPT_CONFIG_TEXT,  /* char[MPT_CONFIG_MAX_PATH] or shorter */
    MPT_CONFIG_WORD,  /* an enum, stored as an int; arch, whose field is text, keeps the word itself
                       */
    MPT_CONFIG_BOOL,  /* int: true or false */
    MPT_CONFIG_SCALE  /* double: a power of two, or one of the two below */
} mpt_config_type_t;

/* What a MPT_CONFIG_SCALE field holds until the checks resolve it. */
#define MPT_CONFIG_SCALE_AUTO 0.0
#define MPT_CONFIG_SCALE_DYNAMIC (-1.0)

typedef enum mpt_config_flag {
    MPT_CONFIG_ABOVE_MIN = 1,    /* min itself is not allowed */
    MPT_CONFIG_BELOW_MAX = 2,    /* max itself is not allowed */
    MPT_CONFIG_POWER_OF_TWO = 4, /* so that scaling is exact */
    MPT_CONFIG_REQUIRED = 8,     /* text: not empty; without a default it must be given */
    MPT_CONFIG_DEFAULT_ONLY = 16 /* any other value asks for what is not built */
} mpt_config_flag_t;

/** A word that a key can have. Words of features that are not built parse, and are refused by name
 * afterwards. */
typedef struct mpt_config_word {
    const char *word; /* NULL ends a list */
    int value;
    int built;
} mpt_config_word_t;

typedef struct mpt_config_row {
    const char *section; /* "" for a top-level key */
    const char *key;
    mpt_config_type_t type;
    size_t offset, bytes; /* of the field in mpt_config_t */
    const char *text;     /* the default as one would write it, without quotes */
    double min, max;      /* numbers: the range; limits are exact as doubles */
    int flags;
    const mpt_config_word_t *words;
    const char *refusal; /* said of values that are not built; NULL: "not built yet" */
    const char *help;
} mpt_config_row_t;

/** A row of the environment's table: variable and help. */
typedef struct mpt_config_variable {
    const char *name;
    size_t offset, bytes; /* of the field in mpt_environment_t */
    const char *help;
} mpt_config_variable_t;

#define MPT_CONFIG_MAX_NAME 64
#define MPT_CONFIG_MAX_ROWS 96

/** Rows, in the order of the documentation: those of one section are neighbours, top-level keys
 * come first. */
int mpt_config_row_count(void);
const mpt_config_row_t *mpt_config_row(int index);
int mpt_config_variable_count(void);
const mpt_config_variable_t *mpt_config_variable(int index);

/** "train.lr", or "device" for a top-level key. `name` holds MPT_CONFIG_MAX_NAME bytes; returned.
 */
const char *mpt_config_row_name(const mpt_config_row_t *row, char *name);
/** Index of the row with that full name; -1: none. */
int mpt_config_find(const char *name);
/** Index of a section among the sections, from 0; -1: none of that name. */
int mpt_config_find_section(const char *section);
/** The first row of a section; NULL: none of that name. */
const mpt_config_row_t *mpt_config_section_row(const char *section);
/** The known key or section nearest to `name` by edit distance. `nearest` holds MPT_CONFIG_MAX_NAME
 * bytes; returned. */
const char *mpt_config_nearest(const char *name, char *nearest);

/** Say what values a key takes: "a whole number from 1 to 4096". `capacity`: 256 hold the longest.
 */
void mpt_config_describe(const mpt_config_row_t *row, char *out, size_t capacity);
/**
 * Read `text` as the row's type and store it in its field. Needs the C locale. @return 1; 0: not of
 * that type, or out of range (nothing is stored; mpt_config_describe says what would be right).
 */
int mpt_config_store(const mpt_config_row_t *row, const char *text, mpt_config_t *config);
/** Every default, unresolved: "auto" and 0 as they are written. Needs the C locale. */
void mpt_config_fill(mpt_config_t *config_p);
/** Give this thread the C locale: a host program's must not turn 0.5 into something else, nor
 * translate libConfuse's messages. @return what mpt_config_leave_c_locale puts back. */
locale_t mpt_config_enter_c_locale(void);
void mpt_config_leave_c_locale(locale_t before);
/** 1 where the field, unresolved, holds the row's default. Needs the C locale. */
int mpt_config_is_default(const mpt_config_row_t *row, const mpt_config_t *config);
/** 1 where the value in the field is built; else 0, and `use` (of `capacity` bytes) says which are:
 * "ddp". */
int mpt_config_built(const mpt_config_row_t *row, const mpt_config_t *config, char *use,
                     size_t capacity);
/** 1 for 2^k with any whole k. */
int mpt_config_is_power_of_two(double value);

#ifdef __cplusplus
}
#endif
#endif
