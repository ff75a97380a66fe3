#include "place.h"

#include <fcntl.h>
#include <hwloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A rank's allowed cores, one logical processor each, as ranks exchange them. */
typedef struct cores {
    int32_t count;
    int32_t local_rank;
    uint64_t host; /* ranks of one host have the same */
    int32_t cpu[MPT_PLACE_MAX_THREADS];
} cores_t;

/* Cores that this thread may run on, by hwloc: the first allowed processor of each. 0 where hwloc cannot say. */
static int allowed_cores(int32_t *cpu, int capacity)
{
    hwloc_topology_t topology;
    int count = 0;
    if (hwloc_topology_init(&topology) != 0)
        return 0;
    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    if (allowed != NULL && hwloc_topology_load(topology) == 0) {
        if (hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_THREAD) != 0)
            hwloc_bitmap_copy(allowed, hwloc_topology_get_allowed_cpuset(topology));
        hwloc_obj_t core = NULL;
        while ((core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != NULL) {
            int first = -1, pu = -1;
            while ((pu = hwloc_bitmap_next(core->cpuset, pu)) >= 0 && first < 0)
                first = hwloc_bitmap_isset(allowed, (unsigned)pu) ? pu : -1;
            if (first >= 0 && count < capacity)
                cpu[count++] = first;
        }
    }
    hwloc_bitmap_free(allowed);
    hwloc_topology_destroy(topology);
    return count;
}

int mpt_place_share(int local_ranks)
{
    int32_t cpu[MPT_PLACE_MAX_THREADS];
    int count = allowed_cores(cpu, MPT_PLACE_MAX_THREADS);
    int share = count / (local_ranks > 0 ? local_ranks : 1);
    return share > 0 ? share : 1;
}

static int same_cores(const cores_t *a, const cores_t *b)
{
    return a->count == b->count &&
           memcmp(a->cpu, b->cpu, (size_t)a->count * sizeof a->cpu[0]) == 0;
}

/* Of the ranks that share this rank's cores: how many there are, and how many come before it. */
static void count_sharers(const cores_t *all, int ranks, int rank, int *sharers_p, int *before_p)
{
    *sharers_p = *before_p = 0;
    for (int r = 0; r < ranks; r++) {
        if (all[r].host != all[rank].host || !same_cores(&all[r], &all[rank]))
            continue;
        *sharers_p += 1;
        *before_p += r < rank;
    }
}

/* Of the running system: containers that share its cores have one too. Not gethostid, which may ask the network for this host's address. */
static uint64_t host_id(void)
{
    char name[256] = "";
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, name, sizeof name - 1) <= 0)
        gethostname(name, sizeof name - 1);
    if (fd >= 0)
        close(fd);
    for (const char *c = name; *c != '\0'; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    return hash;
}

static void divide(const cores_t *all, int ranks, int rank, int threads, mpt_place_t *place)
{
    const cores_t *own = &all[rank];
    int sharers, before;
    count_sharers(all, ranks, rank, &sharers, &before);
    int share = own->count / sharers;
    place->yield = own->count < sharers || threads > share;
    place->threads = threads > 0 ? threads : share > 0 ? share : 1;
    if (place->threads > MPT_PLACE_MAX_THREADS)
        place->threads = MPT_PLACE_MAX_THREADS;
    place->load = (double)place->threads * sharers / (own->count > 0 ? own->count : 1);
    place->load = place->load > 1.0 ? place->load : 1.0;
    place->bound = share > 0 && place->threads <= share;
    place->spare = place->bound ? share - place->threads : 0;
    for (int i = 0; i < share && place->bound; i++)
        place->cpus[i] = own->cpu[before * share + i];
}

mpt_status_t mpt_place_choose(mpt_boot_t *boot, int threads, const mpt_log_t *log, mpt_place_t *place_p)
{
    mpt_place_t place = {0};
    cores_t own = {.local_rank = boot->local_rank, .host = host_id()};
    cores_t *all = calloc((size_t)boot->ranks, sizeof *all);
    mpt_status_t status =
        all != NULL ? MPT_OK : mpt_log_no_memory(log, (size_t)boot->ranks * sizeof *all, "the ranks' cores");
    status = mpt_boot_agree(boot, status);
    own.count = allowed_cores(own.cpu, MPT_PLACE_MAX_THREADS);
    if (status == MPT_OK)
        status = boot->ops->exchange(boot, &own, all, sizeof own);
    if (status == MPT_OK) {
        divide(all, boot->ranks, boot->rank, threads, &place);
        mpt_log_debug(log, "%d threads, %s", place.threads, place.bound ? "bound" : "not bound");
        *place_p = place;
    }
    free(all);
    return status;
}
