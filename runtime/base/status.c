#include "mpt_status.h"

typedef struct status_row {
    const char *text;
    int exit_code;
} status_row_t;

static const status_row_t status_table[MPT_STATUS_COUNT] = {
    [MPT_OK] = {"ok", 0},
    [MPT_ERR_INVALID_ARG] = {"invalid argument", 4},
    [MPT_ERR_CONFIG] = {"configuration error", 2},
    [MPT_ERR_NO_MEMORY] = {"out of memory", 4},
    [MPT_ERR_DATA] = {"data unusable", 3},
    [MPT_ERR_CHECKPOINT] = {"checkpoint unusable", 3},
    [MPT_ERR_IO] = {"input/output error", 3},
    [MPT_ERR_DEVICE] = {"device failure", 4},
    [MPT_ERR_COMM] = {"communication failure", 4},
    [MPT_ERR_DIVERGED] = {"training diverged", 5},
    [MPT_STOPPED] = {"stopped on request", 75},
};

const char *mpt_status_string(mpt_status_t status)
{
    if ((unsigned)status >= MPT_STATUS_COUNT)
        return "unknown status";
    return status_table[status].text;
}

int mpt_status_exit_code(mpt_status_t status)
{
    if ((unsigned)status >= MPT_STATUS_COUNT)
        return 4;
    return status_table[status].exit_code;
}
