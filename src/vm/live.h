/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's watches on one running VMM: its exit, its events, its guest's agent.
 *
 * Exists while the instance has a process that we know of. All three feed the
 * row; each carries the incarnation it belongs to, so that word of an earlier
 * process never touches a later one. When the process ends, what the monitor and
 * the agent have already said is taken first, and only then the end is judged;
 * while an operation holds the row the judgement waits for the operation.
 *
 * What is observed is shown at once and written to the store afterwards, without
 * waiting: a slow disk never hides a dead VM.
 *
 * Loop thread; nothing blocks.
 */
#pragma once

#include <stdint.h>

#include "vm/world.h"

struct guest;
struct net_slot;

/* Takes the pidfd and the slot in the network (NULL for none). Its end is seen from here on. */
void live_attach(struct vm_world *w, struct instance *row, int pidfd, struct net_slot *slot);

/*
 * Connects to its monitor and to its guest's agent, and watches its logs; dir_fd, the instance's
 * directory, is borrowed. Nobody waits for that: live_listen_soon() leaves it to the end of the
 * loop's turn, when the answer to whoever had it started is out. That one is fine on a row without
 * a process, too; both are a second time.
 */
void live_listen(struct instance *row, int dir_fd);
void live_listen_soon(struct instance *row);

/* Lets go of everything; the process is not touched. Fine on a row without one. */
void live_detach(struct vm_world *w, struct instance *row);

/* The same as the daemon ends: what nobody watches any more is not Unknown, but as it was. */
void live_let_go(struct vm_world *w, struct instance *row);

/* If the process has ended and nobody holds the row: the row becomes Stopped, and why. */
void live_judge(struct vm_world *w, struct instance *row);

struct net_slot *live_slot(const struct instance *row); /* NULL: no process, or no network */
int live_dup_pidfd(const struct instance *row);         /* -1 when there is no process */
void live_kill(const struct instance *row);             /* SIGKILL; its end comes as an exit */

/*
 * Has the workload stand still. Returns an eventfd for the operation that waits: 1 for
 * done, 2 for a guest that cannot, or is gone. -1: nobody to ask, or no fd to be had.
 */
int live_freeze(const struct instance *row);
void live_thaw(const struct instance *row); /* fine on one that was not frozen, or has ended */

/* --- for the prober (prober.h); the row has a process --- */

/* Puts a question to the VMM, over a new connection if the old one is gone. -1: it cannot be
 * asked. */
int live_ask(struct instance *row, struct err *e);
void live_hang_up(struct instance *row);     /* the next question goes over a new connection */
void live_drain(struct instance *row);       /* takes what the VMM has said already */
void live_probed(struct instance *row);      /* whether it answers has changed: shows it */
void live_kill_silent(struct instance *row); /* by the policy for those that do not answer */

/* Asks the guest to end its workload and then the VM. Whether it heard is not known. */
void live_ask_shutdown(const struct instance *row, int64_t grace_ms);

struct guest *live_guest(const struct instance *row); /* its streams; NULL without a process */
