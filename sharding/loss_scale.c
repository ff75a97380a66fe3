#include "loss_scale.h"

void mpt_loss_scale_init(mpt_loss_scale_t *state, const mpt_loss_scale_rule_t *rule)
{
    *state = (mpt_loss_scale_t){.scale = rule->init};
}

static mpt_scale_change_t after_overflow(mpt_loss_scale_t *state, const mpt_loss_scale_rule_t *rule)
{
    double before = state->scale;
    state->clean = 0;
    state->hits++;
    state->consecutive_skips++;
    if (rule->dynamic && state->hits >= rule->hysteresis) {
        state->scale = before * rule->backoff;
        if (state->scale < rule->floor)
            state->scale = rule->floor;
    }
    if (state->scale < before)
        return MPT_SCALE_SHRANK;
    int at_floor = !rule->dynamic || before <= rule->floor;
    return at_floor && state->consecutive_skips >= rule->max_skips ? MPT_SCALE_STUCK
                                                                   : MPT_SCALE_KEPT;
}

static mpt_scale_change_t after_clean(mpt_loss_scale_t *state, const mpt_loss_scale_rule_t *rule)
{
    double before = state->scale;
    state->consecutive_skips = 0;
    if (!rule->dynamic || ++state->clean < rule->growth_interval)
        return MPT_SCALE_KEPT;
    state->clean = 0;
    state->hits = 0;
    state->scale = before * rule->growth;
    if (state->scale > rule->ceiling)
        state->scale = rule->ceiling;
    return state->scale > before ? MPT_SCALE_GREW : MPT_SCALE_KEPT;
}

mpt_scale_change_t mpt_loss_scale_update(mpt_loss_scale_t *state, const mpt_loss_scale_rule_t *rule,
                                         int overflow)
{
    return overflow ? after_overflow(state, rule) : after_clean(state, rule);
}
