/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers from hell. The input is a list of entries, each a type letter, a path
 * and, for links, a target, ended by '\n'; 'L' begins a layer. What survives
 * must be a tree: clean paths, each once, and nothing below what is no directory.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "image/merge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_LAYERS = 8, MAX_ENTRIES = 4096 };

struct name {
    struct map_link link;
    struct name *next;
    bool is_dir;
    char path[];
};

struct names {
    struct map map;
    struct name *first;
    bool is_dir; /* of the entry whose names are being added */
};

static int add_name(void *arg, const char *path, const char *first, struct err *e)
{
    struct names *names = arg;
    struct name *n = mem_zalloc(1, sizeof(*n) + strlen(path) + 1);

    const char *last = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

    (void)e;
    memcpy(n->path, path, strlen(path) + 1);
    n->is_dir = names->is_dir;
    if (map_find(&names->map, path) || (first && !map_find(&names->map, first)))
        abort();
    if (path[0] == '/' || strstr(path, "//") || strcmp(path, "..") == 0 ||
        strncmp(path, "../", 3) == 0 || strstr(path, "/../") || strncmp(last, ".wh.", 4) == 0)
        abort();
    map_put(&names->map, &n->link, n->path);
    n->next = names->first;
    names->first = n;
    return 0;
}

static void check_parent(const struct names *names, const struct name *n)
{
    char *path = mem_strdup(n->path);
    char *slash = strrchr(path, '/');
    struct map_link *l;

    if (*path) {
        *(slash ? slash : path) = '\0';
        l = map_find(&names->map, path);
        if (!l || !container_of(l, struct name, link)->is_dir)
            abort();
    }
    free(path);
}

static void check(const struct merge *m, const bool is_dir[MAX_LAYERS][MAX_ENTRIES],
                  const size_t n_entries[MAX_LAYERS], size_t n_layers)
{
    struct names names = {.is_dir = true};
    struct err e = {0};

    (void)merge_each_implied(m, add_name, &names, &e);
    for (size_t i = 0; i < n_layers; i++) {
        for (size_t j = 0; j < n_entries[i]; j++) {
            names.is_dir = is_dir[i][j];
            (void)merge_each_name(m, i, j, add_name, &names, &e);
        }
    }
    for (const struct name *n = names.first; n; n = n->next)
        check_parent(&names, n);
    while (names.first) {
        struct name *n = names.first;

        names.first = n->next;
        free(n);
    }
    map_free(&names.map);
}

static mode_t type_of(char letter)
{
    switch (letter) {
    case 'd':
        return AE_IFDIR;
    case 'l':
        return AE_IFLNK;
    case 's':
        return AE_IFSOCK;
    default:
        return AE_IFREG;
    }
}

static void fill(struct archive_entry *entry, char *line)
{
    char *target = strchr(line, ' ');

    if (target)
        *target++ = '\0';
    archive_entry_clear(entry);
    archive_entry_set_filetype(entry, type_of(line[0]));
    archive_entry_copy_pathname(entry, line + 1);
    if (line[0] == 'l')
        archive_entry_copy_symlink(entry, target ? target : "");
    if (line[0] == 'h')
        archive_entry_copy_hardlink(entry, target ? target : "");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool is_dir[MAX_LAYERS][MAX_ENTRIES];
    size_t n_entries[MAX_LAYERS] = {0};
    struct archive_entry *entry = archive_entry_new();
    struct merge *m = merge_new();
    char *text = mem_zalloc(size + 1, 1);
    size_t layers = 1;

    memcpy(text, data, size);
    merge_begin_layer(m);
    for (char *line = text, *next; *line; line = next) {
        struct err e = {0};
        size_t len = strcspn(line, "\n");

        next = line + len + (line[len] ? 1 : 0);
        line[len] = '\0';
        if (line[0] == 'L' && layers < MAX_LAYERS) {
            merge_begin_layer(m);
            layers++;
        } else if (len > 1 && n_entries[layers - 1] < MAX_ENTRIES) {
            size_t n = n_entries[layers - 1];

            fill(entry, line);
            is_dir[layers - 1][n] = archive_entry_filetype(entry) == AE_IFDIR;
            if (merge_add(m, entry, &e) < 0)
                break; /* as an import: it ends here */
            n_entries[layers - 1]++;
        }
    }
    check(m, is_dir, n_entries, layers);
    archive_entry_free(entry);
    merge_free(m);
    free(text);
    return 0;
}
