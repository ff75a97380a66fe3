/*
 * Counts every allocation of the program that includes this: what must not allocate can be held to it. Not under a
 * sanitizer, which has an allocator of its own: COUNTED_MALLOC is 0 there. Header-only, once a program.
 */
#ifndef COUNTED_MALLOC_H
#define COUNTED_MALLOC_H

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define COUNTED_MALLOC 0
static inline long counted_mallocs(void)
{
    return 0;
}
#else
#define COUNTED_MALLOC 1

/* glibc's own, under the names that it keeps for those who take malloc's. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

static atomic_long counted;

static inline long counted_mallocs(void)
{
    return atomic_load(&counted);
}

void *malloc(size_t bytes)
{
    atomic_fetch_add(&counted, 1);
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    atomic_fetch_add(&counted, 1);
    return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    atomic_fetch_add(&counted, 1);
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    atomic_fetch_add(&counted, 1);
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **address_p, size_t alignment, size_t bytes)
{
    atomic_fetch_add(&counted, 1);
    *address_p = __libc_memalign(alignment, bytes);
    return *address_p != NULL ? 0 : ENOMEM;
}
#endif

#endif
