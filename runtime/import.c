#include "export.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "llmc.h"
#include "safetensors.h"
#include "save_meta.h"
#include "session.h"

typedef struct import {
    const mpt_checkpoint_import_params_t *params;
    const mpt_log_t *log;
    mpt_llmc_t *llmc; /* one of the two */
    mpt_safetensors_t *file;
    int *index[MPT_KIND_COUNT]; /* of tensor t of each kind in the safetensors file; NULL: none of that kind */
    unsigned kinds;             /* in the file */
    mpt_dtype_t dtype;          /* of the weights */
    mpt_gpt2_shape_t shape;
    mpt_layout_t layout;
    mpt_save_meta_t meta;
    int64_t step;
    int fresh; /* without moments: the run starts at its first step */
    float *arrays[MPT_KIND_COUNT];
} import_t;

static mpt_status_t bad_file(const import_t *in, const char *what, const char *which, const char *more)
{
    mpt_log_error(in->log, "%s: %s \"%s\"%s", in->params->file, what, which, more);
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t bad_value(const import_t *in, const char *key, const char *text)
{
    mpt_log_error(in->log, "%s: metadata \"%s\" = %.64s: no such value can be", in->params->file, key, text);
    return MPT_ERR_CHECKPOINT;
}

/* ---- llm.c --------------------------------------------------------------------------------------------------- */

static mpt_status_t open_llmc(import_t *in)
{
    mpt_status_t status = mpt_llmc_shape(in->params->file, in->log, &in->shape);
    if (status == MPT_OK)
        status = mpt_llmc_open(in->params->file, &in->shape, in->log, &in->llmc);
    if (status == MPT_OK)
        status = mpt_export_layout(&in->shape, in->log, &in->layout);
    if (status != MPT_OK)
        return status;
    in->dtype = mpt_llmc_dtype(in->llmc);
    in->kinds = 1u << MPT_KIND_MASTER;
    return MPT_OK;
}

/* ---- safetensors ------------------------------------------------------------------------------------------------ */

static mpt_status_t read_metadata(import_t *in)
{
    for (int row = 0; row < mpt_save_meta_rows(); row++) {
        const char *key = mpt_save_meta_key(row), *text = mpt_safetensors_text(in->file, key);
        if (text != NULL && !mpt_save_meta_set(&in->meta, row, text))
            return bad_value(in, key, text);
        int needed = mpt_save_meta_part(row) == MPT_META_MODEL && strcmp(key, "arch") != 0 &&
                     strcmp(key, "parameters") != 0 && strcmp(key, "compute") != 0;
        if (text == NULL && needed)
            return bad_file(in, "its metadata lacks", key, ": a model's layers, heads, dim, context and vocab");
    }
    if (in->meta.arch[0] != '\0' && strcmp(in->meta.arch, "gpt2") != 0)
        return bad_file(in, "is of another kind of model:", in->meta.arch, "; \"gpt2\" is built");
    if (in->meta.compute[0] != '\0' && mpt_restore_compute(in->meta.compute) == MPT_DTYPE_COUNT)
        return bad_file(in, "was trained in an unknown type:", in->meta.compute, "; fp32, tf32, bf16 and fp16 are built");
    return MPT_OK;
}

static mpt_status_t read_step(import_t *in)
{
    const char *text = mpt_safetensors_text(in->file, "step");
    if (text != NULL && !mpt_save_meta_count(text, &in->step))
        return bad_value(in, "step", text);
    return MPT_OK;
}

static mpt_status_t refuse_shape(const import_t *in, const char *fault)
{
    mpt_log_error(in->log, "%s: %s; its metadata have layers %s, heads %s, dim %s, context %s, vocab %s",
                  in->params->file, fault, mpt_safetensors_text(in->file, "layers"), mpt_safetensors_text(in->file, "heads"),
                  mpt_safetensors_text(in->file, "dim"), mpt_safetensors_text(in->file, "context"),
                  mpt_safetensors_text(in->file, "vocab"));
    return MPT_ERR_CHECKPOINT;
}

static mpt_status_t read_shape(import_t *in)
{
    const mpt_save_meta_t *meta = &in->meta;
    in->shape = (mpt_gpt2_shape_t){.layers = meta->layers,
                                   .heads = meta->heads,
                                   .dim = meta->dim,
                                   .context = meta->context,
                                   .vocab = meta->vocab};
    const char *fault = mpt_llmc_shape_fault(&in->shape);
    return fault == NULL ? mpt_export_layout(&in->shape, in->log, &in->layout)
                         : refuse_shape(in, fault);
}

static mpt_status_t check_tensor(const import_t *in, const mpt_safetensor_t *found, const mpt_tensor_t *tensor)
{
    int same = found->dims == tensor->dims;
    for (int d = 0; d < tensor->dims && same; d++)
        same = found->shape[d] == tensor->shape[d];
    if (same)
        return MPT_OK;
    char shape[64] = "";
    for (int d = 0; d < tensor->dims; d++)
        sprintf(shape + strlen(shape), "%s%lld", d > 0 ? "," : "", (long long)tensor->shape[d]);
    mpt_log_error(in->log, "%s: tensor \"%s\" has another shape than [%s], which its metadata ask for",
                  in->params->file, found->name, shape);
    return MPT_ERR_CHECKPOINT;
}

/* Find all tensors of a kind, or none. */
static mpt_status_t find_kind(import_t *in, mpt_checkpoint_kind_t kind)
{
    int missing = -1, found = 0, count = in->layout.tensor_count;
    char name[MPT_EXPORT_NAME_MAX];
    int *index = in->index[kind] = calloc((size_t)count, sizeof *index);
    if (index == NULL)
        return mpt_log_no_memory(in->log, (size_t)count * sizeof *index, "the table of tensors");
    for (int t = 0; t < count; t++) {
        const mpt_tensor_t *tensor = &in->layout.tensors[t];
        snprintf(name, sizeof name, "%s%s", mpt_export_prefix(kind), tensor->name);
        index[t] = mpt_safetensors_find(in->file, name);
        missing = index[t] < 0 && missing < 0 ? t : missing;
        found += index[t] >= 0;
        mpt_status_t status =
            index[t] >= 0 ? check_tensor(in, mpt_safetensors_at(in->file, index[t]), tensor) : MPT_OK;
        if (status != MPT_OK)
            return status;
    }
    if (found == 0 && kind != MPT_KIND_MASTER)
        return MPT_OK;
    if (missing >= 0) {
        snprintf(name, sizeof name, "%s%s", mpt_export_prefix(kind), in->layout.tensors[missing].name);
        return bad_file(in, "lacks tensor", name, "");
    }
    in->kinds |= 1u << kind;
    return MPT_OK;
}

/* Every tensor of the file has its place: none is dropped unsaid. */
static mpt_status_t check_all_used(const import_t *in)
{
    int count = mpt_safetensors_count(in->file);
    char *used = calloc((size_t)count + 1, 1);
    mpt_status_t status = MPT_OK;
    if (used == NULL)
        return mpt_log_no_memory(in->log, (size_t)count + 1, "the table of tensors");
    for (int k = 0; k < MPT_KIND_COUNT; k++)
        for (int t = 0; t < in->layout.tensor_count && in->kinds >> k & 1u; t++)
            used[in->index[k][t]] = 1;
    for (int i = 0; i < count && status == MPT_OK; i++)
        if (!used[i])
            status = bad_file(in, "holds tensor", mpt_safetensors_at(in->file, i)->name,
                              ", which is none of this model's");
    free(used);
    return status;
}

static mpt_status_t find_tensors(import_t *in)
{
    mpt_status_t status = MPT_OK;
    for (int k = 0; k < MPT_KIND_COUNT && status == MPT_OK; k++)
        status = find_kind(in, (mpt_checkpoint_kind_t)k);
    if (status != MPT_OK)
        return status;
    if ((in->kinds >> MPT_KIND_M & 1u) != (in->kinds >> MPT_KIND_V & 1u))
        return bad_file(in, "holds one of Adam's moments; of the other it lacks",
                        in->kinds >> MPT_KIND_M & 1u ? "optimizer.v.*" : "optimizer.m.*", "");
    in->dtype = mpt_safetensors_at(in->file, in->index[MPT_KIND_MASTER][0])->dtype;
    return check_all_used(in);
}

static mpt_status_t open_safetensors(import_t *in)
{
    mpt_status_t status = mpt_safetensors_open(in->params->file, in->log, &in->file);
    if (status == MPT_OK)
        status = read_metadata(in);
    if (status == MPT_OK)
        status = read_step(in);
    if (status == MPT_OK)
        status = read_shape(in);
    if (status == MPT_OK)
        status = find_tensors(in);
    return status;
}

/* ---- where the run stands ------------------------------------------------------------------------------------ */

static void warn_of_missing(const import_t *in)
{
    if (mpt_safetensors_text(in->file, "step") == NULL)
        mpt_log_warn(in->log, "%s: its metadata lack \"step\": the run goes on from step 0, with the moments that the file holds",
                     in->params->file);
    for (int row = 0; row < mpt_save_meta_rows(); row++)
        if (mpt_save_meta_part(row) == MPT_META_PROGRESS && !(in->meta.known >> row & 1u))
            mpt_log_warn(in->log, "%s: its metadata lacks \"%s\"; taken as in a run that begins",
                         in->params->file, mpt_save_meta_key(row));
}

static void start_afresh(import_t *in)
{
    mpt_save_meta_t *meta = &in->meta;
    in->step = 0;
    meta->applied = meta->position = meta->tokens = meta->rounded = 0;
    meta->scale_dynamic = meta->scale_clean = meta->scale_hits = meta->consecutive_skips = 0;
    meta->scale = 1.0;
    mpt_save_meta_mark(meta, MPT_META_ORDER, 0);
}

/* The meta of the checkpoint, from the file's metadata and from what it lacks. */
static void complete_meta(import_t *in)
{
    mpt_save_meta_t *meta = &in->meta;
    in->fresh = !(in->kinds >> MPT_KIND_M & 1u);
    if (in->fresh)
        start_afresh(in);
    else
        warn_of_missing(in);
    meta->layers = in->shape.layers;
    meta->heads = in->shape.heads;
    meta->dim = in->shape.dim;
    meta->context = in->shape.context;
    meta->vocab = in->shape.vocab;
    meta->parameters = in->layout.parameters;
    meta->scale = meta->scale > 0.0 ? meta->scale : 1.0;
    if (meta->compute[0] == '\0')
        snprintf(meta->compute, sizeof meta->compute, "%s", mpt_dtype_name(in->dtype));
    snprintf(meta->arch, sizeof meta->arch, "gpt2");
    snprintf(meta->shard, sizeof meta->shard, "ddp");
    mpt_save_meta_mark(meta, MPT_META_MODEL, 1);
    if (!mpt_save_meta_known(meta, "masters")) /* else what the weights were in the run that they are of */
        meta->masters = 1;
    mpt_save_meta_mark(meta, MPT_META_SAVED, 1);
    mpt_save_meta_mark(meta, MPT_META_PROGRESS, 1);
}

/* ---- the checkpoint --------------------------------------------------------------------------------------------- */

static mpt_status_t read_tensor(import_t *in, int kind, int t)
{
    float *out = in->arrays[kind] + mpt_layout_at(&in->layout, t);
    int64_t count = mpt_tensor_count(&in->layout.tensors[t]);
    return in->llmc != NULL ? mpt_llmc_read(in->llmc, t, 0, count, out)
                            : mpt_safetensors_read(in->file, in->index[kind][t], 0, count, out);
}

/* Masters and moments always, the EMA where the file has one; what it lacks stays zero. */
static mpt_status_t read_arrays(import_t *in)
{
    mpt_status_t status = MPT_OK;
    for (int k = 0; k < MPT_KIND_COUNT; k++) {
        int held = in->kinds >> k & 1u;
        if (k == MPT_KIND_EMA && !held)
            continue;
        in->arrays[k] = calloc((size_t)in->layout.total, sizeof(float));
        if (in->arrays[k] == NULL)
            return mpt_log_no_memory(in->log, (size_t)in->layout.total * sizeof(float),
                                     mpt_checkpoint_kind_name((mpt_checkpoint_kind_t)k));
        for (int t = 0; t < in->layout.tensor_count && held && status == MPT_OK; t++)
            status = read_tensor(in, k, t);
    }
    return status;
}

static mpt_held_t hold(float *array)
{
    return (mpt_held_t){.data = array, .dtype = MPT_F32, .hold = MPT_HOLD_ALL};
}

static mpt_status_t save(mpt_checkpoint_t *saver, const import_t *in)
{
    char text[MPT_CHECKPOINT_META_MAX];
    mpt_save_meta_write(&in->meta, text, sizeof text);
    mpt_checkpoint_begin(saver, in->step, text);
    mpt_checkpoint_wait(saver);
    int whole = mpt_checkpoint_progress(saver) == MPT_SAVE_SYNCED;
    mpt_status_t status = mpt_checkpoint_finish(saver, whole);
    return whole ? status : MPT_ERR_IO;
}

static mpt_status_t check_folder(const import_t *in)
{
    int64_t step;
    int count;
    mpt_status_t status = mpt_checkpoint_look(in->params->dir, &step, 1, in->log, &count);
    if (status != MPT_OK || count == 0 || in->params->force)
        return status;
    mpt_log_error(in->log, "%s holds checkpoints already; choose another folder, or --force to import over them",
                  in->params->dir);
    return MPT_ERR_CONFIG;
}

static mpt_status_t write_checkpoint(const import_t *in, uint64_t run)
{
    const char *dir = in->params->dir;
    int ema = in->arrays[MPT_KIND_EMA] != NULL;
    mpt_checkpoint_t *saver;
    mpt_state_t state = {.params = {.layout = &in->layout,
                                    .shard = MPT_SHARD_DDP,
                                    .compute = MPT_F32,
                                    .wire = MPT_F32,
                                    .micro_steps = 1,
                                    .lanes = 1,
                                    .with_master = 1,
                                    .with_ema = ema},
                         .layout = &in->layout,
                         .master = hold(in->arrays[MPT_KIND_MASTER]),
                         .m = hold(in->arrays[MPT_KIND_M]),
                         .v = hold(in->arrays[MPT_KIND_V]),
                         .ema = hold(in->arrays[MPT_KIND_EMA])};
    mpt_status_t status = mpt_checkpoint_create(
        &(mpt_checkpoint_params_t){
            .dir = dir, .keep = INT64_MAX, .state = &state, .log = in->log, .run = run},
        &saver);
    if (status != MPT_OK)
        return status;
    mpt_checkpoint_clean(dir);
    status = save(saver, in);
    if (status == MPT_OK) /* not before: `--resume dir` must mean the imported one, once there is one */
        mpt_checkpoint_set_aside(dir, in->step, in->log);
    mpt_checkpoint_destroy(saver);
    return status;
}

/* The folder may have got another owner, or checkpoints, since it was first looked at. */
static mpt_status_t write_locked(const import_t *in)
{
    uint64_t run;
    int lock;
    if (getrandom(&run, sizeof run, 0) != (ssize_t)sizeof run)
        run = (uint64_t)getpid();
    mpt_status_t status = mpt_checkpoint_lock(in->params->dir, run, in->log, &lock);
    if (status != MPT_OK)
        return status;
    status = check_folder(in);
    if (status == MPT_OK)
        status = write_checkpoint(in, run);
    mpt_checkpoint_unlock(lock);
    return status;
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

static mpt_status_t open_file(import_t *in)
{
    return mpt_llmc_begins(in->params->file) ? open_llmc(in) : open_safetensors(in);
}

static void close_import(import_t *in)
{
    mpt_llmc_close(in->llmc);
    mpt_safetensors_close(in->file);
    mpt_layout_release(&in->layout);
    for (int k = 0; k < MPT_KIND_COUNT; k++) {
        free(in->index[k]);
        free(in->arrays[k]);
    }
}

mpt_status_t mpt_import_run(const mpt_checkpoint_import_params_t *params, const mpt_log_t *log,
                            mpt_checkpoint_import_result_t *result_p)
{
    import_t in = {.params = params, .log = log};
    mpt_status_t status = check_folder(&in);
    if (status == MPT_OK)
        status = open_file(&in);
    if (status == MPT_OK) {
        complete_meta(&in);
        status = read_arrays(&in);
    }
    if (status == MPT_OK)
        status = write_locked(&in);
    if (status == MPT_OK) {
        *result_p = (mpt_checkpoint_import_result_t){
            .step = in.step, .fresh = in.fresh, .parameters = in.layout.parameters};
        mpt_checkpoint_path(params->dir, in.step, result_p->path, sizeof result_p->path);
        mpt_export_kinds(in.kinds, result_p->kinds);
    }
    close_import(&in);
    return status;
}
