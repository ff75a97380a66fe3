#include "ref.h"

/* The run that element `index` of a call lies in; NULL: none. */
static const mpt_run_t *run_of(const mpt_stochastic_t *how, int64_t index)
{
    for (int r = 0; r < how->run_count; r++)
        if (index >= how->runs[r].at && index < how->runs[r].at + how->runs[r].count)
            return &how->runs[r];
    return NULL;
}

void ref_store_rounded(void *array, mpt_dtype_t dtype, int64_t index, float value,
                       const mpt_stochastic_t *how)
{
    const mpt_run_t *run = how ? run_of(how, index) : NULL;
    if (!run) {
        mpt_store(array, dtype, index, (double)value);
        return;
    }
    uint64_t element = (uint64_t)(run->element + (index - run->at));
    uint16_t random = mpt_rounding_bits(how->seed, element, how->step);
    ((uint16_t *)array)[index] = mpt_round_stochastic(value, dtype, random);
}
