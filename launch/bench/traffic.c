#include <stdio.h>
#include <string.h>
#include "bench.h"

#define RECORD_BYTES 64 /* the consensus record: one all-gather a step */

static double type_bytes(const char *type)
{
    return strcmp(type, "bf16") == 0 || strcmp(type, "fp16") == 0 ? 2 : 4;
}

/* What one of n ranks sends of N elements that all are to share: all but its own slice. */
static double others(int64_t n)
{
    return (double)(n - 1) / (double)n;
}

static void replicated(const mpt_bench_traffic_params_t *p, mpt_bench_traffic_t *traffic)
{
    double wire = type_bytes(p->reduce);
    double back = strcmp(p->mode, "ddp") == 0 ? wire : type_bytes(p->compute);
    snprintf(traffic->elements, sizeof(traffic->elements), "2N");
    traffic->bytes = others(p->ranks) * (double)p->padded * (wire + back);
}

/* Weights gathered twice a micro-step, gradients scattered once, within n ranks. */
static double sharded_bytes(const mpt_bench_traffic_params_t *p, int64_t n)
{
    double element = type_bytes(p->reduce) + 2.0 * (double)p->micro_steps * type_bytes(p->compute);
    return others(n) * (double)p->padded * element;
}

static void sharded(const mpt_bench_traffic_params_t *p, mpt_bench_traffic_t *traffic)
{
    snprintf(traffic->elements, sizeof(traffic->elements), "%lldN",
             (long long)(2 * p->micro_steps + 1));
    traffic->is_bound = 1;
    traffic->bytes = sharded_bytes(p, p->ranks);
}

static void hybrid(const mpt_bench_traffic_params_t *p, mpt_bench_traffic_t *traffic)
{
    int64_t k = p->shard_ranks;
    double slice = (double)p->padded / (double)k;
    snprintf(traffic->elements, sizeof(traffic->elements), "%lldN in %lld, 2N/%lld across",
             (long long)(2 * p->micro_steps + 1), (long long)k, (long long)k);
    traffic->is_bound = 1;
    traffic->bytes = sharded_bytes(p, k) + others(p->ranks / k) * 2 * slice * (double)sizeof(float);
}

void mpt_bench_traffic(const mpt_bench_traffic_params_t *params, mpt_bench_traffic_t *traffic_p)
{
    *traffic_p = (mpt_bench_traffic_t){.is_bound = 0};
    if (strcmp(params->mode, "hsdp") == 0)
        hybrid(params, traffic_p);
    else if (strcmp(params->mode, "zero3") == 0)
        sharded(params, traffic_p);
    else
        replicated(params, traffic_p);
    traffic_p->bytes += (double)(params->ranks - 1) * RECORD_BYTES;
}
