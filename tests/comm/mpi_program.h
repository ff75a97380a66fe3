/*
 * What the test programs under mpirun share: one rank with a boot, a device and a log that is kept; bodies that run on
 * a communicator and return the number of failures.
 */
#ifndef MPI_PROGRAM_H
#define MPI_PROGRAM_H

#include <mpi.h>
#include <unistd.h>
#include "boot_mpi.h"
#include "conformance.h"

typedef struct program {
    mpt_boot_t *boot;
    mpt_device_t *device;
    mpt_log_t log;
    char said[4096];
    int errors; /* lines at level error */
} program_t;

static inline void program_hear(void *ctx, mpt_log_level_t level, const char *line)
{
    program_t *program = ctx;
    size_t used = strlen(program->said);
    program->errors += level == MPT_LOG_ERROR;
    snprintf(program->said + used, sizeof program->said - used, "%s\n", line);
}

static inline int says(const program_t *program, const char *words)
{
    return strstr(program->said, words) != NULL;
}

/* Lines at level error of all ranks together. Collective. */
static inline int errors_of_all(const program_t *program)
{
    int all = 0;
    MPI_Allreduce(&program->errors, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    return all;
}

static inline void program_open(program_t *program, int *argc, char ***argv)
{
    int provided;
    MPI_Comm world = MPI_COMM_WORLD;
    *program = (program_t){
        .log = {.level = MPT_LOG_DEBUG, .rank = -1, .sink = program_hear, .ctx = program}};
    MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided);
    if (mpt_boot_mpi_create(&world, &program->log, &program->boot) != MPT_OK ||
        mpt_device_cpu_create(NULL, &program->log, &program->device) != MPT_OK)
        MPI_Abort(world, 2);
}

/* Rank 0 prints "NAME: ok RANKS" where no rank had a failure. Returns the exit code. */
static inline int program_close(program_t *program, const char *name, int wrong)
{
    int all_wrong = 0;
    MPI_Allreduce(&wrong, &all_wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (program->boot->rank == 0 && !all_wrong)
        printf("%s: ok %d\n", name, program->boot->ranks);
    mpt_device_destroy(program->device);
    mpt_boot_destroy(program->boot);
    MPI_Finalize();
    return all_wrong != 0;
}

/* The body has `timeout_s` of patience; until it begins, all have more. */
static inline int with_backend(program_t *program, const char *backend, double timeout_s,
                               int (*body)(program_t *program, mpt_comm_t *comm))
{
    size_t bytes = mpt_comm_scratch_bytes(backend, program->boot->ranks);
    void *scratch = bytes ? aligned_alloc(64, bytes) : NULL;
    mpt_comm_params_t params = {.backend = backend,
                                .boot = program->boot,
                                .yield = 1,
                                .device = program->device,
                                .log = &program->log,
                                .timeout_s = 60,
                                .scratch = scratch};
    mpt_comm_t *comm = NULL;
    int wrong = mpt_comm_create(&params, &comm) != MPT_OK;
    if (!wrong) {
        comm->timeout_s = timeout_s;
        wrong = body(program, comm) +
                (comm->held_bytes != mpt_comm_own_bytes(backend, comm->ranks, program->boot->local_ranks));
    }
    mpt_comm_destroy(comm);
    free(scratch);
    if (wrong)
        fprintf(stderr, "rank %d, %s: %d failures; log:\n%s", program->boot->rank, backend, wrong,
                program->said);
    return wrong;
}

/* ---- bodies ------------------------------------------------------------------------------------------- */

static inline int conform(program_t *program, mpt_comm_t *comm)
{
    return conformance_run(comm, program->device);
}

static inline int last_aborts(program_t *program, mpt_comm_t *comm)
{
    char words[64];
    float value = 1;
    mpt_status_t status = mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL);
    if (comm->rank == comm->ranks - 1) {
        mpt_comm_abort(comm, "enough");
        return status != MPT_OK;
    }
    while (!status) /* at once, where the last rank was done with the first call before this one */
        status = mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL);
    snprintf(words, sizeof words, "rank %d gave up: aborted: enough", comm->ranks - 1);
    return (status != MPT_ERR_COMM) + !says(program, words) + !says(program, ": all_reduce: ") +
           (mpt_comm_poll(comm) != MPT_ERR_COMM);
}

static inline int last_is_late(program_t *program, mpt_comm_t *comm)
{
    char words[64];
    int64_t record[8] = {0}, records[8 * SUITE_MAX_RANKS];
    snprintf(words, sizeof words, "no sign of rank %d for %.1f s", comm->ranks - 1, comm->timeout_s);
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

#endif
