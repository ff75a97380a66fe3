#include "save_meta.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { COUNT, FLAG, WHOLE, SCALE, WORD } kind_t; /* WHOLE: any 64 bits */

typedef struct row {
    const char *key;
    mpt_save_part_t part;
    kind_t kind;
    size_t at;
} row_t;

#define AT(member) offsetof(mpt_save_meta_t, member)
#define WORD_BYTES 16
#define MOST ((uint64_t)1 << 62) /* of any count: as many tokens as a config may ask for */
/* Of a scale: the config's, which knows powers of two alone. */
#define SMALLEST_SCALE 0x1p-24
#define LARGEST_SCALE 0x1p64

static const row_t rows[] = {
    {"arch", MPT_META_MODEL, WORD, AT(arch)},
    {"layers", MPT_META_MODEL, COUNT, AT(layers)},
    {"heads", MPT_META_MODEL, COUNT, AT(heads)},
    {"dim", MPT_META_MODEL, COUNT, AT(dim)},
    {"context", MPT_META_MODEL, COUNT, AT(context)},
    {"vocab", MPT_META_MODEL, COUNT, AT(vocab)},
    {"parameters", MPT_META_MODEL, COUNT, AT(parameters)},
    {"compute", MPT_META_MODEL, WORD, AT(compute)},
    {"shard", MPT_META_SAVED, WORD, AT(shard)},
    {"masters", MPT_META_SAVED, FLAG, AT(masters)},
    {"seed", MPT_META_ORDER, WHOLE, AT(seed)},
    {"global_batch", MPT_META_ORDER, COUNT, AT(global_batch)},
    {"sequence", MPT_META_ORDER, COUNT, AT(sequence)},
    {"order", MPT_META_ORDER, WORD, AT(order)},
    {"micro_batch", MPT_META_ORDER, COUNT, AT(micro_batch)},
    {"lanes", MPT_META_ORDER, COUNT, AT(lanes)},
    {"samples", MPT_META_ORDER, COUNT, AT(samples)},
    {"data_tokens", MPT_META_ORDER, COUNT, AT(data_tokens)},
    {"data_hash", MPT_META_ORDER, WHOLE, AT(data_hash)},
    {"applied", MPT_META_PROGRESS, COUNT, AT(applied)},
    {"position", MPT_META_PROGRESS, COUNT, AT(position)},
    {"tokens", MPT_META_PROGRESS, COUNT, AT(tokens)},
    {"rounded", MPT_META_PROGRESS, COUNT, AT(rounded)},
    {"scale", MPT_META_PROGRESS, SCALE, AT(scale)},
    {"scale_dynamic", MPT_META_PROGRESS, FLAG, AT(scale_dynamic)},
    {"scale_clean", MPT_META_PROGRESS, COUNT, AT(scale_clean)},
    {"scale_hits", MPT_META_PROGRESS, COUNT, AT(scale_hits)},
    {"consecutive_skips", MPT_META_PROGRESS, COUNT, AT(consecutive_skips)},
};
#define ROWS ((int)(sizeof rows / sizeof *rows))

_Static_assert(sizeof rows / sizeof *rows <= 32, "a bit for each");

int mpt_save_meta_rows(void)
{
    return ROWS;
}

const char *mpt_save_meta_key(int row)
{
    return rows[row].key;
}

mpt_save_part_t mpt_save_meta_part(int row)
{
    return rows[row].part;
}

static int set_whole(void *field, kind_t kind, const char *text)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10), most = kind == WHOLE ? UINT64_MAX : kind == FLAG ? 1 : MOST;
    if (!isdigit((unsigned char)text[0]) || errno != 0 || *end != '\0' || value > most)
        return 0;
    memcpy(field, &value, sizeof value);
    return 1;
}

static int set_scale(void *field, const char *text)
{
    char *end;
    int exponent;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= SMALLEST_SCALE && value <= LARGEST_SCALE) ||
        frexp(value, &exponent) != 0.5)
        return 0;
    memcpy(field, &value, sizeof value);
    return 1;
}

static int set_word(char *field, const char *text)
{
    size_t length = strlen(text);
    if (length == 0 || length >= WORD_BYTES)
        return 0;
    for (size_t i = 0; i < length; i++)
        if (!isgraph((unsigned char)text[i]))
            return 0;
    memcpy(field, text, length + 1);
    return 1;
}

int mpt_save_meta_set(mpt_save_meta_t *meta, int row, const char *text)
{
    void *field = (char *)meta + rows[row].at;
    int done = rows[row].kind == WORD    ? set_word(field, text)
               : rows[row].kind == SCALE ? set_scale(field, text)
                                         : set_whole(field, rows[row].kind, text);
    if (done)
        meta->known |= 1u << row;
    return done;
}

int mpt_save_meta_count(const char *text, int64_t *count_p)
{
    return set_whole(count_p, COUNT, text);
}

int mpt_save_meta_known(const mpt_save_meta_t *meta, const char *key)
{
    for (int i = 0; i < ROWS; i++)
        if (strcmp(rows[i].key, key) == 0)
            return (int)(meta->known >> i & 1u);
    return 0;
}

void mpt_save_meta_mark(mpt_save_meta_t *meta, mpt_save_part_t part, int known)
{
    for (int i = 0; i < ROWS; i++) {
        if (rows[i].part != part)
            continue;
        meta->known &= ~(1u << i);
        meta->known |= (uint32_t)!!known << i;
    }
}

static int print_row(const row_t *row, const mpt_save_meta_t *meta, char *out, size_t bytes)
{
    const void *field = (const char *)meta + row->at;
    switch (row->kind) {
    case WORD:
        return snprintf(out, bytes, "%s = %s\n", row->key, (const char *)field);
    case SCALE:
        return snprintf(out, bytes, "%s = %a\n", row->key, *(const double *)field);
    case WHOLE:
        return snprintf(out, bytes, "%s = %" PRIu64 "\n", row->key, *(const uint64_t *)field);
    default:
        return snprintf(out, bytes, "%s = %" PRId64 "\n", row->key, *(const int64_t *)field);
    }
}

void mpt_save_meta_write(const mpt_save_meta_t *meta, char *out, size_t bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < ROWS && used < bytes; i++)
        if (meta->known >> i & 1u)
            used += (size_t)print_row(&rows[i], meta, out + used, bytes - used);
}

void mpt_save_meta_read(const char *text, mpt_save_meta_t *meta_p)
{
    char value[64];
    *meta_p = (mpt_save_meta_t){0};
    for (int i = 0; i < ROWS; i++)
        if (mpt_checkpoint_get(text, rows[i].key, value, sizeof value))
            mpt_save_meta_set(meta_p, i, value);
}

/* Older checkpoints lack it, and it serves people, or is zero for them. */
static int is_newer(const char *key)
{
    return strcmp(key, "arch") == 0 || strcmp(key, "parameters") == 0 || strcmp(key, "rounded") == 0;
}

static mpt_status_t refuse(const mpt_checkpoint_meta_t *from, const mpt_log_t *log, const char *key, const char *value)
{
    mpt_log_error(log, "%s/meta: %s = %s: no such value can be; the file is damaged", from->path, key, value);
    return MPT_ERR_CHECKPOINT;
}

mpt_status_t mpt_save_meta_require(const mpt_checkpoint_meta_t *from, mpt_save_part_t part, const mpt_log_t *log,
                                   mpt_save_meta_t *meta_p)
{
    char value[64];
    int64_t step;
    mpt_save_meta_t meta = {0};
    for (int i = 0; i < ROWS; i++) {
        if (rows[i].part != part)
            continue;
        int found = mpt_checkpoint_get(from->text, rows[i].key, value, sizeof value);
        if (found && !mpt_save_meta_set(&meta, i, value))
            return refuse(from, log, rows[i].key, value);
        if (!found && !is_newer(rows[i].key)) {
            mpt_log_error(log, "%s/meta: lacks \"%s\", which a run needs; the file is damaged", from->path, rows[i].key);
            return MPT_ERR_CHECKPOINT;
        }
    }
    if (part == MPT_META_PROGRESS && mpt_checkpoint_get(from->text, "step", value, sizeof value) &&
        !mpt_save_meta_count(value, &step))
        return refuse(from, log, "step", value);
    *meta_p = meta;
    return MPT_OK;
}
