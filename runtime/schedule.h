/*
 * Learning-rate schedules: pure functions of the applied step. Warm-up is linear, then cosine (Loshchilov and
 * Hutter 2017), linear, constant, or WSD: stable, then linear to min_lr over the last fifth of the run.
 */
#ifndef MPT_SCHEDULE_H
#define MPT_SCHEDULE_H

#include "config.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Learning rate of applied step `t` (from 1) in a run of config->train.steps. */
double mpt_schedule_lr(const mpt_config_t *config, int64_t t);

#ifdef __cplusplus
}
#endif
#endif
