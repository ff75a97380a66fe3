#include "inject.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static mpt_status_t bad(const mpt_log_t *log, const char *text)
{
    mpt_log_error(log,
                  "MPT_INJECT: '%s' is not overflow:rank=R,step=S,micro=M,tensor=NAME,element=E with a "
                  "tensor and element of this model",
                  text);
    return MPT_ERR_CONFIG;
}

mpt_status_t mpt_inject_parse(const char *text, const mpt_layout_t *layout, const mpt_log_t *log,
                              mpt_inject_t *inject_p)
{
    mpt_inject_t inject = {.active = 1};
    char name[MPT_TENSOR_MAX_NAME];
    int end = 0;
    *inject_p = (mpt_inject_t){0};
    if (text[0] == '\0')
        return MPT_OK;
    int fields = sscanf(text, "overflow:rank=%d,step=%" SCNd64 ",micro=%" SCNd64
                              ",tensor=%47[^,],element=%" SCNd64 "%n",
                        &inject.rank, &inject.step, &inject.micro, name, &inject.element, &end);
    if (fields != 5 || text[end] != '\0')
        return bad(log, text);
    inject.tensor = mpt_layout_find(layout, name);
    if (inject.tensor < 0 || inject.element < 0 ||
        inject.element >= mpt_tensor_count(&layout->tensors[inject.tensor]))
        return bad(log, text);
    *inject_p = inject;
    return MPT_OK;
}
