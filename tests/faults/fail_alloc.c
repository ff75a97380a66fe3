/*
 * Preloaded into mpt-ddp by tests: makes one allocation fail, the Nth that the program's own code asks for. Allocations
 * made inside libc, Open MPI and other libraries are passed on: what counts is where the call returns to.
 *
 *   FAIL_ALLOC_AT    which one fails, once, counted from 1; 0: none, only count
 *   FAIL_ALLOC_RANK  on which rank, as mpirun numbers it (0)
 *   FAIL_ALLOC_LOG   file that gets a line "failed N CALL BYTES OBJECT+OFFSET" when it happens, and one "seen COUNT" at the
 *                    process's end: N is beyond the last where only the second is there
 *
 * A thread that cannot be started counts as an allocation as well: its stack is one.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_RANGES 8

typedef struct range {
    uintptr_t first, end, base;
    const char *object;
} range_t;

/* Filled once, before main; the preloaded library is the one place where there is nobody to pass state along. */
static struct {
    range_t ranges[MAX_RANGES]; /* of the executable's and libmpt's code */
    int range_count;
    long fail_at;
    const char *log_path;
    atomic_long seen;
} hook;

/* ---- whose call is it? ------------------------------------------------------------------------------- */

static int note_object(struct dl_phdr_info *info, size_t size, void *ctx)
{
    int ours = info->dlpi_name[0] == '\0' || strstr(info->dlpi_name, "/libmpt") != NULL;
    (void)size, (void)ctx;
    for (int i = 0; ours && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || hook.range_count == MAX_RANGES)
            continue;
        uintptr_t first = info->dlpi_addr + part->p_vaddr;
        hook.ranges[hook.range_count++] = (range_t){.first = first,
                                                    .end = first + part->p_memsz,
                                                    .base = info->dlpi_addr,
                                                    .object = info->dlpi_name[0] == '\0' ? "mpt-ddp" : "libmpt.so"};
    }
    return 0;
}

static const range_t *find_range(const void *caller)
{
    for (int i = 0; i < hook.range_count; i++)
        if ((uintptr_t)caller >= hook.ranges[i].first && (uintptr_t)caller < hook.ranges[i].end)
            return &hook.ranges[i];
    return NULL;
}

/* Without memory of its own: this runs inside malloc. */
static void write_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void write_line(const char *format, ...)
{
    char line[160];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    int fd = hook.log_path != NULL ? open(hook.log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (fd >= 0 && write(fd, line, (size_t)length) < 0)
        _exit(99);
    if (fd >= 0)
        close(fd);
}

/* Count an allocation of ours; 1: this is the one to fail. */
static int fails(const void *caller, const char *call, size_t bytes)
{
    const range_t *range = find_range(caller);
    if (range == NULL)
        return 0;
    long number = atomic_fetch_add(&hook.seen, 1) + 1;
    if (number != hook.fail_at)
        return 0;
    write_line("failed %ld %s %zu %s+0x%zx\n", number, call, bytes, range->object, (size_t)((uintptr_t)caller - range->base));
    errno = ENOMEM;
    return 1;
}

__attribute__((constructor)) static void hook_start(void)
{
    const char *at = getenv("FAIL_ALLOC_AT"), *rank = getenv("FAIL_ALLOC_RANK"), *own = getenv("OMPI_COMM_WORLD_RANK");
    if (at == NULL || strcmp(program_invocation_short_name, "mpt-ddp") != 0 ||
        atoi(rank != NULL ? rank : "0") != atoi(own != NULL ? own : "0"))
        return;
    hook.fail_at = atol(at);
    hook.log_path = getenv("FAIL_ALLOC_LOG");
    dl_iterate_phdr(note_object, NULL);
}

__attribute__((destructor)) static void hook_end(void)
{
    if (hook.range_count > 0)
        write_line("seen %ld\n", atomic_load(&hook.seen));
}

/* ---- the calls ----------------------------------------------------------------------------------------- */

/* Define `name` as one that may fail with `refusal`, and else is what it would have been without this library: libc's or a
 * sanitizer's. It is looked up once, by the first call; two threads at once find the same. */
#define HOOK(result, name, parameters, arguments, bytes, refusal)                                                   \
    result name parameters                                                                                          \
    {                                                                                                               \
        static _Atomic(void *) next;                                                                                \
        if (next == NULL)                                                                                           \
            next = dlsym(RTLD_NEXT, #name);                                                                         \
        if (fails(__builtin_return_address(0), #name, bytes))                                                       \
            return refusal;                                                                                         \
        return ((result(*) parameters)next)arguments;                                                               \
    }

HOOK(void *, malloc, (size_t bytes), (bytes), bytes, NULL)
HOOK(void *, calloc, (size_t count, size_t bytes), (count, bytes), count *bytes, NULL)
HOOK(void *, realloc, (void *pointer, size_t bytes), (pointer, bytes), bytes, NULL)
HOOK(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), bytes, NULL)
HOOK(int, posix_memalign, (void **pointer_p, size_t alignment, size_t bytes), (pointer_p, alignment, bytes), bytes, ENOMEM)
HOOK(char *, strdup, (const char *text), (text), strlen(text) + 1, NULL)
HOOK(void *, mmap, (void *address, size_t bytes, int protection, int flags, int fd, off_t offset),
     (address, bytes, protection, flags, fd, offset), bytes, MAP_FAILED)
HOOK(int, memfd_create, (const char *name, unsigned flags), (name, flags), 0, -1)
HOOK(int, ftruncate, (int fd, off_t bytes), (fd, bytes), (size_t)bytes, -1)
HOOK(int, pthread_create, (pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument),
     (thread, attributes, start, argument), 0, EAGAIN)
HOOK(void *, XXH3_createState, (void), (), 0, NULL) /* xxHash's only allocation */
