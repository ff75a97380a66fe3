/*
 * Copies and sums that large ones share out over the device's pool: one result from one source or the tree sum of
 * several, written to one place or to several. Every source is read once: a result for several places goes to all of them
 * from the first-level cache, a block at a time; past the caches a sum sees to that itself (numeric.h).
 */
#include "backends.h"
#include "numeric.h"
#include "past_caches.h"
#include "pool.h"

/* A task is this many bytes of the result: large enough to hide handing it out, small enough to
 * balance. */
#define PIECE_BYTES ((size_t)128 << 10)
#define BLOCK_BYTES ((size_t)8 << 10)
/* Of a copy past the caches to several places: with larger blocks the processor no longer reads the next while it stores the last. */
#define PAST_CACHES_COPY_BYTES ((size_t)1 << 10)

typedef struct spread_job {
    void *const *outs;
    const void *const *sources;
    int outs_count, sources_count;
    int copies;                 /* the result is the one source */
    mpt_dtype_t out, wire;      /* of a sum */
    size_t out_size, wire_size; /* of an element; a copy's are bytes */
    int64_t count;
    int past_caches;
} spread_job_t;

static void store(const spread_job_t *job, void *dst, const void *src, size_t bytes)
{
    if (job->past_caches)
        mpt_copy_past_caches(dst, src, bytes);
    else
        memcpy(dst, src, bytes);
}

static void sum_part(const spread_job_t *job, void *out, int64_t first, int64_t count)
{
    const void *sources[MPT_COMM_MAX_RANKS];
    for (int r = 0; r < job->sources_count; r++)
        sources[r] = (const char *)job->sources[r] + (size_t)first * job->wire_size;
    mpt_tree_sum(out, job->out, sources, job->sources_count, job->wire, count);
}

/* The sum goes to the first place and from there to the others; past the caches, to all at once. */
static void sum_block(const spread_job_t *job, int64_t first, int64_t count)
{
    if (job->past_caches) {
        mpt_tree_sum_past_caches(job->outs, job->outs_count, job->out, job->sources, job->sources_count, job->wire,
                                 first, count);
        return;
    }
    size_t at = (size_t)first * job->out_size, bytes = (size_t)count * job->out_size;
    char *result = (char *)job->outs[0] + at;
    sum_part(job, result, first, count);
    for (int o = 1; o < job->outs_count; o++)
        memcpy((char *)job->outs[o] + at, result, bytes);
}

static void copy_block(const spread_job_t *job, int64_t first, int64_t count)
{
    size_t at = (size_t)first * job->out_size, bytes = (size_t)count * job->out_size;
    for (int o = 0; o < job->outs_count; o++)
        store(job, (char *)job->outs[o] + at, (const char *)job->sources[0] + at, bytes);
}

static int64_t block_count(const spread_job_t *job, int64_t count)
{
    if (job->outs_count == 1 || (job->past_caches && !job->copies))
        return count;
    return (int64_t)((job->past_caches ? PAST_CACHES_COPY_BYTES : BLOCK_BYTES) / job->out_size);
}

static void spread_part(const spread_job_t *job, int64_t first, int64_t count)
{
    int64_t end = first + count, block = block_count(job, count), here;
    for (; first < end; first += here) {
        here = end - first < block ? end - first : block;
        if (job->copies)
            copy_block(job, first, here);
        else
            sum_block(job, first, here);
    }
    if (job->past_caches)
        mpt_past_caches_end();
}

static int64_t piece_count(const spread_job_t *job)
{
    size_t size = job->out_size > job->wire_size ? job->out_size : job->wire_size;
    return (int64_t)(PIECE_BYTES / size);
}

static void spread_piece(void *ctx, int task, int worker)
{
    (void)worker;
    const spread_job_t *job = ctx;
    int64_t piece = piece_count(job), first = task * piece;
    spread_part(job, first, job->count - first < piece ? job->count - first : piece);
}

static void spread(const mpt_comm_t *comm, spread_job_t *job)
{
    mpt_pool_t *pool = comm->device ? comm->device->pool : NULL;
    int64_t piece = piece_count(job), tasks = (job->count + piece - 1) / piece;
    size_t written = (size_t)job->outs_count * (size_t)job->count * job->out_size;
    job->past_caches = written >= MPT_COMM_PAST_CACHES;
    if (!pool || tasks < 2 || tasks > INT32_MAX)
        spread_part(job, 0, job->count);
    else
        mpt_pool_run(pool, spread_piece, job, (int)tasks);
}

void mpt_comm_copy_to(const mpt_comm_t *comm, void *const *dsts, int dsts_count, const void *src,
                      size_t bytes)
{
    void *others[MPT_COMM_MAX_RANKS];
    spread_job_t job = {.outs = others,
                        .sources = &src,
                        .sources_count = 1,
                        .copies = 1,
                        .out_size = 1,
                        .wire_size = 1,
                        .count = (int64_t)bytes};
    for (int d = 0; d < dsts_count; d++)
        if (dsts[d] != src)
            others[job.outs_count++] = dsts[d];
    if (job.outs_count && bytes)
        spread(comm, &job);
}

void mpt_comm_copy(const mpt_comm_t *comm, void *dst, const void *src, size_t bytes)
{
    mpt_comm_copy_to(comm, &dst, 1, src, bytes);
}

void mpt_comm_sum_to(const mpt_comm_t *comm, void *const *outs, int outs_count,
                     mpt_dtype_t out_dtype, const void *const *sources, int sources_count,
                     mpt_dtype_t wire, int64_t count)
{
    if (sources_count == 1 && out_dtype == wire) {
        mpt_comm_copy_to(comm, outs, outs_count, sources[0], (size_t)count * mpt_dtype_bytes(wire));
        return;
    }
    spread_job_t job = {.outs = outs,
                        .outs_count = outs_count,
                        .sources = sources,
                        .sources_count = sources_count,
                        .out = out_dtype,
                        .wire = wire,
                        .out_size = mpt_dtype_bytes(out_dtype),
                        .wire_size = mpt_dtype_bytes(wire),
                        .count = count};
    spread(comm, &job);
}

void mpt_comm_sum_of(const mpt_comm_t *comm, int sources_count, void *out, mpt_dtype_t out_dtype,
                     const void *const *sources, mpt_dtype_t wire, int64_t count)
{
    mpt_comm_sum_to(comm, &out, 1, out_dtype, sources, sources_count, wire, count);
}

void mpt_comm_sum(const mpt_comm_t *comm, void *out, mpt_dtype_t out_dtype,
                  const void *const *sources, mpt_dtype_t wire, int64_t count)
{
    mpt_comm_sum_of(comm, comm->ranks, out, out_dtype, sources, wire, count);
}
