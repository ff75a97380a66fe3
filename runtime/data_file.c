#include "data_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error token files are little-endian and are read in place
#endif

#define MAKE_TOKENS "make a token file with mpt-ddp data"

typedef struct foreign {
    const char *bytes;
    size_t count;
    const char *what;
} foreign_t;

/* Files that people mistake for token files. Raw tokens have no mark of their own, so only long
 * marks count here. */
static const foreign_t foreign_table[] = {
    {"\x93NUMPY", 6, "a NumPy array; write its tokens with tofile()"},
    {"PK\x03\x04", 4, "a zip archive, as NumPy's and PyTorch's files are; " MAKE_TOKENS},
    {"\x28\xb5\x2f\xfd", 4, "a zstd archive; decompress it first"},
    {"\x1f\x8b\x08\x00", 4, "a gzip archive; decompress it first"},
    {"\x1f\x8b\x08\x08", 4, "a gzip archive; decompress it first"},
    {"\x89HDF", 4, "an HDF5 file; " MAKE_TOKENS},
    {"PAR1", 4, "a Parquet file; " MAKE_TOKENS},
    {"GGUF", 4, "a GGUF model; " MAKE_TOKENS},
};

typedef struct foreign_magic {
    int32_t magic;
    const char *what;
} foreign_magic_t;

/* llm.c's other files. */
static const foreign_magic_t foreign_magics[] = {
    {20240326, "an llm.c model; name it as model.init, and a token file here"},
    {20240327, "an llm.c optimizer state; name a token file here"},
    {20240328, "an llm.c tokenizer; name a token file here"},
    {20240522, "an llm.c evaluation set; name a token file here"},
    {20240801,
     "an llm.c token file with 32-bit tokens; cut its 1024 bytes of header off and name it .u32"},
};

static mpt_status_t refuse(const mpt_log_t *log, const char *path, const char *what)
{
    mpt_log_error(log, "%s: %s", path, what);
    return MPT_ERR_DATA;
}

static int32_t header_word(const mpt_data_file_t *file, int index)
{
    int32_t word;
    memcpy(&word, (const char *)file->map + 4 * (size_t)index, sizeof word);
    return word;
}

/* The only size that the count in the header allows is the right one: less was cut, more is
 * something else. */
static mpt_status_t read_header(mpt_data_file_t *file, const mpt_log_t *log)
{
    if (file->bytes < MPT_DATA_HEADER_BYTES)
        return refuse(log, file->path, "cut off within its header; copy or make it again");
    if (header_word(file, 1) != MPT_DATA_VERSION) {
        mpt_log_error(log, "%s: an llm.c token file of version %d; only version %d is read",
                      file->path, header_word(file, 1), MPT_DATA_VERSION);
        return MPT_ERR_DATA;
    }
    int64_t promised = header_word(file, 2);
    int64_t held = (int64_t)(file->bytes - MPT_DATA_HEADER_BYTES) / 2;
    if (promised != held || file->bytes % 2 != 0) {
        mpt_log_error(
            log,
            "%s: its header says %lld tokens, but the file holds %lld%s; copy or make it again",
            file->path, (long long)promised, (long long)held, file->bytes % 2 ? " and a half" : "");
        return MPT_ERR_DATA;
    }
    file->tokens = (const unsigned char *)file->map + MPT_DATA_HEADER_BYTES;
    file->token_bytes = 2;
    file->count = held;
    return MPT_OK;
}

/* 1 where the file starts like text: tokens would have bytes outside the printable ones sooner than
 * that. */
static int is_text(const mpt_data_file_t *file)
{
    const unsigned char *bytes = file->map;
    size_t count = file->bytes < 4096 ? file->bytes : 4096;
    for (size_t i = 0; i < count; i++)
        if ((bytes[i] < 0x20 && !strchr("\t\n\r", bytes[i])) || bytes[i] == 0 || bytes[i] == 0x7f)
            return 0;
    return count >= 256;
}

static const char *find_foreign(const mpt_data_file_t *file)
{
    for (size_t i = 0; i < sizeof foreign_table / sizeof *foreign_table; i++)
        if (file->bytes >= foreign_table[i].count &&
            memcmp(file->map, foreign_table[i].bytes, foreign_table[i].count) == 0)
            return foreign_table[i].what;
    for (size_t i = 0; i < sizeof foreign_magics / sizeof *foreign_magics; i++)
        if (file->bytes >= 4 && header_word(file, 0) == foreign_magics[i].magic)
            return foreign_magics[i].what;
    return is_text(file) ? "text, not tokens; " MAKE_TOKENS : NULL;
}

static int ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static mpt_status_t read_raw(mpt_data_file_t *file, const mpt_log_t *log)
{
    const char *foreign = find_foreign(file);
    if (foreign) {
        mpt_log_error(log, "%s: this is %s", file->path, foreign);
        return MPT_ERR_DATA;
    }
    file->token_bytes = ends_with(file->path, ".u32") ? 4 : 2;
    if (file->bytes % (size_t)file->token_bytes != 0) {
        mpt_log_error(log,
                      "%s: %zu bytes are no whole number of %d-bit tokens; copy or make it again",
                      file->path, file->bytes, 8 * file->token_bytes);
        return MPT_ERR_DATA;
    }
    file->tokens = file->map;
    file->count = (int64_t)(file->bytes / (size_t)file->token_bytes);
    return MPT_OK;
}

/* Map what `fd` has open. */
static mpt_status_t map_file(mpt_data_file_t *file, int fd, const mpt_log_t *log)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return refuse(log, file->path, strerror(errno));
    if (S_ISDIR(info.st_mode))
        return refuse(log, file->path, "this is a folder; name its files, as folder/*.bin");
    if (!S_ISREG(info.st_mode))
        return refuse(log, file->path, "this is no regular file, which a token file has to be");
    if (info.st_size == 0)
        return refuse(log, file->path, "the file is empty; copy or make it again");
    file->bytes = (size_t)info.st_size;
    void *map = mmap(NULL, file->bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        mpt_log_error(log, "%s: cannot be mapped: %s", file->path, strerror(errno));
        return errno == ENOMEM ? MPT_ERR_NO_MEMORY : MPT_ERR_DATA;
    }
    file->map = map;
    return MPT_OK;
}

/* Opening without blocking: a pipe would wait for its writer before it could be refused. */
static mpt_status_t open_and_map(mpt_data_file_t *file, const mpt_log_t *log)
{
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        mpt_log_error(
            log, "%s: cannot be opened: %s; check data.train, data.val and the working directory",
            file->path, strerror(errno));
        return MPT_ERR_DATA;
    }
    mpt_status_t status = map_file(file, fd, log);
    close(fd);
    return status;
}

mpt_status_t mpt_data_file_open(const char *path, const mpt_log_t *log, mpt_data_file_t *file_p)
{
    mpt_data_file_t file = {.path = strdup(path)};
    if (!file.path) {
        mpt_log_error(log, "%s: no memory to open it", path);
        return MPT_ERR_NO_MEMORY;
    }
    mpt_status_t status = open_and_map(&file, log);
    if (status != MPT_OK)
        goto close_file;
    int has_magic = file.bytes >= 4 && header_word(&file, 0) == MPT_DATA_MAGIC;
    status = has_magic ? read_header(&file, log) : read_raw(&file, log);
    if (status != MPT_OK)
        goto close_file;
    *file_p = file;
    return MPT_OK;

close_file:
    mpt_data_file_close(&file);
    return status;
}

void mpt_data_file_close(mpt_data_file_t *file)
{
    if (file->map)
        munmap(file->map, file->bytes);
    free(file->path);
}
