/*
 * A model on its own for the tests of runtime/model: device, pool, kernels, arena, parameters and gradients of a
 * small odd shape, opened for any backend, type, level and recomputation. Memory starts as NaNs. Header-only.
 */
#ifndef MODEL_RIG_H
#define MODEL_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpt2.h"
#include "numeric.h"
#include "pool.h"

#define SEED 0.0625f /* of backward: exact, so that the objective is exactly SEED times the loss */

static const mpt_gpt2_shape_t small = {
    .layers = 2, .heads = 3, .dim = 15, .context = 9, .vocab = 11, .batch = 2, .seq = 7};
/* More rows than the head takes at a time, and more than one multiple of the vocabulary's padding. */
static const mpt_gpt2_shape_t chunked = {
    .layers = 1, .heads = 1, .dim = 8, .context = 300, .vocab = 131, .batch = 4, .seq = 300};

typedef struct variant {
    const char *kernels;
    mpt_dtype_t compute;
    mpt_isa_t isa;
} variant_t;

/* All that this processor runs; returns their number. */
static inline int list_variants(variant_t *variants)
{
    static const mpt_dtype_t types[] = {MPT_F32, MPT_BF16, MPT_F16};
    int count = 0;
    variants[count++] = (variant_t){"ref", MPT_F64, MPT_ISA_PORTABLE};
    for (int c = 0; c < 3; c++) {
        variants[count++] = (variant_t){"ref", types[c], MPT_ISA_PORTABLE};
        for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
            variants[count++] = (variant_t){"cpu", types[c], (mpt_isa_t)isa};
    }
    return count;
}

#define MAX_VARIANTS (4 + 3 * MPT_ISA_COUNT)

static inline const char *name_of(const variant_t *v)
{
    static char name[64];
    snprintf(name, sizeof name, "%s %s %s", v->kernels, mpt_dtype_name(v->compute),
             mpt_isa_name(v->isa));
    return name;
}

typedef struct rig {
    mpt_gpt2_shape_t shape;
    mpt_dtype_t compute, wide;
    int tensors;
    mpt_tensor_t *table;
    mpt_pool_t *pool;
    mpt_device_t *device;
    mpt_stream_t *stream;
    mpt_arena_t arena;
    mpt_kernels_t kernels;
    void *scratch;
    mpt_gpt2_t model;
    uint32_t *tokens, *targets;
} rig_t;

/* Elements of a tensor with what is reserved behind it. */
static inline int64_t room(const rig_t *rig, int t)
{
    return mpt_tensor_count(&rig->table[t]) + rig->table[t].reserve;
}

static inline void open_kernels(rig_t *rig, const char *kernels, mpt_isa_t isa)
{
    mpt_kernels_limits_t limits;
    const mpt_kernels_ops_t *ops = mpt_kernels_find(kernels);
    mpt_gpt2_limits(&rig->shape, rig->compute, &limits);
    size_t bytes = mpt_kernels_scratch_bytes(ops, isa, mpt_pool_threads(rig->pool), &limits);
    rig->scratch = bytes > 0 ? aligned_alloc(4096, (bytes + 4095) / 4096 * 4096) : NULL;
    assert_int_equal(
        mpt_kernels_init(&rig->kernels, ops, rig->device, NULL, isa, rig->scratch, bytes, &limits),
        MPT_OK);
}

static inline void open_model(rig_t *rig, mpt_gpt2_recompute_t recompute)
{
    assert_int_equal(mpt_gpt2_create(&rig->model, &rig->shape, rig->compute, recompute), MPT_OK);
    mpt_arena_init_counting(&rig->arena);
    mpt_gpt2_cut(&rig->model, &rig->arena);
    size_t bytes = rig->arena.used;
    assert_int_equal(mpt_arena_init(&rig->arena, rig->device, MPT_MEM_PRIVATE, bytes), MPT_OK);
    mpt_gpt2_cut(&rig->model, &rig->arena);
    assert_int_equal(rig->arena.used, bytes);
    memset(rig->arena.mem.ptr, 0xff, bytes); /* NaNs: nothing may be read before it was written */
    rig->model.kernels = &rig->kernels;
    rig->model.stream = rig->stream;
    for (int t = 0; t < rig->tensors; t++) {
        size_t count = ((size_t)room(rig, t) + 63) / 64 * 64;
        rig->model.params[t] = aligned_alloc(64, count * mpt_dtype_bytes(rig->compute));
        rig->model.grads[t] = aligned_alloc(64, count * mpt_dtype_bytes(rig->wide));
        memset(rig->model.params[t], 0, count * mpt_dtype_bytes(rig->compute));
        memset(rig->model.grads[t], 0, count * mpt_dtype_bytes(rig->wide));
    }
}

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline void draw_tokens(rig_t *rig, uint64_t seed)
{
    for (int64_t i = 0; i < rig->shape.batch * rig->shape.seq; i++) {
        rig->tokens[i] = (uint32_t)(mix(seed * 1000 + (uint64_t)i) % (uint64_t)rig->shape.vocab);
        rig->targets[i] =
            (uint32_t)(mix(seed * 2000 + (uint64_t)i + 7) % (uint64_t)rig->shape.vocab);
    }
}

/* Weights of a size at which every part of the model bends: representable in every type. */
static inline void draw_params(rig_t *rig)
{
    for (int t = 0; t < rig->tensors; t++) {
        int gain = rig->table[t].dims == 1 && strstr(rig->table[t].name, "weight") != NULL;
        for (int64_t i = 0; i < mpt_tensor_count(&rig->table[t]); i++) {
            uint64_t bits = mix((uint64_t)(rig->table[t].first + i) + 99);
            double value =
                (double)((int64_t)(bits % 255) - 127) / 256.0; /* 8 bits: exact in BF16 */
            if (gain)
                value = 1.0 + (double)((int64_t)(bits % 63) - 31) / 128.0;
            mpt_store(rig->model.params[t], rig->compute, i, value);
        }
    }
}

static inline void open_variant(rig_t *rig, const mpt_gpt2_shape_t *shape, const variant_t *variant,
                                int threads, mpt_gpt2_recompute_t recompute)
{
    size_t rows = (size_t)(shape->batch * shape->seq);
    memset(rig, 0, sizeof *rig);
    rig->shape = *shape;
    rig->compute = variant->compute;
    rig->wide = mpt_dtype_wide(variant->compute);
    rig->tensors = mpt_gpt2_tensor_count(shape);
    rig->table = calloc((size_t)rig->tensors, sizeof *rig->table);
    mpt_gpt2_tensors(shape, rig->table);
    mpt_pool_params_t pool = {.threads = threads, .yield = 1};
    assert_int_equal(mpt_pool_create(&pool, &rig->pool), MPT_OK);
    assert_int_equal(mpt_device_cpu_create(rig->pool, NULL, &rig->device), MPT_OK);
    assert_int_equal(rig->device->ops->stream_create(rig->device, &rig->stream), MPT_OK);
    open_kernels(rig, variant->kernels, variant->isa);
    open_model(rig, recompute);
    rig->tokens = calloc(rows, sizeof *rig->tokens);
    rig->targets = calloc(rows, sizeof *rig->targets);
    draw_tokens(rig, 1);
    draw_params(rig);
}

static inline void open_rig(rig_t *rig, const mpt_gpt2_shape_t *shape, mpt_dtype_t compute,
                            const char *kernels, mpt_isa_t isa, int threads)
{
    open_variant(rig, shape, &(variant_t){kernels, compute, isa}, threads, MPT_GPT2_KEEP);
}

static inline void close_rig(rig_t *rig)
{
    for (int t = 0; t < rig->tensors; t++) {
        free(rig->model.params[t]);
        free(rig->model.grads[t]);
    }
    mpt_gpt2_release(&rig->model);
    mpt_arena_release(&rig->arena);
    rig->device->ops->stream_destroy(rig->device, rig->stream);
    mpt_device_destroy(rig->device);
    mpt_pool_destroy(rig->pool);
    free(rig->scratch);
    free(rig->table);
    free(rig->tokens);
    free(rig->targets);
}

static inline void open_oracle(rig_t *rig, const mpt_gpt2_shape_t *shape)
{
    open_rig(rig, shape, MPT_F64, "ref", MPT_ISA_PORTABLE, 1);
}

static inline double loss_of(rig_t *rig)
{
    assert_int_equal(mpt_gpt2_forward(&rig->model, rig->tokens), MPT_OK);
    assert_int_equal(mpt_gpt2_loss(&rig->model, rig->targets, 0.0f, 0), MPT_OK);
    return *rig->model.loss_sum;
}

/* Forward and backward, the gradients of `seed` times the loss added to what is there. */
static inline double backward(rig_t *rig, float seed)
{
    assert_int_equal(mpt_gpt2_forward(&rig->model, rig->tokens), MPT_OK);
    assert_int_equal(mpt_gpt2_loss(&rig->model, rig->targets, seed, 1), MPT_OK);
    double loss = *rig->model.loss_sum;
    assert_int_equal(mpt_gpt2_backward(&rig->model, rig->tokens), MPT_OK);
    return loss;
}

/* Stop unless both have the same bits in the gradient of the embedding and in those of all tensors. */
static inline void expect_same_gradients(const rig_t *a, const rig_t *b, const char *what)
{
    size_t stream = (size_t)(a->shape.batch * a->shape.seq * a->shape.dim);
    if (memcmp(a->model.dres, b->model.dres, stream * mpt_dtype_bytes(a->compute)) != 0)
        fail_msg("%s: the residual stream's gradient differs", what);
    for (int t = 0; t < a->tensors; t++)
        if (memcmp(a->model.grads[t], b->model.grads[t],
                   (size_t)room(a, t) * mpt_dtype_bytes(a->wide)) != 0)
            fail_msg("%s: the gradient of %s differs", what, a->table[t].name);
}

static inline void clear_gradients(rig_t *rig)
{
    for (int t = 0; t < rig->tensors; t++)
        memset(rig->model.grads[t], 0, (size_t)room(rig, t) * mpt_dtype_bytes(rig->wide));
}

static inline double gradient(const rig_t *rig, int t, int64_t i)
{
    return mpt_load(rig->model.grads[t], rig->wide, i);
}

static inline double largest_gradient(const rig_t *rig, int t)
{
    double largest = 0;
    for (int64_t i = 0; i < mpt_tensor_count(&rig->table[t]); i++)
        largest = fmax(largest, fabs(gradient(rig, t, i)));
    return largest;
}

#endif
