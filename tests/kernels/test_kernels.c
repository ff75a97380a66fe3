/*
 * The checks in front of every call, on a backend that only counts: what is refused never reaches it, and is logged.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "kernels.h"

/* ---- a backend that counts --------------------------------------------------------------------------- */

/* The log's context: reached through k->log, so that nothing here is global. */
typedef struct recorder {
    int calls, lines;
    char line[512];
} recorder_t;

static void record_line(void *ctx, mpt_log_level_t level, const char *line)
{
    recorder_t *r = ctx;
    assert_int_equal(level, MPT_LOG_ERROR);
    r->lines++;
    snprintf(r->line, sizeof r->line, "%s", line);
}

static mpt_status_t count(mpt_kernels_t *k)
{
    ((recorder_t *)k->log->ctx)->calls++;
    return MPT_OK;
}

#define COUNTING(name)                                                                             \
    static mpt_status_t counting_##name(mpt_kernels_t *k, const mpt_##name##_t *a,                 \
                                        mpt_stream_t *s)                                           \
    {                                                                                              \
        (void)a;                                                                                   \
        (void)s;                                                                                   \
        return count(k);                                                                           \
    }
COUNTING(embed_forward)
COUNTING(embed_backward)
COUNTING(layernorm_forward)
COUNTING(layernorm_backward)
COUNTING(linear_forward)
COUNTING(linear_backward_input)
COUNTING(linear_backward_weight)
COUNTING(attention_forward)
COUNTING(attention_backward)
COUNTING(loss)
COUNTING(to_wire)
COUNTING(grad_scan)
COUNTING(adamw)
COUNTING(cast)
COUNTING(add)
COUNTING(hash)

static size_t counting_scratch(mpt_isa_t isa, int threads, const mpt_kernels_limits_t *limits)
{
    (void)isa;
    return (size_t)threads * (size_t)limits->rows;
}

static const mpt_kernels_ops_t counting = {
    .name = "counting",
    .scratch_bytes = counting_scratch,
    .embed_forward = counting_embed_forward,
    .embed_backward = counting_embed_backward,
    .layernorm_forward = counting_layernorm_forward,
    .layernorm_backward = counting_layernorm_backward,
    .linear_forward = counting_linear_forward,
    .linear_backward_input = counting_linear_backward_input,
    .linear_backward_weight = counting_linear_backward_weight,
    .attention_forward = counting_attention_forward,
    .attention_backward = counting_attention_backward,
    .loss = counting_loss,
    .to_wire = counting_to_wire,
    .grad_scan = counting_grad_scan,
    .adamw = counting_adamw,
    .cast = counting_cast,
    .add = counting_add,
    .hash = counting_hash,
};

typedef struct fixture {
    recorder_t recorder;
    mpt_log_t log;
    mpt_device_t device; /* without a pool: one thread */
    char scratch[64], memory[64];
    mpt_kernels_limits_t limits;
    mpt_kernels_t k;
} fixture_t;

static int set_up(void **state)
{
    fixture_t *f = test_calloc(1, sizeof *f);
    f->log =
        (mpt_log_t){.level = MPT_LOG_ERROR, .rank = -1, .sink = record_line, .ctx = &f->recorder};
    f->limits = (mpt_kernels_limits_t){.compute = MPT_BF16,
                                       .batch = 2,
                                       .seq = 8,
                                       .heads = 3,
                                       .head_dim = 4,
                                       .rows = 16,
                                       .dim = 12,
                                       .hidden = 48,
                                       .vocab_padded = 128,
                                       .loss_rows = 4};
    *state = f;
    return mpt_kernels_init(&f->k, &counting, &f->device, &f->log, MPT_ISA_PORTABLE, f->scratch, 16,
                            &f->limits) != MPT_OK;
}

static int tear_down(void **state)
{
    test_free(*state);
    return 0;
}

/* The last call went through. */
static void expect_accepted(fixture_t *f, mpt_status_t status)
{
    assert_int_equal(status, MPT_OK);
    assert_int_equal(f->recorder.calls, 1);
    assert_int_equal(f->recorder.lines, 0);
    f->recorder = (recorder_t){0};
}

/* The last call was refused, with one line that holds `what`. */
static void expect_refused(fixture_t *f, mpt_status_t status, const char *what)
{
    assert_int_equal(status, MPT_ERR_INVALID_ARG);
    assert_int_equal(f->recorder.calls, 0);
    assert_int_equal(f->recorder.lines, 1);
    if (!strstr(f->recorder.line, what))
        fail_msg("'%s' does not mention '%s'", f->recorder.line, what);
    f->recorder = (recorder_t){0};
}

/* ---- finding and setting up ---------------------------------------------------------------------------- */

static void backends_are_found_by_name(void **state)
{
    (void)state;
    assert_string_equal(mpt_kernels_find("ref")->name, "ref");
    assert_string_equal(mpt_kernels_find("cpu")->name, "cpu");
    assert_null(mpt_kernels_find("abacus"));
    assert_null(mpt_kernels_find(""));
}

static void set_up_refuses_too_little_scratch(void **state)
{
    fixture_t *f = *state;
    mpt_kernels_t k = {0};
    expect_refused(f,
                   mpt_kernels_init(&k, &counting, &f->device, &f->log, MPT_ISA_PORTABLE,
                                    f->scratch, 15, &f->limits),
                   "16 needed");
    expect_refused(f,
                   mpt_kernels_init(&k, &counting, &f->device, &f->log, MPT_ISA_PORTABLE, NULL, 16,
                                    &f->limits),
                   "scratch is NULL");
    assert_null(k.ops);
}

static void set_up_refuses_what_cannot_run(void **state)
{
    fixture_t *f = *state;
    mpt_kernels_t k = {0};
    mpt_kernels_limits_t limits = f->limits;
    if (mpt_isa_detect() < MPT_ISA_AMX)
        expect_refused(f,
                       mpt_kernels_init(&k, &counting, &f->device, &f->log, MPT_ISA_AMX, f->scratch,
                                        16, &limits),
                       "instruction level");
    expect_refused(f,
                   mpt_kernels_init(&k, &counting, &f->device, &f->log, MPT_ISA_COUNT, f->scratch,
                                    16, &limits),
                   "instruction level");
    limits.compute = MPT_F64;
    expect_refused(f,
                   mpt_kernels_init(&k, &counting, &f->device, &f->log, MPT_ISA_PORTABLE,
                                    f->scratch, 16, &limits),
                   "fp64");
    limits.compute = MPT_DTYPE_COUNT;
    expect_refused(f,
                   mpt_kernels_init(&k, &counting, &f->device, &f->log, MPT_ISA_PORTABLE,
                                    f->scratch, 16, &limits),
                   "compute");
    limits.compute = MPT_F32;
    limits.seq = -1;
    expect_refused(f,
                   mpt_kernels_init(&k, &counting, &f->device, &f->log, MPT_ISA_PORTABLE,
                                    f->scratch, 16, &limits),
                   "negative");
    assert_null(k.ops);
}

static void the_oracle_alone_runs_in_fp64(void **state)
{
    fixture_t *f = *state;
    mpt_kernels_t k = {0};
    f->limits.compute = MPT_F64;
    assert_int_equal(mpt_kernels_init(&k, mpt_kernels_find("ref"), &f->device, &f->log,
                                      MPT_ISA_PORTABLE, NULL, 0, &f->limits),
                     MPT_OK);
    expect_refused(f,
                   mpt_kernels_init(&k, mpt_kernels_find("cpu"), &f->device, &f->log,
                                    MPT_ISA_PORTABLE, f->scratch, sizeof f->scratch, &f->limits),
                   "fp64");
}

/* ---- calls ----------------------------------------------------------------------------------------------- */

/* Whether a call with `field` set to `value`, and otherwise right, is refused with `what`. */
#define REFUSED(f, call, good, field, value, what)                                                 \
    do {                                                                                           \
        __typeof__(good) a_ = (good);                                                              \
        a_.field = (value);                                                                        \
        expect_refused((f), call(&(f)->k, &a_, NULL), (what));                                     \
    } while (0)

static void embed_checks_its_arguments(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_embed_forward_t forward = {.compute = MPT_BF16,
                                   .batch = 2,
                                   .seq = 8,
                                   .dim = 12,
                                   .tokens = p,
                                   .wte = p,
                                   .wpe = p,
                                   .out = p};
    mpt_embed_backward_t backward = {.compute = MPT_BF16,
                                     .batch = 2,
                                     .seq = 8,
                                     .dim = 12,
                                     .tokens = p,
                                     .dout = p,
                                     .dwte = p,
                                     .dwpe = p};
    expect_accepted(f, mpt_embed_forward(&f->k, &forward, NULL));
    expect_accepted(f, mpt_embed_backward(&f->k, &backward, NULL));
    REFUSED(f, mpt_embed_forward, forward, compute, MPT_F32,
            "compute is fp32 in a table set up for bf16");
    REFUSED(f, mpt_embed_forward, forward, compute, (mpt_dtype_t)77, "compute");
    REFUSED(f, mpt_embed_forward, forward, batch, 3, "batch");
    REFUSED(f, mpt_embed_forward, forward, seq, 0, "seq");
    REFUSED(f, mpt_embed_forward, forward, dim, 13, "dim is 13");
    REFUSED(f, mpt_embed_forward, forward, tokens, NULL, "tokens");
    REFUSED(f, mpt_embed_forward, forward, wte, NULL, "wte");
    REFUSED(f, mpt_embed_forward, forward, wpe, NULL, "wpe");
    REFUSED(f, mpt_embed_forward, forward, out, NULL, "out");
    REFUSED(f, mpt_embed_backward, backward, batch, INT64_MIN, "batch");
    REFUSED(f, mpt_embed_backward, backward, seq, INT64_MAX, "seq");
    REFUSED(f, mpt_embed_backward, backward, dout, NULL, "dout");
    REFUSED(f, mpt_embed_backward, backward, dwte, NULL, "dwte");
    REFUSED(f, mpt_embed_backward, backward, dwpe, NULL, "dwpe");
}

static void layernorm_checks_its_arguments(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_layernorm_forward_t forward = {.compute = MPT_BF16,
                                       .rows = 16,
                                       .dim = 12,
                                       .x = p,
                                       .delta = p,
                                       .sum = p,
                                       .gamma = p,
                                       .beta = p,
                                       .y = p,
                                       .mean = p,
                                       .rstd = p};
    mpt_layernorm_backward_t backward = {.compute = MPT_BF16,
                                         .rows = 16,
                                         .dim = 12,
                                         .dy = p,
                                         .x = p,
                                         .gamma = p,
                                         .mean = p,
                                         .rstd = p,
                                         .dx = p,
                                         .dgamma = p,
                                         .dbeta = p};
    expect_accepted(f, mpt_layernorm_forward(&f->k, &forward, NULL));
    expect_accepted(f, mpt_layernorm_backward(&f->k, &backward, NULL));
    REFUSED(f, mpt_layernorm_forward, forward, sum, NULL, "sum");
    REFUSED(f, mpt_layernorm_forward, forward, rows, 17, "rows is 17, not within 1 and 16");
    REFUSED(f, mpt_layernorm_forward, forward, rows, 0, "rows");
    REFUSED(f, mpt_layernorm_forward, forward, rstd, NULL, "rstd");
    forward.delta = forward.sum = NULL;
    expect_accepted(f, mpt_layernorm_forward(&f->k, &forward, NULL));
    REFUSED(f, mpt_layernorm_backward, backward, dim, -1, "dim");
    REFUSED(f, mpt_layernorm_backward, backward, dx, NULL, "dx");
    REFUSED(f, mpt_layernorm_backward, backward, dgamma, NULL, "dgamma");
}

static void linear_checks_types_and_shapes(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_linear_forward_t forward = {.compute = MPT_BF16,
                                    .rows = 16,
                                    .in = 12,
                                    .out = 48,
                                    .x = p,
                                    .w = p,
                                    .y = p,
                                    .y_dtype = MPT_BF16};
    expect_accepted(f, mpt_linear_forward(&f->k, &forward, NULL));
    REFUSED(f, mpt_linear_forward, forward, y_dtype, MPT_F16, "y of type");
    REFUSED(f, mpt_linear_forward, forward, y_dtype, MPT_F64, "y of type");
    REFUSED(f, mpt_linear_forward, forward, out, 49, "out 49");
    REFUSED(f, mpt_linear_forward, forward, in, 13, "in 13");
    REFUSED(f, mpt_linear_forward, forward, rows, 17, "rows 17");
    REFUSED(f, mpt_linear_forward, forward, w, NULL, "w is NULL");
    forward.pre = p;
    expect_accepted(f, mpt_linear_forward(&f->k, &forward, NULL));
    REFUSED(f, mpt_linear_forward, forward, y_dtype, MPT_F32, "pre");
    mpt_linear_forward_t head = {.compute = MPT_BF16,
                                 .rows = 4,
                                 .in = 12,
                                 .out = 128,
                                 .x = p,
                                 .w = p,
                                 .y = p,
                                 .y_dtype = MPT_F32};
    expect_accepted(f, mpt_linear_forward(&f->k, &head, NULL));
    REFUSED(f, mpt_linear_forward, head, rows, 5, "rows 5");
    REFUSED(f, mpt_linear_forward, head, out, 129, "out 129");
}

static void linear_backward_checks_its_arguments(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_linear_backward_input_t input = {
        .compute = MPT_BF16, .rows = 16, .in = 48, .out = 12, .dy = p, .w = p, .dx = p};
    mpt_linear_backward_weight_t weight = {
        .compute = MPT_BF16, .rows = 16, .in = 48, .out = 12, .dy = p, .x = p, .dw = p};
    expect_accepted(f, mpt_linear_backward_input(&f->k, &input, NULL));
    expect_accepted(f, mpt_linear_backward_weight(&f->k, &weight, NULL));
    REFUSED(f, mpt_linear_backward_input, input, out, 0, "out 0");
    REFUSED(f, mpt_linear_backward_input, input, dy, NULL, "dy");
    REFUSED(f, mpt_linear_backward_input, input, dx, NULL, "dx");
    REFUSED(f, mpt_linear_backward_weight, weight, in, 49, "in 49");
    REFUSED(f, mpt_linear_backward_weight, weight, x, NULL, "x is NULL");
    REFUSED(f, mpt_linear_backward_weight, weight, dw, NULL, "dw");
}

static void attention_checks_its_arguments(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_attention_forward_t forward = {.compute = MPT_BF16,
                                       .batch = 2,
                                       .seq = 8,
                                       .heads = 3,
                                       .head_dim = 4,
                                       .qkv = p,
                                       .out = p,
                                       .lse = p};
    mpt_attention_backward_t backward = {.compute = MPT_BF16,
                                         .batch = 2,
                                         .seq = 8,
                                         .heads = 3,
                                         .head_dim = 4,
                                         .qkv = p,
                                         .out = p,
                                         .dout = p,
                                         .lse = p,
                                         .dqkv = p};
    expect_accepted(f, mpt_attention_forward(&f->k, &forward, NULL));
    expect_accepted(f, mpt_attention_backward(&f->k, &backward, NULL));
    REFUSED(f, mpt_attention_forward, forward, batch, 3, "batch");
    REFUSED(f, mpt_attention_forward, forward, seq, 9, "seq");
    REFUSED(f, mpt_attention_forward, forward, heads, 4, "heads");
    REFUSED(f, mpt_attention_forward, forward, head_dim, 5, "head_dim");
    REFUSED(f, mpt_attention_forward, forward, lse, NULL, "lse");
    REFUSED(f, mpt_attention_backward, backward, dout, NULL, "dout");
    REFUSED(f, mpt_attention_backward, backward, dqkv, NULL, "dqkv");
}

static void loss_checks_its_arguments(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_loss_t a = {.compute = MPT_BF16,
                    .rows = 4,
                    .vocab = 100,
                    .vocab_padded = 128,
                    .logits = p,
                    .targets = p,
                    .seed = 1,
                    .losses = p,
                    .loss_sum = p};
    expect_accepted(f, mpt_loss(&f->k, &a, NULL));
    REFUSED(f, mpt_loss, a, rows, 5, "rows");
    REFUSED(f, mpt_loss, a, vocab, 129, "vocab is 129");
    REFUSED(f, mpt_loss, a, vocab_padded, 256, "vocab_padded");
    REFUSED(f, mpt_loss, a, targets, NULL, "targets");
    REFUSED(f, mpt_loss, a, loss_sum, NULL, "loss_sum");
}

static void flat_passes_check_their_arguments(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_to_wire_t wire = {
        .wire_dtype = MPT_F16, .count = 8, .acc = p, .wire = p, .scale = 0.25f, .bad = p};
    mpt_grad_scan_t scan = {.dtype = MPT_F16, .count = 8, .grad = p, .sumsq = p, .bad = p};
    mpt_adamw_t adamw = {.compute = MPT_F16,
                         .grad_dtype = MPT_F32,
                         .count = 8,
                         .master = p,
                         .m = p,
                         .v = p,
                         .working = p,
                         .grad = p};
    mpt_cast_t cast = {.dst_dtype = MPT_F64, .src_dtype = MPT_F16, .count = 8, .dst = p, .src = p};
    expect_accepted(f, mpt_to_wire(&f->k, &wire, NULL));
    expect_accepted(f, mpt_grad_scan(&f->k, &scan, NULL));
    expect_accepted(f, mpt_adamw(&f->k, &adamw, NULL));
    expect_accepted(f, mpt_cast(&f->k, &cast, NULL));
    REFUSED(f, mpt_to_wire, wire, scale, 0.3f, "power of two");
    REFUSED(f, mpt_to_wire, wire, scale, 0, "power of two");
    REFUSED(f, mpt_to_wire, wire, scale, -2, "power of two");
    REFUSED(f, mpt_to_wire, wire, wire_dtype, MPT_F64, "wire_dtype");
    REFUSED(f, mpt_to_wire, wire, bad, NULL, "bad");
    REFUSED(f, mpt_grad_scan, scan, count, -1, "count");
    REFUSED(f, mpt_grad_scan, scan, sumsq, NULL, "sumsq");
    REFUSED(f, mpt_adamw, adamw, compute, MPT_F64, "compute");
    REFUSED(f, mpt_adamw, adamw, grad_dtype, (mpt_dtype_t)-1, "grad_dtype");
    REFUSED(f, mpt_adamw, adamw, decay_count, -1, "decay_count");
    REFUSED(f, mpt_adamw, adamw, working, NULL, "working");
    REFUSED(f, mpt_cast, cast, dst, NULL, "dst");
    REFUSED(f, mpt_cast, cast, src_dtype, MPT_DTYPE_COUNT, "src_dtype");
}

static void the_optimizer_goes_without_masters_and_with_an_average(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_adamw_t a = {.compute = MPT_F32,
                     .grad_dtype = MPT_F32,
                     .count = 8,
                     .m = p,
                     .v = p,
                     .working = p,
                     .grad = p,
                     .ema_decay = 2};
    expect_accepted(f, mpt_adamw(&f->k, &a, NULL)); /* without an average its decay means nothing */
    a.ema = p;
    a.ema_decay = 1;
    expect_accepted(f, mpt_adamw(&f->k, &a, NULL));
    REFUSED(f, mpt_adamw, a, ema_decay, 1.5f, "ema_decay");
    REFUSED(f, mpt_adamw, a, ema_decay, -0.5f, "ema_decay");
    REFUSED(f, mpt_adamw, a, ema_decay, NAN, "ema_decay");
}

static void stochastic_rounding_is_from_fp32_to_16_bits(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_run_t run = {0, 8, 0};
    mpt_stochastic_t how = {.runs = &run, .run_count = 1};
    mpt_adamw_t adamw = {.compute = MPT_BF16,
                         .grad_dtype = MPT_F32,
                         .count = 8,
                         .m = p,
                         .v = p,
                         .working = p,
                         .grad = p,
                         .stochastic = &how};
    mpt_cast_t cast = {.dst_dtype = MPT_F16,
                       .src_dtype = MPT_F32,
                       .count = 8,
                       .dst = p,
                       .src = p,
                       .stochastic = &how};
    expect_accepted(f, mpt_adamw(&f->k, &adamw, NULL));
    expect_accepted(f, mpt_cast(&f->k, &cast, NULL));
    REFUSED(f, mpt_adamw, adamw, compute, MPT_F32, "stochastic");
    REFUSED(f, mpt_cast, cast, dst_dtype, MPT_F32, "stochastic");
    REFUSED(f, mpt_cast, cast, dst_dtype, MPT_F64, "stochastic");
    REFUSED(f, mpt_cast, cast, src_dtype, MPT_BF16, "stochastic");
    REFUSED(f, mpt_cast, cast, src_dtype, MPT_F64, "stochastic");
    mpt_stochastic_t negative = {.runs = &run, .run_count = -1}, nowhere = {.run_count = 1};
    REFUSED(f, mpt_cast, cast, stochastic, &negative, "run_count");
    REFUSED(f, mpt_adamw, adamw, stochastic, &nowhere, "runs");
    how = (mpt_stochastic_t){0}; /* nothing but padding */
    expect_accepted(f, mpt_adamw(&f->k, &adamw, NULL));
}

static void sums_and_hashes_check_their_arguments(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_add_t add = {.dtype = MPT_BF16, .count = 8, .acc = p, .x = p};
    mpt_hash_t hash = {.dtype = MPT_F16, .count = 8, .data = p, .sum = p};
    expect_accepted(f, mpt_add(&f->k, &add, NULL));
    expect_accepted(f, mpt_hash(&f->k, &hash, NULL));
    REFUSED(f, mpt_add, add, dtype, MPT_F64, "dtype");
    REFUSED(f, mpt_add, add, count, -1, "count");
    REFUSED(f, mpt_add, add, acc, NULL, "acc");
    REFUSED(f, mpt_add, add, x, NULL, "x");
    REFUSED(f, mpt_hash, hash, dtype, MPT_F64, "dtype");
    REFUSED(f, mpt_hash, hash, count, -1, "count");
    REFUSED(f, mpt_hash, hash, data, NULL, "data");
    REFUSED(f, mpt_hash, hash, sum, NULL, "sum");
    assert_int_equal(f->k.profile[MPT_OP_REDUCE].calls, 1);
    assert_int_equal(f->k.profile[MPT_OP_OPTIMIZER].calls, 1);
}

static void flat_passes_over_nothing_are_allowed(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_to_wire_t wire = {.wire_dtype = MPT_F32, .scale = 1, .bad = p};
    mpt_grad_scan_t scan = {.dtype = MPT_F32, .sumsq = p, .bad = p};
    mpt_adamw_t adamw = {.compute = MPT_F32, .grad_dtype = MPT_F32};
    mpt_cast_t cast = {.dst_dtype = MPT_F32, .src_dtype = MPT_F32};
    expect_accepted(f, mpt_to_wire(&f->k, &wire, NULL));
    expect_accepted(f, mpt_grad_scan(&f->k, &scan, NULL));
    expect_accepted(f, mpt_adamw(&f->k, &adamw, NULL));
    expect_accepted(f, mpt_cast(&f->k, &cast, NULL));
    expect_accepted(f, mpt_add(&f->k, &(mpt_add_t){.dtype = MPT_F32}, NULL));
    expect_accepted(f, mpt_hash(&f->k, &(mpt_hash_t){.dtype = MPT_F32, .sum = p}, NULL));
}

/* ---- accounts -------------------------------------------------------------------------------------------- */

static void calls_are_accounted_by_operation(void **state)
{
    fixture_t *f = *state;
    void *p = f->memory;
    mpt_linear_forward_t forward = {.compute = MPT_BF16,
                                    .rows = 16,
                                    .in = 12,
                                    .out = 48,
                                    .x = p,
                                    .w = p,
                                    .y = p,
                                    .y_dtype = MPT_BF16};
    mpt_linear_backward_input_t backward = {
        .compute = MPT_BF16, .rows = 16, .in = 48, .out = 12, .dy = p, .w = p, .dx = p};
    assert_int_equal(mpt_linear_forward(&f->k, &forward, NULL), MPT_OK);
    assert_int_equal(mpt_linear_backward_input(&f->k, &backward, NULL), MPT_OK);
    assert_int_equal(f->k.profile[MPT_OP_LINEAR].calls, 2);
    assert_true(f->k.profile[MPT_OP_LINEAR].flops == 2 * 2.0 * 16 * 12 * 48);
    assert_true(f->k.profile[MPT_OP_LINEAR].seconds >= 0);
    assert_true(f->k.profile[MPT_OP_LINEAR].bytes == 0);
    mpt_add_t add = {.dtype = MPT_BF16, .count = 7, .acc = p, .x = p};
    assert_int_equal(mpt_add(&f->k, &add, NULL), MPT_OK);
    assert_true(f->k.profile[MPT_OP_REDUCE].bytes == 7 * (2 * 4 + 2)); /* read, added to: twice */
    forward.rows = 17;
    assert_int_equal(mpt_linear_forward(&f->k, &forward, NULL), MPT_ERR_INVALID_ARG);
    assert_int_equal(f->k.profile[MPT_OP_LINEAR].calls, 2); /* what is refused does not count */
    assert_int_equal(f->k.profile[MPT_OP_ATTENTION].calls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backends_are_found_by_name),
        cmocka_unit_test_setup_teardown(set_up_refuses_too_little_scratch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(set_up_refuses_what_cannot_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_oracle_alone_runs_in_fp64, set_up, tear_down),
        cmocka_unit_test_setup_teardown(embed_checks_its_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(layernorm_checks_its_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(linear_checks_types_and_shapes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(linear_backward_checks_its_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(attention_checks_its_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loss_checks_its_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(flat_passes_check_their_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_optimizer_goes_without_masters_and_with_an_average,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(stochastic_rounding_is_from_fp32_to_16_bits, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(sums_and_hashes_check_their_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(flat_passes_over_nothing_are_allowed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(calls_are_accounted_by_operation, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
