#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "comm.h"
#include "memory.h"

static mpt_config_t config_of(mpt_dtype_t compute, mpt_dtype_t reduce)
{
    mpt_config_t config;
    mpt_config_defaults(&config);
    config.model.layers = 2;
    config.model.heads = 3;
    config.model.dim = 15;
    config.model.context = 9;
    config.model.vocab = 11;
    config.data.sequence = 7;
    config.train.global_batch = 24;
    config.train.micro_batch = 2;
    config.precision.compute = compute;
    config.precision.reduce = reduce;
    return config;
}

static mpt_memory_params_t params_of(const mpt_config_t *config, int ranks)
{
    return (mpt_memory_params_t){.config = config,
                                 .kernel_ops = mpt_kernels_find("cpu"),
                                 .isa = mpt_isa_detect(),
                                 .threads = 2,
                                 .ranks = ranks,
                                 .comm_backend = ranks == 1 ? "self" : "shm"};
}

/* Memory cut for real, and what was counted before. */
typedef struct cut {
    mpt_device_t *device;
    mpt_arena_t private_count, peer_count, private_arena, peer_arena;
    mpt_memory_t memory;
} cut_t;

static void open_cut(cut_t *c, const mpt_memory_params_t *params)
{
    memset(c, 0, sizeof *c);
    assert_int_equal(mpt_device_cpu_create(NULL, NULL, &c->device), MPT_OK);
    assert_int_equal(mpt_memory_create(&c->memory, params), MPT_OK);
    mpt_arena_init_counting(&c->private_count);
    mpt_arena_init_counting(&c->peer_count);
    mpt_memory_cut(&c->memory, params, &c->private_count, &c->peer_count);
    assert_null(c->memory.state.master);
    assert_null(c->memory.model.params[0]);
    assert_int_equal(
        mpt_arena_init(&c->private_arena, c->device, MPT_MEM_PRIVATE, c->private_count.used),
        MPT_OK);
    assert_int_equal(mpt_arena_init(&c->peer_arena, c->device, MPT_MEM_PEER, c->peer_count.used),
                     MPT_OK);
    mpt_memory_cut(&c->memory, params, &c->private_arena, &c->peer_arena);
}

static void close_cut(cut_t *c)
{
    mpt_memory_release(&c->memory);
    mpt_arena_release(&c->private_arena);
    mpt_arena_release(&c->peer_arena);
    mpt_device_destroy(c->device);
}

static int inside(const mpt_arena_t *arena, const void *at, int64_t bytes)
{
    const char *base = arena->mem.ptr, *p = at;
    return p >= base && p + bytes <= base + arena->mem.bytes && (uintptr_t)p % 64 == 0;
}

static void the_arenas_are_exactly_what_was_counted(void **state)
{
    (void)state;
    static const mpt_dtype_t types[] = {MPT_F32, MPT_BF16, MPT_F16};
    for (int t = 0; t < 3; t++)
        for (int ranks = 1; ranks <= 4; ranks++) {
            mpt_config_t config = config_of(types[t], types[t]);
            mpt_memory_params_t params = params_of(&config, ranks);
            cut_t c;
            open_cut(&c, &params);
            assert_int_equal(c.private_arena.used, c.private_count.used);
            assert_int_equal(c.private_arena.mem.bytes, c.private_count.used);
            assert_int_equal(c.peer_arena.used, c.peer_count.used);
            assert_int_equal(c.peer_arena.mem.bytes, c.peer_count.used);
            assert_memory_equal(c.private_arena.bytes_by_use, c.private_count.bytes_by_use,
                                sizeof c.private_count.bytes_by_use);
            close_cut(&c);
        }
}

/* Weights and gradients must be reachable by the other ranks; masters and moments are nobody else's. */
static void weights_and_gradients_are_peer_memory_and_the_rest_is_private(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_BF16, MPT_BF16);
    mpt_memory_params_t params = params_of(&config, 2);
    cut_t c;
    open_cut(&c, &params);
    const mpt_state_t *s = &c.memory.state;
    int64_t total = c.memory.layout.total;
    assert_true(inside(&c.peer_arena, s->working, 2 * total));
    assert_true(inside(&c.peer_arena, s->gradient, 2 * total));
    assert_true(inside(&c.private_arena, s->accumulator, 4 * total));
    assert_true(inside(&c.private_arena, s->master, 4 * total));
    assert_true(inside(&c.private_arena, s->m, 4 * total));
    assert_true(inside(&c.private_arena, s->v, 4 * total));
    close_cut(&c);
    config.precision.reduce = MPT_F32;
    open_cut(&c, &params);
    assert_ptr_equal(c.memory.state.gradient, c.memory.state.accumulator);
    assert_true(inside(&c.peer_arena, c.memory.state.gradient, 4 * c.memory.layout.total));
    close_cut(&c);
}

/* Every array written full of its own byte, and every one still whole afterwards. */
static void no_two_arrays_overlap(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_F16, MPT_F16);
    config.train.val_every = 5;
    strcpy(config.data.val, "val.bin");
    mpt_memory_params_t params = params_of(&config, 3);
    cut_t c;
    open_cut(&c, &params);
    mpt_memory_t *m = &c.memory;
    size_t total = (size_t)m->layout.total, units = (size_t)m->layout.unit_count,
           batch = 2 * 7 * sizeof(uint32_t);
    size_t sums = 1 + (size_t)mpt_memory_val_micros(&config, 3);
    const struct {
        void *at;
        size_t bytes;
    } arrays[] = {
        {m->state.working, 2 * total},
        {m->state.accumulator, 4 * total},
        {m->state.gradient, 2 * total},
        {m->state.master, 4 * total},
        {m->state.m, 4 * total},
        {m->state.v, 4 * total},
        {m->state.bad_wire, units * sizeof(mpt_offender_t)},
        {m->state.bad_sum, units * sizeof(mpt_offender_t)},
        {m->state.sumsq, units * sizeof(double)},
        {m->kernel_scratch, m->kernel_scratch_bytes},
        {m->comm_scratch, mpt_comm_scratch_bytes("shm", 3)},
        {m->records, 3 * sizeof(mpt_record_t)},
        {m->fold, 3 * sizeof(double)},
        {m->inputs[0], 4 * batch},
        {m->inputs[1], 4 * batch},
        {m->targets[0], 4 * batch},
        {m->targets[1], 4 * batch},
        {m->val_inputs, batch},
        {m->val_targets, batch},
        {m->val_sums, sums * 4 * sizeof(double)},
        {m->micro_sumsq, sizeof(double)},
        {m->micro_bad, sizeof(mpt_offender_t)},
        {m->snapshot, 3 * sizeof(float) * total / 3},
    };
    const size_t count = sizeof arrays / sizeof *arrays;
    for (size_t i = 0; i < count; i++)
        memset(arrays[i].at, (int)i + 1, arrays[i].bytes);
    for (size_t i = 0; i < count; i++)
        for (size_t b = 0; b < arrays[i].bytes; b++)
            if (((unsigned char *)arrays[i].at)[b] != i + 1)
                fail_msg("array %zu was overwritten at byte %zu of %zu", i, b, arrays[i].bytes);
    close_cut(&c);
}

static void the_model_reads_and_adds_where_the_layout_says(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_BF16, MPT_BF16);
    mpt_memory_params_t params = params_of(&config, 4);
    cut_t c;
    open_cut(&c, &params);
    for (int t = 0; t < c.memory.layout.tensor_count; t++) {
        int64_t at = mpt_layout_at(&c.memory.layout, t);
        assert_ptr_equal(c.memory.model.params[t], (char *)c.memory.state.working + 2 * at);
        assert_ptr_equal(c.memory.model.grads[t], c.memory.state.accumulator + at);
    }
    close_cut(&c);
}

static void micro_steps_share_the_batch_among_ranks(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_F32, MPT_F32);
    static const int ranks[] = {1, 2, 3, 4, 6, 12};
    for (int i = 0; i < 6; i++)
        assert_int_equal(mpt_memory_micro_steps(&config, ranks[i]), 12 / ranks[i]);
}

static void validation_takes_memory_only_where_there_is_some(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_F32, MPT_F32);
    mpt_memory_params_t params = params_of(&config, 2);
    cut_t c;
    config.train.val_every = 10;
    config.train.val_batches = 3;
    strcpy(config.data.val, "val.bin");
    assert_int_equal(mpt_memory_val_micros(&config, 2), 18);
    config.data.val[0] = '\0';
    assert_int_equal(mpt_memory_val_micros(&config, 2), 0);
    strcpy(config.data.val, "val.bin");
    config.train.val_every = 0;
    assert_int_equal(mpt_memory_val_micros(&config, 2), 0);
    open_cut(&c, &params);
    assert_null(c.memory.val_inputs);
    assert_null(c.memory.val_sums);
    close_cut(&c);
}

static void a_snapshot_holds_the_largest_slice_of_any_rank(void **state)
{
    (void)state;
    mpt_config_t config = config_of(MPT_F32, MPT_F32);
    config.checkpoint.every = 10;
    config.checkpoint.async = 1;
    for (int ranks = 1; ranks <= 4; ranks++) {
        mpt_memory_params_t params = params_of(&config, ranks);
        cut_t c;
        open_cut(&c, &params);
        for (int r = 0; r < ranks; r++)
            assert_true(inside(&c.private_arena, c.memory.snapshot,
                               3 * 4 * mpt_layout_owned(&c.memory.layout, r)));
        assert_true(c.private_arena.bytes_by_use[MPT_USE_SNAPSHOT] >=
                    (size_t)(3 * 4 * c.memory.layout.total / ranks));
        close_cut(&c);
    }
    config.checkpoint.async = 0;
    mpt_memory_params_t params = params_of(&config, 1);
    cut_t c;
    open_cut(&c, &params);
    assert_null(c.memory.snapshot);
    close_cut(&c);
}

static void releasing_nothing_is_fine(void **state)
{
    (void)state;
    mpt_memory_t memory = {0};
    mpt_memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_arenas_are_exactly_what_was_counted),
        cmocka_unit_test(weights_and_gradients_are_peer_memory_and_the_rest_is_private),
        cmocka_unit_test(no_two_arrays_overlap),
        cmocka_unit_test(the_model_reads_and_adds_where_the_layout_says),
        cmocka_unit_test(micro_steps_share_the_batch_among_ranks),
        cmocka_unit_test(validation_takes_memory_only_where_there_is_some),
        cmocka_unit_test(a_snapshot_holds_the_largest_slice_of_any_rank),
        cmocka_unit_test(releasing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
