/* SPDX-License-Identifier: Apache-2.0 */
/* What the parser accepts, it writes in a form that it reads back as the same reference. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/reference.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_zalloc(size + 1, 1);
    struct image_ref first;
    struct image_ref again;
    struct err e = {0};

    memcpy(text, data, size);
    if (image_ref_parse(text, &first, &e) == 0) {
        char normal[REF_TEXT_SIZE];

        if (image_ref_parse(image_ref_text(&first, normal), &again, &e) < 0 ||
            memcmp(&first, &again, sizeof(first)) != 0)
            abort();
        if (!first.tag[0] && !first.digest[0])
            abort();
        if (strstr(first.name, "..") || strstr(first.name, "//") || strpbrk(normal, "\n "))
            abort();
    } else if (strncmp(e.msg, "invalid image reference", 23) != 0) {
        abort();
    }
    free(text);
    return 0;
}
