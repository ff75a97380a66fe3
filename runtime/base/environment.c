#include "config_table.h"

#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(mpt_environment_t, field), sizeof(((mpt_environment_t *)0)->field)

static const mpt_config_variable_t variables[] = {
    {"MPT_ISA", AT(isa_cap),
     "highest instruction level to use: `portable`, `avx2`, `avx512`, `avx512_bf16` or `amx`; "
     "empty: no cap"},
    {"MPT_COMM", AT(comm), "communication backend: `self`, `mpi`, `shm` or `hier`; empty: chosen at start"},
    {"MPT_KERNELS", AT(kernels), "kernels: `cpu`, or `ref` for the plain-C oracle; empty: `cpu`"},
    {"MPT_INJECT", AT(inject),
     "a fault for tests, as `overflow:rank=1,step=3,tensor=wte.weight,element=5,micro=0`; empty: none"},
    {"MPT_MEMORY", AT(memory),
     "bytes that a rank may hold, with `K`, `M`, `G` or `T` (1024s), as a scheduler grants them: a run whose plan is larger does not start; empty: no cap"},
    {"MPT_LOG", AT(log_level), "lines to log: `error`, `warn`, `info` or `debug`; empty: `info`"},
};

int mpt_config_variable_count(void)
{
    return (int)(sizeof variables / sizeof *variables);
}

const mpt_config_variable_t *mpt_config_variable(int index)
{
    return &variables[index];
}

void mpt_environment_read(mpt_environment_t *environment_p)
{
    memset(environment_p, 0, sizeof *environment_p);
    for (int i = 0; i < mpt_config_variable_count(); i++) {
        const mpt_config_variable_t *variable = &variables[i];
        const char *value = getenv(variable->name);
        if (value)
            snprintf((char *)environment_p + variable->offset, variable->bytes, "%s", value);
    }
}

int mpt_environment_launched_by_mpi(void)
{
    /* Set by Open MPI's mpirun; by any PMIx server (srun --mpi=pmix, prrte); by PMI-1 and 2 servers. */
    static const char *const marks[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (getenv(marks[i]) != NULL)
            return 1;
    return 0;
}
