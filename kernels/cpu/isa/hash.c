/*
 * The replica hash. Addition modulo 2^64 has no order: vectors, tasks and threads add as they come.
 * The loops are plain, since they are all integer multiplication: compilers make vectors of them
 * where the level has 64-bit products, and know better than we where it has not.
 */
#include <stdatomic.h>
#include "elementwise.h"
#include "numeric.h"

typedef struct hash_call {
    const mpt_hash_t *a;
    _Atomic uint64_t sum;
} hash_call_t;

static uint64_t hash_words(const uint32_t *bits, int64_t count, uint64_t element, uint64_t salt)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += mpt_hash_mix(element + (uint64_t)i, bits[i], salt);
    return sum;
}

static uint64_t hash_halves(const uint16_t *bits, int64_t count, uint64_t element, uint64_t salt)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += mpt_hash_mix(element + (uint64_t)i, bits[i], salt);
    return sum;
}

static void hash_task(void *ctx, int task, int worker)
{
    (void)worker;
    hash_call_t *call = ctx;
    const mpt_hash_t *a = call->a;
    const int64_t begin = (int64_t)task * TASK_ELEMENTS;
    const int64_t count = tasks_end(a->count, TASK_ELEMENTS, task) - begin;
    const uint64_t element = a->element + (uint64_t)begin;
    const uint64_t sum =
        a->dtype == MPT_F32
            ? hash_words((const uint32_t *)a->data + begin, count, element, a->salt)
            : hash_halves((const uint16_t *)a->data + begin, count, element, a->salt);
    atomic_fetch_add_explicit(&call->sum, sum, memory_order_relaxed);
}

mpt_status_t cpu_hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s)
{
    (void)s;
    hash_call_t call = {.a = a};
    tasks_run(k, hash_task, &call, tasks_cover(a->count, TASK_ELEMENTS));
    *a->sum += atomic_load_explicit(&call.sum, memory_order_relaxed);
    return MPT_OK;
}
