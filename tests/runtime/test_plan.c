#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "comm.h"
#include "gpt2.h"
#include "kernels.h"
#include "mpt.h"
#include "scratch.h"

#define GPT2 "model { layers = 12 heads = 12 dim = 768 context = 1024 vocab = 50257 }\n"
#define SMALL "model { layers = 3 heads = 4 dim = 64 context = 32 vocab = 100 }\n"

static void hear(void *ctx, mpt_log_severity_t severity, const char *line)
{
    scratch_hear(ctx, (mpt_log_level_t)severity, line);
}

static mpt_status_t try_plan(scratch_t *s, const char *text, int ranks, mpt_plan_t *plan_p)
{
    mpt_config_source_t source = {.text = text, .path = "test.cfg"};
    return mpt_plan(&source, ranks, plan_p, hear, s);
}

/* The plan of `model` with settings after it; data and batch are filled in. */
static mpt_plan_t plan_of(scratch_t *s, const char *model, const char *settings, int ranks)
{
    char text[1024];
    mpt_plan_t plan;
    snprintf(text, sizeof text,
             "threads = 1\ndata { train = \"x.bin\" }\ntrain { global_batch = 32 micro_batch = 2 "
             "val_every = 0 }\n%s%s",
             model, settings);
    scratch_forget(s);
    if (try_plan(s, text, ranks, &plan) != MPT_OK)
        fail_msg("%s", s->said);
    return plan;
}

/* The same with a mode: a config's text may have each section once. */
static mpt_plan_t mode_plan(scratch_t *s, const char *const *set, int ranks)
{
    int count = 0;
    mpt_plan_t plan;
    while (set[count] != NULL)
        count++;
    mpt_config_source_t source = {.text = "threads = 1\ndata { train = x.bin }\ntrain { global_batch = 32 micro_batch = 2 "
                                          "val_every = 0 }\nprecision { compute = bf16 }\n" GPT2,
                                  .path = "test.cfg",
                                  .overrides = set,
                                  .override_count = count};
    scratch_forget(s);
    if (mpt_plan(&source, ranks, &plan, hear, s) != MPT_OK)
        fail_msg("%s", s->said);
    return plan;
}

static int64_t row(const mpt_plan_t *plan, const char *use)
{
    for (int i = 0; i < plan->memory_rows; i++)
        if (strcmp(plan->memory[i].use, use) == 0)
            return plan->memory[i].bytes;
    return 0;
}

static void the_bytes_are_the_sum_of_the_rows(void **state)
{
    scratch_t *s = *state;
    for (int ranks = 1; ranks <= 16; ranks *= 2) {
        mpt_plan_t plan = plan_of(s, SMALL, "precision { compute = bf16 }", ranks);
        int64_t sum = 0;
        for (int i = 0; i < plan.memory_rows; i++) {
            assert_true(plan.memory[i].bytes > 0);
            assert_int_equal(plan.memory[i].bytes % 64, 0);
            sum += plan.memory[i].bytes;
        }
        assert_int_equal(plan.bytes, sum);
        assert_int_equal(plan.ranks, ranks);
        assert_int_equal(plan.micro_steps, 16 / ranks);
        assert_int_equal(plan.tokens_per_step, 32 * 32);
    }
}

/* The textbook's 16 bytes a parameter and the accumulator's 4, with the padding that plan also tells. */
static void a_bf16_ddp_rank_holds_twenty_bytes_a_parameter(void **state)
{
    scratch_t *s = *state;
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        mpt_plan_t plan = mode_plan(s, (const char *[]){"parallel.shard=ddp", NULL}, ranks);
        int64_t n = plan.padded_parameters;
        assert_int_equal(plan.parameters, 124439808);
        assert_true(n >= plan.parameters && (double)n <= 1.001 * (double)plan.parameters);
        assert_int_equal(row(&plan, "weights"), 2 * n);
        assert_int_equal(row(&plan, "masters"), 4 * n);
        assert_int_equal(row(&plan, "moments"), 8 * n);
        assert_int_equal(row(&plan, "accumulators"), 4 * n);
        assert_int_equal(row(&plan, "gradients"), 2 * n);
        assert_string_equal(plan.shard, "ddp");
        assert_int_equal(plan.shard_ranks, 1);
    }
}

/* ---- shard modes ------------------------------------------------------------------------------------------------ */

/* GPT-2 124M: embeddings of a vocabulary padded to 50304, twelve blocks, the last norm; each to a multiple of 64 * pieces. */
typedef struct sizes {
    int64_t embeddings, block, total, window;
} sizes_t;

static int64_t padded(int64_t count, int64_t pieces)
{
    return (count + 64 * pieces - 1) / (64 * pieces) * (64 * pieces);
}

static sizes_t gpt2_sizes(int64_t pieces)
{
    sizes_t n = {.embeddings = padded((50304 + 1024) * 768, pieces), .block = padded(12 * 768 * 768 + 13 * 768, pieces)};
    n.total = n.embeddings + 12 * n.block + padded(2 * 768, pieces);
    n.window = n.embeddings + 2 * n.block;
    return n;
}

typedef struct shard_case {
    const char *set[4];
    int group_of; /* a slice is one of ranks / group_of */
    int weights, optimizer, gradients; /* 1: sliced */
} shard_case_t;

static const shard_case_t shard_cases[] = {
    {{"parallel.shard=ddp"}, 1, 0, 0, 0},
    {{"parallel.shard=zero1"}, 1, 0, 1, 0},
    {{"parallel.shard=zero2"}, 1, 0, 1, 1},
    {{"parallel.shard=zero3"}, 1, 1, 1, 1},
    {{"parallel.shard=hsdp", "parallel.shard_ranks=4"}, 2, 1, 1, 1},
    {{"parallel.shard=hsdp", "parallel.shard_ranks=1"}, 8, 1, 1, 1},
};
#define SHARD_CASES ((int)(sizeof shard_cases / sizeof *shard_cases))

static mpt_plan_t case_plan(scratch_t *s, const shard_case_t *c, const char *first, const char *second)
{
    const char *set[8] = {NULL};
    int count = 0;
    for (; count < 4 && c->set[count] != NULL; count++)
        set[count] = c->set[count];
    set[count++] = first;
    set[count] = second;
    return mode_plan(s, set, 8);
}

static void assert_sharded(const mpt_plan_t *plan, const shard_case_t *c, int64_t accumulators, int64_t gradients)
{
    sizes_t n = gpt2_sizes(8);
    int64_t slice = n.total / (8 / c->group_of), owned = c->optimizer ? slice : n.total;
    assert_int_equal(plan->padded_parameters, n.total);
    assert_int_equal(row(plan, "weights"), 2 * (c->weights ? slice + n.window : n.total));
    assert_int_equal(row(plan, "masters"), 4 * owned);
    assert_int_equal(row(plan, "moments"), 8 * owned);
    assert_int_equal(row(plan, "accumulators"), accumulators);
    assert_int_equal(row(plan, "gradients"), gradients);
    assert_int_equal(plan->shard_ranks, c->optimizer ? 8 / c->group_of : 1);
}

static void each_mode_holds_whole_slice_or_window(void **state)
{
    scratch_t *s = *state;
    sizes_t n = gpt2_sizes(8);
    for (int i = 0; i < SHARD_CASES; i++) {
        const shard_case_t *c = &shard_cases[i];
        int64_t slice = n.total / (8 / c->group_of), sliced = 2 * (n.window + slice);
        mpt_plan_t several = case_plan(s, c, "parallel.reduce_every=step", NULL);
        assert_int_equal(several.micro_steps, 2);
        assert_int_equal(several.reductions, 1);
        assert_sharded(&several, c, 4 * n.total, c->gradients ? sliced : 2 * n.total);
        mpt_plan_t one = case_plan(s, c, "train.micro_batch=4", NULL);
        assert_sharded(&one, c, 4 * (c->gradients ? n.window : n.total), c->gradients ? sliced : 2 * n.total);
        /* Slices add up over micro-steps in FP32, in ddp all of it. */
        mpt_plan_t micro = case_plan(s, c, "parallel.reduce_every=micro", NULL);
        assert_int_equal(micro.reductions, 2);
        assert_sharded(&micro, c, 4 * n.window, 2 * n.window + 4 * (c->optimizer ? slice : n.total));
    }
}

static void an_average_and_no_masters_are_as_large_as_masters(void **state)
{
    scratch_t *s = *state;
    for (int i = 0; i < SHARD_CASES; i++) {
        mpt_plan_t plain = case_plan(s, &shard_cases[i], "train.seed=1", NULL);
        mpt_plan_t ema = case_plan(s, &shard_cases[i], "train.ema=0.99", NULL);
        mpt_plan_t none = case_plan(s, &shard_cases[i], "precision.master=none", "precision.rounding=stochastic");
        assert_int_equal(row(&plain, "ema"), 0);
        assert_int_equal(row(&ema, "ema"), row(&plain, "masters"));
        assert_int_equal(row(&none, "masters"), 0);
        assert_int_equal(plain.bytes - none.bytes, row(&plain, "masters"));
        /* and an asynchronous save copies one array more of what the rank writes: an eighth */
        assert_int_equal(ema.bytes - plain.bytes, row(&plain, "masters") + 4 * plain.padded_parameters / 8);
    }
}

/* Two lanes a rank, then one: two and one sums of gradients, and padding for all lanes. */
static void world_takes_a_sum_for_every_unfinished_lane(void **state)
{
    scratch_t *s = *state;
    for (int i = 0; i < SHARD_CASES; i++)
        for (int lanes = 8; lanes <= 16; lanes *= 2) {
            sizes_t n = gpt2_sizes(lanes);
            mpt_plan_t plan = case_plan(s, &shard_cases[i], "train.reproducible=world",
                                        lanes == 8 ? "train.lanes=8" : "train.lanes=16");
            assert_int_equal(plan.padded_parameters, n.total);
            assert_string_equal(plan.reduce, "fp32");
            assert_int_equal(row(&plan, "accumulators"), 4 * n.total * (lanes / 8));
            assert_int_equal(row(&plan, "gradients"), 0);
        }
}

static void every_mode_of_one_rank_holds_everything(void **state)
{
    scratch_t *s = *state;
    for (int i = 0; i < SHARD_CASES; i++) {
        if (i == 4) /* groups of four */
            continue;
        mpt_plan_t plan = mode_plan(s, shard_cases[i].set, 1);
        assert_int_equal(row(&plan, "masters"), 4 * plan.padded_parameters);
        assert_int_equal(row(&plan, "moments"), 8 * plan.padded_parameters);
    }
}

static void sharding_more_takes_less(void **state)
{
    scratch_t *s = *state;
    int64_t before = INT64_MAX;
    for (int i = 0; i < 4; i++) {
        mpt_plan_t plan = case_plan(s, &shard_cases[i], "train.micro_batch=4", NULL); /* one micro-step */
        assert_true(plan.bytes < before);
        before = plan.bytes;
    }
}

/* ---- communicators ---------------------------------------------------------------------------------------------- */

static void every_communicator_counts_its_segment(void **state)
{
    scratch_t *s = *state;
    for (int ranks = 1; ranks <= 16; ranks *= 2) {
        mpt_plan_t plan = mode_plan(s, (const char *[]){"parallel.shard=zero2", NULL}, ranks);
        assert_int_equal(row(&plan, "communicators"), ranks > 1 ? mpt_comm_own_bytes("shm", ranks, ranks) : 0);
        assert_string_equal(plan.comm, ranks > 1 ? "shm" : "self");
        assert_int_equal(plan.hosts, 1);
    }
    mpt_plan_t hsdp = mode_plan(s, (const char *[]){"parallel.shard=hsdp", "parallel.shard_ranks=4", NULL}, 16);
    assert_int_equal(row(&hsdp, "communicators"), mpt_comm_own_bytes("shm", 16, 16) + 2 * mpt_comm_own_bytes("shm", 4, 4));
}

/* A plan cannot see the hosts; MPT_COMM can speak of them. */
static void a_plan_says_which_hosts_and_backend_it_assumes(void **state)
{
    scratch_t *s = *state;
    const char *hsdp_set[] = {"parallel.shard=hsdp", "parallel.shard_ranks=2", NULL};
    setenv("MPT_COMM", "mpi", 1);
    mpt_plan_t mpi = mode_plan(s, (const char *[]){NULL}, 8);
    mpt_plan_t mpi_hsdp = mode_plan(s, hsdp_set, 8);
    setenv("MPT_COMM", "hier", 1);
    mpt_plan_t hier = mode_plan(s, (const char *[]){NULL}, 8);
    mpt_plan_t hier_hsdp = mode_plan(s, hsdp_set, 8);
    unsetenv("MPT_COMM");
    assert_string_equal(mpi.comm, "mpi");
    assert_int_equal(mpi.hosts, 0);
    assert_int_equal(row(&mpi, "communicators"), mpt_comm_own_bytes("mpi", 8, 8));
    assert_int_equal(row(&mpi_hsdp, "communicators"),
                     mpt_comm_own_bytes("mpi", 8, 8) + mpt_comm_child_bytes("mpi", 2, 1) + mpt_comm_child_bytes("mpi", 4, 1));
    assert_string_equal(hier.comm, "hier");
    assert_int_equal(hier.hosts, 2);
    assert_int_equal(row(&hier, "communicators"), mpt_comm_own_bytes("hier", 8, 4));
    /* Copies of two ranks on a host; across, two of every host. */
    assert_int_equal(row(&hier_hsdp, "communicators"), mpt_comm_own_bytes("hier", 8, 4) + mpt_comm_own_bytes("shm", 2, 2) +
                                                           mpt_comm_child_bytes("hier", 4, 2));
}

static void hosts_that_cannot_be_are_refused(void **state)
{
    scratch_t *s = *state;
    static const char text[] = "data { train = x.bin }\ntrain { global_batch = 32 micro_batch = 2 val_every = 0 }\n" SMALL;
    mpt_plan_t plan;
    setenv("MPT_COMM", "hier", 1);
    mpt_status_t two = try_plan(s, text, 2, &plan);
    assert_non_null(strstr(s->said, "MPT_COMM=hier: 2 ranks make no two hosts"));
    setenv("MPT_COMM", "tcp", 1);
    mpt_status_t unknown = try_plan(s, text, 2, &plan);
    unsetenv("MPT_COMM");
    assert_int_equal(two, MPT_ERR_CONFIG);
    assert_int_equal(unknown, MPT_ERR_CONFIG);
    assert_non_null(strstr(s->said, "MPT_COMM=tcp: not one of self, mpi, shm, hier"));
}

static void hsdp_needs_room_for_one_units_partial_sum(void **state)
{
    scratch_t *s = *state;
    sizes_t n = gpt2_sizes(8);
    mpt_plan_t zero3 = case_plan(s, &shard_cases[3], "train.seed=1", NULL);
    for (int i = 4; i < SHARD_CASES; i++) {
        mpt_plan_t hsdp = case_plan(s, &shard_cases[i], "train.seed=1", NULL);
        assert_int_equal(row(&hsdp, "comm") - row(&zero3, "comm"), 4 * n.embeddings / (8 / shard_cases[i].group_of));
    }
}

/* ---- types and activations ------------------------------------------------------------------------------------------- */

static void with_an_fp32_wire_the_accumulator_is_the_gradient(void **state)
{
    scratch_t *s = *state;
    mpt_plan_t plan = plan_of(s, SMALL, "precision { compute = fp32 } parallel { shard = ddp }", 2);
    int64_t n = plan.padded_parameters;
    assert_int_equal(row(&plan, "weights"), 4 * n);
    assert_int_equal(row(&plan, "masters"), 4 * n);
    assert_int_equal(row(&plan, "accumulators"), 4 * n);
    assert_int_equal(row(&plan, "gradients"), 0);
    plan = plan_of(s, SMALL, "precision { compute = fp32 }", 2); /* zero2: the sum lies in the accumulator too */
    assert_int_equal(row(&plan, "accumulators"), 4 * n);
    assert_int_equal(row(&plan, "gradients"), 0);
    plan = plan_of(s, SMALL, "precision { compute = bf16 reduce = fp32 } parallel { shard = ddp }", 2);
    assert_int_equal(row(&plan, "weights"), 2 * n);
    assert_int_equal(row(&plan, "gradients"), 0);
    assert_string_equal(plan.compute, "bf16");
    assert_string_equal(plan.reduce, "fp32");
}

/* What stays FP32 among the activations: each norm's mean and 1/deviation, and attention's log-sums. */
static int64_t statistics_bytes(int64_t rows, int64_t layers, int64_t heads)
{
    return 4 * (rows * (4 * layers + 2) + rows * heads * layers);
}

static void sixteen_bit_activations_are_half_but_for_the_statistics(void **state)
{
    scratch_t *s = *state;
    static const struct {
        const char *model;
        int64_t rows, layers, heads, dim;
    } cases[] = {{GPT2, 2 * 1024, 12, 12, 768}, {SMALL, 2 * 32, 3, 4, 64}};
    for (int i = 0; i < 2; i++) {
        mpt_plan_t wide = plan_of(s, cases[i].model, "precision { compute = fp32 }", 1);
        mpt_plan_t bf16 = plan_of(s, cases[i].model, "precision { compute = bf16 }", 1);
        mpt_plan_t fp16 = plan_of(s, cases[i].model, "precision { compute = fp16 }", 1);
        int64_t statistics = statistics_bytes(cases[i].rows, cases[i].layers, cases[i].heads);
        int64_t numbers = cases[i].rows * cases[i].dim * (16 * cases[i].layers + 2);
        assert_int_equal(row(&wide, "activations"), 4 * numbers + statistics);
        assert_int_equal(row(&bf16, "activations"), 2 * numbers + statistics);
        assert_int_equal(row(&fp16, "activations"), 2 * numbers + statistics);
    }
}

/* Of what is computed again one block's worth is held; of every block its input stays. */
static void recompute_keeps_one_block_of_what_it_computes_again(void **state)
{
    scratch_t *s = *state;
    const int64_t rows = 2 * 1024, layers = 12, stat = 4 * rows, heads = 12;
    mpt_plan_t keep = case_plan(s, &shard_cases[0], "train.recompute=none", NULL);
    mpt_plan_t attention = case_plan(s, &shard_cases[0], "train.recompute=attention", NULL);
    mpt_plan_t block = case_plan(s, &shard_cases[0], "train.recompute=block", NULL);
    assert_int_equal(row(&keep, "activations"),
                     2 * rows * 768 * (16 * layers + 2) + stat * (4 * layers + 2 + heads * layers));
    assert_int_equal(row(&attention, "activations"),
                     2 * rows * 768 * (11 * layers + 5 + 2) + stat * (4 * layers + 2 + heads));
    assert_int_equal(row(&block, "activations"), 2 * rows * 768 * (layers + 15 + 2) + stat * (4 + 2 + heads));
    assert_int_equal(keep.bytes - block.bytes, row(&keep, "activations") - row(&block, "activations"));
}

/* The loss never holds batch x seq x vocab numbers: its chunk does not grow with the batch. */
static void the_losss_memory_does_not_grow_with_the_batch(void **state)
{
    scratch_t *s = *state;
    static const char text[] = "threads = 1\ndata { train = \"x.bin\" }\ntrain { global_batch = 8 "
                               "micro_batch = %d }\n" GPT2 "precision { compute = bf16 }";
    int64_t scratch[2];
    for (int i = 0; i < 2; i++) {
        char config[512];
        mpt_plan_t plan;
        snprintf(config, sizeof config, text, i == 0 ? 1 : 8);
        assert_int_equal(try_plan(s, config, 1, &plan), MPT_OK);
        scratch[i] = row(&plan, "scratch");
    }
    assert_true(scratch[1] - scratch[0] < (int64_t)7 * 1024 * 50304); /* below a byte a logit */
}

static void only_an_asynchronous_save_needs_a_snapshot(void **state)
{
    scratch_t *s = *state;
    for (int ranks = 1; ranks <= 4; ranks *= 2) {
        mpt_plan_t async = plan_of(s, SMALL, "checkpoint { async = true }", ranks);
        mpt_plan_t sync = plan_of(s, SMALL, "checkpoint { async = false }", ranks);
        mpt_plan_t never = plan_of(s, SMALL, "checkpoint { every = 0 }", ranks);
        assert_int_equal(row(&async, "snapshot"), 3 * 4 * async.padded_parameters / ranks);
        assert_int_equal(row(&sync, "snapshot"), 0);
        assert_int_equal(row(&never, "snapshot"), 0);
        assert_int_equal(async.bytes - row(&async, "snapshot"), sync.bytes);
    }
}

static void flops_follow_three_named_conventions(void **state)
{
    scratch_t *s = *state;
    mpt_plan_t plan = plan_of(s, GPT2, "", 1);
    assert_true(plan.flops_6nd_per_token == 6.0 * 124439808);
    assert_true(plan.flops_model_per_token == 6.0 * 124439808 + 12.0 * 12 * 12 * 64 * 1024);
    assert_true(plan.flops_causal_per_token == 6.0 * 124439808 + 6.0 * 12 * 12 * 64 * 1024);
    assert_true(plan.chinchilla_tokens == 20.0 * 124439808);
}

static void shorter_sequences_cost_less_attention(void **state)
{
    scratch_t *s = *state;
    mpt_config_source_t source = {
        .text = "data { train = x sequence = 256 }\ntrain { global_batch = 4 }\n" GPT2,
        .path = "t"};
    mpt_plan_t plan;
    assert_int_equal(mpt_plan(&source, 1, &plan, hear, s), MPT_OK);
    assert_true(plan.flops_model_per_token == 6.0 * 124439808 + 12.0 * 12 * 768 * 256);
}

/* A cell of docs/numerics.md in one run; what stands in parentheses is a note. */
static const char *meaning(char *cell, const char *compute, const char *wire, const char *sum)
{
    const char *memory = strcmp(compute, "tf32") == 0 ? "fp32" : compute;
    char *note = strstr(cell, " (");
    if (note != NULL)
        *note = '\0';
    return strcmp(cell, "compute") == 0                      ? memory
           : strcmp(cell, "compute, or TF32 of FP32") == 0 ? compute
           : strcmp(cell, "FP32") == 0                       ? "fp32"
           : strcmp(cell, "wire") == 0                       ? wire
           : strcmp(cell, "sum") == 0                        ? sum
                                                             : cell;
}

/* The five cells after `op` in its row of docs/numerics.md; free what is returned. */
static char *find_cells(const char *op, char *cells[5])
{
    char start[64], *page = scratch_read(MPT_SOURCE_DIR "/docs/numerics.md", NULL);
    assert_non_null(page);
    snprintf(start, sizeof start, "\n| %s | ", op);
    char *row = strstr(page, start);
    if (row == NULL)
        fail_msg("docs/numerics.md: no row for %s", op);
    row += strlen(start);
    for (int i = 0; i < 5; i++) {
        char *end = strstr(row, " |");
        assert_non_null(end);
        *end = '\0';
        cells[i] = row;
        row = end + strlen(" | ");
    }
    return page;
}

static void check_page(scratch_t *s, const char *compute, const char *reduce, int micro)
{
    char settings[256];
    snprintf(settings, sizeof settings, "precision { compute = %s reduce = %s }\nparallel { reduce_every = %s }\n", compute,
             reduce, micro ? "micro" : "step");
    mpt_plan_t plan = plan_of(s, SMALL, settings, 2);
    assert_int_equal(plan.precision_rows, MPT_OP_COUNT);
    for (int op = 0; op < plan.precision_rows; op++) {
        const char *const printed[] = {plan.precision[op].input, plan.precision[op].math, plan.precision[op].accumulate,
                                       plan.precision[op].output, plan.precision[op].gradient};
        assert_string_equal(plan.precision[op].op, mpt_op_name((mpt_op_t)op));
        char *cells[5], *page = find_cells(plan.precision[op].op, cells);
        for (int i = 0; i < 5; i++)
            assert_string_equal(printed[i], meaning(cells[i], compute, plan.reduce, micro ? "fp32" : plan.reduce));
        free(page);
    }
}

static void the_precision_table_is_that_of_the_documentation(void **state)
{
    scratch_t *s = *state;
    static const char *const types[] = {"fp32", "tf32", "bf16", "fp16"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int k = 0; k < 4; k++)
            check_page(s, types[i], k % 2 ? "fp32" : "auto", k / 2);
}

static void the_optimizer_reads_what_the_sum_is_left_in(void **state)
{
    scratch_t *s = *state;
    mpt_plan_t plan = plan_of(s, SMALL, "precision { compute = bf16 reduce = fp32 }", 1);
    assert_string_equal(plan.precision[MPT_OP_LINEAR].math, "bf16");
    assert_string_equal(plan.precision[MPT_OP_REDUCE].input, "fp32");
    assert_string_equal(plan.precision[MPT_OP_OPTIMIZER].input, "fp32");
    plan = plan_of(s, SMALL, "precision { compute = bf16 } parallel { reduce_every = micro }", 1);
    assert_string_equal(plan.precision[MPT_OP_REDUCE].input, "bf16");
    assert_string_equal(plan.precision[MPT_OP_OPTIMIZER].input, "fp32");
}

static void a_batch_that_does_not_divide_is_refused(void **state)
{
    scratch_t *s = *state;
    mpt_plan_t plan = {.ranks = 77};
    const char *text = "data { train = x }\ntrain { global_batch = 12 micro_batch = 4 }\n" SMALL;
    assert_int_equal(try_plan(s, text, 3, &plan), MPT_OK);
    plan.ranks = 77;
    assert_int_equal(try_plan(s, text, 2, &plan), MPT_ERR_CONFIG);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "global_batch"));
    assert_int_equal(plan.ranks, 77);
    assert_int_equal(try_plan(s, text, 0, &plan), MPT_ERR_CONFIG);
}

static void config_errors_name_file_and_line(void **state)
{
    scratch_t *s = *state;
    mpt_plan_t plan;
    assert_int_equal(try_plan(s, "threads = 1\nthraeds = 2\n", 1, &plan), MPT_ERR_CONFIG);
    assert_non_null(strstr(s->said, "test.cfg:2"));
    scratch_forget(s);
    mpt_config_source_t missing = {.path = scratch_path(s, "missing.cfg")};
    assert_int_equal(mpt_plan(&missing, 1, &plan, hear, s), MPT_ERR_CONFIG);
    assert_non_null(strstr(s->said, "missing.cfg"));
}

static void a_file_and_overrides_work_as_a_text_does(void **state)
{
    scratch_t *s = *state;
    static const char text[] = "data { train = x }\n" SMALL;
    static const char *const overrides[] = {"model.layers=5", "precision.compute=fp16"};
    mpt_plan_t plan;
    scratch_write(scratch_path(s, "run.cfg"), text, strlen(text));
    mpt_config_source_t source = {
        .path = scratch_path(s, "run.cfg"), .overrides = overrides, .override_count = 2};
    if (mpt_plan(&source, 1, &plan, hear, s) != MPT_OK)
        fail_msg("%s", s->said);
    assert_string_equal(plan.compute, "fp16");
    mpt_plan_t three = plan_of(s, SMALL, "", 1);
    assert_int_equal(plan.parameters - three.parameters, 2 * (12 * 64 * 64 + 13 * 64));
}

/* The caller's descriptor stays open and the stream over it is not lost. */
static void the_config_table_is_written_to_a_descriptor(void **state)
{
    scratch_t *s = *state;
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path(s, "config.md"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(mpt_config_help(fileno(file)), MPT_OK);
    assert_int_equal(fclose(file), 0);
    char *text = scratch_read(path, NULL);
    assert_non_null(strstr(text, "global_batch"));
    assert_non_null(strstr(text, "MPT_INJECT"));
    free(text);
    assert_int_equal(mpt_config_help(-1), MPT_ERR_IO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_bytes_are_the_sum_of_the_rows),
        TEST(a_bf16_ddp_rank_holds_twenty_bytes_a_parameter),
        TEST(each_mode_holds_whole_slice_or_window),
        TEST(an_average_and_no_masters_are_as_large_as_masters),
        TEST(world_takes_a_sum_for_every_unfinished_lane),
        TEST(every_mode_of_one_rank_holds_everything),
        TEST(sharding_more_takes_less),
        TEST(every_communicator_counts_its_segment),
        TEST(a_plan_says_which_hosts_and_backend_it_assumes),
        TEST(hosts_that_cannot_be_are_refused),
        TEST(hsdp_needs_room_for_one_units_partial_sum),
        TEST(with_an_fp32_wire_the_accumulator_is_the_gradient),
        TEST(sixteen_bit_activations_are_half_but_for_the_statistics),
        TEST(recompute_keeps_one_block_of_what_it_computes_again),
        TEST(the_losss_memory_does_not_grow_with_the_batch),
        TEST(only_an_asynchronous_save_needs_a_snapshot),
        TEST(flops_follow_three_named_conventions),
        TEST(shorter_sequences_cost_less_attention),
        TEST(the_precision_table_is_that_of_the_documentation),
        TEST(the_optimizer_reads_what_the_sum_is_left_in),
        TEST(a_batch_that_does_not_divide_is_refused),
        TEST(config_errors_name_file_and_line),
        TEST(a_file_and_overrides_work_as_a_text_does),
        TEST(the_config_table_is_written_to_a_descriptor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
