#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_folder.h"
#include "checkpoint_format.h"
#include "file.h"
#include "numeric.h"

#define WRITE_CHUNK ((int64_t)1 << 18) /* elements that are hashed, written and copied at once */

struct mpt_checkpoint {
    mpt_checkpoint_params_t params;
    checkpoint_folder_t folder;
    char meta[MPT_CHECKPOINT_META_MAX];
    int64_t step; /* of the save in flight, or -1 */
    int ending;   /* of it: mpt_checkpoint_end has been called, with `commit` */
    int commit;
    atomic_int progress;
    pthread_t thread;
    int thread_running;
    checkpoint_header_t header;
    mpt_extent_t *extents;      /* of this rank's parts */
    checkpoint_extent_t *table; /* rows: for each kind, each extent */
    int extent_count, rows;
    float *
        widened; /* WRITE_CHUNK elements, where the working weights are saved without a snapshot; else NULL */
    XXH3_state_t *hash;
};

const mpt_held_t *mpt_checkpoint_held(const mpt_state_t *state, mpt_checkpoint_kind_t kind)
{
    switch (kind) {
    case MPT_KIND_MASTER:
        return state->master.data != NULL ? &state->master : &state->working;
    case MPT_KIND_M:
        return &state->m;
    case MPT_KIND_V:
        return &state->v;
    default:
        return &state->ema;
    }
}

size_t mpt_checkpoint_snapshot_bytes(const mpt_state_params_t *params)
{
    size_t kinds = params->with_ema ? MPT_KIND_COUNT : MPT_KIND_COUNT - 1;
    return (size_t)(params->layout->total / params->layout->ranks) * kinds * sizeof(float);
}

/* ---- creating ---------------------------------------------------------------------------------------- */

/* All of header and table that no save changes: payloads follow the table in its order. */
static void describe(mpt_checkpoint_t *saver)
{
    const mpt_layout_t *layout = saver->params.state->layout;
    uint64_t offset =
        sizeof(checkpoint_header_t) + (uint64_t)saver->rows * sizeof(checkpoint_extent_t);
    for (int i = 0; i < saver->rows; i++) {
        const mpt_extent_t *extent = &saver->extents[i % saver->extent_count];
        saver->table[i] = (checkpoint_extent_t){.tensor = (uint32_t)extent->tensor,
                                                .kind = (uint32_t)(i / saver->extent_count),
                                                .first = (uint64_t)extent->first,
                                                .count = (uint64_t)extent->count,
                                                .offset = offset};
        offset += (uint64_t)extent->count * sizeof(float);
    }
    saver->header = (checkpoint_header_t){
        .version = CHECKPOINT_VERSION,
        .rank = (uint32_t)saver->params.rank,
        .ranks = (uint32_t)layout->ranks,
        .extent_count = (uint32_t)saver->rows,
        .fingerprint = mpt_checkpoint_fingerprint(layout->tensors, layout->tensor_count),
        .file_bytes = offset,
        .run = saver->params.run};
    memcpy(saver->header.magic, CHECKPOINT_MAGIC, sizeof saver->header.magic);
}

static mpt_status_t allocate(mpt_checkpoint_t *saver)
{
    const mpt_checkpoint_params_t *params = &saver->params;
    size_t tensors = (size_t)params->state->layout->tensor_count;
    int widens = params->snapshot == NULL &&
                 mpt_checkpoint_held(params->state, MPT_KIND_MASTER)->dtype != MPT_F32;
    saver->extents = calloc(tensors, sizeof *saver->extents);
    saver->table = calloc(tensors * MPT_KIND_COUNT, sizeof *saver->table);
    saver->hash = XXH3_createState();
    if (saver->extents == NULL || saver->table == NULL || saver->hash == NULL)
        return mpt_log_no_memory(saver->params.log, tensors * (sizeof *saver->extents + sizeof *saver->table),
                                 "a checkpoint's table");
    if (!widens)
        return MPT_OK;
    size_t bytes = (size_t)WRITE_CHUNK * sizeof *saver->widened;
    saver->widened = malloc(bytes);
    return saver->widened != NULL ? MPT_OK : mpt_log_no_memory(saver->params.log, bytes, "writing checkpoints");
}

mpt_status_t mpt_checkpoint_create(const mpt_checkpoint_params_t *params,
                                   mpt_checkpoint_t **saver_p)
{
    const mpt_state_t *state = params->state;
    int ranks = state->layout->ranks;
    int kinds = state->ema.data != NULL ? MPT_KIND_COUNT : MPT_KIND_COUNT - 1;
    checkpoint_folder_t folder = {.keep = params->keep,
                                  .ranks = ranks,
                                  .kinds = (1u << kinds) - 1,
                                  .run = params->run,
                                  .log = params->log};
    mpt_status_t status = checkpoint_folder_make(&folder, params->dir, params->rank == 0);
    if (status != MPT_OK)
        return status;
    mpt_checkpoint_t *saver = calloc(1, sizeof *saver);
    if (saver == NULL)
        return mpt_log_no_memory(params->log, sizeof *saver, "writing checkpoints");
    saver->params = *params;
    saver->folder = folder;
    saver->step = -1;
    atomic_init(&saver->progress, MPT_SAVE_IDLE);
    status = allocate(saver);
    if (status != MPT_OK) {
        mpt_checkpoint_destroy(saver);
        return status;
    }
    saver->extent_count = mpt_layout_extents(
        state->layout, ranks, mpt_layout_part_of(state->layout, params->rank), saver->extents);
    saver->rows = saver->extent_count * kinds;
    describe(saver);
    *saver_p = saver;
    return MPT_OK;
}

void mpt_checkpoint_destroy(mpt_checkpoint_t *saver)
{
    if (saver == NULL)
        return;
    mpt_checkpoint_wait(saver);
    XXH3_freeState(saver->hash);
    free(saver->extents);
    free(saver->table);
    free(saver->widened);
    free(saver);
}

/* ---- what is written ----------------------------------------------------------------------------------- */

/* Elements of row `row` before `first`, counted from the beginning of all payloads: where they are in the snapshot. */
static int64_t payload_at(const mpt_checkpoint_t *saver, int row, int64_t first)
{
    return (int64_t)((saver->table[row].offset - saver->table[0].offset) / sizeof(float)) + first;
}

/* The state's array and address of elements of a row. */
static const void *source(const mpt_checkpoint_t *saver, int row, int64_t first,
                          mpt_dtype_t *dtype_p)
{
    const mpt_state_t *state = saver->params.state;
    const mpt_held_t *held =
        mpt_checkpoint_held(state, (mpt_checkpoint_kind_t)saver->table[row].kind);
    *dtype_p = held->dtype;
    return mpt_held_at(state, held, saver->extents[row % saver->extent_count].at + first);
}

static void widen(float *out, const void *from, mpt_dtype_t dtype, int64_t count)
{
    if (dtype == MPT_F32) /* every bit, whatever a NaN holds */
        memcpy(out, from, (size_t)count * sizeof *out);
    else
        mpt_convert(out, MPT_F32, from, dtype, count);
}

/* Copy WRITE_CHUNK elements of the snapshot, of as many rows as they span. */
static void copy_chunk(void *ctx, int task, int worker)
{
    mpt_checkpoint_t *saver = ctx;
    int64_t low = task * WRITE_CHUNK, high = low + WRITE_CHUNK;
    (void)worker;
    for (int row = 0; row < saver->rows; row++) {
        int64_t at = payload_at(saver, row, 0), count = (int64_t)saver->table[row].count;
        int64_t begin = low > at ? low - at : 0, end = high - at < count ? high - at : count;
        mpt_dtype_t dtype;
        if (begin >= end)
            continue;
        const void *from = source(saver, row, begin, &dtype);
        widen(saver->params.snapshot + at + begin, from, dtype, end - begin);
    }
}

/* What the step waits for. */
static void take_snapshot(mpt_checkpoint_t *saver)
{
    if (saver->rows == 0)
        return;
    int64_t elements =
        payload_at(saver, saver->rows - 1, (int64_t)saver->table[saver->rows - 1].count);
    int chunks = (int)((elements + WRITE_CHUNK - 1) / WRITE_CHUNK);
    if (saver->params.pool != NULL)
        mpt_pool_run(saver->params.pool, copy_chunk, saver, chunks);
    else
        for (int chunk = 0; chunk < chunks; chunk++)
            copy_chunk(saver, chunk, 0);
}

/* At most WRITE_CHUNK elements of a row in FP32: in the snapshot, in the state itself, or widened. */
static const float *elements_of(mpt_checkpoint_t *saver, int row, int64_t first, int64_t count)
{
    mpt_dtype_t dtype;
    if (saver->params.snapshot != NULL)
        return saver->params.snapshot + payload_at(saver, row, first);
    const void *from = source(saver, row, first, &dtype);
    if (dtype == MPT_F32)
        return from;
    widen(saver->widened, from, dtype, count);
    return saver->widened;
}

static int write_row(mpt_checkpoint_t *saver, int fd, int row)
{
    checkpoint_extent_t *extent = &saver->table[row];
    int64_t count = (int64_t)extent->count;
    XXH3_64bits_reset(saver->hash);
    for (int64_t first = 0; first < count; first += WRITE_CHUNK) {
        int64_t n = count - first < WRITE_CHUNK ? count - first : WRITE_CHUNK;
        const float *values = elements_of(saver, row, first, n);
        XXH3_64bits_update(saver->hash, values, (size_t)n * sizeof *values);
        if (mpt_file_write_all(fd, values, (size_t)n * sizeof *values) != 0)
            return -1;
    }
    extent->checksum = XXH3_64bits_digest(saver->hash);
    return 0;
}

static int write_rows(mpt_checkpoint_t *saver, int fd)
{
    checkpoint_header_t *header = &saver->header;
    size_t table_bytes = (size_t)saver->rows * sizeof *saver->table;
    if (lseek(fd, (off_t)(sizeof *header + table_bytes), SEEK_SET) < 0)
        return -1;
    for (int row = 0; row < saver->rows; row++)
        if (write_row(saver, fd, row) != 0)
            return -1;
    header->step = (uint64_t)saver->step;
    header->checksum = XXH3_64bits_withSeed(
        saver->table, table_bytes, XXH3_64bits(header, offsetof(checkpoint_header_t, checksum)));
    if (lseek(fd, 0, SEEK_SET) < 0 || mpt_file_write_all(fd, header, sizeof *header) != 0)
        return -1;
    return mpt_file_write_all(fd, saver->table, table_bytes);
}

/* Write this rank's file; the save's progress says how it went. */
static void write_file(mpt_checkpoint_t *saver)
{
    char dir[MPT_CHECKPOINT_PATH_MAX], path[MPT_CHECKPOINT_PATH_MAX + 32];
    checkpoint_folder_partial(&saver->folder, saver->step, dir, sizeof dir);
    snprintf(path, sizeof path, "%s/rank-%05d.bin", dir, saver->params.rank);
    int progress = MPT_SAVE_FAILED, fd = -1;
    if (mpt_file_make_dirs(dir) == 0)
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0 && write_rows(saver, fd) == 0 && fsync(fd) == 0 && mpt_file_sync_dir(dir) == 0)
        progress = MPT_SAVE_SYNCED;
    if (progress == MPT_SAVE_FAILED)
        mpt_log_warn(saver->params.log,
                     "cannot save %s: %s; the run goes on with older checkpoints", path,
                     strerror(errno));
    if (fd >= 0)
        close(fd);
    if (progress == MPT_SAVE_FAILED)
        unlink(path); /* a full disk gets its space back at once */
    atomic_store(&saver->progress, progress);
}

static void *write_thread(void *arg)
{
    write_file(arg);
    return NULL;
}

/* ---- one save -------------------------------------------------------------------------------------------- */

void mpt_checkpoint_begin(mpt_checkpoint_t *saver, int64_t step, const char *meta)
{
    saver->step = step;
    if (!checkpoint_folder_has_room(meta)) {
        mpt_log_warn(saver->params.log,
                     "cannot save step %" PRId64 ": its meta is too long: %zu bytes", step,
                     strlen(meta));
        atomic_store(&saver->progress, MPT_SAVE_FAILED);
        return;
    }
    snprintf(saver->meta, sizeof saver->meta, "%s", meta);
    atomic_store(&saver->progress, MPT_SAVE_WRITING);
    if (saver->params.snapshot != NULL) {
        take_snapshot(saver);
        saver->thread_running = pthread_create(&saver->thread, NULL, write_thread, saver) == 0;
    }
    if (!saver->thread_running)
        write_file(saver);
}

mpt_save_progress_t mpt_checkpoint_progress(mpt_checkpoint_t *saver)
{
    return (mpt_save_progress_t)atomic_load(&saver->progress);
}

void mpt_checkpoint_wait(mpt_checkpoint_t *saver)
{
    if (saver->thread_running)
        pthread_join(saver->thread, NULL);
    saver->thread_running = 0;
}

int64_t mpt_checkpoint_step(const mpt_checkpoint_t *saver)
{
    return saver->step;
}

static void end_save(mpt_checkpoint_t *saver)
{
    int whole = saver->commit;
    if (saver->params.rank == 0 && saver->commit)
        whole = checkpoint_folder_commit(&saver->folder, saver->step, saver->meta) == MPT_OK;
    else if (saver->params.rank == 0)
        checkpoint_folder_drop(&saver->folder, saver->step);
    atomic_store(&saver->progress, whole ? MPT_SAVE_SYNCED : MPT_SAVE_FAILED);
}

static void *end_thread(void *arg)
{
    end_save(arg);
    return NULL;
}

void mpt_checkpoint_end(mpt_checkpoint_t *saver, int commit)
{
    mpt_checkpoint_wait(saver);
    saver->ending = 1;
    saver->commit = commit;
    if (saver->params.rank == 0 && saver->params.snapshot != NULL) {
        atomic_store(&saver->progress, MPT_SAVE_WRITING);
        saver->thread_running = pthread_create(&saver->thread, NULL, end_thread, saver) == 0;
    }
    if (!saver->thread_running)
        end_save(saver);
}

int mpt_checkpoint_ending(const mpt_checkpoint_t *saver)
{
    return saver->ending;
}

mpt_status_t mpt_checkpoint_finish(mpt_checkpoint_t *saver, int commit)
{
    if (!saver->ending)
        mpt_checkpoint_end(saver, commit);
    mpt_checkpoint_wait(saver);
    int failed = saver->commit && mpt_checkpoint_progress(saver) == MPT_SAVE_FAILED;
    saver->step = -1;
    saver->ending = 0;
    atomic_store(&saver->progress, MPT_SAVE_IDLE);
    return failed ? MPT_ERR_IO : MPT_OK;
}
