/*
 * Folders of checkpoints as a saver sees them: made, committed by a rename, replaced, thinned out, set aside. Only rank 0
 * changes what is committed. Private to sharding.
 */
#ifndef MPT_CHECKPOINT_FOLDER_H
#define MPT_CHECKPOINT_FOLDER_H

#include "checkpoint.h"

typedef struct checkpoint_folder {
    char dir[1024];
    int64_t keep;   /* newest checkpoints to keep */
    int ranks;      /* that save */
    unsigned kinds; /* that they save, a bit each */
    uint64_t run;
    const mpt_log_t *log; /* borrowed */
} checkpoint_folder_t;

/** Fill in and make `dir`; with `sync` make it durable. @return MPT_OK; MPT_ERR_IO (logged). */
mpt_status_t checkpoint_folder_make(checkpoint_folder_t *folder, const char *dir, int clean);
/** Where the files of `step` are written. */
void checkpoint_folder_partial(const checkpoint_folder_t *folder, int64_t step, char *out,
                               size_t bytes);
/** 1 where the session's lines and ours fit together in what a reader takes. */
int checkpoint_folder_has_room(const char *meta);
/** See that every rank's file is there, write meta, rename, remove what is too old. @return MPT_OK; MPT_ERR_IO (logged; the partial folder is
 * removed, and nothing else). */
mpt_status_t checkpoint_folder_commit(const checkpoint_folder_t *folder, int64_t step,
                                      const char *meta);
/** Remove the partial folder. */
void checkpoint_folder_drop(const checkpoint_folder_t *folder, int64_t step);
/** The oldest `capacity` steps in (above, last] that are committed in `dir`, oldest first; *found_p: how many there are in all. Returns
 * their number; -1 with errno. */
int checkpoint_list_oldest(const char *dir, int64_t above, int64_t last, int64_t *steps,
                           int capacity, int64_t *found_p);

#endif
