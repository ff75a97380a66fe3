#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"

static const mpt_log_t quiet = {.level = MPT_LOG_ERROR, .rank = -1};

static int open_device(void **state)
{
    mpt_device_t *device;
    if (mpt_device_cpu_create(NULL, &quiet, &device) != MPT_OK)
        return -1;
    *state = device;
    return 0;
}

static int close_device(void **state)
{
    mpt_device_destroy(*state);
    return 0;
}

#define CUTS 7

static const struct {
    mpt_use_t use;
    size_t bytes, rounded;
} cuts[CUTS] = {
    {MPT_USE_WEIGHTS, 1, 64}, {MPT_USE_MASTERS, 64, 64},  {MPT_USE_WEIGHTS, 65, 128},
    {MPT_USE_COMM, 0, 0},     {MPT_USE_DATA, 4096, 4096}, {MPT_USE_SCRATCH, 100, 128},
    {MPT_USE_COMM, 0, 0},
};

/* The session's cutting code stands for this: it runs over either kind of arena. */
static void cut_all(mpt_arena_t *arena, char *ptrs[CUTS])
{
    for (int i = 0; i < CUTS; i++)
        ptrs[i] = mpt_arena_cut(arena, cuts[i].use, cuts[i].bytes);
}

static void a_counting_arena_counts_and_gives_nothing(void **state)
{
    (void)state;
    mpt_arena_t arena;
    mpt_arena_init_counting(&arena);
    assert_true(mpt_arena_counting(&arena));
    char *ptrs[CUTS];
    cut_all(&arena, ptrs);
    for (int i = 0; i < CUTS; i++)
        assert_null(ptrs[i]);
    assert_int_equal(arena.used, 64 + 64 + 128 + 4096 + 128);
    assert_int_equal(arena.bytes_by_use[MPT_USE_WEIGHTS], 192);
    assert_int_equal(arena.bytes_by_use[MPT_USE_COMM], 0);
    size_t sum = 0;
    for (int use = 0; use < MPT_USE_COUNT; use++)
        sum += arena.bytes_by_use[use];
    assert_int_equal(sum, arena.used);
    mpt_arena_release(&arena);
    assert_int_equal(arena.used, 0);
}

static void what_was_counted_fits_exactly(void **state)
{
    char *ptrs[CUTS];
    mpt_arena_t counted;
    mpt_arena_init_counting(&counted);
    cut_all(&counted, ptrs);
    for (int mem_class = MPT_MEM_PRIVATE; mem_class <= MPT_MEM_PEER; mem_class++) {
        mpt_arena_t arena;
        assert_int_equal(mpt_arena_init(&arena, *state, (mpt_mem_class_t)mem_class, counted.used),
                         MPT_OK);
        assert_false(mpt_arena_counting(&arena));
        cut_all(&arena, ptrs);
        assert_int_equal(arena.used, counted.used);
        assert_int_equal(arena.used, arena.mem.bytes);
        assert_memory_equal(arena.bytes_by_use, counted.bytes_by_use, sizeof arena.bytes_by_use);
        mpt_arena_release(&arena);
    }
}

static void cuts_are_aligned_zeroed_and_apart(void **state)
{
    char *ptrs[CUTS];
    mpt_arena_t arena;
    assert_int_equal(mpt_arena_init(&arena, *state, MPT_MEM_PRIVATE, 64 + 64 + 128 + 4096 + 128),
                     MPT_OK);
    cut_all(&arena, ptrs);
    char *expected = arena.mem.ptr;
    for (int i = 0; i < CUTS; i++) {
        assert_ptr_equal(ptrs[i], expected); /* cuts of nothing included: never NULL */
        for (size_t b = 0; b < cuts[i].bytes; b++)
            assert_int_equal(ptrs[i][b], 0);
        memset(ptrs[i], i + 1, cuts[i].bytes);
        expected += cuts[i].rounded;
    }
    for (int i = 0; i < CUTS; i++)
        for (size_t b = 0; b < cuts[i].bytes; b++)
            assert_int_equal(ptrs[i][b], i + 1);
    mpt_arena_release(&arena);
    assert_null(arena.mem.ptr);
}

static void an_empty_arena_gives_cuts_of_nothing(void **state)
{
    mpt_arena_t arena;
    assert_int_equal(mpt_arena_init(&arena, *state, MPT_MEM_PEER, 0), MPT_OK);
    assert_false(mpt_arena_counting(&arena));
    assert_null(arena.mem.ptr);
    assert_int_equal(arena.mem.fd, -1);
    void *cut = mpt_arena_cut(&arena, MPT_USE_COMM, 0);
    assert_non_null(cut);
    assert_int_equal((uintptr_t)cut % MPT_ARENA_ALIGN, 0);
    mpt_arena_release(&arena);
}

static void an_arena_too_large_is_refused_untouched(void **state)
{
    mpt_device_t *device = *state;
    const mpt_log_t *log = device->log;
    device->log = NULL; /* the refusal is expected: keep it off the screen */
    mpt_arena_t arena;
    memset(&arena, 0x5a, sizeof arena);
    assert_int_equal(mpt_arena_init(&arena, device, MPT_MEM_PRIVATE, SIZE_MAX), MPT_ERR_NO_MEMORY);
    for (size_t i = 0; i < sizeof arena; i++)
        assert_int_equal(((unsigned char *)&arena)[i], 0x5a);
    device->log = log;
}

static void counts_saturate_and_do_not_wrap(void **state)
{
    (void)state;
    mpt_arena_t arena;
    mpt_arena_init_counting(&arena);
    (void)mpt_arena_cut(&arena, MPT_USE_MASTERS, SIZE_MAX - 10);
    assert_int_equal(arena.used, SIZE_MAX);
    (void)mpt_arena_cut(&arena, MPT_USE_MASTERS, 128);
    assert_int_equal(arena.used, SIZE_MAX);
    assert_int_equal(arena.bytes_by_use[MPT_USE_MASTERS], SIZE_MAX);
}

static void a_zeroed_arena_may_be_released(void **state)
{
    (void)state;
    mpt_arena_t arena;
    memset(&arena, 0, sizeof arena);
    mpt_arena_release(&arena);
    mpt_arena_release(&arena);
    assert_true(mpt_arena_counting(&arena));
}

/* Runs in a child, since it is meant to abort. */
static void cut_too_much(mpt_device_t *device, size_t first, size_t second)
{
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGABRT, SIG_DFL); /* cmocka's handler would report a failed test */
    close(STDERR_FILENO);
    mpt_arena_t arena;
    if (mpt_arena_init(&arena, device, MPT_MEM_PRIVATE, 128) != MPT_OK)
        _exit(3);
    (void)mpt_arena_cut(&arena, MPT_USE_COMM, first);
    (void)mpt_arena_cut(&arena, MPT_USE_COMM, second);
    _exit(0);
}

static int exit_of_cutting(mpt_device_t *device, size_t first, size_t second)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        cut_too_much(device, first, second);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void cutting_more_than_was_counted_is_a_bug(void **state)
{
#ifdef NDEBUG
    (void)state;
    skip();
#else
    assert_int_equal(exit_of_cutting(*state, 64, 64), 0);
    assert_int_equal(exit_of_cutting(*state, 128, 0), 0);
    assert_int_equal(exit_of_cutting(*state, 64, 65), -SIGABRT);
    assert_int_equal(exit_of_cutting(*state, 128, 1), -SIGABRT);
    assert_int_equal(exit_of_cutting(*state, 1, SIZE_MAX), -SIGABRT);
#endif
}

static void every_use_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = 0; a < MPT_USE_COUNT; a++) {
        assert_true(strlen(mpt_use_name((mpt_use_t)a)) > 0);
        for (int b = 0; b < a; b++)
            assert_string_not_equal(mpt_use_name((mpt_use_t)a), mpt_use_name((mpt_use_t)b));
    }
    assert_string_equal(mpt_use_name(MPT_USE_MASTERS), "masters");
    assert_string_equal(mpt_use_name((mpt_use_t)MPT_USE_COUNT), "unknown");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)
    const struct CMUnitTest tests[] = {
        TEST(a_counting_arena_counts_and_gives_nothing),
        TEST(what_was_counted_fits_exactly),
        TEST(cuts_are_aligned_zeroed_and_apart),
        TEST(an_empty_arena_gives_cuts_of_nothing),
        TEST(an_arena_too_large_is_refused_untouched),
        TEST(counts_saturate_and_do_not_wrap),
        TEST(a_zeroed_arena_may_be_released),
        TEST(cutting_more_than_was_counted_is_a_bug),
        TEST(every_use_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
