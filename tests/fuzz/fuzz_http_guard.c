/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first byte's low bit is the version, then lines "name:value", any bytes.
 * What passes is checked against the rules by counting them again, the slow way.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "http/guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    unsigned hosts;
    unsigned lengths;
    unsigned encodings;
};

static void look_again(struct seen *seen, const char *name, size_t name_len, const char *value,
                       size_t value_len)
{
    for (size_t i = 0; i < name_len; i++) {
        if (strchr(" \t:\"(),/;<=>?@[\\]{}", name[i]) || name[i] <= 0x20 || name[i] >= 0x7f)
            abort();
    }
    for (size_t i = 0; i < value_len; i++) {
        if (value[i] == '\0' || value[i] == '\r' || value[i] == '\n' || value[i] == 0x7f)
            abort();
    }
    seen->hosts += name_len == 4 && !strncasecmp(name, "host", 4);
    seen->lengths += name_len == 14 && !strncasecmp(name, "content-length", 14);
    seen->encodings += name_len == 17 && !strncasecmp(name, "transfer-encoding", 17);
}

/* Gives every line of the input to the guard, or, the second time, to the check. */
static void each_field(const char *p, const char *end, struct http_guard *g, struct seen *seen)
{
    while (p < end) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        const char *colon;

        line_end = line_end ? line_end : end;
        colon = memchr(p, ':', (size_t)(line_end - p));
        colon = colon ? colon : line_end;
        {
            const char *value = colon < line_end ? colon + 1 : line_end;

            if (g)
                http_guard_field(g, p, (size_t)(colon - p), value, (size_t)(line_end - value));
            else
                look_again(seen, p, (size_t)(colon - p), value, (size_t)(line_end - value));
        }
        p = line_end + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_zalloc(size + 1, 1);
    struct http_guard guard = {0};
    struct seen seen = {0};
    bool is_http11;

    memcpy(text, data, size);
    is_http11 = text[0] & 1;
    if (size > 0) {
        each_field(text + 1, text + size, &guard, NULL);
        if (!http_guard_verdict(&guard, is_http11)) {
            each_field(text + 1, text + size, NULL, &seen);
            if (seen.hosts > 1 || (is_http11 && seen.hosts == 0) || seen.lengths > 1 ||
                seen.encodings > 1 || (seen.lengths && seen.encodings) ||
                (seen.encodings && !is_http11) || guard.content_length > INT64_MAX)
                abort();
        }
    }
    (void)http_guard_method(text);
    (void)http_guard_target(text);
    free(text);
    return 0;
}
