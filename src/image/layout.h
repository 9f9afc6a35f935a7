/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An OCI image layout: a directory with index.json and blobs named by digest.
 *
 * All of it is untrusted: sizes are capped before anything is read, digests are
 * verified, and no symlink is followed. Worker threads: waits for the disk.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "image/digest.h"
#include "image/image.h"

struct layer {
    char digest[DIGEST_SIZE];
    uint64_t size; /* of the blob, compressed as it is */
};

struct layout {
    int dirfd;                /* borrowed */
    char digest[DIGEST_SIZE]; /* of the manifest: the image's */
    struct image_config config;
    struct layer *layers; /* the lowest first */
    size_t n_layers;
};

#define auto_layout __attribute__((cleanup(layout_fini)))

/*
 * Reads the manifest that the index names: the one with the tag; with no tag
 * the only one for our platform, or the one tagged "latest". ERR_INVALID for
 * what is not an image, ERR_NOT_FOUND for a tag or platform it has not.
 */
int layout_read(int dirfd, const char *tag, struct layout *out, struct err *e);
void layout_fini(struct layout *layout);

/* The blob of a layer, whose size is right; its digest is for the reader to verify. */
int layout_open_layer(const struct layout *layout, const struct layer *layer, struct err *e);
