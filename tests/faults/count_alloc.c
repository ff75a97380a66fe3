/*
 * Preloaded into mpt-ddp by tests: counts what the process allocates between two steps of a run, in whatever thread and
 * library, from after step COUNT_ALLOC_FROM to after step COUNT_ALLOC_TO. It learns of steps by standing between the program
 * and mpt_session_train.
 *
 *   COUNT_ALLOC_LOG  file that gets a line "CALL BYTES OBJECT+OFFSET" for each of the first allocations, by whom it was called,
 *                    and then one "steps FROM TO allocations COUNT"; .RANK is added to its name, as mpirun numbers it
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mpt.h"

#define MAX_NOTES 64

typedef struct note {
    const char *call;
    size_t bytes;
    const void *caller;
} note_t;

/* The preloaded library is the one place where there is nobody to pass state along. */
static struct {
    atomic_int counting;
    atomic_long seen;
    note_t notes[MAX_NOTES];
    const mpt_train_hooks_t *hooks; /* the program's */
} hook;

/* ---- steps ------------------------------------------------------------------------------------------- */

static int64_t number_of(const char *variable)
{
    const char *text = getenv(variable);
    return text != NULL ? atoll(text) : -1;
}

static void write_notes(FILE *to, long count)
{
    for (long i = 0; i < count && i < MAX_NOTES; i++) {
        const note_t *n = &hook.notes[i];
        Dl_info info = {.dli_fname = "?"};
        dladdr(n->caller, &info);
        fprintf(to, "%s %zu %s+0x%zx\n", n->call, n->bytes, info.dli_fname,
                (size_t)((uintptr_t)n->caller - (uintptr_t)info.dli_fbase));
    }
}

static void report(void)
{
    char path[1024];
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *log = getenv("COUNT_ALLOC_LOG");
    const long count = atomic_load(&hook.seen);
    snprintf(path, sizeof path, "%s.%s", log != NULL ? log : "count_alloc", rank != NULL ? rank : "0");
    FILE *to = fopen(path, "w");
    if (to == NULL)
        _exit(99);
    write_notes(to, count);
    fprintf(to, "steps %lld %lld allocations %ld\n", (long long)number_of("COUNT_ALLOC_FROM"),
            (long long)number_of("COUNT_ALLOC_TO"), count);
    fclose(to);
}

static void on_step(void *ctx, const mpt_step_result_t *result)
{
    if (hook.hooks != NULL && hook.hooks->on_step != NULL)
        hook.hooks->on_step(ctx, result);
    if (result->step == number_of("COUNT_ALLOC_FROM"))
        atomic_store(&hook.counting, 1);
    if (result->step == number_of("COUNT_ALLOC_TO") && atomic_exchange(&hook.counting, 0))
        report();
}

mpt_status_t mpt_session_train(mpt_session_t *session, const mpt_train_hooks_t *hooks)
{
    mpt_status_t (*next)(mpt_session_t *, const mpt_train_hooks_t *);
    *(void **)&next = dlsym(RTLD_NEXT, "mpt_session_train");
    mpt_train_hooks_t own = hooks != NULL ? *hooks : (mpt_train_hooks_t){0};
    hook.hooks = hooks;
    own.on_step = on_step;
    return next(session, &own);
}

/* ---- the calls ----------------------------------------------------------------------------------------- */

static void count(const char *call, size_t bytes, const void *caller)
{
    if (!atomic_load_explicit(&hook.counting, memory_order_relaxed))
        return;
    const long number = atomic_fetch_add(&hook.seen, 1);
    if (number < MAX_NOTES)
        hook.notes[number] = (note_t){call, bytes, caller};
}

/* Define `name` as one that counts and then is what it would have been without this library. It is looked up once, by the
 * first call; two threads at once find the same. dlsym may ask for memory itself: it does without where it gets none. */
#define HOOK(result, name, parameters, arguments, bytes, none)                                                      \
    result name parameters                                                                                          \
    {                                                                                                               \
        static _Atomic(void *) next;                                                                                \
        static __thread int asking;                                                                                 \
        if (next == NULL && asking)                                                                                 \
            return none;                                                                                            \
        asking = 1;                                                                                                 \
        if (next == NULL)                                                                                           \
            next = dlsym(RTLD_NEXT, #name);                                                                         \
        asking = 0;                                                                                                 \
        count(#name, bytes, __builtin_return_address(0));                                                           \
        return ((result(*) parameters)next)arguments;                                                               \
    }

HOOK(void *, malloc, (size_t bytes), (bytes), bytes, NULL)
HOOK(void *, calloc, (size_t number, size_t bytes), (number, bytes), number *bytes, NULL)
HOOK(void *, realloc, (void *pointer, size_t bytes), (pointer, bytes), bytes, NULL)
HOOK(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), bytes, NULL)
HOOK(int, posix_memalign, (void **pointer_p, size_t alignment, size_t bytes), (pointer_p, alignment, bytes), bytes, ENOMEM)
HOOK(void *, mmap, (void *address, size_t bytes, int protection, int flags, int fd, off_t offset),
     (address, bytes, protection, flags, fd, offset), bytes, MAP_FAILED)
void free(void *pointer)
{
    static _Atomic(void *) next;
    if (next == NULL)
        next = dlsym(RTLD_NEXT, "free");
    if (pointer != NULL)
        count("free", 0, __builtin_return_address(0));
    ((void (*)(void *))next)(pointer);
}
