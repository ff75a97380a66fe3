#include "shm.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* The first message on a connection. Abstract addresses can be listed by any process of the host,
 * so the caller proves that it knows the secret which the boot passed around. */
typedef struct greeting {
    char secret[SHM_NAME_BYTES];
    int32_t rank;
} greeting_t;

/* A process has as many descriptors open as it may, or its user as many under way. */
static void append_limit(char *text, size_t size, int error)
{
    struct rlimit limit;
    size_t used = strlen(text);
    if ((error == EMFILE || error == ETOOMANYREFS) && getrlimit(RLIMIT_NOFILE, &limit) == 0)
        snprintf(text + used, size - used, " (ulimit -n is %llu)", (unsigned long long)limit.rlim_cur);
}

static mpt_status_t log_errno(const mpt_comm_t *comm, const char *what)
{
    char text[MPT_COMM_MAX_TEXT];
    int error = errno;
    snprintf(text, sizeof text, "%s: %s", what, strerror(error));
    append_limit(text, sizeof text, error);
    mpt_comm_log_error(comm, text);
    return MPT_ERR_COMM;
}

mpt_status_t mpt_shm_random(const mpt_comm_t *comm, void *bytes, size_t count)
{
    return getrandom(bytes, count, 0) == (ssize_t)count ? MPT_OK : log_errno(comm, "getrandom");
}

/* An address that starts with a zero byte has no file behind it. Returns its length. */
static socklen_t abstract_address(const char *name, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "mpt-ddp-%s", name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

mpt_status_t mpt_shm_listen(const mpt_comm_t *comm, const char *name, int *listener_p)
{
    struct sockaddr_un address;
    socklen_t length = abstract_address(name, &address);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0)
        return log_errno(comm, "socket");
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, comm->ranks + 16)) {
        mpt_status_t status = log_errno(comm, "listening on a unix socket");
        close(listener);
        return status;
    }
    *listener_p = listener;
    return MPT_OK;
}

mpt_status_t mpt_shm_connect(mpt_comm_t *comm, const char *name, const char *secret, int peer)
{
    shm_t *shm = comm->impl;
    struct sockaddr_un address;
    socklen_t length = abstract_address(name, &address);
    greeting_t greeting = {.rank = comm->rank};
    memcpy(greeting.secret, secret, SHM_NAME_BYTES);
    int link = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (link < 0)
        return log_errno(comm, "socket");
    shm->links[peer] = link;
    if (connect(link, (struct sockaddr *)&address, length))
        return log_errno(comm, "connecting to a rank of this host (is it in another network "
                               "namespace? backend mpi works there)");
    if (send(link, &greeting, sizeof greeting, MSG_NOSIGNAL) != (ssize_t)sizeof greeting)
        return log_errno(comm, "greeting a rank of this host");
    return MPT_OK;
}

/* The higher rank behind a connection; -1: a stranger. */
static int greeted_by(const mpt_comm_t *comm, int link, const char *secret)
{
    const shm_t *shm = comm->impl;
    greeting_t greeting;
    if (recv(link, &greeting, sizeof greeting, MSG_DONTWAIT) != (ssize_t)sizeof greeting ||
        memcmp(greeting.secret, secret, SHM_NAME_BYTES) != 0)
        return -1;
    int rank = greeting.rank;
    return rank > comm->rank && rank < comm->ranks && shm->links[rank] < 0 ? rank : -1;
}

mpt_status_t mpt_shm_accept(mpt_comm_t *comm, int listener, const char *secret)
{
    shm_t *shm = comm->impl;
    for (int left = comm->ranks - 1 - comm->rank; left > 0;) {
        int link = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (link < 0)
            return log_errno(comm, "accepting a rank of this host");
        int peer = greeted_by(comm, link, secret);
        if (peer < 0) {
            close(link);
            continue;
        }
        shm->links[peer] = link;
        left--;
    }
    return MPT_OK;
}

/* A message of one byte that carries a file descriptor. */
typedef union fd_control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
} fd_control_t;

static int send_fd(int link, int fd)
{
    fd_control_t control = {.space = {0}};
    char byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(link, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -1;
}

/* The descriptor, or -1. */
static int recv_fd(int link)
{
    fd_control_t control = {.space = {0}};
    char byte;
    int fd = -1;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.space};
    if (recvmsg(link, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1)
        return -1;
    errno = message.msg_flags & MSG_CTRUNC ? EMFILE : EPROTO; /* of a message without one */
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof fd))
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

/* The file must be as long as its owner says, or reading the mapping would raise SIGBUS. */
static char *map_fd(int fd, size_t bytes)
{
    struct stat info;
    errno = EINVAL;
    if (fstat(fd, &info) || info.st_size < 0 || (size_t)info.st_size < bytes)
        return NULL;
    void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return address == MAP_FAILED ? NULL : address;
}

static mpt_status_t take_one(const mpt_comm_t *comm, size_t bytes, int peer, char **address_p)
{
    const shm_t *shm = comm->impl;
    int fd = recv_fd(shm->links[peer]);
    if (fd < 0)
        return log_errno(comm, "receiving the memory of a rank of this host");
    *address_p = map_fd(fd, bytes);
    int out_of_memory = !*address_p && errno == ENOMEM;
    mpt_status_t status = *address_p ? MPT_OK : log_errno(comm, "mapping a rank's memory");
    close(fd);
    return out_of_memory ? MPT_ERR_NO_MEMORY : status;
}

/* ---- everyone's memory to everyone, round by round ------------------------------------------------ */

/* Linux counts the descriptors that are under way by user, against the `ulimit -n` of who sends one more: often 1024. */
#define UNDER_WAY 512

/* How far a round goes: each rank sends to as many above it, and takes from as many below. A rank answers for those of a round
 * that it has not taken, or else for those that it has sent in the next: so many a rank of the host, and no more, are under way,
 * in however many communicators at once. */
static int distances_a_round(const mpt_comm_t *comm)
{
    const mpt_comm_t *speaker = comm->whole ? comm->whole : comm;
    int distances = UNDER_WAY / speaker->boot->local_ranks;
    return distances > 0 ? distances : 1;
}

static mpt_status_t offer(const mpt_comm_t *comm, int fd, int nearest, int end)
{
    const shm_t *shm = comm->impl;
    for (int k = nearest; k < end; k++)
        if (send_fd(shm->links[(comm->rank + k) % comm->ranks], fd))
            return log_errno(comm, "passing memory to a rank of this host");
    return MPT_OK;
}

static mpt_status_t take(const mpt_comm_t *comm, size_t bytes, int nearest, int end, char **peers)
{
    mpt_status_t status = MPT_OK;
    for (int k = nearest; k < end && !status; k++) {
        int peer = (comm->rank + comm->ranks - k) % comm->ranks;
        status = take_one(comm, bytes, peer, &peers[peer]);
    }
    return status;
}

mpt_status_t mpt_shm_swap_memory(const mpt_comm_t *comm, int fd, size_t bytes, mpt_status_t own,
                                 shm_vote_t vote, void *ctx, char **peers)
{
    int distances = distances_a_round(comm);
    for (int nearest = 1; nearest < comm->ranks; nearest += distances) {
        int end = comm->ranks - nearest < distances ? comm->ranks : nearest + distances;
        own = own ? own : offer(comm, fd, nearest, end);
        mpt_status_t status = vote(ctx, own);
        if (status)
            return status;
        own = take(comm, bytes, nearest, end, peers);
    }
    return vote(ctx, own);
}

int mpt_shm_peer_gone(const shm_t *shm, int peer)
{
    struct pollfd link = {.fd = shm->links[peer], .events = POLLRDHUP};
    return link.fd >= 0 && poll(&link, 1, 0) > 0 &&
           (link.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

void mpt_shm_unlink(const mpt_comm_t *comm)
{
    shm_t *shm = comm->impl;
    for (int r = 0; r < comm->ranks; r++) {
        if (shm->links[r] >= 0)
            close(shm->links[r]);
        shm->links[r] = -1;
    }
}
