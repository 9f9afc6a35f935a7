/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TAP interfaces, by their file.
 *
 * None is persistent: a TAP is there while somebody has its file open. We hold one
 * and a VMM gets a copy, so a TAP outlives its VMM to be used again, and outlives
 * us exactly as long as its VMM. After a restart we take our copy back from the VMM.
 *
 * Workers and start-up: the kernel's own lock may be waited for.
 */
#pragma once

#include <net/if.h>

#include "base/err.h"

/* A new one, with virtio-net headers, of the next free name; down. Non-blocking. */
int tap_open(char name_out[IFNAMSIZ], struct err *e);

/* Drops what the host has sent to it and nobody has read: it is not for who comes next. */
void tap_drain(int fd);

/* A copy of the file by which a process holds the TAP of that name. ERR_NOT_FOUND: it has none. */
int tap_of_process(int pidfd, int pid, const char *name, struct err *e);
