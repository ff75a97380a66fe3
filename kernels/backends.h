/*
 * The backends that this build holds, private to kernels. Each is one static const table, defined in
 * its own folder; mpt_kernels_find looks them up by name.
 */
#ifndef MPT_BACKENDS_H
#define MPT_BACKENDS_H

#include "kernels.h"

extern const mpt_kernels_ops_t mpt_kernels_ref; /* ref/table.c */
extern const mpt_kernels_ops_t mpt_kernels_cpu; /* cpu/cpu.c: dispatches to the level in use */

#endif
