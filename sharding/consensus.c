#include "consensus.h"

#include <assert.h>
#include <stdlib.h>

struct mpt_consensus {
    mpt_comm_t *comm;    /* borrowed */
    mpt_comm_t *host;    /* this host's ranks; NULL: records do not fold by host */
    mpt_comm_t *leaders; /* the first rank of each host; NULL on the others */
    mpt_record_fold_t fold;
    mpt_record_t *records; /* [ranks], of which the host's are used where records fold by host */
    mpt_record_partial_t *partials; /* [ranks / 2]: hosts have two ranks at least */
    double *scratch;                /* [ranks] */
    mpt_record_partial_t partial;   /* this host's, on its way to the other leaders */
    mpt_verdict_t verdict;          /* on its way through the host */
};

/* Who finds a silent rank first names it: the rank's own host, then leaders, who wait for that host, then those who wait
 * for their leader. In timeouts of the communicator. */
#define LEADERS_PATIENCE 2
#define SPREAD_PATIENCE 3

static const char what[] = "consensus record";

/* ---- memory and communicators ------------------------------------------------------------------------ */

size_t mpt_consensus_bytes(int ranks)
{
    size_t count = (size_t)ranks;
    return count * (sizeof(mpt_record_t) + sizeof(double)) +
           count / 2 * sizeof(mpt_record_partial_t);
}

static mpt_consensus_t *prepare(const mpt_consensus_params_t *params)
{
    mpt_consensus_t *consensus = calloc(1, sizeof *consensus);
    if (consensus == NULL)
        return NULL;
    size_t ranks = (size_t)params->fold.ranks;
    consensus->comm = params->comm;
    consensus->fold = params->fold;
    consensus->records = params->memory;
    consensus->partials = (mpt_record_partial_t *)(consensus->records + ranks);
    consensus->scratch = (double *)(consensus->partials + ranks / 2);
    return consensus;
}

/* What each rank says of itself before any can decide. */
typedef struct place {
    int32_t status; /* mpt_status_t of getting ready */
    int32_t local_ranks, local_rank;
} place_t;

static int can_fold(int local, int ranks)
{
    return local >= 2 && local < ranks && (local & (local - 1)) == 0 && ranks % local == 0;
}

/* Does every host hold the same power of two of consecutive ranks? Numbers on a host are in rank order: where they run 0, 1,
 * .. local_ranks - 1 again and again, each run is a host. */
static int hosts_fold(const place_t *places, int ranks)
{
    int local = places[0].local_ranks;
    if (!can_fold(local, ranks))
        return 0;
    for (int r = 0; r < ranks; r++)
        if (places[r].local_ranks != local || places[r].local_rank != r % local)
            return 0;
    return 1;
}

/* Can the verdict be had without reading every record? */
static int partials_suffice(const mpt_record_fold_t *fold)
{
    return fold->group == fold->ranks && (fold->replicas == 1 || fold->replicas == fold->ranks);
}

size_t mpt_consensus_split_bytes(const char *backend, const mpt_record_fold_t *fold, int local_ranks, int fold_above)
{
    if (fold->ranks <= fold_above || !partials_suffice(fold) || !can_fold(local_ranks, fold->ranks))
        return 0;
    return mpt_comm_child_bytes(backend, local_ranks, local_ranks) +
           mpt_comm_child_bytes(backend, fold->ranks / local_ranks, 1);
}

/* Every rank gives its place, all get all, and the first status of any that is not MPT_OK. */
static mpt_status_t tell(mpt_comm_t *comm, const place_t *own, place_t *places)
{
    places[comm->rank] = *own;
    mpt_status_t status =
        mpt_comm_all_gather(comm, &places[comm->rank], places, sizeof *places, NULL);
    for (int r = 0; r < comm->ranks && status == MPT_OK; r++)
        status = (mpt_status_t)places[r].status;
    return status;
}

static mpt_status_t split_host(mpt_consensus_t *consensus, int local_ranks)
{
    mpt_comm_t *comm = consensus->comm;
    mpt_status_t status =
        mpt_comm_split(comm, comm->rank / local_ranks, comm->rank, &consensus->host);
    if (consensus->host != NULL)
        consensus->host->what = what;
    return status;
}

static mpt_status_t split_leaders(mpt_consensus_t *consensus, int leads)
{
    mpt_comm_t *comm = consensus->comm;
    mpt_status_t status = mpt_comm_split(comm, leads ? 0 : -1, comm->rank, &consensus->leaders);
    if (consensus->leaders != NULL) {
        consensus->leaders->what = what;
        consensus->leaders->timeout_s = LEADERS_PATIENCE * comm->timeout_s;
    }
    return status;
}

/* Every rank takes part, also one without memory (consensus NULL), and all come to the same result: a split can fail for
 * one host alone. */
static mpt_status_t arrange(const mpt_consensus_params_t *params, mpt_consensus_t *consensus)
{
    mpt_comm_t *comm = params->comm;
    place_t *places = params->memory;
    place_t own = {.status = consensus != NULL ? MPT_OK : MPT_ERR_NO_MEMORY,
                   .local_ranks = params->local_ranks,
                   .local_rank = params->local_rank};
    mpt_status_t status = tell(comm, &own, places);
    if (status != MPT_OK || !hosts_fold(places, comm->ranks))
        return status;
    own.status = split_host(consensus, params->local_ranks);
    status = tell(comm, &own, places);
    if (status != MPT_OK)
        return status;
    own.status = split_leaders(consensus, params->local_rank == 0);
    return tell(comm, &own, places);
}

mpt_status_t mpt_consensus_create(const mpt_consensus_params_t *params,
                                  mpt_consensus_t **consensus_p)
{
    mpt_comm_t *comm = params->comm;
    const char *before = comm->what;
    assert(comm->ranks == params->fold.ranks);
    mpt_consensus_t *consensus = prepare(params);
    mpt_status_t status =
        consensus != NULL ? MPT_OK : mpt_log_no_memory(comm->log, sizeof *consensus, "the consensus");
    if (comm->ranks > params->fold_above && partials_suffice(&params->fold)) {
        comm->what = what;
        status = arrange(params, consensus);
        comm->what = before;
    }
    if (status != MPT_OK)
        goto destroy_consensus;
    *consensus_p = consensus;
    return MPT_OK;

destroy_consensus:
    mpt_consensus_destroy(consensus);
    return status;
}

/* Fail a communicator for all its ranks, where no peer has done so before. */
static void fail(mpt_comm_t *comm, const char *reason)
{
    if (comm != NULL && mpt_comm_poll(comm) == MPT_OK)
        mpt_comm_abort(comm, reason);
}

void mpt_consensus_abort(mpt_consensus_t *consensus, const char *reason)
{
    fail(consensus->host, reason);
    fail(consensus->leaders, reason);
    fail(consensus->comm, reason);
}

void mpt_consensus_destroy(mpt_consensus_t *consensus)
{
    if (consensus == NULL)
        return;
    if (consensus->comm->failed) {
        fail(consensus->host, "the communicator failed");
        fail(consensus->leaders, "the communicator failed");
    }
    mpt_comm_destroy(consensus->leaders);
    mpt_comm_destroy(consensus->host);
    free(consensus);
}

size_t mpt_consensus_held_bytes(const mpt_consensus_t *consensus)
{
    return (consensus->host != NULL ? consensus->host->held_bytes : 0) +
           (consensus->leaders != NULL ? consensus->leaders->held_bytes : 0);
}

int mpt_consensus_folds(const mpt_consensus_t *consensus)
{
    return consensus->host != NULL;
}

/* ---- agreeing ---------------------------------------------------------------------------------------- */

/* Folding is the host's work. */
static mpt_status_t arrive(const mpt_comm_t *comm, mpt_status_t status, mpt_stream_t *stream)
{
    if (status != MPT_OK || stream == NULL || comm->device == NULL)
        return status;
    return comm->device->ops->stream_synchronize(comm->device, stream);
}

static mpt_status_t gather(mpt_comm_t *comm, const void *own, void *all, size_t bytes,
                           mpt_stream_t *stream)
{
    return arrive(comm, mpt_comm_all_gather(comm, own, all, bytes, stream), stream);
}

static mpt_status_t agree_at_once(mpt_consensus_t *consensus, const mpt_record_t *own,
                                  mpt_stream_t *stream)
{
    mpt_comm_t *comm = consensus->comm;
    const char *before = comm->what;
    comm->what = what;
    mpt_status_t status = gather(comm, own, consensus->records, sizeof *own, stream);
    comm->what = before;
    if (status == MPT_OK)
        mpt_record_fold(consensus->records, &consensus->fold, consensus->scratch,
                        &consensus->verdict);
    return status;
}

static mpt_status_t agree_among_leaders(mpt_consensus_t *consensus, mpt_stream_t *stream)
{
    mpt_comm_t *leaders = consensus->leaders;
    mpt_record_partial_t all;
    mpt_record_summarize(consensus->records, consensus->comm->rank, consensus->host->ranks,
                         consensus->scratch, &consensus->partial);
    mpt_status_t status = gather(leaders, &consensus->partial, consensus->partials,
                                 sizeof consensus->partial, stream);
    if (status != MPT_OK)
        return status;
    mpt_record_merge(consensus->partials, leaders->ranks, consensus->scratch, &all);
    mpt_record_conclude(&all, &consensus->fold, &consensus->verdict);
    return MPT_OK;
}

static mpt_status_t spread(mpt_consensus_t *consensus, mpt_stream_t *stream)
{
    mpt_comm_t *host = consensus->host;
    double timeout_s = host->timeout_s;
    host->timeout_s = SPREAD_PATIENCE * timeout_s;
    mpt_status_t status =
        mpt_comm_broadcast(host, &consensus->verdict, sizeof consensus->verdict, 0, stream);
    status = arrive(host, status, stream);
    host->timeout_s = timeout_s;
    return status;
}

static mpt_status_t agree_by_host(mpt_consensus_t *consensus, const mpt_record_t *own,
                                  mpt_stream_t *stream)
{
    mpt_status_t status = gather(consensus->host, own, consensus->records, sizeof *own, stream);
    if (status == MPT_OK && consensus->leaders != NULL)
        status = agree_among_leaders(consensus, stream);
    return status == MPT_OK ? spread(consensus, stream) : status;
}

mpt_status_t mpt_consensus_agree(mpt_consensus_t *consensus, const mpt_record_t *own,
                                 mpt_stream_t *stream, mpt_verdict_t *verdict_p)
{
    mpt_status_t status = consensus->comm->failed          ? MPT_ERR_COMM
                          : mpt_consensus_folds(consensus) ? agree_by_host(consensus, own, stream)
                                                           : agree_at_once(consensus, own, stream);
    if (status != MPT_OK) {
        /* Whoever fails takes all others along: ranks of other hosts wait in communicators that are not this one's. */
        mpt_consensus_abort(consensus, "no verdict on the consensus record");
        return status;
    }
    *verdict_p = consensus->verdict;
    return MPT_OK;
}
