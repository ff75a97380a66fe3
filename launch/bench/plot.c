#include "plot.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_installed(void)
{
    const char *list = getenv("PATH");
    char name[4096];
    while (list && *list) {
        size_t length = strcspn(list, ":");
        snprintf(name, sizeof(name), "%.*s/gnuplot", (int)length, list);
        if (access(name, X_OK) == 0)
            return 1;
        list += length;
        list += *list == ':';
    }
    return 0;
}

mpt_status_t mpt_plot_check(const char *command, const char *path)
{
    FILE *file;
    if (!is_installed()) {
        fprintf(stderr, "%s: --svg needs gnuplot, which is not installed (Debian: apt install gnuplot-nox)\n",
                command);
        return MPT_ERR_CONFIG;
    }
    file = fopen(path, "w");
    if (!file) {
        fprintf(stderr, "%s: --svg %s: %m\n", command, path);
        return MPT_ERR_CONFIG;
    }
    fclose(file);
    return MPT_OK;
}

/* As gnuplot reads it between single quotes. */
static void write_quoted(FILE *plot, const char *text)
{
    fputc('\'', plot);
    for (; *text; text++) {
        if (*text == '\'')
            fputc('\'', plot);
        fputc(*text, plot);
    }
    fputc('\'', plot);
}

FILE *mpt_plot_open(const char *path, int width, int height)
{
    /* Where gnuplot dies its exit status tells; writing to it must not end this process. */
    signal(SIGPIPE, SIG_IGN);
    FILE *plot = popen("gnuplot", "w");
    if (!plot) {
        fprintf(stderr, "mpt-ddp bench: gnuplot could not be started: %m\n");
        return NULL;
    }
    fprintf(plot, "set terminal svg size %d,%d font 'sans-serif,13' background rgb 'white'\nset output ", width,
            height);
    write_quoted(plot, path);
    fprintf(plot, "\nset encoding utf8\nset grid xtics ytics lc rgb '#dddddd' lt 1\nset border lc rgb '#555555'\n");
    return plot;
}

mpt_status_t mpt_plot_close(FILE *plot, const char *path)
{
    if (pclose(plot) == 0)
        return MPT_OK;
    fprintf(stderr, "mpt-ddp bench: gnuplot failed on %s\n", path);
    return MPT_ERR_IO;
}

const char *mpt_plot_colour(int index)
{
    static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7"};
    return colours[index % 4];
}
