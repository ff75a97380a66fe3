#include "gpt2.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "philox.h"

#define INIT_STDDEV 0.02

int64_t mpt_gpt2_vocab_padded(const mpt_gpt2_shape_t *shape)
{
    int64_t m = MPT_GPT2_VOCAB_MULTIPLE;
    return (shape->vocab + m - 1) / m * m;
}

int mpt_gpt2_tensor_count(const mpt_gpt2_shape_t *shape)
{
    return mpt_gpt2_lnf(shape) + 2;
}

static mpt_tensor_t matrix(const char *name, int unit, int64_t rows, int64_t columns)
{
    mpt_tensor_t tensor = {.dims = 2, .shape = {rows, columns}, .unit = unit, .decay = 1};
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    return tensor;
}

static mpt_tensor_t vector(const char *name, int unit, int64_t count)
{
    mpt_tensor_t tensor = {.dims = 1, .shape = {count}, .unit = unit, .decay = 0};
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    return tensor;
}

static void block_tensors(const mpt_gpt2_shape_t *shape, int64_t layer, mpt_tensor_t *out)
{
    static const char *const names[MPT_GPT2_BLOCK_TENSORS] = {
        [MPT_GPT2_QKV_W] = "attn.c_attn.weight",   [MPT_GPT2_PROJ_W] = "attn.c_proj.weight",
        [MPT_GPT2_FC_W] = "mlp.c_fc.weight",       [MPT_GPT2_FCPROJ_W] = "mlp.c_proj.weight",
        [MPT_GPT2_LN1_W] = "ln_1.weight",          [MPT_GPT2_LN1_B] = "ln_1.bias",
        [MPT_GPT2_QKV_B] = "attn.c_attn.bias",     [MPT_GPT2_PROJ_B] = "attn.c_proj.bias",
        [MPT_GPT2_LN2_W] = "ln_2.weight",          [MPT_GPT2_LN2_B] = "ln_2.bias",
        [MPT_GPT2_FC_B] = "mlp.c_fc.bias",         [MPT_GPT2_FCPROJ_B] = "mlp.c_proj.bias",
    };
    int64_t c = shape->dim;
    const int64_t rows[MPT_GPT2_BLOCK_TENSORS] = {3 * c, c, 4 * c, c, c, c, 3 * c, c, c, c, 4 * c, c};
    const int64_t columns[4] = {c, c, c, 4 * c};
    int unit = (int)layer + 1;
    for (int t = 0; t < MPT_GPT2_BLOCK_TENSORS; t++) {
        char name[MPT_TENSOR_MAX_NAME];
        snprintf(name, sizeof name, "h.%d.%s", (int)layer, names[t]);
        out[t] = t <= MPT_GPT2_FCPROJ_W ? matrix(name, unit, rows[t], columns[t])
                                        : vector(name, unit, rows[t]);
    }
}

void mpt_gpt2_tensors(const mpt_gpt2_shape_t *shape, mpt_tensor_t *tensors)
{
    int64_t c = shape->dim, first = 0;
    tensors[MPT_GPT2_WTE] = matrix("wte.weight", 0, shape->vocab, c);
    tensors[MPT_GPT2_WTE].reserve = (mpt_gpt2_vocab_padded(shape) - shape->vocab) * c;
    tensors[MPT_GPT2_WPE] = matrix("wpe.weight", 0, shape->context, c);
    for (int64_t l = 0; l < shape->layers; l++)
        block_tensors(shape, l, &tensors[mpt_gpt2_block(l, MPT_GPT2_QKV_W)]);
    int lnf = mpt_gpt2_lnf(shape), head = (int)shape->layers + 1;
    tensors[lnf] = vector("ln_f.weight", head, c);
    tensors[lnf + 1] = vector("ln_f.bias", head, c);
    for (int t = 0; t < mpt_gpt2_tensor_count(shape); t++) {
        tensors[t].first = first;
        first += mpt_tensor_count(&tensors[t]);
    }
}

/* One draw of Philox serves the elements 2i and 2i+1: Box-Muller's two values. */
static void draw_normals(uint64_t seed, int64_t global, int64_t count, double stddev, float *out)
{
    for (int64_t i = 0; i < count;) {
        uint64_t element = (uint64_t)(global + i);
        mpt_philox_t bits = mpt_philox(seed, MPT_PURPOSE_INIT, element / 2, 0);
        double u = ((double)bits.word[0] + 1.0) * 0x1p-32, angle = bits.word[1] * (2.0 * M_PI * 0x1p-32);
        double radius = stddev * sqrt(-2.0 * log(u));
        if (element % 2 == 0) {
            out[i++] = (float)(radius * cos(angle));
            if (i == count)
                return;
        }
        out[i++] = (float)(radius * sin(angle));
    }
}

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

void mpt_gpt2_init(const mpt_gpt2_shape_t *shape, const mpt_tensor_t *tensors, int index,
                   uint64_t seed, int64_t first, int64_t count, float *out)
{
    const mpt_tensor_t *tensor = &tensors[index];
    if (tensor->dims == 1) {
        float value = ends_with(tensor->name, ".weight") ? 1.0f : 0.0f;
        for (int64_t i = 0; i < count; i++)
            out[i] = value;
        return;
    }
    double stddev = INIT_STDDEV;
    if (ends_with(tensor->name, "c_proj.weight"))
        stddev /= sqrt(2.0 * (double)shape->layers);
    draw_normals(seed, tensor->first + first, count, stddev, out);
}

void mpt_gpt2_flops(const mpt_gpt2_shape_t *shape, int64_t parameters, double *six_nd_p, double *palm_p,
                    double *causal_p)
{
    double attention = (double)shape->layers * (double)shape->dim * (double)shape->seq;
    *six_nd_p = 6.0 * (double)parameters;
    *palm_p = *six_nd_p + 12.0 * attention;
    *causal_p = *six_nd_p + 6.0 * attention;
}
