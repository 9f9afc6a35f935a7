/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making an image from what is on this host: a directory, or an OCI image layout.
 *
 * The result is one read-only squashfs, images/<the digest's 64 digits>/rootfs.sqfs,
 * built under a temporary name, synced, and renamed last: it is there whole or
 * not at all. The digest is that of the squashfs for a directory (the same tree
 * gives the same bytes) and that of the manifest for a layout. What has the
 * digest already is not built again.
 *
 * image_import() and image_remove_files() block, on workers, and never at the
 * same time: they share one kind of job with a limit of one. See catalog.h for
 * how the loop keeps files that an import under way may find and use.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "image/image.h"
#include "loop/op.h"

#define IMAGE_ROOTFS "rootfs.sqfs"

/* What a job carries. It owns its strings. */
struct image_source {
    char *name; /* the reference to give it, as the client wrote it; no digest */
    enum { IMAGE_FROM_DIR, IMAGE_FROM_OCI } kind;
    char *path;                    /* absolute, on this host */
    char *tag;                     /* of a layout; NULL for the only image or "latest" */
    struct image_config overrides; /* what is set holds; env is added to the image's */
    uint64_t max_bytes;            /* unpacked; 0 for 64 GiB */
};

/* Reads "dir:PATH" or "oci:DIR[:TAG]" into kind, path and tag. ERR_INVALID. */
int image_source_parse(const char *text, struct image_source *out, struct err *e);
void image_source_fini(struct image_source *source);

/*
 * Takes as long as the source is large; cancelled by op. ERR_INVALID for a source
 * that is no image, ERR_NOT_FOUND for one that is not there, ERR_TOO_LARGE,
 * ERR_NO_SPACE; nothing stays of a failed one.
 */
int image_import(const struct op *op, const struct image_source *source, int images_dirfd,
                 struct image *out, struct err *e);

/* Removes the files of a digest. They vanish at once; absent is fine. */
int image_remove_files(int images_dirfd, const char *digest, struct err *e);

/* Start-up only: removes what an earlier run left half-made and the files nobody uses. */
int image_sweep_files(int images_dirfd, bool (*is_used)(void *arg, const char *digest), void *arg,
                      struct err *e);
