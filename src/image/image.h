/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image: a name, the digest that its files are found by, and what to run in it.
 *
 * A plain value that owns its strings, so a worker makes one and hands it to the
 * loop. Nothing here blocks or is shared. What comes out of an image's own
 * configuration is untrusted text of bounded size.
 */
#pragma once

#include <stdint.h>

#include "base/argv.h"
#include "base/json.h"
#include "image/reference.h"
#include "store/store.h"

#define IMAGE_PLATFORM "linux/amd64"

/* What the image says about starting it. Empty lists and NULL: it says nothing. */
struct image_config {
    struct argv entrypoint;
    struct argv cmd;
    struct argv env; /* "NAME=value", each name once */
    char *working_dir;
    char *user;
};

struct image {
    char *name;               /* normalised; what the table is keyed by */
    char digest[DIGEST_SIZE]; /* its files are in images/<the 64 digits>/ */
    uint64_t size_bytes;      /* of the squashfs */
    int64_t created_us;       /* wall clock: when it was imported */
    struct image_config config;
};

#define auto_image __attribute__((cleanup(image_fini)))

void image_fini(struct image *image);
struct image image_take(struct image *from); /* moves it out, leaving an empty one */

void image_config_fini(struct image_config *config);
void image_config_set_env(struct image_config *config, const char *assignment);

/*
 * Reads the "config" object of an OCI image configuration, which may be NULL.
 * A member of the wrong type or a list without end is ERR_INVALID.
 */
int image_config_read(const json_t *config, struct image_config *out, struct err *e);

/* The image as the API shows it. */
void image_write(struct jout *j, const char *key, const struct image *image);

/* The image's record in the store, and back. */
void image_put(struct store_change *c, const struct image *image);
int image_read_record(const struct image_record *record, struct image *out, struct err *e);
