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
    uint32_t save; /* checkpoint progress: see checkpoint.h */
    uint64_t hash; /* of replicated state, when due */
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
    int disagree_rank; /* a rank whose step or scale differs from rank 0's, or -1 */
} mpt_verdict_t;

/**
 * Fold `ranks` records. Sums fold in the gradients' binary tree; integers in rank order; the first offender is
 * wire before sum, then lowest micro-step, element, rank. scratch: `ranks` doubles.
 */
void mpt_record_fold(const mpt_record_t *records, int ranks, double *scratch,
                     mpt_verdict_t *verdict_p);

#ifdef __cplusplus
}
#endif
#endif
