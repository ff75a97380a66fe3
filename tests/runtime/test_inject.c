#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "gpt2.h"
#include "inject.h"
#include "scratch.h"

static const mpt_gpt2_shape_t shape = {
    .layers = 2, .heads = 1, .dim = 4, .context = 8, .vocab = 10, .batch = 1, .seq = 8};

static mpt_layout_t build(void)
{
    mpt_tensor_t table[28];
    mpt_layout_t layout;
    assert_int_equal(mpt_gpt2_tensor_count(&shape), 28);
    mpt_gpt2_tensors(&shape, table);
    assert_int_equal(mpt_layout_build(table, 28, &(mpt_layout_cut_t){.ranks = 4}, &layout), MPT_OK);
    return layout;
}

static void nothing_asks_for_nothing(void **state)
{
    scratch_t *s = *state;
    mpt_layout_t layout = build();
    mpt_inject_t inject = {.kind = MPT_INJECT_SLOW, .rank = 3};
    assert_int_equal(mpt_inject_parse("", &layout, &s->log, &inject), MPT_OK);
    assert_int_equal(inject.kind, MPT_INJECT_NONE);
    assert_int_equal(s->lines, 0);
    mpt_layout_release(&layout);
}

/* As it is documented, and with the keys in every other place. */
static void keys_may_come_in_any_order(void **state)
{
    scratch_t *s = *state;
    static const char *const texts[] = {
        "overflow:rank=1,step=3,tensor=h.1.mlp.c_fc.weight,element=5,micro=2",
        "overflow:rank=1,step=3,micro=2,tensor=h.1.mlp.c_fc.weight,element=5",
        "overflow:element=5,tensor=h.1.mlp.c_fc.weight,micro=2,step=3,rank=1",
    };
    mpt_layout_t layout = build();
    for (int i = 0; i < 3; i++) {
        mpt_inject_t inject;
        assert_int_equal(mpt_inject_parse(texts[i], &layout, &s->log, &inject), MPT_OK);
        assert_int_equal(inject.kind, MPT_INJECT_OVERFLOW);
        assert_int_equal(inject.rank, 1);
        assert_int_equal(inject.step, 3);
        assert_int_equal(inject.micro, 2);
        assert_string_equal(layout.tensors[inject.tensor].name, "h.1.mlp.c_fc.weight");
        assert_int_equal(inject.element, 5);
    }
    mpt_layout_release(&layout);
}

static void a_flip_names_array_and_bit(void **state)
{
    static const char *const arrays[] = {"working", "master", "m", "v", "ema"};
    scratch_t *s = *state;
    mpt_layout_t layout = build();
    for (int i = 0; i < 5; i++) {
        char text[128];
        mpt_inject_t inject;
        snprintf(text, sizeof text, "flip:rank=2,step=7,tensor=wte.weight,element=39,kind=%s,bit=%d", arrays[i],
                 i == 0 ? 0 : 31);
        assert_int_equal(mpt_inject_parse(text, &layout, &s->log, &inject), MPT_OK);
        assert_int_equal(inject.kind, MPT_INJECT_FLIP);
        assert_int_equal(inject.rank, 2);
        assert_int_equal(inject.step, 7);
        assert_string_equal(layout.tensors[inject.tensor].name, "wte.weight");
        assert_int_equal(inject.element, 39);
        assert_string_equal(inject.array, arrays[i]);
        assert_int_equal(inject.bit, i == 0 ? 0 : 31);
    }
    assert_int_equal(s->lines, 0);
    mpt_layout_release(&layout);
}

static void a_slow_rank_sleeps_for_so_long(void **state)
{
    static const char *const texts[] = {"slow:rank=0,step=1,ms=0", "slow:ms=500,rank=3,step=9"};
    static const int64_t wanted[2][3] = {{0, 1, 0}, {3, 9, 500}};
    scratch_t *s = *state;
    mpt_layout_t layout = build();
    for (int i = 0; i < 2; i++) {
        mpt_inject_t inject;
        assert_int_equal(mpt_inject_parse(texts[i], &layout, &s->log, &inject), MPT_OK);
        assert_int_equal(inject.kind, MPT_INJECT_SLOW);
        assert_int_equal(inject.rank, wanted[i][0]);
        assert_int_equal(inject.step, wanted[i][1]);
        assert_int_equal(inject.ms, wanted[i][2]);
    }
    mpt_layout_release(&layout);
}

static void the_last_element_rank_and_first_step_are_allowed(void **state)
{
    scratch_t *s = *state;
    mpt_layout_t layout = build();
    mpt_inject_t inject;
    assert_int_equal(mpt_inject_parse("overflow:rank=3,step=1,tensor=wte.weight,element=39,micro=0",
                                      &layout, &s->log, &inject),
                     MPT_OK);
    mpt_layout_release(&layout);
}

static void everything_else_is_refused_in_one_line(void **state)
{
    scratch_t *s = *state;
    static const char *const texts[] = {
        "x",
        "overflow",
        "overflow:",
        "underflow:rank=1,step=3,tensor=wte.weight,element=5,micro=0",
        "overflow:rank=1,step=3,tensor=wte.weight,element=5",                /* a key is missing */
        "overflow:rank=1,step=3,tensor=wte.weight,element=5,micro=0,more=1", /* one too many */
        "overflow:rank=1,rank=1,step=3,tensor=wte.weight,element=5,micro=0", /* twice */
        "overflow:rank=1,rank=1,tensor=wte.weight,element=5,micro=0", /* twice, in the place of another */
        "overflow:rank=1,step=3,tensor=wte.weight,element=5,macro=0", /* unknown */
        "overflow:rank=1,step=3,tensor=wte.weight,element=5,micro",   /* no value */
        "overflow:rank=1,step=3,tensor=wte.weight,element=5,micro=",  /* empty */
        "overflow:rank=1,step=3,tensor=wte,element=5,micro=0",        /* no such tensor */
        "overflow:rank=1,step=3,tensor=,element=5,micro=0",
        "overflow:rank=1,step=3,tensor=wte.weight,element=40,micro=0", /* in the padding */
        "overflow:rank=1,step=3,tensor=wte.weight,element=-1,micro=0",
        "overflow:rank=4,step=3,tensor=wte.weight,element=5,micro=0", /* four ranks: 0 to 3 */
        "overflow:rank=-1,step=3,tensor=wte.weight,element=5,micro=0",
        "overflow:rank=1,step=0,tensor=wte.weight,element=5,micro=0", /* steps count from 1 */
        "overflow:rank=1,step=3,tensor=wte.weight,element=5,micro=-1",
        "overflow:rank=1x,step=3,tensor=wte.weight,element=5,micro=0",
        "overflow:rank=1,step=3,tensor=wte.weight,element=99999999999999999999,micro=0",
        "overflow:rank=1,step=3,tensor=wte.weight,element=5,micro=0,bit=1", /* another fault's key */
        "overflow:rank=1,step=3,tensor=wte.weight,element=5,bit=1",
        "overflo:rank=1,step=3,tensor=wte.weight,element=5,micro=0",
        "overflows:rank=1,step=3,tensor=wte.weight,element=5,micro=0",
        "flip:rank=1,step=3,tensor=wte.weight,element=5,kind=master", /* no bit */
        "flip:rank=1,step=3,tensor=wte.weight,element=5,bit=1",       /* no kind */
        "flip:rank=1,step=3,tensor=wte.weight,element=5,kind=masters,bit=1",
        "flip:rank=1,step=3,tensor=wte.weight,element=5,kind=,bit=1",
        "flip:rank=1,step=3,tensor=wte.weight,element=5,kind=gradient,bit=1",
        "flip:rank=1,step=3,tensor=wte.weight,element=5,kind=m,bit=32",
        "flip:rank=1,step=3,tensor=wte.weight,element=5,kind=m,bit=-1",
        "flip:rank=1,step=3,tensor=wte.weight,element=40,kind=m,bit=1",
        "flip:rank=1,step=3,tensor=wte.weight,element=5,kind=m,bit=1,micro=0",
        "slow:rank=1,step=3",
        "slow:rank=1,step=3,ms=-1",
        "slow:rank=1,step=3,ms=3600000",
        "slow:rank=1,step=3,ms=1.5",
        "slow:rank=4,step=3,ms=5",
        "slow:rank=1,step=0,ms=5",
        "slow:rank=1,step=3,ms=5,tensor=wte.weight",
    };
    mpt_layout_t layout = build();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mpt_inject_t inject = {.kind = MPT_INJECT_SLOW};
        scratch_forget(s);
        if (mpt_inject_parse(texts[i], &layout, &s->log, &inject) != MPT_ERR_CONFIG)
            fail_msg("'%s' was taken", texts[i]);
        assert_int_equal(s->lines, 1);
        assert_non_null(strstr(s->said, texts[i]));
        assert_int_equal(inject.kind, MPT_INJECT_NONE);
    }
    mpt_layout_release(&layout);
}

static void a_text_that_is_too_long_is_refused(void **state)
{
    scratch_t *s = *state;
    mpt_layout_t layout = build();
    mpt_inject_t inject;
    char text[2000] = "overflow:rank=1,step=3,element=5,micro=0,tensor=";
    memset(text + strlen(text), 'w', 1500);
    assert_int_equal(mpt_inject_parse(text, &layout, &s->log, &inject), MPT_ERR_CONFIG);
    mpt_layout_release(&layout);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_set_up, scratch_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_asks_for_nothing),
        TEST(keys_may_come_in_any_order),
        TEST(a_flip_names_array_and_bit),
        TEST(a_slow_rank_sleeps_for_so_long),
        TEST(the_last_element_rank_and_first_step_are_allowed),
        TEST(everything_else_is_refused_in_one_line),
        TEST(a_text_that_is_too_long_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
