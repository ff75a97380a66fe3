/*
 * Disks that take longer than comm.timeout_s: a rank that writes, or rank 0 while it commits, keeps the others waiting, and the
 * run goes on all the same.
 */
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

#include "session_fixture.h"

#define TIMEOUT "comm.timeout_s=0.5"
#define SLOW_S 2

/* The file whose syncing takes long, by the end of its path; "": none. Set while no session is open. */
static char slow[64];
static atomic_int slowed;

/* In the place of libc's. */
int fsync(int fd)
{
    char link[32], path[FIXTURE_PATH] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    size_t length = strlen(slow);
    if (length > 0 && n >= (ssize_t)length && strcmp(path + n - length, slow) == 0) {
        atomic_fetch_add(&slowed, 1);
        nanosleep(&(struct timespec){.tv_sec = SLOW_S}, NULL);
    }
    return (int)syscall(SYS_fsync, fd);
}

static void expect_saved(const char *file, const char *async)
{
    int64_t steps[8];
    snprintf(slow, sizeof slow, "%s", file);
    atomic_store(&slowed, 0);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 2,
                                                        .set = {"train.steps=30", "checkpoint.every=15", async, TIMEOUT}},
                                        MPT_OK);
    assert_int_equal(atomic_load(&slowed), 2);
    assert_int_equal(run->errors, 0);
    assert_int_equal(run->steps, 30);
    assert_int_equal(run->checkpoints, 2);
    assert_int_equal(mpt_checkpoint_list("run", steps, 8), 2);
    assert_int_equal(steps[1], 15);
    fixture_free(run);
}

static void a_rank_may_write_for_longer_than_the_timeout(void **state)
{
    (void)state;
    expect_saved("/rank-00001.bin", "checkpoint.async=false");
    expect_saved("/rank-00001.bin", "checkpoint.async=true");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_may_write_for_longer_than_the_timeout),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
