/* SPDX-License-Identifier: Apache-2.0 */
/* clang -fsanitize=fuzzer,address,undefined. What a Cloud Hypervisor wrote into its events file. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "vmm/event_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct stream_event event;
    size_t used;

    while ((used = event_stream_take(text, size, &event)) > 0) {
        if (used > size || (event.event[0] && !event.source[0]))
            abort();
        text += used;
        size -= used;
    }
    return 0;
}
