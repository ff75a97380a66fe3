#include "launch.h"
#include <stdio.h>
#include <string.h>
#include "options.h"

#define MAX_VERBS 16

const mpt_verb_t *mpt_verb_find(const mpt_verb_t *verbs, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

void mpt_verb_list(const mpt_verb_t *verbs, int count)
{
    for (int i = 0; i < count; i++)
        printf("  %-10s %s%s\n", verbs[i].name, verbs[i].summary,
               verbs[i].run ? "" : " (not built yet)");
}

static int report_unknown(const char *command, const mpt_verb_t *verbs, int count, const char *name)
{
    const char *names[MAX_VERBS];
    for (int i = 0; i < count && i < MAX_VERBS; i++)
        names[i] = verbs[i].name;
    const char *nearest = mpt_options_nearest(name, names, count < MAX_VERBS ? count : MAX_VERBS);
    if (nearest)
        fprintf(stderr, "%s: unknown verb \"%s\"; did you mean \"%s\"?\n", command, name, nearest);
    else
        fprintf(stderr, "%s: unknown verb \"%s\"; %s --help lists them\n", command, name, command);
    return MPT_EXIT_USAGE;
}

int mpt_verb_run(const char *command, const mpt_verb_t *verbs, int count, int argc, char **argv)
{
    const mpt_verb_t *verb = mpt_verb_find(verbs, count, argv[0]);
    if (!verb)
        return report_unknown(command, verbs, count, argv[0]);
    if (!verb->run) {
        fprintf(stderr, "%s %s: not built yet; %s --help lists what is\n", command, verb->name,
                command);
        return MPT_EXIT_USAGE;
    }
    return verb->run(argc - 1, argv + 1);
}

int mpt_verb_help(const char *command, const mpt_verb_t *verbs, int count, int argc)
{
    if (argc == 0) {
        fprintf(stderr, "%s: which verb? %s --help lists them\n", command, command);
        return MPT_EXIT_USAGE;
    }
    printf("usage: %s VERB ...\n\n", command);
    mpt_verb_list(verbs, count);
    printf("\nEach verb explains itself with --help.\n");
    return 0;
}

void mpt_log_quiet(void *ctx, mpt_log_severity_t severity, const char *line)
{
    (void)ctx;
    if (severity <= MPT_SEVERITY_WARN)
        fprintf(stderr, "%s\n", line);
}
