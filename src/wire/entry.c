/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/entry.h"

#include <string.h>

enum { HEADER = 40, HAS_OWNER = 1, HAS_MTIME = 2, MODE_MASK = 07777, NS_MAX = 999999999 };

static void put(unsigned char *p, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

static uint64_t get(const unsigned char *p, size_t bytes)
{
    uint64_t v = 0;

    for (size_t i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

void entry_put(struct buf *out, const struct guest_entry *entry)
{
    unsigned char h[HEADER] = {0};
    const char *target = entry->link_target ? entry->link_target : "";

    if (strlen(entry->path) > GUEST_NAME_MAX || strlen(target) > GUEST_NAME_MAX) {
        out->failed = true;
        return;
    }
    h[0] = (unsigned char)entry->kind;
    h[1] = (unsigned char)((entry->has_owner ? HAS_OWNER : 0) | (entry->has_mtime ? HAS_MTIME : 0));
    put(h + 4, entry->mode, 4);
    put(h + 8, entry->uid, 4);
    put(h + 12, entry->gid, 4);
    put(h + 16, entry->mtime_ns, 4);
    put(h + 24, (uint64_t)entry->mtime_s, 8);
    put(h + 32, entry->size, 8);
    buf_append(out, h, sizeof(h));
    buf_append(out, entry->path, strlen(entry->path) + 1);
    buf_append(out, target, strlen(target) + 1);
}

/* The next text, which ends with a NUL before the end; NULL when there is none or it is too long.
 */
static const char *take_text(const unsigned char **at, const unsigned char *end)
{
    const unsigned char *nul = memchr(*at, 0, (size_t)(end - *at));
    const char *text = (const char *)*at;

    if (!nul || nul - *at > GUEST_NAME_MAX)
        return NULL;
    *at = nul + 1;
    return text;
}

static bool is_link(unsigned char kind)
{
    return kind == GUEST_SYMLINK || kind == GUEST_HARD_LINK;
}

int entry_get(const unsigned char *data, size_t len, struct guest_entry *out, struct err *e)
{
    const unsigned char *at = data + HEADER;
    const unsigned char *end = data + len;
    const char *path;
    const char *target;

    if (len < HEADER + 2 || data[0] > GUEST_HARD_LINK || get(data + 4, 4) > MODE_MASK ||
        get(data + 16, 4) > NS_MAX)
        return err_set(e, ERR_INVALID, "the description of a file is malformed");
    path = take_text(&at, end);
    target = path ? take_text(&at, end) : NULL;
    if (!target || at != end || !*path || is_link(data[0]) != (*target != '\0'))
        return err_set(e, ERR_INVALID, "the names of a file are malformed");
    *out = (struct guest_entry){
        .kind = (enum guest_kind)data[0],
        .path = path,
        .link_target = *target ? target : NULL,
        .mode = (uint32_t)get(data + 4, 4),
        .has_owner = (data[1] & HAS_OWNER) != 0,
        .uid = (uint32_t)get(data + 8, 4),
        .gid = (uint32_t)get(data + 12, 4),
        .has_mtime = (data[1] & HAS_MTIME) != 0,
        .mtime_ns = (uint32_t)get(data + 16, 4),
        .mtime_s = (int64_t)get(data + 24, 8),
        .size = get(data + 32, 8),
        .cost = len,
    };
    return 0;
}
