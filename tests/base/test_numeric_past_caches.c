/* Sums that go past the caches have the bits of mpt_tree_sum's, which test_numeric.c holds against the definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "soft_numeric.h"
#include "past_caches.h"

#define COUNT 700 /* elements of a source, and of an out */
#define MOST_RANKS 10
#define MOST_OUTS 3
#define POISON 0xa5

static const mpt_dtype_t types[][2] = {{MPT_F32, MPT_F32},   {MPT_F32, MPT_BF16}, {MPT_F32, MPT_F16}, {MPT_BF16, MPT_BF16},
                                       {MPT_BF16, MPT_F32}, {MPT_F16, MPT_F16},  {MPT_F16, MPT_F32}};
#define TYPES (sizeof types / sizeof *types)

static _Alignas(64) unsigned char source_bytes[MOST_RANKS][COUNT * 4 + 64], out_bytes[MOST_OUTS][COUNT * 4 + 64];
static const void *sources[MOST_RANKS];
static void *outs[MOST_OUTS];

/* Any bits but few NaNs, so that most sums tell one order of ranks from another; odd sources begin within a vector. */
static void fill_sources(mpt_dtype_t wire)
{
    uint32_t seed = 12345;
    for (int r = 0; r < MOST_RANKS; r++) {
        sources[r] = source_bytes[r] + (r % 2 ? mpt_dtype_bytes(wire) * 3 : 0);
        for (size_t i = 0; i < sizeof source_bytes[r]; i++) {
            seed = seed * 1664525u + 1013904223u;
            source_bytes[r][i] = (unsigned char)(i % mpt_dtype_bytes(wire) + 1 == mpt_dtype_bytes(wire) && seed >> 28
                                                     ? 0x30 + (seed >> 30)
                                                     : seed >> 24);
        }
    }
}

/* `shift` elements between where an out begins and where a line does; `apart` more for each further one. */
static void place_outs(size_t element, size_t shift, size_t apart)
{
    memset(out_bytes, POISON, sizeof out_bytes);
    for (size_t o = 0; o < MOST_OUTS; o++)
        outs[o] = out_bytes[o] + (shift + o * apart) * element;
}

/* Elements [first, first + count) of each out are the sum's, the bytes around them untouched. */
static void check_outs(int outs_count, const mpt_dtype_t *type, int ranks, int64_t first, int64_t count, const char *what)
{
    static unsigned char expected[COUNT * 4];
    size_t element = mpt_dtype_bytes(type[1]), at = (size_t)first * element, bytes = (size_t)count * element;
    mpt_tree_sum(expected, type[1], sources, ranks, type[0], COUNT);
    for (int o = 0; o < MOST_OUTS; o++) {
        const unsigned char *from = (const unsigned char *)outs[o] + at;
        if (o < outs_count && memcmp(from, expected + at, bytes) != 0)
            fail_msg("%s: out %d of %d, %d ranks, elements %d to %d: other bits", what, o, outs_count, ranks, (int)first,
                     (int)(first + count));
        for (const unsigned char *p = out_bytes[o]; p < out_bytes[o] + sizeof out_bytes[o]; p++)
            if ((o >= outs_count || p < from || p >= from + bytes) && *p != POISON)
                fail_msg("%s: out %d of %d, %d ranks: byte %d was written", what, o, outs_count, ranks,
                         (int)(p - out_bytes[o]));
    }
}

static void check_lines(const mpt_numeric_level_t *level, const mpt_dtype_t *type, int ranks, int outs_count)
{
    size_t element = mpt_dtype_bytes(type[1]), line = MPT_LINE_BYTES / element;
    for (int64_t count = 0; count < 300; count += 37) {
        place_outs(element, 3, 0);
        int64_t first = (int64_t)line - 3;
        int64_t done = level->sum_lines(outs, outs_count, type[1], sources, ranks, type[0], first, count);
        mpt_past_caches_end();
        assert_true(done == 0 || done == count - count % (int64_t)line);
        assert_true(done > 0 || ranks > 8 || count < (int64_t)line || !strcmp(level->name, "portable"));
        check_outs(outs_count, type, ranks, first, done, level->name);
    }
}

static void every_level_sums_whole_lines_to_every_out(void **state)
{
    (void)state;
    const mpt_numeric_level_t *level;
    for (size_t t = 0; t < TYPES; t++) {
        fill_sources(types[t][0]);
        for (int l = 0; (level = numeric_level(l)); l++)
            for (int ranks = 2; ranks <= MOST_RANKS; ranks++)
                for (int outs_count = 1; outs_count <= MOST_OUTS; outs_count++)
                    check_lines(level, types[t], ranks, outs_count);
    }
}

static void check_sums(const mpt_dtype_t *type, int ranks, int outs_count, size_t shift, size_t apart)
{
    static const int64_t counts[] = {0, 1, 5, 16, 31, 64, 257, 600};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int64_t first = 0; first < 40; first += 13) {
            place_outs(mpt_dtype_bytes(type[1]), shift, apart);
            mpt_tree_sum_past_caches(outs, outs_count, type[1], sources, ranks, type[0], first, counts[c]);
            mpt_past_caches_end();
            check_outs(outs_count, type, ranks, first, counts[c], "sum");
        }
}

static void any_start_and_length_is_summed_and_nothing_else_written(void **state)
{
    (void)state;
    for (size_t t = 0; t < TYPES; t++) {
        fill_sources(types[t][0]);
        for (int ranks = 1; ranks <= MOST_RANKS; ranks += ranks < 3 ? 1 : 3)
            for (int outs_count = 1; outs_count <= MOST_OUTS; outs_count += 2)
                for (size_t shift = 0; shift < 16; shift += 5)
                    for (size_t apart = 0; apart < 2; apart++)
                        check_sums(types[t], ranks, outs_count, shift, apart);
    }
}

static void outs_between_elements_and_lines_are_summed_too(void **state)
{
    (void)state;
    static unsigned char expected[COUNT * 2];
    fill_sources(MPT_BF16);
    mpt_tree_sum(expected, MPT_BF16, sources, 2, MPT_BF16, 500);
    place_outs(1, 1, 0); /* an odd address: no element of any type begins a line */
    mpt_tree_sum_past_caches(outs, 1, MPT_BF16, sources, 2, MPT_BF16, 0, 500);
    mpt_past_caches_end();
    assert_memory_equal(outs[0], expected, 1000);
}

static void an_out_may_be_a_source(void **state)
{
    (void)state;
    static unsigned char expected[COUNT * 4];
    for (size_t t = 0; t < TYPES; t++)
        for (int r = 0; r < 3 && types[t][0] == types[t][1]; r++) {
            fill_sources(types[t][0]);
            mpt_tree_sum(expected, types[t][0], sources, 3, types[t][0], COUNT - 10);
            place_outs(mpt_dtype_bytes(types[t][0]), r % 2 ? 3 : 0, 0);
            outs[1] = (void *)(uintptr_t)sources[r];
            mpt_tree_sum_past_caches(outs, 2, types[t][0], sources, 3, types[t][0], 0, COUNT - 10);
            mpt_past_caches_end();
            assert_memory_equal(outs[0], expected, (COUNT - 10) * mpt_dtype_bytes(types[t][0]));
            assert_memory_equal(outs[1], expected, (COUNT - 10) * mpt_dtype_bytes(types[t][0]));
        }
}

/* In a child, since it may abort. Of no elements: only what is asked for matters. Returns the signal that ended it, or 0. */
static int signal_of_sum(int ranks, mpt_dtype_t wire, mpt_dtype_t out)
{
    struct rlimit no_core = {0, 0};
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL); /* cmocka's handler would report a failed test */
        close(STDERR_FILENO);
        mpt_tree_sum_past_caches(outs, 1, out, sources, ranks, wire, 0, 0);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void what_is_no_sum_is_a_bug(void **state)
{
    (void)state;
#ifdef NDEBUG
    skip();
#else
    place_outs(4, 0, 0);
    assert_int_equal(signal_of_sum(MPT_SUM_MAX_RANKS, MPT_F32, MPT_BF16), 0);
    assert_int_equal(signal_of_sum(MPT_SUM_MAX_RANKS + 1, MPT_F32, MPT_F32), SIGABRT);
    assert_int_equal(signal_of_sum(0, MPT_F32, MPT_F32), SIGABRT);
    assert_int_equal(signal_of_sum(2, MPT_F64, MPT_F64), SIGABRT);
    assert_int_equal(signal_of_sum(2, MPT_BF16, MPT_F16), SIGABRT);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_sums_whole_lines_to_every_out),
        cmocka_unit_test(any_start_and_length_is_summed_and_nothing_else_written),
        cmocka_unit_test(outs_between_elements_and_lines_are_summed_too),
        cmocka_unit_test(an_out_may_be_a_source),
        cmocka_unit_test(what_is_no_sum_is_a_bug),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
