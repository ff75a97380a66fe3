/* Ranks as processes hand each other their memory within what `ulimit -n` allows: the kernel counts the descriptors that are
 * under way by user. Who may raise limits is not held to it, so the ranks here are nobody's. */
#define PARTY_MAX_RANKS 40
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <grp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include "party.h"

#define NOBODY 65534

enum { OTHERWISE = 1, SKIPPED = 77 };

static int skipped;

static int set_limit(rlim_t files)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < files))
        return -1;
    limit.rlim_cur = files;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

static int send_one(int link, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.space = {0}};
    char byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(link, &message, MSG_DONTWAIT) == 1 ? 0 : errno;
}

/* Does this kernel refuse this user a descriptor more under way than its limit? */
static int is_held(void)
{
    enum { FILES = 32 };
    int pair[2], error = 0;
    if (set_limit(FILES) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
        return 0;
    for (int i = 0; i < FILES + 8 && !error; i++)
        error = send_one(pair[0], pair[0]);
    close(pair[0]);
    close(pair[1]);
    return error == ETOOMANYREFS;
}

/* In a child: give up what root may do, run the ranks under a limit. */
static int run_as_nobody(const party_t *party, rlim_t files, int (*check)(const party_t *, const party_table_t *))
{
    if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY)))
        return SKIPPED;
    if (!is_held() || set_limit(files))
        return SKIPPED;
    party_table_t *table = party_run(party);
    int wrong = check(party, table);
    munmap(table, sizeof *table);
    return wrong ? OTHERWISE : 0;
}

static void check_as_nobody(const party_t *party, rlim_t files, int (*check)(const party_t *, const party_table_t *))
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int result = run_as_nobody(party, files, check);
        fflush(NULL);
        _exit(result);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == SKIPPED) {
        print_message("no user without rights, or it is not held to ulimit -n here\n");
        skipped = 1;
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- more ranks than may all send at once ------------------------------------------------------------------- */

static int sum_registered(mpt_comm_t *comm, mpt_device_t *device)
{
    enum { COUNT = 10000 };
    mpt_mem_t mem;
    void *handle = NULL;
    if (device->ops->mem_alloc(device, MPT_MEM_PEER, COUNT * sizeof(float), &mem) != MPT_OK)
        return 1;
    int wrong = mpt_comm_register(comm, &mem, &handle) != MPT_OK || !handle;
    float *values = mem.ptr;
    for (int i = 0; i < COUNT; i++)
        values[i] = (float)(comm->rank + i % 7);
    wrong += wrong || mpt_comm_all_reduce(comm, values, values, COUNT, MPT_F32, NULL) != MPT_OK;
    for (int i = 0; i < COUNT; i++)
        wrong += !(values[i] == (float)(comm->ranks * (comm->ranks - 1) / 2 + comm->ranks * (i % 7)));
    mpt_comm_deregister(comm, handle);
    device->ops->mem_free(device, &mem);
    return wrong;
}

/* The communicator, and halves of it that are set up at the same time. */
static int sum_and_split(party_rank_t *rank)
{
    mpt_comm_t *child = NULL;
    int wrong = sum_registered(rank->comm, rank->device);
    wrong += mpt_comm_split(rank->comm, rank->rank % 2, 0, &child) != MPT_OK;
    wrong += !child || sum_registered(child, rank->device);
    mpt_comm_destroy(child);
    return wrong;
}

static int all_is_well(const party_t *party, const party_table_t *table)
{
    int wrong = 0;
    for (int r = 0; r < party->ranks; r++) {
        wrong += table->result[r] != 0;
        if (table->result[r] != 0)
            fprintf(stderr, "rank %d of %d: %d\n%s", r, party->ranks, table->result[r], table->said[r]);
    }
    return wrong;
}

static void more_ranks_than_files_may_be_under_way_share_memory(void **state)
{
    (void)state;
    const party_t party = {
        .ranks = 40, .backend = "shm", .timeout_s = 60, .processes = 1, .body = sum_and_split};
    check_as_nobody(&party, 1024, all_is_well); /* 40 * 39 under way would be more */
}

/* ---- what a lower limit forbids ------------------------------------------------------------------------------ */

static int never_run(party_rank_t *rank)
{
    (void)rank;
    return 0;
}

static int all_are_refused_and_told_why(const party_t *party, const party_table_t *table)
{
    int refused = 0, told = 0;
    for (int r = 0; r < party->ranks; r++) {
        refused += table->result[r] == PARTY_NO_COMM;
        told += strstr(table->said[r], "passing memory to a rank of this host: ") != NULL &&
                strstr(table->said[r], " (ulimit -n is 64)") != NULL;
    }
    if (refused != party->ranks || told < 1)
        fprintf(stderr, "%d of %d refused, %d told why; rank 0: %s", refused, party->ranks, told, table->said[0]);
    return refused != party->ranks || told < 1;
}

static void a_limit_that_is_too_low_is_named(void **state)
{
    (void)state;
    const party_t party = {
        .ranks = 20, .backend = "shm", .timeout_s = 60, .processes = 1, .body = never_run};
    check_as_nobody(&party, 64, all_are_refused_and_told_why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_ranks_than_files_may_be_under_way_share_memory),
        cmocka_unit_test(a_limit_that_is_too_low_is_named),
    };
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    return failures == 0 && skipped ? SKIPPED : failures;
}
