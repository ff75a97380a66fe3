#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"
#include "onednn.h"
#include "rival.h"

#define MAX_NAPS 60
#define NAP_NS 1000000

typedef struct child {
    const mpt_rival_t *rival;
    mpt_onednn_t dnn;
    char filled[8]; /* the type that the operands hold */
    mpt_bench_product_t product;
    mpt_matmul_t matmuls[MPT_RIVAL_VARIANTS];
    int variant; /* being made */
    int left_out;
} child_t;

static const struct {
    const char *name;
    dnnl_cpu_isa_t isa;
} caps[] = {{"", dnnl_cpu_isa_sse41}, /* none: not asked for */
            {"avx512_core_bf16", dnnl_cpu_isa_avx512_core_bf16},
            {"avx512_core", dnnl_cpu_isa_avx512_core},
            {"avx2", dnnl_cpu_isa_avx2}};

int mpt_rival_caps(void)
{
    return sizeof(caps) / sizeof(caps[0]);
}

const char *mpt_rival_cap_name(int cap)
{
    return caps[cap].name;
}

/* oneDNN's plain C reference code is no rival. */
static int refuses(void *ctx, const char *implementation)
{
    child_t *child = ctx;
    const mpt_rival_t *rival = child->rival;
    for (int i = 0; i < rival->dead_count; i++) {
        if (strcmp(rival->dead[i], implementation) != 0)
            continue;
        child->left_out = 1;
        return 1;
    }
    if (child->variant == MPT_RIVAL_NO_BRGEMM && strncmp(implementation, "brg", 3) == 0)
        return 1;
    return strncmp(implementation, "ref", 3) == 0;
}

static int make(child_t *child, const mpt_rival_request_t *request)
{
    mpt_matmul_t *matmul = &child->matmuls[request->variant];
    const mpt_matmul_params_t params = {.product = request->product,
                                        .type = request->type,
                                        .packed = request->variant == MPT_RIVAL_PACKED,
                                        .refuses = refuses,
                                        .ctx = child};
    mpt_matmul_destroy(matmul);
    if (strcmp(child->filled, request->type) != 0) {
        mpt_onednn_fill(&child->dnn, request->type);
        memcpy(child->filled, request->type, sizeof(child->filled));
    }
    child->product = request->product;
    child->variant = request->variant;
    child->left_out = 0;
    if (request->variant == MPT_RIVAL_SGEMM) {
        strcpy(matmul->implementation, "sgemm");
        return strcmp(request->type, "fp32");
    }
    return mpt_matmul_create(&child->dnn, &params, matmul);
}

static int run(const child_t *child, int variant)
{
    return variant == MPT_RIVAL_SGEMM ? mpt_onednn_sgemm(&child->dnn, &child->product)
                        : mpt_matmul_run(&child->dnn, &child->matmuls[variant]);
}

/* Whether the thread named `task` runs or wants to. */
static int runs(const char *task)
{
    char path[64], line[512] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%.20s/stat", task);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    const char *end = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL; /* of its name */
    fclose(file);
    return end && end[1] == ' ' && end[2] == 'R';
}

/* Whether any thread of this process does but the caller. */
static int others_run(void)
{
    char own[24];
    int found = 0;
    snprintf(own, sizeof(own), "%d", (int)gettid());
    DIR *tasks = opendir("/proc/self/task");
    for (const struct dirent *e = tasks ? readdir(tasks) : NULL; e; e = readdir(tasks))
        found |= e->d_name[0] != '.' && strcmp(e->d_name, own) != 0 && runs(e->d_name);
    if (tasks)
        closedir(tasks);
    return found;
}

/*
 * OpenMP's threads spin for a while after their work; whoever is measured next wants these cores. Their processor time does
 * not tell: the system adds up a running thread's at its ticks, of which there are few.
 */
static void await_sleep(void)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    for (int i = 0; i < MAX_NAPS && others_run(); i++)
        nanosleep(&nap, NULL);
}

static mpt_rival_reply_t answer(child_t *child, const mpt_rival_request_t *request)
{
    mpt_rival_reply_t reply = {0};
    if (request->what == MPT_RIVAL_MAKE) {
        reply.done = make(child, request) == 0;
        reply.left_out = child->left_out;
        memcpy(reply.implementation, child->matmuls[request->variant].implementation, MPT_RIVAL_NAME);
        return reply;
    }
    double start = mpt_bench_now();
    reply.done = run(child, request->variant) == 0;
    reply.seconds = mpt_bench_now() - start;
    await_sleep();
    return reply;
}

void mpt_rival_serve(const mpt_rival_t *rival)
{
    child_t child = {.rival = rival, .filled = "fp32"};
    const struct rlimit no_core = {0, 0};
    mpt_rival_request_t request;
    setrlimit(RLIMIT_CORE, &no_core);
    sched_setaffinity(0, sizeof(rival->cores), &rival->cores);
    if (rival->cap > 0)
        dnnl_set_max_cpu_isa(caps[rival->cap].isa);
    if (mpt_onednn_set_threads(rival->threads) != 0 || mpt_onednn_create(rival->bytes, &child.dnn) != 0)
        _exit(1);
    while (recv(rival->socket, &request, sizeof(request), MSG_WAITALL) == sizeof(request)) {
        mpt_rival_reply_t reply = answer(&child, &request);
        if (send(rival->socket, &reply, sizeof(reply), MSG_NOSIGNAL) != sizeof(reply))
            break;
    }
    _exit(0);
}
