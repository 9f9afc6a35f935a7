/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up: the table from the store, and the processes and files that it speaks of.
 *
 * VMMs do not depend on the daemon. One is ours when its working directory is an
 * instance's directory below our data directory and its program is a VMM's; the
 * recorded pid, start time and boot id confirm which. Those that a record speaks
 * of are adopted. What belongs to no record (a start or delete that a crash cut
 * short) is ended and removed; nothing else is ever touched.
 *
 * Before the loop runs; blocks.
 */
#pragma once

#include "vm/world.h"

struct adopt_report {
    unsigned instances; /* rows */
    unsigned adopted;   /* of them with a process that lives */
    unsigned ended;     /* ended while no daemon ran */
    unsigned swept;     /* processes and directories of nobody */
};

int world_adopt(struct vm_world *w, struct adopt_report *out, struct err *e);
