/*
 * Planned memory. An arena is one allocation, cut once when the session opens and freed whole. The
 * same cutting code runs twice: first over a counting arena (no memory behind it; that is what
 * `plan` prints), then over a real one of exactly the counted size. So plan and arena agree to the byte.
 * Not thread-safe.
 */
#ifndef MPT_ARENA_H
#define MPT_ARENA_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_ARENA_ALIGN 64 /* every cut starts on a cache line and is rounded up to one */

/** What a cut is for: the rows of `plan`'s table. */
typedef enum mpt_use {
    MPT_USE_WEIGHTS = 0,   /* working weights in the compute type */
    MPT_USE_PACKED,        /* the same as matrix products read them */
    MPT_USE_MASTERS,       /* FP32 master weights */
    MPT_USE_MOMENTS,       /* Adam's m and v */
    MPT_USE_EMA,           /* moving average of the weights */
    MPT_USE_ACCUMULATORS,  /* FP32 gradient accumulators */
    MPT_USE_GRADIENTS,     /* gradients in the wire type */
    MPT_USE_ACTIVATIONS,   /* kept from forward to backward */
    MPT_USE_SCRATCH,       /* kernels' scratch, temporaries, the loss's chunk of logits */
    MPT_USE_COMM,          /* communication buffers */
    MPT_USE_COMMUNICATORS, /* what communicators allocate themselves: in no arena, planned all the same */
    MPT_USE_SNAPSHOT,      /* copy that an asynchronous save writes from */
    MPT_USE_DATA,          /* tokens read ahead */
    MPT_USE_COUNT
} mpt_use_t;

/** Lower-case name of a use, e.g. "masters". */
const char *mpt_use_name(mpt_use_t use);

typedef struct mpt_arena {
    mpt_device_t *device; /* NULL: counting */
    mpt_mem_t mem;
    size_t used;
    size_t bytes_by_use[MPT_USE_COUNT];
} mpt_arena_t;

/** A counting arena: mpt_arena_cut returns NULL and counts. */
void mpt_arena_init_counting(mpt_arena_t *arena);
/** Allocate `bytes` of `mem_class` (zero bytes allowed: nothing is allocated). @return MPT_OK; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_arena_init(mpt_arena_t *arena, mpt_device_t *device, mpt_mem_class_t mem_class,
                            size_t bytes);
/** Free the memory. Safe on a counting or zeroed arena. */
void mpt_arena_release(mpt_arena_t *arena);
/** Cut `bytes` for `use`, zero-filled. Cutting more than was counted is a bug (assert). A real arena never returns NULL. */
void *mpt_arena_cut(mpt_arena_t *arena, mpt_use_t use, size_t bytes);
/** 1 where this arena only counts. */
int mpt_arena_counting(const mpt_arena_t *arena);

#ifdef __cplusplus
}
#endif
#endif
