/*
 * The conformance suite is itself tested: backends with one fault each, made from the oracle, must not pass.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "conformance_suite.h"

/* One fault: the table to put it into, and the case that has to notice. */
typedef struct mutant {
    const char *name;
    void (*install)(mpt_kernels_ops_t *ops);
    void (*run)(conform_context_t *x, const conform_target_t *target);
} mutant_t;

static const mpt_kernels_ops_t *ref(void)
{
    return mpt_kernels_find("ref");
}

/* ---- faults of linear_forward ------------------------------------------------------------------------ */

static size_t y_bytes(const mpt_linear_forward_t *a)
{
    return (size_t)(a->rows * a->out) * mpt_dtype_bytes(a->y_dtype);
}

static mpt_status_t writes_past_the_end(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                        mpt_stream_t *s)
{
    unsigned char *past = (unsigned char *)a->y + y_bytes(a);
    mpt_status_t status = ref()->linear_forward(k, a, s);
    *past = 0;
    return status;
}

static mpt_status_t writes_before_the_start(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                            mpt_stream_t *s)
{
    mpt_status_t status = ref()->linear_forward(k, a, s);
    ((unsigned char *)a->y)[-1] = 0;
    return status;
}

static mpt_status_t leaves_one_unwritten(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                         mpt_stream_t *s)
{
    size_t size = mpt_dtype_bytes(a->y_dtype);
    mpt_status_t status = ref()->linear_forward(k, a, s);
    memset((unsigned char *)a->y + y_bytes(a) - size, 0xff, size);
    return status;
}

/* Every element of y again, from a product without its rounding, by `round`. */
static mpt_status_t
rounded_otherwise(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s,
                  void (*round)(const mpt_linear_forward_t *a, int64_t i, float z))
{
    float *z = conform_alloc((size_t)(a->rows * a->out) * sizeof(float));
    mpt_linear_forward_t wide = *a;
    wide.pre = NULL;
    wide.y = z;
    wide.y_dtype = MPT_F32;
    mpt_status_t status = ref()->linear_forward(k, &wide, s);
    if (a->pre && status == MPT_OK)
        status = ref()->linear_forward(k, a, s);
    for (int64_t i = 0; i < a->rows * a->out; i++)
        round(a, i, z[i]);
    free(z);
    return status;
}

static void truncate_bf16(const mpt_linear_forward_t *a, int64_t i, float z)
{
    ((uint16_t *)a->y)[i] = (uint16_t)(mpt_f32_bits(z) >> 16);
}

static mpt_status_t truncates(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s)
{
    return rounded_otherwise(k, a, s, truncate_bf16);
}

static void gelu_of_unrounded(const mpt_linear_forward_t *a, int64_t i, float z)
{
    mpt_store(a->y, a->y_dtype, i, linear_gelu((double)z));
}

static mpt_status_t takes_gelu_of_the_unrounded(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                                mpt_stream_t *s)
{
    return rounded_otherwise(k, a, s, gelu_of_unrounded);
}

/* A copy of x, changed by `change`, goes into the product. */
static mpt_status_t of_changed_x(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s,
                                 double (*change)(double x))
{
    int64_t count = a->rows * a->in;
    mpt_dtype_t dtype = mpt_dtype_memory(a->compute);
    void *x = conform_alloc((size_t)count * mpt_dtype_bytes(dtype));
    for (int64_t i = 0; i < count; i++)
        mpt_store(x, dtype, i, change(mpt_load(a->x, dtype, i)));
    mpt_linear_forward_t changed = *a;
    changed.x = x;
    mpt_status_t status = ref()->linear_forward(k, &changed, s);
    free(x);
    return status;
}

static double flush_subnormal(double x)
{
    return fabs(x) < 0x1p-14 ? 0 : x;
}

static mpt_status_t flushes_fp16_subnormals(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                            mpt_stream_t *s)
{
    return of_changed_x(k, a, s, flush_subnormal);
}

static double hide_non_finite(double x)
{
    return isfinite(x) ? x : 0;
}

static mpt_status_t hides_non_finite_values(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                            mpt_stream_t *s)
{
    return of_changed_x(k, a, s, hide_non_finite);
}

/* TF32 without its rounding, and with another. */
static mpt_status_t multiplies_fp32_for_tf32(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                             mpt_stream_t *s)
{
    mpt_linear_forward_t wide = *a;
    wide.compute = MPT_F32;
    return ref()->linear_forward(k, &wide, s);
}

static double cut_to_tf32(double x)
{
    return (double)mpt_f32_from_bits(mpt_f32_bits((float)x) & ~0x1fffu);
}

static mpt_status_t truncates_to_tf32(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                      mpt_stream_t *s)
{
    return of_changed_x(k, a, s, cut_to_tf32);
}

static mpt_status_t depends_on_the_threads(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                           mpt_stream_t *s)
{
    mpt_status_t status = ref()->linear_forward(k, a, s);
    if (mpt_pool_threads(k->device->pool) == 4)
        ((unsigned char *)a->y)[0] ^= 1;
    return status;
}

static mpt_status_t depends_on_the_scratch(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                           mpt_stream_t *s)
{
    mpt_status_t status = ref()->linear_forward(k, a, s);
    mpt_store(a->y, a->y_dtype, 0, mpt_load(a->y, a->y_dtype, 0) + (double)*(float *)k->scratch);
    return status;
}

static mpt_status_t overruns_the_scratch(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                         mpt_stream_t *s)
{
    memset(k->scratch, 0, k->scratch_bytes + 1);
    return ref()->linear_forward(k, a, s);
}

static size_t some_scratch(mpt_isa_t isa, int threads, const mpt_kernels_limits_t *limits)
{
    (void)isa;
    (void)limits;
    return (size_t)threads * 64;
}

static mpt_status_t changes_an_input(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                     mpt_stream_t *s)
{
    mpt_status_t status = ref()->linear_forward(k, a, s);
    *(unsigned char *)(uintptr_t)a->w ^= 1;
    return status;
}

static mpt_status_t reads_past_an_input(mpt_kernels_t *k, const mpt_linear_forward_t *a,
                                        mpt_stream_t *s)
{
    mpt_status_t status = ref()->linear_forward(k, a, s);
    double past = mpt_load(a->x, a->compute, a->rows * a->in);
    mpt_store(a->y, a->y_dtype, 0, mpt_load(a->y, a->y_dtype, 0) + past * 0);
    return status;
}

static mpt_status_t sums_in_bf16(mpt_kernels_t *k, const mpt_linear_forward_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->rows * a->out; i++) {
        int64_t x = i / a->out * a->in, w = i % a->out * a->in;
        uint16_t sum = 0;
        for (int64_t n = 0; n < a->in; n++)
            mpt_store(&sum, MPT_BF16, 0,
                      mpt_load(&sum, MPT_BF16, 0) +
                          mpt_load(a->x, a->compute, x + n) * mpt_load(a->w, a->compute, w + n));
        mpt_store(a->y, a->y_dtype, i, mpt_load(&sum, MPT_BF16, 0));
    }
    return MPT_OK;
}

#define INSTALL(slot, fault)                                                                       \
    static void install_##fault(mpt_kernels_ops_t *ops)                                            \
    {                                                                                              \
        ops->slot = fault;                                                                         \
    }

INSTALL(linear_forward, writes_past_the_end)
INSTALL(linear_forward, writes_before_the_start)
INSTALL(linear_forward, leaves_one_unwritten)
INSTALL(linear_forward, truncates)
INSTALL(linear_forward, takes_gelu_of_the_unrounded)
INSTALL(linear_forward, flushes_fp16_subnormals)
INSTALL(linear_forward, hides_non_finite_values)
INSTALL(linear_forward, multiplies_fp32_for_tf32)
INSTALL(linear_forward, truncates_to_tf32)
INSTALL(linear_forward, depends_on_the_threads)
INSTALL(linear_forward, changes_an_input)
INSTALL(linear_forward, reads_past_an_input)
INSTALL(linear_forward, sums_in_bf16)

static void install_depends_on_the_scratch(mpt_kernels_ops_t *ops)
{
    ops->linear_forward = depends_on_the_scratch;
    ops->scratch_bytes = some_scratch;
}

static void install_overruns_the_scratch(mpt_kernels_ops_t *ops)
{
    ops->linear_forward = overruns_the_scratch;
    ops->scratch_bytes = some_scratch;
}

static const int64_t mutant_shape[3] = {7, 35, 13};

static void run_forward(conform_context_t *x, const conform_target_t *t)
{
    linear_forward_case(x, t, 1, MPT_BF16, mutant_shape, LINEAR_BIAS);
}

static void run_forward_pre(conform_context_t *x, const conform_target_t *t)
{
    linear_forward_case(x, t, 1, MPT_BF16, mutant_shape, LINEAR_BIAS | LINEAR_PRE);
}

static void run_forward_tiny(conform_context_t *x, const conform_target_t *t)
{
    linear_forward_case(x, t, 1, MPT_F16, mutant_shape, LINEAR_TINY | LINEAR_WIDE);
}

static void run_forward_special(conform_context_t *x, const conform_target_t *t)
{
    linear_forward_case(x, t, 1, MPT_F32, mutant_shape, LINEAR_SPECIAL | LINEAR_BIAS);
}

static void run_forward_tf32(conform_context_t *x, const conform_target_t *t)
{
    linear_forward_case(x, t, 1, MPT_TF32, mutant_shape, LINEAR_BIAS);
}

/* ---- faults of the others ---------------------------------------------------------------------------- */

static mpt_status_t overwrites_the_gradient(mpt_kernels_t *k, const mpt_linear_backward_weight_t *a,
                                            mpt_stream_t *s)
{
    memset(a->dw, 0, (size_t)(a->in * a->out) * mpt_dtype_bytes(mpt_dtype_wide(a->compute)));
    return ref()->linear_backward_weight(k, a, s);
}
INSTALL(linear_backward_weight, overwrites_the_gradient)

/* All of dy, not only where it multiplies. */
static mpt_status_t rounds_bias_gradients_to_tf32(mpt_kernels_t *k,
                                                  const mpt_linear_backward_weight_t *a,
                                                  mpt_stream_t *s)
{
    int64_t count = a->rows * a->out;
    float *dy = conform_alloc((size_t)count * sizeof *dy);
    for (int64_t i = 0; i < count; i++)
        dy[i] = mpt_round_tf32(((const float *)a->dy)[i]);
    mpt_linear_backward_weight_t rounded = *a;
    rounded.dy = dy;
    mpt_status_t status = ref()->linear_backward_weight(k, &rounded, s);
    free(dy);
    return status;
}
INSTALL(linear_backward_weight, rounds_bias_gradients_to_tf32)

static void run_weight_tf32(conform_context_t *x, const conform_target_t *t)
{
    linear_weight_case(x, t, 1, MPT_TF32, mutant_shape, LINEAR_BIAS);
}

static void run_weight(conform_context_t *x, const conform_target_t *t)
{
    linear_weight_case(x, t, 1, MPT_BF16, mutant_shape, LINEAR_BIAS);
}

static mpt_status_t forgets_the_gelu_slope(mpt_kernels_t *k, const mpt_linear_backward_input_t *a,
                                           mpt_stream_t *s)
{
    mpt_linear_backward_input_t without = *a;
    without.pre = NULL;
    return ref()->linear_backward_input(k, &without, s);
}
INSTALL(linear_backward_input, forgets_the_gelu_slope)

static void run_input(conform_context_t *x, const conform_target_t *t)
{
    linear_input_case(x, t, 1, MPT_BF16, mutant_shape, LINEAR_PRE);
}

/* Head 0's values are head 1's as well. */
static mpt_status_t mixes_up_heads(mpt_kernels_t *k, const mpt_attention_forward_t *a,
                                   mpt_stream_t *s)
{
    size_t size = mpt_dtype_bytes(a->compute), head = (size_t)a->head_dim * size;
    size_t bytes = (size_t)(a->batch * a->seq * 3 * a->heads) * head;
    unsigned char *qkv = conform_alloc(bytes);
    memcpy(qkv, a->qkv, bytes);
    for (int64_t t = 0; t < a->batch * a->seq; t++) {
        unsigned char *v = qkv + (size_t)((t * 3 + 2) * a->heads) * head;
        memcpy(v + head, v, head);
    }
    mpt_attention_forward_t mixed = *a;
    mixed.qkv = qkv;
    mpt_status_t status = ref()->attention_forward(k, &mixed, s);
    free(qkv);
    return status;
}
INSTALL(attention_forward, mixes_up_heads)

/* The last query sees all keys but its own. */
static mpt_status_t masks_one_key_too_many(mpt_kernels_t *k, const mpt_attention_forward_t *a,
                                           mpt_stream_t *s)
{
    size_t row = (size_t)(a->heads * a->head_dim) * mpt_dtype_bytes(a->compute);
    size_t bytes = (size_t)(a->batch * a->seq) * 3 * row;
    unsigned char *qkv = conform_alloc(bytes);
    memcpy(qkv, a->qkv, bytes);
    unsigned char *last = qkv + bytes - 3 * row;
    memcpy(last + row, last - 2 * row, 2 * row); /* the key and value before it, once more */
    mpt_attention_forward_t masked = *a;
    masked.qkv = qkv;
    mpt_status_t status = ref()->attention_forward(k, &masked, s);
    free(qkv);
    return status;
}
INSTALL(attention_forward, masks_one_key_too_many)

static void run_attention(conform_context_t *x, const conform_target_t *t)
{
    static const int64_t n[4] = {1, 9, 2, 8};
    attention_forward_case(x, t, 1, MPT_BF16, n, 0);
}

/* A variance as average of squares less the mean's square, in FP32. */
static mpt_status_t cancels_in_the_variance(mpt_kernels_t *k, const mpt_layernorm_forward_t *a,
                                            mpt_stream_t *s)
{
    mpt_status_t status = ref()->layernorm_forward(k, a, s);
    for (int64_t row = 0; row < a->rows; row++) {
        float sum = 0, squares = 0;
        for (int64_t d = 0; d < a->dim; d++) {
            float x = (float)mpt_load(a->x, a->compute, row * a->dim + d);
            sum += x;
            squares += x * x;
        }
        float mean = sum / (float)a->dim, var = squares / (float)a->dim - mean * mean;
        ((float *)a->rstd)[row] = 1 / sqrtf(var + 1e-5f);
    }
    return status;
}
INSTALL(layernorm_forward, cancels_in_the_variance)

static void run_norm_offset(conform_context_t *x, const conform_target_t *t)
{
    static const int64_t n[2] = {5, 64};
    norm_forward_case(x, t, 1, MPT_F32, n, NORM_OFFSET);
}

static mpt_status_t forgets_the_residual(mpt_kernels_t *k, const mpt_layernorm_backward_t *a,
                                         mpt_stream_t *s)
{
    mpt_layernorm_backward_t without = *a;
    without.dres = NULL;
    return ref()->layernorm_backward(k, &without, s);
}
INSTALL(layernorm_backward, forgets_the_residual)

static void run_norm_backward(conform_context_t *x, const conform_target_t *t)
{
    static const int64_t n[2] = {5, 33};
    norm_backward_case(x, t, 1, MPT_F16, n, BACK_RES | BACK_ONTO_RES);
}

static mpt_status_t skips_a_token(mpt_kernels_t *k, const mpt_embed_backward_t *a, mpt_stream_t *s)
{
    mpt_status_t status = ref()->embed_backward(k, a, s);
    for (int64_t d = 0; d < a->dim; d++)
        ((float *)a->dwte)[a->tokens[0] * a->dim + d] -= (float)mpt_load(a->dout, a->compute, d);
    return status;
}
INSTALL(embed_backward, skips_a_token)

static void run_embed_backward(conform_context_t *x, const conform_target_t *t)
{
    static const int64_t n[4] = {2, 7, 33, 5};
    embed_backward_case(x, t, 1, MPT_BF16, n);
}

static mpt_status_t predicts_the_padding(mpt_kernels_t *k, const mpt_loss_t *a, mpt_stream_t *s)
{
    mpt_status_t status = ref()->loss(k, a, s);
    mpt_store(a->dlogits, a->compute, a->vocab, 0x1p-24);
    return status;
}
INSTALL(loss, predicts_the_padding)

static void run_loss(conform_context_t *x, const conform_target_t *t)
{
    static const int64_t n[3] = {3, 19, 32};
    loss_case(x, t, 1, MPT_F16, n, 0);
}

static mpt_status_t names_another_offender(mpt_kernels_t *k, const mpt_to_wire_t *a,
                                           mpt_stream_t *s)
{
    mpt_status_t status = ref()->to_wire(k, a, s);
    a->bad->first++;
    return status;
}
INSTALL(to_wire, names_another_offender)

static void run_to_wire(conform_context_t *x, const conform_target_t *t)
{
    to_wire_case(x, t, 1, MPT_F16, 1000, FLAT_SPECIAL);
}

static mpt_status_t sums_squares_in_one_chain(mpt_kernels_t *k, const mpt_grad_scan_t *a,
                                              mpt_stream_t *s)
{
    mpt_status_t status = ref()->grad_scan(k, a, s);
    *a->sumsq = 0;
    for (int64_t i = 0; i < a->count; i++)
        *a->sumsq += mpt_load(a->grad, a->dtype, i) * mpt_load(a->grad, a->dtype, i);
    return status;
}
INSTALL(grad_scan, sums_squares_in_one_chain)

static void run_grad_scan(conform_context_t *x, const conform_target_t *t)
{
    grad_scan_case(x, t, 1, MPT_F32, 4097, 0);
}

static mpt_status_t decays_everything(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s)
{
    mpt_adamw_t all = *a;
    all.decay_count = a->count;
    return ref()->adamw(k, &all, s);
}
INSTALL(adamw, decays_everything)

static void run_adamw(conform_context_t *x, const conform_target_t *t)
{
    adamw_case(x, t, 1, MPT_BF16, MPT_F32, 65, 0);
}

/* The average takes what the working weights lost. */
static mpt_status_t averages_the_rounded_weights(mpt_kernels_t *k, const mpt_adamw_t *a,
                                                 mpt_stream_t *s)
{
    mpt_adamw_t without = *a;
    without.ema = NULL;
    mpt_status_t status = ref()->adamw(k, &without, s);
    for (int64_t i = 0; i < a->count; i++)
        a->ema[i] += (1 - a->ema_decay) * ((float)mpt_load(a->working, a->compute, i) - a->ema[i]);
    return status;
}
INSTALL(adamw, averages_the_rounded_weights)

static void run_adamw_average(conform_context_t *x, const conform_target_t *t)
{
    adamw_case(x, t, 1, MPT_BF16, MPT_F32, 65, FLAT_EMA);
}

static mpt_status_t rounds_weights_to_nearest(mpt_kernels_t *k, const mpt_adamw_t *a,
                                              mpt_stream_t *s)
{
    mpt_adamw_t nearest = *a;
    nearest.stochastic = NULL;
    return ref()->adamw(k, &nearest, s);
}
INSTALL(adamw, rounds_weights_to_nearest)

static void run_adamw_stochastic(conform_context_t *x, const conform_target_t *t)
{
    adamw_case(x, t, 1, MPT_BF16, MPT_F32, 65, FLAT_STOCHASTIC);
}

/* Against the gradient's sign twice as far: without masters the rounded weight alone tells. */
static mpt_status_t steps_too_far(mpt_kernels_t *k, const mpt_adamw_t *a, mpt_stream_t *s)
{
    mpt_adamw_t far = *a;
    far.lr *= 2;
    return ref()->adamw(k, &far, s);
}
INSTALL(adamw, steps_too_far)

static void run_adamw_masterless(conform_context_t *x, const conform_target_t *t)
{
    adamw_case(x, t, 1, MPT_F16, MPT_F32, 65, FLAT_STOCHASTIC | FLAT_MASTERLESS);
}

static mpt_status_t cast_with(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s,
                              mpt_stochastic_t how)
{
    mpt_cast_t changed = *a;
    changed.stochastic = &how;
    return ref()->cast(k, &changed, s);
}

static mpt_status_t draws_the_same_every_step(mpt_kernels_t *k, const mpt_cast_t *a,
                                              mpt_stream_t *s)
{
    mpt_stochastic_t how = *a->stochastic;
    how.step = 0;
    return cast_with(k, a, s, how);
}
INSTALL(cast, draws_the_same_every_step)

static mpt_status_t draws_by_the_place_in_the_array(mpt_kernels_t *k, const mpt_cast_t *a,
                                                    mpt_stream_t *s)
{
    mpt_run_t run[FLAT_RUNS];
    mpt_stochastic_t how = *a->stochastic;
    memcpy(run, how.runs, sizeof run);
    for (int r = 0; r < FLAT_RUNS; r++)
        run[r].element = run[r].at;
    how.runs = run;
    return cast_with(k, a, s, how);
}
INSTALL(cast, draws_by_the_place_in_the_array)

static mpt_status_t draws_for_the_padding(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    mpt_run_t run[FLAT_RUNS];
    mpt_stochastic_t how = *a->stochastic;
    memcpy(run, how.runs, sizeof run);
    run[FLAT_RUNS - 1].count = a->count - run[FLAT_RUNS - 1].at;
    how.runs = run;
    return cast_with(k, a, s, how);
}
INSTALL(cast, draws_for_the_padding)

static void run_cast_stochastic(conform_context_t *x, const conform_target_t *t)
{
    cast_case(x, t, 1, MPT_BF16, MPT_F32, 1000, FLAT_STOCHASTIC);
}

static mpt_status_t keeps_any_nan(mpt_kernels_t *k, const mpt_add_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->count; i++)
        a->acc[i] += (float)mpt_load(a->x, a->dtype, i);
    return MPT_OK;
}
INSTALL(add, keeps_any_nan)

static mpt_status_t overwrites_the_partial_sum(mpt_kernels_t *k, const mpt_add_t *a,
                                               mpt_stream_t *s)
{
    memset(a->acc, 0, (size_t)a->count * sizeof *a->acc);
    return ref()->add(k, a, s);
}
INSTALL(add, overwrites_the_partial_sum)

static void run_add(conform_context_t *x, const conform_target_t *t)
{
    add_case(x, t, 1, MPT_BF16, 65, FLAT_SPECIAL);
}

static mpt_status_t hashes_without_the_place(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s)
{
    mpt_hash_t one = *a;
    one.count = 1;
    for (int64_t i = 0; i < a->count; i++) {
        one.data = (const char *)a->data + (size_t)i * mpt_dtype_bytes(a->dtype);
        ref()->hash(k, &one, s);
    }
    return MPT_OK;
}
INSTALL(hash, hashes_without_the_place)

static mpt_status_t overwrites_the_hash(mpt_kernels_t *k, const mpt_hash_t *a, mpt_stream_t *s)
{
    *a->sum = 0;
    return ref()->hash(k, a, s);
}
INSTALL(hash, overwrites_the_hash)

static void run_hash(conform_context_t *x, const conform_target_t *t)
{
    hash_case(x, t, 1, MPT_F16, 65);
}

static mpt_status_t rounds_twice(mpt_kernels_t *k, const mpt_cast_t *a, mpt_stream_t *s)
{
    (void)k;
    (void)s;
    for (int64_t i = 0; i < a->count; i++)
        mpt_store(a->dst, a->dst_dtype, i, (double)(float)mpt_load(a->src, a->src_dtype, i));
    return MPT_OK;
}
INSTALL(cast, rounds_twice)

static void run_cast(conform_context_t *x, const conform_target_t *t)
{
    cast_case(x, t, 1, MPT_F16, MPT_F64, 65, 0);
}

/* ---- the table ------------------------------------------------------------------------------------------- */

#define MUTANT(fault, run)                                                                         \
    {                                                                                              \
#fault, install_##fault, run                                                               \
    }

static const mutant_t mutants[] = {
    MUTANT(writes_past_the_end, run_forward),
    MUTANT(writes_before_the_start, run_forward),
    MUTANT(leaves_one_unwritten, run_forward),
    MUTANT(truncates, run_forward),
    MUTANT(takes_gelu_of_the_unrounded, run_forward_pre),
    MUTANT(flushes_fp16_subnormals, run_forward_tiny),
    MUTANT(hides_non_finite_values, run_forward_special),
    MUTANT(multiplies_fp32_for_tf32, run_forward_tf32),
    MUTANT(truncates_to_tf32, run_forward_tf32),
    MUTANT(depends_on_the_threads, run_forward),
    MUTANT(depends_on_the_scratch, run_forward),
    MUTANT(overruns_the_scratch, run_forward),
    MUTANT(changes_an_input, run_forward),
    MUTANT(reads_past_an_input, run_forward),
    MUTANT(sums_in_bf16, run_forward),
    MUTANT(overwrites_the_gradient, run_weight),
    MUTANT(rounds_bias_gradients_to_tf32, run_weight_tf32),
    MUTANT(forgets_the_gelu_slope, run_input),
    MUTANT(mixes_up_heads, run_attention),
    MUTANT(masks_one_key_too_many, run_attention),
    MUTANT(cancels_in_the_variance, run_norm_offset),
    MUTANT(forgets_the_residual, run_norm_backward),
    MUTANT(skips_a_token, run_embed_backward),
    MUTANT(predicts_the_padding, run_loss),
    MUTANT(names_another_offender, run_to_wire),
    MUTANT(sums_squares_in_one_chain, run_grad_scan),
    MUTANT(decays_everything, run_adamw),
    MUTANT(averages_the_rounded_weights, run_adamw_average),
    MUTANT(rounds_weights_to_nearest, run_adamw_stochastic),
    MUTANT(steps_too_far, run_adamw_masterless),
    MUTANT(draws_the_same_every_step, run_cast_stochastic),
    MUTANT(draws_by_the_place_in_the_array, run_cast_stochastic),
    MUTANT(draws_for_the_padding, run_cast_stochastic),
    MUTANT(keeps_any_nan, run_add),
    MUTANT(overwrites_the_partial_sum, run_add),
    MUTANT(hashes_without_the_place, run_hash),
    MUTANT(overwrites_the_hash, run_hash),
    MUTANT(rounds_twice, run_cast),
};
#define MUTANT_COUNT (sizeof mutants / sizeof mutants[0])

static int failures_of(const mutant_t *mutant, int sound)
{
    mpt_kernels_ops_t ops = *ref();
    conform_target_t target = {&ops, MPT_ISA_PORTABLE};
    conform_context_t x;
    ops.name = mutant->name;
    if (!sound)
        mutant->install(&ops);
    conform_open(&x);
    x.quiet = !sound;
    mutant->run(&x, &target);
    conform_close(&x);
    return x.failures;
}

static void a_fault_is_caught(void **state)
{
    const mutant_t *mutant = *state;
    assert_int_equal(failures_of(mutant, 1), 0); /* the same case, without the fault */
    assert_true(failures_of(mutant, 0) > 0);
}

int main(void)
{
    static char names[MUTANT_COUNT][80];
    struct CMUnitTest tests[MUTANT_COUNT];
    for (size_t i = 0; i < MUTANT_COUNT; i++) {
        snprintf(names[i], sizeof names[i], "a_backend_that_%s_is_caught", mutants[i].name);
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = a_fault_is_caught,
                                       .initial_state = (void *)(uintptr_t)&mutants[i]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
