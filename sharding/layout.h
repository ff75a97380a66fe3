/*
 * Layout: a pure function of the tensor table and the number of ranks. Each unit's tensors lie end to
 * end in one flat buffer, decayed tensors first, each aligned to 64 elements; the buffer is padded to a
 * multiple of 64 * ranks, and rank r owns the r-th of its `ranks` equal slices.
 *
 *   unit u:  | decayed: wte + reserve | wpe | .. | not decayed: bias | .. | padding |
 *            ^ first                  ^ decay_count                    ^ used       ^ padded
 *            | slice 0        | slice 1        | ...                  | slice ranks-1 |
 *
 * Units lie end to end as well, so that one array of `total` elements holds any of weights, masters,
 * moments or gradients. Padding is zero and stays zero: its gradient is zero. Files, offenders and
 * random numbers speak of (tensor, element) or of the global element index, never of padded offsets.
 */
#ifndef MPT_LAYOUT_H
#define MPT_LAYOUT_H

#include "mpt_status.h"
#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_LAYOUT_ALIGN 64 /* elements */

typedef struct mpt_unit {
    int64_t first;       /* offset of the unit in the flat array, elements */
    int64_t used;        /* elements up to the end of its last tensor */
    int64_t padded;      /* a multiple of 64 * ranks */
    int64_t decay_count; /* weight decay applies below this offset */
} mpt_unit_t;

typedef struct mpt_layout {
    int ranks;
    int tensor_count, unit_count;
    mpt_tensor_t *tensors; /* owned copy of the table */
    int64_t *offset;       /* of tensor t inside its unit, elements */
    mpt_unit_t *units;
    int64_t total;      /* sum of padded */
    int64_t parameters; /* sum of tensor counts: N */
} mpt_layout_t;

/** Part of a tensor: elements [first, first+count) of tensor `tensor`, at `at` of the flat array. */
typedef struct mpt_extent {
    int tensor;
    int64_t first, count, at;
} mpt_extent_t;

/** Build. Units must be numbered 0..U-1, each with a tensor. @return MPT_OK; MPT_ERR_INVALID_ARG; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_layout_build(const mpt_tensor_t *tensors, int tensor_count, int ranks,
                              mpt_layout_t *layout_p);
/** Free what build allocated; safe on a zeroed layout. */
void mpt_layout_release(mpt_layout_t *layout);
/** Elements of a slice of unit `unit`. */
int64_t mpt_layout_slice(const mpt_layout_t *layout, int unit);
/** Offset in the flat array of tensor `tensor`. */
int64_t mpt_layout_at(const mpt_layout_t *layout, int tensor);
/** The tensor and element at `offset` of unit `unit`; 0 and *tensor_p = -1 in padding, else 1. */
int mpt_layout_locate(const mpt_layout_t *layout, int unit, int64_t offset, int *tensor_p,
                      int64_t *element_p);
/** The same for a global element index. */
int mpt_layout_locate_global(const mpt_layout_t *layout, int64_t global, int *tensor_p,
                             int64_t *element_p);
/** Index of the tensor named `name`, or -1. */
int mpt_layout_find(const mpt_layout_t *layout, const char *name);
/** The parts of tensors in slice `rank` of every unit, in table order; at most one per tensor. `extents` has room for tensor_count. Returns their number. */
int mpt_layout_extents(const mpt_layout_t *layout, int rank, mpt_extent_t *extents);
/** Elements of tensors, without padding, in slice `rank` of every unit. */
int64_t mpt_layout_owned(const mpt_layout_t *layout, int rank);

#ifdef __cplusplus
}
#endif
#endif
