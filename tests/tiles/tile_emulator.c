#include "tile_emulator.h"

#if defined(__x86_64__)

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#include "tile_machine.h"

/* The thread that was interrupted is the one whose tiles these are. In a shared library, too, reaching them must not
 * allocate. */
static __thread tile_file_t tiles __attribute__((tls_model("initial-exec")));

/* A process has one disposition of a signal, so this is the process's as well. */
static struct {
    pthread_mutex_t lock;
    int installed;
    struct sigaction before;
} emulator = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- decoding --------------------------------------------------------------------------------------- *
 *
 *   c4  RXB.mmmmm  W.vvvv.L.pp  opcode  ModRM  [SIB]  [displacement]
 *
 * R, X, B and vvvv are inverted. Tiles are named by ModRM.reg, ModRM.rm and vvvv. */

typedef struct instruction {
    unsigned prefix; /* pp: 0 none, 1 66, 2 f3, 3 f2 */
    unsigned opcode, mode, reg, rm, third;
    int has_sib;
    uintptr_t base; /* of a memory operand, without the index */
    int64_t stride; /* the index, scaled */
    size_t bytes;
} instruction_t;

enum { NO_PREFIX, PREFIX_66, PREFIX_F3, PREFIX_F2 };
enum { OPCODE_CONFIG = 0x49, OPCODE_MOVE = 0x4b, OPCODE_MULTIPLY = 0x5c };

static uint64_t register_value(const greg_t *registers, unsigned number)
{
    static const int at[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)registers[at[number]];
}

static int64_t displacement_at(const unsigned char *code, size_t bytes)
{
    int32_t wide = 0;
    if (bytes == 4)
        memcpy(&wide, code, 4);
    return bytes == 1 ? (int8_t)*code : wide;
}

/* What follows ModRM, at `code`, for an operand in memory. */
static void decode_memory(instruction_t *in, const unsigned char *code, const greg_t *registers, unsigned high_x,
                          unsigned high_b)
{
    size_t displacement = in->mode == 1 ? 1 : in->mode == 2 ? 4 : 0;
    unsigned base = in->rm;
    in->has_sib = in->rm == 4;
    if (in->has_sib) {
        const unsigned index = (*code >> 3 & 7) | high_x;
        base = *code & 7;
        in->stride = index == 4 ? 0 : (int64_t)(register_value(registers, index) << (*code >> 6));
        code++;
    }
    const int without_base = in->mode == 0 && base == 5;
    if (without_base)
        displacement = 4;
    in->bytes += (size_t)in->has_sib + displacement;
    if (!without_base)
        in->base = register_value(registers, base | high_b);
    else if (!in->has_sib) /* counted from the next instruction */
        in->base = (uintptr_t)registers[REG_RIP] + in->bytes;
    in->base += (uintptr_t)displacement_at(code, displacement);
}

/* @return 0: no instruction of this form. */
static int decode(instruction_t *in, const greg_t *registers)
{
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0)
        return 0;
    *in = (instruction_t){.prefix = code[2] & 3,
                          .opcode = code[3],
                          .mode = code[4] >> 6,
                          .reg = (code[4] >> 3 & 7) | (~code[1] >> 4 & 8),
                          .rm = code[4] & 7,
                          .third = ~code[2] >> 3 & 15,
                          .bytes = 5};
    const unsigned high_x = ~code[1] >> 3 & 8, high_b = ~code[1] >> 2 & 8;
    if (in->mode == 3)
        in->rm |= high_b;
    else
        decode_memory(in, code + 5, registers, high_x, high_b);
    return 1;
}

/* ---- executing -------------------------------------------------------------------------------------- */

typedef struct outcome {
    const char *name;    /* NULL: no tile instruction */
    const char *refusal; /* NULL: done */
} outcome_t;

static outcome_t execute_config(const instruction_t *in)
{
    void *memory = (void *)(in->base + (uintptr_t)in->stride);
    if (in->third != 0)
        return (outcome_t){0};
    if (in->mode != 3 && in->reg == 0 && in->prefix == NO_PREFIX)
        return (outcome_t){"ldtilecfg", tile_configure(&tiles, memory)};
    if (in->mode != 3 && in->reg == 0 && in->prefix == PREFIX_66) {
        tile_store_config(&tiles, memory);
        return (outcome_t){"sttilecfg", NULL};
    }
    if (in->mode == 3 && in->rm == 0 && in->prefix == PREFIX_F2)
        return (outcome_t){"tilezero", tile_zero(&tiles, in->reg)};
    if (in->mode == 3 && in->rm == 0 && in->reg == 0 && in->prefix == NO_PREFIX) {
        tile_release(&tiles);
        return (outcome_t){"tilerelease", NULL};
    }
    return (outcome_t){0};
}

static outcome_t execute_move(const instruction_t *in)
{
    if (in->third != 0 || in->mode == 3 || !in->has_sib)
        return (outcome_t){0};
    if (in->prefix == PREFIX_F2)
        return (outcome_t){"tileloadd", tile_load(&tiles, in->reg, (const void *)in->base, in->stride)};
    if (in->prefix == PREFIX_66)
        return (outcome_t){"tileloaddt1", tile_load(&tiles, in->reg, (const void *)in->base, in->stride)};
    if (in->prefix == PREFIX_F3)
        return (outcome_t){"tilestored", tile_store(&tiles, in->reg, (void *)in->base, in->stride)};
    return (outcome_t){0};
}

static outcome_t execute_multiply(const instruction_t *in)
{
    if (in->mode != 3 || in->prefix != PREFIX_F3)
        return (outcome_t){0};
    return (outcome_t){"tdpbf16ps", tile_multiply(&tiles, in->reg, in->rm, in->third)};
}

/* The instruction that is next; where it is done, the one behind it is next. */
static outcome_t step(greg_t *registers)
{
    instruction_t in;
    outcome_t outcome = {0};
    if (!decode(&in, registers))
        return outcome;
    if (in.opcode == OPCODE_CONFIG)
        outcome = execute_config(&in);
    else if (in.opcode == OPCODE_MOVE)
        outcome = execute_move(&in);
    else if (in.opcode == OPCODE_MULTIPLY)
        outcome = execute_multiply(&in);
    if (outcome.name && !outcome.refusal)
        registers[REG_RIP] += (greg_t)in.bytes;
    return outcome;
}

/* ---- the signal ------------------------------------------------------------------------------------- */

static void say(const char *what, const char *why)
{
    char line[200];
    const int length = snprintf(line, sizeof line, "tile emulator: %s: %s\n", what, why);
    if (length > 0 && write(STDERR_FILENO, line, (size_t)length) < 0)
        _exit(99);
}

/* Tile instructions come in a row: all of one are done in one signal. */
static void on_illegal(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)info;
    int done = 0;
    outcome_t last;
    while (last = step(registers), last.name && !last.refusal)
        done++;
    if (done > 0)
        return;
    if (last.refusal)
        say(last.name, last.refusal);
    sigaction(number, &emulator.before, NULL); /* the instruction raises it again, there */
}

int tile_emulator_install(void)
{
    struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO}, current;
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&emulator.lock);
    if (sigaction(SIGILL, NULL, &current) == 0 && current.sa_sigaction != on_illegal) {
        emulator.before = current;
        sigaction(SIGILL, &action, NULL);
    }
    if (!emulator.installed)
        say("amx (emulated)", "tile instructions run in software");
    emulator.installed = 1;
    pthread_mutex_unlock(&emulator.lock);
    return 1;
}

int tile_emulator_installed(void)
{
    return emulator.installed;
}

struct tile_file *tile_emulator_tiles(void)
{
    return &tiles;
}

#else

int tile_emulator_install(void)
{
    return 0;
}

int tile_emulator_installed(void)
{
    return 0;
}

struct tile_file *tile_emulator_tiles(void)
{
    return NULL;
}

#endif
