#include "config_table.h"

#include <limits.h>
#include <string.h>

const char *mpt_config_row_name(const mpt_config_row_t *row, char *name)
{
    snprintf(name, MPT_CONFIG_MAX_NAME, "%s%s%s", row->section, row->section[0] ? "." : "",
             row->key);
    return name;
}

int mpt_config_find(const char *name)
{
    char known[MPT_CONFIG_MAX_NAME];
    for (int i = 0; i < mpt_config_row_count(); i++)
        if (strcmp(mpt_config_row_name(mpt_config_row(i), known), name) == 0)
            return i;
    return -1;
}

/* 1 where row `index` is the first of its section. */
static int opens_section(int index)
{
    const char *section = mpt_config_row(index)->section;
    return section[0] && strcmp(section, mpt_config_row(index - 1)->section) != 0;
}

int mpt_config_find_section(const char *section)
{
    int found = -1;
    for (int i = 1; i < mpt_config_row_count(); i++) {
        found += opens_section(i);
        if (opens_section(i) && strcmp(mpt_config_row(i)->section, section) == 0)
            return found;
    }
    return -1;
}

const mpt_config_row_t *mpt_config_section_row(const char *section)
{
    for (int i = 1; i < mpt_config_row_count(); i++)
        if (opens_section(i) && strcmp(mpt_config_row(i)->section, section) == 0)
            return mpt_config_row(i);
    return NULL;
}

static int smallest(int a, int b, int c)
{
    int least = a < b ? a : b;
    return least < c ? least : c;
}

/* Levenshtein's distance over the first MPT_CONFIG_MAX_NAME - 1 bytes; `row[j]` is one row of his
 * table. */
static int edit_distance(const char *a, const char *b)
{
    int row[MPT_CONFIG_MAX_NAME];
    int a_length = (int)strnlen(a, MPT_CONFIG_MAX_NAME - 1);
    int b_length = (int)strnlen(b, MPT_CONFIG_MAX_NAME - 1);
    for (int j = 0; j <= b_length; j++)
        row[j] = j;
    for (int i = 1; i <= a_length; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= b_length; j++) {
            int substitute = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = smallest(row[j] + 1, row[j - 1] + 1, substitute);
        }
    }
    return row[b_length];
}

static const char *bare_key(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* A right key in the wrong section is one mistake, whatever the length of the sections' names. */
static int distance_to_row(const char *name, const mpt_config_row_t *row)
{
    char known[MPT_CONFIG_MAX_NAME];
    int whole = edit_distance(name, mpt_config_row_name(row, known));
    int key = edit_distance(bare_key(name), row->key) + 1;
    return whole < key ? whole : key;
}

const char *mpt_config_nearest(const char *name, char *nearest)
{
    int best = INT_MAX;
    for (int i = 0; i < mpt_config_row_count(); i++) {
        const mpt_config_row_t *row = mpt_config_row(i);
        int distance = distance_to_row(name, row);
        if (distance < best) {
            best = distance;
            mpt_config_row_name(row, nearest);
        }
        if (!row->section[0] || strchr(name, '.'))
            continue;
        distance = edit_distance(name, row->section);
        if (distance < best) {
            best = distance;
            snprintf(nearest, MPT_CONFIG_MAX_NAME, "%s", row->section);
        }
    }
    return nearest;
}
