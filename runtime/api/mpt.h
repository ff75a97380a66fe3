/*
 * mpt-ddp's public interface: train a transformer over several ranks, from a scheduler, a trainer or
 * the program `mpt-ddp`.
 *
 * A session is one rank of one run: it owns its device, memory, communicator, model and data. There
 * are no process globals: N sessions on N threads of one process can be N ranks. A session is used by
 * one thread at a time, except mpt_session_request_stop, which any thread or signal handler may call.
 *
 * Functions marked collective must be called by every rank of the run in the same order. Errors are logged
 * once, by the rank that found them, through the session's sink; a failure on one rank is learnt by all of
 * them, which return together with the worst status.
 */
#ifndef MPT_H
#define MPT_H

#include <stddef.h>
#include <stdint.h>
#include "mpt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_session mpt_session_t;
typedef struct mpt_boot mpt_boot_t;

/** "0.1.0" */
MPT_API const char *mpt_version(void);

/* ---- who the ranks are (MPI: see mpt_mpi.h) -------------------------------------------------- */

/** One rank alone. @return MPT_OK; MPT_ERR_NO_MEMORY. Destroy with mpt_boot_destroy. */
MPT_API mpt_status_t mpt_boot_self_create(mpt_boot_t **boot_p);
/** `ranks` boots, for `ranks` threads of this process. @return as above. */
MPT_API mpt_status_t mpt_boot_threads_create(int ranks, mpt_boot_t **boots_p);
/** NULL is allowed. After the session that borrowed it. */
MPT_API void mpt_boot_destroy(mpt_boot_t *boot);

/* ---- sessions ------------------------------------------------------------------------------------- */

typedef enum mpt_log_severity { MPT_SEVERITY_ERROR, MPT_SEVERITY_WARN, MPT_SEVERITY_INFO, MPT_SEVERITY_DEBUG } mpt_log_severity_t;

/** Where a config comes from. Only rank 0's text is read, its bytes are sent to the others; every rank applies its own overrides. */
typedef struct mpt_config_source {
    const char *text;             /* the config itself, or NULL: read from `path` */
    const char *path;             /* file to read, and what messages call it */
    const char *const *overrides; /* "section.key=value" */
    int override_count;
} mpt_config_source_t;

typedef struct mpt_session_params {
    mpt_boot_t *boot; /* borrowed; NULL: one rank alone */
    mpt_config_source_t config;
    const char *resume; /* NULL: start afresh (refused over existing checkpoints); "auto": the newest, or afresh; else a checkpoint folder, or a folder of them:
                           its newest; refused where checkpoint.dir holds checkpoints and this is none of them */
    int fresh_over;     /* 1: do not refuse to start afresh where checkpoints lie (bench) */
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line); /* NULL: standard error */
    void *log_ctx;
} mpt_session_params_t;

/**
 * Open a session: parse, plan, allocate, connect, load or draw the weights. Collective. checkpoint.dir is this session's alone until it is closed;
 * another's is refused (MPT_ERR_CONFIG), and so is metrics.jsonl in log.dir. With checkpoint.every = 0 and without `resume` the former is so from
 * the first save on.
 * @return MPT_OK; MPT_ERR_CONFIG, MPT_ERR_DATA, MPT_ERR_CHECKPOINT, MPT_ERR_NO_MEMORY, MPT_ERR_COMM: all ranks return the worst.
 */
MPT_API mpt_status_t mpt_session_open(const mpt_session_params_t *params, mpt_session_t **session_p);
/** Wait for a save in flight, free everything; NULL is allowed. Collective unless the session failed. */
MPT_API void mpt_session_close(mpt_session_t *session);

/** What a session is, fixed when it opened. Strings live as long as the session. */
typedef struct mpt_session_info {
    int rank, ranks, threads;      /* threads of this rank */
    const char *device, *kernels, *isa, *comm; /* "cpu", "cpu", "amx", "shm" */
    int overlap;                   /* 1: communication runs beside compute, on a thread of its own */
    const char *compute;           /* "bf16" */
    const char *reduce;            /* gradient wire type */
    int64_t parameters;            /* N, unpadded */
    int64_t steps;                 /* configured */
    int64_t first_step;            /* 1, or one past the resumed step */
    int64_t tokens_per_step;
    int64_t log_every;             /* of log.every: lines for people; 0: none */
    double flops_6nd_per_token, flops_model_per_token, flops_causal_per_token;
    double peak_flops;             /* matrix peak of all ranks' threads together, compute type, measured at open */
    int64_t planned_bytes;         /* of this rank by the plan: arenas, and what communicators allocate themselves */
    int64_t held_bytes;            /* what these hold: the same */
    const char *checkpoint_dir, *log_dir, *metrics_path;
} mpt_session_info_t;
MPT_API void mpt_session_info(const mpt_session_t *session, mpt_session_info_t *info_p);

/** One training step, as every rank knows it after the consensus; timings are this rank's. */
typedef struct mpt_step_result {
    int64_t step;  /* from 1 */
    double loss;   /* nats per token, over all ranks, before the update */
    double lr;     /* applied, or that would have been */
    double grad_norm; /* unscaled, before the clip */
    int clipped, skipped;
    double loss_scale; /* that this step used */
    int64_t tokens;    /* since step 1 */
    /* comm_ms: reductions, gathers, votes or the exchange of records were under way or waited for, since the last step's figures: what goes on
     * between two steps, validation's included, counts to the second. exposed_comm_ms: in this step this rank waited for them or made them itself, a
     * part of comm_ms; compute_ms: the rest of step_ms. */
    double tokens_per_s, step_ms, compute_ms, comm_ms, exposed_comm_ms;
    double flops_6nd_per_s, flops_model_per_s, flops_causal_per_s, mfu;
    int64_t mem_bytes; /* what this rank holds of what was planned: all of it */
    int64_t applied_steps; /* optimizer steps so far */
    double seconds_left;   /* at the recent pace; negative: not known */
} mpt_step_result_t;

/** Something worth a line of its own: kind is "skip", "scale", "checkpoint", "checkpoint_failed", "resume", "validation", "stop". */
typedef struct mpt_notice {
    int64_t step;
    const char *kind;
    const char *text; /* one sentence for a person */
    double val_loss;  /* kind "validation" */
} mpt_notice_t;

typedef struct mpt_train_hooks {
    void *ctx;
    void (*on_step)(void *ctx, const mpt_step_result_t *result);
    void (*on_notice)(void *ctx, const mpt_notice_t *notice);
} mpt_train_hooks_t;

/**
 * Run the configured steps, with validation, checkpoints and metrics; hooks may be NULL. Collective.
 * @return MPT_OK: finished (at once, if it was already); MPT_STOPPED: stopped on request, saved; MPT_ERR_DIVERGED; MPT_ERR_DATA; MPT_ERR_COMM.
 */
MPT_API mpt_status_t mpt_session_train(mpt_session_t *session, const mpt_train_hooks_t *hooks);
/** One training step and nothing else: no validation, no checkpoint, no metrics. Collective. */
MPT_API mpt_status_t mpt_session_step(mpt_session_t *session, mpt_step_result_t *result_p);
/** Mean loss over train.val_batches global batches of data.val, the same sequences for any number of ranks. Collective. */
MPT_API mpt_status_t mpt_session_validate(mpt_session_t *session, double *loss_p);
/** Save now and wait. Collective. @return MPT_OK; MPT_ERR_IO: not saved, older checkpoints whole. */
MPT_API mpt_status_t mpt_session_save(mpt_session_t *session);
/** Ask the run to save and stop after this step, on every rank. Safe in a signal handler and from any thread. */
MPT_API void mpt_session_request_stop(mpt_session_t *session);

/** Where the last steps' time went, by operation, since open or the last reset. */
typedef struct mpt_profile_row {
    const char *op; /* "linear", "attention", ... */
    double seconds;
    double flops; /* arithmetic of matrix products; 0 elsewhere */
    double bytes; /* of passes over memory: arrays read once and written once, those added to twice; 0 where there are flops */
    int64_t calls;
} mpt_profile_row_t;
/** Fill at most `capacity` rows; returns their number. reset: start again from zero. */
MPT_API int mpt_session_profile(mpt_session_t *session, mpt_profile_row_t *rows, int capacity, int reset);
/** What a session's collectives have cost since it opened, what is still under way included. */
typedef struct mpt_traffic {
    uint64_t collectives; /* calls */
    uint64_t bytes_sent;  /* that this rank contributed to others, by the textbook volume of each collective */
    double seconds;         /* of communication: from one step's end to another's the sum of the comm_ms between */
    double exposed_seconds; /* as exposed_comm_ms, but between steps too */
} mpt_traffic_t;
/** Waits for what is under way. Collective where the last step's gathers are. */
MPT_API void mpt_session_traffic(const mpt_session_t *session, mpt_traffic_t *traffic_p);
/** Copy of parameter tensor `name` ("wte.weight", "h.0.attn.c_attn.weight" ...), FP32, at most `capacity` elements; kind: "master", "m", "v", "ema", "working",
 *  "accumulator" or "grad" (reduced and still scaled, as of the last step). Collective where ranks hold slices of it. Returns the element count, or -1: no such tensor, or
 *  this run does not hold such a thing. For tests and inspection. */
MPT_API int64_t mpt_session_tensor(mpt_session_t *session, const char *name, const char *kind, float *out, int64_t capacity);

/* ---- text ----------------------------------------------------------------------------------------- */

typedef struct mpt_sample_params {
    const char *prompt;  /* NULL or empty: a line break */
    int64_t tokens;      /* to generate */
    double temperature;  /* 0: the likeliest token */
    int64_t top_k;       /* 0: all */
    uint64_t seed;
    int ema;             /* 1: from the moving average of the weights, which the checkpoint must hold */
    void (*emit)(void *ctx, const char *text, size_t bytes); /* called as text appears */
    void *ctx;
} mpt_sample_params_t;

/** Generate text from the session's working weights. Collective where these are sharded (zero3, hsdp), with the same params on every rank; else local.
 *  @return MPT_OK; MPT_ERR_CONFIG: no tokeniser for this vocabulary (bytes, 256, is the one there is), or `ema`, which is sampled from checkpoints. */
MPT_API mpt_status_t mpt_session_sample(mpt_session_t *session, const mpt_sample_params_t *params);
/** The same from a checkpoint folder (a run's folder: its newest), or an llm.c model file; one rank. `log` as in mpt_session_params_t.
 *  @return as above; MPT_ERR_CHECKPOINT: cannot be used, or `ema` and it holds none. */
MPT_API mpt_status_t mpt_sample(const char *checkpoint, const mpt_sample_params_t *params,
                                void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx);

typedef struct mpt_tokenize_params {
    const char *text_path;  /* input */
    const char *train_path; /* output, llm.c token file */
    const char *val_path;   /* output, or NULL: no split */
    double val_fraction;    /* of the text's end, e.g. 0.05 */
    const char *tokenizer;  /* "bytes" */
    int force;              /* 1: replace outputs that exist */
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line);
    void *log_ctx;
} mpt_tokenize_params_t;
/** Text file to token files, both or none. Counts of tokens written come back. @return MPT_OK; MPT_ERR_CONFIG: an output exists, and no
 *  `force`, or is no regular file ..; MPT_ERR_DATA; MPT_ERR_IO. */
MPT_API mpt_status_t mpt_tokenize(const mpt_tokenize_params_t *params, int64_t *train_tokens_p, int64_t *val_tokens_p);

/* ---- plan ------------------------------------------------------------------------------------------ */

#define MPT_PLAN_MAX_ROWS 16

typedef struct mpt_plan {
    int64_t parameters, padded_parameters;
    int ranks, threads;
    const char *compute, *reduce, *shard, *isa;
    int64_t tokens_per_step, micro_steps;
    struct { const char *use; int64_t bytes; } memory[MPT_PLAN_MAX_ROWS]; /* per rank */
    int memory_rows;
    int64_t bytes;       /* per rank: the sum; arenas and communicators hold exactly this */
    const char *comm;    /* assumed: MPT_COMM, else "self" for one rank and "shm" for several */
    int hosts;           /* assumed: 1; "hier": as few as can be; 0, "mpi": any number, it makes no difference */
    struct { const char *op, *input, *math, *accumulate, *output, *gradient; } precision[MPT_PLAN_MAX_ROWS]; /* type names; gradient: of parameters, "-" where it has none */
    int precision_rows;
    double flops_6nd_per_token, flops_model_per_token, flops_causal_per_token;
    double chinchilla_tokens; /* 20 N: compute-optimal tokens by Hoffmann et al. 2022's rule of thumb */
    int64_t micro_batch; /* sequences that a rank computes at once */
    int64_t reductions;  /* of each unit's gradients in a step: 1, or micro_steps under reduce_every = micro */
    int shard_ranks;     /* ranks that share one copy: 1 in ddp, all in zero1 to zero3, parallel.shard_ranks in hsdp */
} mpt_plan_t;

/** Read a config's file, for whoever asks several things of one text: mpt_config_source_t's `text`. Free it with free().
 *  @return MPT_OK; MPT_ERR_CONFIG: cannot be read, larger than 1 MiB, or no text; MPT_ERR_NO_MEMORY; both logged. */
MPT_API mpt_status_t mpt_config_read(const char *path, char **text_p,
                                     void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx);
/** Compute the plan from the config, for `ranks` ranks; allocates nothing lasting. Bytes depend on this machine too: its instruction level,
 *  capped by MPT_ISA, and where `threads` is 0 its share of threads. */
MPT_API mpt_status_t mpt_plan(const mpt_config_source_t *config, int ranks, mpt_plan_t *plan_p,
                              void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx);

/* ---- checkpoints ----------------------------------------------------------------------------------- */

typedef struct mpt_checkpoint_info {
    char path[1400];
    int64_t step, applied_steps, tokens;
    int saved_ranks;
    char shard[16];   /* "zero2": how it was saved; empty: not known */
    char kinds[32];   /* what it holds of each parameter, FP32: "master, m, v, ema" */
    double loss_scale;
    int dynamic_scale;
    int64_t layers, heads, dim, context, vocab, parameters;
    int64_t bytes;
    char compute[16];
} mpt_checkpoint_info_t;

/** Describe a checkpoint folder, or the newest of a run's folder. @return MPT_OK; MPT_ERR_CHECKPOINT. */
MPT_API mpt_status_t mpt_checkpoint_info(const char *path, mpt_checkpoint_info_t *info_p,
                                         void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx);
/** Verify every byte. @return MPT_OK; MPT_ERR_CHECKPOINT (logged: file, offset, what). */
MPT_API mpt_status_t mpt_checkpoint_fsck(const char *path,
                                         void (*log)(void *ctx, mpt_log_severity_t severity, const char *line), void *log_ctx);

typedef struct mpt_checkpoint_export_params {
    const char *checkpoint; /* a checkpoint folder, or a run's folder: its newest */
    const char *out;        /* model file to write */
    const char *format;     /* "llmc", "safetensors"; NULL: by out's name, .bin or .safetensors */
    const char *weights;    /* "master", "ema": these and nothing else; NULL: the masters, and in a safetensors file of fp32 everything that
                               the checkpoint holds */
    const char *dtype;      /* "fp32", "bf16" (weights only, rounded to nearest even); NULL: fp32 */
    int version;            /* llm.c's, which is another way to say dtype: 3 is fp32, 5 is bf16; 0: by dtype */
    int force;              /* 1: replace `out` where it exists */
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line);
    void *log_ctx;
} mpt_checkpoint_export_params_t;

typedef struct mpt_checkpoint_export_result {
    const char *format, *dtype; /* string constants */
    char kinds[32];             /* what was written: "master, m, v, ema" */
    int64_t step, bytes;
    int exact;                  /* 1: every value as it was, to the bit */
} mpt_checkpoint_export_result_t;

/**
 * Write a model file from a checkpoint, aside and renamed. result_p may be NULL.
 * @return MPT_OK; MPT_ERR_CONFIG: the file exists, or no such format; MPT_ERR_CHECKPOINT: damaged, or no EMA in it; MPT_ERR_IO.
 */
MPT_API mpt_status_t mpt_checkpoint_export(const mpt_checkpoint_export_params_t *params,
                                           mpt_checkpoint_export_result_t *result_p);

typedef struct mpt_checkpoint_import_params {
    const char *file; /* an llm.c model file or a safetensors file */
    const char *dir;  /* a run's folder: the checkpoint becomes dir/step-N */
    int force;        /* 1: also where `dir` holds checkpoints: that of step N is replaced, later ones are set aside */
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line);
    void *log_ctx;
} mpt_checkpoint_import_params_t;

typedef struct mpt_checkpoint_import_result {
    char path[1400]; /* of the checkpoint */
    char kinds[32];  /* what the file had: "master, m, v, ema" */
    int64_t step, parameters;
    int fresh;       /* 1: the file had no moments: they are zero, and the run starts at its first step */
} mpt_checkpoint_import_result_t;

/**
 * Make a checkpoint, which a run resumes from, of a model file; what mpt_checkpoint_export wrote as fp32 comes back to the bit, progress and
 * loss scale with it. result_p may be NULL.
 * @return MPT_OK; MPT_ERR_CONFIG: `dir` holds checkpoints, or a run uses it; MPT_ERR_CHECKPOINT: the file cannot be used; MPT_ERR_IO; MPT_ERR_NO_MEMORY.
 */
MPT_API mpt_status_t mpt_checkpoint_import(const mpt_checkpoint_import_params_t *params,
                                           mpt_checkpoint_import_result_t *result_p);

/** Measured matrix peak in FLOP/s of `threads` threads for products in "fp32", "tf32", "bf16" or "fp16", and the instruction level used: this
 *  machine's, capped by MPT_ISA as a session's is. */
MPT_API double mpt_measure_peak(const char *compute, int threads, const char **isa_p);
/** Write the table of every config key as Markdown to a C stream's file descriptor. @return MPT_OK; MPT_ERR_IO. */
MPT_API mpt_status_t mpt_config_help(int fd);

/* ---- benches: one operation, one collective at a time ---------------------------------------------- *
 * For whoever times them. What runs is what sessions run: the same kernels, threads, memory and collectives, chosen by the same
 * environment. Calls are complete on return. A handle is used by one thread at a time, which may stay bound to a core until it is closed.
 */

typedef struct mpt_bench_ops mpt_bench_ops_t;

typedef struct mpt_bench_ops_params {
    const char *compute; /* "bf16", "fp16", "fp32", "tf32" */
    int threads;         /* 0: this process's cores */
    int64_t batch, seq, dim, heads, vocab; /* the GPT-2 whose shapes are run: one micro-batch of batch x seq rows */
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line); /* NULL: standard error */
    void *log_ctx;
} mpt_bench_ops_params_t;

/* C [m,n] = A [m,k] x B [k,n], row-major; a transposed operand lies as [k,m] or [n,k]. */
typedef struct mpt_bench_product {
    int64_t m, n, k; /* 0: not one product */
    int transposed_a, transposed_b;
    int wide_c; /* C is FP32 whatever the compute type */
} mpt_bench_product_t;

/* One operation at the shape and with the fusions that a training step runs it with. */
typedef struct mpt_bench_op {
    const char *name;  /* "fc forward"; one of its kind; lives as long as the handle */
    const char *group; /* "linear", "head", "attention", "pass": an elementwise pass over memory */
    mpt_bench_product_t product;
    double flops;      /* arithmetic of matrix products, of attention the causal half; 0 for a pass */
    double operations; /* the same, and for a pass its elementwise arithmetic, a root, an exponential or a rounding counting one */
    double bytes;      /* arrays read, once, and written, once; those added to count twice */
} mpt_bench_op_t;

typedef struct mpt_bench_ops_info {
    const char *kernels, *isa; /* "cpu", "amx" */
    int threads;
    int64_t flat_count; /* elements of the passes that know no rows: the largest unit, the embeddings */
} mpt_bench_ops_info_t;

/** Threads, memory for the largest operation, and the list. @return MPT_OK; MPT_ERR_CONFIG (logged): no such type, shape or environment; MPT_ERR_NO_MEMORY. */
MPT_API mpt_status_t mpt_bench_ops_open(const mpt_bench_ops_params_t *params, mpt_bench_ops_t **ops_p);
/** NULL is allowed. */
MPT_API void mpt_bench_ops_close(mpt_bench_ops_t *ops);
MPT_API void mpt_bench_ops_info(const mpt_bench_ops_t *ops, mpt_bench_ops_info_t *info_p);
/** Operations in the list: the linear layers' first, in forward order, each forward, input gradient, weight gradient. */
MPT_API int mpt_bench_ops_count(const mpt_bench_ops_t *ops);
/** The index-th of them. */
MPT_API void mpt_bench_ops_describe(const mpt_bench_ops_t *ops, int index, mpt_bench_op_t *op_p);
/** Fill the operands of the index-th, which mpt_bench_ops_run then runs. @return MPT_OK; MPT_ERR_DEVICE. */
MPT_API mpt_status_t mpt_bench_ops_prepare(mpt_bench_ops_t *ops, int index);
/** Run it once; again is allowed: gradients go on adding up. @return MPT_OK; MPT_ERR_INVALID_ARG: nothing is prepared; MPT_ERR_DEVICE. */
MPT_API mpt_status_t mpt_bench_ops_run(mpt_bench_ops_t *ops);
/** Measure the matrix peak of these threads now: FLOP/s of products in the compute type whose operands come from L1. */
MPT_API double mpt_bench_ops_peak(mpt_bench_ops_t *ops);

#define MPT_BENCH_COPY_WAYS 2 /* ways to copy memory: through the caches, and with stores that go past them */

/** Copy so that about `bytes` are read and written together, at most 512 MiB, with these threads: what a pass over as many bytes could reach.
 *  @return the bytes read and written. */
MPT_API double mpt_bench_ops_copy(mpt_bench_ops_t *ops, int way, double bytes);

typedef struct mpt_bench_comm mpt_bench_comm_t;

typedef struct mpt_bench_comm_params {
    mpt_boot_t *boot; /* borrowed */
    int threads;      /* of each rank; 0: its share of the cores */
    size_t bytes;     /* of each buffer, the same on every rank */
    void (*log)(void *ctx, mpt_log_severity_t severity, const char *line); /* NULL: standard error */
    void *log_ctx;
} mpt_bench_comm_params_t;

typedef struct mpt_bench_comm_info {
    const char *comm, *isa; /* "shm", "amx" */
    int rank, ranks, threads;
    int shares_cores;     /* this host has fewer cores than threads of all its ranks */
    void *send, *receive; /* the two buffers, memory that the other ranks reach, as a session's gradients and weights are */
} mpt_bench_comm_info_t;

/** What a call does: send and receive are the handle's buffers, S the bytes asked for, n ranks. */
typedef enum mpt_bench_collective {
    MPT_BENCH_ALL_REDUCE,     /* receive = sum of the ranks' send; S bytes each */
    MPT_BENCH_REDUCE_SCATTER, /* receive [S/n] = this rank's slice of the sum of their send [S] */
    MPT_BENCH_ALL_GATHER,     /* receive [S]: everybody's slice of S/n bytes, which lies in place */
    MPT_BENCH_BROADCAST,      /* receive [S] of rank 0 to all */
    MPT_BENCH_COLLECTIVES
} mpt_bench_collective_t;

/** Connect the ranks, allocate the buffers and tell the ranks about them; both are filled with small numbers. Collective. @return MPT_OK; MPT_ERR_CONFIG; MPT_ERR_NO_MEMORY; MPT_ERR_COMM: the worst of all ranks. */
MPT_API mpt_status_t mpt_bench_comm_open(const mpt_bench_comm_params_t *params, mpt_bench_comm_t **comm_p);
/** NULL is allowed. Collective. */
MPT_API void mpt_bench_comm_close(mpt_bench_comm_t *comm);
MPT_API void mpt_bench_comm_info(const mpt_bench_comm_t *comm, mpt_bench_comm_info_t *info_p);
/** Run one collective. type: "fp32", "bf16", "fp16"; S = bytes: whole elements, of which the ranks get equal shares where the
 *  collective has shares. Collective. @return MPT_OK; MPT_ERR_INVALID_ARG; MPT_ERR_COMM. */
MPT_API mpt_status_t mpt_bench_comm_run(mpt_bench_comm_t *comm, mpt_bench_collective_t what, const char *type, size_t bytes);
/** Copy `bytes` from send to receive with this rank's threads. Local. way: as in mpt_bench_ops_copy. */
MPT_API void mpt_bench_comm_copy(mpt_bench_comm_t *comm, int way, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
