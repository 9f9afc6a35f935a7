/* SPDX-License-Identifier: Apache-2.0 */
#include "image/catalog.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"

struct row {
    struct map_link by_name;
    struct list link;
    struct image image;
};

/* The files of a digest, as long as somebody uses them or it is not yet said that nobody does. */
struct files {
    struct map_link by_digest;
    struct list link;
    char digest[DIGEST_SIZE];
    unsigned uses;
};

struct catalog {
    struct map names;
    struct list rows;
    struct map digests;
    struct list files;
    unsigned pins;
    void (*unused)(void *arg, const char *digest);
    void *arg;
};

struct catalog *catalog_new(void (*unused)(void *arg, const char *digest), void *arg)
{
    struct catalog *c = mem_new(struct catalog);

    list_init(&c->rows);
    list_init(&c->files);
    c->unused = unused;
    c->arg = arg;
    return c;
}

static void free_row(struct catalog *c, struct row *row)
{
    map_remove(&c->names, &row->by_name);
    list_remove(&row->link);
    image_fini(&row->image);
    free(row);
}

static void free_files(struct catalog *c, struct files *f)
{
    map_remove(&c->digests, &f->by_digest);
    list_remove(&f->link);
    free(f);
}

void catalog_free(struct catalog *c)
{
    if (!c)
        return;
    while (!list_empty(&c->rows))
        free_row(c, container_of(c->rows.next, struct row, link));
    while (!list_empty(&c->files))
        free_files(c, container_of(c->files.next, struct files, link));
    map_free(&c->names);
    map_free(&c->digests);
    free(c);
}

/* --- uses --- */

static struct files *find_files(const struct catalog *c, const char *digest)
{
    struct map_link *l = map_find(&c->digests, digest);

    return l ? container_of(l, struct files, by_digest) : NULL;
}

void catalog_use(struct catalog *c, const char *digest)
{
    struct files *f = find_files(c, digest);

    assert(digest_is_valid(digest));
    if (!f) {
        f = mem_new(struct files);
        memcpy(f->digest, digest, sizeof(f->digest));
        map_put(&c->digests, &f->by_digest, f->digest);
        list_append(&c->files, &f->link);
    }
    f->uses++;
}

static void give_up(struct catalog *c, struct files *f)
{
    char digest[DIGEST_SIZE];

    memcpy(digest, f->digest, sizeof(digest));
    free_files(c, f);
    c->unused(c->arg, digest);
}

void catalog_unuse(struct catalog *c, const char *digest)
{
    struct files *f = find_files(c, digest);

    assert(f && f->uses > 0);
    if (--f->uses == 0 && c->pins == 0)
        give_up(c, f);
}

bool catalog_is_used(const struct catalog *c, const char *digest)
{
    const struct files *f = find_files(c, digest);

    return f && f->uses > 0;
}

void catalog_pin(struct catalog *c)
{
    c->pins++;
}

void catalog_unpin(struct catalog *c)
{
    struct list *next;

    assert(c->pins > 0);
    if (--c->pins > 0)
        return;
    for (struct list *l = c->files.next; l != &c->files; l = next) {
        struct files *f = container_of(l, struct files, link);

        next = l->next;
        if (f->uses == 0)
            give_up(c, f);
    }
}

/* --- names --- */

static struct row *find_row(const struct catalog *c, const char *name)
{
    struct map_link *l = map_find(&c->names, name);

    return l ? container_of(l, struct row, by_name) : NULL;
}

const struct image *catalog_put(struct catalog *c, struct image *image)
{
    struct row *row = find_row(c, image->name);
    char old[DIGEST_SIZE] = "";

    catalog_use(c, image->digest);
    if (row) {
        memcpy(old, row->image.digest, sizeof(old));
        map_remove(&c->names, &row->by_name);
        image_fini(&row->image);
    } else {
        row = mem_new(struct row);
        list_append(&c->rows, &row->link);
    }
    row->image = image_take(image);
    map_put(&c->names, &row->by_name, row->image.name);
    if (old[0])
        catalog_unuse(c, old);
    return &row->image;
}

void catalog_remove(struct catalog *c, const char *name)
{
    struct row *row = find_row(c, name);
    char digest[DIGEST_SIZE];

    if (!row)
        return;
    memcpy(digest, row->image.digest, sizeof(digest));
    free_row(c, row);
    catalog_unuse(c, digest);
}

const struct image *catalog_find(const struct catalog *c, const char *normal_name)
{
    const struct row *row = find_row(c, normal_name);

    return row ? &row->image : NULL;
}

/* A digest has one image or a few, and there are dozens of images: a walk is enough. */
static const struct image *find_in(const struct catalog *c, const char *repository,
                                   const char *digest)
{
    for (struct list *l = c->rows.next; l != &c->rows; l = l->next) {
        const struct image *image = &container_of(l, struct row, link)->image;

        if (strcmp(image->digest, digest) == 0 &&
            (!repository || (strncmp(image->name, repository, strlen(repository)) == 0 &&
                             image->name[strlen(repository)] == ':')))
            return image;
    }
    return NULL;
}

const struct image *catalog_find_digest(const struct catalog *c, const char *digest)
{
    return find_in(c, NULL, digest);
}

const struct image *catalog_resolve(const struct catalog *c, const char *text, struct err *e)
{
    const struct image *image;
    struct image_ref ref;
    char name[REF_TEXT_SIZE];

    if (digest_is_valid(text)) {
        image = catalog_find_digest(c, text);
    } else {
        if (image_ref_parse(text, &ref, e) < 0)
            return NULL;
        image = ref.digest[0] ? find_in(c, ref.name, ref.digest)
                              : catalog_find(c, image_ref_text(&ref, name));
    }
    if (!image)
        err_set(e, ERR_NOT_FOUND, "there is no image %s", text);
    return image;
}

void catalog_each(const struct catalog *c, void (*fn)(void *arg, const struct image *image),
                  void *arg)
{
    for (struct list *l = c->rows.next; l != &c->rows; l = l->next)
        fn(arg, &container_of(l, struct row, link)->image);
}

static int load_one(void *arg, const struct image_record *record, struct err *e)
{
    struct image image;

    if (image_read_record(record, &image, e) < 0)
        return -1;
    (void)catalog_put(arg, &image);
    return 0;
}

int catalog_load(struct catalog *c, struct store *store, struct err *e)
{
    return store_each_image(store, load_one, c, e);
}
