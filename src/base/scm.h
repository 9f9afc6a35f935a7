/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes over a unix socket, and an open file that goes with the first of them. Each is
 * one system call, and returns and sets errno as that does; a file that came is the
 * caller's.
 */
#pragma once

#include <sys/types.h>

/* Waits only where the socket does. fd -1: none. */
ssize_t scm_send(int sock, const void *data, size_t len, int fd);

/* Never waits. *fd_out stays as it is where none came. */
ssize_t scm_receive(int sock, void *to, size_t room, int *fd_out);
