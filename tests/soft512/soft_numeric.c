/* runtime/base/numeric_level.c once more, with the intrinsics of its avx512 level in software. */
#if defined(__AVX2__) && defined(__F16C__)

#include <assert.h>
#include <stddef.h>
#include "soft512.h"
#include "numeric_scalar.h"

/* Its levels as if the processor had them all, and none compiled for more than this file is. */
#define __builtin_cpu_supports(name) 1
#define target(names) target("avx2,f16c")
#define mpt_numeric_level soft_numeric_level
#include "numeric_level.c"

#endif
