/*
 * The global loss scale: a small state machine that every rank runs on the same verdicts, so that all
 * hold the same scale without a message. PyTorch GradScaler's rule (torch/amp/grad_scaler.py) with a floor, a
 * ceiling and hysteresis:
 *
 *   overflow:  clean = 0; hits += 1; from the hysteresis-th hit since the last growth on: scale *= backoff
 *   clean:     clean += 1; at growth_interval: scale *= growth, clean = 0, hits = 0
 *
 * Applied after the step that it judges. With a fixed scale the state only counts skips.
 */
#ifndef MPT_LOSS_SCALE_H
#define MPT_LOSS_SCALE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpt_loss_scale_rule {
    int dynamic;
    double init; /* where fixed: the scale */
    double growth, backoff, floor, ceiling;
    int64_t growth_interval, hysteresis, max_skips;
} mpt_loss_scale_rule_t;

/* Saved in checkpoints whole. */
typedef struct mpt_loss_scale {
    double scale;
    int64_t clean; /* clean steps since the last overflow or growth */
    int64_t hits;  /* overflows since the last growth */
    int64_t consecutive_skips;
} mpt_loss_scale_t;

typedef enum mpt_scale_change {
    MPT_SCALE_KEPT = 0,
    MPT_SCALE_GREW,
    MPT_SCALE_SHRANK,
    MPT_SCALE_STUCK /* max_skips skips in a row at the floor or with a fixed scale: stop, exit 5 */
} mpt_scale_change_t;

/** The state a fresh run starts with. */
void mpt_loss_scale_init(mpt_loss_scale_t *state, const mpt_loss_scale_rule_t *rule);
/** One step's verdict: overflow or clean. Pure but for *state. */
mpt_scale_change_t mpt_loss_scale_update(mpt_loss_scale_t *state, const mpt_loss_scale_rule_t *rule,
                                         int overflow);

#ifdef __cplusplus
}
#endif
#endif
