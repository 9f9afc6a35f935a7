/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/event_stream.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

static bool take_word(const json_t *object, const char *key, char *out, size_t size)
{
    const char *word = json_string_value(json_object_get(object, key));

    return word && (size_t)snprintf(out, size, "%s", word) < size;
}

static bool parse(const char *text, size_t len, struct stream_event *out)
{
    struct err ignored = {0};
    json_auto_t *object = parse_json(text, len, &ignored);

    if (take_word(object, "source", out->source, sizeof(out->source)) &&
        take_word(object, "event", out->event, sizeof(out->event)))
        return true;
    out->source[0] = '\0';
    return false;
}

/* Where one was cut the next begins in the middle of it. */
static bool parse_last(const char *text, size_t len, struct stream_event *out)
{
    static const char start[] = "{\n  \"timestamp\"";
    const char *last = NULL;

    for (const char *at = text;
         (at = memmem(at, len - (size_t)(at - text), start, sizeof(start) - 1));
         at++)
        last = at;
    return last && last != text && parse(last, len - (size_t)(last - text), out);
}

size_t event_stream_take(const char *text, size_t len, struct stream_event *out)
{
    size_t skip = 0;
    const char *end;

    *out = (struct stream_event){0};
    while (skip < len && (text[skip] == '\0' || text[skip] == '\n'))
        skip++;
    end = memmem(text + skip, len - skip, "\n\n", 2);
    if (!end)
        return skip;
    len = (size_t)(end - text) - skip;
    if (!parse(text + skip, len, out)) {

        out->is_lossy = true;
        (void)parse_last(text + skip, len, out);
    }
    return (size_t)(end - text) + 2;
}
