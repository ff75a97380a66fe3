#include "text.h"

#include <string.h>

#define BYTES_VOCAB 256

static int64_t bytes_encode(const char *text, size_t bytes, uint32_t *tokens, int64_t capacity)
{
    if (capacity < 0 || bytes > (uint64_t)capacity)
        return -1;
    for (size_t i = 0; i < bytes; i++)
        tokens[i] = (unsigned char)text[i];
    return (int64_t)bytes;
}

static int64_t bytes_decode(const uint32_t *tokens, int64_t count, char *text, size_t capacity)
{
    if (count < 0 || (uint64_t)count > capacity)
        return -1;
    for (int64_t i = 0; i < count; i++)
        text[i] = tokens[i] < BYTES_VOCAB ? (char)tokens[i] : '?';
    return count;
}

static const mpt_text_ops_t tokenizers[] = {
    {"bytes", BYTES_VOCAB, bytes_encode, bytes_decode},
};

#define TOKENIZERS ((int)(sizeof tokenizers / sizeof *tokenizers))

const mpt_text_ops_t *mpt_text_find(const char *name)
{
    for (int i = 0; i < TOKENIZERS; i++)
        if (strcmp(tokenizers[i].name, name) == 0)
            return &tokenizers[i];
    return NULL;
}

const mpt_text_ops_t *mpt_text_for_vocab(int64_t vocab)
{
    for (int i = 0; i < TOKENIZERS; i++)
        if (tokenizers[i].vocab == vocab)
            return &tokenizers[i];
    return NULL;
}
