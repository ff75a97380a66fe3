#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <oneapi/dnnl/dnnl.h>
#include "launch.h"
#include "options.h"

int mpt_cmd_version(int argc, char **argv)
{
    static const mpt_usage_t usage = {
        .command = "mpt-ddp version",
        .arguments = "",
        .about = "Print the version of this program and of the libraries it runs with.",
    };
    int count = 0;
    int code = mpt_options_begin(&usage, argc, argv, &count);
    if (code >= 0)
        return code;
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, ",\n")] = '\0';
    const dnnl_version_t *dnnl = dnnl_version();
    printf("mpt-ddp %s\n%s\noneDNN v%d.%d.%d\n", mpt_version(), mpi, dnnl->major, dnnl->minor,
           dnnl->patch);
    return 0;
}
