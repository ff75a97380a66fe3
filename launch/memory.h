/*
 * What memory this process really holds, and what is left, as the kernel counts it. Stateless.
 */
#ifndef MPT_MEMORY_H
#define MPT_MEMORY_H

#include <stdint.h>

/**
 * Anonymous and shared-memory pages of this process, those it shares divided among their holders
 * (Pss_Anon + Pss_Shmem of /proc/self/smaps_rollup), so that summing over a host's ranks counts each page
 * once. @return bytes; -1: this kernel does not say.
 */
int64_t mpt_memory_used(void);
/** Bytes that this machine, or the control group that holds this process, still has; negative: not known. */
double mpt_memory_free(void);

#endif
