/*
 * What a run came to: gathered from the training hooks, printed as a closing table once the session is
 * closed (so it copies what it needs). Belongs to the training thread; every rank gathers, rank 0 prints.
 */
#ifndef MPT_SUMMARY_H
#define MPT_SUMMARY_H

#include "mpt.h"
#include "world.h"

#define MPT_SUMMARY_PATH 1100

typedef struct mpt_summary {
    /* from the session, once open */
    int ranks, threads;
    char compute[8], isa[24], comm[16];
    int64_t steps, tokens_per_step;
    double flops_6nd_per_token, flops_model_per_token, flops_causal_per_token, peak_flops;
    double planned_bytes, used_bytes; /* this rank's; all ranks' after mpt_summary_gather */
    double used_known;                /* ranks whose used_bytes the kernel told */
    char checkpoint_dir[MPT_SUMMARY_PATH], metrics_path[MPT_SUMMARY_PATH];
    /* from the steps */
    int64_t first_step, last_step, steps_run, tokens, skips, clips, scale_changes, failed_saves;
    double loss, step_seconds;
    double val_loss;  /* latest */
    int64_t val_step; /* 0: none */
} mpt_summary_t;

void mpt_summary_open(mpt_summary_t *summary, const mpt_session_info_t *info);
void mpt_summary_step(mpt_summary_t *summary, const mpt_step_result_t *result);
void mpt_summary_notice(mpt_summary_t *summary, const mpt_notice_t *notice);
/** Sum the memory figures over the ranks, to rank 0. used_bytes: this rank's, negative: not known. Collective. */
void mpt_summary_gather(mpt_summary_t *summary, const mpt_world_t *world, int64_t used_bytes);
/** The table, on standard output. */
void mpt_summary_print(const mpt_summary_t *summary, mpt_status_t status);

#endif
