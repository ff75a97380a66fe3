/*
 * Tile instructions as they come, on a processor without them: every form that is decoded, what the signal must not
 * disturb, and what is left to others.
 */
#include "tile_fixture.h"
#include "tile_emulator.h"
#include "kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define TILES __attribute__((target("amx-tile,amx-bf16,avx2")))
#define TILES_AND_VECTORS __attribute__((target("amx-tile,amx-bf16,avx512f")))

static const tile_config_t whole = {
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

static uint32_t words[4096]; /* random; what the operands of loads point into */

static int start(void **state)
{
    uint64_t seed = 5;
    (void)state;
    for (int i = 0; i < 4096; i += 256)
        tile_fill(words + i, 0, 9, &seed);
    return 0;
}

static void configure(void)
{
    tile_emulator_install(); /* cmocka took the signal for this test */
    __asm__ volatile("ldtilecfg %0" : : "m"(whole));
}

static void check_tile(const uint32_t *got, const uint32_t *from, int64_t stride_words)
{
    for (int i = 0; i < 256; i++)
        assert_int_equal(got[i], from[i / 16 * stride_words + i % 16]);
}

/* ---- forms ---------------------------------------------------------------------------------------------- */

/* Load tile 5 from an operand of this form, `base` in one register and `stride` in another. */
#define CHECK_LOAD(form, base_register, stride_register, base, stride, from, stride_words)                             \
    do {                                                                                                               \
        uint32_t got[256];                                                                                             \
        register const void *base_in __asm__(base_register) = (base);                                                  \
        register int64_t stride_in __asm__(stride_register) = (stride);                                                \
        __asm__ volatile("tileloadd " form ", %%tmm5" : : "r"(base_in), "r"(stride_in) : "memory");                    \
        __asm__ volatile("tilestored %%tmm5, (%0,%1)" : : "r"(got), "r"((int64_t)64) : "memory");                      \
        check_tile(got, from, stride_words);                                                                           \
    } while (0)

TILES static void operands_are_found_in_every_form(void **state)
{
    (void)state;
    configure();
    CHECK_LOAD("(%%rax,%%rcx)", "rax", "rcx", words, 64, words, 16);
    CHECK_LOAD("(%%rcx,%%rax,2)", "rcx", "rax", words, 64, words, 32);
    CHECK_LOAD("64(%%rsi,%%rdi,4)", "rsi", "rdi", words, 64, words + 16, 64);
    CHECK_LOAD("4096(%%rbx,%%rdx,8)", "rbx", "rdx", words, 32, words + 1024, 64);
    CHECK_LOAD("-64(%%r13,%%r12)", "r13", "r12", words + 48, 192, words + 32, 48);
    CHECK_LOAD("(%%r12,%%r13)", "r12", "r13", words, 64, words, 16);
    CHECK_LOAD("(%%r8,%%r9)", "r8", "r9", words + 2048, -64, words + 2048, -16);
    CHECK_LOAD("(%%r15,%%r14,8)", "r15", "r14", words, 8, words, 16);
    CHECK_LOAD("(%%r10,%%r11)", "r10", "r11", words, 0, words, 0);
}

TILES static void a_load_with_a_hint_is_a_load(void **state)
{
    uint32_t got[256];
    (void)state;
    configure();
    __asm__ volatile("tileloaddt1 (%0,%1), %%tmm7\n\ttilestored %%tmm7, (%2,%1)"
                     :
                     : "r"(words), "r"((int64_t)64), "r"(got)
                     : "memory");
    check_tile(got, words, 16);
}

TILES static void tiles_are_told_apart_in_products(void **state)
{
    uint32_t a[256], b[256], got[2][256];
    (void)state;
    configure();
    for (int i = 0; i < 256; i++) {
        a[i] = i % 16 == (i / 16 + 1) % 16 ? 0x3f80 : 0; /* even elements: it moves rows or columns by one */
        b[i] = 0x3f803f80 + (uint32_t)i;
    }
    __asm__ volatile("tileloadd (%0,%3), %%tmm6\n\t"
                     "tileloadd (%1,%3), %%tmm3\n\t"
                     "tilezero %%tmm1\n\t"
                     "tilezero %%tmm4\n\t"
                     "tdpbf16ps %%tmm3, %%tmm6, %%tmm1\n\t" /* a b */
                     "tdpbf16ps %%tmm6, %%tmm3, %%tmm4\n\t" /* b a */
                     "tilestored %%tmm1, (%2,%3)\n\t"
                     "tilestored %%tmm4, 1024(%2,%3)"
                     :
                     : "r"(a), "r"(b), "r"(got), "r"((int64_t)64)
                     : "memory");
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) {
            assert_int_equal(got[0][16 * row + column], b[(row + 1) % 16 * 16 + column] << 16);
            assert_int_equal(got[1][16 * row + column], b[16 * row + (column + 15) % 16] << 16);
        }
}

TILES static void configurations_are_read_relative_to_the_instruction(void **state)
{
    tile_config_t stored;
    (void)state;
    configure();
    __asm__ volatile("tilerelease\n\tsttilecfg %0" : "=m"(stored));
    assert_int_equal(stored.palette, 0);
    __asm__ volatile("ldtilecfg 1f(%%rip)\n\t"
                     "jmp 2f\n\t"
                     ".balign 64\n"
                     "1: .byte 1\n\t.zero 15\n\t.short 8\n\t.zero 30\n\t.byte 3\n\t.zero 15\n"
                     "2: sttilecfg %0"
                     : "=m"(stored));
    assert_int_equal(stored.palette, 1);
    assert_int_equal(stored.row_bytes[0], 8);
    assert_int_equal(stored.rows[0], 3);
}

/* ---- what must not be disturbed ------------------------------------------------------------------------- */

TILES_AND_VECTORS static void check_registers_and_the_red_zone(void)
{
    uint64_t below;
    float lanes[16];
    const uint64_t mark = 0x0123456789abcdef;
    configure();
    __asm__ volatile("vpbroadcastd %3, %%zmm19\n\t"
                     "mov %2, -128(%%rsp)\n\t"
                     "tilezero %%tmm0\n\t"
                     "nop\n\t"
                     "tdpbf16ps %%tmm2, %%tmm1, %%tmm0\n\t"
                     "mov -128(%%rsp), %0\n\t"
                     "vmovups %%zmm19, %1"
                     : "=&r"(below), "=m"(lanes)
                     : "r"(mark), "r"(0x3f800000)
                     : "xmm19");
    assert_true(below == mark);
    for (int i = 0; i < 16; i++)
        assert_true(lanes[i] == 1);
}

static void registers_and_the_red_zone_survive(void **state)
{
    (void)state;
    if (mpt_isa_detect() < MPT_ISA_AVX512)
        skip();
    check_registers_and_the_red_zone();
}

TILES static void *read_config(void *to)
{
    __asm__ volatile("sttilecfg (%0)" : : "r"(to) : "memory");
    return NULL;
}

static void every_thread_has_tiles_of_its_own(void **state)
{
    tile_config_t other, own;
    pthread_t thread;
    (void)state;
    configure();
    assert_int_equal(pthread_create(&thread, NULL, read_config, &other), 0);
    pthread_join(thread, NULL);
    read_config(&own);
    assert_int_equal(other.palette, 0);
    assert_int_equal(own.palette, 1);
}

/* ---- what is left to others ------------------------------------------------------------------------------ */

/* Run `body` in a process of its own. @return its wait status; `said` has what it wrote on stderr. */
static int in_a_child(void (*body)(void), char *said, size_t bytes)
{
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[1]);
        body();
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t n;
    while (used + 1 < bytes && (n = read(ends[0], said + used, bytes - 1 - used)) > 0)
        used += (size_t)n;
    said[used] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

TILES static void use_a_released_tile(void)
{
    signal(SIGILL, SIG_DFL);
    configure();
    __asm__ volatile("tilerelease\n\ttilezero %tmm3");
}

static void a_refused_instruction_is_named_and_then_kills(void **state)
{
    char said[400];
    (void)state;
    const int status = in_a_child(use_a_released_tile, said, sizeof said);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGILL);
    assert_non_null(strstr(said, "tilezero: tiles are not configured"));
}

static void leave(int number)
{
    _exit(number == SIGILL ? 42 : 1);
}

static void execute_something_else(void)
{
    signal(SIGILL, leave);
    configure();
    __asm__ volatile("ud2");
}

static void what_is_no_tile_instruction_goes_to_who_was_there_before(void **state)
{
    char said[400];
    (void)state;
    const int status = in_a_child(execute_something_else, said, sizeof said);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operands_are_found_in_every_form),
        cmocka_unit_test(a_load_with_a_hint_is_a_load),
        cmocka_unit_test(tiles_are_told_apart_in_products),
        cmocka_unit_test(configurations_are_read_relative_to_the_instruction),
        cmocka_unit_test(registers_and_the_red_zone_survive),
        cmocka_unit_test(every_thread_has_tiles_of_its_own),
        cmocka_unit_test(a_refused_instruction_is_named_and_then_kills),
        cmocka_unit_test(what_is_no_tile_instruction_goes_to_who_was_there_before),
    };
    const mpt_isa_t isa = mpt_isa_detect(); /* with tiles there is nothing to emulate */
    return isa < MPT_ISA_AVX2 || isa >= MPT_ISA_AMX ? 77 : cmocka_run_group_tests(tests, start, NULL);
}

#else

int main(void)
{
    return 77;
}

#endif
