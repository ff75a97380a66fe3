/*
 * The insides of one training step, shared by step.c (consensus and verdict) and step_compute.c (data, forward and
 * backward, reduction). Private to runtime.
 */
#ifndef MPT_STEP_H
#define MPT_STEP_H

#include "session.h"

typedef struct mpt_step {
    mpt_session_t *session;
    int64_t number;      /* from 1 */
    int64_t micro_steps; /* of this rank, all its lanes together */
    int64_t lane_steps;  /* of one lane */
    int64_t micro;       /* micro-step under way */
    int lane;            /* its lane, of this rank's */
    int64_t bad_micro;   /* first whose activation gradients were not finite, or -1 */
    int zeroed;          /* unit 0's window accumulator is zeroed in this micro-step */
    double losses[MPT_STACK_MAX]; /* sums of lanes that wait for their neighbours; [0] is all in the end */
    double start_s;
    double waited_s;     /* by the worker's clock, when it began */
} mpt_step_t;

/** Forward and backward of every micro-step of this rank; reductions are handed to the reducer. The loss sum is in losses[0]. Collective. @return MPT_OK; MPT_ERR_COMM; MPT_ERR_DEVICE. */
mpt_status_t mpt_step_compute(mpt_step_t *step);
/** Under train.check_every: compare what ranks hold alike, outside of a step. Collective. @return MPT_OK; MPT_ERR_DEVICE: it differs, which is
 *  logged and in the metrics, and the session has failed; MPT_ERR_COMM; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_step_check_replicas(mpt_session_t *session);
/** The hooks of a model that only goes forward: weights are gathered where they are sharded. */
mpt_gpt2_hooks_t mpt_step_forward_hooks(mpt_session_t *session);

#endif
