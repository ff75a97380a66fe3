/*
 * The optimizer: AdamW on the FP32 masters, one fused pass per unit, with unscaling, averaging and clipping
 * folded into one factor. Local: the reduced gradients are already everywhere they are needed.
 */
#ifndef MPT_OPTIMIZER_H
#define MPT_OPTIMIZER_H

#include "state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_optimizer_params {
    double beta1, beta2, eps, decay;
    double clip; /* 0: none */
    double ema;  /* decay of the weights' average; where the state keeps one */
    int stochastic; /* how working weights are rounded; 0: to nearest */
    uint64_t seed;  /* of that */
} mpt_optimizer_params_t;

/** What turns reduced gradients, as they are, into the mean gradient. */
typedef struct mpt_unscale {
    double divisor; /* D */
    double scale;   /* S */
    int64_t micro_steps;
    int ranks;
} mpt_unscale_t;

/** Norm of the mean gradient: sqrt(sumsq) * D / (S * micro_steps * ranks). */
double mpt_optimizer_norm(double sumsq, const mpt_unscale_t *unscale);
/** min(1, clip / (norm + 1e-6)); 1 where clip is 0. (torch.nn.utils.clip_grad_norm_) */
double mpt_optimizer_clip(double norm, double clip);
/** One update of everything that this rank's optimizer holds, all (ddp) or its slices: the same for each unit. */
typedef struct mpt_update {
    const mpt_optimizer_params_t *params;
    const mpt_unscale_t *unscale;
    double clip_factor, lr;
    int64_t t;    /* applied steps, this one included */
    int64_t step; /* data steps, this one included: keys stochastic rounding */
} mpt_update_t;
/** One pass over unit `unit`. Working weights of other ranks' slices are not touched: see gather.h. Enqueued. @return MPT_OK; MPT_ERR_DEVICE. */
mpt_status_t mpt_optimizer_unit(mpt_state_t *state, mpt_kernels_t *kernels, const mpt_update_t *update, int unit,
                                mpt_stream_t *stream);

#ifdef __cplusplus
}
#endif
#endif
