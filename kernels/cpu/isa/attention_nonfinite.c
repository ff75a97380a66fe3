#include "attention.h"

static void add_row(const attention_shape_t *shape, const char *from, float factor, float *running)
{
    for (int64_t d = 0; d < shape->head_dim; d++) {
        const float x = vec_load(from, shape->compute, d, 1)[0];
        if (!isfinite(x))
            running[d] += x * factor;
    }
}

static void add_running(const attention_shape_t *shape, const float *running, char *to)
{
    for (int64_t d = 0; d < shape->head_dim; d++)
        if (!isfinite(running[d]))
            vec_store(to, shape->compute, d, 1,
                      vec_load(to, shape->compute, d, 1) + vec_set(running[d]));
}

void attention_nonfinite_down(const attention_shape_t *shape, attention_source_t from, float factor,
                              char *to, int64_t to_stride, int64_t first, int64_t last,
                              float *running)
{
    memset(running, 0, (size_t)shape->head_dim * sizeof *running);
    for (int64_t i = 0; i < last; i++) {
        add_row(shape, from.base + i * from.stride, factor, running);
        if (i >= first)
            add_running(shape, running, to + i * to_stride);
    }
}

void attention_nonfinite_up(const attention_shape_t *shape, attention_source_t from, float factor,
                            char *to, int64_t to_stride, int64_t first, int64_t last,
                            float *running)
{
    memset(running, 0, (size_t)shape->head_dim * sizeof *running);
    for (int64_t i = shape->seq - 1; i >= first; i--) {
        add_row(shape, from.base + i * from.stride, factor, running);
        if (i < last)
            add_running(shape, running, to + i * to_stride);
    }
}
