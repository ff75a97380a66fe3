#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "backends.h"
#include "conformance.h"
#include "party.h"
#include "shm.h"
#include "thread.h"
#include "worker.h"

/* ---- conformance -------------------------------------------------------------------------------------- */

static int conform(party_rank_t *rank)
{
    return conformance_run(rank->comm, rank->device);
}

static void self_conforms(void **state)
{
    (void)state;
    assert_party(&(party_t){.ranks = 1, .backend = "self", .body = conform});
    assert_party(&(party_t){.ranks = 1, .backend = "self", .pool_threads = 2, .body = conform});
}

static void shm_conforms_for_1_to_9_threads(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 9; ranks++)
        assert_party(
            &(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 60, .body = conform});
}

static void shm_conforms_for_processes(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 5; ranks += 3)
        assert_party(&(party_t){
            .ranks = ranks, .backend = "shm", .timeout_s = 60, .processes = 1, .body = conform});
}

static void shm_conforms_with_a_pool_of_threads_a_rank(void **state)
{
    (void)state;
    assert_party(&(party_t){
        .ranks = 3, .backend = "shm", .timeout_s = 60, .pool_threads = 2, .body = conform});
}

/* ---- the host program's float control ------------------------------------------------------------------- */

static mpt_status_t sum_subnormals(void *ctx, int count, int unused)
{
    mpt_comm_t *comm = ctx;
    float *values = malloc((size_t)count * sizeof *values);
    (void)unused;
    for (int i = 0; i < count && values; i++)
        values[i] = mpt_f32_from_bits(0x00012345u);
    mpt_status_t status = mpt_comm_all_reduce(comm, values, values, count, MPT_F32, NULL);
    for (int i = 0; i < count && !status; i++)
        if (mpt_f32_bits(values[i]) != 0x00012345u * (uint32_t)comm->ranks)
            status = MPT_ERR_DEVICE;
    free(values);
    return status;
}

/* The jobs run in this thread, and the sums without a pool. */
static int sum_subnormals_in_a_job(party_rank_t *rank)
{
    mpt_worker_t *worker = NULL;
    const int counts[] = {1, 100, 300000};
    mpt_status_t status = mpt_worker_create(&(mpt_worker_params_t){.capacity = 1}, &worker);
    unsigned before = mpt_thread_set_float_control(0x9fc0u); /* flush to zero, subnormals are zero */
    for (int i = 0; i < 3 && !status; i++)
        status = mpt_worker_call(worker, sum_subnormals, rank->comm, counts[i], 0);
    (void)mpt_thread_set_float_control(before);
    mpt_worker_destroy(worker);
    return (int)status;
}

static void subnormals_are_summed_whatever_the_caller_does_with_its_own(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 5; ranks += 3)
        assert_party(&(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 60, .body = sum_subnormals_in_a_job});
}

/* ---- create and choose ------------------------------------------------------------------------------------- */

static void create_refuses_what_it_cannot_serve(void **state)
{
    (void)state;
    mpt_boot_t *boots[2];
    mpt_comm_t *comm = NULL;
    char scratch[64];
    assert_int_equal(mpt_boot_threads_create(2, boots), MPT_OK);
    mpt_comm_params_t params = {.backend = "self", .boot = boots[0]};
    assert_int_equal(mpt_comm_create(&params, &comm), MPT_ERR_INVALID_ARG);
    params.backend = "carrier pigeon";
    assert_int_equal(mpt_comm_create(&params, &comm), MPT_ERR_INVALID_ARG);
    params.backend = "mpi"; /* without scratch, then with ranks that MPI did not start */
    assert_int_equal(mpt_comm_create(&params, &comm), MPT_ERR_INVALID_ARG);
    params.scratch = scratch;
    assert_int_equal(mpt_comm_create(&params, &comm), MPT_ERR_INVALID_ARG);
    boots[0]->local_ranks = 1;
    params.backend = "shm";
    assert_int_equal(mpt_comm_create(&params, &comm), MPT_ERR_INVALID_ARG);
    params.boot = NULL;
    assert_int_equal(mpt_comm_create(&params, &comm), MPT_ERR_INVALID_ARG);
    assert_null(comm);
    mpt_boot_destroy(boots[0]);
    mpt_boot_destroy(boots[1]);
}

static void the_backend_follows_from_where_the_ranks_are(void **state)
{
    (void)state;
    assert_string_equal(mpt_comm_choose(&(mpt_boot_t){.ranks = 1, .local_ranks = 1}), "self");
    assert_string_equal(mpt_comm_choose(&(mpt_boot_t){.ranks = 4, .local_ranks = 4}), "shm");
    assert_string_equal(mpt_comm_choose(&(mpt_boot_t){.ranks = 4, .local_ranks = 2}), "mpi");
    mpt_boot_t boot = {.ranks = 8, .local_ranks = 2, .even_hosts = 1};
    assert_string_equal(mpt_comm_choose(&boot), "hier");
    boot.local_ranks = 1;
    assert_string_equal(mpt_comm_choose(&boot), "mpi");
    boot = (mpt_boot_t){.ranks = 9, .local_ranks = 3, .even_hosts = 1};
    assert_string_equal(mpt_comm_choose(&boot), "mpi");
}

static void even_hosts_are_runs_of_one_power_of_two(void **state)
{
    (void)state;
    assert_int_equal(mpt_comm_even_hosts((const int[]){7, 7, 3, 3}, 4), 2);
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 0, 0, 0, 5, 5, 5, 5}, 8), 4);
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 0, 1, 1, 2, 2}, 6), 2);
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 0, 1, 1, 0, 0}, 6), 0); /* not consecutive */
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 1, 0, 1}, 4), 0);
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 0, 0, 1, 1, 1}, 6), 0); /* no power of two */
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 0, 1, 1, 1, 1}, 6), 0);
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 0, 1}, 3), 0);
    assert_int_equal(mpt_comm_even_hosts((const int[]){0, 1}, 2), 0); /* one rank a host */
    assert_int_equal(mpt_comm_even_hosts((const int[]){4, 4}, 2), 0); /* one host */
    assert_int_equal(mpt_comm_even_hosts((const int[]){4}, 1), 0);
}

static void scratch_is_bounded_and_known_beforehand(void **state)
{
    (void)state;
    assert_int_equal(mpt_comm_scratch_bytes("self", 1), 0);
    assert_int_equal(mpt_comm_scratch_bytes("no such", 1), 0);
    for (int ranks = 1; ranks <= 1024; ranks++) {
        assert_in_range(mpt_comm_scratch_bytes("mpi", ranks), 1 << 20, 8 << 20);
        assert_int_equal(mpt_comm_scratch_bytes("shm", ranks), 0);
        assert_in_range(mpt_comm_own_bytes("shm", ranks, ranks), 2 << 20, 8 << 20);
        assert_in_range(mpt_comm_scratch_bytes("hier", ranks), 0, 8 << 20);
        assert_true(ranks < 4 || mpt_comm_scratch_bytes("hier", ranks) >= 2 << 20);
        for (int local = 2; 2 * local <= ranks; local *= 2)
            assert_in_range(mpt_comm_own_bytes("hier", ranks, local), 2 << 20, 10 << 20);
    }
    assert_int_equal(mpt_comm_own_bytes("self", 1, 1), 0);
    assert_int_equal(mpt_comm_own_bytes("no such", 1, 1), 0);
}

static void a_child_takes_what_its_own_backend_takes(void **state)
{
    (void)state;
    for (int count = 1; count <= 64; count++) {
        assert_int_equal(mpt_comm_child_bytes("shm", count, count), mpt_comm_own_bytes("shm", count, count));
        size_t over_mpi = mpt_comm_scratch_bytes("mpi", count) + mpt_comm_own_bytes("mpi", count, 1);
        assert_int_equal(mpt_comm_child_bytes("mpi", count, count), over_mpi);
        assert_int_equal(mpt_comm_child_bytes("hier", count, count),
                         count > 1 ? mpt_comm_own_bytes("shm", count, count) : 0);
        assert_int_equal(mpt_comm_child_bytes("hier", count, 1), count > 1 ? over_mpi : 0);
    }
    assert_int_equal(mpt_comm_child_bytes("hier", 16, 4),
                     mpt_comm_scratch_bytes("hier", 16) + mpt_comm_own_bytes("hier", 16, 4));
    assert_int_equal(mpt_comm_child_bytes("no such", 4, 4), 0);
}

/* Bytes of this process's mappings whose name has `name` in it. */
static size_t mapped_bytes(const char *name)
{
    char line[512];
    size_t bytes = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long long first, past;
        if (strstr(line, name) && sscanf(line, "%llx-%llx", &first, &past) == 2)
            bytes += (size_t)(past - first);
    }
    fclose(maps);
    return bytes;
}

/* What all ranks together hold at most, between two meetings; threads map each segment once. */
static int maps_what_it_holds(party_rank_t *rank)
{
    mpt_comm_t *comm = rank->comm, *child = NULL;
    size_t own = mpt_comm_own_bytes("shm", comm->ranks, comm->ranks);
    int wrong = comm->held_bytes != own;
    wrong += mpt_comm_split(comm, comm->rank < 2, 0, &child) != MPT_OK;
    if (wrong)
        return wrong;
    int large = comm->ranks - 2;
    size_t small_child = mpt_comm_child_bytes("shm", 2, 2), large_child = mpt_comm_child_bytes("shm", large, large);
    wrong += child->held_bytes != (comm->rank < 2 ? small_child : large_child);
    wrong += mpt_comm_agree(comm, MPT_OK) != MPT_OK;
    size_t all = (size_t)comm->ranks * own + 2 * small_child + (size_t)large * large_child;
    wrong += comm->rank == 0 && mapped_bytes("memfd:mpt-comm") != all;
    wrong += mpt_comm_agree(comm, MPT_OK) != MPT_OK;
    mpt_comm_destroy(child);
    return wrong;
}

static void shm_maps_exactly_what_it_says_beforehand(void **state)
{
    (void)state;
    for (int ranks = 3; ranks <= 9; ranks += 3)
        assert_party(&(party_t){.ranks = ranks, .backend = "shm", .timeout_s = 60, .body = maps_what_it_holds});
    assert_int_equal(mapped_bytes("memfd:mpt-comm"), 0);
}

static void null_is_refused_and_destroyed_quietly(void **state)
{
    (void)state;
    float value = 0;
    assert_int_equal(mpt_comm_all_reduce(NULL, &value, &value, 1, MPT_F32, NULL),
                     MPT_ERR_INVALID_ARG);
    assert_int_equal(mpt_comm_poll(NULL), MPT_ERR_INVALID_ARG);
    mpt_comm_abort(NULL, "nobody");
    mpt_comm_deregister(NULL, NULL);
    mpt_comm_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(self_conforms),
        cmocka_unit_test(shm_conforms_for_1_to_9_threads),
        cmocka_unit_test(shm_conforms_for_processes),
        cmocka_unit_test(shm_conforms_with_a_pool_of_threads_a_rank),
        cmocka_unit_test(subnormals_are_summed_whatever_the_caller_does_with_its_own),
        cmocka_unit_test(create_refuses_what_it_cannot_serve),
        cmocka_unit_test(the_backend_follows_from_where_the_ranks_are),
        cmocka_unit_test(even_hosts_are_runs_of_one_power_of_two),
        cmocka_unit_test(scratch_is_bounded_and_known_beforehand),
        cmocka_unit_test(a_child_takes_what_its_own_backend_takes),
        cmocka_unit_test(shm_maps_exactly_what_it_says_beforehand),
        cmocka_unit_test(null_is_refused_and_destroyed_quietly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
