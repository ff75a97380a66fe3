#include "signals.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct mpt_signals {
    sigset_t set;
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    mpt_session_t *session;
    void (*told)(void *ctx, const char *signal_name);
    void *ctx;
    int pending;    /* signal that came before a session did; 0: none */
    int interrupts; /* SIGINTs since the session was attached */
    int closing;
};

static const char *signal_name(int number)
{
    return number == SIGINT ? "SIGINT" : number == SIGTERM ? "SIGTERM" : "SIGUSR1";
}

/* What the signal would have done without us; does not return. */
static void take_default(mpt_signals_t *signals, int number)
{
    signal(number, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &signals->set, NULL);
    raise(number);
}

/* With the lock held. */
static void stop_session(mpt_signals_t *signals, int number)
{
    mpt_session_request_stop(signals->session);
    if (signals->told)
        signals->told(signals->ctx, signal_name(number));
}

static void handle(mpt_signals_t *signals, int number)
{
    if (number == SIGINT && (!signals->session || signals->interrupts++ > 0))
        take_default(signals, number);
    if (signals->session)
        stop_session(signals, number);
    else
        signals->pending = number;
}

static void *wait_for_signals(void *argument)
{
    mpt_signals_t *signals = argument;
    for (int closing = 0; !closing;) {
        int number;
        if (sigwait(&signals->set, &number) != 0)
            continue;
        pthread_mutex_lock(&signals->lock);
        closing = signals->closing;
        if (!closing)
            handle(signals, number);
        pthread_mutex_unlock(&signals->lock);
    }
    return NULL;
}

mpt_status_t mpt_signals_create(mpt_signals_t **signals_p)
{
    mpt_signals_t *signals = calloc(1, sizeof(*signals));
    if (!signals)
        return MPT_ERR_NO_MEMORY;
    pthread_mutex_init(&signals->lock, NULL);
    sigemptyset(&signals->set);
    sigaddset(&signals->set, SIGUSR1);
    sigaddset(&signals->set, SIGTERM);
    sigaddset(&signals->set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals->set, NULL);
    if (pthread_create(&signals->thread, NULL, wait_for_signals, signals) != 0)
        goto err_unblock;
    *signals_p = signals;
    return MPT_OK;

err_unblock:
    pthread_sigmask(SIG_UNBLOCK, &signals->set, NULL);
    pthread_mutex_destroy(&signals->lock);
    free(signals);
    return MPT_ERR_NO_MEMORY;
}

void mpt_signals_attach(mpt_signals_t *signals, mpt_session_t *session,
                        void (*told)(void *ctx, const char *signal_name), void *ctx)
{
    pthread_mutex_lock(&signals->lock);
    signals->session = session;
    signals->told = told;
    signals->ctx = ctx;
    signals->interrupts = 0;
    if (session && signals->pending)
        stop_session(signals, signals->pending);
    signals->pending = 0;
    pthread_mutex_unlock(&signals->lock);
}

void mpt_signals_destroy(mpt_signals_t *signals)
{
    if (!signals)
        return;
    pthread_mutex_lock(&signals->lock);
    signals->closing = 1;
    pthread_mutex_unlock(&signals->lock);
    pthread_kill(signals->thread, SIGUSR1);
    pthread_join(signals->thread, NULL);
    pthread_mutex_destroy(&signals->lock);
    free(signals);
}
