/*
 * The program mpt-ddp: one function a verb, each in cmd_<verb>.c, dispatched by main.c. A verb gets the
 * words after its own name and returns the process's exit code; nothing here calls exit. Verbs use the
 * public headers mpt.h and mpt_mpi.h alone. Messages for people only: one line a mistake, exit code 2. main flushes
 * standard output last: where it could not be written, a verb that succeeded ends with exit code 3.
 */
#ifndef MPT_LAUNCH_H
#define MPT_LAUNCH_H

#include "mpt.h"

#define MPT_EXIT_USAGE 2

int mpt_cmd_train(int argc, char **argv);
int mpt_cmd_plan(int argc, char **argv);
int mpt_cmd_bench(int argc, char **argv);
int mpt_cmd_data(int argc, char **argv);
int mpt_cmd_ckpt(int argc, char **argv);
int mpt_cmd_sample(int argc, char **argv);
int mpt_cmd_version(int argc, char **argv);

/** bench's own verbs, in bench/step.c, bench/kernels.c, bench/comm.c and bench/scaling.c. */
int mpt_bench_step(int argc, char **argv);
int mpt_bench_kernels(int argc, char **argv);
int mpt_bench_collectives(int argc, char **argv);
int mpt_bench_scaling(int argc, char **argv);

/** One word and what it runs; `run` NULL: planned, not built yet. */
typedef struct mpt_verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} mpt_verb_t;

/**
 * Run the verb called argv[0]; `command` is what stands before it ("mpt-ddp ckpt"). An unknown or unbuilt
 * verb is one line on standard error. @return the verb's exit code, or MPT_EXIT_USAGE.
 */
int mpt_verb_run(const char *command, const mpt_verb_t *verbs, int count, int argc, char **argv);
/** The row called `name`, or NULL. */
const mpt_verb_t *mpt_verb_find(const mpt_verb_t *verbs, int count, const char *name);
/** One line a verb, on standard output. */
void mpt_verb_list(const mpt_verb_t *verbs, int count);
/** A verb of verbs given none (argc 0: a mistake) or --help. @return the exit code. */
int mpt_verb_help(const char *command, const mpt_verb_t *verbs, int count, int argc);

/** A session's log sink for verbs of one process: errors and warnings to standard error, the rest dropped. */
void mpt_log_quiet(void *ctx, mpt_log_severity_t severity, const char *line);

#endif
