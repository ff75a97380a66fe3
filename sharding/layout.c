#include "layout.h"

#include <stdlib.h>
#include <string.h>

static int64_t round_up(int64_t value, int64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* Lay the unit's tensors of one kind (decayed or not) from `at` on; returns where they end. */
static int64_t place_kind(mpt_layout_t *layout, int unit, int decay, int64_t at)
{
    for (int t = 0; t < layout->tensor_count; t++) {
        const mpt_tensor_t *tensor = &layout->tensors[t];
        if (tensor->unit != unit || !!tensor->decay != decay)
            continue;
        layout->offset[t] = at;
        at = round_up(at + mpt_tensor_count(tensor) + tensor->reserve, MPT_LAYOUT_ALIGN);
    }
    return at;
}

static void place_unit(mpt_layout_t *layout, int unit)
{
    mpt_unit_t *u = &layout->units[unit];
    u->first = layout->total;
    u->decay_count = place_kind(layout, unit, 1, 0);
    u->used = place_kind(layout, unit, 0, u->decay_count);
    u->padded = round_up(u->used, (int64_t)MPT_LAYOUT_ALIGN * layout->lanes);
    layout->total += u->padded;
}

static int count_units(const mpt_tensor_t *tensors, int tensor_count)
{
    int units = 0;
    for (int t = 0; t < tensor_count; t++)
        if (tensors[t].unit >= units)
            units = tensors[t].unit + 1;
    return units;
}

/* Units are 0..units-1, each with a tensor, and no tensor is empty. */
static int table_is_sound(const mpt_tensor_t *tensors, int tensor_count, int units)
{
    for (int t = 0; t < tensor_count; t++)
        if (tensors[t].unit < 0 || tensors[t].reserve < 0 || mpt_tensor_count(&tensors[t]) < 1)
            return 0;
    for (int u = 0; u < units; u++) {
        int t = 0;
        while (t < tensor_count && tensors[t].unit != u)
            t++;
        if (t == tensor_count)
            return 0;
    }
    return 1;
}

/* With defaults filled in; 0 where the cuts do not refine each other. */
static int cut_is_sound(mpt_layout_cut_t *cut)
{
    if (cut->ranks < 1 || cut->group < 0 || cut->lanes < 0)
        return 0;
    cut->group = cut->group > 0 ? cut->group : cut->ranks;
    cut->lanes = cut->lanes > 0 ? cut->lanes : cut->ranks;
    return cut->ranks % cut->group == 0 && cut->lanes % cut->ranks == 0;
}

mpt_status_t mpt_layout_build(const mpt_tensor_t *tensors, int tensor_count,
                              const mpt_layout_cut_t *wanted, mpt_layout_t *layout_p)
{
    mpt_layout_cut_t cut = *wanted;
    int units = count_units(tensors, tensor_count);
    if (tensor_count < 1 || !cut_is_sound(&cut) || !table_is_sound(tensors, tensor_count, units))
        return MPT_ERR_INVALID_ARG;
    mpt_layout_t layout = {.ranks = cut.ranks,
                           .group = cut.group,
                           .lanes = cut.lanes,
                           .tensor_count = tensor_count,
                           .unit_count = units};
    layout.tensors = malloc((size_t)tensor_count * sizeof *layout.tensors);
    layout.offset = calloc((size_t)tensor_count, sizeof *layout.offset);
    layout.units = calloc((size_t)layout.unit_count, sizeof *layout.units);
    if (layout.tensors == NULL || layout.offset == NULL || layout.units == NULL) {
        mpt_layout_release(&layout);
        return MPT_ERR_NO_MEMORY;
    }
    memcpy(layout.tensors, tensors, (size_t)tensor_count * sizeof *tensors);
    for (int t = 0; t < tensor_count; t++) {
        layout.tensors[t].first = layout.parameters;
        layout.parameters += mpt_tensor_count(&tensors[t]);
    }
    for (int u = 0; u < layout.unit_count; u++)
        place_unit(&layout, u);
    *layout_p = layout;
    return MPT_OK;
}

void mpt_layout_release(mpt_layout_t *layout)
{
    free(layout->tensors);
    free(layout->offset);
    free(layout->units);
    memset(layout, 0, sizeof *layout);
}

int64_t mpt_layout_slice(const mpt_layout_t *layout, int unit)
{
    return layout->units[unit].padded / layout->group;
}

int64_t mpt_layout_part(const mpt_layout_t *layout, int unit)
{
    return layout->units[unit].padded / layout->ranks;
}

int mpt_layout_slice_of(const mpt_layout_t *layout, int rank)
{
    return rank % layout->group;
}

int mpt_layout_part_of(const mpt_layout_t *layout, int rank)
{
    int groups = layout->ranks / layout->group;
    return rank % layout->group * groups + rank / layout->group;
}

int mpt_layout_rank_of(const mpt_layout_t *layout, int part)
{
    int groups = layout->ranks / layout->group;
    return part % groups * layout->group + part / groups;
}

int64_t mpt_layout_largest(const mpt_layout_t *layout)
{
    int64_t largest = 0;
    for (int u = 1; u < layout->unit_count; u++)
        if (layout->units[u].padded > largest)
            largest = layout->units[u].padded;
    return largest;
}

int64_t mpt_layout_at(const mpt_layout_t *layout, int tensor)
{
    return layout->units[layout->tensors[tensor].unit].first + layout->offset[tensor];
}

int mpt_layout_locate(const mpt_layout_t *layout, int unit, int64_t offset, int *tensor_p,
                      int64_t *element_p)
{
    for (int t = 0; t < layout->tensor_count; t++) {
        int64_t element = offset - layout->offset[t];
        if (layout->tensors[t].unit != unit || element < 0 ||
            element >= mpt_tensor_count(&layout->tensors[t]))
            continue;
        *tensor_p = t;
        *element_p = element;
        return 1;
    }
    *tensor_p = -1;
    return 0;
}

int mpt_layout_locate_global(const mpt_layout_t *layout, int64_t global, int *tensor_p,
                             int64_t *element_p)
{
    for (int t = 0; t < layout->tensor_count; t++) {
        int64_t element = global - layout->tensors[t].first;
        if (element < 0 || element >= mpt_tensor_count(&layout->tensors[t]))
            continue;
        *tensor_p = t;
        *element_p = element;
        return 1;
    }
    *tensor_p = -1;
    return 0;
}

int mpt_layout_find(const mpt_layout_t *layout, const char *name)
{
    for (int t = 0; t < layout->tensor_count; t++)
        if (strcmp(layout->tensors[t].name, name) == 0)
            return t;
    return -1;
}

int mpt_layout_extent(const mpt_layout_t *layout, int pieces, int index, int tensor,
                      mpt_extent_t *extent_p)
{
    const mpt_unit_t *unit = &layout->units[layout->tensors[tensor].unit];
    int64_t piece = unit->padded / pieces;
    int64_t low = piece * index, high = low + piece;
    int64_t begin = layout->offset[tensor];
    int64_t end = begin + mpt_tensor_count(&layout->tensors[tensor]);
    if (begin < low)
        begin = low;
    if (end > high)
        end = high;
    if (begin >= end)
        return 0;
    *extent_p = (mpt_extent_t){.tensor = tensor,
                               .first = begin - layout->offset[tensor],
                               .count = end - begin,
                               .at = unit->first + begin};
    return 1;
}

int mpt_layout_extents(const mpt_layout_t *layout, int pieces, int index, mpt_extent_t *extents)
{
    int count = 0;
    for (int t = 0; t < layout->tensor_count; t++)
        count += mpt_layout_extent(layout, pieces, index, t, &extents[count]);
    return count;
}

int64_t mpt_layout_owned(const mpt_layout_t *layout, int pieces, int index)
{
    int64_t elements = 0;
    for (int t = 0; t < layout->tensor_count; t++) {
        mpt_extent_t extent;
        if (mpt_layout_extent(layout, pieces, index, t, &extent))
            elements += extent.count;
    }
    return elements;
}
