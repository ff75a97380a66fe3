#include "memory.h"
#include <stdio.h>
#include <string.h>

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

/* The number behind `label` in a file of numbers; -1: there is none. */
static double read_number(const char *path, const char *label)
{
    char line[256];
    double value = -1;
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    while (value < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, label, strlen(label)) == 0 &&
            sscanf(line + strlen(label), "%lf", &value) != 1)
            value = -1;
    fclose(file);
    return value;
}

double mpt_memory_free(void)
{
    double available = 1024 * read_number("/proc/meminfo", "MemAvailable:");
    double limit = read_number("/sys/fs/cgroup/memory.max", "");
    double used = read_number("/sys/fs/cgroup/memory.current", "");
    if (limit >= 0 && used >= 0 && limit - used < available)
        return limit - used;
    return available;
}
