/* SPDX-License-Identifier: Apache-2.0 */
/* clang -fsanitize=fuzzer,address,undefined. One line from QEMU, as the job and the loop read it.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "vmm/qmp_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct qmp_line *line)
{
    switch (line->kind) {
    case QMP_GREETING:
        break;
    case QMP_EVENT:
        if (!line->event || !qmp_text(line->data, "reason"))
            abort();
        break;
    case QMP_RETURN:
        if (!line->data || qmp_status(line->data) > VMM_STATUS_SHUTDOWN)
            abort();
        break;
    case QMP_ERROR:
        if (!line->desc)
            abort();
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qmp_line line = {0};
    struct err e = {0};

    if (qmp_line_parse((const char *)data, size, &line, &e) == 0)
        check(&line);
    else if (e.code != ERR_INVALID || line.root)
        abort();
    qmp_line_fini(&line);
    return 0;
}
