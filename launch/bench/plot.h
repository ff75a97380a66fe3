/*
 * Pictures by gnuplot, which need not be installed: a script with its data goes to it through a pipe, an SVG file comes out.
 */
#ifndef MPT_BENCH_PLOT_H
#define MPT_BENCH_PLOT_H

#include <stdio.h>
#include "mpt.h"

/** See that a picture can be made at `path`: gnuplot is found, the file can be written (it is made, empty). `command` is named in what is
 *  said. @return MPT_OK; MPT_ERR_CONFIG (one line on standard error). */
mpt_status_t mpt_plot_check(const char *command, const char *path);
/** Start gnuplot on `path`, with size, font, and grid set; the caller writes the rest of the script. @return NULL: it could not be started
 *  (said). */
FILE *mpt_plot_open(const char *path, int width, int height);
/** @return MPT_OK; MPT_ERR_IO: gnuplot failed (said). */
mpt_status_t mpt_plot_close(FILE *plot, const char *path);
/** A colour for the index-th thing, as gnuplot takes it: blue, orange, green, then purple; told apart by the colour-blind (Okabe and Ito 2008). */
const char *mpt_plot_colour(int index);

#endif
