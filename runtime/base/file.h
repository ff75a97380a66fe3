/*
 * Whole-file helpers: full writes and reads, locks, syncs, folders. Each returns 0, or -1 with errno, where nothing else is said.
 */
#ifndef MPT_FILE_H
#define MPT_FILE_H

#include <stddef.h>
#include <stdint.h>

/** Write all of it, through interruptions and short writes. */
int mpt_file_write_all(int fd, const void *bytes, size_t count);
/** Read exactly `count` bytes at `offset`; a short file is -1 with errno EIO. */
int mpt_file_read_at(int fd, void *bytes, size_t count, uint64_t offset);
/** Lock what `fd` has open (flock, exclusive) until it is closed, or unlocked. Tries for two seconds: a run that was killed may still be on
 *  its way out. errno EWOULDBLOCK: another has it. */
int mpt_file_lock(int fd);
/** 1 where that is what a file system without locks answers. */
int mpt_file_has_no_locks(int error);
/** Make the folder's entries durable. */
int mpt_file_sync_dir(const char *path);
/** Create a folder and its parents; existing ones are fine. */
int mpt_file_make_dirs(const char *path);
/** Remove a folder of plain files; of a symbolic link the link alone. What is not there is removed already. */
int mpt_file_remove_dir(const char *path);

#endif
