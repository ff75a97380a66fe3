/*
 * One token file, mapped: its format found out and checked. Internal to data. Not changed after
 * opening, so that threads may share it; whoever opened it closes it. Cutting a file short while it
 * is mapped ends the process.
 */
#ifndef MPT_DATA_FILE_H
#define MPT_DATA_FILE_H

#include "data.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_DATA_MAGIC 20240520
#define MPT_DATA_VERSION 1
#define MPT_DATA_HEADER_BYTES 1024 /* 256 int32: magic, version, tokens, zeros */

typedef struct mpt_data_file {
    char *path;
    void *map;
    size_t bytes;
    const unsigned char *tokens;
    int token_bytes; /* 2 or 4 */
    int64_t count;   /* tokens */
} mpt_data_file_t;

/** Map a file and check it. @return MPT_OK; MPT_ERR_DATA (logged: file, what, what to do);
 * MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_data_file_open(const char *path, const mpt_log_t *log, mpt_data_file_t *file_p);
/** Unmap. Safe on a zeroed file. */
void mpt_data_file_close(mpt_data_file_t *file);

static inline uint32_t mpt_data_file_token(const mpt_data_file_t *file, int64_t index)
{
    if (file->token_bytes == 2)
        return ((const uint16_t *)(const void *)file->tokens)[index];
    return ((const uint32_t *)(const void *)file->tokens)[index];
}

#ifdef __cplusplus
}
#endif
#endif
