/*
 * Random consensus records, and whether two verdicts are the same to the bit.
 */
#ifndef RECORDS_H
#define RECORDS_H

#include <math.h>
#include <string.h>
#include "record.h"

static inline uint64_t records_bits(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* 1 in `odds`. */
static inline int records_chance(uint64_t *seed, int odds)
{
    return records_bits(seed) % (uint64_t)odds == 0;
}

/* Most of it from a small range, so that ties, first ones and last ones all happen. */
static inline void records_randomize(mpt_record_t *records, int ranks, uint64_t *seed)
{
    memset(records, 0, (size_t)ranks * sizeof *records);
    for (int r = 0; r < ranks; r++) {
        mpt_record_t *record = &records[r];
        record->status = records_chance(seed, 4) ? (uint8_t)(records_bits(seed) % 4) : MPT_OK;
        record->flags = records_chance(seed, 3) ? (uint8_t)(records_bits(seed) % 8) : 0;
        record->micro_step = (uint16_t)(records_bits(seed) % 2);
        record->tokens = (uint32_t)records_bits(seed);
        record->sumsq = ldexp((double)records_bits(seed), -(int)(records_bits(seed) % 40));
        record->loss_sum = ldexp((double)records_bits(seed), -30);
        if (records_chance(seed, 50))
            record->sumsq = INFINITY;
        if (records_chance(seed, 50))
            record->loss_sum = records_chance(seed, 2) ? (double)NAN : -(double)NAN;
        record->bad_count = (uint32_t)records_bits(seed);
        record->bad_bits = (uint32_t)records_bits(seed);
        record->bad_element = records_bits(seed) % 3;
        record->scale = records_chance(seed, 20) ? 2 : 1;
        record->save = records_chance(seed, 8) ? (uint32_t)(records_bits(seed) % 4) : 2;
        record->hash = (uint64_t)records_chance(seed, 12);
        record->step = (uint64_t)records_chance(seed, 20);
    }
}

/* Field by field: what lies between them may differ. */
static inline int verdicts_same(const mpt_verdict_t *a, const mpt_verdict_t *b)
{
    return a->status == b->status && a->status_rank == b->status_rank && a->stop == b->stop &&
           a->overflow == b->overflow && a->wire == b->wire && a->bad_rank == b->bad_rank &&
           a->bad_micro_step == b->bad_micro_step && a->bad_element == b->bad_element &&
           a->bad_bits == b->bad_bits && a->bad_count == b->bad_count &&
           memcmp(&a->sumsq, &b->sumsq, sizeof a->sumsq) == 0 &&
           memcmp(&a->loss_sum, &b->loss_sum, sizeof a->loss_sum) == 0 && a->tokens == b->tokens &&
           a->disagree_rank == b->disagree_rank && a->saves_ended == b->saves_ended &&
           a->save_failed == b->save_failed && a->replica_rank == b->replica_rank &&
           a->replica_of == b->replica_of;
}

#endif
