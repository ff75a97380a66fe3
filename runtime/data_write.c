/*
 * Token files, written together: all of them appear, or none.
 */
#include <assert.h>
#include <unistd.h>

#include "aside.h"
#include "data_file.h"

static mpt_status_t check_count(const mpt_data_part_t *part, const mpt_log_t *log)
{
    if (part->count >= 0 && part->count <= INT32_MAX)
        return MPT_OK;
    mpt_log_error(log,
                  "%s: %lld tokens are more than a token file can hold; split them over several"
                  " files, which a glob reads as one",
                  part->path, (long long)part->count);
    return MPT_ERR_IO;
}

static mpt_status_t put(mpt_aside_t *file, const mpt_data_part_t *part)
{
    const int32_t header[MPT_DATA_HEADER_BYTES / 4] = {MPT_DATA_MAGIC, MPT_DATA_VERSION, (int32_t)part->count};
    uint64_t bytes = (uint64_t)part->count * sizeof *part->tokens;
    mpt_status_t status = mpt_aside_put(file, header, sizeof header, 0);
    if (status == MPT_OK)
        status = mpt_aside_put(file, part->tokens, bytes, sizeof header);
    return status == MPT_OK ? mpt_aside_finish(file, sizeof header + bytes) : status;
}

/* Where a later one cannot be renamed, those before it go again; what they replaced under `force` is gone. */
static mpt_status_t place(mpt_aside_t *files, int count)
{
    for (int i = 0; i < count; i++) {
        mpt_status_t status = mpt_aside_place(&files[i]);
        if (status == MPT_OK)
            continue;
        while (--i >= 0)
            unlink(files[i].path);
        return status;
    }
    return MPT_OK;
}

mpt_status_t mpt_data_write(const mpt_data_part_t *parts, int count, int force, const mpt_log_t *log)
{
    mpt_aside_t files[MPT_DATA_MAX_PARTS];
    mpt_status_t status = MPT_OK;
    int opened = 0;
    assert(count <= MPT_DATA_MAX_PARTS);
    for (int i = 0; i < count && status == MPT_OK; i++)
        status = check_count(&parts[i], log);
    for (; opened < count && status == MPT_OK; opened++)
        status = mpt_aside_open(&files[opened], parts[opened].path, force, log);
    for (int i = 0; i < count && status == MPT_OK; i++)
        status = put(&files[i], &parts[i]);
    if (status == MPT_OK)
        status = place(files, count);
    for (int i = 0; i < opened; i++)
        mpt_aside_drop(&files[i]);
    return status;
}
