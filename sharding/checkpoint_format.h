/*
 * The bytes of a rank's checkpoint file, shared by writer and reader. Private to sharding.
 */
#ifndef MPT_CHECKPOINT_FORMAT_H
#define MPT_CHECKPOINT_FORMAT_H

#include <stdint.h>

#define CHECKPOINT_MAGIC "MPTCKPT1"
#define CHECKPOINT_VERSION 2 /* 1: no run id, no EMA */
#define CHECKPOINT_OLDEST 1

typedef struct checkpoint_header {
    char magic[8];
    uint32_t version;
    uint32_t rank, ranks;
    uint32_t extent_count;
    uint64_t step;
    uint64_t fingerprint; /* of the tensor table */
    uint64_t file_bytes;
    uint64_t run;      /* 0 in version 1 */
    uint64_t checksum; /* of the header before this field, then of the extents */
} checkpoint_header_t;

typedef struct checkpoint_extent {
    uint32_t tensor;
    uint32_t kind;
    uint64_t first, count; /* elements of the tensor */
    uint64_t offset;       /* bytes from the start of the file: where the extent before it ends */
    uint64_t checksum;     /* of the payload */
} checkpoint_extent_t;

_Static_assert(sizeof(checkpoint_header_t) == 64, "fixed on disk");
_Static_assert(sizeof(checkpoint_extent_t) == 40, "fixed on disk");

#endif
