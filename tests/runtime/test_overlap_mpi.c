/* Training over MPI with comm.overlap = on, by the thread level that MPI was initialised with. Run by test_overlap_mpi.sh;
 * alone it is one rank, which is a skip. Arguments: "serialized" or "funneled", a shard mode. Rank 0 prints one line:
 * whether communication overlapped, how often a warning said that it does not, and the digest of all that was trained. */
#include <mpi.h>

#include "boot_mpi.h"
#include "session_fixture.h"

static uint64_t digest(const float *values, int64_t count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    const unsigned char *bytes = (const unsigned char *)values;
    for (int64_t i = 0; i < count * (int64_t)sizeof *values; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

/* 0 where all went well. */
static int train(mpt_boot_t *boot, const char *shard)
{
    static fixture_run_t run;
    fixture_job_t job = {.ranks = boot->ranks,
                         .set = {"comm.overlap=on", shard, "precision.compute=bf16", "train.steps=5", "train.val_every=2"}};
    fixture_rank_t rank = {.job = &job, .run = &run, .boot = boot, .rank = boot->rank};
    mpt_session_info_t info;
    int64_t count;
    pthread_mutex_init(&run.lock, NULL);
    if (fixture_open_session(&rank) != MPT_OK)
        return 1;
    mpt_session_info(rank.session, &info);
    int wrong = mpt_session_train(rank.session, &(mpt_train_hooks_t){0}) != MPT_OK;
    float *state = fixture_state(rank.session, &count);
    mpt_session_close(rank.session);
    if (boot->rank == 0)
        printf("overlap %d, warnings %d, state %016" PRIx64 "\n", info.overlap,
               fixture_count(run.log, "communication does not overlap"), digest(state, count));
    free(state);
    return wrong || run.errors > 0;
}

int main(int argc, char **argv)
{
    MPI_Comm world = MPI_COMM_WORLD;
    mpt_boot_t *boot;
    int provided, serialized;
    if (argc < 3)
        return 77;
    serialized = strcmp(argv[1], "serialized") == 0;
    MPI_Init_thread(&argc, &argv, serialized ? MPI_THREAD_SERIALIZED : MPI_THREAD_FUNNELED, &provided);
    if (mpt_boot_mpi_create(&world, NULL, &boot) != MPT_OK)
        MPI_Abort(world, 2);
    if (boot->rank == 0)
        fixture_tokens("train.bin", 40000, 11), fixture_tokens("val.bin", 6000, 12);
    MPI_Barrier(world);
    int wrong = train(boot, argv[2]), all_wrong = 0;
    MPI_Allreduce(&wrong, &all_wrong, 1, MPI_INT, MPI_MAX, world);
    mpt_boot_destroy(boot);
    MPI_Finalize();
    return all_wrong;
}
