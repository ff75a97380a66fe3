/* The hier backend under mpirun, on hosts that are made up: the boot says that every LOCAL consecutive ranks share one.
 * Run by test_comm_hier.sh; alone it is one rank, which is a skip. Arguments: what to do, LOCAL. Prints one line
 * "comm_hier: ok RANKS" when all is well; exits 1 otherwise. */
#include <signal.h>
#include <sys/mman.h>
#include "hier.h"
#include "mpi_program.h"
#include "runtime/session_fixture.h"

static void make_up_hosts(mpt_boot_t *boot, int local)
{
    boot->local_ranks = local;
    boot->local_rank = boot->rank % local;
    boot->even_hosts = boot->ranks % local == 0;
}

/* ---- what it refuses ---------------------------------------------------------------------------------- */

static mpt_status_t try_create(program_t *program)
{
    static _Alignas(64) char scratch[8 << 20];
    mpt_comm_t *comm = NULL;
    mpt_status_t status = mpt_comm_create(&(mpt_comm_params_t){.backend = "hier",
                                                               .boot = program->boot,
                                                               .log = &program->log,
                                                               .timeout_s = 60,
                                                               .scratch = scratch},
                                          &comm);
    mpt_comm_destroy(comm);
    return status;
}

/* One rank a host; one host; hosts of 1 and of 3; of 2 whose ranks take turns: all ranks refuse together. */
static int refuse(program_t *program)
{
    mpt_boot_t *boot = program->boot;
    make_up_hosts(boot, 1);
    int wrong = try_create(program) != MPT_ERR_INVALID_ARG;
    wrong += !says(program, "backend hier serves two hosts or more");
    make_up_hosts(boot, boot->ranks);
    wrong += try_create(program) != MPT_ERR_INVALID_ARG;
    boot->local_ranks = boot->rank == 0 ? 1 : boot->ranks - 1;
    boot->local_rank = boot->rank == 0 ? 0 : boot->rank - 1;
    wrong += try_create(program) != MPT_ERR_INVALID_ARG;
    make_up_hosts(boot, 2);
    boot->local_rank = boot->rank / 2 % 2;
    wrong += try_create(program) != MPT_ERR_INVALID_ARG;
    boot->local_ranks = 0;
    wrong += try_create(program) != MPT_ERR_INVALID_ARG;
    make_up_hosts(boot, 2);
    return wrong + (try_create(program) != MPT_OK);
}

/* ---- splits: who gets what ------------------------------------------------------------------------------- */

static int child_is(mpt_comm_t *comm, int color, int key, const char *name, int ranks)
{
    mpt_comm_t *child = NULL;
    int wrong = mpt_comm_split(comm, color, key, &child) != MPT_OK;
    if (wrong || !child)
        return wrong + (name != NULL);
    wrong += strcmp(child->ops->name, name) != 0 || child->ranks != ranks;
    for (int64_t round = 1; round < 4; round++) {
        float value = (float)round * 0.5f;
        wrong += mpt_comm_all_reduce(child, &value, &value, 1, MPT_F32, NULL) != MPT_OK;
        wrong += !(value == (float)round * 0.5f * (float)ranks);
    }
    mpt_comm_destroy(child);
    if (wrong)
        fprintf(stderr, "rank %d: color %d key %d is no %s of %d\n", comm->rank, color, key, name,
                ranks);
    return wrong;
}

static int split_by_place(program_t *program, mpt_comm_t *comm)
{
    const int local = program->boot->local_ranks, hosts = comm->ranks / local;
    const int host = comm->rank / local, lane = comm->rank % local;
    int wrong = child_is(comm, host, comm->rank, "shm", local);
    wrong += child_is(comm, lane, comm->rank, "mpi", hosts);
    wrong += child_is(comm, comm->rank, 0, "self", 1);
    wrong += child_is(comm, 0, -comm->rank, "hier", comm->ranks);
    wrong += child_is(comm, 0, lane, "mpi", comm->ranks); /* the hosts' ranks take turns */
    wrong += child_is(comm, lane == 0 ? 0 : -1, 0, lane == 0 ? "mpi" : NULL, hosts);
    if (local > 2) { /* two lanes of every host; all but one rank */
        wrong += child_is(comm, lane / 2, comm->rank, "hier", 2 * hosts);
        wrong += child_is(comm, comm->rank > 0 ? 0 : 1, 0, comm->rank > 0 ? "mpi" : "self",
                          comm->rank > 0 ? comm->ranks - 1 : 1);
    }
    /* Backends side by side: the first host's ranks among themselves, the others together. */
    if (hosts > 2)
        wrong += child_is(comm, host > 0, 0, host > 0 ? "hier" : "shm",
                          host > 0 ? comm->ranks - local : local);
    return wrong;
}

/* A child of `count` ranks, of which every host holds `local`, and what it takes. */
static int child_takes(mpt_comm_t *comm, int color, int count, int local)
{
    mpt_comm_t *child = NULL;
    int wrong = mpt_comm_split(comm, color, comm->rank, &child) != MPT_OK;
    wrong = wrong || child->ranks != count || child->held_bytes != mpt_comm_child_bytes("hier", count, local);
    mpt_comm_destroy(child);
    return wrong;
}

/* Groups of consecutive ranks and those of equal place in them, as hsdp has them. */
static int children_take_what_is_planned(program_t *program, mpt_comm_t *comm)
{
    const int local = program->boot->local_ranks;
    int wrong = 0;
    for (int k = 1; k <= comm->ranks && comm->ranks % k == 0; k *= 2) {
        wrong += child_takes(comm, comm->rank / k, k, k < local ? k : local);
        wrong += child_takes(comm, comm->rank % k, comm->ranks / k, k < local ? local / k : 1);
    }
    return wrong;
}

/* ---- failures --------------------------------------------------------------------------------------------- */

/* A child that gives up, in each kind, leaves its parent whole. */
static int break_children(program_t *program, mpt_comm_t *comm)
{
    const int local = program->boot->local_ranks;
    int wrong = 0;
    for (int kind = 0; kind < 3; kind++) {
        mpt_comm_t *child = NULL;
        float value = 1;
        int color = kind == 0 ? comm->rank / local : kind == 1 ? comm->rank % local : 0;
        wrong += mpt_comm_split(comm, color, 0, &child) != MPT_OK;
        if (child->rank == child->ranks - 1)
            mpt_comm_abort(child, "child only");
        mpt_status_t status = MPT_OK;
        while (!status)
            status = mpt_comm_all_reduce(child, &value, &value, 1, MPT_F32, NULL);
        wrong += status != MPT_ERR_COMM;
        wrong += mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL) != MPT_OK;
        mpt_comm_destroy(child);
    }
    return wrong + !says(program, "gave up: aborted: child only") * (comm->rank == 0);
}

/* Once all have returned from their splits, in which they would fail, and before patience begins to run out anywhere. */
static void last_gives_up(mpt_comm_t *comm)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (comm->rank == comm->ranks - 1)
        mpt_comm_abort(comm, "parent gone");
    MPI_Barrier(MPI_COMM_WORLD);
}

/* Who waits long in a child, of whichever kind, hears that a rank gave up on the parent; that is nobody's timeout. */
static int wait_in_children(program_t *program, mpt_comm_t *comm)
{
    const int local = program->boot->local_ranks;
    const int colors[] = {comm->rank / local, comm->rank % local, 0};
    mpt_comm_t *children[3] = {NULL, NULL, NULL};
    int wrong = 0;
    for (int kind = 0; kind < 3; kind++)
        wrong += mpt_comm_split(comm, colors[kind], 0, &children[kind]) != MPT_OK;
    last_gives_up(comm);
    for (int kind = 0; kind < 3 && !wrong; kind++) {
        char byte = 0;
        children[kind]->timeout_s = 1;
        int next = (children[kind]->rank + 1) % children[kind]->ranks;
        wrong += mpt_comm_recv(children[kind], &byte, 1, next, NULL) != MPT_ERR_COMM;
        wrong += mpt_comm_poll(comm) != MPT_ERR_COMM;
    }
    for (int kind = 0; kind < 3; kind++)
        mpt_comm_destroy(children[kind]);
    return wrong + !says(program, "aborted: parent gone");
}

static mpt_status_t poll_for(mpt_comm_t *comm, double seconds)
{
    double start = mpt_comm_now();
    while (mpt_comm_poll(comm) == MPT_OK && mpt_comm_now() - start < seconds)
        usleep(1000);
    return mpt_comm_poll(comm);
}

/* Of a column, over mpi, the first rank waits and so hears that a rank gave up on the parent; the others look at the column
 * alone, and hear of it there. */
static int follow_parent(program_t *program, mpt_comm_t *comm)
{
    mpt_comm_t *child = NULL;
    char byte = 0;
    int wrong = mpt_comm_split(comm, comm->rank % program->boot->local_ranks, 0, &child) != MPT_OK;
    last_gives_up(comm);
    if (wrong)
        return wrong;
    child->timeout_s = 1;
    if (child->rank == 0)
        wrong += mpt_comm_recv(child, &byte, 1, 1, NULL) != MPT_ERR_COMM;
    else
        wrong += (poll_for(child, 10) != MPT_ERR_COMM) + !says(program, "gave up: its parent failed");
    mpt_comm_destroy(child);
    return wrong + !says(program, "gave up: aborted: parent gone") * (comm->rank < program->boot->local_ranks);
}

/* Host 0's ranks share memory that no process has the addresses for; the others' fits. Nobody waits for anybody afterwards. */
static int register_too_much(program_t *program, mpt_comm_t *comm)
{
    const int fails = comm->rank < program->boot->local_ranks;
    const size_t bytes = fails ? (size_t)1 << 47 : 4096;
    mpt_mem_t mem = {program, bytes, MPT_MEM_PEER, memfd_create("mpt-test", 0)};
    void *handle = NULL;
    float value = 1;
    int wrong = mem.fd < 0 || ftruncate(mem.fd, (off_t)bytes) != 0;
    mpt_status_t status = mpt_comm_register(comm, &mem, &handle);
    wrong += fails ? status != MPT_ERR_NO_MEMORY : status != MPT_OK && status != MPT_ERR_COMM;
    double start = mpt_comm_now();
    while (!status)
        status = mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL);
    wrong += !(mpt_comm_now() - start < 20);
    wrong += mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL) != MPT_ERR_COMM;
    mpt_comm_deregister(comm, handle);
    close(mem.fd);
    return wrong + (!fails && !says(program, "gave up: a registration failed"));
}

/* The last rank stops in the middle of large sums; the others are told who, not whom they happened to wait for. */
static int last_stops(program_t *program, mpt_comm_t *comm)
{
    enum { COUNT = 3000000 };
    char words[64];
    float *values = calloc(COUNT, sizeof *values);
    mpt_status_t status = values ? MPT_OK : MPT_ERR_NO_MEMORY;
    for (int round = 0; !status; round++) {
        if (comm->rank == comm->ranks - 1 && round == 2) {
            while (mpt_comm_poll(comm) == MPT_OK)
                usleep(1000);
            break;
        }
        status = mpt_comm_all_reduce(comm, values, values, COUNT, MPT_F32, NULL);
    }
    free(values);
    snprintf(words, sizeof words, "no sign of rank %d for ", comm->ranks - 1);
    return !says(program, words);
}

static void wait_until_across(const mpt_comm_t *comm, int lane)
{
    const hier_t *hier = comm->impl;
    while (mpt_shm_load(&mpt_shm_head(hier->local.impl, lane)->state) != SHM_ACROSS)
        usleep(1000);
}

/* Rank 0 waits for rank 1, which waits for the last rank, on another host, in vain: that one is to be named. Rank 1 gives up
 * after two of its timeouts, 2 s; rank 0 after 1.5 s, did it not wait three times as long for who waits for another host. */
static int wait_in_a_chain(program_t *program, mpt_comm_t *comm)
{
    char byte = 0, words[64];
    const int last = comm->ranks - 1;
    mpt_status_t status = MPT_OK;
    comm->timeout_s = comm->rank == 0 ? 1.5 : 1;
    if (comm->rank == 0)
        wait_until_across(comm, 1);
    if (comm->rank < 2)
        status = mpt_comm_recv(comm, &byte, 1, comm->rank == 0 ? 1 : last, NULL);
    while (!status) {
        usleep(1000);
        status = mpt_comm_poll(comm);
    }
    snprintf(words, sizeof words, "no sign of rank %d for 2.0 s", last);
    return !says(program, words) + says(program, "no sign of rank 1 ");
}

/* Rank 1 is not there until rank 0 sends word, by MPI alone; for ten seconds at most. Returns 1 where it came in vain. */
static int stay_away(void)
{
    int there = 0;
    for (double start = mpt_comm_now(); !there && mpt_comm_now() - start < 10; usleep(1000))
        MPI_Iprobe(0, 0, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
    return !there;
}

/* An abort on another host reaches a rank that waits for its row, though nobody else of the row is there to tell. */
static int hear_while_waiting(program_t *program, mpt_comm_t *comm)
{
    char byte = 0, words[64];
    const int last = comm->ranks - 1;
    int late = 0;
    mpt_status_t status = MPT_OK;
    if (comm->rank == last) {
        usleep(100000);
        mpt_comm_abort(comm, "enough");
        return 0;
    }
    if (comm->rank == 1)
        late = stay_away();
    if (comm->rank == 0) {
        status = mpt_comm_recv(comm, &byte, 1, 1, NULL);
        MPI_Send(&byte, 1, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
    }
    while (!status)
        status = mpt_comm_poll(comm);
    if (comm->rank == 1)
        MPI_Recv(&byte, 1, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    snprintf(words, sizeof words, "rank %d gave up: aborted: enough", last);
    return late + !says(program, words);
}

/* A rank of host 0 and one of the last host name different calls: only their rows can see it. */
static int call_differently(program_t *program, mpt_comm_t *comm)
{
    float a[64] = {0}, b[64 * SUITE_MAX_RANKS];
    mpt_status_t status = MPT_OK;
    while (!status)
        status = comm->rank == 0 ? mpt_comm_all_gather(comm, a, b, sizeof a, NULL)
                                 : mpt_comm_all_reduce(comm, a, a, 3, MPT_F32, NULL);
    return (status != MPT_ERR_COMM) + !says(program, "called ");
}

/* mpirun ends what is left some seconds after a death: say what was seen at once, and go. */
static int last_dies(program_t *program, mpt_comm_t *comm)
{
    char words[64];
    float value = 1;
    mpt_status_t status = MPT_OK;
    comm->what = "unit 3 gradients";
    for (int round = 0; !status; round++) {
        if (comm->rank == comm->ranks - 1 && round == 3)
            raise(SIGKILL);
        status = mpt_comm_all_reduce(comm, &value, &value, 1, MPT_F32, NULL);
    }
    snprintf(words, sizeof words, "rank %d died", comm->ranks - 1);
    if (says(program, words) && says(program, "unit 3 gradients: all_reduce: "))
        printf("rank %d noticed, %d errors\n", comm->rank, program->errors);
    else
        printf("rank %d heard: %s\n", comm->rank, program->said);
    fflush(stdout);
    sleep(5);
    return 0;
}

static int send_short(program_t *program, mpt_comm_t *comm)
{
    char bytes[20] = {0};
    const int last = comm->ranks - 1;
    if (comm->rank == 0)
        return mpt_comm_send(comm, bytes, 19, last, NULL) != MPT_OK;
    if (comm->rank == last)
        return (mpt_comm_recv(comm, bytes, 20, 0, NULL) != MPT_ERR_COMM) +
               !says(program, "recv: rank 0 sent 19 bytes where 20 were to come");
    while (mpt_comm_poll(comm) == MPT_OK)
        usleep(1000);
    return !says(program, "poll: ");
}

/* ---- training --------------------------------------------------------------------------------------------- */

/* Train a few steps; the state of all tensors comes back, to be freed. */
static float *train(program_t *program, const char *backend, const char *const *set,
                    int64_t *count_p)
{
    static fixture_run_t run;
    fixture_job_t job = {.ranks = program->boot->ranks};
    fixture_rank_t rank = {
        .job = &job, .run = &run, .boot = program->boot, .rank = program->boot->rank};
    float *state = NULL;
    for (int i = 0; set[i] != NULL; i++)
        job.set[i] = set[i];
    pthread_mutex_init(&run.lock, NULL);
    setenv("MPT_COMM", backend, 1);
    if (fixture_open_session(&rank) == MPT_OK) {
        mpt_session_info_t info;
        mpt_session_info(rank.session, &info);
        if (mpt_session_train(rank.session, &(mpt_train_hooks_t){0}) == MPT_OK &&
            info.held_bytes == info.planned_bytes && strcmp(info.comm, *backend ? backend : "hier") == 0 && (*backend || info.overlap)) /* between hosts it pays */
            state = fixture_state(rank.session, count_p);
        mpt_session_close(rank.session);
    }
    if (!state)
        fprintf(stderr, "rank %d, %s:\n%s", rank.rank, backend, run.log);
    pthread_mutex_destroy(&run.lock);
    return state;
}

static int same_training(program_t *program, int local, const char *const *set)
{
    mpt_boot_t *boot = program->boot;
    int64_t count = 0, hier_count = 0;
    make_up_hosts(boot, boot->ranks);
    float *shm = train(program, "shm", set, &count);
    make_up_hosts(boot, local);
    float *hier = train(program, "", set, &hier_count); /* chosen at start */
    int wrong = !shm || !hier || count < 1 || count != hier_count ||
                memcmp(shm, hier, (size_t)count * sizeof *shm) != 0;
    if (wrong)
        fprintf(stderr, "rank %d: %s: hier and shm differ\n", boot->rank, set[0]);
    free(hier);
    free(shm);
    return wrong;
}

static int train_the_same(program_t *program, int local)
{
    static const char *const runs[][8] = {
        {"precision.compute=bf16", "train.steps=4", NULL},
        {"precision.compute=fp16", "parallel.shard=zero3", "train.steps=3",
         "parallel.reduce_every=micro", NULL},
        {"precision.compute=bf16", "parallel.shard=hsdp", "parallel.shard_ranks=2", "train.steps=3",
         NULL},
        {"precision.compute=fp32", "parallel.shard=ddp", "train.steps=3", NULL},
    };
    int wrong = 0;
    if (program->boot->rank == 0)
        fixture_tokens("train.bin", 40000, 11);
    MPI_Barrier(MPI_COMM_WORLD);
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        wrong += same_training(program, local, runs[i]);
    return wrong;
}

/* ---- the whole --------------------------------------------------------------------------------------------- */

/* Of all ranks one logs an error, the others hear of it. */
static int errors_are(const program_t *program, int expected)
{
    int errors = errors_of_all(program), fit = expected < 0 || errors == expected;
    if (!fit)
        fprintf(stderr, "rank %d: %d errors logged, not %d; log:\n%s", program->boot->rank, errors,
                expected, program->said);
    return fit;
}

static int run(program_t *program, const char *mode, int local)
{
    static const struct {
        const char *mode;
        double timeout_s;
        int (*body)(program_t *program, mpt_comm_t *comm);
        int errors; /* lines that all ranks log as errors; -1: not counted */
    } bodies[] = {
        {"conform", 60, conform, -1},        {"split", 60, split_by_place, 0},
        {"take", 60, children_take_what_is_planned, 0},
        {"abort", 60, last_aborts, 0},       {"children", 60, break_children, 0},
        {"parent", 60, wait_in_children, 0}, {"follow", 60, follow_parent, 0},
        {"late", 2, last_is_late, 1},
        {"stop", 2, last_stops, 1},          {"chain", 60, wait_in_a_chain, 1},
        {"hear", 60, hear_while_waiting, 0}, {"differ", 60, call_differently, 1},
        {"die", 60, last_dies, -1},          {"short", 60, send_short, 1},
        {"register", 60, register_too_much, -1},
    };
    make_up_hosts(program->boot, local);
    int wrong = strcmp(mpt_comm_choose(program->boot), "hier") != 0;
    if (strcmp(mode, "refuse") == 0)
        return wrong + refuse(program);
    if (strcmp(mode, "train") == 0)
        return wrong + train_the_same(program, local);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        if (strcmp(mode, bodies[i].mode) == 0) {
            wrong += with_backend(program, "hier", bodies[i].timeout_s, bodies[i].body);
            return wrong + !errors_are(program, bodies[i].errors);
        }
    return 1;
}

int main(int argc, char **argv)
{
    program_t program;
    if (argc < 3)
        return 77;
    program_open(&program, &argc, &argv);
    return program_close(&program, "comm_hier", run(&program, argv[1], atoi(argv[2])));
}
