/*
 * What `mpt-ddp bench kernels` measures and shows. Plain data; all on the calling thread.
 */
#ifndef MPT_BENCH_KERNELS_H
#define MPT_BENCH_KERNELS_H

#include "bench.h"
#include "rival.h"

/* One operation: medians. What was not measured is not finite. */
typedef struct mpt_bench_kernel {
    mpt_bench_op_t op; /* its strings must not be read: the handle is closed */
    char name[40], group[16];
    int runs;
    double seconds;
    double copy_bytes_per_s; /* of a copy of as many bytes, in the same rounds; passes only */
    double rival_s;
    char rival_path[128];
} mpt_bench_kernel_t;

/* All of them in one compute type. */
typedef struct mpt_bench_kernels_type {
    int measured;
    char compute[8], kernels[8], isa[24];
    int threads;
    double peak_flops, copy_bytes_per_s; /* medians: matrix peak; copy of memory, read and written */
    mpt_bench_kernel_t rows[MPT_BENCH_MAX_ROWS];
    int row_count;
} mpt_bench_kernels_type_t;

typedef struct mpt_bench_kernels_report {
    int64_t batch, seq, dim, heads, vocab;
    char rival_version[32];
    char rival_notes[1024]; /* empty: none */
    mpt_bench_kernels_type_t types[MPT_BENCH_TYPES];
} mpt_bench_kernels_report_t;

/* The linear layers' products together, of those that were measured with a rival or without. */
typedef struct mpt_bench_linear_total {
    int shapes;
    double seconds, flops, rival_s; /* rival_s: not finite unless every shape has one */
} mpt_bench_linear_total_t;

/* ---- bench/kernels_show.c -------------------------------------------------------------------------------- */

void mpt_bench_linear_sum(const mpt_bench_kernels_type_t *type, mpt_bench_linear_total_t *total_p);
/** Of a row's limit, what share it reaches: of the matrix peak where it multiplies matrices, else of the copy's bytes. */
double mpt_bench_kernel_share(const mpt_bench_kernels_type_t *type, const mpt_bench_kernel_t *row);
void mpt_bench_kernels_print(const mpt_bench_kernels_report_t *report);
void mpt_bench_kernels_print_json(const mpt_bench_kernels_report_t *report);

/* ---- bench/kernels_plot.c ---------------------------------------------------------------------------------- */

/** A roofline (Williams, Waterman and Patterson 2009) of what was measured, as SVG. @return MPT_OK; MPT_ERR_IO (said). */
mpt_status_t mpt_bench_kernels_plot(const mpt_bench_kernels_report_t *report, const char *path);

#endif
