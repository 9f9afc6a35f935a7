/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reaching a port of a guest through its VMM's vsock socket, as often as it takes.
 *
 * The VMM takes "CONNECT port\n", in one write, and answers "OK number\n", after
 * which the connection is the guest's. Until somebody listens in the guest it only
 * hangs up, and it tells nobody when that changes: so it is tried again, after a
 * sixteenth of the time that it has been tried for, at least 2 ms and at most a
 * second apart, and for no longer than ten minutes. A guest that boots is reached
 * soon, one that has no agent costs little and then nothing.
 *
 * Loop thread; nothing blocks. The socket is held by its inode: its directory may
 * be renamed or exchanged.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

struct dial;

/* Takes the fd. Called once for each time dial_begin() was. May call dial_begin(), dial_free(). */
typedef void dial_fn(void *owner, int fd);

/* dir_fd is borrowed for the call. Fails when there is no socket of that name. */
struct dial *dial_new(struct loop *loop, int dir_fd, dial_fn *fn, void *owner, struct err *e);
void dial_free(struct dial *d); /* NULL is fine */

void dial_begin(struct dial *d, uint32_t port);
