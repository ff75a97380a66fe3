/*
 * Every backend against the oracle: `ref` against itself in FP64, `cpu` at every instruction level that
 * this processor has. As a tool: test_conformance [part of an operation's name] [level, or ref] runs
 * only those and prints each one's largest error as a share of what is allowed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <unistd.h>
#include "conformance_suite.h"

typedef struct selection {
    const char *op; /* part of the name; "": all */
    conform_target_t targets[MPT_ISA_COUNT + 1];
    int target_count;
} selection_t;

static const char *target_name(const conform_target_t *t)
{
    return strcmp(t->ops->name, "ref") == 0 ? "ref" : mpt_isa_name(t->isa);
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

/* A read or write into the page behind an array ends the program: say so. */
static void on_fault(int signal_number)
{
    static const char text[] = "FAIL an array was overrun into the page behind it (signal)\n";
    ssize_t written = write(2, text, sizeof text - 1);
    (void)written;
    _exit(signal_number);
}

/* ---- as a test --------------------------------------------------------------------------------------- */

static void run_op(void **state)
{
    const conform_op_t *op = *state;
    conform_context_t x;
    selection_t s;
    select_targets(&s, "");
    conform_open(&x);
    for (int i = 0; i < CONFORM_COMPUTE_COUNT; i++)
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
        printf(" %s", target_name(&s.targets[i]));
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
        tests[i] = (struct CMUnitTest){.name = names[i], .test_func = run_op,
                                       .initial_state = (void *)(uintptr_t)&conform_ops[i]};
    }
    print_coverage();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ---- as a tool --------------------------------------------------------------------------------------- */

static int report_op(const conform_op_t *op, const selection_t *s)
{
    int failures = 0;
    for (int i = 0; i < s->target_count; i++)
        for (int j = 0; j < CONFORM_COMPUTE_COUNT; j++) {
            conform_context_t x;
            conform_open(&x);
            op->run(&x, &s->targets[i], 1, conform_computes[j]);
            conform_close(&x);
            printf("%-24s %-12s %s  %4d cases  %3d failed  largest error %.3f of allowed  (%s)\n", op->name,
                   target_name(&s->targets[i]), mpt_dtype_name(conform_computes[j]), x.cases, x.failures, x.worst,
                   x.worst_label);
            failures += x.failures;
        }
    return failures;
}

static int run_selected(const char *op, const char *level)
{
    selection_t s;
    int failures = 0, matched = 0;
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
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    if (argc > 1)
        return run_selected(argv[1], argc > 2 ? argv[2] : "");
    return test_everything();
}
