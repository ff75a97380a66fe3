#include "schedule.h"

#include <math.h>

#define WSD_DECAY_FRACTION 0.2

/* How far the decay has come, 0 at its start, 1 at the last step. */
static double decay_progress(int64_t t, int64_t begin, int64_t end)
{
    if (t <= begin)
        return 0.0;
    if (t >= end)
        return 1.0;
    return (double)(t - begin) / (double)(end - begin);
}

double mpt_schedule_lr(const mpt_config_t *config, int64_t t)
{
    double lr = config->train.lr, min_lr = config->train.min_lr;
    int64_t warmup = config->train.warmup, steps = config->train.steps;
    if (t < warmup)
        return lr * (double)t / (double)warmup;
    double x = decay_progress(t, warmup, steps);
    switch (config->train.schedule) {
    case MPT_SCHEDULE_CONSTANT:
        return lr;
    case MPT_SCHEDULE_LINEAR:
        return lr + (min_lr - lr) * x;
    case MPT_SCHEDULE_WSD: {
        int64_t begin = steps - (int64_t)(WSD_DECAY_FRACTION * (double)steps);
        x = decay_progress(t, begin > warmup ? begin : warmup, steps);
        return lr + (min_lr - lr) * x;
    }
    case MPT_SCHEDULE_COSINE:
        break;
    }
    return min_lr + 0.5 * (lr - min_lr) * (1.0 + cos(M_PI * x));
}
