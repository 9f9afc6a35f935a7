/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image references, read and normalised as Docker does it:
 * "alpine" is docker.io/library/alpine:latest, "localhost:5000/a/b@sha256:..."
 * keeps its host. The text comes from clients. Any thread; nothing blocks.
 */
#pragma once

#include "base/err.h"
#include "image/digest.h"

enum {
    REF_NAME_MAX = 255, /* host and path */
    REF_TAG_MAX = 128,
    REF_TEXT_SIZE = REF_NAME_MAX + 1 + REF_TAG_MAX + 1 + DIGEST_LEN + 1,
};

struct image_ref {
    char name[REF_NAME_MAX + 1]; /* docker.io/library/alpine */
    char tag[REF_TAG_MAX + 1];   /* "latest" when neither it nor a digest was given; may be empty */
    char digest[DIGEST_SIZE];    /* empty when none was given */
};

/* ERR_INVALID "invalid image reference: why", with the slug invalid_name. */
int image_ref_parse(const char *s, struct image_ref *out, struct err *e);

/* name[:tag][@digest]: what the parser takes back to the same reference. Returns out. */
const char *image_ref_text(const struct image_ref *ref, char out[REF_TEXT_SIZE]);
