#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "onednn.h"

#define ALIGN ((size_t)2 << 20) /* a huge page, as our own arenas ask for */

static dnnl_data_type_t type_of(const char *name)
{
    return strcmp(name, "bf16") == 0   ? dnnl_bf16
           : strcmp(name, "fp16") == 0 ? dnnl_f16
                                       : dnnl_f32;
}

/* ---- engine and operands -------------------------------------------------------------------------------- */

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(ALIGN, bytes);
    if (memory)
        madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

static int operands_create(size_t bytes, mpt_onednn_t *dnn)
{
    dnn->bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    dnn->a = allocate(dnn->bytes);
    dnn->b = allocate(dnn->bytes);
    dnn->c = allocate(dnn->bytes);
    if (!dnn->a || !dnn->b || !dnn->c)
        return -1;
    memset(dnn->c, 0, dnn->bytes);
    mpt_onednn_fill(dnn, "fp32");
    return 0;
}

int mpt_onednn_create(size_t bytes, mpt_onednn_t *dnn)
{
    *dnn = (mpt_onednn_t){0};
    if (dnnl_engine_create(&dnn->engine, dnnl_cpu, 0) == dnnl_success &&
        dnnl_stream_create(&dnn->stream, dnn->engine, dnnl_stream_default_flags) == dnnl_success &&
        operands_create(bytes, dnn) == 0)
        return 0;
    fprintf(stderr, "mpt-ddp bench: oneDNN could not be set up\n");
    mpt_onednn_destroy(dnn);
    return -1;
}

void mpt_onednn_destroy(mpt_onednn_t *dnn)
{
    if (dnn->stream)
        dnnl_stream_destroy(dnn->stream);
    if (dnn->engine)
        dnnl_engine_destroy(dnn->engine);
    free(dnn->a);
    free(dnn->b);
    free(dnn->c);
    *dnn = (mpt_onednn_t){0};
}

static void fill_fp32(float *values, size_t count, int period)
{
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((int)(i % (size_t)period) - period / 2);
}

/* numbers: -3 to 3 in the type. */
static void fill_16(uint16_t *values, size_t count, const uint16_t *numbers, int period)
{
    for (size_t i = 0; i < count; i++)
        values[i] = numbers[3 - period / 2 + (int)(i % (size_t)period)];
}

void mpt_onednn_fill(mpt_onednn_t *dnn, const char *type)
{
    static const uint16_t bf16[] = {0xc040, 0xc000, 0xbf80, 0, 0x3f80, 0x4000, 0x4040};
    static const uint16_t fp16[] = {0xc200, 0xc000, 0xbc00, 0, 0x3c00, 0x4000, 0x4200};
    if (strcmp(type, "fp32") == 0) {
        fill_fp32(dnn->a, dnn->bytes / sizeof(float), 7);
        fill_fp32(dnn->b, dnn->bytes / sizeof(float), 5);
        return;
    }
    const uint16_t *numbers = strcmp(type, "bf16") == 0 ? bf16 : fp16;
    fill_16(dnn->a, dnn->bytes / sizeof(uint16_t), numbers, 7);
    fill_16(dnn->b, dnn->bytes / sizeof(uint16_t), numbers, 5);
}

/* Looked up by name: only an OpenMP build of oneDNN brings it, and this program has no OpenMP of its own. */
int mpt_onednn_set_threads(int threads)
{
    void (*set)(int);
    *(void **)&set = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (!set)
        return -1;
    set(threads);
    return 0;
}

/* ---- the two interfaces, version 2 and version 3: descriptors, and which implementation -------------------- */

static int is_refused(const mpt_matmul_params_t *params, const_dnnl_primitive_desc_t desc, char *name, size_t bytes)
{
    const char *text = "";
    dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &text);
    snprintf(name, bytes, "%s", text);
    return params->refuses && params->refuses(params->ctx, name);
}

#if DNNL_VERSION_MAJOR >= 3

typedef dnnl_memory_desc_t layout_t;
typedef const_dnnl_memory_desc_t layout_view_t;

static int layout_create(layout_t *layout, int64_t rows, int64_t columns, dnnl_data_type_t type,
                         dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {rows, columns};
    return dnnl_memory_desc_create_with_tag(layout, 2, dims, type, tag) == dnnl_success ? 0 : -1;
}

static void layout_destroy(layout_t *layout)
{
    if (*layout)
        dnnl_memory_desc_destroy(*layout);
}

static layout_view_t layout_view(const layout_t *layout)
{
    return *layout;
}

static int find_implementation(const mpt_onednn_t *dnn, const mpt_matmul_params_t *params, const layout_t *a,
                               const layout_t *b, const layout_t *c, char *name, size_t bytes,
                               dnnl_primitive_desc_t *desc_p)
{
    dnnl_primitive_desc_t desc;
    if (dnnl_matmul_primitive_desc_create(&desc, dnn->engine, *a, *b, NULL, *c, NULL) != dnnl_success)
        return -1;
    while (is_refused(params, desc, name, bytes)) {
        if (dnnl_primitive_desc_next_impl(desc) == dnnl_success)
            continue;
        dnnl_primitive_desc_destroy(desc);
        return -1;
    }
    *desc_p = desc;
    return 0;
}

#else

typedef dnnl_memory_desc_t layout_t;
typedef const dnnl_memory_desc_t *layout_view_t;

static int layout_create(layout_t *layout, int64_t rows, int64_t columns, dnnl_data_type_t type,
                         dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {rows, columns};
    return dnnl_memory_desc_init_by_tag(layout, 2, dims, type, tag) == dnnl_success ? 0 : -1;
}

static void layout_destroy(layout_t *layout)
{
    (void)layout;
}

static layout_view_t layout_view(const layout_t *layout)
{
    return layout;
}

static int find_implementation(const mpt_onednn_t *dnn, const mpt_matmul_params_t *params, const layout_t *a,
                               const layout_t *b, const layout_t *c, char *name, size_t bytes,
                               dnnl_primitive_desc_t *desc_p)
{
    dnnl_matmul_desc_t what;
    dnnl_primitive_desc_iterator_t at;
    dnnl_primitive_desc_t desc = NULL;
    if (dnnl_matmul_desc_init(&what, a, b, NULL, c) != dnnl_success ||
        dnnl_primitive_desc_iterator_create(&at, &what, NULL, dnn->engine, NULL) != dnnl_success)
        return -1;
    do {
        if (desc)
            dnnl_primitive_desc_destroy(desc);
        desc = dnnl_primitive_desc_iterator_fetch(at);
        if (desc && !is_refused(params, desc, name, bytes))
            break;
    } while (dnnl_primitive_desc_iterator_next(at) == dnnl_success);
    dnnl_primitive_desc_iterator_destroy(at);
    if (desc && !is_refused(params, desc, name, bytes)) {
        *desc_p = desc;
        return 0;
    }
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    return -1;
}

#endif

/* ---- one product ------------------------------------------------------------------------------------------ */

/* B as it lies, into the layout that the primitive asks for; refused where that is how it lies. */
static int pack(const mpt_onednn_t *dnn, const_dnnl_primitive_desc_t desc, const layout_t *plain,
                mpt_matmul_t *matmul)
{
    layout_view_t wanted = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    dnnl_memory_t source = NULL;
    dnnl_primitive_desc_t how = NULL;
    dnnl_primitive_t reorder = NULL;
    int failed = -1;
    if (!wanted || dnnl_memory_desc_equal(wanted, layout_view(plain)))
        return -1;
    if (dnnl_memory_create(&matmul->b, wanted, dnn->engine, DNNL_MEMORY_ALLOCATE) == dnnl_success &&
        dnnl_memory_create(&source, layout_view(plain), dnn->engine, dnn->b) == dnnl_success &&
        dnnl_reorder_primitive_desc_create(&how, layout_view(plain), dnn->engine, wanted, dnn->engine, NULL) ==
            dnnl_success &&
        dnnl_primitive_create(&reorder, how) == dnnl_success) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, matmul->b}};
        failed = dnnl_primitive_execute(reorder, dnn->stream, 2, args) == dnnl_success &&
                         dnnl_stream_wait(dnn->stream) == dnnl_success
                     ? 0
                     : -1;
    }
    if (reorder)
        dnnl_primitive_destroy(reorder);
    if (how)
        dnnl_primitive_desc_destroy(how);
    if (source)
        dnnl_memory_destroy(source);
    return failed;
}

typedef struct layouts {
    layout_t a, b, c, any_b;
} layouts_t;

static int layouts_create(const mpt_matmul_params_t *params, layouts_t *l)
{
    const mpt_bench_product_t *p = &params->product;
    dnnl_data_type_t type = type_of(params->type);
    return layout_create(&l->a, p->m, p->k, type, p->transposed_a ? dnnl_ba : dnnl_ab) != 0 ||
                   layout_create(&l->b, p->k, p->n, type, p->transposed_b ? dnnl_ba : dnnl_ab) != 0 ||
                   layout_create(&l->any_b, p->k, p->n, type, dnnl_format_tag_any) != 0 ||
                   layout_create(&l->c, p->m, p->n, p->wide_c ? dnnl_f32 : type, dnnl_ab) != 0
               ? -1
               : 0;
}

static int make(const mpt_onednn_t *dnn, const mpt_matmul_params_t *params, const layouts_t *l, mpt_matmul_t *matmul)
{
    dnnl_primitive_desc_t desc;
    int failed = -1;
    if (find_implementation(dnn, params, &l->a, params->packed ? &l->any_b : &l->b, &l->c, matmul->implementation,
                            sizeof(matmul->implementation), &desc) != 0)
        return -1;
    if (dnnl_memory_create(&matmul->a, layout_view(&l->a), dnn->engine, dnn->a) == dnnl_success &&
        dnnl_memory_create(&matmul->c, layout_view(&l->c), dnn->engine, dnn->c) == dnnl_success)
        failed = params->packed ? pack(dnn, desc, &l->b, matmul)
                 : dnnl_memory_create(&matmul->b, layout_view(&l->b), dnn->engine, dnn->b) == dnnl_success
                     ? 0
                     : -1;
    if (!failed && dnnl_primitive_create(&matmul->primitive, desc) != dnnl_success)
        failed = -1;
    dnnl_primitive_desc_destroy(desc);
    return failed;
}

int mpt_matmul_create(const mpt_onednn_t *dnn, const mpt_matmul_params_t *params, mpt_matmul_t *matmul_p)
{
    layouts_t l;
    mpt_matmul_t matmul = {0};
    memset(&l, 0, sizeof(l));
    int failed = layouts_create(params, &l);
    if (!failed)
        failed = make(dnn, params, &l, &matmul);
    layout_destroy(&l.a);
    layout_destroy(&l.b);
    layout_destroy(&l.any_b);
    layout_destroy(&l.c);
    if (failed)
        mpt_matmul_destroy(&matmul);
    else
        *matmul_p = matmul;
    return failed;
}

void mpt_matmul_destroy(mpt_matmul_t *matmul)
{
    if (matmul->primitive)
        dnnl_primitive_destroy(matmul->primitive);
    if (matmul->a)
        dnnl_memory_destroy(matmul->a);
    if (matmul->b)
        dnnl_memory_destroy(matmul->b);
    if (matmul->c)
        dnnl_memory_destroy(matmul->c);
    *matmul = (mpt_matmul_t){0};
}

int mpt_matmul_run(const mpt_onednn_t *dnn, const mpt_matmul_t *matmul)
{
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, matmul->a}, {DNNL_ARG_WEIGHTS, matmul->b}, {DNNL_ARG_DST, matmul->c}};
    return dnnl_primitive_execute(matmul->primitive, dnn->stream, 3, args) == dnnl_success &&
                   dnnl_stream_wait(dnn->stream) == dnnl_success
               ? 0
               : -1;
}

int mpt_onednn_sgemm(const mpt_onednn_t *dnn, const mpt_bench_product_t *p)
{
    return dnnl_sgemm(p->transposed_a ? 'T' : 'N', p->transposed_b ? 'T' : 'N', p->m, p->n, p->k, 1, dnn->a,
                      p->transposed_a ? p->m : p->k, dnn->b, p->transposed_b ? p->k : p->n, 0, dnn->c,
                      p->n) == dnnl_success
               ? 0
               : -1;
}
