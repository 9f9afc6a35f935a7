/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix stream sockets in an instance's directory, by name.
 *
 * A socket's path may have 108 bytes at most and a data directory may be deep,
 * so both ends go through /proc/self/fd/<dir_fd>. Neither call waits: we make the
 * listening socket ourselves and hand it to the VMM, so it is there before the
 * VMM is.
 */
#pragma once

#include "base/err.h"

/* A listening socket of mode 0600; the name must be free. Blocking, for the VMM. */
int sock_listen(int dir_fd, const char *name, struct err *e);

/* A connected, non-blocking socket. ERR_NOT_FOUND when nobody listens there. */
int sock_connect(int dir_fd, const char *name, struct err *e);
