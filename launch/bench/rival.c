#include "rival.h"
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIES 2 /* of each way, beside the first run */

/* ---- its process ---------------------------------------------------------------------------------------- */

static void note(mpt_rival_t *rival, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(mpt_rival_t *rival, const char *format, ...)
{
    size_t used = strlen(rival->notes);
    va_list arguments;
    if (used > 0 && used + 2 < sizeof(rival->notes)) {
        strcpy(rival->notes + used, "; ");
        used += 2;
    }
    va_start(arguments, format);
    vsnprintf(rival->notes + used, sizeof(rival->notes) - used, format, arguments);
    va_end(arguments);
}

static void start(mpt_rival_t *rival)
{
    int ends[2];
    rival->child = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        perror("mpt-ddp bench: a socket for oneDNN");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        rival->socket = ends[1];
        mpt_rival_serve(rival);
    }
    close(ends[1]);
    if (child < 0) {
        perror("mpt-ddp bench: a process for oneDNN");
        close(ends[0]);
        return;
    }
    rival->child = child;
    rival->socket = ends[0];
}

/* Returns the signal that ended it; 0: none did. */
static int bury(mpt_rival_t *rival)
{
    int status = 0;
    if (rival->child <= 0)
        return 0;
    close(rival->socket);
    waitpid(rival->child, &status, 0);
    rival->child = 0;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

void mpt_rival_open(mpt_rival_t *rival, int threads, size_t bytes)
{
    *rival = (mpt_rival_t){.threads = threads, .bytes = bytes, .variant = -1};
    sched_getaffinity(0, sizeof(rival->cores), &rival->cores);
    start(rival);
}

void mpt_rival_close(mpt_rival_t *rival)
{
    bury(rival);
}

/* ---- questions -------------------------------------------------------------------------------------------- */

/* 0: answered; -1: it is dead. */
static int ask(mpt_rival_t *rival, const mpt_rival_request_t *request, mpt_rival_reply_t *reply)
{
    if (rival->child <= 0 ||
        send(rival->socket, request, sizeof(*request), MSG_NOSIGNAL) != sizeof(*request) ||
        recv(rival->socket, reply, sizeof(*reply), MSG_WAITALL) != sizeof(*reply))
        return -1;
    return 0;
}

/* What was found out about a product. */
typedef struct search {
    int best; /* variant; -1: none yet */
    double best_s;
    int left_out; /* a dead implementation would have served */
    char implementations[MPT_RIVAL_VARIANTS][MPT_RIVAL_NAME];
    char running[MPT_RIVAL_NAME]; /* what was under way last */
} search_t;

/* Make one variant and time it. @return 0; -1: it died. */
static int try_variant(mpt_rival_t *rival, mpt_rival_request_t *request, int variant, search_t *found)
{
    mpt_rival_reply_t reply;
    double fastest = INFINITY;
    request->what = MPT_RIVAL_MAKE;
    request->variant = variant;
    found->running[0] = '\0';
    if (ask(rival, request, &reply) != 0)
        return -1;
    found->left_out |= reply.left_out;
    if (!reply.done)
        return 0;
    memcpy(found->running, reply.implementation, MPT_RIVAL_NAME);
    memcpy(found->implementations[variant], reply.implementation, MPT_RIVAL_NAME);
    request->what = MPT_RIVAL_RUN;
    for (int i = 0; i <= TRIES; i++) {
        if (ask(rival, request, &reply) != 0)
            return -1;
        if (reply.done && i > 0)
            fastest = fmin(fastest, reply.seconds);
    }
    if (fastest < found->best_s) {
        found->best = variant;
        found->best_s = fastest;
    }
    return 0;
}

static int try_all(mpt_rival_t *rival, const mpt_bench_product_t *product, const char *type, search_t *found)
{
    mpt_rival_request_t request = {.product = *product};
    int has_weights = !product->transposed_a;
    snprintf(request.type, sizeof(request.type), "%s", type);
    *found = (search_t){.best = -1, .best_s = INFINITY};
    for (int v = 0; v < MPT_RIVAL_VARIANTS; v++)
        if ((v != MPT_RIVAL_PACKED || has_weights) && try_variant(rival, &request, v, found) != 0)
            return -1;
    return 0;
}

/* ---- when it died, or has nothing left ---------------------------------------------------------------------- */

/* 1: there is a lower level to try. */
static int lower_cap(mpt_rival_t *rival)
{
    if (rival->cap + 1 >= mpt_rival_caps())
        return 0;
    rival->cap++;
    note(rival, "oneDNN is capped to %s", mpt_rival_cap_name(rival->cap));
    return 1;
}

/* Leave out what it was running, or, where it did not get so far, lower its level. 1: worth starting again. */
static int learn(mpt_rival_t *rival, const char *running, int ended_by)
{
    const char *how = ended_by ? strsignal(ended_by) : "an error of its own";
    if (ended_by == 0 && running[0] == '\0') {
        note(rival, "oneDNN could not be started");
        return 0;
    }
    note(rival, "oneDNN's %s died of \"%s\" and is left out", running[0] ? running : "set-up", how);
    if (running[0] == '\0')
        return lower_cap(rival);
    if (rival->dead_count == MPT_RIVAL_MAX_DEAD)
        return 0;
    snprintf(rival->dead[rival->dead_count++], MPT_RIVAL_NAME, "%s", running);
    return 1;
}

static void describe(mpt_rival_t *rival, const search_t *found)
{
    snprintf(rival->path, sizeof(rival->path), "%s%s%s%s", found->implementations[found->best],
             found->best == MPT_RIVAL_PACKED ? ", weights packed before" : "", rival->cap > 0 ? ", capped to " : "",
             mpt_rival_cap_name(rival->cap));
}

int mpt_rival_prepare(mpt_rival_t *rival, const mpt_bench_product_t *product, const char *type)
{
    search_t found;
    rival->variant = -1;
    rival->path[0] = '\0';
    while (rival->child > 0) {
        if (try_all(rival, product, type, &found) != 0) {
            int ended_by = bury(rival);
            if (learn(rival, found.running, ended_by))
                start(rival);
            continue;
        }
        if (found.best >= 0) {
            rival->variant = found.best;
            describe(rival, &found);
            return 1;
        }
        if (!found.left_out || !lower_cap(rival))
            return 0;
        bury(rival);
        start(rival);
    }
    return 0;
}

double mpt_rival_run(mpt_rival_t *rival)
{
    const mpt_rival_request_t request = {.what = MPT_RIVAL_RUN, .variant = rival->variant};
    mpt_rival_reply_t reply;
    if (rival->variant < 0 || ask(rival, &request, &reply) != 0 || !reply.done)
        return NAN;
    return reply.seconds;
}
