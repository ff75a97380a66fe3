/*
 * Copies whose stores go past the caches: they do not read a line before they overwrite it, and do not push out what is
 * there. For large results that nobody reads soon; what is read soon comes back from memory. Pure.
 */
#ifndef MPT_PAST_CACHES_H
#define MPT_PAST_CACHES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MPT_LINE_BYTES ((size_t)64)

/** The 64 bytes of `line`, at any address, to `dst`, where a line begins. */
static inline void mpt_line_past_caches(void *dst, const void *line)
{
#if defined(__SSE2__)
    const __m128i *from = (const __m128i *)line;
    __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    __m128i *out = (__m128i *)dst;
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
#else
    memcpy(dst, line, MPT_LINE_BYTES);
#endif
}

/** As memcpy; whole lines of `dst` go past the caches, where the processor can. Other threads may see them late: call
 *  mpt_past_caches_end before telling them. */
static inline void mpt_copy_past_caches(void *dst, const void *src, size_t bytes)
{
#if defined(__SSE2__)
    char *to = (char *)dst;
    const char *from = (const char *)src;
    size_t done = (size_t)(-(uintptr_t)to & (MPT_LINE_BYTES - 1));
    if (done > bytes)
        done = bytes;
    memcpy(to, from, done);
    for (; done + MPT_LINE_BYTES <= bytes; done += MPT_LINE_BYTES)
        mpt_line_past_caches(to + done, from + done);
    memcpy(to + done, from + done, bytes - done);
#else
    memcpy(dst, src, bytes); /* in pieces it would be slower */
#endif
}

/** What this thread has stored past the caches comes before all that it stores from here on. */
static inline void mpt_past_caches_end(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

#ifdef __cplusplus
}
#endif
#endif
