/*
 * Runs one function on several ranks: threads of this process, or processes forked from it. Each rank gets a device, a
 * communicator and a log that is kept for the test to read.
 */
#ifndef PARTY_H
#define PARTY_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "comm.h"
#include "pool.h"

#ifndef PARTY_MAX_RANKS
#define PARTY_MAX_RANKS 16
#endif
#define PARTY_LOG_BYTES 4096
#define PARTY_SLOT_BYTES 1024

enum { PARTY_NOT_RUN = -1, PARTY_NO_COMM = -2, PARTY_KILLED = -3 };

typedef struct party_rank {
    mpt_comm_t *comm;
    mpt_device_t *device;
    mpt_log_t log;
    char *said; /* what this rank logged */
    int rank;
} party_rank_t;

typedef struct party {
    int ranks;
    const char *backend;
    double timeout_s;
    int pool_threads; /* of each rank; 0: no pool */
    int processes;    /* 1: fork, 0: threads */
    int (*body)(party_rank_t *rank);
} party_t;

/* Shared by all ranks, also over fork. */
typedef struct party_table {
    char said[PARTY_MAX_RANKS][PARTY_LOG_BYTES];
    int result[PARTY_MAX_RANKS]; /* of body, or PARTY_... */
    char slots[PARTY_MAX_RANKS][PARTY_SLOT_BYTES];
    uint32_t arrived[PARTY_MAX_RANKS];
} party_table_t;

static inline void party_hear(void *ctx, mpt_log_level_t level, const char *line)
{
    (void)level;
    char *said = ctx;
    size_t used = strlen(said);
    snprintf(said + used, PARTY_LOG_BYTES - used, "%s\n", line);
}

/* ---- a boot over shared pages, for forked ranks ----------------------------------------------------- */

static inline void party_meet(mpt_boot_t *boot)
{
    party_table_t *table = boot->impl;
    uint32_t mine = __atomic_add_fetch(&table->arrived[boot->rank], 1, __ATOMIC_SEQ_CST);
    for (int r = 0; r < boot->ranks; r++)
        while (__atomic_load_n(&table->arrived[r], __ATOMIC_SEQ_CST) < mine)
            sched_yield();
}

static inline mpt_status_t party_exchange(mpt_boot_t *boot, const void *send, void *recv,
                                          size_t bytes)
{
    party_table_t *table = boot->impl;
    if (bytes > PARTY_SLOT_BYTES)
        return MPT_ERR_COMM;
    memcpy(table->slots[boot->rank], send, bytes);
    party_meet(boot);
    for (int r = 0; r < boot->ranks; r++)
        memcpy((char *)recv + (size_t)r * bytes, table->slots[r], bytes);
    party_meet(boot);
    return MPT_OK;
}

static inline void party_boot_destroy(mpt_boot_t *boot)
{
    free(boot);
}

static inline mpt_boot_t *party_boot(party_table_t *table, int rank, int ranks)
{
    static const mpt_boot_ops_t ops = {"pages", party_exchange, party_boot_destroy};
    mpt_boot_t *boot = malloc(sizeof *boot);
    if (boot)
        *boot = (mpt_boot_t){.ops = &ops,
                             .rank = rank,
                             .ranks = ranks,
                             .local_rank = rank,
                             .local_ranks = ranks,
                             .impl = table};
    return boot;
}

/* ---- one rank ------------------------------------------------------------------------------------------ */

typedef struct party_seat {
    const party_t *party;
    party_table_t *table;
    mpt_boot_t *boot;
    int rank;
} party_seat_t;

static inline int party_with_comm(const party_seat_t *seat, party_rank_t *rank)
{
    const party_t *party = seat->party;
    size_t scratch_bytes = mpt_comm_scratch_bytes(party->backend, party->ranks);
    void *scratch = scratch_bytes ? aligned_alloc(64, scratch_bytes) : NULL;
    mpt_comm_params_t params = {.backend = party->backend,
                                .boot = seat->boot,
                                .device = rank->device,
                                .log = &rank->log,
                                .timeout_s = party->timeout_s,
                                .yield = 1,
                                .scratch = scratch};
    int result = PARTY_NO_COMM;
    if (mpt_comm_create(&params, &rank->comm) == MPT_OK) {
        result = party->body(rank);
        mpt_comm_destroy(rank->comm);
    }
    free(scratch);
    return result;
}

static inline void *party_sit(void *argument)
{
    const party_seat_t *seat = argument;
    char *said = seat->table->said[seat->rank];
    party_rank_t rank = {
        .rank = seat->rank,
        .said = said,
        .log = {.level = MPT_LOG_DEBUG, .rank = -1, .sink = party_hear, .ctx = said}};
    mpt_pool_t *pool = NULL;
    mpt_pool_params_t pool_params = {.threads = seat->party->pool_threads, .yield = 1};
    if (seat->party->pool_threads && mpt_pool_create(&pool_params, &pool) != MPT_OK)
        abort();
    if (mpt_device_cpu_create(pool, &rank.log, &rank.device) != MPT_OK)
        abort();
    seat->table->result[seat->rank] = party_with_comm(seat, &rank);
    mpt_device_destroy(rank.device);
    mpt_pool_destroy(pool);
    mpt_boot_destroy(seat->boot);
    return NULL;
}

/* ---- all ranks ------------------------------------------------------------------------------------------- */

static inline void party_run_threads(const party_t *party, party_table_t *table)
{
    mpt_boot_t *boots[PARTY_MAX_RANKS];
    pthread_t threads[PARTY_MAX_RANKS];
    party_seat_t seats[PARTY_MAX_RANKS];
    if (mpt_boot_threads_create(party->ranks, boots) != MPT_OK)
        abort();
    for (int r = 0; r < party->ranks; r++) {
        seats[r] = (party_seat_t){party, table, boots[r], r};
        pthread_create(&threads[r], NULL, party_sit, &seats[r]);
    }
    for (int r = 0; r < party->ranks; r++)
        pthread_join(threads[r], NULL);
}

static inline void party_run_processes(const party_t *party, party_table_t *table)
{
    pid_t children[PARTY_MAX_RANKS];
    fflush(NULL);
    for (int r = 0; r < party->ranks; r++) {
        children[r] = fork();
        if (children[r] == 0) {
            party_seat_t seat = {party, table, party_boot(table, r, party->ranks), r};
            party_sit(&seat);
            fflush(NULL);
            _exit(0);
        }
    }
    for (int r = 0; r < party->ranks; r++) {
        int status = 0;
        waitpid(children[r], &status, 0);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
            table->result[r] = PARTY_KILLED;
        else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            table->result[r] = PARTY_NOT_RUN; /* a crash, or what a sanitizer found */
    }
}

/** Run; the table is zeroed first. Free it with munmap(table, sizeof *table). */
static inline party_table_t *party_run(const party_t *party)
{
    party_table_t *table =
        mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        abort();
    for (int r = 0; r < PARTY_MAX_RANKS; r++)
        table->result[r] = PARTY_NOT_RUN;
    if (party->processes)
        party_run_processes(party, table);
    else
        party_run_threads(party, table);
    return table;
}

/* Run a party in which every rank's body must return 0. */
static inline void assert_party(const party_t *party)
{
    party_table_t *table = party_run(party);
    for (int r = 0; r < party->ranks; r++) {
        if (table->result[r] != 0)
            print_error("rank %d of %d: %d\n%s", r, party->ranks, table->result[r], table->said[r]);
        assert_int_equal(table->result[r], 0);
    }
    munmap(table, sizeof *table);
}

#endif
