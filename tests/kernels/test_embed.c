#include "elementwise_fixture.h"

#define VOCAB 11
static const int64_t dims[] = {1, 3, 8, 16, 17, 63, 64, 65, 130, 259};
#define DIMS (int)(sizeof dims / sizeof dims[0])

typedef struct sample {
    mpt_dtype_t dtype;
    int64_t batch, seq, dim;
    uint32_t *tokens;
    void *wte, *wpe, *dout;
} sample_t;

/* Tokens repeat, in one row of them all are the same. */
static sample_t sample_make(mpt_dtype_t dtype, int64_t batch, int64_t seq, int64_t dim)
{
    sample_t x = {.dtype = dtype, .batch = batch, .seq = seq, .dim = dim};
    uint64_t seed = 7;
    x.tokens = guarded(batch * seq, sizeof *x.tokens);
    for (int64_t i = 0; i < batch * seq; i++)
        x.tokens[i] = i < seq ? VOCAB - 1 : (uint32_t)(random_bits(&seed) % VOCAB);
    x.wte = random_array(VOCAB * dim, dtype, 0.0, 2.0, 1);
    x.wpe = random_array(seq * dim, dtype, 0.0, 0.01, 2);
    x.dout = random_array(batch * seq * dim, dtype, 0.0, 1.0, 3);
    return x;
}

static void sample_free(sample_t *x)
{
    release(x->tokens);
    release(x->wte);
    release(x->wpe);
    release(x->dout);
}

static void check_forward(rig_t *rig, const sample_t *x)
{
    const int64_t count = x->batch * x->seq * x->dim;
    void *out = guarded_of(count, x->dtype), *want = guarded_of(count, x->dtype);
    const mpt_embed_forward_t args = {x->dtype,  x->batch, x->seq, x->dim,
                                      x->tokens, x->wte,   x->wpe, out};
    assert_int_equal(mpt_embed_forward(&rig->k, &args, NULL), MPT_OK);
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = i / x->dim, column = i % x->dim;
        mpt_store(want, x->dtype, i,
                  mpt_load(x->wte, x->dtype, x->tokens[row] * x->dim + column) +
                      mpt_load(x->wpe, x->dtype, row % x->seq * x->dim + column));
    }
    assert_memory_equal(out, want, (size_t)count * mpt_dtype_bytes(x->dtype));
    release(out);
    release(want);
}

/* FP32 additions in a given order have one result: the oracle is the plain loop. */
static void add_in_order(const sample_t *x, float *dwte, float *dwpe)
{
    for (int64_t row = 0; row < x->batch * x->seq; row++)
        for (int64_t i = 0; i < x->dim; i++) {
            const float g = (float)mpt_load(x->dout, x->dtype, row * x->dim + i);
            dwte[x->tokens[row] * x->dim + i] += g;
            dwpe[row % x->seq * x->dim + i] += g;
        }
}

static void check_backward(rig_t *rig, const sample_t *x)
{
    float *dwte = random_array(VOCAB * x->dim, MPT_F32, 0.0, 1.0, 4);
    float *dwpe = random_array(x->seq * x->dim, MPT_F32, 0.0, 1.0, 5);
    float *want_wte = duplicate(dwte), *want_wpe = duplicate(dwpe);
    const mpt_embed_backward_t args = {x->dtype,  x->batch, x->seq, x->dim,
                                       x->tokens, x->dout,  dwte,   dwpe};
    assert_int_equal(mpt_embed_backward(&rig->k, &args, NULL), MPT_OK);
    add_in_order(x, want_wte, want_wpe);
    assert_memory_equal(dwte, want_wte, (size_t)(VOCAB * x->dim) * sizeof(float));
    assert_memory_equal(dwpe, want_wpe, (size_t)(x->seq * x->dim) * sizeof(float));
    release(dwte);
    release(dwpe);
    release(want_wte);
    release(want_wpe);
}

/* Every level, type, dimension, number of threads. */
static void for_all(void (*check)(rig_t *rig, const sample_t *x), int64_t batch, int64_t seq)
{
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int t = 0; t < THREAD_COUNTS; t++)
            for (int d = 0; d < RUN_DTYPES; d++) {
                rig_t rig;
                rig_open(&rig, (mpt_isa_t)isa, thread_counts[t], run_dtypes[d], 259, 1);
                for (int i = 0; i < DIMS; i++) {
                    sample_t x = sample_make(run_dtypes[d], batch, seq, dims[i]);
                    check(&rig, &x);
                    sample_free(&x);
                }
                rig_close(&rig);
            }
}

static void forward_adds_token_and_position_in_one_rounding(void **state)
{
    (void)state;
    for_all(check_forward, 3, 7);
    for_all(check_forward, 1, 1);
}

static void forward_cut_into_several_tasks_covers_every_row(void **state)
{
    (void)state;
    for_all(check_forward, 2, 150);
}

static void backward_adds_rows_in_order(void **state)
{
    (void)state;
    for_all(check_backward, 5, 6);
    for_all(check_backward, 1, 1);
}

/* 1 then many halves of its last place: any other order or grouping of the sum gives other bits. */
static void backward_does_not_regroup_additions(void **state)
{
    (void)state;
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++) {
        rig_t rig;
        rig_open(&rig, (mpt_isa_t)isa, 2, MPT_F32, 1, 1);
        float dout[65], dwte = 0.0f, dwpe[65] = {0};
        uint32_t tokens[65] = {0};
        for (int i = 0; i < 65; i++)
            dout[i] = i == 0 ? 1.0f : 0x1p-24f;
        const mpt_embed_backward_t args = {MPT_F32, 1, 65, 1, tokens, dout, &dwte, dwpe};
        assert_int_equal(mpt_embed_backward(&rig.k, &args, NULL), MPT_OK);
        assert_true(dwte == 1.0f);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_adds_token_and_position_in_one_rounding),
        cmocka_unit_test(forward_cut_into_several_tasks_covers_every_row),
        cmocka_unit_test(backward_adds_rows_in_order),
        cmocka_unit_test(backward_does_not_regroup_additions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
