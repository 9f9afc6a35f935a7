/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Archives from outside. The first byte says in what pieces they come, and how
 * often the sink has no room: whatever it says, the same must come of it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    unsigned mood;
    unsigned n_asked;
    struct buf all;
};

static bool has_room(struct seen *s)
{
    return !s->mood || ++s->n_asked % s->mood == 0;
}

static void check_path(const char *path)
{
    size_t len = strlen(path);

    if (len == 0 || len > GUEST_NAME_MAX || *path == '/' || path[len - 1] == '/' ||
        strstr(path, "//") || strcmp(path, "..") == 0 || strncmp(path, "../", 3) == 0 ||
        strstr(path, "/../") || (len >= 3 && strcmp(path + len - 3, "/..") == 0))
        abort();
}

static bool take_entry(void *arg, const struct guest_entry *entry)
{
    struct seen *s = arg;

    if (!has_room(s))
        return false;
    check_path(entry->path);
    if (entry->kind == GUEST_HARD_LINK)
        check_path(entry->link_target);
    if ((entry->kind == GUEST_SYMLINK || entry->kind == GUEST_HARD_LINK) !=
            (entry->link_target != NULL) ||
        entry->mtime_ns > 999999999 || entry->mode > 07777)
        abort();
    buf_append(&s->all, entry->path, strlen(entry->path) + 1);
    buf_append(&s->all, &entry->size, sizeof(entry->size));
    buf_append(&s->all, &entry->mtime_s, sizeof(entry->mtime_s));
    return true;
}

static size_t take_data(void *arg, const void *data, size_t len)
{
    struct seen *s = arg;

    if (!has_room(s))
        len /= 2;
    buf_append(&s->all, data, len);
    return len;
}

static const struct tar_sink sink = {take_entry, take_data};

static bool read_all(struct seen *s, size_t step, const uint8_t *data, size_t size)
{
    struct tar_reader *r = tar_reader_new(&sink, s);
    struct err e = {0};
    unsigned n_idle = 0;
    bool is_good;

    s->all = BUF(16 << 20);
    while (size > 0) {
        size_t n = size < step ? size : step;
        ssize_t used = tar_feed(r, data, n, &e);

        if (used < 0)
            break;
        n_idle = used > 0 ? 0 : n_idle + 1;
        if ((size_t)used > n || n_idle > 2 * s->mood + 2)
            abort();
        data += used;
        size -= (size_t)used;
    }
    is_good = e.code == ERR_NONE && tar_reader_finish(r, &e) == 0;
    tar_reader_free(r);
    return is_good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole = {0};
    struct seen parts = {0};

    if (size == 0)
        return 0;
    parts.mood = data[0] & 7;
    (void)read_all(&whole, size, data + 1, size - 1);
    (void)read_all(&parts, (size_t)(data[0] >> 3) * 17 + 1, data + 1, size - 1);
    if (whole.all.len != parts.all.len ||
        memcmp(buf_str(&whole.all), buf_str(&parts.all), whole.all.len) != 0)
        abort();
    buf_free(&whole.all);
    buf_free(&parts.all);
    return 0;
}
