#include "config_reading.h"

#include <assert.h>
#include <string.h>

static mpt_config_slot_t *slot_for(mpt_config_reading_t *reading, const char *key)
{
    int index = mpt_config_find(key);
    assert(index >= 0);
    return &reading->slots[index];
}

/* "model.cfg:7: train.warmup = 100: is more than train.steps = 50; lower it", at the line of the
 * key that the user set. */
static mpt_status_t refuse_pair(mpt_config_reading_t *reading, const char *key,
                                const char *relation, const char *other_key, const char *advice)
{
    mpt_config_slot_t place = *slot_for(reading, key);
    const mpt_config_slot_t *other = slot_for(reading, other_key);
    if (!place.line && !place.overridden) {
        place.line = other->line;
        place.overridden = other->overridden;
    }
    return mpt_config_refuse(&place, "%s %s = %s; %s", relation, other_key,
                             other->text ? other->text : other->row->text, advice);
}

static mpt_status_t check_built(mpt_config_reading_t *reading)
{
    for (int i = 0; i < mpt_config_row_count(); i++) {
        mpt_config_slot_t *slot = &reading->slots[i];
        char use[128];
        if (!mpt_config_built(slot->row, &reading->config, use, sizeof use))
            return mpt_config_refuse(
                slot, "%s; use %s", slot->row->refusal ? slot->row->refusal : "not built yet", use);
    }
    return MPT_OK;
}

static mpt_status_t check_present(mpt_config_reading_t *reading)
{
    if (reading->config.data.train[0])
        return MPT_OK;
    mpt_log_error(reading->log,
                  "%s: data.train is missing; name a token file to train on, as in"
                  " data { train = \"tokens.bin\" }",
                  reading->name);
    return MPT_ERR_CONFIG;
}

static mpt_status_t check_model(mpt_config_reading_t *reading)
{
    mpt_config_t *config = &reading->config;
    if (config->model.dim % config->model.heads != 0)
        return refuse_pair(reading, "model.heads", "does not divide", "model.dim",
                           "make dim a multiple of heads");
    if (config->data.sequence > config->model.context)
        return refuse_pair(reading, "data.sequence", "is more than", "model.context",
                           "lower it, or use 0 for the whole context");
    return MPT_OK;
}

static mpt_status_t check_train(mpt_config_reading_t *reading)
{
    const mpt_config_t *config = &reading->config;
    if (config->train.global_batch % config->train.micro_batch != 0)
        return refuse_pair(reading, "train.global_batch", "is no multiple of", "train.micro_batch",
                           "make it one");
    if (config->train.warmup > config->train.steps)
        return refuse_pair(reading, "train.warmup", "is more than", "train.steps", "lower it");
    if (!(config->train.min_lr <= config->train.lr))
        return refuse_pair(reading, "train.min_lr", "is above", "train.lr", "lower it");
    return MPT_OK;
}

/* The runtime counts positions, elements and bytes in 64 bits: no product of sizes may come near
 * their end. */
static mpt_status_t check_sizes(mpt_config_reading_t *reading)
{
    const mpt_config_t *config = &reading->config;
    double length = (double)(config->data.sequence ? config->data.sequence : config->model.context);
    double positions = (double)config->train.steps * (double)config->train.global_batch * length;
    double elements = (double)config->train.micro_batch * length * (double)config->model.layers *
                      (double)config->model.dim;
    if (!(positions <= 0x1p62))
        return refuse_pair(reading, "train.steps", "makes more than 2^62 tokens with",
                           "train.global_batch", "lower one of them");
    if (!((double)config->train.val_batches * (double)config->train.global_batch <= 0x1p40))
        return refuse_pair(reading, "train.val_batches", "makes more than 2^40 sequences with",
                           "train.global_batch", "lower one of them");
    if (!(elements <= 0x1p50))
        return refuse_pair(reading, "train.micro_batch", "makes more than 2^50 activations with",
                           "model.dim", "lower one of them");
    return MPT_OK;
}

static mpt_status_t check_scale(mpt_config_reading_t *reading)
{
    const mpt_config_t *config = &reading->config;
    if (!(config->precision.min_scale <= config->precision.max_scale))
        return refuse_pair(reading, "precision.min_scale", "is above", "precision.max_scale",
                           "lower it");
    if (!(config->precision.init_scale >= config->precision.min_scale))
        return refuse_pair(reading, "precision.init_scale", "is below", "precision.min_scale",
                           "raise it");
    if (!(config->precision.init_scale <= config->precision.max_scale))
        return refuse_pair(reading, "precision.init_scale", "is above", "precision.max_scale",
                           "lower it");
    return MPT_OK;
}

/* A key that has no effect beside another's value must not look as if it had. Its default says nothing. */
static mpt_status_t check_idle(mpt_config_reading_t *reading, const char *key, const char *need)
{
    mpt_config_slot_t *slot = slot_for(reading, key);
    if (mpt_config_is_default(slot->row, &reading->config))
        return MPT_OK;
    return mpt_config_refuse(slot, "has no effect without %s; set both or neither", need);
}

static mpt_status_t check_shards(mpt_config_reading_t *reading)
{
    const mpt_config_t *config = &reading->config;
    if (config->parallel.shard != MPT_SHARD_HSDP)
        return check_idle(reading, "parallel.shard_ranks", "parallel.shard = hsdp");
    if (config->parallel.shard_ranks == 0)
        return mpt_config_refuse(slot_for(reading, "parallel.shard"),
                                 "needs parallel.shard_ranks; set it to a power of two that "
                                 "divides the ranks, as the ranks of one host");
    if (!mpt_config_is_power_of_two((double)config->parallel.shard_ranks))
        return mpt_config_refuse(slot_for(reading, "parallel.shard_ranks"),
                                 "is no power of two; use one that divides the ranks");
    return MPT_OK;
}

static mpt_status_t check_world(mpt_config_reading_t *reading)
{
    const mpt_config_t *config = &reading->config;
    int64_t unit = config->train.micro_batch * config->train.lanes;
    char advice[80];
    if (config->train.reproducible != MPT_REPRODUCIBLE_WORLD)
        return check_idle(reading, "train.lanes", "train.reproducible = world");
    snprintf(advice, sizeof advice, "make that a multiple of %lld, or lanes smaller", (long long)unit);
    if (config->train.global_batch % unit != 0)
        return refuse_pair(reading, "train.lanes", "times train.micro_batch does not divide",
                           "train.global_batch", advice);
    if (config->parallel.reduce_every == MPT_REDUCE_EVERY_MICRO)
        return refuse_pair(reading, "parallel.reduce_every", "does not go with",
                           "train.reproducible", "use step");
    return MPT_OK;
}

/* Whether gradients cross the wire as FP32: resolve() has not been there yet. */
static int reduces_fp32(const mpt_config_t *config)
{
    mpt_dtype_t reduce = config->precision.reduce;
    return reduce == MPT_F32 || config->train.reproducible == MPT_REPRODUCIBLE_WORLD ||
           (reduce == MPT_DTYPE_COUNT && mpt_dtype_memory(config->precision.compute) == MPT_F32);
}

static mpt_status_t check_masters(mpt_config_reading_t *reading)
{
    const mpt_config_t *config = &reading->config;
    int narrow = mpt_dtype_memory(config->precision.compute) != MPT_F32;
    int stochastic = config->precision.rounding == MPT_ROUNDING_STOCHASTIC;
    if (stochastic && !narrow)
        return refuse_pair(reading, "precision.rounding", "has nothing to round beside",
                           "precision.compute", "use nearest");
    if (config->precision.master_fp32)
        return MPT_OK;
    if (narrow && !stochastic)
        return refuse_pair(reading, "precision.master", "would lose small updates beside",
                           "precision.rounding", "set rounding = stochastic, or master = fp32");
    if (!narrow && config->train.ema > 0 && !reduces_fp32(config))
        return refuse_pair(reading, "precision.master",
                           "beside fp32 compute and train.ema needs fp32 gradients, not",
                           "precision.reduce", "set reduce = fp32, or master = fp32");
    return MPT_OK;
}

/* Put values in the place of "auto" and of 0 for the whole context. */
static void resolve(mpt_config_t *config)
{
    if (config->data.sequence == 0)
        config->data.sequence = config->model.context;
    if (config->precision.reduce == MPT_DTYPE_COUNT)
        config->precision.reduce = mpt_dtype_memory(config->precision.compute);
    if (config->train.reproducible == MPT_REPRODUCIBLE_WORLD)
        config->precision.reduce = MPT_F32; /* partial sums must not round where ranks meet */
    int half = config->precision.compute == MPT_F16 || config->precision.reduce == MPT_F16;
    double scale = config->precision.fixed_scale;
    config->precision.dynamic_scale =
        scale == MPT_CONFIG_SCALE_DYNAMIC || (scale == MPT_CONFIG_SCALE_AUTO && half);
    if (scale == MPT_CONFIG_SCALE_DYNAMIC || scale == MPT_CONFIG_SCALE_AUTO)
        config->precision.fixed_scale = 1;
}

mpt_status_t mpt_config_check(mpt_config_reading_t *reading)
{
    static mpt_status_t (*const checks[])(mpt_config_reading_t *) = {
        check_built, check_present, check_model, check_train, check_sizes, check_scale,
        check_shards,  check_world, check_masters};
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        mpt_status_t status = checks[i](reading);
        if (status != MPT_OK)
            return status;
    }
    resolve(&reading->config);
    return MPT_OK;
}

void mpt_config_defaults(mpt_config_t *config_p)
{
    locale_t before = mpt_config_enter_c_locale();
    mpt_config_fill(config_p);
    mpt_config_leave_c_locale(before);
    resolve(config_p);
}

/* The consensus record counts a rank's tokens of a step in 32 bits and its micro-steps in 16. */
static mpt_status_t check_record(const mpt_config_t *config, int ranks, const mpt_log_t *log)
{
    int64_t sequences = config->train.global_batch / ranks;
    if (sequences / config->train.micro_batch <= UINT16_MAX &&
        sequences <= UINT32_MAX / config->data.sequence)
        return MPT_OK;
    mpt_log_error(log,
                  "train.global_batch = %lld: a step of one rank may have at most %d micro-steps and"
                  " %u tokens; use a smaller batch or more ranks",
                  (long long)config->train.global_batch, UINT16_MAX, UINT32_MAX);
    return MPT_ERR_CONFIG;
}

static mpt_status_t check_cut(const mpt_config_t *config, int ranks, const mpt_log_t *log)
{
    long long k = config->parallel.shard_ranks, lanes = config->train.lanes;
    if (config->parallel.shard == MPT_SHARD_HSDP && ranks % k != 0) {
        mpt_log_error(log, "parallel.shard_ranks = %lld: does not divide the %d ranks; use a power of two that does",
                      k, ranks);
        return MPT_ERR_CONFIG;
    }
    if (config->train.reproducible == MPT_REPRODUCIBLE_WORLD && lanes % ranks != 0) {
        mpt_log_error(log,
                      "train.reproducible = world: does not serve %d ranks; use a power of two of ranks, at "
                      "most train.lanes = %lld",
                      ranks, lanes);
        return MPT_ERR_CONFIG;
    }
    return MPT_OK;
}

static mpt_status_t check_batch(const mpt_config_t *config, int ranks, const mpt_log_t *log)
{
    int64_t batch = config->train.global_batch;
    int64_t unit = config->train.micro_batch * ranks;
    if (batch % unit == 0)
        return check_record(config, ranks, log);
    int64_t below = batch / unit * unit;
    char lower[32] = "";
    if (below > 0)
        snprintf(lower, sizeof lower, "%lld or ", (long long)below);
    mpt_log_error(log,
                  "train.global_batch = %lld: is no multiple of train.micro_batch = %lld times"
                  " %d ranks; use a multiple of %lld, as %s%lld",
                  (long long)batch, (long long)config->train.micro_batch, ranks, (long long)unit,
                  lower, (long long)(below + unit));
    return MPT_ERR_CONFIG;
}

mpt_status_t mpt_config_check_ranks(const mpt_config_t *config, int ranks, const mpt_log_t *log)
{
    mpt_status_t status = check_cut(config, ranks, log);
    return status == MPT_OK ? check_batch(config, ranks, log) : status;
}
