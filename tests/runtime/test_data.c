#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data.h"

#define HEADER_BYTES 1024 /* of an llm.c file */

typedef struct fixture {
    char folder[64]; /* a new one for each test; removed after it */
    char last[2048]; /* what was logged last */
    int lines;
    mpt_log_t log;
} fixture_t;

static void keep_line(void *ctx, mpt_log_level_t level, const char *line)
{
    fixture_t *f = ctx;
    (void)level;
    snprintf(f->last, sizeof f->last, "%s", line);
    f->lines++;
}

static int set_up(void **state)
{
    fixture_t *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    strcpy(f->folder, "/tmp/mpt_test_data.XXXXXX");
    f->log = (mpt_log_t){.level = MPT_LOG_DEBUG, .rank = -1, .sink = keep_line, .ctx = f};
    *state = f;
    return mkdtemp(f->folder) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int tear_down(void **state)
{
    fixture_t *f = *state;
    int result = nftw(f->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(f);
    return result;
}

/* The path of a file in the test's folder; good until the fourth call from then. */
static const char *path_of(const fixture_t *f, const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", f->folder, name);
    return path;
}

static void write_bytes(const fixture_t *f, const char *name, const void *bytes, size_t count)
{
    FILE *file = fopen(path_of(f, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* Tokens first, first + 1, ... in llm.c's format. */
static void write_counting(fixture_t *f, const char *name, int first, int count)
{
    uint16_t *tokens = calloc((size_t)count + 1, sizeof *tokens);
    assert_non_null(tokens);
    for (int i = 0; i < count; i++)
        tokens[i] = (uint16_t)(first + i);
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){path_of(f, name), tokens, count}, 1, 1, &f->log), MPT_OK);
    free(tokens);
}

static mpt_data_params_t params_of(fixture_t *f, const char *name, int64_t sequence)
{
    return (mpt_data_params_t){.pattern = path_of(f, name),
                               .sequence = sequence,
                               .vocab = 65536,
                               .seed = 7,
                               .log = &f->log};
}

static mpt_data_t *open_good(fixture_t *f, const char *name, int64_t sequence)
{
    mpt_data_t *data = NULL;
    mpt_data_params_t params = params_of(f, name, sequence);
    if (mpt_data_open(&params, &data) != MPT_OK)
        fail_msg("%s", f->last);
    assert_int_equal(f->lines, 0);
    return data;
}

/* Opening is refused with one line: the path, then exactly `message`. */
static void expect_refusal(fixture_t *f, const char *name, const char *message)
{
    char line[2048];
    mpt_data_t *data = (mpt_data_t *)1;
    mpt_data_params_t params = params_of(f, name, 4);
    f->lines = 0;
    assert_int_equal(mpt_data_open(&params, &data), MPT_ERR_DATA);
    assert_ptr_equal(data, (mpt_data_t *)1);
    snprintf(line, sizeof line, "%s: %s", path_of(f, name), message);
    assert_string_equal(f->last, line);
    assert_int_equal(f->lines, 1);
}

static void samples_share_one_token_with_the_next(void **state)
{
    fixture_t *f = *state;
    uint32_t inputs[8], targets[8];
    write_counting(f, "a.bin", 100, 10);
    mpt_data_t *data = open_good(f, "a.bin", 4);
    assert_int_equal(mpt_data_samples(data),
                     2); /* nine tokens make two samples; the tenth is left over */
    assert_int_equal(mpt_data_tokens(data), 10);
    assert_int_equal(mpt_data_read(data, 0, 2, inputs, targets), MPT_OK);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(inputs[i], 100 + i);
        assert_int_equal(targets[i], 101 + i);
    }
    mpt_data_close(data);
    mpt_data_close(NULL);
}

static uint64_t hash_of(fixture_t *f, const char *name)
{
    mpt_data_t *data = open_good(f, name, 4);
    uint64_t hash = mpt_data_hash(data);
    mpt_data_close(data);
    return hash;
}

/* Raw files of both widths; cut into files; one token less; one token changed at the start, in a piece, at the end. */
static void the_hash_tells_data_apart_not_how_wide_it_is_stored(void **state)
{
    enum { COUNT = 200000 };
    static const int at[] = {0, 1023, COUNT / 64 * 31, COUNT / 64 * 63 + 1023, COUNT - 1024, COUNT - 1};
    fixture_t *f = *state;
    uint16_t *narrow = malloc(COUNT * sizeof *narrow);
    uint32_t *wide = malloc(COUNT * sizeof *wide);
    assert_true(narrow && wide);
    for (uint32_t i = 0; i < COUNT; i++)
        wide[i] = narrow[i] = (uint16_t)(i * 40503u >> 3);
    write_bytes(f, "whole.raw", narrow, COUNT * 2);
    write_bytes(f, "wide.u32", wide, COUNT * 4);
    write_bytes(f, "cut-1.raw", narrow, 777 * 2);
    write_bytes(f, "cut-2.raw", narrow + 777, (COUNT - 777) * 2);
    write_bytes(f, "part-1.raw", narrow, 5777 * 2);
    write_bytes(f, "part-2.raw", narrow + 5777, (COUNT - 5777) * 2);
    write_bytes(f, "less.raw", narrow, (COUNT - 1) * 2);
    const uint64_t hash = hash_of(f, "whole.raw");
    assert_int_equal(hash, hash_of(f, "wide.u32"));
    assert_int_not_equal(hash, hash_of(f, "cut-*.raw")); /* no sample crosses files: others, and other samples */
    assert_int_not_equal(hash_of(f, "part-*.raw"), hash_of(f, "cut-*.raw"));
    assert_int_not_equal(hash, hash_of(f, "less.raw"));
    for (size_t k = 0; k < sizeof at / sizeof *at; k++) {
        narrow[at[k]] ^= 1;
        write_bytes(f, "other.raw", narrow, COUNT * 2);
        assert_int_not_equal(hash, hash_of(f, "other.raw"));
        narrow[at[k]] ^= 1;
    }
    write_counting(f, "tiny.bin", 1, 5);
    write_counting(f, "other.bin", 2, 5);
    assert_int_not_equal(hash_of(f, "tiny.bin"), hash_of(f, "other.bin"));
    free(narrow);
    free(wide);
}

/* More files than pieces. */
static void the_hash_sees_both_ends_of_every_file_of_many(void **state)
{
    enum { FILES = 100, TOKENS = 3000 };
    fixture_t *f = *state;
    uint16_t tokens[TOKENS];
    char name[32];
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "many-%03d.bin", i);
        write_counting(f, name, i, TOKENS);
    }
    const uint64_t hash = hash_of(f, "many-*.bin");
    for (int i = 0; i < FILES; i += 9)
        for (int end = 0; end < 2; end++) {
            for (int k = 0; k < TOKENS; k++)
                tokens[k] = (uint16_t)(i + k + (k == (end ? TOKENS - 1 : 0)));
            snprintf(name, sizeof name, "many-%03d.bin", i);
            assert_int_equal(mpt_data_write(&(mpt_data_part_t){path_of(f, name), tokens, TOKENS}, 1, 1, &f->log), MPT_OK);
            assert_int_not_equal(hash, hash_of(f, "many-*.bin"));
            write_counting(f, name, i, TOKENS);
        }
    assert_int_equal(hash, hash_of(f, "many-*.bin"));
}

static void exactly_one_sample_is_enough(void **state)
{
    fixture_t *f = *state;
    write_counting(f, "a.bin", 0, 5);
    mpt_data_t *data = open_good(f, "a.bin", 4);
    assert_int_equal(mpt_data_samples(data), 1);
    mpt_data_close(data);
    write_counting(f, "b.bin", 0, 4);
    expect_refusal(f, "b.bin",
                   "4 tokens are too few for one sample of 4 and its last target; lower "
                   "data.sequence, or use more text");
    write_counting(f, "c.bin", 0, 0);
    expect_refusal(f, "c.bin",
                   "0 tokens are too few for one sample of 4 and its last target; lower "
                   "data.sequence, or use more text");
}

static void sequential_order_repeats_every_epoch(void **state)
{
    fixture_t *f = *state;
    uint32_t once[12], inputs[12], targets[12];
    write_counting(f, "a.bin", 0, 13);
    mpt_data_t *data = open_good(f, "a.bin", 4);
    assert_int_equal(mpt_data_read(data, 0, 3, once, targets), MPT_OK);
    assert_int_equal(mpt_data_read(data, 3000000000000000LL * 3, 3, inputs, targets), MPT_OK);
    assert_memory_equal(once, inputs, sizeof once);
    assert_int_equal(mpt_data_read(data, 2, 2, inputs, targets), MPT_OK);
    assert_int_equal(inputs[0], 8);
    assert_int_equal(inputs[4], 0);
    mpt_data_close(data);
}

/* First tokens of an epoch's samples, by position. */
static void read_epoch(mpt_data_t *data, int64_t first, int count, uint32_t *firsts)
{
    for (int i = 0; i < count; i++) {
        uint32_t inputs[2], targets[2];
        assert_int_equal(mpt_data_read(data, first + i, 1, inputs, targets), MPT_OK);
        assert_int_equal(targets[0], inputs[0] + 1);
        firsts[i] = inputs[0];
    }
}

static void shuffled_epochs_hold_every_sample_once_in_an_order_of_their_own(void **state)
{
    enum { SAMPLES = 101 };
    fixture_t *f = *state;
    uint32_t epochs[3][SAMPLES], other[SAMPLES];
    write_counting(f, "a.bin", 0, 2 * SAMPLES + 1);
    mpt_data_params_t params = params_of(f, "a.bin", 2);
    params.shuffled = 1;
    mpt_data_t *data;
    assert_int_equal(mpt_data_open(&params, &data), MPT_OK);
    for (int e = 0; e < 3; e++) {
        int seen[SAMPLES] = {0};
        read_epoch(data, (int64_t)e * SAMPLES, SAMPLES, epochs[e]);
        for (int i = 0; i < SAMPLES; i++)
            seen[epochs[e][i] / 2]++;
        for (int i = 0; i < SAMPLES; i++)
            assert_int_equal(seen[i], 1);
    }
    assert_memory_not_equal(epochs[0], epochs[1], sizeof epochs[0]);
    assert_memory_not_equal(epochs[1], epochs[2], sizeof epochs[0]);
    mpt_data_close(data);
    assert_int_equal(mpt_data_open(&params, &data), MPT_OK);
    read_epoch(data, SAMPLES, SAMPLES, other);
    assert_memory_equal(other, epochs[1], sizeof other);
    mpt_data_close(data);
    params.seed = 8;
    assert_int_equal(mpt_data_open(&params, &data), MPT_OK);
    read_epoch(data, 0, SAMPLES, other);
    assert_memory_not_equal(other, epochs[0], sizeof other);
    mpt_data_close(data);
}

static void globs_read_files_by_name_and_no_sample_crosses_them(void **state)
{
    fixture_t *f = *state;
    uint32_t inputs[16], targets[16];
    write_counting(f, "part_b.bin", 2000, 9); /* 2 samples */
    write_counting(f, "part_a.bin", 1000, 7); /* 1 sample, two tokens over */
    write_counting(f, "part_B.bin", 3000, 5); /* before part_a: bytes, not letters */
    write_counting(f, "other.bin", 0, 50);
    mpt_data_t *data = open_good(f, "part_*.bin", 4);
    assert_int_equal(mpt_data_samples(data), 4);
    assert_int_equal(mpt_data_tokens(data), 21);
    assert_int_equal(mpt_data_read(data, 0, 4, inputs, targets), MPT_OK);
    const uint32_t firsts[] = {3000, 1000, 2000, 2004};
    for (int s = 0; s < 4; s++)
        for (uint32_t i = 0; i < 4; i++) {
            assert_int_equal(inputs[4 * s + (int)i], firsts[s] + i);
            assert_int_equal(targets[4 * s + (int)i], firsts[s] + i + 1);
        }
    mpt_data_prefetch(data, 0, 9);
    mpt_data_close(data);
}

static void order_of_files_is_that_of_their_names(void **state)
{
    enum { FILES = 29 };
    fixture_t *f = *state;
    uint32_t inputs[FILES], targets[FILES];
    for (int i = 0; i < FILES; i++) {
        char name[16];
        int number = i * 11 % FILES; /* created in another order */
        snprintf(name, sizeof name, "%02d.bin", number);
        write_counting(f, name, 100 * number, 2);
    }
    mpt_data_t *data = open_good(f, "*.bin", 1);
    assert_int_equal(mpt_data_samples(data), FILES);
    assert_int_equal(mpt_data_read(data, 0, FILES, inputs, targets), MPT_OK);
    for (uint32_t i = 0; i < FILES; i++)
        assert_int_equal(inputs[i], 100 * i);
    mpt_data_close(data);
}

static void a_file_named_like_a_glob_is_that_file(void **state)
{
    fixture_t *f = *state;
    uint32_t inputs[4], targets[4];
    write_counting(f, "a[1].bin", 10, 5);
    write_counting(f, "a1.bin", 20, 5);
    mpt_data_t *data = open_good(f, "a[1].bin", 4);
    assert_int_equal(mpt_data_read(data, 0, 1, inputs, targets), MPT_OK);
    assert_int_equal(inputs[0], 10);
    mpt_data_close(data);
}

static void raw_tokens_are_read_in_16_and_32_bits(void **state)
{
    fixture_t *f = *state;
    const uint16_t narrow[] = {1, 65535, 3, 4, 5, 6};
    const uint32_t wide[] = {1, 100000, 3, 4, 4000000000u, 6};
    uint32_t inputs[4], targets[4];
    write_bytes(f, "a.bin", narrow, sizeof narrow);
    mpt_data_t *data = open_good(f, "a.bin", 4);
    assert_int_equal(mpt_data_tokens(data), 6);
    assert_int_equal(mpt_data_read(data, 0, 1, inputs, targets), MPT_OK);
    assert_int_equal(inputs[1], 65535);
    mpt_data_close(data);
    write_bytes(f, "a.u32", wide, sizeof wide);
    mpt_data_params_t params = params_of(f, "a.u32", 4);
    params.vocab = 4294967295;
    assert_int_equal(mpt_data_open(&params, &data), MPT_OK);
    assert_int_equal(mpt_data_tokens(data), 6);
    assert_int_equal(mpt_data_read(data, 0, 1, inputs, targets), MPT_OK);
    assert_int_equal(inputs[1], 100000);
    assert_true(targets[3] == 4000000000u);
    mpt_data_close(data);
}

static void tokens_beyond_the_vocabulary_name_file_place_and_token(void **state)
{
    fixture_t *f = *state;
    uint32_t inputs[8], targets[8];
    char line[1024];
    write_counting(f, "a.bin", 250, 10); /* token 6 is 256 */
    mpt_data_params_t params = params_of(f, "a.bin", 2);
    params.vocab = 256;
    mpt_data_t *data;
    assert_int_equal(mpt_data_open(&params, &data), MPT_OK);
    assert_int_equal(mpt_data_read(data, 0, 2, inputs, targets), MPT_OK);
    assert_int_equal(f->lines, 0);
    /* The last target counts, not only inputs. */
    assert_int_equal(mpt_data_read(data, 2, 1, inputs, targets), MPT_ERR_DATA);
    snprintf(line, sizeof line,
             "%s: token 6 is 256, but the vocabulary ends at 256; train with the model.vocab "
             "of the tokenizer that made the file",
             path_of(f, "a.bin"));
    assert_string_equal(f->last, line);
    assert_int_equal(mpt_data_read(data, 0, 2, inputs, targets), MPT_OK); /* the loader lives on */
    mpt_data_close(data);
}

static void missing_files_and_empty_globs_are_errors(void **state)
{
    fixture_t *f = *state;
    expect_refusal(f, "none.bin",
                   "cannot be opened: No such file or directory; check data.train, data.val and "
                   "the working directory");
    expect_refusal(f, "none*.bin",
                   "matches no file; check data.train, data.val and the working directory");
    assert_int_equal(mkdir(path_of(f, "sub"), 0755), 0);
    expect_refusal(f, "sub", "this is a folder; name its files, as folder/*.bin");
    expect_refusal(f, "", "this is a folder; name its files, as folder/*.bin");
    assert_int_equal(mkfifo(path_of(f, "pipe"), 0600), 0);
    expect_refusal(f, "pipe", "this is no regular file, which a token file has to be");
    write_bytes(f, "empty.bin", "", 0);
    expect_refusal(f, "empty.bin", "the file is empty; copy or make it again");
    mpt_data_t *data;
    mpt_data_params_t params = params_of(f, "", 4);
    params.pattern = "";
    assert_int_equal(mpt_data_open(&params, &data), MPT_ERR_DATA);
}

static void one_bad_file_of_a_glob_is_named(void **state)
{
    fixture_t *f = *state;
    char line[1024];
    mpt_data_t *data;
    write_counting(f, "a.bin", 0, 50);
    write_bytes(f, "b.bin", "odd", 3);
    write_counting(f, "c.bin", 0, 50);
    mpt_data_params_t params = params_of(f, "*.bin", 4);
    assert_int_equal(mpt_data_open(&params, &data), MPT_ERR_DATA);
    snprintf(line, sizeof line,
             "%s: 3 bytes are no whole number of 16-bit tokens; copy or make it again",
             path_of(f, "b.bin"));
    assert_string_equal(f->last, line);
    assert_int_equal(f->lines, 1);
}

static void truncated_and_foreign_llm_c_files_are_errors(void **state)
{
    fixture_t *f = *state;
    const char *path = path_of(f, "a.bin");
    write_counting(f, "a.bin", 0, 20);
    assert_int_equal(truncate(path, HEADER_BYTES + 30), 0);
    expect_refusal(f, "a.bin",
                   "its header says 20 tokens, but the file holds 15; copy or make it again");
    assert_int_equal(truncate(path_of(f, "a.bin"), HEADER_BYTES + 41), 0);
    expect_refusal(
        f, "a.bin",
        "its header says 20 tokens, but the file holds 20 and a half; copy or make it again");
    assert_int_equal(truncate(path_of(f, "a.bin"), HEADER_BYTES + 42), 0);
    expect_refusal(f, "a.bin",
                   "its header says 20 tokens, but the file holds 21; copy or make it again");
    assert_int_equal(truncate(path_of(f, "a.bin"), HEADER_BYTES), 0);
    expect_refusal(f, "a.bin",
                   "its header says 20 tokens, but the file holds 0; copy or make it again");
    assert_int_equal(truncate(path_of(f, "a.bin"), HEADER_BYTES - 2), 0);
    expect_refusal(f, "a.bin", "cut off within its header; copy or make it again");
    assert_int_equal(truncate(path_of(f, "a.bin"), 4), 0);
    expect_refusal(f, "a.bin", "cut off within its header; copy or make it again");
    int32_t header[512] = {20240520, 7, 512};
    write_bytes(f, "v.bin", header, sizeof header);
    expect_refusal(f, "v.bin", "an llm.c token file of version 7; only version 1 is read");
    header[1] = 1;
    header[2] = -512;
    write_bytes(f, "n.bin", header, sizeof header);
    expect_refusal(f, "n.bin",
                   "its header says -512 tokens, but the file holds 512; copy or make it again");
    header[0] = 20240326;
    write_bytes(f, "m.bin", header, sizeof header);
    expect_refusal(f, "m.bin",
                   "this is an llm.c model; name it as model.init, and a token file here");
    header[0] = 20240801;
    write_bytes(f, "l.bin", header, sizeof header);
    expect_refusal(
        f, "l.bin",
        "this is an llm.c token file with 32-bit tokens; cut its 1024 bytes of header off "
        "and name it .u32");
}

static void foreign_files_are_errors(void **state)
{
    fixture_t *f = *state;
    char text[2000];
    write_bytes(f, "a.npy", "\x93NUMPY\x01\x00v\x00{'descr': '<u2'}", 24);
    expect_refusal(f, "a.npy", "this is a NumPy array; write its tokens with tofile()");
    write_bytes(f, "a.pt", "PK\x03\x04\x00\x00\x00\x00", 8);
    expect_refusal(
        f, "a.pt",
        "this is a zip archive, as NumPy's and PyTorch's files are; make a token file with "
        "mpt-ddp data");
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = i % 70 == 69 ? '\n' : (char)('a' + i % 26);
    write_bytes(f, "kjv.txt", text, sizeof text);
    expect_refusal(f, "kjv.txt", "this is text, not tokens; make a token file with mpt-ddp data");
    write_bytes(f, "odd.bin", "\x01\x02\x03", 3);
    expect_refusal(f, "odd.bin",
                   "3 bytes are no whole number of 16-bit tokens; copy or make it again");
    write_bytes(f, "a.u32", "\x01\x02\x03\x04\x05\x06", 6);
    expect_refusal(f, "a.u32",
                   "6 bytes are no whole number of 32-bit tokens; copy or make it again");
}

/* Every length and many damages of a small file: an answer each, and tokens only below the
 * vocabulary. */
static void damaged_files_are_refused_or_read_within_bounds(void **state)
{
    fixture_t *f = *state;
    unsigned char bytes[HEADER_BYTES + 60];
    uint32_t inputs[4], targets[4];
    write_counting(f, "whole.bin", 0, 30);
    FILE *file = fopen(path_of(f, "whole.bin"), "rb");
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, sizeof bytes, file), sizeof bytes);
    fclose(file);
    uint32_t random = 1;
    for (int i = 0; i < 2000; i++) {
        unsigned char damaged[sizeof bytes];
        memcpy(damaged, bytes, sizeof bytes);
        random = random * 1664525u + 1013904223u;
        damaged[(random >> 8) % (i % 2 ? 16 : sizeof bytes)] = (unsigned char)(random >> 24);
        write_bytes(f, "damaged.bin", damaged, i % 3 ? sizeof bytes : (random >> 4) % sizeof bytes);
        mpt_data_params_t params = params_of(f, "damaged.bin", 4);
        params.vocab = 256;
        mpt_data_t *data;
        f->lines = 0;
        mpt_status_t status = mpt_data_open(&params, &data);
        assert_int_equal(f->lines, status != MPT_OK);
        if (status != MPT_OK)
            continue;
        for (int64_t s = 0; s < mpt_data_samples(data); s++)
            if (mpt_data_read(data, s, 1, inputs, targets) == MPT_OK)
                for (int k = 0; k < 4; k++)
                    assert_true(inputs[k] < 256 && targets[k] < 256);
        mpt_data_close(data);
    }
}

static int files_in_folder(const fixture_t *f)
{
    char command[256];
    snprintf(command, sizeof command, "ls -A %s | wc -l", f->folder);
    FILE *pipe = popen(command, "r");
    int count = -1;
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

static void written_files_are_llm_c_files(void **state)
{
    fixture_t *f = *state;
    int32_t header[256];
    uint16_t tokens[3];
    write_counting(f, "a.bin", 5, 3);
    FILE *file = fopen(path_of(f, "a.bin"), "rb");
    assert_non_null(file);
    assert_int_equal(fread(header, 4, 256, file), 256);
    assert_int_equal(fread(tokens, 2, 3, file), 3);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
    assert_int_equal(header[0], 20240520);
    assert_int_equal(header[1], 1);
    assert_int_equal(header[2], 3);
    for (int i = 3; i < 256; i++)
        assert_int_equal(header[i], 0);
    assert_int_equal(tokens[2], 7);
    assert_int_equal(files_in_folder(f), 1);
}

static void writing_replaces_a_file_whole(void **state)
{
    fixture_t *f = *state;
    write_counting(f, "a.bin", 0, 1000);
    mpt_data_t *old = open_good(f, "a.bin", 4);
    write_counting(f, "a.bin", 500, 10);
    /* Who has the old file open goes on with it: it was replaced, not overwritten. */
    uint32_t inputs[4], targets[4];
    assert_int_equal(mpt_data_read(old, 248, 1, inputs, targets), MPT_OK);
    assert_int_equal(inputs[0], 992);
    mpt_data_close(old);
    mpt_data_t *new = open_good(f, "a.bin", 4);
    assert_int_equal(mpt_data_tokens(new), 10);
    mpt_data_close(new);
}

/* As on a full disk: files are cut at `bytes`. */
static mpt_status_t write_limited(fixture_t *f, const mpt_data_part_t *parts, int count, int force, rlim_t bytes)
{
    struct rlimit before, small;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    mpt_status_t status = mpt_data_write(parts, count, force, &f->log);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    return status;
}

static void assert_tokens(fixture_t *f, const char *name, int64_t tokens)
{
    f->lines = 0;
    mpt_data_t *data = open_good(f, name, 4);
    assert_int_equal(mpt_data_tokens(data), tokens);
    mpt_data_close(data);
}

static void a_full_disk_leaves_the_old_file_and_nothing_aside(void **state)
{
    fixture_t *f = *state;
    uint16_t *tokens = calloc(100000, sizeof *tokens);
    assert_non_null(tokens);
    write_counting(f, "a.bin", 0, 10);
    const mpt_data_part_t part = {path_of(f, "a.bin"), tokens, 100000};
    mpt_status_t status = write_limited(f, &part, 1, 1, 50000);
    free(tokens);
    assert_int_equal(status, MPT_ERR_IO);
    assert_non_null(strstr(f->last, "a.bin: File too large"));
    assert_int_equal(files_in_folder(f), 1);
    assert_tokens(f, "a.bin", 10);
}

static void of_two_files_both_appear_or_neither(void **state)
{
    fixture_t *f = *state;
    uint16_t *tokens = calloc(100000, sizeof *tokens);
    assert_non_null(tokens);
    const mpt_data_part_t parts[] = {{path_of(f, "a.bin"), tokens, 100}, {path_of(f, "b.bin"), tokens, 100000}};
    assert_int_equal(write_limited(f, parts, 2, 0, 50000), MPT_ERR_IO);
    assert_int_equal(files_in_folder(f), 0);
    write_counting(f, "b.bin", 0, 10);
    assert_int_equal(mpt_data_write(parts, 2, 0, &f->log), MPT_ERR_CONFIG);
    assert_non_null(strstr(f->last, "b.bin exists already"));
    assert_int_equal(files_in_folder(f), 1);
    assert_tokens(f, "b.bin", 10);
    assert_int_equal(mpt_data_write(parts, 2, 1, &f->log), MPT_OK);
    free(tokens);
    assert_int_equal(files_in_folder(f), 2);
    assert_tokens(f, "a.bin", 100);
    assert_tokens(f, "b.bin", 100000);
}

static void writing_where_nothing_can_be_written_is_an_error(void **state)
{
    fixture_t *f = *state;
    const uint16_t token = 1;
    mpt_data_part_t part = {path_of(f, "none/a.bin"), &token, 1};
    assert_int_equal(mpt_data_write(&part, 1, 1, &f->log), MPT_ERR_IO);
    assert_non_null(strstr(f->last, "none/a.bin: No such file or directory"));
    assert_int_equal(mkdir(path_of(f, "sub"), 0755), 0);
    part.path = path_of(f, "sub");
    assert_int_equal(mpt_data_write(&part, 1, 1, &f->log), MPT_ERR_CONFIG);
    assert_int_equal(files_in_folder(f), 1);
    part = (mpt_data_part_t){path_of(f, "a.bin"), &token, (int64_t)INT32_MAX + 1};
    assert_int_equal(mpt_data_write(&part, 1, 1, &f->log), MPT_ERR_IO);
    assert_int_equal(f->lines, 3);
}

static void a_bare_name_is_written_in_the_working_folder(void **state)
{
    fixture_t *f = *state;
    char before[512];
    const uint16_t tokens[] = {1, 2, 3, 4, 5};
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(f->folder), 0);
    mpt_status_t status = mpt_data_write(&(mpt_data_part_t){"bare.bin", tokens, 5}, 1, 1, &f->log);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(status, MPT_OK);
    mpt_data_close(open_good(f, "bare.bin", 4));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(samples_share_one_token_with_the_next),
        TEST(the_hash_tells_data_apart_not_how_wide_it_is_stored),
        TEST(the_hash_sees_both_ends_of_every_file_of_many),
        TEST(exactly_one_sample_is_enough),
        TEST(sequential_order_repeats_every_epoch),
        TEST(shuffled_epochs_hold_every_sample_once_in_an_order_of_their_own),
        TEST(globs_read_files_by_name_and_no_sample_crosses_them),
        TEST(order_of_files_is_that_of_their_names),
        TEST(a_file_named_like_a_glob_is_that_file),
        TEST(raw_tokens_are_read_in_16_and_32_bits),
        TEST(tokens_beyond_the_vocabulary_name_file_place_and_token),
        TEST(missing_files_and_empty_globs_are_errors),
        TEST(one_bad_file_of_a_glob_is_named),
        TEST(truncated_and_foreign_llm_c_files_are_errors),
        TEST(foreign_files_are_errors),
        TEST(damaged_files_are_refused_or_read_within_bounds),
        TEST(written_files_are_llm_c_files),
        TEST(writing_replaces_a_file_whole),
        TEST(a_full_disk_leaves_the_old_file_and_nothing_aside),
        TEST(of_two_files_both_appear_or_neither),
        TEST(writing_where_nothing_can_be_written_is_an_error),
        TEST(a_bare_name_is_written_in_the_working_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
