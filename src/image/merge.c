/* SPDX-License-Identifier: Apache-2.0 */
#include "image/merge.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/map.h"
#include "base/mem.h"

enum {
    MAX_ENTRIES = 1 << 20,      /* of all layers; the largest images have a third of it */
    MAX_NAME_BYTES = 256 << 20, /* of all paths and link targets */
    MAX_DEPTH = 200,
    MAX_LINKS = 40, /* symlinks followed in one path, as the kernel does */
};

#define WHITEOUT ".wh."
#define OPAQUE ".wh..wh..opq"

struct node;

/* A file, or a directory's attributes: one entry of one layer. Its layer owns it. */
struct file {
    struct node *names; /* where it is now; empty once it is hidden */
    mode_t type;
    char target[]; /* of a symlink */
};

/* A name. The root's path is "". */
struct node {
    struct map_link link; /* by path */
    struct node *parent;
    struct node *children;
    struct node *next; /* of the parent's children */
    struct node *prev;
    struct node *next_name; /* of the same file */
    struct file *file;      /* NULL: a directory known only from the paths of what is in it */
    size_t touched;         /* the last layer, from 1, that put something here or below */
    unsigned depth;
    char path[];
};

struct files {
    struct file **v; /* by number; NULL for an entry that is no file, such as a whiteout */
    size_t n;
};

struct merge {
    struct map nodes;
    struct node *root;
    struct files *layers;
    size_t n_layers;
    size_t n_entries;
    size_t name_bytes;
};

static bool is_dir(const struct node *n)
{
    return !n->file || n->file->type == S_IFDIR;
}

/* --- the tree --- */

static struct node *node_new(struct merge *m, struct node *parent, const char *path)
{
    size_t size = strlen(path) + 1;
    struct node *n = mem_zalloc(1, sizeof(*n) + size);

    memcpy(n->path, path, size);
    map_put(&m->nodes, &n->link, n->path);
    n->parent = parent;
    if (parent) {
        n->depth = parent->depth + 1;
        n->next = parent->children;
        if (n->next)
            n->next->prev = n;
        parent->children = n;
    }
    return n;
}

static void set_file(struct node *n, struct file *file)
{
    if (n->file) {
        struct node **at = &n->file->names;

        while (*at != n)
            at = &(*at)->next_name;
        *at = n->next_name;
    }
    n->file = file;
    if (file) {
        n->next_name = file->names;
        file->names = n;
    }
}

/* Depth is bounded, so is the recursion. */
static void remove_tree(struct merge *m, struct node *n)
{
    struct node *next;

    for (struct node *child = n->children; child; child = next) {
        next = child->next;
        remove_tree(m, child);
    }
    set_file(n, NULL);
    if (n->next)
        n->next->prev = n->prev;
    if (n->prev)
        n->prev->next = n->next;
    else if (n->parent)
        n->parent->children = n->next;
    map_remove(&m->nodes, &n->link);
    free(n);
}

/* A whiteout hides what the layers below put here, not what its own layer does. */
static void hide_lower(struct merge *m, struct node *n)
{
    struct node *next;

    if (n->touched < m->n_layers) {
        remove_tree(m, n);
        return;
    }
    for (struct node *child = n->children; child; child = next) {
        next = child->next;
        hide_lower(m, child);
    }
}

static void touch(struct merge *m, struct node *n)
{
    for (; n && n->touched < m->n_layers; n = n->parent)
        n->touched = m->n_layers;
}

/* --- paths --- */

/* Joins a directory's path and a name; false when that is too long to exist. */
static bool join(const struct node *dir, const char *name, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s%s%s", dir->path, dir->path[0] ? "/" : "", name);

    return n >= 0 && n < PATH_MAX && strlen(name) <= NAME_MAX;
}

static struct node *find_child(const struct merge *m, const struct node *dir, const char *name)
{
    char path[PATH_MAX];
    struct map_link *l = join(dir, name, path) ? map_find(&m->nodes, path) : NULL;

    return l ? container_of(l, struct node, link) : NULL;
}

static bool is_reserved(const char *name)
{
    return strncmp(name, WHITEOUT, strlen(WHITEOUT)) == 0;
}

static struct node *add_child(struct merge *m, struct node *dir, const char *name, struct err *e)
{
    char path[PATH_MAX];

    if (is_reserved(name)) /* a symlink may still lead to one */
        err_set(e, ERR_INVALID, "%s is a reserved name", name);
    else if (!join(dir, name, path))
        err_set(e, ERR_INVALID, "the name is too long");
    else if (dir->depth >= MAX_DEPTH)
        err_set(e, ERR_INVALID, "it is more than %d directories deep", MAX_DEPTH);
    else if ((m->name_bytes += strlen(path)) > MAX_NAME_BYTES)
        err_set(e, ERR_TOO_LARGE, "the image's names have more than %d bytes", MAX_NAME_BYTES);
    else
        return node_new(m, dir, path);
    return NULL;
}

/*
 * A name as an archive gives it, without "./", repeated and trailing slashes.
 * One that is absolute or climbs is refused: it would be meant for the host.
 */
static int clean_path(const char *name, char out[PATH_MAX], struct err *e)
{
    size_t len = 0;

    if (!name || !*name)
        return err_set(e, ERR_INVALID, "an entry has no name");
    if (*name == '/')
        return err_set(e, ERR_INVALID, "the name %.200s is absolute", name);
    while (*name) {
        size_t n = strcspn(name, "/");

        if (n == 2 && name[0] == '.' && name[1] == '.')
            return err_set(e, ERR_INVALID, "the name %.200s leads out of the image", name);
        if (len + n + 2 > PATH_MAX || n > NAME_MAX)
            return err_set(e, ERR_INVALID, "the name %.200s... is too long", name);
        if (n > 0 && !(n == 1 && name[0] == '.')) {
            if (len > 0)
                out[len++] = '/';
            memcpy(out + len, name, n);
            len += n;
        }
        name += n;
        name += strspn(name, "/");
    }
    out[len] = '\0';
    return 0;
}

/* Where a path is on its way to its directory. */
struct way {
    struct node *at;
    char rest[PATH_MAX];
    unsigned links;
};

/* Puts a symlink's target in front of what is left of the path. */
static int follow(struct merge *m, struct way *way, const char *target, const char *after,
                  struct err *e)
{
    char rest[PATH_MAX];
    int n = snprintf(rest, sizeof(rest), "%s/%s", target, after);

    if (n < 0 || (size_t)n >= sizeof(rest) || ++way->links > MAX_LINKS)
        return err_set(e, ERR_INVALID, "too many symlinks");
    if (target[0] == '/')
        way->at = m->root;
    memcpy(way->rest, rest, (size_t)n + 1);
    return 0;
}

/* What the way's next component is, which make may bring into being. */
static struct node *look(struct merge *m, const struct way *way, const char *name, bool make,
                         struct err *e)
{
    struct node *found;

    if (!*name || strcmp(name, ".") == 0)
        return way->at;
    if (strcmp(name, "..") == 0) /* in a symlink's target; it ends at the root */
        return way->at->parent ? way->at->parent : way->at;
    found = find_child(m, way->at, name);
    if (found || make)
        return found ? found : add_child(m, way->at, name, e);
    err_set(e, ERR_NOT_FOUND, "there is no %s", name);
    return NULL;
}

/* One component on. */
static int step(struct merge *m, struct way *way, bool make, struct err *e)
{
    size_t n = strcspn(way->rest, "/");
    const char *after = way->rest + n + strspn(way->rest + n, "/");
    char name[NAME_MAX + 1];
    struct node *next;

    if (n > NAME_MAX)
        return err_set(e, ERR_INVALID, "the name is too long");
    memcpy(name, way->rest, n);
    name[n] = '\0';
    next = look(m, way, name, make, e);
    if (!next)
        return -1;
    if (!is_dir(next) && next->file->type == S_IFLNK)
        return follow(m, way, next->file->target, after, e);
    if (!is_dir(next))
        return err_set(e, ERR_INVALID, "%s is not a directory", next->path);
    way->at = next;
    memmove(way->rest, after, strlen(after) + 1);
    return 0;
}

static const char *last_name(const char *clean_path)
{
    const char *slash = strrchr(clean_path, '/');

    return slash ? slash + 1 : clean_path;
}

/* The directory that holds a clean path, made if need be. */
static struct node *find_dir(struct merge *m, const char *path, bool make, struct err *e)
{
    struct way way = {.at = m->root};

    memcpy(way.rest, path, (size_t)(last_name(path) - path));
    while (way.rest[0]) {
        if (step(m, &way, make, e) < 0)
            return NULL;
    }
    return way.at;
}

/* --- entries --- */

static void hide_children(struct merge *m, struct node *dir)
{
    struct node *next;

    for (struct node *child = dir->children; child; child = next) {
        next = child->next;
        hide_lower(m, child);
    }
}

/* What it names need not be there, nor its directory. */
static int add_whiteout(struct merge *m, const char *path, struct err *e)
{
    const char *hidden = last_name(path) + strlen(WHITEOUT);
    struct err no_dir = {0};
    struct node *dir = find_dir(m, path, false, &no_dir);
    struct node *n;

    if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
        return err_set(e, ERR_INVALID, "a whiteout names no file");
    if (dir && strcmp(last_name(path), OPAQUE) == 0) {
        hide_children(m, dir);
    } else if (dir && !is_reserved(hidden)) { /* others of two prefixes are aufs' own */
        n = find_child(m, dir, hidden);
        if (n)
            hide_lower(m, n);
    }
    return 0;
}

static struct file *file_new(struct merge *m, struct archive_entry *entry, struct err *e)
{
    mode_t type = archive_entry_filetype(entry);
    const char *target = type == AE_IFLNK ? archive_entry_symlink(entry) : "";
    size_t size = target ? strlen(target) + 1 : 0;
    struct file *file;

    if (type == AE_IFLNK && (size <= 1 || size > PATH_MAX)) {
        err_set(e, ERR_INVALID, "it is a symlink without a target");
        return NULL;
    }
    m->name_bytes += size;
    file = mem_zalloc(1, sizeof(*file) + size);
    file->type = type;
    if (target)
        memcpy(file->target, target, size);
    return file;
}

/* Puts a file where something else may be. A directory over a directory keeps what is in it. */
static int place(struct merge *m, const char *path, struct file *file, struct err *e)
{
    struct node *dir = find_dir(m, path, true, e);
    struct node *n;

    if (!dir)
        return -1;
    n = find_child(m, dir, last_name(path));
    if (n && !(is_dir(n) && file->type == S_IFDIR) && n->file != file) {
        remove_tree(m, n);
        n = NULL;
    }
    if (!n)
        n = add_child(m, dir, last_name(path), e);
    if (!n)
        return -1;
    set_file(n, file);
    touch(m, n);
    return 0;
}

/* The file that the name of a hard link is for. */
static struct file *find_target(struct merge *m, const char *target, struct err *e)
{
    char path[PATH_MAX] = "";
    struct err no_dir = {0};
    struct node *dir;
    struct node *n;

    if (clean_path(target, path, e) < 0) {
        err_wrap(e, "the target of a hard link");
        return NULL;
    }
    dir = find_dir(m, path, false, &no_dir);
    n = dir ? find_child(m, dir, last_name(path)) : NULL;
    if (n && !is_dir(n))
        return n->file;
    err_set(e, ERR_INVALID, "it is a hard link to %.200s, which is no file", target);
    return NULL;
}

static bool is_kept(mode_t type)
{
    return type == AE_IFREG || type == AE_IFDIR || type == AE_IFLNK || type == AE_IFCHR ||
           type == AE_IFBLK || type == AE_IFIFO;
}

/* A place for the entry's file among those of its layer. */
static struct file **next_slot(struct merge *m)
{
    struct files *layer = &m->layers[m->n_layers - 1];

    if ((layer->n & (layer->n - 1)) == 0)
        layer->v = mem_realloc(layer->v, (layer->n ? 2 * layer->n : 1) * sizeof(void *));
    layer->v[layer->n] = NULL;
    return &layer->v[layer->n++];
}

/* Old images hold aufs' own directories, .wh..wh.plnk and the like. */
static bool is_below_reserved(const char *path)
{
    for (const char *slash; (slash = strchr(path, '/')) != NULL; path = slash + 1) {
        if (is_reserved(path))
            return true;
    }
    return false;
}

static int add_at(struct merge *m, struct archive_entry *entry, const char *path,
                  struct file **slot, struct err *e)
{
    const char *target = archive_entry_hardlink(entry);
    struct file *linked;

    if (!*path && (target || archive_entry_filetype(entry) != AE_IFDIR))
        return err_set(e, ERR_INVALID, "the root is not a directory");
    if (is_below_reserved(path))
        return 0;
    if (is_reserved(last_name(path)))
        return add_whiteout(m, path, e);
    if (target) {
        linked = find_target(m, target, e);
        return linked ? place(m, path, linked, e) : -1;
    }
    if (!is_kept(archive_entry_filetype(entry)))
        return 0;
    *slot = file_new(m, entry, e);
    if (!*slot)
        return -1;
    if (*path)
        return place(m, path, *slot, e);
    set_file(m->root, *slot);
    return 0;
}

int merge_add(struct merge *m, struct archive_entry *entry, struct err *e)
{
    char path[PATH_MAX] = "";

    assert(m->n_layers > 0);
    if (++m->n_entries > MAX_ENTRIES)
        return err_set(e, ERR_TOO_LARGE, "the image has more than %d entries", MAX_ENTRIES);
    if (clean_path(archive_entry_pathname(entry), path, e) < 0)
        return -1;
    if (add_at(m, entry, path, next_slot(m), e) < 0)
        return err_wrap(e, "%.200s", *path ? path : ".");
    return 0;
}

/* --- the whole --- */

struct merge *merge_new(void)
{
    struct merge *m = mem_new(struct merge);

    m->root = node_new(m, NULL, "");
    return m;
}

void merge_begin_layer(struct merge *m)
{
    m->layers = mem_realloc(m->layers, (m->n_layers + 1) * sizeof(*m->layers));
    m->layers[m->n_layers++] = (struct files){0};
}

void merge_free(struct merge *m)
{
    if (!m)
        return;
    remove_tree(m, m->root);
    map_free(&m->nodes);
    for (size_t i = 0; i < m->n_layers; i++) {
        for (size_t j = 0; j < m->layers[i].n; j++)
            free(m->layers[i].v[j]);
        free(m->layers[i].v);
    }
    free(m->layers);
    free(m);
}

int merge_each_name(const struct merge *m, size_t layer, size_t number, merge_name_fn *fn,
                    void *arg, struct err *e)
{
    const struct file *file;

    if (layer >= m->n_layers || number >= m->layers[layer].n)
        return 0;
    file = m->layers[layer].v[number];
    for (const struct node *n = file ? file->names : NULL; n; n = n->next_name) {
        if (fn(arg, n->path, n == file->names ? NULL : file->names->path, e) < 0)
            return -1;
    }
    return 0;
}

bool merge_layer_is_seen(const struct merge *m, size_t layer)
{
    for (size_t i = 0; i < m->layers[layer].n; i++) {
        if (m->layers[layer].v[i] && m->layers[layer].v[i]->names)
            return true;
    }
    return false;
}

static int each_implied(const struct node *n, merge_name_fn *fn, void *arg, struct err *e)
{
    if (!n->file && fn(arg, n->path, NULL, e) < 0)
        return -1;
    for (const struct node *child = n->children; child; child = child->next) {
        if (each_implied(child, fn, arg, e) < 0)
            return -1;
    }
    return 0;
}

int merge_each_implied(const struct merge *m, merge_name_fn *fn, void *arg, struct err *e)
{
    return each_implied(m->root, fn, arg, e);
}
