#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/resource.h>
#include "checkpoint_fleet.h"
#include "checkpoint_format.h"

static void an_asynchronous_save_is_of_the_state_at_its_beginning(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 3, 3, 1, &s->log);
    fill(&f, &f.setup, 1, ~0u, 0);
    for (int r = 0; r < 3; r++)
        mpt_checkpoint_begin(f.savers[r], 8, META);
    fill(&f, &f.setup, 2, ~0u, 0); /* training goes on */
    assert_int_equal(finish_all(&f, 1), MPT_OK);
    close_fleet(&f);
    assert_holds(s, scratch_path(s, "step-00000008"), 2, 1);
}

/* Rank 0's progress says how its commit went, that of the others what is to become of the save. */
static void a_save_ends_in_the_background(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    for (int asynchronous = 0; asynchronous < 2; asynchronous++)
        for (int commit = 0; commit < 2; commit++) {
            int64_t step = 10 + 2 * asynchronous + commit;
            char path[64];
            open_fleet(&f, s->folder, 3, 9, asynchronous, &s->log);
            fill(&f, &f.setup, 0, ~0u, 0);
            assert_int_equal(begin_all(&f, step), 0);
            for (int r = 2; r >= 0; r--) {
                assert_false(mpt_checkpoint_ending(f.savers[r]));
                mpt_checkpoint_end(f.savers[r], commit);
                assert_true(mpt_checkpoint_ending(f.savers[r]));
                mpt_checkpoint_wait(f.savers[r]);
                assert_int_equal(mpt_checkpoint_progress(f.savers[r]), commit ? MPT_SAVE_SYNCED : MPT_SAVE_FAILED);
            }
            snprintf(path, sizeof path, "step-%08d", (int)step);
            assert_int_equal(scratch_exists(scratch_path(s, path)), commit);
            assert_int_equal(finish_all(&f, commit), MPT_OK);
            assert_false(mpt_checkpoint_ending(f.savers[0]));
            close_fleet(&f);
        }
}

/* ---- what is written ----------------------------------------------------------------------------- */

static void every_rank_writes_its_part_of_every_kind(void **state)
{
    scratch_t *s = *state;
    static const setup_t setups[] = {
        {.ranks = 8, .group = 2, .shard = MPT_SHARD_HSDP, .with_ema = 1, .compute = MPT_BF16},
        {.ranks = 3, .shard = MPT_SHARD_ZERO2, .masterless = 1, .compute = MPT_F16},
        {.ranks = 4, .shard = MPT_SHARD_DDP}};
    for (int i = 0; i < 3; i++) {
        const setup_t *setup = &setups[i];
        int kinds = setup->with_ema ? 4 : 3;
        mpt_layout_cut_t cut = {.ranks = setup->ranks, .group = setup->group};
        mpt_layout_t layout = build_cut(&cut, "embed", 11);
        save_setup(s, setup, 0, i, 1);
        for (int r = 0; r < setup->ranks; r++) {
            mpt_extent_t extents[TABLE];
            char name[64];
            size_t bytes;
            int part = mpt_layout_part_of(&layout, r);
            int rows = kinds * mpt_layout_extents(&layout, layout.ranks, part, extents);
            snprintf(name, sizeof name, "step-%08d/rank-%05d.bin", i, r);
            free(scratch_read(scratch_path(s, name), &bytes));
            assert_int_equal(bytes, sizeof(checkpoint_header_t) +
                                        (size_t)rows * sizeof(checkpoint_extent_t) +
                                        (size_t)kinds * sizeof(float) *
                                            (size_t)mpt_layout_owned(&layout, layout.ranks, part));
        }
        mpt_layout_release(&layout);
    }
}

/* A tensor of many chunks, cut anywhere: the same file whether it is copied by a pool, by the caller, or not at all. */
static void files_do_not_depend_on_how_the_state_is_copied(void **state)
{
    scratch_t *s = *state;
    const setup_t setup = {.ranks = 2,
                           .shard = MPT_SHARD_ZERO1,
                           .masterless = 1,
                           .with_ema = 1,
                           .compute = MPT_BF16,
                           .rows = 90001};
    char *files[3];
    size_t bytes[3];
    mpt_pool_t *pool;
    mpt_pool_params_t threads = {.threads = 3, .yield = 1, .log = &s->log};
    assert_int_equal(mpt_pool_create(&threads, &pool), MPT_OK);
    for (int way = 0; way < 3; way++) {
        fleet_t f;
        char name[64];
        open_states(&f, &setup, &s->log);
        f.pool = way == 2 ? pool : NULL;
        open_savers(&f, s->folder, 10, way > 0, &s->log);
        save(&f, way, 5);
        close_fleet(&f);
        snprintf(name, sizeof name, "step-%08d/rank-00001.bin", way);
        files[way] = scratch_read(scratch_path(s, name), &bytes[way]);
        assert_non_null(files[way]);
    }
    for (int way = 1; way < 3; way++) { /* all but the header, which holds step, run and checksum */
        assert_int_equal(bytes[way], bytes[0]);
        assert_memory_equal(files[way] + sizeof(checkpoint_header_t),
                            files[0] + sizeof(checkpoint_header_t),
                            bytes[0] - sizeof(checkpoint_header_t));
    }
    for (int way = 0; way < 3; way++)
        free(files[way]);
    mpt_pool_destroy(pool);
}

static void the_snapshot_is_one_part_of_every_kind(void **state)
{
    (void)state;
    mpt_layout_t layout = build(4, "embed", 11);
    for (int rank = 0; rank < 4; rank++)
        for (int with_ema = 0; with_ema < 2; with_ema++) {
            mpt_state_params_t params = {.layout = &layout, .rank = rank, .with_ema = with_ema};
            size_t bytes = mpt_checkpoint_snapshot_bytes(&params);
            assert_int_equal(bytes, (3 + with_ema) * (layout.total / 4) * 4);
        }
    mpt_layout_release(&layout);
}

/* ---- keeping ------------------------------------------------------------------------------------- */

static void the_newest_few_are_kept(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 3, 1, &s->log);
    for (int64_t step = 1; step <= 7; step++)
        save(&f, 50 * step, (uint64_t)step);
    close_fleet(&f);
    assert_list(s, 3, (const int64_t[]){350, 300, 250});
    assert_holds(s, scratch_path(s, "step-00000250"), 1, 5);
}

/* A run that fell back behind damaged checkpoints must not lose the one that it has just written. */
static void later_checkpoints_of_a_lost_run_do_not_count(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 2, 0, &s->log);
    save(&f, 300, 3);
    save(&f, 400, 4);
    save(&f, 120, 1);
    assert_list(s, 3, (const int64_t[]){400, 300, 120});
    save(&f, 140, 2);
    save(&f, 160, 2);
    assert_list(s, 4, (const int64_t[]){400, 300, 160, 140});
    save(&f, 300, 5);
    assert_list(s, 3, (const int64_t[]){400, 300, 160});
    close_fleet(&f);
    assert_holds(s, scratch_path(s, "step-00000300"), 1, 5);
}

static void later_checkpoints_are_set_aside_whole(void **state)
{
    scratch_t *s = *state;
    save_one(s, 2, 100, 1);
    save_one(s, 2, 200, 2);
    assert_int_equal(mpt_checkpoint_set_aside(s->folder, 200, &s->log), 0);
    assert_int_equal(mpt_checkpoint_set_aside(s->folder, 100, &s->log), 1);
    assert_list(s, 1, (const int64_t[]){100});
    assert_holds(s, scratch_path(s, "step-00000200.lost-1"), 1, 2);
    save_one(s, 2, 200, 3);
    assert_int_equal(mpt_checkpoint_set_aside(s->folder, 100, &s->log), 1);
    assert_holds(s, scratch_path(s, "step-00000200.lost-1"), 1, 2);
    assert_holds(s, scratch_path(s, "step-00000200.lost-2"), 1, 3);
}

/* Empty folders, `count` of them from `first` on. */
static void make_steps(const scratch_t *s, int64_t first, int count)
{
    for (int i = 0; i < count; i++) {
        char path[512];
        mpt_checkpoint_path(s->folder, first + i, path, sizeof path);
        assert_int_equal(mkdir(path, 0777), 0);
    }
}

static void many_are_kept_and_no_more(void **state)
{
    scratch_t *s = *state;
    int64_t steps[900];
    fleet_t f;
    make_steps(s, 1, 800);
    open_fleet(&f, s->folder, 1, 300, 0, &s->log);
    save(&f, 801, 1);
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 900), 300);
    assert_int_equal(steps[0], 801);
    assert_int_equal(steps[299], 502);
    save(&f, 802, 2);
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 900), 300);
    assert_int_equal(steps[299], 503);
    close_fleet(&f);
}

/* What does not give way is passed over, once in a list and not for ever. */
static void what_cannot_be_removed_does_not_keep_others(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    make_steps(s, 1, 400);
    for (int i = 0; i < 300; i++) {
        char name[64];
        snprintf(name, sizeof name, "step-%08d/below", 1 + i);
        assert_int_equal(mkdir(scratch_path(s, name), 0777), 0);
    }
    open_fleet(&f, s->folder, 1, 2, 0, &s->log);
    save(&f, 401, 1);
    close_fleet(&f);
    int64_t steps[500];
    assert_int_equal(mpt_checkpoint_list(s->folder, steps, 500), 302);
    assert_int_equal(steps[1], 400);
    assert_int_equal(steps[2], 300);
}

static void any_number_of_later_checkpoints_is_set_aside(void **state)
{
    scratch_t *s = *state;
    make_steps(s, 1, 700);
    assert_int_equal(mpt_checkpoint_set_aside(s->folder, 100, &s->log), 600);
    int64_t newest;
    assert_int_equal(mpt_checkpoint_list(s->folder, &newest, 1), 1);
    assert_int_equal(newest, 100);
    assert_int_equal(mpt_checkpoint_set_aside(s->folder, 100, &s->log), 0);
}

/* A checkpoint that was moved to another disk: what is removed is the link in this folder, not what it leads to. */
static void of_a_linked_checkpoint_the_link_alone_is_removed(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    char moved[512], name[512];
    open_fleet(&f, s->folder, 2, 1, 0, &s->log);
    save(&f, 100, 1);
    mpt_checkpoint_path(s->folder, 100, name, sizeof name);
    snprintf(moved, sizeof moved, "%s", scratch_path(s, "moved"));
    assert_int_equal(rename(name, moved), 0);
    assert_int_equal(symlink(moved, name), 0);
    save(&f, 200, 2);
    close_fleet(&f);
    assert_list(s, 1, (const int64_t[]){200});
    assert_holds(s, moved, 2, 1);
}

static void an_existing_folder_of_the_step_is_replaced(void **state)
{
    scratch_t *s = *state;
    save_one(s, 5, 70, 1); /* by more ranks than the second time: its files must not stay behind */
    const char *path = save_one(s, 2, 70, 2);
    assert_holds(s, path, 3, 2);
    assert_false(scratch_exists(scratch_path(s, "step-00000070/rank-00004.bin")));
    assert_false(scratch_exists(scratch_path(s, "step-00000070.replaced")));
    assert_false(scratch_exists(scratch_path(s, "step-00000070.partial")));
}

static void what_a_crash_left_behind_is_overwritten(void **state)
{
    scratch_t *s = *state;
    static const char junk[] =
        "what another run had begun to write before it was killed, of any length";
    assert_int_equal(mkdir(scratch_path(s, "step-00000070.partial"), 0777), 0);
    scratch_write(scratch_path(s, "step-00000070.partial/meta"), junk, sizeof junk);
    scratch_write(scratch_path(s, "step-00000070.partial/rank-00000.bin"), junk, sizeof junk);
    assert_holds(s, save_one(s, 2, 70, 6), 1, 6);
}

/* ---- failing saves --------------------------------------------------------------------------------------------- */

/* A disk that is full after `bytes` of each file. */
static void limit_files(rlim_t bytes, struct rlimit *before)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, before), 0);
    limit = *before;
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_full_disk_leaves_the_old_checkpoint_whole(void **state)
{
    scratch_t *s = *state;
    static const rlim_t limits[] = {0, 63, 64, 200, 700};
    for (int i = 0; i < 10; i++) {
        struct rlimit before;
        fleet_t f;
        char partial[512], old[512], own[600];
        int64_t step = 100 * (i + 1);
        mpt_checkpoint_path(s->folder, step, old, sizeof old);
        mpt_checkpoint_path(s->folder, step + 1, partial, sizeof partial);
        strcat(partial, ".partial");
        snprintf(own, sizeof own, "%s/rank-00001.bin", partial);
        open_fleet(&f, s->folder, 2, 1, i % 2, &s->log);
        save(&f, step, 1);
        scratch_forget(s);
        fill(&f, &f.setup, 2, ~0u, 0);
        limit_files(limits[i / 2], &before);
        int failed = begin_all(&f, step + 1);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(failed, 2);
        assert_non_null(strstr(s->said, own));
        assert_false(scratch_exists(own));
        assert_int_equal(finish_all(&f, 0), MPT_OK);
        assert_false(scratch_exists(partial));
        assert_list(s, 1, &step);
        assert_holds(s, old, 1, 1);
        close_fleet(&f);
    }
}

static void after_a_failed_save_the_next_one_succeeds(void **state)
{
    scratch_t *s = *state;
    struct rlimit before;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 1, 1, &s->log);
    limit_files(100, &before);
    assert_int_equal(begin_all(&f, 1), 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(finish_all(&f, 0), MPT_OK);
    save(&f, 2, 7);
    close_fleet(&f);
    assert_holds(s, scratch_path(s, "step-00000002"), 3, 7);
}

static void a_disk_that_fills_at_the_commit_fails_the_save_alone(void **state)
{
    scratch_t *s = *state;
    struct rlimit before;
    fleet_t f;
    open_fleet(&f, s->folder, 3, 1, 1, &s->log);
    save(&f, 10, 1);
    assert_int_equal(begin_all(&f, 20), 0);
    limit_files(8, &before);
    mpt_status_t status = finish_all(&f, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, MPT_ERR_IO);
    assert_non_null(strstr(s->said, "step-00000020"));
    assert_false(scratch_exists(scratch_path(s, "step-00000020.partial")));
    assert_list(s, 1, (const int64_t[]){10});
    assert_holds(s, scratch_path(s, "step-00000010"), 2, 1);
    close_fleet(&f);
}

/* Hosts without a shared disk, or ranks with other working directories: every rank has synced, and rank 0 sees its own file alone. */
static void a_rank_that_saves_in_another_folder_fails_the_save_alone(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    setup_t setup = plain(3);
    open_states(&f, &setup, &s->log);
    open_savers(&f, s->folder, 1, 1, &s->log);
    save(&f, 10, 1);
    mpt_checkpoint_params_t elsewhere = {.dir = scratch_path(s, "elsewhere"),
                                         .keep = 1,
                                         .state = &f.states[1],
                                         .log = &s->log,
                                         .rank = 1,
                                         .run = 5,
                                         .snapshot = f.snapshots[1]};
    mpt_checkpoint_destroy(f.savers[1]);
    assert_int_equal(mpt_checkpoint_create(&elsewhere, &f.savers[1]), MPT_OK);
    assert_int_equal(begin_all(&f, 20), 0);
    scratch_forget(s);
    assert_int_equal(finish_all(&f, 1), MPT_ERR_IO);
    assert_int_equal(s->lines, 1);
    assert_non_null(strstr(s->said, "what rank 1 has written is not there"));
    assert_non_null(strstr(s->said, s->folder));
    assert_list(s, 1, (const int64_t[]){10});
    assert_false(scratch_exists(scratch_path(s, "step-00000020.partial")));
    assert_holds(s, scratch_path(s, "step-00000010"), 2, 1);
    close_fleet(&f);
}

/* Read back it would be cut short, so that it is refused before anything is written. */
static void a_meta_that_is_too_long_fails_the_save(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    char meta[MPT_CHECKPOINT_META_MAX + 1];
    memset(meta, 'x', sizeof meta);
    meta[MPT_CHECKPOINT_META_MAX - 257] = '\0'; /* the longest that fits */
    open_fleet(&f, s->folder, 1, 3, 1, &s->log);
    fill(&f, &f.setup, 0, ~0u, 0);
    mpt_checkpoint_begin(f.savers[0], INT64_MAX, meta);
    assert_int_equal(mpt_checkpoint_finish(f.savers[0], 1), MPT_OK);
    assert_holds(s, scratch_path(s, "step-9223372036854775807"), 1, 0);
    meta[MPT_CHECKPOINT_META_MAX - 257] = 'x';
    meta[MPT_CHECKPOINT_META_MAX - 256] = '\0';
    mpt_checkpoint_begin(f.savers[0], 6, meta);
    assert_int_equal(mpt_checkpoint_progress(f.savers[0]), MPT_SAVE_FAILED);
    assert_non_null(strstr(s->said, "too long"));
    mpt_checkpoint_wait(f.savers[0]);
    assert_int_equal(finish_all(&f, 0), MPT_OK);
    save(&f, 7, 7);
    close_fleet(&f);
    assert_holds(s, scratch_path(s, "step-00000007"), 2, 7);
}

static void a_refused_commit_removes_the_partial_folder(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 3, 0, &s->log);
    assert_int_equal(begin_all(&f, 5), 0);
    assert_true(scratch_exists(scratch_path(s, "step-00000005.partial")));
    assert_int_equal(finish_all(&f, 0), MPT_OK); /* another rank's part had failed */
    assert_false(scratch_exists(scratch_path(s, "step-00000005.partial")));
    assert_list(s, 0, NULL);
    close_fleet(&f);
}

static void a_folder_that_cannot_be_made_is_an_error_at_once(void **state)
{
    scratch_t *s = *state;
    setup_t setup = plain(1);
    fleet_t f;
    mpt_checkpoint_t *saver = NULL;
    char dir[600], longer[1200];
    open_states(&f, &setup, &s->log);
    scratch_write(scratch_path(s, "file"), "x", 1);
    snprintf(dir, sizeof dir, "%s/below", scratch_path(s, "file"));
    mpt_checkpoint_params_t params = {.dir = dir, .keep = 1, .state = &f.states[0], .log = &s->log};
    assert_int_equal(mpt_checkpoint_create(&params, &saver), MPT_ERR_IO);
    assert_non_null(strstr(s->said, dir));
    snprintf(longer, sizeof longer, "%s/%01100d", s->folder, 1);
    params.dir = longer; /* than a saver's paths have room for */
    assert_int_equal(mpt_checkpoint_create(&params, &saver), MPT_ERR_IO);
    assert_null(saver);
    mpt_checkpoint_destroy(NULL);
    close_fleet(&f);
}

/* A session that ends between writing and committing loses that save and nothing else. */
static void destroying_with_a_save_in_flight_leaves_it_partial(void **state)
{
    scratch_t *s = *state;
    fleet_t f;
    open_fleet(&f, s->folder, 2, 3, 1, &s->log);
    for (int r = 0; r < 2; r++)
        mpt_checkpoint_begin(f.savers[r], 5, META);
    close_fleet(&f);
    assert_list(s, 0, NULL);
    assert_true(scratch_exists(scratch_path(s, "step-00000005.partial/rank-00001.bin")));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_asynchronous_save_is_of_the_state_at_its_beginning),
        TEST(a_save_ends_in_the_background),
        TEST(every_rank_writes_its_part_of_every_kind),
        TEST(files_do_not_depend_on_how_the_state_is_copied),
        cmocka_unit_test(the_snapshot_is_one_part_of_every_kind),
        TEST(the_newest_few_are_kept),
        TEST(later_checkpoints_of_a_lost_run_do_not_count),
        TEST(later_checkpoints_are_set_aside_whole),
        TEST(many_are_kept_and_no_more),
        TEST(what_cannot_be_removed_does_not_keep_others),
        TEST(any_number_of_later_checkpoints_is_set_aside),
        TEST(of_a_linked_checkpoint_the_link_alone_is_removed),
        TEST(an_existing_folder_of_the_step_is_replaced),
        TEST(what_a_crash_left_behind_is_overwritten),
        TEST(a_full_disk_leaves_the_old_checkpoint_whole),
        TEST(after_a_failed_save_the_next_one_succeeds),
        TEST(a_disk_that_fills_at_the_commit_fails_the_save_alone),
        TEST(a_rank_that_saves_in_another_folder_fails_the_save_alone),
        TEST(a_meta_that_is_too_long_fails_the_save),
        TEST(a_refused_commit_removes_the_partial_folder),
        TEST(a_folder_that_cannot_be_made_is_an_error_at_once),
        TEST(destroying_with_a_save_in_flight_leaves_it_partial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
