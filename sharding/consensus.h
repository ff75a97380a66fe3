/*
 * The consensus: every rank gives its record, every rank gets the verdict. One all-gather of 64 bytes a rank; with more
 * than `fold_above` ranks, where every host holds the same power-of-two number of consecutive ranks, records first
 * fold within each host, then hosts' folds across, so that no rank reads them all. Both give the same
 * verdict to the bit, as subtrees of the sums' tree lie on hosts (for sums of squares under hsdp they do not: there
 * all records are gathered, whatever their number).
 *
 *   host 0           r0  r1  r2  r3  --records--> r0..r3: partial of 0..3 --+                 r0 --verdict--> r1 r2 r3
 *   host 1           r4  r5  r6  r7  --records--> r4..r7: partial of 4..7 --+-- r0, r4 ---->  r4 --verdict--> r5 r6 r7
 *                    all-gather on the host                     all-gather of leaders          broadcast on the host
 *
 * Collective. Owned by the session, used by one thread at a time.
 */
#ifndef MPT_CONSENSUS_H
#define MPT_CONSENSUS_H

#include "comm.h"
#include "record.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_CONSENSUS_FOLD_ABOVE 1024

typedef struct mpt_consensus mpt_consensus_t;

typedef struct mpt_consensus_params {
    mpt_comm_t *comm;       /* borrowed: all ranks */
    mpt_record_fold_t fold; /* ranks, group, replicas */
    /* Of this host, as boot counts them: in rank order. Every rank gives its own; they agree on create whether folding by host can serve. */
    int local_ranks, local_rank;
    int fold_above; /* MPT_CONSENSUS_FOLD_ABOVE; tests lower it */
    void *memory;   /* borrowed, mpt_consensus_bytes, aligned to 8 */
} mpt_consensus_params_t;

/** Memory for records and folding, for `ranks` ranks. Pure. */
size_t mpt_consensus_bytes(int ranks);
/** What the communicators hold that a consensus splits off one of `backend`, where every host holds `local_ranks` ranks: of the first rank on a host;
 *  the others hold no more. 0 where records do not fold by host. Pure. */
size_t mpt_consensus_split_bytes(const char *backend, const mpt_record_fold_t *fold, int local_ranks, int fold_above);
/**
 * Create. With more than fold_above ranks whose partials suffice (record.h) collective: one all-gather, and two splits with a vote
 * on each where records fold by host; after a failure no rank has a consensus. Else local. All ranks give the same fold and fold_above.
 * @return MPT_OK; MPT_ERR_NO_MEMORY; MPT_ERR_COMM.
 */
mpt_status_t mpt_consensus_create(const mpt_consensus_params_t *params, mpt_consensus_t **consensus_p);
/** NULL is allowed. Collective unless the communicator failed; before the communicator's own. Peers that wait in a consensus whose communicator
 *  failed here get MPT_ERR_COMM. */
void mpt_consensus_destroy(mpt_consensus_t *consensus);
/**
 * Give `own`, get the verdict: the same on every rank. Complete on return. One all-gather on the communicator; none on it where
 * records fold by host: there it is an all-gather and a broadcast within the host, and an all-gather among the leaders.
 * @return MPT_OK; MPT_ERR_COMM; MPT_ERR_DEVICE: the communicator is failed, and every peer's call fails as well, or its next one.
 */
mpt_status_t mpt_consensus_agree(mpt_consensus_t *consensus, const mpt_record_t *own, mpt_stream_t *stream,
                                 mpt_verdict_t *verdict_p);
/** mpt_comm_abort, for those too that wait in a consensus that folds by host, whom an abort of
 *  the communicator alone reaches only once this rank agrees again or destroys. */
void mpt_consensus_abort(mpt_consensus_t *consensus, const char *reason);
/** What this rank's split communicators hold. */
size_t mpt_consensus_held_bytes(const mpt_consensus_t *consensus);
/** 1 where records fold by host. */
int mpt_consensus_folds(const mpt_consensus_t *consensus);

#ifdef __cplusplus
}
#endif
#endif
