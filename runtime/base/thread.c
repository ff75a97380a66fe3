#include "thread.h"

#include <sched.h>
#include <signal.h>

typedef struct cpu_mask {
    cpu_set_t sets[MPT_THREAD_MAX_CPUS / CPU_SETSIZE];
} cpu_mask_t;

/* Threads inherit their creator's signal mask. */
static void block_signals(sigset_t *before_p)
{
    static const int raised_here[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t blocked;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof raised_here / sizeof raised_here[0]; i++)
        sigdelset(&blocked, raised_here[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, before_p);
}

int mpt_thread_start(pthread_t *thread_p, const char *name, void *(*body)(void *), void *arg)
{
    sigset_t before;
    block_signals(&before);
    int error = pthread_create(thread_p, NULL, body, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        (void)pthread_setname_np(*thread_p, name);
    return error;
}

int mpt_thread_bind(pthread_t thread, const int *cpus, int count)
{
    cpu_mask_t mask;
    CPU_ZERO_S(sizeof mask, mask.sets);
    for (int i = 0; i < count; i++)
        CPU_SET_S((size_t)cpus[i], sizeof mask, mask.sets);
    return pthread_setaffinity_np(thread, sizeof mask, mask.sets);
}
