/*
 * A look at one parameter tensor, whole, whoever holds it.
 */
#include <stdlib.h>
#include <string.h>

#include "numeric.h"
#include "session.h"

/* The array that `kind` names; *pieces_p: each rank's slice of it alone is good. NULL: no such array. */
static const mpt_held_t *find_array(const mpt_state_t *state, const char *kind, int *pieces_p)
{
    const struct {
        const char *name;
        const mpt_held_t *held;
    } arrays[] = {{"master", &state->master}, {"m", &state->m},
                  {"v", &state->v},           {"ema", &state->ema},
                  {"grad", &state->reduced},  {"working", &state->working},
                  {"accumulator", &state->accumulator[0]}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        const mpt_held_t *held = arrays[i].held;
        if (strcmp(kind, arrays[i].name) != 0)
            continue;
        *pieces_p = held->hold == MPT_HOLD_SLICE ||
                    (held == &state->reduced && state->params.shard != MPT_SHARD_DDP);
        return held->data != NULL && held->hold != MPT_HOLD_WINDOW ? held : NULL;
    }
    return NULL;
}

/* Every rank's slice of unit `unit`, to be freed; NULL: no memory, or the communicator failed. */
static void *gather_slices(mpt_session_t *s, const mpt_held_t *held, int unit)
{
    const mpt_layout_t *layout = &s->memory.layout;
    size_t element = mpt_dtype_bytes(held->dtype);
    size_t bytes = (size_t)layout->units[unit].padded * element;
    mpt_overlap_t *overlap = &s->overlap;
    if (mpt_worker_drain(overlap->worker) != MPT_OK)
        return NULL;
    void *whole = malloc(bytes);
    mpt_status_t status = whole != NULL ? MPT_OK : mpt_log_no_memory(&s->log, bytes, "a unit's tensors");
    status = mpt_comm_agree(s->group, status);
    if (status == MPT_OK)
        status = mpt_comm_all_gather(s->group, mpt_held_slice(&s->memory.state, held, unit), whole,
                                     (size_t)mpt_layout_slice(layout, unit) * element, overlap->stream);
    if (status == MPT_OK)
        status = overlap->device->ops->stream_synchronize(overlap->device, overlap->stream);
    if (status == MPT_OK)
        return whole;
    free(whole);
    return NULL;
}

int64_t mpt_session_tensor(mpt_session_t *s, const char *name, const char *kind, float *out, int64_t capacity)
{
    const mpt_layout_t *layout = &s->memory.layout;
    int pieces, tensor = mpt_layout_find(layout, name);
    const mpt_held_t *held = find_array(&s->memory.state, kind, &pieces);
    if (tensor < 0 || held == NULL)
        return -1;
    int unit = layout->tensors[tensor].unit;
    int64_t count = mpt_tensor_count(&layout->tensors[tensor]);
    void *gathered = pieces ? gather_slices(s, held, unit) : NULL;
    if (mpt_worker_drain(s->overlap.worker) != MPT_OK || (pieces && gathered == NULL) || s->device->ops->stream_synchronize(s->device, s->stream) != MPT_OK) {
        free(gathered);
        return -1;
    }
    void *from = pieces ? gathered : mpt_held_unit(layout, held, unit);
    mpt_convert(out, MPT_F32, mpt_state_at(from, held->dtype, layout->offset[tensor]), held->dtype,
                count < capacity ? count : capacity);
    free(gathered);
    return count;
}
