/* The conformance suite under MPI. Run by test_comm_mpi.sh with 1 to 9 ranks; alone it is one rank. Prints one line
 * "comm_mpi: ok RANKS" when all is well; exits 1 otherwise. Argument "abort": a run in which the last rank aborts;
 * "late": one in which it never arrives. */
#include "mpi_program.h"

static int send_short(program_t *program, mpt_comm_t *comm)
{
    char bytes[20] = {0};
    if (comm->rank == 0)
        return mpt_comm_send(comm, bytes, 19, 1, NULL) != MPT_OK;
    if (comm->rank > 1)
        return 0;
    return (mpt_comm_recv(comm, bytes, 20, 0, NULL) != MPT_ERR_COMM) +
           !says(program, "rank 0 sent 19 bytes where 20 were to come");
}

static int run(program_t *program, const char *mode)
{
    if (strcmp(mode, "abort") == 0)
        return with_backend(program, "mpi", 60, last_aborts) +
               with_backend(program, "shm", 60, last_aborts);
    if (strcmp(mode, "late") == 0)
        return with_backend(program, "mpi", 2, last_is_late) +
               with_backend(program, "shm", 2, last_is_late);
    if (strcmp(mode, "short") == 0)
        return with_backend(program, "mpi", 60, send_short);
    return with_backend(program, "mpi", 60, conform) + with_backend(program, "shm", 60, conform);
}

int main(int argc, char **argv)
{
    program_t program;
    program_open(&program, &argc, &argv);
    int wrong = program.boot->local_ranks != program.boot->ranks || !program.boot->even_hosts;
    wrong += run(&program, argc > 1 ? argv[1] : "conform");
    return program_close(&program, "comm_mpi", wrong);
}
