/*
 * Fault injection for tests, by MPT_INJECT. One fault, every key once, in any order:
 *
 *   overflow:rank=1,step=3,micro=0,tensor=wte.weight,element=5           an Inf into that element of the gradient accumulator,
 *                                                                        before the wire
 *   flip:rank=1,step=3,tensor=wte.weight,element=5,kind=master,bit=3     that bit of working, master, m, v or ema, before
 *                                                                        the step computes
 *   slow:rank=1,step=3,ms=500                                            the rank sleeps before the step
 */
#ifndef MPT_INJECT_H
#define MPT_INJECT_H

#include "layout.h"
#include "log.h"

typedef enum mpt_inject_kind { MPT_INJECT_NONE = 0, MPT_INJECT_OVERFLOW, MPT_INJECT_FLIP, MPT_INJECT_SLOW } mpt_inject_kind_t;

typedef struct mpt_inject {
    mpt_inject_kind_t kind;
    int rank;
    int64_t step;  /* from 1 */
    int64_t micro; /* from 0 */
    int tensor;
    int64_t element;
    char array[16]; /* flip: "master" ... */
    int64_t bit, ms;
} mpt_inject_t;

/** Parse; an empty text is no injection. @return MPT_OK; MPT_ERR_CONFIG (logged): malformed, or no such rank, tensor or element;
 *  *inject_p is then no injection. */
mpt_status_t mpt_inject_parse(const char *text, const mpt_layout_t *layout, const mpt_log_t *log,
                              mpt_inject_t *inject_p);

#endif
