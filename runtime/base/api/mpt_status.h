/*
 * Status codes: what every function of mpt-ddp returns. Grouped by what the error leaves
 * unusable, so that a caller knows what to rebuild. Part of the public interface.
 */
#ifndef MPT_STATUS_H
#define MPT_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MPT_API __attribute__((visibility("default")))
#else
#define MPT_API
#endif

typedef enum mpt_status {
    MPT_OK = 0,
    /* The call did nothing; everything is as it was. */
    MPT_ERR_INVALID_ARG = 1, /* a bug in the caller */
    MPT_ERR_CONFIG = 2,      /* the configuration is wrong, or asks for what is not built */
    MPT_ERR_NO_MEMORY = 3,
    /* An input or a saved state cannot be used; the session stops. */
    MPT_ERR_DATA = 4,
    MPT_ERR_CHECKPOINT = 5,
    MPT_ERR_IO = 6, /* a file could not be written; the run may go on */
    /* The device or the communicator is unusable; the session must be destroyed. */
    MPT_ERR_DEVICE = 7,
    MPT_ERR_COMM = 8,
    /* The run cannot or should not go on. */
    MPT_ERR_DIVERGED = 9, /* too many skipped steps */
    MPT_STOPPED = 10,     /* stopped on request, after a checkpoint */
    MPT_STATUS_COUNT = 11
} mpt_status_t;

/** A lower-case phrase for a status, a string constant; never NULL. */
MPT_API const char *mpt_status_string(mpt_status_t status);

/**
 * The process exit code that documents a status: 0 done, 2 usage or config, 3 data or checkpoint
 * unusable, 4 device or communication failure (memory included), 5 diverged, 75 stopped on request.
 */
MPT_API int mpt_status_exit_code(mpt_status_t status);

#ifdef __cplusplus
}
#endif
#endif
