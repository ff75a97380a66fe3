/*
 * Validation: the mean loss over the first val_batches global batches of data.val in file order. Each micro-batch's
 * sum is one FP64 number; all are gathered and added in the order of the samples, so that the result does
 * not depend on the number of ranks.
 */
#include <string.h>

#include "session.h"

/* val_sums: [status, sum of each of this rank's micro-batches], then the same of every rank. A rank whose data is bad goes
 * on with what it has: the others may need its slices of the weights. */
static mpt_status_t own_sums(mpt_session_t *s, int64_t micros, double *sums)
{
    mpt_memory_t *memory = &s->memory;
    int64_t batch = s->config.train.micro_batch;
    mpt_status_t data = MPT_OK;
    for (int64_t j = 0; j < micros; j++) {
        int64_t first = (j * s->boot->ranks + s->boot->rank) * batch;
        if (data == MPT_OK)
            data = mpt_data_read(s->val, first, batch, memory->val_inputs, memory->val_targets);
        mpt_status_t status = mpt_gpt2_forward(&memory->model, memory->val_inputs);
        if (status == MPT_OK)
            status = mpt_gpt2_loss(&memory->model, memory->val_targets, 0.0f, 0);
        if (status == MPT_OK)
            status = s->device->ops->stream_synchronize(s->device, s->stream);
        if (status != MPT_OK)
            return status;
        sums[1 + j] = *memory->model.loss_sum;
    }
    sums[0] = (double)data;
    return MPT_OK;
}

static mpt_status_t fold_sums(const mpt_session_t *s, int64_t micros, const double *all, double *loss_p)
{
    double sum = 0.0, tokens = (double)(s->config.train.micro_batch * s->config.data.sequence);
    int ranks = s->boot->ranks;
    mpt_status_t worst = MPT_OK;
    for (int r = 0; r < ranks; r++)
        if ((mpt_status_t)all[r * (1 + micros)] > worst)
            worst = (mpt_status_t)all[r * (1 + micros)];
    for (int64_t j = 0; j < micros; j++)
        for (int r = 0; r < ranks; r++)
            sum += all[r * (1 + micros) + 1 + j];
    if (worst == MPT_OK)
        *loss_p = sum / (tokens * (double)micros * ranks);
    return worst;
}

mpt_status_t mpt_session_validate(mpt_session_t *s, double *loss_p)
{
    int64_t micros = mpt_memory_val_micros(&s->config, s->boot->ranks);
    double *own = s->memory.val_sums, *all = own + 1 + micros;
    if (micros == 0 || s->failed)
        return MPT_ERR_INVALID_ARG;
    mpt_status_t status = own_sums(s, micros, own);
    if (status == MPT_OK)
        status = mpt_session_gather(s, "validation", own, all, (size_t)(1 + micros) * sizeof *own);
    if (status != MPT_OK) {
        s->failed = 1;
        mpt_session_abort(s, mpt_status_string(status));
        return status;
    }
    return fold_sums(s, micros, all, loss_p);
}

/* ---- with the average of the weights -------------------------------------------------------------- */

/* Without masters the working weights are all there is: meanwhile they lie where gradients are between steps. */
static mpt_status_t stash(mpt_session_t *s, int back)
{
    mpt_state_t *state = &s->memory.state;
    int whole = state->m.hold == MPT_HOLD_ALL;
    mpt_status_t status = MPT_OK;
    if (state->master.data != NULL)
        return MPT_OK;
    for (int u = 0; u < s->memory.layout.unit_count && status == MPT_OK; u++) {
        size_t bytes = (size_t)mpt_held_unit_count(&s->memory.layout, &state->m, u) * mpt_dtype_bytes(state->working.dtype);
        void *weights = whole ? mpt_held_unit(&s->memory.layout, &state->working, u)
                              : mpt_held_slice(state, &state->working, u);
        void *aside = whole ? mpt_held_unit(&s->memory.layout, &state->reduced, u)
                            : mpt_held_slice(state, &state->reduced, u);
        status = s->device->ops->copy(s->device, back ? weights : aside, back ? aside : weights, bytes, s->stream);
    }
    return status;
}

/* The peers may be inside a collective. */
static mpt_status_t give_up(mpt_session_t *s, mpt_status_t status)
{
    s->failed = 1;
    mpt_session_abort(s, mpt_status_string(status));
    return status;
}

mpt_status_t mpt_validate_ema(mpt_session_t *s, double *loss_p)
{
    mpt_state_t *state = &s->memory.state;
    mpt_status_t status = stash(s, 0);
    if (status == MPT_OK)
        status = mpt_state_refresh(state, &state->ema, NULL, &s->kernels, s->stream);
    if (status == MPT_OK)
        status = mpt_session_weights_changed(s);
    if (status != MPT_OK)
        return give_up(s, status);
    mpt_status_t outcome = mpt_session_validate(s, loss_p); /* bad data: the weights must be themselves again all the same */
    if (s->failed)
        return outcome;
    status = stash(s, 1);
    if (status == MPT_OK)
        status = mpt_session_refresh(s);
    return status == MPT_OK ? outcome : give_up(s, status);
}
