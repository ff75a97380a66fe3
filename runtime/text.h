/*
 * Text to tokens and back. One tokeniser today, "bytes": token = byte, vocabulary 256. Stateless, thread-safe.
 */
#ifndef MPT_TEXT_H
#define MPT_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include "log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_text_ops {
    const char *name; /* "bytes" */
    int64_t vocab;
    /* Encode `bytes` bytes; tokens has room for `capacity`. Returns the number of tokens, or -1: no room. */
    int64_t (*encode)(const char *text, size_t bytes, uint32_t *tokens, int64_t capacity);
    /* Decode `count` tokens; a token outside the vocabulary becomes '?'. Returns bytes written, or -1: no room. */
    int64_t (*decode)(const uint32_t *tokens, int64_t count, char *text, size_t capacity);
} mpt_text_ops_t;

/** The tokeniser of that name, or NULL. */
const mpt_text_ops_t *mpt_text_find(const char *name);
/** The tokeniser for a model's vocabulary: "bytes" for 256, else NULL. */
const mpt_text_ops_t *mpt_text_for_vocab(int64_t vocab);

#ifdef __cplusplus
}
#endif
#endif
