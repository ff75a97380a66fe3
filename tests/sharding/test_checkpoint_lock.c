/*
 * A folder of checkpoints belongs to one run at a time.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "checkpoint.h"
#include "scratch.h"

static int flock_error; /* what the file system answers; 0: as it is */

/* In libc's place. */
int flock(int fd, int operation)
{
    errno = flock_error;
    return flock_error != 0 ? -1 : (int)syscall(SYS_flock, fd, operation);
}

static int lock_good(scratch_t *s, const char *dir, uint64_t run)
{
    int lock = -1;
    scratch_forget(s);
    if (mpt_checkpoint_lock(dir, run, &s->log, &lock) != MPT_OK)
        fail_msg("%s", s->said);
    assert_int_equal(s->lines, 0);
    assert_true(lock >= 0);
    return lock;
}

static void assert_in_use(scratch_t *s, const char *dir, pid_t by)
{
    char process[32];
    int lock = -7;
    scratch_forget(s);
    assert_int_equal(mpt_checkpoint_lock(dir, 99, &s->log, &lock), MPT_ERR_CONFIG);
    assert_int_equal(lock, -7);
    assert_int_equal(s->lines, 1);
    snprintf(process, sizeof process, "(process %ld on ", (long)by);
    assert_non_null(strstr(s->said, dir));
    assert_non_null(strstr(s->said, "is in use by another run"));
    assert_non_null(strstr(s->said, process));
}

static void a_folder_is_one_runs_until_it_is_given_back(void **state)
{
    scratch_t *s = *state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s", scratch_path(s, "new/run")); /* is made */
    int lock = lock_good(s, dir, 1);
    assert_true(fcntl(lock, F_GETFD) & FD_CLOEXEC);
    assert_in_use(s, dir, getpid());
    int other = lock_good(s, scratch_path(s, "new/other"), 2);
    mpt_checkpoint_unlock(lock);
    lock = lock_good(s, dir, 3);
    assert_in_use(s, dir, getpid());
    mpt_checkpoint_unlock(lock);
    mpt_checkpoint_unlock(other);
    mpt_checkpoint_unlock(-1);
}

/* As one that MPI or a library forks: it has the descriptor too, until it ends. */
static void a_child_that_outlives_the_session_does_not_keep_the_folder(void **state)
{
    scratch_t *s = *state;
    int lock = lock_good(s, s->folder, 1);
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    mpt_checkpoint_unlock(lock);
    lock = lock_good(s, s->folder, 2);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    mpt_checkpoint_unlock(lock);
}

static void a_process_that_is_killed_gives_its_folder_back(void **state)
{
    scratch_t *s = *state;
    int ready[2], lock;
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        if (mpt_checkpoint_lock(s->folder, 1, NULL, &lock) == MPT_OK &&
            write(ready[1], "x", 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    assert_in_use(s, s->folder, child);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    mpt_checkpoint_unlock(lock_good(s, s->folder, 2));
}

static void without_locks_the_run_goes_on_with_one_warning(void **state)
{
    scratch_t *s = *state;
    static const int errors[] = {ENOLCK, ENOSYS, EOPNOTSUPP};
    for (int i = 0; i < 3; i++) {
        int lock = -1;
        scratch_forget(s);
        flock_error = errors[i];
        mpt_status_t status = mpt_checkpoint_lock(s->folder, 1, &s->log, &lock);
        if (status == MPT_OK)
            mpt_checkpoint_unlock(lock);
        flock_error = 0;
        assert_int_equal(status, MPT_OK);
        assert_int_equal(s->lines, 1);
        assert_non_null(strstr(s->said, strerror(errors[i])));
    }
}

static void what_cannot_be_locked_is_an_error(void **state)
{
    scratch_t *s = *state;
    int lock = -1;
    flock_error = EIO;
    assert_int_equal(mpt_checkpoint_lock(s->folder, 1, &s->log, &lock), MPT_ERR_IO);
    flock_error = 0;
    assert_non_null(strstr(s->said, s->folder));
    assert_non_null(strstr(s->said, strerror(EIO)));
    scratch_write(scratch_path(s, "file"), "x", 1);
    assert_int_equal(mpt_checkpoint_lock(scratch_path(s, "file"), 1, &s->log, &lock), MPT_ERR_IO);
    assert_int_equal(mkdir(scratch_path(s, "d"), 0777), 0);
    assert_int_equal(symlink(scratch_path(s, "file"), scratch_path(s, "d/mpt-ddp.lock")), 0);
    assert_int_equal(mpt_checkpoint_lock(scratch_path(s, "d"), 1, &s->log, &lock), MPT_ERR_IO);
    char *untouched = scratch_read(scratch_path(s, "file"), NULL);
    assert_string_equal(untouched, "x");
    free(untouched);
    assert_int_equal(lock, -1);
}

static void another_rank_sees_whether_it_is_the_same_folder(void **state)
{
    scratch_t *s = *state;
    char dir[512], link[512], other[512];
    snprintf(dir, sizeof dir, "%s", scratch_path(s, "run"));
    snprintf(link, sizeof link, "%s", scratch_path(s, "link"));
    snprintf(other, sizeof other, "%s", scratch_path(s, "other"));
    int lock = lock_good(s, dir, 5);
    assert_int_equal(symlink(dir, link), 0);
    assert_int_equal(mpt_checkpoint_same_folder(dir, 5, &s->log), MPT_OK);
    assert_int_equal(mpt_checkpoint_same_folder(link, 5, &s->log), MPT_OK);
    assert_int_equal(s->lines, 0);
    for (int there = 0; there < 2; there++) { /* no such folder; one that another run had */
        scratch_forget(s);
        assert_int_equal(mpt_checkpoint_same_folder(other, 5, &s->log), MPT_ERR_CONFIG);
        assert_int_equal(s->lines, 1);
        assert_non_null(strstr(s->said, other));
        assert_non_null(strstr(s->said, "is not the folder that rank 0 saves in"));
        mpt_checkpoint_unlock(lock_good(s, other, 4));
    }
    mpt_checkpoint_unlock(lock);
    mpt_checkpoint_unlock(
        lock_good(s, dir, 6)); /* the next run's number stands in its place whole */
    assert_int_equal(mpt_checkpoint_same_folder(dir, 6, &s->log), MPT_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_folder_is_one_runs_until_it_is_given_back),
        TEST(a_child_that_outlives_the_session_does_not_keep_the_folder),
        TEST(a_process_that_is_killed_gives_its_folder_back),
        TEST(without_locks_the_run_goes_on_with_one_warning),
        TEST(what_cannot_be_locked_is_an_error),
        TEST(another_rank_sees_whether_it_is_the_same_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
