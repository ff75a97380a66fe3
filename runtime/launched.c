#include "config.h"
#include "mpt_mpi.h"

int mpt_launched_by_mpi(void)
{
    return mpt_environment_launched_by_mpi();
}
