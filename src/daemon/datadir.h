/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data directory: its layout, the lock that keeps a second daemon out, and the
 * secret that tokens are signed with. Start-up only; blocks.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

struct datadir {
    int fd;
    int lock_fd; /* flock; the kernel lets go of it with us */
    int instances_fd;
    int images_fd;
    int templates_fd;
};

/* Makes what is missing. ERR_BUSY: another daemon works on it. */
int datadir_open(struct datadir *d, const char *path, struct err *e);
void datadir_close(struct datadir *d);

/* <data>/secret (0600), made on the first start. */
int datadir_secret(const struct datadir *d, const char *path, struct buf *out, struct err *e);

/* <data>/run/listen: the address that the TCP listener really has, for scripts. */
int datadir_write_listen(const struct datadir *d, const char *address, int port, struct err *e);
