#include "arena.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

static const char *const use_names[MPT_USE_COUNT] = {
    [MPT_USE_WEIGHTS] = "weights",     [MPT_USE_PACKED] = "packed",   [MPT_USE_MASTERS] = "masters",
    [MPT_USE_MOMENTS] = "moments",     [MPT_USE_EMA] = "ema",         [MPT_USE_ACCUMULATORS] = "accumulators",
    [MPT_USE_GRADIENTS] = "gradients", [MPT_USE_ACTIVATIONS] = "activations",
    [MPT_USE_SCRATCH] = "scratch",     [MPT_USE_COMM] = "comm",
    [MPT_USE_COMMUNICATORS] = "communicators",
    [MPT_USE_SNAPSHOT] = "snapshot",   [MPT_USE_DATA] = "data",
};

/* What a cut of nothing points to where the arena has no memory at all. */
static const _Alignas(MPT_ARENA_ALIGN) char nothing[MPT_ARENA_ALIGN];

const char *mpt_use_name(mpt_use_t use)
{
    if ((unsigned)use >= MPT_USE_COUNT)
        return "unknown";
    return use_names[use];
}

/* Sums saturate: a plan beyond the address space must fail to allocate, not wrap to a small number.
 */
static size_t add_saturating(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

static size_t round_up(size_t bytes)
{
    size_t mask = MPT_ARENA_ALIGN - 1;
    return bytes > SIZE_MAX - mask ? SIZE_MAX : (bytes + mask) & ~mask;
}

void mpt_arena_init_counting(mpt_arena_t *arena)
{
    memset(arena, 0, sizeof *arena);
    arena->mem.fd = -1;
}

mpt_status_t mpt_arena_init(mpt_arena_t *arena, mpt_device_t *device, mpt_mem_class_t mem_class,
                            size_t bytes)
{
    mpt_mem_t mem = {.mem_class = mem_class, .fd = -1};
    if (bytes > 0) {
        mpt_status_t status = device->ops->mem_alloc(device, mem_class, bytes, &mem);
        if (status != MPT_OK)
            return status;
    }
    mpt_arena_init_counting(arena);
    arena->device = device;
    arena->mem = mem;
    return MPT_OK;
}

void mpt_arena_release(mpt_arena_t *arena)
{
    if (arena->device && arena->mem.ptr)
        arena->device->ops->mem_free(arena->device, &arena->mem);
    mpt_arena_init_counting(arena);
}

void *mpt_arena_cut(mpt_arena_t *arena, mpt_use_t use, size_t bytes)
{
    assert((unsigned)use < MPT_USE_COUNT);
    size_t first = arena->used;
    size_t rounded = round_up(bytes);
    assert(mpt_arena_counting(arena) || rounded <= round_up(arena->mem.bytes) - first);
    arena->used = add_saturating(first, rounded);
    arena->bytes_by_use[use] = add_saturating(arena->bytes_by_use[use], rounded);
    if (mpt_arena_counting(arena))
        return NULL;
    if (!arena->mem.ptr)
        return (void *)nothing;
    return (char *)arena->mem.ptr + first;
}

int mpt_arena_counting(const mpt_arena_t *arena)
{
    return !arena->device;
}
