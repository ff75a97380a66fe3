/*
 * What a run owes its checkpoints where something else goes wrong: bad validation data in every shard mode, a start from
 * weights alone in a folder that is in use, a replica that has differed for longer than a save takes.
 */
#include "session_fixture.h"

#include <dlfcn.h>

static const char *const modes[][2] = {{"parallel.shard=ddp", NULL},
                                       {"parallel.shard=zero2", NULL},
                                       {"parallel.shard=zero3", NULL},
                                       {"parallel.shard=hsdp", "parallel.shard_ranks=2"}};
#define MODES ((int)(sizeof modes / sizeof *modes))

static _Atomic int sync_ms;

/* Stands before libc's: disks are slow when asked. */
int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    usleep((useconds_t)sync_ms * 1000);
    return real(fd);
}

/* A token beyond the vocabulary in a sample that rank 1 of 4 alone validates. */
static void write_bad_validation(void)
{
    uint16_t tokens[4000];
    for (int i = 0; i < 4000; i++)
        tokens[i] = (uint16_t)(i % 60);
    tokens[2 * 32 + 8] = 999;
    assert_int_equal(mpt_data_write(&(mpt_data_part_t){"bad.bin", tokens, 4000}, 1, 1, NULL), MPT_OK);
}

static void bad_validation_data_end_every_mode_alike(void **state)
{
    (void)state;
    write_bad_validation();
    for (int m = 0; m < MODES; m++) {
        fixture_remove("run");
        fixture_run_t *run = fixture_run((fixture_job_t){
            .ranks = 4,
            .set = {"data.val=bad.bin", "train.val_every=2", "comm.timeout_s=5", modes[m][0], modes[m][1]}});
        for (int r = 0; r < 4; r++)
            if (run->trained[r] != MPT_ERR_DATA)
                fail_msg("%s: rank %d: %s\n%s", modes[m][0], r, mpt_status_string(run->trained[r]), run->log);
        assert_int_equal(run->errors, 1);
        fixture_free(run);
    }
}

static void bad_validation_data_do_not_cost_the_save_in_flight(void **state)
{
    (void)state;
    write_bad_validation();
    sync_ms = 400;
    fixture_free(fixture_run((fixture_job_t){
        .ranks = 4,
        .set = {"data.val=bad.bin", "train.val_every=2", "checkpoint.every=1", "parallel.shard=zero2"}}));
    sync_ms = 0;
    assert_true(fixture_exists("run/step-00000001/meta"));
}

static void a_start_from_weights_alone_is_not_taken_for_the_run_before_it(void **state)
{
    (void)state;
    fixture_free(fixture_expect((fixture_job_t){.ranks = 2, .set = {"train.steps=12", "checkpoint.every=4"}}, MPT_OK));
    assert_int_equal(mpt_checkpoint_export(&(mpt_checkpoint_export_params_t){.checkpoint = "run", .out = "w.bin"}, NULL), MPT_OK);
    assert_int_equal(mpt_checkpoint_import(&(mpt_checkpoint_import_params_t){.file = "w.bin", .dir = "copy"}, NULL), MPT_OK);
    fixture_run_t *fresh = fixture_run((fixture_job_t){
        .ranks = 2, .resume = "copy", .set = {"train.steps=6", "checkpoint.every=3"}});
    if (fresh->trained[0] == MPT_OK) /* else it was refused, which is as good */
        assert_false(fixture_exists("run/step-00000012/meta"));
    fixture_free(fresh);
}

/* Whatever is done about it, a checkpoint from before the flip must be there and be the one that `auto` takes. */
static void a_late_replica_check_leaves_a_good_checkpoint(void **state)
{
    (void)state;
    const fixture_job_t clean = {.ranks = 4, .folder = "clean", .set = {"parallel.shard=ddp", "train.steps=12", "checkpoint.every=4"}};
    fixture_run_t *good = fixture_expect(clean, MPT_OK);
    setenv("MPT_INJECT", "flip:rank=0,step=2,tensor=wte.weight,element=5,kind=master,bit=22", 1);
    fixture_free(fixture_expect((fixture_job_t){.ranks = 4,
                                                .set = {"parallel.shard=ddp", "train.steps=12", "train.check_every=10",
                                                        "checkpoint.every=2", "checkpoint.keep=2"}},
                                MPT_ERR_DEVICE));
    unsetenv("MPT_INJECT");
    fixture_run_t *again = fixture_expect((fixture_job_t){.ranks = 4,
                                                          .resume = "auto",
                                                          .set = {"parallel.shard=ddp", "train.steps=12", "train.check_every=10"}},
                                          MPT_OK);
    assert_true(fixture_same_state(good, 0, again, 0));
    fixture_free(again);
    fixture_free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bad_validation_data_end_every_mode_alike, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(bad_validation_data_do_not_cost_the_save_in_flight, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_start_from_weights_alone_is_not_taken_for_the_run_before_it, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_late_replica_check_leaves_a_good_checkpoint, fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
