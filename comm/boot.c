#include "boot.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- self ------------------------------------------------------------------------------------ */

static mpt_status_t self_exchange(mpt_boot_t *boot, const void *send, void *recv, size_t bytes)
{
    (void)boot;
    memcpy(recv, send, bytes);
    return MPT_OK;
}

static void self_destroy(mpt_boot_t *boot)
{
    free(boot);
}

static const mpt_boot_ops_t self_ops = {"self", self_exchange, self_destroy};

mpt_status_t mpt_boot_self_create(mpt_boot_t **boot_p)
{
    mpt_boot_t *boot = calloc(1, sizeof *boot);
    if (!boot)
        return MPT_ERR_NO_MEMORY;
    *boot = (mpt_boot_t){.ops = &self_ops, .ranks = 1, .local_ranks = 1, .one_process = 1, .even_hosts = 1};
    *boot_p = boot;
    return MPT_OK;
}

/* ---- threads --------------------------------------------------------------------------------- */

/* What the ranks of one process share. Guarded by `mutex`, but for slots: a rank writes its own
 * before a meeting and reads the others' after it. */
typedef struct meeting {
    pthread_mutex_t mutex;
    pthread_cond_t all_here;
    int ranks;
    int users;   /* boots not destroyed yet */
    int arrived; /* of this round */
    unsigned round;
    const void *slots[];
} meeting_t;

/* Wait until every rank is here. @return MPT_ERR_COMM: one of them never will be. Who came in vain stays counted: once a rank has
 * left, nobody looks at that again. */
static mpt_status_t meet(meeting_t *meeting)
{
    pthread_mutex_lock(&meeting->mutex);
    if (meeting->users < meeting->ranks) {
        pthread_mutex_unlock(&meeting->mutex);
        return MPT_ERR_COMM;
    }
    unsigned round = meeting->round;
    if (++meeting->arrived == meeting->ranks) {
        meeting->arrived = 0;
        meeting->round++;
        pthread_cond_broadcast(&meeting->all_here);
    }
    while (round == meeting->round && meeting->users == meeting->ranks)
        pthread_cond_wait(&meeting->all_here, &meeting->mutex);
    mpt_status_t status = round == meeting->round ? MPT_ERR_COMM : MPT_OK;
    pthread_mutex_unlock(&meeting->mutex);
    return status;
}

static mpt_status_t threads_exchange(mpt_boot_t *boot, const void *send, void *recv, size_t bytes)
{
    meeting_t *meeting = boot->impl;
    meeting->slots[boot->rank] = send;
    mpt_status_t status = meet(meeting);
    if (status)
        return status;
    for (int r = 0; r < boot->ranks; r++)
        memcpy((char *)recv + (size_t)r * bytes, meeting->slots[r], bytes);
    return meet(meeting); /* nobody's `send` may go away before all have read it */
}

static void meeting_free(meeting_t *meeting)
{
    pthread_cond_destroy(&meeting->all_here);
    pthread_mutex_destroy(&meeting->mutex);
    free(meeting);
}

static void threads_destroy(mpt_boot_t *boot)
{
    meeting_t *meeting = boot->impl;
    pthread_mutex_lock(&meeting->mutex);
    int last = --meeting->users == 0;
    pthread_cond_broadcast(&meeting->all_here);
    pthread_mutex_unlock(&meeting->mutex);
    if (last)
        meeting_free(meeting);
    free(boot);
}

static const mpt_boot_ops_t threads_ops = {"threads", threads_exchange, threads_destroy};

mpt_status_t mpt_boot_threads_create(int ranks, mpt_boot_t **boots_p)
{
    if (ranks < 1)
        return MPT_ERR_INVALID_ARG;
    meeting_t *meeting = calloc(1, sizeof *meeting + (size_t)ranks * sizeof meeting->slots[0]);
    mpt_boot_t **boots = calloc((size_t)ranks, sizeof *boots);
    if (!meeting || !boots)
        goto fail;
    for (int r = 0; r < ranks; r++) {
        boots[r] = calloc(1, sizeof *boots[r]);
        if (!boots[r])
            goto fail_boots;
        *boots[r] = (mpt_boot_t){.ops = &threads_ops,
                                 .rank = r,
                                 .ranks = ranks,
                                 .local_rank = r,
                                 .local_ranks = ranks,
                                 .one_process = 1,
                                 .even_hosts = 1,
                                 .impl = meeting};
    }
    pthread_mutex_init(&meeting->mutex, NULL);
    pthread_cond_init(&meeting->all_here, NULL);
    meeting->ranks = meeting->users = ranks;
    memcpy(boots_p, boots, (size_t)ranks * sizeof *boots);
    free(boots);
    return MPT_OK;

fail_boots:
    for (int r = 0; r < ranks; r++)
        free(boots[r]);
fail:
    free(boots);
    free(meeting);
    return MPT_ERR_NO_MEMORY;
}

mpt_status_t mpt_boot_agree(mpt_boot_t *boot, mpt_status_t own)
{
    uint8_t mine = (uint8_t)own, all[MPT_BOOT_MAX_RANKS];
    assert(boot->ranks <= MPT_BOOT_MAX_RANKS);
    mpt_status_t status = boot->ops->exchange(boot, &mine, all, sizeof mine);
    for (int r = 0; r < boot->ranks && status == MPT_OK; r++)
        status = (mpt_status_t)all[r];
    return status;
}

void mpt_boot_destroy(mpt_boot_t *boot)
{
    if (boot)
        boot->ops->destroy(boot);
}
