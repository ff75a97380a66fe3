#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "launch.h"

static const mpt_verb_t verbs[] = {
    {"train", mpt_cmd_train, "what mpt-ddp model.cfg does too"},
    {"plan", mpt_cmd_plan, "bytes, FLOPs and precisions of a config, before any run"},
    {"bench", mpt_cmd_bench, "measure this machine and this program"},
    {"data", mpt_cmd_data, "text to token files"},
    {"ckpt", mpt_cmd_ckpt, "describe, verify or export a checkpoint"},
    {"sample", mpt_cmd_sample, "generate text from a checkpoint or a model file"},
    {"doctor", NULL, "check the machine"},
    {"report", NULL, "a page about a run"},
    {"version", mpt_cmd_version, "this program and the libraries under it"},
};
#define VERB_COUNT ((int)(sizeof(verbs) / sizeof(verbs[0])))

static int print_help(void)
{
    printf("usage: mpt-ddp model.cfg [--set section.key=value]... [--resume PATH|auto]\n"
           "       mpirun -np RANKS mpt-ddp model.cfg ...\n"
           "       mpt-ddp VERB ...\n\n"
           "Train a transformer in mixed precision over several ranks, or:\n\n");
    mpt_verb_list(verbs, VERB_COUNT);
    printf(
        "\nEach verb explains itself with --help; mpt-ddp --config-help lists every config key.\n"
        "A config whose name is a verb's is given as ./NAME.\n"
        "Exit codes: 0 done, 2 usage or config, 3 data or checkpoint unusable or output not written,\n"
        "4 device or communication failure or out of memory, 5 training diverged, 75 stopped on\n"
        "request after a checkpoint.\n");
    return 0;
}

/* A word that is no file and does not look like one was meant to be a verb. */
static int looks_like_verb(const char *word)
{
    return word[0] != '-' && !strpbrk(word, "./=") && access(word, F_OK) != 0;
}

/* A standard stream that is closed is held by what cannot be written: a file opened later must not get its number, and
 * with it what is printed. */
static void hold_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", O_RDONLY);
}

static int print_config_help(void)
{
    mpt_status_t status = mpt_config_help(STDOUT_FILENO);
    if (status != MPT_OK)
        fprintf(stderr, "mpt-ddp: standard output: cannot be written\n");
    return mpt_status_exit_code(status);
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "mpt-ddp: no config given; usage: mpt-ddp model.cfg (mpt-ddp --help tells "
                        "more)\n");
        return MPT_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return print_help();
    if (strcmp(argv[1], "--version") == 0)
        return mpt_cmd_version(0, argv + 2);
    if (strcmp(argv[1], "--config-help") == 0)
        return print_config_help();
    if (mpt_verb_find(verbs, VERB_COUNT, argv[1]) || looks_like_verb(argv[1]))
        return mpt_verb_run("mpt-ddp", verbs, VERB_COUNT, argc - 1, argv + 1);
    return mpt_cmd_train(argc - 1, argv + 1);
}

/* What was printed and lost is a failure, where there was no other. */
static int check_output(int code)
{
    errno = 0;
    int failed = fflush(stdout) != 0, error = errno;
    if ((!failed && !ferror(stdout)) || code != 0)
        return code;
    fprintf(stderr, "mpt-ddp: standard output: %s\n", failed ? strerror(error) : "not all of it could be written");
    return mpt_status_exit_code(MPT_ERR_IO);
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is a full disk: the write fails and is reported */
    hold_standard_streams();
    return check_output(run(argc, argv));
}
