#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "export.h"
#include "llmc.h"
#include "numeric.h"
#include "safetensors.h"
#include "save_meta.h"
#include "scratch.h"

#define RANKS 4
#define STEP 123
#define EMA (1u << MPT_KIND_EMA)

static const mpt_gpt2_shape_t shape = {
    .layers = 2, .heads = 2, .dim = 8, .context = 6, .vocab = 10, .batch = 1, .seq = 6};

/* ---- a run's checkpoint ----------------------------------------------------------------------------------- */

/* Any bits, NaNs with payloads and subnormals among them; without NaNs where `tame`. */
static float pattern(int kind, int64_t global, int tame)
{
    uint64_t x = ((uint64_t)global * MPT_KIND_COUNT + (uint64_t)kind + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    float value = mpt_f32_from_bits((uint32_t)(x >> 32));
    return tame && isnan(value) ? -0.0f : value;
}

/* What a checkpoint holds: [total] for each kind, over a layout of one rank. */
typedef struct model {
    mpt_layout_t layout;
    float *kind[MPT_KIND_COUNT];
} model_t;

static model_t make_model(int ranks)
{
    mpt_tensor_t table[64];
    model_t m;
    mpt_gpt2_tensors(&shape, table);
    assert_int_equal(mpt_layout_build(table, mpt_gpt2_tensor_count(&shape),
                                      &(mpt_layout_cut_t){.ranks = ranks}, &m.layout),
                     MPT_OK);
    for (int k = 0; k < MPT_KIND_COUNT; k++) {
        m.kind[k] = calloc((size_t)m.layout.total, sizeof(float));
        assert_non_null(m.kind[k]);
    }
    return m;
}

static void free_model(model_t *m)
{
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        free(m->kind[k]);
    mpt_layout_release(&m->layout);
}

static model_t patterned(int ranks, unsigned kinds, int tame)
{
    model_t m = make_model(ranks);
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        for (int t = 0; t < m.layout.tensor_count && kinds >> k & 1u; t++)
            for (int64_t i = 0; i < mpt_tensor_count(&m.layout.tensors[t]); i++)
                m.kind[k][mpt_layout_at(&m.layout, t) + i] =
                    pattern(k, m.layout.tensors[t].first + i, tame);
    return m;
}

static const char meta_text[] =
    "arch = gpt2\nlayers = 2\nheads = 2\ndim = 8\ncontext = 6\nvocab = 10\nparameters = 1888\n"
    "compute = fp16\nshard = zero3\nmasters = 0\nseed = 18446744073709551615\nglobal_batch = 48\nsequence = 5\n"
    "order = sequential\nmicro_batch = 3\nlanes = 8\nsamples = 7000\n"
    "data_tokens = 35001\ndata_hash = 18446744073709551614\napplied = 119\nposition = 5904\ntokens = 29520\nrounded = 122\n"
    "scale = 0x1p+13\nscale_dynamic = 1\nscale_clean = 17\nscale_hits = 1\nconsecutive_skips = "
    "0\n";

static mpt_held_t hold(float *array)
{
    return (mpt_held_t){.data = array, .dtype = MPT_F32, .hold = MPT_HOLD_ALL};
}

/* Saved by RANKS ranks with that meta; the path of the folder is "run" in the test's. */
static const char *save_as(const scratch_t *s, unsigned kinds, int tame, const char *text)
{
    const char *dir = scratch_path(s, "run");
    model_t m = patterned(RANKS, kinds, tame);
    mpt_checkpoint_t *savers[RANKS];
    mpt_state_t state = {
        .params = {.layout = &m.layout, .with_master = 1, .with_ema = (kinds & EMA) != 0},
        .layout = &m.layout,
        .master = hold(m.kind[0]),
        .m = hold(m.kind[1]),
        .v = hold(m.kind[2]),
        .ema = hold(kinds & EMA ? m.kind[3] : NULL)};
    for (int r = 0; r < RANKS; r++)
        assert_int_equal(
            mpt_checkpoint_create(
                &(mpt_checkpoint_params_t){
                    .dir = dir, .keep = 9, .state = &state, .log = &s->log, .rank = r, .run = 77},
                &savers[r]),
            MPT_OK);
    for (int r = 0; r < RANKS; r++)
        mpt_checkpoint_begin(savers[r], STEP, text);
    for (int r = RANKS - 1; r >= 0; r--) {
        assert_int_equal(mpt_checkpoint_progress(savers[r]), MPT_SAVE_SYNCED);
        assert_int_equal(mpt_checkpoint_finish(savers[r], 1), MPT_OK);
        mpt_checkpoint_destroy(savers[r]);
    }
    free_model(&m);
    return dir;
}

static const char *save(const scratch_t *s, unsigned kinds, int tame)
{
    return save_as(s, kinds, tame, meta_text);
}

static mpt_status_t collect(void *ctx, mpt_checkpoint_kind_t kind, int tensor, int64_t first,
                            int64_t count, const float *values)
{
    model_t *m = ctx;
    memcpy(m->kind[kind] + mpt_layout_at(&m->layout, tensor) + first, values,
           (size_t)count * sizeof *values);
    return MPT_OK;
}

/* All that the checkpoint holds of `kinds`. */
static model_t load(scratch_t *s, const char *path, unsigned kinds, mpt_checkpoint_meta_t *meta_p)
{
    model_t m = make_model(1);
    if (mpt_checkpoint_read_meta(path, &s->log, meta_p) != MPT_OK ||
        mpt_checkpoint_kinds(meta_p) != kinds ||
        mpt_checkpoint_load(meta_p, &m.layout, kinds,
                            &(mpt_checkpoint_sink_t){.put = collect, .ctx = &m}, &s->log) != MPT_OK)
        fail_msg("%s: %s", path, s->said);
    return m;
}

static void assert_same(const model_t *a, const model_t *b)
{
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        assert_memory_equal(a->kind[k], b->kind[k], (size_t)a->layout.total * sizeof(float));
}

/* ---- calls ------------------------------------------------------------------------------------------------- */

static void hear(void *ctx, mpt_log_severity_t severity, const char *line)
{
    if (severity <= MPT_SEVERITY_WARN)
        scratch_hear(ctx, MPT_LOG_WARN, line);
}

static mpt_status_t try_export(scratch_t *s, mpt_checkpoint_export_params_t params,
                               mpt_checkpoint_export_result_t *result_p)
{
    params.log = hear;
    params.log_ctx = s;
    scratch_forget(s);
    return mpt_checkpoint_export(&params, result_p);
}

static mpt_checkpoint_export_result_t export_good(scratch_t *s,
                                                  mpt_checkpoint_export_params_t params)
{
    mpt_checkpoint_export_result_t result = {0};
    if (try_export(s, params, &result) != MPT_OK)
        fail_msg("%s", s->said);
    assert_int_equal(s->lines, 0);
    struct stat info;
    assert_int_equal(stat(params.out, &info), 0);
    assert_int_equal(info.st_size, result.bytes);
    assert_int_equal(result.step, STEP);
    return result;
}

static mpt_status_t try_import(scratch_t *s, const char *file, const char *dir, int force,
                               mpt_checkpoint_import_result_t *result_p)
{
    scratch_forget(s);
    return mpt_checkpoint_import(
        &(mpt_checkpoint_import_params_t){
            .file = file, .dir = dir, .force = force, .log = hear, .log_ctx = s},
        result_p);
}

static mpt_checkpoint_import_result_t import_good(scratch_t *s, const char *file, const char *dir)
{
    mpt_checkpoint_import_result_t result = {0};
    if (try_import(s, file, dir, 0, &result) != MPT_OK)
        fail_msg("%s", s->said);
    assert_int_equal(s->lines, 0);
    return result;
}

/* ---- there and back ------------------------------------------------------------------------------------------ */

static void assert_meta_same(const char *a, const char *b)
{
    for (int row = 0; row < mpt_save_meta_rows(); row++) {
        char x[64] = "", y[64] = "";
        const char *key = mpt_save_meta_key(row);
        assert_true(mpt_checkpoint_get(a, key, x, sizeof x));
        assert_true(mpt_checkpoint_get(b, key, y, sizeof y));
        assert_string_equal(y, strcmp(key, "shard") == 0 ? "ddp" : x); /* by one rank, whoever saved it before */
    }
}

static void round_trip(scratch_t *s, unsigned kinds, const char *names)
{
    mpt_checkpoint_meta_t meta;
    save(s, kinds, 0);
    mpt_checkpoint_export_result_t out =
        export_good(s, (mpt_checkpoint_export_params_t){.checkpoint = scratch_path(s, "run"),
                                                        .out = scratch_path(s, "out.safetensors")});
    assert_string_equal(out.format, "safetensors");
    assert_string_equal(out.dtype, "fp32");
    assert_string_equal(out.kinds, names);
    assert_true(out.exact);
    mpt_checkpoint_import_result_t in =
        import_good(s, scratch_path(s, "out.safetensors"), scratch_path(s, "back"));
    assert_int_equal(in.step, STEP);
    assert_false(in.fresh);
    assert_string_equal(in.kinds, names);
    assert_string_equal(in.path, scratch_path(s, "back/step-00000123"));
    model_t was = patterned(1, kinds, 0), is = load(s, in.path, kinds, &meta);
    assert_same(&was, &is);
    assert_int_equal(meta.step, STEP);
    assert_int_equal(meta.ranks, 1);
    assert_int_equal(in.parameters, is.layout.parameters);
    assert_meta_same(meta_text, meta.text);
    free_model(&was);
    free_model(&is);
}

static void all_kinds_come_back_to_the_bit_and_progress_with_them(void **state)
{
    round_trip(*state, 15, "master, m, v, ema");
}

static void a_checkpoint_without_ema_comes_back_without(void **state)
{
    round_trip(*state, 7, "master, m, v");
}

static void files_name_tensors_as_documented(void **state)
{
    scratch_t *s = *state;
    mpt_safetensors_t *file;
    const char *out = scratch_path(s, "x.safetensors");
    static const char *const names[] = {"wte.weight", "optimizer.m.h.1.mlp.c_proj.weight",
                                        "optimizer.v.ln_f.bias", "ema.h.0.attn.c_attn.weight"};
    export_good(s, (mpt_checkpoint_export_params_t){.checkpoint = save(s, 15, 0), .out = out});
    assert_int_equal(mpt_safetensors_open(out, &s->log, &file), MPT_OK);
    for (int i = 0; i < 4; i++)
        assert_true(mpt_safetensors_find(file, names[i]) >= 0);
    const mpt_safetensor_t *qkv = mpt_safetensors_at(file, mpt_safetensors_find(file, names[3]));
    assert_int_equal(qkv->shape[0], 3 * shape.dim); /* [out,in] */
    assert_int_equal(qkv->shape[1], shape.dim);
    assert_int_equal(mpt_safetensors_count(file), 4 * mpt_gpt2_tensor_count(&shape));
    assert_string_equal(mpt_safetensors_text(file, "format"), "pt");
    assert_string_equal(mpt_safetensors_text(file, "step"), "123");
    assert_string_equal(mpt_safetensors_text(file, "scale"), "0x1p+13");
    assert_string_equal(mpt_safetensors_text(file, "order"), "sequential");
    mpt_safetensors_close(file);
}

/* A file of weights alone: moments zero, a run that begins. */
static void assert_begins(scratch_t *s, const mpt_checkpoint_import_result_t *in,
                          const char *compute)
{
    mpt_checkpoint_meta_t meta;
    char value[64];
    model_t is = load(s, in->path, 7, &meta);
    assert_int_equal(in->step, 0);
    assert_true(in->fresh);
    for (int64_t i = 0; i < is.layout.total; i++)
        assert_true(mpt_f32_bits(is.kind[1][i]) == 0 && mpt_f32_bits(is.kind[2][i]) == 0);
    static const char *const zeros[] = {"applied", "position", "tokens", "scale_dynamic",
                                        "consecutive_skips"};
    for (int i = 0; i < 5; i++) {
        assert_true(mpt_checkpoint_get(meta.text, zeros[i], value, sizeof value));
        assert_string_equal(value, "0");
    }
    assert_false(mpt_checkpoint_get(meta.text, "seed", value, sizeof value));
    assert_true(mpt_checkpoint_get(meta.text, "compute", value, sizeof value));
    assert_string_equal(value, compute);
    free_model(&is);
}

static void assert_weights(scratch_t *s, const char *path, int kind, int rounded)
{
    mpt_checkpoint_meta_t meta;
    model_t was = patterned(1, 15, 1), is = load(s, path, 7, &meta);
    for (int64_t i = 0; i < was.layout.total; i++) {
        float expected = was.kind[kind][i];
        if (rounded)
            expected = mpt_bf16_to_f32(mpt_f32_to_bf16(expected));
        assert_int_equal(mpt_f32_bits(is.kind[0][i]), mpt_f32_bits(expected));
    }
    free_model(&was);
    free_model(&is);
}

static void weights_alone_come_back_and_begin_a_run(void **state)
{
    scratch_t *s = *state;
    static const struct {
        mpt_checkpoint_export_params_t params;
        const char *name, *format, *kinds, *compute;
        int kind, exact;
    } cases[] = {
        {{0}, "a.bin", "llmc", "master", "fp32", MPT_KIND_MASTER, 1},
        {{.weights = "ema"}, "b.bin", "llmc", "ema", "fp32", MPT_KIND_EMA, 1},
        {{.version = 3}, "c.bin", "llmc", "master", "fp32", MPT_KIND_MASTER, 1},
        {{.version = 5}, "d.bin", "llmc", "master", "bf16", MPT_KIND_MASTER, 0},
        {{.dtype = "bf16"}, "e.bin", "llmc", "master", "bf16", MPT_KIND_MASTER, 0},
        {{.format = "llmc"}, "f.safetensors", "llmc", "master", "fp32", MPT_KIND_MASTER, 1},
        {{.format = "safetensors", .weights = "master"},
         "g",
         "safetensors",
         "master",
         "fp16",
         MPT_KIND_MASTER,
         1},
        {{.weights = "ema"}, "h.safetensors", "safetensors", "ema", "fp16", MPT_KIND_EMA, 1},
        {{.dtype = "bf16"}, "i.safetensors", "safetensors", "master", "fp16", MPT_KIND_MASTER, 0},
        {{.dtype = "bf16", .weights = "ema"},
         "j.safetensors",
         "safetensors",
         "ema",
         "fp16",
         MPT_KIND_EMA,
         0},
    };
    save(s, 15, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mpt_checkpoint_export_params_t params = cases[i].params;
        params.checkpoint = scratch_path(s, "run");
        params.out = scratch_path(s, cases[i].name);
        mpt_checkpoint_export_result_t out = export_good(s, params);
        assert_string_equal(out.format, cases[i].format);
        assert_string_equal(out.kinds, cases[i].kinds);
        assert_int_equal(out.exact, cases[i].exact);
        char dir[32];
        snprintf(dir, sizeof dir, "back-%zu", i);
        mpt_checkpoint_import_result_t in = import_good(s, params.out, scratch_path(s, dir));
        assert_string_equal(in.kinds, "master");
        assert_begins(s, &in, cases[i].compute);
        assert_weights(s, in.path, cases[i].kind, !cases[i].exact);
    }
}

/* ---- what is refused ------------------------------------------------------------------------------------------- */

static void requests_that_make_no_sense_are_refused(void **state)
{
    scratch_t *s = *state;
    static const struct {
        mpt_checkpoint_export_params_t params;
        const char *name, *why;
    } faults[] = {
        {{0}, "model", "--format"},
        {{0}, ".bin.gz", "--format"},
        {{.format = "zip"}, "a.bin", "zip"},
        {{.weights = "best"}, "a.bin", "best"},
        {{.dtype = "fp16"}, "a.bin", "fp16"},
        {{.version = 4}, "a.bin", "4"},
        {{.version = 3, .dtype = "bf16"}, "a.bin", "contradict"},
        {{.version = 5, .dtype = "fp32"}, "a.bin", "contradict"},
        {{.version = 3}, "a.safetensors", "no version"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        mpt_checkpoint_export_params_t params = faults[i].params;
        params.checkpoint = "no such checkpoint";
        params.out = scratch_path(s, faults[i].name);
        assert_int_equal(try_export(s, params, NULL), MPT_ERR_CONFIG);
        assert_int_equal(s->lines, 1);
        if (strstr(s->said, faults[i].why) == NULL)
            fail_msg("'%s' does not say '%s'", s->said, faults[i].why);
    }
}

static void an_ema_that_is_not_there_is_an_error(void **state)
{
    scratch_t *s = *state;
    assert_int_equal(try_export(s,
                                (mpt_checkpoint_export_params_t){.checkpoint = save(s, 7, 0),
                                                                 .out = scratch_path(s, "a.bin"),
                                                                 .weights = "ema"},
                                NULL),
                     MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "ema"));
    assert_false(scratch_exists(scratch_path(s, "a.bin")));
}

static void nothing_is_overwritten_unasked(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_import_result_t in;
    const char *names[] = {"a.bin", "a.safetensors"};
    save(s, 7, 0);
    for (int i = 0; i < 2; i++) {
        mpt_checkpoint_export_params_t params = {.checkpoint = scratch_path(s, "run"),
                                                 .out = scratch_path(s, names[i])};
        scratch_write(params.out, "old", 3);
        assert_int_equal(try_export(s, params, NULL), MPT_ERR_CONFIG);
        assert_int_equal(s->lines, 1);
        params.force = 1;
        export_good(s, params);
    }
    assert_int_equal(
        try_import(s, scratch_path(s, "a.safetensors"), scratch_path(s, "run"), 0, &in),
        MPT_ERR_CONFIG);
    assert_int_equal(s->lines, 1);
    assert_int_equal(try_import(s, scratch_path(s, "a.bin"), scratch_path(s, "run"), 1, &in),
                     MPT_OK);
    assert_true(scratch_exists(scratch_path(s, "run/step-00000000")));
    assert_false(
        scratch_exists(scratch_path(s, "run/step-00000123"))); /* a resumed run must find step 0 */
    assert_true(scratch_exists(scratch_path(s, "run/step-00000123.lost-1")));
}

static void a_folder_that_a_run_uses_takes_no_import(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_import_result_t in;
    char back[512];
    int lock;
    save(s, 7, 0);
    snprintf(back, sizeof back, "%s", scratch_path(s, "back"));
    export_good(s, (mpt_checkpoint_export_params_t){.checkpoint = scratch_path(s, "run"),
                                                    .out = scratch_path(s, "a.bin")});
    assert_int_equal(mpt_checkpoint_lock(back, 1, &s->log, &lock), MPT_OK);
    assert_int_equal(mkdir(scratch_path(s, "back/step-00000007.partial"), 0777), 0); /* its save */
    for (int force = 0; force < 2; force++) {
        assert_int_equal(try_import(s, scratch_path(s, "a.bin"), back, force, &in), MPT_ERR_CONFIG);
        assert_int_equal(s->lines, 1);
        assert_non_null(strstr(s->said, "is in use by another run"));
    }
    assert_true(scratch_exists(scratch_path(s, "back/step-00000007.partial")));
    assert_false(scratch_exists(scratch_path(s, "back/step-00000000")));
    mpt_checkpoint_unlock(lock);
    assert_int_equal(try_import(s, scratch_path(s, "a.bin"), back, 0, &in), MPT_OK);
    assert_false(scratch_exists(scratch_path(s, "back/step-00000007.partial")));
}

/* Over a later checkpoint, and over the one of the same step. */
static void an_import_that_fails_leaves_the_folder_as_it_was(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_import_result_t in;
    mpt_checkpoint_meta_t meta;
    save(s, 7, 0);
    export_good(s, (mpt_checkpoint_export_params_t){.checkpoint = scratch_path(s, "run"),
                                                    .out = scratch_path(s, "a.bin")});
    export_good(s, (mpt_checkpoint_export_params_t){.checkpoint = scratch_path(s, "run"),
                                                    .out = scratch_path(s, "a.safetensors")});
    scratch_write(scratch_path(s, "run/step-00000000.partial"), "x", 1); /* in the way */
    scratch_write(scratch_path(s, "run/step-00000123.partial"), "x", 1);
    static const char *const files[] = {"a.bin", "a.safetensors"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            try_import(s, scratch_path(s, files[i]), scratch_path(s, "run"), 1, &in), MPT_ERR_IO);
        assert_false(scratch_exists(scratch_path(s, "run/step-00000123.lost-1")));
        assert_false(scratch_exists(scratch_path(s, "run/step-00000000")));
        model_t is = load(s, scratch_path(s, "run/step-00000123"), 7, &meta);
        assert_int_equal(meta.ranks, RANKS);
        free_model(&is);
    }
}

static void a_damaged_checkpoint_makes_no_file(void **state)
{
    scratch_t *s = *state;
    size_t bytes;
    const char *out = scratch_path(s, "a.safetensors");
    save(s, 7, 0);
    const char *part = scratch_path(s, "run/step-00000123/rank-00002.bin");
    char *file = scratch_read(part, &bytes);
    file[bytes - 9] ^= 1;
    scratch_write(part, file, bytes);
    free(file);
    mpt_checkpoint_export_params_t params = {.checkpoint = scratch_path(s, "run"), .out = out};
    assert_int_equal(try_export(s, params, NULL), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    assert_false(scratch_exists(out));
    assert_false(scratch_exists(scratch_path(s, "a.safetensors.partial")));
}

/* The meta with another line in the place of `line`. */
static const char *changed_meta(const char *line, const char *other)
{
    static char text[MPT_CHECKPOINT_META_MAX];
    const char *at = strstr(meta_text, line);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - meta_text), meta_text, other, at + strlen(line));
    return text;
}

static void ignore_text(void *ctx, const char *text, size_t bytes)
{
    (void)ctx, (void)text, (void)bytes;
}

/* By `export` and by `sample` alike. */
static void a_checkpoint_of_a_model_that_cannot_be_is_refused(void **state)
{
    scratch_t *s = *state;
    static const struct {
        const char *line, *other, *why;
    } faults[] = {
        {"\nlayers = 2\n", "\nlayers = -3\n", "layers = -3"},
        {"\nlayers = 2\n", "\nlayers = 4611686018427387904\n", "larger than this program's limits"},
        {"\nheads = 2\n", "\nheads = 0\n", "not positive: layers 2, heads 0"},
        {"\nheads = 2\n", "\nheads = 3\n", "contradict"},
        {"\ndim = 8\n", "\ndim = 0\n", "not positive"},
        {"\ncontext = 6\n", "\ncontext = 0\n", "not positive"},
        {"\nvocab = 10\n", "\nvocab = -1\n", "vocab = -1"},
        {"\nvocab = 10\n", "\n", "lacks \"vocab\""},
        {"\ncompute = fp16\n", "\n", "lacks \"compute\""},
        {"\ncompute = fp16\n", "\ncompute = fp64\n", "compute = fp64"},
        {"\ncompute = fp16\n", "\ncompute = int4\n", "compute = int4"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const char *run = save_as(s, 7, 1, changed_meta(faults[i].line, faults[i].other));
        mpt_checkpoint_export_params_t params = {.checkpoint = run, .out = scratch_path(s, "a.bin")};
        for (int sampled = 0; sampled < 2; sampled++) {
            scratch_forget(s);
            mpt_status_t status =
                sampled ? mpt_sample(run, &(mpt_sample_params_t){.tokens = 1, .emit = ignore_text}, hear, s)
                        : try_export(s, params, NULL);
            assert_int_equal(status, MPT_ERR_CHECKPOINT);
            assert_int_equal(s->lines, 1);
            assert_non_null(strstr(s->said, "step-00000123/meta: "));
            if (strstr(s->said, faults[i].why) == NULL)
                fail_msg("'%s' does not say '%s'", s->said, faults[i].why);
        }
        assert_false(scratch_exists(scratch_path(s, "a.bin")));
    }
}

/* ---- hostile files ------------------------------------------------------------------------------------------------ */

/* A model's file with one fault: metadata `key` becomes `text` (NULL: left out), tensor `tensor` gets `rows` more rows or, `rows` being 0, is
 * left out; `extra` is added; `kinds` are there. */
typedef struct fault {
    unsigned kinds;
    const char *key, *text;
    const char *tensor;
    int64_t rows;
    const char *extra, *why;
} fault_t;

static mpt_status_t add(mpt_safetensors_writer_t *writer, const char *name,
                        const mpt_tensor_t *tensor, const fault_t *fault)
{
    mpt_safetensor_t row = {.name = name, .dims = tensor->dims};
    memcpy(row.shape, tensor->shape, sizeof row.shape);
    if (fault->tensor != NULL && strcmp(name, fault->tensor) == 0) {
        if (fault->rows == 0)
            return MPT_OK;
        row.shape[0] += fault->rows;
    }
    return mpt_safetensors_add(writer, &row);
}

static const char *write_faulty(scratch_t *s, const fault_t *fault)
{
    const char *path = scratch_path(s, "hostile.safetensors");
    mpt_safetensors_writer_t *writer;
    mpt_save_meta_t meta;
    model_t m = make_model(1);
    int64_t bytes;
    char name[96], text[64];
    mpt_save_meta_read(meta_text, &meta);
    assert_int_equal(mpt_safetensors_new(&writer), MPT_OK);
    if (fault->key == NULL || strcmp(fault->key, "step") != 0)
        assert_int_equal(mpt_safetensors_set(writer, "step", "5"), MPT_OK);
    for (int row = 0; row < mpt_save_meta_rows(); row++) {
        mpt_checkpoint_get(meta_text, mpt_save_meta_key(row), text, sizeof text);
        if (fault->key == NULL || strcmp(fault->key, mpt_save_meta_key(row)) != 0)
            assert_int_equal(mpt_safetensors_set(writer, mpt_save_meta_key(row), text), MPT_OK);
    }
    if (fault->text != NULL)
        assert_int_equal(mpt_safetensors_set(writer, fault->key, fault->text), MPT_OK);
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        for (int t = 0; t < m.layout.tensor_count && fault->kinds >> k & 1u; t++) {
            snprintf(name, sizeof name, "%s%s", mpt_export_prefix((mpt_checkpoint_kind_t)k),
                     m.layout.tensors[t].name);
            assert_int_equal(add(writer, name, &m.layout.tensors[t], fault), MPT_OK);
        }
    if (fault->extra != NULL)
        assert_int_equal(add(writer, fault->extra, &m.layout.tensors[0], fault), MPT_OK);
    assert_int_equal(mpt_safetensors_begin(writer, path, 1, &s->log), MPT_OK);
    assert_int_equal(mpt_safetensors_commit(writer, &bytes), MPT_OK);
    mpt_safetensors_drop(writer);
    free_model(&m);
    return path;
}

static void files_that_are_not_a_whole_model_are_refused(void **state)
{
    scratch_t *s = *state;
    static const fault_t faults[] = {
        {.kinds = 0, .why = "\"wte.weight\""},
        {.kinds = 6, .why = "\"wte.weight\""},
        {.kinds = 15, .tensor = "ln_f.bias", .why = "lacks tensor \"ln_f.bias\""},
        {.kinds = 15, .tensor = "optimizer.m.wpe.weight", .why = "optimizer.m.wpe.weight"},
        {.kinds = 15, .tensor = "ema.h.1.ln_1.bias", .why = "ema.h.1.ln_1.bias"},
        {.kinds = 7, .tensor = "h.0.ln_2.weight", .rows = 1, .why = "another shape than [8]"},
        {.kinds = 7,
         .tensor = "optimizer.v.wte.weight",
         .rows = -1,
         .why = "another shape than [10,8]"},
        {.kinds = 3, .why = "optimizer.v.*"},
        {.kinds = 5, .why = "optimizer.m.*"},
        {.kinds = 7, .extra = "lm_head.weight", .why = "\"lm_head.weight\", which is none"},
        {.kinds = 7, .extra = "ema.wtf.weight", .why = "\"ema.wtf.weight\", which is none"},
        {.kinds = 7, .key = "heads", .why = "lacks \"heads\""},
        {.kinds = 7, .key = "layers", .text = "3", .why = "lacks tensor \"h.2."},
        {.kinds = 7, .key = "layers", .text = "1", .why = "none of this model's"},
        {.kinds = 7, .key = "layers", .text = "-2", .why = "\"layers\""},
        {.kinds = 7, .key = "layers", .text = "1000000000", .why = "limits"},
        {.kinds = 7, .key = "layers", .text = "2x", .why = "\"layers\""},
        {.kinds = 7, .key = "layers", .text = "", .why = "\"layers\""},
        {.kinds = 7, .key = "layers", .text = "0", .why = "not positive"},
        {.kinds = 7, .key = "heads", .text = "3", .why = "contradict"},
        {.kinds = 7, .key = "dim", .text = "16", .why = "another shape"},
        {.kinds = 7, .key = "dim", .text = "99999999999999999999", .why = "\"dim\""},
        {.kinds = 7, .key = "arch", .text = "llama", .why = "llama"},
        {.kinds = 7, .key = "compute", .text = "fp16\nstep = 9", .why = "\"compute\""},
        {.kinds = 7, .key = "compute", .text = "int4", .why = "int4"},
        {.kinds = 7, .key = "compute", .text = "fp64", .why = "fp64"},
        {.kinds = 7, .key = "scale", .text = "nan", .why = "\"scale\""},
        {.kinds = 7, .key = "scale", .text = "-1", .why = "\"scale\""},
        {.kinds = 7, .key = "tokens", .text = "-1", .why = "\"tokens\""},
        {.kinds = 7, .key = "step", .text = "-1", .why = "\"step\""},
        {.kinds = 7, .key = "step", .text = "one", .why = "\"step\""},
        {.kinds = 7, .key = "step", .text = "9223372036854775807", .why = "\"step\" = 9223372036854775807"},
        {.kinds = 7, .key = "applied", .text = "9223372036854775807", .why = "\"applied\" = 9223372036854775807"},
        {.kinds = 7, .key = "position", .text = "9223372036854775807", .why = "\"position\" = 9223372036854775807"},
        {.kinds = 7, .key = "tokens", .text = "4611686018427387905", .why = "\"tokens\" = 4611686018427387905"},
        {.kinds = 7, .key = "scale", .text = "0x1.8p+13", .why = "\"scale\" = 0x1.8p+13"},
        {.kinds = 7, .key = "scale", .text = "1e300", .why = "\"scale\" = 1e300"},
        {.kinds = 7, .key = "scale_dynamic", .text = "2", .why = "\"scale_dynamic\" = 2"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        mpt_checkpoint_import_result_t in;
        const char *path = write_faulty(s, &faults[i]);
        if (try_import(s, path, scratch_path(s, "back"), 0, &in) != MPT_ERR_CHECKPOINT)
            fail_msg("was not refused, though %s", faults[i].why);
        assert_int_equal(s->lines, 1);
        assert_non_null(strstr(s->said, "hostile.safetensors"));
        if (strstr(s->said, faults[i].why) == NULL)
            fail_msg("'%s' does not say '%s'", s->said, faults[i].why);
        assert_false(scratch_exists(scratch_path(s, "back")));
    }
}

static void every_type_that_runs_train_in_is_imported(void **state)
{
    scratch_t *s = *state;
    static const char *const types[] = {"fp32", "tf32", "bf16", "fp16"};
    for (int i = 0; i < 4; i++) {
        mpt_checkpoint_import_result_t in;
        mpt_checkpoint_meta_t meta;
        char value[64], dir[16];
        const char *path = write_faulty(s, &(fault_t){.kinds = 7, .key = "compute", .text = types[i]});
        snprintf(dir, sizeof dir, "back-%s", types[i]);
        if (try_import(s, path, scratch_path(s, dir), 0, &in) != MPT_OK)
            fail_msg("%s", s->said);
        assert_int_equal(mpt_checkpoint_read_meta(in.path, &s->log, &meta), MPT_OK);
        assert_true(mpt_checkpoint_get(meta.text, "compute", value, sizeof value));
        assert_string_equal(value, types[i]);
    }
}

static void a_step_that_metadata_lack_is_said(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_import_result_t in;
    const char *path = write_faulty(s, &(fault_t){.kinds = 7, .key = "step"});
    assert_int_equal(try_import(s, path, scratch_path(s, "back"), 0, &in), MPT_OK);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "lack \"step\": the run goes on from step 0"));
    assert_int_equal(in.step, 0);
    assert_false(in.fresh);
}

static void progress_that_metadata_lack_is_said(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_import_result_t in;
    mpt_checkpoint_meta_t meta;
    char value[64];
    const char *path = write_faulty(s, &(fault_t){.kinds = 7, .key = "applied"});
    assert_int_equal(try_import(s, path, scratch_path(s, "back"), 0, &in), MPT_OK);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "\"applied\""));
    assert_int_equal(in.step, 5);
    assert_int_equal(mpt_checkpoint_read_meta(in.path, &s->log, &meta), MPT_OK);
    assert_true(mpt_checkpoint_get(meta.text, "applied", value, sizeof value));
    assert_string_equal(value, "0");
}

static void files_of_no_known_format_are_refused(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_import_result_t in;
    const int32_t magic[2] = {20240326, 3};
    const char *path = scratch_path(s, "file");
    scratch_write(path, "just some text, and more of it", 30);
    assert_int_equal(try_import(s, path, scratch_path(s, "back"), 0, &in), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    scratch_write(path, magic, sizeof magic);
    assert_int_equal(try_import(s, path, scratch_path(s, "back"), 0, &in), MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "llm.c"));
    assert_int_equal(try_import(s, scratch_path(s, "nothing"), scratch_path(s, "back"), 0, &in),
                     MPT_ERR_CHECKPOINT);
    assert_int_equal(s->lines, 1);
    assert_false(scratch_exists(scratch_path(s, "back")));
}

/* ---- the meta's table ------------------------------------------------------------------------------------------- */

static void meta_lines_read_back_as_written(void **state)
{
    (void)state;
    mpt_save_meta_t meta;
    char text[MPT_CHECKPOINT_META_MAX];
    mpt_save_meta_read(meta_text, &meta);
    mpt_save_meta_write(&meta, text, sizeof text);
    assert_string_equal(text, meta_text);
    assert_true(meta.seed == UINT64_MAX);
    assert_true(meta.scale == 0x1p+13);
    mpt_save_meta_mark(&meta, MPT_META_ORDER, 0);
    mpt_save_meta_write(&meta, text, sizeof text);
    assert_null(strstr(text, "seed"));
    assert_non_null(strstr(text, "\nshard = zero3\nmasters = 0\napplied = 119\n"));
}

static void info_says_what_a_checkpoint_is(void **state)
{
    scratch_t *s = *state;
    mpt_checkpoint_info_t info;
    assert_int_equal(mpt_checkpoint_info(save(s, 15, 0), &info, hear, s), MPT_OK);
    assert_string_equal(info.kinds, "master, m, v, ema");
    assert_string_equal(info.shard, "zero3");
    assert_int_equal(info.saved_ranks, RANKS);
    assert_int_equal(info.step, STEP);
    assert_int_equal(info.applied_steps, 119);
    assert_true(info.loss_scale == 0x1p+13 && info.dynamic_scale);
    assert_int_equal(info.vocab, 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(all_kinds_come_back_to_the_bit_and_progress_with_them),
        TEST(a_checkpoint_without_ema_comes_back_without),
        TEST(files_name_tensors_as_documented),
        TEST(weights_alone_come_back_and_begin_a_run),
        TEST(requests_that_make_no_sense_are_refused),
        TEST(an_ema_that_is_not_there_is_an_error),
        TEST(nothing_is_overwritten_unasked),
        TEST(a_folder_that_a_run_uses_takes_no_import),
        TEST(an_import_that_fails_leaves_the_folder_as_it_was),
        TEST(a_damaged_checkpoint_makes_no_file),
        TEST(a_checkpoint_of_a_model_that_cannot_be_is_refused),
        TEST(files_that_are_not_a_whole_model_are_refused),
        TEST(every_type_that_runs_train_in_is_imported),
        TEST(a_step_that_metadata_lack_is_said),
        TEST(progress_that_metadata_lack_is_said),
        TEST(files_of_no_known_format_are_refused),
        TEST(meta_lines_read_back_as_written),
        TEST(info_says_what_a_checkpoint_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
