#include "mpt.h"

const char *mpt_version(void)
{
    return MPT_VERSION;
}
