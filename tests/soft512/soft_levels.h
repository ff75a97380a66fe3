/*
 * The instruction levels with two sets of code: their own, and the same source compiled with soft512.h. A program
 * whose references to the levels are wrapped (tests/CMakeLists.txt) runs a level's own code where the processor has
 * what it needs, amx with emulated tiles included, and the other where not, as long as it has AVX2. Which was decided
 * when the program started.
 */
#ifndef SOFT_LEVELS_H
#define SOFT_LEVELS_H

#include "kernels.h"

/** The lowest level that runs in software; MPT_ISA_COUNT: none does. */
mpt_isa_t soft_levels_first(void);

#endif
