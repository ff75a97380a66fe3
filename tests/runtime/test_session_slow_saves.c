/*
 * Disks that take longer than comm.timeout_s: a rank that writes, or rank 0 while it commits, keeps the others waiting, and the
 * run goes on all the same.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

#include "session_fixture.h"

#define TIMEOUT "comm.timeout_s=3" /* in which every step ends, on a busy machine too */
#define SLOW_S 5

/* A file by the end of its path; "": none. Set while no session is open. The next of its syncs fails, or takes long. */
static char hooked[64];
static atomic_int failures, delays;

/* In the place of libc's. */
int fsync(int fd)
{
    char link[32], path[FIXTURE_PATH] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    size_t length = strlen(hooked);
    int is_hooked = length > 0 && n >= (ssize_t)length && strcmp(path + n - length, hooked) == 0;
    if (is_hooked && atomic_exchange(&delays, 0))
        nanosleep(&(struct timespec){.tv_sec = SLOW_S}, NULL);
    if (is_hooked && atomic_exchange(&failures, 0)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static void expect_saved(const char *file, const char *async)
{
    int64_t steps[8];
    snprintf(hooked, sizeof hooked, "%s", file);
    atomic_store(&delays, 1);
    fixture_remove("run");
    fixture_run_t *run = fixture_expect((fixture_job_t){.ranks = 2,
                                                        .set = {"train.steps=200", "checkpoint.every=100", async, TIMEOUT}},
                                        MPT_OK);
    assert_int_equal(atomic_load(&delays), 0);
    assert_int_equal(run->errors, 0);
    assert_int_equal(run->steps, 200);
    assert_int_equal(run->checkpoints, 2);
    assert_int_equal(mpt_checkpoint_list("run", steps, 8), 2);
    assert_int_equal(steps[1], 100);
    fixture_free(run);
}

static void a_rank_may_write_for_longer_than_the_timeout(void **state)
{
    (void)state;
    expect_saved("/rank-00001.bin", "checkpoint.async=false");
    expect_saved("/rank-00001.bin", "checkpoint.async=true");
}

static void rank_0_may_commit_for_longer_than_the_timeout(void **state)
{
    (void)state;
    expect_saved("/meta", "checkpoint.async=false");
    expect_saved("/meta", "checkpoint.async=true");
}

static void a_commit_that_fails_is_said(void **state)
{
    static const char *const saves[] = {"checkpoint.async=false", "checkpoint.async=true"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        int64_t steps[8];
        snprintf(hooked, sizeof hooked, "/meta");
        atomic_store(&failures, 1);
        fixture_remove("run");
        fixture_run_t *run = fixture_expect(
            (fixture_job_t){.ranks = 2, .set = {"train.steps=12", "checkpoint.every=5", "checkpoint.keep=9", saves[i]}}, MPT_OK);
        assert_int_equal(run->failures, 1);
        assert_int_equal(run->checkpoints, 2);
        assert_int_equal(run->steps, 12);
        assert_non_null(strstr(run->log, "cannot commit run/step-00000005"));
        assert_int_equal(mpt_checkpoint_list("run", steps, 8), 2);
        assert_int_equal(steps[1], 10);
        fixture_free(run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_may_write_for_longer_than_the_timeout),
        cmocka_unit_test(rank_0_may_commit_for_longer_than_the_timeout),
        cmocka_unit_test(a_commit_that_fails_is_said),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
