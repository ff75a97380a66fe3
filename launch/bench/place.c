#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#include "bench.h"

#define LLMC_TOKENS_MAGIC 20240520
#define HEADER_WORDS 256

/* Knuth's MMIX constants; any tokens will do, as long as they differ and are the same each time. */
static uint32_t next_token(uint64_t *state, uint32_t vocab)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % vocab;
}

static int write_tokens(const char *path, int64_t count, uint32_t vocab)
{
    int32_t header[HEADER_WORDS] = {LLMC_TOKENS_MAGIC, 1, (int32_t)count};
    uint64_t state = 1;
    FILE *file = fopen(path, "wb");
    if (!file)
        return -1;
    fwrite(header, sizeof(header), 1, file);
    for (int64_t i = 0; i < count; i++) {
        uint16_t token = (uint16_t)next_token(&state, vocab);
        fwrite(&token, sizeof(token), 1, file);
    }
    int failed = ferror(file);
    return fclose(file) != 0 || failed ? -1 : 0;
}

mpt_status_t mpt_bench_place_create(mpt_bench_place_t *place, int64_t count, uint32_t vocab)
{
    strcpy(place->dir, "/tmp/mpt-bench-XXXXXX");
    if (!mkdtemp(place->dir)) {
        perror("mpt-ddp bench: a folder in /tmp");
        return MPT_ERR_IO;
    }
    snprintf(place->tokens, sizeof(place->tokens), "%s/tokens.bin", place->dir);
    if (write_tokens(place->tokens, count, vocab) != 0) {
        perror("mpt-ddp bench: a token file in /tmp");
        mpt_bench_place_destroy(place);
        return MPT_ERR_IO;
    }
    return MPT_OK;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
    (void)status;
    (void)type;
    (void)ftw;
    return remove(path);
}

void mpt_bench_place_destroy(const mpt_bench_place_t *place)
{
    if (nftw(place->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS) != 0)
        fprintf(stderr, "mpt-ddp bench: %s could not be removed\n", place->dir);
}
