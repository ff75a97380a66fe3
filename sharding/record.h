/*
 * The consensus record: 64 bytes that every rank gives and every rank gets, once a step. All that ranks
 * must agree on rides here: clipping, skipping, errors, stopping, saving, logging. Folding the gathered
 * records is a pure function, so that every rank comes to the same verdict.
 */
#ifndef MPT_RECORD_H
#define MPT_RECORD_H

#include <stdint.h>
#include "mpt_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    MPT_RECORD_STOP = 1,    /* this rank was asked to stop */
    MPT_RECORD_BAD_WIRE = 2, /* this rank's own contribution was not finite */
    MPT_RECORD_BAD_SUM = 4   /* only the sum over ranks was not finite */
};

/* Native byte order; ranks of one run share it. */
typedef struct mpt_record {
    uint8_t status; /* mpt_status_t */
    uint8_t flags;
    uint16_t micro_step; /* of the offender */
    uint32_t tokens;
    double sumsq;    /* of this rank's slice of the reduced gradients, as they are */
    double loss_sum; /* over this rank's tokens */
    uint32_t bad_count; /* saturating */
    uint32_t bad_bits;  /* the offender's value, FP32 bits */
    uint64_t bad_element; /* its global element index */
    float scale;
    uint32_t save; /* mpt_save_progress_t in checkpoint.h */
    uint64_t hash; /* of replicated state; 0: not due this step, so a hash that is 0 is given as 1 */
    uint64_t step;
} mpt_record_t;

/** What the records of all ranks say together. */
typedef struct mpt_verdict {
    mpt_status_t status; /* the worst; ranks later in order win nothing */
    int status_rank;
    int stop;
    int overflow;  /* any value was not finite: nobody steps */
    int wire;      /* the offender was bad on the wire; else only in the sum */
    int bad_rank;
    int bad_micro_step;
    uint64_t bad_element;
    uint32_t bad_bits;
    uint64_t bad_count; /* of the offender's kind, all ranks: a value bad on the wire is not counted again in the sum */
    double sumsq, loss_sum;
    uint64_t tokens;
    int disagree_rank; /* the first rank whose step or scale (its bits) differs from rank 0's, or -1 */
    int saves_ended;   /* every rank's save is synced or failed */
    int save_failed;   /* some rank's has failed */
    /* The first rank whose hash differs from that of the first rank that holds the same, or -1; where some are due and
     * others not, they differ. */
    int replica_rank;
    int replica_of; /* that first rank, or -1 */
} mpt_verdict_t;

/** What folding needs to know of the ranks. */
typedef struct mpt_record_fold {
    int ranks;
    int group;    /* layout.h: sums of squares fold in the order of parts */
    int replicas; /* ranks r and s hold the same state where r % replicas == s % replicas: 1 where all do, `ranks` where none do */
} mpt_record_fold_t;

/**
 * What the records of some consecutive ranks say together: all that a verdict needs of them, for folding in steps. Neighbours merge
 * associatively but for the sums, which are one tree where every partial but the last is of the same power of two of ranks.
 */
typedef struct mpt_record_partial {
    double sumsq, loss_sum;
    uint64_t tokens;
    uint64_t bad_count;   /* of bad_kind */
    uint64_t bad_element; /* the first offender's, as are bits, micro-step and rank */
    uint64_t step, hash;  /* the first rank's, as is the scale */
    uint32_t scale_bits;
    uint32_t bad_bits;
    int32_t first_rank;
    int32_t status_rank;
    int32_t bad_rank;      /* or -1 */
    int32_t disagree_rank; /* the first that differs from first_rank in step or scale, or -1 */
    int32_t replica_rank;  /* the first that differs from first_rank in hash, or -1 */
    uint16_t bad_micro_step;
    uint8_t bad_kind; /* MPT_RECORD_BAD_WIRE, MPT_RECORD_BAD_SUM where nobody was bad on the wire, or 0 */
    uint8_t status;
    uint8_t stop;
    uint8_t save_pending; /* some rank's save is idle or being written */
    uint8_t save_failed;
    uint8_t unused[5]; /* 0 */
} mpt_record_partial_t;

/**
 * Fold `ranks` records. Sums fold in the gradients' binary tree, losses over ranks, squares over parts; a sum that is NaN is
 * the quiet NaN; integers fold in rank order; the first offender is wire before sum, then lowest micro-step, element, rank.
 * records: [ranks] in rank order. scratch: `ranks` doubles. Pure.
 */
void mpt_record_fold(const mpt_record_t *records, const mpt_record_fold_t *fold, double *scratch,
                     mpt_verdict_t *verdict_p);

/* The same in steps: partials of equally many ranks, a power of two, merged in rank order, conclude to the bits of mpt_record_fold. Only where
 * fold->group == fold->ranks and fold->replicas is 1 or fold->ranks: elsewhere a verdict needs every record. */

/** The partial of `count` ranks from `first_rank` on. records: theirs alone. scratch: `count` doubles. Pure. */
void mpt_record_summarize(const mpt_record_t *records, int first_rank, int count, double *scratch,
                          mpt_record_partial_t *partial_p);
/** The partial of neighbours: [count] in rank order. scratch: `count` doubles. Pure. */
void mpt_record_merge(const mpt_record_partial_t *partials, int count, double *scratch,
                      mpt_record_partial_t *partial_p);
/** The verdict of the partial of all ranks. Pure. */
void mpt_record_conclude(const mpt_record_partial_t *partial, const mpt_record_fold_t *fold,
                         mpt_verdict_t *verdict_p);

#ifdef __cplusplus
}
#endif
#endif
