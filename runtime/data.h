/*
 * Token files and the order in which a run reads them. Files are memory-mapped and shared by all
 * threads; a loader belongs to one session.
 *
 * Formats, told apart by content:
 *   llm.c  256 int32 of header (magic 20240520, version 1, token count), then uint16 tokens
 *   raw    uint16 or uint32 tokens to the end of the file (nanoGPT): uint16, unless the name ends in ".u32"
 * A source is one path or a glob; its files, sorted by name, are read as one sequence of samples.
 *
 * Sample i of a file is tokens i*T .. i*T+T: T inputs and T targets, one token shared with the next sample.
 * A sample never crosses files. Step k (from 0) of a run with global batch G takes positions k*G .. k*G+G-1 of an endless
 * order: position p is sample p mod S of epoch p div S, permuted by (seed, epoch) when shuffled. Micro-batch j of rank r is
 * G-positions (j*ranks + r)*micro_batch ...: which samples make up step k does not depend on the number of ranks.
 */
#ifndef MPT_DATA_H
#define MPT_DATA_H

#include <stddef.h>
#include <stdint.h>
#include "log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_data mpt_data_t;

typedef struct mpt_data_params {
    const char *pattern; /* path or glob */
    int64_t sequence;    /* T, tokens per sample */
    int64_t vocab;       /* tokens must be below */
    int shuffled;        /* 0: sequential, every epoch the same */
    uint64_t seed;
    const mpt_log_t *log; /* borrowed */
} mpt_data_params_t;

/** Open every file and check it: exists, whole, known format, at least one sample. @return MPT_OK; MPT_ERR_DATA (logged: file, what, what to do); MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_data_open(const mpt_data_params_t *params, mpt_data_t **data_p);
/** Unmap; NULL is allowed. */
void mpt_data_close(mpt_data_t *data);
/** Samples in one epoch. */
int64_t mpt_data_samples(const mpt_data_t *data);
/** Tokens in all files. */
int64_t mpt_data_tokens(const mpt_data_t *data);
/**
 * A hash of the data (XXH3, 64 bits): of each file's length, of 1024 tokens at both of its ends, and of 64 pieces of up to 1024 spread evenly over
 * all files. The same for tokens stored with 16 and 32 bits. Other text, or the same cut into other files, has another hash; what differs only
 * between the pieces does not show. Taken when the files were opened: one or two pages are read for each piece.
 */
uint64_t mpt_data_hash(const mpt_data_t *data);
/**
 * Copy `count` samples from position `first` of the endless order on: inputs and targets, [count,T] each.
 * Every token is checked. @return MPT_OK; MPT_ERR_DATA: a token at or beyond vocab (logged: file, offset, token), outputs undefined.
 */
mpt_status_t mpt_data_read(mpt_data_t *data, int64_t first, int64_t count, uint32_t *inputs,
                           uint32_t *targets);
/** Ask the system to read those samples' pages soon. Never fails. */
void mpt_data_prefetch(mpt_data_t *data, int64_t first, int64_t count);

#define MPT_DATA_MAX_PARTS 2

/** What becomes one llm.c token file. */
typedef struct mpt_data_part {
    const char *path;
    const uint16_t *tokens; /* [count] */
    int64_t count;
} mpt_data_part_t;

/**
 * Write up to MPT_DATA_MAX_PARTS token files, whole (aside, synced, renamed): all of them, or none. force: files that exist are
 * replaced. @return MPT_OK; MPT_ERR_CONFIG: one exists, and no `force`, or is no regular file; MPT_ERR_IO. Logged.
 */
mpt_status_t mpt_data_write(const mpt_data_part_t *parts, int count, int force, const mpt_log_t *log);

#ifdef __cplusplus
}
#endif
#endif
