/*
 * The session's part of a checkpoint's meta: what a run needs besides tensors to go on, as "key = value" lines. One
 * table (save_meta.c) knows every key; saving, `ckpt info`, export and import share it. Plain values.
 */
#ifndef MPT_SAVE_META_H
#define MPT_SAVE_META_H

#include <stddef.h>
#include <stdint.h>

#include "checkpoint.h"

typedef struct mpt_save_meta {
    /* the model */
    char arch[16];
    int64_t layers, heads, dim, context, vocab, parameters;
    char compute[16]; /* "bf16" */
    /* how it was saved */
    char shard[16];
    int64_t masters; /* 0: the working weights were all there is */
    /* what fixes the order of data */
    uint64_t seed;
    int64_t global_batch, sequence;
    int64_t micro_batch, lanes; /* which fix the order of sums; lanes 0: not under reproducible = world */
    int64_t samples, data_tokens; /* of data.train */
    uint64_t data_hash;           /* mpt_data_hash of it */
    char order[16];
    /* where the run stands */
    int64_t applied, position, tokens, rounded;
    double scale;
    int64_t scale_dynamic, scale_clean, scale_hits, consecutive_skips;
    uint32_t known; /* a bit for each row of the table: those that are not known are not written */
} mpt_save_meta_t;

typedef enum mpt_save_part { MPT_META_MODEL, MPT_META_SAVED, MPT_META_ORDER, MPT_META_PROGRESS } mpt_save_part_t;

/** Number of keys; the key of a row, and what it belongs to. */
int mpt_save_meta_rows(void);
const char *mpt_save_meta_key(int row);
mpt_save_part_t mpt_save_meta_part(int row);
/** Set row `row` from its text, and mark it known. 1; 0: no such value can be (nothing is set): counts end at 2^62, as a config's do,
 *  and a scale is a power of two that a config could have. */
int mpt_save_meta_set(mpt_save_meta_t *meta, int row, const char *text);
/** A count as rows take it, for the step, which is no row: the checkpoint's own lines have it. 1; 0: no such count can be. */
int mpt_save_meta_count(const char *text, int64_t *count_p);
/** 1 where the row of `key` is known. */
int mpt_save_meta_known(const mpt_save_meta_t *meta, const char *key);
/** Mark every row of a part known (after filling it in), or not. */
void mpt_save_meta_mark(mpt_save_meta_t *meta, mpt_save_part_t part, int known);
/** The known rows as lines. Doubles in hexadecimal: they read back exactly. */
void mpt_save_meta_write(const mpt_save_meta_t *meta, char *out, size_t bytes);
/** What a checkpoint's meta text holds of it; rows that are missing or malformed are not known, and zero. */
void mpt_save_meta_read(const char *text, mpt_save_meta_t *meta_p);
/** The rows of `part` from a checkpoint's meta, each of them good; with the progress the step is looked at as well. Rows that older
 *  checkpoints lack may be missing: they are zero then, and not known. @return MPT_OK; MPT_ERR_CHECKPOINT (logged: file, key, value). */
mpt_status_t mpt_save_meta_require(const mpt_checkpoint_meta_t *from, mpt_save_part_t part, const mpt_log_t *log,
                                   mpt_save_meta_t *meta_p);

#endif
