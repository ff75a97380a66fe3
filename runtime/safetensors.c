#include "safetensors.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aside.h"
#include "file.h"
#include "numeric.h"

#define METADATA "__metadata__"
#define HEADER_MAX 100000000 /* as the format's own library has it */
#define EXACT_MAX 0x1p53     /* JSON's numbers are doubles */
#define METADATA_MAX 4096    /* keys: each is compared with each */
#define CHUNK 4096

static const char *const type_names[] = {[MPT_F32] = "F32", [MPT_BF16] = "BF16", [MPT_F16] = "F16"};
#define TYPES 3

static uint64_t count_of(const mpt_safetensor_t *tensor)
{
    uint64_t count = 1;
    for (int d = 0; d < tensor->dims; d++)
        count *= (uint64_t)tensor->shape[d];
    return count;
}

/* ---- reading the header ------------------------------------------------------------------------------------ */

struct mpt_safetensors {
    char path[MPT_ASIDE_PATH_MAX];
    int fd;
    uint64_t data;       /* where the tensors' bytes begin */
    uint64_t data_bytes; /* and how many there are */
    cJSON *json;         /* holds the names and the metadata */
    const cJSON *metadata;
    mpt_safetensor_t *tensors; /* by name */
    int count;
    const mpt_log_t *log;
};

static mpt_status_t bad_file(const mpt_safetensors_t *file, const char *what)
{
    mpt_log_error(file->log, "%s: %s; not a whole safetensors file", file->path, what);
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t bad_tensor(const mpt_safetensors_t *file, const char *name, const char *what)
{
    mpt_log_error(file->log, "%s: tensor \"%.200s\": %s", file->path, name, what);
    return MPT_ERR_CHECKPOINT;
}

/* Only blanks may follow the JSON text. */
static int parse_text(mpt_safetensors_t *file, const char *text, size_t bytes)
{
    const char *end = NULL;
    if (bytes == 0 || text[0] != '{' || memchr(text, '\0', bytes) != NULL)
        return -1;
    file->json = cJSON_ParseWithLengthOpts(text, bytes, &end, 0);
    if (!cJSON_IsObject(file->json))
        return -1;
    while (end < text + bytes && *end == ' ')
        end++;
    return end == text + bytes ? 0 : -1;
}

static mpt_status_t read_json(mpt_safetensors_t *file)
{
    struct stat info;
    unsigned char raw[8];
    uint64_t length = 0;
    if (fstat(file->fd, &info) != 0 || info.st_size < 8 || mpt_file_read_at(file->fd, raw, sizeof raw, 0) != 0)
        return bad_file(file, "too short for a header");
    for (int i = 7; i >= 0; i--)
        length = length << 8 | raw[i];
    if (length > (uint64_t)info.st_size - 8)
        return bad_file(file, "its header is longer than the file");
    if (length > HEADER_MAX)
        return bad_file(file, "its header is longer than 100 MB");
    char *text = malloc((size_t)length + 1);
    if (text == NULL)
        return mpt_log_no_memory(file->log, (size_t)length + 1, "a header");
    int failed = mpt_file_read_at(file->fd, text, (size_t)length, 8) != 0 ||
                 parse_text(file, text, (size_t)length) != 0;
    free(text);
    file->data = 8 + length;
    file->data_bytes = (uint64_t)info.st_size - file->data;
    return failed ? bad_file(file, "its header is no JSON object") : MPT_OK;
}

/* A whole number that a double holds exactly, or -1. */
static int64_t whole(const cJSON *item)
{
    double value = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
    return value >= 0.0 && value <= EXACT_MAX && value == floor(value) ? (int64_t)value : -1;
}

static const cJSON *member(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static int read_type(const cJSON *item, mpt_dtype_t *dtype_p)
{
    for (int d = 0; d < TYPES && cJSON_IsString(item); d++)
        if (strcmp(item->valuestring, type_names[d]) == 0) {
            *dtype_p = (mpt_dtype_t)d;
            return 0;
        }
    return -1;
}

/* The shape, and that its product stays within 2^53. */
static int read_shape(const cJSON *item, mpt_safetensor_t *tensor)
{
    const cJSON *size;
    double product = 1.0;
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) > MPT_TENSOR_MAX_DIMS)
        return -1;
    cJSON_ArrayForEach(size, item)
    {
        int64_t n = whole(size);
        if (n < 1)
            return -1;
        product *= (double)n;
        tensor->shape[tensor->dims++] = n;
    }
    return product <= EXACT_MAX ? 0 : -1;
}

static int read_offsets(const cJSON *item, mpt_safetensor_t *tensor)
{
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2)
        return -1;
    int64_t begin = whole(cJSON_GetArrayItem(item, 0)), end = whole(cJSON_GetArrayItem(item, 1));
    if (begin < 0 || end < begin)
        return -1;
    tensor->begin = (uint64_t)begin;
    tensor->end = (uint64_t)end;
    return 0;
}

static mpt_status_t read_tensor(const mpt_safetensors_t *file, const cJSON *item, mpt_safetensor_t *tensor)
{
    *tensor = (mpt_safetensor_t){.name = item->string};
    if (!cJSON_IsObject(item) || cJSON_GetArraySize(item) != 3)
        return bad_tensor(file, tensor->name, "must have dtype, shape and data_offsets, and nothing else");
    if (read_type(member(item, "dtype"), &tensor->dtype) != 0)
        return bad_tensor(file, tensor->name, "its dtype is none of F32, BF16, F16");
    if (read_shape(member(item, "shape"), tensor) != 0)
        return bad_tensor(file, tensor->name, "its shape is none of at most two sizes from 1 on");
    if (read_offsets(member(item, "data_offsets"), tensor) != 0)
        return bad_tensor(file, tensor->name, "its data_offsets are no two ascending whole numbers");
    if (tensor->end > file->data_bytes)
        return bad_tensor(file, tensor->name, "its data_offsets lie beyond the end of the file");
    if (tensor->end - tensor->begin != count_of(tensor) * mpt_dtype_bytes(tensor->dtype))
        return bad_tensor(file, tensor->name, "its data_offsets do not fit dtype and shape");
    return MPT_OK;
}

static mpt_status_t read_metadata(mpt_safetensors_t *file, const cJSON *item)
{
    const cJSON *entry;
    if (file->metadata != NULL)
        return bad_file(file, "two " METADATA);
    if (!cJSON_IsObject(item))
        return bad_file(file, METADATA " is no object");
    if (cJSON_GetArraySize(item) > METADATA_MAX)
        return bad_file(file, METADATA " holds more than 4096 keys");
    cJSON_ArrayForEach(entry, item)
    {
        if (!cJSON_IsString(entry))
            return bad_file(file, METADATA " holds what is no text");
        if (member(item, entry->string) != entry)
            return bad_file(file, METADATA " holds a key twice");
    }
    file->metadata = item;
    return MPT_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mpt_safetensor_t *)a)->name, ((const mpt_safetensor_t *)b)->name);
}

static int by_place(const void *a, const void *b)
{
    const mpt_safetensor_t *x = a, *y = b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin)
                                : (x->end > y->end) - (x->end < y->end);
}

/* End to end, from the first byte to the last; and every name once. */
static mpt_status_t check_order(mpt_safetensors_t *file)
{
    uint64_t at = 0;
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_place);
    for (int i = 0; i < file->count; at = file->tensors[i++].end) {
        if (file->tensors[i].begin < at)
            return bad_tensor(file, file->tensors[i].name, "overlaps another one");
        if (file->tensors[i].begin > at)
            return bad_tensor(file, file->tensors[i].name, "leaves a gap before it");
    }
    if (at != file->data_bytes)
        return bad_file(file, "bytes behind the last tensor");
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_name);
    for (int i = 1; i < file->count; i++)
        if (by_name(&file->tensors[i - 1], &file->tensors[i]) == 0)
            return bad_tensor(file, file->tensors[i].name, "comes twice");
    return MPT_OK;
}

static mpt_status_t read_tensors(mpt_safetensors_t *file)
{
    const cJSON *item;
    mpt_status_t status = MPT_OK;
    file->tensors = calloc((size_t)cJSON_GetArraySize(file->json) + 1, sizeof *file->tensors);
    if (file->tensors == NULL)
        return mpt_log_no_memory(file->log, (size_t)cJSON_GetArraySize(file->json) * sizeof *file->tensors,
                                 "the table of tensors");
    cJSON_ArrayForEach(item, file->json)
    {
        if (strcmp(item->string, METADATA) == 0)
            status = read_metadata(file, item);
        else
            status = read_tensor(file, item, &file->tensors[file->count++]);
        if (status != MPT_OK)
            return status;
    }
    return check_order(file);
}

mpt_status_t mpt_safetensors_open(const char *path, const mpt_log_t *log, mpt_safetensors_t **file_p)
{
    mpt_safetensors_t *file = calloc(1, sizeof *file);
    if (file == NULL)
        return mpt_log_no_memory(log, sizeof *file, "reading a model file");
    mpt_status_t status = MPT_ERR_CHECKPOINT;
    snprintf(file->path, sizeof file->path, "%s", path);
    file->log = log;
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0) {
        mpt_log_error(log, "%s: %s", path, strerror(errno));
        goto close;
    }
    status = read_json(file);
    if (status == MPT_OK)
        status = read_tensors(file);
    if (status != MPT_OK)
        goto close;
    *file_p = file;
    return MPT_OK;
close:
    mpt_safetensors_close(file);
    return status;
}

void mpt_safetensors_close(mpt_safetensors_t *file)
{
    if (file == NULL)
        return;
    if (file->fd >= 0)
        close(file->fd);
    cJSON_Delete(file->json);
    free(file->tensors);
    free(file);
}

/* ---- reading the rest ---------------------------------------------------------------------------------------- */

int mpt_safetensors_count(const mpt_safetensors_t *file)
{
    return file->count;
}

const mpt_safetensor_t *mpt_safetensors_at(const mpt_safetensors_t *file, int index)
{
    return &file->tensors[index];
}

int mpt_safetensors_find(const mpt_safetensors_t *file, const char *name)
{
    const mpt_safetensor_t key = {.name = name};
    const mpt_safetensor_t *found =
        bsearch(&key, file->tensors, (size_t)file->count, sizeof key, by_name);
    return found != NULL ? (int)(found - file->tensors) : -1;
}

const char *mpt_safetensors_text(const mpt_safetensors_t *file, const char *key)
{
    const cJSON *item = member(file->metadata, key);
    return item != NULL ? item->valuestring : NULL;
}

mpt_status_t mpt_safetensors_read(const mpt_safetensors_t *file, int index, int64_t first, int64_t count,
                                  float *out)
{
    const mpt_safetensor_t *tensor = &file->tensors[index];
    size_t element = mpt_dtype_bytes(tensor->dtype);
    uint64_t offset = file->data + tensor->begin + (uint64_t)first * element;
    uint16_t narrow[CHUNK];
    int failed = 0;
    if (tensor->dtype == MPT_F32)
        failed = mpt_file_read_at(file->fd, out, (size_t)count * element, offset) != 0;
    for (int64_t done = 0; tensor->dtype != MPT_F32 && done < count && !failed; done += CHUNK) {
        int64_t n = count - done < CHUNK ? count - done : CHUNK;
        failed = mpt_file_read_at(file->fd, narrow, (size_t)n * element,
                                  offset + (uint64_t)done * element) != 0;
        if (!failed)
            mpt_convert(out + done, MPT_F32, narrow, tensor->dtype, n);
    }
    return failed ? bad_tensor(file, tensor->name, "cannot be read") : MPT_OK;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* What mpt_safetensors_put needs to know of a tensor. */
typedef struct place {
    mpt_dtype_t dtype;
    uint64_t begin;
} place_t;

struct mpt_safetensors_writer {
    mpt_aside_t aside;
    cJSON *json, *metadata; /* metadata belongs to json */
    place_t *places;
    int count, capacity;
    uint64_t data, data_bytes;
};

mpt_status_t mpt_safetensors_new(mpt_safetensors_writer_t **writer_p)
{
    mpt_safetensors_writer_t *writer = calloc(1, sizeof *writer);
    if (writer == NULL)
        return MPT_ERR_NO_MEMORY;
    writer->aside.fd = -1;
    writer->json = cJSON_CreateObject();
    writer->metadata = cJSON_AddObjectToObject(writer->json, METADATA);
    if (writer->metadata == NULL) {
        mpt_safetensors_drop(writer);
        return MPT_ERR_NO_MEMORY;
    }
    *writer_p = writer;
    return MPT_OK;
}

mpt_status_t mpt_safetensors_set(mpt_safetensors_writer_t *writer, const char *key, const char *text)
{
    return cJSON_AddStringToObject(writer->metadata, key, text) != NULL ? MPT_OK : MPT_ERR_NO_MEMORY;
}

/* Numbers as text: cJSON would round large ones to 15 digits. */
static int describe(cJSON *json, const mpt_safetensor_t *tensor)
{
    char shape[24 * MPT_TENSOR_MAX_DIMS + 3] = "[", offsets[48];
    for (int d = 0; d < tensor->dims; d++)
        sprintf(shape + strlen(shape), "%s%" PRId64, d > 0 ? "," : "", tensor->shape[d]);
    strcat(shape, "]");
    snprintf(offsets, sizeof offsets, "[%" PRIu64 ",%" PRIu64 "]", tensor->begin, tensor->end);
    cJSON *item = cJSON_AddObjectToObject(json, tensor->name);
    return cJSON_AddStringToObject(item, "dtype", type_names[tensor->dtype]) != NULL &&
                   cJSON_AddRawToObject(item, "shape", shape) != NULL &&
                   cJSON_AddRawToObject(item, "data_offsets", offsets) != NULL
               ? 0
               : -1;
}

static int reserve_place(mpt_safetensors_writer_t *writer)
{
    if (writer->count < writer->capacity)
        return 0;
    int capacity = 2 * writer->capacity + 64;
    place_t *places = realloc(writer->places, (size_t)capacity * sizeof *places);
    if (places == NULL)
        return -1;
    writer->places = places;
    writer->capacity = capacity;
    return 0;
}

mpt_status_t mpt_safetensors_add(mpt_safetensors_writer_t *writer, const mpt_safetensor_t *tensor)
{
    mpt_safetensor_t placed = *tensor;
    placed.begin = writer->data_bytes;
    placed.end = placed.begin + count_of(tensor) * mpt_dtype_bytes(tensor->dtype);
    if (reserve_place(writer) != 0 || describe(writer->json, &placed) != 0)
        return MPT_ERR_NO_MEMORY;
    writer->places[writer->count++] = (place_t){.dtype = placed.dtype, .begin = placed.begin};
    writer->data_bytes = placed.end;
    return MPT_OK;
}

mpt_status_t mpt_safetensors_begin(mpt_safetensors_writer_t *writer, const char *path, int force,
                                   const mpt_log_t *log)
{
    unsigned char raw[8];
    char *text = cJSON_PrintUnformatted(writer->json);
    if (text == NULL) {
        mpt_log_error(log, "out of memory for the header of %s", path);
        return MPT_ERR_NO_MEMORY;
    }
    size_t used = strlen(text), length = (used + 7) / 8 * 8;
    for (int i = 0; i < 8; i++)
        raw[i] = (unsigned char)((uint64_t)length >> (8 * i));
    writer->data = 8 + length;
    mpt_status_t status = mpt_aside_open(&writer->aside, path, force, log);
    if (status == MPT_OK)
        status = mpt_aside_put(&writer->aside, raw, sizeof raw, 0);
    if (status == MPT_OK)
        status = mpt_aside_put(&writer->aside, text, used, sizeof raw);
    if (status == MPT_OK)
        status = mpt_aside_put(&writer->aside, "        ", length - used, sizeof raw + used);
    cJSON_free(text);
    return status;
}

mpt_status_t mpt_safetensors_put(mpt_safetensors_writer_t *writer, int number, int64_t first, int64_t count,
                                 const float *values)
{
    const place_t *place = &writer->places[number];
    uint64_t offset = writer->data + place->begin + (uint64_t)first * mpt_dtype_bytes(place->dtype);
    return mpt_aside_put_floats(&writer->aside, place->dtype, values, count, offset);
}

mpt_status_t mpt_safetensors_commit(mpt_safetensors_writer_t *writer, int64_t *bytes_p)
{
    uint64_t bytes = writer->data + writer->data_bytes;
    mpt_status_t status = mpt_aside_commit(&writer->aside, bytes);
    if (status == MPT_OK)
        *bytes_p = (int64_t)bytes;
    return status;
}

void mpt_safetensors_drop(mpt_safetensors_writer_t *writer)
{
    if (writer == NULL)
        return;
    mpt_aside_drop(&writer->aside);
    cJSON_Delete(writer->json);
    free(writer->places);
    free(writer);
}
