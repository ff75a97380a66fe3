#include "mpi_backend.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOOKS_PER_CHECK                                                                            \
    256 /* looks without result before the clock and the alarm are looked at   \
                             */

#define LOOKS_BEFORE_NAP 2
#define NAP_NS 250000L

#define STAGGER_S 0.02
#define STAGGERED 50 /* ranks */

/* ---- giving up
 * ------------------------------------------------------------------------------------ */

void mpt_mpi_raise_alarms(mpt_comm_t *comm, const char *reason)
{
    mpi_t *mpi = comm->impl;
    if (mpi->gave_up)
        return;
    mpi->gave_up = 1;
    snprintf(mpi->reason, sizeof mpi->reason, "%s", reason);
    for (int r = 0; r < comm->ranks; r++)
        if (r != comm->rank)
            MPI_Isend(mpi->reason, (int)sizeof mpi->reason, MPI_CHAR, r, 0, mpi->alarm,
                      &mpi->alarms[r]);
}

static mpt_status_t give_up(mpt_comm_t *comm, const char *text)
{
    mpt_comm_log_error(comm, text);
    mpt_mpi_raise_alarms(comm, text);
    return MPT_ERR_COMM;
}

static mpt_status_t give_up_on_error(mpt_comm_t *comm, int error)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length;
    MPI_Error_string(error, text, &length);
    return give_up(comm, text);
}

/* Heed the alarm that `source` raised. */
static mpt_status_t heed(mpt_comm_t *comm, int source)
{
    mpi_t *mpi = comm->impl;
    char reason[MPT_COMM_MAX_TEXT] = "", text[MPT_COMM_MAX_TEXT + 32];
    MPI_Recv(reason, (int)sizeof reason, MPI_CHAR, source, 0, mpi->alarm, MPI_STATUS_IGNORE);
    reason[sizeof reason - 1] = '\0';
    snprintf(text, sizeof text, "rank %d gave up: %s", mpt_comm_world_rank(comm, source), reason);
    mpt_comm_log_heard(comm, text);
    if (!mpi->gave_up) /* else it is on its way to the others */
        memcpy(mpi->reason, text, sizeof mpi->reason - 1); /* the last byte is zero from the start */
    mpi->gave_up = 1; /* who sent this tells the others as well */
    return MPT_ERR_COMM;
}

mpt_status_t mpt_mpi_check_alarm(mpt_comm_t *comm)
{
    mpi_t *mpi = comm->impl;
    int pending = 0;
    MPI_Status status;
    int error = MPI_Iprobe(MPI_ANY_SOURCE, 0, mpi->alarm, &pending, &status);
    if (error)
        return give_up_on_error(comm, error);
    return pending ? heed(comm, status.MPI_SOURCE) : MPT_OK;
}

static mpt_status_t give_up_waiting(mpt_comm_t *comm, const mpi_batch_t *batch)
{
    mpi_t *mpi = comm->impl;
    memset(mpi->missing, 0, (size_t)comm->ranks);
    for (int i = 0; i < batch->count; i++)
        if (batch->requests[i] != MPI_REQUEST_NULL)
            mpi->missing[batch->peers[i]] = 1;
    char names[96], text[MPT_COMM_MAX_TEXT];
    mpt_comm_name_ranks(comm, mpi->missing, names, sizeof names);
    snprintf(text, sizeof text, "no sign of %s for %.1f s", names, comm->timeout_s);
    return give_up(comm, text);
}

/* ---- progress
 * -------------------------------------------------------------------------------------- */

mpt_status_t mpt_mpi_post_send(mpt_comm_t *comm, mpi_batch_t *batch, const void *data, size_t bytes,
                               int peer, int tag)
{
    mpi_t *mpi = comm->impl;
    batch->peers[batch->count] = peer;
    batch->awaited[batch->count] = 0;
    int error =
        MPI_Isend(data, (int)bytes, MPI_BYTE, peer, tag, mpi->data, &batch->requests[batch->count]);
    if (error)
        return give_up_on_error(comm, error);
    batch->count++;
    return MPT_OK;
}

mpt_status_t mpt_mpi_post_recv(mpt_comm_t *comm, mpi_batch_t *batch, void *data, size_t bytes,
                               int peer, int tag)
{
    mpi_t *mpi = comm->impl;
    batch->peers[batch->count] = peer;
    batch->awaited[batch->count] = bytes;
    int error =
        MPI_Irecv(data, (int)bytes, MPI_BYTE, peer, tag, mpi->data, &batch->requests[batch->count]);
    if (error)
        return give_up_on_error(comm, error);
    batch->count++;
    return MPT_OK;
}

/* Did the i-th of the requests that just ended bring fewer bytes than it should? More are MPI's
 * error. */
static mpt_status_t check_length(mpt_comm_t *comm, const mpi_batch_t *batch, int i)
{
    const mpi_t *mpi = comm->impl;
    int index = mpi->indices[i], bytes = 0;
    MPI_Get_count(&mpi->statuses[i], MPI_BYTE, &bytes);
    if (batch->awaited[index] == 0 || (size_t)bytes == batch->awaited[index])
        return MPT_OK;
    char text[MPT_COMM_MAX_TEXT];
    snprintf(text, sizeof text, "rank %d sent %d bytes where %zu were to come",
             mpt_comm_world_rank(comm, batch->peers[index]), bytes, batch->awaited[index]);
    return give_up(comm, text);
}

/* One look at the batch. *completed_p: requests that ended now; none, if not above 0. */
static mpt_status_t look(mpt_comm_t *comm, mpi_batch_t *batch, int *completed_p)
{
    mpi_t *mpi = comm->impl;
    int error =
        MPI_Testsome(batch->count, batch->requests, completed_p, mpi->indices, mpi->statuses);
    for (int i = 0; error == MPI_ERR_IN_STATUS && i < *completed_p; i++)
        if (mpi->statuses[i].MPI_ERROR && mpi->statuses[i].MPI_ERROR != MPI_ERR_PENDING)
            error = mpi->statuses[i].MPI_ERROR;
    mpt_status_t status = error ? give_up_on_error(comm, error) : MPT_OK;
    for (int i = 0; !status && i < *completed_p; i++)
        status = check_length(comm, batch, i);
    return status;
}

/* Ranks that wait for the same one would all find out at once, and each say so: the lower a rank the sooner it does,
 * by more than its alarm takes to the others. */
static double patience(const mpt_comm_t *comm)
{
    return comm->timeout_s + STAGGER_S * (comm->rank < STAGGERED ? comm->rank : STAGGERED);
}

/* A parent that failed ends this communicator as well: the peers here hear it from this rank. */
static mpt_status_t follow_parents(mpt_comm_t *comm)
{
    mpt_status_t status = mpt_comm_poll_parents(comm);
    if (status)
        mpt_mpi_raise_alarms(comm, "its parent failed");
    return status;
}

static mpt_status_t check_wait(mpt_comm_t *comm, const mpi_batch_t *batch, double since)
{
    mpt_status_t status = mpt_mpi_check_alarm(comm);
    if (!status && comm->idle)
        status = comm->idle(comm);
    double waited = comm->timeout_s > 0 ? mpt_comm_now() - since : 0;
    if (!status && waited > MPT_COMM_PARENTS_AFTER * comm->timeout_s)
        status = follow_parents(comm);
    if (!status && waited > patience(comm))
        status = give_up_waiting(comm, batch);
    return status;
}

/* Beside compute a thread that yields gets the core back when the other's time slice ends, which is longer than what MPI has under way
 * takes to arrive. One that wakes up gets it at once. */
static void give_way(const mpt_comm_t *comm, int fruitless)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    if (!comm->beside && comm->yield)
        sched_yield();
    if (comm->beside && fruitless > LOOKS_BEFORE_NAP)
        nanosleep(&nap, NULL);
}

/* The timeout counts from the latest message that ended: slow is not dead. */
mpt_status_t mpt_mpi_finish(mpt_comm_t *comm, mpi_batch_t *batch)
{
    double since = mpt_comm_now();
    int left = batch->count, idle = 0, fruitless = 0;
    while (left > 0) {
        int completed = 0;
        mpt_status_t status = look(comm, batch, &completed);
        if (!status && completed > 0) {
            left -= completed;
            since = mpt_comm_now();
        } else if (!status && ++idle % LOOKS_PER_CHECK == 0) {
            status = check_wait(comm, batch, since);
        }
        if (status)
            return status;
        fruitless = completed > 0 ? 0 : fruitless + 1;
        if (fruitless > 0)
            give_way(comm, fruitless);
    }
    batch->count = 0;
    return MPT_OK;
}

/* After a failure: take back what can be taken back, so that late messages do not write into memory
 * that the caller frees. A request that MPI cannot cancel is left to it. */
static void abandon(mpt_comm_t *comm)
{
    mpi_t *mpi = comm->impl;
    for (int b = 0; b < 2; b++) {
        mpi_batch_t *batch = &mpi->batches[b];
        for (int i = 0; i < batch->count; i++) {
            if (batch->requests[i] == MPI_REQUEST_NULL)
                continue;
            MPI_Cancel(&batch->requests[i]);
            MPI_Request_free(&batch->requests[i]);
        }
        batch->count = 0;
    }
}

mpt_status_t mpt_mpi_end(mpt_comm_t *comm, mpt_status_t status)
{
    if (status)
        abandon(comm);
    return status;
}
