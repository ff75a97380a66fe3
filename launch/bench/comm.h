/*
 * What `mpt-ddp bench comm` measures and shows. Plain data; all on the calling thread.
 */
#ifndef MPT_BENCH_COMM_H
#define MPT_BENCH_COMM_H

#include "bench.h"

#define MPT_BENCH_MAX_SIZES 16
/* Sums in three types; what moves bytes alone once. */
#define MPT_BENCH_COMM_ROWS (MPT_BENCH_MAX_SIZES * (2 * MPT_BENCH_TYPES + 2))

/* One collective at one size: medians over rounds of the slowest rank's time. What was not measured is not finite. */
typedef struct mpt_bench_transfer {
    mpt_bench_collective_t what;
    const char *type; /* "bf16"; "bytes": any */
    size_t bytes;     /* S: of the whole buffer */
    int rounds, calls; /* timed; calls in a round, in a row */
    double seconds;   /* a call */
    double bound_s;   /* what the ranks' copies of as many bytes say at least; small sizes: none */
    double mpi_s;     /* MPI's own, on the same buffers */
} mpt_bench_transfer_t;

typedef struct mpt_bench_comm_report {
    mpt_bench_comm_info_t info; /* its strings must not be read: the handle is closed */
    char comm[16], isa[24];
    char mpi[64]; /* "Open MPI v4.1.4"; empty: none */
    mpt_bench_transfer_t rows[MPT_BENCH_COMM_ROWS];
    int row_count;
} mpt_bench_comm_report_t;

/* ---- bench/comm_show.c ------------------------------------------------------------------------------------ */

/** "all_reduce" and so on. */
const char *mpt_bench_collective_name(mpt_bench_collective_t what);
/** Bytes that each of n ranks must read and write at least, on average, for S bytes: inputs once, outputs once. */
double mpt_bench_bound_bytes(mpt_bench_collective_t what, int ranks, double bytes);
/** What a link would have to carry in each direction for S bytes: 2 (n-1)/n S for all_reduce, (n-1)/n S for its halves, S for broadcast; 0 alone. */
double mpt_bench_bus_bytes(mpt_bench_collective_t what, int ranks, double bytes);
void mpt_bench_comm_print(const mpt_bench_comm_report_t *report);
void mpt_bench_comm_print_json(const mpt_bench_comm_report_t *report);

/* ---- bench/comm_plot.c ------------------------------------------------------------------------------------- */

/** Bus bandwidth over size, a panel a collective, as SVG. @return MPT_OK; MPT_ERR_IO (said). */
mpt_status_t mpt_bench_comm_plot(const mpt_bench_comm_report_t *report, const char *path);

#endif
