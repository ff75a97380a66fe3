/*
 * The device: memory of two classes, streams, events, copies. One vtable, a backend per kind of
 * device. The CPU's streams run each call to its end before it returns, so that its events are
 * always done; code written for asynchronous streams is right on both.
 *
 * A device is used by one session. Its functions may be called by the session's threads one at a time.
 */
#ifndef MPT_DEVICE_H
#define MPT_DEVICE_H

#include <stddef.h>
#include "log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_device mpt_device_t;
typedef struct mpt_stream mpt_stream_t;
typedef struct mpt_event mpt_event_t;

typedef enum mpt_mem_class {
    MPT_MEM_PRIVATE = 0,
    MPT_MEM_PEER = 1 /* reachable by the other ranks of the host; on the CPU a memfd */
} mpt_mem_class_t;

/** One allocation. Zero-filled, aligned to 4096 bytes (huge pages advised from 2 MiB on). */
typedef struct mpt_mem {
    void *ptr;
    size_t bytes;
    mpt_mem_class_t mem_class;
    int fd; /* MPT_MEM_PEER on the CPU: the memfd to pass over a socket; else -1 */
} mpt_mem_t;

typedef struct mpt_device_ops {
    const char *name; /* "cpu", "cuda" */
    mpt_status_t (*mem_alloc)(mpt_device_t *device, mpt_mem_class_t mem_class, size_t bytes,
                              mpt_mem_t *mem_p);
    void (*mem_free)(mpt_device_t *device, mpt_mem_t *mem);
    mpt_status_t (*stream_create)(mpt_device_t *device, mpt_stream_t **stream_p);
    void (*stream_destroy)(mpt_device_t *device, mpt_stream_t *stream);
    mpt_status_t (*stream_synchronize)(mpt_device_t *device, mpt_stream_t *stream);
    mpt_status_t (*event_create)(mpt_device_t *device, mpt_event_t **event_p);
    void (*event_destroy)(mpt_device_t *device, mpt_event_t *event);
    /* Record: the event is done when all enqueued on `stream` before is done. */
    mpt_status_t (*event_record)(mpt_device_t *device, mpt_event_t *event, mpt_stream_t *stream);
    /* Wait: later work on `stream` starts after the event is done. The host does not block. */
    mpt_status_t (*event_wait)(mpt_device_t *device, mpt_event_t *event, mpt_stream_t *stream);
    mpt_status_t (*event_synchronize)(mpt_device_t *device, mpt_event_t *event);
    /* Copies between any of host and device memory; enqueued. Regions must not overlap. */
    mpt_status_t (*copy)(mpt_device_t *device, void *dst, const void *src, size_t bytes,
                         mpt_stream_t *stream);
    mpt_status_t (*fill_zero)(mpt_device_t *device, void *dst, size_t bytes, mpt_stream_t *stream);
} mpt_device_ops_t;

struct mpt_pool;

struct mpt_device {
    const mpt_device_ops_t *ops;
    const mpt_log_t *log;  /* borrowed */
    struct mpt_pool *pool; /* the host threads that work for this device; borrowed; NULL: none */
    void *impl;
};

/** Create the CPU device. `pool` and `log` are borrowed and must outlive it.
 *  @return MPT_OK; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_device_cpu_create(struct mpt_pool *pool, const mpt_log_t *log,
                                   mpt_device_t **device_p);
/** Destroy a device; NULL is allowed. All its memory must have been freed before. */
void mpt_device_destroy(mpt_device_t *device);

#ifdef __cplusplus
}
#endif
#endif
