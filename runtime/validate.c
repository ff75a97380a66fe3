/*
 * Validation: the mean loss over the first val_batches global batches of data.val in file order. Each micro-batch's
 * sum is one FP64 number; all are gathered and added in the order of the samples, so that the result does
 * not depend on the number of ranks.
 */
#include <string.h>

#include "session.h"

/* val_sums: [status, sum of each of this rank's micro-batches], then the same of every rank. */
static mpt_status_t own_sums(mpt_session_t *s, int64_t micros, double *sums)
{
    mpt_memory_t *memory = &s->memory;
    int64_t batch = s->config.train.micro_batch;
    mpt_status_t data = MPT_OK;
    for (int64_t j = 0; j < micros && data == MPT_OK; j++) {
        int64_t first = (j * s->boot->ranks + s->boot->rank) * batch;
        data = mpt_data_read(s->val, first, batch, memory->val_inputs, memory->val_targets);
        if (data != MPT_OK)
            break;
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
    s->comm->what = "validation";
    if (status == MPT_OK)
        status = mpt_comm_all_gather(s->comm, own, all, (size_t)(1 + micros) * sizeof *own, s->stream);
    s->comm->what = NULL;
    if (status == MPT_OK)
        status = s->device->ops->stream_synchronize(s->device, s->stream);
    if (status != MPT_OK) {
        s->failed = 1;
        mpt_comm_abort(s->comm, mpt_status_string(status));
        return status;
    }
    return fold_sums(s, micros, all, loss_p);
}
