/*
 * What `mpt-ddp plan` asks and shows beyond the config's own plan: the same config under every shard mode, the
 * textbook's bytes a parameter beside them, and what would fit into a given memory. Everything is asked of
 * mpt_plan with a few keys changed, so that a mode that it refuses, for whatever reason, is shown as refused.
 * Values belong to the caller; nothing is allocated but by mpt_plan_query_open. One thread.
 */
#ifndef MPT_PLAN_SHOW_H
#define MPT_PLAN_SHOW_H

#include "format.h"
#include "launch.h"
#include "options.h"

#define MPT_PLAN_MODES 5    /* ddp, zero1, zero2, zero3, hsdp */
#define MPT_PLAN_VARIANTS 4 /* as configured; recompute = block; reduce_every = micro; both */
#define MPT_PLAN_COLUMNS 3  /* of these the table shows */
#define MPT_PLAN_BOTH 3
#define MPT_PLAN_CHANGES 6

/** The config in question, read once: it may come through a pipe. */
typedef struct mpt_plan_query {
    mpt_config_source_t config; /* overrides borrowed */
    char *text;                 /* owned */
    int out_of_memory;          /* an answer is missing for that reason: what was found is not to be shown */
} mpt_plan_query_t;

/** Keys changed for one question, "section.key=value" each, after the command line's own. */
typedef struct mpt_plan_changes {
    char set[MPT_PLAN_CHANGES][48];
    int count;
} mpt_plan_changes_t;

/** The config under one shard mode. */
typedef struct mpt_plan_mode {
    const char *shard;
    mpt_plan_changes_t changes; /* that put it there */
    int planned;                /* 0: refused, `reason` says why and `plan` is undefined */
    mpt_plan_t plan;
    char reason[256];
} mpt_plan_mode_t;

/** A mode and a variant of it, searched for the largest micro-batch. */
typedef struct mpt_plan_fit {
    int planned, fits;
    mpt_plan_changes_t changes;
    mpt_plan_t plan; /* at the largest micro-batch that fits; where none does, at the one of fewest bytes */
} mpt_plan_fit_t;

/** All that is shown for one number of ranks. */
typedef struct mpt_plan_report {
    int ranks;
    mpt_plan_mode_t modes[MPT_PLAN_MODES];
    int64_t memory;                 /* of a rank; 0: not asked, what follows is undefined */
    int offered[MPT_PLAN_VARIANTS]; /* variants that are built and save something */
    mpt_plan_fit_t fits[MPT_PLAN_MODES][MPT_PLAN_VARIANTS];
    const mpt_plan_fit_t *chosen; /* the suggestion; where it does not fit, what comes closest; NULL: all refused */
} mpt_plan_report_t;

/* ---- asking (plan_ask.c) ---------------------------------------------------------------------------- */

/** Read the config's text. @return as mpt_config_read, which logs; close the query after MPT_OK. */
mpt_status_t mpt_plan_query_open(mpt_plan_query_t *query, const char *path,
                                 const mpt_option_list_t *overrides);
void mpt_plan_query_close(mpt_plan_query_t *query);
/** Add a change; printf-like. At most MPT_PLAN_CHANGES. */
void mpt_plan_change(mpt_plan_changes_t *changes, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/**
 * Plan the config with `changes`.
 * reason: room for `reason_bytes`, the error's line on failure.
 * @return as mpt_plan.
 */
mpt_status_t mpt_plan_ask(mpt_plan_query_t *query, int ranks,
                          const mpt_plan_changes_t *changes, mpt_plan_t *plan_p, char *reason,
                          size_t reason_bytes);
/** Fill report->ranks and report->modes. hsdp takes the config's shard_ranks where they are valid, else mpt_plan_hsdp_ranks. */
void mpt_plan_ask_modes(mpt_plan_query_t *query, int ranks, mpt_plan_report_t *report);

/* ---- arithmetic (plan_ask.c) ------------------------------------------------------------------------ */

/** The largest power of two from 2 on, below `ranks`, that divides it; 0: there is none. */
int mpt_plan_hsdp_ranks(int ranks);
/**
 * Elements that one rank's share of the model puts on the wire in a step, N parameters, M micro-steps, R
 * reductions: (R+1) N in ddp to zero2, (2M+R) N in zero3, 2 R N / k across groups more in hsdp. 0 for one rank.
 */
int64_t mpt_plan_wire(const mpt_plan_t *plan);
/** Bytes of one use, "weights"; 0: the plan has none. */
int64_t mpt_plan_use(const mpt_plan_t *plan, const char *use);
/** Bytes of weights, masters, moments, EMA, accumulators and gradients: what sharding can divide. */
int64_t mpt_plan_state(const mpt_plan_t *plan);

/* ---- tables (plan_modes.c) -------------------------------------------------------------------------- */

/** One column a planned mode, one row a use; a line for each refused mode. */
void mpt_plan_modes_print(const mpt_plan_report_t *report);
/** The textbook's 16 bytes a parameter, how each mode divides them, and what is held here. */
void mpt_plan_textbook_print(const mpt_plan_report_t *report);
/** One object a mode, into the array that is open. */
void mpt_plan_modes_write(mpt_json_t *json, const mpt_plan_report_t *report);
/** The member "memory": bytes by use. */
void mpt_plan_memory_write(mpt_json_t *json, const mpt_plan_t *plan);

/* ---- what fits (plan_fit.c, plan_suggest.c) --------------------------------------------------------- */

/** Divisors of n, largest first; `divisors` has room for `capacity`. Returns their number, at most capacity. */
int mpt_plan_divisors(int64_t n, int64_t *divisors, int capacity);
/** The key that a variant changes, "train.recompute=block"; NULL: none, as configured. */
const char *mpt_plan_variant(int variant);
/**
 * Search every mode and variant for the largest micro-batch whose plan takes at most `memory` bytes a rank, with the
 * same global batch, and choose the least traffic: of the modes that fit with the config's micro-batch or a larger one,
 * else with a smaller one, else with a variant; of equals the larger micro-batch, then the earliest mode. After mpt_plan_ask_modes.
 */
void mpt_plan_fit(mpt_plan_query_t *query, int64_t memory, mpt_plan_report_t *report);
/** The table of what fits, and the suggestion or by how much everything fails. After mpt_plan_fit. */
void mpt_plan_suggest_print(const mpt_plan_report_t *report);
/** The member "suggestion": of the first report that has one that fits, else of the first. */
void mpt_plan_suggest_write(mpt_json_t *json, const mpt_plan_report_t *reports, int count);
/** The member "largest" of a mode: micro-batch and bytes by variant. */
void mpt_plan_largest_write(mpt_json_t *json, const mpt_plan_report_t *report, int mode);

#endif
