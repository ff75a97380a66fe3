/*
 * Outputs too large for the caches are stored past them. That must not show: one call over a large array is compared with
 * calls over its pieces, which are small enough to be stored as usual.
 */
#include "elementwise_fixture.h"

#define PIECE ((int64_t)1 << 20)
#define PIECES 5
/* Odd, and in every type beyond the 8 MiB from which outputs pass the caches. */
#define COUNT (PIECES * PIECE - 13)

static void *at(const void *array, mpt_dtype_t dtype, int64_t i)
{
    return (char *)(uintptr_t)array + (size_t)i * mpt_dtype_bytes(dtype);
}

static int64_t piece_of(int64_t begin)
{
    return COUNT - begin < PIECE ? COUNT - begin : PIECE;
}

/* Check that both arrays hold the same, and free them. */
static void release_same(void *got, void *want, mpt_dtype_t dtype, int64_t count)
{
    assert_memory_equal(got, want, (size_t)count * mpt_dtype_bytes(dtype));
    release(got);
    release(want);
}

static void for_all(void (*check)(rig_t *rig, mpt_dtype_t dtype), int64_t vocab)
{
    for (int isa = 0; isa <= (int)mpt_isa_detect(); isa++)
        for (int threads = 1; threads <= 2; threads++)
            for (int d = 0; d < RUN_DTYPES; d++) {
                rig_t rig;
                rig_open(&rig, (mpt_isa_t)isa, threads, run_dtypes[d], 1, vocab);
                check(&rig, run_dtypes[d]);
                rig_close(&rig);
            }
}

static void check_to_wire(rig_t *rig, mpt_dtype_t dtype)
{
    float *acc = random_array(COUNT, MPT_F32, 0.0, 4.0, 71);
    void *got = guarded_of(COUNT, dtype), *want = guarded_of(COUNT, dtype);
    mpt_offender_t bad;
    mpt_to_wire_t args = {dtype, COUNT, acc, got, 2.0f, &bad};
    assert_int_equal(mpt_to_wire(&rig->k, &args, NULL), MPT_OK);
    for (int64_t i = 0; i < COUNT; i += PIECE) {
        args = (mpt_to_wire_t){dtype, piece_of(i), acc + i, at(want, dtype, i), 2.0f, &bad};
        assert_int_equal(mpt_to_wire(&rig->k, &args, NULL), MPT_OK);
    }
    release_same(got, want, dtype, COUNT);
    release(acc);
}

static void large_gradients_reach_the_wire_as_small_ones_do(void **state)
{
    (void)state;
    for_all(check_to_wire, 1);
}

static void check_cast(rig_t *rig, mpt_dtype_t dtype)
{
    float *src = random_array(COUNT, MPT_F32, 0.0, 4.0, 72);
    void *got = guarded_of(COUNT, dtype), *want = guarded_of(COUNT, dtype);
    mpt_cast_t args = {.dst_dtype = dtype, .src_dtype = MPT_F32, .count = COUNT, .dst = got, .src = src};
    assert_int_equal(mpt_cast(&rig->k, &args, NULL), MPT_OK);
    for (int64_t i = 0; i < COUNT; i += PIECE) {
        args.count = piece_of(i);
        args.src = src + i;
        args.dst = at(want, dtype, i);
        assert_int_equal(mpt_cast(&rig->k, &args, NULL), MPT_OK);
    }
    release_same(got, want, dtype, COUNT);
    release(src);
}

static void large_arrays_are_cast_as_small_ones_are(void **state)
{
    (void)state;
    for_all(check_cast, 1);
}

/* One step of elements [begin, begin + count); decay ends inside a vector of the third piece. */
static void adamw_part(rig_t *rig, mpt_dtype_t dtype, float *const moments[3], void *working, const void *grad,
                       int64_t begin, int64_t count)
{
    const int64_t decay = 2 * PIECE + 12345 - begin;
    const mpt_adamw_t args = {.compute = dtype,
                              .grad_dtype = dtype,
                              .count = count,
                              .decay_count = decay < 0 ? 0 : decay > count ? count : decay,
                              .master = moments[0] + begin,
                              .m = moments[1] + begin,
                              .v = moments[2] + begin,
                              .working = at(working, dtype, begin),
                              .grad = at(grad, dtype, begin),
                              .factor = 0.5f,
                              .lr = 3e-3f,
                              .beta1 = 0.9f,
                              .beta2 = 0.95f,
                              .eps = 1e-8f,
                              .decay = 0.1f,
                              .correction1 = 0.271f,
                              .correction2 = 0.142625f};
    assert_int_equal(mpt_adamw(&rig->k, &args, NULL), MPT_OK);
}

static void check_adamw(rig_t *rig, mpt_dtype_t dtype)
{
    float *got[3] = {random_array(COUNT, MPT_F32, 0.0, 1.0, 73), random_array(COUNT, MPT_F32, 0.0, 0.01, 74),
                     random_array(COUNT, MPT_F32, 1e-3, 0.9e-3, 75)};
    float *want[3] = {duplicate(got[0]), duplicate(got[1]), duplicate(got[2])};
    void *grad = random_array(COUNT, dtype, 0.0, 1.0, 76);
    void *working = guarded_of(COUNT, dtype), *expected = guarded_of(COUNT, dtype);
    adamw_part(rig, dtype, got, working, grad, 0, COUNT);
    for (int64_t i = 0; i < COUNT; i += PIECE)
        adamw_part(rig, dtype, want, expected, grad, i, piece_of(i));
    for (int j = 0; j < 3; j++)
        release_same(got[j], want[j], MPT_F32, COUNT);
    release_same(working, expected, dtype, COUNT);
    release(grad);
}

static void large_units_are_updated_as_small_ones_are(void **state)
{
    (void)state;
    for_all(check_adamw, 1);
}

#define ROWS 64
#define VOCAB 70001
#define PADDED 70016

static void check_loss(rig_t *rig, mpt_dtype_t dtype)
{
    float *logits = random_array((int64_t)ROWS * PADDED, MPT_F32, 0.0, 20.0, 77);
    void *got = guarded_of((int64_t)ROWS * PADDED, dtype), *want = guarded_of((int64_t)ROWS * PADDED, dtype);
    float losses[ROWS];
    uint32_t targets[ROWS];
    double sum = 0.0;
    for (uint32_t r = 0; r < ROWS; r++)
        targets[r] = r * 1000 + r;
    mpt_loss_t args = {.compute = dtype, .rows = ROWS, .vocab = VOCAB, .vocab_padded = PADDED, .logits = logits,
                       .targets = targets, .seed = 8.0f, .dlogits = got, .losses = losses, .loss_sum = &sum};
    assert_int_equal(mpt_loss(&rig->k, &args, NULL), MPT_OK);
    for (int64_t r = 0; r < ROWS; r++) {
        args.rows = 1;
        args.logits = logits + r * PADDED;
        args.targets = targets + r;
        args.dlogits = at(want, dtype, r * PADDED);
        assert_int_equal(mpt_loss(&rig->k, &args, NULL), MPT_OK);
    }
    release_same(got, want, dtype, (int64_t)ROWS * PADDED);
    release(logits);
}

static void many_rows_have_the_gradients_of_single_ones(void **state)
{
    (void)state;
    for_all(check_loss, PADDED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_gradients_reach_the_wire_as_small_ones_do),
        cmocka_unit_test(large_arrays_are_cast_as_small_ones_are),
        cmocka_unit_test(large_units_are_updated_as_small_ones_are),
        cmocka_unit_test(many_rows_have_the_gradients_of_single_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
