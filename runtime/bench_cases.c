/*
 * The operations of a GPT-2's step, with the arguments that the model, the reducer and the optimizer give them.
 */
#include <stdio.h>

#include "bench_ops.h"

static mpt_dtype_t wide_of(const mpt_bench_ops_t *ops)
{
    return mpt_dtype_wide(ops->compute);
}

static int64_t rows_of(const mpt_bench_ops_t *ops)
{
    return ops->shape.batch * ops->shape.seq;
}

/* ---- linear layers --------------------------------------------------------------------------------------- */

/* Packed before, as once a step: w is read in this form, and counted once. forward: for forward, else for the input gradient. */
static const void *lay_packed(mpt_bench_ops_t *ops, mpt_bench_case_t *own, const void *w,
                              int forward)
{
    int64_t columns = forward ? own->out : own->in, depth = forward ? own->in : own->out;
    size_t bytes = mpt_linear_pack_bytes(ops->backend, ops->host.isa, ops->math, columns, depth);
    if (bytes == 0)
        return NULL;
    void *packed = mpt_bench_lay(ops, own, MPT_BENCH_ASIDE, MPT_F32, (int64_t)(bytes / sizeof(float)));
    const mpt_linear_pack_t pack = {.compute = ops->math, .in = own->in, .out = own->out, .w = w,
                                    .forward = forward ? packed : NULL, .backward = forward ? NULL : packed};
    if (packed != NULL)
        ops->failed = mpt_linear_pack(&ops->kernels, &pack, ops->host.stream);
    return packed;
}

/* The head has no bias and gives wide logits. */
static void lay_forward(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t rows = own->rows, in = own->in, out = own->out;
    mpt_dtype_t c = ops->compute;
    mpt_dtype_t y = own->head ? wide_of(ops) : c;
    own->args.linear_forward = (mpt_linear_forward_t){
        .compute = ops->math,
        .rows = rows,
        .in = in,
        .out = out,
        .x = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * in),
        .w = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, out * in),
        .bias = own->head ? NULL : mpt_bench_lay(ops, own, MPT_BENCH_READ, c, out),
        .pre = own->fused ? mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, rows * out) : NULL,
        .y = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, y, rows * out),
        .y_dtype = y};
    own->args.linear_forward.packed = lay_packed(ops, own, own->args.linear_forward.w, 1);
}

static void lay_input_gradient(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t rows = own->rows, in = own->in, out = own->out;
    mpt_dtype_t c = ops->compute;
    own->args.linear_backward_input = (mpt_linear_backward_input_t){
        .compute = ops->math,
        .rows = rows,
        .in = in,
        .out = out,
        .dy = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * out),
        .w = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, out * in),
        .pre = own->fused ? mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * in) : NULL,
        .dx = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, rows * in)};
    own->args.linear_backward_input.packed = lay_packed(ops, own, own->args.linear_backward_input.w, 0);
}

static void lay_weight_gradient(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t rows = own->rows, in = own->in, out = own->out;
    mpt_dtype_t c = ops->compute;
    own->args.linear_backward_weight = (mpt_linear_backward_weight_t){
        .compute = ops->math,
        .rows = rows,
        .in = in,
        .out = out,
        .dy = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * out),
        .x = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * in),
        .dw = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, wide_of(ops), out * in),
        .dbias = own->head ? NULL : mpt_bench_lay(ops, own, MPT_BENCH_ADDED, wide_of(ops), out)};
}

static mpt_status_t run_forward(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_linear_forward(&ops->kernels, &own->args.linear_forward, ops->host.stream);
}

static mpt_status_t run_input_gradient(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_linear_backward_input(&ops->kernels, &own->args.linear_backward_input, ops->host.stream);
}

static mpt_status_t run_weight_gradient(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_linear_backward_weight(&ops->kernels, &own->args.linear_backward_weight, ops->host.stream);
}

/* ---- attention ------------------------------------------------------------------------------------------- */

static void lay_attention(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    const mpt_gpt2_shape_t *s = &ops->shape;
    mpt_dtype_t c = ops->compute;
    int64_t count = rows_of(ops) * s->dim;
    own->args.attention.forward = (mpt_attention_forward_t){
        .compute = c,
        .batch = s->batch,
        .seq = s->seq,
        .heads = s->heads,
        .head_dim = s->dim / s->heads,
        .qkv = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, 3 * count),
        .out = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, count),
        .lse = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, wide_of(ops), rows_of(ops) * s->heads)};
}

static mpt_status_t run_attention_forward(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_attention_forward(&ops->kernels, &own->args.attention.forward, ops->host.stream);
}

/* Backward reads what forward made of the same inputs: other sums would overflow. */
static void lay_attention_backward(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    mpt_dtype_t c = ops->compute;
    int64_t count = rows_of(ops) * ops->shape.dim;
    lay_attention(ops, own);
    const mpt_attention_forward_t *forward = &own->args.attention.forward;
    own->args.attention.backward = (mpt_attention_backward_t){
        .compute = c,
        .batch = forward->batch,
        .seq = forward->seq,
        .heads = forward->heads,
        .head_dim = forward->head_dim,
        .qkv = forward->qkv,
        .out = forward->out,
        .lse = forward->lse,
        .dout = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, count),
        .dqkv = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, 3 * count)};
    if (forward->qkv != NULL)
        ops->failed = run_attention_forward(ops, own);
}

static mpt_status_t run_attention_backward(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_attention_backward(&ops->kernels, &own->args.attention.backward, ops->host.stream);
}

/* ---- passes over rows -------------------------------------------------------------------------------------- */

/* Rows of the token table that are read, or added to, count once for each token. */
static void lay_embed_forward(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    const mpt_gpt2_shape_t *s = &ops->shape;
    mpt_dtype_t c = ops->compute;
    int64_t count = rows_of(ops) * s->dim;
    own->args.embed_forward = (mpt_embed_forward_t){
        .compute = c,
        .batch = s->batch,
        .seq = s->seq,
        .dim = s->dim,
        .tokens = mpt_bench_lay_tokens(ops, own, rows_of(ops)),
        .wte = mpt_bench_lay(ops, own, MPT_BENCH_ASIDE, c, mpt_gpt2_vocab_padded(s) * s->dim),
        .wpe = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, s->seq * s->dim),
        .out = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, count)};
    own->op.bytes += (double)count * (double)mpt_dtype_bytes(c);
}

static void lay_embed_backward(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    const mpt_gpt2_shape_t *s = &ops->shape;
    mpt_dtype_t wide = wide_of(ops);
    int64_t count = rows_of(ops) * s->dim;
    own->args.embed_backward = (mpt_embed_backward_t){
        .compute = ops->compute,
        .batch = s->batch,
        .seq = s->seq,
        .dim = s->dim,
        .tokens = mpt_bench_lay_tokens(ops, own, rows_of(ops)),
        .dout = mpt_bench_lay(ops, own, MPT_BENCH_READ, ops->compute, count),
        .dwte = mpt_bench_lay(ops, own, MPT_BENCH_ASIDE, wide, mpt_gpt2_vocab_padded(s) * s->dim),
        .dwpe = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, wide, s->seq * s->dim)};
    own->op.bytes += 2.0 * (double)count * (double)mpt_dtype_bytes(wide);
}

static mpt_status_t run_embed_forward(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_embed_forward(&ops->kernels, &own->args.embed_forward, ops->host.stream);
}

static mpt_status_t run_embed_backward(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_embed_backward(&ops->kernels, &own->args.embed_backward, ops->host.stream);
}

static void lay_layernorm_forward(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t rows = rows_of(ops), dim = ops->shape.dim;
    mpt_dtype_t c = ops->compute;
    own->args.layernorm_forward = (mpt_layernorm_forward_t){
        .compute = c,
        .rows = rows,
        .dim = dim,
        .x = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * dim),
        .delta = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * dim),
        .sum = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, rows * dim),
        .gamma = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, dim),
        .beta = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, dim),
        .y = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, rows * dim),
        .mean = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, wide_of(ops), rows),
        .rstd = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, wide_of(ops), rows)};
}

static void lay_layernorm_backward(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t rows = rows_of(ops), dim = ops->shape.dim;
    mpt_dtype_t c = ops->compute;
    own->args.layernorm_backward = (mpt_layernorm_backward_t){
        .compute = c,
        .rows = rows,
        .dim = dim,
        .dy = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * dim),
        .x = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * dim),
        .gamma = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, dim),
        .mean = mpt_bench_lay(ops, own, MPT_BENCH_READ, wide_of(ops), rows),
        .rstd = mpt_bench_lay(ops, own, MPT_BENCH_READ, wide_of(ops), rows),
        .dres = mpt_bench_lay(ops, own, MPT_BENCH_READ, c, rows * dim),
        .dx = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, c, rows * dim),
        .dgamma = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, wide_of(ops), dim),
        .dbeta = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, wide_of(ops), dim)};
}

static mpt_status_t run_layernorm_forward(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_layernorm_forward(&ops->kernels, &own->args.layernorm_forward, ops->host.stream);
}

static mpt_status_t run_layernorm_backward(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_layernorm_backward(&ops->kernels, &own->args.layernorm_backward, ops->host.stream);
}

static void lay_loss(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t rows = mpt_gpt2_loss_rows(&ops->shape), columns = mpt_gpt2_vocab_padded(&ops->shape);
    own->args.loss = (mpt_loss_t){
        .compute = ops->compute,
        .rows = rows,
        .vocab = ops->shape.vocab,
        .vocab_padded = columns,
        .logits = mpt_bench_lay(ops, own, MPT_BENCH_READ, wide_of(ops), rows * columns),
        .targets = mpt_bench_lay_tokens(ops, own, rows),
        .seed = 1.0f,
        .dlogits = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, ops->compute, rows * columns),
        .losses = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, wide_of(ops), rows),
        .loss_sum = mpt_bench_lay(ops, own, MPT_BENCH_ASIDE, MPT_F64, 1)};
}

static mpt_status_t run_loss(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_loss(&ops->kernels, &own->args.loss, ops->host.stream);
}

/* ---- flat passes ------------------------------------------------------------------------------------------- */

static void lay_adamw(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t count = mpt_bench_flat_count(ops);
    own->args.adamw = (mpt_adamw_t){
        .compute = ops->compute,
        .grad_dtype = ops->compute,
        .count = count,
        .decay_count = count,
        .master = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, MPT_F32, count),
        .m = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, MPT_F32, count),
        .v = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, MPT_F32, count),
        .working = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, ops->compute, count),
        .grad = mpt_bench_lay(ops, own, MPT_BENCH_READ, ops->compute, count),
        .factor = 0.5f,
        .lr = 1e-3f,
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .eps = 1e-8f,
        .decay = 0.1f,
        .correction1 = 0.5f,
        .correction2 = 0.5f};
}

/* As the reducer does it: FP32 stays where it is, and only FP16 is divided, here as for four micro-steps on two ranks. */
static void lay_to_wire(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t count = mpt_bench_flat_count(ops);
    float *acc = mpt_bench_lay(ops, own, MPT_BENCH_READ, MPT_F32, count);
    own->args.to_wire =
        (mpt_to_wire_t){.wire_dtype = ops->compute,
                        .count = count,
                        .acc = acc,
                        .wire = ops->compute == MPT_F32
                                    ? (void *)acc
                                    : mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, ops->compute, count),
                        .scale = ops->compute == MPT_F16 ? 0.125f : 1.0f,
                        .bad = mpt_bench_lay(ops, own, MPT_BENCH_ASIDE, MPT_F32,
                                             sizeof(mpt_offender_t) / sizeof(float))};
}

static void lay_grad_scan(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t count = mpt_bench_flat_count(ops);
    own->args.grad_scan =
        (mpt_grad_scan_t){.dtype = ops->compute,
                          .count = count,
                          .grad = mpt_bench_lay(ops, own, MPT_BENCH_READ, ops->compute, count),
                          .sumsq = mpt_bench_lay(ops, own, MPT_BENCH_ASIDE, MPT_F64, 1),
                          .bad = mpt_bench_lay(ops, own, MPT_BENCH_ASIDE, MPT_F32,
                                               sizeof(mpt_offender_t) / sizeof(float))};
}

static void lay_add(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t count = mpt_bench_flat_count(ops);
    own->args.add = (mpt_add_t){.dtype = ops->compute,
                                .count = count,
                                .acc = mpt_bench_lay(ops, own, MPT_BENCH_ADDED, MPT_F32, count),
                                .x = mpt_bench_lay(ops, own, MPT_BENCH_READ, ops->compute, count)};
}

static void lay_cast(mpt_bench_ops_t *ops, mpt_bench_case_t *own)
{
    int64_t count = mpt_bench_flat_count(ops);
    own->args.cast = (mpt_cast_t){.dst_dtype = ops->compute,
                                  .src_dtype = MPT_F32,
                                  .count = count,
                                  .dst = mpt_bench_lay(ops, own, MPT_BENCH_WRITTEN, ops->compute, count),
                                  .src = mpt_bench_lay(ops, own, MPT_BENCH_READ, MPT_F32, count)};
}

static mpt_status_t run_adamw(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_adamw(&ops->kernels, &own->args.adamw, ops->host.stream);
}

static mpt_status_t run_to_wire(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_to_wire(&ops->kernels, &own->args.to_wire, ops->host.stream);
}

static mpt_status_t run_grad_scan(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_grad_scan(&ops->kernels, &own->args.grad_scan, ops->host.stream);
}

static mpt_status_t run_add(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_add(&ops->kernels, &own->args.add, ops->host.stream);
}

static mpt_status_t run_cast(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    return mpt_cast(&ops->kernels, &own->args.cast, ops->host.stream);
}

/* ---- the list ------------------------------------------------------------------------------------------------ */

static mpt_bench_case_t *append(mpt_bench_ops_t *ops, const mpt_bench_case_t *own)
{
    mpt_bench_case_t *added = &ops->cases[ops->count++];
    *added = *own;
    return added;
}

static void list_layer(mpt_bench_ops_t *ops, const char *group, const char *layer,
                       const mpt_bench_case_t *shape, int slope)
{
    int64_t rows = shape->rows, in = shape->in, out = shape->out;
    const struct {
        const char *what;
        void (*lay)(mpt_bench_ops_t *ops, mpt_bench_case_t *own);
        mpt_status_t (*run)(mpt_bench_ops_t *ops, const mpt_bench_case_t *own);
        int fused;
        mpt_bench_product_t product;
    } parts[] = {
        {"forward", lay_forward, run_forward, shape->fused, {rows, out, in, 0, 1, shape->head}},
        {"input gradient", lay_input_gradient, run_input_gradient, slope, {rows, in, out, 0, 0, 0}},
        {"weight gradient", lay_weight_gradient, run_weight_gradient, 0, {out, in, rows, 1, 0, 1}},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        mpt_bench_case_t *own = append(ops, shape);
        snprintf(own->name, sizeof own->name, "%s %s", layer, parts[i].what);
        own->lay = parts[i].lay;
        own->run = parts[i].run;
        own->fused = parts[i].fused;
        own->op.group = group;
        own->op.product = parts[i].product;
        own->op.flops = own->op.operations = 2.0 * (double)rows * (double)in * (double)out;
    }
}

/* GELU follows fc; its slope is taken where the next layer's input gradient is written. */
static void list_layers(mpt_bench_ops_t *ops)
{
    int64_t rows = rows_of(ops), dim = ops->shape.dim;
    list_layer(ops, "linear", "qkv", &(mpt_bench_case_t){.rows = rows, .in = dim, .out = 3 * dim}, 0);
    list_layer(ops, "linear", "proj", &(mpt_bench_case_t){.rows = rows, .in = dim, .out = dim}, 0);
    list_layer(ops, "linear", "fc",
               &(mpt_bench_case_t){.rows = rows, .in = dim, .out = 4 * dim, .fused = 1}, 0);
    list_layer(ops, "linear", "fcproj", &(mpt_bench_case_t){.rows = rows, .in = 4 * dim, .out = dim}, 1);
    list_layer(ops, "head", "head",
               &(mpt_bench_case_t){.rows = mpt_gpt2_loss_rows(&ops->shape),
                                   .in = dim,
                                   .out = mpt_gpt2_vocab_padded(&ops->shape),
                                   .head = 1},
               0);
}

/* One product of attention's causal half; forward makes two of them, backward five. */
static double attention_flops(const mpt_gpt2_shape_t *s)
{
    return (double)s->batch * (double)s->seq * (double)s->seq * (double)s->dim;
}

/* operations: of one element, counted in the definitions in kernels.h. */
static void list_passes(mpt_bench_ops_t *ops)
{
    const double attention = attention_flops(&ops->shape);
    const double flat = (double)mpt_bench_flat_count(ops);
    const double rows = (double)rows_of(ops) * (double)ops->shape.dim;
    const double logits = (double)mpt_gpt2_loss_rows(&ops->shape) * (double)ops->shape.vocab;
    const mpt_bench_case_t cases[] = {
        {.name = "attention forward", .lay = lay_attention, .run = run_attention_forward,
         .op = {.group = "attention", .flops = 2 * attention, .operations = 2 * attention}},
        {.name = "attention backward", .lay = lay_attention_backward, .run = run_attention_backward,
         .op = {.group = "attention", .flops = 5 * attention, .operations = 5 * attention}},
        {.name = "embed forward", .lay = lay_embed_forward, .run = run_embed_forward,
         .op = {.operations = rows}},
        {.name = "embed backward", .lay = lay_embed_backward, .run = run_embed_backward,
         .op = {.operations = 2 * rows}},
        {.name = "layernorm forward", .lay = lay_layernorm_forward, .run = run_layernorm_forward,
         .op = {.operations = 9 * rows}},
        {.name = "layernorm backward", .lay = lay_layernorm_backward, .run = run_layernorm_backward,
         .op = {.operations = 15 * rows}},
        {.name = "loss", .lay = lay_loss, .run = run_loss, .op = {.operations = 8 * logits}},
        {.name = "adamw", .lay = lay_adamw, .run = run_adamw, .op = {.operations = 18 * flat}},
        {.name = "to_wire", .lay = lay_to_wire, .run = run_to_wire, .op = {.operations = 2 * flat}},
        {.name = "grad_scan", .lay = lay_grad_scan, .run = run_grad_scan, .op = {.operations = 2 * flat}},
        {.name = "add", .lay = lay_add, .run = run_add, .op = {.operations = flat}},
        {.name = "cast", .lay = lay_cast, .run = run_cast, .op = {.operations = flat}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mpt_bench_case_t *own = append(ops, &cases[i]);
        own->op.group = own->op.group != NULL ? own->op.group : "pass";
    }
}

void mpt_bench_list_cases(mpt_bench_ops_t *ops)
{
    list_layers(ops);
    list_passes(ops);
}
