#include "config_table.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
#define AT(field) offsetof(mpt_config_t, field), sizeof(((mpt_config_t *)0)->field)
#define WORDS(list) .words = list
/* Limits that keep every product of sizes that the runtime takes within an int64. */
#define MANY 0x1p40
#define SMALLEST_SCALE 0x1p-24
#define LARGEST_SCALE 0x1p64

/* Words are stored as ints, also those of types that are not built: they need numbers of their own.
 */
enum { DTYPE_FP8 = MPT_TF32 + 1 };

static const mpt_config_word_t device_words[] = {
    {"auto", MPT_DEVICE_AUTO, 1}, {"cpu", MPT_DEVICE_CPU, 1}, {"cuda", MPT_DEVICE_CUDA, 0}, {0}};
static const mpt_config_word_t arch_words[] = {{"gpt2", 0, 1}, {0}};
static const mpt_config_word_t order_words[] = {
    {"shuffled", MPT_ORDER_SHUFFLED, 1}, {"sequential", MPT_ORDER_SEQUENTIAL, 1}, {0}};
static const mpt_config_word_t schedule_words[] = {{"cosine", MPT_SCHEDULE_COSINE, 1},
                                                   {"linear", MPT_SCHEDULE_LINEAR, 1},
                                                   {"constant", MPT_SCHEDULE_CONSTANT, 1},
                                                   {"wsd", MPT_SCHEDULE_WSD, 1},
                                                   {0}};
static const mpt_config_word_t recompute_words[] = {{"none", MPT_RECOMPUTE_NONE, 1},
                                                    {"block", MPT_RECOMPUTE_BLOCK, 1},
                                                    {"attention", MPT_RECOMPUTE_ATTENTION, 1},
                                                    {0}};
static const mpt_config_word_t pack_words[] = {{"auto", 1, 1}, {"off", 0, 1}, {0}};
static const mpt_config_word_t reproducible_words[] = {{"off", MPT_REPRODUCIBLE_OFF, 1},
                                                       {"run", MPT_REPRODUCIBLE_RUN, 1},
                                                       {"world", MPT_REPRODUCIBLE_WORLD, 1},
                                                       {0}};
static const mpt_config_word_t compute_words[] = {{"fp32", MPT_F32, 1},  {"tf32", MPT_TF32, 1},
                                                  {"bf16", MPT_BF16, 1}, {"fp16", MPT_F16, 1},
                                                  {"fp8", DTYPE_FP8, 0}, {0}};
static const mpt_config_word_t accumulate_words[] = {
    {"fp32", MPT_F32, 1}, {"bf16", MPT_BF16, 0}, {"fp16", MPT_F16, 0}, {0}};
static const mpt_config_word_t reduce_words[] = {{"auto", MPT_DTYPE_COUNT, 1},
                                                 {"fp32", MPT_F32, 1},
                                                 {"bf16", MPT_BF16, 1},
                                                 {"fp16", MPT_F16, 1},
                                                 {0}};
static const mpt_config_word_t rounding_words[] = {
    {"nearest", MPT_ROUNDING_NEAREST, 1}, {"stochastic", MPT_ROUNDING_STOCHASTIC, 1}, {0}};
static const mpt_config_word_t master_words[] = {{"fp32", 1, 1}, {"none", 0, 1}, {0}};
static const mpt_config_word_t shard_words[] = {
    {"ddp", MPT_SHARD_DDP, 1},     {"zero1", MPT_SHARD_ZERO1, 1}, {"zero2", MPT_SHARD_ZERO2, 1},
    {"zero3", MPT_SHARD_ZERO3, 1}, {"hsdp", MPT_SHARD_HSDP, 1},   {0}};
static const mpt_config_word_t reduce_every_words[] = {
    {"step", MPT_REDUCE_EVERY_STEP, 1}, {"micro", MPT_REDUCE_EVERY_MICRO, 1}, {0}};

static const mpt_config_word_t overlap_words[] = {
    {"auto", MPT_OVERLAP_AUTO, 1}, {"on", MPT_OVERLAP_ON, 1}, {"off", MPT_OVERLAP_OFF, 1}, {0}};

static const mpt_config_row_t rows[] = {
    {"", "device", MPT_CONFIG_WORD, AT(device), "auto", WORDS(device_words),
     .refusal = "no CUDA backend in this build",
     .help = "where to train; `auto` takes a GPU where one can be used, else the CPU"},
    {"", "threads", MPT_CONFIG_INT, AT(threads), "0", 0, 4096,
     .help = "threads of one rank; 0: its share of the cores it may run on"},

    {"model", "arch", MPT_CONFIG_WORD, AT(model.arch), "gpt2", WORDS(arch_words),
     .help = "architecture"},
    {"model", "layers", MPT_CONFIG_INT, AT(model.layers), "12", 1, 4096,
     .help = "transformer blocks"},
    {"model", "heads", MPT_CONFIG_INT, AT(model.heads), "12", 1, 65536,
     .help = "attention heads; must divide `dim`"},
    {"model", "dim", MPT_CONFIG_INT, AT(model.dim), "768", 1, 0x1p18,
     .help = "width of the residual stream"},
    {"model", "context", MPT_CONFIG_INT, AT(model.context), "1024", 1, 0x1p24,
     .help = "positions that the model knows"},
    {"model", "vocab", MPT_CONFIG_INT, AT(model.vocab), "50257", 1, 4294967295.0,
     .help =
         "tokens in the vocabulary; padded inside to a multiple of 128 that is never predicted"},
    {"model", "init", MPT_CONFIG_TEXT, AT(model.init), "",
     .help = "a model file (llm.c's format) to start from; empty: random weights"},

    {"data", "train", MPT_CONFIG_TEXT, AT(data.train), "", .flags = MPT_CONFIG_REQUIRED,
     .help = "token file to train on, or a glob"},
    {"data", "val", MPT_CONFIG_TEXT, AT(data.val), "",
     .help = "token file or glob for validation, opened if `train.val_every` > 0; empty: none"},
    {"data", "order", MPT_CONFIG_WORD, AT(data.order), "shuffled", WORDS(order_words),
     .help = "order of the samples within an epoch"},
    {"data", "sequence", MPT_CONFIG_INT, AT(data.sequence), "0", 0, 0x1p24,
     .help = "tokens of one sequence, at most `model.context`; 0: `model.context`"},

    {"train", "steps", MPT_CONFIG_INT, AT(train.steps), "1000", 1, MANY,
     .help = "steps of the run; a skipped step counts"},
    {"train", "global_batch", MPT_CONFIG_INT, AT(train.global_batch), "64", 1, 0x1p31,
     .help = "sequences of one step over all ranks; a multiple of `micro_batch` × ranks"},
    {"train", "micro_batch", MPT_CONFIG_INT, AT(train.micro_batch), "4", 1, 0x1p20,
     .help = "sequences that a rank computes at once; the rest of its share is accumulated"},
    {"train", "seed", MPT_CONFIG_SEED, AT(train.seed), "1234",
     .help = "seed of initial weights and data order"},
    {"train", "lr", MPT_CONFIG_FLOAT, AT(train.lr), "6e-4", 0, 1000, .help = "peak learning rate"},
    {"train", "warmup", MPT_CONFIG_INT, AT(train.warmup), "100", 0, MANY,
     .help = "steps of linear warm-up to `lr`, at most `steps`; 0: none"},
    {"train", "schedule", MPT_CONFIG_WORD, AT(train.schedule), "cosine", WORDS(schedule_words),
     .help = "learning rate after warm-up; `wsd` stays, then falls linearly over the last fifth"},
    {"train", "min_lr", MPT_CONFIG_FLOAT, AT(train.min_lr), "6e-5", 0, 1000,
     .help = "learning rate at the end of the schedule, at most `lr`"},
    {"train", "weight_decay", MPT_CONFIG_FLOAT, AT(train.weight_decay), "0.1", 0, 1000,
     .help = "AdamW's decay, on matrices only; 0: none"},
    {"train", "beta1", MPT_CONFIG_FLOAT, AT(train.beta1), "0.9", 0, 1, MPT_CONFIG_BELOW_MAX,
     .help = "Adam's decay of the first moment"},
    {"train", "beta2", MPT_CONFIG_FLOAT, AT(train.beta2), "0.95", 0, 1, MPT_CONFIG_BELOW_MAX,
     .help = "Adam's decay of the second moment"},
    {"train", "eps", MPT_CONFIG_FLOAT, AT(train.eps), "1e-8", 1e-30, 1,
     .help = "added to Adam's denominator"},
    {"train", "clip", MPT_CONFIG_FLOAT, AT(train.clip), "1.0", 0, 1e30,
     .help =
         "largest global gradient norm; larger gradients are scaled down to it; 0: no clipping"},
    {"train", "val_every", MPT_CONFIG_INT, AT(train.val_every), "100", 0, MANY,
     .help = "steps between validations; 0: none"},
    {"train", "val_batches", MPT_CONFIG_INT, AT(train.val_batches), "16", 1, MANY,
     .help = "batches of `global_batch` sequences in one validation; past the end of `data.val` it starts again"},
    {"train", "ema", MPT_CONFIG_FLOAT, AT(train.ema), "0", 0, 1,
     MPT_CONFIG_BELOW_MAX,
     .help = "decay of an FP32 moving average of the weights, which validation and `sample --ema` can use; 0: none"},
    {"train", "recompute", MPT_CONFIG_WORD, AT(train.recompute), "none", WORDS(recompute_words),
     .help = "activations to compute again in backward in place of keeping them"},
    {"train", "pack_weights", MPT_CONFIG_WORD, AT(train.pack_weights), "auto", WORDS(pack_words),
     .help = "keep matrices a second time, laid out as products read them: faster, the same bits; `auto`: where a rank holds all weights (`ddp`, `zero1`, `zero2`)"},
    {"train", "check_every", MPT_CONFIG_INT, AT(train.check_every), "0", 0, MANY,
     .help = "steps between comparisons of what several ranks hold alike, by hashes; a checkpoint is compared before it counts; 0: none"},
    {"train", "reproducible", MPT_CONFIG_WORD, AT(train.reproducible), "run",
     WORDS(reproducible_words),
     .help =
         "same bits: `run` for the same number of ranks, `world` for every power of two up to `lanes`; `off` makes no promise"},
    {"train", "lanes", MPT_CONFIG_INT, AT(train.lanes), "8", 1, 4096, MPT_CONFIG_POWER_OF_TWO,
     .help = "pieces of the batch that are summed in one fixed tree under `reproducible = world`: the most ranks that give the same bits"},

    {"precision", "compute", MPT_CONFIG_WORD, AT(precision.compute), "bf16", WORDS(compute_words),
     .help = "type of working weights and activations; `tf32`: FP32, rounded to TF32 where linear layers multiply"},
    {"precision", "accumulate", MPT_CONFIG_WORD, AT(precision.accumulate), "fp32",
     WORDS(accumulate_words), .help = "type in which gradients accumulate over micro-steps"},
    {"precision", "reduce", MPT_CONFIG_WORD, AT(precision.reduce), "auto", WORDS(reduce_words),
     .help = "type of gradients on the wire; `auto`: the compute type, under tf32 `fp32`"},
    {"precision", "rounding", MPT_CONFIG_WORD, AT(precision.rounding), "nearest",
     WORDS(rounding_words), .help = "rounding of 16-bit working weights after an update: to `nearest`, or `stochastic` by the distance"},
    {"precision", "master", MPT_CONFIG_WORD, AT(precision.master_fp32), "fp32", WORDS(master_words),
     .help = "master weights that the optimizer updates; `none`: it updates the working weights, which need `rounding = stochastic` if they are 16-bit"},
    {"precision", "loss_scale", MPT_CONFIG_SCALE, AT(precision.fixed_scale), "auto", SMALLEST_SCALE,
     LARGEST_SCALE, MPT_CONFIG_POWER_OF_TWO,
     .help = "factor on the loss; `auto`: `dynamic` where compute or reduce is fp16, else 1"},
    {"precision", "init_scale", MPT_CONFIG_FLOAT, AT(precision.init_scale), "65536", SMALLEST_SCALE,
     LARGEST_SCALE, MPT_CONFIG_POWER_OF_TWO, .help = "the dynamic scale at the start"},
    {"precision", "growth", MPT_CONFIG_FLOAT, AT(precision.growth), "2", 1, 65536,
     MPT_CONFIG_ABOVE_MIN | MPT_CONFIG_POWER_OF_TWO,
     .help = "factor on the scale after `growth_interval` clean steps"},
    {"precision", "backoff", MPT_CONFIG_FLOAT, AT(precision.backoff), "0.5", 0, 1,
     MPT_CONFIG_ABOVE_MIN | MPT_CONFIG_BELOW_MAX | MPT_CONFIG_POWER_OF_TWO,
     .help = "factor on the scale after an overflow"},
    {"precision", "growth_interval", MPT_CONFIG_INT, AT(precision.growth_interval), "2000", 1, MANY,
     .help = "clean steps in a row before the scale grows"},
    {"precision", "hysteresis", MPT_CONFIG_INT, AT(precision.hysteresis), "1", 1, MANY,
     .help = "the scale falls from this many overflows since its last growth on; 1: at every one"},
    {"precision", "min_scale", MPT_CONFIG_FLOAT, AT(precision.min_scale), "1", SMALLEST_SCALE,
     LARGEST_SCALE, MPT_CONFIG_POWER_OF_TWO, .help = "floor of the dynamic scale"},
    {"precision", "max_scale", MPT_CONFIG_FLOAT, AT(precision.max_scale), "16777216",
     SMALLEST_SCALE, LARGEST_SCALE, MPT_CONFIG_POWER_OF_TWO,
     .help = "ceiling of the dynamic scale"},
    {"precision", "max_skips", MPT_CONFIG_INT, AT(precision.max_skips), "100", 1, MANY,
     .help = "skipped steps in a row, at the floor or with a fixed scale, that end the run"},

    {"parallel", "shard", MPT_CONFIG_WORD, AT(parallel.shard), "zero2", WORDS(shard_words),
     .help = "what is split over the ranks: nothing (`ddp`), masters and optimizer (`zero1`), gradients too (`zero2`), weights too (`zero3`), the same within groups of `shard_ranks` (`hsdp`)"},
    {"parallel", "shard_ranks", MPT_CONFIG_INT, AT(parallel.shard_ranks), "0", 0, 65536,
     .help = "ranks that share one copy under `hsdp`: a power of two that divides the ranks"},
    {"parallel", "reduce_every", MPT_CONFIG_WORD, AT(parallel.reduce_every), "step",
     WORDS(reduce_every_words), .help = "reduce gradients once a step, or in every micro-step: less memory, more traffic"},

    {"comm", "timeout_s", MPT_CONFIG_FLOAT, AT(comm.timeout_s), "15", 0, 1e6, MPT_CONFIG_ABOVE_MIN,
     .help = "seconds that a rank waits for another before it ends the run with an error"},
    {"comm", "heartbeat_s", MPT_CONFIG_FLOAT, AT(comm.heartbeat_s), "1", 0, 1e6,
     MPT_CONFIG_ABOVE_MIN | MPT_CONFIG_DEFAULT_ONLY, .help = "seconds between heartbeats"},
    {"comm", "overlap", MPT_CONFIG_WORD, AT(comm.overlap), "auto", WORDS(overlap_words),
     .help = "communicate on a thread of its own while the others compute; `auto`: where a core is to spare, or the ranks are on several hosts"},

    {"checkpoint", "dir", MPT_CONFIG_TEXT, AT(checkpoint.dir), "run", .flags = MPT_CONFIG_REQUIRED,
     .help = "folder of the checkpoints; created"},
    {"checkpoint", "every", MPT_CONFIG_INT, AT(checkpoint.every), "100", 0, MANY,
     .help = "steps between checkpoints; one is also saved at the end; 0: none"},
    {"checkpoint", "keep", MPT_CONFIG_INT, AT(checkpoint.keep), "3", 1, 1000000,
     .help = "newest checkpoints to keep"},
    {"checkpoint", "async", MPT_CONFIG_BOOL, AT(checkpoint.async), "true",
     .help = "write in the background, from a copy, while training goes on"},

    {"log", "dir", MPT_CONFIG_TEXT, AT(log.dir), "run", .flags = MPT_CONFIG_REQUIRED,
     .help = "folder of `metrics.jsonl`, one run's at a time; created"},
    {"log", "every", MPT_CONFIG_INT, AT(log.every), "1", 0, MANY,
     .help = "steps between lines on standard output; 0: none"},
};

_Static_assert(COUNT(rows) < MPT_CONFIG_MAX_ROWS, "readers keep arrays of that many rows");

int mpt_config_row_count(void)
{
    return COUNT(rows);
}

const mpt_config_row_t *mpt_config_row(int index)
{
    return &rows[index];
}
