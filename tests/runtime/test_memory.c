#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm.h"
#include "consensus.h"
#include "memory.h"
#include "mpt.h"

static const char config_text[] = "threads = 2\n"
                                  "model { layers = 3 heads = 3 dim = 15 context = 9 vocab = 11 }\n"
                                  "data { train = t.bin sequence = 7 }\n"
                                  "train { global_batch = 24 micro_batch = 2 val_every = 0 }\n"
                                  "precision { compute = fp32 }\n"
                                  "checkpoint { every = 10 }\n";

#define MAX_SETTINGS 12

/* What to change of the config, and for how many ranks. */
typedef struct variant {
    const char *set[MAX_SETTINGS];
    int count, ranks, rank;
} variant_t;

static void add(variant_t *v, const char *setting)
{
    assert_true(v->count < MAX_SETTINGS);
    if (setting != NULL)
        v->set[v->count++] = setting;
}

static variant_t variant_of(int ranks, const char *a, const char *b, const char *c)
{
    variant_t v = {.ranks = ranks};
    add(&v, a);
    add(&v, b);
    add(&v, c);
    return v;
}

static mpt_config_t config_of(const variant_t *v)
{
    mpt_config_t config;
    assert_int_equal(mpt_config_parse(config_text, "test", v->set, v->count, NULL, &config), MPT_OK);
    assert_int_equal(mpt_config_check_ranks(&config, v->ranks, NULL), MPT_OK);
    return config;
}

/* Memory cut for real, and what was counted before. */
typedef struct cut {
    variant_t variant;
    mpt_config_t config;
    mpt_memory_params_t params;
    mpt_device_t *device;
    mpt_arena_t private_count, peer_count, private_arena, peer_arena;
    mpt_memory_t memory;
} cut_t;

static void open_cut(cut_t *c, const variant_t *v)
{
    memset(c, 0, sizeof *c);
    c->variant = *v;
    c->config = config_of(v);
    c->params = (mpt_memory_params_t){.config = &c->config,
                                      .kernel_ops = mpt_kernels_find("cpu"),
                                      .isa = mpt_isa_detect(),
                                      .threads = 2,
                                      .ranks = v->ranks,
                                      .rank = v->rank,
                                      .comm_backend = v->ranks == 1 ? "self" : "shm"};
    assert_int_equal(mpt_device_cpu_create(NULL, NULL, &c->device), MPT_OK);
    assert_int_equal(mpt_memory_create(&c->memory, &c->params), MPT_OK);
    mpt_arena_init_counting(&c->private_count);
    mpt_arena_init_counting(&c->peer_count);
    mpt_memory_cut(&c->memory, &c->params, &c->private_count, &c->peer_count);
    assert_null(c->memory.state.m.data);
    assert_null(c->memory.model.params[0]);
    assert_int_equal(
        mpt_arena_init(&c->private_arena, c->device, MPT_MEM_PRIVATE, c->private_count.used),
        MPT_OK);
    assert_int_equal(mpt_arena_init(&c->peer_arena, c->device, MPT_MEM_PEER, c->peer_count.used),
                     MPT_OK);
    mpt_memory_cut(&c->memory, &c->params, &c->private_arena, &c->peer_arena);
}

static void close_cut(cut_t *c)
{
    mpt_memory_release(&c->memory);
    mpt_arena_release(&c->private_arena);
    mpt_arena_release(&c->peer_arena);
    mpt_device_destroy(c->device);
}

static void fail_of(const cut_t *c, const char *what)
{
    char settings[512] = "";
    for (int i = 0; i < c->variant.count; i++)
        snprintf(settings + strlen(settings), sizeof settings - strlen(settings), " %s", c->variant.set[i]);
    fail_msg("%d ranks,%s: %s", c->variant.ranks, settings, what);
}

static int inside(const mpt_arena_t *arena, const void *at, int64_t bytes)
{
    const char *base = arena->mem.ptr, *p = at;
    return p >= base && p + bytes <= base + arena->mem.bytes && (uintptr_t)p % 64 == 0;
}

/* ---- every variant ------------------------------------------------------------------------------------------ */

static const char *const modes[][2] = {{"parallel.shard=ddp", NULL},
                                       {"parallel.shard=zero1", NULL},
                                       {"parallel.shard=zero2", NULL},
                                       {"parallel.shard=zero3", NULL},
                                       {"parallel.shard=hsdp", "parallel.shard_ranks=1"},
                                       {"parallel.shard=hsdp", "parallel.shard_ranks=2"},
                                       {"parallel.shard=hsdp", "parallel.shard_ranks=4"}};
#define MODES ((int)(sizeof modes / sizeof *modes))
#define HSDP 4 /* from here on */

static const char *const types[][2] = {{"precision.compute=fp32", NULL},
                                       {"precision.compute=bf16", NULL},
                                       {"precision.compute=fp16", NULL},
                                       {"precision.compute=bf16", "precision.reduce=fp32"},
                                       {"precision.compute=bf16", "precision.rounding=stochastic"},
                                       {"precision.compute=tf32", NULL}};
#define TYPES ((int)(sizeof types / sizeof *types))

/* What else can take or save memory. The first needs FP32 or stochastic rounding, the last power-of-two ranks. */
static const char *const extras[][4] = {{"precision.master=none"},
                                        {NULL},
                                        {"train.recompute=block"},
                                        {"train.recompute=attention", "train.pack_weights=off"},
                                        {"train.ema=0.9"},
                                        {"parallel.reduce_every=micro"},
                                        {"train.micro_batch=1", "train.global_batch=12", "data.val=v", "train.val_every=5"},
                                        {"train.global_batch=48", "train.micro_batch=12", "checkpoint.async=false"},
                                        {"train.global_batch=32", "train.reproducible=world", "train.ema=0.5", "train.lanes=4"}};
#define EXTRAS ((int)(sizeof extras / sizeof *extras))

/* 1 where the three and `ranks` go together. */
static int make_variant(int mode, int type, int extra, int ranks, variant_t *v)
{
    int k = mode >= HSDP ? 1 << (mode - HSDP) : 1;
    int skip = ranks % k != 0 || (extra == 0 && type != 0 && type != 4) || (extra == EXTRAS - 1 && ranks == 3) ||
               (extra == EXTRAS - 2 && ranks == 3);
    *v = variant_of(ranks, modes[mode][0], modes[mode][1], types[type][0]);
    add(v, types[type][1]);
    for (int i = 0; i < 4; i++)
        add(v, extras[extra][i]);
    return !skip;
}

static int for_every_variant(void (*check)(cut_t *c))
{
    int tried = 0;
    for (int m = 0; m < MODES; m++)
        for (int t = 0; t < TYPES; t++)
            for (int e = 0; e < EXTRAS; e++)
                for (int ranks = 1; ranks <= 4; ranks++) {
                    variant_t v;
                    cut_t c;
                    if (!make_variant(m, t, e, ranks, &v))
                        continue;
                    open_cut(&c, &v);
                    check(&c);
                    close_cut(&c);
                    tried++;
                }
    return tried;
}

static void check_counted(cut_t *c)
{
    mpt_config_source_t source = {.text = config_text,
                                  .path = "test",
                                  .overrides = c->variant.set,
                                  .override_count = c->variant.count};
    mpt_plan_t plan;
    if (c->private_arena.used != c->private_count.used || c->private_arena.mem.bytes != c->private_count.used ||
        c->peer_arena.used != c->peer_count.used || c->peer_arena.mem.bytes != c->peer_count.used)
        fail_of(c, "the arenas are not what was counted");
    assert_memory_equal(c->private_arena.bytes_by_use, c->private_count.bytes_by_use,
                        sizeof c->private_count.bytes_by_use);
    assert_memory_equal(c->peer_arena.bytes_by_use, c->peer_count.bytes_by_use,
                        sizeof c->peer_count.bytes_by_use);
    assert_int_equal(mpt_plan(&source, c->variant.ranks, &plan, NULL, NULL), MPT_OK);
    if (plan.bytes != (int64_t)(c->private_arena.mem.bytes + c->peer_arena.mem.bytes + c->memory.comm_own_bytes))
        fail_of(c, "the plan says another number of bytes");
}

static void the_plan_is_exactly_the_arenas_and_what_communicators_allocate(void **state)
{
    (void)state;
    assert_true(for_every_variant(check_counted) > 500);
}

/* ---- what lies where ------------------------------------------------------------------------------------------ */

typedef struct span {
    void *at;
    size_t bytes;
    mpt_use_t use;
} span_t;

typedef struct spans {
    span_t span[64];
    int count;
} spans_t;

/* An array that is another one by a second name is listed once. */
static void list(spans_t *s, mpt_use_t use, void *at, size_t bytes)
{
    if (at == NULL || bytes == 0)
        return;
    for (int i = 0; i < s->count; i++)
        if (s->span[i].at == at) {
            assert_int_equal(s->span[i].bytes, bytes);
            return;
        }
    assert_true(s->count < 64);
    s->span[s->count++] = (span_t){.at = at, .bytes = bytes, .use = use};
}

/* Elements, by the table of state.h. */
static size_t held_count(const mpt_layout_t *layout, mpt_hold_t hold)
{
    size_t window = 0;
    for (int u = 1; u < layout->unit_count; u++)
        window = window < (size_t)layout->units[u].padded ? (size_t)layout->units[u].padded : window;
    return hold == MPT_HOLD_ALL     ? (size_t)layout->total
           : hold == MPT_HOLD_SLICE ? (size_t)(layout->total / layout->group)
                                    : (size_t)layout->units[0].padded + 2 * window;
}

static void list_held(spans_t *s, mpt_use_t use, const mpt_layout_t *layout, const mpt_held_t *held)
{
    list(s, use, held->data, held_count(layout, held->hold) * mpt_dtype_bytes(held->dtype));
}

static void list_state(spans_t *s, const mpt_memory_t *m)
{
    const mpt_state_t *state = &m->state;
    const mpt_layout_t *l = &m->layout;
    size_t units = (size_t)l->unit_count, lanes = (size_t)(l->lanes / l->ranks);
    size_t largest = held_count(l, MPT_HOLD_WINDOW) - (size_t)l->units[0].padded;
    largest = largest / 2 > (size_t)l->units[0].padded ? largest / 2 : (size_t)l->units[0].padded;
    list_held(s, MPT_USE_WEIGHTS, l, &state->working);
    list_held(s, MPT_USE_WEIGHTS, l, &state->gathered);
    for (int i = 0; i < state->accumulators; i++)
        list_held(s, MPT_USE_ACCUMULATORS, l, &state->accumulator[i]);
    list_held(s, MPT_USE_GRADIENTS, l, &state->contribution);
    list_held(s, MPT_USE_GRADIENTS, l, &state->reduced);
    list_held(s, MPT_USE_MASTERS, l, &state->master);
    list_held(s, MPT_USE_MOMENTS, l, &state->m);
    list_held(s, MPT_USE_MOMENTS, l, &state->v);
    list_held(s, MPT_USE_EMA, l, &state->ema);
    list(s, MPT_USE_COMM, state->partial, largest / (size_t)l->group * sizeof(float));
    list(s, MPT_USE_SCRATCH, state->runs, (size_t)l->tensor_count * sizeof(mpt_run_t));
    list(s, MPT_USE_SCRATCH, state->run_first, (units + 1) * sizeof(int));
    list(s, MPT_USE_SCRATCH, state->bad_wire, units * sizeof(mpt_offender_t));
    list(s, MPT_USE_SCRATCH, state->bad_kept, units * sizeof(mpt_offender_t));
    list(s, MPT_USE_SCRATCH, state->bad_sum, units * lanes * sizeof(mpt_offender_t));
    list(s, MPT_USE_SCRATCH, state->sumsq, units * lanes * sizeof(double));
    list(s, MPT_USE_SCRATCH, state->hash, sizeof(uint64_t));
}

static void list_rest(spans_t *s, const cut_t *c)
{
    const mpt_memory_t *m = &c->memory;
    const mpt_config_t *config = &c->config;
    size_t ranks = (size_t)c->params.ranks, batch = (size_t)config->train.micro_batch * 7 * sizeof(uint32_t);
    size_t step = batch * (size_t)(config->train.global_batch / (config->train.micro_batch * c->params.ranks));
    size_t micros = (size_t)config->train.val_batches * step / batch, kinds = config->train.ema > 0 ? 4 : 3;
    list(s, MPT_USE_SCRATCH, m->kernel_scratch, m->kernel_scratch_bytes);
    list(s, MPT_USE_SCRATCH, m->micro_sumsq, sizeof(double));
    list(s, MPT_USE_SCRATCH, m->micro_bad, sizeof(mpt_offender_t));
    list(s, MPT_USE_COMM, m->comm_scratch, mpt_comm_scratch_bytes(c->params.comm_backend, c->params.ranks));
    list(s, MPT_USE_COMM, m->consensus, mpt_consensus_bytes(c->params.ranks));
    list(s, MPT_USE_COMM, m->votes, ranks);
    for (int slot = 0; slot < 2; slot++) {
        list(s, MPT_USE_DATA, m->inputs[slot], step);
        list(s, MPT_USE_DATA, m->targets[slot], step);
    }
    list(s, MPT_USE_DATA, m->val_inputs, batch);
    list(s, MPT_USE_DATA, m->val_targets, batch);
    list(s, MPT_USE_COMM, m->val_sums, (1 + micros) * (1 + ranks) * sizeof(double));
    list(s, MPT_USE_SNAPSHOT, m->snapshot, kinds * sizeof(float) * (size_t)m->layout.total / ranks);
}

static void list_pack(spans_t *s, const cut_t *c, int tensor, int64_t in, int64_t out)
{
    const mpt_gpt2_pack_t *pack = &c->memory.model.packs[tensor];
    const mpt_memory_params_t *p = &c->params;
    mpt_dtype_t math = c->memory.model.math;
    list(s, MPT_USE_PACKED, pack->forward, mpt_linear_pack_bytes(p->kernel_ops, p->isa, math, out, in));
    list(s, MPT_USE_PACKED, pack->backward, mpt_linear_pack_bytes(p->kernel_ops, p->isa, math, in, out));
}

/* Every matrix where weights stay, and none where they pass through a window. */
static void list_packs(spans_t *s, const cut_t *c)
{
    const mpt_gpt2_shape_t *shape = &c->memory.model.shape;
    int64_t dim = shape->dim;
    list_pack(s, c, MPT_GPT2_WTE, dim, mpt_gpt2_vocab_padded(shape));
    for (int64_t l = 0; l < shape->layers; l++) {
        list_pack(s, c, mpt_gpt2_block(l, MPT_GPT2_QKV_W), dim, 3 * dim);
        list_pack(s, c, mpt_gpt2_block(l, MPT_GPT2_PROJ_W), dim, dim);
        list_pack(s, c, mpt_gpt2_block(l, MPT_GPT2_FC_W), dim, 4 * dim);
        list_pack(s, c, mpt_gpt2_block(l, MPT_GPT2_FCPROJ_W), 4 * dim, dim);
    }
    int stay = c->memory.state.gathered.hold == MPT_HOLD_ALL && c->config.train.pack_weights;
    if (stay != (c->private_arena.bytes_by_use[MPT_USE_PACKED] > 0))
        fail_of(c, "packed weights");
}

/* What the list has of a use is all that the arenas gave for it: nothing was forgotten here. The model's own arrays
 * are not listed. */
static void check_complete(const cut_t *c, const spans_t *s)
{
    for (int use = 0; use < MPT_USE_COUNT; use++) {
        size_t bytes = 0;
        if (use == MPT_USE_ACTIVATIONS || use == MPT_USE_SCRATCH)
            continue;
        for (int i = 0; i < s->count; i++)
            if ((int)s->span[i].use == use)
                bytes += (s->span[i].bytes + 63) / 64 * 64;
        if (bytes != c->private_arena.bytes_by_use[use] + c->peer_arena.bytes_by_use[use])
            fail_of(c, mpt_use_name((mpt_use_t)use));
    }
}

/* Every array written full of its own byte, and every one still whole afterwards. */
static void check_apart(cut_t *c)
{
    spans_t s = {.count = 0};
    list_state(&s, &c->memory);
    list_rest(&s, c);
    list_packs(&s, c);
    check_complete(c, &s);
    for (int i = 0; i < s.count; i++) {
        int64_t bytes = (int64_t)s.span[i].bytes;
        if (!inside(&c->private_arena, s.span[i].at, bytes) && !inside(&c->peer_arena, s.span[i].at, bytes))
            fail_of(c, "an array lies outside of the arenas");
        memset(s.span[i].at, i + 1, s.span[i].bytes);
    }
    for (int i = 0; i < s.count; i++) {
        const unsigned char *at = s.span[i].at;
        for (size_t b = 0; b < s.span[i].bytes; b++)
            if (at[b] != i + 1)
                fail_of(c, "two arrays overlap");
    }
}

static void no_two_arrays_overlap(void **state)
{
    (void)state;
    assert_true(for_every_variant(check_apart) > 500);
}

/* ---- the table of state.h --------------------------------------------------------------------------------------- */

/* A letter each for working, gathered, accumulators, contribution, reduced, and masters and moments. */
static void expect_row(const char *const mode[2], const char *every, const char *batch, const char *want)
{
    variant_t v = variant_of(4, mode[0], mode[1], "precision.compute=bf16");
    cut_t c;
    add(&v, every);
    add(&v, batch);
    open_cut(&c, &v);
    const mpt_state_t *s = &c.memory.state;
    const mpt_held_t *const held[] = {&s->working, &s->gathered, &s->accumulator[0], &s->contribution, &s->reduced, &s->m};
    char got[7] = "";
    for (int i = 0; i < 6; i++)
        got[i] = "ASW"[held[i]->hold];
    if (strcmp(got, want) != 0)
        fail_of(&c, got);
    assert_int_equal(s->master.hold, s->m.hold);
    assert_int_equal(s->v.hold, s->m.hold);
    assert_int_equal(s->accumulators, 1);
    assert_int_equal(s->gathered.data == s->working.data, want[0] == 'A');
    close_cut(&c);
}

static void each_mode_holds_what_its_row_says(void **state)
{
    static const char *const several[] = {"AAAAAA", "AAAAAS", "AAAWSS", "SWAWSS"};
    static const char *const one[] = {"AAAAAA", "AAAAAS", "AAWWSS", "SWWWSS"};
    static const char *const micro[] = {"AAWWAA", "AAWWSS", "AAWWSS", "SWWWSS"};
    (void)state;
    for (int m = 0; m < MODES; m++) {
        int row = m < 3 ? m : 3;
        expect_row(modes[m], NULL, NULL, several[row]);
        expect_row(modes[m], NULL, "train.global_batch=8", one[row]);
        expect_row(modes[m], "parallel.reduce_every=micro", NULL, micro[row]);
        expect_row(modes[m], "parallel.reduce_every=micro", "train.global_batch=8", one[row]); /* no other then */
    }
}

/* Weights and gradients must be reachable by the other ranks; masters and moments are nobody else's. */
static void what_peers_read_is_peer_memory_and_the_rest_is_private(void **state)
{
    (void)state;
    for (int m = 0; m < MODES; m++)
        for (int t = 0; t < TYPES; t++) {
            variant_t v = variant_of(4, modes[m][0], modes[m][1], types[t][0]);
            cut_t c;
            add(&v, types[t][1]);
            add(&v, "train.ema=0.9");
            open_cut(&c, &v);
            const mpt_state_t *s = &c.memory.state;
            assert_true(inside(&c.peer_arena, s->working.data, 1));
            assert_true(inside(&c.peer_arena, s->contribution.data, 1));
            assert_int_equal(s->contribution.data == s->accumulator[0].data, s->contribution.dtype == MPT_F32);
            if (s->contribution.dtype != MPT_F32)
                assert_true(inside(&c.private_arena, s->accumulator[0].data, 1));
            if (m >= 2 && s->reduced.data != s->contribution.data)
                assert_true(inside(&c.private_arena, s->reduced.data, 1));
            assert_int_equal(s->partial != NULL, m >= HSDP);
            if (s->partial != NULL)
                assert_true(inside(&c.peer_arena, s->partial, 1));
            assert_true(inside(&c.private_arena, s->master.data, 1));
            assert_true(inside(&c.private_arena, s->m.data, 1));
            assert_true(inside(&c.private_arena, s->v.data, 1));
            assert_true(inside(&c.private_arena, s->ema.data, 1));
            close_cut(&c);
        }
}

static void without_masters_there_are_none(void **state)
{
    (void)state;
    variant_t v = variant_of(2, "precision.compute=bf16", "precision.rounding=stochastic", "precision.master=none");
    cut_t c;
    open_cut(&c, &v);
    assert_null(c.memory.state.master.data);
    assert_null(c.memory.state.ema.data);
    assert_int_equal(c.private_arena.bytes_by_use[MPT_USE_MASTERS], 0);
    assert_int_equal(c.private_arena.bytes_by_use[MPT_USE_EMA], 0);
    assert_non_null(c.memory.state.m.data);
    close_cut(&c);
}

/* log2(lanes on this rank) + 1 sums of unfinished lanes. */
static void world_takes_a_stack_of_accumulators(void **state)
{
    (void)state;
    for (int ranks = 1, sums = 4; ranks <= 8; ranks *= 2, sums--)
        for (int m = 0; m < 4; m++) {
            variant_t v = variant_of(ranks, modes[m][0], "train.reproducible=world", "train.global_batch=32");
            cut_t c;
            open_cut(&c, &v);
            assert_int_equal(c.memory.state.accumulators, sums);
            assert_int_equal(c.peer_arena.bytes_by_use[MPT_USE_ACCUMULATORS], 4 * c.memory.layout.total * sums);
            assert_int_equal(c.memory.layout.lanes, 8);
            close_cut(&c);
        }
}

static void recompute_keeps_fewer_activations(void **state)
{
    static const char *const kinds[] = {"train.recompute=none", "train.recompute=attention", "train.recompute=block"};
    size_t bytes[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        variant_t v = variant_of(2, kinds[i], NULL, NULL);
        cut_t c;
        open_cut(&c, &v);
        bytes[i] = c.private_arena.bytes_by_use[MPT_USE_ACTIVATIONS];
        close_cut(&c);
    }
    assert_true(bytes[0] > bytes[1] && bytes[1] > bytes[2]);
}

static void sizes_are_the_same_on_every_rank(void **state)
{
    (void)state;
    for (int m = 0; m < MODES; m++) {
        size_t first[2] = {0};
        for (int rank = 0; rank < 4; rank++) {
            variant_t v = variant_of(4, modes[m][0], modes[m][1], "precision.compute=bf16");
            cut_t c;
            v.rank = rank;
            open_cut(&c, &v);
            const size_t used[2] = {c.private_arena.used, c.peer_arena.used};
            if (rank == 0)
                memcpy(first, used, sizeof first);
            assert_memory_equal(used, first, sizeof first);
            close_cut(&c);
        }
    }
}

/* ---- where the model looks ---------------------------------------------------------------------------------------- */

/* Where unit `unit` begins in an array that holds all, or a window. */
static int64_t unit_start(const mpt_layout_t *layout, mpt_hold_t hold, int unit)
{
    int64_t largest = ((int64_t)held_count(layout, MPT_HOLD_WINDOW) - layout->units[0].padded) / 2;
    if (hold == MPT_HOLD_ALL)
        return layout->units[unit].first;
    assert_int_equal(hold, MPT_HOLD_WINDOW);
    return unit == 0 ? 0 : layout->units[0].padded + (unit % 2 == 1 ? 0 : largest);
}

static void check_pointers(cut_t *c)
{
    const mpt_layout_t *layout = &c->memory.layout;
    const mpt_state_t *s = &c->memory.state;
    int64_t size = (int64_t)mpt_dtype_bytes(s->gathered.dtype);
    for (int t = 0; t < layout->tensor_count; t++) {
        int unit = layout->tensors[t].unit;
        int64_t read = unit_start(layout, s->gathered.hold, unit) + layout->offset[t];
        int64_t added = unit_start(layout, s->accumulator[0].hold, unit) + layout->offset[t];
        if (c->memory.model.params[t] != (char *)s->gathered.data + size * read)
            fail_of(c, "the model reads elsewhere");
        if (c->memory.model.grads[t] != (float *)s->accumulator[0].data + added)
            fail_of(c, "the model adds elsewhere");
    }
}

static void the_model_reads_and_adds_where_the_layout_says(void **state)
{
    (void)state;
    assert_true(for_every_variant(check_pointers) > 500);
}

/* ---- counts ------------------------------------------------------------------------------------------------------- */

static void micro_steps_share_the_batch_among_ranks(void **state)
{
    static const int ranks[] = {1, 2, 3, 4, 6, 12};
    (void)state;
    for (int i = 0; i < 6; i++) {
        variant_t v = variant_of(ranks[i], NULL, NULL, NULL);
        mpt_config_t config = config_of(&v);
        assert_int_equal(mpt_memory_micro_steps(&config, ranks[i]), 12 / ranks[i]);
        assert_int_equal(mpt_memory_lanes(&config, ranks[i]), 1);
    }
    variant_t v = variant_of(2, "train.reproducible=world", "train.global_batch=32", NULL);
    mpt_config_t config = config_of(&v);
    assert_int_equal(mpt_memory_lanes(&config, 2), 4);
    assert_int_equal(mpt_memory_micro_steps(&config, 2), 8); /* those of its four lanes */
}

static void validation_takes_memory_only_where_there_is_some(void **state)
{
    static const char *const sets[][2] = {{"data.val=val.bin", "train.val_every=10"},
                                          {"data.val=", "train.val_every=10"},
                                          {"data.val=val.bin", "train.val_every=0"}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        variant_t v = variant_of(2, sets[i][0], sets[i][1], "train.val_batches=3");
        cut_t c;
        open_cut(&c, &v);
        assert_int_equal(mpt_memory_val_micros(&c.config, 2), i == 0 ? 18 : 0);
        assert_int_equal(c.memory.val_inputs != NULL, i == 0);
        assert_int_equal(c.memory.val_sums != NULL, i == 0);
        close_cut(&c);
    }
}

/* What a rank writes is its part of each kind, whatever it holds. */
static void a_snapshot_holds_the_part_that_a_rank_writes(void **state)
{
    (void)state;
    for (int m = 0; m < MODES; m++)
        for (int ema = 0; ema < 2; ema++) {
            variant_t v = variant_of(4, modes[m][0], modes[m][1], ema ? "train.ema=0.9" : NULL);
            cut_t c;
            open_cut(&c, &v);
            int64_t part = c.memory.layout.total / 4, kinds = 3 + ema;
            for (int r = 0; r < 4; r++)
                assert_true(mpt_layout_owned(&c.memory.layout, 4, r) <= part);
            assert_true(inside(&c.private_arena, c.memory.snapshot, kinds * 4 * part));
            assert_int_equal(c.private_arena.bytes_by_use[MPT_USE_SNAPSHOT], kinds * 4 * part);
            close_cut(&c);
        }
    variant_t v = variant_of(1, "checkpoint.async=false", NULL, NULL);
    cut_t c;
    open_cut(&c, &v);
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
    unsetenv("MPT_ISA"); /* a plan obeys the cap; what is cut here is cut for the processor's own level */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_exactly_the_arenas_and_what_communicators_allocate),
        cmocka_unit_test(no_two_arrays_overlap),
        cmocka_unit_test(each_mode_holds_what_its_row_says),
        cmocka_unit_test(what_peers_read_is_peer_memory_and_the_rest_is_private),
        cmocka_unit_test(without_masters_there_are_none),
        cmocka_unit_test(world_takes_a_stack_of_accumulators),
        cmocka_unit_test(recompute_keeps_fewer_activations),
        cmocka_unit_test(sizes_are_the_same_on_every_rank),
        cmocka_unit_test(the_model_reads_and_adds_where_the_layout_says),
        cmocka_unit_test(micro_steps_share_the_batch_among_ranks),
        cmocka_unit_test(validation_takes_memory_only_where_there_is_some),
        cmocka_unit_test(a_snapshot_holds_the_part_that_a_rank_writes),
        cmocka_unit_test(releasing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
