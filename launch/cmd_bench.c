#include <string.h>
#include "launch.h"

int mpt_cmd_bench(int argc, char **argv)
{
    static const mpt_verb_t verbs[] = {
        {"step", mpt_bench_step, "whole training steps, against the machine's matrix peak"},
        {"kernels", mpt_bench_kernels, "each operation alone, against its limit and oneDNN"},
        {"comm", mpt_bench_collectives, "each collective alone, against its limit and MPI's"},
        {"scaling", mpt_bench_scaling, "the same work a rank, by one rank alone up to all of them"},
    };
    int verb_count = sizeof(verbs) / sizeof(verbs[0]);
    if (argc > 0 && strcmp(argv[0], "--help") != 0 && strcmp(argv[0], "-h") != 0)
        return mpt_verb_run("mpt-ddp bench", verbs, verb_count, argc, argv);
    return mpt_verb_help("mpt-ddp bench", verbs, verb_count, argc);
}
