#include "memory.h"
#include <stdio.h>

int64_t mpt_memory_used(void)
{
    char line[256];
    long long anon = -1, shmem = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    if (!file)
        return -1;
    while (fgets(line, sizeof(line), file)) {
        sscanf(line, "Pss_Anon: %lld kB", &anon);
        sscanf(line, "Pss_Shmem: %lld kB", &shmem);
    }
    fclose(file);
    return anon >= 0 && shmem >= 0 ? (anon + shmem) * 1024 : -1;
}
