/*
 * Fault injection for tests: MPT_INJECT=overflow:rank=1,step=3,tensor=wte.weight,element=5,micro=0 stores an
 * Inf into that element of that rank's gradient accumulator, before the wire. Every key once, in any order.
 */
#ifndef MPT_INJECT_H
#define MPT_INJECT_H

#include "layout.h"
#include "log.h"

typedef struct mpt_inject {
    int active;
    int rank;
    int64_t step; /* from 1 */
    int64_t micro; /* from 0 */
    int tensor;
    int64_t element;
} mpt_inject_t;

/** Parse; an empty text is no injection. @return MPT_OK; MPT_ERR_CONFIG (logged): malformed, or no such rank, tensor or element;
 *  *inject_p is then no injection. */
mpt_status_t mpt_inject_parse(const char *text, const mpt_layout_t *layout, const mpt_log_t *log,
                              mpt_inject_t *inject_p);

#endif
