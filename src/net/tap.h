/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TAP interfaces, by their file.
 *
 * None is persistent: a TAP is there while somebody has its file open. We hold one
 * and a VMM gets a copy, so a TAP outlives its VMM to be used again, and outlives
 * us exactly as long as its VMM. After a restart we take our copy back from the VMM.
 *
 * A VMM that opens a TAP by its name (Firecracker) can have it only while nobody else
 * has its file: for that long it is persistent and nobody's.
 *
 * Workers and start-up: the kernel's own lock may be waited for.
 */
#pragma once

#include <net/if.h>

#include "base/err.h"
#include "loop/op.h"

/*
 * A new one, with virtio-net headers; down. Non-blocking. Its name is one that this process has
 * not used yet: what is left of a TAP that somebody removed is in no other's way.
 */
int tap_open(char name_out[IFNAMSIZ], struct err *e);

/* The TAP stays once this file is closed, for who opens it by its name. */
int tap_leave(int fd, struct err *e);

/* Until then: a process that was just being spawned may hold a copy of a file that was closed. */
int tap_await_free(const struct op *op, const char *name, struct err *e);

/* One that was left, and nobody came for. */
int tap_return(const char *name, struct err *e);

/* It ends with the last file again: for a copy of who did come for it. */
void tap_bind_to_file(int fd);

/* Drops what the host has sent to it and nobody has read: it is not for who comes next. */
void tap_drain(int fd);

/* A copy of the file by which a process holds the TAP of that name. ERR_NOT_FOUND: it has none. */
int tap_of_process(int pidfd, const char *name, struct err *e);
