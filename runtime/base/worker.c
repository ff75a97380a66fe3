#include "worker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "thread.h"

typedef struct posted {
    mpt_job_t job;
    void *ctx;
    int a, b;
} posted_t;

struct mpt_worker {
    mpt_worker_params_t params;
    pthread_t helper;
    pthread_mutex_t lock; /* guards all that follows */
    pthread_cond_t came, ended;
    posted_t *ring;           /* [capacity]: ticket t lies at t % capacity */
    mpt_ticket_t last, done;  /* posted, and done: tickets between wait or run */
    mpt_status_t status;      /* what the work ended with */
    int leaving;
    int running, waiting;     /* a job is under way; the owner waits for one, or runs it */
    double since;             /* when that was last so written into: */
    mpt_worker_times_t times;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- jobs ------------------------------------------------------------------------------------------ */

static void note_failure(mpt_worker_t *worker, mpt_status_t status)
{
    pthread_mutex_lock(&worker->lock);
    int first = worker->status == MPT_OK;
    if (first)
        worker->status = status;
    pthread_mutex_unlock(&worker->lock);
    if (first && worker->params.failed != NULL)
        worker->params.failed(worker->params.ctx, status);
}

/* With the lock: add what has passed since the last look, before `running` or `waiting` changes. */
static void account(mpt_worker_t *worker)
{
    double now = now_s(), seconds = now - worker->since;
    if (worker->running || worker->waiting)
        worker->times.busy += seconds;
    if (worker->waiting)
        worker->times.waited += seconds;
    worker->since = now;
}

static void set_running(mpt_worker_t *worker, int running)
{
    account(worker);
    worker->running = running;
}

static void set_waiting(mpt_worker_t *worker, int waiting)
{
    account(worker);
    worker->waiting = waiting;
}

/* Run a job without the lock, with the same bits in the caller, whatever the host program has set there. */
static void run(mpt_worker_t *worker, const posted_t *posted)
{
    unsigned control = mpt_thread_set_float_control(MPT_MXCSR_DEFAULT);
    mpt_status_t status = posted->job(posted->ctx, posted->a, posted->b);
    (void)mpt_thread_set_float_control(control);
    if (status != MPT_OK)
        note_failure(worker, status);
}

/* With the lock: wait for a job. 0: none will come. */
static int await_job(mpt_worker_t *worker)
{
    while (worker->done == worker->last && !worker->leaving)
        pthread_cond_wait(&worker->came, &worker->lock);
    return worker->done < worker->last;
}

static void *helper_main(void *arg)
{
    mpt_worker_t *worker = arg;
    pthread_mutex_lock(&worker->lock);
    while (await_job(worker)) {
        posted_t posted = worker->ring[(worker->done + 1) % (mpt_ticket_t)worker->params.capacity];
        int skip = worker->status != MPT_OK;
        set_running(worker, !skip);
        pthread_mutex_unlock(&worker->lock);
        if (!skip)
            run(worker, &posted);
        pthread_mutex_lock(&worker->lock);
        set_running(worker, 0);
        worker->done++;
        pthread_cond_signal(&worker->ended);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

/* ---- the owner's side -------------------------------------------------------------------------------- */

/* With the lock. */
static void wait_until_done(mpt_worker_t *worker, mpt_ticket_t ticket)
{
    if (worker->done >= ticket)
        return;
    set_waiting(worker, 1);
    while (worker->done < ticket)
        pthread_cond_wait(&worker->ended, &worker->lock);
    set_waiting(worker, 0);
}

mpt_status_t mpt_worker_wait(mpt_worker_t *worker, mpt_ticket_t ticket)
{
    pthread_mutex_lock(&worker->lock);
    wait_until_done(worker, ticket);
    mpt_status_t status = worker->status;
    pthread_mutex_unlock(&worker->lock);
    return status;
}

mpt_status_t mpt_worker_drain(mpt_worker_t *worker)
{
    return mpt_worker_wait(worker, worker->last); /* which the owner alone changes */
}

mpt_status_t mpt_worker_call(mpt_worker_t *worker, mpt_job_t job, void *ctx, int a, int b)
{
    mpt_status_t status = mpt_worker_drain(worker);
    if (status != MPT_OK)
        return status;
    pthread_mutex_lock(&worker->lock);
    set_waiting(worker, 1);
    pthread_mutex_unlock(&worker->lock);
    run(worker, &(posted_t){job, ctx, a, b});
    pthread_mutex_lock(&worker->lock);
    set_waiting(worker, 0);
    status = worker->status;
    pthread_mutex_unlock(&worker->lock);
    return status;
}

static mpt_status_t hand_over(mpt_worker_t *worker, const posted_t *posted)
{
    mpt_ticket_t capacity = (mpt_ticket_t)worker->params.capacity;
    pthread_mutex_lock(&worker->lock);
    if (worker->last >= capacity)
        wait_until_done(worker, worker->last + 1 - capacity);
    mpt_status_t status = worker->status;
    if (status == MPT_OK) {
        worker->last++;
        worker->ring[worker->last % capacity] = *posted;
        pthread_cond_signal(&worker->came);
    }
    pthread_mutex_unlock(&worker->lock);
    return status;
}

mpt_status_t mpt_worker_post(mpt_worker_t *worker, mpt_job_t job, void *ctx, int a, int b, mpt_ticket_t *ticket_p)
{
    mpt_status_t status = worker->params.threaded ? hand_over(worker, &(posted_t){job, ctx, a, b})
                                                  : mpt_worker_call(worker, job, ctx, a, b);
    if (status == MPT_OK && !worker->params.threaded)
        worker->done = ++worker->last;
    if (status == MPT_OK)
        *ticket_p = worker->last;
    return status;
}

void mpt_worker_stop(mpt_worker_t *worker, mpt_status_t status)
{
    pthread_mutex_lock(&worker->lock);
    if (worker->status == MPT_OK)
        worker->status = status;
    pthread_mutex_unlock(&worker->lock);
}

mpt_worker_times_t mpt_worker_times(mpt_worker_t *worker)
{
    pthread_mutex_lock(&worker->lock);
    account(worker);
    mpt_worker_times_t times = worker->times;
    pthread_mutex_unlock(&worker->lock);
    return times;
}

/* ---- creation ---------------------------------------------------------------------------------------- */

static mpt_status_t start(mpt_worker_t *worker)
{
    const mpt_worker_params_t *p = &worker->params;
    if (!p->threaded)
        return MPT_OK;
    int error = mpt_thread_start(&worker->helper, "mpt-worker", helper_main, worker);
    if (error != 0) {
        mpt_log_error(p->log, "worker: cannot start its thread: %s", strerror(error));
        return MPT_ERR_NO_MEMORY;
    }
    error = p->cpu_count > 0 ? mpt_thread_bind(worker->helper, p->cpus, p->cpu_count) : 0;
    if (error != 0)
        mpt_log_warn(p->log, "worker: cannot bind its thread: %s", strerror(error));
    return MPT_OK;
}

static void release(mpt_worker_t *worker)
{
    pthread_cond_destroy(&worker->ended);
    pthread_cond_destroy(&worker->came);
    pthread_mutex_destroy(&worker->lock);
    free(worker->ring);
    free(worker);
}

mpt_status_t mpt_worker_create(const mpt_worker_params_t *params, mpt_worker_t **worker_p)
{
    size_t ring_bytes = (size_t)params->capacity * sizeof(posted_t);
    mpt_worker_t *worker = calloc(1, sizeof *worker);
    posted_t *ring = malloc(ring_bytes);
    if (worker == NULL || ring == NULL) {
        free(ring);
        free(worker);
        return mpt_log_no_memory(params->log, sizeof *worker + ring_bytes, "a worker");
    }
    worker->params = *params;
    worker->ring = ring;
    worker->since = now_s();
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->came, NULL);
    pthread_cond_init(&worker->ended, NULL);
    mpt_status_t status = start(worker);
    if (status != MPT_OK)
        release(worker);
    else
        *worker_p = worker;
    return status;
}

void mpt_worker_destroy(mpt_worker_t *worker)
{
    if (worker == NULL)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->leaving = 1;
    pthread_cond_signal(&worker->came);
    pthread_mutex_unlock(&worker->lock);
    if (worker->params.threaded)
        pthread_join(worker->helper, NULL);
    release(worker);
}
