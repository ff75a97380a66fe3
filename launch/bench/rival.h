/*
 * oneDNN in a process of its own, so that it can be asked in turn with our own kernels, and may die: on some virtual machines its AMX
 * code raises SIGILL. An implementation that died is left out from then on; where nothing but slow reference code is left
 * for a product, oneDNN is started anew, capped to a lower instruction level. Owned by the thread that opened it.
 *
 *     this process                               the rival
 *     open ------------------- fork -----------> waits for a request
 *     prepare   "make the product so" ---------> made, by which implementation
 *               "run it" ----------------------> seconds, or it is dead: leave that out, fork again
 *     run       "run it" ----------------------> runs, waits until its threads sleep, answers
 */
#ifndef MPT_BENCH_RIVAL_H
#define MPT_BENCH_RIVAL_H

#include <sched.h>
#include <sys/types.h>
#include "mpt.h"

#define MPT_RIVAL_VARIANTS 4 /* see mpt_rival_prepare */
#define MPT_RIVAL_MAX_DEAD 8
#define MPT_RIVAL_NAME 64

typedef struct mpt_rival {
    int threads;
    size_t bytes; /* of an operand */
    cpu_set_t cores; /* where its threads may run */
    pid_t child;  /* 0: none, and there will be none */
    int socket;
    int cap; /* index of the instruction level that oneDNN is capped to; 0: none */
    char dead[MPT_RIVAL_MAX_DEAD][MPT_RIVAL_NAME]; /* implementations that are left out */
    int dead_count;
    char notes[1024]; /* what died and what was capped, sentences; empty: nothing */
    int variant;      /* that is prepared; -1: none */
    char path[128];   /* what runs, of the prepared product */
} mpt_rival_t;

/** Start it, its operands having `bytes` each and its threads the cores that this thread may use now. Where that fails there is no rival
 *  (logged), and prepare says so. */
void mpt_rival_open(mpt_rival_t *rival, int threads, size_t bytes);
void mpt_rival_close(mpt_rival_t *rival);
/**
 * Make a product in every way that oneDNN has and keep the fastest: 0 its first implementation that lives, on plain operands; 1 for products
 * with weights (all but the weight gradient) the same with the weights packed beforehand, which is not timed; 2 the first one that is no batch-reduce
 * kernel ("brg"), which stands in where those die; 3 in FP32 sgemm.
 * It is bare: no bias, no GELU, nothing added to. type: "bf16", "fp16", "fp32". @return 1; 0: oneDNN has none.
 */
int mpt_rival_prepare(mpt_rival_t *rival, const mpt_bench_product_t *product, const char *type);
/** Seconds of one run of what was prepared; not finite where it failed. */
double mpt_rival_run(mpt_rival_t *rival);

/* ---- between rival.c and rival_child.c --------------------------------------------------------------- */

enum { MPT_RIVAL_PLAIN, MPT_RIVAL_PACKED, MPT_RIVAL_NO_BRGEMM, MPT_RIVAL_SGEMM };

enum { MPT_RIVAL_MAKE, MPT_RIVAL_RUN };

typedef struct mpt_rival_request {
    int what, variant;
    mpt_bench_product_t product;
    char type[8];
} mpt_rival_request_t;

typedef struct mpt_rival_reply {
    int done;      /* 0: it could not */
    int left_out;  /* 1: an implementation that is known to die was passed over */
    double seconds;
    char implementation[MPT_RIVAL_NAME];
} mpt_rival_reply_t;

/** Caps, from none (index 0) downwards. @return their names' number. */
int mpt_rival_caps(void);
const char *mpt_rival_cap_name(int cap);
/** The child's life: answer requests on rival->socket until it is closed, then exit. */
void mpt_rival_serve(const mpt_rival_t *rival) __attribute__((noreturn));

#endif
