#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include "bench.h"
#include "launch.h"
#include "world.h"

const char *mpt_bench_type_name(int type)
{
    static const char *const names[MPT_BENCH_TYPES] = {"bf16", "fp32", "fp16", "tf32"};
    return names[type];
}

int mpt_bench_types_count(const char *types)
{
    int count = 0;
    for (const char *word = types; *word; count++) {
        size_t length = strcspn(word, ",");
        int known = 0;
        for (int i = 0; i < MPT_BENCH_TYPES; i++)
            known |= length == 4 && strncmp(word, mpt_bench_type_name(i), 4) == 0;
        if (!known)
            return 0;
        word += length;
        word += strspn(word, ",");
    }
    return count;
}

int mpt_bench_types_have(const char *types, int type)
{
    return types ? strstr(types, mpt_bench_type_name(type)) != NULL : type != MPT_BENCH_TF32;
}

int mpt_bench_fits(const char *name, const char *pattern)
{
    return !pattern || strstr(name, pattern) != NULL || fnmatch(pattern, name, 0) == 0;
}

int mpt_bench_answer(const mpt_usage_t *usage, mpt_parsed_t parsed, const char *message)
{
    mpt_world_t world;
    mpt_status_t status = mpt_world_open(&world);
    if (world.rank == 0 && parsed == MPT_PARSED_HELP)
        mpt_options_help(usage);
    if (world.rank == 0 && parsed == MPT_PARSED_ERROR)
        fprintf(stderr, "%s\n", message);
    mpt_world_close(&world, status);
    return parsed == MPT_PARSED_HELP ? 0 : MPT_EXIT_USAGE;
}
