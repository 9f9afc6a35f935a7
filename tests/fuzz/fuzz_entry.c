/* SPDX-License-Identifier: Apache-2.0 */
/* What is accepted lies in the input, is within its limits, and survives being written again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "wire/entry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_buf struct buf again = BUF(1 << 20);
    struct guest_entry entry;
    struct guest_entry second;
    struct err e = {0};

    if (entry_get(data, size, &entry, &e) < 0)
        return 0;
    if (!*entry.path || strlen(entry.path) > GUEST_NAME_MAX || entry.mode > 07777 ||
        entry.kind > GUEST_HARD_LINK ||
        (entry.kind == GUEST_SYMLINK || entry.kind == GUEST_HARD_LINK) !=
            (entry.link_target != NULL))
        abort();
    entry_put(&again, &entry);
    if (!buf_ok(&again) || again.len != size ||
        entry_get((const uint8_t *)again.data, again.len, &second, &e) < 0 ||
        strcmp(entry.path, second.path) != 0 || entry.size != second.size ||
        entry.mtime_s != second.mtime_s || entry.mtime_ns != second.mtime_ns ||
        entry.uid != second.uid || entry.has_owner != second.has_owner)
        abort();
    return 0;
}
