/*
 * Layout: a pure function of the tensor table and of how many ranks share it. Each unit's tensors lie end to
 * end in one flat buffer, decayed tensors first, each aligned to 64 elements; the buffer is padded to a
 * multiple of 64 * lanes and cut three times into equal pieces, each cut refining the one before:
 *
 *   unit u:   | decayed: wte + reserve | wpe | .. | not decayed: bias | .. | padding |
 *             ^ first                  ^ decay_count                    ^ used       ^ padded
 *   slices    | slice 0                        | slice 1                        | ..   `group` of them
 *   parts     | part 0        | part 1         | part 2        | part 3         | ..   `ranks`
 *   lanes     | 0     | 1     | 2      | 3     | 4     | 5     | 6      | 7     | ..   `lanes`
 *
 * Rank r holds slice r % group: groups of `group` consecutive ranks hold everything once, and group g replicates
 * group 0 (hsdp; elsewhere there is one group, group = ranks, and slices are parts). Of its slice rank r looks after
 * the r / group-th part: it scans that part's gradient and writes it to checkpoints. Lanes cut the sum of squares
 * under reproducible = world; elsewhere lanes = ranks.
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
    int64_t padded;      /* a multiple of 64 * lanes */
    int64_t decay_count; /* weight decay applies below this offset */
} mpt_unit_t;

typedef struct mpt_layout {
    int ranks, group, lanes;
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

/** How units are cut. group divides ranks, ranks divides lanes. */
typedef struct mpt_layout_cut {
    int ranks;
    int group; /* 0: ranks */
    int lanes; /* 0: ranks */
} mpt_layout_cut_t;

/** Build. Units must be numbered 0..U-1, each with a tensor. @return MPT_OK; MPT_ERR_INVALID_ARG; MPT_ERR_NO_MEMORY. */
mpt_status_t mpt_layout_build(const mpt_tensor_t *tensors, int tensor_count,
                              const mpt_layout_cut_t *cut, mpt_layout_t *layout_p);
/** Free what build allocated; safe on a zeroed layout. */
void mpt_layout_release(mpt_layout_t *layout);
/** Elements of a slice, and of a part, of unit `unit`. */
int64_t mpt_layout_slice(const mpt_layout_t *layout, int unit);
int64_t mpt_layout_part(const mpt_layout_t *layout, int unit);
/** Index of the slice that rank `rank` holds, of `group`; of the part that it looks after, of `ranks`; and whose part `part` is. */
int mpt_layout_slice_of(const mpt_layout_t *layout, int rank);
int mpt_layout_part_of(const mpt_layout_t *layout, int rank);
int mpt_layout_rank_of(const mpt_layout_t *layout, int part);
/** Elements of the largest unit after unit 0. */
int64_t mpt_layout_largest(const mpt_layout_t *layout);
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
/** What of tensor `tensor` lies in the index-th of `pieces` equal pieces of its unit: 1, or 0 where nothing does. pieces divides lanes. */
int mpt_layout_extent(const mpt_layout_t *layout, int pieces, int index, int tensor, mpt_extent_t *extent_p);
/** The pieces of tensors in the index-th of `pieces` equal pieces of every unit, in table order; at most one per tensor. `extents` has room
 *  for tensor_count. Returns their number. */
int mpt_layout_extents(const mpt_layout_t *layout, int pieces, int index, mpt_extent_t *extents);
/** Elements of tensors, without padding, in them. */
int64_t mpt_layout_owned(const mpt_layout_t *layout, int pieces, int index);

#ifdef __cplusplus
}
#endif
#endif
