#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

static char last_line[2048];

static void keep_line(void *ctx, mpt_log_level_t level, const char *line)
{
    (void)ctx;
    (void)level;
    snprintf(last_line, sizeof last_line, "%s", line);
}

static const mpt_log_t test_log = {.level = MPT_LOG_DEBUG, .rank = 2, .sink = keep_line};

static int open_device(void **state)
{
    mpt_device_t *device;
    if (mpt_device_cpu_create(NULL, &test_log, &device) != MPT_OK)
        return -1;
    last_line[0] = '\0';
    *state = device;
    return 0;
}

static int close_device(void **state)
{
    mpt_device_destroy(*state);
    return 0;
}

static int all_zero(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != 0)
            return 0;
    return 1;
}

static const size_t sizes[] = {
    1, 63, 4096, 4097, 100000, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, (6 << 20) + 4096};

static void memory_is_zeroed_aligned_and_writable(void **state)
{
    mpt_device_t *device = *state;
    for (int mem_class = MPT_MEM_PRIVATE; mem_class <= MPT_MEM_PEER; mem_class++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            mpt_mem_t mem;
            assert_int_equal(
                device->ops->mem_alloc(device, (mpt_mem_class_t)mem_class, sizes[i], &mem), MPT_OK);
            assert_int_equal(mem.bytes, sizes[i]);
            assert_int_equal(mem.mem_class, mem_class);
            assert_int_equal((uintptr_t)mem.ptr % (sizes[i] >= 2 << 20 ? 2 << 20 : 4096), 0);
            assert_true(all_zero(mem.ptr, mem.bytes));
            memset(mem.ptr, 0xa5, mem.bytes);
            device->ops->mem_free(device, &mem);
            assert_null(mem.ptr);
            assert_int_equal(mem.fd, -1);
        }
    }
}

static void private_memory_has_no_descriptor(void **state)
{
    mpt_device_t *device = *state;
    mpt_mem_t mem;
    assert_int_equal(device->ops->mem_alloc(device, MPT_MEM_PRIVATE, 100, &mem), MPT_OK);
    assert_int_equal(mem.fd, -1);
    device->ops->mem_free(device, &mem);
}

static void peer_memory_is_shared_through_its_descriptor(void **state)
{
    mpt_device_t *device = *state;
    size_t bytes = (2 << 20) + 12345;
    mpt_mem_t mem;
    assert_int_equal(device->ops->mem_alloc(device, MPT_MEM_PEER, bytes, &mem), MPT_OK);
    assert_true(mem.fd >= 0);
    assert_true(fcntl(mem.fd, F_GETFD) & FD_CLOEXEC);
    struct stat info;
    assert_int_equal(fstat(mem.fd, &info), 0);
    assert_true((size_t)info.st_size >= bytes);
    char *peer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mem.fd, 0);
    assert_ptr_not_equal(peer, MAP_FAILED);
    ((char *)mem.ptr)[bytes - 1] = 42;
    assert_int_equal(peer[bytes - 1], 42);
    peer[0] = 17;
    assert_int_equal(((char *)mem.ptr)[0], 17);
    munmap(peer, bytes);
    int fd = mem.fd;
    device->ops->mem_free(device, &mem);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

/* Pages of address space that this process has mapped. */
static long mapped_pages(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    long pages = 0;
    assert_int_equal(fscanf(file, "%ld", &pages), 1);
    fclose(file);
    return pages;
}

static void freeing_gives_all_addresses_back(void **state)
{
    mpt_device_t *device = *state;
    mpt_mem_t mem;
    size_t bytes = ((size_t)64 << 20) + 4096;
    long before = mapped_pages();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(device->ops->mem_alloc(device, MPT_MEM_PRIVATE, bytes, &mem), MPT_OK);
        char *ptr = mem.ptr;
        device->ops->mem_free(device, &mem);
        assert_int_equal(msync(ptr, 4096, MS_ASYNC), -1); /* not mapped any more */
        assert_int_equal(msync(ptr + bytes - 4096, 4096, MS_ASYNC), -1);
    }
    assert_true(mapped_pages() - before < 10 * 512); /* 100 huge pages would leak if their slack did */
    device->ops->mem_free(device, &mem); /* freed twice: nothing to do */
    device->ops->mem_free(device, NULL);
}

static void no_bytes_are_no_memory_and_no_error(void **state)
{
    mpt_device_t *device = *state;
    mpt_mem_t mem;
    assert_int_equal(device->ops->mem_alloc(device, MPT_MEM_PEER, 0, &mem), MPT_OK);
    assert_null(mem.ptr);
    assert_int_equal(mem.bytes, 0);
    assert_int_equal(mem.fd, -1);
    device->ops->mem_free(device, &mem);
}

static void an_impossible_size_is_refused_and_logged_with_its_bytes(void **state)
{
    mpt_device_t *device = *state;
    static const size_t impossible[] = {SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2, (size_t)1 << 62};
    for (int mem_class = MPT_MEM_PRIVATE; mem_class <= MPT_MEM_PEER; mem_class++) {
        for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
            mpt_mem_t mem = {.ptr = &mem, .bytes = 77, .fd = 99};
            last_line[0] = '\0';
            assert_int_equal(
                device->ops->mem_alloc(device, (mpt_mem_class_t)mem_class, impossible[i], &mem),
                MPT_ERR_NO_MEMORY);
            char bytes[32];
            snprintf(bytes, sizeof bytes, "%zu bytes", impossible[i]);
            assert_non_null(strstr(last_line, bytes));
            assert_non_null(strstr(last_line, "rank 2: "));
            assert_ptr_equal(mem.ptr, &mem);
            assert_int_equal(mem.bytes, 77);
            assert_int_equal(mem.fd, 99);
        }
    }
}

static void an_unknown_memory_class_is_refused(void **state)
{
    mpt_device_t *device = *state;
    mpt_mem_t mem;
    assert_int_equal(device->ops->mem_alloc(device, (mpt_mem_class_t)7, 100, &mem),
                     MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->mem_alloc(device, MPT_MEM_PRIVATE, 100, NULL),
                     MPT_ERR_INVALID_ARG);
    assert_true(last_line[0] != '\0');
}

static void events_are_done_at_once(void **state)
{
    mpt_device_t *device = *state;
    mpt_stream_t *stream;
    mpt_event_t *event;
    assert_int_equal(device->ops->stream_create(device, &stream), MPT_OK);
    assert_int_equal(device->ops->event_create(device, &event), MPT_OK);
    assert_int_equal(device->ops->event_synchronize(device, event), MPT_OK);
    assert_int_equal(device->ops->event_record(device, event, stream), MPT_OK);
    assert_int_equal(device->ops->event_wait(device, event, stream), MPT_OK);
    assert_int_equal(device->ops->event_synchronize(device, event), MPT_OK);
    assert_int_equal(device->ops->stream_synchronize(device, stream), MPT_OK);
    device->ops->event_destroy(device, event);
    device->ops->stream_destroy(device, stream);
    device->ops->event_destroy(device, NULL);
    device->ops->stream_destroy(device, NULL);
}

static void streams_and_events_of_another_device_are_refused(void **state)
{
    mpt_device_t *device = *state, *other;
    mpt_stream_t *mine, *foreign;
    mpt_event_t *event, *foreign_event;
    char a[8] = "before", b[8] = "after";
    assert_int_equal(mpt_device_cpu_create(NULL, &test_log, &other), MPT_OK);
    assert_int_equal(device->ops->stream_create(device, &mine), MPT_OK);
    assert_int_equal(device->ops->event_create(device, &event), MPT_OK);
    assert_int_equal(other->ops->stream_create(other, &foreign), MPT_OK);
    assert_int_equal(other->ops->event_create(other, &foreign_event), MPT_OK);
    mpt_stream_t *wrong[] = {NULL, foreign};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(device->ops->stream_synchronize(device, wrong[i]), MPT_ERR_INVALID_ARG);
        assert_int_equal(device->ops->event_record(device, event, wrong[i]), MPT_ERR_INVALID_ARG);
        assert_int_equal(device->ops->event_wait(device, event, wrong[i]), MPT_ERR_INVALID_ARG);
        assert_int_equal(device->ops->copy(device, a, b, 6, wrong[i]), MPT_ERR_INVALID_ARG);
        assert_int_equal(device->ops->fill_zero(device, a, 6, wrong[i]), MPT_ERR_INVALID_ARG);
    }
    assert_int_equal(device->ops->event_record(device, foreign_event, mine), MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->event_wait(device, NULL, mine), MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->event_synchronize(device, foreign_event), MPT_ERR_INVALID_ARG);
    assert_string_equal(a, "before");
    other->ops->event_destroy(other, foreign_event);
    other->ops->stream_destroy(other, foreign);
    device->ops->event_destroy(device, event);
    device->ops->stream_destroy(device, mine);
    mpt_device_destroy(other);
}

static void copies_and_fills_touch_their_bytes_alone(void **state)
{
    mpt_device_t *device = *state;
    mpt_stream_t *stream;
    assert_int_equal(device->ops->stream_create(device, &stream), MPT_OK);
    char src[64], dst[64];
    for (int i = 0; i < 64; i++) {
        src[i] = (char)(i + 1);
        dst[i] = 99;
    }
    assert_int_equal(device->ops->copy(device, dst + 1, src + 3, 61, stream), MPT_OK);
    assert_int_equal(dst[0], 99);
    assert_memory_equal(dst + 1, src + 3, 61);
    assert_int_equal(dst[62], 99);
    assert_int_equal(device->ops->fill_zero(device, dst + 5, 7, stream), MPT_OK);
    assert_int_equal(dst[4], 7);
    assert_true(all_zero(dst + 5, 7));
    assert_int_equal(dst[12], 15);
    assert_int_equal(device->ops->copy(device, NULL, NULL, 0, stream), MPT_OK);
    assert_int_equal(device->ops->fill_zero(device, NULL, 0, stream), MPT_OK);
    device->ops->stream_destroy(device, stream);
}

static void bad_regions_are_refused_untouched(void **state)
{
    mpt_device_t *device = *state;
    mpt_stream_t *stream;
    assert_int_equal(device->ops->stream_create(device, &stream), MPT_OK);
    char bytes[32] = "0123456789abcdefghijklmnopqrstu";
    assert_int_equal(device->ops->copy(device, bytes + 1, bytes, 2, stream), MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->copy(device, bytes, bytes + 1, 2, stream), MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->copy(device, bytes, bytes, 1, stream), MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->copy(device, NULL, bytes, 1, stream), MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->copy(device, bytes, NULL, 1, stream), MPT_ERR_INVALID_ARG);
    assert_int_equal(device->ops->fill_zero(device, NULL, 1, stream), MPT_ERR_INVALID_ARG);
    assert_string_equal(bytes, "0123456789abcdefghijklmnopqrstu");
    assert_int_equal(device->ops->copy(device, bytes, bytes + 2, 2, stream),
                     MPT_OK); /* they touch: allowed */
    assert_memory_equal(bytes, "2323", 4);
    device->ops->stream_destroy(device, stream);
}

static void the_device_is_called_cpu_and_may_be_destroyed_as_null(void **state)
{
    mpt_device_t *device = *state;
    assert_string_equal(device->ops->name, "cpu");
    assert_ptr_equal(device->log, &test_log);
    mpt_device_destroy(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)
    const struct CMUnitTest tests[] = {
        TEST(memory_is_zeroed_aligned_and_writable),
        TEST(private_memory_has_no_descriptor),
        TEST(peer_memory_is_shared_through_its_descriptor),
        TEST(freeing_gives_all_addresses_back),
        TEST(no_bytes_are_no_memory_and_no_error),
        TEST(an_impossible_size_is_refused_and_logged_with_its_bytes),
        TEST(an_unknown_memory_class_is_refused),
        TEST(events_are_done_at_once),
        TEST(streams_and_events_of_another_device_are_refused),
        TEST(copies_and_fills_touch_their_bytes_alone),
        TEST(bad_regions_are_refused_untouched),
        TEST(the_device_is_called_cpu_and_may_be_destroyed_as_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
