/*
 * What `mpt-ddp bench step` is made of: a folder for its files, one measurement of whole training steps, and
 * oneDNN's fp32 products as the yardstick. All on the calling thread; a result is plain data.
 */
#ifndef MPT_BENCH_H
#define MPT_BENCH_H

#include <stddef.h>
#include "mpt.h"

#define MPT_BENCH_MAX_ROWS 32

/* ---- bench/place.c: a temporary folder with a token file ------------------------------------------- */

typedef struct mpt_bench_place {
    char dir[64];
    char tokens[96];
} mpt_bench_place_t;

/** Make the folder, and in it `count` tokens drawn below `vocab`. @return MPT_OK; MPT_ERR_IO (logged, nothing left). */
mpt_status_t mpt_bench_place_create(mpt_bench_place_t *place, int64_t count, uint32_t vocab);
/** Remove the folder and all that is in it. */
void mpt_bench_place_destroy(const mpt_bench_place_t *place);

/* ---- bench/measure.c: one session, its steps timed ------------------------------------------------- */

typedef struct mpt_bench_row {
    char op[32];
    double seconds, flops; /* over all timed steps */
    int64_t calls;
} mpt_bench_row_t;

typedef struct mpt_bench_result {
    int measured;
    char compute[8], isa[24];
    int threads, steps, skipped; /* timed steps; of them skipped */
    int64_t parameters, tokens_per_step, planned_bytes, used_bytes; /* used: -1 where not known */
    double step_s, tokens_per_s;                                    /* the median step */
    double flops_6nd_per_s, flops_model_per_s, flops_causal_per_s, peak_flops;
    double loss;
    mpt_bench_row_t rows[MPT_BENCH_MAX_ROWS];
    int row_count;
} mpt_bench_result_t;

/** Open a session of one rank, warm up, time `steps` steps, close it. @return the session's status. */
mpt_status_t mpt_bench_measure(const mpt_config_source_t *config, int steps,
                               mpt_bench_result_t *result_p);
/** FLOP/s of the row called `op`; 0: there is none. */
double mpt_bench_row_rate(const mpt_bench_result_t *result, const char *op);
/** Seconds on the monotonic clock. */
double mpt_bench_now(void);

/* ---- bench/onednn.c: the yardstick ------------------------------------------------------------------ */

/** `count` linear layers of [inputs] -> [outputs], each over `rows` rows. */
typedef struct mpt_bench_linear {
    int64_t rows, inputs, outputs, count;
} mpt_bench_linear_t;

/**
 * FLOP/s of oneDNN's fp32 over the layers' forward products and both gradients' together, with `threads`
 * threads; of its matmul primitive and its sgemm the faster one counts for each product.
 * @return 0: this oneDNN does not run on OpenMP threads, whose number could be set, or has failed (logged).
 */
double mpt_bench_onednn_fp32(const mpt_bench_linear_t *layers, int layer_count, int threads);

/* ---- bench/show.c: results for people and programs --------------------------------------------------- */

/* bf16, fp32, fp16 in this order, whether measured or not. */
enum { MPT_BENCH_BF16, MPT_BENCH_FP32, MPT_BENCH_FP16, MPT_BENCH_TYPES };

typedef struct mpt_bench_report {
    const char *model; /* "GPT-2 124M", or the config's path */
    int threads;
    double peak_flops; /* bf16 products fed from L1, all threads */
    char peak_isa[24];
    double onednn_flops; /* 0: not measured */
    mpt_bench_result_t types[MPT_BENCH_TYPES];
} mpt_bench_report_t;

void mpt_bench_print(const mpt_bench_report_t *report);
void mpt_bench_print_json(const mpt_bench_report_t *report);

#endif
