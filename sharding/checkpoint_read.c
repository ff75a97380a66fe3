#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_format.h"
#include "file.h"
#include "numeric.h"

#define READ_CHUNK ((size_t)1 << 20)
#define EXTENTS_MAX (1u << 20) /* of one file: beyond that no model goes */

/* An extent and the rank whose file holds it. */
typedef struct piece {
    checkpoint_extent_t extent;
    uint32_t rank;
} piece_t;

/* A reading under way: first every file's table is collected, then payloads are read. */
typedef struct reading {
    const mpt_checkpoint_meta_t *meta;
    const mpt_layout_t *layout; /* NULL: the tensors are not known */
    const mpt_log_t *log;
    unsigned held;        /* kinds, by meta */
    uint64_t fingerprint; /* that every file must have; without a layout that of the first */
    piece_t *pieces;      /* owned */
    size_t count;
    float *chunk;       /* owned, READ_CHUNK */
    XXH3_state_t *hash; /* owned */
    int64_t bytes;
} reading_t;

/* One rank's file, open and with its header checked. */
typedef struct file {
    char path[MPT_CHECKPOINT_PATH_MAX + 32];
    int fd;
    uint32_t rank;
    checkpoint_header_t header;
    const mpt_log_t *log;
} file_t;

/* ---- headers and tables ----------------------------------------------------------------------------- */

static mpt_status_t damaged(const file_t *file, uint64_t offset, const char *what)
{
    mpt_log_error(file->log, "%s: offset %" PRIu64 ": %s; the file is damaged", file->path, offset,
                  what);
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t open_file(file_t *file, const reading_t *reading, uint32_t rank)
{
    file->log = reading->log;
    file->rank = rank;
    snprintf(file->path, sizeof file->path, "%s/rank-%05u.bin", reading->meta->path, rank);
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (file->fd >= 0)
        return MPT_OK;
    mpt_log_error(file->log, "%s: %s", file->path, strerror(errno));
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t check_save(const file_t *file, const mpt_checkpoint_meta_t *meta)
{
    const checkpoint_header_t *header = &file->header;
    if (header->version == (uint32_t)meta->version && header->rank == file->rank &&
        header->ranks == (uint32_t)meta->ranks && header->step == (uint64_t)meta->step &&
        header->run == meta->run)
        return MPT_OK;
    mpt_log_error(file->log,
                  "%s: belongs to another save: version %u, rank %u of %u, step %" PRIu64
                  ", run %016" PRIx64 "; by its meta: version %d, rank %u of %d, step %" PRId64
                  ", run %016" PRIx64,
                  file->path, header->version, header->rank, header->ranks, header->step,
                  header->run, meta->version, file->rank, meta->ranks, meta->step, meta->run);
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t read_header(file_t *file, const mpt_checkpoint_meta_t *meta)
{
    checkpoint_header_t *header = &file->header;
    struct stat info;
    if (mpt_file_read_at(file->fd, header, sizeof *header, 0) != 0)
        return damaged(file, 0, "too short for a header");
    if (memcmp(header->magic, CHECKPOINT_MAGIC, 8) != 0 || header->version < CHECKPOINT_OLDEST ||
        header->version > CHECKPOINT_VERSION)
        return damaged(file, 0, "wrong magic or version");
    mpt_status_t status = check_save(file, meta);
    if (status != MPT_OK)
        return status;
    if (fstat(file->fd, &info) != 0 || (uint64_t)info.st_size != header->file_bytes)
        return damaged(file, header->file_bytes, "file size differs from the header's");
    uint64_t table_bytes = (uint64_t)header->extent_count * sizeof(checkpoint_extent_t);
    if (header->extent_count > EXTENTS_MAX || sizeof *header + table_bytes > header->file_bytes)
        return damaged(file, sizeof *header, "table of extents runs past the end");
    return MPT_OK;
}

static mpt_status_t read_table(const file_t *file, checkpoint_extent_t *table)
{
    const checkpoint_header_t *header = &file->header;
    size_t bytes = (size_t)header->extent_count * sizeof *table;
    if (mpt_file_read_at(file->fd, table, bytes, sizeof *header) != 0)
        return damaged(file, sizeof *header, strerror(errno));
    uint64_t checksum = XXH3_64bits_withSeed(
        table, bytes, XXH3_64bits(header, offsetof(checkpoint_header_t, checksum)));
    return checksum == header->checksum ? MPT_OK : damaged(file, 0, "header checksum mismatch");
}

static mpt_status_t check_model(reading_t *reading, const file_t *file)
{
    if (reading->layout == NULL && file->rank == 0)
        reading->fingerprint = file->header.fingerprint;
    if (file->header.fingerprint == reading->fingerprint)
        return MPT_OK;
    mpt_log_error(file->log, "%s: is of another model: its tensors differ from %s's", file->path,
                  reading->layout != NULL ? "this config" : "the first file");
    return MPT_ERR_CHECKPOINT;
}

static int extent_fits(const checkpoint_extent_t *extent, const reading_t *reading)
{
    const mpt_layout_t *layout = reading->layout;
    if (extent->kind >= MPT_KIND_COUNT || !(reading->held >> extent->kind & 1) ||
        extent->count == 0 || extent->first > INT64_MAX - extent->count)
        return 0;
    if (layout == NULL)
        return 1;
    if (extent->tensor >= (uint32_t)layout->tensor_count)
        return 0;
    uint64_t count = (uint64_t)mpt_tensor_count(&layout->tensors[extent->tensor]);
    return extent->first <= count && extent->count <= count - extent->first;
}

/* Payloads lie end to end, from the table to the end of the file, so that every byte has its checksum. */
static mpt_status_t check_table(const reading_t *reading, const file_t *file,
                                const checkpoint_extent_t *table)
{
    uint64_t at = sizeof file->header + (uint64_t)file->header.extent_count * sizeof *table;
    for (uint32_t i = 0; i < file->header.extent_count; i++) {
        uint64_t row = sizeof file->header + (uint64_t)i * sizeof *table;
        if (!extent_fits(&table[i], reading))
            return damaged(
                file, row,
                "an extent lies outside its tensor, or is of a kind that meta does not name");
        if (table[i].offset != at ||
            table[i].count > (file->header.file_bytes - at) / sizeof(float))
            return damaged(file, row, "an extent's payload is not where the one before it ends");
        at += table[i].count * sizeof(float);
    }
    return at == file->header.file_bytes ? MPT_OK
                                         : damaged(file, at, "payloads end before the file does");
}

static mpt_status_t add_pieces(reading_t *reading, const checkpoint_extent_t *table, uint32_t count,
                               uint32_t rank)
{
    size_t bytes = (reading->count + count + 1) * sizeof(piece_t);
    piece_t *grown = realloc(reading->pieces, bytes);
    if (grown == NULL)
        return mpt_log_no_memory(reading->log, bytes, "a checkpoint's table");
    reading->pieces = grown;
    for (uint32_t i = 0; i < count; i++)
        grown[reading->count++] = (piece_t){.extent = table[i], .rank = rank};
    return MPT_OK;
}

static mpt_status_t survey_open(reading_t *reading, file_t *file)
{
    mpt_status_t status = read_header(file, reading->meta);
    if (status != MPT_OK)
        return status;
    size_t bytes = (size_t)file->header.extent_count * sizeof(checkpoint_extent_t) + 1;
    checkpoint_extent_t *table = malloc(bytes);
    if (table == NULL)
        return mpt_log_no_memory(reading->log, bytes, "a checkpoint's table");
    status = read_table(file, table);
    if (status == MPT_OK)
        status = check_model(reading, file);
    if (status == MPT_OK)
        status = check_table(reading, file, table);
    if (status == MPT_OK)
        status = add_pieces(reading, table, file->header.extent_count, file->rank);
    reading->bytes += (int64_t)file->header.file_bytes;
    free(table);
    return status;
}

static mpt_status_t survey(reading_t *reading)
{
    mpt_status_t status = MPT_OK;
    for (int rank = 0; rank < reading->meta->ranks && status == MPT_OK; rank++) {
        file_t file;
        status = open_file(&file, reading, (uint32_t)rank);
        if (status != MPT_OK)
            return status;
        status = survey_open(reading, &file);
        close(file.fd);
    }
    return status;
}

/* ---- every element once --------------------------------------------------------------------------------- */

static int by_element(const void *left, const void *right)
{
    const checkpoint_extent_t *a = &((const piece_t *)left)->extent,
                              *b = &((const piece_t *)right)->extent;
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->tensor != b->tensor)
        return a->tensor < b->tensor ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

static int by_offset(const void *left, const void *right)
{
    const piece_t *a = left, *b = right;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    return a->extent.offset < b->extent.offset ? -1 : a->extent.offset > b->extent.offset;
}

static mpt_status_t uncovered(const reading_t *reading, int kind, uint32_t tensor, uint64_t element,
                              const char *what)
{
    const mpt_layout_t *layout = reading->layout;
    mpt_log_error(reading->log, "%s: %s: tensor %u%s%s: element %" PRIu64 " %s",
                  reading->meta->path, mpt_checkpoint_kind_name((mpt_checkpoint_kind_t)kind),
                  tensor, layout != NULL ? " " : "",
                  layout != NULL ? layout->tensors[tensor].name : "", element, what);
    return MPT_ERR_CHECKPOINT;
}

/* One tensor of one kind: its pieces, from *at_p on, follow each other from its first element; *end_p is where they end. */
static mpt_status_t cover_tensor(const reading_t *reading, int kind, uint32_t tensor, size_t *at_p,
                                 uint64_t *end_p)
{
    uint64_t end = 0;
    for (; *at_p < reading->count; ++*at_p) {
        const checkpoint_extent_t *extent = &reading->pieces[*at_p].extent;
        if (extent->kind != (uint32_t)kind || extent->tensor != tensor)
            break;
        if (extent->first < end)
            return uncovered(reading, kind, tensor, extent->first, "comes twice");
        if (extent->first > end)
            return uncovered(reading, kind, tensor, end, "is missing");
        end += extent->count;
    }
    *end_p = end;
    return MPT_OK;
}

/* Without a layout a kind ends where no tensor follows; *elements_p is how many it has. */
static mpt_status_t cover_kind(const reading_t *reading, int kind, size_t *at_p,
                               uint64_t *elements_p)
{
    const mpt_layout_t *layout = reading->layout;
    uint64_t end = 0, elements = 0;
    for (uint32_t tensor = 0; layout == NULL || tensor < (uint32_t)layout->tensor_count; tensor++) {
        mpt_status_t status = cover_tensor(reading, kind, tensor, at_p, &end);
        if (status != MPT_OK)
            return status;
        if (layout != NULL && end != (uint64_t)mpt_tensor_count(&layout->tensors[tensor]))
            return uncovered(reading, kind, tensor, end, "is missing");
        if (layout == NULL && end == 0) {
            int more =
                *at_p < reading->count && reading->pieces[*at_p].extent.kind == (uint32_t)kind;
            if (more)
                return uncovered(reading, kind, tensor, 0, "is missing");
            break;
        }
        elements += end;
    }
    *elements_p = elements;
    return MPT_OK;
}

static mpt_status_t check_coverage(reading_t *reading)
{
    uint64_t elements, first = 0;
    size_t at = 0;
    qsort(reading->pieces, reading->count, sizeof *reading->pieces, by_element);
    for (int kind = 0; kind < MPT_KIND_COUNT; kind++) {
        if (!(reading->held >> kind & 1))
            continue;
        mpt_status_t status = cover_kind(reading, kind, &at, &elements);
        if (status != MPT_OK)
            return status;
        first = first == 0 ? elements : first;
        if (elements != first || elements == 0) {
            mpt_log_error(reading->log,
                          "%s: holds %" PRIu64 " elements of %s; another kind has %" PRIu64,
                          reading->meta->path, elements,
                          mpt_checkpoint_kind_name((mpt_checkpoint_kind_t)kind), first);
            return MPT_ERR_CHECKPOINT;
        }
    }
    return MPT_OK;
}

/* ---- payloads ------------------------------------------------------------------------------------------- */

static mpt_status_t read_piece(const reading_t *reading, const file_t *file,
                               const checkpoint_extent_t *extent, const mpt_checkpoint_sink_t *sink)
{
    const uint64_t room = READ_CHUNK / sizeof(float);
    XXH3_64bits_reset(reading->hash);
    for (uint64_t done = 0; done < extent->count;) {
        uint64_t count = extent->count - done < room ? extent->count - done : room;
        uint64_t offset = extent->offset + done * sizeof(float);
        if (mpt_file_read_at(file->fd, reading->chunk, count * sizeof(float), offset) != 0)
            return damaged(file, offset, "cannot be read");
        XXH3_64bits_update(reading->hash, reading->chunk, count * sizeof(float));
        mpt_status_t status =
            sink == NULL
                ? MPT_OK
                : sink->put(sink->ctx, (mpt_checkpoint_kind_t)extent->kind, (int)extent->tensor,
                            (int64_t)(extent->first + done), (int64_t)count, reading->chunk);
        if (status != MPT_OK)
            return status;
        done += count;
    }
    if (XXH3_64bits_digest(reading->hash) != extent->checksum)
        return damaged(file, extent->offset, "checksum mismatch");
    return MPT_OK;
}

/* The payloads of `kinds`, file by file, each from its beginning to its end. */
static mpt_status_t read_payloads(const reading_t *reading, unsigned kinds,
                                  const mpt_checkpoint_sink_t *sink)
{
    mpt_status_t status = MPT_OK;
    file_t file = {.fd = -1};
    qsort(reading->pieces, reading->count, sizeof *reading->pieces, by_offset);
    for (size_t i = 0; i < reading->count && status == MPT_OK; i++) {
        const piece_t *piece = &reading->pieces[i];
        if (!(kinds >> piece->extent.kind & 1))
            continue;
        if (file.fd < 0 || file.rank != piece->rank) {
            if (file.fd >= 0)
                close(file.fd);
            status = open_file(&file, reading, piece->rank);
        }
        if (status == MPT_OK)
            status = read_piece(reading, &file, &piece->extent, sink);
    }
    if (file.fd >= 0)
        close(file.fd);
    return status;
}

static mpt_status_t read_all(reading_t *reading, unsigned kinds, const mpt_checkpoint_sink_t *sink)
{
    mpt_status_t status = MPT_ERR_NO_MEMORY;
    reading->held = mpt_checkpoint_kinds(reading->meta);
    reading->chunk = malloc(READ_CHUNK);
    reading->hash = XXH3_createState();
    if (reading->chunk != NULL && reading->hash != NULL)
        status = survey(reading);
    else
        mpt_log_no_memory(reading->log, READ_CHUNK, "reading a checkpoint");
    if (status == MPT_OK)
        status = check_coverage(reading);
    if (status == MPT_OK)
        status = read_payloads(reading, kinds, sink);
    XXH3_freeState(reading->hash);
    free(reading->chunk);
    free(reading->pieces);
    return status;
}

mpt_status_t mpt_checkpoint_load(const mpt_checkpoint_meta_t *meta, const mpt_layout_t *layout,
                                 unsigned kinds, const mpt_checkpoint_sink_t *sink,
                                 const mpt_log_t *log)
{
    reading_t reading = {.meta = meta,
                         .layout = layout,
                         .log = log,
                         .fingerprint =
                             mpt_checkpoint_fingerprint(layout->tensors, layout->tensor_count)};
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        if (kinds >> k & ~mpt_checkpoint_kinds(meta) >> k & 1) {
            mpt_log_error(log, "%s: holds no %s", meta->path,
                          mpt_checkpoint_kind_name((mpt_checkpoint_kind_t)k));
            return MPT_ERR_CHECKPOINT;
        }
    return read_all(&reading, kinds, sink);
}

mpt_status_t mpt_checkpoint_verify(const mpt_checkpoint_meta_t *meta, const mpt_log_t *log,
                                   int64_t *bytes_p)
{
    reading_t reading = {.meta = meta, .log = log, .bytes = (int64_t)strlen(meta->text)};
    mpt_status_t status = read_all(&reading, ~0u, NULL);
    if (status == MPT_OK && bytes_p != NULL)
        *bytes_p = reading.bytes;
    return status;
}

/* ---- to a state ----------------------------------------------------------------------------------------- */

static mpt_status_t put_in_state(void *ctx, mpt_checkpoint_kind_t kind, int tensor, int64_t first,
                                 int64_t count, const float *values)
{
    const mpt_state_t *state = ctx;
    const mpt_held_t *held = mpt_checkpoint_held(state, kind);
    mpt_extent_t own;
    int pieces, index;
    mpt_state_owned(state, &pieces, &index);
    if (held->data == NULL || !mpt_layout_extent(state->layout, pieces, index, tensor, &own))
        return MPT_OK;
    int64_t begin = first > own.first ? first : own.first;
    int64_t end = first + count < own.first + own.count ? first + count : own.first + own.count;
    if (begin >= end)
        return MPT_OK;
    void *out = mpt_held_at(state, held, own.at + begin - own.first);
    if (held->dtype == MPT_F32)
        memcpy(out, values + (begin - first), (size_t)(end - begin) * sizeof(float));
    else
        mpt_convert(out, held->dtype, values + (begin - first), MPT_F32, end - begin);
    return MPT_OK;
}

mpt_checkpoint_sink_t mpt_checkpoint_state_sink(mpt_state_t *state)
{
    return (mpt_checkpoint_sink_t){.put = put_in_state, .ctx = state};
}
