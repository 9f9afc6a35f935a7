/* SPDX-License-Identifier: Apache-2.0 */
/* clang -fsanitize=fuzzer,address,undefined. What a VMM answers to a probe, as it arrives. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "vmm/http_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An answer lies within what came, and is not there before its last byte. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct http_answer a = {0};
    struct http_answer part;
    struct err e = {0};
    int rc = http_answer_parse(text, size, &a, &e);

    if (rc < 0 ? e.code != ERR_INVALID : e.code != ERR_NONE)
        abort();
    if (rc != 1)
        return 0;
    if (a.len > size || a.body < text || a.body + a.body_len != text + a.len || a.status < 100)
        abort();
    err_clear(&e);
    if (http_answer_parse(text, a.len - 1, &part, &e) == 1)
        abort();
    return 0;
}
