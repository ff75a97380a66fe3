/*
 * The configuration: one table of typed options (config_table.c) is the only place that knows a key, its type, default,
 * range and help. Parsed by libConfuse from text; unknown keys, wrong types, repeated keys or sections are errors
 * that name file, line and the nearest known key. This is the only module that reads the environment. Plain values,
 * owned by the caller; every function may be called by several threads at once.
 */
#ifndef MPT_CONFIG_H
#define MPT_CONFIG_H

#include <stdint.h>
#include <stdio.h>
#include "log.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_CONFIG_MAX_PATH 1024

typedef enum mpt_order { MPT_ORDER_SHUFFLED, MPT_ORDER_SEQUENTIAL } mpt_order_t;
typedef enum mpt_schedule_kind {
    MPT_SCHEDULE_COSINE,
    MPT_SCHEDULE_LINEAR,
    MPT_SCHEDULE_CONSTANT,
    MPT_SCHEDULE_WSD /* warm-up, stable, decay: linear to min_lr over the last fifth */
} mpt_schedule_kind_t;
typedef enum mpt_shard {
    MPT_SHARD_DDP,
    MPT_SHARD_ZERO1,
    MPT_SHARD_ZERO2,
    MPT_SHARD_ZERO3,
    MPT_SHARD_HSDP
} mpt_shard_t;
typedef enum mpt_recompute { MPT_RECOMPUTE_NONE, MPT_RECOMPUTE_BLOCK, MPT_RECOMPUTE_ATTENTION } mpt_recompute_t;
typedef enum mpt_reproducible { MPT_REPRODUCIBLE_OFF, MPT_REPRODUCIBLE_RUN, MPT_REPRODUCIBLE_WORLD } mpt_reproducible_t;
typedef enum mpt_device_kind { MPT_DEVICE_AUTO, MPT_DEVICE_CPU, MPT_DEVICE_CUDA } mpt_device_kind_t;
typedef enum mpt_rounding { MPT_ROUNDING_NEAREST, MPT_ROUNDING_STOCHASTIC } mpt_rounding_t;
typedef enum mpt_overlap_kind { MPT_OVERLAP_AUTO, MPT_OVERLAP_ON, MPT_OVERLAP_OFF } mpt_overlap_kind_t;
typedef enum mpt_reduce_every { MPT_REDUCE_EVERY_STEP, MPT_REDUCE_EVERY_MICRO } mpt_reduce_every_t;

/* Every value is resolved and checked: "auto" has been replaced where it can be from the config alone. */
typedef struct mpt_config {
    mpt_device_kind_t device;
    int threads;
    struct {
        char arch[16]; /* "gpt2" */
        int64_t layers, heads, dim, context, vocab;
        char init[MPT_CONFIG_MAX_PATH];
    } model;
    struct {
        char train[MPT_CONFIG_MAX_PATH], val[MPT_CONFIG_MAX_PATH];
        mpt_order_t order;
        int64_t sequence; /* resolved: never 0 */
    } data;
    struct {
        int64_t steps, global_batch, micro_batch;
        uint64_t seed;
        double lr;
        int64_t warmup;
        mpt_schedule_kind_t schedule;
        double min_lr, weight_decay, beta1, beta2, eps, clip;
        int64_t val_every, val_batches;
        double ema;
        mpt_recompute_t recompute;
        int pack_weights; /* 1: auto */
        int64_t check_every;
        mpt_reproducible_t reproducible;
        int64_t lanes;
    } train;
    struct {
        mpt_dtype_t compute, accumulate;
        mpt_dtype_t reduce; /* resolved */
        mpt_rounding_t rounding;
        int master_fp32;
        int dynamic_scale;  /* resolved: 1 dynamic, 0 fixed */
        double fixed_scale; /* where fixed: a power of two, 1 where no scaling */
        double init_scale, growth, backoff;
        int64_t growth_interval, hysteresis;
        double min_scale, max_scale;
        int64_t max_skips;
    } precision;
    struct {
        mpt_shard_t shard;
        int64_t shard_ranks;
        mpt_reduce_every_t reduce_every;
    } parallel;
    struct {
        double timeout_s, heartbeat_s;
        mpt_overlap_kind_t overlap;
    } comm;
    struct {
        char dir[MPT_CONFIG_MAX_PATH];
        int64_t every, keep;
        int async;
    } checkpoint;
    struct {
        char dir[MPT_CONFIG_MAX_PATH];
        int64_t every;
    } log;
} mpt_config_t;

/**
 * Parse `text` (NUL-terminated; `name` is what messages call it) and then `overrides`, "section.key=value" each (a top-level key has no
 * section), which each change one key; of two for the same key the later holds. Values are checked one by one, against each
 * other, and against what is built. In `text` only '#' starts a comment, and quotes are needed only round values that hold
 * blanks or any of ={}(),;#; nothing in them is replaced.
 * @return MPT_OK; MPT_ERR_CONFIG (logged in one line: file:line, key, what is wrong, what would be right) or
 * MPT_ERR_NO_MEMORY, *config_p untouched.
 */
mpt_status_t mpt_config_parse(const char *text, const char *name, const char *const *overrides,
                              int override_count, const mpt_log_t *log, mpt_config_t *config_p);
/** All defaults, resolved, except data.train, which is empty. */
void mpt_config_defaults(mpt_config_t *config_p);
/** Checks that need the number of ranks: global_batch divides into micro_batch x ranks. @return MPT_OK; MPT_ERR_CONFIG (logged). */
mpt_status_t mpt_config_check_ranks(const mpt_config_t *config, int ranks, const mpt_log_t *log);
/** Write docs/config.md: every key and every environment variable, from their tables. */
void mpt_config_write_markdown(FILE *out);

/* The environment, read here alone. */
typedef struct mpt_environment {
    char isa_cap[24]; /* MPT_ISA: highest instruction level to use; empty: no cap */
    char comm[16];    /* MPT_COMM: "self", "mpi", "shm", "hier"; empty: choose */
    char kernels[16]; /* MPT_KERNELS: "cpu", "ref"; empty: cpu */
    char inject[160]; /* MPT_INJECT: fault injection for tests: see inject.h */
    char memory[24];  /* MPT_MEMORY: bytes that a rank's arenas may take, with K, M, G or T; empty: no cap */
    char log_level[16]; /* MPT_LOG: error, warn, info, debug */
} mpt_environment_t;
/** Read them. A value too long for its field is cut, and then refused as unknown by the module that it is for. */
void mpt_environment_read(mpt_environment_t *environment_p);
/** 1 where a launcher (mpirun, srun) started this process as one of several ranks, by the variables that it sets. */
int mpt_environment_launched_by_mpi(void);

#ifdef __cplusplus
}
#endif
#endif
