#include "device.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

struct mpt_stream {
    mpt_device_t *device;
};

struct mpt_event {
    mpt_device_t *device;
};

/* ---- memory ------------------------------------------------------------------------- */

/* Bytes that a mapping of `bytes` takes: whole pages. 0 where that does not fit a size_t. */
static size_t mapped_bytes(size_t bytes)
{
    size_t mask = (size_t)sysconf(_SC_PAGESIZE) - 1;
    return bytes > SIZE_MAX - mask - HUGE_PAGE_BYTES ? 0 : (bytes + mask) & ~mask;
}

/* Reserve `bytes` (whole pages) of addresses, aligned to huge pages where one fits in, which mmap
 * alone does not do: map one huge page more and give the ends back. */
static void *reserve(size_t bytes)
{
    size_t slack = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    char *base = mmap(NULL, bytes + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    if (slack == 0)
        return base;
    size_t head = (size_t)(-(uintptr_t)base & (HUGE_PAGE_BYTES - 1));
    if (head > 0)
        munmap(base, head);
    if (slack > head)
        munmap(base + head + bytes, slack - head);
    return base + head;
}

/* Back the reserved addresses: by the memfd, or by anonymous memory where `fd` is -1. Not by mapping anew over
 * them there: the kernel would count no more than before, against RLIMIT_DATA as well. */
static int back(void *ptr, size_t bytes, int fd)
{
    if (fd < 0 && mprotect(ptr, bytes, PROT_READ | PROT_WRITE) != 0)
        return -1;
    if (fd >= 0 &&
        mmap(ptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        return -1;
    if (bytes >= HUGE_PAGE_BYTES)
        (void)madvise(ptr, bytes, MADV_HUGEPAGE); /* a wish; kernels without huge pages refuse it */
    return 0;
}

/* A memfd of `bytes`: shared memory that has no name, so that a crash leaves nothing behind. */
static int open_memfd(size_t bytes)
{
    int fd = memfd_create("mpt-peer", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static mpt_status_t map_memory(mpt_mem_class_t mem_class, size_t bytes, void **ptr_p, int *fd_p)
{
    int fd = -1;
    void *ptr = reserve(bytes);
    if (!ptr)
        return MPT_ERR_NO_MEMORY;
    if (mem_class == MPT_MEM_PEER && (fd = open_memfd(bytes)) < 0)
        goto err_unmap;
    if (back(ptr, bytes, fd) != 0)
        goto err_close;
    *ptr_p = ptr;
    *fd_p = fd;
    return MPT_OK;
err_close:
    if (fd >= 0)
        close(fd);
err_unmap:
    munmap(ptr, bytes);
    return MPT_ERR_NO_MEMORY;
}

static mpt_status_t cpu_mem_alloc(mpt_device_t *device, mpt_mem_class_t mem_class, size_t bytes,
                                  mpt_mem_t *mem_p)
{
    if (!mem_p || (mem_class != MPT_MEM_PRIVATE && mem_class != MPT_MEM_PEER)) {
        mpt_log_error(device->log, "cpu memory: no place for the result, or class %d",
                      (int)mem_class);
        return MPT_ERR_INVALID_ARG;
    }
    mpt_mem_t mem = {.bytes = bytes, .mem_class = mem_class, .fd = -1};
    if (bytes > 0) {
        size_t mapped = mapped_bytes(bytes);
        errno = ENOMEM;
        if (mapped == 0 || map_memory(mem_class, mapped, &mem.ptr, &mem.fd) != MPT_OK) {
            mpt_log_error(device->log, "cpu memory: cannot allocate %zu bytes of %s memory: %s",
                          bytes, mem_class == MPT_MEM_PEER ? "peer" : "private", strerror(errno));
            return MPT_ERR_NO_MEMORY;
        }
    }
    *mem_p = mem;
    return MPT_OK;
}

static void cpu_mem_free(mpt_device_t *device, mpt_mem_t *mem)
{
    if (!mem || !mem->ptr)
        return;
    if (munmap(mem->ptr, mapped_bytes(mem->bytes)) != 0)
        mpt_log_error(device->log, "cpu memory: cannot unmap %zu bytes at %p: %s", mem->bytes,
                      mem->ptr, strerror(errno));
    if (mem->fd >= 0)
        close(mem->fd);
    *mem = (mpt_mem_t){.fd = -1};
}

/* ---- streams and events: every call is complete when it returns ---------------------- */

static mpt_status_t check_stream(const mpt_device_t *device, const mpt_stream_t *stream,
                                 const char *call)
{
    if (stream && stream->device == device)
        return MPT_OK;
    mpt_log_error(device->log, "cpu %s: stream %p is not of this device", call,
                  (const void *)stream);
    return MPT_ERR_INVALID_ARG;
}

static mpt_status_t check_event(const mpt_device_t *device, const mpt_event_t *event,
                                const char *call)
{
    if (event && event->device == device)
        return MPT_OK;
    mpt_log_error(device->log, "cpu %s: event %p is not of this device", call, (const void *)event);
    return MPT_ERR_INVALID_ARG;
}

static mpt_status_t cpu_stream_create(mpt_device_t *device, mpt_stream_t **stream_p)
{
    mpt_stream_t *stream = calloc(1, sizeof *stream);
    if (!stream) {
        mpt_log_error(device->log, "cpu stream: cannot allocate %zu bytes", sizeof *stream);
        return MPT_ERR_NO_MEMORY;
    }
    stream->device = device;
    *stream_p = stream;
    return MPT_OK;
}

static void cpu_stream_destroy(mpt_device_t *device, mpt_stream_t *stream)
{
    (void)device;
    free(stream);
}

static mpt_status_t cpu_stream_synchronize(mpt_device_t *device, mpt_stream_t *stream)
{
    return check_stream(device, stream, "stream synchronize");
}

static mpt_status_t cpu_event_create(mpt_device_t *device, mpt_event_t **event_p)
{
    mpt_event_t *event = calloc(1, sizeof *event);
    if (!event) {
        mpt_log_error(device->log, "cpu event: cannot allocate %zu bytes", sizeof *event);
        return MPT_ERR_NO_MEMORY;
    }
    event->device = device;
    *event_p = event;
    return MPT_OK;
}

static void cpu_event_destroy(mpt_device_t *device, mpt_event_t *event)
{
    (void)device;
    free(event);
}

static mpt_status_t cpu_event_record(mpt_device_t *device, mpt_event_t *event, mpt_stream_t *stream)
{
    mpt_status_t status = check_event(device, event, "event record");
    if (status != MPT_OK)
        return status;
    return check_stream(device, stream, "event record");
}

static mpt_status_t cpu_event_wait(mpt_device_t *device, mpt_event_t *event, mpt_stream_t *stream)
{
    mpt_status_t status = check_event(device, event, "event wait");
    if (status != MPT_OK)
        return status;
    return check_stream(device, stream, "event wait");
}

static mpt_status_t cpu_event_synchronize(mpt_device_t *device, mpt_event_t *event)
{
    return check_event(device, event, "event synchronize");
}

/* ---- copies ------------------------------------------------------------------------- */

static int overlap(const void *a, const void *b, size_t bytes)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return x < y ? y - x < bytes : x - y < bytes;
}

/* Copies and fills run on the calling thread, not over the pool: the thread that runs collectives
 * copies too, while the pool is busy with a kernel. */
static mpt_status_t cpu_copy(mpt_device_t *device, void *dst, const void *src, size_t bytes,
                             mpt_stream_t *stream)
{
    mpt_status_t status = check_stream(device, stream, "copy");
    if (status != MPT_OK)
        return status;
    if (bytes == 0)
        return MPT_OK;
    if (!dst || !src || overlap(dst, src, bytes)) {
        mpt_log_error(device->log, "cpu copy: %zu bytes from %p to %p: null or overlapping", bytes,
                      src, dst);
        return MPT_ERR_INVALID_ARG;
    }
    memcpy(dst, src, bytes);
    return MPT_OK;
}

static mpt_status_t cpu_fill_zero(mpt_device_t *device, void *dst, size_t bytes,
                                  mpt_stream_t *stream)
{
    mpt_status_t status = check_stream(device, stream, "fill zero");
    if (status != MPT_OK)
        return status;
    if (bytes == 0)
        return MPT_OK;
    if (!dst) {
        mpt_log_error(device->log, "cpu fill zero: %zu bytes at null", bytes);
        return MPT_ERR_INVALID_ARG;
    }
    memset(dst, 0, bytes);
    return MPT_OK;
}

static const mpt_device_ops_t cpu_ops = {
    .name = "cpu",
    .mem_alloc = cpu_mem_alloc,
    .mem_free = cpu_mem_free,
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .stream_synchronize = cpu_stream_synchronize,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_record,
    .event_wait = cpu_event_wait,
    .event_synchronize = cpu_event_synchronize,
    .copy = cpu_copy,
    .fill_zero = cpu_fill_zero,
};

mpt_status_t mpt_device_cpu_create(struct mpt_pool *pool, const mpt_log_t *log,
                                   mpt_device_t **device_p)
{
    mpt_device_t *device = calloc(1, sizeof *device);
    if (!device) {
        mpt_log_error(log, "cpu device: cannot allocate %zu bytes", sizeof *device);
        return MPT_ERR_NO_MEMORY;
    }
    device->ops = &cpu_ops;
    device->log = log;
    device->pool = pool;
    *device_p = device;
    return MPT_OK;
}

void mpt_device_destroy(mpt_device_t *device)
{
    free(device);
}
