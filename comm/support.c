#include "backends.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

int mpt_comm_even_hosts(const int *hosts, int ranks)
{
    int local = 1;
    while (local < ranks && hosts[local] == hosts[0])
        local++;
    if (local < 2 || (local & (local - 1)) != 0 || local == ranks || ranks % local != 0)
        return 0;
    for (int first = 0; first < ranks; first += local) {
        for (int r = first; r < first + local; r++)
            if (hosts[r] != hosts[first])
                return 0;
        for (int other = 0; other < first; other += local)
            if (hosts[other] == hosts[first])
                return 0;
    }
    return local;
}

int mpt_comm_world_rank(const mpt_comm_t *comm, int rank)
{
    return comm->world ? comm->world[rank] : rank;
}

/* What it finds is said to be during the child's call. */
static mpt_status_t poll_during(mpt_comm_t *parent, const mpt_comm_t *child)
{
    const char *what = parent->what;
    parent->op = child->op;
    parent->what = child->what;
    mpt_status_t status = parent->ops->poll(parent);
    parent->what = what;
    return status;
}

mpt_status_t mpt_comm_poll_parents(mpt_comm_t *part)
{
    const mpt_comm_t *comm = part->whole ? part->whole : part;
    for (mpt_comm_t *parent = comm->parent; parent; parent = parent->parent) {
        if (!parent->failed && !poll_during(parent, comm))
            continue;
        parent->failed = 1;
        return MPT_ERR_COMM;
    }
    return MPT_OK;
}

static void log_at(const mpt_comm_t *part, mpt_log_level_t level, const char *text)
{
    const mpt_comm_t *comm = part->whole ? part->whole : part;
    mpt_log_write(comm->log, level, "comm %s rank %d of %d: %s%s%s: %s", comm->ops->name,
                  comm->rank, comm->ranks, comm->what ? comm->what : "", comm->what ? ": " : "",
                  comm->op ? comm->op : "create", text);
}

void mpt_comm_log_error(const mpt_comm_t *comm, const char *text)
{
    log_at(comm, MPT_LOG_ERROR, text);
}

void mpt_comm_log_heard(const mpt_comm_t *comm, const char *text)
{
    log_at(comm, MPT_LOG_DEBUG, text);
}

static void append(char *text, size_t bytes, const char *word, int number)
{
    size_t used = strlen(text);
    snprintf(text + used, bytes - used, "%s%d", word, number);
}

void mpt_comm_name_ranks(const mpt_comm_t *comm, const unsigned char *chosen, char *text,
                         size_t bytes)
{
    enum { SHOWN = 8 };
    int total = 0, shown = 0;
    for (int r = 0; r < comm->ranks; r++)
        total += chosen[r] != 0;
    snprintf(text, bytes, "%s", total == 1 ? "rank " : "ranks ");
    for (int r = 0; r < comm->ranks && shown < SHOWN; r++) {
        if (!chosen[r])
            continue;
        const char *word = shown == 0 ? "" : shown == total - 1 ? " and " : ", ";
        append(text, bytes, word, mpt_comm_world_rank(comm, r));
        shown++;
    }
    if (total > shown) {
        append(text, bytes, " and ", total - shown);
        snprintf(text + strlen(text), bytes - strlen(text), " more");
    }
}

double mpt_comm_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
