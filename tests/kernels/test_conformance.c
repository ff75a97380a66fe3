/*
 * Every backend against the oracle: `ref` against itself in FP64, `cpu` at every instruction level that
 * this processor has, or that it runs in software. As a tool: test_conformance [part of an
 * operation's name] [level, or ref] runs only those and prints each one's largest error as a share of
 * what is allowed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <unistd.h>
#include "conformance_suite.h"
#include "soft_levels.h"
#include "tile_emulator.h"

typedef struct selection {
    conform_target_t targets[MPT_ISA_COUNT + 1];
    int target_count;
} selection_t;

static const char *target_name(const conform_target_t *t)
{
    return strcmp(t->ops->name, "ref") == 0 ? "ref" : mpt_isa_name(t->isa);
}

/* How a target runs, where that is not as it is written. */
static const char *manner(const conform_target_t *t)
{
    if (t->isa >= soft_levels_first())
        return " (in software)";
    return t->isa == MPT_ISA_AMX && tile_emulator_installed() ? " (emulated)" : "";
}

/* `level`: "" for all, or one target's name. */
static void select_targets(selection_t *s, const char *level)
{
    const mpt_kernels_ops_t *cpu = mpt_kernels_find("cpu");
    conform_target_t all[MPT_ISA_COUNT + 1] = {{mpt_kernels_find("ref"), MPT_ISA_PORTABLE}};
    int count = 1;
    for (int isa = MPT_ISA_PORTABLE; isa <= (int)mpt_isa_detect() && cpu; isa++)
        all[count++] = (conform_target_t){cpu, (mpt_isa_t)isa};
    s->target_count = 0;
    for (int i = 0; i < count; i++)
        if (*level == '\0' || strcmp(level, target_name(&all[i])) == 0)
            s->targets[s->target_count++] = all[i];
}

/* ---- as a test --------------------------------------------------------------------------------------- */

static void run_op(void **state)
{
    const conform_op_t *op = *state;
    conform_context_t x;
    selection_t s;
    select_targets(&s, "");
    conform_open(&x);
    for (int i = 0; i < conform_compute_count(op); i++)
        op->run(&x, s.targets, s.target_count, conform_computes[i]);
    conform_close(&x);
    assert_true(x.cases > 0);
    assert_int_equal(x.failures, 0);
}

static void print_coverage(void)
{
    selection_t s;
    select_targets(&s, "");
    printf("conformance covers:");
    for (int i = 0; i < s.target_count; i++)
        printf(" %s%s", target_name(&s.targets[i]), manner(&s.targets[i]));
    for (int isa = (int)mpt_isa_detect() + 1; isa < MPT_ISA_COUNT; isa++)
        printf(" (not %s: this processor lacks it)", mpt_isa_name((mpt_isa_t)isa));
    printf("\n");
}

static int test_everything(void)
{
    static char names[CONFORM_OP_COUNT][64];
    struct CMUnitTest tests[CONFORM_OP_COUNT];
    for (int i = 0; i < CONFORM_OP_COUNT; i++) {
        snprintf(names[i], sizeof names[i], "%s_conforms_on_every_target", conform_ops[i].name);
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = run_op,
                                       .initial_state = (void *)(uintptr_t)&conform_ops[i]};
    }
    print_coverage();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ---- as a tool --------------------------------------------------------------------------------------- */

static conform_context_t
    *running; /* what on_fault names; a signal handler has no other way to know */

/* An array overrun into the page behind it, say: name the case before dying of it. */
static void on_fault(int signal_number)
{
    const conform_case_t *c = running ? running->current : NULL;
    if (c)
        fprintf(stderr, "FAIL signal %d in %s %s %s\n", signal_number, c->op,
                mpt_dtype_name(c->compute), c->label);
    _exit(1);
}

static int report(const conform_op_t *op, const conform_target_t *target, mpt_dtype_t compute)
{
    conform_context_t x;
    conform_open(&x);
    running = &x;
    op->run(&x, target, 1, compute);
    running = NULL;
    conform_close(&x);
    printf("%-24s %-12s %s  %4d cases  %3d failed  largest error %.3f of allowed  (%s)\n", op->name,
           target_name(target), mpt_dtype_name(compute), x.cases, x.failures, x.worst,
           x.worst_label);
    return x.failures;
}

static int report_op(const conform_op_t *op, const selection_t *s)
{
    int failures = 0;
    for (int i = 0; i < s->target_count; i++)
        for (int j = 0; j < conform_compute_count(op); j++)
            failures += report(op, &s->targets[i], conform_computes[j]);
    return failures;
}

static int run_selected(const char *op, const char *level)
{
    selection_t s;
    int failures = 0, matched = 0;
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    signal(SIGFPE, on_fault);
    signal(SIGILL, on_fault);
    select_targets(&s, level);
    for (int i = 0; i < CONFORM_OP_COUNT; i++)
        if (strstr(conform_ops[i].name, op)) {
            matched++;
            failures += report_op(&conform_ops[i], &s);
        }
    if (matched == 0 || s.target_count == 0)
        fprintf(stderr, "no operation like '%s', or no target '%s' on this processor\n", op, level);
    return failures > 0 || matched == 0 || s.target_count == 0;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return run_selected(argv[1], argc > 2 ? argv[2] : "");
    return test_everything();
}
