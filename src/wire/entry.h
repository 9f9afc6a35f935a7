/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file as the two ends of a copy tell each other about it (FRAME_ENTRY).
 *
 * Binary and not JSON because names are bytes, whatever a guest has put into
 * them: { u8 kind, u8 flags, u16 zero, u32 mode, u32 uid, u32 gid, u32 mtime_ns, u32 zero,
 * i64 mtime_s, u64 size }, little-endian, then the path and the target of a link
 * (empty for others), each ended by a NUL. The target of a hard link is another entry's path, which
 * came before.
 *
 * Pure functions, shared by daemon and agent. What comes in is hostile.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { GUEST_NAME_MAX = 4096 }; /* bytes of a path, and of a link's target */

enum guest_kind {
    GUEST_FILE,
    GUEST_DIRECTORY,
    GUEST_SYMLINK,
    GUEST_OTHER,
    GUEST_HARD_LINK, /* from version WIRE_HARD_LINKS on */
};

/* Texts are good for the call in which they are given. */
struct guest_entry {
    enum guest_kind kind;
    const char *path;
    const char *link_target; /* of a link of either kind, else NULL */
    uint32_t mode;           /* permission bits, with set-id and sticky */
    bool has_owner;          /* into the guest: whether uid and gid are to be set */
    uint32_t uid;
    uint32_t gid;
    bool has_mtime; /* into the guest: whether mtime is to be set */
    int64_t mtime_s;
    uint32_t mtime_ns;
    uint64_t size; /* 0 for what is no file; ignored into the guest */
    size_t cost;   /* from the guest: bytes of the window, which the caller gives back */
};

/* The content of the frame. Names that are too long mark the buffer failed. */
void entry_put(struct buf *out, const struct guest_entry *entry);

/* out's texts point into data. */
int entry_get(const unsigned char *data, size_t len, struct guest_entry *out, struct err *e);
