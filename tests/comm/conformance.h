/*
 * The conformance suite of comm: what every backend must do, bit for bit. Each rank calls conformance_run on its
 * communicator; failures are printed and counted, since ranks may be threads that must not jump out of a test. The
 * sum's oracle is here, in scalar code of its own.
 */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "comm.h"
#include "numeric.h"

#define SUITE_BUFFER_BYTES ((size_t)20 << 20)
#define SUITE_GUARD_BYTES ((size_t)64)
#define SUITE_POISON 0xa5
#define SUITE_MAX_RANKS 16

typedef struct suite {
    mpt_comm_t *comm;
    int failures;
    int left_to_right_differs; /* elements for which a wrong order of summation shows */
    int narrow_differs;        /* elements for which 16-bit partial sums show */
    mpt_mem_t peer[2];         /* registered */
    void *handles[2];
    char *plain[2];
} suite_t;

#define EXPECT(suite, condition)                                                                   \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            (suite)->failures++;                                                                   \
            fprintf(stderr, "%s:%d: rank %d of %d (%s): %s\n", __FILE__, __LINE__,                 \
                    (suite)->comm->rank, (suite)->comm->ranks, (suite)->comm->ops->name,           \
                    #condition);                                                                   \
        }                                                                                          \
    } while (0)

/* ---- inputs and the oracle --------------------------------------------------------------------------- */

/* Signed, over 2^-9 .. 2^8 in magnitude: sums of these round differently in every order, and stay finite in fp16. */
static inline float suite_value(int rank, int64_t index)
{
    uint64_t h = ((uint64_t)index * 64 + (uint64_t)rank + 1) * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u;
    h ^= h >> 32;
    uint32_t bits = (uint32_t)(h & 0x807fffffu) | (uint32_t)(118 + (h >> 40) % 17) << 23;
    return mpt_f32_from_bits(bits);
}

static inline void suite_put(void *array, mpt_dtype_t dtype, int64_t index, float value)
{
    if (dtype == MPT_F32)
        ((float *)array)[index] = value;
    else
        ((uint16_t *)array)[index] =
            dtype == MPT_BF16 ? mpt_f32_to_bf16(value) : mpt_f32_to_f16(value);
}

/* What `value` is after it was stored as `dtype`. */
static inline float suite_rounded(mpt_dtype_t dtype, float value)
{
    if (dtype == MPT_F32)
        return value;
    return dtype == MPT_BF16 ? mpt_bf16_to_f32(mpt_f32_to_bf16(value))
                             : mpt_f16_to_f32(mpt_f32_to_f16(value));
}

static inline float suite_tree(const float *values, int ranks)
{
    float level[SUITE_MAX_RANKS];
    memcpy(level, values, (size_t)ranks * sizeof level[0]);
    while (ranks > 1) {
        for (int i = 0; i < ranks / 2; i++)
            level[i] = level[2 * i] + level[2 * i + 1];
        if (ranks % 2)
            level[ranks / 2] = level[ranks - 1];
        ranks = (ranks + 1) / 2;
    }
    return level[0];
}

/* The sum over `ranks` of element `index`; sources[r] names the inputs of rank r. */
static inline float suite_sum(suite_t *suite, const int *sources, int ranks, mpt_dtype_t wire,
                              int64_t index)
{
    float values[SUITE_MAX_RANKS], chain = 0, narrow = 0;
    for (int r = 0; r < ranks; r++) {
        values[r] = suite_rounded(wire, suite_value(sources[r], index));
        chain = r ? chain + values[r] : values[r];
        narrow = r ? suite_rounded(wire, narrow + values[r]) : values[r];
    }
    float tree = suite_tree(values, ranks);
    suite->left_to_right_differs += mpt_f32_bits(tree) != mpt_f32_bits(chain);
    suite->narrow_differs += wire != MPT_F32 && suite_rounded(wire, tree) != narrow;
    return tree;
}

static inline void suite_fill(void *array, mpt_dtype_t dtype, int rank, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        suite_put(array, dtype, i, suite_value(rank, i));
}

/* Compare `count` sums, the first of element `first`, with the oracle; returns 1 where all bits agree. */
static inline int suite_sums_agree(suite_t *suite, const void *got, mpt_dtype_t out,
                                   const int *sources, int ranks, mpt_dtype_t wire, int64_t first,
                                   int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t expected[1] = {0};
        suite_put(expected, out, 0, suite_sum(suite, sources, ranks, wire, first + i));
        size_t bytes = mpt_dtype_bytes(out);
        if (memcmp((const char *)got + (size_t)i * bytes, expected, bytes) != 0)
            return 0;
    }
    return 1;
}

static inline unsigned char suite_byte(int rank, size_t index)
{
    return (unsigned char)((index * 131 + (index >> 9) + (size_t)rank * 29 + 7) & 255);
}

static inline void suite_fill_bytes(char *bytes, int rank, size_t first, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (char)suite_byte(rank, first + i);
}

static inline int suite_bytes_agree(const char *bytes, int rank, size_t first, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if ((unsigned char)bytes[i] != suite_byte(rank, first + i))
            return 0;
    return 1;
}

static inline void suite_poison(char *bytes, size_t count)
{
    memset(bytes, SUITE_POISON, count + SUITE_GUARD_BYTES);
}

static inline int suite_guarded(const char *bytes, size_t count)
{
    for (size_t i = 0; i < SUITE_GUARD_BYTES; i++)
        if ((unsigned char)bytes[count + i] != SUITE_POISON)
            return 0;
    return 1;
}

/* Buffer `which` (0 or 1): registered, or not. Every rank starts its buffer elsewhere. */
static inline char *suite_buffer(const suite_t *suite, int registered, int which)
{
    char *base = registered ? suite->peer[which].ptr : suite->plain[which];
    return base + 64 * (size_t)suite->comm->rank;
}

/* How large calls go differs: small ones lie whole in a slot of shm's, large ones past the caches. */
#define SUITE_SLOT_BYTES ((size_t)4096)
#define SUITE_PAST_CACHES_BYTES ((size_t)8 << 20)

static const mpt_dtype_t suite_wires[] = {MPT_F32, MPT_BF16, MPT_F16};
static const int suite_ranks_in_order[SUITE_MAX_RANKS] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                          8, 9, 10, 11, 12, 13, 14, 15};

/* ---- the cases --------------------------------------------------------------------------------------- */

static inline void suite_reduce_scatter_case(suite_t *suite, mpt_dtype_t wire, mpt_dtype_t out,
                                             int64_t count, int in_place, int registered)
{
    mpt_comm_t *comm = suite->comm;
    char *send = suite_buffer(suite, registered, 0);
    int64_t first = count * comm->rank;
    char *recv = in_place ? send + (size_t)first * mpt_dtype_bytes(wire)
                          : suite_buffer(suite, registered, 1);
    size_t bytes = (size_t)count * mpt_dtype_bytes(out);
    suite_fill(send, wire, comm->rank, count * comm->ranks);
    if (!in_place)
        suite_poison(recv, bytes);
    EXPECT(suite, mpt_comm_reduce_scatter(comm, send, recv, count, wire, out, NULL) == MPT_OK);
    EXPECT(suite, suite_sums_agree(suite, recv, out, suite_ranks_in_order, comm->ranks, wire, first,
                                   count));
    EXPECT(suite, in_place || suite_guarded(recv, bytes));
}

static inline void suite_reduce_scatter(suite_t *suite)
{
    const int64_t slot = (int64_t)SUITE_SLOT_BYTES / suite->comm->ranks;
    const int64_t counts[] = {1,        63,           64,       65,           100003 / suite->comm->ranks | 1,
                              slot / 2, slot / 2 + 1, slot / 4, slot / 4 + 1, slot / 4 - 1};
    for (int w = 0; w < 3; w++)
        for (int c = 0; c < 10; c++)
            for (int registered = 0; registered < 2; registered++) {
                mpt_dtype_t wire = suite_wires[w];
                suite_reduce_scatter_case(suite, wire, wire, counts[c], 1, registered);
                suite_reduce_scatter_case(suite, wire, wire, counts[c], 0, registered);
                suite_reduce_scatter_case(suite, wire, MPT_F32, counts[c], 0, registered);
            }
}

static inline void suite_all_reduce_case(suite_t *suite, mpt_dtype_t wire, int64_t count,
                                         int in_place, int registered)
{
    mpt_comm_t *comm = suite->comm;
    char *send = suite_buffer(suite, registered, 0);
    char *recv = in_place ? send : suite_buffer(suite, registered, 1);
    size_t bytes = (size_t)count * mpt_dtype_bytes(wire);
    suite_poison(recv, bytes);
    suite_fill(send, wire, comm->rank, count);
    EXPECT(suite, mpt_comm_all_reduce(comm, send, recv, count, wire, NULL) == MPT_OK);
    /* Large results are checked on one rank fully, on the others at a slice of their own. */
    int64_t part = count > 1000 ? count / comm->ranks : count;
    int64_t first = count > 1000 ? part * comm->rank : 0;
    EXPECT(suite, suite_sums_agree(suite, recv + (size_t)first * mpt_dtype_bytes(wire), wire,
                                   suite_ranks_in_order, comm->ranks, wire, first, part));
    EXPECT(suite, suite_guarded(recv, bytes));
}

static inline void suite_all_reduce(suite_t *suite)
{
    const int64_t counts[] = {1, 63, 64, 65, 20011, 128, 129, 256, 257, 1024, 1025, 2048, 2049};
    for (int w = 0; w < 3; w++) {
        for (int c = 0; c < 13; c++)
            for (int registered = 0; registered < 2; registered++) {
                suite_all_reduce_case(suite, suite_wires[w], counts[c], 0, registered);
                suite_all_reduce_case(suite, suite_wires[w], counts[c], 1, registered);
            }
        suite_all_reduce_case(suite, suite_wires[w], 1000003, w % 2, 0);
        suite_all_reduce_case(suite, suite_wires[w], 1000003, w % 2, 1);
    }
}

/* Large enough to be stored past the caches, at an odd place, and in the middle of a line. */
static inline void suite_past_caches(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    for (int w = 0; w < 3; w++) {
        mpt_dtype_t wire = suite_wires[w];
        size_t element = mpt_dtype_bytes(wire);
        int64_t count = (int64_t)(SUITE_PAST_CACHES_BYTES / element) + 1237;
        char *send = suite_buffer(suite, 1, 0) + (1 + (size_t)comm->rank) * element;
        char *recv = w == 1 ? send : suite_buffer(suite, 1, 1) + 3 * element;
        suite_poison(recv, (size_t)count * element);
        suite_fill(send, wire, comm->rank, count);
        EXPECT(suite, mpt_comm_all_reduce(comm, send, recv, count, wire, NULL) == MPT_OK);
        int64_t part = count / comm->ranks, first = part * comm->rank, step = part < 20011 ? part : 20011;
        for (int r = 0; r < comm->ranks; r++) /* a bit of everyone's share, and all ends */
            EXPECT(suite, suite_sums_agree(suite, recv + (size_t)(part * r) * element, wire, suite_ranks_in_order,
                                           comm->ranks, wire, part * r, step));
        EXPECT(suite, suite_sums_agree(suite, recv + (size_t)first * element, wire, suite_ranks_in_order,
                                       comm->ranks, wire, first, part));
        EXPECT(suite, suite_sums_agree(suite, recv + (size_t)(count - 999) * element, wire, suite_ranks_in_order,
                                       comm->ranks, wire, count - 999, 999));
        EXPECT(suite, suite_guarded(recv, (size_t)count * element));
    }
}

/* A result of 8 MiB and more, of as many ranks as the buffers hold. In place an odd count starts most slices in the middle of a line. */
static inline void suite_scatter_past_caches(suite_t *suite)
{
    static const struct {
        mpt_dtype_t wire, out;
        int in_place;
    } cases[] = {{MPT_F32, MPT_F32, 1}, {MPT_BF16, MPT_BF16, 1}, {MPT_BF16, MPT_F32, 0}, {MPT_F16, MPT_F32, 0}};
    mpt_comm_t *comm = suite->comm;
    for (int c = 0; c < 4; c++) {
        mpt_dtype_t wire = cases[c].wire, out = cases[c].out;
        size_t element = mpt_dtype_bytes(out);
        int64_t count = (int64_t)(SUITE_PAST_CACHES_BYTES / element) + 1237, step = 20011;
        int64_t first = count * comm->rank, half = count / 2;
        char *send = suite_buffer(suite, 1, 0);
        char *recv = cases[c].in_place ? send + (size_t)first * element : suite_buffer(suite, 1, 1) + 3 * element;
        if ((size_t)(count * comm->ranks) * mpt_dtype_bytes(wire) > SUITE_BUFFER_BYTES - SUITE_MAX_RANKS * 64)
            continue;
        if (!cases[c].in_place)
            suite_poison(recv, (size_t)count * element);
        suite_fill(send, wire, comm->rank, count * comm->ranks);
        EXPECT(suite, mpt_comm_reduce_scatter(comm, send, recv, count, wire, out, NULL) == MPT_OK);
        EXPECT(suite, suite_sums_agree(suite, recv, out, suite_ranks_in_order, comm->ranks, wire, first, step));
        EXPECT(suite, suite_sums_agree(suite, recv + (size_t)half * element, out, suite_ranks_in_order, comm->ranks, wire,
                                       first + half, step));
        EXPECT(suite, suite_sums_agree(suite, recv + (size_t)(count - 999) * element, out, suite_ranks_in_order, comm->ranks,
                                       wire, first + count - 999, 999));
        EXPECT(suite, cases[c].in_place || suite_guarded(recv, (size_t)count * element));
    }
}

/* Every rank must hold the same bits: gather a few and compare. */
static inline void suite_all_reduce_same_everywhere(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    uint16_t mine[65], all[65 * SUITE_MAX_RANKS];
    suite_fill(mine, MPT_BF16, comm->rank, 65);
    EXPECT(suite, mpt_comm_all_reduce(comm, mine, mine, 65, MPT_BF16, NULL) == MPT_OK);
    EXPECT(suite, mpt_comm_all_gather(comm, mine, all, sizeof mine, NULL) == MPT_OK);
    for (int r = 0; r < comm->ranks; r++)
        EXPECT(suite, memcmp(all + 65 * r, mine, sizeof mine) == 0);
}

/* Infinities travel through a sum, and a negative zero alone stays one. */
static inline void suite_special_values(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    float values[3] = {-0.0f, comm->rank == comm->ranks - 1 ? 1.0f / 0.0f : 1.0f, 0x1p-149f};
    EXPECT(suite, mpt_comm_all_reduce(comm, values, values, 3, MPT_F32, NULL) == MPT_OK);
    EXPECT(suite, mpt_f32_bits(values[0]) == 0x80000000u);
    EXPECT(suite, mpt_f32_bits(values[1]) == 0x7f800000u);
    EXPECT(suite, mpt_f32_bits(values[2]) == (uint32_t)comm->ranks);
}

static inline void suite_all_gather_case(suite_t *suite, size_t bytes, int in_place, int registered)
{
    mpt_comm_t *comm = suite->comm;
    char *recv = suite_buffer(suite, registered, 1);
    char *send = in_place ? recv + (size_t)comm->rank * bytes : suite_buffer(suite, registered, 0);
    suite_poison(recv, (size_t)comm->ranks * bytes);
    suite_fill_bytes(send, comm->rank, 0, bytes);
    EXPECT(suite, mpt_comm_all_gather(comm, send, recv, bytes, NULL) == MPT_OK);
    for (int r = 0; r < comm->ranks; r++)
        EXPECT(suite, suite_bytes_agree(recv + (size_t)r * bytes, r, 0, bytes));
    EXPECT(suite, suite_guarded(recv, (size_t)comm->ranks * bytes));
}

static inline void suite_all_gather(suite_t *suite)
{
    const size_t n = (size_t)suite->comm->ranks, large = SUITE_PAST_CACHES_BYTES / n * (n > 1 ? n / (n - 1) : 1);
    const size_t sizes[] = {1, 63, 64, 65, 3000017 / n, SUITE_SLOT_BYTES, SUITE_SLOT_BYTES + 1, large + 1003};
    for (int s = 0; s < 8; s++)
        for (int in_place = 0; in_place < 2; in_place++)
            for (int registered = 0; registered < 2; registered++)
                suite_all_gather_case(suite, sizes[s], in_place, registered);
}

static inline void suite_broadcast(suite_t *suite)
{
    const size_t sizes[] = {1, 65, SUITE_SLOT_BYTES, SUITE_SLOT_BYTES + 1, 1500003, 2 * SUITE_PAST_CACHES_BYTES + 77};
    mpt_comm_t *comm = suite->comm;
    for (int root = 0; root < comm->ranks; root++)
        for (int s = 0; s < 6; s++)
            for (int registered = 0; registered < 2; registered++) {
                if (sizes[s] > 5000 && root % 3 != 0)
                    continue; /* large ones from every third root */
                char *buffer = suite_buffer(suite, registered, 0);
                suite_poison(buffer, sizes[s]);
                if (comm->rank == root)
                    suite_fill_bytes(buffer, root, 0, sizes[s]);
                EXPECT(suite, mpt_comm_broadcast(comm, buffer, sizes[s], root, NULL) == MPT_OK);
                EXPECT(suite, suite_bytes_agree(buffer, root, 0, sizes[s]));
                EXPECT(suite, suite_guarded(buffer, sizes[s]));
            }
}

static inline void suite_all_to_all(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    const size_t slot = SUITE_SLOT_BYTES / (size_t)comm->ranks;
    const size_t sizes[] = {1, 65, (size_t)3000017 / (size_t)comm->ranks, slot, slot + 1};
    for (int s = 0; s < 5; s++)
        for (int registered = 0; registered < 2; registered++) {
            size_t bytes = sizes[s], total = bytes * (size_t)comm->ranks;
            char *send = suite_buffer(suite, registered, 0);
            char *recv = suite_buffer(suite, registered, 1);
            suite_fill_bytes(send, comm->rank, 0, total);
            suite_poison(recv, total);
            EXPECT(suite, mpt_comm_all_to_all(comm, send, recv, bytes, NULL) == MPT_OK);
            for (int r = 0; r < comm->ranks; r++)
                EXPECT(suite, suite_bytes_agree(recv + (size_t)r * bytes, r,
                                                (size_t)comm->rank * bytes, bytes));
            EXPECT(suite, suite_guarded(recv, total));
        }
}

/* Round the ring: each rank sends to the next and receives from the one before. Rank 0 sends first, the others receive
 * first: no order of calls may rely on a send that returns early. */
static inline void suite_ring(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    const size_t sizes[] = {1, 65, 65536, 1000003};
    int next = (comm->rank + 1) % comm->ranks;
    int previous = (comm->rank + comm->ranks - 1) % comm->ranks;
    for (int s = 0; s < 4 && comm->ranks > 1; s++) {
        char *send = suite_buffer(suite, 0, 0), *recv = suite_buffer(suite, 0, 1);
        suite_fill_bytes(send, comm->rank, sizes[s], sizes[s]);
        suite_poison(recv, sizes[s]);
        if (comm->rank == 0)
            EXPECT(suite, mpt_comm_send(comm, send, sizes[s], next, NULL) == MPT_OK);
        EXPECT(suite, mpt_comm_recv(comm, recv, sizes[s], previous, NULL) == MPT_OK);
        if (comm->rank != 0)
            EXPECT(suite, mpt_comm_send(comm, send, sizes[s], next, NULL) == MPT_OK);
        EXPECT(suite, suite_bytes_agree(recv, previous, sizes[s], sizes[s]));
        EXPECT(suite, suite_guarded(recv, sizes[s]));
    }
}

/* Several small messages of one pair arrive in the order in which they were sent. */
static inline void suite_messages_in_order(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    if (comm->ranks < 2 || comm->rank > 1)
        return;
    for (int32_t i = 0; i < 50; i++) {
        int32_t message = comm->rank == 0 ? i : -1;
        if (comm->rank == 0)
            EXPECT(suite, mpt_comm_send(comm, &message, sizeof message, 1, NULL) == MPT_OK);
        else
            EXPECT(suite, mpt_comm_recv(comm, &message, sizeof message, 0, NULL) == MPT_OK);
        EXPECT(suite, message == i);
    }
}

/* ---- overlap between ranks ------------------------------------------------------------------------------ */

/* Small integers that any order sums exactly: a base, and a step every few KiB, so that data of another round or
 * of another chunk is seen. */
static inline void suite_fill_steps(float *values, int64_t first, int64_t count, int base)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(base + (int)((first + i) >> 11 & 15));
}

/* `times` such values summed, whose bases add up to `base`. */
static inline int suite_steps_agree(const float *values, int64_t first, int64_t count, int base,
                                    int times)
{
    for (int64_t i = 0; i < count; i++)
        if (!(values[i] == (float)(base + times * (int)((first + i) >> 11 & 15))))
            return 0;
    return 1;
}

static inline void suite_spoil(float *values, int64_t count)
{
    memset(values, 0xff, (size_t)count * sizeof values[0]);
}

/* A buffer belongs to its rank again as soon as the call returns: overwrite it at once, while slower ranks may
 * still be inside, and go on to the next round, whose values are others. */
static inline void suite_reuse_reductions(suite_t *suite, int round, float *send, float *recv)
{
    mpt_comm_t *comm = suite->comm;
    const int n = comm->ranks, sum = n * round + n * (n - 1) / 2;
    const int64_t slice = 600000 / n, whole = slice * n;
    suite_fill_steps(send, 0, whole, round + comm->rank);
    EXPECT(suite,
           mpt_comm_reduce_scatter(comm, send, recv, slice, MPT_F32, MPT_F32, NULL) == MPT_OK);
    suite_spoil(send, whole);
    EXPECT(suite, suite_steps_agree(recv, slice * comm->rank, slice, sum, n));
    suite_fill_steps(send, 0, whole, round + comm->rank);
    EXPECT(suite, mpt_comm_all_reduce(comm, send, recv, whole, MPT_F32, NULL) == MPT_OK);
    suite_spoil(send, whole);
    EXPECT(suite, suite_steps_agree(recv, 0, whole, sum, n));
}

static inline void suite_reuse_copies(suite_t *suite, int round, float *send, float *recv)
{
    mpt_comm_t *comm = suite->comm;
    const int n = comm->ranks, root = round % n;
    const int64_t slice = 600000 / n, whole = slice * n;
    suite_fill_steps(send, 0, slice, round + comm->rank);
    EXPECT(suite, mpt_comm_all_gather(comm, send, recv, (size_t)slice * 4, NULL) == MPT_OK);
    suite_spoil(send, slice);
    for (int r = 0; r < n; r++)
        EXPECT(suite, suite_steps_agree(recv + slice * r, 0, slice, round + r, 1));
    suite_fill_steps(send, 0, whole, round + comm->rank);
    EXPECT(suite, mpt_comm_all_to_all(comm, send, recv, (size_t)slice * 4, NULL) == MPT_OK);
    suite_spoil(send, whole);
    for (int r = 0; r < n; r++)
        EXPECT(suite, suite_steps_agree(recv + slice * r, slice * comm->rank, slice, round + r, 1));
    suite_fill_steps(send, 0, whole, round + comm->rank);
    EXPECT(suite, mpt_comm_broadcast(comm, send, (size_t)whole * 4, root, NULL) == MPT_OK);
    EXPECT(suite, suite_steps_agree(send, 0, whole, round + root, 1));
    suite_spoil(send, whole);
}

static inline void suite_reuse_after_return(suite_t *suite)
{
    for (int round = 0; round < 6; round++) {
        float *send = (float *)suite_buffer(suite, round % 2, 0);
        float *recv = (float *)suite_buffer(suite, round % 2, 1);
        suite_reuse_reductions(suite, round, send, recv);
        suite_reuse_copies(suite, round, send, recv);
    }
}

/* A root may run ahead of the others, who still read what it sent; calls of every kind take turns, more of them than
 * there are places. Some ranks dawdle. */
static inline void suite_many_small_calls(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    const int n = comm->ranks;
    int32_t all[SUITE_MAX_RANKS];
    for (int32_t i = 0; i < 600; i++) {
        int root = i < 300 ? 0 : i / 7 % n;
        int32_t value = comm->rank == root ? 3 * i : -1;
        if (i % 151 == 0 && comm->rank == (i / 151 + 1) % n)
            nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        EXPECT(suite, mpt_comm_broadcast(comm, &value, sizeof value, root, NULL) == MPT_OK);
        EXPECT(suite, value == 3 * i);
        if (i < 300 || i % 3 == 0)
            continue;
        value = i * 100 + comm->rank;
        EXPECT(suite, mpt_comm_all_gather(comm, &value, all, sizeof value, NULL) == MPT_OK);
        for (int r = 0; r < n; r++)
            EXPECT(suite, all[r] == i * 100 + r);
        float sum = (float)(i + comm->rank);
        EXPECT(suite, mpt_comm_all_reduce(comm, &sum, &sum, 1, MPT_F32, NULL) == MPT_OK);
        EXPECT(suite, sum == (float)(n * i + n * (n - 1) / 2));
    }
}

/* Memory that some ranks have registered and others not serves all. */
static inline void suite_half_registered(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    suite_all_reduce_case(suite, MPT_BF16, 300007, 0, comm->rank % 2);
    suite_reduce_scatter_case(suite, MPT_BF16, MPT_F32, 30011, 0, comm->rank % 2);
    suite_all_gather_case(suite, 300007, 1, comm->rank % 2);
    char *buffer = suite_buffer(suite, comm->rank % 2, 0);
    suite_fill_bytes(buffer, comm->rank, 0, 300007);
    EXPECT(suite, mpt_comm_broadcast(comm, buffer, 300007, comm->ranks - 1, NULL) == MPT_OK);
    EXPECT(suite, suite_bytes_agree(buffer, comm->ranks - 1, 0, 300007));
}

/* ---- splits ------------------------------------------------------------------------------------------ */

/* `members`: the world ranks of the child, in its order. */
static inline void suite_child_works(suite_t *suite, mpt_comm_t *child, const int *members,
                                     int count)
{
    uint16_t values[100];
    EXPECT(suite, child->ranks == count);
    EXPECT(suite, members[child->rank] == (child->world ? child->world[child->rank] : 0));
    suite_fill(values, MPT_BF16, members[child->rank], 100);
    EXPECT(suite, mpt_comm_all_reduce(child, values, values, 100, MPT_BF16, NULL) == MPT_OK);
    EXPECT(suite, suite_sums_agree(suite, values, MPT_BF16, members, count, MPT_BF16, 0, 100));
    int32_t who = child->rank == count - 1 ? members[count - 1] : -1;
    EXPECT(suite, mpt_comm_broadcast(child, &who, sizeof who, count - 1, NULL) == MPT_OK);
    EXPECT(suite, who == members[count - 1]);
}

/* Even and odd ranks, each in reverse order; then neighbours; a child of a child; rank 0 in none. */
static inline void suite_splits(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm, *child = NULL, *grandchild = NULL;
    int members[SUITE_MAX_RANKS], count = 0;
    for (int r = comm->ranks - 1; r >= 0; r--)
        if (r % 2 == comm->rank % 2)
            members[count++] = r;
    EXPECT(suite, mpt_comm_split(comm, comm->rank % 2, -comm->rank, &child) == MPT_OK);
    if (!child)
        return;
    suite_child_works(suite, child, members, count);

    int half = child->rank < count / 2, cut = count / 2;
    EXPECT(suite, mpt_comm_split(child, half, 0, &grandchild) == MPT_OK);
    if (grandchild)
        suite_child_works(suite, grandchild, half ? members : members + cut,
                          half ? cut : count - cut);
    mpt_comm_destroy(grandchild);
    mpt_comm_destroy(child);

    mpt_comm_t *none = comm;
    EXPECT(suite, mpt_comm_split(comm, comm->rank == 0 ? -1 : 7, 0, &none) == MPT_OK);
    EXPECT(suite, (none == NULL) == (comm->rank == 0));
    if (none && comm->rank > 0)
        suite_child_works(suite, none, suite_ranks_in_order + 1, comm->ranks - 1);
    mpt_comm_destroy(none);
}

/* ---- contract ---------------------------------------------------------------------------------------- */

static inline void suite_counts_bytes(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    uint64_t others = (uint64_t)comm->ranks - 1, n = (uint64_t)comm->ranks;
    float send[64 * SUITE_MAX_RANKS] = {0}, recv[64 * SUITE_MAX_RANKS] = {0};
    mpt_comm_stats_t before = comm->stats;
    mpt_comm_reduce_scatter(comm, send, recv, 64, MPT_F32, MPT_F32, NULL);
    EXPECT(suite, comm->stats.bytes_sent - before.bytes_sent == others * 256);
    before = comm->stats;
    mpt_comm_all_reduce(comm, send, recv, 64, MPT_BF16, NULL);
    EXPECT(suite, comm->stats.bytes_sent - before.bytes_sent == 2 * others * 128 / n);
    before = comm->stats;
    mpt_comm_all_gather(comm, send, recv, 20, NULL);
    mpt_comm_all_to_all(comm, send, recv, 20, NULL);
    EXPECT(suite, comm->stats.bytes_sent - before.bytes_sent == others * 40);
    EXPECT(suite, comm->stats.calls - before.calls == 2);
    before = comm->stats;
    mpt_comm_broadcast(comm, send, 20, 0, NULL);
    EXPECT(suite, comm->stats.bytes_sent - before.bytes_sent == (comm->rank ? 0 : others * 20));
}

/* Nothing is enqueued, and the communicator goes on working. */
static inline void suite_refuses_bad_arguments(suite_t *suite)
{
    mpt_comm_t *comm = suite->comm;
    float a[32] = {0}, b[32] = {0};
    const mpt_status_t bad = MPT_ERR_INVALID_ARG;
    const mpt_log_t *log = comm->log;
    comm->log = NULL;
    EXPECT(suite, mpt_comm_reduce_scatter(comm, a, b, -1, MPT_F32, MPT_F32, NULL) == bad);
    EXPECT(suite, mpt_comm_reduce_scatter(comm, a, b, 1, MPT_F64, MPT_F64, NULL) == bad);
    EXPECT(suite, mpt_comm_reduce_scatter(comm, a, b, 1, MPT_F32, MPT_BF16, NULL) == bad);
    EXPECT(suite, mpt_comm_reduce_scatter(comm, a, NULL, 1, MPT_F32, MPT_F32, NULL) == bad);
    EXPECT(suite, mpt_comm_reduce_scatter(comm, a, (char *)a + 4 * comm->rank + 2, 2, MPT_BF16,
                                          MPT_BF16, NULL) == bad);
    EXPECT(suite, mpt_comm_reduce_scatter(comm, a, b, INT64_MAX, MPT_F32, MPT_F32, NULL) == bad);
    EXPECT(suite, mpt_comm_all_reduce(comm, a, a + 1, 2, MPT_F32, NULL) == bad);
    EXPECT(suite, mpt_comm_all_reduce(comm, (char *)a + 1, b, 2, MPT_F32, NULL) == bad);
    EXPECT(suite, mpt_comm_all_gather(comm, a, NULL, 4, NULL) == bad);
    EXPECT(suite, mpt_comm_all_to_all(comm, a, a, 4, NULL) == bad);
    EXPECT(suite, mpt_comm_broadcast(comm, a, 4, comm->ranks, NULL) == bad);
    EXPECT(suite, mpt_comm_broadcast(comm, NULL, 4, 0, NULL) == bad);
    EXPECT(suite, mpt_comm_send(comm, a, 4, comm->rank, NULL) == bad);
    EXPECT(suite, mpt_comm_recv(comm, a, 4, -1, NULL) == bad);
    mpt_mem_t private_mem = {a, sizeof a, MPT_MEM_PRIVATE, -1};
    void *handle = NULL;
    EXPECT(suite, mpt_comm_register(comm, &private_mem, &handle) == bad);
    comm->log = log;
    EXPECT(suite, mpt_comm_all_reduce(comm, a, b, 0, MPT_F32, NULL) == MPT_OK);
    EXPECT(suite, mpt_comm_all_gather(comm, a, b, 0, NULL) == MPT_OK);
    EXPECT(suite, mpt_comm_all_reduce(comm, a, b, 2, MPT_F32, NULL) == MPT_OK);
    EXPECT(suite, mpt_comm_poll(comm) == MPT_OK);
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static inline void suite_open(suite_t *suite, mpt_device_t *device)
{
    for (int i = 0; i < 2; i++) {
        EXPECT(suite, device->ops->mem_alloc(device, MPT_MEM_PEER, SUITE_BUFFER_BYTES,
                                             &suite->peer[i]) == MPT_OK);
        EXPECT(suite,
               mpt_comm_register(suite->comm, &suite->peer[i], &suite->handles[i]) == MPT_OK);
        suite->plain[i] = malloc(SUITE_BUFFER_BYTES);
        EXPECT(suite, suite->plain[i] != NULL);
    }
}

static inline void suite_close(suite_t *suite, mpt_device_t *device)
{
    for (int i = 0; i < 2; i++) {
        mpt_comm_deregister(suite->comm, suite->handles[i]);
        device->ops->mem_free(device, &suite->peer[i]);
        free(suite->plain[i]);
    }
}

/** Run everything on one rank. Returns the number of failures. */
static inline int conformance_run(mpt_comm_t *comm, mpt_device_t *device)
{
    suite_t suite = {.comm = comm};
    suite_open(&suite, device);
    suite_reduce_scatter(&suite);
    suite_all_reduce(&suite);
    suite_past_caches(&suite);
    suite_scatter_past_caches(&suite);
    suite_all_reduce_same_everywhere(&suite);
    suite_special_values(&suite);
    /* Inputs that cannot tell the tree from other sums would prove nothing. */
    EXPECT(&suite, comm->ranks < 4 || suite.left_to_right_differs > 100);
    EXPECT(&suite, comm->ranks < 3 || suite.narrow_differs > 100);
    suite_all_gather(&suite);
    suite_broadcast(&suite);
    suite_all_to_all(&suite);
    suite_ring(&suite);
    suite_messages_in_order(&suite);
    suite_reuse_after_return(&suite);
    suite_many_small_calls(&suite);
    suite_half_registered(&suite);
    suite_splits(&suite);
    suite_counts_bytes(&suite);
    suite_refuses_bad_arguments(&suite);
    suite_close(&suite, device);
    return suite.failures;
}

#endif
