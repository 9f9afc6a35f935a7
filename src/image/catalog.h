/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of images: what names there are, and which files are still of use.
 *
 * All functions belong to the loop thread, except loading, which comes before
 * the loop runs. What is in the table is in the store: commit first, then put
 * or remove here, in the turn in which the commit returned.
 *
 * Files are counted by digest: a name uses them, and so does an instance from
 * its record until its delete. (It holds a hard link as well; counting keeps the
 * files for the next one.) With the last use unused() is called, and its owner
 * submits a job that runs image_remove_files(). An import may find files that
 * are of no use at that moment and mean to use them: so from before its job is
 * submitted until its image is put, catalog_pin() defers unused(); and removals
 * and imports are jobs of one kind with a limit of one, so none overlaps it.
 */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/json.h"
#include "image/image.h"
#include "store/store.h"

struct catalog;

struct catalog *catalog_new(void (*unused)(void *arg, const char *digest), void *arg);
void catalog_free(struct catalog *c);
int catalog_load(struct catalog *c, struct store *store, struct err *e);

/* Adds it, or replaces what has its name. Moves it out of the argument. */
const struct image *catalog_put(struct catalog *c, struct image *image);
void catalog_remove(struct catalog *c, const char *name); /* normalised; unknown is fine */

/* Borrowed until the next put or remove of the same name. NULL when there is none. */
const struct image *catalog_find(const struct catalog *c, const char *normal_name);
const struct image *catalog_find_digest(const struct catalog *c, const char *digest);

/*
 * What a client calls it: "alpine", "host/a/b:tag", "a@sha256:...", "sha256:...".
 * NULL with ERR_INVALID (invalid_name) or ERR_NOT_FOUND.
 */
const struct image *catalog_resolve(const struct catalog *c, const char *text, struct err *e);

/* In the order in which they were put first; by name after a load. */
void catalog_each(const struct catalog *c, void (*fn)(void *arg, const struct image *image),
                  void *arg);

void catalog_use(struct catalog *c, const char *digest);   /* by an instance */
void catalog_unuse(struct catalog *c, const char *digest); /* as often as used */
bool catalog_is_used(const struct catalog *c, const char *digest);

void catalog_pin(struct catalog *c);
void catalog_unpin(struct catalog *c);
