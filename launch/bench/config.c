#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include "bench.h"

void mpt_bench_config_write(const mpt_bench_place_t *place, int sequences, char *text)
{
    snprintf(text, MPT_BENCH_CONFIG_BYTES,
             "model {\n layers = 12\n heads = 12\n dim = 768\n context = %d\n vocab = %d\n}\n"
             "data {\n train = \"%s\"\n}\n"
             "train {\n steps = 100000\n global_batch = %d\n micro_batch = %d\n}\n",
             MPT_BENCH_CONTEXT, MPT_BENCH_VOCAB, place->tokens, sequences, MPT_BENCH_MICRO_BATCH);
}

void mpt_bench_overrides_borrow(mpt_bench_overrides_t *overrides, const char *item)
{
    assert(overrides->count < (int)(sizeof overrides->items / sizeof *overrides->items));
    overrides->items[overrides->count++] = item;
}

void mpt_bench_overrides_add(mpt_bench_overrides_t *overrides, const char *format, ...)
{
    assert(overrides->word_count < MPT_BENCH_OWN_OVERRIDES);
    char *word = overrides->words[overrides->word_count++];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(word, sizeof(overrides->words[0]), format, arguments);
    va_end(arguments);
    mpt_bench_overrides_borrow(overrides, word);
}

void mpt_bench_overrides_begin(mpt_bench_overrides_t *overrides, const char *dir,
                               const char *compute, int64_t threads)
{
    overrides->count = overrides->word_count = 0;
    mpt_bench_overrides_borrow(overrides, "checkpoint.every=0");
    mpt_bench_overrides_borrow(overrides, "train.val_every=0");
    mpt_bench_overrides_add(overrides, "checkpoint.dir=%s", dir);
    if (compute)
        mpt_bench_overrides_add(overrides, "precision.compute=%s", compute);
    if (threads > 0)
        mpt_bench_overrides_add(overrides, "threads=%lld", (long long)threads);
}

mpt_config_source_t mpt_bench_config_source(const char *path, const char *text,
                                            const mpt_bench_overrides_t *overrides)
{
    return (mpt_config_source_t){.text = path ? NULL : text,
                                 .path = path ? path : "bench",
                                 .overrides = overrides->items,
                                 .override_count = overrides->count};
}

static void drop_line(void *ctx, mpt_log_severity_t severity, const char *line)
{
    (void)ctx;
    (void)severity;
    (void)line;
}

double mpt_bench_plan(const mpt_config_source_t *config, int ranks, mpt_plan_t *plan_p)
{
    mpt_status_t status = mpt_plan(config, ranks, plan_p, drop_line, NULL);
    return status == MPT_OK ? (double)plan_p->bytes * ranks : 0;
}
