/*
 * How this library's own threads start: they leave signals to the host program's threads, run on the processors that
 * they are given, and compute with one floating-point setting. Used by the pool and the worker. And what a loop does that waits
 * for another thread.
 */
#ifndef MPT_THREAD_H
#define MPT_THREAD_H

#include <pthread.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_THREAD_MAX_CPUS 8192 /* what the Linux kernel is built for at most */
#define MPT_MXCSR_DEFAULT 0x1f80u /* all exceptions masked, round to nearest even, no flush to zero */

/** Start a thread that leaves every signal to others but those that the processor raises in the thread itself. name: the kernel takes
 *  15 characters. @return 0, or an errno. */
int mpt_thread_start(pthread_t *thread_p, const char *name, void *(*body)(void *), void *arg);
/** Let a thread run on these processors alone, each below MPT_THREAD_MAX_CPUS. @return 0, or an errno. */
int mpt_thread_bind(pthread_t thread, const int *cpus, int count);
/** Set the calling thread's floating-point control word; returns the one before. */
static inline unsigned mpt_thread_set_float_control(unsigned control)
{
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(control);
    return before;
#else
    return control;
#endif
}

/** Between two looks at what another thread is to write: leaves the core's other thread room, and takes no time slice. */
static inline void mpt_thread_pause(void)
{
#if defined(__SSE__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#ifdef __cplusplus
}
#endif
#endif
