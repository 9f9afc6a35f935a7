/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of this host as a tar archive, and back.
 *
 * Packing walks a tree and hands the archive's bytes on. Unpacking takes them as
 * they come, below the working directory: libarchive writes the files, and lets
 * no name and no link out of it, because the archive may be a hostile guest's.
 * Both block on the disk. Single-threaded.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct pack {
    const char *path;
    const char *as; /* what its first name becomes; "" for what is in a directory, without it */
    bool follow;    /* path itself, if it is a link; links below it stay links */
    int (*put)(void *arg, const void *data, size_t len, struct err *e);
    void *arg;
};

/* Devices, sockets and pipes are left out, with a word on standard error; what has several names is
 * one file. */
int pack_tree(const struct pack *p, struct err *e);

struct unpack;

/*
 * as: as above, for the archive's first names, or, where these are none of the source's (a root has
 * none), in front of them. Owners are set if asked, and if we may.
 */
struct unpack_as {
    const char *as;
    bool is_nameless;
};
struct unpack *unpack_new(const struct unpack_as *as, bool keep_owner);
int unpack_feed(struct unpack *u, const void *data, size_t len, struct err *e);
int unpack_finish(struct unpack *u, struct err *e); /* the archive has ended */
void unpack_free(struct unpack *u);
