#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "numeric.h"

static void say(const mpt_log_target_t *to, mpt_log_severity_t severity, const char *line)
{
    if (to->log != NULL)
        to->log(to->ctx, severity, line);
    else
        dprintf(STDERR_FILENO, "%s\n", line);
}

void mpt_session_log_sink(void *target, mpt_log_level_t level, const char *line)
{
    mpt_log_target_t *to = target;
    size_t n = strlen(to->held);
    if (to->holding && level == MPT_LOG_ERROR)
        snprintf(to->held + n, sizeof to->held - n, "%s\n", line);
    else
        say(to, (mpt_log_severity_t)level, line);
}

mpt_status_t mpt_session_isa(const mpt_environment_t *environment, const mpt_log_t *log, mpt_isa_t *isa_p)
{
    const char *cap = environment->isa_cap;
    mpt_isa_t detected = mpt_isa_detect();
    *isa_p = detected;
    if (cap[0] == '\0')
        return MPT_OK;
    for (int i = 0; i < MPT_ISA_COUNT; i++) {
        if (strcmp(cap, mpt_isa_name((mpt_isa_t)i)) != 0)
            continue;
        *isa_p = (mpt_isa_t)i < detected ? (mpt_isa_t)i : detected;
        return MPT_OK;
    }
    mpt_log_error(log, "MPT_ISA=%s: not one of portable, avx2, avx512, avx512_bf16, amx", cap);
    return MPT_ERR_CONFIG;
}

static void release_held(mpt_log_target_t *to, int aloud)
{
    char *rest = NULL, *line = strtok_r(to->held, "\n", &rest);
    for (; line != NULL && aloud; line = strtok_r(NULL, "\n", &rest))
        say(to, MPT_SEVERITY_ERROR, line);
    to->held[0] = '\0';
}

int mpt_session_log_level_find(const char *name)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

mpt_log_level_t mpt_session_log_level(const mpt_environment_t *environment)
{
    int level = mpt_session_log_level_find(environment->log_level);
    return level >= 0 ? (mpt_log_level_t)level : MPT_LOG_INFO;
}

#define VOTE_SPOKEN 0x80u /* beside the status: the rank has a line about it */

/* The first rank with the worst status, one with a line about it before one without. */
static int choose_speaker(const uint8_t *votes, int ranks, mpt_status_t *worst_p)
{
    int speaker = 0;
    for (int r = 1; r < ranks; r++) {
        unsigned status = votes[r] & ~VOTE_SPOKEN, best = votes[speaker] & ~VOTE_SPOKEN;
        if (status > best || (status == best && votes[r] > votes[speaker]))
            speaker = r;
    }
    *worst_p = (mpt_status_t)(votes[speaker] & ~VOTE_SPOKEN);
    return speaker;
}

mpt_status_t mpt_session_vote(mpt_session_t *s, mpt_status_t own)
{
    mpt_boot_t *boot = s->boot;
    uint8_t mine = (uint8_t)((unsigned)own | (s->log_target.held[0] != '\0' ? VOTE_SPOKEN : 0)), all[MPT_BOOT_MAX_RANKS];
    mpt_status_t worst;
    if (boot->ops->exchange(boot, &mine, all, 1) != MPT_OK) {
        release_held(&s->log_target, 1);
        return MPT_ERR_COMM;
    }
    int speaks = choose_speaker(all, boot->ranks, &worst) == boot->rank;
    if (speaks && worst != MPT_OK && !(mine & VOTE_SPOKEN))
        mpt_log_error(&s->log, "%s", mpt_status_string(worst));
    release_held(&s->log_target, speaks || own == MPT_OK);
    if (worst != MPT_OK) /* a rank that goes on may end the run: not before it has been said why */
        (void)mpt_boot_agree(boot, MPT_OK);
    return worst;
}

int mpt_session_comms(const mpt_session_t *s, mpt_comm_t *comms[3])
{
    int count = 0;
    if (s->across != NULL)
        comms[count++] = s->across;
    if (s->group != NULL && s->group != s->comm)
        comms[count++] = s->group;
    if (s->comm != NULL)
        comms[count++] = s->comm;
    return count;
}

int64_t mpt_session_held_bytes(const mpt_session_t *s)
{
    mpt_comm_t *comms[3];
    size_t bytes = s->private_arena.mem.bytes + s->peer_arena.mem.bytes;
    for (int i = mpt_session_comms(s, comms) - 1; i >= 0; i--)
        bytes += comms[i]->held_bytes;
    return (int64_t)(bytes + mpt_consensus_held_bytes(s->consensus));
}

void mpt_session_traffic(const mpt_session_t *s, mpt_traffic_t *traffic_p)
{
    mpt_comm_t *comms[3];
    mpt_traffic_t traffic = {0};
    (void)mpt_worker_drain(s->overlap.worker); /* which counts them */
    for (int i = mpt_session_comms(s, comms) - 1; i >= 0; i--) {
        traffic.collectives += comms[i]->stats.calls;
        traffic.bytes_sent += comms[i]->stats.bytes_sent;
    }
    mpt_worker_times_t times = mpt_worker_times(s->overlap.worker);
    traffic.seconds = times.busy;
    traffic.exposed_seconds = times.waited;
    *traffic_p = traffic;
}

typedef struct gathering {
    mpt_session_t *session;
    const char *what;
    const void *send;
    void *recv;
    size_t bytes;
} gathering_t;

static mpt_status_t gather_now(void *ctx, int a, int b)
{
    const gathering_t *gathering = ctx;
    mpt_session_t *s = gathering->session;
    mpt_overlap_t *overlap = &s->overlap;
    (void)a, (void)b;
    s->comm->what = gathering->what;
    mpt_status_t status =
        mpt_comm_all_gather(s->comm, gathering->send, gathering->recv, gathering->bytes, overlap->stream);
    s->comm->what = NULL;
    return status == MPT_OK ? overlap->device->ops->stream_synchronize(overlap->device, overlap->stream) : status;
}

mpt_status_t mpt_session_gather(mpt_session_t *s, const char *what, const void *send, void *recv, size_t bytes)
{
    gathering_t gathering = {s, what, send, recv, bytes};
    return mpt_worker_call(s->overlap.worker, gather_now, &gathering, 0, 0);
}

void mpt_session_abort(mpt_session_t *s, const char *reason)
{
    mpt_worker_stop(s->overlap.worker, MPT_ERR_COMM);
    (void)mpt_worker_drain(s->overlap.worker);
    mpt_session_abort_comms(s, reason);
}

void mpt_session_abort_comms(mpt_session_t *s, const char *reason)
{
    mpt_comm_t *comms[3];
    for (int i = mpt_session_comms(s, comms) - 1; i >= 0; i--)
        mpt_comm_abort(comms[i], reason);
    if (s->consensus != NULL)
        mpt_consensus_abort(s->consensus, reason);
}

/* Collective where the communicators are whole: peers may still be reading this rank's memory. */
static void close_comm(mpt_session_t *s)
{
    mpt_comm_t *comms[3];
    int count = mpt_session_comms(s, comms);
    mpt_consensus_destroy(s->consensus);
    for (int i = 0; i < count; i++) {
        if (s->registration[i] != NULL)
            mpt_comm_deregister(comms[i], s->registration[i]);
        mpt_comm_destroy(comms[i]);
    }
}

void mpt_session_close(mpt_session_t *s)
{
    if (s == NULL)
        return;
    mpt_checkpoint_destroy(s->saver);
    mpt_metrics_close(s->metrics);
    mpt_data_close(s->train);
    mpt_data_close(s->val);
    mpt_overlap_end(s);
    close_comm(s);
    mpt_checkpoint_unlock(s->folder_lock); /* after the others' last writes */
    mpt_overlap_close(s);
    mpt_memory_release(&s->memory);
    mpt_arena_release(&s->peer_arena);
    mpt_arena_release(&s->private_arena);
    if (s->stream != NULL)
        s->device->ops->stream_destroy(s->device, s->stream);
    mpt_device_destroy(s->device);
    mpt_pool_destroy(s->pool);
    mpt_boot_destroy(s->own_boot);
    free(s);
}

void mpt_session_request_stop(mpt_session_t *s)
{
    atomic_store(&s->stop_requested, 1);
}

void mpt_session_info(const mpt_session_t *s, mpt_session_info_t *info_p)
{
    const mpt_config_t *config = &s->config;
    *info_p = (mpt_session_info_t){
        .rank = s->boot->rank,
        .ranks = s->boot->ranks,
        .threads = s->place.threads,
        .device = s->device->ops->name,
        .kernels = s->memory_params.kernel_ops->name,
        .isa = mpt_isa_name(s->memory_params.isa),
        .comm = s->comm->ops->name,
        .overlap = s->overlap.on,
        .compute = mpt_dtype_name(config->precision.compute),
        .reduce = mpt_dtype_name(config->precision.reduce),
        .parameters = s->memory.layout.parameters,
        .steps = config->train.steps,
        .first_step = s->first_step,
        .tokens_per_step = config->train.global_batch * config->data.sequence,
        .log_every = config->log.every,
        .flops_6nd_per_token = s->flops_6nd,
        .flops_model_per_token = s->flops_palm,
        .flops_causal_per_token = s->flops_causal,
        .peak_flops = s->peak_flops,
        .planned_bytes = (int64_t)s->planned_bytes,
        .held_bytes = mpt_session_held_bytes(s),
        .checkpoint_dir = config->checkpoint.dir,
        .log_dir = config->log.dir,
        .metrics_path = s->metrics != NULL ? mpt_metrics_path(s->metrics) : ""};
}

/* The helper's reductions count with the session's own. */
static void collect_profile(mpt_session_t *s)
{
    mpt_kernels_t *helper = s->overlap.kernels;
    (void)mpt_worker_drain(s->overlap.worker);
    for (int op = 0; op < MPT_OP_COUNT && helper != &s->kernels; op++) {
        s->kernels.profile[op].seconds += helper->profile[op].seconds;
        s->kernels.profile[op].flops += helper->profile[op].flops;
        s->kernels.profile[op].bytes += helper->profile[op].bytes;
        s->kernels.profile[op].calls += helper->profile[op].calls;
        helper->profile[op] = (mpt_op_profile_t){0};
    }
}

int mpt_session_profile(mpt_session_t *s, mpt_profile_row_t *rows, int capacity, int reset)
{
    int count = 0;
    collect_profile(s);
    for (int op = 0; op < MPT_OP_COUNT; op++) {
        mpt_op_profile_t *from = &s->kernels.profile[op];
        if (from->calls == 0 || count == capacity)
            continue;
        rows[count++] = (mpt_profile_row_t){.op = mpt_op_name((mpt_op_t)op),
                                            .seconds = from->seconds,
                                            .flops = from->flops,
                                            .bytes = from->bytes,
                                            .calls = from->calls};
        if (reset)
            *from = (mpt_op_profile_t){0};
    }
    return count;
}

