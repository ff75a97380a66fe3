/*
 * One reading of a configuration: what has been set where, and the values so far. Internal to
 * config; lives for one call of mpt_config_parse, which owns it. One thread.
 */
#ifndef MPT_CONFIG_READING_H
#define MPT_CONFIG_READING_H

#include "config_table.h"

#ifdef __cplusplus
extern "C" {
#endif

struct mpt_config_reading;

/** What is known of one key. */
typedef struct mpt_config_slot {
    char *text; /* as written; NULL: the default holds. First: libConfuse stores through a pointer
                   to it. */
    int line;   /* where the file sets it; 0: it does not */
    int overridden; /* 1: --set has the last word */
    const mpt_config_row_t *row;
    struct mpt_config_reading *reading;
} mpt_config_slot_t;

typedef struct mpt_config_reading {
    const char *name; /* of the file, for messages; borrowed, as log is */
    const mpt_log_t *log;
    int logged; /* 1: an error has been logged, the one line that a reading may log */
    mpt_config_t config;
    mpt_config_slot_t slots[MPT_CONFIG_MAX_ROWS]; /* in the order of the table */
} mpt_config_reading_t;

/** Log "model.cfg:7: train.lr = x: " and the message. @return MPT_ERR_CONFIG. */
mpt_status_t mpt_config_refuse(mpt_config_slot_t *slot, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/**
 * Rewrite a configuration so that libConfuse's lexer has nothing left to interpret: comments become
 * blanks, each word 'a quoted word'; lines stay where they are. Found here, because libConfuse
 * would accept it, or name no key or line: what is not closed, a section that comes twice, a key
 * without a value or with a list, variables, appending, escapes, other comments than '#'. @return
 * MPT_OK (free *clean_p); MPT_ERR_CONFIG (logged); MPT_ERR_NO_MEMORY.
 */
mpt_status_t mpt_config_clean(const char *text, const char *name, const mpt_log_t *log,
                              char **clean_p);

/**
 * The checks that take every value together: what is missing, what is not built, values that
 * exclude each other; then resolve "auto" and 0. @return MPT_OK; MPT_ERR_CONFIG (logged).
 */
mpt_status_t mpt_config_check(mpt_config_reading_t *reading);

#ifdef __cplusplus
}
#endif
#endif
