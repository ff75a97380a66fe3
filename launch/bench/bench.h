/*
 * What `mpt-ddp bench step` is made of: a folder for its files, measurements of whole training steps (one session
 * alone, or shard modes side by side), and oneDNN's fp32 products as the yardstick; and what it shares with the
 * other benches. All on the calling thread; a result is plain data.
 */
#ifndef MPT_BENCH_H
#define MPT_BENCH_H

#include <sched.h>
#include <stddef.h>
#include "mpt.h"
#include "options.h"

#define MPT_BENCH_MAX_ROWS 32
#define MPT_BENCH_MAX_STEPS 1000

/* GPT-2 124M, as everybody measures it: what runs without a config. */
#define MPT_BENCH_MICRO_BATCH 4
#define MPT_BENCH_CONTEXT 1024
#define MPT_BENCH_VOCAB 50257
#define MPT_BENCH_DIM 768
#define MPT_BENCH_HEADS 12

/* ---- bench/words.c: what command lines have in common ------------------------------------------------ */

/* In this order, whether measured or not. tf32, which is no type of memory or of sums, only where it is asked for. */
enum { MPT_BENCH_BF16, MPT_BENCH_FP32, MPT_BENCH_FP16, MPT_BENCH_TF32, MPT_BENCH_TYPES };

/** Its name. */
const char *mpt_bench_type_name(int type);
/** How many types a list names, commas between; 0: it names something else. */
int mpt_bench_types_count(const char *types);
/** 1 where the list, which may be NULL (all but tf32), names the type. */
int mpt_bench_types_have(const char *types, int type);
/** 1 where a name fits a pattern: a shell's, or a part of the name; NULL: all fit. */
int mpt_bench_fits(const char *name, const char *pattern);
/** Help and mistakes, from rank 0 alone, whoever started this process. @return the exit code. */
int mpt_bench_answer(const mpt_usage_t *usage, mpt_parsed_t parsed, const char *message);

/* ---- bench/place.c: a temporary folder with a token file ------------------------------------------- */

typedef struct mpt_bench_place {
    char dir[64];
    char tokens[96];
} mpt_bench_place_t;

/** Make the folder, and in it `count` tokens drawn below `vocab`. @return MPT_OK; MPT_ERR_IO (logged, nothing left). */
mpt_status_t mpt_bench_place_create(mpt_bench_place_t *place, int64_t count, uint32_t vocab);
/** Remove the folder and all that is in it. */
void mpt_bench_place_destroy(const mpt_bench_place_t *place);

/* ---- bench/config.c: what a measured session is asked to be ------------------------------------------ */

#define MPT_BENCH_CONFIG_BYTES 2048
#define MPT_BENCH_OWN_OVERRIDES 16

/** The config of GPT-2 124M on the place's tokens, `sequences` of MPT_BENCH_CONTEXT a step; `text` has MPT_BENCH_CONFIG_BYTES. */
void mpt_bench_config_write(const mpt_bench_place_t *place, int sequences, char *text);

/* Changes to a config; the later one of a key holds. Not to be copied: items point into it. */
typedef struct mpt_bench_overrides {
    char words[MPT_BENCH_OWN_OVERRIDES][128];
    int word_count;
    const char *items[MPT_OPTION_LIST_MAX + MPT_BENCH_OWN_OVERRIDES];
    int count;
} mpt_bench_overrides_t;

/** Start the list with what every measured session changes: checkpoints would go to `dir`, nothing is saved or validated. The caller ends it
 *  with log.dir, one for each session that is open at a time. `compute` NULL and `threads` 0: the config's own. */
void mpt_bench_overrides_begin(mpt_bench_overrides_t *overrides, const char *dir, const char *compute,
                               int64_t threads);
/** Add one, as printf makes it. */
void mpt_bench_overrides_add(mpt_bench_overrides_t *overrides, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/** Add one that the caller keeps. */
void mpt_bench_overrides_borrow(mpt_bench_overrides_t *overrides, const char *item);

/** Where a session's config comes from: the file at `path`, or where it is NULL `text`, with these changes. */
mpt_config_source_t mpt_bench_config_source(const char *path, const char *text,
                                            const mpt_bench_overrides_t *overrides);
/** Plan, and say nothing: what is wrong the session will say. @return bytes of all ranks; 0: it cannot be planned. */
double mpt_bench_plan(const mpt_config_source_t *config, int ranks, mpt_plan_t *plan_p);

/* ---- bench/measure.c: one session, its steps timed ------------------------------------------------- */

typedef struct mpt_bench_row {
    char op[32];
    double seconds, flops, bytes; /* over all timed steps */
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

/* What runs before each timed step and after the last, on this thread and as many others as the session has. */
typedef struct mpt_bench_aside {
    void (*run)(void *ctx, int threads); /* NULL: nothing */
    void *ctx;
} mpt_bench_aside_t;

/** Open a session of one rank, warm up, time `steps` steps, close it. @return the session's status. */
mpt_status_t mpt_bench_measure(const mpt_config_source_t *config, int steps, mpt_bench_aside_t aside,
                               mpt_bench_result_t *result_p);
/** Steps until one is not skipped, a few at most, so that the next is worth timing. Collective. @return the session's status. */
mpt_status_t mpt_bench_warm_up(mpt_session_t *session);
/** Median of `count` values, which it sorts. */
double mpt_bench_median(double *values, int count);
/** The same of at most MPT_BENCH_MAX_STEPS, which stay as they are. */
double mpt_bench_median_of(const double *values, int count);
/** FLOP/s of the row called `op`; 0: there is none. */
double mpt_bench_row_rate(const mpt_bench_result_t *result, const char *op);
/** Seconds on the monotonic clock. */
double mpt_bench_now(void);

/* ---- bench/copy.c: memory as a limit ------------------------------------------------------------------ */

#define MPT_BENCH_MAX_RUNS 101

/** Bytes read and written a second by one copy of about `bytes`; see mpt_bench_ops_copy. */
double mpt_bench_copy_time(mpt_bench_ops_t *ops, int way, double bytes);
/** The faster way's median of `runs` such rates. */
double mpt_bench_copy_best(double (*copy)[MPT_BENCH_MAX_RUNS], int runs);
/** Of the largest copy: memory's, not a cache's. */
double mpt_bench_copy_rate(mpt_bench_ops_t *ops);
/** The same, with so many threads, where no operation is benched; not finite: it could not be measured (logged). */
double mpt_bench_copy_measure(int threads);

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

typedef struct mpt_bench_report {
    const char *model; /* "GPT-2 124M", or the config's path */
    int threads;
    double peak_flops; /* bf16 products fed from L1, all threads */
    char peak_isa[24];
    double onednn_flops; /* 0: not measured */
    double copy_bytes_per_s; /* memory copied by all threads, read and written: the best of several; not finite: not measured */
    mpt_bench_result_t types[MPT_BENCH_TYPES];
} mpt_bench_report_t;

void mpt_bench_print(const mpt_bench_report_t *report);
void mpt_bench_print_json(const mpt_bench_report_t *report);

/* ---- bench/mode.c: one of the sessions that take turns: a shard mode, a number of ranks ------------- */

typedef struct mpt_bench_mode {
    const char *name;      /* "zero2", "4 ranks" */
    int64_t shard_ranks;   /* hsdp: ranks that share one copy; else 0 */
    mpt_status_t status;   /* not MPT_OK: left out, and why */
    char refusal[512];     /* the same for people */
    int is_first_rank;     /* of the run: it keeps the refusal and says what it does */
    cpu_set_t allowed;      /* cores that this thread may use between visits */
    mpt_session_t *session; /* NULL: not open now */
    cpu_set_t cores;        /* that the open session bound this thread to */
    /* What it is, from the first visit on. Strings of `info` must not be read. */
    mpt_session_info_t info;
    char compute[8], reduce[8], isa[24], comm[8];
    /* What was measured. */
    int steps, skipped;
    double step_s[MPT_BENCH_MAX_STEPS], comm_s[MPT_BENCH_MAX_STEPS], exposed_s[MPT_BENCH_MAX_STEPS];
    uint64_t collectives, bytes_sent; /* of all timed steps together */
} mpt_bench_mode_t;

/**
 * Visit a mode: open its session with these params unless it is open (then warm up), time `steps` steps, close it unless `keep`. A
 * session that the config or the memory refuses is no error: the mode is left out from then on, on every rank. This
 * thread is free to use `allowed` again afterwards. Collective.
 * @return MPT_OK; else the session's status (said by the first rank), it being closed.
 */
mpt_status_t mpt_bench_mode_visit(mpt_bench_mode_t *mode, const mpt_session_params_t *params, int steps,
                                  int keep);
/** Close the session if one is open. Collective. */
void mpt_bench_mode_close(mpt_bench_mode_t *mode);

/* ---- bench/traffic.c: what a step should send ------------------------------------------------------- */

typedef struct mpt_bench_traffic_params {
    const char *mode;
    int ranks;
    int64_t shard_ranks;      /* hsdp */
    int64_t micro_steps;      /* M */
    int64_t padded;           /* N: parameters with their padding, as they travel */
    const char *compute, *reduce; /* types of working weights and of gradients on the wire */
} mpt_bench_traffic_params_t;

/* The formula of a shard mode for one step that reduces once (parallel.reduce_every = step). */
typedef struct mpt_bench_traffic {
    char elements[48]; /* on the wire: "2N" */
    int is_bound;      /* at most so much: a unit that stays gathered is not gathered again */
    double bytes;      /* that one rank sends for them, and for its consensus record */
} mpt_bench_traffic_t;

/** The formula's figures. Pure. */
void mpt_bench_traffic(const mpt_bench_traffic_params_t *params, mpt_bench_traffic_t *traffic_p);

/* ---- bench/shards.c: modes side by side --------------------------------------------------------------- */

#define MPT_BENCH_MODES 5

typedef struct mpt_bench_shards_params {
    const char *config_path; /* NULL: GPT-2 124M */
    const char *modes;       /* "ddp,zero1", checked */
    const char *compute;     /* NULL: the config's own */
    const mpt_option_list_t *overrides;
    int64_t steps;           /* of each mode; 0: a few */
    int64_t threads;         /* 0: the config's */
    int as_json;
} mpt_bench_shards_params_t;

/** 1 where `modes` names shard modes, each once, with commas between. */
int mpt_bench_shards_known(const char *modes);
/** Measure them on all ranks that mpirun started, or on this one; rank 0 prints. Collective. @return the exit code. */
int mpt_bench_shards(const mpt_bench_shards_params_t *params);

/* ---- bench/shards_show.c -------------------------------------------------------------------------------- */

/* What rank 0 knows after the run. */
typedef struct mpt_bench_side_by_side {
    const char *model;
    int steps, kept_open; /* timed steps of each mode; sessions stayed open from round to round */
    mpt_bench_mode_t *modes;
    const mpt_plan_t *plans; /* of each mode */
    int mode_count;
} mpt_bench_side_by_side_t;

void mpt_bench_shards_print(const mpt_bench_side_by_side_t *report);
void mpt_bench_shards_print_json(const mpt_bench_side_by_side_t *report);

#endif
