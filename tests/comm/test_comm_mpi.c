/* The conformance suite under MPI. Run by test_comm_mpi.sh with 1 to 9 ranks; alone it is one rank. Prints one line
 * "comm_mpi: ok RANKS" when all is well; exits 1 otherwise. Argument "abort": a run in which the last rank aborts;
 * "late": one in which it never arrives. */
#include <mpi.h>
#include <unistd.h>
#include "boot_mpi.h"
#include "conformance.h"

typedef struct program {
    mpt_boot_t *boot;
    mpt_device_t *device;
    mpt_log_t log;
    char said[4096];
} program_t;

static void hear(void *ctx, mpt_log_level_t level, const char *line)
{
    (void)level;
    program_t *program = ctx;
    size_t used = strlen(program->said);
    snprintf(program->said + used, sizeof program->said - used, "%s\n", line);
}

static int with_backend(program_t *program, const char *backend, double timeout_s,
                        int (*body)(program_t *program, mpt_comm_t *comm))
{
    size_t bytes = mpt_comm_scratch_bytes(backend, program->boot->ranks);
    void *scratch = bytes ? aligned_alloc(64, bytes) : NULL;
    mpt_comm_params_t params = {.backend = backend,
                                .boot = program->boot,
                                .yield = 1,
                                .device = program->device,
                                .log = &program->log,
                                .timeout_s = timeout_s,
                                .scratch = scratch};
    mpt_comm_t *comm = NULL;
    int wrong = mpt_comm_create(&params, &comm) != MPT_OK;
    if (!wrong)
        wrong = body(program, comm);
    mpt_comm_destroy(comm);
    free(scratch);
    if (wrong)
        fprintf(stderr, "rank %d, %s: %d failures; log:\n%s", program->boot->rank, backend, wrong,
                program->said);
    return wrong;
}

static int conform(program_t *program, mpt_comm_t *comm)
{
    return conformance_run(comm, program->device);
}

static int says(const program_t *program, const char *words)
{
    return strstr(program->said, words) != NULL;
}

static int last_aborts(program_t *program, mpt_comm_t *comm)
{
    char words[64];
    float value = 1;
    mpt_status_t status = mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL);
    if (status)
        return 1;
    if (comm->rank == comm->ranks - 1) {
        mpt_comm_abort(comm, "enough");
        return 0;
    }
    while (!status)
        status = mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL);
    snprintf(words, sizeof words, "all_reduce: rank %d gave up: aborted: enough", comm->ranks - 1);
    return (status != MPT_ERR_COMM) + !says(program, words);
}

static int last_is_late(program_t *program, mpt_comm_t *comm)
{
    char words[64];
    int64_t record[8] = {0}, records[8 * SUITE_MAX_RANKS];
    snprintf(words, sizeof words, "no sign of rank %d for 0.5 s", comm->ranks - 1);
    comm->what = "record 3";
    if (comm->rank == comm->ranks - 1) {
        while (mpt_comm_poll(comm) == MPT_OK)
            usleep(1000);
        return !says(program, words);
    }
    mpt_status_t status = mpt_comm_all_gather(comm, record, records, sizeof record, NULL);
    return (status != MPT_ERR_COMM) + !says(program, "record 3: all_gather: ") +
           !says(program, words);
}

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
        return with_backend(program, "mpi", 0.5, last_is_late) +
               with_backend(program, "shm", 0.5, last_is_late);
    if (strcmp(mode, "short") == 0)
        return with_backend(program, "mpi", 60, send_short);
    return with_backend(program, "mpi", 60, conform) + with_backend(program, "shm", 60, conform);
}

int main(int argc, char **argv)
{
    int provided, all_wrong = 0;
    program_t program = {.log = {.level = MPT_LOG_DEBUG, .rank = -1, .sink = hear, .ctx = &program}};
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm world = MPI_COMM_WORLD;
    if (mpt_boot_mpi_create(&world, &program.log, &program.boot) != MPT_OK ||
        mpt_device_cpu_create(NULL, &program.log, &program.device) != MPT_OK)
        MPI_Abort(world, 2);
    int wrong = program.boot->local_ranks != program.boot->ranks;
    wrong += run(&program, argc > 1 ? argv[1] : "conform");
    MPI_Allreduce(&wrong, &all_wrong, 1, MPI_INT, MPI_SUM, world);
    if (program.boot->rank == 0 && !all_wrong)
        printf("comm_mpi: ok %d\n", program.boot->ranks);
    mpt_device_destroy(program.device);
    mpt_boot_destroy(program.boot);
    MPI_Finalize();
    return all_wrong != 0;
}
